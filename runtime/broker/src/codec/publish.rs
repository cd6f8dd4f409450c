//! PUBLISH (clause 3.3), without copying: topic and payload are slices of the frame.
//!
//! Not read by `rumqttd`: QoS, packet id and DUP are private there.

use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use tidegate_event::{Protocol, PublishProperties, QoS, TopicName};

use super::header::{DUP, RETAIN};
use super::property::{self, Section, Value, id};
use super::reader::{Reader, TEXT_RULE, levels_over, shared_text, topic_error};
use super::{CodecError, Limits, PacketType, Publish};

/// Takes the PUBLISH of `total` bytes, `header` of them fixed header, from the start of `buffer`. The flags have
/// been checked.
#[inline]
pub(super) fn decode(
    buffer: &mut BytesMut,
    header: usize,
    total: usize,
    protocol: Protocol,
    limits: Limits,
) -> Result<Publish, CodecError> {
    let first = buffer.first().copied().unwrap_or_default();
    let mut reader = Reader::new(buffer.get(header..total).unwrap_or_default(), PacketType::Publish);
    let qos = match first >> 1 & 0b11 {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    let topic_len = reader.binary()?.len();
    let packet_id = if qos == QoS::AtMostOnce { 0 } else { reader.packet_id()? };
    let properties_len = if protocol.is_v5() { reader.varint()? } else { 0 };
    let properties_at = total - reader.remaining();
    reader.take(properties_len)?;
    let payload_len = reader.remaining();

    // Only now are the parts cut out, each once, from front to back.
    let topic_at = header + 2;
    buffer.advance(topic_at);
    let topic = buffer.split_to(topic_len).freeze();
    buffer.advance(properties_at - topic_at - topic_len);
    let (alias, properties) = if properties_len == 0 {
        (None, None)
    } else {
        read_properties(&buffer.split_to(properties_len).freeze(), limits)?
    };
    let payload = if payload_len == 0 { Bytes::new() } else { buffer.split_to(payload_len).freeze() };

    let topic = if topic.is_empty() && protocol.is_v5() {
        if alias.is_none() {
            return Err(CodecError::Protocol {
                packet: PacketType::Publish,
                rule: "an empty topic name needs a topic alias",
            });
        }
        None
    } else {
        Some(topic_name(topic, limits)?)
    };
    Ok(Publish {
        dup: first & DUP != 0,
        qos,
        retain: first & RETAIN != 0,
        packet_id,
        topic,
        alias,
        payload,
        properties,
    })
}

#[inline]
fn topic_name(bytes: Bytes, limits: Limits) -> Result<TopicName, CodecError> {
    let packet = PacketType::Publish;
    if let Some(levels) = levels_over(&bytes, limits.max_topic_levels) {
        return Err(CodecError::TopicLevels { packet, levels, limit: limits.max_topic_levels });
    }
    let text = ByteString::try_from(bytes).map_err(|_| CodecError::Malformed { packet, rule: TEXT_RULE })?;
    TopicName::new(text).map_err(|error| topic_error(packet, error))
}

/// Topic alias, and what travels with the message.
fn read_properties(
    bytes: &Bytes,
    limits: Limits,
) -> Result<(Option<u16>, Option<Box<PublishProperties>>), CodecError> {
    let mut alias = None;
    let mut properties: Option<Box<PublishProperties>> = None;
    let reader = Reader::new(bytes, PacketType::Publish);
    property::walk(reader, Section::Publish, limits, |id, value| match (id, value) {
        (id::TOPIC_ALIAS, Value::Two(number)) => alias = Some(number),
        (id, value) => keep_property(properties.get_or_insert_default(), bytes, id, value),
    })?;
    Ok((alias, properties))
}

/// Puts a property that travels with a message into `properties`.
pub(super) fn keep_property(properties: &mut PublishProperties, frame: &Bytes, id: u8, value: Value<'_>) {
    match (id, value) {
        (id::PAYLOAD_FORMAT, Value::Flag(text)) => properties.payload_format = Some(u8::from(text)),
        (id::MESSAGE_EXPIRY, Value::Four(seconds)) => properties.message_expiry = Some(seconds),
        (id::CONTENT_TYPE, Value::Text(text)) => properties.content_type = Some(shared_text(frame, text)),
        (id::RESPONSE_TOPIC, Value::Text(text)) => properties.response_topic = Some(shared_text(frame, text)),
        (id::CORRELATION_DATA, Value::Binary(data)) => {
            properties.correlation_data = Some(frame.slice_ref(data));
        }
        (id::USER, Value::Pair(name, value)) => {
            properties.user.push((shared_text(frame, name), shared_text(frame, value)));
        }
        _ => {}
    }
}
