//! From a message to the sessions it reaches.
//!
//! Each publisher keeps, per topic, the resolved list of subscribers: overlapping subscriptions of one client
//! merged into one delivery. The list holds as long as the tree's generation does, so a publish takes no shared
//! lock and allocates nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tidegate_event::{Change, Message, QoS, SubscriptionOptions, TopicName};

use crate::metrics::Drop;
use crate::realm::Realm;
use crate::retained::Set;
use crate::session::Session;
use crate::session::delivery::{Delivery, Source, detached, detached_topic};
use crate::tree::{Group, Matches, Subscriber};

/// Topics of which one publisher keeps the subscribers.
const CACHED_TOPICS: usize = 1_024;

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

/// The subscribers of the topics that one publisher uses.
#[derive(Default)]
pub(crate) struct RouteCache {
    generation: u64,
    topics: HashMap<TopicName, Routes, RandomState>,
}

impl RouteCache {
    fn routes(&mut self, realm: &Realm, topic: &TopicName) -> Option<&Routes> {
        let generation = realm.tree.generation();
        if self.generation != generation || self.topics.len() >= CACHED_TOPICS {
            self.topics.clear();
            self.generation = generation;
        }
        if !self.topics.contains_key(topic) {
            let (generation, found) = realm.tree.matches(topic);
            if generation != self.generation {
                self.topics.clear();
                self.generation = generation;
            }
            self.topics.insert(detached_topic(topic), resolve(found));
        }
        self.topics.get(topic)
    }

    /// Forgets what no longer holds, so that a publisher that rests does not keep ended sessions in memory.
    pub(crate) fn forget_stale(&mut self, realm: &Realm) {
        if self.generation != realm.tree.generation() {
            self.topics = HashMap::default();
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
        if message.retain {
            self.retain(message, fanout);
        }
        let Some(routes) = cache.routes(self, &message.topic) else { return };
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
                source: Source::Live,
            };
            if route.session.push(self, delivery, fanout) && fanout.crowded.is_none() {
                fanout.crowded = Some(Arc::clone(&route.session));
            }
        }
        for group in &routes.groups {
            let Some(Subscriber { session, options }) = group.next() else { continue };
            let delivery = Delivery {
                message: Arc::clone(message),
                subscription_ids: (options.id != 0).then(|| Arc::from([options.id])),
                qos: options.qos.min(message.qos),
                retain: options.retain_as_published && message.retain,
                number: None,
                // A shared subscription is joined to nothing, so its messages are held back by nothing.
                source: Source::Shared,
            };
            if session.push(self, delivery, fanout) && fanout.crowded.is_none() {
                fanout.crowded = Some(Arc::clone(session));
            }
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
            match self.retained.set(Arc::clone(&copy), self.broker.config.max_retained_bytes) {
                Set::New => self.broker.metrics.retained.increment(1.0),
                Set::Replaced => {}
                Set::Full => {
                    self.broker.metrics.dropped(Drop::RetainedFull);
                    tracing::warn!(tenant = %self.tenant, topic = %message.topic, "not retained: the store is full");
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
}
