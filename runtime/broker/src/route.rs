//! From a message to the sessions it reaches.
//!
//! Each publisher keeps, per topic, the resolved list of subscribers: overlapping subscriptions of one client
//! merged into one delivery. The list holds until a subscription changes that its topic may match, so a publish takes no
//! shared lock and allocates nothing. Long lists are made once for all publishers: each keeps the one that it uses.

mod gather;

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

use bytestring::ByteString;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tidegate_event::{Change, Message, Origin, QoS, Shown, SubscriptionOptions, TopicName};

use self::gather::Gathered;
pub(crate) use self::gather::Gathering;
use crate::limits::budget::{Account, is_charged_once};
use crate::metrics::Drop;
use crate::realm::Realm;
use crate::retained::Set;
use crate::session::Session;
use crate::session::delivery::{Delivery, Rank, Source, copied, detached, detached_topic};
use crate::session::outbox::IDLE_CAPACITY;
use crate::share::Group;
use crate::sys;
#[cfg(test)]
use crate::tree::Subscriber;
use crate::tree::{Age, Matches, TopicTree};

/// Memory of the subscribers that one publisher keeps, bytes: those of a thousand topics with one subscriber each.
const CACHED: usize = 256 * 1024;
/// The same, of a publisher that rests: there may be very many of those.
const RESTING: usize = 16 * 1024;
/// The same, of all publishers together.
pub(crate) const ALL_CACHED: usize = 16 * 1024 * 1024;
/// What each may keep when that is used up.
const LEAST: usize = 2 * 1024;
/// Topics with more subscribers are looked up once for all publishers.
const MANY: usize = 32;
/// Changes of subscriptions after which a publisher that does not rest looks what of that does not hold any more.
const CHANGES: u64 = 1_000;
/// Deliveries in one turn of a publisher, after which others have theirs.
const DELIVERIES: u32 = 8_192;
/// Subscribers that are woken at once, at most.
const WOKEN: usize = 256;
/// Memory of the subscribers of such topics, of one tenant, bytes.
const SHARED: usize = 16 * 1024 * 1024;

/// What a client's subscriptions to a topic say together.
#[derive(Clone)]
struct Grant {
    qos: QoS,
    retain_as_published: bool,
    ids: Option<Arc<[u32]>>,
}

/// One subscriber of a topic.
struct Route {
    session: Arc<Session>,
    /// For messages of other clients.
    grant: Grant,
    /// For the subscriber's own messages, when a subscription of it says no local (MQTT 5 clause 3.8.3.1).
    /// `Some(None)`: none of them.
    own: Option<Option<Grant>>,
}

impl Route {
    /// `message` on its way to the subscriber, unless that wants none of its own.
    #[inline]
    fn delivery(&self, message: &Arc<Message>) -> Option<Delivery> {
        let grant = match &self.own {
            Some(own) if sent_by(message, &self.session) => own.as_ref()?,
            _ => &self.grant,
        };
        Some(Delivery {
            message: Arc::clone(message),
            subscription_ids: grant.ids.clone(),
            qos: grant.qos.min(message.qos),
            retain: grant.retain_as_published && message.retain,
            number: None,
            // What the broker says itself waits for nothing and moves no position.
            source: if message.origin == Origin::Broker { Source::Direct } else { Source::Live },
            rank: Rank::default(),
            pins_buffer: false,
        })
    }
}

/// The resolved subscribers of a topic.
struct Routes {
    /// Whether they still hold.
    age: Age,
    direct: Vec<Route>,
    groups: Vec<Arc<Group>>,
}

impl Routes {
    /// About how many bytes they take under `topic`.
    fn size(&self, topic: &TopicName) -> usize {
        size_of::<Self>()
            + 2 * size_of::<(TopicName, Arc<Self>)>()
            + topic.as_str().len()
            + self.direct.len() * size_of::<Route>()
            + self.groups.len() * size_of::<Arc<Group>>()
    }

    fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.groups.is_empty()
    }

    /// Whether every publisher may keep a copy of its own under `topic`.
    fn is_few(&self, topic: &TopicName) -> bool {
        self.direct.len() <= MANY && self.size(topic) <= CACHED
    }
}

/// Resolved topics, bounded in bytes.
#[derive(Default)]
struct Resolved {
    topics: HashMap<TopicName, Arc<Routes>, RandomState>,
    bytes: usize,
    /// The tree's generation when what does not hold any more was looked for last.
    looked: u64,
}

impl Resolved {
    fn clear(&mut self) {
        self.topics.clear();
        self.bytes = 0;
    }

    /// What is kept under `topic`, if it holds.
    fn get(&self, tree: &TopicTree, topic: &TopicName) -> Option<(&TopicName, &Arc<Routes>)> {
        self.topics.get_key_value(topic).filter(|(_, routes)| tree.holds(routes.age))
    }

    /// Keeps `routes` under `topic`, which owns its memory, unless they alone are more than `most` bytes.
    fn insert(&mut self, tree: &TopicTree, topic: &TopicName, routes: &Arc<Routes>, most: usize) {
        if tree.generation() - self.looked > CHANGES {
            self.forget_stale(tree);
        }
        self.remove(topic);
        let size = routes.size(topic);
        if self.bytes + size > most {
            self.clear();
        }
        if size <= most {
            self.bytes += size;
            self.topics.insert(topic.clone(), Arc::clone(routes));
        }
    }

    fn remove(&mut self, topic: &TopicName) {
        if let Some(routes) = self.topics.remove(topic) {
            self.bytes -= routes.size(topic);
        }
    }

    /// Forgets what does not hold any more.
    fn forget_stale(&mut self, tree: &TopicTree) {
        let generation = tree.generation();
        if self.looked != generation {
            self.looked = generation;
            let Self { topics, bytes, .. } = self;
            topics.retain(|topic, routes| {
                let holds = tree.holds(routes.age);
                if !holds {
                    *bytes -= routes.size(topic);
                }
                holds
            });
        }
    }

    /// The subscribers of `topic` for one publisher, looked up if nobody keeps them.
    fn find(&mut self, realm: &Realm, topic: &TopicName) -> (TopicName, Arc<Routes>) {
        let tree = &realm.tree;
        if let Some((topic, routes)) = self.get(tree, topic) {
            return (topic.clone(), Arc::clone(routes));
        }
        let topic = detached_topic(topic);
        if let Some(routes) = realm.shared_routes.find(tree, &topic) {
            self.remove(&topic);
            return (topic, routes);
        }
        let (age, found) = tree.matches(&topic);
        let routes = Arc::new(resolve(age, found));
        if routes.is_few(&topic) {
            let most = if realm.broker.routes.is_tight() { LEAST } else { CACHED };
            self.insert(tree, &topic, &routes, most);
        } else {
            self.remove(&topic);
            realm.shared_routes.insert(tree, &topic, &routes);
        }
        (topic, routes)
    }
}

/// The subscribers of topics that have many, looked up once for all publishers of a tenant.
#[derive(Default)]
pub(crate) struct SharedRoutes(Mutex<Resolved>);

impl SharedRoutes {
    fn find(&self, tree: &TopicTree, topic: &TopicName) -> Option<Arc<Routes>> {
        self.0.lock().get(tree, topic).map(|(_, routes)| Arc::clone(routes))
    }

    fn insert(&self, tree: &TopicTree, topic: &TopicName, routes: &Arc<Routes>) {
        self.0.lock().insert(tree, topic, routes, SHARED);
    }

    /// Forgets what does not hold any more: it may be the last that keeps ended sessions in memory.
    pub(crate) fn forget_stale(&self, tree: &TopicTree) {
        self.0.lock().forget_stale(tree);
    }
}

