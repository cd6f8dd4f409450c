//! The retained messages of one tenant (MQTT 5 clause 3.3.1.3).
//!
//! A tree of levels, in order: an exact filter is one path, a wildcard visits only what can match. There may be very many
//! messages, so whoever looks them up, or sweeps expired ones out, does so in pages: nobody waits for more than one page.

mod children;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::RwLock;
use tidegate_event::{Message, MsgId, TopicFilter, TopicName, now_ms};

use self::children::Children;

/// Levels that one look-up visits while it has the lock.
const PAGE: usize = 500;
/// A message that was retained before that is on its way to nobody any more: it is delivered at once after it is
/// retained. Milliseconds.
const YOUNG: u64 = 10_000;

#[derive(Default)]
struct Node {
    children: Children,
    kept: Option<Kept>,
}

/// A retained message.
struct Kept {
    message: Arc<Message>,
    since_ms: u64,
}

#[derive(Default)]
struct Store {
    root: Node,
    messages: usize,
    /// Of messages and of the levels of their topics.
    bytes: usize,
    /// When those expire that do.
    expiring: BTreeSet<(u64, TopicName)>,
    /// Whether messages are recorded that are not here.
    is_partial: bool,
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
    /// The same, and the older one of its topic is deleted: it would be taken for the last.
    Cleared,
}

/// How much may be retained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetainedLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// The level that a look-up has visited last, by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor(Vec<Box<str>>);

impl Cursor {
    /// Whether a look-up that has come so far has visited `topic`, or would have.
    pub(crate) fn is_past(&self, topic: &TopicName) -> bool {
        topic.levels().le(self.0.iter().map(|level| &**level))
    }
}

/// A part of the messages that match a filter.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) messages: Vec<Arc<Message>>,
    /// Ids of those that were retained just now: subscribers may be about to get them live, too.
    pub(crate) young: Vec<MsgId>,
    /// How many levels were visited.
    pub(crate) visited: usize,
    /// Where the rest begins, if there may be more.
    pub(crate) next: Option<Cursor>,
}

/// The retained messages of one tenant.
#[derive(Default)]
pub(crate) struct Retained(RwLock<Store>);

/// What a level takes besides its name: its place among its siblings, at most half of which is empty.
const LEVEL: usize = 160;
/// What it takes to know when a message expires.
const EXPIRY: usize = 96;

fn size(message: &Message) -> usize {
    let expiry = if message.expires_at_ms().is_some() { EXPIRY } else { 0 };
    // It keeps what is known of its publisher, which may have left nothing else behind.
    let name = message.publisher.as_ref().and_then(|publisher| publisher.username.as_ref());
    size_of::<Message>() + message.size() + expiry + name.map_or(0, |name| name.len())
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
        if let Some(at_ms) = message.expires_at_ms() {
            self.expiring.insert((at_ms, message.topic.clone()));
        }
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
        if let Some(at_ms) = message.expires_at_ms() {
            self.expiring.remove(&(at_ms, message.topic.clone()));
        }
    }

    fn remove(&mut self, topic: &TopicName) -> Option<Arc<Message>> {
        let mut levels = 0;
        let old = remove(&mut self.root, &mut topic.levels(), &mut levels)?;
        self.bytes -= levels;
        self.count_out(&old);
        Some(old)
    }
}

impl Retained {
    /// Whether `message` could be retained in place of its topic's last one.
    pub(crate) fn has_room(&self, message: &Message, limits: RetainedLimits) -> bool {
        self.0.read().has_room(message, limits)
    }

    /// [`Self::set_and`] of what is recorded already. What finds no room stays recorded: until it is deleted, or another takes
    /// its place, it is there again when there is more room.
    pub(crate) fn set(&self, message: Arc<Message>, limits: RetainedLimits) -> Set {
        let set = self.set_and(message, limits, |_| {});
        if matches!(set, Set::Full | Set::Cleared) {
            self.0.write().is_partial = true;
        }
        set
    }

