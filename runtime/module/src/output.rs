//! What guests write: standard output, standard error and log lines, on their way to the host's log.
//!
//! All of it counts against the module's `log_bytes` per event; the last of standard error is kept for error
//! reports, because that is where a panic says what happened.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::quota::Quotas;

/// The longest line kept together.
const MAX_LINE_BYTES: usize = 8 << 10;
/// How much of standard error an error report shows.
const TAIL_BYTES: usize = 1 << 10;
/// What a line costs beyond its bytes: even an empty one becomes a record with a time and a module's name.
const LINE_COST_BYTES: usize = 64;
/// What a guest may write in one call of the stream.
const PERMIT_BYTES: usize = 64 << 10;

/// The output of one instance.
#[derive(Debug)]
pub(crate) struct Output {
    module: Arc<str>,
    limit: usize,
    left: AtomicUsize,
    warned: AtomicBool,
    /// Whether there is a tail to forget.
    has_tail: AtomicBool,
    quotas: Arc<Quotas>,
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    tail: VecDeque<u8>,
}

/// Which stream of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output: lines at level info.
    Stdout,
    /// Standard error: lines at level warn.
    Stderr,
}

impl Output {
    /// Output of an instance of `module`, at most `limit` bytes per event; `quotas` counts what is over it.
    pub(crate) fn new(module: Arc<str>, limit: usize, quotas: Arc<Quotas>) -> Arc<Self> {
        Arc::new(Self {
            module,
            limit,
            left: AtomicUsize::new(limit),
            warned: AtomicBool::new(false),
            has_tail: AtomicBool::new(false),
            quotas,
            streams: Mutex::default(),
        })
    }

    /// A call for so many events begins: the limit counts anew, and what was written before belongs to other events.
    pub(crate) fn refill(&self, events: u32) {
        let left = self.limit.saturating_mul(usize::try_from(events).unwrap_or(usize::MAX));
        self.left.store(left, Ordering::Relaxed);
        self.warned.store(false, Ordering::Relaxed);
        if self.has_tail.load(Ordering::Relaxed) {
            self.has_tail.store(false, Ordering::Relaxed);
            self.streams.lock().tail.clear();
        }
    }

    /// Whether a line of `bytes` more may be logged for this event.
    pub(crate) fn admit(&self, bytes: usize) -> bool {
        let bytes = bytes.saturating_add(LINE_COST_BYTES);
        let taken =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if taken.is_ok() {
            return true;
        }
        let first = !self.warned.swap(true, Ordering::Relaxed);
        self.quotas.log_bytes.refused(&self.limit, first);
        false
    }

    /// The last of standard error, for a report, and forgets it.
    pub(crate) fn take_tail(&self) -> String {
        let mut streams = self.streams.lock();
        let tail: Vec<u8> = std::mem::take(&mut streams.tail).into();
        String::from_utf8_lossy(&tail).trim().to_owned()
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut streams = self.streams.lock();
        if stream == Stream::Stderr {
            self.has_tail.store(true, Ordering::Relaxed);
            let over = (streams.tail.len() + bytes.len()).saturating_sub(TAIL_BYTES);
            let old = over.min(streams.tail.len());
            streams.tail.drain(..old);
            let skip = bytes.len().saturating_sub(TAIL_BYTES);
            streams.tail.extend(bytes.iter().skip(skip));
        }
        let line = match stream {
            Stream::Stdout => &mut streams.stdout,
            Stream::Stderr => &mut streams.stderr,
        };
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            line.extend_from_slice(part);
            while line.len() > MAX_LINE_BYTES {
                let rest = line.split_off(MAX_LINE_BYTES);
                self.emit(stream, line);
                *line = rest;
            }
            if line.ends_with(b"\n") {
                self.emit(stream, line);
                line.clear();
            }
        }
    }

    fn emit(&self, stream: Stream, line: &[u8]) {
        if !self.admit(line.len()) {
            return;
        }
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        match stream {
            Stream::Stdout => tracing::info!(module = &*self.module, stream = "stdout", "{text}"),
            Stream::Stderr => tracing::warn!(module = &*self.module, stream = "stderr", "{text}"),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let streams = std::mem::take(self.streams.get_mut());
        for (stream, line) in [(Stream::Stdout, streams.stdout), (Stream::Stderr, streams.stderr)] {
            if !line.is_empty() {
                self.emit(stream, &line);
            }
        }
    }
}

/// One stream of an instance, as WASI wants it.
#[derive(Clone, Debug)]
pub(crate) struct Pipe {
    output: Arc<Output>,
    stream: Stream,
}

impl Pipe {
    /// The `stream` end of `output`.
    pub(crate) fn new(output: &Arc<Output>, stream: Stream) -> Self {
        Self { output: output.clone(), stream }
    }
}

impl IsTerminal for Pipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Pipe {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Pipe {
    async fn ready(&mut self) {}
}

impl OutputStream for Pipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.output.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT_BYTES)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(limit: usize) -> Arc<Output> {
        Output::new("m".into(), limit, Arc::new(Quotas::new("m")))
    }

    #[test]
    fn the_tail_of_standard_error_is_kept() {
        let output = output(1 << 20);
        output.write(Stream::Stdout, b"not this\n");
        output.write(Stream::Stderr, &[b'x'; 5_000]);
        output.write(Stream::Stderr, b"\npanicked at a.rs:1\n");
        let tail = output.take_tail();
        assert!(tail.ends_with("panicked at a.rs:1") && tail.len() <= TAIL_BYTES, "{tail}");
        assert!(tail.starts_with('x') && !tail.contains("not this"));
        assert_eq!(output.take_tail(), "");
    }

    #[test]
    fn the_tail_belongs_to_one_event() {
        let output = output(1 << 20);
        output.write(Stream::Stderr, b"of the last event\n");
        output.refill(1);
        output.write(Stream::Stderr, b"of this one\n");
        assert_eq!(output.take_tail(), "of this one");
    }

    #[test]
    fn lines_are_bounded() {
        let output = output(1 << 20);
        output.write(Stream::Stdout, &[b'x'; 100_000]);
        assert!(output.streams.lock().stdout.len() <= MAX_LINE_BYTES);
    }

    #[test]
    fn the_limit_counts_per_event() {
        let output = output(2 * LINE_COST_BYTES + 10);
        assert!(output.admit(6));
        assert!(!output.admit(6));
        assert!(output.admit(4));
        output.refill(1);
        assert!(output.admit(10));
    }

    #[test]
    fn empty_lines_are_bounded() {
        let output = output(10 * LINE_COST_BYTES);
        let admitted = (0..1_000).filter(|_| output.admit(0)).count();
        assert_eq!(admitted, 10);
        output.refill(1);
        output.write(Stream::Stdout, &[b'\n'; 1_000]);
        assert!(output.left.load(Ordering::Relaxed) < LINE_COST_BYTES && !output.admit(0));
    }
}
