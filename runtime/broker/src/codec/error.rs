//! Why a client's bytes were refused.

use tidegate_event::{ReasonCode, TopicError};

use super::PacketType;

/// Why a client's bytes were refused. Every variant ends the connection (MQTT 5 clause 4.13):
/// [`CodecError::reason`] is what an MQTT 5 client is told, in DISCONNECT, or in CONNACK when the packet was
/// CONNECT.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// The bytes cannot be parsed by the rules of the packet.
    #[error("malformed {packet}: {rule}")]
    Malformed {
        /// The packet at fault.
        packet: PacketType,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The packet can be parsed, but must not come now or with these values.
    #[error("protocol error, {packet}: {rule}")]
    Protocol {
        /// The packet at fault.
        packet: PacketType,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A property that is not allowed, of the wrong type, repeated or of an illegal value (clause 2.2.2).
    #[error("{packet}, property {name}: {rule}")]
    Property {
        /// The packet at fault.
        packet: PacketType,
        /// The property, as the standard names it.
        name: &'static str,
        /// The rule it breaks.
        rule: &'static str,
        /// What an MQTT 5 client is told.
        reason: ReasonCode,
    },
    /// The packet is larger than the server takes (clause 3.2.2.3.6). It was not buffered.
    #[error("{packet} of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The packet at fault.
        packet: PacketType,
        /// Its size with its fixed header, bytes.
        size: usize,
        /// The limit, bytes.
        limit: u32,
    },
    /// The topic of a PUBLISH or a will is no topic name (clause 4.7): it is malformed. 0x90 Topic Name invalid is
    /// for one that is "correctly formed, but is not accepted" (table 3-13).
    #[error("{packet}, topic name: {error}")]
    TopicName {
        /// The packet at fault.
        packet: PacketType,
        /// The rule it breaks.
        error: TopicError,
    },
    /// A topic filter breaks the rules of clauses 4.7.1 and 4.8.2: it is malformed. 0x8F Topic Filter invalid is for
    /// one that is "correctly formed but is not allowed" (tables 3-8 and 3-9), and so no answer to it.
    #[error("{packet}, topic filter: {error}")]
    Filter {
        /// The packet at fault.
        packet: PacketType,
        /// The rule it breaks.
        error: TopicError,
    },
    /// The packet repeats something more often than the server takes. Nothing of it was kept.
    #[error("{packet}: more {what} than the limit of {limit}")]
    TooMany {
        /// The packet at fault.
        packet: PacketType,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A topic name has more levels than the server takes.
    #[error("{packet}, topic name: {levels} levels are more than the limit of {limit}")]
    TopicLevels {
        /// The packet at fault.
        packet: PacketType,
        /// Levels of the topic name.
        levels: usize,
        /// The limit.
        limit: usize,
    },
    /// CONNECT names another protocol than MQTT (clause 3.1.2.1). One of the level of MQTT 5 may be told 0x84 (MQTT 5,
    /// 3.1.2-1); any other is not to be answered as if it were MQTT.
    #[error("CONNECT: unknown protocol name (level {level})")]
    UnknownProtocol {
        /// The protocol level that follows the name; 0 when the name is too long to be looked past.
        level: u8,
    },
    /// CONNECT asks for a level of MQTT that is not 3.1, 3.1.1 or 5 (clause 3.1.2.2). It is to be answered in
    /// the form of 3.1.1, whatever the level: "MUST respond [...] with a CONNACK return code 0x01" is what 3.1.1 says
    /// (3.1.2-2), and MQTT 5 only that 0x84 MAY be sent.
    #[error("CONNECT: unsupported protocol version (level {level})")]
    UnsupportedVersion {
        /// The protocol level asked for.
        level: u8,
    },
    /// CONNECT has a client id that the version does not allow: an empty one (MQTT 3.1; 3.1.1 without clean
    /// session, its clause 3.1.3.1), or one of more than 23 characters (MQTT 3.1, its clause 3.1).
    #[error("CONNECT: {rule}")]
    ClientId {
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The wire decoder refused what the checks before it had passed: a defect here, never the client's fault
    /// alone.
    #[error("{packet}: the decoder refused a packet that had passed the checks: {error}")]
    Decoder {
        /// The packet at fault.
        packet: PacketType,
        /// What the decoder said.
        error: rumqttd::protocol::Error,
    },
}

impl CodecError {
    /// The MQTT 5 reason code (clause 2.4).
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::Malformed { .. } | Self::Decoder { .. } | Self::TopicName { .. } | Self::Filter { .. } => {
                reason::MALFORMED
            }
            Self::Protocol { .. } => reason::PROTOCOL_ERROR,
            Self::Property { reason, .. } => *reason,
            Self::TooLarge { .. } => reason::PACKET_TOO_LARGE,
            Self::TooMany { .. } => reason::QUOTA_EXCEEDED,
            Self::TopicLevels { .. } => reason::TOPIC_NAME_INVALID,
            Self::UnsupportedVersion { .. } | Self::UnknownProtocol { .. } => reason::UNSUPPORTED_VERSION,
            Self::ClientId { .. } => reason::CLIENT_ID_INVALID,
        }
    }
}

/// The reason codes of this module (MQTT 5 clause 2.4).
pub(super) mod reason {
    use tidegate_event::ReasonCode;

    pub(in crate::codec) const MALFORMED: ReasonCode = ReasonCode(0x81);
    pub(in crate::codec) const PROTOCOL_ERROR: ReasonCode = ReasonCode(0x82);
    pub(in crate::codec) const UNSUPPORTED_VERSION: ReasonCode = ReasonCode(0x84);
    pub(in crate::codec) const CLIENT_ID_INVALID: ReasonCode = ReasonCode(0x85);
    pub(in crate::codec) const TOPIC_NAME_INVALID: ReasonCode = ReasonCode(0x90);
    pub(in crate::codec) const TOPIC_ALIAS_INVALID: ReasonCode = ReasonCode(0x94);
    pub(in crate::codec) const PACKET_TOO_LARGE: ReasonCode = ReasonCode(0x95);
    pub(in crate::codec) const QUOTA_EXCEEDED: ReasonCode = ReasonCode(0x97);
}
