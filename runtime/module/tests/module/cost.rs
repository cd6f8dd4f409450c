//! What a call costs. The numbers are printed; the bound is loose, because tests share their machine.

use std::time::Instant;

use crate::guests::{Bench, guest, publish};

/// `cargo test --release -p tidegate-module -- --ignored --nocapture cost`.
#[tokio::test(flavor = "current_thread")]
#[ignore = "a measurement: run it alone"]
async fn cost_of_a_warm_call() {
    let bench = Bench::new();
    let scope = publish("sensors/1", &[b'x'; 200]);
    for (name, manifest) in [("pass", ""), ("pass", "instances = { mode = \"fresh\" }"), ("upper", "")] {
        let module = bench.load(&guest(name), manifest).await.unwrap();
        let (rounds, calls) = (20, 5_000);
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
}
