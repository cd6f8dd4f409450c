//! Packets that the server sends, except PUBLISH, in the forms of all three versions.
//!
//! Encoded here and not by `rumqttd`: its MQTT 5 writers spend bytes on empty properties and its packets would
//! have to be built first.

use bytes::{BufMut, BytesMut};
use tidegate_event::{Protocol, ReasonCode};

use super::header::{MAX_REMAINING_LENGTH, varint_len};
use super::property::id;
use super::{Ack, Auth, ConnAck, Disconnect, Outgoing, PacketType, SubAck};

/// Appends `packet` to `out` in the form that `protocol` gives it. Reason codes are mapped to what the version
/// has. DISCONNECT and AUTH do not exist for a server before MQTT 5: nothing is appended.
pub fn encode(packet: &Outgoing, protocol: Protocol, out: &mut BytesMut) {
    match packet {
        Outgoing::ConnAck(ack) if protocol.is_v5() => connack_v5(ack, out),
        Outgoing::ConnAck(ack) => connack_v3(ack, protocol, out),
        Outgoing::PubAck(ack) => self::ack(PacketType::PubAck, 0, *ack, protocol, out),
        Outgoing::PubRec(ack) => self::ack(PacketType::PubRec, 0, *ack, protocol, out),
        Outgoing::PubRel(ack) => self::ack(PacketType::PubRel, 0b0010, *ack, protocol, out),
        Outgoing::PubComp(ack) => self::ack(PacketType::PubComp, 0, *ack, protocol, out),
        Outgoing::SubAck(ack) => suback(ack, protocol, out),
        Outgoing::UnsubAck(ack) => unsuback(ack, protocol, out),
        Outgoing::PingResp => out.extend_from_slice(&[first(PacketType::PingResp), 0]),
        Outgoing::Disconnect(packet) if protocol.is_v5() => disconnect(packet, out),
        Outgoing::Auth(packet) if protocol.is_v5() => auth(packet, out),
        Outgoing::Disconnect(_) | Outgoing::Auth(_) => {}
    }
}

const fn first(packet: PacketType) -> u8 {
    (packet as u8) << 4
}

/// The 3.1.1 return code of CONNACK nearest to an MQTT 5 reason (3.1.1 clause 3.2.2.3, table 3.1).
fn return_code(reason: ReasonCode) -> u8 {
    match reason.0 {
        0x00..=0x7f => 0,
        0x84 => 1,
        0x85 => 2,
        0x86 => 4,
        // Not authorised, banned, bad authentication method; and a will that is not taken, which trying again
        // cannot help.
        0x87 | 0x8a | 0x8c | 0x90 | 0x99..=0x9b => 5,
        _ => 3,
    }
}

fn connack_v3(ack: &ConnAck, protocol: Protocol, out: &mut BytesMut) {
    let code = return_code(ack.reason);
    // MQTT 3.1 keeps the byte of the flag in reserve; a refusal has no session (3.1.1 clause 3.2.2-4).
    let present = ack.session_present && code == 0 && protocol == Protocol::V311;
    out.extend_from_slice(&[first(PacketType::ConnAck), 2, u8::from(present), code]);
}

fn connack_v5(ack: &ConnAck, out: &mut BytesMut) {
    let p = &ack.properties;
    let mut properties = BytesMut::new();
    if let Some(seconds) = p.session_expiry {
        properties.put_u8(id::SESSION_EXPIRY);
        properties.put_u32(seconds);
    }
    if let Some(count) = p.receive_maximum {
        properties.put_u8(id::RECEIVE_MAXIMUM);
        properties.put_u16(count);
    }
    if let Some(bytes) = p.maximum_packet_size {
        properties.put_u8(id::MAXIMUM_PACKET_SIZE);
        properties.put_u32(bytes);
    }
    if let Some(client_id) = &p.assigned_client_id {
        put_text(&mut properties, id::ASSIGNED_CLIENT_ID, client_id);
    }
    if let Some(count) = p.topic_alias_maximum {
        properties.put_u8(id::TOPIC_ALIAS_MAXIMUM);
        properties.put_u16(count);
    }
    if let Some(text) = &p.reason_string {
        put_text(&mut properties, id::REASON_STRING, text);
    }
    if let Some(seconds) = p.server_keep_alive {
        properties.put_u8(id::SERVER_KEEP_ALIVE);
        properties.put_u16(seconds);
    }
    let present = ack.session_present && ack.reason == ReasonCode::SUCCESS;
    out.put_u8(first(PacketType::ConnAck));
    put_varint(out, 2 + varint_len(properties.len()) + properties.len());
    out.extend_from_slice(&[u8::from(present), ack.reason.0]);
    put_varint(out, properties.len());
    out.extend_from_slice(&properties);
}

