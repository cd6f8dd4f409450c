//! What waits for one client: its queue, the live messages that a join holds back, and commands to it.
//!
//! Everything here is under one lock that publishers take for one push and the client's connection for one
//! batch; no other client is ever waited for.

use std::collections::{HashSet, VecDeque};
use std::task::Waker;

use foldhash::fast::RandomState;
use tidegate_event::{MsgId, QoS, TopicFilter, now_ms};

use super::delivery::{Delivery, Source, detached};
use super::recent::Recent;
use crate::control::Command;

/// Places that an empty queue may keep while its client is idle.
pub(crate) const IDLE_CAPACITY: usize = 64;

/// How a push ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is a place for it.
    Free,
    /// There is a place, because an older QoS 0 message was dropped.
    Displaced,
    /// The queue is full of messages that must not be dropped.
    Full,
    /// Too many live messages wait for stored ones. Those that a store has come from there.
    HoldFull,
    /// QoS 0 to a client that is not connected, or a copy of what it was just given: not kept, no loss.
    Unwanted,
    /// The session has ended.
    Closed,
}

/// Live messages that match a subscription whose stored messages come first.
#[derive(Debug)]
struct Hold {
    number: u32,
    filter: TopicFilter,
    held: Bounded,
    overflowed: bool,
}

/// A queue of which QoS 0 messages are dropped first.
#[derive(Debug, Default)]
struct Bounded {
    queue: VecDeque<Delivery>,
    /// How many of them are QoS 0.
    dispensable: usize,
}

impl Bounded {
    /// Makes room for one more if `limit` allows.
    fn make_room(&mut self, limit: usize) -> Room {
        if self.queue.len() < limit {
            return Room::Free;
        }
        if self.dispensable == 0 {
            return Room::Full;
        }
        // Only a queue that is full pays for the search, and one of QoS 0 alone finds it at once.
        match self.queue.iter().position(|delivery| delivery.qos == QoS::AtMostOnce) {
            Some(oldest) => {
                self.queue.remove(oldest);
                self.dispensable -= 1;
                Room::Displaced
            }
            None => Room::Full,
        }
    }

    fn push(&mut self, delivery: Delivery) {
        self.dispensable += usize::from(delivery.qos == QoS::AtMostOnce);
        self.queue.push_back(delivery);
    }

    fn push_front(&mut self, delivery: Delivery) {
        self.dispensable += usize::from(delivery.qos == QoS::AtMostOnce);
        self.queue.push_front(delivery);
    }

    /// Prepares for a long wait: without QoS 0, and without the read buffers of the publishers.
    fn settle_down(&mut self) {
        self.queue.retain(|delivery| delivery.qos != QoS::AtMostOnce);
        self.dispensable = 0;
        for delivery in &mut self.queue {
            delivery.message = detached(&delivery.message);
        }
    }
}

/// What waits for one client.
#[derive(Default)]
pub(crate) struct Outbox {
    waiting: Bounded,
    /// How many the connection has taken and cannot send yet: they still count.
    taken: usize,
    holds: Vec<Hold>,
    next_hold: u32,
    recent: Option<Box<Recent>>,
    commands: VecDeque<Command>,
    /// Publishers that wait for room, and how few messages they wait for.
    publishers: Vec<Waker>,
    room_at: usize,
    /// The connection's task, while it sleeps.
    waker: Option<Waker>,
    /// Whether a message should wake it: not while it waits for acknowledgements or for its socket.
    wants_messages: bool,
    connected: bool,
    closed: bool,
}

impl Outbox {
    /// Whether `delivery` may be pushed; makes room for it. Follow [`Room::Free`] and [`Room::Displaced`] with
    /// [`Outbox::push`].
    pub(crate) fn make_room(&mut self, delivery: &Delivery, limit: usize) -> Room {
        if self.closed {
            return Room::Closed;
        }
        if !self.connected && delivery.qos == QoS::AtMostOnce {
            return Room::Unwanted;
        }
        if let Some(recent) = &self.recent
            && delivery.source == Source::Live
        {
            if recent.contains(delivery.message.id) {
                return Room::Unwanted;
            }
            if recent.is_stale() {
                self.recent = None;
            }
        }
        match self.hold_for(delivery) {
            None => {
                let limit = limit.saturating_sub(self.taken);
                self.waiting.make_room(limit)
            }
            Some(hold) => {
                let room = hold.held.make_room(limit);
                hold.overflowed |= matches!(room, Room::Full | Room::Displaced);
                if room == Room::Full { Room::HoldFull } else { room }
            }
        }
    }

    /// Puts `delivery` where it belongs. Gives the task to wake, if it sleeps and waits for messages.
    pub(crate) fn push(&mut self, delivery: Delivery) -> Option<Waker> {
        match self.hold_for(&delivery) {
            Some(hold) => {
                hold.held.push(delivery);
                None
            }
            None => {
                self.waiting.push(delivery);
                if self.wants_messages { self.waker.take() } else { None }
            }
        }
    }

