//! What a listener is told: where, over what, and whom it trusts.

use std::net::SocketAddr;
use std::path::PathBuf;

use tidegate_event::Client;

/// A listener: MQTT over TCP, with TLS, WebSocket or both in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Its name, for logs, metrics and [`Client::listener`].
    pub name: String,
    /// Where it listens; port 0 = any.
    pub address: SocketAddr,
    /// TLS 1.2 and 1.3; `None`: plain.
    pub tls: Option<TlsConfig>,
    /// MQTT in WebSocket frames (MQTT 5 clause 6); `None`: MQTT right away.
    pub websocket: Option<WebSocketConfig>,
}

impl From<SocketAddr> for ListenerConfig {
    /// Plain MQTT at an address.
    fn from(address: SocketAddr) -> Self {
        Self { name: Client::DEFAULT_LISTENER.into(), address, tls: None, websocket: None }
    }
}

impl ListenerConfig {
    /// What it speaks, as the scheme of a URL: `mqtt`, `mqtts`, `ws` or `wss`.
    pub fn scheme(&self) -> &'static str {
        match (&self.tls, &self.websocket) {
            (None, None) => "mqtt",
            (Some(_), None) => "mqtts",
            (None, Some(_)) => "ws",
            (Some(_), Some(_)) => "wss",
        }
    }
}

/// TLS of a listener. The files are looked at again and again; when they change, new connections get what is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificates of the server; at least one. The first one without names of its own, else the first, serves clients
    /// that ask for no name or for one that nobody has.
    pub certificates: Vec<CertificateFiles>,
    /// File of the authorities, PEM, whose clients are trusted.
    pub client_ca: Option<PathBuf>,
    /// Whether clients are asked for a certificate.
    pub verify: Verify,
    /// Where the user name comes from.
    pub username: UsernameFrom,
}

/// A certificate of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, then those that lead to its authority, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM: PKCS 8, PKCS 1 or SEC 1, without a password.
    pub key: PathBuf,
    /// Names of servers that it serves (SNI, RFC 6066 clause 3); `*.example.com` is any name one level below.
    pub server_names: Vec<String>,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// They are not.
    #[default]
    None,
    /// They are; who shows none is served all the same, who shows a wrong one is not.
    Optional,
    /// They are, and who shows none is refused.
    Required,
}

/// Where the user name of a client comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsernameFrom {
    /// CONNECT.
    #[default]
    Connect,
    /// The common name of its certificate, if it has shown one; a certificate without one is refused.
    CommonName,
}

/// WebSocket of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketConfig {
    /// The path of the URL at which it is served.
    pub path: String,
    /// Pages of which origins may connect (`https://example.com`); empty: all. Only browsers say where a page is from, so
    /// this protects their users and not the server.
    pub origins: Vec<String>,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self { path: "/mqtt".into(), origins: Vec::new() }
    }
}
