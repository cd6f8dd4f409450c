//! Row `attacks`: what others notice of clients that are hostile or broken.
//!
//! Every case has a fresh server with the limits that it has by default. Two pairs of honest clients send at a fixed
//! rate, first alone, then beside the attackers. When those have stopped, the server must get rid of all that is theirs:
//! some just leave, others keep their sockets open and say nothing any more.
//!
//! Attackers share the processors with the server and the honest clients, but have a lower priority: on the internet they
//! would bring processors of their own.

mod attack;
mod attackers;
mod connecting;
mod honest;
mod publishing;
mod subscribing;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::Bench;
use crate::load::Span;
use crate::memory::Memory;
use crate::peer::{self, Setup};
use crate::process::Server;
use crate::report::Target;
use crate::statistics::Summary;
use attack::Attack;
use attackers::{Attackers, Count};
use honest::Phase;

const ROW: &str = "attacks";
/// Rounds of a case, unless others are asked for.
const ROUNDS: usize = 1;
/// Of the idle phase, and of each part of the attacked one. Long enough for a queue of 1,000 to be full for most of it.
const MEASURED: Span = Span { warm_up: Duration::from_millis(500), measure: Duration::from_secs(3) };
/// The table `[broker]` with `--quick`: who sends no CONNECT is waited for less long.
const QUICK: &str = "connect_timeout = \"2s\"\n";
/// How long attackers have before others are measured.
const BEGIN: Duration = Duration::from_millis(300);
/// What an attack may delay others by, at the 99th percentile.
const NOTICEABLE_MS: f64 = 20.0;
/// What a server may keep of an attack, MiB, besides what it has accepted for good.
const KEPT_MIB: f64 = 32.0;
/// How long a server may take to get rid of attackers: longer than its limits for silent clients, which are 10 s.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// How long its memory may take to shrink.
const SHRUNK_WITHIN: Duration = Duration::from_secs(3);
/// How long attackers may take to finish what they have to do at least.
const FINISHED_WITHIN: Duration = Duration::from_secs(120);

/// One round of a case.
struct Round {
    idle: Phase,
    attacked: Phase,
    /// Resident memory before the attack, at most while it went on, and afterwards, MiB.
    before: f64,
    peak: f64,
    after: f64,
    /// How long the server needed to get rid of the attackers; `None`: it did not.
    gone_after: Option<Duration>,
    count: Count,
}

/// Runs every attack.
///
/// # Errors
/// When the server does not come up.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let Some(binary) = bench.tidegate.clone() else {
        bench.report.heading(&format!("{ROW}: skipped, there is no tidegate binary"));
        return Ok(());
    };
    for attack in Attack::ALL {
        if !bench.wants(attack.name()) {
            continue;
        }
        bench.report.heading(&format!("{ROW}: {}; {}", attack.name(), honest::DESCRIPTION));
        match rounds(bench, &binary, attack).await {
            Ok(rounds) => tell(bench, attack, &rounds)?,
            // The others are worth knowing.
            Err(error) => bench.report.failed(&format!("{ROW}, {}", attack.name()), &error),
        }
    }
    Ok(())
}

async fn rounds(bench: &Bench, binary: &Path, attack: Attack) -> anyhow::Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for round in 0..bench.rounds_or(ROUNDS) {
        bench.progress(attack.name(), round, "idle, then attacked");
        let broker = Some(if bench.quick { QUICK } else { "" });
        let setup = Setup { broker, ..Setup::default() };
        let server = peer::start_tidegate(binary, &setup).await?;
        let result = measure(bench, attack, &server).await;
        rounds.push(result.with_context(|| format!("the server printed: {}", server.log()))?);
        server.stop().await.context("the server that was attacked")?;
    }
    Ok(rounds)
}

async fn measure(bench: &Bench, attack: Attack, server: &Server) -> anyhow::Result<Round> {
    let endpoint = server.endpoint();
    let span = |full| if bench.quick { bench.span } else { full };
    let idle = honest::phase(&endpoint, span(MEASURED)).await.context("while nobody attacks")?;
    let before = resident(endpoint.pid)?;
    let attackers = Attackers::start(attack, endpoint.address, bench.quick)?;
    tokio::time::sleep(BEGIN).await;
    let attacked = async {
        let begun = Instant::now();
        let mut attacked = honest::phase(&endpoint, span(MEASURED)).await?;
        // Until the last byte of what the attackers have to send.
        while !attackers.have_finished() {
            ensure!(begun.elapsed() < FINISHED_WITHIN, "the attackers did not finish: {}", attackers.count());
            attacked.add(honest::phase(&endpoint, span(MEASURED)).await?)?;
        }
        anyhow::Ok(attacked)
    };
    let attacked = tokio::select! {
        attacked = attacked => attacked.context("beside the attackers")?,
        never = watch(server) => return Err(never),
    };
    ensure!(attackers.has_attacked(), "nobody attacked: {}", attackers.count());
    let peak = attacked.peak.max(resident(endpoint.pid)?);
    attackers.stop();
    let gone_after = gone(server).await?;
    let after = shrunk(endpoint.pid, before + attack.keeps_mib() + KEPT_MIB).await?;
    Ok(Round { idle, attacked, before, peak, after, gone_after, count: attackers.count() })
}

