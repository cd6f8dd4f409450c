//! The inbound life of a client: events one after the other, completions in order.
//!
//! A job goes through three stages:
//!
//! 1. **raise**: its client's leave is asked for, its event is raised and its handlers run. One job at a time, so that a client's events reach
//!    modules in order and a full writer holds the client back.
//! 2. **join**: its handlers have started their writes. Many jobs are here at once; the writes complete in any
//!    order, the jobs leave in theirs. Leaving means: the message is routed, the subscription brings its stored
//!    messages.
//! 3. **sync**: it is routed, and what was queued for durable sessions is being recorded. Again in order, and
//!    after it the client is answered.
//!
//! A job without handlers and without durable subscribers passes all three at once. The pipeline is polled by
//! the client's connection; when that ends, [`finish`](Pipeline::finish) completes what was accepted.

mod complete;
mod finish;
pub(crate) mod inject;
mod job;
mod leave;
mod publish;
mod subscribe;
mod unfinished;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tidegate_event::{AckJoin, Admitted, BoxFuture, Client, Event, Hook, Raised, Scope, Verdict};
use tokio::sync::oneshot;

use self::job::OVERHEAD;
pub(crate) use self::job::{Granted, Inbound, Job, Reply, Subscribing, Unsubscribing, Wanted};
pub(crate) use self::leave::ASKED_OF_CLIENTS;
use self::publish::Unsynced;
use self::unfinished::Part;
pub(crate) use self::unfinished::Unfinished;
use crate::broker::Phase;
use crate::guard::Answers;
use crate::leave::Question;
use crate::realm::Realm;
use crate::registry::Handover;
use crate::route::{Fanout, RouteCache};
use crate::session::Session;
use crate::session::outbox::IDLE_CAPACITY;

/// SUBSCRIBE that may be in the last two stages, or be granted before it is looked at what they bring.
const SUBSCRIBES: usize = 16;
/// Subscriptions that wait for stored messages, from which on a SUBSCRIBE waits: whoever publishes to the client looks
/// through them. One SUBSCRIBE may make more.
const HOLDS: usize = 64;
/// Filters subscribed to, or unsubscribed from, before others have their turn: a packet may have a thousand, and there may
/// be many packets.
const FILTERS_AT_ONCE: usize = 64;

