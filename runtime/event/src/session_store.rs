//! The seam between the broker and the embedded state: what must survive a restart.
//!
//! The broker keeps live state itself and records every change here. Changes are kept in the order in which they are
//! recorded, whatever thread records them; after a crash the first so many of them are found, and none behind. Who has to
//! promise something (PUBACK, PUBREC, PUBCOMP, SUBACK) records and then awaits [`SessionStore::durable`].

use std::sync::Arc;

use bytestring::ByteString;

use crate::{AckJoin, Message, MsgId, Owner, QoS, Tenant, TopicName};

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

/// Names a session, over restarts too: a client that starts anew under the same client id has another one.
pub type SessionNumber = u64;

/// A change of the broker's durable state.
///
/// Changes of a session that was never [`Opened`](Self::Opened), or is [`Closed`](Self::Closed), mean nothing and are
/// passed over, but [`WillGone`](Self::WillGone).
#[derive(Clone, Debug)]
pub enum Change {
    /// A client has connected to a session that outlives its connection by `expiry` seconds (`u32::MAX` = for ever).
    /// The session is new, or is there already; what is recorded of it stays.
    Opened {
        /// Which session.
        session: SessionNumber,
        /// Client id, unique within the tenant.
        client: ByteString,
        /// Seconds.
        expiry: u32,
        /// Whose it is.
        owner: Option<Owner>,
        /// What is published when this connection is gone; wills of earlier ones are not touched.
        will: Option<StoredWill>,
    },
    /// The session expires after another time than was said.
    ExpiryChanged {
        /// Which session.
        session: SessionNumber,
        /// Seconds.
        expiry: u32,
    },
    /// The client has gone; its session goes on.
    Disconnected {
        /// Which session.
        session: SessionNumber,
        /// When, milliseconds since the epoch.
        at_ms: u64,
    },
    /// The session ended: all that is known of it goes, but its wills, until those are published.
    Closed {
        /// Which session.
        session: SessionNumber,
    },
    /// A will was published, or will never be.
    WillGone {
        /// Of which session.
        session: SessionNumber,
        /// The id of its message.
        will: MsgId,
    },
    /// A subscription was added or changed.
    Subscribed {
        /// Which session.
        session: SessionNumber,
        /// Filter as the client wrote it, with its `$share/` prefix.
        filter: ByteString,
        /// Its options.
        options: SubscriptionOptions,
        /// Whether it still has to bring what was retained or stored before it. It is said again when it has.
        joining: bool,
    },
    /// A subscription was removed.
    Unsubscribed {
        /// Which session.
        session: SessionNumber,
        /// Filter as the client wrote it.
        filter: ByteString,
    },
    /// A message waits for the client (QoS 1 and 2 only).
    Queued {
        /// Which session.
        session: SessionNumber,
        /// The message and what its delivery will say.
        delivery: StoredDelivery,
    },
    /// A message was sent, or is about to be.
    Sent {
        /// Which session.
        session: SessionNumber,
        /// Number of the delivery.
        number: u64,
        /// How it was sent.
        sending: StoredSending,
    },
    /// QoS 2: the client has the message (PUBREC), which is never sent again.
    Released {
        /// Which session.
        session: SessionNumber,
        /// Number of the delivery.
        number: u64,
    },
    /// The client acknowledged a message, or it was dropped: forget it.
    Finished {
        /// Which session.
        session: SessionNumber,
        /// Number of the delivery.
        number: u64,
    },
    /// A QoS 2 PUBLISH arrived: a resend keeps this message id.
    Received {
        /// Which session.
        session: SessionNumber,
        /// Packet id of PUBLISH.
        packet_id: u16,
        /// The id it was given.
        message: MsgId,
    },
    /// A QoS 2 PUBLISH was handled and routed: a resend is only answered. Said without [`Received`](Self::Received), too.
    Handled {
        /// Which session.
        session: SessionNumber,
        /// Packet id of PUBLISH.
        packet_id: u16,
        /// The id it was given.
        message: MsgId,
    },
    /// PUBREL arrived, or PUBREC refused the message: the packet id is free.
    Freed {
        /// Which session.
        session: SessionNumber,
        /// Packet id.
        packet_id: u16,
    },
    /// A topic's retained message was set.
    Retained {
        /// The message.
        message: Arc<Message>,
    },
    /// A topic's retained message was cleared.
    RetainCleared {
        /// Which topic.
        topic: TopicName,
    },
}

/// A will as it is recorded (MQTT 5 clause 3.1.3.2.2).
#[derive(Clone, Debug)]
pub struct StoredWill {
    /// The message it becomes.
    pub message: Arc<Message>,
    /// Seconds between the end of the connection and its publication.
    pub delay: u32,
}

/// How a message came to a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoredSource {
    /// By subscriptions of its own.
    #[default]
    Live,
    /// By a shared subscription: only then another client may have it. The filter with its `$share/` prefix; `None`: it was
    /// recorded by a release that did not say which.
    Shared(Option<ByteString>),
    /// A handler sent it, whatever the client has subscribed to.
    Direct,
    /// It was retained when the client subscribed.
    Retained,
    /// A database had it when the client subscribed, and all that is older was sent before.
    Backlog,
}

