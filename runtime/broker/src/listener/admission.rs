//! Which connections are taken, and how many there are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_event::Seldom;
use tokio::time::Instant;

use super::addresses::{Addresses, Neighbour};
use super::handshakes::{Handshakes, Place};
use super::rate::Rate;
use crate::broker::Shared;
use crate::config::BrokerConfig;
use crate::metrics::Turned;

/// Bytes that every connection may have sent of a CONNECT that is not whole. What is above counts in [`CONNECT_BYTES`].
const CONNECT_FREE: usize = 4 * 1024;
/// Bytes above that of all connections together: nobody knows yet who sends them.
const CONNECT_BYTES: usize = 64 * 1024 * 1024;

/// What all listeners of a broker share: how many they take.
pub(crate) struct Admission {
    pub(super) rate: Rate,
    addresses: Addresses,
    handshakes: Handshakes,
    /// Bytes of CONNECT packets that are not whole.
    connect_bytes: AtomicUsize,
    turned_away: [Seldom; Turned::COUNT],
    /// The line about a client that was too slow.
    late: Seldom,
}

impl Admission {
    pub(crate) fn new(config: &BrokerConfig) -> Self {
        Self {
            rate: Rate::new(config.connection_rate),
            addresses: Addresses::new(config.max_connections_per_address),
            handshakes: Handshakes::new(config.max_handshakes),
            connect_bytes: AtomicUsize::new(0),
            turned_away: Default::default(),
            late: Seldom::default(),
        }
    }
}

impl Shared {
    /// Counts a connection that is closed before its client is connected, and says so, though not for every one.
    pub(crate) fn turned_away(&self, peer: SocketAddr, why: Turned, detail: impl std::fmt::Display) {
        self.metrics.turned_away(why);
        let reason = why.name();
        match self.admission.turned_away.get(why as usize).and_then(Seldom::turn) {
            // Somebody may have to raise a limit.
            Some(left_out) if why.is_limit() => {
                tracing::warn!(%peer, reason, left_out, "connection closed: {detail}")
            }
            Some(left_out) => tracing::info!(%peer, reason, left_out, "connection closed: {detail}"),
            None => tracing::debug!(%peer, reason, "connection closed: {detail}"),
        }
    }

    /// Counts a connection that was closed because its handshakes and CONNECT took too long.
    pub(crate) fn too_late(&self, peer: SocketAddr) {
        self.metrics.connect_timeouts.increment(1);
        if let Some(left_out) = self.admission.late.turn() {
            tracing::info!(%peer, timeout = ?self.config.connect_timeout, left_out, "no CONNECT in time");
        }
    }
}

/// Counts a connection for as long as it lives.
pub(crate) struct Counted {
    shared: Arc<Shared>,
    deadline: Instant,
    neighbour: Option<Neighbour>,
    /// Until CONNECT has come.
    place: Option<Place>,
    /// How much of [`CONNECT_BYTES`] it has.
    held: usize,
}

impl Counted {
    /// Takes the connection from `peer`; `None`: there are too many, and it is to be closed.
    pub(crate) fn admit(shared: &Arc<Shared>, peer: SocketAddr) -> Option<Self> {
        let config = &shared.config;
        let before = shared.connections.fetch_add(1, Ordering::Relaxed);
        shared.metrics.connections.increment(1.0);
        let mut counted = Self {
            shared: Arc::clone(shared),
            deadline: after(config.connect_timeout),
            neighbour: None,
            place: None,
            held: 0,
        };
        if before >= config.max_connections {
            shared.turned_away(peer, Turned::Connections, format_args!("{before} connections are allowed"));
            return None;
        }
        match shared.admission.addresses.enter(peer.ip()) {
            Ok(neighbour) => counted.neighbour = neighbour,
            Err(_) => {
                let most = config.max_connections_per_address;
                shared.turned_away(
                    peer,
                    Turned::Address,
                    format_args!("{most} from one address are allowed"),
                );
                return None;
            }
        }
        let (place, _) = shared.admission.handshakes.begin();
        shared.metrics.handshakes.increment(1.0);
        counted.place = Some(place);
        shared.metrics.accepted.increment(1);
        Some(counted)
    }

    /// Until then the client must be connected, or be told why it is not.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Ends when the connection has to give way to newer ones, because it has not sent CONNECT for so long.
    pub(crate) fn lost(&self) -> impl Future<Output = ()> + use<> {
        let lost = self.place.as_ref().map(Place::lost);
        async move {
            match lost {
                Some(lost) => lost.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Whether `bytes` of a CONNECT that is not whole may be kept.
    pub(crate) fn may_hold(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(CONNECT_FREE).saturating_sub(self.held);
        if more == 0 {
            return true;
        }
        let held = &self.shared.admission.connect_bytes;
        if held.fetch_add(more, Ordering::Relaxed) + more > CONNECT_BYTES {
            held.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.held += more;
        true
    }

    /// CONNECT has come.
    pub(crate) fn heard(&mut self) {
        if let Some(place) = self.place.take() {
            self.shared.admission.handshakes.end(&place);
            self.shared.metrics.handshakes.decrement(1.0);
        }
        self.shared.admission.connect_bytes.fetch_sub(std::mem::take(&mut self.held), Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.heard();
        if let Some(neighbour) = self.neighbour {
            self.shared.admission.addresses.leave(neighbour);
        }
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.connections.decrement(1.0);
    }
}

/// When `timeout` from now is over. One that is longer than the clock goes ends never.
fn after(timeout: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or(now + NEVER)
}
