//! The honest clients: what they notice.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::resident;
use crate::load::paced::Paced;
use crate::load::{Connection, Endpoint, Span};
use crate::wire::{Payload, Version};

/// Publishers with a subscriber each.
const PAIRS: usize = 2;
/// Messages a second of a pair.
pub(super) const RATE: u32 = 1_000;
/// What the rows say of them.
pub(super) const DESCRIPTION: &str = "honest: 2 pairs, QoS 1, 1,000 messages/s each, from the intended time";
/// Size of a message; a too slow subscriber takes them, too.
const MESSAGE_BYTES: usize = 100;
/// How often a new client connects, and how often memory is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The topic of a pair.
pub(super) fn topic(pair: usize) -> String {
    format!("honest/{pair}")
}

/// What honest clients noticed in one phase of a round.
pub(super) struct Phase {
    histogram: Histogram<u64>,
    pub(super) lost: u64,
    pub(super) misordered: u64,
    /// The longest that a new client waited from connect to CONNACK, milliseconds.
    pub(super) newcomer_ms: f64,
    /// The greatest resident memory of the server, MiB.
    pub(super) peak: f64,
}

impl Phase {
    /// Takes in the phase that came next.
    ///
    /// # Errors
    /// The histograms are of different forms.
    pub(super) fn add(&mut self, next: Self) -> anyhow::Result<()> {
        self.histogram.add(&next.histogram)?;
        self.lost += next.lost;
        self.misordered += next.misordered;
        self.newcomer_ms = self.newcomer_ms.max(next.newcomer_ms);
        self.peak = self.peak.max(next.peak);
        Ok(())
    }

    pub(super) fn percentile_ms(&self, percent: f64) -> f64 {
        self.histogram.value_at_percentile(percent) as f64 / 1e6
    }
}

/// Every pair over the same time; meanwhile new clients come and go.
pub(super) async fn phase(endpoint: &Endpoint, span: Span) -> anyhow::Result<Phase> {
    let mut pairs = JoinSet::new();
    for number in 0..PAIRS {
        let paced = Paced {
            qos: 1,
            payload: Payload::Sequenced(MESSAGE_BYTES),
            topic: topic(number),
            rate: RATE,
            name: format!("honest-{number}-"),
        };
        let endpoint = endpoint.clone();
        pairs.spawn(async move { paced.run(endpoint, span).await });
    }
    let mut phase = Phase {
        histogram: Histogram::new(3)?,
        lost: 0,
        misordered: 0,
        newcomer_ms: f64::NAN,
        peak: resident(endpoint.pid)?,
    };
    let mut newcomers = JoinSet::new();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            pair = pairs.join_next() => {
                let Some(pair) = pair else { break };
                let latency = pair??;
                phase.histogram.add(&latency.histogram)?;
                phase.lost += latency.lost;
                phase.misordered += latency.misordered;
            }
            _ = looks.tick() => {
                phase.peak = phase.peak.max(resident(endpoint.pid)?);
                if newcomers.is_empty() {
                    newcomers.spawn(newcomer(endpoint.clone()));
                }
            }
            Some(waited) = newcomers.join_next() => {
                phase.newcomer_ms = phase.newcomer_ms.max(waited??.as_secs_f64() * 1e3);
            }
        }
    }
    // One that still waits has waited until now at least.
    while let Some(waited) = newcomers.join_next().await {
        phase.newcomer_ms = phase.newcomer_ms.max(waited??.as_secs_f64() * 1e3);
    }
    Ok(phase)
}

/// Connects a client that is new; gives how long it waited.
async fn newcomer(endpoint: Endpoint) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let connection = Connection::open(endpoint.address, Version::V311, "newcomer").await?;
    let waited = begun.elapsed();
    connection.close().await;
    Ok(waited)
}
