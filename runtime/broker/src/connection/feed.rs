//! Stored messages on their way to the client: drives the joins of its subscriptions.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::task::Context;

use tidegate_event::{Message, MsgId, QoS, SharedFilter, Shown, SubscriptionOptions, TopicFilter, TopicName};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use super::deliver::Deliveries;
use crate::limits::rate::Rate;
use crate::pipeline::{Job, Subscribing, Wanted};
use crate::retained::Page;
use crate::session::delivery::{Delivery, Source};
use crate::session::join::{Advance, Arrived, Ids, Join, RetainedFrom};
use crate::session::subscriptions::NEVER;
use crate::session::{Interrupted, Seat};

/// Joins that go on at once, oldest first; the others wait for their turn.
const ACTIVE: usize = 16;
/// Joins of one client from which on a SUBSCRIBE waits.
const JOINS: usize = 64;
/// Joins of the broker's retained messages that one client may have whatever the memory of all queues.
const ALWAYS: usize = 64;
/// Those of one filter that go on at once. One more takes the place of the last, and begins anew.
const SAME: usize = 4;
/// What the joins may do before other parts of the connection have their turn.
const STEPS: usize = 4 * ACTIVE;
/// How many steps a look-up of retained messages is.
const LOOK_UP: usize = ACTIVE;
/// Levels of retained topics that may be visited in vain in a second, for one client: because no message is there, or
/// because the client does not want it any more when it is found. A look-up waits when there were more.
const IN_VAIN: u64 = 200_000;

/// What is sent next, as far as retained messages are concerned.
pub(super) enum Next {
    /// This one, because it is older than the live one that waits.
    Earlier(Delivery),
    /// Whatever waits.
    Batch,
    /// Nothing that waits live: a retained one goes first, and cannot be sent yet.
    Waits,
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Whether more subscriptions may be made: what the last ones brought out of stores has mostly been taken by the client.
    pub(super) fn may_join(&self) -> bool {
        let reading = || self.seat.joins.iter().filter(|join| !join.is_beside());
        let undelivered: usize = reading().map(Join::undelivered).sum();
        reading().count() < JOINS && undelivered <= self.shared.config.queue_limit()
    }

    /// How many more subscriptions may bring retained messages of the broker's: their look-up waits, not their answer, and
    /// no acknowledgement of the client is needed for that (clauses 3.3.4 and 4.9).
    pub(super) fn may_bring(&self) -> usize {
        let (joins, budget) = (self.seat.joins.len(), &self.shared.budget);
        if joins >= ALWAYS && !budget.admits(self.seat.joins_weight(), Some(0), QoS::ExactlyOnce) {
            return 0;
        }
        self.shared.config.max_subscriptions.saturating_sub(joins)
    }

    fn undelivered(&self) -> usize {
        self.seat.joins.iter().map(Join::undelivered).sum()
    }

    /// Whether a retained message goes before the live one that is next: one of its topic that is older and that a
    /// subscription made before still has to bring. `fits`: of which QoS a message can be sent now.
    pub(super) fn earlier(&mut self, fits: impl Fn(QoS) -> bool) -> Next {
        if self.seat.joins.is_empty() && self.deliveries.parked.is_empty() {
            return Next::Batch;
        }
        while let Some(live) = self.deliveries.batch.front() {
            if live.source != Source::Live {
                return Next::Batch;
            }
            let realm = &self.realm;
            let mut joins = self.seat.joins.iter_mut();
            let found = joins.find_map(|join| {
                let earlier = join.earlier(live, || realm.retained.get(&live.message.topic))?;
                Some((join, earlier))
            });
            let Some((join, earlier)) = found else {
                // Those of its topic that were parked before it go before it.
                let topic = live.message.topic.clone();
                let left = self.deliveries.parked.len();
                self.unpark_if(|parked| parked.message.topic == topic);
                if self.deliveries.parked.len() < left {
                    continue;
                }
                return Next::Batch;
            };
            if fits(join.earlier_qos(&earlier)) {
                let earlier = join.take_earlier(earlier);
                self.seat.charge_joins(&self.shared.budget);
                return match earlier {
                    Some(copy) => {
                        self.unpark(&copy);
                        Next::Earlier(copy)
                    }
                    None => Next::Batch,
                };
            }
            if live.qos != QoS::AtMostOnce || self.deliveries.parked.len() >= self.shared.config.queue_limit()
            {
                return Next::Waits;
            }
            let live = self.deliveries.batch.pop_front();
            self.deliveries.parked.extend(live);
        }
        Next::Batch
    }

