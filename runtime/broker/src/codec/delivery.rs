//! PUBLISH to a subscriber, straight from the shared message: the hottest encoder.

use bytes::{BufMut, BytesMut};
use tidegate_event::{Message, Protocol, PublishProperties, QoS};

use super::PacketType;
use super::encode::{put_varint, varint_bytes};
use super::header::{DUP, MAX_REMAINING_LENGTH, RETAIN, varint_len};
use super::property::id;

/// One message on its way to one subscriber.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The message.
    pub message: &'a Message,
    /// QoS of this delivery.
    pub qos: QoS,
    /// Packet id; not sent at QoS 0.
    pub packet_id: u16,
    /// A resend (clause 3.3.1.1).
    pub dup: bool,
    /// RETAIN flag of this delivery (clause 3.3.1.3).
    pub retain: bool,
    /// Identifiers of the matching subscriptions, none of them 0 (clause 3.3.4; MQTT 5 only).
    pub subscription_ids: &'a [u32],
    /// Topic alias, not 0 (MQTT 5 only).
    pub topic_alias: Option<u16>,
    /// Whether the topic name is sent: false only when `topic_alias` stands for it already. Before MQTT 5 it is
    /// always sent.
    pub with_topic: bool,
    /// Seconds the message may still wait (clause 3.3.2.3.3; MQTT 5 only). `None`: no expiry is sent, whatever
    /// the message's own properties say.
    pub expiry_remaining: Option<u32>,
}

impl<'a> Delivery<'a> {
    /// A first delivery of `message` with its topic, no RETAIN and no property of its own.
    pub fn new(message: &'a Message, qos: QoS, packet_id: u16) -> Self {
        Self {
            message,
            qos,
            packet_id,
            dup: false,
            retain: false,
            subscription_ids: &[],
            topic_alias: None,
            with_topic: true,
            expiry_remaining: None,
        }
    }

    fn topic(&self, protocol: Protocol) -> &[u8] {
        if self.with_topic || !protocol.is_v5() { self.message.topic.as_str().as_bytes() } else { &[] }
    }

    /// Bytes after the fixed header, when the properties have `properties` bytes.
    fn remaining(&self, protocol: Protocol, properties: usize) -> usize {
        let packet_id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let properties = if protocol.is_v5() { varint_len(properties) + properties } else { 0 };
        2 + self.topic(protocol).len() + packet_id + properties + self.message.payload.len()
    }

    /// Bytes of the properties without their length; `None` when one of them is too long to be sent.
    fn properties_len(&self, protocol: Protocol) -> Option<usize> {
        if !protocol.is_v5() {
            return Some(0);
        }
        let mut len = 0;
        if self.expiry_remaining.is_some() {
            len += 5;
        }
        if self.topic_alias.is_some() {
            len += 3;
        }
        for &id in self.subscription_ids {
            let id_len = varint_len(id as usize);
            if id_len > 4 {
                return None;
            }
            len += 1 + id_len;
        }
        if let Some(properties) = &self.message.properties {
            len += message_properties_len(properties)?;
        }
        Some(len)
    }
}

fn message_properties_len(properties: &PublishProperties) -> Option<usize> {
    // Property id and length, then the bytes.
    let field = |len: usize| (len <= usize::from(u16::MAX)).then_some(len + 2);
    let mut len = 0;
    if properties.payload_format.is_some() {
        len += 2;
    }
    if let Some(text) = &properties.content_type {
        len += 1 + field(text.len())?;
    }
    if let Some(text) = &properties.response_topic {
        len += 1 + field(text.len())?;
    }
    if let Some(data) = &properties.correlation_data {
        len += 1 + field(data.len())?;
    }
    for (name, value) in &properties.user {
        len += 1 + field(name.len())? + field(value.len())?;
    }
    Some(len)
}

/// The size of the packet that [`encode_publish`] appends, bytes: to be compared with the client's maximum
/// packet size (MQTT 5 clause 3.1.2-24). `None`: no packet can carry the message, because a property is longer
/// than 65,535 bytes, a subscription identifier above 268,435,455 or the whole longer than
/// [`MAX_REMAINING_LENGTH`].
pub fn publish_len(delivery: &Delivery<'_>, protocol: Protocol) -> Option<usize> {
    let remaining = delivery.remaining(protocol, delivery.properties_len(protocol)?);
    (remaining <= MAX_REMAINING_LENGTH).then_some(1 + varint_len(remaining) + remaining)
}

