//! The fixed header (MQTT 5 clause 2.1): packet type, flags, remaining length.

use std::fmt;

use tidegate_event::Protocol;

use super::CodecError;

/// The greatest remaining length a packet can have, bytes (clause 2.1.4).
pub const MAX_REMAINING_LENGTH: usize = 268_435_455;

/// The sixteen values of the packet type (clause 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the packets'")]
pub enum PacketType {
    Reserved = 0,
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// The type in a packet's first byte.
    #[inline]
    pub const fn of(first: u8) -> Self {
        match first >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => Self::Reserved,
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserved => "packet of the reserved type 0",
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        })
    }
}

/// DUP in the first byte of PUBLISH.
pub(super) const DUP: u8 = 0b1000;
/// RETAIN in the first byte of PUBLISH.
pub(super) const RETAIN: u8 = 0b0001;

/// Whether the first packet of a connection may begin so: only CONNECT may (clause 3.1-1).
pub(super) fn check_first(first: u8) -> Result<(), CodecError> {
    let packet = PacketType::of(first);
    if packet != PacketType::Connect {
        return Err(CodecError::Protocol { packet, rule: "the first packet must be CONNECT" });
    }
    if first & 0x0f != 0 {
        return Err(CodecError::Malformed { packet, rule: BAD_FLAGS });
    }
    Ok(())
}

/// Whether a client that has sent CONNECT may send a packet that begins so (clauses 2.1.2, 2.1.3).
#[inline]
pub(super) fn check_next(first: u8, protocol: Protocol) -> Result<(), CodecError> {
    let packet = PacketType::of(first);
    let flags = first & 0x0f;
    let required = match packet {
        PacketType::Publish => {
            return match flags >> 1 & 0b11 {
                0 if flags & DUP != 0 => {
                    Err(CodecError::Malformed { packet, rule: "DUP must be 0 at QoS 0" })
                }
                3 => Err(CodecError::Malformed { packet, rule: "QoS must not be 3" }),
                _ => Ok(()),
            };
        }
        PacketType::PubAck | PacketType::PubRec | PacketType::PubComp => 0,
        PacketType::PingReq | PacketType::Disconnect => 0,
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
        PacketType::Auth if protocol.is_v5() => 0,
        PacketType::Auth | PacketType::Reserved => {
            return Err(CodecError::Malformed { packet, rule: "the type is reserved in this version" });
        }
        PacketType::Connect => {
            return Err(CodecError::Protocol { packet, rule: "CONNECT must be sent only once" });
        }
        PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp => {
            return Err(CodecError::Protocol { packet, rule: "only a server may send it" });
        }
    };
    // MQTT 3.1 has a DUP flag on these three packets, for resends (its clauses 3.6, 3.8, 3.10).
    let ignored = if protocol == Protocol::V31 && required != 0 { DUP } else { 0 };
    if flags & !ignored != required {
        return Err(CodecError::Malformed { packet, rule: BAD_FLAGS });
    }
    Ok(())
}

const BAD_FLAGS: &str = "the flags of the fixed header are not the required ones";

/// A number of one to four bytes (clause 1.5.5).
pub(super) enum Varint {
    /// The number, and how many bytes it took.
    Whole(usize, usize),
    /// More bytes are needed.
    Partial,
    /// A fourth byte that promises a fifth.
    Overlong,
}

/// Reads the number at the start of `bytes`.
#[inline]
pub(super) fn varint(bytes: &[u8]) -> Varint {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Varint::Whole(value, at + 1);
        }
    }
    if bytes.len() < 4 { Varint::Partial } else { Varint::Overlong }
}

/// How many bytes the number `value` takes; 5 when it has no encoding.
#[inline]
pub(super) const fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        0x20_0000..=MAX_REMAINING_LENGTH => 4,
        _ => 5,
    }
}
