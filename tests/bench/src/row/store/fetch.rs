//! A client that comes back to a topic with very many stored messages: how fast it gets them, and what that costs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use super::{ROW, Store, load, topics};
use crate::load::{Connection, Span};
use crate::memory::Memory;
use crate::peer::{self, Setup};
use crate::process::Server;
use crate::report::grouped;
use crate::row::Bench;
use crate::wire::{self, Version, kind};

/// At least so many messages are stored before they are fetched.
const MESSAGES: u64 = 100_000;
/// How long no message may come before the fetch has failed.
const QUIET: Duration = Duration::from_secs(30);
/// Messages between two looks at the server's memory.
const LOOK_EVERY: u64 = 2_000;

/// Stores, starts the server anew, fetches.
pub(super) async fn run(bench: &mut Bench, binary: &Path, store: &Store, case: &str) -> anyhow::Result<()> {
    let wanted = if bench.quick { 1_000 } else { MESSAGES };
    bench
        .report
        .heading(&format!("{ROW}: {case} of at least {} messages by one subscriber", grouped(wanted as f64)));
    bench.progress(case, 0, "storing them");
    store.empty()?;
    let setup = Setup { conf: Some(store.fetching()), ..Setup::default() };
    let server = peer::start_tidegate(binary, &setup).await?;
    let mut acknowledged = 0;
    while acknowledged < wanted {
        let span = Span { warm_up: Duration::ZERO, measure: Duration::from_millis(500) };
        acknowledged += load(1, 1_000).run(server.endpoint(), span).await?.acknowledged;
    }
    server.stop().await?;
    let topics = topics(1);
    let stored = store.stored(&topics).await?;
    ensure!(stored >= acknowledged, "{acknowledged} messages were acknowledged, {stored} are stored");
    // A server that has nothing of them in memory.
    let server = peer::start_tidegate(binary, &setup).await?;
    bench.progress(case, 0, "fetching them");
    let fetched = fetch(&server, topics.first().context("there is a topic")?, stored).await;
    let fetched = fetched.with_context(|| format!("the server printed: {}", server.log()))?;
    server.stop().await?;
    store.empty()?;
    let rate = stored as f64 / fetched.time.as_secs_f64();
    let grown = fetched.grown as f64 / f64::from(1 << 20);
    bench.report.line(&format!(
        "    {} messages in {:.2} s: {} messages/s; the first after {:.1} ms; the server's memory grew by {grown:.1} MiB",
        grouped(stored as f64),
        fetched.time.as_secs_f64(),
        grouped(rate),
        fetched.first.as_secs_f64() * 1_000.0,
    ));
    let first_ms = fetched.first.as_secs_f64() * 1_000.0;
    let values = json!({"messages": stored, "per_second": rate, "first_ms": first_ms, "grown_mib": grown});
    bench.report.record(ROW, case, values)
}

struct Fetched {
    time: Duration,
    first: Duration,
    grown: u64,
}

/// Subscribes and acknowledges until `count` messages have come.
async fn fetch(server: &Server, topic: &str, count: u64) -> anyhow::Result<Fetched> {
    let pid = server.endpoint().pid;
    let version = Version::V311;
    let mut connection = Connection::open(server.endpoint().address, version, "late").await?;
    let before = Memory::of(pid)?.resident;
    let (mut received, mut highest, mut first) = (0, before, None);
    let mut look_at = LOOK_EVERY;
    let start = Instant::now();
    wire::subscribe(&mut connection.outbox, version, topic, 1);
    while received < count {
        let progress = std::future::poll_fn(|cx| connection.poll_progress(cx));
        let moved = tokio::time::timeout(QUIET, progress).await;
        moved.with_context(|| format!("{received} of {count} messages came, then none for {QUIET:?}"))??;
        connection.take_frames(|frame, outbox| {
            match frame.kind() {
                kind::PUBLISH => {
                    received += 1;
                    wire::acknowledge(outbox, kind::PUBACK, frame.publish(version)?.packet_id);
                }
                kind::SUBACK => ensure!(frame.body().last() == Some(&1), "the subscription was not granted"),
                other => bail!("a subscriber was sent packet type {other}"),
            }
            Ok(())
        })?;
        if received > 0 && first.is_none() {
            first = Some(start.elapsed());
        }
        if received >= look_at {
            highest = highest.max(Memory::of(pid)?.resident);
            look_at = received + LOOK_EVERY;
        }
    }
    let time = start.elapsed();
    connection.close().await;
    Ok(Fetched { time, first: first.unwrap_or(time), grown: highest - before })
}
