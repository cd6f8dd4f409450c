//! Packets that promise something to the client, until that is durable: PUBCOMP, PUBREL and QoS 2 PUBLISH of a session
//! that is recorded (MQTT 5 clause 4.3.3). Every other PUBLISH waits behind a QoS 2 one: messages stay in order (clause
//! 4.6).

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tidegate_event::{AckJoin, DisconnectReason, ReasonCode, Shown};
use tokio::io::{AsyncRead, AsyncWrite};

use super::output::Output;
use super::{Connection, End};
use crate::codec::{Outgoing, encode_within};

/// Packets that wait from which on nothing is read: a client could have more of them made than it sends bytes.
const FULL: usize = 1_024;
/// Packet type of PUBLISH (clause 2.1.2).
const PUBLISH: u8 = 3;

/// Encoded packets of one turn, and what they wait for: `None` while more may be added.
#[derive(Default)]
struct Together {
    durable: Option<AckJoin>,
    /// Whether one of them promises something: else they wait for those before them alone.
    promises: bool,
    packets: Output,
    count: usize,
    /// How many of them are PUBLISH.
    messages: usize,
}

/// Encoded packets that wait, in order.
#[derive(Default)]
pub(super) struct Withheld {
    waiting: VecDeque<Together>,
    bytes: usize,
    count: usize,
    messages: usize,
}

impl Withheld {
    /// `packet` is sent behind those that are here and, if it `promises` anything, when all that was recorded before the next
    /// look is durable; behind it `payload`, when that is sent from where it is.
    pub(super) fn push(&mut self, packet: &[u8], payload: Bytes, promises: bool) {
        let messages = usize::from(packet.first().is_some_and(|first| first >> 4 == PUBLISH));
        self.messages += messages;
        self.bytes += packet.len() + payload.len();
        self.count += 1;
        if self.waiting.back().is_none_or(|last| last.durable.is_some()) {
            self.waiting.push_back(Together::default());
        }
        if let Some(open) = self.waiting.back_mut() {
            open.packets.encoded().extend_from_slice(packet);
            if !payload.is_empty() {
                open.packets.share(payload);
            }
            open.count += 1;
            open.messages += messages;
            open.promises |= promises;
        }
    }

    /// How many bytes wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a message waits, so that later ones have to wait behind it.
    pub(super) fn has_messages(&self) -> bool {
        self.messages > 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= FULL
    }
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Sends `packet`; when something was `recorded` that it promises, not before that is durable.
    pub(super) fn send_when_durable(&mut self, recorded: bool, packet: &Outgoing) {
        if !recorded {
            return self.send(packet);
        }
        let mut bytes = BytesMut::new();
        self.unsendable |= !encode_within(packet, self.protocol, self.terms, &mut bytes);
        self.withheld.push(&bytes, Bytes::new(), true);
    }

    /// Sends what waits no longer. Gives whether there was any.
    pub(super) fn poll_withheld(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        if let Some(open) = self.withheld.waiting.back_mut() {
            let join = || if open.promises { self.shared.store.durable() } else { AckJoin::new() };
            open.durable.get_or_insert_with(join);
        }
        while let Some(Together { durable: Some(durable), packets, count, messages, .. }) =
            self.withheld.waiting.front_mut()
        {
            match Pin::new(durable).poll(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => {
                    self.withheld.bytes -= packets.len();
                    self.withheld.count -= *count;
                    self.withheld.messages -= *messages;
                    self.output.append(std::mem::take(packets));
                    self.withheld.waiting.pop_front();
                    moved = true;
                }
                Poll::Ready(Err(error)) => {
                    let (client, peer) = (Shown(&self.client.id), self.client.peer);
                    tracing::warn!(%client, %peer, %error, "closed: what the client is to be told could not be recorded");
                    return Err(End::new(DisconnectReason::Kicked, Some(ReasonCode::UNSPECIFIED)));
                }
            }
        }
        Ok(moved)
    }
}
