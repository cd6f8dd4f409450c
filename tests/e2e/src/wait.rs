//! Waiting for something to become true, with a deadline and a name for it; and telling what was measured.

use std::io::Write as _;
use std::time::{Duration, Instant};

/// How long anything in these tests may take before it counts as lost. Generous: two shared cores.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `probe` until it gives a value; panics with `what` after [`PATIENCE`].
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, probe)
}

/// As [`until`] with a limit of its own.
pub fn until_within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// By how much repeated tests repeat: 10 in `cargo xtask test --long`, else 1.
pub fn long() -> usize {
    if std::env::var_os("TIDEGATE_LONG").is_some() { 10 } else { 1 }
}

/// Tells a measured number to the person who runs the tests, also when the test passes (the test harness keeps
/// what `println!` says to itself).
pub fn tell(text: &str) {
    // Nothing depends on it.
    drop(writeln!(std::io::stderr(), "    {text}"));
}
