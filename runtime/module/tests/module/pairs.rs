//! `wasi:keyvalue`: a module's own pairs and those of connectors.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_event::key_value::{add, check_key, check_value};
use tidegate_event::{BoxFuture, KeyValue, Space, StorageError, Swap, Tenant};
use tidegate_module::Module;

use crate::guests::{Bench, guest, publish, said};

/// Pairs in memory; a value of more than `quota` bytes is refused.
#[derive(Debug)]
pub struct Memory {
    pairs: Mutex<BTreeMap<(Owner, String), Vec<u8>>>,
    quota: usize,
}

/// Tenant, module, bucket.
type Owner = (String, String, String);

impl Default for Memory {
    fn default() -> Self {
        Self { pairs: Mutex::default(), quota: usize::MAX }
    }
}

fn name(space: &Space, key: &str) -> (Owner, String) {
    let space = (space.tenant.name().into(), space.module.to_string(), space.bucket.to_string());
    (space, key.to_owned())
}

/// Answers after a turn, as a disk does.
fn later<'a, T: Send + 'a>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'a,
) -> BoxFuture<'a, Result<T, StorageError>> {
    Box::pin(async move {
        tokio::task::yield_now().await;
        work()
    })
}

impl KeyValue for Memory {
    fn get<'a>(
        &'a self,
        space: &'a Space,
        keys: Vec<String>,
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, StorageError>> {
        later(move || {
            let pairs = self.pairs.lock();
            Ok(keys.iter().map(|key| pairs.get(&name(space, key)).cloned()).collect())
        })
    }

    fn set<'a>(
        &'a self,
        space: &'a Space,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        later(move || {
            for (key, value) in &pairs {
                check_key(key)?;
                check_value(value)?;
                if value.len() > self.quota {
                    return Err(StorageError::QuotaExceeded("the share of the module".into()));
                }
            }
            self.pairs.lock().extend(pairs.into_iter().map(|(key, value)| (name(space, &key), value)));
            Ok(())
        })
    }

    fn delete<'a>(&'a self, space: &'a Space, keys: Vec<String>) -> BoxFuture<'a, Result<(), StorageError>> {
        later(move || {
            self.pairs.lock().retain(|pair, _| !keys.iter().any(|key| *pair == name(space, key)));
            Ok(())
        })
    }

    fn exists<'a>(&'a self, space: &'a Space, key: String) -> BoxFuture<'a, Result<bool, StorageError>> {
        later(move || Ok(self.pairs.lock().contains_key(&name(space, &key))))
    }

    fn keys<'a>(
        &'a self,
        space: &'a Space,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<String>, StorageError>> {
        later(move || {
            let from = name(space, &after.unwrap_or_default());
            let pairs = self.pairs.lock();
            let found = pairs.range((Bound::Excluded(from.clone()), Bound::Unbounded));
            Ok(found
                .take_while(|((s, _), _)| *s == from.0)
                .take(limit)
                .map(|((_, key), _)| key.clone())
                .collect())
        })
    }

    fn increment<'a>(
        &'a self,
        space: &'a Space,
        key: String,
        delta: i64,
    ) -> BoxFuture<'a, Result<i64, StorageError>> {
        later(move || {
            let mut pairs = self.pairs.lock();
            let sum = add(pairs.get(&name(space, &key)).map(Vec::as_slice), delta)?;
            pairs.insert(name(space, &key), sum.to_string().into_bytes());
            Ok(sum)
        })
    }

    fn swap<'a>(
        &'a self,
        space: &'a Space,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> BoxFuture<'a, Result<Swap, StorageError>> {
        later(move || {
            let mut pairs = self.pairs.lock();
            let now = pairs.get(&name(space, &key)).cloned();
            if now != expected {
                return Ok(Swap::Differs(now));
            }
            pairs.insert(name(space, &key), value);
            Ok(Swap::Done)
        })
    }
}

fn bench(state: &Arc<Memory>) -> Bench {
    let state = state.clone();
    Bench::with(|config| config.state = state)
}

