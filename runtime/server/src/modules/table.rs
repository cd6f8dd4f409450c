//! The list of modules as a table for people.

use super::words;
use crate::api::report::{CircuitReport, HookReport, ModuleReport};
use crate::columns::columns;
use crate::control::messages::Listing;

/// Titles of the columns.
const TITLES: [&str; 7] = ["NAME", "VERSION", "CALLS", "ERRORS", "MEAN", "SIZE", "HOOKS"];

/// The table, then versions on trial, modules that are not called, files that did not load and modules out of service.
pub(super) fn render(listing: &Listing) -> String {
    let list = &listing.modules;
    let mut text = String::new();
    if list.modules.is_empty() {
        text.push_str("no modules\n");
    } else {
        let mut rows = vec![TITLES.map(String::from)];
        rows.extend(list.modules.iter().map(row));
        text.push_str(&columns(&rows, &[2, 3, 4, 5]));
    }
    for module in &list.modules {
        if let Some(trial) = words::trial(module) {
            text.push_str(&format!("on trial: {}: {trial}\n", module.name));
        }
        if module.circuit.state != CircuitReport::CLOSED {
            text.push_str(&format!("circuit: {}: {}\n", module.name, words::circuit(&module.circuit)));
        }
    }
    for failure in &list.failures {
        text.push_str(&format!("not loaded: {}: {}\n", failure.path, failure.error));
    }
    for name in &listing.unloaded {
        text.push_str(&format!("unloaded: {name}\n"));
    }
    text
}

fn row(module: &ModuleReport) -> [String; 7] {
    [
        module.name.clone(),
        words::short(&module.version),
        module.calls.to_string(),
        module.errors.to_string(),
        if module.calls == 0 { "-".into() } else { format!("{:.1} us", module.mean_us) },
        format!("{} KiB", module.bytes.div_ceil(1_024)),
        module.hooks.iter().map(hook).collect::<Vec<_>>().join(" "),
    ]
}

fn hook(hook: &HookReport) -> String {
    if hook.topics.is_empty() {
        hook.hook.clone()
    } else {
        format!("{}({})", hook.hook, hook.topics.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::report::{FailureReport, Modules, TrialReport};

    #[test]
    fn columns_are_aligned_and_failures_follow() {
        let module = |name: &str, calls| ModuleReport {
            name: name.into(),
            version: "0123456789abcdef".into(),
            priority: 100,
            path: "m".into(),
            hooks: vec![HookReport { hook: "message.publish".into(), topics: vec!["a/#".into()] }],
            calls,
            errors: 0,
            mean_us: 2.5,
            bytes: 1_025,
            instances: 1,
            circuit: CircuitReport::default(),
            trial: None,
        };
        let trial = TrialReport {
            share: 10,
            before: "fedcba9876543210".into(),
            before_calls: 1_000,
            before_errors: 7,
        };
        let circuit = CircuitReport { state: "half-open".into(), opened: 2, skipped: 31 };
        let tried = ModuleReport { trial: Some(trial), circuit, ..module("longer", 12_345) };
        let list = Modules {
            modules: vec![module("a", 0), tried],
            failures: vec![FailureReport {
                path: "m/x.wasm".into(),
                error: "no component".into(),
                mandatory: false,
            }],
        };
        assert_eq!(
            render(&Listing { modules: list, unloaded: vec!["y".into()] }),
            "NAME    VERSION       CALLS  ERRORS    MEAN   SIZE  HOOKS\n\
             a       0123456789ab      0       0       -  2 KiB  message.publish(a/#)\n\
             longer  0123456789ab  12345       0  2.5 us  2 KiB  message.publish(a/#)\n\
             on trial: longer: version 0123456789ab serves 10 % of clients (12376 calls, 31 errors), version fedcba987654 \
             the others (1000 calls, 7 errors)\n\
             circuit: longer: half-open, opened 2 times, 31 events skipped\n\
             not loaded: m/x.wasm: no component\n\
             unloaded: y\n"
        );
        assert_eq!(render(&Listing::default()), "no modules\n");
    }
}
