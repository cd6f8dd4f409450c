//! The inbound life of a client: events one after the other, completions in order.
//!
//! A job goes through three stages:
//!
//! 1. **raise**: its event is raised and its handlers run. One job at a time, so that a client's events reach
//!    modules in order and a full writer holds the client back.
//! 2. **join**: its handlers have started their writes. Many jobs are here at once; the writes complete in any
//!    order, the jobs leave in theirs. Leaving means: the message is routed, the subscription brings its stored
//!    messages.
//! 3. **sync**: it is routed, and what was queued for durable sessions is being recorded. Again in order, and
//!    after it the client is answered.
//!
//! A job without handlers and without durable subscribers passes all three at once. The pipeline is polled by
//! the client's connection; when that ends, [`finish`](Pipeline::finish) completes what was accepted.

pub(crate) mod inject;
mod job;
mod publish;
mod subscribe;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tidegate_event::{
    AckError, AckJoin, Admitted, BoxFuture, Client, Event, Hook, Raised, Scope, SharedFilter,
    SubscriptionOptions, Verdict,
};
use tokio::sync::oneshot;

pub(crate) use self::job::{Granted, Inbound, Job, Reply, Subscribing, Unsubscribing, Wanted};
use self::publish::Unsynced;
use crate::realm::Realm;
use crate::registry::Handover;
use crate::route::{Fanout, RouteCache};
use crate::session::Session;

/// A job in the first stage.
enum Raising {
    /// Waits until the packet id of a QoS 2 message is durable.
    Journal(Inbound, AckJoin),
    /// Its handlers run.
    Handlers(Job, BoxFuture<'static, Admitted>),
}

/// A job in the second stage.
enum Joining {
    Publish(Inbound, Verdict, Option<Scope>),
    /// client.connected or session.created: their handlers may name subscriptions.
    Opening(Scope),
    Subscribe(Subscribing),
    Unsubscribe(Unsubscribing),
    Disconnected(Scope),
}

/// A job in the third stage.
struct Syncing {
    joins: SmallVec<[AckJoin; 2]>,
    failed: Option<AckError>,
    reply: Unsynced,
}

/// The jobs of one client (or of a tenant's modules) between "taken" and "answered".
pub(crate) struct Pipeline {
    realm: Arc<Realm>,
    session: Option<Arc<Session>>,
    client: Option<Arc<Client>>,
    waiting: VecDeque<Job>,
    waiting_bytes: usize,
    raising: Option<Raising>,
    joining: VecDeque<Joining>,
    syncing: VecDeque<Syncing>,
    /// PUBLISH in the three stages.
    publishes: usize,
    window: usize,
    /// How many of client.connected and session.created are still to be raised.
    opening: usize,
    /// The client's last connection has not raised all its events.
    quiet: Option<oneshot::Receiver<()>>,
    /// The client's last connection has not routed all its messages.
    done: Option<oneshot::Receiver<()>>,
    /// The connection has ended.
    finishing: bool,
    cache: RouteCache,
    pub(crate) fanout: Fanout,
}

impl Pipeline {
    /// The pipeline of a connection; `handover`: what the client's last connection has still to do.
    pub(crate) fn new(
        realm: Arc<Realm>,
        session: Arc<Session>,
        client: Arc<Client>,
        handover: Option<Handover>,
    ) -> Self {
        let mut pipeline = Self::without_client(realm);
        pipeline.session = Some(session);
        pipeline.client = Some(client);
        if let Some(Handover { quiet, done, .. }) = handover {
            pipeline.quiet = Some(quiet);
            pipeline.done = Some(done);
        }
        pipeline
    }

    /// A pipeline for messages that no client sends.
    fn without_client(realm: Arc<Realm>) -> Self {
        let window = usize::from(realm.broker.config.window());
        Self {
            realm,
            session: None,
            client: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            raising: None,
            joining: VecDeque::new(),
            syncing: VecDeque::new(),
            publishes: 0,
            window,
            opening: 0,
            quiet: None,
            done: None,
            finishing: false,
            cache: RouteCache::default(),
            fanout: Fanout::default(),
        }
    }

    /// Bytes of packets that wait for their turn.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether client.connected and session.created have been raised, and all events of the client's earlier
    /// connection: events of deliveries may follow.
    pub(crate) fn is_open(&self) -> bool {
        self.opening == 0 && self.quiet.is_none()
    }

    /// Whether everything is answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.is_raised() && self.joining.is_empty() && self.syncing.is_empty()
    }

    /// Whether no event is being raised or waits to be.
    fn is_raised(&self) -> bool {
        self.waiting.is_empty() && self.raising.is_none()
    }

    /// Whether a new message would overtake nothing.
    fn is_clear(&self) -> bool {
        self.is_raised() && self.joining.is_empty() && self.quiet.is_none() && self.done.is_none()
    }

