//! From a message to the sessions it reaches.
//!
//! Each publisher keeps, per topic, the resolved list of subscribers: overlapping subscriptions of one client
//! merged into one delivery. The list holds as long as the tree's generation does, so a publish takes no shared
//! lock and allocates nothing. Long lists are made once for all publishers: each keeps the one that it uses.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tidegate_event::{Change, Message, Origin, QoS, Shown, SubscriptionOptions, TopicName};

use crate::limits::budget::is_charged_once;
use crate::metrics::Drop;
use crate::realm::Realm;
use crate::retained::Set;
use crate::session::Session;
use crate::session::delivery::{Delivery, Source, detached, detached_topic};
use crate::share::Group;
use crate::sys;
use crate::tree::Matches;
#[cfg(test)]
use crate::tree::Subscriber;

/// Memory of the subscribers that one publisher keeps, bytes: those of a thousand topics with one subscriber each.
const CACHED: usize = 256 * 1024;
/// The same, of a publisher that rests: there may be very many of those.
const RESTING: usize = 16 * 1024;
/// Topics with more subscribers are looked up once for all publishers.
const MANY: usize = 32;
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

/// The resolved subscribers of a topic.
struct Routes {
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
}

/// Resolved topics that hold under one generation of the tree, bounded in bytes.
#[derive(Default)]
struct Resolved {
    generation: u64,
    topics: HashMap<TopicName, Arc<Routes>, RandomState>,
    bytes: usize,
}

impl Resolved {
    /// Forgets everything that does not hold under `generation`.
    fn renew(&mut self, generation: u64) {
        if self.generation != generation {
            self.clear();
            self.generation = generation;
        }
    }

    fn clear(&mut self) {
        self.topics.clear();
        self.bytes = 0;
    }

    fn insert(&mut self, topic: &TopicName, routes: &Arc<Routes>, most: usize) {
        let size = routes.size(topic);
        if self.bytes + size > most {
            self.clear();
        }
        if size <= most {
            self.bytes += size;
            self.topics.insert(detached_topic(topic), Arc::clone(routes));
        }
    }
}

/// The subscribers of topics that have many, looked up once for all publishers of a tenant.
#[derive(Default)]
pub(crate) struct SharedRoutes(Mutex<Resolved>);

impl SharedRoutes {
    fn find(&self, topic: &TopicName, generation: u64) -> Option<Arc<Routes>> {
        let resolved = self.0.lock();
        if resolved.generation != generation {
            return None;
        }
        resolved.topics.get(topic).cloned()
    }

    fn insert(&self, topic: &TopicName, routes: &Arc<Routes>, generation: u64) {
        let mut resolved = self.0.lock();
        // Another publisher may have seen a newer tree meanwhile.
        if generation >= resolved.generation {
            resolved.renew(generation);
            resolved.insert(topic, routes, SHARED);
        }
    }

    /// Forgets what does not hold under `generation`: it may be the last that keeps ended sessions in memory.
    pub(crate) fn forget_stale(&self, generation: u64) {
        self.0.lock().renew(generation);
    }
}

/// The subscribers of the topics that one publisher uses.
#[derive(Default)]
pub(crate) struct RouteCache {
    own: Resolved,
    /// The topic with many subscribers that it used last.
    last: Option<(TopicName, Arc<Routes>)>,
}

impl RouteCache {
    fn routes(&mut self, realm: &Realm, topic: &TopicName) -> Option<&Routes> {
        let generation = realm.tree.generation();
        if self.own.generation != generation {
            self.own.renew(generation);
            self.last = None;
        }
        if !self.is_last(topic) && !self.own.topics.contains_key(topic) {
            self.look_up(realm, topic);
        }
        match &self.last {
            Some((last, routes)) if last == topic => Some(routes),
            _ => self.own.topics.get(topic).map(|routes| &**routes),
        }
    }

    fn is_last(&self, topic: &TopicName) -> bool {
        self.last.as_ref().is_some_and(|(last, _)| last == topic)
    }

    fn look_up(&mut self, realm: &Realm, topic: &TopicName) {
        if let Some(routes) = realm.shared_routes.find(topic, self.own.generation) {
            self.last = Some((detached_topic(topic), routes));
            return;
        }
        let (generation, found) = realm.tree.matches(topic);
        let routes = Arc::new(resolve(found));
        if generation != self.own.generation {
            self.own.renew(generation);
            self.last = None;
        }
        if routes.direct.len() <= MANY {
            self.own.insert(topic, &routes, CACHED);
        } else {
            realm.shared_routes.insert(topic, &routes, generation);
            self.last = Some((detached_topic(topic), routes));
        }
    }

