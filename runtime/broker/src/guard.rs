//! The broker's side of the [`Gate`]: when it is asked, what is kept of its answers, what is counted.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use metrics::{Counter, counter};
use tidegate_event::{
    BoxFuture, Client, Decision, Gate, Message, Origin, Owner, Password, TopicFilter, TopicName,
};

use crate::session::delivery::detached_topic;

/// Topics of which one publisher keeps the answers.
const KEPT_TOPICS: usize = 256;
/// The longest of them, bytes.
const KEPT_BYTES: usize = 256;
/// How many it keeps while it rests: there may be very many publishers that do.
const RESTING_TOPICS: usize = 8;

/// The gate, and what it has refused.
pub(crate) struct Guard {
    gate: Arc<dyn Gate>,
    is_open: bool,
    connects: Counter,
    publishes: Counter,
    subscribes: Counter,
}

impl Guard {
    /// Stands before `gate`.
    pub(crate) fn new(gate: Arc<dyn Gate>) -> Self {
        let refused = |action| counter!("tidegate_broker_gate_refused_total", "action" => action);
        Self {
            is_open: gate.is_open(),
            gate,
            connects: refused("connect"),
            publishes: refused("publish"),
            subscribes: refused("subscribe"),
        }
    }

    /// Whether the gate allows everything.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Asks whether `client` may connect. `None`: it may, without a question.
    pub(crate) fn ask_connect(
        &self,
        client: &Arc<Client>,
        password: Option<&bytes::Bytes>,
    ) -> Option<BoxFuture<'static, Decision>> {
        (!self.is_open).then(|| self.gate.connect(client, password.cloned().map(Password::new)))
    }

    /// The user that `client`, which is let in, has proved to be.
    pub(crate) fn owner(&self, client: &Client) -> Option<Owner> {
        if self.is_open { None } else { self.gate.owner(client) }
    }

    /// Whether `client`, which is let in, may have a session of `owner`.
    pub(crate) fn may_take(&self, client: &Client, owner: &Owner) -> bool {
        self.is_open || self.gate.may_take(client, owner)
    }

    /// Names the rules that the gate answers by, if answers are worth keeping ([`Gate::generation`]).
    pub(crate) fn generation(&self) -> Option<u64> {
        self.gate.generation()
    }

    /// A client was refused its connection.
    pub(crate) fn refused_connect(&self) {
        self.connects.increment(1);
    }

    /// Whether `client` may have a will on `topic`. It is asked again when the will is published, after a
    /// restart, too.
    pub(crate) fn may_have_will(&self, client: &Client, topic: &TopicName) -> bool {
        !is_servers_own(topic) && (self.is_open || self.gate.may_publish(client, topic))
    }

    /// Whether `client` may subscribe to `filter`.
    pub(crate) fn may_subscribe(&self, client: &Client, filter: &TopicFilter) -> bool {
        let allowed = self.is_open || self.gate.may_subscribe(client, filter);
        if !allowed {
            self.subscribes.increment(1);
            tracing::debug!(client = %client.id, %filter, "the gate refuses a subscription");
        }
        allowed
    }

    /// Whether the publisher of `message` may publish it; `kept` are the answers of the pipeline it goes through. Messages
    /// of modules need no leave.
    pub(crate) fn may_publish(&self, message: &Message, kept: &mut Answers) -> bool {
        if !matches!(message.origin, Origin::Client | Origin::Will) {
            return true;
        }
        let allowed = !is_servers_own(&message.topic)
            && match &message.publisher {
                Some(client) if !self.is_open => {
                    kept.answer(&message.topic, |topic| self.gate.may_publish(client, topic))
                }
                _ => true,
            };
        if !allowed {
            self.publishes.increment(1);
            let (client, topic) = (&message.sender, &message.topic);
            tracing::debug!(%client, %topic, "the gate refuses a message");
        }
        allowed
    }

    /// Lets `kept` forget what the gate has said by other rules.
    pub(crate) fn renew(&self, kept: &mut Answers) {
        if !self.is_open && kept.is_for_one_client {
            kept.renew(self.gate.generation());
        }
    }
}

