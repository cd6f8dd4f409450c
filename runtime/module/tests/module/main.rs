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

mod cache;
mod calls;
mod fakes;
mod guests;
mod http;
mod imports;
mod limits;
mod loading;
mod pairs;
mod reload;
