//! Row `store`: QoS 1 publishes that are stored before they are acknowledged, a fetch of what was stored, and a buffer
//! that empties.
//!
//! The peer is the same driver writing the same data with the same statements or commands, as fast as it can, in batches
//! of the size that the runtime reached in the round before, on as many connections as the runtime writes with.

mod empty;
mod fetch;
mod redis;
mod sqlite;

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::Bench;
use crate::guest;
use crate::load::{Load, Span, Throughput};
use crate::peer::{self, Setup};
use crate::profile;
use crate::report::{Target, grouped};
use crate::statistics::Summary;
use crate::wire::Payload;

const ROW: &str = "store";
const MESSAGE_BYTES: usize = 200;
const TOPIC: &str = "sensors/bench";
/// Publishers, each with a topic of its own.
const PUBLISHERS: [usize; 2] = [1, 16];
/// Messages that a publisher has in flight.
const WINDOWS: [u64; 2] = [1, 1_000];

/// A database that is measured, empty at first.
enum Store {
    Sqlite(sqlite::Sqlite),
    Redis(redis::Redis),
}

/// What the bare driver is to do.
struct Work {
    topics: Vec<String>,
    batch: usize,
    payload: Vec<u8>,
    span: Span,
}

impl Store {
    const NAMES: [&str; 2] = ["SQLite", "Redis"];

    fn open(name: &str) -> anyhow::Result<Self> {
        match name {
            "Redis" => redis::Redis::open().map(Self::Redis),
            _ => sqlite::Sqlite::open().map(Self::Sqlite),
        }
    }

    /// The lines of its pool.
    fn pool(&self) -> String {
        match self {
            Self::Sqlite(store) => store.pool(),
            Self::Redis(store) => store.pool(),
        }
    }

    /// Lines that store every message.
    fn storing(&self) -> String {
        self.pool() + &self.line("message.publish", "on_message_publish")
    }

    /// Lines that store, and fetch for subscribers.
    fn fetching(&self) -> String {
        let suffix = if matches!(self, Self::Redis(_)) { "_for_pubsub" } else { "" };
        self.storing()
            + &self.line("session.subscribed", &format!("on_message_fetch{suffix}"))
            + &self.line("message.acked", &format!("on_message_acked{suffix}"))
    }

    fn line(&self, hook: &str, function: &str) -> String {
        let kind = if matches!(self, Self::Redis(_)) { "redis" } else { "sqlite" };
        format!(
            "backend.{kind}.hook.{hook}.1 = {{\"topic\": \"#\", \"action\": {{\"function\": \"{function}\"}}, \
             \"pool\": \"pool1\"}}\n"
        )
    }

    /// How many messages of these topics are stored, each with an id of its own.
    async fn stored(&self, topics: &[String]) -> anyhow::Result<u64> {
        match self {
            Self::Sqlite(store) => store.stored().await,
            Self::Redis(store) => store.stored(topics),
        }
    }

    /// Messages a second of the bare driver.
    async fn bare(&self, work: &Work) -> anyhow::Result<f64> {
        match self {
            Self::Sqlite(_) => sqlite::rate(work).await,
            Self::Redis(store) => store.rate(work).await,
        }
    }

    fn empty(&self) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(store) => store.empty(),
            Self::Redis(store) => store.empty(),
        }
    }

    /// Makes it refuse or ignore everything until it is [brought back](Self::bring_back).
    async fn take_away(&mut self) -> anyhow::Result<Absence> {
        match self {
            Self::Sqlite(store) => store.lock().await.map(Absence::Locked),
            Self::Redis(store) => {
                store.kill();
                Ok(Absence::Killed)
            }
        }
    }

    async fn bring_back(&mut self, absence: Absence) -> anyhow::Result<()> {
        match (self, absence) {
            (Self::Redis(store), Absence::Killed) => store.start(),
            (_, Absence::Locked(lock)) => Ok(sqlx::Connection::close(lock).await?),
            (Self::Sqlite(_), Absence::Killed) => Ok(()),
        }
    }
}

/// A database that is away.
enum Absence {
    /// Another connection holds the file; closing it gives the lock back.
    Locked(sqlx::SqliteConnection),
    /// Its server was killed.
    Killed,
}

/// Runs every database: storing against the bare driver in turns, then the fetch.
///
/// # Errors
/// When a server does not come up, or an acknowledged message is not in the database.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let Some(binary) = bench.tidegate.clone() else {
        bench.report.heading(&format!("{ROW}: skipped, there is no tidegate binary"));
        return Ok(());
    };
    for name in Store::NAMES {
        let mut cases = Vec::new();
        for publishers in PUBLISHERS {
            for window in WINDOWS {
                let case = format!("{name}, QoS 1, {publishers} publishers, window {window}");
                // One is enough to walk every path.
                let is_one = publishers == 1 && window > 1;
                if (is_one || !bench.quick) && bench.wants(&case) {
                    cases.push((case, publishers, window));
                }
            }
        }
        let fetch = format!("{name}, fetch");
        let empty = format!("{name}, emptying the buffer");
        let (fetches, empties) = (bench.wants(&fetch), bench.wants(&empty));
        if cases.is_empty() && !fetches && !empties {
            continue;
        }
        let mut store = match Store::open(name) {
            Ok(store) => store,
            Err(error) => {
                bench.report.line(&format!("{name} is not measured: {error:#}"));
                continue;
            }
        };
        for (case, publishers, window) in cases {
            store_case(bench, &binary, &store, &case, publishers, window).await?;
        }
        if fetches {
            fetch::run(bench, &binary, &store, &fetch).await?;
        }
        if empties {
            empty::run(bench, &binary, &mut store, &empty).await?;
        }
    }
    Ok(())
}

