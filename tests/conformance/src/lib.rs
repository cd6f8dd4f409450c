//! Whether Tidegate keeps the standard: every normative statement of MQTT 3.1.1 and 5, and what MQTT 3.1 wants
//! differently, tried on the real binary with packets that are made by hand.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`server`] | the binary under test, one process for all tests of a test program |
//! | [`wire`] | bytes: strings, numbers, frames |
//! | [`property`] | the properties of MQTT 5, to send and as received |
//! | [`packet`] | packets to send, right and wrong ones |
//! | [`received`] | packets as the server sent them; one that the standard forbids fails the test that reads it |
//! | [`client`] | a connection: send, and expect a packet, silence or the end |
//! | [`ending`] | what the server says when it ends a connection, as results that a table of cases collects |
//! | [`refusal`] | many wrong packets, each on a connection that must end |
//! | [`judge`] | what a packet of MQTT 3.1.1 deserves: for right packets that were changed by machine |
//! | [`websocket`] | the same over WebSocket |
//! | [`statement`] | the lists in `statements/`, the tests found in the sources, and the page made of both |
//!
//! A test is named after its statement: `mqtt_3_1_0_1_the_first_packet_must_be_connect` tests MQTT-3.1.0-1. Several
//! tests may belong to one statement. All tests of a program run at once against one server: they take topics and
//! client ids from [`name`].
//!
//! Written from the standard alone. It shares no code with the broker and depends on no crate; some tests go through
//! clients in other languages that `tests/e2e` drives.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test harness fails by panicking")]

pub mod client;
pub mod ending;
pub mod judge;
pub mod packet;
pub mod property;
pub mod received;
pub mod refusal;
pub mod server;
pub mod statement;
pub mod websocket;
pub mod wire;

pub use client::Client;
pub use packet::{Connect, Publish, Subscribe, Unsubscribe, Will};
pub use property::Properties;
pub use received::{Packet, kind};
pub use wire::Version;

use std::sync::atomic::{AtomicU32, Ordering};

/// A name that no other call gives: for a topic or a client id. Short, so that MQTT 3.1 takes it as a client id (23
/// characters) when `prefix` has at most 15.
pub fn name(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
