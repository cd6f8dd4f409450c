//! A stream of MQTT inside WebSocket frames.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use metrics::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{self, Frames, Violation};

/// So many frames that carry nothing of MQTT may not come within that time.
const IDLE_MOST: u32 = 1_000;
const IDLE_TIME: Duration = Duration::from_secs(10);

/// Frames over `S`, read and written as what is in them.
pub(crate) struct WebSocket<S> {
    stream: S,
    /// What came behind the request for the upgrade.
    rest: BytesMut,
    frames: Frames,
    /// When the frames were last counted that carry nothing.
    counted: Instant,
    violation: Option<Violation>,
    violations: Counter,
    /// Headers and control frames that are to be written next, and how much of them is.
    pending: Vec<u8>,
    sent: usize,
    /// Payload of the frame that was begun that is still to be written.
    left: usize,
    close_sent: bool,
    /// Whether control frames may wait to be written or flushed.
    control_waits: bool,
}

impl<S> WebSocket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Frames on `stream`, of which `rest` was read already. What peers do that they must not is counted.
    pub(crate) fn new(stream: S, rest: BytesMut, violations: Counter) -> Self {
        Self {
            stream,
            rest,
            frames: Frames::new(),
            counted: Instant::now(),
            violation: None,
            violations,
            pending: Vec::new(),
            sent: 0,
            left: 0,
            close_sent: false,
            control_waits: false,
        }
    }

    /// Puts the answer to a ping where it is written next, if no frame is in the way.
    fn answer_ping(&mut self) {
        if self.left == 0
            && self.pending.is_empty()
            && !self.close_sent
            && let Some((payload, len)) = self.frames.take_ping()
        {
            frame::pong(payload.get(..len).unwrap_or_default(), &mut self.pending);
        }
    }

    /// Whether frames that carry nothing come no faster than they may. Those with something in them count as what is in them.
    fn check_idle(&mut self) -> std::result::Result<(), Violation> {
        if !self.frames.take_idle(IDLE_MOST) {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.counted, Instant::now());
        if before.elapsed() < IDLE_TIME { Err(Violation::Flood) } else { Ok(()) }
    }

    /// Notes that `bytes` of what is pending are written.
    fn pending_written(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.pending.len() {
            self.pending.clear();
            self.sent = 0;
        }
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.pending.is_empty() {
            let unsent = self.pending.get(self.sent..).unwrap_or_default();
            let bytes = ready!(Pin::new(&mut self.stream).poll_write(cx, unsent))?;
            if bytes == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.pending_written(bytes);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes control frames and flushes, as far as that is possible now.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.control_waits = true;
        self.answer_ping();
        // What is pending in the middle of a frame is its header, which goes together with its payload.
        if self.left == 0 {
            ready!(self.poll_pending(cx))?;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.control_waits = false;
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncRead for WebSocket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        while buf.remaining() > 0 && this.frames.closed().is_none() {
            if this.control_waits
                && let Poll::Ready(Err(error)) = this.poll_control(cx)
            {
                return Poll::Ready(Err(error));
            }
            if let Some(violation) = this.violation {
                return Poll::Ready(Err(Error::new(ErrorKind::InvalidData, violation)));
            }
            if this.rest.is_empty() {
                ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                if buf.filled().len() == before {
                    break;
                }
            } else {
                let bytes = this.rest.len().min(buf.remaining());
                buf.put_slice(this.rest.get(..bytes).unwrap_or_default());
                this.rest.advance(bytes);
                if this.rest.is_empty() {
                    this.rest = BytesMut::new();
                }
            }
            let raw = buf.filled_mut().get_mut(before..).unwrap_or_default();
            let (bytes, result) = this.frames.decode(raw);
            buf.set_filled(before + bytes);
            let result = result.and_then(|()| this.check_idle());
            if let Err(violation) = result {
                this.violations.increment(1);
                this.violation = Some(violation);
            }
            if this.frames.has_ping()
                && let Poll::Ready(Err(error)) = this.poll_control(cx)
            {
                return Poll::Ready(Err(error));
            }
            if bytes > 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncWrite for WebSocket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        let this = &mut *self;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.close_sent {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if this.left == 0 {
            this.answer_ping();
            frame::binary_header(buf.len(), &mut this.pending);
            this.left = buf.len();
        }
        // The caller gives the rest of a frame next: a stream is written in order.
        let payload = buf.get(..this.left).unwrap_or(buf);
        loop {
            let unsent = this.pending.get(this.sent..).unwrap_or_default();
            let stream = Pin::new(&mut this.stream);
            let bytes = if unsent.is_empty() {
                ready!(stream.poll_write(cx, payload))?
            } else {
                ready!(stream.poll_write_vectored(cx, &[IoSlice::new(unsent), IoSlice::new(payload)]))?
            };
            if bytes == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            let of_payload = bytes.saturating_sub(unsent.len());
            this.pending_written(bytes - of_payload);
            if of_payload > 0 {
                this.left -= of_payload;
                return Poll::Ready(Ok(of_payload));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_control(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        // In the middle of a frame nothing can be said any more.
        if this.left == 0 {
            if !this.close_sent {
                let code = match (this.violation, this.frames.closed()) {
                    (Some(violation), _) => violation.code(),
                    (None, Some(code)) => code,
                    (None, None) => 1000,
                };
                frame::close(code, &mut this.pending);
                this.close_sent = true;
            }
            ready!(this.poll_pending(cx))?;
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