fn load(publishers: usize, window: u64) -> Load {
    Load {
        qos: 1,
        payload: Payload::Fixed(guest::reading(MESSAGE_BYTES)),
        publishers,
        fan_out: 0,
        window,
        topic: TOPIC.into(),
        ..Load::default()
    }
}

fn topics(publishers: usize) -> Vec<String> {
    (0..publishers).map(|number| format!("{TOPIC}/{number}")).collect()
}

async fn store_case(
    bench: &mut Bench,
    binary: &std::path::Path,
    store: &Store,
    case: &str,
    publishers: usize,
    window: u64,
) -> anyhow::Result<()> {
    bench.report.heading(&format!("{ROW}: {case}, {MESSAGE_BYTES} B: publish -> stored -> PUBACK"));
    let setup = Setup { conf: Some(store.storing()), ..Setup::default() };
    let load = load(publishers, window);
    let topics = topics(publishers);
    let mut rounds = Rounds::default();
    for round in 0..bench.rounds {
        bench.progress(case, round, "stored, then the bare driver");
        store.empty()?;
        let server = peer::start_tidegate(binary, &setup).await?;
        let result = load.run(server.endpoint(), bench.span).await;
        let result = result.with_context(|| format!("the server printed: {}", server.log()))?;
        let batch = mean_batch(&server).await?;
        server.stop().await?;
        let found = store.stored(&topics).await?;
        ensure!(
            found >= result.acknowledged,
            "{} messages were acknowledged, {found} are stored",
            result.acknowledged
        );
        store.empty()?;
        let payload = guest::reading(MESSAGE_BYTES);
        let work = Work {
            topics: topics.clone(),
            batch: (batch.round() as usize).max(1),
            payload,
            span: bench.span,
        };
        rounds.bare.push(store.bare(&work).await?);
        rounds.stored.push(result);
        rounds.batches.push(batch);
    }
    store.empty()?;
    rounds.table(bench, case, window)?;
    if bench.profile {
        let server = peer::start_tidegate(binary, &setup).await?;
        profile::of_load(&mut bench.report, case, &load, &server, bench.span).await?;
        server.stop().await?;
        store.empty()?;
    }
    Ok(())
}

/// What the rounds of a case gave.
#[derive(Default)]
struct Rounds {
    stored: Vec<Throughput>,
    batches: Vec<f64>,
    bare: Vec<f64>,
}

impl Rounds {
    fn table(&self, bench: &mut Bench, case: &str, window: u64) -> anyhow::Result<()> {
        let ours = Summary::of(self.stored.iter().map(|s| s.per_second));
        let bare = Summary::of(self.bare.iter().copied());
        let batch = Summary::of(self.batches.iter().copied());
        let server = Summary::of(self.stored.iter().map(|s| s.server_us));
        bench.report.line("                           messages/s     (least .. greatest)       a batch");
        for (name, rate) in [("stored and acknowledged", ours), ("bare driver, batched", bare)] {
            bench.report.line(&format!(
                "    {name:<24} {:>12}  {:>24} {:>10.1}",
                grouped(rate.median),
                format!("({} .. {})", grouped(rate.least), grouped(rate.greatest)),
                batch.median,
            ));
        }
        let server_us = server.median;
        bench
            .report
            .line(&format!("    server {server_us:.2} us a message; every acknowledged one was found"));
        let values =
            json!({"stored": ours, "bare": bare, "batch": batch, "server_us": server, "rounds": self.stored});
        bench.report.record(ROW, case, values)?;
        let ratio = ours.median / bare.median;
        if window > 1 {
            let target = Target::AtLeast(0.7);
            return bench.report.check(ROW, case, "stored / bare driver, batched", ratio, "x", target);
        }
        // One message at a time measures two round trips against one: no target, but worth knowing.
        bench.report.line(&format!("    stored / bare driver, one message at a time: {ratio:.2}x"));
        Ok(())
    }
}

/// How many operations a batch of the writer had on average.
async fn mean_batch(server: &crate::process::Server) -> anyhow::Result<f64> {
    let sum = server.metric("tidegate_store_batch_size_sum").await?;
    let count = server.metric("tidegate_store_batch_size_count").await?;
    let (sum, count) = sum.zip(count).context("there is no metric tidegate_store_batch_size")?;
    ensure!(count > 0.0, "the writer wrote no batch");
    Ok(sum / count)
}
