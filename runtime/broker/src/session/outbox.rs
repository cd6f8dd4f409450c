//! What waits for one client: its queue, the live messages that a join holds back, and commands to it.
//!
//! Everything here is under one lock that publishers take for one push and the client's connection for one
//! batch; no other client is ever waited for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use foldhash::fast::RandomState;
use tidegate_event::{Message, MsgId, QoS, TopicFilter, TopicName, now_ms};

use super::Interrupted;
use super::delivery::{Delivery, Rank, Source};
use super::hold::Holds;
use super::loss::Losses;
use super::patience::Patience;
use super::queue::{Displaced, Place, Queue};
use super::recent::Recent;
use crate::control::Command;
use crate::limits::QueueLimits;
use crate::limits::budget::{Account, Budget};
use crate::route::ReadAt;

/// Places that an empty queue may keep while its client is idle.
pub(crate) const IDLE_CAPACITY: usize = 64;

/// Bytes of a read buffer that a message may keep alive besides itself, for a client that takes what it is sent at once, and
/// for another.
const PINNED_MOST: u64 = 5 * 1024;
pub(crate) const PINNED: u64 = 512;
/// Messages that may wait for a client, or be in flight to it, before it is such another.
pub(crate) const FEW: usize = 8;

/// How a push ended.
#[derive(Debug)]
pub(crate) enum Room {
    /// There is a place for it.
    Free,
    /// There is a place, because these older QoS 0 messages were dropped.
    Displaced(Displaced),
    /// The queue is full of messages that must not be dropped.
    Full,
    /// The memory of all queues is used up.
    OverBudget,
    /// Too many live messages wait for stored ones. Those that a store has come from there.
    HoldFull,
    /// QoS 0 to a client that is not connected: not kept.
    Away,
    /// A copy of what the client was just given: not kept, no loss.
    Unwanted,
    /// The session has ended.
    Closed,
}

/// What waits for one client.
#[derive(Default)]
pub(crate) struct Outbox {
    waiting: Queue,
    /// How many the connection has taken and cannot send yet: they still count.
    taken: usize,
    /// Memory of those that were taken last, which are perhaps not sent yet.
    taken_bytes: usize,
    /// Memory of those that were sent and not acknowledged when the connection looked last.
    flying: usize,
    /// How many the connection has taken in its life.
    progress: u64,
    /// Of what was pushed last.
    rank: Rank,
    /// How long publishers still wait for it.
    pub(crate) patience: Patience,
    account: Account,
    holds: Holds,
    losses: Option<Box<Losses>>,
    recent: Option<Box<Recent>>,
    commands: VecDeque<Command>,
    /// Publishers that wait for room, by the number of their connection, and how few messages and bytes they wait for.
    publishers: HashMap<u64, Waker, RandomState>,
    room_at: (usize, usize),
    /// The connection's task, while it sleeps.
    waker: Option<Waker>,
    /// Whether a message should wake it: not while it waits for acknowledgements or for its socket.
    wants_messages: bool,
    connected: bool,
    closed: bool,
    /// From where the last message was read: the connection and the position.
    read_from: u64,
    read_to: u64,
}

impl Outbox {
    /// Bytes of a read buffer that a message of `size` from there keeps alive, besides itself and those before it.
    #[inline]
    pub(super) fn pinned(&mut self, from: &ReadAt, size: usize) -> u64 {
        if from.connection == 0 {
            return 0;
        }
        let pinned = if self.read_from == from.connection {
            from.position.saturating_sub(self.read_to)
        } else {
            from.buffer as u64
        };
        (self.read_from, self.read_to) = (from.connection, from.position);
        pinned.saturating_sub(size as u64)
    }

    /// Whether a message that keeps so many bytes alive is to be copied, because it may wait for long.
    #[inline]
    pub(super) fn is_too_much(&self, pinned: u64) -> bool {
        let is_stuck = self.waker.is_some() && !self.wants_messages;
        pinned > PINNED_MOST || (pinned > PINNED && (is_stuck || self.waiting.len() >= FEW))
    }

