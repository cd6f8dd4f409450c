//! Topic aliases in what a client is sent (MQTT 5 clause 3.3.2.3.4): a topic's name goes over the wire once.

use std::collections::HashMap;

use bytes::BytesMut;
use foldhash::fast::RandomState;
use tidegate_event::{Protocol, TopicName};

use super::output::is_shared;
use crate::codec::{Delivery, encode_publish, encode_publish_head};
use crate::session::delivery::detached_topic;

/// A shorter name is not longer than the alias that would stand for it.
const WORTH: usize = 3;
/// Bytes of names that are kept for one connection, so that aliases of very long ones cannot fill the memory.
const MOST_BYTES: usize = 16 * 1024;

/// The topics that have an alias on one connection. An alias is given at a topic's first message and never taken back:
/// when all are given, other topics are sent with their names.
#[derive(Default)]
pub(super) struct Aliases {
    most: u16,
    known: HashMap<TopicName, u16, RandomState>,
    bytes: usize,
}

impl Aliases {
    /// Up to `most` aliases; 0 = none.
    pub(super) fn new(most: u16) -> Self {
        Self { most, ..Self::default() }
    }

    /// Appends `delivery` to `out`, with an alias if its topic has one or, if it `may_teach`, can get one: a packet that
    /// others may overtake must not, or they would name what the client has not learnt. A payload that [`is_shared`] is left
    /// out: it goes behind. Gives the size of the packet with it, bytes; 0: no packet of at most `max_packet` bytes can carry
    /// the message, and nothing is appended.
    #[inline]
    pub(super) fn encode(
        &mut self,
        mut delivery: Delivery<'_>,
        may_teach: bool,
        protocol: Protocol,
        max_packet: usize,
        out: &mut BytesMut,
    ) -> usize {
        if self.most > 0 {
            let topic = &delivery.message.topic;
            if let Some(&alias) = self.known.get(topic) {
                delivery.topic_alias = Some(alias);
                delivery.with_topic = false;
            } else if may_teach && let Some(alias) = self.next_for(topic) {
                let bytes =
                    append(&Delivery { topic_alias: Some(alias), ..delivery }, protocol, max_packet, out);
                if bytes > 0 {
                    // Not before: a packet that was not sent has taught the client nothing.
                    self.bytes += topic.as_str().len();
                    self.known.insert(detached_topic(topic), alias);
                    return bytes;
                }
                // It may fit without.
            }
        }
        append(&delivery, protocol, max_packet, out)
    }

    /// The alias that `topic`, which has none, would get.
    fn next_for(&self, topic: &TopicName) -> Option<u16> {
        let length = topic.as_str().len();
        let given = u16::try_from(self.known.len()).ok()?;
        (given < self.most && length >= WORTH && self.bytes + length <= MOST_BYTES).then_some(given + 1)
    }
}

/// Appends `delivery` if it has at most `max_packet` bytes. Gives how many were appended.
#[inline]
fn append(delivery: &Delivery<'_>, protocol: Protocol, max_packet: usize, out: &mut BytesMut) -> usize {
    let before = out.len();
    // Nothing is appended for a message that no packet can carry.
    let behind = if is_shared(&delivery.message.payload) {
        if encode_publish_head(delivery, protocol, out) { delivery.message.payload.len() } else { 0 }
    } else {
        encode_publish(delivery, protocol, out);
        0
    };
    let bytes = out.len() - before + behind;
    if bytes > max_packet {
        out.truncate(before);
        return 0;
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tidegate_event::{Message, MsgId, Origin, QoS};

    use super::*;

    fn message(topic: &str) -> Message {
        Message {
            id: MsgId::from_bits(1),
            topic: TopicName::new(topic).unwrap(),
            payload: "x".into(),
            qos: QoS::AtMostOnce,
            retain: false,
            dup: false,
            timestamp_ms: 0,
            sender: "s".into(),
            publisher: None,
            properties: None,
            origin: Origin::Client,
            hops: 0,
        }
    }

    /// The packet that `aliases` make of a message of `topic`.
    fn sent(aliases: &mut Aliases, topic: &str, max_packet: usize) -> Vec<u8> {
        sent_as(aliases, topic, true, max_packet)
    }

    fn sent_as(aliases: &mut Aliases, topic: &str, may_teach: bool, max_packet: usize) -> Vec<u8> {
        let mut out = BytesMut::from(&b"before"[..]);
        let message = message(topic);
        let delivery = Delivery::new(&message, QoS::AtMostOnce, 0);
        let bytes = aliases.encode(delivery, may_teach, Protocol::V5, max_packet, &mut out);
        assert_eq!(out.len() - 6, bytes);
        out[6..].to_vec()
    }

    #[test]
    fn a_topic_is_named_once_and_an_alias_never_changes_hands() {
        let mut aliases = Aliases::new(2);
        let most = usize::MAX;
        assert_eq!(sent(&mut aliases, "one", most), b"\x30\x0a\x00\x03one\x03\x23\x00\x01x");
        assert_eq!(sent(&mut aliases, "one", most), b"\x30\x07\x00\x00\x03\x23\x00\x01x");
        assert_eq!(sent(&mut aliases, "two", most), b"\x30\x0a\x00\x03two\x03\x23\x00\x02x");
        for _ in 0..2 {
            assert_eq!(sent(&mut aliases, "six", most), b"\x30\x07\x00\x03six\x00x", "all are given");
        }
        assert_eq!(sent(&mut aliases, "two", most), b"\x30\x07\x00\x00\x03\x23\x00\x02x");
        assert_eq!(sent(&mut Aliases::new(0), "one", most), b"\x30\x07\x00\x03one\x00x");
        assert_eq!(sent(&mut Aliases::new(9), "ab", most), b"\x30\x06\x00\x02ab\x00x", "not worth it");
    }

    #[test]
    fn a_packet_that_was_too_large_teaches_no_alias() {
        let mut aliases = Aliases::new(2);
        assert!(sent(&mut aliases, "one", 8).is_empty());
        // There is room for the name, but not for an alias with it.
        assert_eq!(sent(&mut aliases, "one", 9), b"\x30\x07\x00\x03one\x00x");
        assert_eq!(sent(&mut aliases, "one", 12), b"\x30\x0a\x00\x03one\x03\x23\x00\x01x");
        assert_eq!(sent(&mut aliases, "one", 9), b"\x30\x07\x00\x00\x03\x23\x00\x01x");
    }

    /// A QoS 2 message of a recorded session waits until it is durable, and others overtake it.
    #[test]
    fn a_packet_that_may_be_overtaken_teaches_no_alias() {
        let mut aliases = Aliases::new(2);
        let most = usize::MAX;
        assert_eq!(sent_as(&mut aliases, "one", false, most), b"\x30\x07\x00\x03one\x00x");
        assert_eq!(sent(&mut aliases, "one", most), b"\x30\x0a\x00\x03one\x03\x23\x00\x01x");
        assert_eq!(sent_as(&mut aliases, "one", false, most), b"\x30\x07\x00\x00\x03\x23\x00\x01x");
    }

    #[test]
    fn names_are_kept_up_to_a_bound() {
        let mut aliases = Aliases::new(u16::MAX);
        for number in 0..100 {
            sent(&mut aliases, &format!("{}/{number}", "x".repeat(1_000)), usize::MAX);
        }
        assert!(aliases.bytes <= MOST_BYTES);
        assert_eq!(aliases.known.len(), 16);
    }
}