fn ack(packet: PacketType, flags: u8, ack: Ack, protocol: Protocol, out: &mut BytesMut) {
    let [high, low] = ack.packet_id.to_be_bytes();
    let first = first(packet) | flags;
    if protocol.is_v5() && ack.reason != ReasonCode::SUCCESS {
        out.extend_from_slice(&[first, 3, high, low, ack.reason.0]);
    } else {
        out.extend_from_slice(&[first, 2, high, low]);
    }
}

fn suback(ack: &SubAck, protocol: Protocol, out: &mut BytesMut) {
    let count = ack.reasons.len();
    out.reserve(8 + count);
    out.put_u8(first(PacketType::SubAck));
    if protocol.is_v5() {
        put_varint(out, 3 + count);
        out.put_u16(ack.packet_id);
        out.put_u8(0);
        out.extend(ack.reasons.iter().map(|reason| reason.0));
    } else {
        put_varint(out, 2 + count);
        out.put_u16(ack.packet_id);
        // 3.1.1 clause 3.9.3: a granted QoS, or 0x80 for every failure.
        out.extend(ack.reasons.iter().map(|reason| reason.0.min(0x80)));
    }
}

fn unsuback(ack: &SubAck, protocol: Protocol, out: &mut BytesMut) {
    out.reserve(8 + ack.reasons.len());
    out.put_u8(first(PacketType::UnsubAck));
    if protocol.is_v5() {
        put_varint(out, 3 + ack.reasons.len());
        out.put_u16(ack.packet_id);
        out.put_u8(0);
        out.extend(ack.reasons.iter().map(|reason| reason.0));
    } else {
        out.put_u8(2);
        out.put_u16(ack.packet_id);
    }
}

fn disconnect(packet: &Disconnect, out: &mut BytesMut) {
    // A server must not send a session expiry interval (clause 3.14.2-2).
    let mut properties = BytesMut::new();
    if let Some(text) = &packet.reason_string {
        put_text(&mut properties, id::REASON_STRING, text);
    }
    reason_and_properties(PacketType::Disconnect, packet.reason, &properties, out);
}

fn auth(packet: &Auth, out: &mut BytesMut) {
    let mut properties = BytesMut::new();
    if let Some(method) = &packet.method {
        put_text(&mut properties, id::AUTHENTICATION_METHOD, method);
    }
    if let Some(data) = &packet.data {
        put_binary(&mut properties, id::AUTHENTICATION_DATA, data);
    }
    reason_and_properties(PacketType::Auth, packet.reason, &properties, out);
}

/// The shortest of the three forms of DISCONNECT (clause 3.14.2). AUTH has no form with a reason alone.
fn reason_and_properties(packet: PacketType, reason: ReasonCode, properties: &[u8], out: &mut BytesMut) {
    out.put_u8(first(packet));
    match (reason, properties) {
        (ReasonCode::SUCCESS, []) => out.put_u8(0),
        (reason, []) if packet == PacketType::Disconnect => out.extend_from_slice(&[1, reason.0]),
        (reason, properties) => {
            put_varint(out, 1 + varint_len(properties.len()) + properties.len());
            out.put_u8(reason.0);
            put_varint(out, properties.len());
            out.extend_from_slice(properties);
        }
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

/// Appends a string property; what does not fit in a string of the protocol is cut off.
fn put_text(out: &mut BytesMut, id: u8, text: &str) {
    let end = text.floor_char_boundary(usize::from(u16::MAX));
    put_binary(out, id, text.get(..end).unwrap_or_default().as_bytes());
}

fn put_binary(out: &mut BytesMut, id: u8, data: &[u8]) {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    out.put_u8(id);
    out.put_u16(length);
    out.extend_from_slice(data.get(..usize::from(length)).unwrap_or_default());
}