    /// Memory of the messages in it, bytes.
    fn queued(&self) -> usize {
        self.waiting.weight() + self.taken_bytes + self.holds.weight()
    }

    /// What counts for it of the memory of all queues, bytes.
    fn weight(&self) -> usize {
        self.queued() + self.recent.as_ref().map_or(0, |recent| recent.weight())
    }

    /// Counts what it takes now against `budget`. A client that is away leaves nothing reserved beyond that: it may be long
    /// before anything else happens to its queue.
    #[inline]
    fn charge(&mut self, budget: &Arc<Budget>) {
        let weight = self.weight();
        self.account.settle(budget, weight);
        if !self.connected {
            self.account.rest(weight);
        }
    }

    /// Something was taken out, or nothing happens to it for a while: no more stays reserved than what it takes now.
    fn rest(&mut self) {
        let weight = self.weight();
        self.account.rest(weight);
    }

    /// Whether the memory of all queues allows `delivery`.
    fn is_admitted(&self, delivery: &Delivery, budget: &Budget) -> bool {
        budget.admits(self.queued(), self.connected.then_some(self.flying), delivery.qos)
    }

    /// The client has not acknowledged messages of `bytes`.
    pub(crate) fn flies(&mut self, bytes: usize) {
        self.flying = bytes;
    }

    /// Whether `delivery`, which is of a shared subscription, may be pushed without dropping anything for it.
    pub(crate) fn has_room(&self, delivery: &Delivery, limits: QueueLimits<'_>) -> bool {
        let away = !self.connected && delivery.qos == QoS::AtMostOnce;
        !self.closed
            && !away
            && self.is_admitted(delivery, limits.budget)
            && self.waiting.fits(
                delivery.size(),
                limits.messages.saturating_sub(self.taken),
                limits.bytes.saturating_sub(self.taken_bytes),
            )
    }

    /// Whether anything that waits may have expired: then it goes before anything is refused for it
    /// ([`Outbox::take_expired`]).
    pub(crate) fn may_have_expired(&self, now_ms: u64) -> bool {
        self.waiting.may_have_expired(now_ms) || self.holds.may_have_expired(now_ms)
    }

    /// Takes out what has expired at `now_ms` (MQTT 5 clause 3.3.2.3.3).
    pub(crate) fn take_expired(&mut self, now_ms: u64, budget: &Arc<Budget>) -> VecDeque<Delivery> {
        let mut expired = VecDeque::new();
        self.waiting.take_expired(now_ms, &mut expired);
        self.holds.take_expired(now_ms, &mut expired);
        self.charge(budget);
        expired
    }

    /// Whether `delivery` may be pushed; makes room for it. Follow [`Room::Free`] and [`Room::Displaced`] with
    /// [`Outbox::push`], and what was displaced, or found no room, with [`Outbox::note_loss`].
    pub(crate) fn make_room(&mut self, delivery: &Delivery, limits: QueueLimits<'_>) -> Room {
        if self.closed {
            return Room::Closed;
        }
        if !self.connected && delivery.qos == QoS::AtMostOnce {
            return Room::Away;
        }
        if let Some(recent) = &self.recent
            && delivery.source == Source::Live
        {
            if recent.covers(delivery.message.id, delivery.qos) {
                return Room::Unwanted;
            }
            self.forget_stale();
        }
        if !self.is_admitted(delivery, limits.budget) {
            return Room::OverBudget;
        }
        let size = delivery.size();
        let (place, full) = match self.holds.of(delivery) {
            None => {
                let messages = limits.messages.saturating_sub(self.taken);
                let bytes = limits.bytes.saturating_sub(self.taken_bytes);
                (self.waiting.make_room(size, messages, bytes), Room::Full)
            }
            Some(hold) => (hold.make_room(size, limits.messages, limits.bytes), Room::HoldFull),
        };
        match place {
            Place::Free => Room::Free,
            Place::Displaced(older) => Room::Displaced(older),
            Place::None => full,
        }
    }

