//! SUBSCRIBE and UNSUBSCRIBE on their way: one event per filter, one answer per packet.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tidegate_event::{AckError, Effects, Event, Hook, QoS, Raised, ReasonCode, Scope, SharedFilter, Shown};

use super::publish::Unsynced;
use super::{Granted, Job, Joining, Pipeline, Raising, Reply, Subscribing, Unsubscribing, Wanted};
use crate::broker::Phase;
use crate::metrics::{Limited, Refusal};
use crate::session::delivery::Rank;
use crate::session::subscriptions::NEVER;
use crate::{reason, tree};

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

/// Which part of the memory of all subscriptions one session may have.
const OWN_PART: usize = 8;
/// Bytes of retained messages out of stores from which on one SUBSCRIBE gets no more subscriptions.
const MAX_BROUGHT: usize = 64 * 1024 * 1024;

impl Pipeline {
    /// Subscribes filter after filter, until the handlers of one run or all are done.
    pub(super) fn raise_subscribe(&mut self, mut request: Subscribing) {
        while let Some(mut wanted) = request.wanted.pop_front() {
            if !self.may_take_filter() {
                request.wanted.push_front(wanted);
                self.raising = Some(Raising::Filters(Job::Subscribe(request)));
                return;
            }
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
        self.unseen += 1;
        self.joining.push_back(Joining::Subscribe(request));
    }

    /// Refuses the SUBSCRIBE whose turn it is: the client has not taken what its subscriptions brought so far.
    pub(super) fn refuse_subscribe(&mut self) {
        let Some(Job::Subscribe(mut request)) = self.waiting.pop_front() else { return };
        // A broker that stops refuses it, too: no limit is to be raised for that.
        if self.realm.broker.phase() == Phase::Running {
            self.realm.broker.metrics.limited(Limited::ReadAhead);
        }
        if let Some(left_out) = self.realm.broker.lines.subscription.turn() {
            let client = self.client_id();
            tracing::info!(client, left_out, "a SUBSCRIBE was refused: too many stored messages wait");
        }
        request.reasons.extend(request.wanted.drain(..).map(|_| ReasonCode::QUOTA_EXCEEDED));
        self.ungranted -= 1;
        self.joining.push_back(Joining::Subscribe(request));
    }

    /// Why `wanted`, a filter of `request`, cannot be granted, whoever asks for it, and which limit it would pass.
    pub(super) fn objection(
        &self,
        wanted: &Wanted,
        request: &Subscribing,
    ) -> Option<(ReasonCode, Option<Limited>)> {
        if request.packet_id.is_some() && request.brought >= MAX_BROUGHT {
            return Some((ReasonCode::QUOTA_EXCEEDED, Some(Limited::BroughtBytes)));
        }
        match &wanted.filter {
            Ok(filter) => self.limit_of(&wanted.text, filter),
            Err(code) => Some((*code, None)),
        }
    }

    /// Which limit a subscription to `text`, which parses to `filter`, would pass, and how that is told.
    fn limit_of(&self, text: &str, filter: &SharedFilter) -> Option<(ReasonCode, Option<Limited>)> {
        let config = &self.realm.broker.config;
        if filter.filter.levels().count() > config.max_topic_levels || text.len() > config.max_topic_bytes {
            return Some((reason::TOPIC_FILTER_INVALID, Some(Limited::TopicBytes)));
        }
        // A subscription that is there may be changed.
        let others = self.session.as_ref()?.subscriptions_without(text)?;
        let weight = tree::weight(filter);
        let bytes = self.realm.tree.count().bytes.saturating_add(weight);
        // No client takes the room of all others.
        let own_bytes = others.bytes.saturating_add(weight);
        let limit = if others.subscriptions >= config.max_subscriptions {
            Limited::Subscriptions
        } else if filter.group.is_some() && others.shared >= config.max_shared_subscriptions {
            Limited::SharedSubscriptions
        } else if bytes > config.max_subscription_bytes
            || own_bytes > config.max_subscription_bytes / OWN_PART
        {
            Limited::SubscriptionBytes
        } else {
            return None;
        };
        Some((ReasonCode::QUOTA_EXCEEDED, Some(limit)))
    }

    /// Makes one subscription; gives the event to raise about it.
    fn grant(&mut self, wanted: Wanted, request: &mut Subscribing) -> Option<Event> {
        let (session, client) = (self.session.as_ref()?, self.client.as_ref()?);
        if let Some(hold) = request.resumes {
            return self.resume(wanted, hold, request);
        }
        if let Some((code, limit)) = self.objection(&wanted, request) {
            if let Some(limit) = limit {
                self.realm.broker.metrics.limited(limit);
                if let Some(left_out) = self.realm.broker.lines.subscription.turn() {
                    let (client, filter) = (Shown(&client.id), Shown(&wanted.text));
                    tracing::info!(%client, %filter, ?limit, left_out, "a subscription was refused");
                }
            }
            request.reasons.push(code);
            return None;
        }
        let Wanted { text, filter: Ok(filter), options, .. } = wanted else { return None };
        let shared = filter.group.is_some();
        let expects_retained = || {
            let has_any = self.realm.retained.len() > 0 || self.realm.has_statistics(&filter.filter);
            has_any && !shared && options.retain_handling != NEVER
        };
        if expects_retained() && self.may_bring == 0 && request.packet_id.is_some() {
            self.realm.broker.metrics.limited(Limited::Subscriptions);
            if let Some(left_out) = self.realm.broker.lines.subscription.turn() {
                let (client, filter) = (Shown(&client.id), Shown(&text));
                tracing::info!(%client, %filter, left_out, "refused: too many subscriptions bring retained messages");
            }
            request.reasons.push(ReasonCode::QUOTA_EXCEEDED);
            return None;
        }
        let first = session.outbox().next_rank();
        let mut before = expects_retained().then_some(first);
        // Live messages wait from the first moment on, until it is known whether stored ones come before them.
        let may_read = !shared && self.is_bound(Hook::SessionSubscribed);
        let hold = may_read.then(|| session.outbox().hold(filter.filter.clone()));
        let (ticket, joins) = (self.realm.broker.ids.next_id(), before.is_some() || hold.is_some());
        let joining = joins.then_some(ticket);
        let Some(subscribed) = session.subscribe(&self.realm, &text, &filter, options, joining) else {
            request.reasons.push(ReasonCode::UNSPECIFIED);
            return None;
        };
        let since = self.realm.broker.ids.next_id();
        // What was retained before the subscription was there did not reach it, so it must be looked up. What has come since
        // may have come by it.
        if before.is_none() && expects_retained() {
            before = Some(first);
            if !joins {
                session.joins(&self.realm, &text, ticket);
            }
        }
        request.reasons.push(granted_code(options.qos));
        request.recorded |= subscribed.recorded;
        let event = Event::SessionSubscribed {
            client: Arc::clone(client),
            filter: filter.filter.clone(),
            qos: options.qos,
            shared,
        };
        let (existed, effects) = (subscribed.existed, Effects::default());
        let resumed = false;
        let granted =
            Granted { text, filter, options, existed, since, before, hold, ticket, resumed, effects };
        if granted.pauses() {
            self.bringing += 1;
            self.may_bring = self.may_bring.saturating_sub(1);
        }
        request.granted.push(granted);
        Some(event)
    }

    /// The subscription `wanted` is there since before a restart: it brings what it had not brought then. Gives the event to
    /// raise about it, because handlers have to be asked again for what they brought.
    fn resume(&mut self, wanted: Wanted, hold: u32, request: &mut Subscribing) -> Option<Event> {
        let (session, client) = (self.session.as_ref()?, self.client.as_ref()?);
        let Wanted { text, filter: Ok(filter), options: wanted, .. } = wanted else { return None };
        let Some(mut options) = session.options_of(&filter.filter) else {
            let number = session.number;
            session.release(&self.realm, hold, |topic| self.realm.tree.reaches(topic, number));
            // The connection waits for nothing of it any more.
            let mut gone = Unsubscribing::new(None, []);
            gone.removed.push(filter.filter);
            self.joining.push_back(Joining::Unsubscribe(gone));
            return None;
        };
        if wanted.retain_handling == NEVER {
            options.retain_handling = NEVER;
        }
        let event = Event::SessionSubscribed {
            client: Arc::clone(client),
            filter: filter.filter.clone(),
            qos: options.qos,
            shared: false,
        };
        let since = self.realm.broker.ids.next_id();
        session.joins(&self.realm, &text, since);
        request.granted.push(Granted {
            text,
            filter,
            options,
            existed: false,
            since,
            before: Some(Rank::default()),
            hold: Some(hold),
            ticket: since,
            resumed: true,
            effects: Effects::default(),
        });
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
        self.sync(recorded, Unsynced::Subscribed { packet_id, reasons, granted })
    }

    /// Takes subscriptions back that could not be recorded: the client is told that it has none. One that it had before stays,
    /// with the options that it asked for: another SUBSCRIBE may have changed them again meanwhile.
    pub(super) fn withdraw(&self, reasons: &mut [ReasonCode], granted: &mut Vec<Granted>, error: &AckError) {
        tracing::warn!(client = self.client_id(), %error, "a SUBSCRIBE was not recorded");
        self.realm.broker.metrics.refused(Refusal::StateFailed);
        reasons
            .iter_mut()
            .filter(|code| !reason::is_error(**code))
            .for_each(|code| *code = ReasonCode::UNSPECIFIED);
        let Some(session) = &self.session else { return };
        for Granted { text, filter, hold, ticket, existed, .. } in granted.drain(..) {
            if let Some(hold) = hold {
                session.release(&self.realm, hold, |_| true);
            }
            session.joined(&self.realm, &filter.filter, ticket);
            if !existed {
                session.unsubscribe(&self.realm, &text);
            }
        }
    }

    /// Unsubscribes filter after filter, until the handlers of one run or all are done.
    pub(super) fn raise_unsubscribe(&mut self, mut request: Unsubscribing) {
        while let Some(text) = request.filters.pop_front() {
            if !self.may_take_filter() {
                request.filters.push_front(text);
                self.raising = Some(Raising::Filters(Job::Unsubscribe(request)));
                return;
            }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;

    use tidegate_event::{
        BoxFuture, Client, Decision, Gate, Hooks, IdSource, NoHooks, Node, Password, SharedFilter,
        SubscriptionOptions, Tenant, TopicFilter, TopicName, VolatileStore,
    };

    use super::*;
    use crate::broker::Broker;
    use crate::config::BrokerConfig;
    use crate::pipeline::{ASKED_OF_CLIENTS, FILTERS_AT_ONCE};
    use crate::session::{Seat, Session};

    /// Allows everything and counts how often it was asked about a filter.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Gate for Counting {
        fn connect(&self, _: &Arc<Client>, _: Option<Password>) -> BoxFuture<'static, Decision> {
            Box::pin(std::future::ready(Decision::Allow))
        }

        fn may_publish(&self, _: &Client, _: &TopicName) -> bool {
            true
        }

        fn may_subscribe(&self, _: &Client, _: &TopicFilter) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed);
            true
        }
    }

    /// All filters of all packets that had been read were subscribed to before anybody else had a turn, and when their
    /// client had gone all of them were removed in one go.
    #[tokio::test]
    async fn others_have_their_turn_while_thousands_of_filters_come_and_go() {
        let (gate, asked) = (Arc::new(Counting::default()), |gate: &Counting| gate.0.load(Ordering::Relaxed));
        let ids = Arc::new(IdSource::new(&Node::default()));
        let (hooks, store) = (Arc::new(NoHooks), Arc::new(VolatileStore));
        let broker = Broker::with_gate(BrokerConfig::default(), ids, gate.clone(), hooks, store);
        let realm = broker.unwrap().default_realm();
        let session = Arc::new(Session::new(1, "c".into(), 1, 0));
        let client = Arc::new(Client::default());
        let mut pipeline = Pipeline::new(Arc::clone(&realm), Arc::clone(&session), client, None);
        for packet in 0..4 {
            let wanted = (0..250).map(|filter| {
                let text = bytestring::ByteString::from(format!("{packet}/{filter}/+"));
                let filter = SharedFilter::parse(&text).map_err(|_| reason::TOPIC_FILTER_INVALID);
                Wanted { text, filter, options: SubscriptionOptions::default(), leave: ASKED_OF_CLIENTS }
            });
            pipeline.push(Job::Subscribe(Subscribing::new(Some(packet + 1), wanted)));
        }
        let (mut cx, mut replies, mut made) = (Context::from_waker(Waker::noop()), VecDeque::new(), 0);
        while replies.len() < 4 {
            assert!(pipeline.poll(&mut cx, &mut replies));
            let before = std::mem::replace(&mut made, realm.tree.count().all);
            assert!(made - before <= FILTERS_AT_ONCE, "{before}, then {made}");
            assert_eq!(asked(&gate), made, "the gate is asked about those alone");
        }
        assert_eq!(made, 1_000);
        session.end(&realm, &mut Seat::default());
        let left = realm.tree.count().all;
        assert!((900..1_000).contains(&left), "{left} are left for later");
        while realm.tree.count().all > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Handlers that may read stores for a subscription.
    struct Stores;

    impl Hooks for Stores {
        fn is_bound(&self, _: &Tenant, hook: Hook) -> bool {
            hook == Hook::SessionSubscribed
        }

        fn raise(&self, _: Event) -> Raised {
            Raised::Nothing
        }
    }

    /// Every SUBSCRIBE that had been read made its holds at once, sixteen thousand of them, and whoever published to the
    /// client looked through all for each message.
    #[tokio::test]
    async fn a_subscribe_waits_while_many_subscriptions_wait_for_stored_messages() {
        let hooks = Arc::new(Stores);
        let broker =
            Broker::new(BrokerConfig::default(), Arc::new(Node::default()), hooks, Arc::new(VolatileStore));
        let realm = broker.unwrap().default_realm();
        let session = Arc::new(Session::new(1, "c".into(), 1, 0));
        let client = Arc::new(Client::default());
        let mut pipeline = Pipeline::new(Arc::clone(&realm), Arc::clone(&session), client, None);
        for packet in 0..4 {
            let wanted = (0..40).map(|filter| {
                let text = bytestring::ByteString::from(format!("{packet}/{filter}/+"));
                let filter = SharedFilter::parse(&text).map_err(|_| reason::TOPIC_FILTER_INVALID);
                Wanted { text, filter, options: SubscriptionOptions::default(), leave: &[] }
            });
            pipeline.push(Job::Subscribe(Subscribing::new(Some(packet + 1), wanted)));
        }
        let (mut cx, mut replies) = (Context::from_waker(Waker::noop()), VecDeque::new());
        while pipeline.poll(&mut cx, &mut replies) {}
        assert_eq!((session.outbox().holds(), replies.len()), (80, 2));
        let holds = replies.drain(..).flat_map(|reply| match reply {
            Reply::Subscribed { granted, .. } => granted.into_iter().filter_map(|granted| granted.hold),
            _ => panic!("a SUBACK"),
        });
        holds.for_each(|hold| session.release(&realm, hold, |_| true));
        while pipeline.poll(&mut cx, &mut replies) {}
        assert_eq!(replies.len(), 2);
    }

    /// What the broker itself has retained is looked up without a hold: publishers have nothing to look through.
    #[tokio::test]
    async fn subscriptions_that_bring_the_brokers_retained_messages_hold_nothing() {
        let hooks = Arc::new(NoHooks);
        let broker =
            Broker::new(BrokerConfig::default(), Arc::new(Node::default()), hooks, Arc::new(VolatileStore));
        let realm = broker.unwrap().default_realm();
        let limits = realm.broker.config.retained_limits();
        realm.retained.set(crate::session::test_message("t", QoS::AtLeastOnce, 1), limits);
        let session = Arc::new(Session::new(1, "c".into(), 1, 0));
        let client = Arc::new(Client::default());
        let mut pipeline = Pipeline::new(Arc::clone(&realm), Arc::clone(&session), client, None);
        pipeline.allow_joins(true, 100);
        let wanted = (0..150).map(|filter| {
            let text = bytestring::ByteString::from(format!("{filter}/+"));
            let filter = SharedFilter::parse(&text).map_err(|_| reason::TOPIC_FILTER_INVALID);
            Wanted { text, filter, options: SubscriptionOptions::default(), leave: &[] }
        });
        pipeline.push(Job::Subscribe(Subscribing::new(Some(1), wanted)));
        let (mut cx, mut replies) = (Context::from_waker(Waker::noop()), VecDeque::new());
        while pipeline.poll(&mut cx, &mut replies) {}
        assert_eq!((session.outbox().holds(), pipeline.is_bringing()), (0, false));
        let Some(Reply::Subscribed { reasons, granted, .. }) = replies.pop_front() else {
            panic!("a SUBACK")
        };
        assert_eq!(granted.len(), 100);
        assert_eq!(reasons.iter().filter(|code| **code == ReasonCode::QUOTA_EXCEEDED).count(), 50);
    }
}
