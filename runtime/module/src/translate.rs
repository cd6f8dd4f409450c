//! Between the runtime's words and the contract's: events on their way to a guest, messages on their way back.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;
use tidegate_event::{
    Client, IdSource, Message, MsgId, Origin, PublishProperties, QoS, TopicName, Verdict, now_ms,
};

use crate::bindings::tidegate::broker::types as wit;
use crate::bindings::tidegate::hooks::types::{Delivery, Verdict as GuestVerdict};

/// The longest text a user property can carry (MQTT 5 clause 1.5.4).
const MAX_STRING_BYTES: usize = 65_535;

/// Text built on the stack.
#[derive(Default)]
pub(crate) struct Text(SmallVec<[u8; 64]>);

impl Text {
    fn of(value: impl std::fmt::Display) -> Self {
        let mut text = Self::default();
        // Writing to a buffer that grows cannot fail.
        write!(text, "{value}").unwrap_or_default();
        text
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// The text form of an id, as its `Display` writes it, without the formatter: every message has one.
fn hex(id: MsgId) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(id.bits().to_be_bytes()) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    text
}

/// A client on its way to a guest.
pub(crate) struct ClientOut<'a> {
    client: &'a Client,
    peer: Text,
}

impl<'a> ClientOut<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client, peer: Text::of(client.peer) }
    }

    pub(crate) fn lower(&self) -> wit::ClientParam<'_> {
        wit::ClientParam {
            id: &self.client.id,
            username: self.client.username.as_deref(),
            peer: self.peer.as_str(),
            protocol: self.client.protocol.level(),
        }
    }
}

/// A client as a result of an import.
pub(crate) fn client_result(client: &Client) -> wit::ClientResult {
    wit::ClientResult {
        id: client.id.to_string(),
        username: client.username.as_ref().map(ToString::to_string),
        peer: client.peer.to_string(),
        protocol: client.protocol.level(),
    }
}

/// A message on its way to a guest.
pub(crate) struct MessageOut<'a> {
    message: &'a Message,
    id: [u8; 32],
    user: SmallVec<[(&'a str, &'a str); 4]>,
}

impl<'a> MessageOut<'a> {
    pub(crate) fn new(message: &'a Message) -> Self {
        let user = message.properties.iter().flat_map(|p| &p.user).map(|(k, v)| (&**k, &**v)).collect();
        Self { message, id: hex(message.id), user }
    }

    pub(crate) fn lower(&self) -> wit::MessageParam<'_> {
        let message = self.message;
        wit::MessageParam {
            id: std::str::from_utf8(&self.id).unwrap_or_default(),
            topic: message.topic.as_str(),
            payload: &message.payload,
            qos: qos_out(message.qos),
            retain: message.retain,
            dup: message.dup,
            timestamp_ms: message.timestamp_ms,
            user_properties: &self.user,
        }
    }
}

pub(crate) fn qos_out(qos: QoS) -> wit::Qos {
    match qos {
        QoS::AtMostOnce => wit::Qos::AtMostOnce,
        QoS::AtLeastOnce => wit::Qos::AtLeastOnce,
        QoS::ExactlyOnce => wit::Qos::ExactlyOnce,
    }
}

pub(crate) fn qos_in(qos: wit::Qos) -> QoS {
    match qos {
        wit::Qos::AtMostOnce => QoS::AtMostOnce,
        wit::Qos::AtLeastOnce => QoS::AtLeastOnce,
        wit::Qos::ExactlyOnce => QoS::ExactlyOnce,
    }
}

/// A message from a guest, checked.
pub(crate) struct MessageIn {
    id: String,
    topic: TopicName,
    payload: Bytes,
    qos: QoS,
    retain: bool,
    user: Vec<(ByteString, ByteString)>,
}