/// A job in the first stage.
enum Raising {
    /// Waits until the packet id of a QoS 2 message is durable.
    Journal(Inbound, AckJoin),
    /// It is asked whether the client may publish this.
    MayPublish(Inbound, Question),
    /// It is asked whether the client may have the filter at the front.
    MaySubscribe(Subscribing, Question),
    /// Its handlers run.
    Handlers(Job, BoxFuture<'static, Admitted>),
    /// It has many filters: others have their turn before it goes on.
    Filters(Job),
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

/// Jobs in the third stage, those of one turn: they wait together.
#[derive(Default)]
struct Syncing {
    /// What they wait for, if any of them recorded anything; `None` while more may be added.
    join: Option<AckJoin>,
    /// Whether it recorded what the answer promises, and the answer.
    replies: Vec<(bool, Unsynced)>,
}

/// The jobs of one client (or of a tenant's modules) between "taken" and "answered".
pub(crate) struct Pipeline {
    realm: Arc<Realm>,
    session: Option<Arc<Session>>,
    client: Option<Arc<Client>>,
    waiting: VecDeque<Job>,
    /// Of the jobs that wait, and of SUBSCRIBE and UNSUBSCRIBE until they are answered.
    waiting_bytes: usize,
    /// QoS 2 messages that came again while they were handled, on this connection: they are answered when the first is.
    copies: usize,
    raising: Option<Raising>,
    joining: VecDeque<Joining>,
    syncing: VecDeque<Syncing>,
    /// PUBLISH in the three stages.
    publishes: usize,
    /// Bytes of those in the first two.
    window_bytes: usize,
    window: usize,
    /// SUBSCRIBE that are not answered, and how many of them have subscriptions still to be made.
    subscribing: usize,
    ungranted: usize,
    /// client.connected and session.created that are not complete: their handlers may name subscriptions.
    openings: usize,
    /// Filters that may be taken before others have their turn.
    filters_left: usize,
    /// Whether more subscriptions may be made now.
    may_join: bool,
    /// SUBSCRIBE that were granted since that was said: what they bring is not seen in it.
    unseen: usize,
    /// How many more that bring retained messages.
    may_bring: usize,
    /// Subscriptions that bring retained messages and are not answered.
    bringing: usize,
    /// How many of client.connected and session.created are still to be raised.
    opening: usize,
    /// The client's last connection has not raised all its events.
    quiet: Option<oneshot::Receiver<()>>,
    /// The client's last connection has not routed all its messages.
    done: Option<oneshot::Receiver<()>>,
    /// Whether message.publish has handlers.
    publish_bound: bool,
    /// Whether client.authorize has.
    authorize_bound: bool,
    /// What the gate has said.
    answers: Answers,
    /// The connection has ended.
    finishing: bool,
    /// What earlier connections of the client hold, when there are any; and this one, when it has ended.
    earlier: Option<Arc<Unfinished>>,
    part: Option<Part>,
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
        pipeline.fanout.read_at.connection = client.connection;
        pipeline.client = Some(client);
        pipeline.answers = Answers::of_one_client();
        if let Some(Handover { quiet, done, unfinished, .. }) = handover {
            pipeline.quiet = Some(quiet);
            pipeline.done = Some(done);
            pipeline.earlier = Some(unfinished);
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
            copies: 0,
            raising: None,
            joining: VecDeque::new(),
            syncing: VecDeque::new(),
            publishes: 0,
            window_bytes: 0,
            window,
            subscribing: 0,
            ungranted: 0,
            openings: 0,
            filters_left: FILTERS_AT_ONCE,
            may_join: true,
            unseen: 0,
            may_bring: usize::MAX,
            bringing: 0,
            opening: 0,
            quiet: None,
            done: None,
            publish_bound: false,
            authorize_bound: false,
            answers: Answers::default(),
            finishing: false,
            earlier: None,
            part: None,
            cache: RouteCache::default(),
            fanout: Fanout::default(),
        }
    }

    /// Bytes of packets that wait for their turn, those that earlier connections of the client have left included.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.own_waiting_bytes() + self.earlier.as_ref().map_or(0, |earlier| earlier.bytes())
    }

    fn own_waiting_bytes(&self) -> usize {
        self.waiting_bytes + self.copies * OVERHEAD
    }

    /// A QoS 2 message that is being handled came again. It waits like any other packet: nobody gets more answers at once than
    /// he may have packets waiting.
    pub(crate) fn copy_came(&mut self) {
        self.copies += 1;
    }

    /// So many are being answered.
    pub(crate) fn copies_answered(&mut self, answered: u32) {
        self.copies = self.copies.saturating_sub(answered as usize);
    }

    /// Bytes of all packets of this connection that were taken and are not done with.
    pub(crate) fn accepted_bytes(&self) -> usize {
        self.waiting_bytes + self.window_bytes
    }

    /// Wakes `waker` when earlier connections of the client have less to do.
    pub(crate) fn await_earlier(&self, waker: &Waker) {
        if let Some(earlier) = &self.earlier
            && earlier.bytes() > 0
        {
            earlier.wake_later(waker);
        }
    }

    /// Whether a PUBLISH is shown to anybody before it is routed.
    pub(crate) fn has_handlers(&self) -> bool {
        self.publish_bound || self.authorize_bound
    }

    /// Whether a SUBSCRIBE is on its way: what stores have for the client is being looked up.
    pub(crate) fn is_subscribing(&self) -> bool {
        self.subscribing > 0
    }

    /// Whether subscriptions are, or may be, about to be made.
    pub(crate) fn is_about_to_subscribe(&self) -> bool {
        self.ungranted > 0 || self.openings > 0
    }

    /// Whether more subscriptions may be made: while they may not, a SUBSCRIBE waits, and all after it. And how many that
    /// bring retained messages: one more is refused.
    pub(crate) fn allow_joins(&mut self, allowed: bool, bringing: usize) {
        self.may_join = allowed;
        self.unseen = 0;
        self.may_bring = bringing.saturating_sub(self.bringing);
    }

