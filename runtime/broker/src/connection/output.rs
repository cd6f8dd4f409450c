//! What is still to be written to a client: packets, and large payloads that are not copied into them.
//!
//! A client that does not read keeps its output in memory. A large message to a thousand of those would be a thousand
//! copies of it; so its payload stays where all of them share it, and only what stands before it is encoded.

use std::collections::VecDeque;
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use crate::limits::budget::{Account, Budget};
use crate::session::delivery::LARGE_PAYLOAD;

/// Pieces that are handed to the system at once, at most.
const PIECES: usize = 16;

/// Whether `payload` is sent from where it is.
#[inline]
pub(super) fn is_shared(payload: &Bytes) -> bool {
    payload.len() >= LARGE_PAYLOAD
}

/// Bytes in the order in which they are written.
#[derive(Debug, Default)]
pub(super) struct Output {
    encoded: BytesMut,
    /// Payloads that are not in `encoded`, each with how many bytes of it come before, counted from the last one.
    shared: VecDeque<(usize, Bytes)>,
    /// The sum of those counts, and of the payloads.
    before_shared: usize,
    shared_bytes: usize,
    account: Account,
}

impl Output {
    /// How many bytes are to be written.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.encoded.len() + self.shared_bytes
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.encoded.is_empty() && self.shared.is_empty()
    }

    /// Memory that it has for itself.
    fn capacity(&self) -> usize {
        self.encoded.capacity() + self.shared.capacity() * size_of::<(usize, Bytes)>()
    }

    /// The client has not taken all of it: what it takes in memory counts against `budget`, like its queue, with
    /// `elsewhere`, what its stream keeps of it.
    pub(super) fn charge(&mut self, budget: &Arc<Budget>, elsewhere: usize) {
        let own = if self.is_empty() { 0 } else { self.capacity() };
        self.account.settle(budget, own + elsewhere);
        self.account.rest(own + elsewhere);
    }

    /// Where packets are appended.
    #[inline]
    pub(super) fn encoded(&mut self) -> &mut BytesMut {
        &mut self.encoded
    }

    /// Appends `payload`, which is not empty, without copying it.
    pub(super) fn share(&mut self, payload: Bytes) {
        let before = self.encoded.len() - self.before_shared;
        self.before_shared += before;
        self.shared_bytes += payload.len();
        self.shared.push_back((before, payload));
    }

    /// Appends all of `other`.
    pub(super) fn append(&mut self, other: Self) {
        let mut rest = &other.encoded[..];
        for (before, payload) in other.shared {
            let (packet, after) = rest.split_at_checked(before).unwrap_or((rest, &[]));
            self.encoded.extend_from_slice(packet);
            self.share(payload);
            rest = after;
        }
        self.encoded.extend_from_slice(rest);
    }

    /// Writes as much as `stream` takes at once.
    #[inline]
    pub(super) fn poll_write(
        &mut self,
        stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize>> {
        let written = if self.shared.is_empty() {
            stream.poll_write(cx, &self.encoded)
        } else {
            self.poll_write_pieces(stream, cx)
        };
        if let Poll::Ready(Ok(bytes)) = &written {
            self.written(*bytes);
        }
        written
    }

    fn poll_write_pieces(
        &self,
        stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize>> {
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        let mut put = |piece| {
            if let Some(free) = pieces.get_mut(count) {
                *free = IoSlice::new(piece);
                count += 1;
            }
        };
        let mut rest = &self.encoded[..];
        for (before, payload) in self.shared.iter().take(PIECES / 2) {
            let (packet, after) = rest.split_at_checked(*before).unwrap_or((rest, &[]));
            if !packet.is_empty() {
                put(packet);
            }
            put(payload);
            rest = after;
        }
        if self.shared.len() < PIECES / 2 && !rest.is_empty() {
            put(rest);
        }
        stream.poll_write_vectored(cx, pieces.get(..count).unwrap_or_default())
    }

    fn written(&mut self, mut bytes: usize) {
        while let Some((before, payload)) = self.shared.front_mut() {
            let of_packet = bytes.min(*before);
            self.encoded.advance(of_packet);
            *before -= of_packet;
            self.before_shared -= of_packet;
            let of_payload = (bytes - of_packet).min(payload.len());
            payload.advance(of_payload);
            self.shared_bytes -= of_payload;
            bytes -= of_packet + of_payload;
            if *before > 0 || !payload.is_empty() {
                return;
            }
            self.shared.pop_front();
        }
        self.encoded.advance(bytes);
    }

    /// All is written: the next is encoded from the start of the buffer.
    pub(super) fn restart(&mut self) {
        self.encoded.clear();
    }

    /// Gives memory back if it is empty and has room for more than `kept` bytes.
    pub(super) fn shrink(&mut self, kept: usize) {
        if self.is_empty() && self.capacity() > kept {
            self.encoded = BytesMut::new();
            self.shared = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// A stream that takes pieces together, but only so many bytes at once.
    struct Narrow(Vec<u8>, usize);

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
            let bytes = buf.len().min(self.1);
            self.0.extend_from_slice(&buf[..bytes]);
            Poll::Ready(Ok(bytes))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<Result<usize>> {
            let all = bufs.iter().flat_map(|buf| buf.iter().copied()).collect::<Vec<u8>>();
            let bytes = all.len().min(self.1);
            self.0.extend_from_slice(&all[..bytes]);
            Poll::Ready(Ok(bytes))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn filled() -> (Output, Vec<u8>) {
        let (mut output, mut expected) = (Output::default(), Vec::new());
        for number in 0..20_u8 {
            let packet = vec![number; usize::from(number) % 5];
            output.encoded().extend_from_slice(&packet);
            expected.extend(packet);
            if number % 3 > 0 {
                let payload = Bytes::from(vec![100 + number; 7]);
                expected.extend_from_slice(&payload);
                output.share(payload);
            }
        }
        assert_eq!(output.len(), expected.len());
        (output, expected)
    }

    #[tokio::test]
    async fn packets_and_shared_payloads_are_written_in_order_however_little_is_taken() {
        for step in [1, 2, 3, 5, 8, 13, 50, 1_000] {
            let (mut output, mut expected) = filled();
            let (other, more) = filled();
            output.append(other);
            expected.extend(more);
            let mut narrow = Narrow(Vec::new(), step);
            let mut more = 2;
            while !output.is_empty() {
                poll_fn(|cx| output.poll_write(Pin::new(&mut narrow), cx)).await.unwrap();
                if more > 0 {
                    // Appended while the rest waits.
                    more -= 1;
                    output.encoded().extend_from_slice(b"and");
                    output.share(Bytes::from_static(b"more"));
                    expected.extend_from_slice(b"andmore");
                }
                assert_eq!(output.len() + narrow.0.len(), expected.len());
            }
            assert_eq!(narrow.0, expected, "{step} at once");
            assert_eq!((output.before_shared, output.shared_bytes), (0, 0));
        }
        // One that knows no pieces takes the first.
        let (mut output, expected) = filled();
        let (mut near, mut far) = tokio::io::duplex(10_000);
        while !output.is_empty() {
            poll_fn(|cx| output.poll_write(Pin::new(&mut near), cx)).await.unwrap();
        }
        drop(near);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, expected);
    }

    #[test]
    fn what_is_shared_is_none_of_its_own_memory() {
        let mut output = Output::default();
        output.share(Bytes::from(vec![1; 1 << 20]));
        assert_eq!(output.len(), 1 << 20);
        assert!(output.capacity() < 1_024);
        let budget = Arc::new(Budget::new(1 << 20));
        output.charge(&budget, 0);
        assert_eq!(budget.used(), 0);
        output.encoded().resize(10_000, 0);
        output.charge(&budget, 0);
        assert!((8_000..40_000).contains(&budget.used()), "{}", budget.used());
        output.shrink(0);
        assert_eq!(output.len(), (1 << 20) + 10_000, "it is not empty");
    }
}
