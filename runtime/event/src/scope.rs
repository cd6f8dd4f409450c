//! What travels with an event through its handlers.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{AckJoin, BoxFuture, Event, Message, Node, QoS, StorageError, TopicFilter};

/// Stored messages to be delivered to one client, oldest first, a page at a time.
///
/// The session asks for the next page when the previous one has been acknowledged and starts live delivery
/// of the subscription after the last one.
pub trait Backlog: Send {
    /// The next page; an empty page is the end. Asked again after it, the store looks for what has come since. The
    /// messages carry [`crate::Origin::Fetched`] or
    /// [`crate::Origin::RetainedStore`].
    ///
    /// # Errors
    /// The store's error. When it is retryable the session waits and asks again, with live messages held back;
    /// else it logs, counts and goes live.
    fn next_page(&mut self) -> BoxFuture<'_, Result<Vec<Arc<Message>>, StorageError>>;
}

/// What handlers want done to the client the event is about, besides the verdict.
#[derive(Default)]
pub struct Effects {
    /// Subscriptions to add, as if the client had subscribed (on_subscribe_lookup, client-connected guests).
    pub subscriptions: Vec<(TopicFilter, QoS)>,
    /// Stored messages to deliver before live ones (on_message_fetch).
    pub backlogs: Vec<Box<dyn Backlog>>,
    /// Retained messages found by a store. `Some` also when none was found: the broker's own retained
    /// store then stays silent for this subscription (on_retain_lookup).
    pub retained: Option<Vec<Arc<Message>>>,
    /// Retained messages of stores that have more of them than fit into one answer.
    pub retained_rest: Vec<Box<dyn Backlog>>,
}

impl Effects {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
            && self.backlogs.is_empty()
            && self.retained.is_none()
            && self.retained_rest.is_empty()
    }
}

impl std::fmt::Debug for Effects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Effects")
            .field("subscriptions", &self.subscriptions)
            .field("backlogs", &self.backlogs.len())
            .field("retained", &self.retained.as_ref().map(Vec::len))
            .field("retained_rest", &self.retained_rest.len())
            .finish()
    }
}

/// An event on its way through its handlers: what it is, where acks join, and what handlers ask for.
///
/// Cheap to clone; clones share the join and the effects. Guests hold one while they are called.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The event, with the message as the handlers so far left it.
    pub event: Event,
    /// This node, for `${node}`.
    pub node: Arc<Node>,
    /// Where handlers of level `stored` take their part. Handlers complete their parts only after they
    /// have put their effects in.
    pub acks: AckJoin,
    /// What handlers want done to the client.
    pub effects: Arc<Mutex<Effects>>,
}

impl Scope {
    /// A scope for `event`, nothing joined and no effects yet.
    pub fn new(event: Event, node: Arc<Node>) -> Self {
        Self { event, node, acks: AckJoin::new(), effects: Arc::default() }
    }

    /// The same scope about another message (a module replaced it): joins and effects are shared.
    #[must_use]
    pub fn with_message(&self, message: Arc<Message>) -> Self {
        Self { event: self.event.with_message(message), ..self.clone() }
    }

    /// Takes the effects out. Call after the join is ready.
    pub fn take_effects(&self) -> Effects {
        std::mem::take(&mut self.effects.lock())
    }
}
