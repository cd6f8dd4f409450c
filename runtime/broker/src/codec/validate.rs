//! The checks before the wire decoder: SUBSCRIBE, UNSUBSCRIBE and the acknowledgements.
//!
//! `rumqttd` accepts zero packet ids, reserved bits, empty requests, repeated and misplaced properties, U+0000
//! and bytes after the end. What passes here is what the standard allows.

use tidegate_event::Protocol;

use super::property::{self, Section};
use super::reader::{Reader, levels_over};
use super::{CodecError, Limits, PacketType};

/// Checks the body of a packet that the wire decoder will read.
pub(super) fn check(
    packet: PacketType,
    body: &[u8],
    protocol: Protocol,
    limits: Limits,
) -> Result<(), CodecError> {
    let mut reader = Reader::new(body, packet);
    reader.packet_id()?;
    match packet {
        PacketType::Subscribe => subscribe(&mut reader, protocol, limits),
        PacketType::Unsubscribe => unsubscribe(&mut reader, protocol, limits),
        _ => ack(&mut reader, protocol),
    }
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP (clauses 3.4 to 3.7), after the packet id.
fn ack(reader: &mut Reader<'_>, protocol: Protocol) -> Result<(), CodecError> {
    if protocol.is_v5() && !reader.is_empty() {
        let reason = reader.byte()?;
        let known = match reader.packet() {
            PacketType::PubAck | PacketType::PubRec => {
                matches!(reason, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            _ => matches!(reason, 0x00 | 0x92),
        };
        if !known {
            return Err(reader.malformed("a reason code that this packet does not have"));
        }
        if !reader.is_empty() {
            property::read(reader, Section::Ack, |_, _| {})?;
        }
    }
    reader.end()
}

/// Clause 3.8, after the packet id.
fn subscribe(reader: &mut Reader<'_>, protocol: Protocol, limits: Limits) -> Result<(), CodecError> {
    if protocol.is_v5() {
        property::read(reader, Section::Subscribe, |_, _| {})?;
    }
    if reader.is_empty() {
        return Err(reader.protocol_error("it must have at least one topic filter"));
    }
    while !reader.is_empty() {
        let shared = filter(reader, limits)?.starts_with("$share/");
        let options = reader.byte()?;
        if options & 0b11 == 3 {
            return Err(reader.protocol_error("maximum QoS must not be 3"));
        }
        let reserved = if protocol.is_v5() { 0b1100_0000 } else { 0b1111_1100 };
        if options & reserved != 0 {
            return Err(reader.malformed("the reserved bits of subscription options must be 0"));
        }
        if options >> 4 == 3 {
            return Err(reader.protocol_error("retain handling must not be 3"));
        }
        if shared && options & 0b100 != 0 {
            return Err(reader.protocol_error("no local must not be set on a shared subscription"));
        }
    }
    Ok(())
}

/// Clause 3.10, after the packet id.
fn unsubscribe(reader: &mut Reader<'_>, protocol: Protocol, limits: Limits) -> Result<(), CodecError> {
    if protocol.is_v5() {
        property::read(reader, Section::Unsubscribe, |_, _| {})?;
    }
    if reader.is_empty() {
        return Err(reader.protocol_error("it must have at least one topic filter"));
    }
    while !reader.is_empty() {
        filter(reader, limits)?;
    }
    Ok(())
}

/// Reads a filter: a text, not empty (clause 4.7.3), not too deep. Whether its wildcards stand right is left to
/// the session, which can refuse one filter of many.
fn filter<'a>(reader: &mut Reader<'a>, limits: Limits) -> Result<&'a str, CodecError> {
    let filter = reader.text()?;
    if filter.is_empty() {
        return Err(reader.malformed("a topic filter must not be empty"));
    }
    if let Some(levels) = levels_over(filter.as_bytes(), limits.max_topic_levels) {
        return Err(CodecError::FilterLevels {
            packet: reader.packet(),
            levels,
            limit: limits.max_topic_levels,
        });
    }
    Ok(filter)
}
