//! Row `loops`: what others notice of guests that loop for ever, or take memory without end.
//!
//! A real server has eight greedy modules, each bound to a topic of its own, and a publisher for each that sends its
//! next message as soon as it may: four at QoS 0, four at QoS 1. The others are pairs of clients at a fixed rate, half
//! of them without a module and half with the example `fahrenheit`. Every round starts a fresh server, measures the
//! others while nobody is greedy, and then while all are.

mod ping;

use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};

use super::Bench;
use crate::guest::{self, FAHRENHEIT, GREEDY};
use crate::load::paced::{Latency, Paced};
use crate::load::{Connection, Endpoint, Load, Span, Throughput};
use crate::peer::{self, Setup};
use crate::process::{CpuTime, Server};
use crate::report::Target;
use crate::statistics::Summary;
use crate::wire::{Payload, PublishTemplate, Version};
use ping::{KEEP_ALIVE, Pinger};

const ROW: &str = "loops";
/// Greedy modules and their publishers at each QoS.
const GREEDY_EACH: usize = 4;
/// Pairs of other clients without a module, and as many with one.
const PAIRS: usize = 10;
/// Messages a second of a pair.
const RATE: u32 = 200;
const MESSAGE_BYTES: usize = 200;
/// What a greedy module may delay others by, at the 99th percentile.
const NOTICEABLE_MS: f64 = 20.0;
/// Longer than any run: the load is ended from outside.
const ENDLESS: Duration = Duration::from_secs(3_600);
/// How long the greedy ones have before others are measured.
const BEGIN: Duration = Duration::from_millis(500);
/// The counter of events that modules failed to handle.
const STOPPED: &str = "tidegate_module_errors_total";

/// What the greedy modules do.
#[derive(Clone, Copy)]
struct Greed {
    case: &'static str,
    /// The second level of their topics, which tells the guest.
    level: &'static str,
}

const GREEDS: [Greed; 2] = [
    Greed { case: "8 modules that loop for ever", level: "loop" },
    Greed { case: "8 modules that take memory without end", level: "grow" },
];

/// Clients that are not greedy.
const OTHERS: [&str; 2] = ["without a module", "with `fahrenheit`"];

/// What the others noticed in one phase of a round.
struct Phase {
    /// Of [`OTHERS`], in their order.
    groups: Vec<Group>,
    /// When it was.
    when: Range<Instant>,
    /// The longest wait for a PINGRESP, milliseconds; NaN until the pinging clients have told.
    ping_ms: f64,
    /// Events of greedy modules that were stopped.
    stopped: f64,
    /// Processors that the server kept busy.
    processors: f64,
}

/// The pairs of one kind, together.
struct Group {
    histogram: Histogram<u64>,
    lost: u64,
    misordered: u64,
}

impl Group {
    fn of(pairs: &[Latency]) -> anyhow::Result<Self> {
        let mut group = Self { histogram: Histogram::new(3)?, lost: 0, misordered: 0 };
        for pair in pairs {
            group.histogram.add(&pair.histogram)?;
            group.lost += pair.lost;
            group.misordered += pair.misordered;
        }
        Ok(group)
    }

    fn percentile_ms(&self, percent: f64) -> f64 {
        self.histogram.value_at_percentile(percent) as f64 / 1e6
    }
}

/// The phases of a case: each round has one of both.
#[derive(Default)]
struct Rounds {
    idle: Vec<Phase>,
    greedy: Vec<Phase>,
}

/// Runs both kinds of greed in turns.
///
/// # Errors
/// When a guest does not build, the server does not come up, or it closes a client that keeps its time.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let Some(binary) = bench.tidegate.clone() else {
        bench.report.heading(&format!("{ROW}: skipped, there is no tidegate binary"));
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let setup = Setup { modules: modules(directory.path())?, ..Setup::default() };
    let mut cases: Vec<(Greed, Rounds)> = GREEDS
        .into_iter()
        .filter(|greed| bench.wants(greed.case))
        .map(|greed| (greed, Rounds::default()))
        .collect();
    for round in 0..bench.rounds {
        for (greed, rounds) in &mut cases {
            let server = peer::start_tidegate(&binary, &setup).await?;
            let both = measure(bench, round, *greed, &server).await;
            let (idle, greedy) = both.with_context(|| format!("the server printed: {}", server.log()))?;
            rounds.idle.push(idle);
            rounds.greedy.push(greedy);
            // Killed: what the greedy publishers have in its buffers would take minutes, and nobody waits for it.
            drop(server);
        }
    }
    for (greed, rounds) in &cases {
        table(bench, *greed, rounds)?;
    }
    Ok(())
}

