//! Clients that do anything, a broker that must keep to the standard, and a judge that sees whether it does.

pub mod clock;
pub mod draft;
pub mod gauges;
pub mod judge;
pub mod mutate;
pub mod packet;
pub mod pipe;
pub mod play;
pub mod scenario;
#[cfg(test)]
pub mod seeds;
/// The broker's own tests keep sessions in it, too.
#[path = "../../../../runtime/broker/tests/support/store.rs"]
#[allow(dead_code, reason = "a part of it is used")]
pub mod store;
pub mod wire;
