//! What travels with an event through its handlers.

use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::{AckJoin, BoxFuture, Event, Message, MsgId, Node, QoS, StorageError, TopicFilter};

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
    /// Stores by number, the ids that messages came with, and those under which they are stored there.
    stored: SmallVec<[(u64, MsgId, MsgId); 1]>,
}

impl Effects {
    /// Tells that the store with this number has the message that came as `came` under the id `stored`: a later one when its
    /// topic had a newer message already. Only stores in which ids are positions tell it.
    pub fn stored_as(&mut self, store: u64, came: MsgId, stored: MsgId) {
        self.stored.push((store, came, stored));
    }

    /// The id under which that store has the message that came as `came`.
    pub fn id_in(&self, store: u64, came: MsgId) -> Option<MsgId> {
        self.stored.iter().find(|(number, of, _)| (*number, *of) == (store, came)).map(|(.., id)| *id)
    }

    /// The id under which subscribers are to have the message that came as `came`, if it is another: of several stores'
    /// ids the oldest, as an acknowledgement of that passes no message that is not acknowledged.
    pub fn renewed(&self, came: MsgId) -> Option<MsgId> {
        let ids = self.stored.iter().filter(|(_, of, _)| *of == came).map(|(.., id)| *id);
        ids.min().filter(|id| *id != came)
    }

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

    /// The same scope about the message as it is stored, when that is under another id.
    pub fn as_stored(&self) -> Option<Self> {
        let message = self.event.message()?;
        let id = self.effects.lock().renewed(message.id)?;
        Some(self.with_message(Arc::new(Message { id, ..(**message).clone() })))
    }

    /// Takes the effects out. Call after the join is ready.
    pub fn take_effects(&self) -> Effects {
        std::mem::take(&mut self.effects.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_several_stores_goes_by_its_oldest_id() {
        let id = MsgId::from_bits;
        let mut effects = Effects::default();
        effects.stored_as(1, id(1), id(9));
        effects.stored_as(2, id(1), id(7));
        assert_eq!((effects.id_in(1, id(1)), effects.id_in(2, id(1))), (Some(id(9)), Some(id(7))));
        assert_eq!((effects.id_in(3, id(1)), effects.id_in(1, id(2))), (None, None));
        assert_eq!((effects.renewed(id(1)), effects.renewed(id(2))), (Some(id(7)), None));
        effects.stored_as(3, id(1), id(1));
        assert_eq!(effects.renewed(id(1)), None, "one has it as it came");
        assert!(effects.is_empty(), "there is nothing to do for the client");
    }
}
