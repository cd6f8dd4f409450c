//! Events and answers as JSON, for guests of the world `raw` (`docs/raw-modules.md`).
//!
//! A payload that is UTF-8 goes as `payload`, any other as `payload_base64`. In a message that a guest gives, every
//! key that is left out is the original's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use tidegate_event::{Access, Client, Event, Hook, Message, TopicFilter};

use crate::bindings::tidegate::broker::types as wit;
use crate::translate;

/// An event on its way to a guest.
#[derive(Serialize)]
struct EventOut<'a> {
    hook: &'static str,
    client: Option<ClientOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<MessageOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_base64: Option<String>,
}

#[derive(Serialize)]
struct ClientOut<'a> {
    id: &'a str,
    username: Option<&'a str>,
    peer: String,
    protocol: u8,
}

#[derive(Serialize)]
struct MessageOut<'a> {
    id: String,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    qos: u8,
    retain: bool,
    dup: bool,
    timestamp_ms: u64,
    user_properties: Vec<(&'a str, &'a str)>,
}

impl<'a> From<&'a Client> for ClientOut<'a> {
    fn from(client: &'a Client) -> Self {
        Self {
            id: &client.id,
            username: client.username.as_deref(),
            peer: client.peer.to_string(),
            protocol: client.protocol.level(),
        }
    }
}

impl<'a> From<&'a Message> for MessageOut<'a> {
    fn from(message: &'a Message) -> Self {
        let text = std::str::from_utf8(&message.payload).ok();
        Self {
            id: message.id.to_string(),
            topic: message.topic.as_str(),
            payload: text,
            payload_base64: text.is_none().then(|| BASE64.encode(&message.payload)),
            qos: message.qos.level(),
            retain: message.retain,
            dup: message.dup,
            timestamp_ms: message.timestamp_ms,
            user_properties: translate::user_properties(message),
        }
    }
}

/// `event` as a guest takes it.
///
/// # Errors
/// The serialiser's, which has no reason to fail on these types.
pub(crate) fn event(event: &Event) -> serde_json::Result<Vec<u8>> {
    let mut out = EventOut {
        hook: event.hook().name(),
        client: event.client().map(|client| ClientOut::from(&**client)),
        message: event.message().map(|message| MessageOut::from(&**message)),
        reason: None,
        filter: None,
        topic: None,
        qos: None,
        retain: None,
        access: None,
        password: None,
        password_base64: None,
    };
    match event {
        Event::ClientDisconnected { reason, .. } => out.reason = Some(reason.name()),
        Event::SessionSubscribed { filter, qos, .. } => {
            out.filter = Some(filter.as_str());
            out.qos = Some(qos.level());
        }
        Event::SessionUnsubscribed { filter, .. } => out.filter = Some(filter.as_str()),
        Event::ClientAuthenticate { password: Some(password), .. } => {
            out.password = std::str::from_utf8(password.bytes()).ok();
            out.password_base64 = out.password.is_none().then(|| BASE64.encode(password.bytes()));
        }
        Event::ClientAuthorize { access, .. } => {
            out.qos = Some(access.qos().level());
            match access {
                Access::Publish(message) => {
                    out.access = Some("publish");
                    out.topic = Some(access.topic());
                    out.retain = Some(message.retain);
                }
                Access::Subscribe(_) => {
                    out.access = Some("subscribe");
                    out.filter = Some(access.topic());
                }
            }
        }
        Event::ClientSubscribe { request, .. } => {
            out.filter = Some(&request.text);
            out.qos = Some(request.qos.level());
        }
        _ => {}
    }
    serde_json::to_vec(&out)
}

/// What a guest answers to an event or to `init`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AnswerIn {
    pub(crate) verdict: Option<String>,
    pub(crate) reason_code: Option<u8>,
    pub(crate) message: Option<MessageIn>,
    pub(crate) messages: Option<Vec<MessageIn>>,
    pub(crate) subscriptions: Vec<SubscriptionIn>,
    pub(crate) subscription: Option<SubscriptionIn>,
    pub(crate) error: Option<String>,
    pub(crate) retry: bool,
}

