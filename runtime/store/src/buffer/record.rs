//! An operation as bytes, and back: what the overflow buffer holds and dead letters carry.
//!
//! A record begins with the version of its form, so that a later release can tell what an earlier one wrote, and the time
//! at which it was made. Of a message it keeps what stores write; custom statements are kept as they were written, with the values that they had.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use tidegate_event::{Hook, Message, MsgId, Node, Origin, QoS, TopicFilter, TopicName};

use crate::operation::{Operation, Subject};
use crate::statement::{Bound, Language, Template, TemplateCache};

/// The form of records. Change it when [`Form`] changes, and keep reading the old ones.
const VERSION: u8 = 1;

/// Why bytes are no operation.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// They were written by another release.
    #[error("the record has form {0}, this release reads {VERSION}")]
    Version(u8),
    /// They are damaged.
    #[error("the record is damaged: {0}")]
    Damaged(String),
}

fn damaged(error: impl ToString) -> RecordError {
    RecordError::Damaged(error.to_string())
}

/// The fields of [`Operation`], in a form that stays the same when that changes.
#[derive(Serialize, Deserialize)]
enum Form {
    ClientOnline { client: ByteString, node: String, at_ms: u64, ttl: Ttl },
    ClientOffline { client: ByteString, node: String, since_ms: u64, at_ms: u64, ttl: Ttl },
    StoreSubscription { client: ByteString, filter: ByteString, qos: u8, ttl: Ttl },
    DeleteSubscription { client: ByteString, filter: ByteString },
    AppendMessage(Letter, Ttl),
    KeepLatest(Letter, Ttl),
    AdvancePosition { client: ByteString, topic: ByteString, through: u128, ttl: Ttl },
    DeletePositions { client: ByteString, filter: ByteString },
    RemoveMessage { topic: ByteString, id: u128 },
    PutRetained(Letter, Ttl),
    DeleteRetained { topic: ByteString },
    Execute(Custom),
}

/// Seconds after which what is written expires.
type Ttl = Option<u64>;

/// Custom statements and what their event was about.
#[derive(Serialize, Deserialize)]
struct Custom {
    statements: Vec<Statement>,
    client: Option<ByteString>,
    topic: Option<ByteString>,
    message: Option<Letter>,
}

/// A message.
#[derive(Serialize, Deserialize)]
struct Letter {
    id: u128,
    topic: ByteString,
    payload: Bytes,
    qos: u8,
    retain: bool,
    dup: bool,
    timestamp_ms: u64,
    sender: ByteString,
    will: bool,
}

/// A custom statement and the values of its variables.
#[derive(Serialize, Deserialize)]
struct Statement {
    text: String,
    hook: String,
    commands: bool,
    values: Vec<Datum>,
}

/// [`Bound`].
#[derive(Serialize, Deserialize)]
enum Datum {
    Null,
    Integer(i64),
    Text(Arc<str>),
    Bytes(Bytes),
}

/// Version and time.
const HEAD: usize = 9;

/// `operation` as bytes, made at `now_ms` (milliseconds since the epoch).
///
/// # Errors
/// [`RecordError::Damaged`] when it cannot be written in this form, which no operation is known to cause.
pub(crate) fn encode(operation: &Operation, now_ms: u64) -> Result<Bytes, RecordError> {
    let mut bytes = Vec::with_capacity(operation.size());
    bytes.push(VERSION);
    bytes.extend_from_slice(&now_ms.to_be_bytes());
    postcard::to_extend(&form(operation), bytes).map(Bytes::from).map_err(damaged)
}

/// The operation that `bytes` are. Statements are compiled by `templates`.
///
/// # Errors
/// [`RecordError`].
pub(crate) fn decode(bytes: &[u8], templates: &TemplateCache) -> Result<Operation, RecordError> {
    match (bytes.first(), bytes.get(HEAD..)) {
        (Some(&VERSION), Some(form)) => operation(postcard::from_bytes(form).map_err(damaged)?, templates),
        (Some(&VERSION) | None, _) => Err(damaged("it is too short")),
        (Some(&version), _) => Err(RecordError::Version(version)),
    }
}

/// When the record was made, milliseconds since the epoch; `None` when it is too damaged to tell.
pub(crate) fn made_at_ms(bytes: &[u8]) -> Option<u64> {
    bytes.get(1..HEAD)?.try_into().ok().map(u64::from_be_bytes)
}

