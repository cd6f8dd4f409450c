//! Packets that the server sends, except PUBLISH, in the forms of all three versions.
//!
//! Encoded here and not by `rumqttd`: its MQTT 5 writers spend bytes on empty properties and its packets would
//! have to be built first.

use bytes::{BufMut, BytesMut};
use tidegate_event::{Protocol, ReasonCode};

use super::header::{MAX_REMAINING_LENGTH, varint_len};
use super::property::id;
use super::{Ack, Disconnect, Outgoing, PacketType, SubAck, connack, reason_text};

/// What a client takes of what it is sent, besides messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Greatest packet, bytes with the fixed header (clause 3.1.2.11.4).
    pub max_packet: usize,
    /// Whether reason strings are sent at all.
    pub reason_strings: bool,
    /// Whether they are sent on other packets than CONNACK and DISCONNECT (clause 3.1.2.11.7).
    pub problem_information: bool,
}

impl Default for Terms {
    /// A client that takes everything, and a server that explains its errors.
    fn default() -> Self {
        Self { max_packet: usize::MAX, reason_strings: true, problem_information: true }
    }
}

/// Appends `packet` to `out` in the form that `protocol` gives it. Reason codes are mapped to what the version
/// has. DISCONNECT and AUTH do not exist for a server before MQTT 5: nothing is appended.
pub fn encode(packet: &Outgoing, protocol: Protocol, out: &mut BytesMut) {
    put(packet, protocol, own_text(packet), true, out);
}

/// As [`encode`], within what the client takes: errors get a reason string if there may be one, and what does not fit
/// is left out, reason strings first (clause 3.1.2-24 and the size rules of each packet's reason string, as 3.2.2-19).
/// False: even so the packet is too large, and nothing is appended.
#[must_use]
pub fn encode_within(packet: &Outgoing, protocol: Protocol, terms: Terms, out: &mut BytesMut) -> bool {
    let before = out.len();
    put(packet, protocol, explanation(packet, terms), true, out);
    if out.len() - before <= terms.max_packet {
        return true;
    }
    out.truncate(before);
    put(packet, protocol, None, false, out);
    let fits = out.len() - before <= terms.max_packet;
    if !fits {
        out.truncate(before);
    }
    fits
}

/// The reason string that a packet brings along.
fn own_text(packet: &Outgoing) -> Option<&str> {
    match packet {
        Outgoing::ConnAck(ack) => ack.properties.reason_string.as_deref(),
        Outgoing::Disconnect(packet) => packet.reason_string.as_deref(),
        _ => None,
    }
}

/// The reason string to be sent with `packet`: its own, or what its code means.
fn explanation(packet: &Outgoing, terms: Terms) -> Option<&str> {
    if !terms.reason_strings {
        return None;
    }
    let code = match packet {
        Outgoing::ConnAck(ack) => ack.reason,
        Outgoing::Disconnect(packet) => packet.reason,
        _ if !terms.problem_information => return None,
        Outgoing::PubAck(ack) | Outgoing::PubRec(ack) | Outgoing::PubRel(ack) | Outgoing::PubComp(ack) => {
            ack.reason
        }
        // One text for all: that of the first that failed.
        Outgoing::SubAck(ack) | Outgoing::UnsubAck(ack) => {
            ack.reasons.iter().copied().find(|reason| reason.0 >= 0x80)?
        }
        Outgoing::PingResp => return None,
    };
    own_text(packet).or_else(|| reason_text::text(code))
}

fn put(packet: &Outgoing, protocol: Protocol, text: Option<&str>, whole: bool, out: &mut BytesMut) {
    match packet {
        Outgoing::ConnAck(ack) => connack::put(ack, protocol, text, whole, out),
        Outgoing::PubAck(ack) => self::ack(PacketType::PubAck, 0, *ack, protocol, text, out),
        Outgoing::PubRec(ack) => self::ack(PacketType::PubRec, 0, *ack, protocol, text, out),
        Outgoing::PubRel(ack) => self::ack(PacketType::PubRel, 0b0010, *ack, protocol, text, out),
        Outgoing::PubComp(ack) => self::ack(PacketType::PubComp, 0, *ack, protocol, text, out),
        Outgoing::SubAck(ack) => suback(ack, protocol, text, out),
        Outgoing::UnsubAck(ack) => unsuback(ack, protocol, text, out),
        Outgoing::PingResp => out.extend_from_slice(&[first(PacketType::PingResp), 0]),
        Outgoing::Disconnect(packet) if protocol.is_v5() => disconnect(packet, text, out),
        Outgoing::Disconnect(_) => {}
    }
}

pub(super) const fn first(packet: PacketType) -> u8 {
    (packet as u8) << 4
}

