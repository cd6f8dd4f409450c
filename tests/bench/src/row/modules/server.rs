//! All modules in one real server: until it is ready, what it occupies, and messages through the first, the middle and
//! the last of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::collection::{self, MAX_BYTES};
use super::{Collection, ROW};
use crate::guest;
use crate::load::Connection;
use crate::memory::{self, Memory};
use crate::peer::{self, Setup};
use crate::process::Server;
use crate::row::Bench;
use crate::wire::{Payload, PublishTemplate, Version};

pub(super) const CASE: &str = "modules in one server";
/// How often the server looks for instances that nobody needs: sooner than by default, so that it is seen.
const TABLES: &str = "[modules]\nrescan = \"1s\"\n";
/// After two looks nothing idle is left; twice that, for a loaded machine.
const TRIMMED_AFTER: Duration = Duration::from_secs(4);

/// What a server occupies at a moment.
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Occupied {
    memory: Memory,
    maps: usize,
    open_files: usize,
}

impl Occupied {
    fn of(server: &Server) -> anyhow::Result<Self> {
        let pid = server.endpoint().pid;
        Ok(Self { memory: Memory::of(pid)?, maps: memory::maps(pid)?, open_files: memory::open_files(pid)? })
    }
}

/// Starts a server without modules and one with all of `collection`.
///
/// # Errors
/// When the server does not come up, a module is missing in it, or a message does not come through.
pub(super) async fn run(bench: &mut Bench, collection: &Collection) -> anyhow::Result<()> {
    let Some(binary) = bench.tidegate.clone() else {
        bench.report.heading(&format!("{ROW}: {CASE}: skipped, there is no tidegate binary"));
        return Ok(());
    };
    let count = collection.files.len();
    bench.report.heading(&format!("{ROW}: {CASE}: {count} modules, artefacts in its cache"));
    let setup = Setup { tables: TABLES, ..Setup::default() };
    bench.progress(CASE, 0, "without modules");
    let server = peer::start_tidegate(&binary, &setup).await?;
    let without = (server.up_after(), Occupied::of(&server)?);
    server.stop().await?;

    let (modules, artefacts) = (collection.files.clone(), Some(collection.artefacts()));
    bench.progress(CASE, 0, "with all of them");
    let server = peer::start_tidegate(&binary, &Setup { modules, artefacts, ..setup }).await?;
    let at_start = (server.up_after(), Occupied::of(&server)?);
    let through = all_through(&server, count).await.with_context(|| server.log())?;
    let loaded = server.metric("tidegate_module_reloads_total").await?.unwrap_or_default();
    ensure!(
        loaded as usize == count && !server.log().contains("ERROR"),
        "the server said:\n{}",
        server.log()
    );
    tokio::time::sleep(TRIMMED_AFTER).await;
    let trimmed = (server.up_after(), Occupied::of(&server)?);
    let again = all_through(&server, count).await.with_context(|| server.log())?;
    server.stop().await?;

    bench.report.line("    server                         ready ms     RSS MiB   private MiB   memory files MiB     maps   open files");
    for (name, (ready, occupied)) in [
        ("without modules", without),
        ("with all, each one instance", at_start),
        ("with all, after trimming", trimmed),
    ] {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let Occupied { memory, maps, open_files } = occupied;
        bench.report.line(&format!(
            "    {name:<28} {:>10.0} {:>11.1} {:>13.1} {:>18.1} {maps:>8} {open_files:>12}",
            ready.as_secs_f64() * 1e3,
            mib(memory.resident),
            mib(memory.private),
            mib(memory.files),
        ));
        let values = json!({"server": name, "ready_ms": ready.as_secs_f64() * 1e3, "occupied": occupied});
        bench.report.record(ROW, CASE, values)?;
    }
    bench.report.line(&format!("    the system lets a process have {} maps", memory::max_maps()?));
    for (name, times) in [("at once", through), ("after trimming", again)] {
        let shown: Vec<_> = times.iter().map(|time| format!("{:.2}", time.as_secs_f64() * 1e3)).collect();
        let what = format!("two messages through the first, middle and last module, {name}");
        bench.report.line(&format!("    {what}: {} ms", shown.join(", ")));
    }
    Ok(())
}

/// Sends a message that the modules drop and one that they let pass through the first, the middle and the last module;
/// gives how long each pair took.
async fn all_through(server: &Server, count: usize) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for place in [0, count / 2, count - 1] {
        let topic = collection::topic(place);
        let id = format!("through-{place}");
        let mut connection = Connection::open(server.endpoint().address, Version::V311, &id).await?;
        connection.subscribe(&topic, 0).await?;
        let [small, large] = [MAX_BYTES, MAX_BYTES + 1].map(|bytes| {
            let payload = Payload::Fixed(guest::reading(bytes));
            PublishTemplate::new(Version::V311, &topic, 0, &payload)
        });
        let begun = Instant::now();
        large.append(&mut connection.outbox, 0, 0);
        let came = connection.exchange(&small).await?;
        times.push(begun.elapsed());
        ensure!(came.len() == MAX_BYTES, "the module at {place} did not handle its message");
        connection.close().await;
    }
    Ok(times)
}