impl MessageIn {
    /// Checks topic and user properties.
    ///
    /// # Errors
    /// What is wrong, for the guest or the log.
    pub(crate) fn check(message: wit::MessageResult) -> Result<Self, String> {
        let topic = ByteString::from(message.topic);
        let topic =
            TopicName::new(topic.clone()).map_err(|error| format!("topic {}: {error}", brief(&topic)))?;
        for (name, value) in &message.user_properties {
            if [name, value].iter().any(|text| text.len() > MAX_STRING_BYTES || text.contains('\0')) {
                return Err(format!(
                    "user property {}: at most {MAX_STRING_BYTES} bytes without the null character",
                    brief(name)
                ));
            }
        }
        Ok(Self {
            id: message.id,
            topic,
            payload: Bytes::from(message.payload),
            qos: qos_in(message.qos),
            retain: message.retain,
            user: message.user_properties.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        })
    }

    /// Whether it carries the id of `original`.
    pub(crate) fn is_same(&self, original: &Message) -> bool {
        self.id.parse::<MsgId>().is_ok_and(|id| id == original.id)
    }

    /// In place of `original`: the same message as to identity, arrival and publisher.
    pub(crate) fn replace(self, original: &Message) -> Message {
        Message {
            id: original.id,
            topic: self.topic,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            dup: original.dup,
            timestamp_ms: original.timestamp_ms,
            sender: original.sender.clone(),
            publisher: original.publisher.clone(),
            properties: properties(original.properties.as_deref(), self.user),
            origin: original.origin,
            hops: original.hops,
        }
    }

    /// One delivery in place of `original`: only topic, payload and user properties are taken.
    fn redeliver(self, original: &Message) -> Message {
        Message {
            topic: self.topic,
            payload: self.payload,
            properties: properties(original.properties.as_deref(), self.user),
            ..original.clone()
        }
    }

    /// One of several made from `original`: a message of its own, of the same arrival and publisher.
    pub(crate) fn derive(self, original: &Message, ids: &IdSource) -> Message {
        Message { id: ids.next_id(), dup: false, origin: Origin::Module, ..self.replace(original) }
    }

    /// A message nobody sent, `hops` module publishes behind it.
    pub(crate) fn create(self, ids: &IdSource, hops: u8) -> Message {
        Message {
            id: ids.next_id(),
            topic: self.topic,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            dup: false,
            timestamp_ms: now_ms(),
            sender: ByteString::new(),
            publisher: None,
            properties: properties(None, self.user),
            origin: Origin::Module,
            hops,
        }
    }
}

/// The properties of `original` with other user properties.
fn properties(
    original: Option<&PublishProperties>,
    user: Vec<(ByteString, ByteString)>,
) -> Option<Box<PublishProperties>> {
    match original {
        None if user.is_empty() => None,
        None => Some(Box::new(PublishProperties { user, ..PublishProperties::default() })),
        Some(original) => Some(Box::new(PublishProperties { user, ..original.clone() })),
    }
}

