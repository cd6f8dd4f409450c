//! The topic tree of one tenant: which sessions a topic reaches.
//!
//! Filters without wildcards, most of all, stand in one table: a topic finds them by one look-up, however many there
//! are. Those with wildcards stand in a tree of levels. Both are behind a lock. Publishers keep what they found
//! ([`crate::route::RouteCache`]) and see by its [`Age`] whether it still holds, so that a publish takes the lock only
//! after a subscription has changed that its topic may match: any with wildcards, and one in 256 of the others.

mod node;

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytestring::ByteString;
use foldhash::fast::RandomState;
use parking_lot::RwLock;
use tidegate_event::{SharedFilter, SubscriptionOptions, TopicFilter, TopicName};

pub(crate) use self::node::Subscriber;
use self::node::{Leaf, Node, find_below, remove_below, shrink, visit};
use crate::session::Session;
use crate::share::Group;

/// Everything that a topic reaches.
#[derive(Default)]
pub(crate) struct Matches {
    /// With the number of their session: it is known without a look at the session.
    pub(crate) subscribers: Vec<(u64, Subscriber)>,
    /// To how many filters they subscribe: a session is there once by each.
    pub(crate) filters: usize,
    pub(crate) groups: Vec<Arc<Group>>,
}

/// When it was that a topic reached what was found: it holds until a subscription changes that its topic may match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Age {
    /// Of which filters without wildcards the topic is.
    slot: usize,
    exact: u64,
    wild: u64,
}

/// How many changes there were.
struct Changes {
    /// Of filters without wildcards, by [`TopicTree::slot_of`].
    exact: [AtomicU64; SLOTS],
    /// Of those with.
    wild: AtomicU64,
    all: AtomicU64,
}

/// Among how many counters the changes of filters without wildcards are divided.
const SLOTS: usize = 256;

impl Default for Changes {
    fn default() -> Self {
        Self {
            exact: std::array::from_fn(|_| AtomicU64::new(0)),
            wild: AtomicU64::new(0),
            all: AtomicU64::new(0),
        }
    }
}

/// How many subscriptions a tenant has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) all: usize,
    /// Those of `$share` groups among them.
    pub(crate) shared: usize,
    /// What they take in memory, about.
    pub(crate) bytes: usize,
    /// Those to topics of the broker's own, which begin with `$SYS`.
    pub(crate) system: usize,
}

#[derive(Default)]
struct Index {
    /// By filter, which has no wildcard.
    exact: HashMap<ByteString, Leaf, RandomState>,
    wild: Node,
    /// By number.
    groups: HashMap<u32, Arc<Group>, RandomState>,
    last_group: u32,
}

impl Index {
    /// Gives whether a subscription that is not shared was removed, and the group that the session has left.
    fn remove(&mut self, filter: &SharedFilter, number: u64) -> (bool, Option<Arc<Group>>) {
        let Self { exact, wild, groups, .. } = self;
        let (mut changed, mut left) = (false, None);
        let mut change = |leaf: &mut Leaf| match &filter.group {
            None => changed = leaf.subscribers.remove(number),
            Some(name) => {
                let Some(group) = leaf.group(name).cloned() else { return };
                if !group.leave(number) {
                    return;
                }
                if group.is_empty() {
                    groups.remove(&group.number);
                    if let Some(named) = &mut leaf.groups {
                        named.0.remove(name);
                        if named.0.is_empty() {
                            leaf.groups = None;
                        } else {
                            shrink(&mut named.0);
                        }
                    }
                }
                left = Some(group);
            }
        };
        if filter.filter.is_wildcard() {
            remove_below(wild, &mut filter.filter.levels(), &mut change);
        } else if let Some(leaf) = exact.get_mut(filter.filter.as_str()) {
            change(leaf);
            if leaf.is_empty() {
                exact.remove(filter.filter.as_str());
                shrink(exact);
            }
        }
        (changed, left)
    }

