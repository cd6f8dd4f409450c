//! What hostile packets cost before they are refused: the decoder's memory, measured.
#![allow(unsafe_code, reason = "a global allocator cannot be written without; it only counts and forwards")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::BytesMut;
use tidegate_broker::codec::{Decoder, Limits};

thread_local! {
    /// Bytes that this thread has allocated and not freed, and the most there ever were.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn add(bytes: isize) {
    // A thread that is ending has no counters any more, and nobody reads them.
    HELD.try_with(|held| {
        held.set(held.get() + bytes);
        PEAK.try_with(|peak| peak.set(peak.get().max(held.get()))).unwrap_or_default();
    })
    .unwrap_or_default();
}

// SAFETY: every method hands its arguments to `System` unchanged and returns what that returned.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there at once.
        add(size as isize);
        add(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// A packet of first byte `first` with a body of `before`, then `part` as often as fits into a mebibyte.
fn filled(first: u8, before: &[u8], part: &[u8]) -> Vec<u8> {
    let body = [before, &part.repeat((1024 * 1024 - 10 - before.len()) / part.len())].concat();
    packet(first, &body)
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], &varint(body.len())[..], body].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = if value > 0x7f { 0x80 } else { 0 };
        bytes.push((value & 0x7f) as u8 | more);
        value >>= 7;
        if value == 0 {
            return bytes;
        }
    }
}

/// `before`, and properties of a mebibyte that are all user properties without a letter.
fn properties(before: &[u8]) -> Vec<u8> {
    user_properties(before, 209_000)
}

fn user_properties(before: &[u8], count: usize) -> Vec<u8> {
    let pairs = b"\x26\x00\x00\x00\x00".repeat(count);
    [before, &varint(pairs.len()), &pairs].concat()
}

const CONNECT: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c";

/// Bytes that decoding `bytes` took at most, and the reason it was refused for. `first`: nothing comes before it.
fn cost(bytes: &[u8], first: bool) -> (isize, Option<u8>) {
    let mut decoder = Decoder::new(Limits::default());
    if !first {
        decoder.decode(&mut BytesMut::from(CONNECT)).unwrap().unwrap();
    }
    let mut buffer = BytesMut::from(bytes);
    let before = HELD.get();
    PEAK.set(before);
    let result = decoder.decode(&mut buffer);
    let peak = PEAK.get() - before;
    (peak, result.err().map(|error| error.reason().0))
}

#[test]
fn a_mebibyte_of_small_parts_costs_no_multiple_of_itself() {
    // The largest that may be.
    let connect = user_properties(b"\x00\x04MQTT\x05\x02\x00\x3c", 52_000);
    for (what, bytes, first, most) in [
        ("260,000 filters of SUBSCRIBE", filled(0x82, b"\x00\x01\x00", b"\x00\x01a\x00"), false, 4_096),
        ("350,000 filters of UNSUBSCRIBE", filled(0xa2, b"\x00\x01\x00", b"\x00\x01a"), false, 4_096),
        ("user properties of PUBLISH", packet(0x30, &properties(b"\x00\x01a")), false, 200_000),
        ("user properties of SUBSCRIBE", packet(0x82, &properties(b"\x00\x01")), false, 4_096),
        ("user properties of PUBACK", packet(0x40, &properties(b"\x00\x01\x00")), false, 4_096),
        ("user properties of DISCONNECT", packet(0xe0, &properties(b"\x00")), false, 4_096),
        // It is copied out of the buffer first.
        ("user properties of CONNECT", packet(0x10, &connect), true, 400_000),
    ] {
        let (peak, reason) = cost(&bytes, first);
        println!("{what}: {} bytes, at most {peak} more", bytes.len());
        assert_eq!(reason, Some(0x97), "{what}");
        assert!(peak <= most, "{what}: {peak} bytes");
    }
}

/// A mebibyte was taken from anybody, and kept until somebody had decided about them.
#[test]
fn a_connect_that_is_larger_than_its_fields_can_be_is_refused_unread() {
    let connect = packet(0x10, &properties(b"\x00\x04MQTT\x05\x02\x00\x3c"));
    let (peak, reason) = cost(connect.get(..100).unwrap(), true);
    assert_eq!(reason, Some(0x95));
    assert!(peak < 4_096, "{peak} bytes");
}

#[test]
fn what_is_taken_is_bounded_by_the_limits() {
    let most = Limits::default();
    let filters = b"\x00\x01a\x00".repeat(most.max_filters);
    let subscribe = packet(0x82, &[b"\x00\x01\x00", &filters[..]].concat());
    let (peak, reason) = cost(&subscribe, false);
    println!("{} filters: {} bytes, at most {peak} more", most.max_filters, subscribe.len());
    assert_eq!(reason, None);
    assert!(peak < 512 * 1024, "{peak} bytes");
}
