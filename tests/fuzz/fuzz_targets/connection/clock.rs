//! The time of a scenario: what the broker asks the system for is the simulated time, too, so that messages grow old
//! (it reads their age off the system's clock, not off the runtime's) and a scenario runs the same way every time.
//!
//! The simulation holds for the thread that asked for it. libFuzzer, which measures its own time, is on another one.

use std::cell::Cell;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

/// 2026-01-01T00:00:00Z: where the system's clock stands when a scenario begins, nanoseconds.
const EPOCH: u64 = 1_767_225_600_000_000_000;
/// Where the monotonic clock stands then.
const BOOT: u64 = 1_000_000_000_000;

thread_local! {
    /// How long the scenario has run, nanoseconds, as far as is known; `None`: real time.
    static PASSED: Cell<Option<u64>> = const { Cell::new(None) };
    /// When the present runtime began, by its clock, and how long the scenario had run then.
    static RUNTIME: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
    /// The time is being found out: whoever asks on the way gets what is known.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// A scenario begins on this thread.
pub fn begin() {
    PASSED.set(Some(0));
    RUNTIME.set(None);
}

/// It has ended: the time is real again.
pub fn end() {
    PASSED.set(None);
    RUNTIME.set(None);
}

/// From here on the time is that of the runtime in whose context this is called, until [`leave`].
pub fn enter() {
    let passed = PASSED.get().unwrap_or_default();
    RUNTIME.set(Some((Instant::now(), passed)));
}

/// The runtime ends; the time stands still.
pub fn leave() {
    RUNTIME.set(None);
}

/// The scenario has run so much longer. Without a runtime: with one, its clock says so.
#[allow(dead_code, reason = "only tests have no runtime")]
pub fn pass(time: Duration) {
    PASSED.set(PASSED.get().map(|passed| passed + nanos(time)));
}

/// How long the scenario has run.
pub fn passed() -> Duration {
    Duration::from_nanos(look().unwrap_or_default())
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn look() -> Option<u64> {
    let known = PASSED.get()?;
    if ASKING.replace(true) {
        return Some(known);
    }
    let passed = match RUNTIME.get() {
        Some((began, before)) if Handle::try_current().is_ok() => before + nanos(Instant::now() - began),
        _ => known,
    };
    PASSED.set(Some(passed));
    ASKING.set(false);
    Some(passed)
}

/// In place of the C library's.
///
/// # Safety
/// `time` is where the caller wants the time to be written, as for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    let start = match clock {
        libc::CLOCK_REALTIME => EPOCH,
        libc::CLOCK_MONOTONIC => BOOT,
        _ => return real(clock, time),
    };
    match look() {
        Some(passed) => {
            let nanos = start + passed;
            let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
            // SAFETY: the caller gives a place for the time.
            unsafe { time.write(libc::timespec { tv_sec: seconds as i64, tv_nsec: rest as i64 }) };
            0
        }
        None => real(clock, time),
    }
}

fn real(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: what the C library would do with the same arguments.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int }
}