    /// Puts `delivery` where it belongs. Gives the task to wake, if it sleeps and waits for messages.
    pub(crate) fn push(&mut self, mut delivery: Delivery, budget: &Arc<Budget>) -> Option<Waker> {
        self.rank = self.rank.next();
        delivery.rank = self.rank;
        let waker = match self.holds.of(&delivery) {
            Some(hold) => {
                hold.push(delivery);
                None
            }
            None => {
                self.waiting.push(delivery);
                if self.wants_messages { self.waker.take() } else { None }
            }
        };
        self.charge(budget);
        waker
    }

    /// `delivery` is lost to the client, unless it reads it from its store. `positional`: no position may pass it.
    pub(crate) fn note_loss(&mut self, delivery: &Delivery, positional: bool) {
        let message = &delivery.message;
        self.holds.lost(&message.topic);
        if positional {
            self.losses.get_or_insert_default().note(&message.topic, message.id);
        }
    }

    /// What was noted since the last call.
    pub(crate) fn take_losses(&mut self) -> Option<Box<Losses>> {
        self.losses.take()
    }

    /// How many messages wait, held ones not counted.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether more than half of what may wait waits, and a wait for the client would not be in vain.
    pub(crate) fn is_crowded(&self, limits: QueueLimits<'_>) -> bool {
        (self.waiting.len() > limits.messages / 2 || self.waiting.bytes() > limits.bytes / 2)
            && self.connected
            && self.patience.is_left()
    }

    /// Moves up to `most` messages to `batch`, fewer when they are large. Those taken before are sent.
    pub(crate) fn take(&mut self, batch: &mut VecDeque<Delivery>, most: usize) {
        let (before, weight) = (self.waiting.len(), self.waiting.weight());
        self.taken = 0;
        self.waiting.take(batch, most);
        let taken = (before - self.waiting.len()) as u64;
        self.taken_bytes = weight - self.waiting.weight();
        self.progress = self.progress.wrapping_add(taken);
        self.patience.took(taken);
    }

    /// Whether at most a quarter of what may wait waits; else the publisher of this `connection` is woken by `waker`
    /// when that is so.
    pub(crate) fn await_room(&mut self, connection: u64, waker: &Waker, limits: QueueLimits<'_>) -> bool {
        self.room_at = (limits.messages / 4, limits.bytes / 4);
        if !self.connected || self.is_roomy() {
            return true;
        }
        self.publishers.entry(connection).or_insert_with(|| waker.clone()).clone_from(waker);
        false
    }

    fn is_roomy(&self) -> bool {
        let (messages, bytes) = self.room_at;
        self.waiting.len() <= messages && self.waiting.bytes() <= bytes
    }

    /// The publisher of this `connection` waits no longer.
    pub(crate) fn forget_publisher(&mut self, connection: u64) {
        self.publishers.remove(&connection);
    }

    /// How many messages the client's connections have taken so far: a client that is stuck takes none.
    pub(crate) fn progress(&self) -> u64 {
        self.progress
    }

    /// The rank of what comes next: what is here already was before it.
    pub(crate) fn next_rank(&self) -> Rank {
        self.rank.next()
    }

    /// The publishers to wake because there is room.
    pub(crate) fn relieved(&mut self) -> Vec<Waker> {
        if self.publishers.is_empty() || !self.is_roomy() {
            return Vec::new();
        }
        std::mem::take(&mut self.publishers).into_values().collect()
    }

    /// Puts back what was taken and not sent, before everything else.
    pub(crate) fn put_back(&mut self, batch: impl DoubleEndedIterator<Item = Delivery>) {
        self.taken = 0;
        self.taken_bytes = 0;
        for delivery in batch.rev() {
            self.progress = self.progress.wrapping_sub(1);
            self.waiting.push_front(delivery);
        }
    }

    /// Takes out what waits of the shared subscriptions of those groups that `wanted` is true of. It counts for whoever gets it.
    pub(crate) fn take_shared(&mut self, wanted: impl Fn(u32) -> bool) -> VecDeque<Delivery> {
        let taken = self.waiting.extract(
            |delivery| matches!(delivery.source, Source::Shared(group) if group > 0 && wanted(group)),
        );
        self.rest();
        taken.into_deliveries()
    }

