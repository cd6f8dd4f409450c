//! MQTT in WebSocket frames (RFC 6455, MQTT 5 clause 6), the server's side.
//!
//! A frame's payload is a piece of the stream of MQTT, cut anywhere: what is read is decoded where it lies, what is written
//! goes out behind a header, and nothing is kept until a frame is whole. So a frame may have any length without costing
//! memory; that a packet is not too large is the codec's business.

mod frame;
mod stream;
mod upgrade;

pub(super) use self::stream::WebSocket;
pub(super) use self::upgrade::{UpgradeError, Upgraded, upgrade};