    /// Retains `message`, which should own its memory, in place of its topic's last one, unless the store would
    /// have more than `limits` allow: then the topic has none (clause 3.3.1.3). If anything has changed, or may have to where
    /// it is recorded, `record` is given what, before another can take its place: what is recorded last of a topic is what
    /// the topic has. It must not wait.
    pub(crate) fn set_and(
        &self,
        message: Arc<Message>,
        limits: RetainedLimits,
        record: impl FnOnce(Set),
    ) -> Set {
        let since_ms = now_ms();
        let mut store = self.0.write();
        if !store.has_room(&message, limits) {
            let is_cleared = store.remove(&message.topic).is_some();
            if is_cleared || store.is_partial {
                record(Set::Cleared);
            }
            return if is_cleared { Set::Cleared } else { Set::Full };
        }
        let levels = missing_levels(&store.root, &message.topic);
        let mut node = &mut store.root;
        for level in message.topic.levels() {
            if node.children.get(level).is_none() {
                node.children.insert(level);
            }
            let Some(child) = node.children.get_mut(level) else { return Set::Full };
            node = child;
        }
        let old = node.kept.replace(Kept { message: Arc::clone(&message), since_ms });
        store.bytes += levels;
        if let Some(old) = &old {
            store.count_out(&old.message);
        }
        store.count_in(&message);
        let set = if old.is_some() { Set::Replaced } else { Set::New };
        record(set);
        set
    }

    /// Deletes the retained message of `topic`, and calls `record` before it can have another: also if it may be recorded
    /// though it is not here. `false`: it was not here.
    pub(crate) fn clear_and(&self, topic: &TopicName, record: impl FnOnce()) -> bool {
        {
            let store = self.0.read();
            if find(&store.root, topic).is_none() {
                if store.is_partial {
                    record();
                }
                return false;
            }
        }
        let mut store = self.0.write();
        let is_there = store.remove(topic).is_some();
        if is_there || store.is_partial {
            record();
        }
        is_there
    }

    /// The message of `topic`, if it has one that has not expired.
    pub(crate) fn get(&self, topic: &TopicName) -> Option<Arc<Message>> {
        let store = self.0.read();
        find(&store.root, topic).filter(|message| !is_expired(message, now_ms())).cloned()
    }

    /// How many there are, expired ones included until they are swept.
    pub(crate) fn len(&self) -> usize {
        self.0.read().messages
    }

    /// The messages that match `filter` and have not expired: a page of them, the first one or what follows `after`.
    /// What is retained or deleted between two pages may or may not be in them; all else is in one of them, once.
    pub(crate) fn page(&self, filter: &TopicFilter, after: Option<&Cursor>) -> Page {
        let store = self.0.read();
        if store.messages == 0 {
            return Page::default();
        }
        let levels: Vec<&str> = filter.levels().collect();
        let mut walk = Walk { path: Vec::new(), left: PAGE, now_ms: now_ms(), page: Page::default() };
        let done: Option<Vec<&str>> = after.map(|Cursor(path)| path.iter().map(|level| &**level).collect());
        let end = walk.visit(&store.root, &levels, done.as_deref());
        let mut page = walk.page;
        page.visited = PAGE - walk.left;
        if end.is_break() {
            page.next = Some(Cursor(walk.path.into_iter().map(Box::from).collect()));
        }
        page
    }

    /// Deletes what has expired, at most `most` of it, and gives it. `record` is called with each topic before it can have
    /// another message.
    pub(crate) fn sweep_and(&self, most: usize, record: impl Fn(&TopicName)) -> Vec<Arc<Message>> {
        let now = now_ms();
        let is_due = |store: &Store| store.expiring.first().is_some_and(|(at_ms, _)| *at_ms <= now);
        let mut expired = Vec::new();
        if !is_due(&self.0.read()) {
            return expired;
        }
        let mut store = self.0.write();
        while expired.len() < most
            && is_due(&store)
            && let Some((_, topic)) = store.expiring.pop_first()
        {
            if let Some(message) = store.remove(&topic) {
                record(&topic);
                expired.push(message);
            }
        }
        expired
    }
}

fn find<'a>(root: &'a Node, topic: &TopicName) -> Option<&'a Arc<Message>> {
    let mut node = root;
    for level in topic.levels() {
        node = node.children.get(level)?;
    }
    node.kept.as_ref().map(|kept| &kept.message)
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
    let Some(level) = levels.next() else { return node.kept.take().map(|kept| kept.message) };
    let child = node.children.get_mut(level)?;
    let message = remove(child, levels, gone)?;
    if child.kept.is_none() && child.children.is_empty() {
        node.children.remove(level);
        *gone += level_size(level);
    }
    Some(message)
}

