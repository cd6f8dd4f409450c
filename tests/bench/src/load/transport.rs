//! How a client's bytes travel: plain TCP, or TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Context as _;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What clients speak MQTT over.
#[derive(Clone, Debug, Default)]
pub enum Transport {
    /// Plain TCP.
    #[default]
    Tcp,
    /// TLS to a server that calls itself `localhost`.
    Tls(Arc<ClientConfig>),
}

impl Transport {
    /// Connects to `address`, with the handshake.
    pub(super) async fn connect(&self, address: SocketAddr) -> anyhow::Result<Stream> {
        let socket = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        socket.set_nodelay(true)?;
        match self {
            Self::Tcp => Ok(Stream::Tcp(socket)),
            Self::Tls(config) => {
                let name = ServerName::try_from("localhost").context("the server's name")?;
                let connector = TlsConnector::from(config.clone());
                let stream = connector.connect(name, socket).await.context("the handshake of TLS")?;
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    }
}

/// A connected socket, with TLS or without.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The bare socket.
    pub(super) fn into_tcp(self) -> anyhow::Result<TcpStream> {
        match self {
            Self::Tcp(socket) => Ok(socket),
            Self::Tls(_) => anyhow::bail!("a connection with TLS is more than its socket"),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, space),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, space),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
