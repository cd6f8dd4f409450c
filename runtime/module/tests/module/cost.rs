//! What a call costs. The numbers are printed; the bounds are loose, because tests share their machine.
//!
//! `cargo test --release -p tidegate-module --test module -- --ignored --nocapture cost`

use std::time::Instant;

use crate::guests::{Bench, guest, publish};

async fn measure(name: &str, manifest: &str) {
    let bench = Bench::new();
    let scope = publish("sensors/1", &[b'x'; 200]);
    let module = bench.load(&guest(name), manifest).await.unwrap();
    println!("a call's future has {} bytes", size_of_val(&module.call(&scope)));
    let (rounds, calls) = (50, 2_000);
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let started = Instant::now();
        for _ in 0..calls {
            drop(module.call(&scope).await.unwrap());
        }
        best = best.min(started.elapsed().as_secs_f64() / f64::from(calls));
    }
    println!("{name} {manifest}: {:.2} us a call (best of {rounds} rounds of {calls})", best * 1e6);
    assert!(best < 1e-3);
}

#[tokio::test]
#[ignore = "a measurement: run it alone"]
async fn of_a_warm_guest_that_passes() {
    measure("pass", "").await;
}

#[tokio::test]
#[ignore = "a measurement: run it alone"]
async fn of_a_warm_guest_that_replaces() {
    measure("upper", "").await;
}

#[tokio::test]
#[ignore = "a measurement: run it alone"]
async fn of_a_fresh_guest_that_passes() {
    measure("pass", "instances = { mode = \"fresh\" }").await;
}
