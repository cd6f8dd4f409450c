//! The accept loop. It only accepts: everything that a client could delay happens in the connection's own task.

mod admission;
mod arrival;
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

pub(crate) use self::admission::Counted;
pub use self::arrival::Arrival;
use self::socket::Socket;
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

/// Serves `stream`, which is not from a listener, until it ends.
pub(crate) async fn serve(shared: Arc<Shared>, stream: Box<dyn socket::Stream>, arrival: Arrival) {
    if let Some(count) = Counted::admit(&shared, arrival.peer) {
        handshake::serve(shared, Socket::Other(stream), arrival, count).await;
    }
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
    let Some(count) = Counted::admit(shared, peer) else { return };
    if let Err(error) = stream.set_nodelay(true) {
        // The peer has gone already; the first read will say so.
        tracing::debug!(%peer, %error, "TCP_NODELAY");
    }
    shared.tasks.spawn(handshake::serve(Arc::clone(shared), Socket::Tcp(stream), peer.into(), count));
}
