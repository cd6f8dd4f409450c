//! Clients that all publish at once: QoS 1, each its next message when the one before is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{Bench, ROW, affordable, before, connect, named, rounds};
use crate::load::Span;
use crate::load::light::Light;
use crate::memory::Memory;
use crate::peer::Peer;
use crate::process::CpuTime;
use crate::report::{Target, grouped};
use crate::statistics::Summary;
use crate::wire::{Payload, PublishTemplate, Version, kind, packet_id_of};

const CLIENTS: usize = 5_000;
const MESSAGE_BYTES: usize = 64;
/// What the clients do: nothing is measured yet, it is, they stop.
const WARMING: u8 = 0;
const MEASURED: u8 = 1;
const OVER: u8 = 2;

/// What a server came to.
struct Outcome {
    per_second: f64,
    /// From PUBLISH to PUBACK, milliseconds.
    p50: f64,
    p99: f64,
    max: f64,
    /// Resident memory each while they publish, KiB.
    resident: f64,
    server_us: f64,
}

/// Measures every peer.
pub(super) async fn run(bench: &mut Bench, version: Version) -> anyhow::Result<()> {
    let wanted = if bench.quick { 100 } else { CLIENTS };
    let case = format!("{} clients publish at once, QoS 1, {}", grouped(wanted as f64), named(version));
    if !bench.wants(&case) {
        return Ok(());
    }
    bench.report.heading(&format!(
        "{ROW}: {case}; {MESSAGE_BYTES} B to a topic each, the next message when the one before is acknowledged; no subscriber"
    ));
    let clients = affordable(bench, wanted);
    bench
        .report
        .line("    peer          messages/s     p50 ms     p99 ms     max ms    KiB each   server us");
    let span = bench.span;
    let outcomes = rounds(bench, &case, async |peer| measure(peer, version, clients, span).await).await?;
    let mut medians = Vec::new();
    for (peer, outcomes) in &outcomes {
        let of = |value: fn(&Outcome) -> f64| Summary::of(outcomes.iter().map(value)).median;
        let median = Outcome {
            per_second: of(|outcome| outcome.per_second),
            p50: of(|outcome| outcome.p50),
            p99: of(|outcome| outcome.p99),
            max: Summary::of(outcomes.iter().map(|outcome| outcome.max)).greatest,
            resident: of(|outcome| outcome.resident),
            server_us: of(|outcome| outcome.server_us),
        };
        let Outcome { per_second, p50, p99, max, resident, server_us } = median;
        bench.report.line(&format!(
            "    {:<10} {:>13} {p50:>10.2} {p99:>10.2} {max:>10.2} {resident:>11.2} {server_us:>11.2}",
            peer.name(),
            grouped(per_second)
        ));
        let values = json!({"peer": peer.name(), "clients": clients, "per_second": per_second,
                            "p50_ms": p50, "p99_ms": p99, "max_ms": max, "resident_kib": resident,
                            "server_us": server_us});
        bench.report.record(ROW, &case, values)?;
        medians.push((peer, median));
    }
    let Some((_, ours)) = medians.iter().find(|(peer, _)| peer.is_ours()) else { return Ok(()) };
    for (peer, theirs) in medians.iter().filter(|(peer, _)| !peer.is_ours()) {
        let (name, at_least) = (peer.name(), Target::AtLeast(1.0));
        let what = format!("messages/s / {name}");
        bench.report.check(ROW, &case, &what, ours.per_second / theirs.per_second, "x", at_least)?;
        let what = format!("p99 of {name} / ours");
        bench.report.check(ROW, &case, &what, theirs.p99 / ours.p99, "x", at_least)?;
        bench.report.line(&format!(
            "    {:<44} {:>9.2}x",
            format!("memory of {name} / ours"),
            theirs.resident / ours.resident
        ));
    }
    Ok(())
}

async fn measure(peer: &Peer, version: Version, clients: usize, span: Span) -> anyhow::Result<Outcome> {
    let server = peer.start(version).await?;
    let endpoint = server.endpoint();
    let outcome = async {
        let before = before(&endpoint, version).await?;
        let (connected, _) = connect(&endpoint, version, "publisher", 0..clients).await?;
        let (phase, start) = (Arc::new(AtomicU8::new(WARMING)), Arc::new(Barrier::new(clients + 1)));
        let mut publishing = JoinSet::new();
        for (number, client) in connected.into_iter().enumerate() {
            publishing.spawn(publish(client, version, number, phase.clone(), start.clone()));
        }
        start.wait().await;
        tokio::time::sleep(span.warm_up).await;
        let (begun, cpu) = (Instant::now(), CpuTime::of(endpoint.pid)?);
        phase.store(MEASURED, Ordering::Relaxed);
        tokio::time::sleep(span.measure).await;
        let took = begun.elapsed();
        let cpu = CpuTime::of(endpoint.pid)?.since(cpu);
        let (resident, _) = Memory::of(endpoint.pid)?.each_since(before, clients);
        phase.store(OVER, Ordering::Relaxed);
        let mut times = Histogram::<u64>::new(3)?;
        // Kept, so that nobody's end is a part of the others' work.
        let mut ended = Vec::with_capacity(clients);
        while let Some(published) = publishing.join_next().await {
            let (client, own) = published?.context("a publisher")?;
            own.iter().try_for_each(|nanos| times.record(*nanos))?;
            ended.push(client);
        }
        ensure!(!times.is_empty(), "nothing was acknowledged in {took:?}");
        let ms = |percent| times.value_at_percentile(percent) as f64 / 1e6;
        anyhow::Ok(Outcome {
            per_second: times.len() as f64 / took.as_secs_f64(),
            p50: ms(50.0),
            p99: ms(99.0),
            max: ms(100.0),
            resident,
            server_us: cpu.as_secs_f64() * 1e6 / times.len() as f64,
        })
    };
    let outcome = outcome.await.with_context(|| format!("{} printed: {}", peer.name(), server.log()))?;
    server.stop().await?;
    Ok(outcome)
}

/// Publishes until the end; gives the nanoseconds that each measured message waited for its PUBACK.
async fn publish(
    mut client: Light,
    version: Version,
    number: usize,
    phase: Arc<AtomicU8>,
    start: Arc<Barrier>,
) -> anyhow::Result<(Light, Vec<u64>)> {
    let payload = Payload::Sequenced(MESSAGE_BYTES);
    let template = PublishTemplate::new(version, &format!("crowd/{number}"), 1, &payload);
    let (mut bytes, mut times) = (Vec::new(), Vec::new());
    start.wait().await;
    for sequence in 0.. {
        let doing = phase.load(Ordering::Relaxed);
        if doing == OVER {
            break;
        }
        bytes.clear();
        template.append(&mut bytes, packet_id_of(sequence), sequence);
        let sent = Instant::now();
        client.send(&bytes).await?;
        let (packet, id, code) =
            client.packet(|frame| (frame.kind(), frame.packet_id().ok(), frame.reason())).await?;
        if packet != kind::PUBACK || id != Some(packet_id_of(sequence)) || code >= 0x80 {
            bail!("PUBLISH was answered with packet type {packet}, id {id:?}, code {code:#04x}");
        }
        if doing == MEASURED {
            times.push(sent.elapsed().as_nanos() as u64);
        }
    }
    Ok((client, times))
}
