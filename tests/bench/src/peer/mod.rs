//! The servers that are measured side by side, each started afresh for every run.

mod mosquitto;
mod rumqttd;
mod tidegate;

pub use rumqttd::serve;
pub use tidegate::Setup;

use std::path::PathBuf;

use crate::process::Server;
use crate::wire::Version;

/// One server under measurement.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Our binary, at this path.
    Tidegate(PathBuf),
    /// The published `rumqttd` crate's own listener, unmodified, as a child process of this binary.
    Rumqttd,
    /// The distribution's mosquitto, at this path.
    Mosquitto(PathBuf),
}

impl Peer {
    /// Its name in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tidegate(_) => "tidegate",
            Self::Rumqttd => "rumqttd",
            Self::Mosquitto(_) => "mosquitto",
        }
    }

    /// Starts it as a plain broker: no modules, no hook lines.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(&self, version: Version) -> anyhow::Result<Server> {
        match self {
            Self::Tidegate(binary) => tidegate::start(binary, &Setup::default()).await,
            Self::Rumqttd => rumqttd::start(version).await,
            Self::Mosquitto(binary) => mosquitto::start(binary).await,
        }
    }
}

/// Starts our binary with modules or hook lines.
///
/// # Errors
/// When it does not come up.
pub async fn start_tidegate(binary: &std::path::Path, setup: &Setup) -> anyhow::Result<Server> {
    tidegate::start(binary, setup).await
}

/// Messages that a peer sends to one subscriber before it waits for acknowledgements: what rumqttd has built
/// in, given to the others too.
pub const INFLIGHT: u16 = 100;

/// Messages that our session may hold for one subscriber. The others are set to "no limit" or far more than
/// this; the load never has more than a tenth of it waiting for one subscriber.
pub const QUEUE: usize = 100_000;
