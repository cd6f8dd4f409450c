//! Packets that promise something to the client, until that is durable: PUBCOMP, PUBREL and QoS 2 PUBLISH of a session
//! that is recorded (MQTT 5 clause 4.3.3).

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tidegate_event::{AckJoin, DisconnectReason, ReasonCode, Shown};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, End};
use crate::codec::{Outgoing, encode_within};

/// Packets that wait from which on nothing is read: a client could have more of them made than it sends bytes.
const FULL: usize = 1_024;

/// Encoded packets and what they wait for, in order.
#[derive(Default)]
pub(super) struct Withheld {
    packets: VecDeque<(AckJoin, Bytes)>,
    bytes: usize,
}

impl Withheld {
    /// `packet` is sent when `durable` is ready, behind those that are here.
    pub(super) fn push(&mut self, durable: AckJoin, packet: Bytes) {
        self.bytes += packet.len();
        self.packets.push_back((durable, packet));
    }

    /// How many bytes wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.packets.len() >= FULL
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
        self.withheld.push(self.shared.store.durable(), bytes.freeze());
    }

    /// Sends what waits no longer. Gives whether there was any.
    pub(super) fn poll_withheld(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        while let Some((durable, packet)) = self.withheld.packets.front_mut() {
            match Pin::new(durable).poll(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => {
                    self.output.extend_from_slice(packet);
                    self.withheld.bytes -= packet.len();
                    self.withheld.packets.pop_front();
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
