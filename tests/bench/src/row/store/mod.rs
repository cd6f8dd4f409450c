//! Row `store`: QoS 1 publishes (window 1,000) that are stored in SQLite before they are acknowledged.
//!
//! The peer is the same driver inserting the same rows with the same statements, as fast as it can, in
//! transactions of the size that the runtime reached in the round before.

mod bare;

use anyhow::{Context as _, ensure};
use serde_json::json;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::Bench;
use crate::guest;
use crate::load::{Load, Throughput};
use crate::peer::{self, Setup};
use crate::profile;
use crate::report::{Target, grouped};
use crate::statistics::Summary;
use crate::wire::Payload;

const ROW: &str = "store";
const CASE: &str = "SQLite, QoS 1, 200 B";
const WINDOW: u64 = 1_000;
const TOPIC: &str = "sensors/bench";
const DATABASE: &str = "data/bench.db";

/// Runs the runtime and the bare inserts in turns.
///
/// # Errors
/// When the server does not come up, or an acknowledged message is not in the database.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let Some(binary) = bench.tidegate.clone() else {
        bench.report.heading(&format!("{ROW}: skipped, there is no tidegate binary"));
        return Ok(());
    };
    if !bench.wants(CASE) {
        return Ok(());
    }
    bench.report.heading(&format!("{ROW}: {CASE}, window {WINDOW}: publish -> stored -> PUBACK"));
    let conf = format!(
        "backend.sqlite.pool1.path = {DATABASE}\nbackend.sqlite.hook.message.publish.1 = \
         {{\"topic\": \"#\", \"action\": {{\"function\": \"on_message_publish\"}}, \"pool\": \"pool1\"}}\n"
    );
    let setup = Setup { conf: Some(conf), ..Setup::default() };
    let payload = guest::reading(200);
    let load = Load {
        qos: 1,
        payload: Payload::Fixed(payload.clone()),
        fan_out: 0,
        window: WINDOW,
        topic: TOPIC.into(),
        ..Load::default()
    };
    let (mut stored, mut batches, mut inserted) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..bench.rounds {
        bench.progress(CASE, round, "stored, then bare inserts");
        let server = peer::start_tidegate(&binary, &setup).await?;
        let result = load.run(server.endpoint(), bench.span).await;
        let result = result.with_context(|| format!("the server printed: {}", server.log()))?;
        let batch = mean_batch(&server).await?;
        let directory = server.directory();
        server.stop().await?;
        verify(&directory.path().join(DATABASE), result.acknowledged).await?;
        inserted.push(bare::rate(batch.round() as usize, &format!("{TOPIC}/0"), &payload, bench.span).await?);
        stored.push(result);
        batches.push(batch);
    }
    table(bench, &stored, &batches, &inserted)?;
    if bench.profile {
        let server = peer::start_tidegate(&binary, &setup).await?;
        profile::of_load(&mut bench.report, "store", &load, &server, bench.span).await?;
        server.stop().await?;
    }
    Ok(())
}

fn table(bench: &mut Bench, stored: &[Throughput], batches: &[f64], inserted: &[f64]) -> anyhow::Result<()> {
    let (ours, bare) =
        (Summary::of(stored.iter().map(|s| s.per_second)), Summary::of(inserted.iter().copied()));
    let (batch, server) =
        (Summary::of(batches.iter().copied()), Summary::of(stored.iter().map(|s| s.server_us)));
    bench.report.line("                        rows/s        (least .. greatest)     rows a batch");
    for (name, rate) in [("stored and acknowledged", ours), ("bare batched insert", bare)] {
        bench.report.line(&format!(
            "    {name:<24} {:>9}  {:>24} {:>12.1}",
            grouped(rate.median),
            format!("({} .. {})", grouped(rate.least), grouped(rate.greatest)),
            batch.median,
        ));
    }
    bench
        .report
        .line(&format!("    server {:.2} us a message; every acknowledged row was found", server.median));
    bench.report.record(
        ROW,
        CASE,
        json!({"stored": ours, "bare": bare, "batch": batch, "server_us": server, "rounds": stored}),
    )?;
    bench.report.check(
        ROW,
        CASE,
        "stored / bare batched insert",
        ours.median / bare.median,
        "x",
        Target::AtLeast(0.7),
    )
}

/// How many operations a batch of the writer had on average.
async fn mean_batch(server: &crate::process::Server) -> anyhow::Result<f64> {
    let sum = server.metric("tidegate_store_batch_size_sum").await?;
    let count = server.metric("tidegate_store_batch_size_count").await?;
    let (sum, count) = sum.zip(count).context("there is no metric tidegate_store_batch_size")?;
    ensure!(count > 0.0, "the writer wrote no batch");
    Ok(sum / count)
}

/// Every acknowledged message is a row, with an id of its own.
async fn verify(path: &std::path::Path, acknowledged: u64) -> anyhow::Result<()> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.context("opening the database")?;
    let (rows, ids): (i64, i64) = sqlx::query_as("SELECT count(*), count(DISTINCT msgid) FROM mqtt_msg")
        .fetch_one(&mut connection)
        .await
        .context("counting rows")?;
    ensure!(
        rows.unsigned_abs() >= acknowledged && rows == ids,
        "{acknowledged} messages were acknowledged, the database has {rows} rows with {ids} ids"
    );
    connection.close().await.context("closing the database")
}