    /// The first message that waits of the shared subscription of the group `number`.
    pub(crate) fn first_shared(&self, number: u32) -> Option<Arc<Message>> {
        let mut waiting = self.waiting.iter();
        let first = waiting.find(|delivery| delivery.source == Source::Shared(number))?;
        Some(Arc::clone(&first.message))
    }

    /// Takes out what waits and `is_unwanted`.
    pub(crate) fn take_unwanted(&mut self, is_unwanted: impl Fn(&Delivery) -> bool) -> VecDeque<Delivery> {
        let taken = self.waiting.extract(is_unwanted);
        self.rest();
        taken.into_deliveries()
    }

    /// Puts back what was taken out and nobody else takes.
    pub(crate) fn return_shared(&mut self, deliveries: VecDeque<Delivery>, budget: &Arc<Budget>) {
        for delivery in deliveries.into_iter().rev() {
            self.waiting.push_front(delivery);
        }
        self.charge(budget);
    }

    /// Holds live messages that match `filter` back until [`Outbox::release`] of the number it gives: those that
    /// wait already too, because what is stored may be older.
    pub(crate) fn hold(&mut self, filter: TopicFilter) -> u32 {
        let held = self
            .waiting
            .extract(|delivery| delivery.source == Source::Live && filter.matches(&delivery.message.topic));
        self.holds.begin(filter, held)
    }

    /// The connection that was to bring what goes before hold `number` has ended: the client's next one begins with it again.
    /// `retained`: retained messages are to come too.
    pub(crate) fn leave(&mut self, number: u32, retained: bool) {
        self.holds.leave(number, retained);
    }

    /// What was left since the last call.
    pub(crate) fn take_left(&mut self) -> Vec<Interrupted> {
        self.holds.take_left()
    }

    /// How many subscriptions wait for stored messages.
    pub(crate) fn holds(&self) -> usize {
        self.holds.len()
    }

    /// The messages that hold `number` keeps back.
    pub(crate) fn held(&self, number: u32) -> impl Iterator<Item = &Delivery> {
        self.holds.held(number)
    }

    /// Puts the copy of a retained message behind the messages that hold `number` keeps back so far: some of them are
    /// of its topic, and older.
    pub(crate) fn follow(&mut self, number: u32, copy: Delivery) {
        self.holds.append(number, copy);
    }

    /// Whether live messages of a hold were lost to its bound since it was last asked; those that stores have
    /// can be read from there. Gives those that the stores have delivered by now, which are held no longer.
    pub(crate) fn take_overflow(&mut self, number: u32) -> Option<VecDeque<Delivery>> {
        if !self.holds.take_overflow(number) {
            return None;
        }
        let Some(recent) = &self.recent else { return Some(VecDeque::new()) };
        let delivered = self.holds.extract(number, |delivery| {
            delivery.source == Source::Live && recent.contains(delivery.message.id)
        });
        Some(delivered.into_deliveries())
    }

    /// Ends a hold: what `wanted` is true of follows the messages that wait. Gives the others, and those that
    /// the client was given meanwhile.
    pub(crate) fn release(&mut self, number: u32, wanted: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let mut unwanted = Vec::new();
        for delivery in self.holds.end(number).into_deliveries() {
            let given = delivery.source == Source::Live && self.was_given(delivery.message.id);
            if given || !wanted(&delivery) {
                unwanted.push(delivery);
                continue;
            }
            // It may match another subscription that still waits for its stored messages.
            match self.holds.of(&delivery) {
                Some(other) => other.push(delivery),
                None => self.waiting.push(delivery),
            }
        }
        self.rest();
        unwanted
    }

    /// Forgets what the client was given so long ago that nothing of it can come again.
    fn forget_stale(&mut self) {
        if self.recent.as_ref().is_some_and(|recent| recent.is_stale()) {
            self.recent = None;
        }
    }

    fn recent(&mut self) -> &mut Recent {
        self.recent.get_or_insert_with(|| Box::new(Recent::new()))
    }

