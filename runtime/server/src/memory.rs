//! What the allocator keeps of memory that nobody uses any more, and when it goes back to the system.
//!
//! The binary allocates with mimalloc. Each thread has pages of its own, and what others free in them is found by that thread
//! alone, when it allocates something of the same size again: after a flood of small things it never does. So the threads of
//! the runtime look for it when they rest. In a program with another allocator this does nothing.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// `mi_option_purge_delay`, which the bindings do not name: its place among the options of mimalloc 3.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// After how many milliseconds pages that nobody uses go back to the system. With mimalloc's own 1,000 what a flood had used
/// was there while the next one took more: a sixth to a fourth of the memory at its peak.
const PURGE_DELAY_MS: std::ffi::c_long = 10;
/// How often a thread that rests looks through its pages: some microseconds for each mebibyte.
const LOOKS: Duration = Duration::from_secs(1);

/// Sets when memory goes back. For the start of the process; `MIMALLOC_PURGE_DELAY` in the environment comes before it.
#[allow(unsafe_code, reason = "a setting of the allocator, which has no safe binding")]
pub fn give_back_soon() {
    // SAFETY: any number is taken, and an option that does not exist is ignored.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) }
}

/// The thread that calls this rests: now and then, it looks for pages in which others have freed all.
#[allow(unsafe_code, reason = "a function of the allocator, which has no safe binding")]
pub(crate) fn give_back() {
    thread_local! {
        static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    let is_due = LOOKED.get().is_none_or(|looked| now.duration_since(looked) > LOOKS);
    if is_due {
        LOOKED.set(Some(now));
        // SAFETY: it frees pages without a block in use, of this thread; no argument is a pointer.
        unsafe { libmimalloc_sys::mi_collect(false) }
    }
}
