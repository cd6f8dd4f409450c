//! Row `transform`: one Rust module (the `fahrenheit` example) transforms every 200 B JSON message.
//!
//! The same binary runs with and without the module, in turns. What the module adds to the server's
//! processor time is compared with what a bare call of the same component costs; what it adds to latency is
//! measured at a fixed rate.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::Bench;
use crate::guest::bare::{self, Bare};
use crate::guest::timing::{time_calls, time_calls_apart};
use crate::guest::{self, FAHRENHEIT};
use crate::load::paced::{Latency, Paced};
use crate::load::{Connection, Load, Throughput};
use crate::peer::{self, Setup};
use crate::process::Server;
use crate::profile;
use crate::report::{Target, grouped};
use crate::statistics::Summary;
use crate::wire::{Payload, PublishTemplate, Version};

const ROW: &str = "transform";
const MESSAGE_BYTES: usize = 200;
/// What the module is bound to: its manifest names `sensors/#`.
const TOPIC: &str = "sensors/bench";
const RATE: u32 = 10_000;
const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / RATE as u64);
/// Processor time that the runtime may add to the bare call, microseconds.
const ALLOWANCE_US: f64 = 2.0;

/// Runs both parts at QoS 0 and 1.
///
/// # Errors
/// When the guest does not build, or the server does not come up or loses the module.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let Some(binary) = bench.tidegate.clone() else {
        bench.report.heading(&format!("{ROW}: skipped, there is no tidegate binary"));
        return Ok(());
    };
    let component = FAHRENHEIT.build()?;
    let with = Setup { modules: vec![component.clone()], ..Setup::default() };
    let pair = Pair { binary: &binary, without: Setup::default(), with };
    for qos in [0, 1] {
        let case = format!("closed loop, QoS {qos}");
        if !bench.wants(&case) {
            continue;
        }
        throughput(bench, &pair, &component, qos, &case).await?;
        if bench.profile {
            let server = pair.start(true).await?;
            profile::of_load(&mut bench.report, "transform, closed loop", &load(qos), &server, bench.span)
                .await?;
            server.stop().await?;
        }
    }
    for qos in [0, 1] {
        let case = format!("open loop, QoS {qos}");
        if bench.wants(&case) {
            latency(bench, &pair, &component, qos, &case).await?;
        }
    }
    Ok(())
}

/// The server with and without the module.
struct Pair<'a> {
    binary: &'a Path,
    without: Setup,
    with: Setup,
}

impl Pair<'_> {
    async fn start(&self, module: bool) -> anyhow::Result<Server> {
        let setup = if module { &self.with } else { &self.without };
        let server = peer::start_tidegate(self.binary, setup).await?;
        if module {
            wait_for_module(&server)
                .await
                .with_context(|| format!("the server printed: {}", server.log()))?;
        }
        Ok(server)
    }
}

async fn bare_us(component: &Path, time: Duration) -> anyhow::Result<f64> {
    let (make, call) = bare_call(component);
    Ok(time_calls(time, make, call).await?.us)
}

async fn bare_us_at_rate(component: &Path, time: Duration) -> anyhow::Result<f64> {
    let (make, call) = bare_call(component);
    time_calls_apart(time, INTERVAL, make, call).await
}

/// How to load the component with nothing around it, and how to call it.
fn bare_call(
    component: &Path,
) -> (
    impl AsyncFnOnce() -> anyhow::Result<Bare> + Send + 'static,
    impl AsyncFnMut(&mut Bare) -> anyhow::Result<()> + Send + 'static,
) {
    let component: PathBuf = component.to_owned();
    let make = async move || Bare::load(&component).await.map_err(bare::told);
    let payload = guest::reading(MESSAGE_BYTES);
    let call = async move |bare: &mut Bare| {
        let replaced = bare.call(TOPIC, &payload).await.map_err(bare::told)?;
        ensure!(replaced, "the guest did not transform the message");
        Ok(())
    };
    (make, call)
}

fn load(qos: u8) -> Load {
    let payload = guest::numbered(MESSAGE_BYTES);
    Load { qos, payload, topic: TOPIC.into(), ..Load::default() }
}

