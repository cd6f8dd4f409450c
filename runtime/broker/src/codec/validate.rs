//! The checks before the wire decoder: SUBSCRIBE, UNSUBSCRIBE and the acknowledgements.
//!
//! `rumqttd` accepts zero packet ids, reserved bits, empty requests, repeated and misplaced properties, U+0000,
//! misplaced wildcards and bytes after the end, and keeps every filter and every user property of a packet. What passes
//! here is what the standard and the limits allow.

use tidegate_event::{Protocol, SharedFilter, TopicFilter};

use super::property::{self, Section};
use super::reader::Reader;
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
        _ => ack(&mut reader, protocol, limits),
    }
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP (clauses 3.4 to 3.7), after the packet id.
fn ack(reader: &mut Reader<'_>, protocol: Protocol, limits: Limits) -> Result<(), CodecError> {
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
            property::read(reader, Section::Ack, limits, |_, _| {})?;
        }
    }
    reader.end()
}

/// Clause 3.8, after the packet id.
fn subscribe(reader: &mut Reader<'_>, protocol: Protocol, limits: Limits) -> Result<(), CodecError> {
    if protocol.is_v5() {
        property::read(reader, Section::Subscribe, limits, |_, _| {})?;
    }
    if reader.is_empty() {
        return Err(reader.protocol_error("it must have at least one topic filter"));
    }
    let mut count = 0;
    while !reader.is_empty() {
        let shared = filter(reader, protocol, limits, &mut count)?.starts_with("$share/");
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
        property::read(reader, Section::Unsubscribe, limits, |_, _| {})?;
    }
    if reader.is_empty() {
        return Err(reader.protocol_error("it must have at least one topic filter"));
    }
    let mut count = 0;
    while !reader.is_empty() {
        filter(reader, protocol, limits, &mut count)?;
    }
    Ok(())
}

/// Reads a filter, the one after `count` others: a text, not empty (clause 4.7.3), whose wildcards stand where they may
/// (clause 4.7.1), and not one too many. One that is too deep is well formed: SUBACK refuses it alone.
///
/// A wildcard in the wrong place ends the connection, although SUBACK could refuse that filter alone: its code for it,
/// 0x8F, is defined for a filter that is "correctly formed" (table 3-8), clause 4.7.1 says MUST, and clause 4.13.1 wants
/// the connection closed after a packet that breaks it. In 3.1.1 the same holds (its clause 4.8). The reference broker
/// of the Paho tests, Mosquitto and EMQX close, too. UNSUBSCRIBE is held to the same: no such subscription can exist.
/// Before MQTT 5, which brought shared subscriptions, `$share/x` is a filter like any other: it is well formed, and
/// the session refuses it alone.
fn filter<'a>(
    reader: &mut Reader<'a>,
    protocol: Protocol,
    limits: Limits,
    count: &mut usize,
) -> Result<&'a str, CodecError> {
    let packet = reader.packet();
    *count += 1;
    if *count > limits.max_filters {
        return Err(CodecError::TooMany { packet, what: "topic filters", limit: limits.max_filters });
    }
    let filter = reader.text()?;
    let check = if protocol.is_v5() { SharedFilter::check } else { TopicFilter::check };
    check(filter).map_err(|error| CodecError::Filter { packet, error })?;
    Ok(filter)
}
