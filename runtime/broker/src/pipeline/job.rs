//! What goes through a pipeline, and what comes out of it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytestring::ByteString;
use tidegate_event::{
    AckJoin, DisconnectReason, Effects, Hook, Message, MsgId, QoS, ReasonCode, Scope, SharedFilter,
    SubscriptionOptions, TopicFilter,
};

use crate::codec::Ack;
use crate::session::RecordedWill;
use crate::session::delivery::Rank;
use crate::session::received::Meanwhile;

/// A step of a client's life that raises an event, in the order in which it happened.
pub(crate) enum Job {
    /// CONNACK was sent.
    Connected,
    /// The session is new.
    Created,
    /// A message was published.
    Publish(Inbound),
    /// Subscriptions are wanted: those of one SUBSCRIBE, or of a handler.
    Subscribe(Subscribing),
    /// Subscriptions are to go: those of one UNSUBSCRIBE, or of a handler.
    Unsubscribe(Unsubscribing),
    /// The network connection has ended.
    Disconnected(DisconnectReason),
}

/// What a job weighs against the read-ahead besides its payload: roughly what it takes in memory.
pub(super) const OVERHEAD: usize = 512;

impl Job {
    /// Bytes of read-ahead it takes: a PUBLISH while it waits, the others until they are answered.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Publish(inbound) => inbound.weight(),
            Self::Subscribe(request) => request.weight,
            Self::Unsubscribe(request) => request.weight,
            Self::Connected | Self::Created | Self::Disconnected(_) => OVERHEAD,
        }
    }
}

/// A PUBLISH, or a message without one.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) message: Arc<Message>,
    /// Packet id to be acknowledged; 0 for QoS 0 and for messages that no client awaits an answer for.
    pub(crate) packet_id: u16,
    /// Ready when the packet id of a QoS 2 message is durable: no handler runs before.
    pub(crate) journal: Option<AckJoin>,
    /// The will that it is, when the session store has that.
    pub(crate) will: Option<RecordedWill>,
    /// It is refused with this code, when its turn to be answered comes: no handler is asked.
    pub(crate) refusal: Option<ReasonCode>,
    /// The position of its connection in what it reads, behind it: see [`ReadAt`](crate::route::ReadAt).
    pub(crate) position: u64,
}

impl Inbound {
    /// A message that nobody awaits an answer for.
    pub(crate) fn unanswered(message: Arc<Message>) -> Self {
        Self { message, packet_id: 0, journal: None, will: None, refusal: None, position: 0 }
    }

    /// Whether it must be answered by PUBACK or PUBREC, and which.
    pub(super) fn answer(&self) -> Option<QoS> {
        (self.packet_id != 0).then_some(self.message.qos)
    }

    pub(super) fn weight(&self) -> usize {
        OVERHEAD + self.message.size()
    }
}

/// One filter of a SUBSCRIBE.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// As written, owning its memory.
    pub(crate) text: ByteString,
    /// What it parses to; `Err`: the reason code of the refusal.
    pub(crate) filter: Result<SharedFilter, ReasonCode>,
    pub(crate) options: SubscriptionOptions,
    /// What is still to be asked about it: nothing when no client asks for it.
    pub(crate) leave: &'static [Hook],
}

/// A SUBSCRIBE on its way.
pub(crate) struct Subscribing {
    /// Packet id to answer; `None`: a handler wants it.
    pub(crate) packet_id: Option<u16>,
    /// Still to do.
    pub(crate) wanted: VecDeque<Wanted>,
    pub(super) weight: usize,
    pub(super) reasons: Vec<ReasonCode>,
    pub(super) granted: Vec<Granted>,
    /// Of the events raised so far, with the index in `granted` they are about.
    pub(super) scopes: Vec<(usize, Scope)>,
    /// Whether a subscription was recorded: it must be durable before the answer.
    pub(super) recorded: bool,
    /// The number of the hold when the subscription is there since before a restart, and brings what it had not yet.
    pub(super) resumes: Option<u32>,
    /// Memory of the retained messages that stores gave for its filters so far, bytes.
    pub(super) brought: usize,
}

