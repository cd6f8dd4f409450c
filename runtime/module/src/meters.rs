//! What is counted about modules. Handles are made once per module version and kept.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use parking_lot::Mutex;

use crate::error::CallError;

const KINDS: [&str; 15] = [
    "trap",
    "cpu",
    "memory",
    "table_elements",
    "stack",
    "hostcall_bytes",
    "handles",
    "timeout",
    "guest",
    "answer",
    "instantiate",
    "busy",
    "not_handled",
    "interrupted",
    "replaced",
];

const TICKS: [&str; 3] = ["done", "failed", "skipped"];

/// A version's part in the gauge of its module: 1 while it serves and its circuit is not closed. The versions of a module
/// share the gauge, so each adds its own part and takes it away again.
pub(crate) struct CircuitGauge {
    gauge: Gauge,
    part: Mutex<Part>,
}

struct Part {
    serves: bool,
    is_open: bool,
}

impl Part {
    fn value(&self) -> f64 {
        f64::from(u8::from(self.serves && self.is_open))
    }
}

impl CircuitGauge {
    fn new(gauge: Gauge) -> Self {
        // It is there from the first version on.
        gauge.increment(0.0);
        Self { gauge, part: Mutex::new(Part { serves: true, is_open: false }) }
    }

    /// The circuit may have changed. Looks at it in turn, so that the last change counts.
    pub(crate) fn show(&self, is_open: impl FnOnce() -> bool) {
        self.change(|part| part.is_open = is_open());
    }

    /// Whether events go to the version.
    pub(crate) fn serves(&self, serves: bool) {
        self.change(|part| part.serves = serves);
    }

    fn change(&self, change: impl FnOnce(&mut Part)) {
        let mut part = self.part.lock();
        let before = part.value();
        change(&mut part);
        self.gauge.increment(part.value() - before);
    }
}

impl Drop for CircuitGauge {
    fn drop(&mut self) {
        self.serves(false);
    }
}

