//! Load averages over 1, 5 and 15 minutes.

use std::time::Duration;

/// Over how many minutes.
const SPANS: [f64; 3] = [1.0, 5.0, 15.0];

/// Averages of how much a count grows in a minute, older minutes counting less and less.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Averages {
    last: u64,
    loads: [f64; SPANS.len()],
}

impl Averages {
    /// The count is `total` now, and was looked at `elapsed` before.
    pub(super) fn add(&mut self, total: u64, elapsed: Duration) {
        let minutes = elapsed.as_secs_f64() / 60.0;
        if minutes <= 0.0 {
            return;
        }
        let grown = total.saturating_sub(std::mem::replace(&mut self.last, total));
        let rate = grown as f64 / minutes;
        for (load, span) in self.loads.iter_mut().zip(SPANS) {
            let kept = (-minutes / span).exp();
            *load = rate + kept * (*load - rate);
        }
    }

    /// By how much it grows in a minute, over each of the spans.
    pub(super) fn per_minute(&self) -> [f64; SPANS.len()] {
        self.loads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_follow_the_rate_the_shortest_first() {
        let mut averages = Averages::default();
        let mut total = 0;
        for _ in 0..60 {
            total += 100;
            averages.add(total, Duration::from_secs(10));
        }
        // Ten minutes at 600 a minute.
        let [one, five, fifteen] = averages.per_minute();
        assert!((599.0..=600.0).contains(&one), "{one}");
        assert!((500.0..540.0).contains(&five) && (280.0..310.0).contains(&fifteen), "{five} {fifteen}");
        averages.add(total, Duration::from_secs(60));
        let [one, ..] = averages.per_minute();
        assert!((210.0..230.0).contains(&one), "{one}");
        averages.add(total + 1, Duration::ZERO);
        assert!(averages.per_minute().iter().all(|load| load.is_finite()));
    }
}