    /// The client is given `ids` out of a store: live copies of them are not wanted.
    pub(crate) fn deliver_once(&mut self, ids: impl Iterator<Item = MsgId>) {
        let now = now_ms();
        let recent = self.recent();
        ids.for_each(|id| recent.insert(id, now));
    }

    /// The client is given what has these ids, at these QoS, which the broker has retained just now: live copies of it are
    /// not wanted, unless they are of a greater QoS.
    pub(crate) fn retained_just_now(&mut self, given: &[(MsgId, QoS)]) {
        if !given.is_empty() {
            let recent = self.recent();
            given.iter().for_each(|&(id, qos)| recent.insert_briefly(id, qos));
        }
    }

    /// The client has got `ids`, however old they are: a store that is being read need not give them.
    pub(crate) fn already_given(&mut self, ids: impl Iterator<Item = MsgId>) {
        let recent = self.recent();
        ids.for_each(|id| recent.insert_of_any_age(id));
    }

    /// The client is not given `ids` after all.
    pub(crate) fn not_given(&mut self, ids: &HashSet<MsgId, RandomState>) {
        if let Some(recent) = &mut self.recent
            && !ids.is_empty()
        {
            recent.remove(ids);
        }
    }

    /// Whether the client was given message `id` out of a store, or while one was read, lately.
    pub(crate) fn was_given(&self, id: MsgId) -> bool {
        self.recent.as_ref().is_some_and(|recent| recent.contains(id))
    }

    /// The live messages that wait, oldest first.
    pub(crate) fn waiting_live(&self) -> impl Iterator<Item = &Delivery> {
        self.waiting.iter().filter(|delivery| delivery.source == Source::Live)
    }

    /// Ids of everything that waits.
    pub(crate) fn waiting_ids(&self) -> impl Iterator<Item = MsgId> {
        self.waiting.iter().map(|delivery| delivery.message.id)
    }

    /// Topics of everything that waits.
    pub(crate) fn waiting_topics(&self) -> impl Iterator<Item = &TopicName> {
        self.waiting.iter().map(|delivery| &delivery.message.topic)
    }

    /// Queues a command for the connection. Gives the connection's task, if it sleeps.
    pub(crate) fn command(
        &mut self,
        command: Command,
        limit: usize,
    ) -> Result<Option<Waker>, CommandRefused> {
        if !self.connected {
            return Err(CommandRefused::NotConnected);
        }
        // A client that floods its own queue can still be disconnected, and gets its answers.
        if self.commands.len() >= limit && !command.is_urgent() {
            return Err(CommandRefused::Full);
        }
        if matches!((&command, self.commands.back()), (Command::Disconnect, Some(Command::Disconnect))) {
            return Ok(None);
        }
        self.commands.push_back(command);
        Ok(self.waker.take())
    }

    /// The next command; without `enqueue` one that the pipeline need not take.
    pub(crate) fn next_command(&mut self, enqueue: bool) -> Option<Command> {
        if enqueue {
            return self.commands.pop_front();
        }
        let index = self.commands.iter().position(|command| !command.is_enqueued())?;
        self.commands.remove(index)
    }

    /// Whether [`Outbox::next_command`] would give one.
    pub(crate) fn has_commands(&self, enqueue: bool) -> bool {
        self.commands.iter().any(|command| enqueue || !command.is_enqueued())
    }

    /// The connection goes to sleep with `taken` messages that it cannot send yet: `waker` wakes it for commands, and for
    /// messages if it wants any.
    pub(crate) fn sleep(&mut self, waker: &Waker, wants_messages: bool, taken: usize) {
        self.wants_messages = wants_messages;
        self.taken = taken;
        if taken == 0 {
            self.taken_bytes = 0;
            if wants_messages && self.waiting.len() == 0 {
                self.patience.caught_up();
            }
        }
        self.waiting.shrink(IDLE_CAPACITY);
        self.forget_stale();
        self.rest();
        match &mut self.waker {
            Some(known) if known.will_wake(waker) => {}
            other => *other = Some(waker.clone()),
        }
    }

    /// The task to wake for something other than a message.
    pub(crate) fn nudge(&mut self) -> Option<Waker> {
        self.waker.take()
    }

