//! MQTT 5: a file a clause, a test a statement. See the crate's documentation.
//!
//! Statements without a number in the standard are named after their clause: `clause_3_14_2_2_2_...`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod access;
mod acks;
mod aliases;
mod auth;
mod connack;
mod connect;
mod errors;
mod flow_control;
mod independent;
mod limits;
mod other_limits;
mod ping_disconnect;
mod properties;
mod publish;
mod qos;
mod retained;
mod sessions;
mod shared_subscriptions;
mod subscribe;
mod topics;
mod unsubscribe;
mod websocket;
mod wills;
