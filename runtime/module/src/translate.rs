//! Between the runtime's words and the contract's: events on their way to a guest, messages on their way back.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use tidegate_event::{
    Client, IdSource, Message, MsgId, Origin, PublishProperties, QoS, TopicName, Verdict, now_ms,
};

use crate::bindings::tidegate::broker::types as wit;
use crate::bindings::tidegate::hooks::types::{Delivery, Verdict as GuestVerdict};
use crate::leave;

/// The longest text a user property can carry (MQTT 5 clause 1.5.4).
const MAX_STRING_BYTES: usize = 65_535;

/// The longest text of a socket address: `[`, 39 characters of address, `%` and ten digits of scope, `]`, `:` and
/// five digits of port.
const MAX_PEER_BYTES: usize = 58;

/// Where texts are written that an event does not carry as texts: an instance has one and uses it for every
/// event. So they are no part of the future of a call, and nothing is allocated for them.
pub(crate) struct Texts {
    id: [u8; 32],
    peer: [u8; MAX_PEER_BYTES],
}

impl Texts {
    pub(crate) const fn new() -> Self {
        Self { id: [0; 32], peer: [0; MAX_PEER_BYTES] }
    }

    /// A client on its way to a guest.
    pub(crate) fn client<'a>(&'a mut self, client: &'a Client) -> wit::ClientParam<'a> {
        lower_client(client, &mut self.peer)
    }

    /// The client of a message, and the message with the pairs that [`user_properties`] gave.
    pub(crate) fn client_and_message<'a>(
        &'a mut self,
        client: &'a Client,
        message: &'a Message,
        user_properties: &'a [(&'a str, &'a str)],
    ) -> (wit::ClientParam<'a>, wit::MessageParam<'a>) {
        let client = lower_client(client, &mut self.peer);
        (client, lower_message(message, user_properties, &mut self.id))
    }

    /// The publisher of a message, if it has one, and the message.
    pub(crate) fn publish<'a>(
        &'a mut self,
        message: &'a Message,
        user_properties: &'a [(&'a str, &'a str)],
    ) -> (Option<wit::ClientParam<'a>>, wit::MessageParam<'a>) {
        let client = message.publisher.as_deref().map(|client| lower_client(client, &mut self.peer));
        (client, lower_message(message, user_properties, &mut self.id))
    }
}

fn lower_client<'a>(client: &'a Client, peer: &'a mut [u8; MAX_PEER_BYTES]) -> wit::ClientParam<'a> {
    wit::ClientParam {
        id: &client.id,
        username: client.username.as_deref(),
        peer: write_peer(client.peer, peer),
        protocol: client.protocol.level(),
    }
}

fn lower_message<'a>(
    message: &'a Message,
    user_properties: &'a [(&'a str, &'a str)],
    id: &'a mut [u8; 32],
) -> wit::MessageParam<'a> {
    *id = hex(message.id);
    wit::MessageParam {
        id: std::str::from_utf8(id).unwrap_or_default(),
        topic: message.topic.as_str(),
        payload: &message.payload,
        qos: qos_out(message.qos),
        retain: message.retain,
        dup: message.dup,
        timestamp_ms: message.timestamp_ms,
        user_properties,
    }
}

/// The user properties of a message as a guest takes them. Most messages have none: then nothing is allocated.
pub(crate) fn user_properties(message: &Message) -> Vec<(&str, &str)> {
    message.properties.iter().flat_map(|p| &p.user).map(|(k, v)| (&**k, &**v)).collect()
}

/// The text form of an id, as its `Display` writes it.
fn hex(id: MsgId) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(id.bits().to_be_bytes()) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    text
}

/// The text form of an address, as its `Display` writes it, in `text`.
fn write_peer(peer: SocketAddr, text: &mut [u8; MAX_PEER_BYTES]) -> &str {
    let length = match peer {
        SocketAddr::V4(peer) => {
            let mut at = 0;
            for (octet, after) in peer.ip().octets().into_iter().zip(*b"...:") {
                at = write_number(octet.into(), at, text);
                text[at] = after;
                at += 1;
            }
            write_number(peer.port(), at, text)
        }
        SocketAddr::V6(peer) => {
            let mut rest = &mut text[..];
            // It fits: the buffer has the length of the longest.
            write!(rest, "{peer}").unwrap_or_default();
            MAX_PEER_BYTES - rest.len()
        }
    };
    std::str::from_utf8(&text[..length]).unwrap_or_default()
}