/// Appends the PUBLISH of `delivery` to `out`. One reservation, nothing allocated besides. A message for which
/// [`publish_len`] is `None` is not appended: a broken packet would end the connection.
pub fn encode_publish(delivery: &Delivery<'_>, protocol: Protocol, out: &mut BytesMut) {
    let payload = &delivery.message.payload;
    if put_head(delivery, protocol, payload.len(), out) {
        out.extend_from_slice(payload);
    }
}

/// Appends what stands before the payload in the PUBLISH of `delivery`: for a payload that is sent from where it is.
/// Gives whether there is such a packet; see [`encode_publish`].
pub(crate) fn encode_publish_head(delivery: &Delivery<'_>, protocol: Protocol, out: &mut BytesMut) -> bool {
    put_head(delivery, protocol, 0, out)
}

/// Appends all but the payload, and makes room for `payload` bytes behind it.
#[inline]
fn put_head(delivery: &Delivery<'_>, protocol: Protocol, payload: usize, out: &mut BytesMut) -> bool {
    let Some(properties) = delivery.properties_len(protocol) else {
        return false;
    };
    let remaining = delivery.remaining(protocol, properties);
    if remaining > MAX_REMAINING_LENGTH {
        return false;
    }
    let topic = delivery.topic(protocol);
    out.reserve(5 + remaining - delivery.message.payload.len() + payload);

    // First byte, remaining length and the topic's length as one piece: a copy costs more than its bytes.
    let mut first = (PacketType::Publish as u8) << 4 | delivery.qos.level() << 1;
    if delivery.dup {
        first |= DUP;
    }
    if delivery.retain {
        first |= RETAIN;
    }
    let (length, length_len) = varint_bytes(remaining);
    // A topic name has at most 65,535 bytes.
    let topic_len = (topic.len() as u16).to_be_bytes();
    let mut head = [first, length[0], length[1], length[2], length[3], 0, 0];
    if let Some([high, low]) = head.get_mut(1 + length_len..).and_then(<[u8]>::first_chunk_mut::<2>) {
        [*high, *low] = topic_len;
    }
    out.extend_from_slice(head.get(..3 + length_len).unwrap_or_default());
    out.extend_from_slice(topic);
    if delivery.qos != QoS::AtMostOnce {
        out.put_u16(delivery.packet_id);
    }
    if protocol.is_v5() {
        put_varint(out, properties);
        if properties != 0 {
            put_properties(delivery, out);
        }
    }
    true
}

fn put_properties(delivery: &Delivery<'_>, out: &mut BytesMut) {
    if let Some(seconds) = delivery.expiry_remaining {
        out.put_u8(id::MESSAGE_EXPIRY);
        out.put_u32(seconds);
    }
    if let Some(alias) = delivery.topic_alias {
        out.put_u8(id::TOPIC_ALIAS);
        out.put_u16(alias);
    }
    for &id in delivery.subscription_ids {
        out.put_u8(id::SUBSCRIPTION_ID);
        put_varint(out, id as usize);
    }
    let Some(properties) = &delivery.message.properties else {
        return;
    };
    if let Some(format) = properties.payload_format {
        out.extend_from_slice(&[id::PAYLOAD_FORMAT, format]);
    }
    if let Some(text) = &properties.content_type {
        out.put_u8(id::CONTENT_TYPE);
        put_field(out, text.as_bytes());
    }
    if let Some(text) = &properties.response_topic {
        out.put_u8(id::RESPONSE_TOPIC);
        put_field(out, text.as_bytes());
    }
    if let Some(data) = &properties.correlation_data {
        out.put_u8(id::CORRELATION_DATA);
        put_field(out, data);
    }
    for (name, value) in &properties.user {
        out.put_u8(id::USER);
        put_field(out, name.as_bytes());
        put_field(out, value.as_bytes());
    }
}

/// Appends a field whose length has been checked.
fn put_field(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16(bytes.len() as u16);
    out.extend_from_slice(bytes);
}