/// The subscribers of the topics that one publisher uses.
#[derive(Default)]
pub(crate) struct RouteCache {
    own: Resolved,
    /// The topic that it used last, whether or not that is kept besides.
    last: Option<(TopicName, Arc<Routes>)>,
    account: Account,
}

impl RouteCache {
    fn routes(&mut self, realm: &Realm, topic: &TopicName) -> &Arc<Routes> {
        let Self { own, last, account } = self;
        last.take_if(|(last, routes)| last != topic || !realm.tree.holds(routes.age));
        let (_, routes) = last.get_or_insert_with(|| {
            let found = own.find(realm, topic);
            account.settle(&realm.broker.routes, own.bytes);
            found
        });
        routes
    }

    /// Forgets what no longer holds, so that a publisher that rests does not keep ended sessions in memory, and what
    /// is too much for one that rests.
    pub(crate) fn rest(&mut self, realm: &Realm) {
        let most = if realm.broker.routes.is_tight() { LEAST } else { RESTING };
        if self.own.bytes > most {
            *self = Self::default();
        }
        self.own.forget_stale(&realm.tree);
        self.account.rest(self.own.bytes);
        self.last.take_if(|(topic, routes)| !routes.is_few(topic) || !realm.tree.holds(routes.age));
    }
}

/// From where a message was read: it keeps the read buffer alive that it shares with its neighbours.
///
/// A subscriber that takes all of them keeps nothing for long, or no more than what it waits for. One that takes a few bytes
/// out of each buffer and is stuck would keep all the buffers: so a message for it is copied, if it lies far from the last one
/// that it was given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadAt {
    /// Number of the connection; 0: none.
    pub(crate) connection: u64,
    /// How many bytes of read buffers the connection had used up before.
    pub(crate) position: u64,
    /// The size of its read buffer.
    pub(crate) buffer: usize,
}

/// What routing leaves behind: tasks to wake and writes to wait for.
#[derive(Default)]
pub(crate) struct Fanout {
    /// From where the message being routed was read.
    pub(crate) read_at: ReadAt,
    /// Whether messages may be gathered: whoever says so calls [`Realm::spread`] afterwards.
    pub(crate) may_gather: bool,
    gathered: Gathered,
    wakers: Vec<Waker>,
    /// Something was recorded that must be durable before the publisher is answered.
    pub(crate) recorded: bool,
    /// A subscriber whose queue is more than half full.
    pub(crate) crowded: Option<Arc<Session>>,
    /// The message being routed, without its read buffer.
    detached: Option<Arc<Message>>,
    /// The filter of the group whose members are asked.
    pub(crate) shared: Option<ByteString>,
    /// How many deliveries were begun since [`Fanout::begin_turn`].
    begun: u32,
    /// Whether anybody was woken since [`Fanout::has_woken`].
    woken: bool,
}

impl Fanout {
    /// Wakes `waker` at the next [`Fanout::flush`], or earlier when there are many.
    pub(crate) fn wake(&mut self, waker: Waker) {
        self.wakers.push(waker);
        if self.wakers.len() >= WOKEN {
            self.flush();
        }
    }

    /// A new turn of the publisher.
    pub(crate) fn begin_turn(&mut self) {
        self.begun = 0;
    }

    /// Whether so many deliveries were begun in this turn that others should have theirs: one message may be thousands.
    pub(crate) fn is_enough(&self) -> bool {
        self.begun >= DELIVERIES
    }

    /// Gives memory back that a burst has left.
    pub(crate) fn rest(&mut self) {
        if self.wakers.is_empty() && self.wakers.capacity() > IDLE_CAPACITY {
            self.wakers = Vec::new();
        }
        self.gathered.rest();
    }

    /// For how many tasks there is a place.
    #[cfg(test)]
    pub(crate) fn places(&self) -> usize {
        self.wakers.capacity()
    }

    /// The queue of `session` is more than half full.
    pub(crate) fn crowd(&mut self, session: &Arc<Session>) {
        if self.crowded.is_none() {
            self.crowded = Some(Arc::clone(session));
        }
    }

