//! Packets as the server sent them, read strictly: wrong flags, bytes that are too many or too few, reason codes and
//! properties that the packet does not have, all fail the test that meets them.

use crate::packet::Publish;
use crate::property::{Properties, id};
use crate::wire::{Reader, Version};

/// Packet types (clause 2.2.1, in MQTT 5 2.1.2): the upper half of the first byte.
pub mod kind {
    #![allow(missing_docs, reason = "names of the standard")]
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
    pub const AUTH: u8 = 15;
}

/// A packet that a server may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// CONNACK.
    ConnAck(ConnAck),
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(Ack),
    /// SUBACK.
    SubAck(Codes),
    /// UNSUBACK; without codes before MQTT 5.
    UnsubAck(Codes),
    /// PINGRESP.
    PingResp,
    /// DISCONNECT (MQTT 5).
    Disconnect(Reason),
    /// AUTH (MQTT 5).
    Auth(Reason),
}

/// What CONNACK says (clause 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// Session present.
    pub session_present: bool,
    /// Return code, in MQTT 5 reason code.
    pub code: u8,
    /// Empty before MQTT 5.
    pub properties: Properties,
}

/// What PUBACK, PUBREC, PUBREL or PUBCOMP says (clauses 3.4 to 3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Which of them, one of [`kind`].
    pub kind: u8,
    /// Packet id.
    pub id: u16,
    /// 0 before MQTT 5 and where it is left out.
    pub reason: u8,
    /// Empty before MQTT 5 and where they are left out.
    pub properties: Properties,
}

/// What SUBACK or UNSUBACK says (clauses 3.9 and 3.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codes {
    /// Packet id.
    pub id: u16,
    /// A code a filter.
    pub codes: Vec<u8>,
    /// Empty before MQTT 5.
    pub properties: Properties,
}

/// What DISCONNECT or AUTH says (MQTT 5 clauses 3.14 and 3.15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Reason code; 0 where it is left out.
    pub reason: u8,
    /// Empty where they are left out.
    pub properties: Properties,
}

const CONNACK: &[u8] = &[
    id::SESSION_EXPIRY,
    id::RECEIVE_MAXIMUM,
    id::MAXIMUM_QOS,
    id::RETAIN_AVAILABLE,
    id::MAXIMUM_PACKET_SIZE,
    id::ASSIGNED_CLIENT_ID,
    id::TOPIC_ALIAS_MAXIMUM,
    id::REASON_STRING,
    id::USER,
    id::WILDCARD_AVAILABLE,
    id::SUBSCRIPTION_IDENTIFIER_AVAILABLE,
    id::SHARED_AVAILABLE,
    id::SERVER_KEEP_ALIVE,
    id::RESPONSE_INFORMATION,
    id::SERVER_REFERENCE,
    id::AUTHENTICATION_METHOD,
    id::AUTHENTICATION_DATA,
];
const PUBLISH: &[u8] = &[
    id::PAYLOAD_FORMAT,
    id::MESSAGE_EXPIRY,
    id::TOPIC_ALIAS,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::USER,
    id::SUBSCRIPTION_IDENTIFIER,
    id::CONTENT_TYPE,
];
const ACK: &[u8] = &[id::REASON_STRING, id::USER];
/// A server's DISCONNECT has no session expiry (clause 3.14.2.2.2).
const DISCONNECT: &[u8] = &[id::REASON_STRING, id::USER, id::SERVER_REFERENCE];
const AUTH: &[u8] = &[id::AUTHENTICATION_METHOD, id::AUTHENTICATION_DATA, id::REASON_STRING, id::USER];

impl Packet {
    /// Reads a packet from its first byte and what follows the remaining length.
    ///
    /// # Errors
    /// What a server must not send so.
    pub fn decode(version: Version, first: u8, body: &[u8]) -> Result<Self, String> {
        let kind = first >> 4;
        let flags = if kind == kind::PUBREL { 0b0010 } else { 0 };
        if kind != kind::PUBLISH && first & 0x0F != flags {
            return Err(format!("the flags {:#06b}", first & 0x0F));
        }
        let mut reader = Reader::new(body);
        let packet = match kind {
            kind::CONNACK => Self::ConnAck(conn_ack(version, &mut reader)?),
            kind::PUBLISH => Self::Publish(publish(version, first & 0x0F, &mut reader)?),
            kind::PUBACK..=kind::PUBCOMP => Self::Ack(ack(version, kind, &mut reader)?),
            kind::SUBACK => Self::SubAck(codes(version, kind, &mut reader)?),
            kind::UNSUBACK => Self::UnsubAck(codes(version, kind, &mut reader)?),
            kind::PINGRESP => Self::PingResp,
            kind::DISCONNECT if version.is_v5() => Self::Disconnect(reason(&mut reader, kind)?),
            kind::AUTH if version.is_v5() => Self::Auth(reason(&mut reader, kind)?),
            _ => return Err("no server sends this type in this version".into()),
        };
        if reader.is_empty() { Ok(packet) } else { Err("bytes after its end".into()) }
    }
}

fn conn_ack(version: Version, reader: &mut Reader<'_>) -> Result<ConnAck, String> {
    let flags = reader.byte()?;
    let code = reader.byte()?;
    if flags > 1 {
        return Err(format!("acknowledge flags {flags:#04x}"));
    }
    let (known, properties) = if version.is_v5() {
        let known = matches!(
            code,
            0 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
        );
        (known, Properties::read(reader, CONNACK, &[id::USER])?)
    } else {
        (code <= 5, Properties::new())
    };
    if !known {
        return Err(format!("code {code:#04x}"));
    }
    Ok(ConnAck { session_present: flags == 1, code, properties })
}

