//! Statistics under `$SYS/broker/`, by the names that brokers commonly use.
//!
//! Every tenant has its own: nothing here tells anything about another one. Subscribers get the values as they are at
//! once, as retained messages, and again every interval, at QoS 0. The broker alone publishes there; no handler sees these
//! messages, `#` and `+/...` do not match them ([MQTT-4.7.2-1]), and nothing is made while nobody subscribes.

mod averages;
mod statistics;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tidegate_event::{Message, Origin, QoS, TopicFilter, TopicName};
use tokio::time::Instant;

pub(crate) use self::statistics::{Statistics, Traffic};
use crate::broker::Shared;
use crate::realm::Realm;
use crate::retained::{Cursor, Page};
use crate::route::{Fanout, RouteCache};

/// The first level of the broker's own topics.
const ROOT: &str = "$SYS";

/// Whether `topic` is one of the broker's own.
pub(crate) fn is_system(topic: &TopicName) -> bool {
    topic.as_str().strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether `filter` may match topics of the broker's own: a wildcard in the first level does not (clause 4.7.2).
pub(crate) fn may_match(filter: &TopicFilter) -> bool {
    filter.levels().next() == Some(ROOT)
}

/// A value and where it is published below `$SYS/broker/`.
type Value = (&'static str, String);

impl Realm {
    /// Every statistic, as it is now.
    fn all_statistics(&self) -> Vec<Value> {
        let (subscriptions, retained) = (self.tree.count(), self.retained.len());
        let sessions = self.registry.len();
        let queued = self
            .statistics
            .queued(|| self.registry.all().iter().map(|session| session.outbox().len()).sum::<usize>());
        let started = self.broker.started;
        let mut values = vec![
            ("version", format!("tidegate {}", env!("CARGO_PKG_VERSION"))),
            ("uptime", format!("{} seconds", started.elapsed().as_secs())),
            ("clients/total", sessions.to_string()),
            ("clients/disconnected", sessions.saturating_sub(self.statistics.connected()).to_string()),
            ("subscriptions/count", subscriptions.all.to_string()),
            ("shared_subscriptions/count", subscriptions.shared.to_string()),
            ("retained messages/count", retained.to_string()),
            ("messages/stored", (retained + queued).to_string()),
        ];
        self.statistics.add_to(&mut values);
        values
    }

    fn system_messages(&self) -> impl Iterator<Item = Arc<Message>> {
        self.all_statistics().into_iter().filter_map(|(name, value)| {
            let topic = TopicName::new(format!("{ROOT}/broker/{name}")).ok()?;
            let id = self.broker.ids.next_id();
            Some(Arc::new(Message {
                id,
                topic,
                payload: Bytes::from(value),
                qos: QoS::AtMostOnce,
                retain: true,
                dup: false,
                timestamp_ms: id.micros() / 1_000,
                sender: ByteString::new(),
                publisher: None,
                properties: None,
                origin: Origin::Broker,
                hops: 0,
            }))
        })
    }

    /// A page of the retained messages that a new subscription to `filter` brings, the broker's own behind the others.
    pub(crate) fn retained_page(&self, filter: &TopicFilter, after: Option<&Cursor>) -> Page {
        let mut page = self.retained.page(filter, after);
        if page.next.is_none() && self.has_statistics(filter) {
            let statistics = self.system_messages().filter(|message| filter.matches(&message.topic));
            page.messages.extend(statistics);
        }
        page
    }

    /// Whether statistics are published under `filter`.
    pub(crate) fn has_statistics(&self, filter: &TopicFilter) -> bool {
        !self.broker.config.sys_interval.is_zero() && may_match(filter)
    }

    fn publish_statistics(&self) {
        if self.tree.count().system == 0 {
            return;
        }
        let (mut cache, mut fanout) = (RouteCache::default(), Fanout::default());
        for message in self.system_messages() {
            self.deliver(&message, &mut cache, &mut fanout);
        }
        fanout.flush();
    }
}

/// How often averages are brought up to date when statistics are not published.
const AVERAGED: Duration = Duration::from_secs(10);

/// A time that nobody waits for.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Publishes the statistics of every tenant, until the task is dropped.
pub(crate) async fn run(shared: &Shared) {
    let wanted = shared.config.sys_interval;
    // Not so often that the broker does nothing else, and more often than averages need it.
    let interval = if wanted.is_zero() { AVERAGED } else { wanted.max(Duration::from_millis(10)) };
    let mut counted = Instant::now();
    // What is beyond all clocks never comes.
    let interval = interval.min(NEVER);
    let mut due = counted + interval;
    loop {
        tokio::time::sleep_until(due.min(counted + AVERAGED)).await;
        let now = Instant::now();
        let is_due = now >= due;
        if is_due {
            due = now + interval;
        }
        shared.metrics.queued_bytes.set(shared.budget.used() as f64);
        for realm in shared.all_realms() {
            realm.statistics.average(now.duration_since(counted));
            if is_due && !wanted.is_zero() {
                realm.publish_statistics();
            }
        }
        counted = now;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_brokers_own_topics_are_known_by_their_first_level() {
        for (topic, expected) in
            [("$SYS", true), ("$SYS/x", true), ("$SYSTEM/x", false), ("SYS/x", false), ("a/$SYS/x", false)]
        {
            assert_eq!(is_system(&topic.parse().unwrap()), expected, "{topic}");
        }
        for (filter, expected) in
            [("$SYS/#", true), ("$SYS/+/x", true), ("$SYS", true), ("#", false), ("+/x", false)]
        {
            assert_eq!(may_match(&filter.parse().unwrap()), expected, "{filter}");
        }
    }
    /// They came every ten seconds, however seldom they were wanted.
    #[tokio::test(start_paused = true)]
    async fn statistics_come_as_seldom_as_they_are_wanted() {
        let config = crate::BrokerConfig { sys_interval: Duration::from_secs(60), ..Default::default() };
        let realm = crate::realm::test_realm(config);
        let session = Arc::new(crate::session::Session::new(1, "c".into(), 0, 0));
        session.connect(&realm);
        let text = "$SYS/broker/uptime".into();
        let filter = tidegate_event::SharedFilter::parse(&text).unwrap();
        session
            .subscribe(&realm, &text, &filter, tidegate_event::SubscriptionOptions::default(), None)
            .unwrap();
        for (seconds, expected) in [(55, 0), (10, 1), (50, 1), (10, 2)] {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            assert_eq!(session.outbox().len(), expected);
        }
    }
}