    /// Wakes the subscribers: once after many messages, not once a message.
    pub(crate) fn flush(&mut self) {
        self.woken |= !self.wakers.is_empty();
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }

    /// A copy of `message` that owns its memory, however large it is.
    fn copied_once(&mut self, message: &Arc<Message>) -> Arc<Message> {
        Arc::clone(self.detached.insert(copied(message)))
    }

    /// `message` to be charged: itself, or a copy, if it keeps alive more than twice what it is long.
    fn to_be_charged(&self, message: &Arc<Message>) -> Arc<Message> {
        match &self.detached {
            Some(copy) if copy.id == message.id => Arc::clone(copy),
            _ if self.read_at.buffer > 2 * message.payload.len() => copied(message),
            _ => Arc::clone(message),
        }
    }

    /// Whether anybody was woken since the last call.
    pub(crate) fn has_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// `message` without its read buffer, copied once for all sessions that keep it long.
    pub(crate) fn detached_once(&mut self, message: &Arc<Message>) -> Arc<Message> {
        match &self.detached {
            Some(copy) if copy.id == message.id => Arc::clone(copy),
            _ => Arc::clone(self.detached.insert(detached(message))),
        }
    }
}

impl Realm {
    /// Retains `message` if it says so, and delivers it to every session it reaches.
    pub(crate) fn route(&self, message: &Arc<Message>, cache: &mut RouteCache, fanout: &mut Fanout) {
        if sys::is_system(&message.topic) {
            // Nobody but the broker publishes there, whatever a module replaces a topic by.
            self.dropped(Drop::SystemTopic);
            return;
        }
        if message.retain {
            // A subscription that is made now brings it: not before what it followed.
            self.spread(fanout);
            self.retain(message, fanout);
        }
        self.deliver(message, cache, fanout);
    }

    /// Delivers `message` to every session it reaches.
    pub(crate) fn deliver(&self, message: &Arc<Message>, cache: &mut RouteCache, fanout: &mut Fanout) {
        let routes = cache.routes(self, &message.topic);
        if routes.is_empty() {
            // It may have been retained.
            fanout.detached = None;
            return;
        }
        let begun = u32::try_from(routes.direct.len() + routes.groups.len()).unwrap_or(u32::MAX);
        fanout.begun = fanout.begun.saturating_add(begun);
        if self.gathers(message, routes, fanout) {
            return;
        }
        let charged = is_charged_once(&message.payload)
            .then(|| self.broker.budget.charged(&fanout.to_be_charged(message)));
        if let Some(charged) = &charged {
            // The copy that is retained, if it is, does not count as waiting.
            fanout.detached = Some(Arc::clone(charged));
        }
        let message = charged.as_ref().unwrap_or(message);
        for route in &routes.direct {
            if let Some(delivery) = route.delivery(message)
                && route.session.push(self, delivery, fanout)
            {
                fanout.crowd(&route.session);
            }
        }
        for group in &routes.groups {
            group.give(self, message, fanout);
        }
        fanout.detached = None;
    }