async fn throughput(
    bench: &mut Bench,
    pair: &Pair<'_>,
    component: &Path,
    qos: u8,
    case: &str,
) -> anyhow::Result<()> {
    bench.report.heading(&format!("{ROW}: {case}, {MESSAGE_BYTES} B JSON, 1 -> 1, module `fahrenheit`"));
    let load = load(qos);
    let (mut without, mut with, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..bench.rounds {
        for (module, samples) in [(false, &mut without), (true, &mut with)] {
            bench.progress(case, round, with_or_without(module));
            let server = pair.start(module).await?;
            samples.push(load.run(server.endpoint(), bench.span).await?);
            if module {
                wait_for_module(&server).await.context("after the run")?;
            }
            server.stop().await?;
        }
        bare.push(bare_us(component, bench.span.measure / 3).await?);
    }
    bench.report.line("    module      messages/s        (least .. greatest)        server us   lost");
    for (name, samples) in [("without", &without), ("with", &with)] {
        let rate = Summary::of(samples.iter().map(|s: &Throughput| s.per_second));
        bench.report.line(&format!(
            "    {name:<10} {:>12}  {:>26} {:>12.3} {:>6}",
            grouped(rate.median),
            format!("({} .. {})", grouped(rate.least), grouped(rate.greatest)),
            Summary::of(samples.iter().map(|s| s.server_us)).median,
            samples.iter().map(|s| s.lost).sum::<u64>(),
        ));
        bench.report.record(ROW, case, json!({"module": name, "per_second": rate, "rounds": samples}))?;
    }
    let all = || without.iter().chain(&with);
    let (lost, misordered) = (all().map(|s| s.lost).sum(), all().map(|s| s.misordered).sum());
    bench.report.kept(ROW, case, lost, misordered)?;
    let added = added(&without, &with, |s| s.server_us);
    added_processor_time(bench, case, added, Summary::of(bare).median)
}

fn added<T>(without: &[T], with: &[T], of: impl Fn(&T) -> f64) -> f64 {
    Summary::of(with.iter().map(&of)).median - Summary::of(without.iter().map(&of)).median
}

fn added_processor_time(bench: &mut Bench, case: &str, added: f64, bare: f64) -> anyhow::Result<()> {
    bench.report.line(&format!("    {:<44} {bare:>9.2}us", "bare wasmtime call of the same component"));
    let target = Target::AtMost(((bare + ALLOWANCE_US) * 100.0).round() / 100.0);
    bench.report.check(ROW, case, "processor time added a message", added, "us", target)
}

async fn latency(
    bench: &mut Bench,
    pair: &Pair<'_>,
    component: &Path,
    qos: u8,
    case: &str,
) -> anyhow::Result<()> {
    bench
        .report
        .heading(&format!("{ROW}: {case}, {} messages/s, from the intended time", grouped(RATE.into())));
    let paced = Paced {
        qos,
        payload: guest::numbered(MESSAGE_BYTES),
        topic: TOPIC.into(),
        rate: RATE,
        name: String::new(),
    };
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds {
        for (module, samples) in [(false, &mut without), (true, &mut with)] {
            bench.progress(case, round, with_or_without(module));
            let server = pair.start(module).await?;
            samples.push(paced.run(server.endpoint(), bench.span).await?);
            server.stop().await?;
        }
    }
    bench.report.line(
        "    module         p50 us    p99 us (least .. greatest)  p99.9 us    max us    server us   lost",
    );
    for (name, samples) in [("without", &without), ("with", &with)] {
        let median = |of: &dyn Fn(&Latency) -> f64| Summary::of(samples.iter().map(of)).median;
        let percentile = |percent: f64| median(&|latency| latency.percentile_us(percent));
        let lost: u64 = samples.iter().map(|s: &Latency| s.lost).sum();
        let [p50, p99, p999, max] = [50.0, 99.0, 99.9, 100.0].map(percentile);
        let spread = Summary::of(samples.iter().map(|latency: &Latency| latency.percentile_us(99.0)));
        let server = median(&|latency| latency.server_us);
        bench.report.line(&format!(
            "    {name:<10} {p50:>10.1}{p99:>10.1} {:>20}{p999:>10.1}{max:>10.1} {server:>12.3} {lost:>6}",
            format!("({:.1} .. {:.1})", spread.least, spread.greatest),
        ));
        bench.report.record(
            ROW,
            case,
            json!({"module": name, "p50_us": p50, "p99_us": p99, "p99_us_rounds": spread, "p99.9_us": p999, "max_us": max,
                   "server_us": server, "lost": lost}),
        )?;
    }
    let all = || without.iter().chain(&with);
    let (lost, misordered) = (all().map(|s| s.lost).sum(), all().map(|s| s.misordered).sum());
    bench.report.kept(ROW, case, lost, misordered)?;
    for (percent, bound) in [(50.0, 20.0), (99.0, 200.0)] {
        let added = added(&without, &with, |latency| latency.percentile_us(percent));
        bench.report.check(ROW, case, &format!("p{percent} added"), added, "us", Target::AtMost(bound))?;
    }
    let added = added(&without, &with, |latency| latency.server_us);
    let bare = bare_us(component, bench.span.measure / 3).await?;
    // For comparison with a call in a loop; the target stays what it is there.
    let apart = bare_us_at_rate(component, bench.span.measure / 3).await?;
    let what = format!("bare call, one each {INTERVAL:?} (median)");
    bench.report.line(&format!("    {what:<44} {apart:>9.2}us"));
    added_processor_time(bench, case, added, bare)
}

const fn with_or_without(module: bool) -> &'static str {
    if module { "with the module" } else { "without" }
}

/// Publishes until a message comes back transformed: the module serves.
async fn wait_for_module(server: &Server) -> anyhow::Result<()> {
    let topic = format!("{TOPIC}/probe");
    let mut connection = Connection::open(server.endpoint().address, Version::V311, "module-probe").await?;
    connection.subscribe(&topic, 0).await?;
    let payload = Payload::Fixed(guest::reading(MESSAGE_BYTES));
    let template = PublishTemplate::new(Version::V311, &topic, 0, &payload);
    let end = Instant::now() + Duration::from_secs(20);
    while !guest::is_transformed(&connection.exchange(&template).await?) {
        ensure!(Instant::now() < end, "no message was transformed in twenty seconds");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    connection.close().await;
    Ok(())
}
