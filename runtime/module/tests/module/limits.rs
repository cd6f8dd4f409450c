//! Guests that compute, allocate, recurse, wait, write or store too much: an error with the limit's name, for
//! that event only.

use std::time::{Duration, Instant};

use tidegate_event::Scope;
use tidegate_module::{CallError, Limit, Module};

use crate::guests::{Bench, ask, guest, publish};

async fn fails(module: &Module, topic: &str) -> CallError {
    let error = module.call(&publish(topic, b"")).await.expect_err(topic);
    // The next event gets a new instance.
    assert_eq!(ask(module, "count").await, "1", "after {topic}");
    error
}

#[tokio::test]
async fn a_looping_guest_is_stopped_at_its_limit() {
    let bench = Bench::new();
    let module = bench.probe("limits = { cpu = \"20ms\" }").await;
    let started = Instant::now();
    let error = fails(&module, "loop").await;
    let CallError::Limit { which, message } = &error else { panic!("{error}") };
    assert_eq!(*which, Limit::Cpu(Duration::from_millis(20)));
    assert!(message.contains("endless"), "the stack says where it was: {message}");
    assert!(error.to_string().contains("cpu = 20ms"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn computing_below_the_limit_is_allowed() {
    let bench = Bench::new();
    let module = bench.probe("limits = { cpu = \"2s\" }").await;
    module.call(&publish("busy/100", b"")).await.unwrap();
}

/// On one worker: a guest that did not yield would let nobody else run.
#[tokio::test]
async fn a_looping_guest_does_not_hold_its_worker() {
    let bench = Bench::new();
    let module = bench.probe("limits = { cpu = \"300ms\" }").await;
    let looping = tokio::spawn({
        let module = module.clone();
        async move { module.call(&publish("loop", b"")).await }
    });
    let mut turns = 0;
    while !looping.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        turns += 1;
    }
    assert!(looping.await.unwrap().is_err());
    assert!(turns > 30, "others had only {turns} turns in 300 ms of looping");
}

#[tokio::test]
async fn waiting_is_not_computing() {
    let bench = Bench::new();
    let module = bench.probe("limits = { cpu = \"10ms\", timeout = \"10s\" }").await;
    module.call(&publish("sleep/200", b"")).await.unwrap();
}

#[tokio::test]
async fn waiting_has_its_own_limit() {
    let bench = Bench::new();
    let module = bench.probe("limits = { timeout = \"50ms\" }").await;
    let error = fails(&module, "sleep/5000").await;
    assert!(matches!(error, CallError::Timeout(limit) if limit == Duration::from_millis(50)), "{error}");
}

/// A writer without memory makes every guest wait that stores something.
#[tokio::test]
async fn waiting_for_a_full_store_ends_with_the_same_limit() {
    let bench = Bench::new();
    let module = bench.probe("limits = { timeout = \"50ms\" }").await;
    let error = fails(&module, "run/fake:stuck").await;
    assert!(matches!(error, CallError::Timeout(limit) if limit == Duration::from_millis(50)), "{error}");
    assert_eq!(bench.storage.asked(), ["fake:stuck on_message_publish Stored"]);
}

#[tokio::test]
async fn memory_is_limited() {
    let bench = Bench::new();
    let module = bench.probe("limits = { cpu = \"5s\" }").await;
    let error = fails(&module, "grow").await;
    let CallError::Limit { which: Limit::Memory(bytes), .. } = error else { panic!("{error}") };
    assert_eq!(bytes, 32 << 20);
    assert!(error.to_string().contains("memory = 32.0 MiB"), "{error}");
}

/// A refused growth that the guest gets over is no error, and is not blamed for a later trap.
#[tokio::test]
async fn a_guest_may_live_with_a_refused_growth() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    assert_eq!(ask(&module, "grow-kindly").await, "false");
    let error = module.call(&publish("panic", b"")).await.unwrap_err();
    assert!(matches!(error, CallError::Trap { .. }), "{error}");
}

#[tokio::test]
async fn deep_recursion_is_a_trap() {
    let bench = Bench::new();
    let module = bench.probe("limits = { cpu = \"5s\" }").await;
    let error = fails(&module, "recurse").await;
    assert!(matches!(&error, CallError::Trap { message } if message.contains("deeper")), "{error}");
}

#[tokio::test]
async fn a_panic_tells_what_and_where() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let error = fails(&module, "panic/test").await;
    let CallError::Trap { message } = &error else { panic!("{error}") };
    for part in ["told to panic by test", "probe/src/lib.rs", "on_message_publish", "unreachable"] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    let error = fails(&module, "exit").await;
    // std::process::exit of wasm32-wasip2 knows success and failure only.
    assert!(matches!(&error, CallError::Trap { message } if message.contains("exit(1)")), "{error}");
}