fn form(operation: &Operation) -> Form {
    let text = |filter: &TopicFilter| filter.as_byte_string().clone();
    let name = |topic: &TopicName| topic.as_byte_string().clone();
    match operation {
        Operation::ClientOnline { client, node, at_ms, ttl } => {
            Form::ClientOnline { client: client.clone(), node: node.name().into(), at_ms: *at_ms, ttl: *ttl }
        }
        Operation::ClientOffline { client, node, since_ms, at_ms, ttl } => Form::ClientOffline {
            client: client.clone(),
            node: node.name().into(),
            since_ms: *since_ms,
            at_ms: *at_ms,
            ttl: *ttl,
        },
        Operation::StoreSubscription { client, filter, qos, ttl } => Form::StoreSubscription {
            client: client.clone(),
            filter: text(filter),
            qos: qos.level(),
            ttl: *ttl,
        },
        Operation::DeleteSubscription { client, filter } => {
            Form::DeleteSubscription { client: client.clone(), filter: text(filter) }
        }
        Operation::AppendMessage { message, ttl } => Form::AppendMessage(letter(message), *ttl),
        Operation::KeepLatest { message, ttl } => Form::KeepLatest(letter(message), *ttl),
        Operation::AdvancePosition { client, topic, through, ttl } => Form::AdvancePosition {
            client: client.clone(),
            topic: name(topic),
            through: through.bits(),
            ttl: *ttl,
        },
        Operation::DeletePositions { client, filter } => {
            Form::DeletePositions { client: client.clone(), filter: text(filter) }
        }
        Operation::RemoveMessage { topic, id } => Form::RemoveMessage { topic: name(topic), id: id.bits() },
        Operation::PutRetained { message, ttl } => Form::PutRetained(letter(message), *ttl),
        Operation::DeleteRetained { topic } => Form::DeleteRetained { topic: name(topic) },
        Operation::Execute { statements, values, subject } => {
            let statement = |(template, values): (&Arc<Template>, &[Bound])| Statement {
                text: template.written().to_owned(),
                commands: template.language() == Language::Commands,
                hook: template.hook().name().to_owned(),
                values: values.iter().map(datum).collect(),
            };
            Form::Execute(Custom {
                statements: statements
                    .iter()
                    .zip(values.iter().map(|values| &**values))
                    .map(statement)
                    .collect(),
                client: subject.client.clone(),
                topic: subject.topic.clone(),
                message: subject.message.as_deref().map(letter),
            })
        }
    }
}

fn letter(message: &Message) -> Letter {
    Letter {
        id: message.id.bits(),
        topic: message.topic.as_byte_string().clone(),
        payload: message.payload.clone(),
        qos: message.qos.level(),
        retain: message.retain,
        dup: message.dup,
        timestamp_ms: message.timestamp_ms,
        sender: message.sender.clone(),
        will: message.origin == Origin::Will,
    }
}

fn datum(value: &Bound) -> Datum {
    match value {
        Bound::Null => Datum::Null,
        Bound::Integer(number) => Datum::Integer(*number),
        Bound::Text(text) => Datum::Text(Arc::clone(text)),
        Bound::Bytes(bytes) => Datum::Bytes(bytes.clone()),
    }
}

fn operation(form: Form, templates: &TemplateCache) -> Result<Operation, RecordError> {
    let filter = |text: ByteString| TopicFilter::new(text).map_err(damaged);
    let topic = |text: ByteString| TopicName::new(text).map_err(damaged);
    Ok(match form {
        Form::ClientOnline { client, node, at_ms, ttl } => {
            Operation::ClientOnline { client, node: Arc::new(Node::new(&node)), at_ms, ttl }
        }
        Form::ClientOffline { client, node, since_ms, at_ms, ttl } => {
            Operation::ClientOffline { client, node: Arc::new(Node::new(&node)), since_ms, at_ms, ttl }
        }
        Form::StoreSubscription { client, filter: text, qos, ttl } => {
            Operation::StoreSubscription { client, filter: filter(text)?, qos: level(qos)?, ttl }
        }
        Form::DeleteSubscription { client, filter: text } => {
            Operation::DeleteSubscription { client, filter: filter(text)? }
        }
        Form::AppendMessage(letter, ttl) => Operation::AppendMessage { message: message(letter)?, ttl },
        Form::KeepLatest(letter, ttl) => Operation::KeepLatest { message: message(letter)?, ttl },
        Form::AdvancePosition { client, topic: text, through, ttl } => {
            let through = MsgId::from_bits(through);
            Operation::AdvancePosition { client, topic: topic(text)?, through, ttl }
        }
        Form::DeletePositions { client, filter: text } => {
            Operation::DeletePositions { client, filter: filter(text)? }
        }
        Form::RemoveMessage { topic: text, id } => {
            Operation::RemoveMessage { topic: topic(text)?, id: MsgId::from_bits(id) }
        }
        Form::PutRetained(letter, ttl) => Operation::PutRetained { message: message(letter)?, ttl },
        Form::DeleteRetained { topic: text } => Operation::DeleteRetained { topic: topic(text)? },
        Form::Execute(Custom { statements, client, topic, message: about }) => {
            let (mut compiled, mut values) = (Vec::new(), Vec::new());
            for Statement { text, hook, commands, values: data } in statements {
                let language = if commands { Language::Commands } else { Language::Sql };
                let hook = Hook::from_name(&hook).ok_or_else(|| damaged(format!("no hook {hook:?}")))?;
                compiled.push(templates.get(&text, hook, language).map_err(damaged)?);
                values.push(data.into_iter().map(bound).collect());
            }
            let subject = Subject { client, topic, message: about.map(message).transpose()? };
            Operation::Execute { statements: compiled.into(), values: values.into(), subject }
        }
    })
}

