//! The broker through its socket and its seams: real connections, raw bytes, scripted handlers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod authenticating;
mod authorizing;
mod clients;
mod connect;
mod control;
mod delivering;
mod durable;
mod handlers;
mod idle;
mod joins;
mod limits;
mod losses;
mod positions;
mod pressure;
mod publishing;
mod quotas;
mod reconnects;
mod retained;
mod sessions;
mod shared;
mod shutdown;
mod statistics;
mod stored;
mod subscribing;
mod wills;
