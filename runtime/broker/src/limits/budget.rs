//! One memory budget for the queues of all sessions.
//!
//! A queue reserves memory in whole steps of [`STEP`], so that a subscriber that keeps up changes nothing that others
//! look at; the rest, less than a step, is not counted: it belongs to what a session takes anyway.
//! While the budget is nearly used up, messages of QoS 0 are dropped unless their subscriber has nothing waiting. When it
//! is used up, so are new messages of QoS 1 and 2 for the largest queues: those that hold more than an equal share of it.
//! A subscriber that keeps up loses nothing because of others that do not. The same holds for what is sent and not
//! acknowledged: a subscriber that reads and never acknowledges has an empty queue for as long as it is sent more.
//!
//! What is encoded for a client that does not read it counts like its queue, and so do wills and subscriptions that have
//! retained messages still to bring.
//!
//! A payload of at least [`LARGE_PAYLOAD`] counts once, in however many queues it waits, until the last subscriber has
//! acknowledged it; a smaller one counts in every queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use foldhash::fast::RandomState;
use tidegate_event::{Message, QoS};

use crate::session::delivery::LARGE_PAYLOAD;

/// In what steps a queue reserves memory.
const STEP: usize = 2 * 1024;

/// The memory of all queues.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// Queues that have reserved anything.
    holders: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), holders: AtomicUsize::new(0) }
    }

    /// How much is reserved, bytes.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether it is nearly used up.
    #[inline]
    pub(crate) fn is_tight(&self) -> bool {
        self.used() >= self.limit - self.limit / 8
    }

    /// Whether a queue that holds `held` bytes may take one more message of `qos`. `flying`: what its client, if it is
    /// connected, was sent and has not acknowledged; what an empty queue takes goes straight out.
    pub(crate) fn admits(&self, held: usize, flying: Option<usize>, qos: QoS) -> bool {
        let used = self.used();
        if used < self.limit - self.limit / 8 {
            return true;
        }
        if held == 0 && flying.is_some_and(|flying| flying < STEP || self.allows(used, flying)) {
            return true;
        }
        if qos == QoS::AtMostOnce {
            return false;
        }
        used < self.limit || self.allows(used, held + flying.unwrap_or(0))
    }

    /// Whether one that has so many bytes may have more, although all is used up: small ones may grow while the largest
    /// drain, but not for ever, and the smallest longest.
    fn allows(&self, used: usize, has: usize) -> bool {
        let share = self.limit / self.holders.load(Ordering::Relaxed).max(1);
        let reserve = if has < share / 8 { self.limit / 8 } else { self.limit / 16 };
        has < share && used < self.limit + reserve
    }

    /// Whether there is room for a will of `bytes`. A small one always has: it belongs to what a session takes anyway.
    pub(crate) fn admits_will(&self, bytes: usize) -> bool {
        bytes < STEP || self.used() + bytes <= self.limit
    }

    /// `message` as it goes into queues: a large payload counts until nobody holds it any more.
    pub(crate) fn charged(self: &Arc<Self>, message: &Arc<Message>) -> Arc<Message> {
        let payload = Bytes::from_owner(Charged::new(self, message.payload.clone()));
        Arc::new(Message { payload, ..Message::clone(message) })
    }
}

/// A large payload that waits in queues.
struct Charged {
    payload: Bytes,
    budget: Arc<Budget>,
}

impl Charged {
    fn new(budget: &Arc<Budget>, payload: Bytes) -> Self {
        budget.used.fetch_add(payload.len(), Ordering::Relaxed);
        Self { payload, budget: Arc::clone(budget) }
    }
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.payload.len(), Ordering::Relaxed);
    }
}

/// The messages of queues that are read back after a restart: one with a large payload that waits in several of them is one
/// again, and counts once.
pub(crate) struct ChargedOnce {
    budget: Arc<Budget>,
    /// By their address, with those that were read, which keep it.
    charged: HashMap<usize, (Arc<Message>, Arc<Message>), RandomState>,
}

impl ChargedOnce {
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), charged: HashMap::default() }
    }

    /// `message` as it goes into queues.
    pub(crate) fn of(&mut self, message: Arc<Message>) -> Arc<Message> {
        if !is_charged_once(&message.payload) {
            return message;
        }
        let Self { budget, charged } = self;
        let (_, charged) = charged.entry(Arc::as_ptr(&message).addr()).or_insert_with(|| {
            let charged = budget.charged(&message);
            (message, charged)
        });
        Arc::clone(charged)
    }
}

/// Whether a payload is counted once for all queues: see [`Budget::charged`].
pub(crate) fn is_charged_once(payload: &Bytes) -> bool {
    payload.len() >= LARGE_PAYLOAD
}

/// One queue's part of the budget; given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Account {
    budget: Option<Arc<Budget>>,
    reserved: usize,
}