fn message(letter: Letter) -> Result<Arc<Message>, RecordError> {
    Ok(Arc::new(Message {
        id: MsgId::from_bits(letter.id),
        topic: TopicName::new(letter.topic).map_err(damaged)?,
        payload: letter.payload,
        qos: level(letter.qos)?,
        retain: letter.retain,
        dup: letter.dup,
        timestamp_ms: letter.timestamp_ms,
        sender: letter.sender,
        publisher: None,
        properties: None,
        origin: if letter.will { Origin::Will } else { Origin::Client },
        hops: 0,
    }))
}

fn level(qos: u8) -> Result<QoS, RecordError> {
    QoS::try_from(qos).map_err(|qos| damaged(format!("no QoS {qos}")))
}

fn bound(datum: Datum) -> Bound {
    match datum {
        Datum::Null => Bound::Null,
        Datum::Integer(number) => Bound::Integer(number),
        Datum::Text(text) => Bound::Text(text),
        Datum::Bytes(bytes) => Bound::Bytes(bytes),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn some_message() -> Arc<Message> {
        message(Letter {
            id: u128::MAX - 7,
            topic: "a/b".into(),
            payload: Bytes::from_static(b"\x00\xff binary"),
            qos: 2,
            retain: true,
            dup: true,
            timestamp_ms: 1_700_000_000_123,
            sender: "c 1".into(),
            will: true,
        })
        .unwrap()
    }

    fn one_of_each(templates: &TemplateCache) -> Vec<Operation> {
        let (client, filter) = (ByteString::from_static("c:1"), TopicFilter::new("a/#").unwrap());
        let (topic, node) = (TopicName::new("a/b").unwrap(), Arc::new(Node::new("n@h")));
        let (message, id) = (some_message(), MsgId::from_bits(77));
        let text = "insert into t values (${topic}, ${payload}, ${qos})";
        let statement = templates.get(text, Hook::MessagePublish, Language::Sql).unwrap();
        let command = templates.get("SET k ${payload}", Hook::MessagePublish, Language::Commands).unwrap();
        let values =
            [Bound::Text("a/b".into()), Bound::Bytes(Bytes::from_static(b"\xfe")), Bound::Integer(-1)];
        let subject =
            Subject { client: Some(client.clone()), topic: None, message: Some(Arc::clone(&message)) };
        vec![
            Operation::ClientOnline {
                client: client.clone(),
                node: Arc::clone(&node),
                at_ms: 5,
                ttl: Some(9),
            },
            Operation::ClientOffline { client: client.clone(), node, since_ms: 4, at_ms: 6, ttl: None },
            Operation::StoreSubscription {
                client: client.clone(),
                filter: filter.clone(),
                qos: QoS::AtLeastOnce,
                ttl: None,
            },
            Operation::DeleteSubscription { client: client.clone(), filter: filter.clone() },
            Operation::AppendMessage { message: Arc::clone(&message), ttl: Some(60) },
            Operation::KeepLatest { message: Arc::clone(&message), ttl: None },
            Operation::AdvancePosition {
                client: client.clone(),
                topic: topic.clone(),
                through: id,
                ttl: None,
            },
            Operation::DeletePositions { client, filter },
            Operation::RemoveMessage { topic: topic.clone(), id },
            Operation::PutRetained { message, ttl: None },
            Operation::DeleteRetained { topic },
            Operation::Execute {
                statements: [statement, command].into(),
                values: Box::new([Box::new(values.clone()), Box::new(values)]),
                subject,
            },
        ]
    }

    #[test]
    fn every_operation_comes_back_as_it_was() {
        let templates = TemplateCache::default();
        let mut seen = std::collections::HashSet::new();
        for operation in one_of_each(&templates) {
            let back = decode(&encode(&operation, 5).unwrap(), &templates).unwrap();
            assert_eq!(format!("{back:?}"), format!("{operation:?}"));
            seen.insert(operation.name());
        }
        assert_eq!(seen.len(), 12, "an operation is missing here");
    }

    #[test]
    fn foreign_and_damaged_records_are_told_apart() {
        let templates = TemplateCache::default();
        for operation in one_of_each(&templates) {
            let bytes = encode(&operation, 5).unwrap();
            assert_eq!(made_at_ms(&bytes), Some(5));
            let mut newer = bytes.to_vec();
            if let Some(version) = newer.first_mut() {
                *version = VERSION + 1;
            }
            assert_eq!(decode(&newer, &templates).unwrap_err(), RecordError::Version(VERSION + 1));
            for end in 0..bytes.len() {
                let cut = bytes.get(..end).unwrap_or_default();
                assert!(decode(cut, &templates).is_err(), "{} cut at {end}", operation.name());
            }
        }
    }
}
