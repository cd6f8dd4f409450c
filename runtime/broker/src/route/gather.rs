//! Messages of QoS 0 of one publisher to the same subscribers, one after the other: each subscriber is given all of
//! them at once, so that its queue is locked, and found in memory, once and not once a message.
//!
//! The first of them is delivered at once, so that a publisher notices in time that a subscriber is behind: then no more are
//! gathered. Nobody waits for an answer to them. Whatever else the publisher sends comes after them, and its connection has
//! them delivered at the end of its turn, at the latest.

use std::sync::Arc;

use tidegate_event::{Message, QoS};

use super::{Fanout, ReadAt, Route, Routes};
use crate::limits::QueueLimits;
use crate::limits::budget::is_charged_once;
use crate::realm::Realm;
use crate::session::delivery::Delivery;

/// For how many subscribers it is worth it.
const FROM: usize = 2;
/// What part of a queue may be gathered: many publishers may have gathered something for it.
const PART: usize = 32;
/// Places that a publisher that rests may keep.
const IDLE: usize = 4;

/// What was gathered.
#[derive(Default)]
pub(super) struct Gathered {
    /// The subscribers of the last message.
    routes: Option<Arc<Routes>>,
    messages: Vec<Gathering>,
    /// What the messages take in a queue, bytes.
    bytes: usize,
}

/// A message that was gathered.
pub(crate) struct Gathering {
    pub(crate) message: Arc<Message>,
    read_at: ReadAt,
    /// Without its read buffer, if that was asked for.
    detached: Option<Arc<Message>>,
}

impl Gathering {
    /// It is being routed now, or not any more: `fanout` knows what was known of it.
    #[inline]
    pub(crate) fn swap(&mut self, fanout: &mut Fanout) {
        fanout.read_at = self.read_at;
        std::mem::swap(&mut fanout.detached, &mut self.detached);
    }
}

impl Gathered {
    /// Gives memory back that a burst has left.
    pub(super) fn rest(&mut self) {
        if self.messages.is_empty() && self.messages.capacity() > IDLE {
            *self = Self::default();
        }
    }

    /// Whether one more may come, without a subscriber that has little waiting being given too much at once.
    fn has_room(&self, limits: QueueLimits<'_>) -> bool {
        self.messages.len() < limits.messages / PART && self.bytes < limits.bytes / PART
    }

    fn is_to(&self, routes: &Arc<Routes>) -> bool {
        self.routes.as_ref().is_some_and(|gathered| Arc::ptr_eq(gathered, routes))
    }
}

impl Realm {
    /// Keeps `message` until [`Realm::spread`], if that may be; else what was kept is delivered before it.
    pub(super) fn gathers(&self, message: &Arc<Message>, routes: &Arc<Routes>, fanout: &mut Fanout) -> bool {
        let is_plain =
            message.qos == QoS::AtMostOnce && !message.retain && !is_charged_once(&message.payload);
        let are_many = routes.direct.len() >= FROM && routes.groups.is_empty();
        // While memory is nearly used up a subscriber is given QoS 0 only when it has nothing waiting.
        if !fanout.may_gather || !is_plain || !are_many || self.broker.budget.is_tight() {
            self.spread(fanout);
            return false;
        }
        let limits = self.broker.queue_limits();
        let follows = fanout.gathered.is_to(routes) && fanout.gathered.has_room(limits);
        if !follows || fanout.crowded.is_some() {
            self.spread(fanout);
            fanout.gathered.routes = Some(Arc::clone(routes));
            return false;
        }
        let (read_at, detached) = (fanout.read_at, fanout.detached.take());
        let gathered = &mut fanout.gathered;
        gathered.bytes += Delivery::size_of(message);
        gathered.messages.push(Gathering { message: Arc::clone(message), read_at, detached });
        true
    }