/// The counters of one module.
pub(crate) struct Meters {
    pub(crate) calls: Counter,
    pub(crate) seconds: Histogram,
    pub(crate) retries: Counter,
    pub(crate) circuit_open: CircuitGauge,
    pub(crate) circuit_opened: Counter,
    /// Events that went to the policy without a call.
    pub(crate) skipped: Counter,
    pub(crate) dead_letters: Counter,
    /// Dead letters that could not be written.
    pub(crate) dead_letters_failed: Counter,
    /// Dead letters that were written and not published.
    pub(crate) dead_letters_unpublished: Counter,
    pub(crate) poisonous: Counter,
    /// Events in a call, of modules that take several.
    pub(crate) batch_events: Histogram,
    /// Calls with several events that failed as a whole.
    pub(crate) batches_failed: Counter,
    ticks: [(&'static str, Counter); TICKS.len()],
    errors: [(&'static str, Counter); KINDS.len()],
}

impl Meters {
    /// The counters of `module`.
    pub(crate) fn new(module: &str) -> Self {
        let label = || module.to_owned();
        Self {
            calls: counter!("tidegate_module_calls_total", "module" => label()),
            seconds: histogram!("tidegate_module_call_seconds", "module" => label()),
            retries: counter!("tidegate_module_retries_total", "module" => label()),
            circuit_open: CircuitGauge::new(gauge!("tidegate_module_circuit_open", "module" => label())),
            circuit_opened: counter!("tidegate_module_circuit_opened_total", "module" => label()),
            skipped: counter!("tidegate_module_skipped_total", "module" => label()),
            dead_letters: counter!(
                "tidegate_module_dead_letters_total", "module" => label(), "result" => "kept"
            ),
            dead_letters_failed: counter!(
                "tidegate_module_dead_letters_total", "module" => label(), "result" => "failed"
            ),
            dead_letters_unpublished: counter!(
                "tidegate_module_dead_letters_unpublished_total", "module" => label()
            ),
            poisonous: counter!("tidegate_module_poison_total", "module" => label()),
            batch_events: histogram!("tidegate_module_batch_events", "module" => label()),
            batches_failed: counter!("tidegate_module_batches_failed_total", "module" => label()),
            ticks: TICKS.map(|result| {
                (result, counter!("tidegate_module_ticks_total", "module" => label(), "result" => result))
            }),
            errors: KINDS.map(|kind| {
                (kind, counter!("tidegate_module_errors_total", "module" => label(), "kind" => kind))
            }),
        }
    }

    /// Counts a tick: `done`, `failed`, or `skipped` because the circuit is not closed.
    pub(crate) fn ticked(&self, result: &'static str) {
        if let Some((_, counter)) = self.ticks.iter().find(|(name, _)| *name == result) {
            counter.increment(1);
        }
    }

    /// Counts a failed call.
    pub(crate) fn failed(&self, error: &CallError) {
        let kind = error.kind();
        if let Some((_, counter)) = self.errors.iter().find(|(name, _)| *name == kind) {
            counter.increment(1);
        }
    }
}

/// Counts a load of `module`: `loaded`, `unchanged` or `failed`, and how long it took.
pub(crate) fn loaded(module: &str, result: &'static str, seconds: f64) {
    counter!("tidegate_module_reloads_total", "module" => module.to_owned(), "result" => result).increment(1);
    histogram!("tidegate_module_load_seconds", "module" => module.to_owned()).record(seconds);
}

/// Counts a state that no instance has any more.
pub(crate) fn state_lost(module: &str) {
    counter!("tidegate_module_state_lost_total", "module" => module.to_owned()).increment(1);
}

/// Counts the end of a trial of a new version: `promoted` or `rolled_back`.
pub(crate) fn tried(module: &str, result: &'static str) {
    counter!("tidegate_module_trials_total", "module" => module.to_owned(), "result" => result).increment(1);
}

/// Counts what the system did not tell about the modules' directory: `overflow`, `limit` or `error`.
pub(crate) fn missed(reason: &'static str) {
    counter!("tidegate_module_watch_gaps_total", "reason" => reason).increment(1);
}

/// Shows how many mandatory modules of `tenant` lack their newest version.
pub(crate) fn mandatory_failed(tenant: &str, count: usize) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    gauge!("tidegate_module_mandatory_failed", "tenant" => tenant.to_owned()).set(count);
}

/// Counts an HTTP request of `module`: `answered`, `denied` (not in the manifest), `prohibited` (no permitted address),
/// `timeout` or `failed`.
pub(crate) fn http_request(module: &str, result: &'static str) {
    counter!("tidegate_module_http_requests_total", "module" => module.to_owned(), "result" => result)
        .increment(1);
}

/// Records the time from the change of a file to the moment its new version serves.
pub(crate) fn swapped(module: &str, seconds: f64) {
    histogram!("tidegate_module_swap_seconds", "module" => module.to_owned()).record(seconds);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::{GuestFailure, Limit};

    fn limit(which: Limit) -> CallError {
        CallError::Limit { which, message: String::new(), stderr: String::new() }
    }

    #[test]
    fn every_kind_of_error_has_a_counter() {
        for error in [
            CallError::Trap { message: String::new(), stderr: String::new() },
            limit(Limit::Cpu(Duration::ZERO)),
            limit(Limit::Memory(0)),
            limit(Limit::TableElements(0)),
            limit(Limit::Stack(0)),
            limit(Limit::HostcallBytes(0)),
            limit(Limit::Handles(0)),
            CallError::Timeout(Duration::ZERO),
            CallError::Guest(GuestFailure::Failed(String::new())),
            CallError::Answer(String::new()),
            CallError::Instantiate(String::new()),
            CallError::Busy(Duration::ZERO),
            CallError::NotHandled(""),
            CallError::Interrupted,
            CallError::Replaced,
        ] {
            assert!(KINDS.contains(&error.kind()), "{}", error.kind());
        }
    }
}
