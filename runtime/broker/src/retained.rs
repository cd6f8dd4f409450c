//! The retained messages of one tenant (MQTT 5 clause 3.3.1.3).
//!
//! A tree of levels: an exact filter is one path, a wildcard visits only what can match.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::RwLock;
use tidegate_event::{Message, TopicFilter, TopicName, now_ms};

#[derive(Default)]
struct Node {
    children: HashMap<Box<str>, Node, RandomState>,
    message: Option<Arc<Message>>,
}

#[derive(Default)]
struct Store {
    root: Node,
    messages: usize,
    /// Of messages and of the levels of their topics.
    bytes: usize,
    /// How many have an expiry.
    expiring: usize,
}

/// How a message was retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// Its topic had none.
    New,
    /// In place of another.
    Replaced,
    /// Not at all: there is no room.
    Full,
}

/// How much may be retained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetainedLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// The retained messages of one tenant.
#[derive(Default)]
pub(crate) struct Retained(RwLock<Store>);

/// What a level takes besides its name: its place among its siblings and its own table.
const LEVEL: usize = 320;

fn size(message: &Message) -> usize {
    size_of::<Message>() + message.size()
}

fn level_size(name: &str) -> usize {
    LEVEL + name.len()
}

fn is_expired(message: &Message, now_ms: u64) -> bool {
    message.expires_at_ms().is_some_and(|at| at <= now_ms)
}

impl Store {
    fn count_in(&mut self, message: &Message) {
        self.messages += 1;
        self.bytes += size(message);
        self.expiring += usize::from(message.expires_at_ms().is_some());
    }

    fn has_room(&self, message: &Message, limits: RetainedLimits) -> bool {
        let replaced = find(&self.root, &message.topic);
        let levels = missing_levels(&self.root, &message.topic);
        let bytes = self.bytes - replaced.map_or(0, |old| size(old)) + levels + size(message);
        bytes <= limits.bytes && (replaced.is_some() || self.messages < limits.messages)
    }

    fn count_out(&mut self, message: &Message) {
        self.messages -= 1;
        self.bytes -= size(message);
        self.expiring -= usize::from(message.expires_at_ms().is_some());
    }
}

impl Retained {
    /// Whether `message` could be retained in place of its topic's last one.
    pub(crate) fn has_room(&self, message: &Message, limits: RetainedLimits) -> bool {
        self.0.read().has_room(message, limits)
    }

    /// [`Self::set_and`] of what is recorded already.
    pub(crate) fn set(&self, message: Arc<Message>, limits: RetainedLimits) -> Set {
        self.set_and(message, limits, || {})
    }

    /// Retains `message`, which should own its memory, in place of its topic's last one, unless the store would
    /// have more than `limits` allow. If it is retained, `record` is called before another can take its place: what is
    /// recorded last of a topic is what the topic has. It must not wait.
    pub(crate) fn set_and(
        &self,
        message: Arc<Message>,
        limits: RetainedLimits,
        record: impl FnOnce(),
    ) -> Set {
        let mut store = self.0.write();
        if !store.has_room(&message, limits) {
            return Set::Full;
        }
        let levels = missing_levels(&store.root, &message.topic);
        let mut node = &mut store.root;
        for level in message.topic.levels() {
            if !node.children.contains_key(level) {
                node.children.insert(level.into(), Node::default());
            }
            let Some(child) = node.children.get_mut(level) else { return Set::Full };
            node = child;
        }
        let old = node.message.replace(Arc::clone(&message));
        store.bytes += levels;
        store.count_in(&message);
        record();
        match old {
            None => Set::New,
            Some(old) => {
                store.count_out(&old);
                Set::Replaced
            }
        }
    }

    /// Deletes the retained message of `topic`, and calls `record` before it can have another. `false`: there was none.
    pub(crate) fn clear_and(&self, topic: &TopicName, record: impl FnOnce()) -> bool {
        if find(&self.0.read().root, topic).is_none() {
            return false;
        }
        let mut store = self.0.write();
        let mut levels = 0;
        let Some(old) = remove(&mut store.root, &mut topic.levels(), &mut levels) else { return false };
        store.bytes -= levels;
        store.count_out(&old);
        record();
        true
    }

    /// How many there are, expired ones included until they are swept.
    pub(crate) fn len(&self) -> usize {
        self.0.read().messages
    }

    /// The messages that match `filter` and have not expired.
    pub(crate) fn matches(&self, filter: &TopicFilter) -> Vec<Arc<Message>> {
        let store = self.0.read();
        let mut found = Vec::new();
        if store.messages == 0 {
            return found;
        }
        let levels: Vec<&str> = filter.levels().collect();
        collect(&store.root, &levels, true, &mut found);
        if store.expiring > 0 {
            let now = now_ms();
            found.retain(|message| !is_expired(message, now));
        }
        found
    }

