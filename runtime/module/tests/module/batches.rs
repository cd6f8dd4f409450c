//! Several events in one call: how they are gathered, what each gets, and what a bad one does to the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_event::{Event, Message, Scope, Tenant};
use tidegate_module::{CallError, Module};
use tokio::task::JoinHandle;

use crate::guests::{Bench, client, guest, message, said, scope};

/// Events of one client come one at a time: each of these has its own.
fn publish_from(name: &str, topic: &str) -> Scope {
    let message = Message { publisher: Some(client(name)), sender: name.into(), ..message(topic, b"x") };
    scope(Event::MessagePublish { message: Arc::new(message), tenant: Tenant::default() })
}

type Called = JoinHandle<Result<tidegate_module::Answer, CallError>>;

fn call(module: &Arc<Module>, scope: &Scope) -> Called {
    let (module, scope) = (module.clone(), scope.clone());
    tokio::spawn(async move { module.call(&scope).await })
}

/// One instance, which an event on `sleep` keeps from the others until they are all there.
const SERIAL: &str = "[instances]\nmode = \"single\"\n[limits]\ncpu = \"60s\"\n";

async fn module(bench: &Bench, manifest: &str) -> Arc<Module> {
    bench.load(&guest("gather"), manifest).await.unwrap()
}

/// Calls `module` with events on `topics` that are there when the call before them ends.
async fn together(bench: &Bench, module: &Arc<Module>, topics: &[&str]) -> Vec<(Scope, Called)> {
    let first = call(module, &publish_from("first", "sleep/200"));
    while bench.control.published.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut called = Vec::new();
    for (number, topic) in topics.iter().enumerate() {
        let scope = publish_from(&format!("c{number}"), topic);
        called.push((scope.clone(), call(module, &scope)));
        tokio::task::yield_now().await;
    }
    assert_eq!(said(first.await.unwrap()), "0/1 first true");
    called
}

#[tokio::test]
async fn what_comes_during_a_call_goes_into_the_next() {
    let bench = Bench::new();
    let module = module(&bench, SERIAL).await;
    let mut answers = Vec::new();
    for (_, called) in together(&bench, &module, &["a", "b", "c", "d"]).await {
        answers.push(said(called.await.unwrap()));
    }
    assert_eq!(answers, ["0/4 c0 true", "1/4 c1 true", "2/4 c2 true", "3/4 c3 true"]);
    let stats = module.stats();
    assert_eq!((stats.calls, stats.errors, stats.instances), (5, 0, 1));
}

#[tokio::test]
async fn an_event_that_finds_nobody_is_a_batch_of_one() {
    let bench = Bench::new();
    let module = module(&bench, "").await;
    for n in 0..3 {
        let name = format!("c{n}");
        let answer = said(module.call(&publish_from(&name, "a")).await);
        assert_eq!(answer, format!("0/1 {name} true"));
    }
}

#[tokio::test]
async fn an_error_in_a_batch_is_of_its_event_alone() {
    let bench = Bench::new();
    let module = module(&bench, SERIAL).await;
    let mut called =
        together(&bench, &module, &["a", "fail/why", "wrong", "d"]).await.into_iter().map(|(_, c)| c);
    let mut next = async || called.next().unwrap().await.unwrap();
    assert_eq!(said(next().await), "0/4 c0 true");
    let error = next().await.unwrap_err();
    assert!(matches!(&error, CallError::Guest(_)) && error.to_string().contains("why"), "{error}");
    let error = next().await.unwrap_err();
    assert!(matches!(&error, CallError::Answer(text) if text.contains("0x01")), "{error}");
    assert_eq!(said(next().await), "3/4 c3 true");
}

#[tokio::test]
async fn a_batch_that_traps_is_handled_again_one_by_one() {
    let bench = Bench::new();
    let module = module(&bench, SERIAL).await;
    let called = together(&bench, &module, &["a", "panic", "c"]).await;
    let mut answers = Vec::new();
    for (_, called) in called {
        answers.push(called.await.unwrap());
    }
    let trap = answers.remove(1).unwrap_err();
    assert!(matches!(&trap, CallError::Trap { stderr, .. } if stderr.contains("told to panic")), "{trap}");
    let others: Vec<_> = answers.into_iter().map(said).collect();
    assert_eq!(others, ["0/1 c0 true", "0/1 c2 true"]);
    assert_eq!(module.stats().errors, 1);
}

