//! Limits whose passing stops no guest: what is too much is refused, counted, and said in the log.
//!
//! A guest that passes one in every event must not flood the log in place of what it was refused: there is one line
//! a second for each module and limit, which names both.

use std::fmt::Display;
use std::sync::Arc;

use metrics::{Counter, counter};

use tidegate_event::Seldom;

/// The quotas of a module version.
#[derive(Debug)]
pub(crate) struct Quotas {
    pub(crate) storage_ops: Quota,
    pub(crate) log_bytes: Quota,
    pub(crate) publishes: Quota,
}

impl Quotas {
    /// The quotas of `module`, with their counters.
    pub(crate) fn new(module: &str) -> Self {
        let name: Arc<str> = module.into();
        let quota = |key, denied| Quota { key, module: Arc::clone(&name), denied, line: Seldom::default() };
        let label = || module.to_owned();
        Self {
            storage_ops: quota(
                "storage_ops",
                counter!("tidegate_module_storage_ops_denied_total", "module" => label()),
            ),
            log_bytes: quota(
                "log_bytes",
                counter!("tidegate_module_log_lines_dropped_total", "module" => label()),
            ),
            publishes: quota(
                "publishes",
                counter!("tidegate_module_publishes_denied_total", "module" => label()),
            ),
        }
    }
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Quota {
    /// Its key in `[limits]`.
    key: &'static str,
    module: Arc<str>,
    denied: Counter,
    line: Seldom,
}

impl Quota {
    /// Something was refused because an event has used up its `limit`; `first`: for the first time in this event.
    pub(crate) fn refused(&self, limit: &dyn Display, first: bool) {
        self.denied.increment(1);
        if first && let Some(left_out) = self.line.turn() {
            let key = self.key;
            tracing::warn!(
                module = &*self.module,
                unlogged = left_out,
                "the module passed its limit {key} = {limit} per event: what is over it is refused"
            );
        }
    }
}
