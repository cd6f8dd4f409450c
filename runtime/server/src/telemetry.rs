//! The metrics recorder behind `/metrics`, and the metrics of the process itself.
//!
//! Each stage names its own metrics; the recorder must be installed before any stage makes a handle.

mod descriptions;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::gauge;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of the buckets of durations, in seconds: 10 us to 10 s.
const SECONDS: [f64; 16] = [
    0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Upper bounds of the buckets of sizes.
const SIZES: [f64; 8] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0];

/// How often the recorder folds samples and drops what is stale.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder of this process and sets the metrics of the process itself.
///
/// # Errors
/// When the process has a recorder already.
pub fn install(node: &str) -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), &SIZES)?
        .install_recorder()?;
    descriptions::describe();
    gauge!("tidegate_build_info", "version" => env!("CARGO_PKG_VERSION"), "node" => node.to_owned()).set(1.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    gauge!("process_start_time_seconds").set(now.as_secs_f64());
    Ok(handle)
}

/// Keeps the recorder's memory bounded; runs until it is dropped.
pub async fn keep_up(handle: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        handle.run_upkeep();
    }
}