    /// The retained message `copy` is being sent: live ones of its topic wait for it no longer.
    pub(super) fn unpark(&mut self, copy: &Delivery) {
        self.unpark_if(|parked| parked.message.topic == copy.message.topic);
    }

    fn unpark_if(&mut self, is_free: impl Fn(&Delivery) -> bool) {
        let Deliveries { parked, batch, .. } = &mut self.deliveries;
        if !parked.is_empty() {
            let (free, left): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(parked).into_iter().partition(is_free);
            *parked = left;
            free.into_iter().rev().for_each(|delivery| batch.push_front(delivery));
        }
    }

    /// Moves every join as far as it can go. Gives whether any moved.
    pub(super) fn poll_feeds(&mut self, cx: &mut Context<'_>) -> bool {
        let (mut index, mut steps) = (0, 0);
        let may_look_up = self.may_look_up(cx);
        let mut undelivered = self.undelivered();
        while steps < STEPS {
            let Some(join) = self.seat.joins.get_mut(index) else { break };
            if index >= ACTIVE && !join.is_beside() {
                index += 1;
                continue;
            }
            match join.advance(cx) {
                Advance::Wait => {
                    index += 1;
                    continue;
                }
                Advance::LookUp => {
                    // Those of a few wildcards at a time.
                    if !may_look_up || index > 0 && undelivered > self.shared.config.queue_limit() {
                        index += 1;
                        continue;
                    }
                    self.look_up_retained(index);
                    undelivered += self.seat.joins.get(index).map_or(0, Join::undelivered);
                    steps += LOOK_UP - 1;
                }
                Advance::Again => {}
                Advance::Page(page) => self.page(index, page),
                Advance::Retry(error) => {
                    self.shared.metrics.backlog_errors.increment(1);
                    let (client, filter) = (Shown(&self.client.id), Shown(join.filter.as_str()));
                    tracing::warn!(%client, %filter, %error, "stored messages could not be read: trying again");
                }
                Advance::Failed(error) => {
                    self.shared.metrics.backlog_errors.increment(1);
                    let error = error.map_or("the read was cut off".to_owned(), |error| error.to_string());
                    let (client, filter) = (Shown(&self.client.id), Shown(join.filter.as_str()));
                    tracing::warn!(%client, %filter, %error, "stored messages could not be read");
                }
                Advance::Exhausted => self.exhausted(index),
            }
            steps += 1;
        }
        steps > 0
    }

    /// Begins to send what a new subscription brings. A join of the same filter that is still going on gives way.
    pub(super) fn begin_join(&mut self, mut join: Join, brings_retained: bool) {
        let same = self.seat.joins.iter().position(|known| known.filter == join.filter);
        if let Some(index) = same
            && let Some(known) = self.seat.joins.get_mut(index)
        {
            // Every SUBSCRIBE brings the retained messages, also one of the same filter at once (clause 3.8.4).
            if join.has_stored() {
                if !brings_retained {
                    join.inherit_retained(known);
                }
                self.end_join(index, |_| true);
            }
        }
        if join.is_beside() {
            let known = self.seat.joins.iter().enumerate();
            let same = known.filter(|(_, known)| known.is_beside() && known.filter == join.filter);
            // A client that has not got what it asked for so far may not have ever more made for asking again.
            if let (SAME.., Some((last, _))) = (same.clone().count(), same.last()) {
                self.end_join(last, |_| true);
            }
        } else {
            // A live copy of what was retained just now is on its way too.
            self.session.outbox().deliver_once(join.unsent().into_iter());
        }
        self.seat.add_join(join);
        self.seat.charge_joins(&self.shared.budget);
    }

    /// Begins again what subscriptions had still to bring when the process ended: the client, whose session is there, does not
    /// subscribe again for it.
    pub(super) fn resume_joins(&mut self) {
        let interrupted = std::mem::take(&mut self.seat.interrupted);
        self.begin_again(interrupted);
    }