/// Whether the topic is one by which the server speaks of itself: clients never publish there (MQTT 5 clause 4.7.2 lets
/// a server keep them from it).
fn is_servers_own(topic: &TopicName) -> bool {
    topic.as_str().strip_prefix("$SYS").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What the gate has said about the topics that one client publishes to.
#[derive(Default)]
pub(crate) struct Answers {
    /// Otherwise nothing is kept: the next message may be somebody else's.
    is_for_one_client: bool,
    generation: Option<u64>,
    topics: HashMap<TopicName, bool, RandomState>,
}

impl Answers {
    /// For the pipeline of one client.
    pub(crate) fn of_one_client() -> Self {
        Self { is_for_one_client: true, ..Self::default() }
    }

    /// Forgets what is too much for a publisher that rests.
    pub(crate) fn rest(&mut self) {
        if self.topics.len() > RESTING_TOPICS {
            self.topics = HashMap::default();
        }
    }

    fn renew(&mut self, generation: Option<u64>) {
        if self.generation != generation {
            self.generation = generation;
            self.topics = HashMap::default();
        }
    }

    fn answer(&mut self, topic: &TopicName, ask: impl Fn(&TopicName) -> bool) -> bool {
        if self.generation.is_none() {
            return ask(topic);
        }
        if let Some(answer) = self.topics.get(topic) {
            return *answer;
        }
        let answer = ask(topic);
        if topic.as_str().len() > KEPT_BYTES {
            return answer;
        }
        if self.topics.len() >= KEPT_TOPICS {
            self.topics.clear();
        }
        self.topics.insert(detached_topic(topic), answer);
        answer
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_servers_own_topics_are_told_from_others() {
        for (topic, own) in [
            ("$SYS", true),
            ("$SYS/broker", true),
            ("$SYS/", true),
            ("$SYSTEM/x", false),
            ("$sys/x", false),
            ("a/$SYS/x", false),
            ("/", false),
        ] {
            assert_eq!(is_servers_own(&topic.parse().unwrap()), own, "{topic}");
        }
    }

    #[test]
    fn answers_are_kept_until_the_rules_change_and_for_so_many_topics() {
        let asked = Cell::new(0);
        let ask = |_: &TopicName| {
            asked.set(asked.get() + 1);
            asked.get() % 2 == 1
        };
        let topic: TopicName = "a".parse().unwrap();
        let mut kept = Answers::of_one_client();
        assert!(kept.answer(&topic, ask));
        assert!(!kept.answer(&topic, ask), "nothing is kept without a generation");
        kept.renew(Some(1));
        assert!(kept.answer(&topic, ask));
        assert!(kept.answer(&topic, ask));
        assert_eq!(asked.get(), 3);
        kept.renew(Some(2));
        assert!(!kept.answer(&topic, ask));
        kept.renew(Some(2));
        assert!(!kept.answer(&topic, ask));
        assert_eq!(asked.get(), 4);
        for number in 0..2 * KEPT_TOPICS {
            kept.answer(&format!("t/{number}").parse().unwrap(), ask);
        }
        assert!(kept.topics.len() <= KEPT_TOPICS);
        for number in 0..=RESTING_TOPICS {
            kept.answer(&format!("r/{number}").parse().unwrap(), ask);
        }
        kept.rest();
        assert!(kept.topics.is_empty());
    }

    /// Topics were counted, not what they take: 256 of 64 KiB for each publisher, whatever the gate said.
    #[test]
    fn answers_about_long_topics_are_not_kept() {
        let mut kept = Answers::of_one_client();
        kept.renew(Some(1));
        for bytes in [KEPT_BYTES, KEPT_BYTES + 1, 60_000] {
            kept.answer(&"x".repeat(bytes).parse().unwrap(), |_| true);
        }
        assert_eq!(kept.topics.len(), 1);
    }
}
