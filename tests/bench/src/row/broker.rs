//! Row `broker`: the broker alone, against the unmodified rumqttd listener and mosquitto.
//!
//! Every case runs in interleaved rounds (A B C A B C ...), every run against a fresh process, so that a
//! machine that gets slower during the bench slows all of them.

use anyhow::Context as _;
use serde_json::json;

use super::Bench;
use crate::load::{Load, Throughput};
use crate::peer::Peer;
use crate::profile;
use crate::report::{Target, grouped};
use crate::statistics::Summary;
use crate::wire::Version;

const ROW: &str = "broker";

struct Case {
    name: &'static str,
    load: Load,
    /// How much faster than rumqttd we want to be.
    over_rumqttd: f64,
    /// Whether `--profile` is taken of it: the others spend their time in the same places.
    profiled: bool,
}

fn cases(quick: bool) -> Vec<Case> {
    let load = Load::default();
    let qos = |qos| Load { qos, ..load.clone() };
    // Ten thousand deliveries for each of a hundred subscribers would be a million in the queues.
    let fan_out = Load { fan_out: 100, lead: 1_000, ..load.clone() };
    let many = |qos| Load { qos, publishers: 10, lead: 2_000, ..load.clone() };
    let case = |name, load, over_rumqttd| Case { name, load, over_rumqttd, profiled: false };
    let profiled = |name, load, over_rumqttd| Case { name, load, over_rumqttd, profiled: true };
    let mut all = vec![
        profiled("1 -> 1, 64 B, QoS 0", qos(0), 1.5),
        profiled("1 -> 1, 64 B, QoS 1", qos(1), 1.5),
        case("1 -> 1, 64 B, QoS 2", qos(2), 1.5),
        profiled("1 -> 100, 64 B, QoS 0", fan_out, 1.0),
    ];
    if !quick {
        all.push(case("10 -> 10, 64 B, QoS 0", many(0), 1.5));
        all.push(case("10 -> 10, 64 B, QoS 1", many(1), 1.5));
        all.push(case("1 -> 1, 64 B, QoS 1, MQTT 5", Load { version: Version::V5, ..qos(1) }, 1.5));
    }
    all
}

/// Runs every case.
///
/// # Errors
/// When a server does not come up or breaks the protocol.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    for case in cases(bench.quick) {
        if !bench.wants(case.name) {
            continue;
        }
        run_case(bench, &case).await.with_context(|| case.name)?;
        if bench.profile
            && case.profiled
            && let Some(ours) = bench.peers.iter().find(|peer| matches!(peer, Peer::Tidegate(_)))
        {
            let server = ours.start(case.load.version).await?;
            profile::of_load(&mut bench.report, case.name, &case.load, &server, bench.span).await?;
            server.stop().await?;
        }
    }
    Ok(())
}

async fn run_case(bench: &mut Bench, case: &Case) -> anyhow::Result<()> {
    bench.report.heading(&format!(
        "{ROW}: {} (window {}, at most {} messages ahead; {} rounds of {:?})",
        case.name, case.load.window, case.load.lead, bench.rounds, bench.span.measure,
    ));
    let mut samples: Vec<Vec<Throughput>> = vec![Vec::new(); bench.peers.len()];
    for round in 0..bench.rounds {
        for (peer, samples) in bench.peers.iter().zip(&mut samples) {
            bench.progress(case.name, round, peer.name());
            let server = peer.start(case.load.version).await?;
            let result = case.load.run(server.endpoint(), bench.span).await;
            samples
                .push(result.with_context(|| format!("{}, which printed: {}", peer.name(), server.log()))?);
            server.stop().await?;
        }
    }
    bench.report.line("    peer        deliveries/s      (least .. greatest)        server us  generator us   lost  misordered");
    let mut medians = Vec::new();
    for (peer, samples) in bench.peers.iter().zip(&samples) {
        let rate = Summary::of(samples.iter().map(|s| s.per_second));
        let server = Summary::of(samples.iter().map(|s| s.server_us));
        let generator = Summary::of(samples.iter().map(|s| s.generator_us));
        let lost: u64 = samples.iter().map(|s| s.lost).sum();
        let misordered: u64 = samples.iter().map(|s| s.misordered).sum();
        bench.report.line(&format!(
            "    {:<10} {:>13}  {:>26} {:>12.3} {:>13.3} {lost:>6} {misordered:>11}",
            peer.name(),
            grouped(rate.median),
            format!("({} .. {})", grouped(rate.least), grouped(rate.greatest)),
            server.median,
            generator.median,
        ));
        bench.report.record(
            ROW,
            case.name,
            json!({"peer": peer.name(), "per_second": rate, "server_us": server, "generator_us": generator,
                   "lost": lost, "misordered": misordered, "rounds": samples}),
        )?;
        medians.push((peer.name(), rate.median, server.median));
        // What a peer loses is in the table; what we lose is a failure.
        if matches!(peer, Peer::Tidegate(_)) {
            bench.report.kept(ROW, case.name, lost, misordered)?;
        }
    }
    compare(bench, case, &medians)
}

fn compare(bench: &mut Bench, case: &Case, medians: &[(&str, f64, f64)]) -> anyhow::Result<()> {
    let Some((_, ours, our_cpu)) = medians.iter().find(|(name, ..)| *name == "tidegate") else {
        return Ok(());
    };
    for (name, theirs, their_cpu) in medians {
        let bound = match *name {
            "rumqttd" => case.over_rumqttd,
            "mosquitto" => 1.0,
            _ => continue,
        };
        let what = format!("throughput / {name}");
        bench.report.check(ROW, case.name, &what, ours / theirs, "x", Target::AtLeast(bound))?;
        bench.report.line(&format!(
            "    {:<44} {:>9.2}x",
            format!("processor time of {name} / ours"),
            their_cpu / our_cpu
        ));
    }
    Ok(())
}
