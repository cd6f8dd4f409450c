//! MQTT 3.1.1, and 3.1 where it differs: a file a clause, a test a statement. See the crate's documentation.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod connect;
