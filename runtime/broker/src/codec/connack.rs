//! CONNACK (clause 3.2), in the forms of all three versions.

use bytes::{BufMut, BytesMut};
use tidegate_event::{Protocol, ReasonCode};

use super::encode::{first, put_text, put_varint};
use super::header::varint_len;
use super::property::id;
use super::{ConnAck, PacketType};

/// Appends CONNACK. `text` is the reason string; with `whole` false what the client can do without is left out.
pub(super) fn put(ack: &ConnAck, protocol: Protocol, text: Option<&str>, whole: bool, out: &mut BytesMut) {
    if protocol.is_v5() {
        v5(ack, text, whole, out);
    } else {
        v3(ack, protocol, out);
    }
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

fn v3(ack: &ConnAck, protocol: Protocol, out: &mut BytesMut) {
    let code = return_code(ack.reason);
    // MQTT 3.1 keeps the byte of the flag in reserve; a refusal has no session (3.1.1 clause 3.2.2-4).
    let present = ack.session_present && code == 0 && protocol == Protocol::V311;
    out.extend_from_slice(&[first(PacketType::ConnAck), 2, u8::from(present), code]);
}

fn v5(ack: &ConnAck, text: Option<&str>, whole: bool, out: &mut BytesMut) {
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
    if let Some(qos) = p.maximum_qos {
        properties.extend_from_slice(&[id::MAXIMUM_QOS, qos]);
    }
    if let Some(available) = p.retain_available {
        properties.extend_from_slice(&[id::RETAIN_AVAILABLE, u8::from(available)]);
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
    if let Some(seconds) = p.server_keep_alive {
        properties.put_u8(id::SERVER_KEEP_ALIVE);
        properties.put_u16(seconds);
    }
    if let Some(text) = p.response_information.as_ref().filter(|_| whole) {
        put_text(&mut properties, id::RESPONSE_INFORMATION, text);
    }
    if let Some(text) = text {
        put_text(&mut properties, id::REASON_STRING, text);
    }
    let present = ack.session_present && ack.reason == ReasonCode::SUCCESS;
    out.put_u8(first(PacketType::ConnAck));
    put_varint(out, 2 + varint_len(properties.len()) + properties.len());
    out.extend_from_slice(&[u8::from(present), ack.reason.0]);
    put_varint(out, properties.len());
    out.extend_from_slice(&properties);
}
