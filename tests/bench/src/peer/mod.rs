//! The servers that are measured side by side, each started afresh for every run.

mod mosquitto;
mod rumqttd;
mod tidegate;

pub use rumqttd::serve;
pub use tidegate::Setup;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::certificates::Certificates;
use crate::load::Transport;
use crate::process::Server;
use crate::wire::Version;

/// One server under measurement.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Our binary, at this path.
    Tidegate(PathBuf),
    /// The published `rumqttd` crate's own listener, unmodified, as a child process of this binary. With TLS the
    /// program of that crate, at this path, if it is there: the library of this workspace is built without.
    Rumqttd(Option<PathBuf>),
    /// The distribution's mosquitto, at this path.
    Mosquitto(PathBuf),
}

/// What the server of a run has to be, besides a broker.
#[derive(Clone, Debug)]
pub struct Service {
    /// What its clients speak.
    pub version: Version,
    /// The certificate of its listener; none: plain TCP.
    pub tls: Option<Arc<Certificates>>,
    /// Where sessions are that outlive their connection.
    pub sessions: Sessions,
}

/// Where a server keeps sessions that outlive their connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// Wherever it does by default: we on disk, the others in memory.
    Usual,
    /// On disk.
    Durable,
    /// In memory.
    Volatile,
}

impl Service {
    /// A plain broker.
    pub fn plain(version: Version) -> Self {
        Self { version, tls: None, sessions: Sessions::Usual }
    }

    fn transport(&self) -> Transport {
        self.tls.as_ref().map_or(Transport::Tcp, |certificates| certificates.transport())
    }
}

impl Peer {
    /// Its name in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tidegate(_) => "tidegate",
            Self::Rumqttd(_) => "rumqttd",
            Self::Mosquitto(_) => "mosquitto",
        }
    }

    /// Whether it is ours: what it loses is a failure.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Tidegate(_))
    }

    /// Starts it as a plain broker: no modules, no hook lines.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(&self, version: Version) -> anyhow::Result<Server> {
        self.start_as(&Service::plain(version)).await
    }

    /// Starts it as `service` says, without modules and hook lines.
    ///
    /// # Errors
    /// When it does not come up, or cannot be that.
    pub async fn start_as(&self, service: &Service) -> anyhow::Result<Server> {
        match self {
            Self::Tidegate(binary) => {
                tidegate::start(binary, &Setup { service: Some(service.clone()), ..Setup::default() }).await
            }
            Self::Rumqttd(program) => rumqttd::start(program.as_deref(), service).await,
            Self::Mosquitto(binary) => mosquitto::start(binary, service).await,
        }
    }
}

/// Starts our binary with modules or hook lines.
///
/// # Errors
/// When it does not come up.
pub async fn start_tidegate(binary: &Path, setup: &Setup) -> anyhow::Result<Server> {
    tidegate::start(binary, setup).await
}

/// Messages that a peer sends to one subscriber before it waits for acknowledgements: what rumqttd has built
/// in, given to the others too.
pub const INFLIGHT: u16 = 100;

/// Messages that our session may hold for one subscriber. The others are set to "no limit" or far more than
/// this; the load never has more than a tenth of it waiting for one subscriber.
pub const QUEUE: usize = 100_000;