    /// MQTT 5 clause 3.3.1.3: the newest retained message of a topic, deleted by an empty one.
    fn retain(&self, message: &Arc<Message>, fanout: &mut Fanout) {
        let keeps = self.broker.keeps;
        let record = |change| {
            if keeps {
                self.record(change);
            }
        };
        if message.payload.is_empty() {
            let clear = || record(Change::RetainCleared { topic: detached_topic(&message.topic) });
            if self.retained.clear_and(&message.topic, clear) {
                self.broker.metrics.retained.decrement(1.0);
            }
            // Who finds nothing to be deleted waits, too: that another has deleted it may not be on disk yet.
            fanout.recorded |= keeps;
            return;
        }
        let copy = fanout.copied_once(message);
        // Topics of clients were checked; a module's were not, and the store goes down the levels.
        let levels = copy.topic.levels().count();
        if levels > self.broker.config.max_topic_levels {
            tracing::warn!(tenant = %self.tenant, levels, "a topic with too many levels is not retained");
            return;
        }
        let change = |set| {
            record(match set {
                Set::Cleared => Change::RetainCleared { topic: copy.topic.clone() },
                _ => Change::Retained { message: Arc::clone(&copy) },
            });
        };
        match self.retained.set_and(Arc::clone(&copy), self.broker.config.retained_limits(), change) {
            Set::New => self.broker.metrics.retained.increment(1.0),
            Set::Replaced => {}
            set @ (Set::Full | Set::Cleared) => {
                if set == Set::Cleared {
                    self.broker.metrics.retained.decrement(1.0);
                }
                self.dropped(Drop::RetainedFull);
                if let Some(left_out) = self.broker.lines.retained.turn() {
                    let topic = Shown(message.topic.as_str());
                    tracing::warn!(tenant = %self.tenant, %topic, left_out, "not retained: the store is full");
                }
            }
        }
        // As above, who has changed nothing waits, too.
        fanout.recorded |= keeps;
    }

    /// Whether [`Realm::route`] would record anything of `message`.
    pub(crate) fn would_record(&self, message: &Message, cache: &mut RouteCache) -> bool {
        let routes = cache.routes(self, &message.topic);
        message.retain
            || routes.direct.iter().any(|route| route.session.is_durable())
            || !routes.groups.is_empty()
    }

    /// Counts a message that did not go on.
    pub(crate) fn dropped(&self, reason: Drop) {
        self.broker.metrics.dropped(reason);
        self.statistics.dropped();
    }
}

fn sent_by(message: &Message, session: &Session) -> bool {
    message.publisher.as_ref().is_some_and(|publisher| publisher.id == session.client_id)
}

/// Merges the subscriptions of each client.
fn resolve(age: Age, found: Matches) -> Routes {
    let Matches { mut subscribers, filters, groups } = found;
    if filters > 1 {
        subscribers.sort_unstable_by_key(|(number, _)| *number);
    }
    let direct = subscribers
        .chunk_by(|(one, _), (other, _)| one == other)
        .filter_map(|same| {
            let options: SmallVec<[SubscriptionOptions; 4]> = same.iter().map(|(_, s)| s.options).collect();
            let local: SmallVec<[SubscriptionOptions; 4]> =
                options.iter().filter(|options| !options.no_local).copied().collect();
            let (_, first) = same.first()?;
            Some(Route {
                session: Arc::clone(&first.session),
                grant: merge(&options)?,
                own: (local.len() < options.len()).then(|| merge(&local)),
            })
        })
        .collect();
    Routes { age, direct, groups }
}

