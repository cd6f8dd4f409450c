//! A session's subscriptions: the session's own list and the tree are changed together.

use std::collections::HashMap;
use std::sync::Arc;

use bytestring::ByteString;
use foldhash::fast::RandomState;
use tidegate_event::{Change, MsgId, SharedFilter, SubscriptionOptions, TopicFilter, TopicName};

use super::Session;
use super::delivery::detached_text;
use crate::realm::Realm;
use crate::tree;

/// Retain handling: retained messages are wanted if there is no such subscription yet, or never (clause 3.8.3.1).
pub(crate) const WHEN_NEW: u8 = 1;
pub(crate) const NEVER: u8 = 2;

/// Subscriptions of an ended session that are removed before others have their turn.
const REMOVED_AT_ONCE: usize = 64;

/// A session's subscriptions by the filter as written.
#[derive(Default)]
pub(crate) struct Subscriptions {
    closed: bool,
    filters: HashMap<ByteString, (SharedFilter, SubscriptionOptions), RandomState>,
    /// Those that still have to bring what was retained or stored before, and which making of each it is.
    joining: HashMap<ByteString, MsgId, RandomState>,
    /// How many of them are shared.
    shared: usize,
    /// Memory of all, about.
    bytes: usize,
}

/// How much a session has subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) subscriptions: usize,
    /// Shared ones among them.
    pub(crate) shared: usize,
    /// Memory of all, about.
    pub(crate) bytes: usize,
}

impl Subscriptions {
    fn count_in(&mut self, filter: &SharedFilter) {
        self.shared += usize::from(filter.group.is_some());
        self.bytes += tree::weight(filter);
    }

    fn count_out(&mut self, filter: &SharedFilter) {
        self.shared -= usize::from(filter.group.is_some());
        self.bytes -= tree::weight(filter);
    }
}

/// What a SUBSCRIBE for one filter did.
pub(crate) struct Subscribed {
    /// Whether the subscription existed before (retain handling 1, MQTT 5 clause 3.8.3.1).
    pub(crate) existed: bool,
    /// Whether it was recorded, so that it is not durable yet.
    pub(crate) recorded: bool,
}

