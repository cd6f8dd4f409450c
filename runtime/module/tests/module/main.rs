//! The host against real components: built from `tests/guests`, or written as WebAssembly text.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod batches;
mod cache;
mod calls;
mod commands;
mod concurrent;
mod fakes;
mod guests;
mod hostile;
mod http;
mod imports;
mod leave;
mod limits;
mod loading;
mod pairs;
mod policies;
mod pressure;
mod raw;
mod reload;
mod ticks;