    /// Begins `interrupted` joins again, and those that an earlier connection has left.
    fn begin_again(&mut self, mut interrupted: Vec<Interrupted>) {
        interrupted.append(&mut self.session.outbox().take_left());
        if interrupted.is_empty() {
            return;
        }
        // Copies of retained messages that are on their way are not sent once more.
        let inflight = self.seat.inflight.iter();
        let copies = inflight.filter(|sent| sent.delivery.source == Source::Retained);
        self.session.outbox().already_given(copies.map(|sent| sent.acked_message().id));
        for Interrupted { filter, hold, retained } in &interrupted {
            let text = filter.as_byte_string().clone();
            let filter = Ok(SharedFilter { group: None, filter: filter.clone() });
            let options = SubscriptionOptions {
                retain_handling: if *retained { 0 } else { NEVER },
                ..SubscriptionOptions::default()
            };
            let wanted = Wanted { text, filter, options, leave: &[] };
            self.pipeline.push(Job::Subscribe(Subscribing::resuming(wanted, *hold)));
        }
        self.seat.interrupted.extend(interrupted);
    }

    /// The subscription that was made with `ticket` has brought all that it was to bring.
    pub(super) fn joined(&mut self, filter: &TopicFilter, ticket: MsgId) {
        self.session.joined(&self.realm, filter, ticket);
        if let Some(positions) = &mut self.seat.positions {
            positions.joined(filter);
        }
    }

    /// Filters of which stored messages are still to be read since a restart.
    pub(super) fn unread(&self) -> Vec<TopicFilter> {
        let interrupted = self.seat.interrupted.iter().map(|interrupted| &interrupted.filter);
        let resumed = self.seat.joins.iter().filter(|join| join.is_resumed).map(|join| &join.filter);
        interrupted.chain(resumed).cloned().collect()
    }

    /// The client no longer subscribes to `filter`: nothing more is read for it.
    pub(super) fn stop_joins(&mut self, filter: &TopicFilter) {
        if let Some(positions) = &mut self.seat.positions {
            positions.joined(filter);
        }
        let (realm, number) = (Arc::clone(&self.realm), self.session.number);
        let wants = |topic: &TopicName| realm.tree.reaches(topic, number);
        for interrupted in self.seat.interrupted.extract_if(.., |interrupted| interrupted.filter == *filter) {
            self.session.release(&realm, interrupted.hold, wants);
        }
        while let Some(index) = self.seat.joins.iter().position(|join| join.filter == *filter) {
            let Some(join) = self.seat.joins.get_mut(index) else { return };
            // Another subscription's join has passed over what this one was to deliver.
            let wanted = join.take_wanted(|delivery| wants(&delivery.message.topic));
            let mut others = self.seat.joins.iter_mut().enumerate();
            let other = others.find(|(other, join)| {
                *other != index
                    && !join.is_beside()
                    && wanted.front().is_some_and(|delivery| join.filter.matches(&delivery.message.topic))
            });
            match other {
                Some((_, other)) => other.send_first(wanted),
                // As if it came by a shared subscription: no later join holds it back or passes over it again.
                None => self.session.outbox().put_back(
                    wanted.into_iter().map(|delivery| Delivery { source: Source::Shared(0), ..delivery }),
                ),
            }
            self.end_join(index, wants);
        }
    }

    /// Stops the joins of filters that an earlier connection has unsubscribed from, and begins again what it has left.
    pub(super) fn follow_earlier(&mut self) {
        self.begin_again(Vec::new());
        let subscribed = self.session.own_filters();
        let interrupted = self.seat.interrupted.iter().map(|interrupted| &interrupted.filter);
        let joined = self.seat.joins.iter().map(|join| &join.filter);
        let unwanted = joined.chain(interrupted).filter(|filter| !subscribed.contains(filter));
        let stopped: Vec<TopicFilter> = unwanted.cloned().collect();
        for filter in &stopped {
            self.stop_joins(filter);
        }
    }