    /// Appends `job`.
    pub(crate) fn push(&mut self, job: Job) {
        if matches!(job, Job::Connected | Job::Created) {
            self.opening += 1;
        }
        self.waiting_bytes += job.weight();
        self.waiting.push_back(job);
    }

    /// Wakes the subscribers reached since the last call; forgets whom it no longer reaches.
    pub(crate) fn flush(&mut self) {
        self.fanout.flush();
    }

    /// For a publisher that rests: lets go of sessions that it would not reach any more.
    pub(crate) fn rest(&mut self) {
        self.cache.forget_stale(&self.realm);
        if self.waiting.is_empty() && self.waiting.capacity() > 64 {
            self.waiting = VecDeque::new();
        }
    }

    /// Moves every job as far as it can go. Gives whether any moved.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, replies: &mut VecDeque<Reply>) -> bool {
        let mut moved = false;
        while self.poll_raising(cx) | self.poll_joining(cx, replies) | self.poll_syncing(cx, replies) {
            moved = true;
        }
        moved
    }

    /// Raises every event that was accepted, when there is no connection to answer any more.
    pub(crate) async fn finish_raising(&mut self) {
        self.finishing = true;
        let mut replies = VecDeque::new();
        poll_fn(|cx| {
            self.poll(cx, &mut replies);
            self.flush();
            self.unanswered(&mut replies);
            if self.is_raised() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Nobody is there to be answered, nor to be sent stored messages before live ones.
    fn unanswered(&self, replies: &mut VecDeque<Reply>) {
        for reply in replies.drain(..) {
            if let (Reply::Subscribed { granted, .. }, Some(session)) = (reply, &self.session) {
                for hold in granted.iter().filter_map(|granted| granted.hold) {
                    session.outbox().release(hold);
                }
                // The client's next connection may sleep while messages were held.
                session.nudge();
            }
        }
    }

    /// Completes what was accepted when there is no connection to answer any more. `quiet` is told when the
    /// last event has been raised.
    pub(crate) async fn finish(&mut self, quiet: oneshot::Sender<()>) {
        let mut quiet = Some(quiet);
        let mut replies = VecDeque::new();
        poll_fn(|cx| {
            self.poll(cx, &mut replies);
            self.flush();
            self.unanswered(&mut replies);
            if self.is_raised()
                && let Some(quiet) = quiet.take()
            {
                // The client may not have come back.
                quiet.send(()).ok();
            }
            if self.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    // Stage 1.

    fn poll_raising(&mut self, cx: &mut Context<'_>) -> bool {
        match self.raising.take() {
            None => self.raise_next(cx),
            Some(Raising::Journal(inbound, mut journal)) => match Pin::new(&mut journal).poll(cx) {
                Poll::Pending => {
                    self.raising = Some(Raising::Journal(inbound, journal));
                    false
                }
                Poll::Ready(Ok(())) => {
                    self.raise_publish(inbound);
                    true
                }
                Poll::Ready(Err(error)) => {
                    self.not_journalled(inbound, &error);
                    true
                }
            },
            Some(Raising::Handlers(job, mut handlers)) => match handlers.as_mut().poll(cx) {
                Poll::Pending => {
                    self.raising = Some(Raising::Handlers(job, handlers));
                    false
                }
                Poll::Ready(admitted) => {
                    self.raised(job, Some(admitted));
                    true
                }
            },
        }
    }

    fn raise_next(&mut self, cx: &mut Context<'_>) -> bool {
        if self.waiting.is_empty() || !arrived(&mut self.quiet, cx) {
            return false;
        }
        if self.publishes >= self.window && matches!(self.waiting.front(), Some(Job::Publish(_))) {
            return false;
        }
        let Some(job) = self.waiting.pop_front() else { return false };
        self.waiting_bytes = self.waiting_bytes.saturating_sub(job.weight());
        match job {
            Job::Publish(inbound) => self.begin_publish(inbound),
            Job::Subscribe(request) => self.raise_subscribe(request),
            Job::Unsubscribe(request) => self.raise_unsubscribe(request),
            Job::Connected | Job::Created | Job::Disconnected(_) => {
                let event = self.client.as_ref().and_then(|client| {
                    let client = Arc::clone(client);
                    match &job {
                        Job::Connected => Some(Event::ClientConnected { client }),
                        Job::Created => Some(Event::SessionCreated { client }),
                        Job::Disconnected(reason) => {
                            Some(Event::ClientDisconnected { client, reason: *reason })
                        }
                        _ => None,
                    }
                });
                match event.map_or(Raised::Nothing, |event| self.raise(event)) {
                    Raised::Nothing => self.raised(job, None),
                    Raised::Running(handlers) => self.raising = Some(Raising::Handlers(job, handlers)),
                }
            }
        }
        true
    }

    /// Raises `event` if any handler is bound to its hook.
    fn raise(&self, event: Event) -> Raised {
        if self.is_bound(event.hook()) { self.realm.broker.hooks.raise(event) } else { Raised::Nothing }
    }

    fn is_bound(&self, hook: Hook) -> bool {
        self.realm.broker.hooks.is_bound(&self.realm.tenant, hook)
    }

    /// The handlers of `job` have run, if there were any.
    fn raised(&mut self, job: Job, admitted: Option<Admitted>) {
        match job {
            Job::Connected | Job::Created => {
                self.opening -= 1;
                self.joining.extend(admitted.map(|admitted| Joining::Opening(admitted.scope)));
            }
            Job::Publish(inbound) => {
                let (verdict, scope) = match admitted {
                    None => (Verdict::Pass, None),
                    Some(admitted) => (admitted.verdict, Some(admitted.scope)),
                };
                self.joining.push_back(Joining::Publish(inbound, verdict, scope));
            }
            Job::Subscribe(mut request) => {
                if let (Some(admitted), Some(last)) = (admitted, request.granted.len().checked_sub(1)) {
                    request.scopes.push((last, admitted.scope));
                }
                self.raise_subscribe(request);
            }
            Job::Unsubscribe(mut request) => {
                request.scopes.extend(admitted.map(|admitted| admitted.scope));
                self.raise_unsubscribe(request);
            }
            Job::Disconnected(_) => {
                self.joining.extend(admitted.map(|admitted| Joining::Disconnected(admitted.scope)));
            }
        }
    }

    // Stage 2.

    fn poll_joining(&mut self, cx: &mut Context<'_>, replies: &mut VecDeque<Reply>) -> bool {
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
            Some(Joining::Publish(inbound, verdict, _)) => {
                if let Some(reply) = self.complete_publish(inbound, verdict, outcome) {
                    replies.push_back(reply);
                }
            }
            Some(Joining::Opening(scope)) => {
                self.log_failure(&scope, outcome);
                // A client that has gone gets them when it is back.
                if !self.finishing {
                    self.apply_opening(&scope);
                }
            }
            Some(Joining::Subscribe(request)) => {
                let reply = self.complete_subscribe(request);
                replies.extend(reply);
            }
            Some(Joining::Unsubscribe(request)) => {
                let reply = Unsynced::Unsubscribed { packet_id: request.packet_id, reasons: request.reasons };
                replies.extend(self.sync(SmallVec::new(), reply));
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
                Wanted { text, filter: Ok(filter), options }
            })
            .collect();
        if !wanted.is_empty() {
            let job = Job::Subscribe(Subscribing::new(None, wanted));
            self.waiting_bytes += job.weight();
            let opening = self.waiting.iter().take_while(|job| matches!(job, Job::Created)).count();
            self.waiting.insert(opening, job);
        }
    }

    /// An event that nobody awaits an answer for was not stored: the store has logged why, and for which
    /// message; here it is said for which client.
    fn log_failure(&self, scope: &Scope, outcome: Result<(), AckError>) {
        if let Err(error) = outcome {
            let client = self.client.as_ref().map_or("", |client| &client.id);
            tracing::warn!(client, hook = scope.event.hook().name(), %error, "an event was not stored");
        }
    }

    // Stage 3.

    /// Gives the reply when nothing is to be waited for, else keeps it in order.
    fn sync(&mut self, joins: SmallVec<[AckJoin; 2]>, reply: Unsynced) -> Option<Reply> {
        if joins.is_empty() && self.syncing.is_empty() {
            return self.reply(reply, None);
        }
        self.syncing.push_back(Syncing { joins, failed: None, reply });
        None
    }

    fn poll_syncing(&mut self, cx: &mut Context<'_>, replies: &mut VecDeque<Reply>) -> bool {
        let Some(front) = self.syncing.front_mut() else { return false };
        while let Some(join) = front.joins.last_mut() {
            let Poll::Ready(outcome) = Pin::new(join).poll(cx) else { return false };
            if let Err(error) = outcome {
                front.failed = Some(error);
            }
            front.joins.pop();
        }
        if let Some(Syncing { failed, reply, .. }) = self.syncing.pop_front() {
            replies.extend(self.reply(reply, failed));
        }
        true
    }
}

/// Whether what `signal` announces has happened; a sender that is gone announces it too.
fn arrived(signal: &mut Option<oneshot::Receiver<()>>, cx: &mut Context<'_>) -> bool {
    match signal {
        None => true,
        Some(receiver) => {
            let ready = Pin::new(receiver).poll(cx).is_ready();
            if ready {
                *signal = None;
            }
            ready
        }
    }
}
