//! The clock of guests sleeps while there are none, and wakes for the next. In a process of its own, because
//! any other test would keep it awake.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "tests"
)]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tidegate_module::CallError;

#[path = "module/fakes.rs"]
mod fakes;
#[path = "module/guests.rs"]
mod guests;

use guests::{Bench, publish};

/// How often the clock's thread has slept and gone on.
fn wakes() -> u64 {
    let thread = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|task: &PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "tidegate-epoch")
        })
        .unwrap();
    let status = fs::read_to_string(thread.join("status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_clock_sleeps_and_wakes() {
    let bench = Bench::new();
    let module = bench.probe("limits = { cpu = \"20ms\" }").await;
    for _ in 0..2 {
        let idle_since = Instant::now();
        loop {
            let before = wakes();
            tokio::time::sleep(Duration::from_millis(200)).await;
            if wakes() == before {
                break;
            }
            assert!(idle_since.elapsed() < Duration::from_secs(30), "it still ticks");
        }
        // Without ticks this would never end.
        let error = module.call(&publish("loop", b"")).await.unwrap_err();
        assert!(matches!(error, CallError::Limit { .. }), "{error}");
    }
}