/// A subscription that a guest wants added.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubscriptionIn {
    pub(crate) filter: String,
    #[serde(default)]
    pub(crate) qos: u8,
}

/// A message that a guest gives. It may be the whole of one that it was given.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MessageIn {
    id: Option<String>,
    topic: Option<String>,
    payload: Option<String>,
    payload_base64: Option<String>,
    payload_json: Option<serde_json::Value>,
    qos: Option<u8>,
    retain: Option<bool>,
    user_properties: Option<Vec<(String, String)>>,
    #[serde(rename = "dup")]
    _dup: Option<bool>,
    #[serde(rename = "timestamp_ms")]
    _timestamp_ms: Option<u64>,
}

impl MessageIn {
    /// The message as a guest of the typed contract gives it; keys that are left out are those of `original`, and
    /// without one empty.
    ///
    /// # Errors
    /// What is wrong, for the guest or the log.
    pub(crate) fn complete(self, original: Option<&Message>) -> Result<wit::MessageResult, String> {
        let payload = self.payload(original)?;
        let qos = match self.qos {
            Some(level) => qos(level)?,
            None => original.map_or(wit::Qos::AtMostOnce, |message| translate::qos_out(message.qos)),
        };
        let user_properties = self.user_properties.unwrap_or_else(|| {
            original.map_or_else(Vec::new, |message| {
                let pairs = translate::user_properties(message);
                pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
            })
        });
        let topic = self.topic.or_else(|| original.map(|message| message.topic.as_str().to_owned()));
        Ok(wit::MessageResult {
            id: self.id.unwrap_or_default(),
            topic: topic.ok_or("the message has no topic")?,
            payload,
            qos,
            retain: self.retain.unwrap_or_else(|| original.is_some_and(|message| message.retain)),
            dup: false,
            timestamp_ms: 0,
            user_properties,
        })
    }

    fn payload(&self, original: Option<&Message>) -> Result<Vec<u8>, String> {
        match (&self.payload, &self.payload_base64, &self.payload_json) {
            (None, None, None) => Ok(original.map_or_else(Vec::new, |message| message.payload.to_vec())),
            (Some(text), None, None) => Ok(text.clone().into_bytes()),
            (None, Some(text), None) => {
                BASE64.decode(text).map_err(|error| format!("payload_base64: {error}"))
            }
            (None, None, Some(json)) => Ok(json.to_string().into_bytes()),
            _ => Err("give one of payload, payload_base64 and payload_json".to_owned()),
        }
    }
}

/// A quality of service by its number.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn qos(level: u8) -> Result<wit::Qos, String> {
    match level {
        0 => Ok(wit::Qos::AtMostOnce),
        1 => Ok(wit::Qos::AtLeastOnce),
        2 => Ok(wit::Qos::ExactlyOnce),
        other => Err(format!("qos {other}, expected 0, 1 or 2")),
    }
}

/// The most bytes of JSON that are read: what they become in memory is many times as large.
const MOST_BYTES: usize = 2 << 20;

/// Refuses what is too large to be read.
///
/// # Errors
/// Its size and the bound.
pub(crate) fn check_size(json: &[u8]) -> Result<(), String> {
    if json.len() > MOST_BYTES {
        return Err(format!("{} bytes of JSON, expected at most {MOST_BYTES}", json.len()));
    }
    Ok(())
}

/// Reads what a guest gave; nothing at all is an empty object.
///
/// # Errors
/// What is wrong and where.
pub(crate) fn read<'a, T: Deserialize<'a> + Default>(answer: &'a [u8]) -> Result<T, String> {
    check_size(answer)?;
    if answer.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    serde_json::from_slice(answer).map_err(|error| format!("its JSON: {error}"))
}

/// What a guest answers when it is asked which hooks it wants.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HooksIn {
    hooks: std::collections::BTreeMap<String, Vec<String>>,
}

