//! The seam between the broker and the embedded state: what must survive a restart.
//!
//! The broker keeps live state itself and records every change here. A change that must be durable before
//! the broker may answer (a QoS 2 id before its PUBREC, a queued message before its PUBACK) is awaited.

use std::sync::Arc;

use bytestring::ByteString;

use crate::{AckJoin, Message, MsgId, QoS, Tenant, TopicName};

/// Options of a subscription (MQTT 5 clause 3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Greatest QoS of deliveries.
    pub qos: QoS,
    /// Do not send back what this client published.
    pub no_local: bool,
    /// Keep the RETAIN flag as published.
    pub retain_as_published: bool,
    /// 0, 1 or 2: when retained messages are sent.
    pub retain_handling: u8,
    /// Subscription identifier, 0 = none.
    pub id: u32,
}

/// A change of the broker's durable state. `client` is the client id, unique within `tenant` of the call.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A session exists and outlives its connection by `expiry` seconds (`u32::MAX` = for ever).
    Opened {
        /// Client id.
        client: &'a ByteString,
        /// Seconds.
        expiry: u32,
    },
    /// A session ended.
    Closed {
        /// Client id.
        client: &'a ByteString,
    },
    /// A subscription was added or changed. The filter has its `$share/` prefix.
    Subscribed {
        /// Client id.
        client: &'a ByteString,
        /// Filter as the client wrote it.
        filter: &'a ByteString,
        /// Its options.
        options: SubscriptionOptions,
    },
    /// A subscription was removed.
    Unsubscribed {
        /// Client id.
        client: &'a ByteString,
        /// Filter as the client wrote it.
        filter: &'a ByteString,
    },
    /// A message waits for the client (QoS 1 and 2 only).
    Queued {
        /// Client id.
        client: &'a ByteString,
        /// The message.
        message: &'a Arc<Message>,
        /// QoS of this delivery.
        qos: QoS,
    },
    /// A message was sent under a packet id.
    Sent {
        /// Client id.
        client: &'a ByteString,
        /// Which message.
        message: MsgId,
        /// Packet id of PUBLISH.
        packet_id: u16,
    },
    /// The client acknowledged a message, or it was dropped: forget it.
    Finished {
        /// Client id.
        client: &'a ByteString,
        /// Which message.
        message: MsgId,
    },
    /// A QoS 2 PUBLISH arrived: a resend keeps this message id.
    Received {
        /// Client id.
        client: &'a ByteString,
        /// Packet id of PUBLISH.
        packet_id: u16,
        /// The id it was given.
        message: MsgId,
    },
    /// PUBREL arrived: the packet id is free.
    Released {
        /// Client id.
        client: &'a ByteString,
        /// Packet id.
        packet_id: u16,
    },
    /// A topic's retained message was set.
    Retained {
        /// The message.
        message: &'a Arc<Message>,
    },
    /// A topic's retained message was cleared.
    RetainCleared {
        /// Which topic.
        topic: &'a TopicName,
    },
}

/// A session as it was recorded.
#[derive(Clone, Debug)]
pub struct RestoredSession {
    /// Tenant.
    pub tenant: Tenant,
    /// Client id.
    pub client: ByteString,
    /// Seconds it outlives a connection.
    pub expiry: u32,
    /// Subscriptions, filters with their `$share/` prefix.
    pub subscriptions: Vec<(ByteString, SubscriptionOptions)>,
    /// Messages that wait, oldest first, with their packet id when already sent.
    pub queue: Vec<(Arc<Message>, QoS, Option<u16>)>,
    /// QoS 2 packet ids received and not released.
    pub received: Vec<(u16, MsgId)>,
}

/// Everything that was recorded.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Sessions.
    pub sessions: Vec<RestoredSession>,
    /// Retained messages by tenant.
    pub retained: Vec<(Tenant, Arc<Message>)>,
}

/// The durable state could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("embedded state: {0}")]
pub struct SessionStoreError(pub String);

/// Keeps the broker's durable state. Implemented by the embedded state, called by the broker.
pub trait SessionStore: Send + Sync + 'static {
    /// Reads everything back, once, before listeners accept.
    ///
    /// # Errors
    /// [`SessionStoreError`] when the state cannot be read: the server must not start on half of it.
    fn restore(&self) -> Result<Restored, SessionStoreError>;

    /// Records `change`. `None`: nothing to wait for. `Some`: ready when it is on disk.
    fn record(&self, tenant: &Tenant, change: Change<'_>) -> Option<AckJoin>;
}

/// Keeps nothing: sessions and retained messages live as long as the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct VolatileStore;

impl SessionStore for VolatileStore {
    fn restore(&self) -> Result<Restored, SessionStoreError> {
        Ok(Restored::default())
    }

    fn record(&self, _: &Tenant, _: Change<'_>) -> Option<AckJoin> {
        None
    }
}