    /// Ends a join before its time; held messages of topics that are `wanted` go on.
    fn end_join(&mut self, index: usize, wanted: impl Fn(&TopicName) -> bool) {
        let Some(join) = self.seat.remove_join(index) else { return };
        self.seat.charge_joins(&self.shared.budget);
        self.looked_up_in_vain(join.unsent_retained());
        self.session.outbox().not_given(&join.unsent());
        match join.hold {
            Some(number) => self.session.release(&self.realm, number, wanted),
            None => self.unpark_if(|_| true),
        }
    }

    /// Whether retained messages may be looked up now; registers the task for when they may.
    fn may_look_up(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(look_ups) = &mut self.look_ups else { return true };
        look_ups.poll(cx);
        !look_ups.is_stopped()
    }

    fn looked_up_in_vain(&mut self, levels: usize) {
        if levels > 0 {
            self.look_ups.get_or_insert_with(|| Box::new(Rate::of_look_ups(IN_VAIN))).looked_up(levels);
        }
    }

    /// Gives the join at `index` the next page of the broker's retained messages.
    fn look_up_retained(&mut self, index: usize) {
        let Some(join) = self.seat.joins.get_mut(index) else { return };
        let Page { messages: mut retained, young, visited, next } =
            self.realm.retained_page(&join.filter, join.looked_up_to());
        let found = retained.len();
        retained.retain(|message| join.brings(message) && !join.is_own(message, &self.client.id));
        let mut outbox = self.session.outbox();
        if join.is_resumed {
            retained.retain(|message| !outbox.was_given(message.id));
        }
        let mut late = Vec::new();
        if let Some(number) = join.hold {
            // What has come live since the subscription was made is not sent as retained before older messages of its
            // topic.
            let (mut live, mut first) = (Ids::default(), HashMap::new());
            if !retained.is_empty() {
                for delivery in outbox.held(number) {
                    live.insert(delivery.message.id);
                    first.entry(delivery.message.topic.clone()).or_insert(delivery.message.id);
                }
            }
            retained.retain(|message| !live.contains(&message.id));
            let is_late =
                |message: &mut Arc<Message>| first.get(&message.topic).is_some_and(|id| *id < message.id);
            for message in retained.extract_if(.., is_late) {
                outbox.deliver_once(std::iter::once(message.id));
                outbox.follow(number, join.copy_of(message));
            }
        } else {
            // What waits, and was routed since the subscription was made, came live: once is enough. What is older than the
            // retained message of its topic goes first.
            let (mut live, mut oldest) = (Ids::default(), HashMap::new());
            let waiting = self.deliveries.live().chain(outbox.waiting_live());
            for delivery in waiting.filter(|delivery| join.filter.matches(&delivery.message.topic)) {
                let message = &delivery.message;
                if join.may_come_live(delivery) {
                    live.insert(message.id);
                }
                oldest.entry(message.topic.clone()).or_insert(message.id);
            }
            retained.retain(|message| !live.contains(&message.id));
            let is_late =
                |message: &mut Arc<Message>| oldest.get(&message.topic).is_some_and(|id| *id < message.id);
            late.extend(retained.extract_if(.., is_late));
        }
        // A live copy of what was retained just now is on its way too: it is not wanted, unless it is recorded for the client,
        // which the retained one is not.
        let is_recorded = self.session.is_recorded(&self.realm);
        let young: HashSet<MsgId> = young.into_iter().collect();
        let may_come = |message: &&Arc<Message>| {
            young.contains(&message.id) && !(is_recorded && message.qos > QoS::AtMostOnce)
        };
        let given: Vec<(MsgId, QoS)> = retained
            .iter()
            .chain(&late)
            .filter(may_come)
            .map(|message| (message.id, join.qos_of(message)))
            .collect();
        outbox.retained_just_now(&given);
        let until = outbox.progress().wrapping_add(outbox.len() as u64);
        drop(outbox);
        join.give_late(late.into_iter(), until);
        join.give_page(retained, next);
        if join.is_beside() {
            // The message that some of them wait for may have gone, and is looked for no more.
            let filter = join.filter.clone();
            self.unpark_if(|parked| filter.matches(&parked.message.topic));
        }
        self.looked_up_in_vain(visited.saturating_sub(found));
    }

