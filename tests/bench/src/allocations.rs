//! Counts this thread's allocations: row `call` says how many a guest call makes on the host.
#![allow(unsafe_code, reason = "a global allocator cannot be written without; it only counts and forwards")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator with a counter in front.
#[derive(Debug)]
pub struct Counting;

// Programs that count say so themselves: the peer that runs in a process of its own must not pay for it.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations (and growing reallocations) the calling thread has made since it started; always 0 in a program
/// whose allocator is not [`Counting`].
pub fn count() -> u64 {
    COUNT.with(Cell::get)
}

fn note() {
    // A thread that is ending has no counter any more, and nobody reads it.
    COUNT.try_with(|count| count.set(count.get() + 1)).unwrap_or_default();
}

// SAFETY: every method hands its arguments to `System` unchanged and returns what that returned.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allocation_of_this_thread_is_counted() {
        let before = count();
        let boxed = std::hint::black_box(Box::new(1_u8));
        assert_eq!(count() - before, 1);
        drop(boxed);
        assert_eq!(count() - before, 1);
    }
}