    fn hold_for(&mut self, delivery: &Delivery) -> Option<&mut Hold> {
        if delivery.source != Source::Live {
            return None;
        }
        self.holds.iter_mut().find(|hold| hold.filter.matches(&delivery.message.topic))
    }

    /// How many messages wait, held ones not counted.
    pub(crate) fn len(&self) -> usize {
        self.waiting.queue.len()
    }

    /// Moves up to `most` messages to `batch`.
    pub(crate) fn take(&mut self, batch: &mut VecDeque<Delivery>, most: usize) {
        self.taken = 0;
        let queue = &mut self.waiting.queue;
        if queue.len() <= most && batch.is_empty() {
            // The whole queue: swap the buffers instead of moving what is in them.
            std::mem::swap(batch, queue);
            self.waiting.dispensable = 0;
            return;
        }
        for _ in 0..most {
            let Some(delivery) = queue.pop_front() else { break };
            self.waiting.dispensable -= usize::from(delivery.qos == QoS::AtMostOnce);
            batch.push_back(delivery);
        }
    }

    /// Whether at most `few` messages wait; else `waker` is woken when that is so.
    pub(crate) fn await_room(&mut self, waker: &Waker, few: usize) -> bool {
        if self.waiting.queue.len() <= few || !self.connected {
            return true;
        }
        self.room_at = few;
        if !self.publishers.iter().any(|known| known.will_wake(waker)) {
            self.publishers.push(waker.clone());
        }
        false
    }

    /// The publishers to wake because there is room.
    pub(crate) fn relieved(&mut self) -> Vec<Waker> {
        if self.publishers.is_empty() || self.waiting.queue.len() > self.room_at {
            return Vec::new();
        }
        std::mem::take(&mut self.publishers)
    }

    /// Puts back what was taken and not sent, before everything else.
    pub(crate) fn put_back(&mut self, batch: impl DoubleEndedIterator<Item = Delivery>) {
        for delivery in batch.rev() {
            self.waiting.push_front(delivery);
        }
    }

    /// Holds live messages that match `filter` back until [`Outbox::release`] of the number it gives.
    pub(crate) fn hold(&mut self, filter: TopicFilter) -> u32 {
        let number = self.next_hold;
        self.next_hold = self.next_hold.wrapping_add(1);
        self.holds.push(Hold { number, filter, held: Bounded::default(), overflowed: false });
        number
    }

    /// Whether live messages of a hold were lost to its bound since it was last asked; those that stores have
    /// can be read from there. Also forgets what the stores have delivered by now.
    pub(crate) fn take_overflow(&mut self, number: u32) -> Option<Vec<Delivery>> {
        let hold = self.holds.iter_mut().find(|hold| hold.number == number)?;
        if !std::mem::take(&mut hold.overflowed) {
            return None;
        }
        let Some(recent) = &self.recent else { return Some(Vec::new()) };
        let held = std::mem::take(&mut hold.held);
        let (delivered, kept): (Vec<_>, Vec<_>) =
            held.queue.into_iter().partition(|delivery| recent.contains(delivery.message.id));
        hold.held.queue = kept.into();
        hold.held.dispensable =
            hold.held.queue.iter().filter(|delivery| delivery.qos == QoS::AtMostOnce).count();
        Some(delivered)
    }

    /// Ends a hold: its messages follow those that wait, except the ones the client was given meanwhile, which
    /// are returned.
    pub(crate) fn release(&mut self, number: u32) -> Vec<Delivery> {
        let Some(index) = self.holds.iter().position(|hold| hold.number == number) else {
            return Vec::new();
        };
        let hold = self.holds.remove(index);
        let mut delivered = Vec::new();
        for delivery in hold.held.queue {
            if self.recent.as_ref().is_some_and(|recent| recent.contains(delivery.message.id)) {
                delivered.push(delivery);
            } else {
                // It may match another subscription that still waits for its stored messages.
                match self.hold_for(&delivery) {
                    Some(other) => other.held.push(delivery),
                    None => self.waiting.push(delivery),
                }
            }
        }
        delivered
    }

    /// The client is given `ids` out of a store: live copies of them are not wanted.
    pub(crate) fn deliver_once(&mut self, ids: impl Iterator<Item = MsgId>) {
        let now = now_ms();
        let recent = self.recent.get_or_insert_with(|| Box::new(Recent::new()));
        ids.for_each(|id| recent.insert(id, now));
    }

    /// Ids of everything that waits or was given to the client out of a store lately.
    pub(crate) fn known_ids(&self, ids: &mut HashSet<MsgId, RandomState>) {
        ids.extend(self.waiting.queue.iter().map(|delivery| delivery.message.id));
        if let Some(recent) = &self.recent {
            ids.extend(recent.iter());
        }
    }

