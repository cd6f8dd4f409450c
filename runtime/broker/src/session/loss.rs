//! Which stored messages a session was not given because its queue was full, or because nobody was connected.
//!
//! The client can still read them from their store, so no acknowledgement of a later message may move its
//! position beyond them. Publishers note them here; the client's connection takes the notes together with the
//! messages that were queued after the loss, and hands them to its [`Positions`](super::positions::Positions).

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tidegate_event::{MsgId, TopicName};

use super::delivery::detached_topic;

/// Memory of the topics of which the first loss is noted one by one, bytes: those of some 10,000.
const MOST: usize = 1024 * 1024;
/// What a topic takes besides its name, about.
const TOPIC: usize = 80;

/// The first message of each topic that was lost.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// By topic.
    pub(crate) topics: HashMap<TopicName, MsgId, RandomState>,
    /// The first of all topics that found no place above.
    pub(crate) elsewhere: Option<MsgId>,
    pub(super) bytes: usize,
}

impl Losses {
    /// Message `id` of `topic` was lost.
    pub(crate) fn note(&mut self, topic: &TopicName, id: MsgId) {
        if let Some(first) = self.topics.get_mut(topic) {
            *first = (*first).min(id);
        } else if self.bytes + TOPIC + topic.as_str().len() <= MOST {
            self.bytes += TOPIC + topic.as_str().len();
            self.topics.insert(detached_topic(topic), id);
        } else {
            self.elsewhere = Some(self.elsewhere.map_or(id, |first| first.min(id)));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_first_loss_of_each_topic_is_kept_in_bounded_space() {
        let mut losses = Losses::default();
        let topic = |number: usize| format!("t/{number}").parse::<TopicName>().unwrap();
        for number in 0..15_000 {
            losses.note(&topic(number), MsgId::from_bits(1_000 + number as u128));
            losses.note(&topic(number), MsgId::from_bits(2_000_000));
        }
        let noted = losses.topics.len();
        assert!((10_000..14_000).contains(&noted), "{noted}");
        assert_eq!(losses.topics.get(&topic(5)), Some(&MsgId::from_bits(1_005)));
        assert_eq!(losses.elsewhere, Some(MsgId::from_bits(1_000 + noted as u128)));
    }

    /// Topics were counted, not what they take: ten thousand of 64 KiB.
    #[test]
    fn long_topics_are_noted_in_the_same_space() {
        let mut losses = Losses::default();
        for number in 0..100_u32 {
            let topic = format!("{}/{number}", "x".repeat(60_000)).parse().unwrap();
            losses.note(&topic, MsgId::from_bits(1_000 + u128::from(number)));
        }
        assert_eq!(losses.topics.len(), 17);
        assert_eq!(losses.elsewhere, Some(MsgId::from_bits(1_017)));
    }
}
