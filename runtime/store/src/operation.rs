//! What the built-in functions ask of a database, as data: the writer queues operations, a back end executes them
//! in batches.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use foldhash::fast::FixedState;
use tidegate_event::{Message, MsgId, Node, QoS, TopicFilter, TopicName};

use crate::statement::{Bound, Template};

/// A change of the database. Every operation may be executed again after an unclear failure: the result is the
/// same (custom statements excepted: they are executed again only when their transaction did not commit).
#[derive(Clone, Debug)]
pub enum Operation {
    /// The client is online: state 1, `online_at` set, `offline_at` empty.
    ClientOnline {
        /// Client id.
        client: ByteString,
        /// The node it is connected to.
        node: Arc<Node>,
        /// Since when, milliseconds since the epoch.
        at_ms: u64,
        /// What is written expires after so many seconds, where the store can.
        ttl: Option<u64>,
    },
    /// The client is offline: state 0, `offline_at` set, `online_at` kept; nothing when another node has it by now.
    ClientOffline {
        /// Client id.
        client: ByteString,
        /// The node it was connected to.
        node: Arc<Node>,
        /// Since when it was connected, milliseconds since the epoch: a newer connection keeps it online.
        since_ms: u64,
        /// Since when, milliseconds since the epoch.
        at_ms: u64,
        /// What is written expires after so many seconds, where the store can.
        ttl: Option<u64>,
    },
    /// Upsert the client's subscription.
    StoreSubscription {
        /// Client id.
        client: ByteString,
        /// Topic filter.
        filter: TopicFilter,
        /// Granted QoS.
        qos: QoS,
        /// What is written expires after so many seconds, where the store can.
        ttl: Option<u64>,
    },
    /// Delete the client's subscription.
    DeleteSubscription {
        /// Client id.
        client: ByteString,
        /// Topic filter.
        filter: TopicFilter,
    },
    /// Store the message unless one with its id is stored.
    AppendMessage {
        /// The message.
        message: Arc<Message>,
        /// What is written expires after so many seconds, where the store can.
        ttl: Option<u64>,
    },
    /// Store the message and delete the older ones of its topic.
    KeepLatest {
        /// The message.
        message: Arc<Message>,
        /// What is written expires after so many seconds, where the store can.
        ttl: Option<u64>,
    },
    /// Move the client's position in the topic up to the first stored message after `through`; never back.
    AdvancePosition {
        /// Client id.
        client: ByteString,
        /// Concrete topic.
        topic: TopicName,
        /// Up to which message.
        through: MsgId,
        /// What is written expires after so many seconds, where the store can.
        ttl: Option<u64>,
    },
    /// Delete the client's positions in the topics that the filter matches.
    DeletePositions {
        /// Client id.
        client: ByteString,
        /// Topic filter.
        filter: TopicFilter,
    },
    /// Delete a stored message (the ack of a queue).
    RemoveMessage {
        /// Its topic.
        topic: TopicName,
        /// Its id.
        id: MsgId,
    },
    /// Upsert the topic's retained message.
    PutRetained {
        /// The message.
        message: Arc<Message>,
        /// What is written expires after so many seconds, where the store can.
        ttl: Option<u64>,
    },
    /// Delete the topic's retained message.
    DeleteRetained {
        /// The topic.
        topic: TopicName,
    },
    /// Custom statements, in order.
    Execute {
        /// The statements.
        statements: Arc<[Arc<Template>]>,
        /// The values of each one's parameters.
        values: Box<[Box<[Bound]>]>,
        /// What the event was about.
        subject: Subject,
    },
}

/// What an event was about: it decides the order of custom statements and names them in dead letters.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// Client id.
    pub client: Option<ByteString>,
    /// Topic name or filter.
    pub topic: Option<ByteString>,
    /// The message, for hooks that have one.
    pub message: Option<Arc<Message>>,
}

/// What an operation costs in a queue besides its text and payload, in bytes.
const OVERHEAD: usize = 256;

impl Operation {
    /// The message that it adds to those of its topic.
    pub(crate) fn stored_message(&mut self) -> Option<&mut Arc<Message>> {
        match self {
            Self::AppendMessage { message, .. } | Self::KeepLatest { message, .. } => Some(message),
            _ => None,
        }
    }