    /// Queues a command for the connection. `Err`: it is full, or nobody is connected (`closed` in the error).
    pub(crate) fn command(
        &mut self,
        command: Command,
        limit: usize,
    ) -> Result<Option<Waker>, CommandRefused> {
        if !self.connected {
            return Err(CommandRefused::NotConnected);
        }
        // A client that floods its own queue can still be disconnected.
        if self.commands.len() >= limit && !matches!(command, Command::Disconnect) {
            return Err(CommandRefused::Full);
        }
        if matches!((&command, self.commands.back()), (Command::Disconnect, Some(Command::Disconnect))) {
            return Ok(None);
        }
        self.commands.push_back(command);
        Ok(self.waker.take())
    }

    /// The next command.
    pub(crate) fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Whether commands wait.
    pub(crate) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// The connection goes to sleep with `taken` messages that it cannot send yet: `waker` wakes it for commands,
    /// and for messages if it wants any.
    pub(crate) fn sleep(&mut self, waker: &Waker, wants_messages: bool, taken: usize) {
        self.wants_messages = wants_messages;
        self.taken = taken;
        if self.waiting.queue.is_empty() && self.waiting.queue.capacity() > IDLE_CAPACITY {
            self.waiting.queue = VecDeque::new();
        }
        match &mut self.waker {
            Some(known) if known.will_wake(waker) => {}
            other => *other = Some(waker.clone()),
        }
    }

    /// The task to wake for something other than a message.
    pub(crate) fn nudge(&mut self) -> Option<Waker> {
        self.waker.take()
    }

    /// A connection is there.
    pub(crate) fn connect(&mut self) {
        self.connected = true;
    }

    /// The connection is gone. QoS 0 messages are not kept for it.
    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        self.taken = 0;
        self.wants_messages = false;
        self.waker = None;
        self.commands = VecDeque::new();
        self.waiting.settle_down();
        for hold in &mut self.holds {
            hold.held.settle_down();
        }
    }

    /// The session ends: nothing waits any more and nothing comes.
    pub(crate) fn close(&mut self) {
        let waker = self.waker.take();
        *self = Self { closed: true, waker, ..Self::default() };
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
    use crate::session::test_message;

    fn delivery(topic: &str, qos: QoS, id: u128) -> Delivery {
        Delivery {
            message: test_message(topic, qos, id),
            subscription_ids: None,
            qos,
            retain: false,
            recorded: false,
            source: Source::Live,
        }
    }

    fn offer(outbox: &mut Outbox, delivery: Delivery, limit: usize) -> Room {
        let room = outbox.make_room(&delivery, limit);
        if matches!(room, Room::Free | Room::Displaced) {
            outbox.push(delivery);
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
        assert_eq!(offer(&mut outbox, delivery("t", QoS::AtLeastOnce, 1), 3), Room::Free);
        assert_eq!(offer(&mut outbox, delivery("t", QoS::AtMostOnce, 2), 3), Room::Free);
        assert_eq!(offer(&mut outbox, delivery("t", QoS::AtLeastOnce, 3), 3), Room::Free);
        assert_eq!(offer(&mut outbox, delivery("t", QoS::AtLeastOnce, 4), 3), Room::Displaced);
        assert_eq!(offer(&mut outbox, delivery("t", QoS::AtLeastOnce, 5), 3), Room::Full);
        assert_eq!(offer(&mut outbox, delivery("t", QoS::AtMostOnce, 6), 3), Room::Full);
        assert_eq!(drain(&mut outbox), [1, 3, 4]);
    }

    #[test]
    fn qos_0_is_not_kept_for_a_client_that_is_away() {
        let mut outbox = Outbox { connected: true, ..Outbox::default() };
        offer(&mut outbox, delivery("t", QoS::AtMostOnce, 1), 10);
        offer(&mut outbox, delivery("t", QoS::AtLeastOnce, 2), 10);
        outbox.disconnect();
        assert_eq!(offer(&mut outbox, delivery("t", QoS::AtMostOnce, 3), 10), Room::Unwanted);
        assert_eq!(offer(&mut outbox, delivery("t", QoS::AtLeastOnce, 4), 10), Room::Free);
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
        let dropped = outbox.release(first);
        assert_eq!(dropped.len(), 1);
        assert_eq!(drain(&mut outbox), [id(4)], "a/b still waits for the other join");
        outbox.release(second);
        assert_eq!(drain(&mut outbox), [id(1)]);
        assert_eq!(offer(&mut outbox, delivery("q", QoS::AtLeastOnce, id(3)), 10), Room::Unwanted);
    }

    #[test]
    fn an_overflowing_hold_asks_the_stores_again() {
        let mut outbox = Outbox { connected: true, ..Outbox::default() };
        let number = outbox.hold("#".parse().unwrap());
        for id in 1..=3_u128 {
            offer(&mut outbox, delivery("t", QoS::AtLeastOnce, id << 64), 2);
        }
        let recent = outbox.recent.insert(Box::new(Recent::new()));
        recent.insert(MsgId::from_bits(1 << 64), 0);
        let delivered = outbox.take_overflow(number).unwrap();
        assert_eq!(delivered.len(), 1);
        assert!(outbox.take_overflow(number).is_none(), "asked once");
        outbox.release(number);
        assert_eq!(drain(&mut outbox), [2 << 64]);
    }
}
