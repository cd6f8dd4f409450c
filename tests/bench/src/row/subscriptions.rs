//! Row `subscriptions`: what a hundred thousand subscriptions cost: memory each, and time that a message takes to find
//! who wants it.
//!
//! Every peer gets the same subscriptions from the same clients. Matching is measured by messages that nobody wants, to
//! topics that are all different, so that nothing is delivered and nothing that was found before helps: the server's
//! processor time a message, beside that with a hundred subscriptions.

use anyhow::Context as _;
use serde_json::json;

use super::Bench;
use crate::load::Connection;
use crate::memory::Memory;
use crate::peer::Peer;
use crate::process::CpuTime;
use crate::report::{Target, grouped};
use crate::statistics::Summary;
use crate::wire::{Payload, PublishTemplate, Version};

const ROW: &str = "subscriptions";
/// Clients that share the subscriptions.
const CLIENTS: usize = 50;
/// The few that a server with many is compared to.
const FEW: usize = 100;
/// What a subscription of ours may take, KiB.
const KIB_EACH: f64 = 1.0;
/// How much more processor time a message may take beside many.
const FLAT: f64 = 1.3;
/// Unacknowledged messages of the publisher.
const WINDOW: usize = 100;

/// How the filters are written, and topics that none of them matches.
struct Case {
    name: &'static str,
    filter: fn(usize) -> String,
    topic: fn(usize) -> String,
}

const CASES: [Case; 2] = [
    Case {
        name: "a topic each",
        filter: |number| format!("devices/{number:06}/state"),
        topic: |number| format!("devices/{number:06}/other"),
    },
    Case {
        name: "a wildcard each",
        filter: |number| format!("devices/{number:06}/+"),
        topic: |number| format!("devices/{number:06}/state/other"),
    },
];

/// What was measured of one server.
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Sample {
    /// Memory of a subscription, KiB; 0 with few.
    kib_each: f64,
    /// Subscriptions made a second.
    made_per_second: f64,
    /// Processor time of the server a message, microseconds.
    message_us: f64,
}

/// What is compared: medians of all rounds.
#[derive(Clone, Copy)]
struct Shown {
    kib: f64,
    made: f64,
    us: f64,
    us_few: f64,
}

/// Runs every case.
///
/// # Errors
/// When a server does not come up, or refuses a subscription or a message.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let (many, messages) = if bench.quick { (10_000, 10_000) } else { (100_000, 100_000) };
    for case in &CASES {
        if bench.wants(case.name) {
            run_case(bench, case, many, messages).await.with_context(|| case.name)?;
        }
    }
    Ok(())
}