    /// Its name in metrics and dead letters.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ClientOnline { .. } => "client_online",
            Self::ClientOffline { .. } => "client_offline",
            Self::StoreSubscription { .. } => "store_subscription",
            Self::DeleteSubscription { .. } => "delete_subscription",
            Self::AppendMessage { .. } => "append_message",
            Self::KeepLatest { .. } => "keep_latest",
            Self::AdvancePosition { .. } => "advance_position",
            Self::DeletePositions { .. } => "delete_positions",
            Self::RemoveMessage { .. } => "remove_message",
            Self::PutRetained { .. } => "put_retained",
            Self::DeleteRetained { .. } => "delete_retained",
            Self::Execute { .. } => "execute",
        }
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        let of_message = |message: &Arc<Message>| Subject {
            client: Some(message.sender.clone()),
            topic: Some(message.topic.as_byte_string().clone()),
            message: Some(Arc::clone(message)),
        };
        let about = |client: Option<&ByteString>, topic: Option<&ByteString>| Subject {
            client: client.cloned(),
            topic: topic.cloned(),
            message: None,
        };
        match self {
            Self::ClientOnline { client, .. } | Self::ClientOffline { client, .. } => {
                about(Some(client), None)
            }
            Self::StoreSubscription { client, filter, .. }
            | Self::DeleteSubscription { client, filter }
            | Self::DeletePositions { client, filter } => about(Some(client), Some(filter.as_byte_string())),
            Self::AppendMessage { message, .. }
            | Self::KeepLatest { message, .. }
            | Self::PutRetained { message, .. } => of_message(message),
            Self::AdvancePosition { client, topic, .. } => about(Some(client), Some(topic.as_byte_string())),
            Self::RemoveMessage { topic, .. } | Self::DeleteRetained { topic } => {
                about(None, Some(topic.as_byte_string()))
            }
            Self::Execute { subject, .. } => subject.clone(),
        }
    }

    /// Bytes it holds while it is queued.
    pub(crate) fn size(&self) -> usize {
        let held = match self {
            Self::AppendMessage { message, .. }
            | Self::KeepLatest { message, .. }
            | Self::PutRetained { message, .. } => message_size(message),
            Self::Execute { statements, values, subject } => {
                let texts: usize = statements.iter().map(|statement| statement.text().len()).sum();
                let values: usize = values.iter().flatten().map(Bound::size).sum();
                texts + values + subject.message.as_deref().map_or(0, message_size)
            }
            Self::StoreSubscription { filter, .. }
            | Self::DeleteSubscription { filter, .. }
            | Self::DeletePositions { filter, .. } => filter.as_str().len(),
            Self::AdvancePosition { topic, .. }
            | Self::RemoveMessage { topic, .. }
            | Self::DeleteRetained { topic } => topic.as_str().len(),
            Self::ClientOnline { .. } | Self::ClientOffline { .. } => 0,
        };
        held + OVERHEAD
    }

    /// Which of `shards` it belongs to: within a shard the order is kept.
    pub(crate) fn shard(&self, shards: usize) -> usize {
        shard_of(self.place(), shards)
    }

    /// The client or topic that it is about: operations on one client's state and subscriptions keep their order, and so
    /// do those on one topic's messages and positions.
    pub(crate) fn place(&self) -> &str {
        match self {
            // Where the acks are that it must not overtake.
            Self::DeletePositions { filter, .. } if !filter.is_wildcard() => filter.as_str(),
            Self::ClientOnline { client, .. }
            | Self::ClientOffline { client, .. }
            | Self::StoreSubscription { client, .. }
            | Self::DeleteSubscription { client, .. }
            | Self::DeletePositions { client, .. } => client,
            Self::AppendMessage { message, .. }
            | Self::KeepLatest { message, .. }
            | Self::PutRetained { message, .. } => message.topic.as_str(),
            Self::AdvancePosition { topic, .. }
            | Self::RemoveMessage { topic, .. }
            | Self::DeleteRetained { topic } => topic.as_str(),
            Self::Execute { statements, subject, .. } => {
                match (&subject.message, &subject.topic, &subject.client) {
                    (Some(message), ..) => message.topic.as_str(),
                    // The documents delete a position by a statement.
                    (None, Some(topic), _)
                        if !topic.contains(['+', '#'])
                            && statements.iter().any(|statement| names_positions(statement.text())) =>
                    {
                        topic
                    }
                    (None, _, Some(client)) => client,
                    (None, _, None) => "",
                }
            }
        }
    }
}

/// Whether a statement names the keys or the table of clients' positions.
fn names_positions(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["mqtt:acked:", "mqtt_acked", "mqtt.acked"].iter().any(|name| text.contains(name))
}

/// Bytes that a message keeps in memory.
fn message_size(message: &Message) -> usize {
    let properties = message.properties.as_deref().map_or(0, |properties| {
        let user: usize =
            properties.user.iter().map(|pair| size_of_val(pair) + pair.0.len() + pair.1.len()).sum();
        user + properties.content_type.as_ref().map_or(0, |text| text.len())
            + properties.response_topic.as_ref().map_or(0, |text| text.len())
            + properties.correlation_data.as_ref().map_or(0, Bytes::len)
    });
    message.payload.len() + message.topic.as_str().len() + properties
}

