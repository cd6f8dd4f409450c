//! One message on its way to one subscriber.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use tidegate_event::{Message, PublishProperties, QoS, StoredDelivery, StoredSource, TopicName};

use crate::limits::budget::is_charged_once;

/// Where a delivery comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Routed to a subscription.
    Live,
    /// Routed to the shared subscription of the group of this number, which is 0 when it does not matter.
    Shared(u32),
    /// Sent to this client by a handler, whatever it has subscribed to.
    Direct,
    /// A retained message, sent because of a new subscription.
    Retained,
    /// Read from a store for the join of this number.
    Backlog(u32),
}

/// When a delivery came to a session, compared with others of the same session.
///
/// The numbers begin again after four billion: what came two billion deliveries apart is in a wrong order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rank(u32);

impl Rank {
    /// Whether it came before `other`.
    pub(crate) fn is_before(self, other: Self) -> bool {
        let distance = other.0.wrapping_sub(self.0);
        distance != 0 && distance <= u32::MAX / 2
    }

    /// That of what comes next.
    pub(crate) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// The number of a join of an earlier life of the process: no join has it.
const ENDED_JOIN: u32 = u32::MAX;

/// A message that waits for a subscriber, with what its subscriptions say about it.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    /// Identifiers of the matching subscriptions (MQTT 5 clause 3.8.2.1.2).
    pub(crate) subscription_ids: Option<Arc<[u32]>>,
    /// min(publisher, subscription).
    pub(crate) qos: QoS,
    /// RETAIN flag as it will be sent.
    pub(crate) retain: bool,
    /// Under which number the session store has it, if it has: then its end must be recorded too.
    pub(crate) number: Option<NonZeroU64>,
    pub(crate) source: Source,
    /// When it came; what was there before a restart came first of all.
    pub(crate) rank: Rank,
    /// Whether it keeps more of its publisher's read buffer alive than it is long: see [`ReadAt`](crate::route::ReadAt).
    pub(crate) pins_buffer: bool,
}

impl Delivery {
    /// As it is recorded under `number`. `shared`: the filter of the shared subscription that it came by, if it is known.
    pub(crate) fn to_stored(&self, number: u64, shared: Option<&ByteString>) -> StoredDelivery {
        StoredDelivery {
            number,
            message: Arc::clone(&self.message),
            qos: self.qos,
            retain: self.retain,
            source: match self.source {
                Source::Live => StoredSource::Live,
                Source::Shared(_) => StoredSource::Shared(shared.cloned()),
                Source::Direct => StoredSource::Direct,
                Source::Retained => StoredSource::Retained,
                Source::Backlog(_) => StoredSource::Backlog,
            },
            subscription_ids: self.subscription_ids.clone(),
        }
    }

    /// As it was recorded; `group` is the number of its group, if it came by a shared subscription that is still there.
    pub(crate) fn from_stored(stored: StoredDelivery, group: u32) -> Self {
        let StoredDelivery { number, message, qos, retain, source, subscription_ids } = stored;
        let source = match source {
            StoredSource::Live => Source::Live,
            StoredSource::Shared(_) => Source::Shared(group),
            StoredSource::Direct => Source::Direct,
            StoredSource::Retained => Source::Retained,
            StoredSource::Backlog => Source::Backlog(ENDED_JOIN),
        };
        let number = NonZeroU64::new(number);
        let (rank, pins_buffer) = (Rank::default(), false);
        Self { message, subscription_ids, qos, retain, number, source, rank, pins_buffer }
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn size(&self) -> usize {
        Self::size_of(&self.message)
    }

    /// The same, of a delivery of `message`.
    pub(crate) fn size_of(message: &Message) -> usize {
        size_of::<Self>() + size_of::<Message>() + message.size()
    }

    /// How much of that is counted once for all queues that it waits in.
    pub(crate) fn charged_once(&self) -> usize {
        let payload = &self.message.payload;
        if is_charged_once(payload) { payload.len() } else { 0 }
    }
}

impl Source {
    /// Whether an acknowledgement moves the client's position. A retained copy, or a message that a handler
    /// made, may be newer than stored messages that are still to come, so it moves nothing.
    pub(crate) fn is_positional(self) -> bool {
        !matches!(self, Self::Retained | Self::Direct)
    }

    /// Whether everything older that the store has for the subscription was sent before.
    pub(crate) fn is_from_store(self) -> bool {
        matches!(self, Self::Backlog(_))
    }
}

/// A payload from which on a copy saves too little to be worth it: read buffers are not much larger.
pub(crate) const LARGE_PAYLOAD: usize = 16 * 1024;

/// A copy of `message` that owns its memory. A message read from a socket shares a read buffer with its
/// neighbours and keeps all of it alive: fine for the moment it takes to route it, not for what waits long. A large payload
/// is not copied.
pub(crate) fn detached(message: &Arc<Message>) -> Arc<Message> {
    if message.payload.len() >= LARGE_PAYLOAD { Arc::clone(message) } else { copied(message) }
}

/// The same, however large it is.
pub(crate) fn copied(message: &Arc<Message>) -> Arc<Message> {
    Arc::new(Message {
        topic: detached_topic(&message.topic),
        payload: Bytes::copy_from_slice(&message.payload),
        properties: message.properties.as_deref().map(|properties| Box::new(detached_properties(properties))),
        sender: message.sender.clone(),
        publisher: message.publisher.clone(),
        ..**message
    })
}

/// A copy of `topic` that owns its memory.
pub(crate) fn detached_topic(topic: &TopicName) -> TopicName {
    // A copy of a valid name is valid.
    TopicName::new(topic.as_str()).unwrap_or_else(|_| topic.clone())
}

/// A copy of `text` that owns its memory.
pub(crate) fn detached_text(text: &ByteString) -> ByteString {
    ByteString::from(&**text)
}

pub(crate) fn detached_properties(properties: &PublishProperties) -> PublishProperties {
    let text = |text: &Option<ByteString>| text.as_ref().map(detached_text);
    PublishProperties {
        payload_format: properties.payload_format,
        message_expiry: properties.message_expiry,
        content_type: text(&properties.content_type),
        response_topic: text(&properties.response_topic),
        correlation_data: properties.correlation_data.as_ref().map(|data| Bytes::copy_from_slice(data)),
        user: properties
            .user
            .iter()
            .map(|(name, value)| (detached_text(name), detached_text(value)))
            .collect(),
    }
}
