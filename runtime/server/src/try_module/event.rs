//! Events for `tidegate test`, read from JSON: everything but the hook and the topic has a default.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tidegate_event::{
    Client, DisconnectReason, Event, Hook, IdSource, Message, Origin, Protocol, PublishProperties, QoS,
    Tenant, TopicFilter, TopicName, now_ms,
};

use super::fields::{Fields, nearest};
use super::{leave, read_json, shown};

const KEYS: &[&str] = &[
    "hook",
    "client",
    "message",
    "reason",
    "filter",
    "qos",
    "shared",
    "password",
    "password_base64",
    "access",
    "topic",
    "retain",
];
const CLIENT_KEYS: &[&str] = &["id", "username", "peer", "protocol"];
const MESSAGE_KEYS: &[&str] = &[
    "topic",
    "payload",
    "payload_base64",
    "payload_json",
    "qos",
    "retain",
    "dup",
    "user_properties",
    "content_type",
    "response_topic",
    "message_expiry",
];
const PAYLOADS: [&str; 3] = ["payload", "payload_base64", "payload_json"];

/// Why a connection may have ended.
const REASONS: [DisconnectReason; 8] = [
    DisconnectReason::Normal,
    DisconnectReason::SocketClosed,
    DisconnectReason::KeepAliveTimeout,
    DisconnectReason::TakenOver,
    DisconnectReason::ProtocolError,
    DisconnectReason::MalformedPacket,
    DisconnectReason::Kicked,
    DisconnectReason::Shutdown,
];

/// An event and where it stands.
#[derive(Debug)]
pub(super) struct Named {
    /// The file, and which of its events.
    pub(super) place: String,
    pub(super) event: Event,
}

/// The event, or the events, of a file; `-` is standard input.
///
/// # Errors
/// All mistakes, each with the file and the key.
pub(super) fn read(path: &Path, ids: &IdSource) -> Result<Vec<Named>, Vec<String>> {
    events(&shown(path), &read_json(path)?, ids)
}

pub(super) fn events(file: &str, value: &Value, ids: &IdSource) -> Result<Vec<Named>, Vec<String>> {
    let single = std::slice::from_ref(value);
    let (all, is_list) = value.as_array().map_or((single, false), |list| (list.as_slice(), true));
    let mut mistakes = Vec::new();
    let mut events = Vec::new();
    for (number, value) in all.iter().enumerate() {
        let place = if is_list { format!("{file}[{number}]") } else { file.to_owned() };
        let event = event(&place, value, ids, &mut mistakes);
        events.extend(event.map(|event| Named { place, event }));
    }
    if mistakes.is_empty() { Ok(events) } else { Err(mistakes) }
}

/// The event, as far as it can be told; it counts when there are no mistakes.
fn event(place: &str, value: &Value, ids: &IdSource, mistakes: &mut Vec<String>) -> Option<Event> {
    let fields = Fields::of(place, "", value, KEYS, mistakes)?;
    let names: Vec<&str> = Hook::all().map(Hook::name).collect();
    let Some(name) = fields.text("hook", mistakes) else {
        if fields.get("hook").is_none() {
            mistakes.push(fields.mistake("hook", format!("missing; expected one of {}", names.join(", "))));
        }
        return None;
    };
    let client = client(place, &fields, mistakes).map(Arc::new)?;
    let Some(hook) = Hook::from_name(name) else {
        let hint = match nearest(name, &names) {
            Some(near) => format!("unknown hook {name:?}; did you mean {near:?}?"),
            None => format!("unknown hook {name:?}; expected one of {}", names.join(", ")),
        };
        mistakes.push(fields.mistake("hook", hint));
        return None;
    };
    match hook {
        Hook::ClientConnected => Some(Event::ClientConnected { client }),
        Hook::ClientDisconnected => {
            Some(Event::ClientDisconnected { client, reason: reason(&fields, mistakes) })
        }
        Hook::SessionCreated => Some(Event::SessionCreated { client }),
        Hook::SessionSubscribed => {
            let (filter, qos) = (filter(&fields, mistakes)?, qos(&fields, mistakes));
            Some(Event::SessionSubscribed { client, filter, qos, shared: fields.flag("shared", mistakes) })
        }
        Hook::SessionUnsubscribed => {
            let filter = filter(&fields, mistakes)?;
            Some(Event::SessionUnsubscribed { client, filter, shared: fields.flag("shared", mistakes) })
        }
        Hook::MessagePublish => {
            let message = message(place, &fields, Some(client), ids, mistakes)?;
            Some(Event::MessagePublish { message: Arc::new(message), tenant: Tenant::default() })
        }
        Hook::MessageDeliver => {
            let message = Arc::new(message(place, &fields, None, ids, mistakes)?);
            Some(Event::MessageDeliver { client, message })
        }
        Hook::MessageAcked => {
            let message = Arc::new(message(place, &fields, None, ids, mistakes)?);
            let through = Some(message.id);
            Some(Event::MessageAcked { client, message, through, explicit: true })
        }
        Hook::ClientAuthenticate => {
            Some(Event::ClientAuthenticate { client, password: leave::password(&fields, mistakes) })
        }
        Hook::ClientAuthorize => {
            let access = leave::access(&fields, &client, ids, mistakes)?;
            Some(Event::ClientAuthorize { client, access })
        }
        Hook::ClientSubscribe => {
            let request = leave::request(&fields, mistakes)?;
            Some(Event::ClientSubscribe { client, request: Arc::new(request) })
        }
    }
}