async fn run_case(bench: &mut Bench, case: &Case, many: usize, messages: usize) -> anyhow::Result<()> {
    bench.report.heading(&format!(
        "{ROW}: {}: {} of {CLIENTS} clients, {} messages that nobody wants, QoS 1",
        case.name,
        grouped(many as f64),
        grouped(messages as f64)
    ));
    let mut samples = vec![(Vec::new(), Vec::new()); bench.peers.len()];
    let mut missing: Vec<Option<anyhow::Error>> = bench.peers.iter().map(|_| None).collect();
    for round in 0..bench.rounds {
        for (peer, ((few, most), missing)) in bench.peers.iter().zip(samples.iter_mut().zip(&mut missing)) {
            if missing.is_some() {
                continue;
            }
            bench.progress(case.name, round, peer.name());
            let measured = async {
                few.push(measure(peer, case, FEW, messages).await?);
                most.push(measure(peer, case, many, messages).await?);
                anyhow::Ok(())
            };
            match measured.await.with_context(|| peer.name()) {
                Ok(()) => {}
                Err(error) if peer.is_ours() => return Err(error),
                // What a peer cannot do is a result.
                Err(error) => *missing = Some(error),
            }
        }
    }
    bench.report.line("    peer        KiB each    made/s      us a message   of few   (least .. greatest)");
    let mut shown = Vec::new();
    for (peer, ((few, most), missing)) in bench.peers.iter().zip(samples.iter().zip(&missing)) {
        if let Some(error) = missing {
            bench.report.line(&format!("    {:<10} is not measured: {error:#}", peer.name()));
            continue;
        }
        let of = |samples: &[Sample], value: fn(&Sample) -> f64| Summary::of(samples.iter().map(value));
        let (each, made) = (of(most, |sample| sample.kib_each), of(most, |sample| sample.made_per_second));
        let (time, beside) = (of(most, |sample| sample.message_us), of(few, |sample| sample.message_us));
        bench.report.line(&format!(
            "    {:<10} {:>9.2} {:>9} {:>17.3} {:>8.3}   ({:.3} .. {:.3})",
            peer.name(),
            each.median,
            grouped(made.median),
            time.median,
            beside.median,
            time.least,
            time.greatest,
        ));
        bench.report.record(
            ROW,
            case.name,
            json!({"peer": peer.name(), "subscriptions": many, "kib_each": each, "made_per_second": made,
                   "message_us": time, "message_us_few": beside, "rounds": {"few": few, "many": most}}),
        )?;
        let shows = Shown { kib: each.median, made: made.median, us: time.median, us_few: beside.median };
        shown.push((peer.name(), shows));
    }
    let Some((_, ours)) = shown.iter().find(|(name, _)| *name == "tidegate").copied() else {
        return Ok(());
    };
    let flat = ours.us / ours.us_few;
    bench.report.check(
        ROW,
        case.name,
        "memory of a subscription",
        ours.kib,
        "KiB",
        Target::AtMost(KIB_EACH),
    )?;
    bench.report.check(ROW, case.name, "time beside many / beside few", flat, "x", Target::AtMost(FLAT))?;
    for (name, theirs) in shown.iter().filter(|(name, _)| *name != "tidegate") {
        for (what, ratio) in [
            (format!("memory of {name} / ours"), theirs.kib / ours.kib),
            (format!("time to match of {name} / ours"), theirs.us / ours.us),
            (format!("subscriptions/s / {name}"), ours.made / theirs.made),
        ] {
            bench.report.line(&format!("    {what:<44} {ratio:>9.2}x"));
        }
    }
    Ok(())
}

/// Starts `peer`, makes `count` subscriptions and publishes `messages`.
async fn measure(peer: &Peer, case: &Case, count: usize, messages: usize) -> anyhow::Result<Sample> {
    let server = peer.start(Version::V311).await?;
    let endpoint = server.endpoint();
    let mut clients = Vec::with_capacity(CLIENTS);
    for number in 0..CLIENTS {
        let mut client =
            Connection::open(endpoint.address, Version::V311, &format!("subscriber-{number}")).await?;
        // The first one brings in what a client with subscriptions has anyway.
        client.subscribe(&format!("first/{number}"), 0).await?;
        clients.push(client);
    }
    let before = Memory::of(endpoint.pid)?;
    let begun = std::time::Instant::now();
    for number in 0..count {
        if let Some(client) = clients.get_mut(number % CLIENTS) {
            client.subscribe(&(case.filter)(number), 0).await?;
        }
    }
    let made_per_second = count as f64 / begun.elapsed().as_secs_f64();
    let (_, kib_each) = Memory::of(endpoint.pid)?.each_since(before, count);

    let mut publisher = Connection::open(endpoint.address, Version::V311, "publisher").await?;
    let template =
        |number| PublishTemplate::new(Version::V311, &(case.topic)(number), 1, &Payload::Sequenced(64));
    // Warm: what a server makes once is made. With topics that do not come again.
    publisher.publish_each((messages..messages + messages / 10).map(template), WINDOW).await?;
    let started = CpuTime::of(endpoint.pid)?;
    publisher.publish_each((0..messages).map(template), WINDOW).await?;
    let used = CpuTime::of(endpoint.pid)?.since(started);
    let message_us = used.as_secs_f64() * 1e6 / messages as f64;
    for client in clients {
        drop(client);
    }
    publisher.close().await;
    server.stop().await?;
    Ok(Sample { kib_each: if count > FEW { kib_each } else { 0.0 }, made_per_second, message_us })
}
