//! Up to which message of a topic a client has acknowledged all it was sent.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tidegate_event::{MsgId, TopicFilter, TopicName};

use super::delivery::detached_topic;
use super::loss::Losses;

#[derive(Clone, Copy, Debug)]
struct Mark {
    id: MsgId,
    acked: bool,
}

/// A topic's marks.
///
/// Sorted by id; the first is unacknowledged, and of neighbouring acknowledged marks only the greatest is kept. So
/// there are never more than about twice as many marks as messages in flight.
#[derive(Debug, Default)]
struct Marks {
    marks: Vec<Mark>,
    /// From this id on there may be stored messages that the client was never sent.
    floor: Option<MsgId>,
}

/// Topics of which a loss has its own floor.
const TOPICS: usize = 10_000;

/// The messages a client was sent, by topic, as far as they still matter for its positions.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    topics: HashMap<TopicName, Marks, RandomState>,
    /// The floor of topics without one.
    floor: Option<MsgId>,
    /// Filters read to their end since the last loss that moved the common floor.
    read: Vec<TopicFilter>,
    /// Filters of which stored messages are still to be read since a restart: no position in their topics moves beyond
    /// what was sent out of a store.
    unread: Vec<TopicFilter>,
}

impl Positions {
    /// Positions of a client whose subscriptions to `unread` had not brought all that stores have when the process ended.
    pub(crate) fn with_unread(unread: Vec<TopicFilter>) -> Self {
        Self { unread, ..Self::default() }
    }

    /// What stores have for `filter` was read, or never will be.
    pub(crate) fn joined(&mut self, filter: &TopicFilter) {
        self.unread.retain(|unread| unread != filter);
    }

    /// The floor of `topic`, if it has none of its own.
    fn common_floor(&self, topic: &TopicName) -> Option<MsgId> {
        let is_unread = self.unread.iter().any(|filter| filter.matches(topic));
        if is_unread { Some(MsgId::from_bits(0)) } else { self.floor }
    }

    /// Stored messages were lost on their way to the client: no position passes them until they are read.
    pub(crate) fn lost(&mut self, losses: Losses) {
        let mut elsewhere = losses.elsewhere;
        for (topic, first) in losses.topics {
            if self.topics.len() >= TOPICS && !self.topics.contains_key(&topic) {
                elsewhere = Some(elsewhere.map_or(first, |floor| floor.min(first)));
                continue;
            }
            let common = self.common_floor(&topic);
            let marks = self.topics.entry(topic).or_default();
            marks.floor = Some(marks.floor.or(common).map_or(first, |floor| floor.min(first)));
        }
        if let Some(first) = elsewhere {
            self.floor = Some(self.floor.map_or(first, |floor| floor.min(first)));
            self.read.clear();
        }
    }

    /// Whether the client's position in `topic` may not reach `id` now.
    pub(crate) fn is_held_back(&self, topic: &TopicName, id: MsgId) -> bool {
        let floor = self.topics.get(topic).and_then(|marks| marks.floor).or_else(|| self.common_floor(topic));
        floor.is_some_and(|floor| floor <= id)
    }

    /// `id` of `topic` is being sent.
    pub(crate) fn sent(&mut self, topic: &TopicName, id: MsgId) {
        if !self.topics.contains_key(topic) {
            self.topics.insert(detached_topic(topic), Marks::default());
        }
        if let Some(Marks { marks, .. }) = self.topics.get_mut(topic)
            && let Err(place) = marks.binary_search_by_key(&id, |mark| mark.id)
        {
            marks.insert(place, Mark { id, acked: false });
        }
    }

    /// `id` of `topic` is being sent out of a store, and everything older that the store has was sent before.
    pub(crate) fn sent_from_store(&mut self, topic: &TopicName, id: MsgId) {
        self.sent(topic, id);
        let common = self.common_floor(topic);
        if let Some(marks) = self.topics.get_mut(topic)
            && let Some(floor) = marks.floor.or(common)
        {
            marks.floor = Some(floor.max(MsgId::from_bits(id.bits().saturating_add(1))));
        }
    }

    /// All that stores have for `filter` was sent. `subscribed`: the client's filters.
    pub(crate) fn read_to_the_end(
        &mut self,
        filter: &TopicFilter,
        subscribed: impl FnOnce() -> Vec<TopicFilter>,
    ) {
        if self.floor.is_some() {
            self.read.retain(|known| !filter.covers(known));
            self.read.push(filter.clone());
            let subscribed = subscribed();
            self.read.retain(|known| subscribed.contains(known));
            let read = &self.read;
            if subscribed.iter().all(|wanted| read.iter().any(|known| known.covers(wanted))) {
                self.floor = None;
                self.read.clear();
            }
        }
        self.topics.retain(|topic, marks| {
            if marks.floor.is_some() && filter.matches(topic) {
                marks.floor = None;
            }
            !marks.marks.is_empty() || marks.floor.is_some()
        });
    }

