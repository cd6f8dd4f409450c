//! Up to which message of a topic a client has acknowledged all it was sent.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tidegate_event::{MsgId, TopicName};

use super::delivery::detached_topic;

#[derive(Clone, Copy, Debug)]
struct Mark {
    id: MsgId,
    acked: bool,
}

/// The messages a client was sent, by topic, as far as they still matter for its positions.
///
/// Per topic the marks are sorted by id; the first is unacknowledged, and of neighbouring acknowledged marks
/// only the greatest is kept. So there are never more than twice as many marks as messages in flight.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    topics: HashMap<TopicName, Vec<Mark>, RandomState>,
}

impl Positions {
    /// `id` of `topic` is being sent.
    pub(crate) fn sent(&mut self, topic: &TopicName, id: MsgId) {
        if !self.topics.contains_key(topic) {
            self.topics.insert(detached_topic(topic), Vec::new());
        }
        if let Some(marks) = self.topics.get_mut(topic)
            && let Err(place) = marks.binary_search_by_key(&id, |mark| mark.id)
        {
            marks.insert(place, Mark { id, acked: false });
        }
    }

    /// `id` of `topic` is acknowledged. Gives the greatest id up to which all sent of the topic now are;
    /// `None` when an older one is still outstanding.
    pub(crate) fn acked(&mut self, topic: &TopicName, id: MsgId) -> Option<MsgId> {
        let Some(marks) = self.topics.get_mut(topic) else { return Some(id) };
        match marks.binary_search_by_key(&id, |mark| mark.id) {
            Ok(place) => {
                if let Some(mark) = marks.get_mut(place) {
                    mark.acked = true;
                }
            }
            Err(place) => marks.insert(place, Mark { id, acked: true }),
        }
        marks.dedup_by(|later, earlier| {
            let both = later.acked && earlier.acked;
            if both {
                earlier.id = later.id;
            }
            both
        });
        let through = marks.first().filter(|mark| mark.acked).map(|mark| mark.id);
        if through.is_some() {
            marks.remove(0);
        }
        if marks.is_empty() {
            self.topics.remove(topic);
        }
        through
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn topic(text: &str) -> TopicName {
        text.parse().unwrap()
    }

    fn id(number: u128) -> MsgId {
        MsgId::from_bits(number)
    }

    #[test]
    fn positions_move_over_contiguous_acks_only() {
        let (mut positions, t) = (Positions::default(), topic("t"));
        for n in 1..=4 {
            positions.sent(&t, id(n));
        }
        assert_eq!(positions.acked(&t, id(2)), None);
        assert_eq!(positions.acked(&t, id(3)), None);
        assert_eq!(positions.acked(&t, id(1)), Some(id(3)));
        assert_eq!(positions.acked(&t, id(4)), Some(id(4)));
        assert!(positions.topics.is_empty());
    }

    #[test]
    fn topics_do_not_wait_for_each_other() {
        let (mut positions, a, b) = (Positions::default(), topic("a"), topic("b"));
        positions.sent(&a, id(1));
        positions.sent(&b, id(2));
        assert_eq!(positions.acked(&b, id(2)), Some(id(2)));
        assert_eq!(positions.acked(&a, id(1)), Some(id(1)));
    }

    #[test]
    fn an_older_id_sent_later_holds_the_position_back() {
        let (mut positions, t) = (Positions::default(), topic("t"));
        positions.sent(&t, id(5));
        positions.sent(&t, id(3));
        assert_eq!(positions.acked(&t, id(5)), None);
        assert_eq!(positions.acked(&t, id(3)), Some(id(5)));
    }

    #[test]
    fn one_stuck_message_does_not_make_the_marks_grow() {
        let (mut positions, t) = (Positions::default(), topic("t"));
        positions.sent(&t, id(0));
        for n in 1..10_000 {
            positions.sent(&t, id(n));
            assert_eq!(positions.acked(&t, id(n)), None);
        }
        assert!(positions.topics.get(&t).unwrap().len() <= 2);
        assert_eq!(positions.acked(&t, id(0)), Some(id(9_999)));
    }
}
