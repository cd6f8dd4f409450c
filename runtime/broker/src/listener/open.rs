//! What a connection goes through before its first byte of MQTT: TLS, then WebSocket, as its listener has them.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::admission::Counted;
use super::arrival::Arrival;
use super::config::WebSocketConfig;
use super::socket::Socket;
use super::tls::{self, Tls};
use super::websocket::{UpgradeError, Upgraded, WebSocket, upgrade};
use crate::broker::Shared;
use crate::connection::handshake;
use crate::metrics::Turned;

/// What a listener's connections have to pass.
pub(super) struct Gate {
    pub(super) name: Arc<str>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) websocket: Option<WebSocketConfig>,
}

/// Why a connection did not pass.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    #[error("the certificate {subject:?} has no common name that could be a user's name")]
    Nameless { subject: String },
    #[error(transparent)]
    WebSocket(#[from] UpgradeError),
}

impl Closed {
    fn reason(&self) -> Turned {
        match self {
            Self::Tls(_) => Turned::Tls,
            Self::Nameless { .. } => Turned::Certificate,
            Self::WebSocket(_) => Turned::WebSocket,
        }
    }
}

impl Gate {
    /// Whether there is nothing to pass.
    pub(super) fn is_plain(&self) -> bool {
        self.tls.is_none() && self.websocket.is_none()
    }

    /// What is known of a connection from `peer` at first.
    pub(super) fn arrival(&self, peer: SocketAddr) -> Arrival {
        Arrival { listener: Arc::clone(&self.name), ..Arrival::from(peer) }
    }

    async fn pass(
        &self,
        shared: &Shared,
        stream: TcpStream,
        arrival: &mut Arrival,
    ) -> Result<Socket, Closed> {
        let Some(tls) = &self.tls else {
            return Ok(match &self.websocket {
                None => Socket::Tcp(stream),
                Some(config) => Socket::Ws(framed(shared, stream, config, arrival).await?),
            });
        };
        let stream = tls.accept(stream).await.map_err(Closed::Tls)?;
        arrival.server_name = tls::server_name(&stream);
        arrival.certificate = tls::identity(&stream).map(Arc::new);
        if let Some(certificate) = arrival.certificate.as_ref().filter(|_| tls.names_users()) {
            let Some(name) = &certificate.common_name else {
                return Err(Closed::Nameless { subject: certificate.subject.to_string() });
            };
            arrival.username = Some(name.clone());
        }
        Ok(match &self.websocket {
            None => Socket::Tls(Box::new(stream)),
            Some(config) => Socket::Wss(framed(shared, stream, config, arrival).await?),
        })
    }
}

async fn framed<S>(
    shared: &Shared,
    mut stream: S,
    config: &WebSocketConfig,
    arrival: &mut Arrival,
) -> Result<Box<WebSocket<S>>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Upgraded { rest, is_foreign, only_v31 } = upgrade(&mut stream, config).await?;
    arrival.forwarded = is_foreign;
    arrival.only_v31 = only_v31;
    Ok(Box::new(WebSocket::new(stream, rest, shared.metrics.websocket_violations.clone())))
}

/// Serves one connection from its first byte to its last.
pub(super) async fn serve(
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    stream: TcpStream,
    peer: SocketAddr,
    count: Counted,
) {
    let mut arrival = gate.arrival(peer);
    let passed = {
        let evicted = count.evicted();
        // On the heap, so that its room is given back when the client is connected.
        let passing = Box::pin(gate.pass(&shared, stream, &mut arrival));
        tokio::select! {
            passed = passing => passed,
            () = tokio::time::sleep_until(count.deadline()) => return shared.too_late(peer),
            () = evicted => {
                return shared.turned_away(peer, Turned::Handshakes, "others came after it who wait for their CONNECT too");
            }
            () = shared.stopping.cancelled() => return,
        }
    };
    drop(gate);
    match passed {
        Ok(socket) => handshake::serve(shared, socket, arrival, count).await,
        Err(closed) => shared.turned_away(peer, closed.reason(), &closed),
    }
}