    /// Delivers what was gathered.
    pub(crate) fn spread(&self, fanout: &mut Fanout) {
        let Some(routes) = fanout.gathered.routes.take() else { return };
        let Some(Gathering { message, .. }) = fanout.gathered.messages.first() else { return };
        // Who has unsubscribed meanwhile, and has perhaps been told so, gets nothing more ([MQTT-3.10.4-2]).
        let topic = (!self.tree.holds(routes.age)).then(|| message.topic.clone());
        let is_subscribed = |route: &&Route| {
            topic.as_ref().is_none_or(|topic| self.tree.reaches(topic, route.session.number))
        };
        let mut messages = std::mem::take(&mut fanout.gathered).messages;
        let (read_at, detached) = (fanout.read_at, fanout.detached.take());
        for route in routes.direct.iter().filter(is_subscribed) {
            if route.session.push_all(self, fanout, &mut messages, |message| route.delivery(message)) {
                fanout.crowd(&route.session);
            }
        }
        messages.clear();
        fanout.gathered.messages = messages;
        (fanout.read_at, fanout.detached) = (read_at, detached);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::VecDeque;

    use tidegate_event::{MsgId, SharedFilter, SubscriptionOptions};

    use super::*;
    use crate::BrokerConfig;
    use crate::route::RouteCache;
    use crate::session::{Session, test_message};

    const SUBSCRIBERS: usize = 8;

    fn realm(subscribers: usize, config: BrokerConfig) -> (Arc<Realm>, Vec<Arc<Session>>) {
        let realm = crate::realm::test_realm(config);
        let sessions = (0..subscribers).map(|number| {
            let session = Arc::new(Session::new(number as u64, format!("c{number}").into(), 0, 60));
            let filter = SharedFilter::parse(&"#".into()).unwrap();
            let options = SubscriptionOptions { qos: QoS::ExactlyOnce, ..SubscriptionOptions::default() };
            realm.tree.insert(&filter, &session, options);
            session.connect(&realm);
            session
        });
        let sessions = sessions.collect();
        (realm, sessions)
    }

    fn gathering() -> Fanout {
        Fanout { may_gather: true, ..Fanout::default() }
    }

    fn received(session: &Session) -> Vec<u128> {
        let mut batch = VecDeque::new();
        session.outbox().take(&mut batch, usize::MAX);
        batch.iter().map(|delivery| delivery.message.id.bits()).collect()
    }

    #[tokio::test]
    async fn nothing_overtakes_what_was_gathered() {
        let (realm, sessions) = realm(SUBSCRIBERS, BrokerConfig::default());
        let (mut cache, mut fanout) = (RouteCache::default(), gathering());
        let plain = |topic, id| test_message(topic, QoS::AtMostOnce, id);
        let mut retained = Message::clone(&plain("a", 9));
        retained.retain = true;
        let messages = [
            plain("a", 1),
            plain("a", 2),
            plain("b", 3),
            test_message("b", QoS::AtLeastOnce, 4),
            plain("a", 5),
            plain("a", 6),
            Arc::new(retained),
            plain("a", 10),
            plain("a", 11),
        ];
        let mut reached = Vec::new();
        for message in &messages {
            realm.route(message, &mut cache, &mut fanout);
            reached.push(sessions[0].outbox().len());
        }
        assert_eq!(reached, [1, 1, 3, 4, 5, 5, 7, 8, 8]);
        realm.spread(&mut fanout);
        realm.spread(&mut fanout);
        for session in &sessions {
            assert_eq!(received(session), [1, 2, 3, 4, 5, 6, 9, 10, 11]);
        }
    }

    fn reached(realm: &Realm, session: &Session, fanout: &mut Fanout) -> Vec<usize> {
        let mut cache = RouteCache::default();
        let reached = (1..=9).map(|id| {
            realm.route(&test_message("a", QoS::AtMostOnce, id), &mut cache, fanout);
            session.outbox().len()
        });
        reached.collect()
    }

    /// A queue may be full with a few messages, and many publishers may have gathered something for it.
    #[tokio::test]
    async fn no_more_is_gathered_than_a_small_part_of_a_queue() {
        let messages = BrokerConfig { max_queued: 3 * PART, ..BrokerConfig::default() };
        let size = Delivery::size_of(&test_message("a", QoS::AtMostOnce, 1));
        let bytes = BrokerConfig { max_queued_bytes: 3 * PART * size, ..BrokerConfig::default() };
        for config in [messages, bytes] {
            let (realm, sessions) = realm(SUBSCRIBERS, config);
            assert_eq!(reached(&realm, &sessions[0], &mut gathering()), [1, 1, 1, 1, 5, 5, 5, 5, 9]);
        }
    }

    #[tokio::test]
    async fn nothing_is_gathered_while_a_subscriber_is_behind_or_memory_is_short() {
        let (crowded, sessions) = realm(SUBSCRIBERS, BrokerConfig::default());
        let mut fanout = Fanout { crowded: Some(Arc::clone(&sessions[1])), ..gathering() };
        assert_eq!(reached(&crowded, &sessions[0], &mut fanout), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let (tight, sessions) =
            realm(SUBSCRIBERS, BrokerConfig { queue_budget_bytes: 0, ..BrokerConfig::default() });
        assert!(tight.broker.budget.is_tight());
        let mut fanout = gathering();
        assert_eq!(reached(&tight, &sessions[0], &mut fanout), [1; 9], "what it has is in its way");
        assert!(fanout.gathered.messages.is_empty());
    }

    /// Whole bursts went into a queue that was full already.
    #[tokio::test]
    async fn a_publisher_notices_in_time_that_a_subscriber_is_behind() {
        const MOST: usize = 3 * PART;
        let (realm, sessions) =
            realm(SUBSCRIBERS, BrokerConfig { max_queued: MOST, ..BrokerConfig::default() });
        let (mut cache, mut fanout) = (RouteCache::default(), gathering());
        let mut ids = 1..;
        while fanout.crowded.is_none() {
            let id = ids.next().unwrap();
            realm.route(&test_message("a", QoS::AtMostOnce, id), &mut cache, &mut fanout);
        }
        let behind = sessions[0].outbox().len();
        assert!((MOST / 2..=MOST / 2 + 4).contains(&behind), "{behind}");
        fanout.crowded = None;
        realm.spread(&mut fanout);
        realm.route(&test_message("a", QoS::AtMostOnce, 1_000), &mut cache, &mut fanout);
        assert!(fanout.crowded.is_some(), "the first of the next burst");
    }

    /// Its UNSUBACK may have been sent.
    #[tokio::test]
    async fn who_has_unsubscribed_meanwhile_gets_nothing_of_what_was_gathered() {
        let (realm, sessions) = realm(SUBSCRIBERS, BrokerConfig::default());
        let (mut cache, mut fanout) = (RouteCache::default(), gathering());
        for id in 1..=3 {
            realm.route(&test_message("a", QoS::AtMostOnce, id), &mut cache, &mut fanout);
        }
        realm.tree.remove(&SharedFilter::parse(&"#".into()).unwrap(), sessions[2].number);
        realm.spread(&mut fanout);
        assert_eq!([received(&sessions[1]), received(&sessions[2])], [vec![1, 2, 3], vec![1]]);
    }

    /// Every subscriber that is behind shares the one copy that does not keep the read buffer.
    #[tokio::test]
    async fn a_gathered_message_is_copied_once_for_all_that_are_behind() {
        let (realm, sessions) = realm(SUBSCRIBERS, BrokerConfig::default());
        let (mut cache, mut fanout) = (RouteCache::default(), gathering());
        for id in 1..=20 {
            fanout.read_at = ReadAt { connection: 1, position: 1_000_000 * id as u64, buffer: 65_536 };
            realm.route(&test_message("a", QoS::AtMostOnce, id), &mut cache, &mut fanout);
        }
        let position = fanout.read_at.position;
        realm.spread(&mut fanout);
        assert_eq!(fanout.read_at.position, position);
        let last = |session: &Arc<Session>| {
            let mut batch = VecDeque::new();
            session.outbox().take(&mut batch, usize::MAX);
            batch.pop_back().map(|delivery| delivery.message).unwrap()
        };
        let copies: Vec<_> = sessions.iter().map(last).collect();
        assert_eq!(copies[0].id, MsgId::from_bits(20));
        assert!(copies.iter().all(|copy| Arc::ptr_eq(copy, &copies[0])));
    }

    /// A burst left its buffers with every connection for the rest of its life.
    #[tokio::test]
    async fn a_publisher_that_rests_keeps_no_large_buffer() {
        let (realm, _sessions) = realm(SUBSCRIBERS, BrokerConfig::default());
        let (mut cache, mut fanout) = (RouteCache::default(), gathering());
        for (messages, kept) in [(20, 0), (2, IDLE)] {
            for id in 1..=messages {
                realm.route(&test_message("a", QoS::AtMostOnce, id), &mut cache, &mut fanout);
            }
            realm.spread(&mut fanout);
            fanout.rest();
            assert_eq!(fanout.gathered.messages.capacity(), kept);
        }
    }
}
