//! What is known of a connection before its first byte of MQTT.

use std::net::SocketAddr;
use std::sync::Arc;

use bytestring::ByteString;
use tidegate_event::{Certificate, Client};

/// What a listener knows of a connection; CONNECT adds the rest of [`Client`].
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Address of the peer.
    pub peer: SocketAddr,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Name of the server that the TLS handshake asked for.
    pub server_name: Option<Arc<str>>,
    /// The client's certificate, which the listener has verified.
    pub certificate: Option<Arc<Certificate>>,
    /// User name that the certificate proves. CONNECT's is then not looked at.
    pub username: Option<ByteString>,
    /// Whether somebody else is known to be behind the peer; see [`Client::forwarded`].
    pub forwarded: bool,
    /// Whether client and listener have agreed on MQTT 3.1 and no other version: the sub-protocol `mqttv3.1` of WebSocket.
    pub only_v31: bool,
}

impl From<SocketAddr> for Arrival {
    /// A connection of which only the peer is known.
    fn from(peer: SocketAddr) -> Self {
        Self {
            peer,
            listener: Arc::from(Client::DEFAULT_LISTENER),
            server_name: None,
            certificate: None,
            username: None,
            forwarded: false,
            only_v31: false,
        }
    }
}
