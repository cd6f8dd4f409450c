//! A client that is little more than its socket: thousands of them at once, or one that breaks the rules.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::wire::{self, Connect, Frame, kind};

/// Room for what is not taken yet: answers, and messages of up to about 200 bytes.
const INBOX_BYTES: usize = 256;

/// Addresses of this machine that clients come from, so that no port range is too small.
const SOURCES: usize = 64;

/// How often a connection is tried whose port somebody else takes at the same moment.
const TRIES: usize = 5;

/// Where the client with this number comes from: one of the 127.0.1.0/24, never 127.0.0.1.
pub fn source(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, (number % SOURCES) as u8 + 1)
}

/// Connects from `from`. Closing the socket resets the connection, so that it leaves no port behind for a minute.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn dial(address: SocketAddr, from: Ipv4Addr) -> io::Result<TcpStream> {
    dial_with(address, from, None).await
}

/// As [`dial`], with room for `receive_bytes` in the socket: what is not read soon stops the server.
///
/// # Errors
/// As [`dial`].
pub async fn dial_with(
    address: SocketAddr,
    from: Ipv4Addr,
    receive_bytes: Option<u32>,
) -> io::Result<TcpStream> {
    let mut tries = 1;
    loop {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.set_zero_linger()?;
        socket.set_nodelay(true)?;
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.bind((from, 0).into())?;
        match socket.connect(address).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
                    && tries < TRIES =>
            {
                tries += 1;
            }
            connected => return connected,
        }
    }
}

/// A connected client.
#[derive(Debug)]
pub struct Light {
    stream: TcpStream,
    inbox: Box<[u8; INBOX_BYTES]>,
    filled: usize,
}

impl Light {
    /// Sends CONNECT and waits for a CONNACK that accepts.
    ///
    /// # Errors
    /// The socket's, and when the broker refuses.
    pub async fn open(stream: TcpStream, connect: &Connect<'_>) -> anyhow::Result<Self> {
        let mut client = Self { stream, inbox: Box::new([0; INBOX_BYTES]), filled: 0 };
        let mut bytes = Vec::new();
        connect.append(&mut bytes);
        client.send(&bytes).await?;
        let (packet, code) = client
            .packet(|frame| (frame.kind(), frame.body().get(1).copied()))
            .await
            .context("no answer to CONNECT")?;
        if packet != kind::CONNACK || code != Some(0) {
            bail!("CONNECT was answered with packet type {packet}, code {code:02x?}");
        }
        Ok(client)
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// The socket's.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Waits for a packet and gives what `take` makes of it.
    ///
    /// # Errors
    /// The socket's, when the broker closes it, and when the packet is larger than a light client takes.
    pub async fn packet<T>(&mut self, take: impl FnOnce(Frame<'_>) -> T) -> anyhow::Result<T> {
        loop {
            let received = self.inbox.get(..self.filled).unwrap_or_default();
            if let Some((frame, used)) = wire::next_frame(received)? {
                let taken = take(frame);
                self.inbox.copy_within(used..self.filled, 0);
                self.filled -= used;
                return Ok(taken);
            }
            let space = self.inbox.get_mut(self.filled..).unwrap_or_default();
            if space.is_empty() {
                bail!("a packet of more than {INBOX_BYTES} bytes");
            }
            match self.stream.read(space).await? {
                0 => bail!("the broker closed the connection"),
                read => self.filled += read,
            }
        }
    }

    /// Sends PINGREQ and waits for its answer.
    ///
    /// # Errors
    /// The socket's, and when the answer is another packet.
    pub async fn ping(&mut self) -> anyhow::Result<()> {
        self.send(&wire::PINGREQ).await?;
        match self.packet(|frame| frame.kind()).await? {
            kind::PINGRESP => Ok(()),
            other => bail!("PINGREQ was answered with packet type {other}"),
        }
    }

    /// Subscribes to `filter` and waits for the answer.
    ///
    /// # Errors
    /// The socket's, and when the broker grants something else.
    pub async fn subscribe(&mut self, version: wire::Version, filter: &str, qos: u8) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        wire::subscribe(&mut bytes, version, filter, qos);
        self.send(&bytes).await?;
        let answer = self.packet(|frame| (frame.kind(), frame.body().last().copied())).await?;
        anyhow::ensure!(answer == (kind::SUBACK, Some(qos)), "SUBSCRIBE was answered with {answer:02x?}");
        Ok(())
    }

    /// The bare socket; what came and was not taken is forgotten.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tokio::net::TcpListener;

    use super::*;
    use crate::wire::Version;

    #[tokio::test]
    async fn packets_are_taken_one_by_one_however_they_arrive() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, peer) = listener.accept().await.unwrap();
            let mut seen = [0; 15];
            stream.read_exact(&mut seen).await.unwrap();
            // CONNACK and half a PINGRESP, then the rest.
            stream.write_all(&[0x20, 2, 0, 0, 0xd0]).await.unwrap();
            stream.read_exact(&mut [0; 2]).await.unwrap();
            stream.write_all(&[0, 0xd0, 0]).await.unwrap();
            stream.read_exact(&mut [0; 2]).await.unwrap();
            (seen, peer.ip())
        });
        let stream = dial(address, source(65)).await.unwrap();
        let mut client = Light::open(stream, &Connect::new(Version::V311, "c")).await.unwrap();
        client.ping().await.unwrap();
        client.ping().await.unwrap();
        let (seen, from) = server.await.unwrap();
        assert_eq!(seen.last_chunk(), Some(b"\0\x01c"));
        assert_eq!(from, Ipv4Addr::new(127, 0, 1, 2), "clients come from several addresses, in turn");
    }

    #[tokio::test]
    async fn a_refusal_is_an_error() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let refusing = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&[0x20, 2, 0, 3]).await.unwrap();
        });
        let stream = dial(address, source(0)).await.unwrap();
        let error = Light::open(stream, &Connect::new(Version::V311, "c")).await.unwrap_err();
        assert!(error.to_string().contains("03"), "{error}");
        refusing.await.unwrap();
    }
}
