//! A connected MQTT client, as every handler sees it.

use std::net::SocketAddr;

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

/// One network connection of one client: what CONNECT said and where it came from.
///
/// Made once a connection, shared by reference: an event holds an `Arc<Client>`.
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
}