fn client(place: &str, event: &Fields<'_>, mistakes: &mut Vec<String>) -> Option<Client> {
    let nothing = Value::Object(serde_json::Map::new());
    let value = event.get("client").unwrap_or(&nothing);
    let fields = Fields::of(place, "client.", value, CLIENT_KEYS, mistakes)?;
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 50_000));
    let address = |value: &Value| value.as_str()?.parse().ok();
    Some(Client {
        id: fields.text("id", mistakes).unwrap_or("test").into(),
        username: fields.text("username", mistakes).map(Into::into),
        peer: fields.read("peer", peer, "an address such as \"127.0.0.1:50000\"", mistakes, address),
        protocol: fields.read("protocol", Protocol::V5, "3, 4 or 5 (3.1, 3.1.1 or 5)", mistakes, protocol),
        tenant: Tenant::default(),
        keep_alive: 60,
        clean_start: true,
        connected_at_ms: now_ms(),
        connection: 1,
        ..Client::default()
    })
}

fn protocol(value: &Value) -> Option<Protocol> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.as_str() {
        "3" | "3.1" => Some(Protocol::V31),
        "4" | "3.1.1" => Some(Protocol::V311),
        "5" | "5.0" => Some(Protocol::V5),
        _ => None,
    }
}

pub(super) fn qos(fields: &Fields<'_>, mistakes: &mut Vec<String>) -> QoS {
    let level = |value: &Value| QoS::try_from(u8::try_from(value.as_u64()?).ok()?).ok();
    fields.read("qos", QoS::AtMostOnce, "0, 1 or 2", mistakes, level)
}

fn reason(fields: &Fields<'_>, mistakes: &mut Vec<String>) -> DisconnectReason {
    let expected = format!("one of {}", REASONS.map(DisconnectReason::name).join(", "));
    let word = |value: &Value| REASONS.into_iter().find(|reason| value.as_str() == Some(reason.name()));
    fields.read("reason", DisconnectReason::Normal, &expected, mistakes, word)
}

fn filter(fields: &Fields<'_>, mistakes: &mut Vec<String>) -> Option<TopicFilter> {
    fields.parsed("filter", "a topic filter such as \"a/#\"", mistakes, TopicFilter::new)
}

/// The topic name, which must be there.
pub(super) fn topic(fields: &Fields<'_>, mistakes: &mut Vec<String>) -> Option<TopicName> {
    fields.parsed("topic", "a topic name such as \"a/b\"", mistakes, TopicName::new)
}

fn message(
    place: &str,
    event: &Fields<'_>,
    publisher: Option<Arc<Client>>,
    ids: &IdSource,
    mistakes: &mut Vec<String>,
) -> Option<Message> {
    let Some(value) = event.get("message") else {
        mistakes.push(event.mistake("message", "missing; expected an object with a topic"));
        return None;
    };
    let fields = Fields::of(place, "message.", value, MESSAGE_KEYS, mistakes)?;
    let topic = topic(&fields, mistakes);
    let payload = payload(&fields, mistakes);
    let properties = properties(&fields, mistakes);
    let (qos, retain, dup) =
        (qos(&fields, mistakes), fields.flag("retain", mistakes), fields.flag("dup", mistakes));
    Some(Message {
        id: ids.next_id(),
        topic: topic?,
        payload,
        qos,
        retain,
        dup,
        timestamp_ms: now_ms(),
        sender: publisher.as_ref().map_or_else(|| "publisher".into(), |client| client.id.clone()),
        publisher,
        properties,
        origin: Origin::Client,
        hops: 0,
    })
}

fn payload(fields: &Fields<'_>, mistakes: &mut Vec<String>) -> Bytes {
    fields.one_of(&PAYLOADS, "the payload", mistakes);
    if let Some(value) = fields.get("payload_json") {
        return value.to_string().into();
    }
    if let Some(bytes) = fields.base64("payload_base64", mistakes) {
        return bytes.into();
    }
    fields.text("payload", mistakes).unwrap_or_default().to_owned().into()
}