/// Lays the greedy modules and `fahrenheit` into `directory`, each bound to topics of its own.
fn modules(directory: &std::path::Path) -> anyhow::Result<Vec<PathBuf>> {
    let (greedy, fahrenheit) = (std::fs::read(GREEDY.build()?)?, std::fs::read(FAHRENHEIT.build()?)?);
    let mut files = vec![guest::lay(directory, "fahrenheit", &fahrenheit, "sensors/#", "")?];
    for qos in [0, 1] {
        for number in 0..GREEDY_EACH {
            let (name, filter) = (format!("greedy-{qos}-{number}"), format!("greedy/+/{qos}/{number}"));
            let policy = "[on_error]\npolicy = \"drop\"\n";
            files.push(guest::lay(directory, &name, &greedy, &filter, policy)?);
        }
    }
    Ok(files)
}

/// The phases of one round: nobody is greedy, then all are. Clients that only ping stay through both.
async fn measure(
    bench: &Bench,
    round: usize,
    greed: Greed,
    server: &Server,
) -> anyhow::Result<(Phase, Phase)> {
    let endpoint = server.endpoint();
    transforms(&endpoint).await?;
    let pinger = Pinger::start(endpoint.address).await?;
    bench.progress(greed.case, round, "idle");
    let mut idle = phase(server, bench.span).await?;
    bench.progress(greed.case, round, "greedy");
    let floods = [0, 1].map(|qos| flood(endpoint.clone(), greed, qos));
    tokio::time::sleep(BEGIN).await;
    let mut greedy = phase(server, bench.span).await?;
    for flood in floods {
        if flood.is_finished() {
            bail!("the greedy publishers ended early: {:?}", flood.await);
        }
        flood.abort();
    }
    ensure!(greedy.stopped > 0.0, "no greedy module was stopped: none was called");
    let pings = pinger.stop().await.context("a client that keeps its keep-alive")?;
    for phase in [&mut idle, &mut greedy] {
        phase.ping_ms = pings.longest_ms(&phase.when);
    }
    Ok((idle, greedy))
}

/// Sends a reading through `fahrenheit`.
async fn transforms(endpoint: &Endpoint) -> anyhow::Result<()> {
    const TOPIC: &str = "sensors/first";
    let mut connection = Connection::open(endpoint.address, Version::V311, "first").await?;
    connection.subscribe(TOPIC, 0).await?;
    let payload = Payload::Fixed(guest::reading(MESSAGE_BYTES));
    let came = connection.exchange(&PublishTemplate::new(Version::V311, TOPIC, 0, &payload)).await?;
    ensure!(guest::is_transformed(&came), "`fahrenheit` did not handle its message");
    connection.close().await;
    Ok(())
}

/// The publishers of the greedy modules at `qos`, until they are aborted.
fn flood(endpoint: Endpoint, greed: Greed, qos: u8) -> JoinHandle<anyhow::Result<Throughput>> {
    let load = Load {
        qos,
        publishers: GREEDY_EACH,
        fan_out: 0,
        window: 10,
        topic: format!("greedy/{}/{qos}", greed.level),
        name: format!("greedy-{qos}-"),
        ..Load::default()
    };
    let span = Span { warm_up: ENDLESS, measure: ENDLESS };
    tokio::spawn(async move { load.run(endpoint, span).await })
}

/// Every pair of other clients over the same time.
async fn phase(server: &Server, span: Span) -> anyhow::Result<Phase> {
    let endpoint = server.endpoint();
    let stopped = server.metric(STOPPED).await?.unwrap_or_default();
    let (begun, cpu) = (Instant::now(), CpuTime::of(endpoint.pid)?);
    let mut pairs = JoinSet::new();
    for number in 0..PAIRS {
        for (group, topic) in ["plain", "sensors"].into_iter().enumerate() {
            let paced = Paced {
                qos: if number % 2 == 0 { 0 } else { 1 },
                payload: guest::numbered(MESSAGE_BYTES),
                topic: format!("{topic}/{number}"),
                rate: RATE,
                name: format!("{topic}-{number}-"),
            };
            let endpoint = endpoint.clone();
            pairs.spawn(async move { anyhow::Ok((group, paced.run(endpoint, span).await?)) });
        }
    }
    let mut latencies = OTHERS.map(|_| Vec::new());
    while let Some(ended) = pairs.join_next().await {
        let (group, latency) = ended??;
        if let Some(of_group) = latencies.get_mut(group) {
            of_group.push(latency);
        }
    }
    let when = begun..Instant::now();
    let busy = CpuTime::of(endpoint.pid)?.since(cpu);
    Ok(Phase {
        groups: latencies.iter().map(|pairs| Group::of(pairs)).collect::<anyhow::Result<_>>()?,
        ping_ms: f64::NAN,
        stopped: server.metric(STOPPED).await?.unwrap_or_default() - stopped,
        processors: busy.as_secs_f64() / (when.end - when.start).as_secs_f64(),
        when,
    })
}

