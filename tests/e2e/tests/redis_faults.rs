//! Redis breaks while ten publishers send at QoS 1: every message that was acknowledged is in the store afterwards, and
//! the runtime's memory stays within its budget. What is wrong is told, and secrets are not.
//!
//! Acknowledged means that the store answered, or that the durable buffer has it (`[store] buffer_bytes`). What Redis
//! itself promises with its answer is set up by each test: `appendonly yes` for a server that dies and comes back, and
//! `wait_replicas = 1` where a replica is promoted, as Redis replicates after it has answered.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "redis_faults/away.rs"]
mod away;
#[path = "redis_faults/changed.rs"]
mod changed;
#[path = "redis_faults/held.rs"]
mod held;
#[path = "redis_faults/scene.rs"]
mod scene;
#[path = "redis_faults/secrets.rs"]
mod secrets;
#[path = "redis_faults/told.rs"]
mod told;
