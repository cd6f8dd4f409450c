//! The load generator and the benches (`cargo xtask bench`).
//!
//! [`wire`] and [`load`] are an MQTT client made for speed; [`peer`] starts the servers that are compared;
//! a module of [`row`] is one row of the bench. Everything is measured in the same run, in interleaved
//! rounds, and printed as ratios.

pub mod allocations;
pub mod certificates;
pub mod guest;
pub mod load;
pub mod memory;
pub mod peer;
pub mod process;
pub mod profile;
pub mod report;
pub mod row;
pub mod statistics;
pub mod wire;
