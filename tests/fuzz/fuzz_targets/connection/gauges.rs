//! What the broker says it holds: the gauges of its metrics, of the scenario on this thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Once};

use metrics::{Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

#[derive(Default)]
struct Level(Mutex<f64>);

impl GaugeFn for Level {
    fn increment(&self, by: f64) {
        *self.0.lock() += by;
    }

    fn decrement(&self, by: f64) {
        *self.0.lock() -= by;
    }

    fn set(&self, to: f64) {
        *self.0.lock() = to;
    }
}

thread_local! {
    static LEVELS: RefCell<HashMap<String, Arc<Level>>> = RefCell::default();
}

/// Keeps gauges, by name, of the thread that makes them.
struct Gauges;

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        LEVELS.with_borrow_mut(|levels| {
            Gauge::from_arc(Arc::clone(levels.entry(key.name().to_owned()).or_default()))
        })
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A broker begins on this thread: its gauges are 0.
pub fn begin() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| metrics::set_global_recorder(Gauges).expect("there is no other recorder"));
    LEVELS.with_borrow_mut(HashMap::clear);
}

/// The gauge `name` of the broker.
pub fn level(name: &str) -> f64 {
    LEVELS.with_borrow(|levels| *levels.get(name).expect("the broker has such a gauge").0.lock())
}
