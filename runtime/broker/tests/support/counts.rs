//! What a broker counts, for a test to look at.
//!
//! A broker makes the handles of its counters when it is made, so a recorder that is there for just that long has the
//! counters of this broker and of none that another test makes meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

/// Counters by name and labels, as `/metrics` writes them.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Counts {
    /// What `make` makes, and the counters that it has.
    pub(crate) fn of<T>(make: impl FnOnce() -> T) -> (T, Self) {
        let counts = Self::default();
        let made = metrics::with_local_recorder(&counts, make);
        (made, counts)
    }

    /// The value of `counter`, which is written `name{label="value"}`. One that there is not is no zero.
    #[track_caller]
    pub(crate) fn get(&self, counter: &str) -> u64 {
        let counts = self.0.lock();
        let Some(count) = counts.get(counter) else {
            panic!("no counter {counter} among {:?}", counts.keys());
        };
        count.load(Ordering::Acquire)
    }

    /// How often a client has reached `limit`.
    #[track_caller]
    pub(crate) fn limited(&self, limit: &str) -> u64 {
        self.get(&format!("tidegate_broker_limited_total{{limit=\"{limit}\"}}"))
    }

    /// How many messages were dropped because of `reason`.
    #[track_caller]
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        self.get(&format!("tidegate_broker_dropped_total{{reason=\"{reason}\"}}"))
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<String> =
            key.labels().map(|label| format!("{}=\"{}\"", label.key(), label.value())).collect();
        let counter = match labels.is_empty() {
            true => key.name().to_owned(),
            false => format!("{}{{{}}}", key.name(), labels.join(",")),
        };
        Counter::from_arc(Arc::clone(self.0.lock().entry(counter).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
