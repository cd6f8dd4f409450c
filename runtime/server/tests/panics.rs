//! A panic of one task ends that task, is logged with its backtrace and counted, and nothing else.
//!
//! A file of its own: the panic hook and the recorder belong to the process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate::{logging, telemetry};

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_panic_is_logged_and_counted_and_the_process_goes_on() {
    let metrics = telemetry::install("a@b").unwrap();
    let kept = Kept::default();
    let writer = kept.clone();
    tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).init();
    logging::log_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let broken = runtime.spawn(async { panic!("broken on {}", "purpose") });
    assert!(runtime.block_on(broken).unwrap_err().is_panic());
    assert_eq!(runtime.block_on(runtime.spawn(async { 7 })).unwrap(), 7);
    assert!(metrics.render().contains("tidegate_server_panics_total 1\n"), "{}", metrics.render());
    let log = String::from_utf8(kept.0.lock().clone()).unwrap();
    // What the other test programs look for in the logs of the servers that they start.
    let looked_for = log.lines().find(|line| line.contains("tidegate::logging: panic: "));
    let line = looked_for.unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("ERROR") && line.contains("panic: broken on purpose"), "{log}");
    assert!(log.contains("panics.rs") && log.contains("backtrace="), "{log}");
}
