//! Counters of this stage; handles are made once.

use metrics::{Counter, counter, describe_counter};
use tidegate_event::{Hook, Verdict};

/// What dispatch counts.
pub(crate) struct Metrics {
    events: [Counter; Hook::COUNT],
    dropped: Counter,
    rejected: Counter,
    failed: Counter,
    replaced: Counter,
    fanned_out: Counter,
    allowed: Counter,
    changed: Counter,
}

impl Metrics {
    /// Registers the counters with the recorder installed at this moment.
    pub(crate) fn register() -> Self {
        describe_counter!(
            "tidegate_dispatch_events_total",
            "events that matched at least one handler, by hook"
        );
        describe_counter!("tidegate_dispatch_verdicts_total", "verdicts other than pass");
        let verdict = |name: &'static str| counter!("tidegate_dispatch_verdicts_total", "verdict" => name);
        Self {
            events: std::array::from_fn(|index| {
                let hook = tidegate_event::hook::CATALOGUE[index].name;
                counter!("tidegate_dispatch_events_total", "hook" => hook)
            }),
            dropped: verdict("drop"),
            rejected: verdict("reject"),
            failed: verdict("fail"),
            replaced: verdict("replace"),
            fanned_out: verdict("fan-out"),
            allowed: verdict("allow"),
            changed: verdict("change"),
        }
    }

    /// An event has handlers.
    pub(crate) fn event(&self, hook: Hook) {
        self.events[hook as usize].increment(1);
    }

    /// An event has its verdict.
    pub(crate) fn verdict(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Pass => {}
            Verdict::Drop => self.dropped.increment(1),
            Verdict::Reject(_) => self.rejected.increment(1),
            Verdict::Fail(_) => self.failed.increment(1),
            Verdict::Replace(_) => self.replaced.increment(1),
            Verdict::FanOut(_) => self.fanned_out.increment(1),
            Verdict::Allow => self.allowed.increment(1),
            Verdict::Change(_) => self.changed.increment(1),
        }
    }
}
