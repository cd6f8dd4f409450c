//! Stored messages on their way to the client: drives the joins of its subscriptions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::task::Context;

use tidegate_event::{Message, MsgId, Shown, TopicFilter, TopicName};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use crate::limits::rate::Rate;
use crate::retained::Page;
use crate::session::Seat;
use crate::session::delivery::{Delivery, Source};
use crate::session::join::{Advance, Arrived, Ids, Join, RetainedFrom};

/// Joins that go on at once, oldest first; the others wait for their turn.
const ACTIVE: usize = 16;
/// Joins of one client from which on a SUBSCRIBE waits.
const JOINS: usize = 64;
/// What the joins may do before other parts of the connection have their turn.
const STEPS: usize = 4 * ACTIVE;
/// How many steps a look-up of retained messages is.
const LOOK_UP: usize = ACTIVE;
/// Levels of retained topics that may be visited in vain in a second, for one client: because no message is there, or
/// because the client does not want it any more when it is found. A look-up waits when there were more.
const IN_VAIN: u64 = 200_000;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Whether more subscriptions may be made: what the last ones brought has mostly been taken by the client.
    pub(super) fn may_join(&self) -> bool {
        self.seat.joins.len() < JOINS && self.undelivered() <= self.shared.config.queue_limit()
    }

    fn undelivered(&self) -> usize {
        self.seat.joins.iter().map(Join::undelivered).sum()
    }

    /// Moves every join as far as it can go. Gives whether any moved.
    pub(super) fn poll_feeds(&mut self, cx: &mut Context<'_>) -> bool {
        let (mut index, mut steps) = (0, 0);
        let may_look_up = self.may_look_up(cx);
        while index < ACTIVE && steps < STEPS {
            let Some(join) = self.seat.joins.get_mut(index) else { break };
            match join.advance(cx) {
                Advance::Wait => {
                    index += 1;
                    continue;
                }
                Advance::LookUp => {
                    // Those of a few wildcards at a time.
                    if !may_look_up || index > 0 && self.undelivered() > self.shared.config.queue_limit() {
                        index += 1;
                        continue;
                    }
                    self.look_up_retained(index);
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
        // A live copy of what was retained just now is on its way too.
        self.session.outbox().deliver_once(join.unsent().into_iter());
        self.seat.add_join(join);
    }

    /// The client no longer subscribes to `filter`: nothing more is read for it.
    pub(super) fn stop_joins(&mut self, filter: &TopicFilter) {
        while let Some(index) = self.seat.joins.iter().position(|join| join.filter == *filter) {
            let (realm, number) = (Arc::clone(&self.realm), self.session.number);
            let wants = |topic: &TopicName| realm.tree.reaches(topic, number);
            let Some(join) = self.seat.joins.get_mut(index) else { return };
            // Another subscription's join has passed over what this one was to deliver.
            let wanted = join.take_wanted(|delivery| wants(&delivery.message.topic));
            let mut others = self.seat.joins.iter_mut().enumerate();
            let other = others.find(|(other, join)| {
                *other != index
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

    /// Stops the joins of filters that an earlier connection has unsubscribed from.
    pub(super) fn stop_unwanted_joins(&mut self) {
        let subscribed = self.session.own_filters();
        let stopped: Vec<TopicFilter> = self
            .seat
            .joins
            .iter()
            .filter(|join| !subscribed.contains(&join.filter))
            .map(|join| join.filter.clone())
            .collect();
        for filter in &stopped {
            self.stop_joins(filter);
        }
    }

    /// Ends a join before its time; held messages of topics that are `wanted` go on.
    fn end_join(&mut self, index: usize, wanted: impl Fn(&TopicName) -> bool) {
        let Some(join) = self.seat.remove_join(index) else { return };
        self.looked_up_in_vain(join.unsent_retained());
        self.session.outbox().not_given(&join.unsent());
        self.session.release(&self.realm, join.number, wanted);
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
        let Page { messages: mut retained, mut young, visited, next } =
            self.realm.retained_page(&join.filter, join.looked_up_to());
        let found = retained.len();
        retained.retain(|message| !join.is_own(message, &self.client.id));
        let mut outbox = self.session.outbox();
        let (mut live, mut first) = (Ids::default(), HashMap::new());
        if !retained.is_empty() {
            for delivery in outbox.held(join.number) {
                live.insert(delivery.message.id);
                first.entry(delivery.message.topic.clone()).or_insert(delivery.message.id);
            }
        }
        if !live.is_empty() {
            // What has come live since the subscription was made is not sent as retained before older messages of its
            // topic.
            retained.retain(|message| !live.contains(&message.id));
            young.retain(|id| !live.contains(id));
            let is_late = |message: &Message| first.get(&message.topic).is_some_and(|id| *id < message.id);
            let late = retained.extract_if(.., |message| is_late(message));
            for message in late {
                outbox.deliver_once(std::iter::once(message.id));
                outbox.follow(join.number, join.copy_of(message));
            }
        }
        // A live copy of what was retained just now is on its way too.
        outbox.retained_just_now(&young);
        drop(outbox);
        join.give_page(retained, next);
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
        let lost = self.session.outbox().take_overflow(join.number);
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
            self.session.release(&self.realm, join.number, |_| true);
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
            && let Some(join) = self.seat.joins.iter_mut().find(|join| join.number == number)
        {
            join.finished_one();
        }
    }

    /// Puts back a message of a join that was taken and not sent. Gives it back when there is no such join.
    pub(super) fn feed_put_back(&mut self, delivery: Delivery) -> Option<Delivery> {
        if let Source::Backlog(number) = delivery.source
            && let Some(join) = self.seat.joins.iter_mut().find(|join| join.number == number)
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
    held: bool,
) -> RetainedFrom {
    match stored {
        _ if !wanted => RetainedFrom::Nowhere,
        Some(first) => RetainedFrom::Store(first, rest),
        // Without a hold there was nothing retained when the subscription was made, and all since came live.
        None if held => RetainedFrom::Broker,
        None => RetainedFrom::Nowhere,
    }
}