impl Session {
    /// Adds or changes the subscription to `text`, which parses to `shared`. `joining` names this making of it when what it
    /// brings is still to come.
    /// `None`: the session has ended.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        realm: &Realm,
        text: &ByteString,
        shared: &SharedFilter,
        options: SubscriptionOptions,
        joining: Option<MsgId>,
    ) -> Option<Subscribed> {
        let mut subscriptions = self.subscriptions.lock();
        if subscriptions.closed {
            return None;
        }
        let entry = (shared.clone(), options);
        let before = match subscriptions.filters.get_mut(text) {
            Some(known) => Some(std::mem::replace(known, entry)),
            None => {
                subscriptions.count_in(shared);
                subscriptions.filters.insert(detached_text(text), entry)
            }
        };
        if before.as_ref().is_none_or(|(_, known)| *known != options) {
            realm.tree.insert(shared, self, options);
        }
        let recorded = self.is_recorded(realm);
        let was_joining = match joining {
            Some(ticket) if recorded => subscriptions.joining.insert(detached_text(text), ticket),
            _ => subscriptions.joining.remove(text),
        };
        if recorded {
            let (joining, mut options) = (joining.is_some(), options);
            if joining && before.is_some() && was_joining.is_none() && options.retain_handling == WHEN_NEW {
                // After a restart nobody knows that it was there before: it is to bring what is stored, and that alone.
                options.retain_handling = NEVER;
            }
            realm.record(Change::Subscribed { session: self.number, filter: text.clone(), options, joining });
        }
        drop(subscriptions);
        if shared.group.is_some() && before.is_none() {
            realm.member_came(self.number, shared);
        }
        Some(Subscribed { existed: before.is_some(), recorded })
    }

    /// Adds a subscription that was read back after a restart.
    pub(crate) fn restore_subscription(
        self: &Arc<Self>,
        realm: &Realm,
        text: &ByteString,
        shared: &SharedFilter,
        options: SubscriptionOptions,
    ) {
        let mut subscriptions = self.subscriptions.lock();
        if subscriptions.filters.insert(text.clone(), (shared.clone(), options)).is_none() {
            subscriptions.count_in(shared);
        }
        drop(subscriptions);
        realm.tree.insert(shared, self, options);
    }

    /// What the subscription to `text`, made with `ticket`, brings is still to come: after a restart it is begun again.
    pub(crate) fn joins(&self, realm: &Realm, text: &ByteString, ticket: MsgId) {
        let mut subscriptions = self.subscriptions.lock();
        if self.is_recorded(realm)
            && let Some((_, options)) = subscriptions.filters.get(text)
        {
            let (filter, options) = (text.clone(), *options);
            subscriptions.joining.insert(detached_text(text), ticket);
            realm.record(Change::Subscribed { session: self.number, filter, options, joining: true });
        }
    }

    /// The subscription to `filter`, made with `ticket`, has brought all that it was to bring, unless it was made again
    /// meanwhile.
    pub(crate) fn joined(&self, realm: &Realm, filter: &TopicFilter, ticket: MsgId) {
        let mut subscriptions = self.subscriptions.lock();
        let text = filter.as_byte_string();
        if subscriptions.joining.get(text) != Some(&ticket) {
            return;
        }
        subscriptions.joining.remove(text);
        if self.is_recorded(realm)
            && let Some((_, options)) = subscriptions.filters.get(text)
        {
            let (filter, options) = (text.clone(), *options);
            realm.record(Change::Subscribed { session: self.number, filter, options, joining: false });
        }
    }

    /// The options of the subscription to `filter`, which is not a shared one.
    pub(crate) fn options_of(&self, filter: &TopicFilter) -> Option<SubscriptionOptions> {
        self.subscriptions.lock().filters.get(filter.as_byte_string()).map(|(_, options)| *options)
    }

    /// Removes the subscription to `text`; `None`: there is none.
    pub(crate) fn unsubscribe(&self, realm: &Realm, text: &str) -> Option<SharedFilter> {
        let mut subscriptions = self.subscriptions.lock();
        let (written, (shared, _)) = subscriptions.filters.remove_entry(text)?;
        subscriptions.joining.remove(text);
        subscriptions.count_out(&shared);
        let group = realm.tree.remove(&shared, self.number);
        if self.is_recorded(realm) {
            realm.record(Change::Unsubscribed { session: self.number, filter: written });
        }
        drop(subscriptions);
        if let Some(group) = group {
            realm.member_unsubscribed(self, &group);
        }
        Some(shared)
    }

    /// The subscriptions whose filter `is_meant`, as they were written.
    pub(super) fn subscriptions_to(
        &self,
        is_meant: impl Fn(&TopicFilter) -> bool,
    ) -> Vec<(ByteString, TopicFilter)> {
        let subscriptions = self.subscriptions.lock();
        let meant = subscriptions.filters.iter().filter(|(_, (shared, _))| is_meant(&shared.filter));
        meant.map(|(text, (shared, _))| (text.clone(), shared.filter.clone())).collect()
    }

    /// The filters subscribed to, those of shared subscriptions not among them.
    pub(crate) fn own_filters(&self) -> Vec<TopicFilter> {
        let subscriptions = self.subscriptions.lock();
        let own = subscriptions.filters.values().filter(|(shared, _)| shared.group.is_none());
        own.map(|(shared, _)| shared.filter.clone()).collect()
    }

    /// The shared subscriptions.
    pub(crate) fn shared_filters(&self) -> Vec<SharedFilter> {
        let subscriptions = self.subscriptions.lock();
        let shared = subscriptions.filters.values().filter(|(shared, _)| shared.group.is_some());
        shared.map(|(shared, _)| shared.clone()).collect()
    }

    /// A shared subscription that matches `topic`.
    pub(crate) fn shared_filter_of(&self, topic: &TopicName) -> Option<SharedFilter> {
        let subscriptions = self.subscriptions.lock();
        let mut shared = subscriptions.filters.values().filter(|(shared, _)| shared.group.is_some());
        shared.find(|(shared, _)| shared.filter.matches(topic)).map(|(shared, _)| shared.clone())
    }

    /// What there is, when there is no subscription to `text`.
    pub(crate) fn subscriptions_without(&self, text: &str) -> Option<Held> {
        let Subscriptions { filters, shared, bytes, .. } = &*self.subscriptions.lock();
        let held = Held { subscriptions: filters.len(), shared: *shared, bytes: *bytes };
        (!filters.contains_key(text)).then_some(held)
    }

    /// Removes every subscription and lets no more come. `false`: that had happened before. Of very many the last go a
    /// little later: nothing reaches a session that has ended, and nobody waits for ten thousand of them.
    pub(super) fn close_subscriptions(&self, realm: &Arc<Realm>) -> bool {
        let mut subscriptions = self.subscriptions.lock();
        if std::mem::replace(&mut subscriptions.closed, true) {
            return false;
        }
        subscriptions.joining = HashMap::default();
        let mut filters = std::mem::take(&mut subscriptions.filters).into_values();
        drop(subscriptions);
        let number = self.number;
        let mut remove = move |realm: &Realm| {
            let some = filters.by_ref().take(REMOVED_AT_ONCE);
            realm.tree.remove_all(some.map(|(shared, _)| shared), number);
            filters.len() > 0
        };
        if remove(realm) {
            let realm = Arc::clone(realm);
            realm.broker.clone().tasks.spawn(async move {
                while remove(&realm) {
                    tokio::task::yield_now().await;
                }
            });
        }
        true
    }

    /// Whether the session has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.subscriptions.lock().closed
    }
}
