//! What a client that resumes a session may have of it, by the gate: it may be another user than the one before, who
//! had the same client id, or the rules may have changed.

use std::net::IpAddr;
use std::sync::Arc;

use bytestring::ByteString;
use tidegate_event::{Client, Shown, TopicFilter};

use super::delivery::{Delivery, Source};
use super::{Seat, Session, Topics};
use crate::realm::Realm;

/// Subscriptions that are looked at before others have their turn: the gate may have many lines.
const CHECKED_AT_ONCE: usize = 64;

/// By what the gate has allowed all subscriptions of a session. What was subscribed to since was asked for then.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    generation: u64,
    username: Option<ByteString>,
    certified: bool,
    address: IpAddr,
    forwarded: bool,
}

impl Checked {
    fn new(generation: u64, client: &Client) -> Self {
        Self {
            generation,
            username: client.username.clone(),
            certified: client.certified,
            address: client.peer.ip(),
            forwarded: client.forwarded,
        }
    }
}

impl Session {
    /// Takes the subscriptions away that the gate does not allow `client`, and the messages that came by them alone, but
    /// those that the client has said it has. The client has not been told of the session yet.
    pub(crate) async fn keep_allowed(self: &Arc<Self>, realm: &Realm, seat: &mut Seat, client: &Client) {
        let guard = &realm.broker.guard;
        if guard.is_open() {
            return;
        }
        // A client that connects again and again does not have all of them looked at each time.
        let now = guard.generation().map(|generation| Checked::new(generation, client));
        if now.is_some() && *self.checked.lock() == now {
            return;
        }
        let mut refused = Vec::new();
        let all = self.subscriptions_to(|_| true);
        for some in all.chunks(CHECKED_AT_ONCE) {
            let not_allowed = |(_, filter): &&(ByteString, TopicFilter)| !guard.may_subscribe(client, filter);
            refused.extend(some.iter().filter(not_allowed).cloned());
            tokio::task::yield_now().await;
        }
        *self.checked.lock() = now;
        if refused.is_empty() {
            return;
        }
        let (client_id, count) = (Shown(&client.id), refused.len());
        tracing::info!(client = %client_id, count, "subscriptions that are no longer allowed are taken away");
        for (text, _) in &refused {
            tracing::debug!(client = %client.id, filter = %text, "a subscription is no longer allowed");
            self.unsubscribe(realm, text);
        }
        // Joins that no subscription wants any more end when the connection looks.
        self.changed();
        let left = self.subscriptions_to(|_| true);
        // Each topic once, and not under the lock: publishers wait for that.
        let mut topics: Topics = self.outbox().waiting_topics().cloned().collect();
        topics.extend(seat.inflight.iter().map(|sent| sent.delivery.message.topic.clone()));
        topics.retain(|topic| {
            let matches = |(_, filter): &(ByteString, TopicFilter)| filter.matches(topic);
            refused.iter().any(matches) && !left.iter().any(matches)
        });
        let is_unwanted = |delivery: &Delivery| {
            delivery.source != Source::Direct && topics.contains(&delivery.message.topic)
        };
        let queued = self.outbox().take_unwanted(is_unwanted);
        self.forget(realm, queued.iter());
        seat.inflight.withdraw_unreceived(|delivery| {
            let unwanted = is_unwanted(delivery);
            if unwanted {
                self.finished(realm, delivery.number);
            }
            unwanted
        });
        seat.inflight.charge(&realm.broker.budget);
        // The connection may still be refused.
        seat.inflight.rest();
    }
}
