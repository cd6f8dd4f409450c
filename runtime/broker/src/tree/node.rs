//! What a topic tree is made of: leaves with the subscribers of a filter, and the levels of filters with wildcards.
//!
//! Small on purpose: a hundred thousand subscriptions are a hundred thousand of these.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use bytestring::ByteString;
use foldhash::fast::RandomState;
use tidegate_event::SubscriptionOptions;

use super::Matches;
use crate::session::Session;
use crate::share::Group;

/// A subscriber of a filter.
#[derive(Clone)]
pub(crate) struct Subscriber {
    pub(crate) session: Arc<Session>,
    pub(crate) options: SubscriptionOptions,
}

/// Who subscribes to a filter, `$share` groups not counted. Most filters have one subscriber.
#[derive(Default)]
pub(super) enum Subscribers {
    #[default]
    None,
    One(Subscriber),
    Many(Box<Crowd>),
}

/// Subscribers by the number of their session.
#[derive(Default)]
pub(super) struct Crowd(HashMap<u64, Subscriber, RandomState>);

impl Subscribers {
    /// Gives whether the session had no subscription here.
    pub(super) fn insert(&mut self, subscriber: Subscriber) -> bool {
        match std::mem::take(self) {
            Self::None => {
                *self = Self::One(subscriber);
                true
            }
            Self::One(known) if known.session.number == subscriber.session.number => {
                *self = Self::One(subscriber);
                false
            }
            Self::One(known) => {
                let two = [(known.session.number, known), (subscriber.session.number, subscriber)];
                *self = Self::Many(Box::new(Crowd(two.into_iter().collect())));
                true
            }
            Self::Many(mut crowd) => {
                let fresh = crowd.0.insert(subscriber.session.number, subscriber).is_none();
                *self = Self::Many(crowd);
                fresh
            }
        }
    }

    /// Gives whether the session had a subscription here.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        match self {
            Self::None => false,
            Self::One(known) => {
                let found = known.session.number == number;
                if found {
                    *self = Self::None;
                }
                found
            }
            Self::Many(crowd) => {
                let found = crowd.0.remove(&number).is_some();
                if crowd.0.is_empty() {
                    *self = Self::None;
                } else {
                    shrink(&mut crowd.0);
                }
                found
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Whether the session `number` is among them.
    pub(super) fn contains(&self, number: u64) -> bool {
        match self {
            Self::None => false,
            Self::One(known) => known.session.number == number,
            Self::Many(crowd) => crowd.0.contains_key(&number),
        }
    }

    fn add_to(&self, found: &mut Matches) {
        match self {
            Self::None => return,
            Self::One(subscriber) => found.subscribers.push((subscriber.session.number, subscriber.clone())),
            Self::Many(crowd) => {
                found
                    .subscribers
                    .extend(crowd.0.iter().map(|(number, subscriber)| (*number, subscriber.clone())));
            }
        }
        found.filters += 1;
    }
}

/// The `$share` groups of a filter by name.
#[derive(Default)]
pub(super) struct Groups(pub(super) HashMap<ByteString, Arc<Group>, RandomState>);

/// What is subscribed to one filter.
#[derive(Default)]
pub(super) struct Leaf {
    pub(super) subscribers: Subscribers,
    pub(super) groups: Option<Box<Groups>>,
}

impl Leaf {
    pub(super) fn is_empty(&self) -> bool {
        self.subscribers.is_empty() && self.groups.is_none()
    }

    pub(super) fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.as_ref()?.0.get(name)
    }

    pub(super) fn add_to(&self, found: &mut Matches) {
        self.subscribers.add_to(found);
        if let Some(groups) = &self.groups {
            found.groups.extend(groups.0.values().map(Arc::clone));
        }
    }
}

/// The named levels below a level. Many levels have one.
#[derive(Default)]
pub(super) struct Children {
    first: Option<(Box<str>, Box<Node>)>,
    more: Option<Box<Branch>>,
}

#[derive(Default)]
pub(super) struct Branch(HashMap<Box<str>, Box<Node>, RandomState>);

impl Children {
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        match &self.first {
            Some((known, child)) if **known == *name => Some(child),
            _ => self.more.as_ref()?.0.get(name).map(|child| &**child),
        }
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        match &mut self.first {
            Some((known, child)) if **known == *name => Some(child),
            _ => self.more.as_mut()?.0.get_mut(name).map(|child| &mut **child),
        }
    }

    /// The level `name`, made if it is missing.
    pub(super) fn at(&mut self, name: &str) -> &mut Node {
        let is_first = match &self.first {
            Some((known, _)) => **known == *name,
            None => self.more.is_none(),
        };
        if is_first {
            return &mut self.first.get_or_insert_with(|| (name.into(), Box::default())).1;
        }
        self.more.get_or_insert_default().0.entry(name.into()).or_default()
    }

    pub(super) fn remove(&mut self, name: &str) {
        if self.first.as_ref().is_some_and(|(known, _)| **known == *name) {
            self.first = None;
        } else if let Some(more) = &mut self.more {
            more.0.remove(name);
            if more.0.is_empty() {
                self.more = None;
            } else {
                shrink(&mut more.0);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_none()
    }
}

/// Gives memory back when most of `map` has gone.
pub(super) fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V, RandomState>) {
    if map.len() * 4 < map.capacity() {
        map.shrink_to(map.len() * 2);
    }
}

/// A level of filters with wildcards.
#[derive(Default)]
pub(super) struct Node {
    pub(super) children: Children,
    /// Child of the level `+`.
    pub(super) any: Option<Box<Node>>,
    /// Filters that end here.
    pub(super) here: Leaf,
    /// Filters that end here with `#`.
    pub(super) below: Leaf,
}

impl Node {
    pub(super) fn is_empty(&self) -> bool {
        self.children.is_empty() && self.any.is_none() && self.here.is_empty() && self.below.is_empty()
    }
}

/// Changes the leaf of a filter with wildcards and removes the nodes that are empty after it.
pub(super) fn remove_below<'a>(
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
                }
            }
        }
    }
}

pub(super) fn find_below<'a, 'b>(
    node: &'a Node,
    levels: &mut impl Iterator<Item = &'b str>,
) -> Option<&'a Leaf> {
    match levels.next() {
        None => Some(&node.here),
        Some("#") => Some(&node.below),
        Some("+") => find_below(node.any.as_deref()?, levels),
        Some(name) => find_below(node.children.get(name)?, levels),
    }
}

/// Gives `found` what is subscribed to the filters with wildcards that match the topic of these `levels`.
pub(super) fn visit(node: &Node, levels: &[&str], hide_wildcards: bool, found: &mut impl FnMut(&Leaf)) {
    // Wildcards in the first level do not match topics that begin with `$` (MQTT 5 clause 4.7.2).
    if !hide_wildcards {
        found(&node.below);
    }
    let Some((level, rest)) = levels.split_first() else {
        found(&node.here);
        return;
    };
    if let Some(child) = node.children.get(level) {
        visit(child, rest, false, found);
    }
    if let Some(child) = &node.any
        && !hide_wildcards
    {
        visit(child, rest, false, found);
    }
}