/// A text from a guest, quoted and short enough for an error message.
pub(crate) fn brief(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().nth(SHOWN).is_none() {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("{start:?}...")
}

/// The verdict on a publish of `original`.
///
/// # Errors
/// What is wrong with a message in it.
pub(crate) fn verdict(answer: GuestVerdict, original: &Message, ids: &IdSource) -> Result<Verdict, String> {
    Ok(match answer {
        GuestVerdict::Pass => Verdict::Pass,
        GuestVerdict::Drop => Verdict::Drop,
        GuestVerdict::Reject(code) => Verdict::Reject(tidegate_event::ReasonCode(reason(code)?)),
        GuestVerdict::Replace(message) => {
            Verdict::Replace(Arc::new(MessageIn::check(message)?.replace(original)))
        }
        GuestVerdict::FanOut(messages) => Verdict::FanOut(
            messages
                .into_iter()
                .map(|message| Ok(Arc::new(MessageIn::check(message)?.derive(original, ids))))
                .collect::<Result<_, String>>()?,
        ),
    })
}

/// A reason code a PUBACK or PUBREC may refuse with (MQTT 5 clause 3.4.2.1).
fn reason(code: u8) -> Result<u8, String> {
    const REFUSALS: [u8; 7] = [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    if REFUSALS.contains(&code) {
        return Ok(code);
    }
    Err(format!(
        "reason code {code:#04x} is none a publish can be refused with; those are {}",
        REFUSALS.map(|code| format!("{code:#04x}")).join(", ")
    ))
}

/// The verdict on a delivery of `original`.
///
/// # Errors
/// What is wrong with the message in it.
pub(crate) fn delivery(answer: Delivery, original: &Message) -> Result<Verdict, String> {
    Ok(match answer {
        Delivery::Pass => Verdict::Pass,
        Delivery::Drop => Verdict::Drop,
        Delivery::Replace(message) => {
            Verdict::Replace(Arc::new(MessageIn::check(message)?.redeliver(original)))
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tidegate_event::Node;

    use super::*;

    fn original() -> Message {
        Message {
            id: MsgId::from_bits(7),
            topic: "a/b".parse().unwrap(),
            payload: Bytes::from_static(b"x"),
            qos: QoS::AtLeastOnce,
            retain: true,
            dup: true,
            timestamp_ms: 5,
            sender: "c1".into(),
            publisher: None,
            properties: Some(Box::new(PublishProperties {
                content_type: Some("text/plain".into()),
                user: vec![("k".into(), "v".into())],
                ..PublishProperties::default()
            })),
            origin: Origin::Will,
            hops: 3,
        }
    }

    fn guest(topic: &str) -> wit::MessageResult {
        wit::MessageResult {
            id: String::new(),
            topic: topic.into(),
            payload: b"new".to_vec(),
            qos: wit::Qos::AtMostOnce,
            retain: false,
            dup: false,
            timestamp_ms: 0,
            user_properties: vec![("n".into(), "w".into())],
        }
    }

    #[test]
    fn ids_are_written_as_everywhere() {
        for bits in [0, 1, u128::MAX, 0x0005_F65F_239F_03FE_F443_0000_0BB4_0002] {
            let id = MsgId::from_bits(bits);
            assert_eq!(hex(id), *id.to_string().as_bytes());
        }
    }

    #[test]
    fn a_replacement_keeps_identity_and_other_properties() {
        let message = MessageIn::check(guest("c")).unwrap().replace(&original());
        assert_eq!((message.id, message.hops, message.origin), (MsgId::from_bits(7), 3, Origin::Will));
        assert_eq!((message.topic.as_str(), message.qos, message.retain), ("c", QoS::AtMostOnce, false));
        assert_eq!((&*message.sender, message.timestamp_ms), ("c1", 5));
        let properties = message.properties.unwrap();
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.user, [("n".into(), "w".into())]);
    }

    #[test]
    fn a_redelivery_keeps_qos_and_retain() {
        let Verdict::Replace(message) = delivery(Delivery::Replace(guest("c")), &original()).unwrap() else {
            panic!("replace");
        };
        assert_eq!((message.topic.as_str(), message.qos, message.retain), ("c", QoS::AtLeastOnce, true));
    }

    #[test]
    fn fanned_out_messages_are_new() {
        let ids = IdSource::new(&Node::default());
        let answer = GuestVerdict::FanOut(vec![guest("c"), guest("d")]);
        let Verdict::FanOut(messages) = verdict(answer, &original(), &ids).unwrap() else {
            panic!("fan-out")
        };
        assert!(messages.iter().all(|m| m.id != MsgId::from_bits(7) && m.origin == Origin::Module));
        assert!(messages.is_sorted_by(|a, b| a.id < b.id));
        assert!(messages.iter().all(|m| m.hops == 3 && &*m.sender == "c1"));
    }

    #[test]
    fn what_a_guest_makes_is_checked() {
        for (message, part) in [
            (guest("a/+"), "wildcards"),
            (guest(""), "empty"),
            (
                wit::MessageResult { user_properties: vec![("a\0".into(), String::new())], ..guest("a") },
                "user property",
            ),
        ] {
            let Err(error) = MessageIn::check(message) else { panic!("{part}") };
            assert!(error.contains(part), "{error}");
        }
        let ids = IdSource::new(&Node::default());
        assert!(verdict(GuestVerdict::Reject(0x00), &original(), &ids).unwrap_err().contains("0x00"));
        assert!(verdict(GuestVerdict::Reject(0x87), &original(), &ids).is_ok());
    }

    #[test]
    fn long_texts_are_cut_in_errors() {
        assert!(brief(&"é".repeat(1_000)).len() < 200);
    }
}
