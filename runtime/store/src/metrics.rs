//! Metrics of a connector: handles made once, kept with it, and the same numbers for whoever asks for a report.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use parking_lot::Mutex;
use tidegate_event::now_ms;

use crate::health::Health;

/// A counter whose number can be read.
pub(crate) struct Counted {
    counter: Counter,
    total: AtomicU64,
}

impl Counted {
    pub(crate) fn increment(&self, by: u64) {
        self.counter.increment(by);
        self.total.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

impl From<Counter> for Counted {
    fn from(counter: Counter) -> Self {
        Self { counter, total: AtomicU64::new(0) }
    }
}

/// A gauge of a whole number that can be read.
pub(crate) struct Level {
    gauge: Gauge,
    now: AtomicI64,
}

impl Level {
    pub(crate) fn increment(&self, by: f64) {
        self.gauge.increment(by);
        self.now.fetch_add(by as i64, Ordering::Relaxed);
    }

    pub(crate) fn decrement(&self, by: f64) {
        self.gauge.decrement(by);
        self.now.fetch_sub(by as i64, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }
}

impl From<Gauge> for Level {
    fn from(gauge: Gauge) -> Self {
        Self { gauge, now: AtomicI64::new(0) }
    }
}

/// The last error of a connector's database.
#[derive(Clone, Debug)]
pub struct LastError {
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
    /// In the driver's words.
    pub words: String,
}

/// The handles of one connector. All names begin with `tidegate_store_`; all carry the label `connector`.
pub(crate) struct ConnectorMetrics {
    /// `operations_total{result="stored"}`: durable in the database.
    pub(crate) stored: Counted,
    /// `operations_total{result="refused"}`: refused for good, dead-lettered.
    pub(crate) refused: Counted,
    /// `operations_total{result="abandoned"}`: given up at shutdown before the database answered.
    pub(crate) abandoned: Counted,
    /// `retries_total{call="write"}`: batches written again.
    pub(crate) write_retries: Counted,
    /// `retries_total{call="read"}`: reads made again.
    pub(crate) read_retries: Counted,
    /// `skipped_rows_total`: stored rows that cannot be used.
    pub(crate) skipped_rows: Counter,
    /// `queued`: operations that wait for a batch.
    pub(crate) queued: Level,
    /// `inflight`: operations in the batches being written.
    pub(crate) inflight: Gauge,
    /// `batch_size`: operations of a batch.
    pub(crate) batch_size: Histogram,
    /// `buffer_in_total`: operations that went to the buffer.
    pub(crate) spilled: Counter,
    /// `buffer_out_total`: operations that came out of the buffer and are decided.
    pub(crate) replayed: Counter,
    /// `buffer_refused_total`: batches for which the buffer had no room or no disk; they waited in memory.
    pub(crate) unspilled: Counter,
    /// `buffered`: operations in the buffer.
    pub(crate) buffered: Gauge,
    /// `buffered_bytes`: their bytes on disk.
    pub(crate) buffered_bytes: Gauge,
    /// `up`: 1 when the database answered last time, 0 while it is down.
    pub(crate) health: Health,
    /// `errors_total`: calls that the database did not answer, or refused.
    errors: Counted,
    last_error: Mutex<Option<LastError>>,
}

impl ConnectorMetrics {
    pub(crate) fn new(connector: &str) -> Self {
        let label = || connector.to_owned();
        let operations = |result: &'static str| counter!("tidegate_store_operations_total", "connector" => label(), "result" => result);
        let retries = |call: &'static str| counter!("tidegate_store_retries_total", "connector" => label(), "call" => call);
        Self {
            stored: operations("stored").into(),
            refused: operations("refused").into(),
            abandoned: operations("abandoned").into(),
            write_retries: retries("write").into(),
            read_retries: retries("read").into(),
            skipped_rows: counter!("tidegate_store_skipped_rows_total", "connector" => label()),
            queued: gauge!("tidegate_store_queued", "connector" => label()).into(),
            inflight: gauge!("tidegate_store_inflight", "connector" => label()),
            batch_size: histogram!("tidegate_store_batch_size", "connector" => label()),
            spilled: counter!("tidegate_store_buffer_in_total", "connector" => label()),
            replayed: counter!("tidegate_store_buffer_out_total", "connector" => label()),
            unspilled: counter!("tidegate_store_buffer_refused_total", "connector" => label()),
            buffered: gauge!("tidegate_store_buffered", "connector" => label()),
            buffered_bytes: gauge!("tidegate_store_buffered_bytes", "connector" => label()),
            health: Health::new(gauge!("tidegate_store_up", "connector" => label())),
            errors: counter!("tidegate_store_errors_total", "connector" => label()).into(),
            last_error: Mutex::default(),
        }
    }

    /// The database did not answer a call, or refused it.
    pub(crate) fn failed(&self, error: &impl ToString) {
        self.errors.increment(1);
        *self.last_error.lock() = Some(LastError { at_ms: now_ms(), words: error.to_string() });
    }

    /// How many calls failed.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.total()
    }

    /// The last of them.
    pub(crate) fn last_error(&self) -> Option<LastError> {
        self.last_error.lock().clone()
    }
}
