//! The clock of running guests: one thread a process advances the epoch of every engine once a millisecond.
//!
//! A running guest looks at its engine's epoch at loop heads and function entries, so the tick is what makes
//! it yield its worker and what its computing time is measured by. A tick costs the machine about ten
//! microseconds, and most calls end before one comes: as long as no tick has stopped a guest, three are made one.
//! The thread sleeps while no guest has run for a second: an idle gateway does not wake a thousand times a second.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;
use wasmtime::{Engine, EngineWeak};

/// The length of a tick while guests run longer than one.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// The length of a tick while none does: how long a guest may run before it is stopped for the first time.
pub(crate) const FIRST_TICK: Duration = Duration::from_millis(3);

/// First ticks in about a second.
const IDLE_TICKS: u32 = 333;

/// Whether a guest ran since the last tick.
static BUSY: AtomicBool = AtomicBool::new(false);
/// Whether a guest was stopped since the last tick.
static STOPPED: AtomicBool = AtomicBool::new(false);
/// Whether the thread waits longer than a tick unless it is woken.
static LONG: AtomicBool = AtomicBool::new(false);
/// Whether the thread sleeps until it is woken.
static PARKED: AtomicBool = AtomicBool::new(false);
/// Ticks so far: a clock for what need not be exact.
static COUNT: AtomicU64 = AtomicU64::new(0);
static THREAD: OnceLock<Thread> = OnceLock::new();
static ENGINES: Mutex<Vec<EngineWeak>> = Mutex::new(Vec::new());

/// Ticks `engine` from now on, as long as it lives.
///
/// # Errors
/// The system's error when the thread cannot be started.
pub(crate) fn add(engine: &Engine) -> std::io::Result<()> {
    let mut engines = ENGINES.lock();
    if THREAD.get().is_none() {
        let handle = thread::Builder::new().name("tidegate-epoch".into()).spawn(run)?;
        THREAD.get_or_init(|| handle.thread().clone());
    }
    engines.push(engine.weak());
    Ok(())
}

/// Ticks so far. Cheap, and stands still while no guest runs.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// A tick has stopped a guest: the next one comes soon.
pub(crate) fn stopped() {
    STOPPED.store(true, Ordering::SeqCst);
    if LONG.load(Ordering::SeqCst)
        && let Some(thread) = THREAD.get()
    {
        thread.unpark();
    }
    touch();
}

/// A guest runs or is about to: the thread must tick. Cheap enough for every poll of a guest.
///
/// The store to `BUSY` and the load of `PARKED` here, and the reverse order in the thread, make sure that one
/// of the two sees the other; a call that skips the store has been seen by the next tick, a second before the
/// thread may sleep.
pub(crate) fn touch() {
    if BUSY.load(Ordering::Relaxed) {
        return;
    }
    BUSY.store(true, Ordering::SeqCst);
    if PARKED.load(Ordering::SeqCst)
        && let Some(thread) = THREAD.get()
    {
        thread.unpark();
    }
}

/// Waits for the next tick.
fn wait() {
    LONG.store(true, Ordering::SeqCst);
    if !STOPPED.load(Ordering::SeqCst) {
        thread::park_timeout(FIRST_TICK);
    }
    LONG.store(false, Ordering::SeqCst);
    if STOPPED.swap(false, Ordering::SeqCst) {
        thread::sleep(TICK);
    }
}

fn run() {
    let mut idle = 0;
    loop {
        wait();
        COUNT.fetch_add(1, Ordering::Relaxed);
        ENGINES.lock().retain(|engine| match engine.upgrade() {
            Some(engine) => {
                engine.increment_epoch();
                true
            }
            None => false,
        });
        idle = if BUSY.swap(false, Ordering::SeqCst) { 0 } else { idle + 1 };
        if idle > IDLE_TICKS {
            PARKED.store(true, Ordering::SeqCst);
            if !BUSY.load(Ordering::SeqCst) {
                thread::park();
            }
            PARKED.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}
