//! Which connections are taken, and how many there are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Shared;

/// Counts a connection for as long as it lives.
pub(crate) struct Counted {
    shared: Arc<Shared>,
    deadline: Instant,
}

impl Counted {
    /// Takes the connection from `peer`; `None`: there are too many, and it is to be closed.
    pub(crate) fn admit(shared: &Arc<Shared>, peer: SocketAddr) -> Option<Self> {
        let before = shared.connections.fetch_add(1, Ordering::Relaxed);
        shared.metrics.connections.increment(1.0);
        let counted =
            Self { shared: Arc::clone(shared), deadline: after(shared.config.connect_timeout) };
        if before >= shared.config.max_connections {
            shared.metrics.accept_errors.increment(1);
            tracing::warn!(%peer, limit = shared.config.max_connections, "too many connections: closed");
            return None;
        }
        shared.metrics.accepted.increment(1);
        Some(counted)
    }

    /// Until then the client must be connected, or be told why it is not.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
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