#[tokio::test]
async fn storage_operations_are_limited_per_event() {
    let bench = Bench::new();
    *bench.storage.at_once.lock() = true;
    let module = bench.probe("limits = { storage_ops = 5 }").await;
    for _ in 0..2 {
        assert_eq!(ask(&module, "run-many/5").await, "5 Err(Error::QuotaExceeded)");
    }
    assert_eq!(bench.storage.asked().len(), 10);
}

#[tokio::test]
async fn refused_storage_operations_are_said_once_per_event() {
    let log = crate::fakes::Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let bench = Bench::new();
    *bench.storage.at_once.lock() = true;
    let module = bench.probe("limits = { storage_ops = 0 }").await;
    for event in 1..=2 {
        // Six refusals.
        assert_eq!(ask(&module, "run-many/5").await, "0 Err(Error::QuotaExceeded)");
        let said = log.lines().iter().filter(|line| line.contains("passed its limit storage_ops")).count();
        assert_eq!(said, event);
    }
}

#[tokio::test]
async fn output_is_limited_per_event() {
    let bench = Bench::new();
    let module = bench.probe("limits = { log_bytes = \"10KiB\", cpu = \"5s\" }").await;
    // The lines over the limit are dropped; the guest goes on. What comes out is tested beside the code.
    for _ in 0..2 {
        assert!(module.call(&publish("spam", b"")).await.is_ok());
    }
}

#[tokio::test]
async fn a_dropped_call_does_not_leak_its_instance() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let scope: Scope = publish("sleep/60000", b"");
    let call = tokio::time::timeout(Duration::from_millis(20), module.call(&scope));
    assert!(call.await.is_err());
    assert_eq!(module.stats().instances, 0);
    assert_eq!(ask(&module, "count").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looping_guests_do_not_stop_others() {
    let bench = Bench::new();
    let bad = bench.probe("limits = { cpu = \"500ms\" }").await;
    let good = bench.host.load(&bench.write("good", &guest("pass"), ""), &Default::default()).await.unwrap();
    let loops: Vec<_> = (0..8)
        .map(|_| {
            let bad = bad.clone();
            tokio::spawn(async move { bad.call(&publish("loop", b"")).await })
        })
        .collect();
    let mut times = Vec::new();
    while !loops.iter().all(|call| call.is_finished()) {
        let good = good.clone();
        let started = Instant::now();
        tokio::spawn(async move { good.call(&publish("pass", b"")).await.unwrap() }).await.unwrap();
        times.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort_unstable();
    let (p50, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("8 looping guests on 2 workers: {} good calls, p50 {p50:?}, worst {worst:?}", times.len());
    assert!(p50 < Duration::from_millis(100), "p50 {p50:?}");
}

#[tokio::test]
async fn a_full_host_waits_for_a_place() {
    let bench = Bench::with(|config| config.max_instances = 1);
    let module = bench.load(&guest("probe"), "limits = { timeout = \"5s\" }").await.unwrap();
    let slow = tokio::spawn({
        let module = module.clone();
        async move { module.call(&publish("sleep/100", b"")).await }
    });
    tokio::task::yield_now().await;
    // The only place is taken: this event waits for it instead of failing.
    assert!(module.call(&publish("pass", b"")).await.is_ok());
    assert!(slow.await.unwrap().is_ok());
}