    /// Deletes what has expired and gives it. `record` is called with each topic before it can have another message.
    pub(crate) fn sweep_and(&self, record: impl Fn(&TopicName)) -> Vec<Arc<Message>> {
        let mut expired = Vec::new();
        if self.0.read().expiring == 0 {
            return expired;
        }
        let mut store = self.0.write();
        let mut levels = 0;
        sweep(&mut store.root, now_ms(), &mut expired, &mut levels);
        store.bytes -= levels;
        for message in &expired {
            store.count_out(message);
            record(&message.topic);
        }
        expired
    }
}

fn find<'a>(root: &'a Node, topic: &TopicName) -> Option<&'a Arc<Message>> {
    let mut node = root;
    for level in topic.levels() {
        node = node.children.get(level)?;
    }
    node.message.as_ref()
}

/// Bytes of the levels of `topic` that are not there yet.
fn missing_levels(root: &Node, topic: &TopicName) -> usize {
    let (mut node, mut missing) = (Some(root), 0);
    for level in topic.levels() {
        node = node.and_then(|node| node.children.get(level));
        if node.is_none() {
            missing += level_size(level);
        }
    }
    missing
}

/// Takes the message out; adds the bytes of the levels that go with it to `gone`.
fn remove<'a>(
    node: &mut Node,
    levels: &mut impl Iterator<Item = &'a str>,
    gone: &mut usize,
) -> Option<Arc<Message>> {
    let Some(level) = levels.next() else { return node.message.take() };
    let child = node.children.get_mut(level)?;
    let message = remove(child, levels, gone)?;
    if child.message.is_none() && child.children.is_empty() {
        node.children.remove(level);
        *gone += level_size(level);
    }
    Some(message)
}

fn collect(node: &Node, levels: &[&str], first: bool, found: &mut Vec<Arc<Message>>) {
    // Wildcards in the first level do not match topics that begin with `$` (MQTT 5 clause 4.7.2).
    let visible = |name: &str| !(first && name.starts_with('$'));
    match levels.split_first() {
        None => found.extend(node.message.clone()),
        Some((&"#", _)) => {
            found.extend(node.message.clone());
            for (_, child) in node.children.iter().filter(|(name, _)| visible(name)) {
                collect(child, levels, false, found);
            }
        }
        Some((&"+", rest)) => {
            for (_, child) in node.children.iter().filter(|(name, _)| visible(name)) {
                collect(child, rest, false, found);
            }
        }
        Some((&name, rest)) => {
            if let Some(child) = node.children.get(name) {
                collect(child, rest, false, found);
            }
        }
    }
}