#[tokio::test]
async fn a_loop_in_a_batch_costs_the_others_two_budgets_and_not_one_for_each() {
    let bench = Bench::new();
    let manifest = "[instances]\nmode = \"single\"\n[limits]\ncpu = \"1s\"\n";
    let mut measured = Vec::new();
    // Another process may take the processors away from one attempt, not from three.
    for _ in 0..3 {
        let alone = module(&bench, manifest).await;
        let started = Instant::now();
        let error = alone.call(&publish_from("c", "loop")).await.unwrap_err();
        assert!(error.to_string().contains("cpu"), "{error}");
        let budget = started.elapsed();

        let module = module(&bench, manifest).await;
        let started = Instant::now();
        let mut called = together(&bench, &module, &["loop", "a", "a", "a", "a"])
            .await
            .into_iter()
            .map(|(_, called)| called);
        let looped = called.next().unwrap();
        for called in called {
            assert!(said(called.await.unwrap()).starts_with("0/"));
        }
        let error = looped.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("cpu"), "{error}");
        let took = started.elapsed();
        // Two in the batch and one alone, besides the 200 ms before it; one for each would be five and more.
        if took < budget * 9 / 2 {
            return;
        }
        measured.push((took, budget));
    }
    panic!("{measured:?}");
}

/// The line was served at the pace of two calls, whatever the manifest's timeout said.
#[tokio::test]
async fn an_event_waits_in_line_no_longer_than_its_timeout() {
    let bench = Bench::new();
    let manifest = "[instances]\nmode = \"single\"\n[limits]\ntimeout = \"300ms\"\n";
    let module = module(&bench, manifest).await;
    let called: Vec<_> =
        (0..6).map(|n| call(&module, &publish_from(&format!("c{n}"), "sleep/250"))).collect();
    let started = Instant::now();
    let mut busy = 0;
    for called in called {
        match called.await.unwrap() {
            Ok(_) => {}
            Err(CallError::Busy(limit)) if limit == Duration::from_millis(300) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(busy >= 3, "{busy} of 6 were told, in {:?}", started.elapsed());
}

#[tokio::test]
async fn an_answer_too_few_is_no_answer_to_any() {
    let bench = Bench::new();
    let module = module(&bench, "config = { short = \"yes\" }\n[instances]\nmode = \"single\"\n").await;
    let error = module.call(&publish_from("c", "a")).await.unwrap_err();
    assert!(
        matches!(&error, CallError::Answer(text) if text == "0 answers to a batch of 1 events"),
        "{error}"
    );
}

#[tokio::test]
async fn what_an_event_stores_joins_its_own_acknowledgement() {
    use futures_util::FutureExt as _;
    let bench = Bench::new();
    let module = module(&bench, SERIAL).await;
    let called = together(&bench, &module, &["a", "store", "c"]).await;
    let mut scopes = Vec::new();
    for (scope, called) in called {
        called.await.unwrap().unwrap();
        scopes.push(scope);
    }
    let joined: Vec<_> = scopes.iter().map(|scope| scope.acks.clone().now_or_never().is_some()).collect();
    assert_eq!(joined, [true, false, true]);
    bench.storage.complete();
    assert!(scopes[1].acks.clone().now_or_never().unwrap().is_ok());
}

#[tokio::test]
async fn the_events_of_a_batch_have_their_limits_together() {
    let bench = Bench::new();
    let manifest = "[instances]\nmode = \"single\"\n[limits]\ncpu = \"60s\"\nstorage_ops = 2\n";
    let module = module(&bench, manifest).await;
    let error = module.call(&publish_from("c", "ops/3")).await.unwrap_err();
    assert!(error.to_string().contains("QuotaExceeded"), "{error}");
    for (_, called) in together(&bench, &module, &["ops/3", "a"]).await {
        called.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_batch_is_bounded_by_what_its_events_take() {
    let bench = Bench::new();
    let manifest = "[instances]\nmode = \"single\"\n[limits]\ncpu = \"100ms\"\n";
    let module = module(&bench, manifest).await;
    // 30 ms each: three of them fit into the time of one event.
    let called: Vec<_> =
        (0..24).map(|n| call(&module, &publish_from(&format!("c{n}"), "sleep/30"))).collect();
    let mut lengths = Vec::new();
    for called in called {
        let text = said(called.await.unwrap());
        let (place, length) = text.split_once(' ').unwrap().0.split_once('/').unwrap();
        let (place, length): (usize, usize) = (place.parse().unwrap(), length.parse().unwrap());
        assert!(place < length);
        lengths.push(length);
    }
    assert_eq!(lengths[0], 1, "nothing is known of a new version");
    assert!(lengths.iter().all(|length| *length <= 3) && lengths.contains(&2), "{lengths:?}");
}
