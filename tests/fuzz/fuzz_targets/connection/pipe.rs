//! A network connection in memory. The judge sits at the broker's end: it sees what the broker reads and writes at the
//! moment in which it does.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::judge::Judge;

#[derive(Default)]
struct State {
    to_broker: VecDeque<u8>,
    /// Nothing more comes from the client.
    is_ended: bool,
    /// The client is gone: nobody takes what is written.
    is_gone: bool,
    /// Whether the client takes everything at once.
    is_reading: bool,
    /// What was written and the client has not taken.
    unread: usize,
    capacity: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The client's end.
pub struct Pipe {
    state: Arc<Mutex<State>>,
}

/// The broker's end.
pub struct BrokerEnd {
    state: Arc<Mutex<State>>,
    judge: Arc<Mutex<Judge>>,
    number: usize,
}

/// A connection on which the broker can write `capacity` bytes that the client does not read. `number` is the judge's.
pub fn pipe(judge: &Arc<Mutex<Judge>>, number: usize, capacity: usize) -> (Pipe, BrokerEnd) {
    let state = State { is_reading: true, capacity, ..State::default() };
    let state = Arc::new(Mutex::new(state));
    (Pipe { state: Arc::clone(&state) }, BrokerEnd { state, judge: Arc::clone(judge), number })
}

impl Pipe {
    /// The client sends `bytes`.
    pub fn send(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        if !state.is_ended {
            state.to_broker.extend(bytes);
            state.reader.take().into_iter().for_each(Waker::wake);
        }
    }

    /// The client takes `bytes`; all, now and later, when it `is_reading`.
    pub fn read(&self, bytes: usize, is_reading: bool) {
        let mut state = self.state.lock();
        state.is_reading = is_reading;
        state.unread = if is_reading { 0 } else { state.unread.saturating_sub(bytes) };
        state.writer.take().into_iter().for_each(Waker::wake);
    }

    /// The client sends nothing more.
    pub fn end(&self) {
        let mut state = self.state.lock();
        state.is_ended = true;
        state.reader.take().into_iter().for_each(Waker::wake);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.state.lock().is_gone = true;
        self.end();
        self.read(0, true);
    }
}

impl AsyncRead for BrokerEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        let count = state.to_broker.len().min(buf.remaining());
        if count > 0 {
            let bytes: Vec<u8> = state.to_broker.drain(..count).collect();
            drop(state);
            buf.put_slice(&bytes);
            self.judge.lock().heard(self.number, &bytes);
        } else if state.is_ended {
            drop(state);
            self.judge.lock().heard_end(self.number);
        } else if buf.remaining() > 0 {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BrokerEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.state.lock();
        if state.is_gone {
            drop(state);
            self.judge.lock().failed(self.number);
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(state.capacity - state.unread);
        if count == 0 {
            state.writer = Some(cx.waker().clone());
            drop(state);
            self.judge.lock().stalled(self.number);
            return Poll::Pending;
        }
        if !state.is_reading {
            state.unread += count;
        }
        drop(state);
        self.judge.lock().said(self.number, &bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.judge.lock().shut(self.number);
        Poll::Ready(Ok(()))
    }
}

impl Drop for BrokerEnd {
    fn drop(&mut self) {
        self.judge.lock().dropped(self.number);
    }
}