    /// Whether live messages wait, for as long as it takes to answer a SUBSCRIBE: what is retained goes before them.
    pub(crate) fn is_bringing(&self) -> bool {
        self.bringing > 0
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

    /// Whether a PUBLISH has to wait until another is done: too many are on their way, or the disk is behind with what
    /// others have had recorded.
    fn is_held_back(&self) -> bool {
        self.publishes >= self.window || (!self.syncing.is_empty() && self.realm.broker.store.is_behind())
    }

    /// Appends `job`.
    pub(crate) fn push(&mut self, job: Job) {
        if matches!(job, Job::Connected | Job::Created) {
            self.opening += 1;
            self.openings += 1;
        }
        self.count_in(&job);
        self.waiting.push_back(job);
    }

    fn count_in(&mut self, job: &Job) {
        self.waiting_bytes += job.weight();
        if matches!(job, Job::Subscribe(_)) {
            self.subscribing += 1;
            self.ungranted += 1;
        }
    }

    /// Wakes the subscribers reached since the last call.
    pub(crate) fn flush(&mut self) {
        self.realm.spread(&mut self.fanout);
        self.fanout.flush();
    }

    /// For a publisher that rests: lets go of sessions that it would not reach any more.
    pub(crate) fn rest(&mut self) {
        self.cache.rest(&self.realm);
        self.answers.rest();
        self.fanout.rest();
        shrink(&mut self.waiting);
        shrink(&mut self.joining);
        shrink(&mut self.syncing);
    }

    /// Moves every job as far as it can go, but for what would be too much for the turn that was begun with
    /// [`Fanout::begin_turn`]. Gives whether any moved.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, replies: &mut VecDeque<Reply>) -> bool {
        let mut moved = false;
        self.realm.spread(&mut self.fanout);
        self.refresh_hooks();
        self.filters_left = FILTERS_AT_ONCE;
        while self.poll_raising(cx) | self.poll_joining(cx, replies) | self.poll_syncing(cx, replies) {
            moved = true;
            if matches!(self.raising, Some(Raising::Filters(_))) || self.fanout.is_enough() {
                cx.waker().wake_by_ref();
                break;
            }
        }
        moved
    }

    /// Whether one more filter may be subscribed to, or unsubscribed from, before others have their turn.
    fn may_take_filter(&mut self) -> bool {
        let left = self.filters_left;
        self.filters_left = left.saturating_sub(1);
        left > 0
    }

    // Stage 1.

