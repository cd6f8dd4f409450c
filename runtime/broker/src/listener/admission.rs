//! Which connections are taken, and how many there are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_event::Seldom;
use tokio::time::Instant;

use super::addresses::{Addresses, Neighbour};
use super::handshakes::Handshakes;
use super::rate::Rate;
use crate::broker::Shared;
use crate::config::BrokerConfig;
use crate::limits::accepted::{Accepted, Share};
use crate::limits::eviction::Eviction;
use crate::limits::partial::{Partial, Partials};
use crate::metrics::Turned;

/// What all listeners of a broker share: how many they take.
pub(crate) struct Admission {
    pub(super) rate: Rate,
    addresses: Addresses,
    handshakes: Handshakes,
    partials: Partials,
    accepted: Accepted,
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
            partials: Partials::new(config.inbound_budget_bytes / 2),
            accepted: Accepted::new(config.inbound_budget_bytes),
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

/// Counts a connection for as long as it lives, with what it has of what all of them share.
pub(crate) struct Counted {
    shared: Arc<Shared>,
    deadline: Instant,
    neighbour: Option<Neighbour>,
    /// Its number among the handshakes, until CONNECT has come.
    handshake: Option<u64>,
    eviction: Arc<Eviction>,
    partial: Partial,
    accepted: Share,
}

/// What a connection that has ended leaves to handlers: it counts until they are done.
pub(crate) struct Left {
    shared: Arc<Shared>,
    accepted: Share,
}

impl Drop for Left {
    fn drop(&mut self) {
        self.shared.admission.accepted.set(&mut self.accepted, 0);
    }
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
            handshake: None,
            eviction: Arc::default(),
            partial: Partial::default(),
            accepted: Share::default(),
        };
        if before >= config.max_connections && !shared.admission.handshakes.give_way() {
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
        counted.handshake = Some(shared.admission.handshakes.begin(&counted.eviction));
        shared.metrics.handshakes.increment(1.0);
        shared.metrics.accepted.increment(1);
        Some(counted)
    }

    /// Until then the client must be connected, or be told why it is not.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Ends when the connection has to give way to others.
    pub(crate) fn evicted(&self) -> impl Future<Output = ()> + use<> {
        let eviction = Arc::clone(&self.eviction);
        std::future::poll_fn(move |cx| eviction.poll(cx))
    }

    /// Ready when the connection, whose client is connected, has to give way to others.
    pub(crate) fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.partial.is_counted() { self.eviction.poll(cx) } else { Poll::Pending }
    }

    /// Whether the connection has to give way to others.
    pub(crate) fn is_evicted(&self) -> bool {
        self.eviction.has_happened()
    }

    /// The connection waits for the rest of a packet of which `bytes` are there; 0: it does not.
    pub(crate) fn waits_for_the_rest(&mut self, bytes: usize) {
        self.shared.admission.partials.settle(&mut self.partial, &self.eviction, bytes);
    }

    /// The client has `bytes` accepted that handlers are not done with.
    pub(crate) fn has_accepted(&mut self, bytes: usize) {
        self.shared.admission.accepted.settle(&mut self.accepted, bytes);
    }

    /// The client's CONNECT takes `bytes`, until there is an answer. Whether it may go on.
    pub(crate) fn takes_connect(&mut self, bytes: usize) -> bool {
        let accepted = &self.shared.admission.accepted;
        let admits = accepted.admits_connect(bytes);
        accepted.set(&mut self.accepted, bytes);
        admits
    }

    /// Whether the rest of a packet larger than [`FREE`](crate::limits::accepted::FREE) may be read.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.admission.accepted.has_room()
    }

    /// What of the client handlers are not done with, to be counted for longer than its connection.
    pub(crate) fn take_accepted(&mut self) -> Left {
        Left { shared: Arc::clone(&self.shared), accepted: std::mem::take(&mut self.accepted) }
    }

    /// Whether a client with `bytes` accepted may be read from.
    pub(crate) fn may_accept(&self, bytes: usize) -> bool {
        self.shared.admission.accepted.admits(bytes)
    }

    /// CONNECT has come. Whether it came before the connection's place was given to another.
    pub(crate) fn heard(&mut self) -> bool {
        if let Some(number) = self.handshake.take() {
            self.shared.admission.handshakes.end(number);
            self.shared.metrics.handshakes.decrement(1.0);
        }
        self.waits_for_the_rest(0);
        if !self.is_evicted() {
            return true;
        }
        if self.shared.connections.load(Ordering::Relaxed) > self.shared.config.max_connections {
            return false;
        }
        // There is room after all.
        self.eviction = Arc::default();
        true
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.heard();
        self.has_accepted(0);
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
