//! Operations -> commands, in stages.
//!
//! Operations on different data do not disturb each other, so a batch becomes a few stages of steps, each step on one
//! key. Within a stage the steps do not depend on each other; between the stages the order is the one in which a crash
//! loses nothing: a message is written before the set of its topic names it, and is deleted before its name is. A name
//! without a message is dropped by the next fetch; a message without a name would never be found.

use std::collections::HashMap;
use std::hash::Hash;

use redis::{Cmd, cmd};
use tidegate_event::{Message, MsgId, now_ms};

use super::keys;
use super::link::Group;
use super::message::{ForeignIds, store};
use super::script::{Name, call};
use crate::operation::{Operation, foreign_row};

/// Commands on one key, and the operations that need them.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) key: String,
    pub(super) commands: Group,
    pub(super) operations: Vec<usize>,
    /// What the answer to its first command lists.
    pub(super) lists: Lists,
}

/// Messages of a topic that an answer lists: they are on other nodes of the cluster, and to be looked after there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lists {
    /// None.
    Nothing,
    /// They are replaced.
    Replaced(String),
    /// They may have expired.
    Old(String),
}

impl Step {
    pub(super) fn new(key: String, commands: Group, operations: Vec<usize>) -> Self {
        Self { key, commands, operations, lists: Lists::Nothing }
    }
}

/// The steps of a batch of built-in operations, in order.
#[derive(Debug, Default)]
pub(super) struct Stages {
    /// Messages, retained messages, positions, clients, subscriptions.
    pub(super) write: Vec<Step>,
    /// The sets of topics.
    pub(super) name: Vec<Step>,
    /// Messages that go.
    pub(super) delete: Vec<Step>,
    /// Their names.
    pub(super) forget: Vec<Step>,
}

impl Stages {
    /// All steps in order.
    pub(super) fn into_steps(self) -> impl Iterator<Item = Step> {
        self.write.into_iter().chain(self.name).chain(self.delete).chain(self.forget)
    }
}

/// Values by key, in the order in which the keys came.
struct Lane<K, V> {
    index: HashMap<K, usize>,
    items: Vec<(K, V, Vec<usize>)>,
}

impl<K, V> Default for Lane<K, V> {
    fn default() -> Self {
        Self { index: HashMap::new(), items: Vec::new() }
    }
}

impl<K: Hash + Eq + Clone, V> Lane<K, V> {
    /// Changes the value of `key`, which is made by `new` the first time, for `operation`.
    fn with(&mut self, key: K, operation: usize, new: impl FnOnce() -> V, change: impl FnOnce(&mut V)) {
        let items = &mut self.items;
        let at = *self.index.entry(key.clone()).or_insert_with(|| {
            items.push((key, new(), Vec::new()));
            items.len() - 1
        });
        if let Some((_, value, operations)) = items.get_mut(at) {
            change(value);
            operations.push(operation);
        }
    }
}

/// What a batch does to a position: the last deletion, then the furthest ack.
#[derive(Default)]
struct Position {
    delete: bool,
    through: Option<MsgId>,
    ttl: Option<u64>,
}

/// What a batch does to the messages of a topic.
enum Naming<'a> {
    /// All are kept.
    Add(Vec<&'a Message>),
    /// The newest is kept.
    Keep(&'a Message),
}

struct TopicMessages<'a> {
    naming: Naming<'a>,
    ttl: Longest,
}

/// The longest time to live, where `None` is for ever.
#[derive(Clone, Copy)]
struct Longest(Option<u64>);

impl Longest {
    fn join(&mut self, ttl: Option<u64>) {
        self.0 = self.0.zip(ttl).map(|(a, b)| a.max(b));
    }
}