    /// Gives `found` what is subscribed to the filters that match `topic`.
    fn visit(&self, topic: &TopicName, found: &mut impl FnMut(&Leaf)) {
        if let Some(leaf) = self.exact.get(topic.as_str()) {
            found(leaf);
        }
        if !self.wild.is_empty() {
            let levels = topic.levels().collect::<smallvec::SmallVec<[&str; 16]>>();
            visit(&self.wild, &levels, topic.is_dollar(), found);
        }
    }
}

/// The topic tree of one tenant.
#[derive(Default)]
pub(crate) struct TopicTree {
    changes: Changes,
    /// Of the slots of topics and filters.
    hasher: RandomState,
    count: Counter,
    index: RwLock<Index>,
}

/// What a subscription takes besides its text, in the tree and in its session: measured, rounded up.
const SUBSCRIPTION: usize = 400;
/// The same, for every level of a filter with wildcards.
const LEVEL: usize = 120;
/// The same, for a `$share` group.
const GROUP: usize = 400;

/// About how many bytes of memory a subscription to `filter` takes.
pub(crate) fn weight(filter: &SharedFilter) -> usize {
    let SharedFilter { group, filter } = filter;
    let levels = if filter.is_wildcard() { filter.levels().count() } else { 0 };
    let group = group.as_ref().map_or(0, |name| GROUP + 2 * name.len());
    SUBSCRIPTION + 2 * filter.as_str().len() + LEVEL * levels + group
}

/// The count, read without the tree's lock and changed under it.
#[derive(Default)]
struct Counter {
    all: AtomicUsize,
    shared: AtomicUsize,
    bytes: AtomicUsize,
    system: AtomicUsize,
}

impl Counter {
    fn change(&self, filter: &SharedFilter, by: impl Fn(&AtomicUsize, usize)) {
        by(&self.all, 1);
        by(&self.bytes, weight(filter));
        if filter.group.is_some() {
            by(&self.shared, 1);
        }
        if filter.filter.levels().next() == Some("$SYS") {
            by(&self.system, 1);
        }
    }

    fn added(&self, filter: &SharedFilter) {
        self.change(filter, |number, by| {
            number.fetch_add(by, Ordering::Relaxed);
        });
    }

    fn removed(&self, filter: &SharedFilter) {
        self.change(filter, |number, by| {
            number.fetch_sub(by, Ordering::Relaxed);
        });
    }
}

impl TopicTree {
    /// How often what any topic reaches has changed: while that is the same, everything holds.
    pub(crate) fn generation(&self) -> u64 {
        self.changes.all.load(Ordering::Acquire)
    }

    /// Whether what was found at that `age` still holds.
    #[inline]
    pub(crate) fn holds(&self, age: Age) -> bool {
        let exact = self.changes.exact.get(age.slot);
        self.changes.wild.load(Ordering::Acquire) == age.wild
            && exact.is_some_and(|exact| exact.load(Ordering::Acquire) == age.exact)
    }

    fn slot_of(&self, topic: &str) -> usize {
        self.hasher.hash_one(topic) as usize % SLOTS
    }

    fn age_of(&self, topic: &str) -> Age {
        let slot = self.slot_of(topic);
        let exact = self.changes.exact.get(slot).map_or(0, |exact| exact.load(Ordering::Acquire));
        Age { slot, exact, wild: self.changes.wild.load(Ordering::Acquire) }
    }

    /// What topics reach by `filter` has changed. Called under the lock of the index.
    fn changed(&self, filter: &TopicFilter) {
        if filter.is_wildcard() {
            self.changes.wild.fetch_add(1, Ordering::Release);
        } else if let Some(exact) = self.changes.exact.get(self.slot_of(filter.as_str())) {
            exact.fetch_add(1, Ordering::Release);
        }
        self.changes.all.fetch_add(1, Ordering::Release);
    }

