//! Row `broker`: the broker alone, against the unmodified rumqttd listener and mosquitto.
//!
//! Every case runs in interleaved rounds (A B C A B C ...), every run against a fresh process, so that a
//! machine that gets slower during the bench slows all of them.

mod cases;

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;

use super::Bench;
use crate::certificates::Certificates;
use crate::load::Throughput;
use crate::profile;
use crate::report::{Target, grouped};
use crate::statistics::Summary;
use cases::{Case, Contender, VOLATILE};

const ROW: &str = "broker";

/// What a server came to in a case.
struct Outcome {
    name: &'static str,
    rate: f64,
    server_us: f64,
}

/// Runs every case.
///
/// # Errors
/// When our server does not come up or breaks the protocol.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut all = cases::all(bench.quick);
    match Certificates::new() {
        Ok(certificates) => all.extend(cases::with_tls(bench.quick, &Arc::new(certificates))),
        Err(error) => bench.report.line(&format!("TLS is not measured: {error:#}")),
    }
    all.extend(cases::durable(bench.quick));
    for case in all {
        if !bench.wants(&case.name) {
            continue;
        }
        run_case(bench, &case).await.with_context(|| case.name.clone())?;
        if bench.profile
            && case.is_profiled
            && let Some(ours) = bench.peers.iter().find(|peer| peer.is_ours())
        {
            let server = ours.start_as(&case.service).await?;
            profile::of_load(&mut bench.report, &case.name, &case.load, &server, bench.span).await?;
            server.stop().await?;
        }
    }
    Ok(())
}

async fn run_case(bench: &mut Bench, case: &Case) -> anyhow::Result<()> {
    let (rounds, span) = (case.rounds(bench), case.span(bench));
    bench.report.heading(&format!(
        "{ROW}: {} (window {}, at most {} messages ahead; {rounds} rounds of {:?})",
        case.name, case.load.window, case.load.lead, span.measure,
    ));
    let contenders = case.contenders(&bench.peers);
    let mut samples: Vec<Vec<Throughput>> = vec![Vec::new(); contenders.len()];
    let mut missing: Vec<Option<anyhow::Error>> = contenders.iter().map(|_| None).collect();
    for round in 0..rounds {
        for (contender, (samples, missing)) in contenders.iter().zip(samples.iter_mut().zip(&mut missing)) {
            if missing.is_some() {
                continue;
            }
            bench.progress(&case.name, round, contender.name);
            match contender.measure(case, span).await {
                Ok(sample) => samples.push(sample),
                Err(error) if contender.peer.is_ours() => return Err(error),
                // What a peer cannot do is a result.
                Err(error) => *missing = Some(error),
            }
        }
    }
    bench.report.line("    peer        deliveries/s      (least .. greatest)        server us  generator us   lost  misordered");
    let mut outcomes = Vec::new();
    for ((contender, samples), missing) in contenders.iter().zip(&samples).zip(&missing) {
        if let Some(error) = missing {
            bench.report.line(&format!("    {:<10} is not measured: {error:#}", contender.name));
            continue;
        }
        outcomes.push(tell(bench, case, contender, samples)?);
    }
    compare(bench, case, &outcomes)
}

impl Contender {
    /// One round: a fresh server under the load of `case`.
    async fn measure(&self, case: &Case, span: crate::load::Span) -> anyhow::Result<Throughput> {
        let server = self.peer.start_as(&self.service).await.with_context(|| self.name)?;
        let result = case.load.run(server.endpoint(), span).await;
        let sample = result.with_context(|| format!("{}, which printed: {}", self.name, server.log()))?;
        server.stop().await?;
        Ok(sample)
    }
}

/// Prints the line of a contender.
fn tell(
    bench: &mut Bench,
    case: &Case,
    contender: &Contender,
    samples: &[Throughput],
) -> anyhow::Result<Outcome> {
    let rate = Summary::of(samples.iter().map(|s| s.per_second));
    let server = Summary::of(samples.iter().map(|s| s.server_us));
    let generator = Summary::of(samples.iter().map(|s| s.generator_us));
    let lost: u64 = samples.iter().map(|s| s.lost).sum();
    let misordered: u64 = samples.iter().map(|s| s.misordered).sum();
    bench.report.line(&format!(
        "    {:<10} {:>13}  {:>26} {:>12.3} {:>13.3} {lost:>6} {misordered:>11}",
        contender.name,
        grouped(rate.median),
        format!("({} .. {})", grouped(rate.least), grouped(rate.greatest)),
        server.median,
        generator.median,
    ));
    bench.report.record(
        ROW,
        &case.name,
        json!({"peer": contender.name, "per_second": rate, "server_us": server, "generator_us": generator,
               "lost": lost, "misordered": misordered, "rounds": samples}),
    )?;
    // What a peer loses is in the table; what we lose is a failure.
    if contender.peer.is_ours() {
        bench.report.kept(ROW, &case.name, lost, misordered)?;
    }
    Ok(Outcome { name: contender.name, rate: rate.median, server_us: server.median })
}

fn compare(bench: &mut Bench, case: &Case, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let Some(ours) = outcomes.iter().find(|outcome| outcome.name == "tidegate") else {
        return Ok(());
    };
    for theirs in outcomes {
        let target = match theirs.name {
            "rumqttd" => case.targets.rumqttd,
            "mosquitto" => case.targets.mosquitto,
            VOLATILE => None,
            _ => continue,
        };
        let (what, ratio) = (format!("throughput / {}", theirs.name), ours.rate / theirs.rate);
        match target {
            Some(bound) => {
                bench.report.check(ROW, &case.name, &what, ratio, "x", Target::AtLeast(bound))?;
            }
            None => bench.report.line(&format!("    {what:<44} {ratio:>9.2}x")),
        }
        bench.report.line(&format!(
            "    {:<44} {:>9.2}x",
            format!("processor time of {} / ours", theirs.name),
            theirs.server_us / ours.server_us
        ));
    }
    Ok(())
}
