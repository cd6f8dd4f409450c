//! What is known about a module, as a sheet for people.

use std::fmt::Write as _;
use std::time::Duration;

use bytesize::ByteSize;
use tidegate_module::{HookTerms, Producer, Terms};

use super::words;
use crate::control::messages::Inspected;

/// Width of the column of titles.
const TITLE: usize = 14;

/// The sheet.
pub(super) fn render(module: &Inspected) -> String {
    let file = &module.file;
    let mut text = String::new();
    let mut line = |title: &str, words: &str| {
        writeln!(text, "{title:<TITLE$}{words}").unwrap_or_default();
    };
    line("name", &module.name);
    line("file", &module.path.display().to_string());
    line("size", &format!("{} bytes ({})", file.bytes, ByteSize::b(file.bytes)));
    line("hash", &file.hash);
    line("kind", file.kind.words());
    line("language", &producers(&file.languages));
    line("tools", &producers(&file.tools));
    line("wasi", &or(&file.wasi.join(", "), "none"));
    line("hooks", &or(&file.hooks.join(", "), "none"));
    match &module.serving {
        Some(serving) => {
            line(
                "serving",
                &format!(
                    "version {}: {} calls, {} errors, {} instances",
                    words::short(&serving.version),
                    serving.calls,
                    serving.errors,
                    serving.instances
                ),
            );
            if let Some(trial) = words::trial(serving) {
                line("on trial", &trial);
            }
            line("circuit", &words::circuit(&serving.circuit));
        }
        None if module.unloaded => line("serving", "no: it is unloaded"),
        None => {}
    }
    if let Some(failure) = &module.failure {
        line("not loaded", failure);
    }
    for refusal in &file.refusals {
        line("refused", refusal);
    }
    for (title, names) in [("imports", &file.imports), ("exports", &file.exports)] {
        if names.is_empty() {
            line(title, "none");
        }
        for (number, name) in names.iter().enumerate() {
            line(if number == 0 { title } else { "" }, name);
        }
    }
    terms(&mut text, module.requested.as_ref(), module.granted.as_ref());
    text
}

/// What is asked for beside what was given.
fn terms(text: &mut String, requested: Option<&Terms>, granted: Option<&Terms>) {
    let (asked, given) = (requested.map(rows), granted.map(rows));
    let Some(titles) = asked.as_ref().or(given.as_ref()) else { return };
    let cell = |rows: &Option<Vec<(&str, String)>>, row: usize| {
        rows.as_ref()
            .and_then(|rows| rows.get(row))
            .map_or_else(|| "?".to_owned(), |(_, words)| words.clone())
    };
    let asked_of = |row| cell(&asked, row);
    let width =
        (0..titles.len()).map(|row| asked_of(row).chars().count()).max().unwrap_or(0).max("REQUESTED".len());
    text.push('\n');
    let granted = if given.is_some() { "GRANTED" } else { "" };
    let mut line = |title: &str, asked: &str, given: &str| {
        let line = format!("{title:<TITLE$}{asked:<width$}  {given}");
        writeln!(text, "{}", line.trim_end()).unwrap_or_default();
    };
    line("", "REQUESTED", granted);
    for (row, (title, _)) in titles.iter().enumerate() {
        let given = if given.is_some() { cell(&given, row) } else { String::new() };
        line(title, &asked_of(row), &given);
    }
}

