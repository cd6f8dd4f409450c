//! Bytes to packets and back: MQTT 3.1, 3.1.1 and 5 on one port.
//!
//! What a client sends goes through these steps; each may end the connection with a [`CodecError`]:
//!
//! 1. `header`: may this version's client send such a packet, are the flags right, how long is it. A packet
//!    over the limit is refused before it is buffered.
//! 2. `version`: the first packet must be CONNECT; its protocol name and level choose the rules for the rest.
//! 3. A strict check of the body against the standard. Properties are checked against one table
//!    (`property`): which id in which packet, which type, once or often, which values.
//! 4. The wire decoder of `rumqttd` for SUBSCRIBE, UNSUBSCRIBE and acknowledgements (`wire`). CONNECT,
//!    PUBLISH, DISCONNECT and AUTH are read here: each module says why.
//!
//! Everything sent is encoded here ([`encode()`], [`encode_within`], [`encode_publish`]); no step does I/O, and
//! nothing here depends on an async runtime.

mod auth;
mod connack;
mod connect;
mod decoder;
mod delivery;
mod disconnect;
mod encode;
mod error;
mod header;
pub mod packet;
mod property;
mod publish;
mod reader;
mod reason_text;
mod validate;
mod version;
mod wire;

#[cfg(test)]
mod tests;

pub use decoder::{Decoder, Limits};
pub(crate) use delivery::encode_publish_head;
pub use delivery::{Delivery, encode_publish, publish_len};
pub use encode::{Terms, encode, encode_within};
pub use error::CodecError;
pub use header::{MAX_REMAINING_LENGTH, PacketType};
pub use packet::*;
