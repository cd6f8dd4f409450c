//! Metrics of a connector: handles made once, kept with it.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// The handles of one connector. All names begin with `tidegate_store_`; all carry the label `connector`.
pub(crate) struct ConnectorMetrics {
    /// `operations_total{result="stored"}`: durable in the database.
    pub(crate) stored: Counter,
    /// `operations_total{result="refused"}`: refused for good, dead-lettered.
    pub(crate) refused: Counter,
    /// `operations_total{result="abandoned"}`: given up at shutdown before the database answered.
    pub(crate) abandoned: Counter,
    /// `retries_total{call="write"}`: batches written again.
    pub(crate) write_retries: Counter,
    /// `retries_total{call="read"}`: reads made again.
    pub(crate) read_retries: Counter,
    /// `skipped_rows_total`: stored rows that cannot be used.
    pub(crate) skipped_rows: Counter,
    /// `queued`: operations that wait for a batch.
    pub(crate) queued: Gauge,
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
    /// `up`: 1 when the last write succeeded, 0 while the database is down.
    pub(crate) up: Gauge,
}

impl ConnectorMetrics {
    pub(crate) fn new(connector: &str) -> Self {
        let label = || connector.to_owned();
        let operations = |result: &'static str| counter!("tidegate_store_operations_total", "connector" => label(), "result" => result);
        let retries = |call: &'static str| counter!("tidegate_store_retries_total", "connector" => label(), "call" => call);
        Self {
            stored: operations("stored"),
            refused: operations("refused"),
            abandoned: operations("abandoned"),
            write_retries: retries("write"),
            read_retries: retries("read"),
            skipped_rows: counter!("tidegate_store_skipped_rows_total", "connector" => label()),
            queued: gauge!("tidegate_store_queued", "connector" => label()),
            inflight: gauge!("tidegate_store_inflight", "connector" => label()),
            batch_size: histogram!("tidegate_store_batch_size", "connector" => label()),
            spilled: counter!("tidegate_store_buffer_in_total", "connector" => label()),
            replayed: counter!("tidegate_store_buffer_out_total", "connector" => label()),
            unspilled: counter!("tidegate_store_buffer_refused_total", "connector" => label()),
            buffered: gauge!("tidegate_store_buffered", "connector" => label()),
            buffered_bytes: gauge!("tidegate_store_buffered_bytes", "connector" => label()),
            up: gauge!("tidegate_store_up", "connector" => label()),
        }
    }
}