/// The shard of a client id or topic.
pub(crate) fn shard_of(key: &str, shards: usize) -> usize {
    if shards <= 1 {
        return 0;
    }
    let hash = FixedState::with_seed(0).hash_one(key);
    usize::try_from(hash % (shards as u64)).unwrap_or(0)
}

/// The id under which a stored message travels that was not written by this runtime (a `msgid` of another form,
/// or none): the row's number. Its time is 0, which no id of ours has.
pub fn foreign_id(row: i64) -> MsgId {
    MsgId::from_bits(u128::from(row.unsigned_abs()))
}

/// The row's number, when `id` is a [`foreign_id`].
pub fn foreign_row(id: MsgId) -> Option<i64> {
    (id.micros() == 0).then(|| i64::try_from(id.bits()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tidegate_event::{Hook, Origin, PublishProperties};

    use super::*;
    use crate::statement::Language;

    #[test]
    fn an_operation_is_charged_for_all_that_it_holds() {
        let pair = ("k".repeat(10_000).into(), "v".repeat(10_000).into());
        let properties = PublishProperties { user: vec![pair], ..PublishProperties::default() };
        let message = Arc::new(Message {
            id: MsgId::from_bits(1),
            topic: "t".parse().unwrap(),
            payload: vec![0; 10_000].into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            timestamp_ms: 0,
            sender: "c".into(),
            publisher: None,
            properties: Some(Box::new(properties)),
            origin: Origin::Client,
            hops: 0,
        });
        assert!(Operation::AppendMessage { message: Arc::clone(&message), ttl: None }.size() > 30_000);
        let text = format!("delete from t -- {}", "x".repeat(10_000));
        let template = Template::compile(&text, Hook::MessagePublish, Language::Sql).unwrap();
        let execute = Operation::Execute {
            statements: Arc::from([Arc::new(template)]),
            values: Box::default(),
            subject: Subject { message: Some(message), ..Subject::default() },
        };
        assert!(execute.size() > 40_000);
    }

    /// An ack before an UNSUBSCRIBE must not write the position after that has deleted it.
    #[test]
    fn what_deletes_a_position_is_in_the_shard_of_what_moves_it() {
        let execute = |text: &str, filter: &str, language| Operation::Execute {
            statements: Arc::from([Arc::new(
                Template::compile(text, Hook::SessionUnsubscribed, language).unwrap(),
            )]),
            values: Box::default(),
            subject: Subject { client: Some("c".into()), topic: Some(filter.into()), message: None },
        };
        let moved = Operation::AdvancePosition {
            client: "c".into(),
            topic: "a/b".parse().unwrap(),
            through: MsgId::from_bits(1),
            ttl: None,
        };
        let delete =
            |filter: &str| Operation::DeletePositions { client: "c".into(), filter: filter.parse().unwrap() };
        let printed = "DEL mqtt:acked:${clientid}:${topic}";
        let sql = "delete from mqtt_acked where clientid = ${clientid} and topic = ${topic}";
        for deleted in
            [delete("a/b"), execute(printed, "a/b", Language::Commands), execute(sql, "a/b", Language::Sql)]
        {
            assert_eq!(deleted.place(), moved.place(), "{deleted:?}");
        }
        // The rest is ordered with what else is about the client.
        for other in [
            delete("a/+"),
            execute(printed, "a/#", Language::Commands),
            execute("HDEL mqtt:sub:${clientid} ${topic}", "a/b", Language::Commands),
        ] {
            assert_eq!(other.place(), "c", "{other:?}");
        }
    }

    #[test]
    fn a_foreign_row_travels_as_an_id() {
        assert_eq!(foreign_row(foreign_id(42)), Some(42));
        let ours = MsgId::from_bits(1_700_000_000_000_000_u128 << 64);
        assert_eq!(foreign_row(ours), None);
    }

    #[test]
    fn a_client_and_a_topic_always_have_the_same_shard() {
        for key in ["a", "b/c", ""] {
            assert_eq!(shard_of(key, 8), shard_of(key, 8));
            assert!(shard_of(key, 8) < 8);
            assert_eq!(shard_of(key, 1), 0);
        }
        let used: std::collections::BTreeSet<_> = (0..100).map(|n| shard_of(&format!("t/{n}"), 8)).collect();
        assert_eq!(used.len(), 8, "topics spread over all shards");
    }
}
