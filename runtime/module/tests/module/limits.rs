//! Guests that compute, allocate, recurse, wait, write or store too much: an error with the limit's name, for
//! that event only.

use std::time::{Duration, Instant};

use tidegate_event::Scope;
use tidegate_module::{CallError, Limit, Module};

use crate::fakes::Recorder;
use crate::guests::{Bench, ask, guest, observer, publish, session_created};

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
    let CallError::Limit { which, message, .. } = &error else { panic!("{error}") };
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

/// A compiler that keeps the guest's variables in memory puts a bound of its own to their stack.
#[tokio::test]
async fn deep_recursion_is_a_trap_or_passes_the_stack() {
    let bench = Bench::new();
    let module = bench.probe("limits = { cpu = \"5s\" }").await;
    let error = fails(&module, "recurse").await;
    assert!(matches!(&error, CallError::Trap { message, .. } if message.contains("deeper")), "{error}");

    let module = bench.load(&recursing(), "limits = { cpu = \"5s\" }").await.unwrap();
    let error = module.call(&session_created()).await.unwrap_err();
    let CallError::Limit { which: Limit::Stack(bytes), message, .. } = &error else { panic!("{error}") };
    assert!(*bytes == 512 << 10 && message.contains("deeper"), "{error}");
}

/// A guest that keeps its variables in registers.
fn recursing() -> Vec<u8> {
    let deeper = "(func $deeper (param i32) (result i32)
        local.get 0 i32.const 1 i32.add call $deeper local.get 0 i32.add)";
    observer(deeper, "i32.const 0 call $deeper")
}

#[tokio::test]
async fn a_panic_tells_what_and_where() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let error = fails(&module, "panic/test").await;
    let CallError::Trap { message, stderr } = &error else { panic!("{error}") };
    for part in ["<probe::Probe as", "on_message_publish", "unreachable"] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    assert!(stderr.contains("told to panic by test") && stderr.contains("probe/src/lib.rs"), "{stderr}");
    assert!(error.to_string().contains("told to panic by test"), "{error}");
    let error = fails(&module, "exit").await;
    // std::process::exit of wasm32-wasip2 knows success and failure only.
    assert!(matches!(&error, CallError::Trap { message, .. } if message.contains("exit(1)")), "{error}");
}

/// As a compiler for C writes it: a name section, no names to demangle.
#[tokio::test]
async fn the_stack_of_a_guest_without_mangled_names_has_its_names() {
    let bench = Bench::new();
    let wasm = observer("(func $read_sensor unreachable)", "call $read_sensor i32.const 0");
    let module = bench.load(&wasm, "on_error = { policy = \"pass\" }").await.unwrap();
    let error = module.call(&session_created()).await.unwrap_err().to_string();
    assert!(error.contains("read_sensor") && error.contains("on_session_created"), "{error}");
}

/// Whoever reads the error or the metrics sees which key of `[limits]` to look at.
#[tokio::test]
async fn every_limit_that_stops_a_guest_is_named_and_counted() {
    let grow_table = "(table $t 1 funcref)";
    let body = "ref.null func i32.const 1000 table.grow $t i32.const -1 i32.eq
                (if (then unreachable)) i32.const 0";
    let (table, deep, probe) = (observer(grow_table, body), recursing(), guest("probe"));
    let recorder = Recorder::default();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let bench = Bench::new();
    for (wasm, topic, limits, kind, named) in [
        (&probe, "loop", "cpu = \"20ms\"", "cpu", "cpu = 20ms"),
        (&probe, "sleep/5000", "timeout = \"50ms\"", "timeout", "timeout = 50ms"),
        (&probe, "grow", "cpu = \"5s\", memory = \"16MiB\"", "memory", "memory = 16.0 MiB"),
        (&deep, "", "cpu = \"5s\"", "stack", "stack = 512.0 KiB"),
        (&probe, "spam", "hostcall_bytes = 900", "hostcall_bytes", "hostcall_bytes = 900 B"),
        (&probe, "handles/200", "handles = 100", "handles", "handles = 100"),
        (&table, "", "table_elements = 50", "table_elements", "table_elements = 50"),
    ] {
        let manifest = format!("limits = {{ {limits} }}\n[on_error]\npolicy = \"pass\"");
        let module = bench.load(wasm, &manifest).await.unwrap();
        let scope = if topic.is_empty() { session_created() } else { publish(topic, b"") };
        let error = module.call(&scope).await.expect_err(topic);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(&format!("its limit {named}")), "{error}");
        let counter = format!("tidegate_module_errors_total{{module=m,kind={kind}}}");
        assert_eq!(recorder.counter(&counter), 1, "{kind}");
    }
    let module = bench.probe("limits = { handles = 300 }").await;
    assert!(module.call(&publish("handles/200", b"")).await.is_ok());
}

/// A guest that floods the host with what it is refused must not flood the log with the refusals.
#[tokio::test]
async fn every_limit_that_only_refuses_is_counted_and_said_once_a_second() {
    let limits = "limits = { storage_ops = 2, publishes = 2, log_bytes = \"10KiB\", cpu = \"5s\" }";
    for (topic, key, counter) in [
        ("run-many/9", "storage_ops = 2", "tidegate_module_storage_ops_denied_total"),
        ("publish-many/9", "publishes = 2", "tidegate_module_publishes_denied_total"),
        ("spam", "log_bytes = 10240", "tidegate_module_log_lines_dropped_total"),
    ] {
        let log = crate::fakes::Log::default();
        let _logging = tracing::subscriber::set_default(log.clone());
        let recorder = Recorder::default();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let bench = Bench::new();
        let module = bench.probe(limits).await;
        let started = Instant::now();
        for _ in 0..5 {
            module.call(&publish(topic, b"")).await.unwrap();
        }
        let lines = log.lines();
        let said: Vec<_> = lines.iter().filter(|line| line.contains("passed its limit")).collect();
        assert!(said.iter().all(|line| line.contains("module=m") && line.contains(key)), "{said:?}");
        // A second of the clock may end between two events.
        let most = started.elapsed().as_secs() as usize + 2;
        assert!((1..=most).contains(&said.len()), "{said:?}");
        assert!(recorder.counter(&format!("{counter}{{module=m}}")) >= 5 * 8, "{key}");
    }
}

#[tokio::test]
async fn messages_through_client_control_are_limited_per_event() {
    let bench = Bench::new();
    let module = bench.probe("limits = { publishes = 3 }").await;
    for event in 1..=2 {
        assert_eq!(ask(&module, "publish-many/5").await, "3 Err(Error::Busy)");
        assert_eq!(bench.control.published.lock().len(), 3 * event);
    }
    assert_eq!(*bench.control.asked.lock(), Vec::<String>::new(), "a delivery counts too");
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