fn ack(packet: PacketType, flags: u8, ack: Ack, protocol: Protocol, text: Option<&str>, out: &mut BytesMut) {
    let [high, low] = ack.packet_id.to_be_bytes();
    let first = first(packet) | flags;
    if !protocol.is_v5() || ack.reason == ReasonCode::SUCCESS {
        out.extend_from_slice(&[first, 2, high, low]);
        return;
    }
    let properties = text_len(text);
    if properties == 0 {
        out.extend_from_slice(&[first, 3, high, low, ack.reason.0]);
        return;
    }
    out.put_u8(first);
    put_varint(out, 3 + varint_len(properties) + properties);
    out.extend_from_slice(&[high, low, ack.reason.0]);
    put_reason_string(out, properties, text);
}

fn suback(ack: &SubAck, protocol: Protocol, text: Option<&str>, out: &mut BytesMut) {
    if protocol.is_v5() {
        reasons(PacketType::SubAck, ack, text, out);
        return;
    }
    out.reserve(7 + ack.reasons.len());
    out.put_u8(first(PacketType::SubAck));
    put_varint(out, 2 + ack.reasons.len());
    out.put_u16(ack.packet_id);
    // 3.1.1 clause 3.9.3: a granted QoS, or 0x80 for every failure. MQTT 3.1 has no way to say that (clause 3.8 there): it
    // is told that it may have QoS 0.
    let failure = if protocol == Protocol::V31 { 0 } else { 0x80 };
    out.extend(ack.reasons.iter().map(|reason| if reason.0 >= 0x80 { failure } else { reason.0 }));
}

fn unsuback(ack: &SubAck, protocol: Protocol, text: Option<&str>, out: &mut BytesMut) {
    if protocol.is_v5() {
        reasons(PacketType::UnsubAck, ack, text, out);
        return;
    }
    out.extend_from_slice(&[first(PacketType::UnsubAck), 2]);
    out.put_u16(ack.packet_id);
}

/// SUBACK and UNSUBACK of MQTT 5.
fn reasons(packet: PacketType, ack: &SubAck, text: Option<&str>, out: &mut BytesMut) {
    let properties = text_len(text);
    let remaining = 2 + varint_len(properties) + properties + ack.reasons.len();
    out.reserve(5 + remaining);
    out.put_u8(first(packet));
    put_varint(out, remaining);
    out.put_u16(ack.packet_id);
    put_reason_string(out, properties, text);
    out.extend(ack.reasons.iter().map(|reason| reason.0));
}

/// The shortest of the three forms of DISCONNECT (clause 3.14.2).
fn disconnect(packet: &Disconnect, text: Option<&str>, out: &mut BytesMut) {
    out.put_u8(first(PacketType::Disconnect));
    // A server must not send a session expiry interval (clause 3.14.2-2).
    let properties = text_len(text);
    match (packet.reason, properties) {
        (ReasonCode::SUCCESS, 0) => out.put_u8(0),
        (reason, 0) => out.extend_from_slice(&[1, reason.0]),
        (reason, properties) => {
            put_varint(out, 1 + varint_len(properties) + properties);
            out.put_u8(reason.0);
            put_reason_string(out, properties, text);
        }
    }
}

/// Bytes of the properties that hold `text` alone, without their length.
fn text_len(text: Option<&str>) -> usize {
    text.map_or(0, |text| 3 + cut(text).len())
}

/// Appends the properties of `length` bytes that hold `text` alone, with their length.
fn put_reason_string(out: &mut BytesMut, length: usize, text: Option<&str>) {
    put_varint(out, length);
    if let Some(text) = text {
        put_text(out, id::REASON_STRING, text);
    }
}

/// Appends the number `value`, at most [`MAX_REMAINING_LENGTH`].
pub(super) fn put_varint(out: &mut BytesMut, value: usize) {
    let (bytes, len) = varint_bytes(value);
    out.extend_from_slice(bytes.get(..len).unwrap_or_default());
}

/// The number `value` as bytes, and how many of them count.
#[inline]
pub(super) fn varint_bytes(value: usize) -> ([u8; 4], usize) {
    let mut rest = value.min(MAX_REMAINING_LENGTH);
    let mut bytes = [0; 4];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            return (bytes, at + 1);
        }
        *byte |= 0x80;
    }
    (bytes, 4)
}

/// As much of `text` as a string of the protocol can hold.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(usize::from(u16::MAX))).unwrap_or_default()
}

/// Appends a string property; what does not fit in a string of the protocol is cut off.
pub(super) fn put_text(out: &mut BytesMut, id: u8, text: &str) {
    let text = cut(text);
    out.put_u8(id);
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.extend_from_slice(text.as_bytes());
}