fn rows(terms: &Terms) -> Vec<(&'static str, String)> {
    let (instances, limits) = (&terms.instances, &terms.limits);
    let time = |ms: u64| humantime::format_duration(Duration::from_millis(ms)).to_string();
    vec![
        ("hooks", terms.hooks.as_ref().map_or_else(|| "every export, all topics".into(), |list| hooks(list))),
        (
            "connectors",
            terms.connectors.as_ref().map_or_else(|| "all".into(), |list| or(&list.join(" "), "none")),
        ),
        ("priority", terms.priority.to_string()),
        ("mandatory", if terms.mandatory { "yes" } else { "no" }.into()),
        ("ack", terms.ack.clone()),
        ("tick", terms.tick_ms.map_or_else(|| "default".into(), time)),
        ("config keys", or(&terms.config.join(" "), "none")),
        ("instances", format!("{}, at most {}, {} idle", instances.mode, instances.max, instances.idle)),
        ("cpu", time(limits.cpu_ms)),
        ("timeout", time(limits.timeout_ms)),
        ("memory", ByteSize::b(limits.memory_bytes).to_string()),
        ("tables", format!("{} elements", limits.table_elements)),
        ("storage ops", limits.storage_ops.to_string()),
        ("log bytes", ByteSize::b(limits.log_bytes).to_string()),
        ("on error", on_error(terms)),
    ]
}

fn on_error(terms: &Terms) -> String {
    let policy = terms.on_error.as_deref().unwrap_or("the hook's own");
    match terms.retries {
        None | Some(0) => policy.to_owned(),
        Some(retries) => format!("{policy} after {retries} retries"),
    }
}

fn hooks(list: &[HookTerms]) -> String {
    let hook = |terms: &HookTerms| match terms.topics.is_empty() {
        true => terms.hook.clone(),
        false => format!("{}({})", terms.hook, terms.topics.join(",")),
    };
    list.iter().map(hook).collect::<Vec<_>>().join(" ")
}

fn producers(list: &[Producer]) -> String {
    let producer = |p: &Producer| format!("{} {}", p.name, p.version).trim_end().to_owned();
    or(&list.iter().map(producer).collect::<Vec<_>>().join(", "), "not said")
}

fn or(words: &str, nothing: &str) -> String {
    if words.is_empty() { nothing.to_owned() } else { words.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::api::report::{CircuitReport, ModuleReport, TrialReport};
    use tidegate_module::Inspection;

    #[test]
    fn requests_stand_beside_grants() {
        let dir = tempfile::tempdir().unwrap();
        let wasm = dir.path().join("m.wasm");
        std::fs::write(dir.path().join("m.toml"), "priority = 5\n[config]\ntoken = \"s3cret\"\n").unwrap();
        let requested = Terms::requested(&wasm).unwrap();
        let granted = Terms { connectors: Some(vec!["sqlite:p".into()]), ..requested.clone() };
        let mut module = Inspected {
            name: "m".into(),
            path: "x/m.wasm".into(),
            file: Inspection::of(b"nonsense"),
            requested: Some(requested),
            granted: Some(granted),
            serving: None,
            failure: Some("why".into()),
            unloaded: false,
        };
        let text = render(&module);
        for line in [
            "name          m\n",
            "size          8 bytes (8 B)\n",
            "kind          no WebAssembly\n",
            "language      not said\n",
            "not loaded    why\n",
            "              REQUESTED                  GRANTED\n",
            "connectors    all                        sqlite:p\n",
            "priority      5                          5\n",
            "config keys   token                      token\n",
            "cpu           50ms                       50ms\n",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        assert!(text.contains("refused       found no WebAssembly") && !text.contains("s3cret"), "{text}");
        module.serving = Some(ModuleReport {
            name: "m".into(),
            version: "0123456789abcdef".into(),
            priority: 5,
            path: "x/m.wasm".into(),
            hooks: Vec::new(),
            calls: 12,
            errors: 10,
            mean_us: 1.0,
            bytes: 8,
            instances: 2,
            circuit: CircuitReport { state: "open".into(), opened: 1, skipped: 30 },
            trial: Some(TrialReport {
                share: 100,
                before: "fedcba9876543210".into(),
                before_calls: 7,
                before_errors: 0,
            }),
        });
        let text = render(&module);
        for line in [
            "serving       version 0123456789ab: 12 calls, 10 errors, 2 instances\n",
            "on trial      version 0123456789ab serves all clients (42 calls, 40 errors), version fedcba987654 would again (7 \
             calls, 0 errors)\n",
            "circuit       open, opened 1 times, 30 events skipped\n",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        module.granted = None;
        assert!(render(&module).contains("connectors    all\n"));
    }
}