    /// Adds the subscription, or changes its options.
    pub(crate) fn insert(&self, filter: &SharedFilter, session: &Arc<Session>, options: SubscriptionOptions) {
        let subscriber = Subscriber { session: Arc::clone(session), options };
        let mut index = self.index.write();
        let Index { exact, wild, groups, last_group } = &mut *index;
        let leaf = leaf_of(exact, wild, &filter.filter);
        let (fresh, changed) = match &filter.group {
            None => (leaf.subscribers.insert(subscriber), true),
            Some(name) => match leaf.group(name) {
                // Who has the group sees its new member.
                Some(group) => (group.join(subscriber), false),
                None => {
                    // Numbers are not used again while a delivery may bear one: that takes four billion groups.
                    *last_group = last_group.wrapping_add(1).max(1);
                    let group = Arc::new(Group::new(*last_group, filter, subscriber));
                    groups.insert(*last_group, Arc::clone(&group));
                    leaf.groups.get_or_insert_default().0.insert(name.clone(), group);
                    (true, true)
                }
            },
        };
        if fresh {
            self.count.added(filter);
        }
        if changed {
            self.changed(&filter.filter);
        }
    }

    /// Removes the subscription of the session `number`. Gives its group, if it was in one.
    pub(crate) fn remove(&self, filter: &SharedFilter, number: u64) -> Option<Arc<Group>> {
        let mut index = self.index.write();
        let (changed, left) = index.remove(filter, number);
        if changed || left.is_some() {
            self.count.removed(filter);
        }
        if changed || left.as_ref().is_some_and(|group| group.is_empty()) {
            self.changed(&filter.filter);
        }
        left
    }

    /// Removes subscriptions of the session `number`, which has ended.
    pub(crate) fn remove_all(&self, filters: impl Iterator<Item = SharedFilter>, number: u64) {
        let mut index = self.index.write();
        for filter in filters {
            let (changed, left) = index.remove(&filter, number);
            if changed || left.is_some() {
                self.count.removed(&filter);
            }
            if changed || left.is_some_and(|group| group.is_empty()) {
                self.changed(&filter.filter);
            }
        }
    }

    /// Everything that `topic` reaches, and the age at which that holds.
    pub(crate) fn matches(&self, topic: &TopicName) -> (Age, Matches) {
        let mut found = Matches::default();
        let index = self.index.read();
        // Read under the lock: writers change it under theirs.
        let age = self.age_of(topic.as_str());
        index.visit(topic, &mut |leaf| leaf.add_to(&mut found));
        (age, found)
    }

    /// Whether the session `number` subscribes to `topic`, shared subscriptions not counted: as fast with thousands of
    /// subscriptions as with one.
    pub(crate) fn reaches(&self, topic: &TopicName, number: u64) -> bool {
        let mut reaches = false;
        self.index.read().visit(topic, &mut |leaf| reaches |= leaf.subscribers.contains(number));
        reaches
    }

    /// The group `number`, if it has members.
    pub(crate) fn group(&self, number: u32) -> Option<Arc<Group>> {
        self.index.read().groups.get(&number).cloned()
    }

    /// The groups that `wanted` is true of.
    pub(crate) fn groups(&self, wanted: impl Fn(&Group) -> bool) -> Vec<Arc<Group>> {
        self.index.read().groups.values().filter(|group| wanted(group)).cloned().collect()
    }

    /// The group of `filter`, if it is one of a shared subscription and has members.
    pub(crate) fn group_of(&self, filter: &SharedFilter) -> Option<Arc<Group>> {
        let name = filter.group.as_ref()?;
        let index = self.index.read();
        let leaf = if filter.filter.is_wildcard() {
            find_below(&index.wild, &mut filter.filter.levels())?
        } else {
            index.exact.get(filter.filter.as_str())?
        };
        leaf.group(name).cloned()
    }

    /// How many subscriptions there are.
    pub(crate) fn count(&self) -> Count {
        let Counter { all, shared, bytes, system } = &self.count;
        let of = |number: &AtomicUsize| number.load(Ordering::Relaxed);
        Count { all: of(all), shared: of(shared), bytes: of(bytes), system: of(system) }
    }

    /// Whether nothing is subscribed and nothing is left over.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        let index = self.index.read();
        index.exact.is_empty()
            && index.wild.is_empty()
            && index.groups.is_empty()
            && self.count() == Count::default()
    }
}

