//! Calls from time to time: when they begin and end, what a guest may do in them, and what becomes of those that fail.

use std::sync::Arc;
use std::time::Duration;

use tidegate_event::{Message, Origin, Tenant};
use tidegate_module::Directory;

use crate::guests::{Bench, guest, publish};

/// A directory with the guest `gather`, and what it has published.
async fn follow(bench: &Bench, manifest: &str) -> Directory {
    bench.write("m", &guest("gather"), manifest);
    Directory::open(bench.host.clone(), bench.dir(), Tenant::default(), Arc::new(|_| {})).await.unwrap()
}

async fn until(bench: &Bench, wanted: impl Fn(&[Message]) -> bool) -> Vec<Message> {
    for _ in 0..3_000 {
        let published = bench.control.published.lock().clone();
        if wanted(&published) {
            return published;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time: {:?}", bench.control.published.lock().clone());
}

fn payloads(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_module_ticks_as_its_manifest_says_while_its_version_serves() {
    let bench = Bench::new();
    let manifest = |name: &str| {
        format!("tick = \"20ms\"\nconfig = {{ name = \"{name}\" }}\n[instances]\nmode = \"single\"\n")
    };
    let directory = follow(&bench, &manifest("one")).await;
    let published = until(&bench, |published| published.len() >= 3).await;
    assert_eq!(payloads(&published[..3]), ["1", "2", "3"]);
    let first = &published[0];
    assert_eq!(
        (first.topic.as_str(), first.origin, first.hops, &*first.sender),
        ("tick/one", Origin::Module, 1, "")
    );

    bench.write("m", &guest("gather"), &manifest("two"));
    let of = |name: &'static str| move |message: &&Message| message.topic.as_str() == name;
    until(&bench, |published| published.iter().filter(of("tick/two")).count() >= 3).await;
    let before = bench.control.published.lock().clone().iter().filter(of("tick/one")).count();
    until(&bench, |published| published.iter().filter(of("tick/two")).count() >= 6).await;
    let after = bench.control.published.lock().clone().iter().filter(of("tick/one")).count();
    assert!(after <= before + 1, "the version before ticks on: {before}, {after}");

    std::fs::remove_file(bench.dir().join("m.wasm")).unwrap();
    while !directory.modules().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    let last = bench.control.published.lock().clone().len();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(bench.control.published.lock().clone().len(), last, "a module that is gone ticks on");
}

#[tokio::test]
async fn without_a_word_in_the_manifest_it_is_every_second() {
    let bench = Bench::new();
    let started = std::time::Instant::now();
    let _directory = follow(&bench, "").await;
    until(&bench, |published| published.len() >= 2).await;
    let took = started.elapsed();
    assert!((Duration::from_millis(1_900)..Duration::from_secs(10)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_tick_has_no_event_to_store_and_no_client() {
    for (what, expected) in [
        ("store", "Err(Error::InvalidArgument(\"a tick has no event to store or to take variables from\"))"),
        ("client", "None default"),
    ] {
        let bench = Bench::new();
        let manifest = format!("tick = \"20ms\"\nconfig = {{ tick = \"{what}\" }}");
        let _directory = follow(&bench, &manifest).await;
        let published = until(&bench, |published| !published.is_empty()).await;
        assert_eq!(payloads(&published)[0], expected);
        assert!(bench.storage.asked().is_empty());
    }
}

#[tokio::test]
async fn a_tick_that_fails_is_followed_by_the_next_and_by_events() {
    for what in ["fail", "panic"] {
        let bench = Bench::new();
        let manifest = format!("tick = \"20ms\"\nconfig = {{ tick = \"{what}\" }}");
        let directory = follow(&bench, &manifest).await;
        let published = until(&bench, |published| published.len() >= 3).await;
        // Who panics is another instance every time.
        let counts = if what == "fail" { ["1", "2", "3"] } else { ["1", "1", "1"] };
        assert_eq!(payloads(&published[..3]), counts);
        let module = directory.modules()[0].clone();
        let answer = module.call(&publish("a", b"")).await.unwrap();
        assert!(matches!(answer.verdict, tidegate_event::Verdict::Replace(_)), "{answer:?}");
        assert_eq!((module.stats().calls, module.stats().errors), (1, 0), "ticks are no events");
    }
}

#[tokio::test]
async fn a_manifest_that_sets_the_tick_of_a_module_without_one_is_refused() {
    let bench = Bench::new();
    let refusal = bench.refusal(&guest("pass"), "priority = 1\ntick = \"5s\"\n").await;
    assert!(
        refusal.contains("m.toml:2:8: tick: the module does not export tidegate:module/tick"),
        "{refusal}"
    );
    for (wrong, why) in [("\"1ms\"", "expected at least 10ms"), ("5", "a duration"), ("\"x\"", "a duration")]
    {
        let refusal = bench.refusal(&guest("gather"), &format!("tick = {wrong}")).await;
        assert!(refusal.contains("m.toml:1:8: tick: ") && refusal.contains(why), "{refusal}");
    }
}

/// A guest that publishes when it is asked in 15 bytes, which only the tick is.
#[tokio::test]
async fn a_raw_module_ticks_when_its_manifest_says_so() {
    let bench = Bench::new();
    let raw = r#"(module
        (import "$root" "host-call" (func $host (param i32 i32 i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "{\"call\":\"publish\",\"message\":{\"topic\":\"raw/tick\"}}")
        (global $next (mut i32) (i32.const 4096))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (global.get $next))
            (global.set $next (i32.and
                (i32.add (i32.add (global.get $next) (local.get 3)) (i32.const 7)) (i32.const -8)))
            (local.get $at))
        (func (export "handle") (param $at i32) (param $length i32) (result i32)
            (if (i32.eq (local.get $length) (i32.const 15))
                (then (call $host (i32.const 0) (i32.const 49) (i32.const 1024))))
            (i32.const 2048)))"#;
    let wasm = wat::parse_str(raw).unwrap();
    bench.write("raw", &wasm, "tick = \"20ms\"\nhooks = { \"message.publish\" = [\"x\"] }");
    let directory =
        Directory::open(bench.host.clone(), bench.dir(), Tenant::default(), Arc::new(|_| {})).await.unwrap();
    assert_eq!(directory.failures().len(), 0, "{:?}", directory.failures());
    let published = until(&bench, |published| published.len() >= 2).await;
    assert_eq!(published[0].topic.as_str(), "raw/tick");
}

/// Both could end the wait, and chance decided.
#[tokio::test]
async fn a_tick_that_took_long_begins_no_other_after_the_end() {
    for _ in 0..8 {
        let bench = Bench::new();
        let directory = follow(&bench, "tick = \"10ms\"\nconfig = { tick = \"sleep\" }").await;
        until(&bench, |published| !published.is_empty()).await;
        directory.close().await;
        let told = bench.control.published.lock().len();
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(bench.control.published.lock().len(), told);
    }
}

#[tokio::test]
async fn a_version_that_is_kept_for_a_rollback_does_not_tick() {
    let bench = Bench::new();
    let manifest = |name: &str| {
        format!(
            "tick = \"20ms\"\nconfig = {{ name = \"{name}\" }}\n[rollout]\nrollback_error_rate = 0.5\npromote_after = 0\n"
        )
    };
    let directory = follow(&bench, &manifest("one")).await;
    until(&bench, |published| !published.is_empty()).await;
    bench.write("m", &guest("gather"), &manifest("two"));
    let of = |name: &'static str| move |message: &&Message| message.topic.as_str() == name;
    until(&bench, |published| published.iter().filter(of("tick/two")).count() >= 2).await;
    assert!(directory.modules()[0].trial().is_some());
    let count = || bench.control.published.lock().iter().filter(of("tick/one")).count();
    let before = count();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(count(), before);
}
