//! A connected MQTT client, as every handler sees it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytestring::ByteString;

use crate::Tenant;

/// MQTT protocol version, from the CONNECT packet's name and level (MQTT 5 clause 3.1.2.1, 3.1.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `MQIsdp`, level 3.
    V31,
    /// `MQTT`, level 4.
    V311,
    /// `MQTT`, level 5.
    V5,
}

impl Protocol {
    /// The protocol level on the wire: 3, 4 or 5.
    pub fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }

    /// Whether packets carry properties and reason codes.
    #[inline]
    pub fn is_v5(self) -> bool {
        self == Self::V5
    }
}

/// Who a client's certificate says it is. Only certificates that the listener has verified are known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The last common name of its subject, if there is one.
    pub common_name: Option<ByteString>,
    /// Its subject as text, the most specific part first: `CN=sensor-7,O=Example` (RFC 4514).
    pub subject: ByteString,
}

/// One network connection of one client: what CONNECT said, where it came from and what its listener knows of it.
///
/// Made once a connection, shared by reference: an event holds an `Arc<Client>`. Whoever needs only a part of it
/// starts from [`Client::default`].
#[derive(Clone, Debug)]
pub struct Client {
    /// Client identifier, unique within the tenant.
    pub id: ByteString,
    /// User name of CONNECT, if any.
    pub username: Option<ByteString>,
    /// Address of the peer.
    pub peer: SocketAddr,
    /// Protocol version.
    pub protocol: Protocol,
    /// Whose name space the client lives in.
    pub tenant: Tenant,
    /// Keep-alive in seconds; 0 = none.
    pub keep_alive: u16,
    /// Clean session (3.1.1) or clean start (5).
    pub clean_start: bool,
    /// When CONNECT arrived, milliseconds since the epoch.
    pub connected_at_ms: u64,
    /// Which connection of this process it is, counted from 1: tells an old connection from its successor.
    pub connection: u64,
    /// Name of the listener that it came through.
    pub listener: Arc<str>,
    /// Name of the server that it asked for in the TLS handshake (RFC 6066 clause 3), lower case.
    pub server_name: Option<Arc<str>>,
    /// Its certificate, when the listener asks for one and it has shown one.
    pub certificate: Option<Arc<Certificate>>,
    /// Whether `username` is the name in that certificate and not what CONNECT says: it is proved already.
    pub certified: bool,
    /// Whether its request for WebSocket was handed on by a proxy, or comes from a page of another machine: `peer` does not
    /// say then who it is.
    pub forwarded: bool,
}

impl Client {
    /// Name of the listeners that have none of their own.
    pub const DEFAULT_LISTENER: &'static str = "default";
}

impl Default for Client {
    /// A client without id, user name or keep-alive, of MQTT 5, on the loopback address.
    fn default() -> Self {
        Self {
            id: ByteString::new(),
            username: None,
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            protocol: Protocol::V5,
            tenant: Tenant::default(),
            keep_alive: 0,
            clean_start: true,
            connected_at_ms: 0,
            connection: 0,
            listener: Arc::from(Self::DEFAULT_LISTENER),
            server_name: None,
            certificate: None,
            certified: false,
            forwarded: false,
        }
    }
}
