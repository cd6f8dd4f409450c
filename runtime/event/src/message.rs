//! An application message on its way through the broker.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use bytestring::ByteString;

use crate::{Client, MsgId, TopicName};

/// Quality of service (MQTT 5 clause 4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// 0: at most once.
    #[default]
    AtMostOnce = 0,
    /// 1: at least once.
    AtLeastOnce = 1,
    /// 2: exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// 0, 1 or 2.
    pub const fn level(self) -> u8 {
        self as u8
    }
}

impl TryFrom<u8> for QoS {
    type Error = u8;

    fn try_from(level: u8) -> Result<Self, u8> {
        match level {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            other => Err(other),
        }
    }
}

/// The properties of PUBLISH that travel with the message end to end (MQTT 5 clause 3.3.2.3). Topic alias
/// and subscription identifiers belong to one hop and are not here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// 0 = bytes, 1 = UTF-8 text.
    pub payload_format: Option<u8>,
    /// Seconds the message may wait, as the publisher gave it.
    pub message_expiry: Option<u32>,
    /// MIME type or the like.
    pub content_type: Option<ByteString>,
    /// Where an answer is wanted.
    pub response_topic: Option<ByteString>,
    /// Opaque to us.
    pub correlation_data: Option<Bytes>,
    /// Name-value pairs, in order, names may repeat.
    pub user: Vec<(ByteString, ByteString)>,
}

/// What a user property takes besides its text.
const USER_PROPERTY: usize = 64;

impl PublishProperties {
    /// About how many bytes of memory they take.
    pub fn size(&self) -> usize {
        let text = |text: &Option<ByteString>| text.as_ref().map_or(0, |text| text.len());
        let user: usize =
            self.user.iter().map(|(name, value)| USER_PROPERTY + name.len() + value.len()).sum();
        size_of::<Self>()
            + text(&self.content_type)
            + text(&self.response_topic)
            + self.correlation_data.as_ref().map_or(0, Bytes::len)
            + user
    }
}

/// How a message came to be on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A client sent PUBLISH.
    #[default]
    Client,
    /// A client's will.
    Will,
    /// A module made or published it.
    Module,
    /// Read from a store for one client: raises message.deliver and message.acked, never message.publish.
    Fetched,
    /// A retained message read from a store for one client; not stored, so its ack moves no position.
    RetainedStore,
    /// The broker says it itself, under `$SYS`: it raises nothing.
    Broker,
}

/// An application message. Shared as `Arc<Message>`; a change makes a new one.
#[derive(Clone, Debug)]
pub struct Message {
    /// Identity and order of arrival.
    pub id: MsgId,
    /// Topic name.
    pub topic: TopicName,
    /// Payload bytes, as sent.
    pub payload: Bytes,
    /// The publisher's quality of service.
    pub qos: QoS,
    /// RETAIN flag of the PUBLISH (deliveries compute their own).
    pub retain: bool,
    /// DUP flag of the PUBLISH as received.
    pub dup: bool,
    /// Milliseconds since the epoch at which it arrived.
    pub timestamp_ms: u64,
    /// Client id of the publisher (empty when there is none).
    pub sender: ByteString,
    /// The publisher's connection, when it is (or was) one of this process.
    pub publisher: Option<Arc<Client>>,
    /// End-to-end MQTT 5 properties, when there are any.
    pub properties: Option<Box<PublishProperties>>,
    /// How it came to be.
    pub origin: Origin,
    /// How many module publishes lie behind it (loop guard).
    pub hops: u8,
}

impl Message {
    /// When the message expires, in milliseconds since the epoch (MQTT 5 clause 3.3.2.3.3).
    pub fn expires_at_ms(&self) -> Option<u64> {
        let seconds = self.properties.as_ref()?.message_expiry?;
        Some(self.timestamp_ms + u64::from(seconds) * 1_000)
    }

    /// About how many bytes of memory its content takes: topic, payload, properties and the name of its sender.
    pub fn size(&self) -> usize {
        self.topic.as_str().len()
            + self.sender.len()
            + self.payload.len()
            + self.properties.as_deref().map_or(0, PublishProperties::size)
    }

    /// The JSON text of `${message}`: `{"id","from","qos","topic","retain","payload","ts"}`, `ts` in
    /// seconds. A payload that is not UTF-8 is base64 and `payload_encoding` says so.
    pub fn to_json(&self) -> String {
        let mut object = serde_json::Map::new();
        object.insert("id".into(), self.id.to_string().into());
        object.insert("from".into(), self.sender.to_string().into());
        object.insert("qos".into(), self.qos.level().into());
        object.insert("topic".into(), self.topic.as_str().into());
        object.insert("retain".into(), self.retain.into());
        match std::str::from_utf8(&self.payload) {
            Ok(text) => {
                object.insert("payload".into(), text.into());
            }
            Err(_) => {
                let text = base64::engine::general_purpose::STANDARD.encode(&self.payload);
                object.insert("payload".into(), text.into());
                object.insert("payload_encoding".into(), "base64".into());
            }
        }
        object.insert("ts".into(), (self.timestamp_ms / 1_000).into());
        serde_json::Value::Object(object).to_string()
    }
}