impl Account {
    /// The queue holds `held` bytes now.
    #[inline]
    pub(crate) fn settle(&mut self, budget: &Arc<Budget>, held: usize) {
        if held >= self.reserved + STEP || held + 4 * STEP < self.reserved {
            self.reserve(budget, steps(held));
        }
    }

    #[cold]
    fn reserve(&mut self, budget: &Arc<Budget>, wanted: usize) {
        if wanted <= self.reserved {
            return self.give_back(wanted);
        }
        let budget = self.budget.get_or_insert_with(|| Arc::clone(budget));
        budget.used.fetch_add(wanted - self.reserved, Ordering::Relaxed);
        if self.reserved == 0 {
            budget.holders.fetch_add(1, Ordering::Relaxed);
        }
        self.reserved = wanted;
    }

    /// The queue holds `held` bytes, and nothing happens to it for a while: nothing more is reserved than that.
    pub(crate) fn rest(&mut self, held: usize) {
        self.give_back(steps(held));
    }

    fn give_back(&mut self, kept: usize) {
        let Some(budget) = &self.budget else { return };
        if kept < self.reserved {
            budget.used.fetch_sub(self.reserved - kept, Ordering::Relaxed);
            if kept == 0 {
                budget.holders.fetch_sub(1, Ordering::Relaxed);
            }
            self.reserved = kept;
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.give_back(0);
    }
}

/// The whole steps in `bytes`.
fn steps(bytes: usize) -> usize {
    bytes - bytes % STEP
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::test_message;

    #[test]
    fn what_is_reserved_is_given_back() {
        let budget = Arc::new(Budget::new(1 << 20));
        let (mut one, mut two) = (Account::default(), Account::default());
        one.settle(&budget, STEP - 1);
        assert_eq!(budget.used(), 0, "a queue that keeps up changes nothing");
        one.settle(&budget, STEP + 5);
        two.settle(&budget, 2 * STEP);
        assert_eq!((budget.used(), budget.holders.load(Ordering::Relaxed)), (3 * STEP, 2));
        one.settle(&budget, 0);
        assert_eq!(budget.used(), 3 * STEP, "nor does one that moves a little");
        one.rest(0);
        assert_eq!((budget.used(), budget.holders.load(Ordering::Relaxed)), (2 * STEP, 1));
        two.settle(&budget, 100 * STEP);
        two.settle(&budget, STEP);
        assert_eq!(budget.used(), STEP, "one that has drained does");
        drop((one, two));
        assert_eq!((budget.used(), budget.holders.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn qos_0_goes_first_then_the_largest_queues_and_who_keeps_up_loses_nothing() {
        let budget = Arc::new(Budget::new(64 * STEP));
        let (mut large, mut small) = (Account::default(), Account::default());
        large.settle(&budget, 50 * STEP);
        small.settle(&budget, STEP);
        let admits = |held: usize, qos| budget.admits(held, Some(0), qos);
        assert!(admits(50 * STEP, QoS::AtMostOnce));
        large.settle(&budget, 57 * STEP);
        assert!(!admits(57 * STEP, QoS::AtMostOnce) && admits(57 * STEP, QoS::AtLeastOnce));
        large.settle(&budget, 63 * STEP);
        assert!(!admits(63 * STEP, QoS::AtLeastOnce), "it has more than its share");
        assert!(admits(STEP, QoS::ExactlyOnce) && !admits(STEP, QoS::AtMostOnce));
        assert!(admits(0, QoS::AtMostOnce) && !budget.admits(0, None, QoS::AtMostOnce));
        assert!(!budget.admits(0, Some(33 * STEP), QoS::AtLeastOnce), "it never acknowledges");
        assert!(budget.admits(0, Some(STEP), QoS::AtLeastOnce));
        small.settle(&budget, 5 * STEP);
        assert!(!admits(5 * STEP, QoS::ExactlyOnce), "there is an end to it");
        assert!(admits(STEP, QoS::ExactlyOnce), "but room for one that has less");
        small.settle(&budget, 9 * STEP);
        assert!(!admits(STEP, QoS::ExactlyOnce));
    }

    #[test]
    fn a_large_payload_counts_once_until_the_last_holder_drops_it() {
        let budget = Arc::new(Budget::new(1 << 20));
        let mut message = Message::clone(&test_message("t", QoS::AtLeastOnce, 1));
        message.payload = Bytes::from(vec![7; LARGE_PAYLOAD]);
        assert!(is_charged_once(&message.payload));
        let first = budget.charged(&Arc::new(message));
        let (second, part) = (Arc::clone(&first), first.payload.slice(1..2));
        assert_eq!((budget.used(), first.payload.len()), (LARGE_PAYLOAD, LARGE_PAYLOAD));
        drop((first, second));
        assert_eq!(budget.used(), LARGE_PAYLOAD);
        drop(part);
        assert_eq!(budget.used(), 0);
    }
}
