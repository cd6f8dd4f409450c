//! One client connection: a socket with the bytes that wait on either side of it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::transport::{Stream, Transport};
use crate::wire::{self, Connect, Frame, PublishTemplate, Version, kind};

/// How much is read at once: enough for thousands of small frames a system call.
const READ_BYTES: usize = 128 * 1024;

/// How long a broker may take to answer CONNECT or SUBSCRIBE.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A connected client. Bytes to send are appended to [`outbox`](Self::outbox).
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    inbox: Box<[u8]>,
    /// How much of `inbox` is filled.
    filled: usize,
    /// Bytes to send.
    pub outbox: Vec<u8>,
    /// How much of `outbox` has been sent.
    sent: usize,
    version: Version,
}

impl Connection {
    /// Connects over plain TCP and waits for a CONNACK that accepts.
    ///
    /// # Errors
    /// When the broker cannot be reached, refuses, or does not answer in ten seconds.
    pub async fn open(address: SocketAddr, version: Version, client_id: &str) -> anyhow::Result<Self> {
        Self::open_as(&Transport::Tcp, address, &Connect::new(version, client_id)).await
    }

    /// As [`open`](Self::open), with a keep-alive of `keep_alive` seconds.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(
        address: SocketAddr,
        version: Version,
        client_id: &str,
        keep_alive: u16,
    ) -> anyhow::Result<Self> {
        let connect = Connect { keep_alive, ..Connect::new(version, client_id) };
        Self::open_as(&Transport::Tcp, address, &connect).await
    }

    /// As [`open`](Self::open), over `transport`, with a CONNECT of the caller's.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_as(
        transport: &Transport,
        address: SocketAddr,
        connect: &Connect<'_>,
    ) -> anyhow::Result<Self> {
        let stream = tokio::time::timeout(ANSWER_WITHIN, transport.connect(address));
        let stream = stream.await.context("no connection in ten seconds")??;
        let inbox = vec![0; READ_BYTES].into_boxed_slice();
        let (version, outbox) = (connect.version, Vec::new());
        let mut connection = Self { stream, inbox, filled: 0, outbox, sent: 0, version };
        connect.append(&mut connection.outbox);
        connection.answer(kind::CONNACK, |frame| frame.body().get(1) == Some(&0)).await.context("CONNECT")?;
        Ok(connection)
    }

    /// Subscribes to `filter` and waits for a SUBACK that grants `qos`.
    ///
    /// # Errors
    /// When the broker refuses, grants less, or does not answer in ten seconds.
    pub async fn subscribe(&mut self, filter: &str, qos: u8) -> anyhow::Result<()> {
        wire::subscribe(&mut self.outbox, self.version, filter, qos);
        self.answer(kind::SUBACK, |frame| frame.body().last() == Some(&qos)).await.context("SUBSCRIBE")
    }

    /// The protocol version of the connection.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How many bytes wait to be sent.
    pub fn unsent(&self) -> usize {
        self.outbox.len() - self.sent
    }

    /// Sends and receives what the socket takes and has. Ready when something moved.
    ///
    /// # Errors
    /// The socket's, and `UnexpectedEof` when the broker closed it.
    pub fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut moved = false;
        while let Some(rest) = self.outbox.get(self.sent..)
            && !rest.is_empty()
        {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(written) => {
                    self.sent += written?;
                    moved = true;
                }
                Poll::Pending => break,
            }
        }
        // TLS may hold what the socket did not take; plain TCP holds nothing.
        if let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx) {
            flushed?;
        }
        if self.sent == self.outbox.len() {
            self.outbox.clear();
            self.sent = 0;
        }
        let mut space = ReadBuf::new(self.inbox.get_mut(self.filled..).unwrap_or_default());
        if space.capacity() == 0 {
            return Poll::Ready(Err(io::Error::other("a packet larger than the read buffer")));
        }
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut space) {
            read?;
            if space.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.filled += space.filled().len();
            moved = true;
        }
        if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Hands every complete packet that was received to `each`, which may append to the outbox.
    ///
    /// # Errors
    /// The scanner's and those of `each`.
    pub fn take_frames(
        &mut self,
        mut each: impl FnMut(Frame<'_>, &mut Vec<u8>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let received = self.inbox.get(..self.filled).unwrap_or_default();
        let mut at = 0;
        while let Some((frame, used)) = wire::next_frame(received.get(at..).unwrap_or_default())? {
            each(frame, &mut self.outbox)?;
            at += used;
        }
        self.inbox.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    /// Sends DISCONNECT, so that the broker forgets the client, and closes.
    pub async fn close(mut self) {
        wire::disconnect(&mut self.outbox);
        let sending = std::future::poll_fn(|cx| match self.poll_progress(cx) {
            Poll::Ready(Ok(())) if self.unsent() > 0 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        });
        // A broker that does not read any more is closed without it.
        drop(tokio::time::timeout(Duration::from_secs(1), sending).await);
    }

    /// Publishes a copy of `template` (QoS 0, to a topic that this client subscribes to at QoS 0); gives the payload
    /// that comes back.
    ///
    /// # Errors
    /// The socket's, and when nothing comes back in ten seconds.
    pub async fn exchange(&mut self, template: &PublishTemplate) -> anyhow::Result<Vec<u8>> {
        template.append(&mut self.outbox, 0, 0);
        let deadline = tokio::time::Instant::now() + ANSWER_WITHIN;
        let mut came = None;
        loop {
            let progress = std::future::poll_fn(|cx| self.poll_progress(cx));
            tokio::time::timeout_at(deadline, progress).await.context("no message came back")??;
            let version = self.version;
            self.take_frames(|frame, _| {
                if frame.kind() == kind::PUBLISH {
                    came = Some(frame.publish(version)?.payload.to_vec());
                }
                Ok(())
            })?;
            if let Some(payload) = came {
                return Ok(payload);
            }
        }
    }

    /// Publishes `messages` (QoS 1), at most `window` of them unacknowledged, and waits for the last acknowledgement.
    ///
    /// # Errors
    /// The socket's, and when the broker refuses one or does not answer in ten seconds.
    pub async fn publish_each(
        &mut self,
        messages: impl Iterator<Item = PublishTemplate>,
        window: usize,
    ) -> anyhow::Result<()> {
        let mut messages = messages.fuse();
        let (mut sent, mut acknowledged, mut last) = (0_u64, 0_u64, false);
        while !last || acknowledged < sent {
            while !last && ((sent - acknowledged) as usize) < window {
                match messages.next() {
                    Some(message) => {
                        message.append(&mut self.outbox, wire::packet_id_of(sent), sent);
                        sent += 1;
                    }
                    None => last = true,
                }
            }
            if acknowledged == sent {
                continue;
            }
            let progress = std::future::poll_fn(|cx| self.poll_progress(cx));
            tokio::time::timeout(ANSWER_WITHIN, progress).await.context("no answer in ten seconds")??;
            self.take_frames(|frame, _| match frame.kind() {
                kind::PUBACK if frame.reason() < 0x80 => {
                    acknowledged += 1;
                    Ok(())
                }
                other => bail!("a message was answered with packet type {other}, code {}", frame.reason()),
            })?;
        }
        Ok(())
    }

    /// The bare socket, blocking. Call it while nothing waits on either side.
    ///
    /// # Errors
    /// When bytes wait, with TLS, or when the socket cannot be made blocking.
    pub fn into_std(self) -> anyhow::Result<std::net::TcpStream> {
        anyhow::ensure!(self.filled == 0 && self.unsent() == 0, "bytes wait on the connection");
        let socket = self.stream.into_tcp()?.into_std()?;
        socket.set_nonblocking(false)?;
        Ok(socket)
    }

    async fn answer(&mut self, packet: u8, accepts: impl Fn(&Frame<'_>) -> bool) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + ANSWER_WITHIN;
        loop {
            let progress = std::future::poll_fn(|cx| self.poll_progress(cx));
            tokio::time::timeout_at(deadline, progress).await.context("no answer in ten seconds")??;
            let mut answered = false;
            self.take_frames(|frame, _| {
                if frame.kind() != packet {
                    bail!("answered with packet type {}", frame.kind());
                }
                if !accepts(&frame) {
                    bail!("refused: {:02x?}", frame.body());
                }
                answered = true;
                Ok(())
            })?;
            if answered {
                return Ok(());
            }
        }
    }
}
