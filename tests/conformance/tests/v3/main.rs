//! MQTT 3.1.1, and 3.1 where it differs: a file a clause, a test a statement. See the crate's documentation.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod access;
mod again;
mod changed;
mod connack;
mod connect;
mod connect_fields;
mod disconnect;
mod errors;
mod header;
mod identifiers;
mod independent;
mod keep_alive;
mod order;
mod publish;
mod qos;
mod retain;
mod sessions;
mod strings;
mod subscribe;
mod topics;
mod unsubscribe;
mod v31;
mod websocket;
mod wills;
