//! Whether a connector's database takes what it is given: one answer, although several batches are written at a time.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use metrics::Gauge;

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

/// The state of one database.
pub(crate) struct Health {
    state: AtomicU8,
    /// Writes that failed last time and are tried again.
    failing: AtomicUsize,
    gauge: Gauge,
}

/// A write that failed and is tried again; dropped when it ends, however.
pub(crate) struct Failing<'a>(&'a Health);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        self.0.failing.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Health {
    /// Nothing is known; `gauge` shows it.
    pub(crate) fn new(gauge: Gauge) -> Self {
        Self { state: AtomicU8::new(UNKNOWN), failing: AtomicUsize::new(0), gauge }
    }

    /// Whether the database answered last time.
    pub(crate) fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) == UP
    }

    /// A write failed, and is going to be tried again.
    pub(crate) fn fails(&self) -> Failing<'_> {
        self.failing.fetch_add(1, Ordering::Relaxed);
        Failing(self)
    }

    /// The database does not answer. Gives whether that is new.
    pub(crate) fn set_down(&self) -> bool {
        let is_new = self.state.swap(DOWN, Ordering::Relaxed) != DOWN;
        if is_new {
            self.gauge.set(0.0);
        }
        is_new
    }

    /// The database answered. Gives whether that is new. While another write fails it changes nothing: of a cluster, one
    /// node may be down.
    pub(crate) fn set_up(&self) -> bool {
        if self.is_up() || self.failing.load(Ordering::Relaxed) > 0 {
            return false;
        }
        let is_new = self.state.swap(UP, Ordering::Relaxed) != UP;
        if is_new {
            self.gauge.set(1.0);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lane_that_fails_is_enough_and_all_have_to_be_well_again() {
        let health = Health::new(Gauge::noop());
        assert!(!health.is_up());
        assert!(health.set_up() && !health.set_up() && health.is_up());
        let (one, other) = (health.fails(), health.fails());
        assert!(health.set_down() && !health.set_down());
        drop(one);
        assert!(!health.set_up(), "another lane still fails");
        drop(other);
        assert!(!health.is_up(), "nobody has had an answer since");
        assert!(health.set_up());
    }

    /// A database that was down at the start stayed down in every report when its first write succeeded.
    #[test]
    fn a_database_that_comes_after_the_start_is_up() {
        let health = Health::new(Gauge::noop());
        assert!(health.set_down());
        assert!(health.set_up() && health.is_up());
    }
}
