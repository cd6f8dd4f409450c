//! Which messages a client was given lately, out of a store or while one is read: it is not given them again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use tidegate_event::{MsgId, QoS};

/// A message reaches the stores before it is routed; the gap is that of the publisher's pipeline, which waits as long
/// as a store is down.
const KEPT: Duration = Duration::from_secs(3_600);
/// What the broker retains it delivers at once.
const BRIEFLY: Duration = Duration::from_secs(10);
/// An id takes about 40 bytes: at most 2.6 MB, while a backlog of new messages is read.
const GREATEST: usize = 65_536;
/// Memory of one id.
const ID: usize = 40;

/// Ids given to a client lately.
#[derive(Debug)]
pub(crate) struct Recent {
    /// With the QoS at which they were given.
    ids: HashMap<MsgId, QoS, RandomState>,
    order: VecDeque<MsgId>,
    /// From then on no live copy of anything in it can come.
    until: Instant,
}

impl Recent {
    pub(crate) fn new() -> Self {
        Self { ids: HashMap::default(), order: VecDeque::new(), until: Instant::now() }
    }

    /// Remembers `id`, unless it is so old that no live copy can follow.
    pub(crate) fn insert(&mut self, id: MsgId, now_ms: u64) {
        let age_ms = now_ms.saturating_sub(id.micros() / 1_000);
        if u128::from(age_ms) <= KEPT.as_millis() {
            self.insert_of_any_age(id);
        }
    }

    /// Remembers `id` however old it is: a store that is being read may give it.
    pub(crate) fn insert_of_any_age(&mut self, id: MsgId) {
        self.insert_for(KEPT, id, QoS::ExactlyOnce);
    }

    /// Remembers `id`, given at `qos`, of which the broker may be about to deliver a live copy.
    pub(crate) fn insert_briefly(&mut self, id: MsgId, qos: QoS) {
        self.insert_for(BRIEFLY, id, qos);
    }

    fn insert_for(&mut self, time: Duration, id: MsgId, qos: QoS) {
        self.until = self.until.max(Instant::now() + time);
        if let Some(known) = self.ids.get_mut(&id) {
            *known = qos.max(*known);
            return;
        }
        self.ids.insert(id, qos);
        self.order.push_back(id);
        if self.order.len() > GREATEST
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    /// The client was not given `ids` after all.
    pub(crate) fn remove(&mut self, ids: &HashSet<MsgId, RandomState>) {
        self.ids.retain(|id, _| !ids.contains(id));
        self.order.retain(|id| !ids.contains(id));
    }

    pub(crate) fn contains(&self, id: MsgId) -> bool {
        self.ids.contains_key(&id)
    }

    /// Whether a live copy of `id` at `qos` is not wanted: the client was given the message at that QoS, or a greater one.
    pub(crate) fn covers(&self, id: MsgId, qos: QoS) -> bool {
        self.ids.get(&id).is_some_and(|given| *given >= qos)
    }

    /// Whether no live copy of anything in it can still come.
    pub(crate) fn is_stale(&self) -> bool {
        self.until < Instant::now()
    }

    /// Memory that it takes, bytes.
    pub(crate) fn weight(&self) -> usize {
        self.order.len() * ID
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_at(ms: u64) -> MsgId {
        MsgId::from_bits((u128::from(ms) * 1_000) << 64)
    }

    #[test]
    fn only_young_ids_are_kept() {
        let mut recent = Recent::new();
        let now = 1_000_000_000_000;
        recent.insert(made_at(now - 1_000), now);
        recent.insert(made_at(now - 7_200_000), now);
        recent.insert_of_any_age(made_at(5));
        assert!(recent.contains(made_at(now - 1_000)));
        assert!(!recent.contains(made_at(now - 7_200_000)));
        assert!(recent.contains(made_at(5)));
        assert!(!recent.is_stale());
        recent.remove(&HashSet::from_iter([made_at(5)]));
        assert!(!recent.contains(made_at(5)));
    }

    /// A subscriber of very many retained messages kept the ids of all for an hour, in no budget.
    #[test]
    fn what_the_broker_has_retained_is_remembered_briefly_and_counts() {
        let mut recent = Recent::new();
        recent.insert_briefly(made_at(1), QoS::AtMostOnce);
        assert_eq!(recent.weight(), ID);
        assert!(recent.until <= Instant::now() + BRIEFLY);
        recent.insert_of_any_age(made_at(2));
        recent.insert_briefly(made_at(3), QoS::AtMostOnce);
        assert!(recent.until > Instant::now() + BRIEFLY, "a store may still give the other one");
    }

    #[test]
    fn the_oldest_go_first() {
        let mut recent = Recent::new();
        for n in 0..GREATEST as u64 + 10 {
            recent.insert(made_at(n), 0);
        }
        assert_eq!(recent.ids.len(), GREATEST);
        assert!(!recent.contains(made_at(9)));
        assert!(recent.contains(made_at(10)));
    }
}