impl Subscribing {
    pub(crate) fn new(packet_id: Option<u16>, wanted: impl IntoIterator<Item = Wanted>) -> Self {
        let wanted: VecDeque<Wanted> = wanted.into_iter().collect();
        Self {
            packet_id,
            weight: wanted.iter().map(|wanted| OVERHEAD + wanted.text.len()).sum(),
            wanted,
            reasons: Vec::new(),
            granted: Vec::new(),
            scopes: Vec::new(),
            recorded: false,
            resumes: None,
            brought: 0,
        }
    }

    /// What the subscription to `wanted`, which is there, had still to bring when the process or an earlier connection ended,
    /// behind `hold`. Of the options nothing counts but that no retained messages may be wanted.
    pub(crate) fn resuming(wanted: Wanted, hold: u32) -> Self {
        Self { resumes: Some(hold), ..Self::new(None, [wanted]) }
    }

    /// Counts what the handlers of one filter gave.
    pub(super) fn count_brought(&mut self, scope: &Scope) {
        let effects = scope.effects.lock();
        self.brought += effects.retained.iter().flatten().map(|message| message.size()).sum::<usize>();
    }
}

/// A subscription that was granted, with what handlers want for it.
pub(crate) struct Granted {
    /// As the client wrote it.
    pub(crate) text: ByteString,
    pub(crate) filter: SharedFilter,
    pub(crate) options: SubscriptionOptions,
    /// Whether the subscription had existed.
    pub(crate) existed: bool,
    /// Ids from this one on are of messages published since.
    pub(crate) since: MsgId,
    /// If the broker may have retained messages for it: what came before this waited for the client when it was made.
    pub(crate) before: Option<Rank>,
    /// Number of the hold that keeps live messages back until it is known whether stores have older ones.
    pub(crate) hold: Option<u32>,
    /// Names this making of the subscription.
    pub(crate) ticket: MsgId,
    /// It is there since before a restart, and only goes on to bring what it had not.
    pub(crate) resumed: bool,
    pub(crate) effects: Effects,
}

/// An UNSUBSCRIBE on its way.
pub(crate) struct Unsubscribing {
    /// Packet id to answer; `None`: a handler wants it.
    pub(crate) packet_id: Option<u16>,
    /// Still to do.
    pub(crate) filters: VecDeque<ByteString>,
    pub(super) weight: usize,
    pub(super) reasons: Vec<ReasonCode>,
    /// Filters that the client no longer subscribes to, shared ones not among them.
    pub(super) removed: Vec<TopicFilter>,
    pub(super) scopes: Vec<Scope>,
    /// Whether a removal was recorded: it must be durable before the answer.
    pub(super) recorded: bool,
}

impl Unsubscribing {
    pub(crate) fn new(packet_id: Option<u16>, filters: impl IntoIterator<Item = ByteString>) -> Self {
        let filters: VecDeque<ByteString> = filters.into_iter().collect();
        Self {
            packet_id,
            weight: filters.iter().map(|text| OVERHEAD + text.len()).sum(),
            filters,
            reasons: Vec::new(),
            removed: Vec::new(),
            scopes: Vec::new(),
            recorded: false,
        }
    }
}

impl Granted {
    /// Whether no live message may be sent until what the subscription brings is known.
    pub(super) fn pauses(&self) -> bool {
        self.before.is_some() && self.hold.is_none()
    }
}

/// What a pipeline tells the connection, in the order of the jobs.
pub(crate) enum Reply {
    /// Send PUBACK.
    PubAck(Ack),
    /// Send PUBREC, and what answers that which came `meanwhile`, maybe on a later connection.
    PubRec { ack: Ack, meanwhile: Meanwhile },
    /// Send SUBACK, then what the new subscriptions bring.
    Subscribed { packet_id: Option<u16>, reasons: Vec<ReasonCode>, granted: Vec<Granted> },
    /// Send UNSUBACK.
    Unsubscribed { packet_id: Option<u16>, reasons: Vec<ReasonCode>, removed: Vec<TopicFilter> },
    /// End the connection without an answer: the client sends the message again. `resent`: it has done so already.
    Close { resent: bool },
}