fn table(bench: &mut Bench, greed: Greed, rounds: &Rounds) -> anyhow::Result<()> {
    let case = greed.case;
    bench.report.heading(&format!(
        "{ROW}: {case}; others: 2 x {PAIRS} pairs, {RATE} messages/s each, from the intended time"
    ));
    bench.report.line(&format!(
        "    target: nobody notices: p99 beside greedy modules is at most {NOTICEABLE_MS} ms above p99 while they are idle"
    ));
    bench.report.line("    others               phase        p50 ms    p99 ms  (least .. greatest)    max ms   lost  misordered");
    let mut added = Vec::new();
    for (group, name) in OTHERS.into_iter().enumerate() {
        let idle = line(bench, case, (name, "idle"), group, &rounds.idle)?;
        let greedy = line(bench, case, (name, "greedy"), group, &rounds.greedy)?;
        added.push((name, idle, greedy));
    }
    for (name, (p50, p99), (greedy_p50, greedy_p99)) in added {
        bench.report.line(&format!(
            "    {name}: greedy / idle: p50 {:.2}x, p99 {:.2}x",
            greedy_p50 / p50,
            greedy_p99 / p99
        ));
        let what = format!("p99 added, clients {name}");
        bench.report.check(ROW, case, &what, greedy_p99 - p99, "ms", Target::AtMost(NOTICEABLE_MS))?;
    }
    for (name, phases) in [("idle", &rounds.idle), ("greedy", &rounds.greedy)] {
        let of = |value: &dyn Fn(&Phase) -> f64| Summary::of(phases.iter().map(value));
        let (ping, stopped) = (of(&|phase| phase.ping_ms).greatest, of(&|phase| phase.stopped).median);
        let processors = of(&|phase| phase.processors).median;
        bench.report.line(&format!(
            "    {name}: longest PINGRESP {ping:.2} ms; events stopped by a limit {stopped:.0}; the server kept \
             {processors:.2} processors busy",
        ));
        let values = json!({"phase": name, "ping_ms": ping, "stopped": stopped, "processors": processors});
        bench.report.record(ROW, case, values)?;
    }
    bench
        .report
        .line(&format!("    clients with a keep-alive of {KEEP_ALIVE} s that only ping: none was closed"));
    Ok(())
}

/// Prints what `group` noticed in `phases`; gives p50 and p99 in milliseconds.
fn line(
    bench: &mut Bench,
    case: &str,
    (name, phase): (&str, &str),
    group: usize,
    phases: &[Phase],
) -> anyhow::Result<(f64, f64)> {
    let groups: Vec<&Group> = phases.iter().filter_map(|phase| phase.groups.get(group)).collect();
    let of = |percent: f64| Summary::of(groups.iter().map(|group| group.percentile_ms(percent)));
    let (p50, p99, max) = (of(50.0).median, of(99.0), of(100.0).greatest);
    let lost: u64 = groups.iter().map(|group| group.lost).sum();
    let misordered: u64 = groups.iter().map(|group| group.misordered).sum();
    bench.report.line(&format!(
        "    {name:<20} {phase:<10} {p50:>8.3} {:>9.3} {:>20} {max:>9.1} {lost:>6} {misordered:>11}",
        p99.median,
        format!("({:.2} .. {:.2})", p99.least, p99.greatest),
    ));
    bench.report.record(
        ROW,
        case,
        json!({"others": name, "phase": phase, "p50_ms": p50, "p99_ms": p99, "max_ms": max, "lost": lost,
               "misordered": misordered}),
    )?;
    bench.report.kept(ROW, &format!("{case}, clients {name}, {phase}"), lost, misordered)?;
    Ok((p50, p99.median))
}
