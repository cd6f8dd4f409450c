//! The letter about an event that a module could not handle: everything that is needed to see why, and to send the
//! message again.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use serde::Serialize;
use tidegate_event::{
    Event, Field, IdSource, Message, Node, Origin, PublishProperties, QoS, Scope, TopicName, Value, now_ms,
};

use crate::error::CallError;

/// Whose letter it is, and why it is written.
#[derive(Serialize)]
pub(crate) struct Cause<'a> {
    /// The module's name.
    pub(crate) module: &'a str,
    /// Hash of its file.
    pub(crate) version: &'a str,
    /// `policy`: the module's policy says so. `poison`: the message failed too often.
    pub(crate) reason: &'static str,
    /// Times the event was given to the guest, counting those before it was sent again.
    pub(crate) attempts: u32,
}

#[derive(Serialize)]
struct Letter<'a> {
    time: String,
    tenant: &'a str,
    node: &'a str,
    #[serde(flatten)]
    cause: &'a Cause<'a>,
    hook: &'static str,
    error: Failure<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<Publisher<'a>>,
    /// The message's topic, or a subscription's filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    /// Of a subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<u8>,
    /// Why the connection ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Packet<'a>>,
}

#[derive(Serialize)]
struct Failure<'a> {
    kind: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    backtrace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<&'a str>,
}

#[derive(Serialize)]
struct Publisher<'a> {
    id: &'a str,
    username: Option<&'a str>,
    peer: String,
    protocol: u8,
}

#[derive(Serialize)]
struct Packet<'a> {
    id: String,
    /// Client id of who published it.
    sender: &'a str,
    topic: &'a str,
    /// Base64.
    payload: String,
    qos: u8,
    retain: bool,
    dup: bool,
    timestamp_ms: u64,
    hops: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Properties<'a>>,
}

#[derive(Serialize)]
struct Properties<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_format_indicator: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_expiry_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<&'a str>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data: Option<String>,
    /// Pairs, in order.
    user: Vec<(&'a str, &'a str)>,
}

/// The letter about the event of `scope`, as one line of JSON.
///
/// # Errors
/// serde's.
pub(crate) fn write(
    cause: &Cause<'_>,
    scope: &Scope,
    error: &CallError,
) -> Result<String, serde_json::Error> {
    let (event, node) = (&scope.event, &*scope.node);
    serde_json::to_string(&Letter {
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        tenant: event.tenant().name(),
        node: node.name(),
        cause,
        hook: event.hook().name(),
        error: Failure {
            kind: error.kind(),
            text: error.summary(),
            backtrace: error.backtrace(),
            stderr: error.stderr(),
        },
        client: event.client().map(|client| Publisher {
            id: &client.id,
            username: client.username.as_deref(),
            peer: client.peer.to_string(),
            protocol: client.protocol.level(),
        }),
        topic: text(event, Field::Topic, node),
        qos: match event.value(Field::Qos, node) {
            Value::Int(qos) if event.message().is_none() => u8::try_from(qos).ok(),
            _ => None,
        },
        disconnect_reason: text(event, Field::Reason, node),
        message: event.message().map(|message| packet(message)),
    })
}

fn text(event: &Event, field: Field, node: &Node) -> Option<String> {
    match event.value(field, node) {
        Value::Text(text) => Some(text.into_owned()),
        _ => None,
    }
}

fn packet(message: &Message) -> Packet<'_> {
    Packet {
        id: message.id.to_string(),
        sender: &message.sender,
        topic: message.topic.as_str(),
        payload: STANDARD.encode(&message.payload),
        qos: message.qos.level(),
        retain: message.retain,
        dup: message.dup,
        timestamp_ms: message.timestamp_ms,
        hops: message.hops,
        properties: message.properties.as_deref().map(properties),
    }
}

fn properties(properties: &PublishProperties) -> Properties<'_> {
    Properties {
        payload_format_indicator: properties.payload_format,
        message_expiry_interval: properties.message_expiry,
        content_type: properties.content_type.as_deref(),
        response_topic: properties.response_topic.as_deref(),
        correlation_data: properties.correlation_data.as_ref().map(|data| STANDARD.encode(data)),
        user: properties.user.iter().map(|(name, value)| (&**name, &**value)).collect(),
    }
}

/// The message that brings `letter` to the subscribers of `topic`. `None` for a letter about such a message: it
/// would make letters without end, were it not for the limit of hops.
pub(crate) fn announce(letter: String, topic: &TopicName, scope: &Scope, ids: &IdSource) -> Option<Message> {
    let about = scope.event.message();
    if about.is_some_and(|about| about.topic == *topic) {
        return None;
    }
    Some(Message {
        id: ids.next_id(),
        topic: topic.clone(),
        payload: Bytes::from(letter),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        timestamp_ms: now_ms(),
        sender: ByteString::new(),
        publisher: None,
        properties: None,
        origin: Origin::Module,
        hops: about.map_or(0, |about| about.hops).saturating_add(1),
    })
}