/// What the guest says to `lines` on `topic`, a line each.
async fn ask(module: &Module, topic: &str, lines: &str) -> Vec<String> {
    said(module.call(&publish(topic, lines.as_bytes())).await).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_second_draft_does_what_it_says() {
    let state = Arc::new(Memory::default());
    let bench = bench(&state);
    let module = bench.load(&guest("standard"), "").await.unwrap();
    let answers = ask(
        &module,
        "pairs/",
        "get a\nset a 1\nget a\nexists a\nappend a +\nget a\nadd n 5\nadd n -7\nadd a 1\n\
         get-many a none n\ndelete a\nexists a\ndelete-many n none\nkeys",
    )
    .await;
    assert_eq!(
        answers,
        [
            "None",
            "()",
            "Some(\"1\")",
            "true",
            // Changed in between: what was written then is not lost.
            "()",
            "Some(\"2+\")",
            "5",
            "-2",
            "Error::Other(\"the value is no number\")",
            "[(\"a\", Some(\"2+\")), (\"none\", None), (\"n\", Some(\"-2\"))]",
            "()",
            "false",
            "()",
            "0 in 1",
        ]
    );
    assert_eq!(ask(&module, "pairs/many", "fill 2500\nkeys").await, ["()", "2500 in 3"]);
}

#[tokio::test]
async fn the_first_draft_does_what_it_says() {
    let state = Arc::new(Memory::default());
    let bench = bench(&state);
    let module = bench.load(&guest("standard"), "").await.unwrap();
    let answers = ask(
        &module,
        "draft/",
        "get a\nset a 1\nget a\nexists a\nadd n 5\nadd n 18446744073709551615\nset-many b 2\nget-many a none b\n\
         delete a\ndelete-many b\nexists a\nexists b\nset n -1\nadd n 0",
    )
    .await;
    assert_eq!(
        answers,
        [
            "None",
            "()",
            "Some(\"1\")",
            "true",
            "5",
            "Error::Other(\"counters have at most 63 bits\")",
            "()",
            "[Some((\"a\", Some(\"1\"))), None, Some((\"b\", Some(\"2\")))]",
            "()",
            "()",
            "false",
            "false",
            "()",
            "Error::Other(\"the value is below zero\")",
        ]
    );
    ask(&module, "pairs/many", "fill 2500").await;
    assert_eq!(ask(&module, "draft/many", "keys same\nkeys other").await, ["2500 in 3", "2500 in 3"]);
}

#[tokio::test]
async fn pairs_belong_to_a_module_and_outlive_its_instances() {
    let state = Arc::new(Memory::default());
    let bench = bench(&state);
    for name in ["one", "two"] {
        let path = bench.write(name, &guest("standard"), "[instances]\nmode = \"fresh\"");
        let module = bench.host.load(&path, &Tenant::default()).await.unwrap();
        assert_eq!(ask(&module, "pairs/", "add n 1").await, ["1"], "{name}: another module's are its own");
        assert_eq!(ask(&module, "pairs/default", "add n 1").await, ["2"], "the empty name is default");
        assert_eq!(ask(&module, "pairs/other", "add n 1").await, ["1"]);
        assert_eq!(module.stats().instances, 0, "every call had an instance of its own");
    }
}

#[tokio::test]
async fn init_may_use_pairs() {
    let state = Arc::new(Memory::default());
    let bench = bench(&state);
    let module = bench.load(&guest("standard"), "[config]\ninit = \"count\"").await.unwrap();
    assert_eq!(ask(&module, "pairs/", "get inits").await, ["Some(\"1\")"]);
}

#[tokio::test]
async fn connectors_are_reached_when_they_are_granted_and_keep_pairs() {
    let state = Arc::new(Memory::default());
    let bench = bench(&state);
    *bench.storage.pairs.lock() = Some(Arc::new(Memory::default()));
    let module = bench.load(&guest("standard"), "connectors = [\"fake:pool\", \"fake:down\"]").await.unwrap();
    for (bucket, expected) in [
        ("fake:slow", "Error::AccessDenied"),
        ("none:pool", "Error::AccessDenied"),
        ("fake:down", "Error::Other(\"fake:down does not serve wasi:keyvalue\")"),
        ("fake:pool", "()"),
        // A pool that the manifest names.
        ("pool", "()"),
        // Not one: a bucket of the module's own.
        ("slow", "()"),
    ] {
        assert_eq!(
            ask(&module, &format!("pairs/{bucket}"), &format!("set where {bucket}")).await,
            [expected]
        );
    }
    let spaces: Vec<_> = state.pairs.lock().keys().map(|((_, _, bucket), _)| bucket.clone()).collect();
    assert_eq!(spaces, ["slow"], "the rest went to the connector");
    assert_eq!(ask(&module, "draft/fake:pool", "get where").await, ["Some(\"pool\")"]);
    // All connectors are granted, and a plain name is never one of them.
    let module = bench.load(&guest("standard"), "").await.unwrap();
    assert_eq!(ask(&module, "pairs/none:pool", "get a").await, ["Error::NoSuchStore"]);
    assert_eq!(ask(&module, "pairs/pool", "exists where").await, ["false"]);
}

#[tokio::test]
async fn what_is_too_much_is_refused() {
    let state = Arc::new(Memory { quota: 100, ..Memory::default() });
    let bench = bench(&state);
    let module = bench.load(&guest("standard"), "[limits]\nstorage_ops = 5").await.unwrap();
    let long = "k".repeat(1_025);
    let answers = ask(
        &module,
        "pairs/",
        &format!("set a *101\nset-at-once 1001\nset {long} v\nset a 1\nget a\nget a\nexists a"),
    )
    .await;
    assert_eq!(answers[0], "Error::Other(\"quota exceeded: the share of the module\")");
    assert!(answers[1].contains("1001 keys in one call: at most 1000"), "{answers:?}");
    assert!(answers[2].contains("a key of 1025 bytes: at most 1024"), "{answers:?}");
    assert_eq!(answers[3..5], ["()", "Some(\"1\")"]);
    for refused in &answers[5..] {
        assert_eq!(refused, "Error::Other(\"quota exceeded: storage_ops = 5 per event\")");
    }
    // The next event begins anew.
    assert_eq!(ask(&module, "pairs/", "get a").await, ["Some(\"1\")"]);
    let name = "b".repeat(129);
    assert!(ask(&module, &format!("pairs/{name}"), "get a").await[0].contains("129 bytes: at most 128"));
}

#[tokio::test]
async fn handles_live_over_events() {
    let state = Arc::new(Memory::default());
    let bench = bench(&state);
    let module = bench.load(&guest("standard"), "").await.unwrap();
    assert_eq!(ask(&module, "pairs/", "set a 1\nkeep").await, ["()", "Some(\"1\")"]);
    assert_eq!(ask(&module, "pairs/", "set a 2\nkeep").await, ["()", "Some(\"2\")"]);
}

#[tokio::test]
async fn a_host_without_state_says_so() {
    let bench = Bench::new();
    let module = bench.load(&guest("standard"), "").await.unwrap();
    assert_eq!(
        ask(&module, "pairs/", "get a").await,
        ["Error::Other(\"state: unavailable: no node is running\")"]
    );
}
