//! What is counted about modules. Handles are made once per module version and kept.

use metrics::{Counter, Histogram, counter, histogram};

use crate::error::CallError;

const KINDS: [&str; 9] =
    ["trap", "cpu", "memory", "table_elements", "timeout", "guest", "answer", "instantiate", "not_handled"];

/// The counters of one module.
pub(crate) struct Meters {
    pub(crate) calls: Counter,
    pub(crate) seconds: Histogram,
    pub(crate) retries: Counter,
    pub(crate) storage_ops_denied: Counter,
    pub(crate) log_lines_dropped: Counter,
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
            storage_ops_denied: counter!("tidegate_module_storage_ops_denied_total", "module" => label()),
            log_lines_dropped: counter!("tidegate_module_log_lines_dropped_total", "module" => label()),
            errors: KINDS.map(|kind| {
                (kind, counter!("tidegate_module_errors_total", "module" => label(), "kind" => kind))
            }),
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

    #[test]
    fn every_kind_of_error_has_a_counter() {
        for error in [
            CallError::Trap { message: String::new() },
            CallError::Limit { which: Limit::Cpu(Duration::ZERO), message: String::new() },
            CallError::Limit { which: Limit::Memory(0), message: String::new() },
            CallError::Limit { which: Limit::TableElements(0), message: String::new() },
            CallError::Timeout(Duration::ZERO),
            CallError::Guest(GuestFailure::Failed(String::new())),
            CallError::Answer(String::new()),
            CallError::Instantiate(String::new()),
            CallError::NotHandled(""),
        ] {
            assert!(KINDS.contains(&error.kind()), "{}", error.kind());
        }
    }
}
