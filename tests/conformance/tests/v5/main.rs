//! MQTT 5: a file a clause, a test a statement. See the crate's documentation.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod connect;
