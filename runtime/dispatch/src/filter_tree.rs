//! A tree of topic filters: which of thousands match a topic, in one walk (MQTT 5 clause 4.7).

use std::collections::HashMap;

use smallvec::SmallVec;
use tidegate_event::{TopicFilter, TopicName};

/// Positions of matching handlers. Inline for the usual case, so that matching does not allocate.
pub(crate) type Matches = SmallVec<[u32; 8]>;

/// What wildcards at the root say to a level that begins with `$`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Root {
    /// They do not match it (clause 4.7.2).
    Hides,
    /// They match it like any other.
    Shows,
}

#[derive(Default)]
struct Node {
    literal: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    plus: Option<u32>,
    /// Handlers whose filter ends here.
    here: Vec<u32>,
    /// Handlers whose filter ends in `#` at this level.
    rest: Vec<u32>,
}

/// Filters and the handler positions bound to them. Built once, then only read.
pub(crate) struct FilterTree {
    nodes: Vec<Node>,
    /// Handlers without a filter: they match everything, `$` topics too.
    always: Vec<u32>,
}

impl Default for FilterTree {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], always: Vec::new() }
    }
}

impl FilterTree {
    /// Binds `handler` to everything.
    pub(crate) fn insert_always(&mut self, handler: u32) {
        self.always.push(handler);
    }

    /// Binds `handler` to `filter`.
    pub(crate) fn insert(&mut self, filter: &TopicFilter, handler: u32) {
        let mut at = 0_usize;
        for level in filter.levels() {
            if level == "#" {
                self.nodes[at].rest.push(handler);
                return;
            }
            let fresh = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
            let node = &mut self.nodes[at];
            let next = if level == "+" {
                *node.plus.get_or_insert(fresh)
            } else {
                *node.literal.entry(level.into()).or_insert(fresh)
            };
            if next == fresh {
                self.nodes.push(Node::default());
            }
            at = next as usize;
        }
        self.nodes[at].here.push(handler);
    }

    /// The handlers whose filter matches `topic`, ascending, each once.
    pub(crate) fn matching(&self, topic: &TopicName) -> Matches {
        self.collect(topic.as_str(), Root::Hides)
    }

    /// The handlers whose filter guards `topic` ([`TopicFilter::guards`]), ascending, each once.
    pub(crate) fn guarding(&self, topic: &TopicName) -> Matches {
        self.collect(topic.as_str(), Root::Shows)
    }

    /// The handlers whose filter covers the subscription filter `other`, ascending, each once.
    pub(crate) fn covering(&self, other: &TopicFilter) -> Matches {
        self.collect(other.as_str(), Root::Hides)
    }

    /// The handlers who guard a part of what a subscription to `other` brings ([`TopicFilter::overlaps`]), ascending,
    /// each once.
    pub(crate) fn overlapping(&self, other: &TopicFilter) -> Matches {
        let mut found = Matches::from_slice(&self.always);
        self.overlap(&self.nodes[0], Some(other.as_str()), true, &mut found);
        found.sort_unstable();
        found.dedup();
        found
    }

