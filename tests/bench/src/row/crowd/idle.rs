//! Clients that do nothing but ping: how fast they connect, and what each costs.

use anyhow::Context as _;
use serde_json::json;

use super::{Bench, REST, ROW, affordable, before, connect, named, rounds};
use crate::load::light::Light;
use crate::memory::Memory;
use crate::peer::Peer;
use crate::report::{Target, grouped};
use crate::statistics::Summary;
use crate::wire::Version;

const CLIENTS: usize = 10_000;
/// What a connection may take.
const EACH_KIB: f64 = 10.0;

/// What a server came to.
struct Outcome {
    /// From the first SYN to the last CONNACK, clients a second.
    per_second: f64,
    /// Resident memory each, KiB, and what of it the system cannot take back.
    resident: f64,
    kept: f64,
}

/// Measures every peer.
pub(super) async fn run(bench: &mut Bench, version: Version) -> anyhow::Result<()> {
    let wanted = if bench.quick { 300 } else { CLIENTS };
    let case = format!("{} idle clients, {}", grouped(wanted as f64), named(version));
    if !bench.wants(&case) {
        return Ok(());
    }
    bench.report.heading(&format!("{ROW}: {case}; each has pinged once"));
    let clients = affordable(bench, wanted);
    bench.report.line("    peer        connections/s    KiB each    of no file");
    let outcomes = rounds(bench, &case, async |peer| measure(peer, version, clients).await).await?;
    let mut medians = Vec::new();
    for (peer, outcomes) in &outcomes {
        let of = |value: fn(&Outcome) -> f64| Summary::of(outcomes.iter().map(value));
        let (rate, resident) = (of(|outcome| outcome.per_second), of(|outcome| outcome.resident));
        let kept = of(|outcome| outcome.kept);
        bench.report.line(&format!(
            "    {:<10} {:>14} {:>11.2} {:>13.2}",
            peer.name(),
            grouped(rate.median),
            resident.median,
            kept.median
        ));
        let values = json!({"peer": peer.name(), "clients": clients, "per_second": rate,
                            "resident_kib": resident, "kept_kib": kept});
        bench.report.record(ROW, &case, values)?;
        let median = Outcome { per_second: rate.median, resident: resident.median, kept: kept.median };
        medians.push((peer, median));
    }
    let Some((_, ours)) = medians.iter().find(|(peer, _)| peer.is_ours()) else { return Ok(()) };
    bench.report.check(
        ROW,
        &case,
        "memory of an idle client",
        ours.resident,
        "KiB",
        Target::AtMost(EACH_KIB),
    )?;
    for (peer, theirs) in medians.iter().filter(|(peer, _)| !peer.is_ours()) {
        let what = format!("connections/s / {}", peer.name());
        let ratio = ours.per_second / theirs.per_second;
        bench.report.check(ROW, &case, &what, ratio, "x", Target::AtLeast(1.0))?;
        bench.report.line(&format!(
            "    {:<44} {:>9.2}x",
            format!("memory of {} / ours", peer.name()),
            theirs.resident / ours.resident
        ));
        if matches!(peer, Peer::Rumqttd(_)) {
            bench.report.line("    rumqttd waits for its millisecond timer after every accept");
        }
    }
    Ok(())
}

async fn measure(peer: &Peer, version: Version, clients: usize) -> anyhow::Result<Outcome> {
    let server = peer.start(version).await?;
    let endpoint = server.endpoint();
    let outcome = async {
        let before = before(&endpoint, version).await?;
        let (mut connected, took) = connect(&endpoint, version, "idle", 0..clients).await?;
        // Who idles pings, and it shows that everyone is still served.
        ping(&mut connected).await?;
        tokio::time::sleep(REST).await;
        let (resident, kept) = Memory::of(endpoint.pid)?.each_since(before, clients);
        ping(&mut connected).await?;
        anyhow::Ok(Outcome { per_second: clients as f64 / took.as_secs_f64(), resident, kept })
    };
    let outcome = outcome.await.with_context(|| format!("{} printed: {}", peer.name(), server.log()))?;
    server.stop().await?;
    Ok(outcome)
}

/// One after the other: no burst.
async fn ping(clients: &mut [Light]) -> anyhow::Result<()> {
    for client in clients {
        client.ping().await.context("an idle client")?;
    }
    Ok(())
}