/// One delivery for several subscriptions: the greatest QoS and all identifiers (MQTT 5 clause 3.3.4), one that several
/// have as often as they have it: "the PUBLISH packet will carry multiple identical Subscription Identifiers".
fn merge(options: &[SubscriptionOptions]) -> Option<Grant> {
    let qos = options.iter().map(|options| options.qos).max()?;
    let mut ids: SmallVec<[u32; 4]> =
        options.iter().map(|options| options.id).filter(|&id| id != 0).collect();
    ids.sort_unstable();
    Some(Grant {
        qos,
        retain_as_published: options.iter().any(|options| options.retain_as_published),
        ids: (!ids.is_empty()).then(|| Arc::from(ids.as_slice())),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn subscriber(session: &Arc<Session>, qos: QoS, id: u32, no_local: bool) -> (u64, Subscriber) {
        let options = SubscriptionOptions { qos, id, no_local, ..SubscriptionOptions::default() };
        (session.number, Subscriber { session: Arc::clone(session), options })
    }

    #[test]
    fn overlapping_subscriptions_are_one_delivery_with_all_ids() {
        let (one, two) =
            (Arc::new(Session::new(1, "a".into(), 0, 0)), Arc::new(Session::new(2, "b".into(), 0, 0)));
        let (age, _) = TopicTree::default().matches(&"t".parse().unwrap());
        let found = Matches {
            subscribers: vec![
                subscriber(&two, QoS::AtMostOnce, 0, true),
                subscriber(&one, QoS::AtMostOnce, 9, false),
                subscriber(&one, QoS::ExactlyOnce, 3, true),
                subscriber(&one, QoS::AtLeastOnce, 3, false),
            ],
            filters: 4,
            groups: Vec::new(),
        };
        let routes = resolve(age, found);
        let [first, second] = routes.direct.as_slice() else { panic!("two subscribers") };
        assert_eq!(first.grant.qos, QoS::ExactlyOnce);
        assert_eq!(first.grant.ids.as_deref(), Some([3, 3, 9].as_slice()));
        let own = first.own.as_ref().unwrap().as_ref().unwrap();
        assert_eq!(own.qos, QoS::AtLeastOnce, "its own messages come by the subscriptions that want them");
        assert!(second.grant.ids.is_none());
        assert!(second.own.as_ref().unwrap().is_none());
    }

    fn realm() -> Arc<Realm> {
        crate::realm::test_realm(crate::BrokerConfig::default())
    }

    fn subscribe(realm: &Realm, number: u64, filter: &str) {
        let session = Arc::new(Session::new(number, "c".into(), 0, 0));
        let filter = tidegate_event::SharedFilter::parse(&filter.into()).unwrap();
        realm.tree.insert(&filter, &session, SubscriptionOptions::default());
    }

    /// Every publisher kept a list of its own: of a topic with thousands of subscribers that publish to it, gigabytes.
    #[tokio::test]
    async fn a_long_list_of_subscribers_is_made_once_for_all_publishers_and_not_kept_by_one_that_rests() {
        let realm = realm();
        for number in 0..=MANY as u64 {
            subscribe(&realm, number, "many");
        }
        subscribe(&realm, 1_000, "few");
        let (many, few): (TopicName, TopicName) = ("many".parse().unwrap(), "few".parse().unwrap());
        let mut caches = [RouteCache::default(), RouteCache::default()];
        let lists = caches.each_mut().map(|cache| Arc::as_ptr(cache.routes(&realm, &many)));
        assert_eq!(lists[0], lists[1]);
        let [cache, _] = &mut caches;
        assert_eq!(cache.routes(&realm, &few).direct.len(), 1);
        assert_eq!(cache.routes(&realm, &many).direct.len(), MANY + 1);
        cache.rest(&realm);
        assert!(cache.last.is_none() && cache.own.topics.contains_key(&few));
        subscribe(&realm, 2_000, "many");
        assert_eq!(cache.routes(&realm, &many).direct.len(), MANY + 2, "what is stale is made anew");
        subscribe(&realm, 3_000, "#");
        realm.shared_routes.forget_stale(&realm.tree);
        assert!(realm.shared_routes.0.lock().topics.is_empty());
    }

    /// They were more than a publisher keeps, and what was not kept was taken for nobody: messages vanished.
    #[tokio::test]
    async fn subscribers_that_nobody_can_keep_are_reached_all_the_same() {
        let realm = realm();
        for number in 0..40_000 {
            let filter =
                (0..6).map(|bit| if number >> bit & 1 == 0 { "/a" } else { "/+" }).collect::<String>();
            subscribe(&realm, number, &format!("$share/{number}/{filter}"));
        }
        subscribe(&realm, 50_000, "#");
        let topic = "/a/a/a/a/a/a".parse().unwrap();
        let mut cache = RouteCache::default();
        for _ in 0..2 {
            let routes = cache.routes(&realm, &topic);
            assert_eq!((routes.direct.len(), routes.groups.len()), (1, 40_000));
        }
        assert!(cache.own.topics.is_empty() && realm.shared_routes.0.lock().topics.contains_key(&topic));
        cache.rest(&realm);
        assert!(cache.last.is_none());
    }

    /// Each connection kept the payload of the last retained message that it sent to nobody.
    #[tokio::test]
    async fn a_message_that_reaches_nobody_is_not_kept_by_its_publisher() {
        let realm = realm();
        let (mut cache, mut fanout) = (RouteCache::default(), Fanout::default());
        for payload in ["x", ""] {
            let message = crate::session::test_message("t", QoS::AtMostOnce, 1);
            let payload = payload.into();
            let message = Arc::new(Message { retain: true, payload, ..Message::clone(&message) });
            realm.route(&message, &mut cache, &mut fanout);
            assert!(fanout.detached.is_none());
        }
    }

    /// Every subscription made every publisher look up all its topics again.
    #[tokio::test]
    async fn what_a_publisher_has_looked_up_outlives_subscriptions_to_other_topics() {
        let realm = realm();
        let topics = ["a", "b"].map(|topic| topic.parse::<TopicName>().unwrap());
        topics.iter().zip(1..).for_each(|(topic, number)| subscribe(&realm, number, topic.as_str()));
        let mut cache = RouteCache::default();
        let mut lists = || topics.each_ref().map(|topic| std::ptr::from_ref(cache.routes(&realm, topic)));
        let mut before = lists();
        let mut kept = 0;
        for number in 0..100 {
            subscribe(&realm, 10 + number, &format!("other/{number}"));
            let now = lists();
            kept += now.iter().zip(&before).filter(|(now, before)| now == before).count();
            before = now;
        }
        // All but one in 256 are of another slot.
        assert!(kept > 180, "{kept}");
        subscribe(&realm, 900, "a");
        subscribe(&realm, 901, "+");
        assert_eq!(cache.routes(&realm, &topics[0]).direct.len(), 3);
        assert_eq!(cache.routes(&realm, &topics[1]).direct.len(), 2);
        let kept: usize = cache.own.topics.iter().map(|(topic, routes)| routes.size(topic)).sum();
        assert_eq!(cache.own.bytes, kept);
        subscribe(&realm, 902, "#");
        cache.rest(&realm);
        assert!(cache.own.topics.is_empty() && cache.last.is_none() && cache.own.bytes == 0);
    }

    /// Topics were counted, not what they take: a thousand of 64 KiB are 64 MiB, of one publisher.
    #[tokio::test]
    async fn what_a_publisher_keeps_is_bounded_in_bytes() {
        let realm = realm();
        let mut cache = RouteCache::default();
        for number in 0..2_000 {
            let topic = format!("{number}/{}", "x".repeat(10_000)).parse().unwrap();
            assert!(cache.routes(&realm, &topic).is_empty());
            let kept: usize = cache.own.topics.keys().map(|topic| topic.as_str().len()).sum();
            assert!(kept < cache.own.bytes && cache.own.bytes <= CACHED, "{kept} of {}", cache.own.bytes);
        }
        cache.rest(&realm);
        assert!(cache.own.topics.is_empty());
    }

    /// Five thousand publishers of many topics each could keep more than a gigabyte.
    #[tokio::test]
    async fn what_all_publishers_keep_is_bounded_in_bytes() {
        let realm = realm();
        let mut caches: Vec<RouteCache> = Vec::new();
        for publisher in 0..100 {
            let mut cache = RouteCache::default();
            for number in 0..40 {
                let topic = format!("{publisher}/{number}/{}", "x".repeat(10_000)).parse().unwrap();
                cache.routes(&realm, &topic);
            }
            caches.push(cache);
        }
        let kept: usize = caches.iter().map(|cache| cache.own.bytes).sum();
        let bound = ALL_CACHED + CACHED + caches.len() * LEAST;
        assert!((ALL_CACHED / 2..=bound).contains(&kept), "{kept}");
        caches.iter_mut().for_each(|cache| cache.rest(&realm));
        assert!(realm.broker.routes.used() <= caches.len() * RESTING);
        drop(caches);
        assert_eq!(realm.broker.routes.used(), 0);
    }
}