    fn poll_raising(&mut self, cx: &mut Context<'_>) -> bool {
        match self.raising.take() {
            None => self.raise_next(cx),
            Some(Raising::Filters(Job::Subscribe(request))) => {
                self.raise_subscribe(request);
                true
            }
            Some(Raising::Filters(Job::Unsubscribe(request))) => {
                self.raise_unsubscribe(request);
                true
            }
            Some(Raising::Filters(_)) => true,
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
            Some(Raising::MayPublish(inbound, mut question)) => match Pin::new(&mut question).poll(cx) {
                Poll::Pending => {
                    self.raising = Some(Raising::MayPublish(inbound, question));
                    false
                }
                Poll::Ready(leave) => {
                    self.publish_answered(inbound, leave);
                    true
                }
            },
            Some(Raising::MaySubscribe(request, mut question)) => match Pin::new(&mut question).poll(cx) {
                Poll::Pending => {
                    self.raising = Some(Raising::MaySubscribe(request, question));
                    false
                }
                Poll::Ready(leave) => {
                    self.subscribe_answered(request, question.hook(), leave);
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
        match self.waiting.front() {
            Some(Job::Publish(_)) if self.is_held_back() => return false,
            Some(Job::Subscribe(request)) if self.must_wait(request) => {
                let broker = &self.realm.broker;
                if self.own_waiting_bytes() < broker.config.read_ahead() && broker.phase() == Phase::Running {
                    return false;
                }
                // Nothing is read any more, not even the acknowledgements it waits for.
                self.refuse_subscribe();
                return true;
            }
            _ => {}
        }
        let Some(job) = self.waiting.pop_front() else { return false };
        if !matches!(job, Job::Subscribe(_) | Job::Unsubscribe(_)) {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(job.weight());
        }
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

    /// Whether a SUBSCRIBE has to wait for its turn: each brings something that the client has to take.
    fn must_wait(&self, request: &Subscribing) -> bool {
        if self.finishing || request.packet_id.is_none() {
            return false;
        }
        let holds = self.session.as_ref().map_or(0, |session| session.outbox().holds());
        let granted = self.unseen.max(self.subscribing - self.ungranted);
        !self.may_join || granted >= SUBSCRIBES || holds >= HOLDS
    }

    /// Raises `event` if any handler is bound to its hook.
    fn raise(&self, event: Event) -> Raised {
        if self.is_bound(event.hook()) { self.realm.broker.hooks.raise(event) } else { Raised::Nothing }
    }

    /// Looks up whether the hooks of a PUBLISH have handlers, and the gate other rules: once a turn, not once a message.
    pub(crate) fn refresh_hooks(&mut self) {
        self.realm.broker.guard.renew(&mut self.answers);
        self.publish_bound = self.is_bound(Hook::MessagePublish);
        self.authorize_bound = self.is_bound(Hook::ClientAuthorize);
    }

    fn is_bound(&self, hook: Hook) -> bool {
        self.realm.broker.hooks.is_bound(&self.realm.tenant, hook)
    }

    /// The handlers of `job` have run, if there were any.
    fn raised(&mut self, job: Job, admitted: Option<Admitted>) {
        match job {
            Job::Connected | Job::Created => {
                self.opening -= 1;
                match admitted {
                    Some(admitted) => self.joining.push_back(Joining::Opening(admitted.scope)),
                    None => self.openings -= 1,
                }
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
                    request.count_brought(&admitted.scope);
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
}

/// Gives the memory of `queue` back if it is empty and had many places.
pub(crate) fn shrink<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() > IDLE_CAPACITY {
        *queue = VecDeque::new();
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tidegate_event::{QoS, SharedFilter, SubscriptionOptions};

    use super::*;
    use crate::session::test_message;

    fn pipeline() -> Pipeline {
        Pipeline::without_client(crate::realm::test_realm(crate::BrokerConfig::default()))
    }

    /// Packets were counted: 64 messages to ten thousand subscribers were one turn.
    #[tokio::test]
    async fn a_turn_is_bounded_by_deliveries_and_not_only_by_packets() {
        let mut pipeline = pipeline();
        let filter = SharedFilter::parse(&"t".into()).unwrap();
        let subscribers: Vec<_> = (0..500)
            .map(|number| {
                let session = Arc::new(Session::new(number, format!("c{number}").into(), 0, 60));
                pipeline.realm.tree.insert(&filter, &session, SubscriptionOptions::default());
                session.connect(&pipeline.realm);
                session
            })
            .collect();
        for id in 0..20 {
            let message = test_message("t", QoS::AtMostOnce, id);
            pipeline.push(Job::Publish(Inbound::unanswered(message)));
        }
        let (mut turns, mut replies, mut reached) = (Vec::new(), VecDeque::new(), 0);
        while !pipeline.is_empty() {
            pipeline.fanout.begin_turn();
            pipeline.poll(&mut Context::from_waker(Waker::noop()), &mut replies);
            let before = std::mem::replace(&mut reached, subscribers[499].outbox().len());
            turns.push(reached - before);
        }
        assert_eq!(turns, [17, 3]);
    }

    /// A burst left its buffers with every connection for the rest of its life.
    #[tokio::test]
    async fn a_pipeline_that_rests_keeps_no_large_buffers() {
        let mut pipeline = pipeline();
        pipeline.waiting.reserve(1_000);
        pipeline.joining.reserve(1_000);
        pipeline.syncing.reserve(1_000);
        for _ in 0..10_000 {
            pipeline.fanout.wake(Waker::noop().clone());
        }
        assert!(pipeline.fanout.places() <= 512, "they are woken on the way");
        pipeline.flush();
        pipeline.rest();
        let places = [
            pipeline.waiting.capacity(),
            pipeline.joining.capacity(),
            pipeline.syncing.capacity(),
            pipeline.fanout.places(),
        ];
        assert!(places.iter().all(|&places| places <= IDLE_CAPACITY), "{places:?}");
    }
}