fn sweep(node: &mut Node, now_ms: u64, expired: &mut Vec<Arc<Message>>, gone: &mut usize) {
    if node.message.as_ref().is_some_and(|message| is_expired(message, now_ms)) {
        expired.extend(node.message.take());
    }
    node.children.retain(|name, child| {
        sweep(child, now_ms, expired, gone);
        let kept = child.message.is_some() || !child.children.is_empty();
        if !kept {
            *gone += level_size(name);
        }
        kept
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use bytes::Bytes;
    use tidegate_event::{PublishProperties, QoS};

    use super::*;
    use crate::session::test_message;

    fn message(topic: &str, payload: &'static [u8], expiry: Option<(u64, u32)>) -> Arc<Message> {
        let mut message = Message::clone(&test_message(topic, QoS::AtLeastOnce, 1));
        message.payload = Bytes::from_static(payload);
        if let Some((at_ms, seconds)) = expiry {
            message.timestamp_ms = at_ms;
            message.properties =
                Some(Box::new(PublishProperties { message_expiry: Some(seconds), ..Default::default() }));
        }
        Arc::new(message)
    }

    fn within(bytes: usize) -> RetainedLimits {
        RetainedLimits { messages: usize::MAX, bytes }
    }

    impl Retained {
        fn clear(&self, topic: &TopicName) -> bool {
            self.clear_and(topic, || {})
        }

        fn sweep(&self) -> Vec<Arc<Message>> {
            self.sweep_and(|_| {})
        }
    }

    fn topics(retained: &Retained, filter: &str) -> Vec<String> {
        let mut topics: Vec<String> =
            retained.matches(&filter.parse().unwrap()).iter().map(|m| m.topic.to_string()).collect();
        topics.sort();
        topics
    }

    #[test]
    fn wildcards_find_what_the_filter_matches() {
        let retained = Retained::default();
        let all = ["a", "a/b", "a/b/c", "/", "é/x", "$SYS/x", "b"];
        for topic in all {
            assert_eq!(retained.set(message(topic, b"x", None), within(100_000)), Set::New);
        }
        for filter in ["#", "+", "a/#", "a/+", "+/b", "+/+", "$SYS/#", "a/b", "é/+", "nothing/#"] {
            let parsed: TopicFilter = filter.parse().unwrap();
            let mut expected: Vec<String> = all
                .iter()
                .filter(|topic| parsed.matches(&topic.parse().unwrap()))
                .map(|topic| (*topic).to_owned())
                .collect();
            expected.sort();
            assert_eq!(topics(&retained, filter), expected, "{filter}");
        }
        for topic in all {
            assert!(retained.clear(&topic.parse().unwrap()));
            assert!(!retained.clear(&topic.parse().unwrap()));
        }
        assert!(retained.0.read().root.children.is_empty());
        assert_eq!(retained.0.read().bytes, 0);
    }

    #[test]
    fn the_store_is_bounded_in_bytes() {
        let retained = Retained::default();
        let room = size(&message("t", b"123456789", None)) + level_size("t");
        assert_eq!(retained.set(message("t", b"12345", None), within(room)), Set::New);
        assert_eq!(retained.set(message("u", b"12345", None), within(room)), Set::Full);
        assert_eq!(
            retained.set(message("t", b"123456789", None), within(room)),
            Set::Replaced,
            "it counts once"
        );
        assert_eq!(retained.len(), 1);
    }

    #[test]
    fn the_store_is_bounded_in_messages() {
        let retained = Retained::default();
        let limits = RetainedLimits { messages: 1, bytes: usize::MAX };
        assert_eq!(retained.set(message("t", b"1", None), limits), Set::New);
        assert!(!retained.has_room(&message("u", b"1", None), limits));
        assert_eq!(retained.set(message("u", b"1", None), limits), Set::Full);
        assert_eq!(retained.set(message("t", b"2", None), limits), Set::Replaced);
        assert!(retained.clear(&"t".parse().unwrap()));
        assert_eq!(retained.set(message("u", b"1", None), limits), Set::New);
    }

    /// Only topics and payloads were counted: deep topics, and properties, were free.
    #[test]
    fn levels_and_properties_count_too() {
        let retained = Retained::default();
        let deep = "a/".repeat(100) + "a";
        assert_eq!(retained.set(message(&deep, b"x", None), within(10_000)), Set::Full);
        assert_eq!(retained.set(message(&deep, b"x", None), within(100_000)), Set::New);
        let shared = retained.0.read().bytes;
        assert_eq!(retained.set(message(&(deep + "/b"), b"x", None), within(100_000)), Set::New);
        assert!(retained.0.read().bytes < shared + 2_000, "levels count once");
        let mut wordy = Message::clone(&message("t", b"x", None));
        let user = vec![("k".into(), "v".repeat(5_000).into()); 10];
        wordy.properties = Some(Box::new(PublishProperties { user, ..Default::default() }));
        assert_eq!(retained.set(Arc::new(wordy), within(shared + 40_000)), Set::Full);
    }

    #[test]
    fn expired_messages_are_not_found_and_are_swept() {
        let retained = Retained::default();
        retained.set(message("old/deep", b"x", Some((now_ms() - 5_000, 1))), within(10_000));
        retained.set(message("new", b"x", Some((now_ms(), 3_600))), within(10_000));
        assert_eq!(topics(&retained, "#"), ["new"]);
        assert_eq!(retained.len(), 2);
        assert_eq!(retained.sweep().len(), 1);
        assert_eq!(retained.len(), 1);
        assert!(retained.clear(&"new".parse().unwrap()));
        assert_eq!(retained.0.read().bytes, 0);
    }

    /// Recorded later, changes of two publishers could be recorded in another order than that in which they were made.
    #[test]
    fn a_change_is_recorded_before_the_next_one_is_made() {
        let retained = Retained::default();
        let is_locked = || assert!(retained.0.try_read().is_none());
        retained.set_and(message("t", b"x", None), within(10_000), is_locked);
        assert!(retained.clear_and(&"t".parse().unwrap(), is_locked));
        retained.set_and(message("t", b"x", Some((now_ms() - 5_000, 1))), within(10_000), is_locked);
        assert_eq!(retained.sweep_and(|_| is_locked()).len(), 1);
        assert!(!retained.clear_and(&"t".parse().unwrap(), || panic!("there is nothing to be cleared")));
    }
}