fn properties(fields: &Fields<'_>, mistakes: &mut Vec<String>) -> Option<Box<PublishProperties>> {
    let pairs = |value: &Value| {
        let pair = |pair: &Value| match pair.as_array()?.as_slice() {
            [name, value] => Some((name.as_str()?.into(), value.as_str()?.into())),
            _ => None,
        };
        value.as_array()?.iter().map(pair).collect::<Option<Vec<_>>>()
    };
    let user = fields.read(
        "user_properties",
        Vec::new(),
        "a list of pairs such as [[\"k\", \"v\"]]",
        mistakes,
        pairs,
    );
    let seconds = |value: &Value| u32::try_from(value.as_u64()?).ok().map(Some);
    let properties = PublishProperties {
        user,
        content_type: fields.text("content_type", mistakes).map(Into::into),
        response_topic: fields.text("response_topic", mistakes).map(Into::into),
        message_expiry: fields.read("message_expiry", None, "seconds", mistakes, seconds),
        ..PublishProperties::default()
    };
    (properties != PublishProperties::default()).then(|| Box::new(properties))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;
    use tidegate_event::Node;

    fn read_value(value: &Value) -> Result<Vec<Named>, Vec<String>> {
        events("e.json", value, &IdSource::new(&Node::default()))
    }

    #[test]
    fn hook_and_topic_suffice() {
        let events = read_value(&json!({"hook": "message.publish", "message": {"topic": "a/b"}})).unwrap();
        let Event::MessagePublish { message, .. } = &events[0].event else { panic!("publish") };
        assert_eq!((message.topic.as_str(), message.payload.len(), message.qos), ("a/b", 0, QoS::AtMostOnce));
        assert_eq!(&*message.sender, "test");
        assert!(message.properties.is_none());
    }

    #[test]
    fn every_hook_has_a_form() {
        let message = json!({"topic": "a", "payload": "x"});
        for hook in Hook::all() {
            let value = json!({
                "hook": hook.name(), "message": message, "filter": "a/#", "qos": 1, "access": "subscribe",
            });
            assert_eq!(read_value(&value).unwrap()[0].event.hook(), hook);
        }
        let gone = json!({"hook": "client.disconnected", "reason": "takenover", "client": {"id": "x", "protocol": "3.1.1"}});
        let events = read_value(&gone).unwrap();
        let Event::ClientDisconnected { client, reason } = &events[0].event else { panic!("disconnected") };
        assert_eq!(
            (&*client.id, client.protocol, *reason),
            ("x", Protocol::V311, DisconnectReason::TakenOver)
        );
    }

    #[test]
    fn payloads_have_three_forms() {
        let payload = |message: Value| {
            let events = read_value(&json!([{"hook": "message.deliver", "message": message}])).unwrap();
            events[0].event.message().unwrap().payload.clone()
        };
        assert_eq!(payload(json!({"topic": "a", "payload": "é"})), "é".as_bytes());
        assert_eq!(payload(json!({"topic": "a", "payload_base64": "/wA="})), &b"\xff\x00"[..]);
        assert_eq!(payload(json!({"topic": "a", "payload_json": {"x": [1, 2]}})), &br#"{"x":[1,2]}"#[..]);
        let user = json!({"topic": "a", "user_properties": [["k", "v"], ["k", "w"]], "message_expiry": 5});
        let events = read_value(&json!({"hook": "message.publish", "message": user})).unwrap();
        let properties = events[0].event.message().unwrap().properties.clone().unwrap();
        assert_eq!((properties.user.len(), properties.message_expiry), (2, Some(5)));
    }

    #[test]
    fn mistakes_name_the_file_the_key_and_what_was_expected() {
        let mistakes = |value: Value| read_value(&value).unwrap_err();
        assert_eq!(
            mistakes(json!([
                {"hook": "message.publsh"},
                {"hook": "message.publish", "mesage": {}, "message": {"topc": "a", "qos": 3}},
            ])),
            [
                "e.json[0]: hook: unknown hook \"message.publsh\"; did you mean \"message.publish\"?",
                "e.json[1]: mesage: unknown key; did you mean \"message\"?",
                "e.json[1]: message.topc: unknown key; did you mean \"topic\"?",
                "e.json[1]: message.topic: missing; expected a topic name such as \"a/b\"",
                "e.json[1]: message.qos: expected 0, 1 or 2, found 3",
            ]
        );
        for (value, part) in [
            (json!({}), "e.json: hook: missing; expected one of client.connected"),
            (json!("x"), "e.json: expected an object, found \"x\""),
            (json!({"hook": "session.subscribed"}), "e.json: filter: missing"),
            (json!({"hook": "session.subscribed", "filter": "a/#/b"}), "e.json: filter: \"a/#/b\": "),
            (
                json!({"hook": "client.connected", "client": {"peer": "x"}}),
                "client.peer: expected an address",
            ),
            (json!({"hook": "client.disconnected", "reason": "bored"}), "reason: expected one of normal, "),
            (
                json!({"hook": "message.acked", "message": {"topic": "a", "payload": "x", "payload_json": 1}}),
                "message.payload_json: there is payload already",
            ),
            (
                json!({"hook": "message.acked", "message": {"topic": "a", "payload_base64": "!"}}),
                "message.payload_base64: expected base64, found \"!\"",
            ),
            (
                json!({"hook": "message.acked", "message": {"topic": "a", "user_properties": {"k": "v"}}}),
                "message.user_properties: expected a list of pairs",
            ),
        ] {
            let found = mistakes(value.clone());
            assert!(found.iter().any(|mistake| mistake.contains(part)), "{value}: {found:?}");
        }
    }
}
