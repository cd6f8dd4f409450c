//! What a client that resumes a session may have of it, by the gate: it may be another user than the one before, who
//! had the same client id, or the rules may have changed.

use std::sync::Arc;

use bytestring::ByteString;
use tidegate_event::{Client, Shown, TopicFilter};

use super::delivery::{Delivery, Source};
use super::{Seat, Session};
use crate::realm::Realm;

impl Session {
    /// Takes the subscriptions away that the gate does not allow `client`, and the messages that came by them alone, but
    /// those that the client has said it has. The client has not been told of the session yet.
    pub(crate) fn keep_allowed(self: &Arc<Self>, realm: &Realm, seat: &mut Seat, client: &Client) {
        let guard = &realm.broker.guard;
        if guard.is_open() {
            return;
        }
        // The gate has its rules in memory: it does not hold up who publishes to this session for long.
        let refused = self.subscriptions_to(|filter| !guard.may_subscribe(client, filter));
        if refused.is_empty() {
            return;
        }
        for (text, _) in &refused {
            tracing::info!(client = %Shown(&client.id), filter = %Shown(text), "a subscription is no longer allowed: taken away");
            self.unsubscribe(realm, text);
        }
        // Joins that no subscription wants any more end when the connection looks.
        self.unsubscribed();
        let left = self.subscriptions_to(|_| true);
        let is_unwanted = |delivery: &Delivery| {
            let matches = |(_, filter): &(ByteString, TopicFilter)| filter.matches(&delivery.message.topic);
            delivery.source != Source::Direct && refused.iter().any(matches) && !left.iter().any(matches)
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
    }
}
