//! The topic tree of one tenant: which sessions a topic reaches.
//!
//! A tree of levels behind a lock. Publishers keep what they found ([`crate::route::RouteCache`]) and see by the
//! [generation](TopicTree::generation) whether it still holds, so that a publish takes the lock only after a
//! subscription has changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytestring::ByteString;
use foldhash::fast::RandomState;
use parking_lot::RwLock;
use tidegate_event::{SharedFilter, SubscriptionOptions, TopicFilter, TopicName};

use crate::session::Session;

/// A subscriber of a filter.
#[derive(Clone)]
pub(crate) struct Subscriber {
    pub(crate) session: Arc<Session>,
    pub(crate) options: SubscriptionOptions,
}

/// The members of one `$share` group on one filter: each message goes to one of them. A change makes a new one.
pub(crate) struct Group {
    members: Vec<Subscriber>,
    /// Survives changes of the members, so that the turn does not start again with each.
    turn: Arc<AtomicUsize>,
}

impl Group {
    /// Whose turn it is: connected members first, in turn.
    pub(crate) fn next(&self) -> Option<&Subscriber> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (before, from) = self.members.split_at_checked(turn % self.members.len().max(1))?;
        let mut in_turn = from.iter().chain(before);
        in_turn.clone().find(|member| member.session.is_connected()).or_else(|| in_turn.next())
    }
}

/// What is subscribed to one filter.
#[derive(Default)]
struct Leaf {
    subscribers: HashMap<u64, Subscriber, RandomState>,
    groups: Vec<(ByteString, Arc<Group>)>,
}

impl Leaf {
    fn is_empty(&self) -> bool {
        self.subscribers.is_empty() && self.groups.is_empty()
    }
}

#[derive(Default)]
struct Node {
    children: HashMap<Box<str>, Node, RandomState>,
    /// Child of the level `+`.
    any: Option<Box<Node>>,
    /// Filters that end here.
    here: Leaf,
    /// Filters that end here with `#`.
    below: Leaf,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.any.is_none() && self.here.is_empty() && self.below.is_empty()
    }
}

/// Everything that a topic reaches.
#[derive(Default)]
pub(crate) struct Matches {
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) groups: Vec<Arc<Group>>,
}

/// The topic tree of one tenant.
#[derive(Default)]
pub(crate) struct TopicTree {
    generation: AtomicU64,
    root: RwLock<Node>,
}

impl TopicTree {
    /// Changes with every change of the tree: what was found under another generation may not hold.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds the subscription, or changes its options.
    pub(crate) fn insert(&self, filter: &SharedFilter, session: &Arc<Session>, options: SubscriptionOptions) {
        let subscriber = Subscriber { session: Arc::clone(session), options };
        let mut root = self.root.write();
        let leaf = leaf_of(&mut root, &filter.filter);
        match &filter.group {
            None => {
                leaf.subscribers.insert(session.number, subscriber);
            }
            Some(name) => join_group(&mut leaf.groups, name, subscriber),
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Removes the subscription of the session `number`.
    pub(crate) fn remove(&self, filter: &SharedFilter, number: u64) {
        let mut root = self.root.write();
        remove_below(&mut root, &mut filter.filter.levels(), &mut |leaf| match &filter.group {
            None => {
                leaf.subscribers.remove(&number);
            }
            Some(name) => leave_group(&mut leaf.groups, name, number),
        });
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Everything that `topic` reaches, and the generation under which that holds.
    pub(crate) fn matches(&self, topic: &TopicName) -> (u64, Matches) {
        let mut found = Matches::default();
        let root = self.root.read();
        // Read under the lock: writers change it under theirs.
        let generation = self.generation();
        let levels = topic.levels().collect::<smallvec::SmallVec<[&str; 16]>>();
        collect(&root, &levels, topic.is_dollar(), &mut found);
        (generation, found)
    }

    /// Whether nothing is subscribed and nothing is left over.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.root.read().is_empty()
    }
}

fn leaf_of<'a>(root: &'a mut Node, filter: &TopicFilter) -> &'a mut Leaf {
    let mut node = root;
    for level in filter.levels() {
        node = match level {
            "#" => return &mut node.below,
            "+" => node.any.get_or_insert_default(),
            name => {
                if !node.children.contains_key(name) {
                    node.children.insert(name.into(), Node::default());
                }
                node.children.entry(name.into()).or_default()
            }
        };
    }
    &mut node.here
}

/// Changes the leaf of a filter and removes the nodes that are empty after it.
fn remove_below<'a>(
    node: &mut Node,
    levels: &mut impl Iterator<Item = &'a str>,
    change: &mut impl FnMut(&mut Leaf),
) {
    match levels.next() {
        None => change(&mut node.here),
        Some("#") => change(&mut node.below),
        Some("+") => {
            if let Some(child) = &mut node.any {
                remove_below(child, levels, change);
                if child.is_empty() {
                    node.any = None;
                }
            }
        }
        Some(name) => {
            if let Some(child) = node.children.get_mut(name) {
                remove_below(child, levels, change);
                if child.is_empty() {
                    node.children.remove(name);
                    node.children.shrink_to(node.children.len() * 2);
                }
            }
        }
    }
}