/// Writes the digits of `number` from `at` on; gives where they end.
fn write_number(number: u16, mut at: usize, text: &mut [u8; MAX_PEER_BYTES]) -> usize {
    let mut unit = 10_000;
    while unit > 1 && number < unit {
        unit /= 10;
    }
    while unit > 0 {
        // One digit: at most 9.
        text[at] = b'0' + (number / unit % 10) as u8;
        at += 1;
        unit /= 10;
    }
    at
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
    pub(crate) fn check(mut message: wit::MessageResult) -> Result<Self, String> {
        let topic = ByteString::from(std::mem::take(&mut message.topic));
        let topic =
            TopicName::new(topic.clone()).map_err(|error| format!("topic {}: {error}", brief(&topic)))?;
        Self::check_rest(message, topic)
    }

    /// Checks a message made of `original`. Most guests leave the topic as it is: then it is not made anew.
    ///
    /// # Errors
    /// As [`Self::check`].
    fn check_made_of(message: wit::MessageResult, original: &Message) -> Result<Self, String> {
        if message.topic == original.topic.as_str() {
            return Self::check_rest(message, original.topic.clone());
        }
        Self::check(message)
    }

    fn check_rest(message: wit::MessageResult, topic: TopicName) -> Result<Self, String> {
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
        // Field by field: a copy of the whole would copy the old user properties first.
        Some(original) => Some(Box::new(PublishProperties {
            payload_format: original.payload_format,
            message_expiry: original.message_expiry,
            content_type: original.content_type.clone(),
            response_topic: original.response_topic.clone(),
            correlation_data: original.correlation_data.clone(),
            user,
        })),
    }
}

/// A text from a guest for logs, reports and dead letters: whole, unless it is out of all proportion.
pub(crate) fn bounded(mut text: String) -> String {
    const MOST: usize = 4 << 10;
    if text.len() > MOST {
        text.truncate(text.floor_char_boundary(MOST));
        text.push_str(" ...");
    }
    text
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
            Verdict::Replace(Arc::new(MessageIn::check_made_of(message, original)?.replace(original)))
        }
        GuestVerdict::FanOut(messages) => Verdict::FanOut(
            messages
                .into_iter()
                .map(|message| {
                    Ok(Arc::new(MessageIn::check_made_of(message, original)?.derive(original, ids)))
                })
                .collect::<Result<_, String>>()?,
        ),
    })
}

/// A reason code a PUBACK or PUBREC may refuse with.
fn reason(code: u8) -> Result<u8, String> {
    leave::PUBLISH.check(code)
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
            Verdict::Replace(Arc::new(MessageIn::check_made_of(message, original)?.redeliver(original)))
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
    fn addresses_are_written_as_everywhere() {
        let longest = "[1111:2222:3333:4444:5555:6666:7777:8888%4294967295]:65535";
        assert_eq!(longest.len(), MAX_PEER_BYTES);
        let mut text = [b'?'; MAX_PEER_BYTES];
        for peer in [
            longest,
            "0.0.0.0:0",
            "1.10.100.255:1",
            "9.99.109.200:10",
            "255.255.255.255:65535",
            "127.0.0.1:1883",
            "192.168.0.10:100",
            "[::]:0",
            "[::1]:9999",
            "[::ffff:10.0.0.1]:10000",
            "[fe80::1%3]:1",
        ] {
            let address: SocketAddr = peer.parse().unwrap();
            assert_eq!(write_peer(address, &mut text), address.to_string());
        }
    }

    #[test]
    fn a_topic_left_as_it_is_is_not_made_anew() {
        let original = original();
        let made = MessageIn::check_made_of(guest("a/b"), &original).unwrap();
        assert_eq!(made.topic.as_str().as_ptr(), original.topic.as_str().as_ptr());
        let made = MessageIn::check_made_of(guest("a/c"), &original).unwrap();
        assert_eq!(made.topic.as_str(), "a/c");
        assert!(MessageIn::check_made_of(guest("a/#"), &original).is_err());
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