/// Orders built-in operations; `from` is the index of the first. Custom commands are not here. On a cluster what
/// replaced or expired messages leave behind is told by the answers ([`Step::lists`]).
pub(super) fn stages<'a>(
    operations: impl Iterator<Item = (usize, &'a Operation)>,
    foreign: &ForeignIds,
    cluster: bool,
) -> Stages {
    let mut stages = Stages::default();
    let mut messages: Lane<MsgId, (&Message, Longest)> = Lane::default();
    let mut topics: Lane<(&str, bool), TopicMessages<'_>> = Lane::default();
    let mut positions: Lane<(&str, &str), Position> = Lane::default();
    let mut removals: Lane<&str, Vec<String>> = Lane::default();
    let mut retained: Lane<&str, Option<(&Message, Option<u64>)>> = Lane::default();
    let mut clients: Lane<&str, Group> = Lane::default();
    let mut nodes: Lane<&str, Vec<(&str, Option<u64>)>> = Lane::default();
    let mut node_ttl: HashMap<&str, Longest> = HashMap::new();
    let mut subscriptions: Lane<&str, Group> = Lane::default();
    for (at, operation) in operations {
        match operation {
            Operation::AppendMessage { message, ttl } => {
                messages.with(message.id, at, || (message, Longest(*ttl)), |found| found.1.join(*ttl));
                let new = || TopicMessages { naming: Naming::Add(Vec::new()), ttl: Longest(*ttl) };
                topics.with((message.topic.as_str(), false), at, new, |topic| {
                    topic.ttl.join(*ttl);
                    if let Naming::Add(list) = &mut topic.naming {
                        list.push(message);
                    }
                });
            }
            Operation::KeepLatest { message, ttl } => {
                let new = || TopicMessages { naming: Naming::Keep(message), ttl: Longest(*ttl) };
                topics.with((message.topic.as_str(), true), at, new, |topic| {
                    topic.ttl = Longest(*ttl);
                    if let Naming::Keep(newest) = &mut topic.naming
                        && newest.id <= message.id
                    {
                        *newest = message;
                    }
                });
            }
            Operation::AdvancePosition { client, topic, through, ttl } => {
                // An id of another form is no place in the order of ids.
                if foreign_row(*through).is_none() {
                    positions.with((client, topic.as_str()), at, Position::default, |position| {
                        position.through = position.through.max(Some(*through));
                        position.ttl = *ttl;
                    });
                }
            }
            Operation::DeletePositions { client, filter } => {
                let deleted = || Position { delete: true, ..Position::default() };
                positions.with((client, filter.as_str()), at, deleted, |position| *position = deleted());
            }
            Operation::RemoveMessage { topic, id } => {
                if let Some(id) = foreign.text(*id) {
                    removals.with(topic.as_str(), at, Vec::new, |ids| ids.push(id));
                }
            }
            Operation::PutRetained { message, ttl } => {
                let put = Some((&**message, *ttl));
                retained.with(message.topic.as_str(), at, || None, |last| *last = put);
            }
            Operation::DeleteRetained { topic } => {
                retained.with(topic.as_str(), at, || None, |last| *last = None);
            }
            Operation::ClientOnline { client, node, at_ms, ttl } => {
                let key = keys::client(client);
                clients.with(client, at, Vec::new, |group| {
                    let mut set = cmd("HSET");
                    set.arg(&key).arg("state").arg(1).arg("online_at").arg(at_ms / 1_000);
                    group.push(set.arg("offline_at").arg("undefined").take());
                    group.push(lifetime(&key, *ttl));
                });
                node_ttl.entry(node.name()).or_insert(Longest(*ttl)).join(*ttl);
                nodes.with(node.name(), at, Vec::new, |list| list.push((client, Some(at_ms / 1_000))));
            }
            Operation::ClientOffline { client, node, since_ms, at_ms, ttl } => {
                let key = keys::client(client);
                clients.with(client, at, Vec::new, |group| {
                    let mut offline = call(Name::Offline, &[&key]);
                    offline.arg(since_ms / 1_000).arg(at_ms / 1_000).arg(milliseconds(*ttl));
                    group.push(offline);
                });
                nodes.with(node.name(), at, Vec::new, |list| list.push((client, None)));
            }
            Operation::StoreSubscription { client, filter, qos, ttl } => {
                let key = keys::subscriptions(client);
                subscriptions.with(client, at, Vec::new, |group| {
                    group.push(cmd("HSET").arg(&key).arg(filter.as_str()).arg(qos.level()).take());
                    group.push(lifetime(&key, *ttl));
                });
            }
            Operation::DeleteSubscription { client, filter } => {
                let key = keys::subscriptions(client);
                subscriptions.with(client, at, Vec::new, |group| {
                    group.push(cmd("HDEL").arg(&key).arg(filter.as_str()).take());
                });
            }
            Operation::Execute { .. } => {}
        }
    }
    for ((topic, _), TopicMessages { naming, ttl }, of) in topics.items {
        let key = keys::topic(topic);
        let step = match naming {
            Naming::Add(list) => {
                let mut add = match ttl.0 {
                    Some(_) => {
                        let mut add = call(Name::Add, &[&key]);
                        add.arg(milliseconds(ttl.0))
                            .arg(keys::first_id(now_ms().saturating_sub(milliseconds(ttl.0))));
                        add.arg(messages_at(cluster)).take()
                    }
                    None => cmd("ZADD").arg(&key).take(),
                };
                for message in list {
                    if ttl.0.is_none() {
                        add.arg(1);
                    }
                    add.arg(message.id.to_string());
                }
                let mut group = vec![add];
                if ttl.0.is_none() {
                    group.push(lifetime(&key, None));
                }
                let mut step = Step::new(key, group, of);
                if cluster && ttl.0.is_some() {
                    step.lists = Lists::Old(topic.to_owned());
                }
                step
            }
            Naming::Keep(message) => {
                messages.with(message.id, of.last().copied().unwrap_or_default(), || (message, ttl), |_| ());
                let mut keep = call(Name::Keep, &[&key]);
                keep.arg(milliseconds(ttl.0)).arg(message.id.to_string());
                keep.arg(messages_at(cluster));
                let mut step = Step::new(key, vec![keep], of);
                if cluster {
                    step.lists = Lists::Replaced(topic.to_owned());
                }
                step
            }
        };
        stages.name.push(step);
    }
    for (_, (message, ttl), of) in messages.items {
        let key = keys::message(&message.id.to_string());
        let group = vec![store(&key, message, false), lifetime(&key, ttl.0)];
        stages.write.push(Step::new(key, group, of));
    }
    for ((client, topic), Position { delete, through, ttl }, of) in positions.items {
        let key = keys::position(client, topic);
        let mut group = Vec::new();
        if delete {
            group.push(cmd("DEL").arg(&key).take());
        }
        if let Some(through) = through {
            let mut advance = call(Name::Advance, &[&key]);
            group.push(advance.arg(through.to_string()).arg(milliseconds(ttl)).take());
        }
        stages.write.push(Step::new(key, group, of));
    }
    for (topic, last, of) in retained.items {
        let key = keys::retained(topic);
        let group = match last {
            Some((message, ttl)) => vec![store(&key, message, true), lifetime(&key, ttl)],
            None => vec![cmd("DEL").arg(&key).take()],
        };
        stages.write.push(Step::new(key, group, of));
    }
    for (client, group, of) in clients.items {
        stages.write.push(Step::new(keys::client(client), group, of));
    }
    for (client, group, of) in subscriptions.items {
        stages.write.push(Step::new(keys::subscriptions(client), group, of));
    }
    for (name, list, of) in nodes.items {
        stages.write.push(node(name, list, node_ttl.get(name).copied(), of));
    }
    for (topic, ids, of) in removals.items {
        stages.remove(topic, &ids, &of);
    }
    stages
}