fn collect(node: &Node, levels: &[&str], hide_wildcards: bool, found: &mut Matches) {
    // Wildcards in the first level do not match topics that begin with `$` (MQTT 5 clause 4.7.2).
    if !hide_wildcards {
        add(&node.below, found);
    }
    let Some((level, rest)) = levels.split_first() else {
        add(&node.here, found);
        return;
    };
    if let Some(child) = node.children.get(*level) {
        collect(child, rest, false, found);
    }
    if let Some(child) = &node.any
        && !hide_wildcards
    {
        collect(child, rest, false, found);
    }
}

fn add(leaf: &Leaf, found: &mut Matches) {
    found.subscribers.extend(leaf.subscribers.values().cloned());
    found.groups.extend(leaf.groups.iter().map(|(_, group)| Arc::clone(group)));
}

fn join_group(groups: &mut Vec<(ByteString, Arc<Group>)>, name: &ByteString, subscriber: Subscriber) {
    match groups.iter_mut().find(|(known, _)| known == name) {
        None => {
            let group = Group { members: vec![subscriber], turn: Arc::default() };
            groups.push((name.clone(), Arc::new(group)));
        }
        Some((_, group)) => {
            let mut members = group.members.clone();
            match members.iter_mut().find(|member| member.session.number == subscriber.session.number) {
                Some(member) => *member = subscriber,
                None => members.push(subscriber),
            }
            *group = Arc::new(Group { members, turn: Arc::clone(&group.turn) });
        }
    }
}

fn leave_group(groups: &mut Vec<(ByteString, Arc<Group>)>, name: &ByteString, number: u64) {
    let Some(index) = groups.iter().position(|(known, _)| known == name) else { return };
    let Some((_, group)) = groups.get_mut(index) else { return };
    let members: Vec<_> =
        group.members.iter().filter(|member| member.session.number != number).cloned().collect();
    if members.is_empty() {
        groups.remove(index);
    } else {
        *group = Arc::new(Group { members, turn: Arc::clone(&group.turn) });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn session(number: u64) -> Arc<Session> {
        Arc::new(Session::new(number, ByteString::from(format!("c{number}")), 0, 0))
    }

    fn filter(text: &str) -> SharedFilter {
        SharedFilter::parse(&text.into()).unwrap()
    }

    fn reached(tree: &TopicTree, topic: &str) -> Vec<u64> {
        let (_, found) = tree.matches(&topic.parse().unwrap());
        let mut numbers: Vec<u64> = found.subscribers.iter().map(|s| s.session.number).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn the_tree_agrees_with_the_filters() {
        let filters =
            ["#", "+", "a", "a/#", "a/+", "+/b", "a/b", "+/+", "/+", "/", "é/#", "$SYS/#", "a/+/c", "+/#"];
        let tree = TopicTree::default();
        for (number, text) in filters.iter().enumerate() {
            tree.insert(&filter(text), &session(number as u64), SubscriptionOptions::default());
        }
        for topic in ["a", "a/b", "a/", "/", "/b", "b", "a/b/c", "é/x", "$SYS/x", "$SYS", "x/b", "a//c"] {
            let name: TopicName = topic.parse().unwrap();
            let expected: Vec<u64> = filters
                .iter()
                .enumerate()
                .filter(|(_, text)| filter(text).filter.matches(&name))
                .map(|(number, _)| number as u64)
                .collect();
            assert_eq!(reached(&tree, topic), expected, "{topic}");
        }
        for (number, text) in filters.iter().enumerate() {
            tree.remove(&filter(text), number as u64);
        }
        assert!(tree.is_empty(), "empty nodes are removed");
    }

    #[test]
    fn groups_are_keyed_by_name_and_filter() {
        let tree = TopicTree::default();
        let (one, two) = (session(1), session(2));
        tree.insert(&filter("$share/g/a/+"), &one, SubscriptionOptions::default());
        tree.insert(&filter("$share/g/a/b"), &two, SubscriptionOptions::default());
        tree.insert(&filter("$share/h/a/b"), &two, SubscriptionOptions::default());
        let (_, found) = tree.matches(&"a/b".parse().unwrap());
        assert_eq!(found.groups.len(), 3);
        for (text, number) in [("$share/g/a/+", 1), ("$share/g/a/b", 2), ("$share/h/a/b", 2)] {
            tree.remove(&filter(text), number);
        }
        assert!(tree.is_empty());
    }

    #[test]
    fn members_take_turns_and_changes_do_not_restart_them() {
        let tree = TopicTree::default();
        let topic: TopicName = "t".parse().unwrap();
        for number in 0..3 {
            tree.insert(&filter("$share/g/t"), &session(number), SubscriptionOptions::default());
        }
        let next = || {
            let (_, found) = tree.matches(&topic);
            found.groups.first().unwrap().next().unwrap().session.number
        };
        assert_eq!([next(), next(), next(), next()], [0, 1, 2, 0]);
        tree.remove(&filter("$share/g/t"), 0);
        assert_eq!([next(), next()], [1, 2]);
    }

    #[test]
    fn a_change_is_a_new_generation() {
        let tree = TopicTree::default();
        let before = tree.generation();
        tree.insert(&filter("a"), &session(1), SubscriptionOptions::default());
        assert_ne!(tree.generation(), before);
        let (generation, _) = tree.matches(&"a".parse().unwrap());
        assert_eq!(generation, tree.generation());
    }
}