    /// Forgets what no longer holds, so that a publisher that rests does not keep ended sessions in memory, and what
    /// is too much for one that rests.
    pub(crate) fn rest(&mut self, realm: &Realm) {
        self.last = None;
        if self.own.generation != realm.tree.generation() || self.own.bytes > RESTING {
            self.own = Resolved::default();
        }
    }
}

/// What routing leaves behind: tasks to wake and writes to wait for.
#[derive(Default)]
pub(crate) struct Fanout {
    wakers: Vec<Waker>,
    /// Something was recorded that must be durable before the publisher is answered.
    pub(crate) recorded: bool,
    /// A subscriber whose queue is more than half full.
    pub(crate) crowded: Option<Arc<Session>>,
    /// The message being routed, without its read buffer.
    detached: Option<Arc<Message>>,
}

impl Fanout {
    /// Wakes `waker` at the next [`Fanout::flush`].
    pub(crate) fn wake(&mut self, waker: Waker) {
        self.wakers.push(waker);
    }

    /// The queue of `session` is more than half full.
    pub(crate) fn crowd(&mut self, session: &Arc<Session>) {
        if self.crowded.is_none() {
            self.crowded = Some(Arc::clone(session));
        }
    }

    /// Wakes the subscribers: once after many messages, not once a message.
    pub(crate) fn flush(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
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
            self.retain(message, fanout);
        }
        self.deliver(message, cache, fanout);
    }

    /// Delivers `message` to every session it reaches.
    pub(crate) fn deliver(&self, message: &Arc<Message>, cache: &mut RouteCache, fanout: &mut Fanout) {
        let Some(routes) = cache.routes(self, &message.topic).filter(|routes| !routes.is_empty()) else {
            return;
        };
        let charged = is_charged_once(&message.payload).then(|| self.broker.budget.charged(message));
        if let Some(charged) = &charged {
            // The copy that is retained, if it is, does not count as waiting.
            fanout.detached = Some(Arc::clone(charged));
        }
        let message = charged.as_ref().unwrap_or(message);
        // What the broker says itself waits for nothing and moves no position.
        let source = if message.origin == Origin::Broker { Source::Direct } else { Source::Live };
        for route in &routes.direct {
            let grant = match &route.own {
                Some(own) if sent_by(message, &route.session) => match own {
                    Some(grant) => grant,
                    None => continue,
                },
                _ => &route.grant,
            };
            let delivery = Delivery {
                message: Arc::clone(message),
                subscription_ids: grant.ids.clone(),
                qos: grant.qos.min(message.qos),
                retain: grant.retain_as_published && message.retain,
                number: None,
                source,
            };
            if route.session.push(self, delivery, fanout) {
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
        let change = if message.payload.is_empty() {
            if !self.retained.clear(&message.topic) {
                return;
            }
            self.broker.metrics.retained.decrement(1.0);
            Change::RetainCleared { topic: detached_topic(&message.topic) }
        } else {
            let copy = fanout.detached_once(message);
            // Topics of clients were checked; a module's were not, and the store goes down the levels.
            let levels = copy.topic.levels().count();
            if levels > self.broker.config.max_topic_levels {
                tracing::warn!(tenant = %self.tenant, levels, "a topic with too many levels is not retained");
                return;
            }
            match self.retained.set(Arc::clone(&copy), self.broker.config.retained_limits()) {
                Set::New => self.broker.metrics.retained.increment(1.0),
                Set::Replaced => {}
                Set::Full => {
                    self.dropped(Drop::RetainedFull);
                    if let Some(left_out) = self.broker.lines.retained.turn() {
                        let topic = Shown(message.topic.as_str());
                        tracing::warn!(tenant = %self.tenant, %topic, left_out, "not retained: the store is full");
                    }
                    return;
                }
            }
            Change::Retained { message: copy }
        };
        if self.broker.keeps {
            self.record(change);
            fanout.recorded = true;
        }
    }

    /// Whether [`Realm::route`] would record anything of `message`.
    pub(crate) fn would_record(&self, message: &Message, cache: &mut RouteCache) -> bool {
        let Some(routes) = cache.routes(self, &message.topic) else { return message.retain };
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
fn resolve(found: Matches) -> Routes {
    let Matches { mut subscribers, groups } = found;
    subscribers.sort_by_key(|subscriber| subscriber.session.number);
    let direct = subscribers
        .chunk_by(|a, b| a.session.number == b.session.number)
        .filter_map(|same| {
            let options: SmallVec<[SubscriptionOptions; 4]> = same.iter().map(|s| s.options).collect();
            let local: SmallVec<[SubscriptionOptions; 4]> =
                options.iter().filter(|options| !options.no_local).copied().collect();
            Some(Route {
                session: Arc::clone(&same.first()?.session),
                grant: merge(&options)?,
                own: (local.len() < options.len()).then(|| merge(&local)),
            })
        })
        .collect();
    Routes { direct, groups }
}

/// One delivery for several subscriptions: the greatest QoS and all identifiers (MQTT 5 clause 3.3.4).
fn merge(options: &[SubscriptionOptions]) -> Option<Grant> {
    let qos = options.iter().map(|options| options.qos).max()?;
    let mut ids: SmallVec<[u32; 4]> =
        options.iter().map(|options| options.id).filter(|&id| id != 0).collect();
    ids.sort_unstable();
    ids.dedup();
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

    fn subscriber(session: &Arc<Session>, qos: QoS, id: u32, no_local: bool) -> Subscriber {
        let options = SubscriptionOptions { qos, id, no_local, ..SubscriptionOptions::default() };
        Subscriber { session: Arc::clone(session), options }
    }

    #[test]
    fn overlapping_subscriptions_are_one_delivery_with_all_ids() {
        let (one, two) =
            (Arc::new(Session::new(1, "a".into(), 0, 0)), Arc::new(Session::new(2, "b".into(), 0, 0)));
        let routes = resolve(Matches {
            subscribers: vec![
                subscriber(&two, QoS::AtMostOnce, 0, true),
                subscriber(&one, QoS::AtMostOnce, 9, false),
                subscriber(&one, QoS::ExactlyOnce, 3, true),
                subscriber(&one, QoS::AtLeastOnce, 3, false),
            ],
            groups: Vec::new(),
        });
        let [first, second] = routes.direct.as_slice() else { panic!("two subscribers") };
        assert_eq!(first.grant.qos, QoS::ExactlyOnce);
        assert_eq!(first.grant.ids.as_deref(), Some([3, 9].as_slice()));
        let own = first.own.as_ref().unwrap().as_ref().unwrap();
        assert_eq!(own.qos, QoS::AtLeastOnce, "its own messages come by the subscriptions that want them");
        assert!(second.grant.ids.is_none());
        assert!(second.own.as_ref().unwrap().is_none());
    }

    fn realm() -> Arc<Realm> {
        let (node, hooks) = (Arc::default(), Arc::new(tidegate_event::NoHooks));
        let store = Arc::new(tidegate_event::VolatileStore);
        crate::Broker::new(crate::BrokerConfig::default(), node, hooks, store).unwrap().default_realm()
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
        let lists = caches.each_mut().map(|cache| std::ptr::from_ref(cache.routes(&realm, &many).unwrap()));
        assert_eq!(lists[0], lists[1]);
        let [cache, _] = &mut caches;
        assert_eq!(cache.routes(&realm, &few).unwrap().direct.len(), 1);
        assert_eq!(cache.routes(&realm, &many).unwrap().direct.len(), MANY + 1);
        cache.rest(&realm);
        assert!(cache.last.is_none() && cache.own.topics.contains_key(&few));
        subscribe(&realm, 2_000, "many");
        assert_eq!(cache.routes(&realm, &many).unwrap().direct.len(), MANY + 2, "what is stale is made anew");
        realm.shared_routes.forget_stale(realm.tree.generation() + 1);
        assert!(realm.shared_routes.0.lock().topics.is_empty());
    }

    /// Topics were counted, not what they take: a thousand of 64 KiB are 64 MiB, of one publisher.
    #[tokio::test]
    async fn what_a_publisher_keeps_is_bounded_in_bytes() {
        let realm = realm();
        let mut cache = RouteCache::default();
        for number in 0..2_000 {
            let topic = format!("{number}/{}", "x".repeat(10_000)).parse().unwrap();
            assert!(cache.routes(&realm, &topic).is_some());
            let kept: usize = cache.own.topics.keys().map(|topic| topic.as_str().len()).sum();
            assert!(kept < cache.own.bytes && cache.own.bytes <= CACHED, "{kept} of {}", cache.own.bytes);
        }
        cache.rest(&realm);
        assert!(cache.own.topics.is_empty());
    }
}