/// Resident memory, MiB.
fn resident(pid: u32) -> anyhow::Result<f64> {
    Ok(Memory::of(pid)?.resident as f64 / f64::from(1 << 20))
}

/// Ends when the server has ended.
async fn watch(server: &Server) -> anyhow::Error {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let Err(error) = resident(server.endpoint().pid) {
            return error.context("the server is gone");
        }
    }
}

/// Waits until the server has no connection and no session any more; gives how long that took.
async fn gone(server: &Server) -> anyhow::Result<Option<Duration>> {
    let begun = Instant::now();
    loop {
        let mut left = 0.0;
        for name in ["tidegate_broker_connections", "tidegate_broker_sessions"] {
            left += server.metric(name).await?.with_context(|| format!("there is no metric {name}"))?;
        }
        let took = begun.elapsed();
        if left == 0.0 {
            return Ok(Some(took));
        }
        if took > GONE_WITHIN {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the memory is at most `bound`, but not for long; gives what it is then.
async fn shrunk(pid: u32, bound: f64) -> anyhow::Result<f64> {
    let begun = Instant::now();
    loop {
        let now = resident(pid)?;
        if now <= bound || begun.elapsed() > SHRUNK_WITHIN {
            return Ok(now);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn tell(bench: &mut Bench, attack: Attack, rounds: &[Round]) -> anyhow::Result<()> {
    let case = attack.name();
    bench.report.line("    honest clients      p50 ms    p99 ms   (least .. greatest)   max ms   lost  misordered   new client ms");
    let idle = line(bench, case, "idle", rounds.iter().map(|round| &round.idle))?;
    let attacked = line(bench, case, "attacked", rounds.iter().map(|round| &round.attacked))?;
    bench.report.line(&format!("    p99 attacked / p99 idle: {:.2}x", attacked / idle));
    bench.report.check(ROW, case, "p99 added", attacked - idle, "ms", Target::AtMost(NOTICEABLE_MS))?;
    for round in rounds {
        let Round { before, peak, after, count, .. } = round;
        bench.report.line(&format!("    attackers: {count}"));
        bench.report.line(&format!(
            "    memory of the server: {before:.1} MiB before, {peak:.1} at most, {after:.1} afterwards; {}",
            round.gone_after.map_or("attackers are STILL THERE".into(), |took| format!(
                "nothing of the attackers was there {:.1} s after they stopped",
                took.as_secs_f64()
            )),
        ));
        let gone_s = round.gone_after.map(|took| took.as_secs_f64());
        let values = json!({"before_mib": before, "peak_mib": peak, "after_mib": after, "gone_s": gone_s,
                            "attackers": count.to_string()});
        bench.report.record(ROW, case, values)?;
        if gone_s.is_none() {
            let error =
                anyhow::anyhow!("connections or sessions of attackers are there after {GONE_WITHIN:?}");
            bench.report.failed(&format!("{ROW}, {case}"), &error);
        }
    }
    let kept = Summary::of(rounds.iter().map(|round| round.after - round.before)).greatest;
    let bound = Target::AtMost(KEPT_MIB + attack.keeps_mib());
    bench.report.check(ROW, case, "memory kept", kept, "MiB", bound)
}

/// Prints what honest clients noticed in `phases`; gives p99 in milliseconds.
fn line<'a>(
    bench: &mut Bench,
    case: &str,
    name: &str,
    phases: impl Iterator<Item = &'a Phase> + Clone,
) -> anyhow::Result<f64> {
    let of = |value: &dyn Fn(&Phase) -> f64| Summary::of(phases.clone().map(value));
    let (p50, p99) = (of(&|phase| phase.percentile_ms(50.0)).median, of(&|phase| phase.percentile_ms(99.0)));
    let max = of(&|phase| phase.percentile_ms(100.0)).greatest;
    let newcomer = of(&|phase| phase.newcomer_ms).greatest;
    let lost: u64 = phases.clone().map(|phase| phase.lost).sum();
    let misordered: u64 = phases.clone().map(|phase| phase.misordered).sum();
    bench.report.line(&format!(
        "    {name:<16} {p50:>9.3} {:>9.3} {:>21} {max:>8.1} {lost:>6} {misordered:>11} {newcomer:>15.2}",
        p99.median,
        format!("({:.2} .. {:.2})", p99.least, p99.greatest),
    ));
    let values = json!({"phase": name, "p50_ms": p50, "p99_ms": p99, "max_ms": max, "lost": lost,
                        "misordered": misordered, "newcomer_ms": newcomer});
    bench.report.record(ROW, case, values)?;
    bench.report.kept(ROW, &format!("{case}, honest clients, {name}"), lost, misordered)?;
    Ok(p99.median)
}
