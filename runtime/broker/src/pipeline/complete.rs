//! The second and the third stage of a job: its handlers' writes are waited for, then what routing it made durable.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tidegate_event::{
    AckError, AckJoin, Effects, Message, Scope, SharedFilter, SubscriptionOptions, Verdict,
};

use super::publish::Unsynced;
use super::{Job, Joining, Pipeline, Reply, Subscribing, Syncing, Unsubscribing, Wanted, arrived};

impl Pipeline {
    // Stage 2.

    pub(super) fn poll_joining(&mut self, cx: &mut Context<'_>, replies: &mut VecDeque<Reply>) -> bool {
        if self.joining.is_empty() || !arrived(&mut self.done, cx) {
            return false;
        }
        let outcome = match self.joining.front_mut() {
            None | Some(Joining::Publish(_, _, None)) => Poll::Ready(Ok(())),
            Some(
                Joining::Publish(_, _, Some(scope)) | Joining::Opening(scope) | Joining::Disconnected(scope),
            ) => Pin::new(&mut scope.acks).poll(cx),
            Some(Joining::Subscribe(request)) => request.poll_acks(cx),
            Some(Joining::Unsubscribe(request)) => request.poll_acks(cx),
        };
        let Poll::Ready(outcome) = outcome else { return false };
        match self.joining.pop_front() {
            None => {}
            Some(Joining::Publish(mut inbound, mut verdict, scope)) => {
                if let Some(scope) = scope {
                    renew(&scope.effects.lock(), &mut inbound.message, &mut verdict);
                }
                if let Some(reply) = self.complete_publish(inbound, verdict, outcome) {
                    replies.push_back(reply);
                }
            }
            Some(Joining::Opening(scope)) => {
                self.log_failure(&scope, outcome);
                self.openings -= 1;
                self.apply_opening(&scope);
            }
            Some(Joining::Subscribe(request)) => {
                self.waiting_bytes = self.waiting_bytes.saturating_sub(request.weight);
                let reply = self.complete_subscribe(request);
                replies.extend(reply);
            }
            Some(Joining::Unsubscribe(request)) => {
                let Unsubscribing { packet_id, reasons, removed, weight, recorded, .. } = request;
                self.waiting_bytes = self.waiting_bytes.saturating_sub(weight);
                replies.extend(self.sync(recorded, Unsynced::Unsubscribed { packet_id, reasons, removed }));
            }
            Some(Joining::Disconnected(scope)) => self.log_failure(&scope, outcome),
        }
        true
    }

    /// Subscribes the client to what the handlers of client.connected or session.created want: before anything
    /// that it asks for itself, but after session.created, which comes before every delivery.
    fn apply_opening(&mut self, scope: &Scope) {
        let wanted: Vec<Wanted> = scope
            .take_effects()
            .subscriptions
            .into_iter()
            .map(|(filter, qos)| {
                let text = filter.as_byte_string().clone();
                let filter = SharedFilter::parse(&text).unwrap_or(SharedFilter { group: None, filter });
                let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
                Wanted { text, filter: Ok(filter), options, leave: &[] }
            })
            .collect();
        if self.finishing {
            // The client has gone. Its session may live on, and has been created only once.
            if let Some(session) = &self.session {
                session.subscribe_later(wanted.into_iter().map(|wanted| (wanted.text, wanted.options.qos)));
            }
        } else if !wanted.is_empty() {
            let job = Job::Subscribe(Subscribing::new(None, wanted));
            self.count_in(&job);
            let opening = self.waiting.iter().take_while(|job| matches!(job, Job::Created)).count();
            self.waiting.insert(opening, job);
        }
    }

    /// An event that nobody awaits an answer for was not stored: the store has logged why, and for which
    /// message; here it is said for which client.
    fn log_failure(&self, scope: &Scope, outcome: Result<(), AckError>) {
        if let Err(error) = outcome {
            tracing::warn!(client = self.client_id(), hook = scope.event.hook().name(), %error, "an event was not stored");
        }
    }

    // Stage 3.

    /// Gives the reply when nothing is to be waited for, else keeps it in order: until what was `recorded`, if it was, is
    /// durable.
    pub(super) fn sync(&mut self, recorded: bool, reply: Unsynced) -> Option<Reply> {
        if !recorded && self.syncing.is_empty() {
            return self.reply(reply, None);
        }
        match self.syncing.back_mut() {
            Some(open) if open.join.is_none() => open.replies.push((recorded, reply)),
            _ => self.syncing.push_back(Syncing { join: None, replies: vec![(recorded, reply)] }),
        }
        None
    }

    pub(super) fn poll_syncing(&mut self, cx: &mut Context<'_>, replies: &mut VecDeque<Reply>) -> bool {
        // All that came since the last call waits for the same.
        if let Some(open) = self.syncing.back_mut()
            && open.join.is_none()
        {
            let recorded = open.replies.iter().any(|(recorded, _)| *recorded);
            let durable = || self.realm.broker.store.durable();
            open.join = Some(if recorded { durable() } else { AckJoin::new() });
        }
        let Some(Syncing { join: Some(join), .. }) = self.syncing.front_mut() else { return false };
        let Poll::Ready(outcome) = Pin::new(join).poll(cx) else { return false };
        let failed = outcome.err();
        for (recorded, reply) in self.syncing.pop_front().unwrap_or_default().replies {
            let failed = failed.clone().filter(|_| recorded);
            replies.extend(self.reply(reply, failed));
        }
        true
    }
}

/// Gives messages that a store has under another id that id, before they are routed: acknowledgements are to name what is
/// stored.
fn renew(effects: &Effects, message: &mut Arc<Message>, verdict: &mut Verdict) {
    let renewed = |message: &mut Arc<Message>| {
        if let Some(id) = effects.renewed(message.id) {
            *message = Arc::new(Message { id, ..(**message).clone() });
        }
    };
    match verdict {
        Verdict::Replace(other) => renewed(other),
        Verdict::FanOut(others) => others.iter_mut().for_each(renewed),
        _ => renewed(message),
    }
}
