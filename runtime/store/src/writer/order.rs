//! The order of the messages of a topic, for databases in which a client's position is the id of a message.
//!
//! A message gets its id when it arrives and may then be held up: by a module, by a full memory budget. A newer one of
//! the same topic can be stored and acknowledged meanwhile, and the position would pass the older one for ever. So what
//! comes behind a newer one gets a new id, here, where the order in which messages are written is decided.

use std::sync::Arc;

use tidegate_event::{IdSource, MsgId, QoS};

use crate::operation::Operation;

/// How many hashes of topics are told apart; two of one hash may cost a new id that was not needed. A prime number: the
/// hashes of one shard have their remainder by the number of shards in common.
const SLOTS: usize = 509;

/// The newest ids of one shard's topics.
pub(super) struct Order {
    ids: Arc<IdSource>,
    newest: Box<[MsgId]>,
}

impl Order {
    pub(super) fn new(ids: Arc<IdSource>) -> Self {
        Self { ids, newest: vec![MsgId::from_bits(0); SLOTS].into() }
    }

    /// Gives a message that `operation` stores a new id when its topic had a newer one; tells which.
    pub(super) fn keep(&mut self, operation: &mut Operation) -> Option<MsgId> {
        let slot = operation.shard(SLOTS);
        let (Operation::AppendMessage { message, .. } | Operation::KeepLatest { message, .. }) = operation
        else {
            return None;
        };
        let newest = self.newest.get_mut(slot)?;
        // One that its client sends again, and that was not known to be handled, may be stored under its id already.
        let is_resent = message.dup && message.qos == QoS::ExactlyOnce;
        if message.id >= *newest || is_resent {
            *newest = message.id.max(*newest);
            return None;
        }
        // Subscribers may hold it already: a copy is theirs.
        let mut renewed = (**message).clone();
        renewed.id = self.ids.next_id();
        *newest = renewed.id;
        *message = Arc::new(renewed);
        Some(*newest)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tidegate_event::{Message, Node, Origin};

    use super::*;

    fn store(message: &Arc<Message>) -> Operation {
        Operation::AppendMessage { message: Arc::clone(message), ttl: None }
    }

    fn id_in(operation: &Operation) -> MsgId {
        let Operation::AppendMessage { message, .. } = operation else { panic!("{operation:?}") };
        message.id
    }

    fn order() -> (Order, impl Fn(&str) -> Message) {
        let ids = Arc::new(IdSource::new(&Node::default()));
        let own = Arc::clone(&ids);
        let draft = move |topic: &str| Message {
            id: own.next_id(),
            topic: topic.parse().unwrap(),
            payload: "x".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            timestamp_ms: 0,
            sender: "c".into(),
            publisher: None,
            properties: None,
            origin: Origin::Client,
            hops: 0,
        };
        (Order::new(ids), draft)
    }

    #[test]
    fn only_what_comes_behind_a_newer_one_of_its_topic_gets_another_id() {
        let (mut order, draft) = order();
        let [older, newer, other] = ["t", "t", "u"].map(|topic| Arc::new(draft(topic)));
        assert_eq!(order.keep(&mut store(&other)), None);
        assert_eq!(order.keep(&mut store(&newer)), None);
        assert_eq!(order.keep(&mut store(&newer)), None, "it is stored once more");
        let mut late = store(&older);
        let renewed = order.keep(&mut late).unwrap();
        assert!(renewed > newer.id && renewed == id_in(&late) && older.id < newer.id);
        assert_eq!(order.keep(&mut store(&Arc::new(draft("t")))), None);
    }

    /// It may be stored already, and is stored once because its id is known.
    #[test]
    fn a_qos_2_message_that_is_sent_again_keeps_its_id() {
        let (mut order, draft) = order();
        let resent = Arc::new(Message { dup: true, qos: QoS::ExactlyOnce, ..draft("t") });
        assert_eq!(order.keep(&mut store(&Arc::new(draft("t")))), None);
        let mut again = store(&resent);
        assert_eq!(order.keep(&mut again), None);
        assert_eq!(id_in(&again), resent.id);
    }
}