    fn page(&mut self, index: usize, page: Arrived) {
        self.shared.metrics.backlog_pages.increment(1);
        let mut known: Ids = HashSet::default();
        known.extend(self.seat.inflight.iter().map(|sent| sent.acked_message().id));
        known.extend(self.deliveries.ids());
        // What an older join is to send comes by that one, what a younger one is to send comes by this one: a topic's
        // messages stay in order.
        let mut here = Ids::default();
        let ids: Ids = page.ids().collect();
        for (other, join) in self.seat.joins.iter_mut().enumerate() {
            if other < index {
                known.extend(join.listed_ids());
            } else if other > index {
                here.extend(join.unlist(&ids));
            }
        }
        let mut outbox = self.session.outbox();
        known.extend(outbox.waiting_ids());
        if let Some(join) = self.seat.joins.get_mut(index) {
            let ids =
                join.accept(page, |id| known.contains(&id) || (outbox.was_given(id) && !here.contains(&id)));
            outbox.deliver_once(ids.into_iter());
        }
    }

    /// All backlogs of a join are at their end: once more, if live messages were lost meanwhile that a store
    /// may have; else live ones follow.
    fn exhausted(&mut self, index: usize) {
        let Some(join) = self.seat.joins.get_mut(index) else { return };
        let lost = join.hold.and_then(|number| self.session.outbox().take_overflow(number));
        if let Some(delivered) = &lost {
            self.session.forget(&self.realm, delivered.iter());
            if join.again() {
                return;
            }
        }
        if lost.is_none() && join.read_to_the_end() {
            // Messages that the queue lost were among those read.
            self.take_losses();
            let Seat { joins, positions, .. } = &mut *self.seat;
            if let (Some(join), Some(positions)) = (joins.get(index), positions) {
                positions.read_to_the_end(&join.filter, || self.session.own_filters());
            }
        }
        if let Some(join) = self.seat.remove_join(index) {
            self.seat.charge_joins(&self.shared.budget);
            match join.hold {
                Some(number) => self.session.release(&self.realm, number, |_| true),
                None => self.unpark_if(|parked| join.filter.matches(&parked.message.topic)),
            }
            self.joined(&join.filter, join.ticket);
        }
    }

    /// Takes over what was lost on its way to this client: no position may pass it.
    pub(super) fn take_losses(&mut self) {
        if let Some(losses) = self.session.outbox().take_losses()
            && let Some(positions) = &mut self.seat.positions
        {
            positions.lost(*losses);
        }
    }

    /// The client has got message `id`, which a store may give it again: while one is read, and when it will be
    /// read from before this message on.
    pub(super) fn remember_given(&mut self, id: MsgId, held_back: bool) {
        if held_back || self.seat.reads_stores() || self.pipeline.is_subscribing() {
            self.session.outbox().already_given(std::iter::once(id));
        }
    }

    /// A delivery is acknowledged, written at QoS 0 or dropped: its join may go on.
    pub(super) fn feed_finished(&mut self, source: Source) {
        if let Source::Backlog(number) = source
            && let Some(join) = self.seat.joins.iter_mut().find(|join| join.hold == Some(number))
        {
            join.finished_one();
        }
    }

    /// Puts back a message of a join that was taken and not sent. Gives it back when there is no such join.
    pub(super) fn feed_put_back(&mut self, delivery: Delivery) -> Option<Delivery> {
        if let Source::Backlog(number) = delivery.source
            && let Some(join) = self.seat.joins.iter_mut().find(|join| join.hold == Some(number))
        {
            join.put_back(delivery);
            return None;
        }
        Some(delivery)
    }
}

/// Where the retained messages of a new subscription come from.
pub(super) fn retained_from(
    wanted: bool,
    stored: Option<Vec<Arc<tidegate_event::Message>>>,
    rest: Vec<Box<dyn tidegate_event::Backlog>>,
    expected: bool,
) -> RetainedFrom {
    match stored {
        _ if !wanted => RetainedFrom::Nowhere,
        Some(first) => RetainedFrom::Store(first, rest),
        // Else there was nothing retained when the subscription was made, and all since came live.
        None if expected => RetainedFrom::Broker,
        None => RetainedFrom::Nowhere,
    }
}