impl Stages {
    /// Deletes messages of a topic, and their names after them.
    pub(super) fn remove(&mut self, topic: &str, ids: &[String], of: &[usize]) {
        for id in ids {
            let key = keys::message(id);
            let delete = cmd("DEL").arg(&key).take();
            self.delete.push(Step::new(key, vec![delete], of.to_vec()));
        }
        self.forget.push(forget(topic, ids, of.to_vec()));
    }
}

/// Takes names out of a topic's set.
pub(super) fn forget(topic: &str, ids: &[String], of: Vec<usize>) -> Step {
    let key = keys::topic(topic);
    let forget = cmd("ZREM").arg(&key).arg(ids).take();
    Step::new(key, vec![forget], of)
}

/// For scripts: where messages are, when they are where the script runs.
fn messages_at(cluster: bool) -> String {
    if cluster { String::new() } else { keys::message("") }
}

/// The clients of a node: what was last said of each.
fn node(name: &str, list: Vec<(&str, Option<u64>)>, ttl: Option<Longest>, of: Vec<usize>) -> Step {
    let key = keys::node(name);
    let last: HashMap<&str, Option<u64>> = list.into_iter().collect();
    let (mut set, mut gone) = (cmd("HSET").arg(&key).take(), cmd("HDEL").arg(&key).take());
    let mut group = Vec::new();
    for (client, since) in &last {
        match since {
            Some(since) => set.arg(*client).arg(*since),
            None => gone.arg(*client),
        };
    }
    if last.values().any(Option::is_some) {
        group.push(set);
        group.extend(ttl.map(|ttl| lifetime(&key, ttl.0)));
    }
    if last.values().any(Option::is_none) {
        group.push(gone);
    }
    Step::new(key, group, of)
}

/// Makes a key live so many seconds, or for ever.
fn lifetime(key: &str, ttl: Option<u64>) -> Cmd {
    match ttl {
        Some(seconds) => cmd("EXPIRE").arg(key).arg(seconds).take(),
        None => cmd("PERSIST").arg(key).take(),
    }
}

/// For scripts: 0 is for ever.
fn milliseconds(ttl: Option<u64>) -> u64 {
    ttl.map_or(0, |seconds| seconds.saturating_mul(1_000))
}
