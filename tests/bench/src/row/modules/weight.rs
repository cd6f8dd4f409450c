//! What a module weighs: in a process of its own that loads every module from the artefact cache, so that nothing a
//! compiler or another row left behind is counted.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tidegate_event::Tenant;

use super::{Collection, ROW, collection};
use crate::memory::{self, Memory};
use crate::process;
use crate::report::Target;
use crate::row::Bench;
use crate::statistics::Summary;

pub(super) const CASE: &str = "memory of modules";
/// KiB of an idle module that the system cannot take back. Its code is mapped from a file: resident as long as the memory is
/// not needed for anything else, which is shown beside it.
const IDLE_KIB: f64 = 300.0;
/// The hidden command that makes this binary the process that is weighed.
const COMMAND: &str = "weigh-modules";

/// What the process reports.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Weight {
    /// How many were loaded between `before` and `warm`.
    modules: usize,
    before: Memory,
    /// Every module has an instance.
    warm: Memory,
    /// None has.
    idle: Memory,
    /// Loading all, one after the other.
    load_ms: f64,
    /// The slowest of them.
    slowest_ms: f64,
    maps_warm: usize,
    maps_idle: usize,
    open_files: usize,
}

/// Loads every module below `modules`, whose artefacts are in `cache`, and prints what they weigh as a line of JSON.
///
/// # Errors
/// When one does not load, or has to be compiled.
pub async fn weigh(modules: &Path, cache: &Path) -> anyhow::Result<()> {
    let mut files: Vec<_> =
        std::fs::read_dir(modules)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    files.sort();
    let (host, _) = collection::host(cache)?;
    let pid = std::process::id();
    // The first one brings in what all share.
    let (first, rest) = files.split_first().context("there are no modules")?;
    let first = host.load(first, &Tenant::default()).await?;
    first.trim();
    first.trim();
    let before = Memory::of(pid)?;
    let (started, mut slowest, mut loaded) = (Instant::now(), Duration::ZERO, Vec::with_capacity(rest.len()));
    for file in rest {
        let begun = Instant::now();
        let module = host.load(file, &Tenant::default()).await?;
        ensure!(module.loading().from_cache, "{} was not in the cache", file.display());
        slowest = slowest.max(begun.elapsed());
        loaded.push(module);
    }
    let load = started.elapsed();
    let (warm, maps_warm) = (Memory::of(pid)?, memory::maps(pid)?);
    ensure!(loaded.iter().all(|module| module.stats().idle == 1), "a module has not one instance");
    // The first time it takes note of what is idle, the second time it is still idle.
    for module in loaded.iter().chain(&loaded) {
        module.trim();
    }
    ensure!(loaded.iter().all(|module| module.stats().instances == 0), "an instance was not trimmed");
    let weight = Weight {
        modules: loaded.len(),
        before,
        warm,
        idle: Memory::of(pid)?,
        load_ms: load.as_secs_f64() * 1e3,
        slowest_ms: slowest.as_secs_f64() * 1e3,
        maps_warm,
        maps_idle: memory::maps(pid)?,
        open_files: memory::open_files(pid)?,
    };
    println!("{}", serde_json::to_string(&weight)?);
    Ok(())
}

/// Weighs the collection in every round.
///
/// # Errors
/// When the process fails.
pub(super) async fn run(bench: &mut Bench, collection: &Collection) -> anyhow::Result<()> {
    let mut rounds = Vec::new();
    for round in 0..bench.rounds {
        bench.progress(CASE, round, "a process that loads all");
        rounds.push(weighed(collection).await?);
    }
    let of = |value: &dyn Fn(&Weight) -> f64| Summary::of(rounds.iter().map(value)).median;
    let count = of(&|weight| weight.modules as f64);
    bench.report.heading(&format!(
        "{ROW}: {CASE}: {count} modules of {} KB, all different, from the artefact cache",
        collection.wasm_bytes / 1_000
    ));
    bench
        .report
        .line("    each module                  KiB, memory files included   KiB, kept   maps in all");
    let line = |name: &str, at: &dyn Fn(&Weight) -> Memory, maps: &dyn Fn(&Weight) -> usize| {
        let each = |weight: &Weight| at(weight).each_since(weight.before, weight.modules);
        let (whole, kept) = (of(&|weight| each(weight).0), of(&|weight| each(weight).1));
        let maps = of(&|weight| maps(weight) as f64);
        (format!("    {name:<28} {whole:>26.1} {kept:>11.1} {maps:>13}"), whole, kept)
    };
    let (text, idle, idle_kept) =
        line("idle: compiled, no instance", &|weight| weight.idle, &|weight| weight.maps_idle);
    bench.report.line(&text);
    let (text, warm, warm_kept) =
        line("with one warm instance", &|weight| weight.warm, &|weight| weight.maps_warm);
    bench.report.line(&text);
    let (load, slowest) = (of(&|weight| weight.load_ms), of(&|weight| weight.slowest_ms));
    bench.report.line(&format!(
        "    loaded in {load:.0} ms: {:.2} ms each, the slowest {slowest:.1} ms; {} open files",
        load / count,
        of(&|weight| weight.open_files as f64),
    ));
    bench.report.record(
        ROW,
        CASE,
        json!({"wasm_bytes": collection.wasm_bytes, "idle_kib": idle, "idle_kept_kib": idle_kept,
               "warm_kib": warm, "warm_kept_kib": warm_kept, "rounds": rounds}),
    )?;
    bench.report.check(ROW, CASE, "an idle module, kept", idle_kept, "KiB", Target::AtMost(IDLE_KIB))
}

async fn weighed(collection: &Collection) -> anyhow::Result<Weight> {
    let mut command = Command::new(std::env::current_exe().context("finding this binary")?);
    command.arg(COMMAND).arg(collection.modules()).arg(collection.artefacts());
    let output = tokio::task::spawn_blocking(move || process::output(command)).await??;
    serde_json::from_slice(&output).context("reading what the process weighed")
}
