//! `cargo xtask servers`: the databases the tests use, for people; and for `cargo xtask test`.

use std::fmt::Write as _;

use tidegate_servers::bed::{Bed, Kept};
use tidegate_servers::kind::{KINDS, Kind};

use crate::process::Result;
use crate::{paths, screen, tools};

/// `servers start [NAME..] | status | stop [NAME..]`.
///
/// # Errors
/// An unknown name, or a server that does not start or stop.
pub(crate) fn main(arguments: &[&str]) -> Result<()> {
    let kept = Kept::at(&paths::cache()?.join("servers"));
    match arguments.split_first() {
        Some((&"start", names)) => start(&kept, &named(names)?),
        Some((&"stop", names)) => stop(&kept, &named(names)?),
        Some((&"status", [])) => status(&kept),
        _ => Err(format!(
            "servers start [NAME..], servers status or servers stop [NAME..]; names: {}",
            names()
        )),
    }
}

/// The servers of a test run: those whose variable is not set already, as it is for who has their own.
///
/// # Errors
/// One does not start.
pub(crate) fn for_tests() -> Result<Bed> {
    let is_set = |kind: &&Kind| std::env::var_os(kind.variable).is_some_and(|value| !value.is_empty());
    let (given, wanted): (Vec<&Kind>, Vec<&Kind>) = KINDS.iter().partition(is_set);
    for kind in given {
        screen::field(kind.name, &format!("as {} says", kind.variable));
    }
    let bed = Bed::start(wanted, |kind| screen::field(kind.name, kind.about));
    bed.map_err(|error| error.to_string())
}

fn start(kept: &Kept, kinds: &[&Kind]) -> Result<()> {
    tools::for_servers(kinds)?;
    let mut exports = String::new();
    for kind in kinds {
        let record = kept.start(kind).map_err(|error| error.to_string())?;
        // On standard error, so that `eval "$(cargo xtask servers start)"` works.
        eprintln!("{} {}", screen::faint(&format!("{:<16}", kind.name)), kind.about);
        writeln!(exports, "export {}={}", kind.variable, record.value).map_err(|error| error.to_string())?;
    }
    print!("{exports}");
    Ok(())
}

fn stop(kept: &Kept, kinds: &[&Kind]) -> Result<()> {
    // Newest first: those may depend on the ones before.
    for kind in kinds.iter().rev() {
        if kept.stop(kind).map_err(|error| error.to_string())? {
            screen::field(kind.name, "stopped");
        }
    }
    Ok(())
}

fn status(kept: &Kept) -> Result<()> {
    for kind in KINDS {
        let Some(record) = kept.record(kind) else {
            screen::field(kind.name, &screen::faint("not started"));
            continue;
        };
        screen::field(kind.name, &format!("{}={}", kind.variable, record.value));
        for (name, identity) in &record.processes {
            let state = match identity.resident().filter(|_| identity.is_alive()) {
                Some(bytes) => format!("pid {}, {} MiB", identity.pid, bytes >> 20),
                None => screen::bad("gone"),
            };
            screen::field("", &format!("{name:<18} {state}"));
        }
        screen::field("", &screen::faint(&format!("logs in {}", kept.folder(kind).display())));
    }
    Ok(())
}

/// The kinds of these names; all when there is none.
fn named(wanted: &[&str]) -> Result<Vec<&'static Kind>> {
    let find = |name: &&str| {
        let kind = KINDS.iter().find(|kind| kind.name == *name);
        kind.ok_or_else(|| format!("there is no server {name:?}; there are: {}", names()))
    };
    if wanted.is_empty() { Ok(KINDS.iter().collect()) } else { wanted.iter().map(find).collect() }
}

fn names() -> String {
    KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_unknown_ones_refused() {
        assert!(named(&[]).is_ok_and(|kinds| kinds.len() == KINDS.len()));
        assert!(named(&["redis"]).is_ok_and(|kinds| kinds.len() == 1));
        assert!(
            named(&["redsi"]).is_err_and(|error| error.contains("redsi") && error.contains("redis-cluster"))
        );
    }
}