/// A look-up on its way.
struct Walk<'a> {
    /// To the level that is being visited; of one that has broken off, to the level visited last.
    path: Vec<&'a str>,
    /// Levels that may still be visited.
    left: usize,
    now_ms: u64,
    page: Page,
}

impl<'a> Walk<'a> {
    /// Visits `node`, of which the levels `filter` are still to be matched, and what is below it, in order. `done`: an
    /// earlier page has visited it, and of what is below it everything up to that path.
    fn visit(&mut self, node: &'a Node, filter: &[&str], done: Option<&[&str]>) -> ControlFlow<()> {
        if done.is_none() {
            if matches!(filter, [] | ["#"]) {
                self.take(node);
            }
            self.left -= 1;
            if self.left == 0 {
                return ControlFlow::Break(());
            }
        }
        let (name, rest) = match filter {
            [] => return ControlFlow::Continue(()),
            ["#"] => (None, filter),
            ["+", rest @ ..] => (None, rest),
            [name, rest @ ..] => (Some(*name), rest),
        };
        let done = done.and_then(<[&str]>::split_first);
        let below = |name: &str| done.filter(|(first, _)| ***first == *name).map(|(_, below)| below);
        if let Some(name) = name {
            return match node.children.get_key(name) {
                Some((name, child)) => self.descend(name, child, rest, below(name)),
                None => ControlFlow::Continue(()),
            };
        }
        // Wildcards in the first level do not match topics that begin with `$` (MQTT 5 clause 4.7.2).
        let is_first = self.path.is_empty();
        node.children.each(done.map(|(first, _)| *first), |name, child| {
            if is_first && name.starts_with('$') {
                return ControlFlow::Continue(());
            }
            self.descend(name, child, rest, below(name))
        })
    }

    fn descend(
        &mut self,
        name: &'a str,
        child: &'a Node,
        filter: &[&str],
        done: Option<&[&str]>,
    ) -> ControlFlow<()> {
        self.path.push(name);
        self.visit(child, filter, done)?;
        self.path.pop();
        ControlFlow::Continue(())
    }

    fn take(&mut self, node: &Node) {
        let Some(Kept { message, since_ms }) = &node.kept else { return };
        if is_expired(message, self.now_ms) {
            return;
        }
        if since_ms + YOUNG > self.now_ms {
            self.page.young.push(message.id);
        }
        self.page.messages.push(Arc::clone(message));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::cell::Cell;

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

        fn sweep(&self, most: usize) -> Vec<Arc<Message>> {
            self.sweep_and(most, |_| {})
        }
    }