impl HooksIn {
    /// The hooks and their filters, checked.
    ///
    /// # Errors
    /// What is wrong, naming the hook.
    pub(crate) fn check(self) -> Result<Vec<(Hook, Vec<TopicFilter>)>, String> {
        self.hooks
            .into_iter()
            .map(|(name, filters)| {
                let hook = Hook::from_name(&name).ok_or_else(|| format!("unknown hook {name:?}"))?;
                let filters = filters
                    .iter()
                    .map(|filter| {
                        TopicFilter::new(filter.as_str())
                            .map_err(|error| format!("{name}: {filter:?}: {error}"))
                    })
                    .collect::<Result<_, _>>()?;
                Ok((hook, filters))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use std::sync::Arc;

    use bytes::Bytes;
    use tidegate_event::{MsgId, Origin, QoS, Tenant};

    use super::*;

    fn message(payload: &'static [u8]) -> Message {
        Message {
            id: MsgId::from_bits(7),
            topic: "a/b".parse().unwrap(),
            payload: Bytes::from_static(payload),
            qos: QoS::AtLeastOnce,
            retain: true,
            dup: false,
            timestamp_ms: 5,
            sender: "c1".into(),
            publisher: None,
            properties: None,
            origin: Origin::Client,
            hops: 0,
        }
    }

    fn json(payload: &'static [u8]) -> serde_json::Value {
        let event = Event::MessagePublish { message: Arc::new(message(payload)), tenant: Tenant::default() };
        serde_json::from_slice(&super::event(&event).unwrap()).unwrap()
    }

    #[test]
    fn a_payload_is_text_or_base64() {
        let text = json(b"hi");
        assert_eq!((&text["hook"], &text["client"]), (&"message.publish".into(), &serde_json::Value::Null));
        assert_eq!((&text["message"]["payload"], &text["message"]["qos"]), (&"hi".into(), &1.into()));
        assert!(text["message"].get("payload_base64").is_none());
        let bytes = json(b"\xff");
        assert_eq!(bytes["message"]["payload_base64"], "/w==");
        assert!(bytes["message"].get("payload").is_none());
    }

    fn completed(text: &str) -> Result<wit::MessageResult, String> {
        read::<MessageIn>(text.as_bytes())?.complete(Some(&message(b"old")))
    }

    #[test]
    fn what_is_left_out_is_the_originals() {
        let made = completed(r#"{"payload":"new"}"#).unwrap();
        assert_eq!((made.topic.as_str(), made.payload.as_slice(), made.retain), ("a/b", &b"new"[..], true));
        assert_eq!(completed("").unwrap().payload, b"old");
        assert_eq!(completed(r#"{"payload_json":{"a":1}}"#).unwrap().payload, br#"{"a":1}"#);
        assert_eq!(completed(r#"{"payload_base64":"/w=="}"#).unwrap().payload, b"\xff");
        let echoed = json(b"old")["message"].to_string();
        assert_eq!(completed(&echoed).unwrap().payload, b"old");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            (r#"{"payload":"a","payload_base64":"YQ=="}"#, "give one of"),
            (r#"{"qos":3}"#, "qos 3"),
            (r#"{"payload_base64":"*"}"#, "payload_base64"),
            (r#"{"paylod":"a"}"#, "unknown field `paylod`"),
            ("{", "its JSON: EOF"),
        ] {
            let error = completed(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(MessageIn::default().complete(None).unwrap_err().contains("no topic"));
        let hooks = |text: &str| read::<HooksIn>(text.as_bytes()).unwrap().check();
        assert!(hooks(r#"{"hooks":{"message.publsh":[]}}"#).unwrap_err().contains("message.publsh"));
        assert!(hooks(r#"{"hooks":{"message.publish":["a/#/b"]}}"#).unwrap_err().contains("a/#/b"));
        assert_eq!(hooks(r#"{"hooks":{"message.publish":["a/#"]}}"#).unwrap()[0].1.len(), 1);
        assert!(hooks("").unwrap().is_empty());
    }
}
