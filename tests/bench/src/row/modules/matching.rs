//! A message with more and more modules that do not want it: from `Dispatcher::raise` to the verdict.
//!
//! The modules are one component under many names, bound to `m/0000/#`, `m/0001/#` and so on. Instances that nobody
//! needs are trimmed first, as a server does within a minute; the last line of the table shows the minute before, in
//! which every module still has the instance it was tried with and the host has no place for another.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use tidegate_dispatch::{Dispatcher, HookTable};
use tidegate_event::{Event, Hooks as _, Raised, Tenant, Verdict};
use tidegate_module::Module;

use super::{ROW, collection};
use crate::guest::timing::{CallCost, time_calls};
use crate::guest::{self, PASS};
use crate::report::Target;
use crate::row::{Bench, call};
use crate::statistics::Summary;

pub(super) const CASE: &str = "a message and modules that do not want it";
/// How much more a message may cost with many modules than with one.
const FLAT: f64 = 1.15;
/// What no module handles, on the level where all of them begin to differ.
const UNHANDLED: &str = "m/none/reading";

/// Some modules and the dispatcher that has them.
struct Field {
    name: String,
    count: usize,
    dispatcher: Arc<Dispatcher>,
    handled: Vec<CallCost>,
    unhandled: Vec<CallCost>,
}

/// Measures with 0, 1, 10 and `many` modules in turns.
///
/// # Errors
/// When the guest does not build or load.
pub(super) async fn run(bench: &mut Bench, many: usize) -> anyhow::Result<()> {
    let component = std::fs::read(PASS.build()?)?;
    let directory = tempfile::tempdir()?;
    let mut files = Vec::new();
    for place in 0..many {
        let (name, filter) = (collection::name(place), collection::filter(place));
        files.push(guest::lay(directory.path(), &name, &component, &filter, "")?);
    }
    let cache = directory.path().join("artefacts");
    let mut fields = Vec::new();
    for (count, trim) in [(0, true), (1, true), (10, true), (many, true), (many, false)] {
        bench.report.progress(&format!("    loading {count} modules"));
        let files = files.get(..count).unwrap_or_default();
        fields.push(field(files, &cache, trim).await.with_context(|| format!("{count} modules"))?);
    }
    let time = bench.span.measure / 3;
    for round in 0..bench.rounds {
        for field in &mut fields {
            bench.progress(CASE, round, &field.name);
            field.measure(time).await?;
        }
    }
    table(bench, &fields)
}

/// Loads `files`.
async fn field(files: &[std::path::PathBuf], cache: &Path, trim: bool) -> anyhow::Result<Field> {
    let (host, node) = collection::host(cache)?;
    let mut modules: Vec<Arc<Module>> = Vec::new();
    for file in files {
        modules.push(host.load(file, &Tenant::default()).await?);
    }
    if trim {
        // The first time it takes note of what is idle, the second time it is still idle.
        for module in modules.iter().chain(&modules) {
            module.trim();
        }
    }
    let dispatcher = Dispatcher::new(node);
    dispatcher.install(&Tenant::default(), HookTable::build(&modules, &[]));
    let name = format!("{}{}", files.len(), if trim { "" } else { " untrimmed" });
    Ok(Field { name, count: files.len(), dispatcher, handled: Vec::new(), unhandled: Vec::new() })
}

impl Field {
    async fn measure(&mut self, time: Duration) -> anyhow::Result<()> {
        if self.count > 0 {
            let call = async |(dispatcher, event): &mut (Arc<Dispatcher>, Event)| {
                let Raised::Running(handlers) = dispatcher.raise(event.clone()) else {
                    bail!("no module handled the message")
                };
                match handlers.await.verdict {
                    Verdict::Pass => Ok(()),
                    other => bail!("the guest answered {other:?}"),
                }
            };
            let made = (self.dispatcher.clone(), call::publish_event(&collection::topic(0)));
            self.handled.push(time_calls(time, async move || Ok(made), call).await?);
        }
        let call = async |(dispatcher, event): &mut (Arc<Dispatcher>, Event)| match dispatcher
            .raise(event.clone())
        {
            Raised::Nothing => Ok(()),
            Raised::Running(_) => bail!("a module handled what none is bound to"),
        };
        let made = (self.dispatcher.clone(), call::publish_event(UNHANDLED));
        self.unhandled.push(time_calls(time, async move || Ok(made), call).await?);
        Ok(())
    }
}

fn table(bench: &mut Bench, fields: &[Field]) -> anyhow::Result<()> {
    bench.report.heading(&format!("{ROW}: {CASE}, guest `pass`, from raise to verdict"));
    bench.report.line("    modules                                one handles it: us (least .. greatest)   none handles it: us (least .. greatest)");
    let mut medians = Vec::new();
    for field in fields {
        let of = |samples: &[CallCost]| Summary::of(samples.iter().map(|sample| sample.us));
        let (handled, unhandled) = (of(&field.handled), of(&field.unhandled));
        let shown = |summary: Summary| match summary.median.is_nan() {
            true => "-".to_owned(),
            false => format!("{:.3} ({:.3} .. {:.3})", summary.median, summary.least, summary.greatest),
        };
        bench.report.line(&format!("    {:<38} {:>38} {:>41}", field.name, shown(handled), shown(unhandled)));
        let values = json!({"modules": field.count, "handled_us": handled, "unhandled_us": unhandled});
        bench.report.record(ROW, CASE, values)?;
        medians.push((field.name.as_str(), handled.median, unhandled.median));
    }
    let Some((none, one, rest)) = medians.split_first().and_then(|(none, rest)| {
        let (one, rest) = rest.split_first()?;
        Some((none, one, rest))
    }) else {
        return Ok(());
    };
    for (name, handled, unhandled) in rest {
        let what = format!("one handles it, of {name} / of 1");
        bench.report.check(ROW, CASE, &what, handled / one.1, "x", Target::AtMost(FLAT))?;
        let what = format!("none handles it, of {name} / of 1");
        bench.report.check(ROW, CASE, &what, unhandled / one.2, "x", Target::AtMost(FLAT))?;
        let what = format!("none handles it, of {name}: added to 0");
        bench.report.line(&format!("    {what:<44} {:>9.3}us", unhandled - none.2));
    }
    Ok(())
}