    /// Whether a connection is there.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// A connection is there.
    pub(crate) fn connect(&mut self) {
        self.connected = true;
    }

    /// The connection is gone. QoS 0 messages are not kept for it; `notes`: a store may have them. Gives the
    /// publishers that waited.
    pub(crate) fn disconnect(&mut self, notes: bool, budget: &Arc<Budget>) -> Vec<Waker> {
        self.connected = false;
        self.taken = 0;
        self.taken_bytes = 0;
        self.flying = 0;
        self.patience = Patience::default();
        self.wants_messages = false;
        self.waker = None;
        self.commands = VecDeque::new();
        self.forget_stale();
        let Self { waiting, holds, losses, .. } = self;
        let mut lost = |delivery: &Delivery| {
            if notes && delivery.message.qos != QoS::AtMostOnce {
                losses.get_or_insert_default().note(&delivery.message.topic, delivery.message.id);
            }
        };
        holds.settle_down(&mut lost);
        waiting.settle_down(|delivery| {
            lost(delivery);
            holds.lost(&delivery.message.topic);
        });
        self.charge(budget);
        std::mem::take(&mut self.publishers).into_values().collect()
    }

    /// The session ends: nothing waits any more and nothing comes. Gives what waited of shared subscriptions.
    pub(crate) fn close(&mut self) -> VecDeque<Delivery> {
        let (waker, shared) = (self.waker.take(), self.take_shared(|_| true));
        *self = Self { closed: true, waker, ..Self::default() };
        shared
    }
}