    fn topics(retained: &Retained, filter: &str) -> Vec<String> {
        let filter = filter.parse().unwrap();
        let (mut topics, mut after) = (Vec::new(), None);
        loop {
            let page = retained.page(&filter, after.as_ref());
            assert!(page.visited <= PAGE && page.messages.len() <= page.visited);
            topics.extend(page.messages.iter().map(|message| message.topic.to_string()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
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

    /// The one before stayed, and new subscribers took it for the last.
    #[test]
    fn a_message_without_room_leaves_its_topic_with_none() {
        let retained = Retained::default();
        let room = size(&message("t", b"12345", None)) + level_size("t");
        assert_eq!(retained.set(message("t", b"12345", None), within(room)), Set::New);
        let set = retained.set_and(message("t", b"123456789", None), within(room), |set| {
            assert!(retained.0.try_read().is_none());
            assert_eq!(set, Set::Cleared);
        });
        assert_eq!((set, retained.len(), retained.0.read().bytes), (Set::Cleared, 0, 0));
        let set = retained.set_and(message("t", b"123456789", None), within(room), |set| panic!("{set:?}"));
        assert_eq!(set, Set::Full);
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
        assert_eq!(retained.sweep(10).len(), 1);
        assert_eq!(retained.len(), 1);
        assert!(retained.clear(&"new".parse().unwrap()));
        assert_eq!(retained.0.read().bytes, 0);
        assert!(retained.0.read().expiring.is_empty());
    }

    /// All that matches was collected under the lock: 250,000 messages, as often as anybody subscribed.
    #[test]
    fn a_look_up_goes_on_where_it_has_stopped_whatever_has_changed_meanwhile() {
        let retained = Retained::default();
        let topic = |number: usize| format!("{}/{}/{}", number % 3, number % 700, number);
        for number in 0..3_000 {
            retained.set(message(&topic(number), b"x", None), within(usize::MAX));
        }
        let all: std::collections::BTreeSet<String> = (0..3_000).map(topic).collect();
        for filter in ["#", "+/+/+", "0/#", "+/5/#", "2/+/1001"] {
            let parsed: TopicFilter = filter.parse().unwrap();
            let expected: Vec<&String> =
                all.iter().filter(|topic| parsed.matches(&topic.parse().unwrap())).collect();
            assert_eq!(topics(&retained, filter).iter().collect::<Vec<_>>(), expected, "{filter}");
        }
        let filter = TopicFilter::all();
        let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = retained.page(&filter, after.as_ref());
            found.extend(page.messages.iter().map(|message| message.topic.to_string()));
            pages += 1;
            // What was found last is deleted, and other topics come, in front of it and behind it.
            let number = pages * 2 + 1;
            if let Some(last) = page.messages.last() {
                retained.clear(&last.topic);
            }
            retained.set(message(&format!("0/new/{number}"), b"x", None), within(usize::MAX));
            retained.set(message(&format!("2/new/{number}"), b"x", None), within(usize::MAX));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert!(pages >= 6, "{pages}");
        found.retain(|topic| !topic.contains("new"));
        found.sort();
        assert_eq!(found, all.into_iter().collect::<Vec<_>>(), "each once");
    }

    /// A sweep went down the whole tree with the lock held.
    #[test]
    fn a_sweep_deletes_a_part_at_a_time() {
        let retained = Retained::default();
        for number in 0..25 {
            retained.set(message(&format!("t/{number}"), b"x", Some((0, 1))), within(100_000));
        }
        // Replaced, so that it does not expire when the first one would have.
        retained.set(message("t/3", b"x", None), within(100_000));
        assert_eq!([10, 10, 10, 10].map(|most| retained.sweep(most).len()), [10, 10, 4, 0]);
        assert_eq!(topics(&retained, "#"), ["t/3"]);
    }

    #[test]
    fn only_what_was_retained_just_now_may_still_come_live() {
        let retained = Retained::default();
        for topic in ["old", "young"] {
            retained.set(message(topic, b"x", None), within(10_000));
        }
        {
            let root = &mut retained.0.write().root;
            root.children.get_mut("old").unwrap().kept.as_mut().unwrap().since_ms -= YOUNG;
        }
        let page = retained.page(&TopicFilter::all(), None);
        assert_eq!((page.messages.len(), page.young.len()), (2, 1));
    }

    /// Recorded later, changes of two publishers could be recorded in another order than that in which they were made.
    #[test]
    fn a_change_is_recorded_before_the_next_one_is_made() {
        let retained = Retained::default();
        let is_locked = || assert!(retained.0.try_read().is_none());
        retained.set_and(message("t", b"x", None), within(10_000), |_| is_locked());
        assert!(retained.clear_and(&"t".parse().unwrap(), is_locked));
        retained.set_and(message("t", b"x", Some((now_ms() - 5_000, 1))), within(10_000), |_| is_locked());
        assert_eq!(retained.sweep_and(9, |_| is_locked()).len(), 1);
        assert!(!retained.clear_and(&"t".parse().unwrap(), || panic!("there is nothing to be cleared")));
        // What was recorded by an earlier life of the process may be on disk, and must go before another comes.
        assert_eq!(retained.set(message("t", b"x", None), within(0)), Set::Full);
        let recorded = Cell::new(false);
        let record = || {
            assert!(retained.0.try_write().is_none());
            recorded.set(true);
        };
        assert!(!retained.clear_and(&"t".parse().unwrap(), record));
        assert!(recorded.get());
        recorded.set(false);
        let is_full = |set: Set| {
            assert!(retained.0.try_write().is_none() && set == Set::Cleared);
            recorded.set(true);
        };
        assert_eq!(retained.set_and(message("t", b"x", None), within(0), is_full), Set::Full);
        assert!(recorded.get());
    }

    #[test]
    fn a_cursor_knows_what_is_before_it() {
        let cursor = Cursor(["a", "b"].map(Box::from).to_vec());
        for (topic, past) in [
            ("a", true),
            ("a/b", true),
            ("a/a/z", true),
            ("a/b/c", false),
            ("a/ba", false),
            ("b", false),
            ("0/z", true),
        ] {
            assert_eq!(cursor.is_past(&topic.parse().unwrap()), past, "{topic}");
        }
    }
}