fn leaf_of<'a>(
    exact: &'a mut HashMap<ByteString, Leaf, RandomState>,
    wild: &'a mut Node,
    filter: &TopicFilter,
) -> &'a mut Leaf {
    if !filter.is_wildcard() {
        return exact.entry(filter.as_byte_string().clone()).or_default();
    }
    let mut node = wild;
    for level in filter.levels() {
        node = match level {
            "#" => return &mut node.below,
            "+" => node.any.get_or_insert_default(),
            name => node.children.at(name),
        };
    }
    &mut node.here
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
        let mut numbers: Vec<u64> = found.subscribers.iter().map(|(number, _)| *number).collect();
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
            for number in 0..filters.len() as u64 {
                assert_eq!(tree.reaches(&name, number), expected.contains(&number), "{topic} and {number}");
            }
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

    /// The name of a group was free: 65 KB of it.
    #[test]
    fn the_name_of_a_group_counts() {
        let named = |name: &str| weight(&filter(&format!("$share/{name}/a")));
        assert!(named("g") > weight(&filter("a")));
        assert_eq!(named(&"g".repeat(60_001)) - named("g"), 120_000);
    }

    #[test]
    fn who_joins_a_group_that_is_there_is_seen_by_those_who_have_it() {
        let tree = TopicTree::default();
        tree.insert(&filter("$share/g/t"), &session(1), SubscriptionOptions::default());
        let (age, found) = tree.matches(&"t".parse().unwrap());
        tree.insert(&filter("$share/g/t"), &session(2), SubscriptionOptions::default());
        assert!(tree.holds(age), "nothing is to be looked up again");
        let group = found.groups.first().unwrap();
        assert!(tree.remove(&filter("$share/g/t"), 1).is_some_and(|left| Arc::ptr_eq(&left, group)));
        assert!(tree.remove(&filter("$share/g/t"), 1).is_none(), "it was no member any more");
        assert!(!group.is_empty());
        assert!(tree.remove(&filter("$share/g/t"), 2).is_some());
        assert!(group.is_empty() && tree.is_empty());
        assert!(!tree.holds(age));
    }

    #[test]
    fn subscriptions_are_counted_once() {
        let tree = TopicTree::default();
        let one = session(1);
        for text in ["a/b", "a/b", "+/b", "$share/g/a/b", "$share/g/a/b", "$SYS/#", "$SYSTEM"] {
            tree.insert(&filter(text), &one, SubscriptionOptions::default());
        }
        let count = tree.count();
        assert_eq!((count.all, count.shared, count.system), (5, 1, 1));
        for text in ["a/b", "nothing", "+/b", "$share/g/a/b", "$share/other/a/b", "$SYS/#", "$SYSTEM"] {
            tree.remove(&filter(text), 1);
            tree.remove(&filter(text), 1);
        }
        assert!(tree.is_empty());
    }

    /// Every publisher of the tenant looked everything up again after any subscription.
    #[test]
    fn what_was_found_holds_until_a_filter_changes_that_the_topic_may_match() {
        let tree = TopicTree::default();
        let topics = ["a", "b"].map(|topic| topic.parse::<TopicName>().unwrap());
        // Two topics of two slots: all but one in 256 are.
        let other = (0..).map(|number| format!("other/{number}"));
        let other = other.into_iter().find(|other| tree.slot_of(other) != tree.slot_of("a")).unwrap();
        let ages = || topics.each_ref().map(|topic| tree.matches(topic).0);
        let [before, _] = ages();
        tree.insert(&filter(&other), &session(1), SubscriptionOptions::default());
        tree.remove(&filter(&other), 1);
        tree.insert(&filter(&format!("$share/g/{other}")), &session(1), SubscriptionOptions::default());
        assert!(tree.holds(before), "it is another topic's");
        tree.insert(&filter("a"), &session(1), SubscriptionOptions::default());
        assert!(!tree.holds(before));
        let [before, _] = ages();
        tree.remove_all([filter("a"), filter("nothing")].into_iter(), 1);
        assert!(!tree.holds(before));
        for text in ["x/+", "$share/g/x/#"] {
            let before = ages();
            tree.insert(&filter(text), &session(1), SubscriptionOptions::default());
            assert!(before.iter().all(|age| !tree.holds(*age)), "{text}");
            let before = ages();
            tree.remove(&filter(text), 1);
            assert!(before.iter().all(|age| !tree.holds(*age)), "{text}");
        }
    }
}