    /// `id` of `topic` is acknowledged. Gives the greatest id up to which all sent of the topic now are;
    /// `None` when an older one is still outstanding.
    pub(crate) fn acked(&mut self, topic: &TopicName, id: MsgId) -> Option<MsgId> {
        let common = self.common_floor(topic);
        let Some(Marks { marks, floor }) = self.topics.get_mut(topic) else {
            return if common.is_some_and(|floor| floor <= id) { None } else { Some(id) };
        };
        let limit = floor.or(common);
        match marks.binary_search_by_key(&id, |mark| mark.id) {
            Ok(place) => {
                if let Some(mark) = marks.get_mut(place) {
                    mark.acked = true;
                }
            }
            Err(place) => marks.insert(place, Mark { id, acked: true }),
        }
        let may_be_reached = |id: MsgId| limit.is_none_or(|limit| id < limit);
        marks.dedup_by(|later, earlier| {
            let both = later.acked && earlier.acked;
            let same = both && may_be_reached(later.id) == may_be_reached(earlier.id);
            if same {
                earlier.id = later.id;
            }
            same
        });
        let through = marks.first().filter(|mark| mark.acked && may_be_reached(mark.id)).map(|mark| mark.id);
        if through.is_some() {
            marks.remove(0);
        }
        if marks.is_empty() && floor.is_none() {
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
        assert!(positions.topics.get(&t).unwrap().marks.len() <= 2);
        assert_eq!(positions.acked(&t, id(0)), Some(id(9_999)));
    }

    fn loss(topic: &TopicName, number: u128) -> Losses {
        let mut losses = Losses::default();
        losses.note(topic, id(number));
        losses
    }

    #[test]
    fn no_position_passes_a_loss_until_the_store_is_read() {
        let (mut positions, t) = (Positions::default(), topic("t"));
        for n in [1, 2, 3, 5, 7] {
            positions.sent(&t, id(n));
        }
        positions.lost(loss(&t, 4));
        assert_eq!(positions.acked(&t, id(2)), None);
        assert_eq!(positions.acked(&t, id(5)), None);
        assert_eq!(positions.acked(&t, id(7)), None);
        assert_eq!(positions.acked(&t, id(3)), None);
        assert_eq!(positions.acked(&t, id(1)), Some(id(3)), "below the loss it moves");
        assert!(positions.is_held_back(&t, id(7)) && !positions.is_held_back(&t, id(3)));
        // 6 is lost too; the store gives 4, then 6.
        positions.sent_from_store(&t, id(4));
        assert_eq!(positions.acked(&t, id(4)), Some(id(4)));
        positions.sent_from_store(&t, id(6));
        positions.read_to_the_end(&"+".parse().unwrap(), Vec::new);
        assert_eq!(positions.acked(&t, id(6)), Some(id(7)));
        assert!(positions.topics.is_empty());
    }

    #[test]
    fn losses_beyond_counting_hold_every_topic_back() {
        let (mut positions, t) = (Positions::default(), topic("t"));
        positions.lost(Losses { elsewhere: Some(id(5)), ..Losses::default() });
        assert_eq!(positions.acked(&t, id(4)), Some(id(4)));
        assert_eq!(positions.acked(&t, id(6)), None);
        positions.sent(&t, id(8));
        assert_eq!(positions.acked(&t, id(8)), None);
        positions.sent_from_store(&t, id(5));
        assert_eq!(positions.acked(&t, id(5)), Some(id(5)));
        let filters = || vec!["t".parse().unwrap(), "a/#".parse().unwrap()];
        positions.read_to_the_end(&"a/#".parse().unwrap(), filters);
        assert!(positions.is_held_back(&t, id(9)), "t was not read");
        positions.read_to_the_end(&"t".parse().unwrap(), filters);
        positions.sent(&t, id(9));
        assert_eq!(positions.acked(&t, id(9)), Some(id(9)));
    }

    /// Live messages that had waited for stored ones were ordinary after a restart: their acknowledgements moved the
    /// position over what was not read yet.
    #[test]
    fn no_position_passes_what_was_not_read_before_a_restart() {
        let (mut positions, t) = (Positions::with_unread(vec!["#".parse().unwrap()]), topic("t"));
        positions.sent(&t, id(1));
        positions.sent(&t, id(9));
        assert_eq!(positions.acked(&t, id(9)), None);
        assert_eq!(positions.acked(&t, id(1)), None);
        assert!(positions.is_held_back(&t, id(1)) && positions.is_held_back(&topic("u"), id(1)));
        positions.sent_from_store(&t, id(3));
        assert_eq!(positions.acked(&t, id(3)), Some(id(3)));
        positions.joined(&"#".parse().unwrap());
        positions.read_to_the_end(&"#".parse().unwrap(), Vec::new);
        positions.sent(&t, id(10));
        assert_eq!(positions.acked(&t, id(10)), Some(id(10)));
    }
}
