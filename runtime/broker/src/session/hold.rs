//! Live messages that wait behind stored ones: one hold for each subscription whose stored messages are still
//! being delivered.

use std::collections::VecDeque;

use tidegate_event::{TopicFilter, TopicName};

use super::Interrupted;
use super::delivery::{Delivery, Source};
use super::queue::{Place, Queue};

/// Live messages that match a subscription whose stored messages come first.
#[derive(Debug)]
pub(super) struct Hold {
    number: u32,
    filter: TopicFilter,
    held: Queue,
    overflowed: bool,
    /// The connection that was to bring what goes before it has ended; whether retained messages are among that.
    left: Option<bool>,
}

impl Hold {
    /// Makes room for one more of `size` bytes, if the limits allow.
    pub(super) fn make_room(&mut self, size: usize, messages: usize, bytes: usize) -> Place {
        self.held.make_room(size, messages, bytes)
    }

    pub(super) fn push(&mut self, delivery: Delivery) {
        self.held.push(delivery);
    }
}

/// The holds of one session, oldest first. A SUBSCRIBE waits while there are many: whoever publishes to the session looks
/// through them.
#[derive(Debug, Default)]
pub(super) struct Holds {
    holds: VecDeque<Hold>,
    next: u32,
}

impl Holds {
    /// Begins a hold with `held`. Gives its number.
    pub(super) fn begin(&mut self, filter: TopicFilter, held: Queue) -> u32 {
        let number = self.next;
        // The greatest one stands for a join that there is not.
        self.next = self.next.wrapping_add(1) % u32::MAX;
        self.holds.push_back(Hold { number, filter, held, overflowed: false, left: None });
        number
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.holds.len()
    }

    /// Memory that counts for what they hold, bytes.
    pub(super) fn weight(&self) -> usize {
        self.holds.iter().map(|hold| hold.held.weight()).sum()
    }

    /// The hold that keeps `delivery` back.
    pub(super) fn of(&mut self, delivery: &Delivery) -> Option<&mut Hold> {
        if delivery.source != Source::Live {
            return None;
        }
        self.holds.iter_mut().find(|hold| hold.filter.matches(&delivery.message.topic))
    }

    /// A message of `topic` was lost: every hold that waits for stored messages of the topic has to read them again.
    pub(super) fn lost(&mut self, topic: &TopicName) {
        for hold in self.holds.iter_mut().filter(|hold| hold.filter.matches(topic)) {
            hold.overflowed = true;
        }
    }

    /// Whether messages of hold `number` were lost to its bound since it was last asked.
    pub(super) fn take_overflow(&mut self, number: u32) -> bool {
        let hold = self.holds.iter_mut().find(|hold| hold.number == number);
        hold.is_some_and(|hold| std::mem::take(&mut hold.overflowed))
    }

    /// What hold `number` holds.
    pub(super) fn held(&self, number: u32) -> impl Iterator<Item = &Delivery> {
        let hold = self.holds.iter().find(|hold| hold.number == number);
        hold.into_iter().flat_map(|hold| hold.held.iter())
    }

    /// Puts `delivery` behind what hold `number` holds so far.
    pub(super) fn append(&mut self, number: u32, delivery: Delivery) {
        if let Some(hold) = self.holds.iter_mut().find(|hold| hold.number == number) {
            hold.push(delivery);
        }
    }

    /// Takes out of hold `number` what `unwanted` is true of.
    pub(super) fn extract(&mut self, number: u32, unwanted: impl Fn(&Delivery) -> bool) -> Queue {
        let hold = self.holds.iter_mut().find(|hold| hold.number == number);
        hold.map(|hold| hold.held.extract(unwanted)).unwrap_or_default()
    }

    /// The connection that was to bring what goes before hold `number` has ended. `retained`: retained messages are among that.
    pub(super) fn leave(&mut self, number: u32, retained: bool) {
        for hold in self.holds.iter_mut().filter(|hold| hold.number == number) {
            hold.left = Some(retained);
        }
    }

    /// Those of which that was said since the last call.
    pub(super) fn take_left(&mut self) -> Vec<Interrupted> {
        let holds = self.holds.iter_mut();
        let left = holds.filter_map(|hold| {
            let (retained, filter) = (hold.left.take()?, hold.filter.clone());
            Some(Interrupted { filter, hold: hold.number, retained })
        });
        left.collect()
    }

    /// Whether anything in them may have expired at `now_ms`.
    pub(super) fn may_have_expired(&self, now_ms: u64) -> bool {
        self.holds.iter().any(|hold| hold.held.may_have_expired(now_ms))
    }

    /// Moves what has expired at `now_ms` to `expired`.
    pub(super) fn take_expired(&mut self, now_ms: u64, expired: &mut VecDeque<Delivery>) {
        self.holds.iter_mut().for_each(|hold| hold.held.take_expired(now_ms, expired));
    }

    /// Ends hold `number`. Gives what it held.
    pub(super) fn end(&mut self, number: u32) -> Queue {
        // Holds end about in the order in which they began: it is found near the front.
        let index = self.holds.iter().position(|hold| hold.number == number);
        index.and_then(|index| self.holds.remove(index)).map(|hold| hold.held).unwrap_or_default()
    }

    /// The client is gone: prepares for a long wait. What is dropped is given to `lost`.
    pub(super) fn settle_down(&mut self, mut lost: impl FnMut(&Delivery)) {
        for hold in &mut self.holds {
            let overflowed = &mut hold.overflowed;
            hold.held.settle_down(|delivery| {
                *overflowed = true;
                lost(delivery);
            });
        }
    }
}
