//! The broker through its socket and its seams: real connections, raw bytes, scripted handlers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod aliases;
mod announced;
mod authenticating;
mod authorizing;
mod client_maximum;
mod clients;
mod closing;
mod connect;
mod control;
mod delivering;
mod disk_fails;
mod durable;
mod explained;
mod fan_out;
mod gate;
mod handlers;
mod idle;
mod joins;
mod limits;
mod listeners;
mod losses;
mod positions;
mod pressure;
mod publishing;
mod quotas;
mod reconnects;
mod restarts;
mod retained;
mod retained_live;
mod sessions;
mod shared_subscriptions;
mod shutdown;
mod slow_senders;
mod statistics;
mod stored;
mod stuck_readers;
mod subscribing;
mod tls;
mod websocket;
mod wills;
mod writes;
