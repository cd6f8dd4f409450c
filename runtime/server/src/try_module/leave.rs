//! Events of the hooks that a client needs leave from: what it connects with, and what it wants to publish or subscribe to.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_event::{Access, Client, IdSource, Message, Origin, Password, Requested, now_ms};

use super::event::{qos, topic};
use super::fields::Fields;

const PASSWORDS: [&str; 2] = ["password", "password_base64"];

/// The password of CONNECT, if there is one.
pub(super) fn password(fields: &Fields<'_>, mistakes: &mut Vec<String>) -> Option<Password> {
    fields.one_of(&PASSWORDS, "the password", mistakes);
    let text = |mistakes: &mut Vec<String>| {
        fields.text("password", mistakes).map(|text| Bytes::copy_from_slice(text.as_bytes()))
    };
    let bytes = fields.base64("password_base64", mistakes).map(Bytes::from);
    bytes.or_else(|| text(mistakes)).map(Password::new)
}

/// What `client` wants to do with which topics.
pub(super) fn access(
    fields: &Fields<'_>,
    client: &Arc<Client>,
    ids: &IdSource,
    mistakes: &mut Vec<String>,
) -> Option<Access> {
    let word = |word: &str| match word {
        "publish" => Ok(true),
        "subscribe" => Ok(false),
        _ => Err("expected publish or subscribe"),
    };
    if !fields.parsed("access", "publish or subscribe", mistakes, word)? {
        return request(fields, mistakes).map(|request| Access::Subscribe(Arc::new(request)));
    }
    let (topic, qos, retain) =
        (topic(fields, mistakes), qos(fields, mistakes), fields.flag("retain", mistakes));
    let message = Message {
        id: ids.next_id(),
        topic: topic?,
        // Nobody who is asked for leave sees it.
        payload: Bytes::new(),
        qos,
        retain,
        dup: false,
        timestamp_ms: now_ms(),
        sender: client.id.clone(),
        publisher: Some(client.clone()),
        properties: None,
        origin: Origin::Client,
        hops: 0,
    };
    Some(Access::Publish(Arc::new(message)))
}

/// The subscription asked for; its filter may begin with `$share/`.
pub(super) fn request(fields: &Fields<'_>, mistakes: &mut Vec<String>) -> Option<Requested> {
    let qos = qos(fields, mistakes);
    let expected = "a topic filter such as \"a/#\" or \"$share/g/a/#\"";
    fields.parsed("filter", expected, mistakes, |text| Requested::parse(text.into(), qos))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use serde_json::{Value, json};
    use tidegate_event::{Event, Node, QoS};

    use super::super::event::events;
    use super::*;

    fn read(value: &Value) -> Result<Event, Vec<String>> {
        events("e.json", value, &IdSource::new(&Node::default())).map(|events| events[0].event.clone())
    }

    #[test]
    fn a_password_is_text_or_base64_or_none() {
        let password = |value: Value| {
            let Event::ClientAuthenticate { client, password } = read(&value).unwrap() else {
                panic!("{value}")
            };
            (client.id.to_string(), password.map(|password| password.bytes().to_vec()))
        };
        let client = json!({"id": "d1"});
        for (value, expected) in [
            (json!({"hook": "client.authenticate", "client": client, "password": "é"}), Some("é".as_bytes())),
            (
                json!({"hook": "client.authenticate", "client": client, "password_base64": "/wA="}),
                Some(&b"\xff\x00"[..]),
            ),
            (json!({"hook": "client.authenticate", "client": client, "password": ""}), Some(&b""[..])),
            (json!({"hook": "client.authenticate", "client": client}), None),
        ] {
            assert_eq!(password(value), ("d1".to_owned(), expected.map(<[u8]>::to_vec)));
        }
    }

    #[test]
    fn access_is_to_a_topic_or_to_a_filter() {
        let publish = json!({
            "hook": "client.authorize", "access": "publish", "topic": "a/b", "qos": 2, "retain": true,
            "client": {"id": "d1"},
        });
        let Event::ClientAuthorize { access: Access::Publish(message), .. } = read(&publish).unwrap() else {
            panic!("publish")
        };
        assert_eq!((message.topic.as_str(), message.qos, message.retain), ("a/b", QoS::ExactlyOnce, true));
        assert_eq!((&*message.sender, message.publisher.is_some()), ("d1", true));
        let filter = json!({"hook": "client.authorize", "access": "subscribe", "filter": "$share/g/a/#"});
        let Event::ClientAuthorize { access: Access::Subscribe(request), .. } = read(&filter).unwrap() else {
            panic!("subscribe")
        };
        assert_eq!((&*request.text, request.filter.filter.as_str()), ("$share/g/a/#", "a/#"));
        let subscribe = json!({"hook": "client.subscribe", "filter": "a/+", "qos": 1});
        let Event::ClientSubscribe { request, .. } = read(&subscribe).unwrap() else { panic!("subscribe") };
        assert_eq!((&*request.text, request.qos), ("a/+", QoS::AtLeastOnce));
    }

    #[test]
    fn mistakes_name_the_key() {
        for (value, part) in [
            (
                json!({"hook": "client.authenticate", "password": "a", "password_base64": "YQ=="}),
                "password_base64: there is password already: one of them is the password",
            ),
            (json!({"hook": "client.authenticate", "password": 5}), "password: expected a text, found 5"),
            (
                json!({"hook": "client.authenticate", "password_base64": "!"}),
                "password_base64: expected base64, found \"!\"",
            ),
            (json!({"hook": "client.authorize"}), "access: missing; expected publish or subscribe"),
            (
                json!({"hook": "client.authorize", "access": "read"}),
                "access: \"read\": expected publish or subscribe",
            ),
            (
                json!({"hook": "client.authorize", "access": "publish"}),
                "topic: missing; expected a topic name",
            ),
            (json!({"hook": "client.authorize", "access": "publish", "topic": "a/#"}), "topic: \"a/#\": "),
            (json!({"hook": "client.subscribe"}), "filter: missing; expected a topic filter"),
            (json!({"hook": "client.subscribe", "filter": "$share/g"}), "filter: \"$share/g\": "),
            (
                json!({"hook": "client.subscribe", "filter": "a", "qos": 3}),
                "qos: expected 0, 1 or 2, found 3",
            ),
        ] {
            let mistakes = read(&value).unwrap_err();
            assert!(mistakes.iter().any(|mistake| mistake.contains(part)), "{value}: {mistakes:?}");
        }
    }
}
