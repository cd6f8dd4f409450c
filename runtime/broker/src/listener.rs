//! The accept loop. It only accepts: everything that a client could delay happens in the connection's own task.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::broker::Shared;
use crate::connection::handshake;

/// How long to rest after a failed accept: it fails again at once while the process has no descriptors left.
const REST: Duration = Duration::from_millis(100);

/// Binds `address` and accepts connections in a task until the broker stops.
pub(crate) async fn listen(shared: &Arc<Shared>, address: SocketAddr) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let broker = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let stopping = broker.stopping.clone();
        tokio::select! {
            () = accept(&broker, &listener) => {}
            () = stopping.cancelled() => {}
        }
    });
    tracing::info!(address = %bound, "listening for MQTT");
    Ok(bound)
}

async fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => admit(shared, stream, peer),
            Err(error) => {
                shared.metrics.accept_errors.increment(1);
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let count = Counted::new(shared);
    if shared.connections.load(Ordering::Relaxed) > shared.config.max_connections {
        shared.metrics.accept_errors.increment(1);
        tracing::warn!(%peer, limit = shared.config.max_connections, "too many connections: closed");
        return;
    }
    if let Err(error) = stream.set_nodelay(true) {
        // The peer has gone already; the first read will say so.
        tracing::debug!(%peer, %error, "TCP_NODELAY");
    }
    shared.metrics.accepted.increment(1);
    shared.tasks.spawn(handshake::serve(Arc::clone(shared), stream, peer, count));
}

/// Counts a connection for as long as it lives.
pub(crate) struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        shared.metrics.connections.increment(1.0);
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.connections.decrement(1.0);
    }
}