/// A message on its way to one client.
#[derive(Clone, Debug)]
pub struct StoredDelivery {
    /// Unique in the session, from 1 on; the order in which messages came.
    pub number: u64,
    /// The message.
    pub message: Arc<Message>,
    /// QoS of this delivery.
    pub qos: QoS,
    /// RETAIN flag as it will be sent.
    pub retain: bool,
    /// How it came.
    pub source: StoredSource,
    /// Identifiers of the subscriptions it came by.
    pub subscription_ids: Option<Arc<[u32]>>,
}

/// How a message was sent to a client.
#[derive(Clone, Debug)]
pub struct StoredSending {
    /// Its place in the order of sending; the packet id follows from it.
    pub sequence: u64,
    /// QoS on the wire.
    pub qos: QoS,
    /// What was sent in the message's place, when a handler has replaced it.
    pub replacement: Option<Arc<Message>>,
}

/// A delivery that was recorded.
#[derive(Clone, Debug)]
pub struct RestoredDelivery {
    /// What was queued.
    pub delivery: StoredDelivery,
    /// How it was sent, if it was.
    pub sending: Option<StoredSending>,
    /// Whether the client has it (QoS 2, PUBREC).
    pub released: bool,
}

/// A QoS 2 packet id that is in use by a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoredReceipt {
    /// The packet id.
    pub packet_id: u16,
    /// The id that the message was given.
    pub message: MsgId,
    /// Whether it was routed: a resend is only answered.
    pub handled: bool,
}

/// A session as it was recorded.
#[derive(Clone, Debug)]
pub struct RestoredSession {
    /// Which session.
    pub number: SessionNumber,
    /// Tenant.
    pub tenant: Tenant,
    /// Client id.
    pub client: ByteString,
    /// Whose it is.
    pub owner: Option<Owner>,
    /// Seconds it outlives a connection.
    pub expiry: u32,
    /// When its client went, milliseconds since the epoch; `None`: it was connected to the end.
    pub disconnected_at_ms: Option<u64>,
    /// Published when the client does not return in time; usually one at most.
    pub wills: Vec<StoredWill>,
    /// Subscriptions, filters with their `$share/` prefix.
    pub subscriptions: Vec<(ByteString, SubscriptionOptions)>,
    /// The filters among them that still have to bring what was retained or stored before.
    pub joining: Vec<ByteString>,
    /// Messages that wait or were sent, in the order of their numbers.
    pub queue: Vec<RestoredDelivery>,
    /// QoS 2 packet ids received and not free yet.
    pub received: Vec<RestoredReceipt>,
}

/// Everything that was recorded.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Sessions.
    pub sessions: Vec<RestoredSession>,
    /// Retained messages by tenant.
    pub retained: Vec<(Tenant, Arc<Message>)>,
    /// Wills of sessions that have ended: to be published at once.
    pub wills: Vec<(Tenant, SessionNumber, StoredWill)>,
    /// The greatest number that a session ever had.
    pub last_session: SessionNumber,
}

/// The durable state could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("embedded state: {0}")]
pub struct SessionStoreError(pub String);

/// Keeps the broker's durable state. Implemented by the embedded state, called by the broker.
pub trait SessionStore: Send + Sync + 'static {
    /// Whether anything is kept at all: if not, nothing need be recorded.
    fn keeps(&self) -> bool;

    /// Reads everything back, once, before listeners accept.
    ///
    /// # Errors
    /// [`SessionStoreError`] when the state cannot be read: the server must not start on half of it.
    fn restore(&self) -> Result<Restored, SessionStoreError>;

    /// Records `change` of `tenant`. Never blocks on the disk. A change that cannot be written now is written as soon as
    /// that is possible again.
    fn record(&self, tenant: &Tenant, change: Change);

    /// Runs `changes`: of all that it records everything is found after a crash, or nothing. It must not be called within
    /// itself, and `changes` must not wait for anything.
    fn together(&self, changes: &mut dyn FnMut());

    /// Ready when all that was recorded before the call is on disk; fails when it could not be written in time.
    fn durable(&self) -> AckJoin;

    /// Whether so much waits to be written that who sends more, and would not wait for it, is to wait for
    /// [`durable`](Self::durable) all the same: memory would fill. Costs next to nothing.
    fn is_behind(&self) -> bool;

    /// Whether changes can be written now. Costs next to nothing.
    ///
    /// # Errors
    /// [`SessionStoreError`]: why not. Nothing new must be promised then.
    fn health(&self) -> Result<(), SessionStoreError>;
}

/// Keeps nothing: sessions and retained messages live as long as the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct VolatileStore;

impl SessionStore for VolatileStore {
    fn keeps(&self) -> bool {
        false
    }

    fn restore(&self) -> Result<Restored, SessionStoreError> {
        Ok(Restored::default())
    }

    fn record(&self, _: &Tenant, _: Change) {}

    fn together(&self, changes: &mut dyn FnMut()) {
        changes();
    }

    fn durable(&self) -> AckJoin {
        AckJoin::new()
    }

    fn is_behind(&self) -> bool {
        false
    }

    fn health(&self) -> Result<(), SessionStoreError> {
        Ok(())
    }
}
