//! How many connections are taken in a second.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A bucket of tokens: it holds those of one second, and a connection takes one.
pub(super) struct Rate {
    /// 0: as many as come.
    per_second: f64,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Rate {
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, bucket: Mutex::new(Bucket { tokens: per_second, filled: Instant::now() }) }
    }

    /// How long it takes from `now` until there is a token; `None`: there is one.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        if self.per_second == 0.0 {
            return None;
        }
        let mut bucket = self.bucket.lock();
        let passed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * self.per_second).min(self.per_second);
        bucket.filled = now;
        (bucket.tokens < 1.0).then(|| Duration::from_secs_f64((1.0 - bucket.tokens) / self.per_second))
    }

    /// Takes one. Several listeners that have seen the same one may take more than there are: the next ones wait longer.
    pub(super) fn take(&self) {
        if self.per_second > 0.0 {
            self.bucket.lock().tokens -= 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holds_its_number_and_the_next_ones_wait() {
        let rate = Rate::new(10);
        let now = Instant::now();
        for taken in 0..10 {
            assert_eq!(rate.wait(now), None, "after {taken}");
            rate.take();
        }
        let wait = rate.wait(now).unwrap_or_default();
        assert!(wait > Duration::from_millis(90) && wait <= Duration::from_millis(100), "{wait:?}");
        let later = now + wait + Duration::from_millis(1);
        assert_eq!(rate.wait(later), None);
        let later = later + Duration::from_secs(60);
        let burst = std::iter::from_fn(|| rate.wait(later).is_none().then(|| rate.take())).count();
        assert_eq!(burst, 10, "an idle minute saves up no more than a second");
    }

    #[test]
    fn no_rate_holds_nobody_up() {
        let rate = Rate::new(0);
        for _ in 0..100 {
            rate.take();
        }
        assert_eq!(rate.wait(Instant::now()), None);
    }
}
