//! Waiting between attempts: exponential, with jitter so that many connectors do not knock together.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(5);

/// The waits of one series of attempts.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The next wait: half of the step to the whole of it.
    pub(crate) fn step(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LONGEST);
        // The standard library seeds every RandomState anew: good enough to spread waits.
        let random = RandomState::new().hash_one(0_u8) % 1_000;
        step / 2 + (step / 2) * u32::try_from(random).unwrap_or(0) / 1_000
    }

    /// Waits the next step.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.step()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_differ() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..20).map(|_| backoff.step()).collect();
        assert!(waits.iter().all(|w| (FIRST / 2..=LONGEST).contains(w)), "{waits:?}");
        assert!(waits.last() > waits.first());
        let mut steps: Vec<_> = (0..16).map(|_| Backoff { next: LONGEST }.step()).collect();
        steps.dedup();
        assert!(steps.len() > 1, "no jitter");
    }
}
