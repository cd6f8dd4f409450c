//! Row `batch`: messages of many clients, each inserted by the module before it is acknowledged.
//!
//! Two modules do the same work: one is called for every message and inserts one row, the other takes what came meanwhile
//! in one call and inserts it in one transaction.

use anyhow::{Context as _, ensure};
use serde_json::json;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::Bench;
use crate::guest::{self, INSERT, INSERT_BATCH};
use crate::load::{Load, Throughput};
use crate::peer::{self, Setup};
use crate::report::{Target, grouped};
use crate::statistics::Summary;
use crate::wire::Payload;

const ROW: &str = "batch";
const MESSAGE_BYTES: usize = 200;
/// Clients, each with one message on its way.
const CLIENTS: [usize; 2] = [1, 64];
/// The default database of a server.
const DATABASE: &str = "data/tidegate.db";

/// Runs both modules in turns, with one client and with many.
///
/// # Errors
/// When a guest does not build, the server does not come up, or an acknowledged message is not in the database.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let Some(binary) = bench.tidegate.clone() else {
        bench.report.heading(&format!("{ROW}: skipped, there is no tidegate binary"));
        return Ok(());
    };
    let of = |module| Setup { modules: vec![module], ..Setup::default() };
    let setups = [of(INSERT.build()?), of(INSERT_BATCH.build()?)];
    for clients in CLIENTS {
        let case = format!("{clients} clients");
        if !bench.wants(&case) {
            continue;
        }
        let load = Load {
            qos: 1,
            payload: Payload::Fixed(guest::reading(MESSAGE_BYTES)),
            publishers: clients,
            fan_out: 0,
            window: 1,
            topic: "sensors/bench".into(),
            ..Load::default()
        };
        let (mut singly, mut gathered) = (Vec::new(), Vec::new());
        for round in 0..bench.rounds {
            for (setup, samples) in setups.iter().zip([&mut singly, &mut gathered]) {
                bench.progress(&case, round, "one by one, then in batches");
                let server = peer::start_tidegate(&binary, setup).await?;
                let result = load.run(server.endpoint(), bench.span).await;
                let result = result.with_context(|| format!("the server printed: {}", server.log()))?;
                let directory = server.directory();
                server.stop().await?;
                verify(&directory.path().join(DATABASE), result.acknowledged).await?;
                samples.push(result);
            }
        }
        table(bench, &case, &singly, &gathered)?;
    }
    Ok(())
}

fn table(
    bench: &mut Bench,
    case: &str,
    singly: &[Throughput],
    gathered: &[Throughput],
) -> anyhow::Result<()> {
    bench.report.heading(&format!("{ROW}: {case}, QoS 1, window 1, {MESSAGE_BYTES} B, a row each"));
    bench.report.line("    module          messages/s     (least .. greatest)    server us");
    let mut medians = Vec::new();
    for (name, samples) in [("one by one", singly), ("in batches", gathered)] {
        let rate = Summary::of(samples.iter().map(|s| s.per_second));
        let server = Summary::of(samples.iter().map(|s| s.server_us));
        bench.report.line(&format!(
            "    {name:<14} {:>11}  {:>22} {:>12.1}",
            grouped(rate.median),
            format!("({} .. {})", grouped(rate.least), grouped(rate.greatest)),
            server.median,
        ));
        bench.report.record(ROW, case, json!({"module": name, "per_second": rate, "rounds": samples}))?;
        medians.push(rate.median);
    }
    let [one, batch] = medians[..] else { return Ok(()) };
    let least = if case.starts_with("1 ") { 0.9 } else { 2.0 };
    bench.report.check(ROW, case, "in batches / one by one", batch / one, "x", Target::AtLeast(least))
}

/// Every acknowledged message is a row.
async fn verify(path: &std::path::Path, acknowledged: u64) -> anyhow::Result<()> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.context("opening the database")?;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM reading")
        .fetch_one(&mut connection)
        .await
        .context("counting rows")?;
    ensure!(
        rows.unsigned_abs() >= acknowledged,
        "{acknowledged} messages were acknowledged, the database has {rows} rows"
    );
    connection.close().await.context("closing the database")
}