fn publish(version: Version, flags: u8, reader: &mut Reader<'_>) -> Result<Publish, String> {
    let (dup, qos, retain) = (flags & 8 != 0, flags >> 1 & 3, flags & 1 != 0);
    if qos == 3 || qos == 0 && dup {
        return Err(format!("the flags {flags:#06b}"));
    }
    let topic = reader.text()?;
    if topic.contains(['+', '#']) {
        return Err(format!("a wildcard in the topic {topic:?}"));
    }
    let id = if qos > 0 { Some(reader.id()?) } else { None };
    let properties = if version.is_v5() {
        // The same message by several subscriptions has the identifier of each (clause 3.3.4).
        Properties::read(reader, PUBLISH, &[id::USER, id::SUBSCRIPTION_IDENTIFIER])?
    } else {
        Properties::new()
    };
    if topic.is_empty() && properties.get(id::TOPIC_ALIAS).is_none() {
        return Err("neither a topic nor an alias".into());
    }
    Ok(Publish { dup, qos, retain, topic: topic.into(), id, properties, payload: reader.rest().into() })
}

fn ack(version: Version, kind: u8, reader: &mut Reader<'_>) -> Result<Ack, String> {
    let id = reader.id()?;
    let mut ack = Ack { kind, id, reason: 0, properties: Properties::new() };
    if version.is_v5() && !reader.is_empty() {
        ack.reason = reader.byte()?;
        let known = match kind {
            kind::PUBACK | kind::PUBREC => {
                matches!(ack.reason, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            _ => matches!(ack.reason, 0 | 0x92),
        };
        if !known {
            return Err(format!("reason code {:#04x}", ack.reason));
        }
        if !reader.is_empty() {
            ack.properties = Properties::read(reader, ACK, &[id::USER])?;
        }
    }
    Ok(ack)
}

fn codes(version: Version, kind: u8, reader: &mut Reader<'_>) -> Result<Codes, String> {
    let id = reader.id()?;
    let properties =
        if version.is_v5() { Properties::read(reader, ACK, &[id::USER])? } else { Properties::new() };
    let codes = if kind == kind::UNSUBACK && !version.is_v5() { &[][..] } else { reader.rest() };
    let known = |code: u8| match (version, kind) {
        (Version::V31, _) => code <= 2,
        (Version::V311, _) => matches!(code, 0..=2 | 0x80),
        (Version::V5, kind::SUBACK) => {
            matches!(code, 0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
        }
        (Version::V5, _) => matches!(code, 0 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
    };
    match codes.iter().find(|code| !known(**code)) {
        Some(code) => Err(format!("code {code:#04x}")),
        None => Ok(Codes { id, codes: codes.into(), properties }),
    }
}

fn reason(reader: &mut Reader<'_>, kind: u8) -> Result<Reason, String> {
    let mut said = Reason { reason: 0, properties: Properties::new() };
    if !reader.is_empty() {
        said.reason = reader.byte()?;
        let known = match kind {
            // Those that a server sends.
            kind::DISCONNECT => {
                matches!(
                    said.reason,
                    0 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0x9F | 0xA0..=0xA2
                )
            }
            _ => matches!(said.reason, 0 | 0x18),
        };
        if !known {
            return Err(format!("reason code {:#04x}", said.reason));
        }
        if !reader.is_empty() {
            let allowed = if kind == kind::DISCONNECT { DISCONNECT } else { AUTH };
            said.properties = Properties::read(reader, allowed, &[id::USER])?;
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Version::{V5, V31, V311};

    #[test]
    fn what_a_server_must_not_send_is_refused() {
        for (version, first, body) in [
            (V311, 0x21, &[0, 0][..]),
            (V311, 0x20, &[2, 0]),
            (V311, 0x20, &[0, 6]),
            (V311, 0x20, &[0, 0, 0]),
            (V5, 0x20, &[0, 0]),
            (V5, 0x20, &[0, 0, 2, 0x23, 0, 1]),
            (V311, 0x36, &[0, 1, b'a', 0, 1]),
            (V311, 0x38, &[0, 1, b'a']),
            (V311, 0x30, &[0, 0]),
            (V311, 0x30, &[0, 1, b'#']),
            (V311, 0x32, &[0, 1, b'a', 0, 0]),
            (V311, 0x60, &[0, 1]),
            (V311, 0x40, &[0, 1, 0]),
            (V5, 0x40, &[0, 1, 0x92]),
            (V31, 0x90, &[0, 1, 0x80]),
            (V311, 0x90, &[0, 1, 3]),
            (V311, 0xE0, &[]),
            (V5, 0xE0, &[0x04]),
            (V311, 0xD0, &[0]),
        ] {
            let packet = Packet::decode(version, first, body);
            assert!(packet.is_err(), "{version:?} {first:#04x} {body:?}: {packet:?}");
        }
    }

    #[test]
    fn what_is_sent_can_be_read() {
        for version in [V311, V5] {
            let sent = Publish::new("a/b", "x").qos(2, 7).retain().dup();
            let bytes = sent.encode(version);
            assert_eq!(Packet::decode(version, bytes[0], &bytes[2..]), Ok(Packet::Publish(sent)));
        }
        let codes = Packet::decode(V311, 0x90, &[0, 9, 2, 0x80]);
        let expected = Codes { id: 9, codes: vec![2, 0x80], properties: Properties::new() };
        assert_eq!(codes, Ok(Packet::SubAck(expected)));
    }
}
