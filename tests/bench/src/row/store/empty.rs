//! A database that was away: how fast what the buffer holds is written once it is back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{ROW, Store, Work, load, topics};
use crate::guest;
use crate::load::Span;
use crate::peer::{self, Setup};
use crate::process::Server;
use crate::report::grouped;
use crate::row::Bench;

/// At least so many messages are in the buffer.
const MESSAGES: u64 = 100_000;
const PUBLISHERS: usize = 16;
/// Operations of one topic in one batch of the peer: a sixteenth of what the runtime takes out of the buffer at once.
const BATCH: usize = 256;
/// For how long publishers fill the buffer: nothing is acknowledged in the second that a locked file is waited for.
const FILLING_MS: u64 = 3_000;
/// How long the first and the last record may take to leave.
const PATIENCE: Duration = Duration::from_secs(120);

/// Fills the buffer while the database is away, lets that come back, and looks at the buffer until it is empty.
pub(super) async fn run(
    bench: &mut Bench,
    binary: &Path,
    store: &mut Store,
    case: &str,
) -> anyhow::Result<()> {
    let wanted = if bench.quick { 5_000 } else { MESSAGES };
    let wanted_text = grouped(wanted as f64);
    bench.report.heading(&format!("{ROW}: {case} of at least {wanted_text} messages that came meanwhile"));
    bench.progress(case, 0, "filling the buffer");
    store.empty()?;
    let setup = Setup { conf: Some(store.storing()), ..Setup::default() };
    let server = peer::start_tidegate(binary, &setup).await?;
    // The tables are made, the connections are there.
    let span = |ms| Span { warm_up: Duration::ZERO, measure: Duration::from_millis(ms) };
    let mut acknowledged = load(1, 10).run(server.endpoint(), span(200)).await?.acknowledged;
    let absence = store.take_away().await?;
    while buffered(&server).await? < wanted {
        let result = load(PUBLISHERS, 1_000).run(server.endpoint(), span(FILLING_MS)).await;
        acknowledged += result.with_context(|| format!("the server printed: {}", server.log()))?.acknowledged;
    }
    bench.progress(case, 0, "emptying it");
    let full = buffered(&server).await?;
    let back = Instant::now();
    store.bring_back(absence).await?;
    let begun = fallen_below(&server, full).await?;
    let noticed = begun.0.duration_since(back);
    let ended = fallen_below(&server, 1).await?;
    let rate = begun.1 as f64 / ended.0.duration_since(begun.0).as_secs_f64();
    server.stop().await?;
    let topics = topics(PUBLISHERS);
    let stored = store.stored(&topics).await?;
    ensure!(stored >= acknowledged, "{acknowledged} messages were acknowledged, {stored} are stored");
    store.empty()?;
    let work = Work { topics, batch: BATCH, payload: guest::reading(super::MESSAGE_BYTES), span: bench.span };
    let bare = store.bare(&work).await?;
    store.empty()?;
    bench.report.line(&format!(
        "    {} messages out of the buffer at {} messages/s, from {:.1} s after the database was back; \
         every acknowledged one was found",
        grouped(full as f64),
        grouped(rate),
        noticed.as_secs_f64(),
    ));
    let ratio = rate / bare;
    bench.report.line(&format!("    the bare driver, batched: {} messages/s; {ratio:.2}x", grouped(bare)));
    let values =
        json!({"messages": full, "per_second": rate, "bare": bare, "noticed_s": noticed.as_secs_f64()});
    bench.report.record(ROW, case, values)
}

async fn buffered(server: &Server) -> anyhow::Result<u64> {
    let records = server.metric("tidegate_store_buffered").await?;
    Ok(records.unwrap_or_default() as u64)
}

/// Waits until fewer than `records` are buffered: when that was seen, and how many there were.
async fn fallen_below(server: &Server, records: u64) -> anyhow::Result<(Instant, u64)> {
    let start = Instant::now();
    loop {
        let now = buffered(server).await?;
        if now < records {
            return Ok((Instant::now(), now));
        }
        let waited = start.elapsed();
        ensure!(waited < PATIENCE, "{now} records are still buffered after {waited:?}: {}", server.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
