//! The `tidegate` binary in parts: configuration, command line, logs, metrics, management API, start and stop.
//!
//! This is the only crate that knows all stages. It opens them from right to left (stores before modules before
//! listeners), hands each its seam to the next, and closes them from left to right. [`run`] is that list;
//! [`check`] looks at the same inputs without opening anything; [`control`] takes commands while it runs; [`client`]
//! holds the two small MQTT clients.

pub mod access;
pub mod api;
pub mod backends;
mod buffers;
pub mod check;
pub mod cli;
pub mod client;
mod columns;
pub mod config;
mod connectors;
pub mod control;
pub mod data_dir;
mod handlers;
pub mod logging;
pub mod memory;
pub mod modules;
mod plugins;
mod reload;
pub mod run;
mod schema;
mod signals;
mod sql;
pub mod state;
pub mod status;
pub mod telemetry;
mod try_module;