    /// `rest` is what is left of the other filter; `None` after its last level. `first`: no level has been compared
    /// yet, so wildcards of the other filter leave `$` topics out (clause 4.7.2). Those of the tree do not.
    fn overlap(&self, node: &Node, rest: Option<&str>, first: bool, found: &mut Matches) {
        // `a/#` also has its parent `a`.
        found.extend_from_slice(&node.rest);
        let Some(rest) = rest else {
            found.extend_from_slice(&node.here);
            return;
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        let everything = level == "#";
        if everything {
            found.extend_from_slice(&node.here);
        }
        if everything || level == "+" {
            for (literal, next) in &node.literal {
                if !(first && literal.starts_with('$')) {
                    let rest = if everything { Some("#") } else { rest };
                    self.overlap(&self.nodes[*next as usize], rest, false, found);
                }
            }
        } else if let Some(next) = node.literal.get(level) {
            self.overlap(&self.nodes[*next as usize], rest, false, found);
        }
        if let Some(next) = node.plus {
            let rest = if everything { Some("#") } else { rest };
            self.overlap(&self.nodes[next as usize], rest, false, found);
        }
    }

    /// The handlers without regard to filters, for hooks that have no topic.
    pub(crate) fn all(&self) -> &[u32] {
        &self.always
    }

    /// One walk serves three questions. A topic name has no wildcard levels; in a subscription's filter the
    /// level `+` is covered by `+` and `#` only, and `#` by `#` only.
    fn collect(&self, levels: &str, root: Root) -> Matches {
        let mut found = Matches::from_slice(&self.always);
        if self.nodes.len() > 1 || !self.nodes[0].rest.is_empty() {
            let dollar = root == Root::Hides && levels.starts_with('$');
            self.walk(&self.nodes[0], Some(levels), dollar, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// `rest` is what is left of the text; `None` after its last level. `dollar`: this is the first level of a
    /// `$` topic, and wildcards do not match it.
    fn walk(&self, node: &Node, rest: Option<&str>, dollar: bool, found: &mut Matches) {
        if !dollar {
            // `a/#` also matches its parent `a` (clause 4.7.1.2).
            found.extend_from_slice(&node.rest);
        }
        let Some(rest) = rest else {
            found.extend_from_slice(&node.here);
            return;
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        if level == "#" {
            return;
        }
        if !dollar && let Some(next) = node.plus {
            self.walk(&self.nodes[next as usize], rest, false, found);
        }
        if let Some(next) = node.literal.get(level) {
            self.walk(&self.nodes[*next as usize], rest, false, found);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const FILTERS: [&str; 16] = [
        "#", "+", "a", "a/#", "a/+", "a/b", "+/b", "+/+", "a/+/c", "a/b/#", "/", "/+", "+/", "$SYS/#",
        "$SYS/+", "é/#",
    ];
    const TOPICS: [&str; 12] =
        ["a", "b", "a/b", "a/b/c", "a/", "/", "/b", "//", "$SYS/x", "$SYS/x/y", "é/x", "x/b"];
    const SUBSCRIPTIONS: [&str; 14] =
        ["#", "+", "a/#", "a/+", "a/+/#", "+/b", "+/#", "a/b/#", "/", "/#", "$SYS/#", "$SYS/+/#", "é/+", "a"];

    fn tree() -> (Vec<TopicFilter>, FilterTree) {
        let filters: Vec<TopicFilter> = FILTERS.iter().map(|f| f.parse().unwrap()).collect();
        let mut tree = FilterTree::default();
        for (index, filter) in (0_u32..).zip(&filters) {
            tree.insert(filter, index);
        }
        (filters, tree)
    }

    /// The tree must agree with the definition in `TopicFilter`, filter by filter.
    #[test]
    fn the_walk_finds_what_matches_one_by_one() {
        let (filters, tree) = tree();
        for topic in TOPICS {
            let name: TopicName = topic.parse().unwrap();
            let expected: Vec<u32> =
                (0_u32..).zip(&filters).filter(|(_, f)| f.matches(&name)).map(|(i, _)| i).collect();
            assert_eq!(tree.matching(&name).as_slice(), expected, "{topic}");
        }
    }

    #[test]
    fn the_walk_finds_what_covers_one_by_one() {
        let (filters, tree) = tree();
        for subscription in SUBSCRIPTIONS {
            let other: TopicFilter = subscription.parse().unwrap();
            let expected: Vec<u32> =
                (0_u32..).zip(&filters).filter(|(_, f)| f.covers(&other)).map(|(i, _)| i).collect();
            assert_eq!(tree.covering(&other).as_slice(), expected, "{subscription}");
        }
    }

    /// Every topic of up to three levels of a few words. That is deep enough for the filters of these tests.
    fn topics() -> Vec<TopicName> {
        let words = ["a", "b", "c", "", "x", "$SYS", "é"];
        let mut topics: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        for depth in 0..2 {
            let longest = topics.iter().filter(|t| t.matches('/').count() == depth).cloned();
            let deeper: Vec<_> =
                longest.flat_map(|t| words.iter().map(move |word| format!("{t}/{word}"))).collect();
            topics.extend(deeper);
        }
        topics.iter().filter_map(|topic| topic.parse().ok()).collect()
    }

    #[test]
    fn the_walk_finds_who_guards_one_by_one() {
        let (filters, tree) = tree();
        for topic in topics() {
            let expected: Vec<u32> =
                (0_u32..).zip(&filters).filter(|(_, f)| f.guards(&topic)).map(|(i, _)| i).collect();
            assert_eq!(tree.guarding(&topic).as_slice(), expected, "{topic}");
        }
    }

    #[test]
    fn the_walk_finds_what_overlaps_one_by_one() {
        let (filters, tree) = tree();
        let topics = topics();
        for subscription in SUBSCRIPTIONS {
            let other: TopicFilter = subscription.parse().unwrap();
            let found = tree.overlapping(&other);
            let expected: Vec<u32> =
                (0_u32..).zip(&filters).filter(|(_, f)| f.guards_part_of(&other)).map(|(i, _)| i).collect();
            assert_eq!(found.as_slice(), expected, "{subscription}");
            // The parent of `/#` is the empty topic, which is none: that `+` is found for it as well does no harm.
            if subscription == "/#" {
                continue;
            }
            let in_common = |f: &TopicFilter| topics.iter().any(|t| f.guards(t) && other.matches(t));
            let expected: Vec<u32> =
                (0_u32..).zip(&filters).filter(|(_, f)| in_common(f)).map(|(i, _)| i).collect();
            assert_eq!(found.as_slice(), expected, "{subscription}: a topic in common");
        }
        assert_eq!(tree.overlapping(&"b".parse().unwrap()).as_slice(), [0, 1]);
    }

    /// A client could use what a guard of `#` was not asked about.
    #[test]
    fn a_guard_of_everything_guards_dollar_topics() {
        let (_, tree) = tree();
        let at = |filter: &str| u32::try_from(FILTERS.iter().position(|f| *f == filter).unwrap()).unwrap();
        let (all, plus) = (at("#"), at("+/+"));
        let topic: TopicName = "$SYS/x".parse().unwrap();
        assert!([all, plus].iter().all(|guard| tree.guarding(&topic).contains(guard)));
        assert!([all, plus].iter().all(|other| !tree.matching(&topic).contains(other)));
        for asked in ["$SYS/#", "$SYS/x", "$SYS/+"] {
            let found = tree.overlapping(&asked.parse().unwrap());
            assert!([all, plus].iter().all(|guard| found.contains(guard)), "{asked}");
        }
        // What a subscription does not bring needs no guard.
        assert!(!tree.overlapping(&"#".parse().unwrap()).contains(&at("$SYS/#")));
    }

    #[test]
    fn a_handler_with_two_matching_filters_is_found_once() {
        let mut tree = FilterTree::default();
        tree.insert(&"a/#".parse().unwrap(), 7);
        tree.insert(&"a/+".parse().unwrap(), 7);
        tree.insert_always(3);
        assert_eq!(tree.matching(&"a/b".parse().unwrap()).as_slice(), [3, 7]);
        assert_eq!(tree.matching(&"$SYS".parse().unwrap()).as_slice(), [3]);
    }
}
