//! Guests of WASI 0.3: they run on the engine with concurrent tasks, by the same rules.

use std::time::Duration;

use tidegate_module::{CallError, Limit};

use crate::guests::{Bench, guest, publish, said};

#[tokio::test]
async fn a_guest_of_wasi_0_3_waits_without_holding_a_worker() {
    let bench = Bench::new();
    let module = bench.load(&guest("later"), "").await.unwrap();
    let call = async |wait: &str| said(module.call(&publish("a", wait.as_bytes())).await);
    let started = std::time::Instant::now();
    // Four calls that wait side by side on one thread: the runtime of this test has no other.
    let all = tokio::join!(call("200"), call("200"), call("200"), call("200"));
    assert_eq!(all, ("later".into(), "later".into(), "later".into(), "later".into()));
    let took = started.elapsed();
    assert!((Duration::from_millis(200)..Duration::from_millis(600)).contains(&took), "{took:?}");
    assert_eq!(call("0").await, "later");
}

#[tokio::test]
async fn its_time_is_bounded() {
    let bench = Bench::new();
    let module = bench.load(&guest("later"), "limits = { timeout = \"100ms\" }").await.unwrap();
    let error = module.call(&publish("a", b"60000")).await.unwrap_err();
    assert!(matches!(error, CallError::Timeout(limit) if limit == Duration::from_millis(100)), "{error}");
    assert_eq!(said(module.call(&publish("a", b"1")).await), "later");
}

#[tokio::test]
async fn a_guest_error_leaves_the_instance_well() {
    let bench = Bench::new();
    let module = bench.load(&guest("later"), "").await.unwrap();
    assert!(matches!(module.call(&publish("a", b"soon")).await, Err(CallError::Guest(_))));
    assert_eq!(module.stats().instances, 1);
    assert_eq!(said(module.call(&publish("a", b"1")).await), "later");
    assert!(!matches!(
        module.call(&publish("a", b"soon")).await,
        Err(CallError::Limit { which: Limit::Memory(_), .. })
    ));
}
