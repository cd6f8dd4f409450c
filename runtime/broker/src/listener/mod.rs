//! Where clients come in: the accept loops, who is taken, and what is between TCP and MQTT.
//!
//! ```text
//! accept -> Counted (limits) -> task: TLS -> WebSocket -> connection::handshake
//! ```
//!
//! The loop only accepts: everything that a client could delay happens in the connection's own task, within one deadline
//! for all of it.

mod addresses;
mod admission;
mod arrival;
mod config;
mod handshakes;
mod open;
mod rate;
mod socket;
mod tls;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tidegate_event::Seldom;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

pub(crate) use self::admission::{Admission, Counted};
pub use self::arrival::Arrival;
pub use self::config::{CertificateFiles, ListenerConfig, TlsConfig, UsernameFrom, Verify, WebSocketConfig};
use self::open::Gate;
use self::socket::Socket;
pub(crate) use self::tls::BUFFER as TLS_BUFFER;
use self::tls::Tls;
pub use self::tls::TlsError;
use crate::broker::Shared;
use crate::connection::handshake;

/// How long to rest after a failed accept: it fails again at once while the process has no descriptors left.
const REST: Duration = Duration::from_millis(100);
/// Time without a sign of life from a peer's system after which it is gone.
const DEAD_AFTER: Duration = Duration::from_secs(120);
/// Connections that the system keeps until they are accepted, if it lets us (`net.core.somaxconn`).
const BACKLOG: u32 = 4_096;

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Its address cannot be bound.
    #[error("cannot listen: {0}")]
    Bind(#[from] std::io::Error),
    /// Its certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Binds a listener and accepts connections in a task until the broker stops.
pub(crate) async fn listen(shared: &Arc<Shared>, config: ListenerConfig) -> Result<SocketAddr, ListenError> {
    let scheme = config.scheme();
    let ListenerConfig { name, address, tls, websocket } = config;
    let name: Arc<str> = name.into();
    let tls =
        tls.map(|tls| Tls::open(Arc::clone(&name), tls, websocket.is_some())).transpose()?.map(Arc::new);
    let listener = bind(address)?;
    let bound = listener.local_addr()?;
    tracing::info!(address = %bound, listener = %name, scheme, "listening for MQTT");
    let broker = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let stopping = broker.stopping.clone();
        let follow = async {
            match tls.clone() {
                Some(tls) => tls::follow(tls).await,
                None => std::future::pending().await,
            }
        };
        let gate = Arc::new(Gate { name, tls: tls.clone(), websocket });
        tokio::select! {
            () = accept(&broker, &listener, &gate) => {}
            () = follow => {}
            () = stopping.cancelled() => {}
        }
    });
    Ok(bound)
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // What an earlier process has left of its connections must not be in the way.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // Before the first can come.
    if INHERITED && let Err(error) = prepare(SockRef::from(&socket)) {
        tracing::warn!(%address, %error, "options of the listener's connections");
    }
    socket.listen(BACKLOG)
}

/// Serves `stream`, which is not from a listener, until it ends.
pub(crate) async fn serve(shared: Arc<Shared>, stream: Box<dyn socket::Stream>, arrival: Arrival) {
    if let Some(count) = Counted::admit(&shared, arrival.peer) {
        handshake::serve(shared, Socket::Other(stream), arrival, count).await;
    }
}

async fn accept(shared: &Arc<Shared>, listener: &TcpListener, gate: &Arc<Gate>) {
    let (slow, failed) = (Seldom::default(), Seldom::default());
    loop {
        if let Some(wait) = shared.admission.rate.wait(Instant::now()) {
            shared.metrics.accepts_delayed.increment(1);
            if let Some(left_out) = slow.turn() {
                let rate = shared.config.connection_rate;
                tracing::warn!(listener = %gate.name, rate, left_out, "more connections come than are accepted: they wait");
            }
            tokio::time::sleep(wait).await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, peer)) => {
                shared.admission.rate.take();
                admit(shared, gate, stream, peer);
            }
            Err(error) => {
                shared.metrics.accept_errors.increment(1);
                if let Some(left_out) = failed.turn() {
                    tracing::warn!(listener = %gate.name, %error, left_out, "a connection could not be accepted");
                }
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Whether a connection has the options of its listener: then they are set once, and not with six calls for each.
const INHERITED: bool = cfg!(target_os = "linux");

/// What is sent goes out at once, and the system asks a peer that is silent whether it is still there, and gives up one that
/// does not acknowledge what it is sent: a client without keep-alive whose machine has gone would keep its connection for ever.
fn prepare(socket: SockRef<'_>) -> std::io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let ask = TcpKeepalive::new().with_time(DEAD_AFTER / 2).with_interval(DEAD_AFTER / 8).with_retries(4);
    socket.set_tcp_keepalive(&ask)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    Ok(())
}

fn admit(shared: &Arc<Shared>, gate: &Arc<Gate>, stream: TcpStream, peer: SocketAddr) {
    let Some(count) = Counted::admit(shared, peer) else { return };
    if !INHERITED && let Err(error) = prepare(SockRef::from(&stream)) {
        // The peer has gone already; the first read will say so.
        tracing::debug!(%peer, %error, "options of the connection");
    }
    let shared = Arc::clone(shared);
    let tasks = shared.tasks.clone();
    if gate.is_plain() {
        tasks.spawn(handshake::serve(shared, Socket::Tcp(stream), gate.arrival(peer), count));
    } else {
        tasks.spawn(open::serve(shared, Arc::clone(gate), stream, peer, count));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn connections_have_the_options_that_they_are_to_have() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        if !INHERITED {
            prepare(SockRef::from(&stream)).unwrap();
        }
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), DEAD_AFTER / 2);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(DEAD_AFTER));
    }
}
