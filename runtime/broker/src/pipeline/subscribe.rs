//! SUBSCRIBE and UNSUBSCRIBE on their way: one event per filter, one answer per packet.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tidegate_event::{AckError, Effects, Event, Hook, QoS, Raised, ReasonCode, Scope};

use super::publish::Unsynced;
use super::{Granted, Job, Joining, Pipeline, Raising, Reply, Subscribing, Unsubscribing, Wanted};
use crate::metrics::Refusal;
use crate::reason;

impl Subscribing {
    /// Ready when every handler of every filter has reached its level.
    pub(super) fn poll_acks(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AckError>> {
        poll_scopes(self.scopes.iter_mut().map(|(_, scope)| scope), cx)
    }
}

impl Unsubscribing {
    /// Ready when every handler of every filter has reached its level.
    pub(super) fn poll_acks(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AckError>> {
        poll_scopes(self.scopes.iter_mut(), cx)
    }
}

fn poll_scopes<'a>(
    scopes: impl Iterator<Item = &'a mut Scope>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), AckError>> {
    for scope in scopes {
        // A join that is ready stays ready, so the scopes before one that waits may be asked again. A failure
        // is given once: it is logged here.
        match Pin::new(&mut scope.acks).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                tracing::warn!(hook = scope.event.hook().name(), %error, "an event was not stored");
            }
        }
    }
    Poll::Ready(Ok(()))
}

/// Bytes of retained messages out of stores from which on one SUBSCRIBE gets no more subscriptions.
const MAX_BROUGHT: usize = 64 * 1024 * 1024;

impl Pipeline {
    /// Subscribes filter after filter, until the handlers of one run or all are done.
    pub(super) fn raise_subscribe(&mut self, mut request: Subscribing) {
        while let Some(mut wanted) = request.wanted.pop_front() {
            if let Some(question) = self.ask_subscribe(&mut wanted, &request) {
                request.wanted.push_front(wanted);
                self.raising = Some(Raising::MaySubscribe(request, question));
                return;
            }
            let Some(event) = self.grant(wanted, &mut request) else { continue };
            if let Raised::Running(handlers) = self.raise(event) {
                self.raising = Some(Raising::Handlers(Job::Subscribe(request), handlers));
                return;
            }
        }
        self.ungranted -= 1;
        self.joining.push_back(Joining::Subscribe(request));
    }

    /// Refuses the SUBSCRIBE whose turn it is: the client has not taken what its subscriptions brought so far.
    pub(super) fn refuse_subscribe(&mut self) {
        let Some(Job::Subscribe(mut request)) = self.waiting.pop_front() else { return };
        tracing::info!(client = self.client_id(), "a SUBSCRIBE was refused: too many stored messages wait");
        request.reasons.extend(request.wanted.drain(..).map(|_| ReasonCode::QUOTA_EXCEEDED));
        self.ungranted -= 1;
        self.joining.push_back(Joining::Subscribe(request));
    }

    /// Why `wanted`, a filter of `request`, cannot be granted, whoever asks for it.
    pub(super) fn objection(&self, wanted: &Wanted, request: &Subscribing) -> Option<ReasonCode> {
        if request.packet_id.is_some() && request.brought >= MAX_BROUGHT {
            return Some(ReasonCode::QUOTA_EXCEEDED);
        }
        match &wanted.filter {
            Ok(filter) => (filter.filter.levels().count() > self.realm.broker.config.max_topic_levels)
                .then_some(reason::TOPIC_FILTER_INVALID),
            Err(code) => Some(*code),
        }
    }

    /// Makes one subscription; gives the event to raise about it.
    fn grant(&mut self, wanted: Wanted, request: &mut Subscribing) -> Option<Event> {
        let (session, client) = (self.session.as_ref()?, self.client.as_ref()?);
        if let Some(code) = self.objection(&wanted, request) {
            request.reasons.push(code);
            return None;
        }
        let Wanted { text, filter: Ok(filter), options, .. } = wanted else { return None };
        // Live messages wait from the first moment on, until it is known whether stored ones come before them.
        let shared = filter.group.is_some();
        let expects_stored = self.is_bound(Hook::SessionSubscribed) || self.realm.retained.len() > 0;
        let hold = (!shared && expects_stored).then(|| session.outbox().hold(filter.filter.clone()));
        let Some(subscribed) = session.subscribe(&self.realm, &text, &filter, options) else {
            request.reasons.push(ReasonCode::UNSPECIFIED);
            return None;
        };
        request.reasons.push(granted_code(options.qos));
        request.recorded |= subscribed.recorded;
        let event = Event::SessionSubscribed {
            client: Arc::clone(client),
            filter: filter.filter.clone(),
            qos: options.qos,
            shared,
        };
        let (existed, effects) = (subscribed.existed, Effects::default());
        request.granted.push(Granted { text, filter, options, existed, hold, effects });
        Some(event)
    }

    /// Every handler of every filter has reached its level.
    pub(super) fn complete_subscribe(&mut self, mut request: Subscribing) -> Option<Reply> {
        for (index, scope) in request.scopes.drain(..) {
            if let Some(granted) = request.granted.get_mut(index) {
                granted.effects = scope.take_effects();
            }
        }
        let Subscribing { packet_id, reasons, granted, recorded, .. } = request;
        let join = self.durable(recorded);
        self.sync(join, Unsynced::Subscribed { packet_id, reasons, granted })
    }

    /// Takes subscriptions back that could not be recorded: the client is told that it has none.
    pub(super) fn withdraw(&self, reasons: &mut [ReasonCode], granted: &mut Vec<Granted>, error: &AckError) {
        tracing::warn!(client = self.client_id(), %error, "a SUBSCRIBE was not recorded");
        self.realm.broker.metrics.refused(Refusal::StateFailed);
        reasons
            .iter_mut()
            .filter(|code| !reason::is_error(**code))
            .for_each(|code| *code = ReasonCode::UNSPECIFIED);
        let Some(session) = &self.session else { return };
        for Granted { text, hold, existed, .. } in granted.drain(..) {
            if let Some(hold) = hold {
                session.release(&self.realm, hold, |_| true);
            }
            if !existed {
                session.unsubscribe(&self.realm, &text);
            }
        }
    }

    /// Unsubscribes filter after filter, until the handlers of one run or all are done.
    pub(super) fn raise_unsubscribe(&mut self, mut request: Unsubscribing) {
        while let Some(text) = request.filters.pop_front() {
            let (Some(session), Some(client)) = (&self.session, &self.client) else { break };
            let Some(removed) = session.unsubscribe(&self.realm, &text) else {
                request.reasons.push(reason::NO_SUBSCRIPTION_EXISTED);
                continue;
            };
            request.reasons.push(ReasonCode::SUCCESS);
            request.recorded |= session.is_recorded(&self.realm);
            if removed.group.is_none() {
                request.removed.push(removed.filter.clone());
            }
            let event = Event::SessionUnsubscribed {
                client: Arc::clone(client),
                shared: removed.group.is_some(),
                filter: removed.filter,
            };
            if let Raised::Running(handlers) = self.raise(event) {
                self.raising = Some(Raising::Handlers(Job::Unsubscribe(request), handlers));
                return;
            }
        }
        self.joining.push_back(Joining::Unsubscribe(request));
    }
}

/// The reason code that grants `qos` (MQTT 5 clause 3.9.3).
fn granted_code(qos: QoS) -> ReasonCode {
    ReasonCode(qos.level())
}
