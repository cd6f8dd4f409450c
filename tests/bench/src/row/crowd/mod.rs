//! Row `crowd`: many clients at once. Ten thousand that do nothing, and five thousand that all publish.
//!
//! Clients are little more than a socket and come from several addresses. What is measured of a server is the memory
//! that its process has more than before they came; sockets' own buffers, which the kernel holds, are not in it.
//! Our server's bound on how many may connect in a second (`broker.connection_rate`) is off: the peers have none.

mod idle;
mod publishing;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;

use super::Bench;
use crate::load::Endpoint;
use crate::load::light::{Light, dial, source};
use crate::memory::Memory;
use crate::peer::Peer;
use crate::process;
use crate::wire::{Connect, Version};

const ROW: &str = "crowd";
/// Rounds of a case, unless others are asked for.
const ROUNDS: usize = 2;
/// Clients that connect at the same time.
const CONNECTING: usize = 64;
/// Clients that come and go before memory is measured: what a server makes once is not counted.
const FIRST: usize = 100;
/// Descriptors of this process that are no clients.
const OTHER_FILES: u64 = 500;
/// How long a server rests before its memory is read.
const REST: Duration = Duration::from_secs(1);
/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs both cases in both versions.
///
/// # Errors
/// When our server does not come up, refuses a client or loses one.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    for version in [Version::V311, Version::V5] {
        idle::run(bench, version).await?;
        publishing::run(bench, version).await?;
    }
    Ok(())
}

/// What every peer that can be measured came to, a round after the other, each time all of them.
async fn rounds<T>(
    bench: &mut Bench,
    case: &str,
    measure: impl AsyncFn(&Peer) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<(Peer, Vec<T>)>> {
    let mut all: Vec<_> = bench.peers.iter().map(|peer| (peer.clone(), Vec::new())).collect();
    for round in 0..bench.rounds_or(ROUNDS) {
        let mut failed = Vec::new();
        for (peer, outcomes) in &mut all {
            bench.progress(case, round, peer.name());
            match measure(peer).await {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) if peer.is_ours() => return Err(error.context(case.to_owned())),
                // What a peer cannot do is a result.
                Err(error) => failed.push((peer.name(), error)),
            }
        }
        for (name, error) in failed {
            bench.report.line(&format!("    {name:<10} is not measured: {error:#}"));
            all.retain(|(peer, _)| peer.name() != name);
        }
    }
    Ok(all)
}

/// A version's name in a case.
fn named(version: Version) -> &'static str {
    if version == Version::V5 { "MQTT 5" } else { "MQTT 3.1.1" }
}

/// As many of `wanted` clients as this process may have descriptors for; says so when that is fewer.
fn affordable(bench: &mut Bench, wanted: usize) -> usize {
    let limit = process::file_limit().saturating_sub(OTHER_FILES) as usize;
    if limit < wanted {
        bench.report.line(&format!("    {limit} clients only: the limit of open files allows no more"));
    }
    wanted.min(limit)
}

/// Memory of a server that has served some clients already.
async fn before(server: &Endpoint, version: Version) -> anyhow::Result<Memory> {
    let (first, _) = connect(server, version, "first", 0..FIRST).await?;
    drop(first);
    tokio::time::sleep(REST).await;
    Memory::of(server.pid)
}

/// Connects clients with these numbers; gives them, and how long that took.
async fn connect(
    server: &Endpoint,
    version: Version,
    name: &str,
    numbers: Range<usize>,
) -> anyhow::Result<(Vec<Light>, Duration)> {
    let (begun, address) = (Instant::now(), server.address);
    let name: Arc<str> = name.into();
    let mut tasks = JoinSet::new();
    for first in numbers.clone().take(CONNECTING) {
        let (name, end) = (name.clone(), numbers.end);
        tasks.spawn(async move {
            let mut clients = Vec::new();
            for number in (first..end).step_by(CONNECTING) {
                let id = format!("{name}-{number}");
                let stream = dial(address, source(number)).await.with_context(|| id.clone())?;
                clients.push(
                    Light::open(stream, &Connect::new(version, &id)).await.with_context(|| id.clone())?,
                );
            }
            anyhow::Ok(clients)
        });
    }
    let all = async {
        let mut clients = Vec::with_capacity(numbers.len());
        while let Some(connected) = tasks.join_next().await {
            clients.extend(connected??);
        }
        anyhow::Ok(clients)
    };
    let clients = tokio::time::timeout(PATIENCE, all).await.context("clients are still not connected")??;
    Ok((clients, begun.elapsed()))
}
