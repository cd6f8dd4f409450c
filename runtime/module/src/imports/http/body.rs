//! Bodies that are counted, and that do not wait for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error, WasiBody};

/// Bytes of bodies of one event's requests.
#[derive(Debug)]
pub(super) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    limit: u64,
}

impl Traffic {
    /// Nothing yet, of `limit` bytes each way.
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { sent: AtomicU64::new(0), received: AtomicU64::new(0), limit })
    }

    fn count(&self, way: &AtomicU64, frame: &Frame<Bytes>) -> Result<(), ()> {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        let before = way.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.limit { Ok(()) } else { Err(()) }
    }
}

/// What a guest sends.
pub(super) struct Sent {
    pub(super) inner: WasiBody,
    pub(super) traffic: Arc<Traffic>,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            other => return other,
        };
        Poll::Ready(Some(match self.traffic.count(&self.traffic.sent, &frame) {
            Ok(()) => Ok(frame),
            Err(()) => Err(Error::HttpRequestBodySize(Some(self.traffic.limit))),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What a guest receives.
pub(super) struct Received {
    inner: Incoming,
    traffic: Arc<Traffic>,
    /// The longest pause between two frames.
    pause: Duration,
    /// When the whole of it must be there.
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Received {
    pub(super) fn new(inner: Incoming, traffic: Arc<Traffic>, pause: Duration, deadline: Instant) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(deadline.min(Instant::now() + pause)));
        Self { inner, traffic, pause, deadline, timer }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let own = &mut *self;
        match Pin::new(&mut own.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                own.timer.as_mut().reset(own.deadline.min(Instant::now() + own.pause));
                Poll::Ready(Some(match own.traffic.count(&own.traffic.received, &frame) {
                    Ok(()) => Ok(frame),
                    Err(()) => Err(Error::HttpResponseBodySize(Some(own.traffic.limit))),
                }))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(super::client::broken(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => own.timer.as_mut().poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