/// Why a command was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandRefused {
    /// Nobody is connected.
    NotConnected,
    /// Too many wait.
    Full,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::session::{test_delivery, test_message};

    fn delivery(topic: &str, qos: QoS, id: u128) -> Delivery {
        test_delivery(test_message(topic, qos, id), Source::Live)
    }

    fn offer(outbox: &mut Outbox, delivery: Delivery, limit: usize) -> Room {
        offer_within(outbox, delivery, (limit, usize::MAX), &Arc::new(Budget::new(usize::MAX)))
    }

    fn offer_within(
        outbox: &mut Outbox,
        delivery: Delivery,
        (messages, bytes): (usize, usize),
        budget: &Arc<Budget>,
    ) -> Room {
        let room = outbox.make_room(&delivery, QueueLimits { messages, bytes, budget });
        if matches!(room, Room::Free | Room::Displaced(_)) {
            outbox.push(delivery, budget);
        }
        room
    }

    fn drain(outbox: &mut Outbox) -> Vec<u128> {
        let mut batch = VecDeque::new();
        outbox.take(&mut batch, usize::MAX);
        batch.iter().map(|delivery| delivery.message.id.bits()).collect()
    }

    #[test]
    fn a_full_queue_drops_qos_0_first_then_the_new_message() {
        let mut outbox = Outbox { connected: true, ..Outbox::default() };
        assert!(matches!(offer(&mut outbox, delivery("t", QoS::AtLeastOnce, 1), 3), Room::Free));
        assert!(matches!(offer(&mut outbox, delivery("t", QoS::AtMostOnce, 2), 3), Room::Free));
        assert!(matches!(offer(&mut outbox, delivery("t", QoS::AtLeastOnce, 3), 3), Room::Free));
        assert!(matches!(offer(&mut outbox, delivery("t", QoS::AtLeastOnce, 4), 3), Room::Displaced(_)));
        assert!(matches!(offer(&mut outbox, delivery("t", QoS::AtLeastOnce, 5), 3), Room::Full));
        assert!(matches!(offer(&mut outbox, delivery("t", QoS::AtMostOnce, 6), 3), Room::Full));
        assert_eq!(drain(&mut outbox), [1, 3, 4]);
    }

    #[test]
    fn a_queue_that_is_full_by_bytes_drops_as_many_of_qos_0_as_it_must() {
        let mut outbox = Outbox { connected: true, ..Outbox::default() };
        let sized = |qos, id: u128, bytes: usize| {
            let mut delivery = delivery("t", qos, id);
            let payload = bytes::Bytes::from(vec![0; bytes]);
            delivery.message = Arc::new(tidegate_event::Message { payload, ..(*delivery.message).clone() });
            delivery
        };
        let empty = sized(QoS::AtMostOnce, 0, 0).size();
        let budget = Arc::new(Budget::new(usize::MAX));
        let limits = (1_000, 4 * (empty + 1_000));
        let mut offer = |qos, id, bytes| offer_within(&mut outbox, sized(qos, id, bytes), limits, &budget);
        assert!(matches!(offer(QoS::AtLeastOnce, 1, 1_000), Room::Free));
        for id in 2..=4 {
            assert!(matches!(offer(QoS::AtMostOnce, id, 1_000), Room::Free));
        }
        assert!(matches!(offer(QoS::AtLeastOnce, 5, 4_000), Room::Full), "nothing is dropped in vain");
        match offer(QoS::AtLeastOnce, 6, 2_000) {
            Room::Displaced(older) => assert_eq!(older.len(), 2),
            other => panic!("{other:?}"),
        }
        assert!(budget.used() > 3_000);
        assert_eq!(drain(&mut outbox), [1, 4, 6]);
        assert!(budget.used() > 3_000, "they are not sent yet");
        outbox.sleep(Waker::noop(), true, 0);
        assert_eq!(budget.used(), 0);
        let mut offer = |qos, id, bytes| offer_within(&mut outbox, sized(qos, id, bytes), limits, &budget);
        assert!(matches!(offer(QoS::AtLeastOnce, 7, 1 << 20), Room::Free), "a great one passes through");
        assert!(matches!(offer(QoS::AtLeastOnce, 8, 0), Room::Full));
        assert_eq!(budget.used(), 0, "its payload counts elsewhere");
    }

    /// Neighbours in a buffer that all wait keep no more than what they are; copies of them would slow every publisher down.
    #[test]
    fn only_what_lies_apart_from_the_last_message_keeps_more_than_itself() {
        let mut outbox = Outbox { connected: true, ..Outbox::default() };
        let read_at = |connection, position| ReadAt { connection, position, buffer: 4_096 };
        assert_eq!(outbox.pinned(&ReadAt::default(), 10), 0, "it was not read from a connection");
        assert_eq!(outbox.pinned(&read_at(1, 5_000), 1_000), 3_096, "who knows what else is in the buffer");
        for position in [6_010, 7_020, 8_030] {
            let pinned = outbox.pinned(&read_at(1, position), 1_000);
            assert_eq!(pinned, 10);
            assert!(!outbox.is_too_much(pinned));
        }
        let pinned = outbox.pinned(&read_at(1, 10_000), 20);
        assert!(pinned > PINNED && !outbox.is_too_much(pinned), "it goes straight out");
        outbox.sleep(Waker::noop(), false, 1);
        assert!(outbox.is_too_much(pinned), "it waits");
        let pinned = outbox.pinned(&read_at(1, 70_000), 20);
        outbox.sleep(Waker::noop(), true, 0);
        assert!(outbox.is_too_much(pinned), "however short");
    }

    #[test]
    fn a_batch_is_bounded_in_bytes() {
        let mut outbox = Outbox { connected: true, ..Outbox::default() };
        for id in 1..=5 {
            let mut delivery = delivery("t", QoS::AtLeastOnce, id);
            let payload = bytes::Bytes::from(vec![0; 600_000]);
            delivery.message = Arc::new(tidegate_event::Message { payload, ..(*delivery.message).clone() });
            offer(&mut outbox, delivery, 10);
        }
        assert_eq!(
            [drain(&mut outbox), drain(&mut outbox), drain(&mut outbox)],
            [vec![1, 2], vec![3, 4], vec![5]]
        );
    }

    #[test]
    fn qos_0_is_not_kept_for_a_client_that_is_away() {
        let mut outbox = Outbox { connected: true, ..Outbox::default() };
        offer(&mut outbox, delivery("t", QoS::AtMostOnce, 1), 10);
        offer(&mut outbox, delivery("t", QoS::AtLeastOnce, 2), 10);
        outbox.disconnect(false, &Arc::new(Budget::new(usize::MAX)));
        assert!(matches!(offer(&mut outbox, delivery("t", QoS::AtMostOnce, 3), 10), Room::Away));
        assert!(matches!(offer(&mut outbox, delivery("t", QoS::AtLeastOnce, 4), 10), Room::Free));
        assert_eq!(drain(&mut outbox), [2, 4]);
    }

    #[test]
    fn held_messages_follow_when_released_without_those_delivered_meanwhile() {
        let mut outbox = Outbox { connected: true, ..Outbox::default() };
        let first = outbox.hold("a/#".parse().unwrap());
        let second = outbox.hold("a/b".parse().unwrap());
        for (topic, id) in [("a/b", 1), ("x", 2), ("a/b", 3), ("a/c", 4)] {
            offer(&mut outbox, delivery(topic, QoS::AtLeastOnce, id << 64), 10);
        }
        let id = |n: u128| n << 64;
        assert_eq!(drain(&mut outbox), [id(2)]);
        let recent = outbox.recent.insert(Box::new(Recent::new()));
        recent.insert(MsgId::from_bits(id(3)), 0);
        let dropped = outbox.release(first, |_| true);
        assert_eq!(dropped.len(), 1);
        assert_eq!(drain(&mut outbox), [id(4)], "a/b still waits for the other join");
        outbox.release(second, |_| true);
        assert_eq!(drain(&mut outbox), [id(1)]);
        assert!(matches!(offer(&mut outbox, delivery("q", QoS::AtLeastOnce, id(3)), 10), Room::Unwanted));
    }

    /// As much as 8 KiB stayed reserved for each session whose messages had expired.
    #[test]
    fn what_has_expired_is_not_reserved_for_a_client_that_is_away() {
        let (mut outbox, budget) = (Outbox::default(), Arc::new(Budget::new(usize::MAX)));
        for id in 1..=2 {
            let mut delivery = delivery("t", QoS::AtLeastOnce, id);
            let properties =
                tidegate_event::PublishProperties { message_expiry: Some(1), ..Default::default() };
            delivery.message = Arc::new(tidegate_event::Message {
                payload: vec![0; 3_000].into(),
                properties: Some(Box::new(properties)),
                ..(*delivery.message).clone()
            });
            outbox.push(delivery, &budget);
        }
        assert!(budget.used() > 5_000, "{}", budget.used());
        assert_eq!((outbox.take_expired(now_ms(), &budget).len(), budget.used()), (2, 0));
    }

    /// A live message of QoS 2, due to another subscription, was dropped because its retained copy was sent at QoS 0.
    #[test]
    fn a_retained_copy_stands_for_a_live_message_of_no_greater_qos() {
        let mut outbox = Outbox { connected: true, ..Outbox::default() };
        outbox.retained_just_now(&[(MsgId::from_bits(1), QoS::AtLeastOnce)]);
        for (qos, wanted) in [(QoS::AtMostOnce, false), (QoS::AtLeastOnce, false), (QoS::ExactlyOnce, true)] {
            let room = offer(&mut outbox, delivery("t", qos, 1), 10);
            assert_eq!(matches!(room, Room::Free), wanted, "{room:?}");
        }
    }

    #[test]
    fn an_overflowing_hold_asks_the_stores_again() {
        let mut outbox = Outbox { connected: true, ..Outbox::default() };
        let number = outbox.hold("#".parse().unwrap());
        for id in 1..=3_u128 {
            let delivery = delivery("t", QoS::AtLeastOnce, id << 64);
            if matches!(offer(&mut outbox, delivery.clone(), 2), Room::HoldFull) {
                outbox.note_loss(&delivery, true);
            }
        }
        let recent = outbox.recent.insert(Box::new(Recent::new()));
        recent.insert(MsgId::from_bits(1 << 64), 0);
        let delivered = outbox.take_overflow(number).unwrap();
        assert_eq!(delivered.len(), 1);
        assert!(outbox.take_overflow(number).is_none(), "asked once");
        outbox.release(number, |_| true);
        assert_eq!(drain(&mut outbox), [2 << 64]);
    }
}
