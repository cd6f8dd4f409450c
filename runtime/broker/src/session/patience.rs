//! How long publishers still wait for one subscriber that is behind.
//!
//! Waiting is worth it when the subscriber only lacks the processor: then it takes many messages while a publisher holds
//! its breath. One that is slow by itself takes few, and the wait only delays the publisher's other subscribers. So a
//! subscriber has a store of patience. Waits use it up; what is taken meanwhile fills it, by [`WORTH`] times what a
//! message costs the publisher: whoever needs longer than that runs out of it within some tens of milliseconds. Nobody
//! waits then, until it has caught up with all that waits for it, or has taken very many messages; and each time its
//! store is smaller.

use std::time::Duration;

/// The greatest store.
const MOST: Duration = Duration::from_millis(20);
/// The smallest that it is filled to after it was used up.
const LEAST: Duration = Duration::from_millis(1);
/// How much slower than its publisher a subscriber may be.
const WORTH: u32 = 4;
/// After so many messages a subscriber that never catches up is tried again; twice as many each time.
const TRIED_AGAIN: u64 = 100_000;
/// More often it does not become less.
const STRIKES: u32 = 10;

/// One subscriber's store of patience.
#[derive(Debug)]
pub(crate) struct Patience {
    left: Duration,
    /// It is used up: nobody waits.
    used_up: bool,
    /// How often that has happened, lately.
    strikes: u32,
    /// Messages taken since.
    taken: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { left: MOST, used_up: false, strikes: 0, taken: 0 }
    }
}

impl Patience {
    /// Whether publishers wait for the subscriber at all.
    pub(crate) fn is_left(&self) -> bool {
        !self.used_up
    }

    /// The longest wait.
    pub(crate) fn left(&self) -> Duration {
        self.left
    }

    /// A publisher, to which a message costs `each`, has waited for `time`; meanwhile the subscriber took `taken`
    /// messages.
    pub(crate) fn waited(&mut self, time: Duration, taken: u64, each: Duration) {
        if self.used_up {
            return;
        }
        let earned = each.saturating_mul(WORTH).saturating_mul(u32::try_from(taken).unwrap_or(u32::MAX));
        self.left = self.left.saturating_add(earned).min(MOST + time).saturating_sub(time);
        if earned >= time {
            self.strikes = self.strikes.saturating_sub(1);
        }
        if self.left.is_zero() {
            self.used_up = true;
            self.strikes = (self.strikes + 1).min(STRIKES);
            self.taken = 0;
        }
    }

    /// The subscriber has taken `count` messages.
    pub(crate) fn took(&mut self, count: u64) {
        if self.used_up {
            self.taken += count;
            if self.taken >= TRIED_AGAIN << self.strikes {
                self.fill();
            }
        }
    }

    /// The subscriber has taken everything that waited for it.
    pub(crate) fn caught_up(&mut self) {
        self.fill();
    }

    fn fill(&mut self) {
        self.used_up = false;
        self.left = self.left.max((MOST / 2_u32.pow(self.strikes)).max(LEAST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const US: Duration = Duration::from_micros(1);

    #[test]
    fn a_subscriber_that_drains_at_speed_is_always_waited_for() {
        let mut patience = Patience::default();
        for _ in 0..10_000 {
            // 250 messages at half the publisher's speed.
            patience.waited(MS, 250, 2 * US);
        }
        assert!(patience.is_left());
        patience.waited(15 * MS, 10, 2 * US);
        assert!(patience.is_left(), "one hiccup is forgiven");
    }

    /// It was waited for up to a tenth of the time, for ever.
    #[test]
    fn a_subscriber_ten_times_too_slow_soon_is_not_waited_for_and_stays_so() {
        let mut patience = Patience::default();
        let mut waited = Duration::ZERO;
        while patience.is_left() {
            patience.waited(MS, 50, 2 * US);
            waited += MS;
        }
        assert!(waited <= 40 * MS, "{waited:?}");
        patience.took(TRIED_AGAIN);
        patience.waited(MS, 1_000_000, MS);
        assert!(!patience.is_left());
        patience.caught_up();
        assert!(patience.is_left() && patience.left() == MOST / 2);
        patience.waited(MOST, 0, US);
        assert!(!patience.is_left());
        patience.took(TRIED_AGAIN * 4);
        assert!(patience.is_left() && patience.left() == MOST / 4, "each time it is shorter");
        patience.caught_up();
        assert_eq!(patience.left(), MOST / 4);
        patience.waited(MS, 1_000_000, US);
        assert_eq!(patience.left(), MOST, "it has become fast");
    }
}
