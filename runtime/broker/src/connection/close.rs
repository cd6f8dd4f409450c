//! The end of a connection: the session is let go of at once, what was accepted is completed after it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tidegate_event::{Change, Client, DisconnectReason, Raised, Shown, now_ms};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::deliver::{Acked, Deliveries, Running};
use super::output::Output;
use super::{Connection, End};
use crate::broker::Shared;
use crate::codec::{Disconnect, Outgoing};
use crate::pipeline::{Inbound, Job};
use crate::registry::Handover;
use crate::session::LateWill;
use crate::will;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Ends the connection: last words, will, session; then completes what was accepted and raises
    /// client.disconnected. The client's next connection may be served meanwhile, and waits where order demands.
    pub(super) async fn close(mut self: Box<Self>, mut end: End) {
        self.shared.metrics.disconnected(end.reason);
        // What is not whole will not be.
        self.input = BytesMut::new();
        let (client, peer, reason) = (&self.client.id, self.client.peer, end.reason.name());
        tracing::debug!(%client, %peer, reason, "disconnected");
        // What is answered already is said before the good-bye.
        while let Some(reply) = self.replies.pop_front() {
            // It can only say that the connection is to be closed.
            self.reply(reply).ok();
        }
        if let Some(code) = end.code
            && self.protocol.is_v5()
        {
            self.send(&Outgoing::Disconnect(Disconnect {
                reason: code,
                session_expiry: None,
                reason_string: end.text.take(),
            }));
        }
        if end.will {
            self.publish_will(end.reason);
        } else if let Some(recorded) = self.recorded_will.take() {
            self.realm.record(recorded.gone());
        }
        let (quiet_sender, quiet) = oneshot::channel();
        let (done_sender, done) = oneshot::channel();
        let unfinished = self.pipeline.leave();
        let handover = Handover { connection: self.client.connection, quiet, done, unfinished };
        let rest = self.let_go(end.reason, handover);
        let lingers = end.reason != DisconnectReason::SocketClosed;

        let Self { stream, shared, realm, client, mut pipeline, output, mut count, seat, .. } = *self;
        let left = count.take_accepted();
        // The client's next connection may go on.
        drop(seat);
        let hang_up = async {
            hang_up(&shared, stream, output, lingers).await;
            drop(count);
        };
        let complete = async {
            // Both at once: the handlers may hold what the events that are still to be raised wait for.
            let Rest { handlers, acked } = rest;
            tokio::join!(pipeline.finish_raising(), async {
                if let Some(handlers) = handlers {
                    handlers.await;
                }
            });
            raise_acked(acked, &shared, &client).await;
            pipeline.push(Job::Disconnected(end.reason));
            pipeline.finish(quiet_sender).await;
            // The client may not have come back.
            done_sender.send(()).ok();
            realm.registry.left(&client.id, client.connection);
            drop(left);
        };
        let complete_in_time = async {
            tokio::select! {
                () = complete => {}
                () = shared.closing.cancelled() => {
                    tracing::warn!(client = %Shown(&client.id), "what the client had sent is not all handled at the end");
                }
            }
        };
        tokio::join!(hang_up, complete_in_time);
    }

    /// Sends the will on its way (MQTT 5 clause 3.1.2.5): at once as the client's last message, or after its
    /// delay unless the client returns before.
    fn publish_will(&mut self, reason: DisconnectReason) {
        let Some(will) = self.will.take() else { return };
        let delay = will.delay.min(self.session.expiry());
        let (message, recorded) =
            (will::message(&self.shared, *will, &self.client), self.recorded_will.take());
        if delay == 0 {
            self.shared.metrics.wills.increment(1);
            let inbound = Inbound { will: recorded, ..Inbound::unanswered(Arc::new(message)) };
            self.pipeline.push(Job::Publish(inbound));
            return;
        }
        let account = std::mem::take(&mut self.will_account);
        let (will, delay) = (LateWill { message, recorded, account }, Duration::from_secs(delay.into()));
        if reason == DisconnectReason::TakenOver {
            // The next connection is there: it cancels the will, or ends the session and has it sent.
            self.session.keep_will(will, delay);
        } else {
            self.realm.start_will(&self.session, will, delay);
        }
    }

    /// Gives the seat back. Gives the events of deliveries that are still to be raised.
    fn let_go(&mut self, reason: DisconnectReason, handover: Handover) -> Rest {
        let deliveries = std::mem::replace(&mut self.deliveries, Deliveries::none());
        let Deliveries { mut batch, parked, running, acked, .. } = deliveries;
        parked.into_iter().rev().for_each(|delivery| batch.push_front(delivery));
        let handlers = match running {
            Some(Running::Deliver(delivery, handlers)) => {
                // A stored message goes back to where it was read to, so that it keeps its place.
                if let Some(delivery) = self.feed_put_back(delivery) {
                    batch.push_front(delivery);
                }
                Some(handlers)
            }
            Some(Running::Acked(_, handlers)) => Some(handlers),
            None => None,
        };
        let ending = self.session.expiry() == 0;
        self.realm.registry.leave(&self.client.id, handover, ending.then_some(&self.session));
        if ending {
            // What is of shared subscriptions goes to other members.
            self.session.outbox().put_back(batch.into_iter());
            self.realm.end_session(&self.session, &mut self.seat);
        } else {
            self.session.disconnect(&self.realm, batch.into_iter());
            if reason != DisconnectReason::TakenOver {
                // Else the client is back already, and goes on with what it has.
                self.realm.member_left(&self.session, &mut self.seat);
            }
            if reason != DisconnectReason::TakenOver {
                if self.session.is_recorded(&self.realm) {
                    let change = Change::Disconnected { session: self.session.number, at_ms: now_ms() };
                    self.realm.record(change);
                }
                self.realm.start_expiry(&self.session, Duration::ZERO);
            }
        }
        // The client may be away for days.
        self.seat.inflight.rest();
        self.seat.rest_joins();
        self.session.received().rest();
        Rest { handlers, acked }
    }
}

/// Events of deliveries that a connection has not raised yet.
struct Rest {
    handlers: Option<tidegate_event::BoxFuture<'static, tidegate_event::Admitted>>,
    acked: VecDeque<Acked>,
}

/// Raises message.acked for what the client had acknowledged.
async fn raise_acked(acked: VecDeque<Acked>, shared: &Shared, client: &Arc<Client>) {
    for acked in acked {
        if let Raised::Running(handlers) = shared.hooks.raise(acked.into_event(client)) {
            handlers.await;
        }
    }
}

/// Bytes of a client that are thrown away while its connection is closed.
const LINGER_BYTES: usize = 1024 * 1024;

/// Writes the last bytes, if the peer takes them in time, and closes the socket.
///
/// `lingers`: the peer may still be sending. A socket that is closed over bytes that were not read makes the system send
/// a reset, which takes back what the peer has not read yet: the very packet that says why. So only the writing side is
/// closed, and what comes is thrown away until the peer closes, too; all in the same time, and not for ever more bytes.
pub(super) async fn hang_up<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    mut stream: S,
    mut output: Output,
    lingers: bool,
) {
    let (mut shut, mut heard, mut silent) = (false, 0, !lingers);
    let last_words = poll_fn(|cx| {
        // Both at once: a peer that writes before it reads takes nothing while nothing is taken from it.
        let mut scratch = [0; 4096];
        while !silent {
            let mut read = ReadBuf::new(&mut scratch);
            match Pin::new(&mut stream).poll_read(cx, &mut read) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {
                    heard += read.filled().len();
                    silent = read.filled().is_empty() || heard >= LINGER_BYTES;
                }
            }
        }
        while !output.is_empty() {
            match output.poll_write(Pin::new(&mut stream), cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
            }
        }
        while !shut {
            match Pin::new(&mut stream).poll_shutdown(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => shut = true,
            }
        }
        if silent { Poll::Ready(()) } else { Poll::Pending }
    });
    // A peer that is gone, or takes nothing, has no use for them.
    tokio::time::timeout(shared.config.flush_timeout, last_words).await.ok();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::net::SocketAddr;

    use tidegate_event::{Message, NoHooks, QoS, VolatileStore};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::route::{Fanout, RouteCache};
    use crate::session::test_message;
    use crate::{Broker, BrokerConfig};

    /// As much as 8 KiB stayed reserved for each session that had acknowledged everything, for as long as it lived.
    #[tokio::test]
    async fn what_was_acknowledged_is_reserved_neither_for_who_is_idle_nor_for_who_is_away() {
        let (hooks, store) = (Arc::new(NoHooks), Arc::new(VolatileStore));
        let broker = Broker::new(BrokerConfig::default(), Arc::default(), hooks, store).unwrap();
        let (realm, peer) = (broker.default_realm(), "127.0.0.1:1".parse::<SocketAddr>().unwrap());
        let (mut client, far) = tokio::io::duplex(1 << 16);
        let serving = tokio::spawn(broker.serve(far, peer));
        // CONNECT of 3.1.1 without clean session, SUBSCRIBE at QoS 1.
        client.write_all(b"\x10\x0d\0\x04MQTT\x04\0\0\0\0\x01c\x82\x06\0\x01\0\x01t\x01").await.unwrap();
        let mut answers = [0; 4 + 5];
        client.read_exact(&mut answers).await.unwrap();
        assert_eq!(answers, *b"\x20\x02\0\0\x90\x03\0\x01\x01");
        let budget = &realm.broker.budget;
        let all_is_given_back = async || {
            let waited = async {
                while budget.used() > 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(5), waited).await.unwrap();
        };
        let mut publish = vec![0; 1 + 2 + 3 + 2 + 6_000];
        for number in 1..=2 {
            let message = test_message("t", QoS::AtLeastOnce, number);
            let message = Arc::new(Message { payload: vec![0; 6_000].into(), ..Message::clone(&message) });
            let mut fanout = Fanout::default();
            realm.deliver(&message, &mut RouteCache::default(), &mut fanout);
            fanout.flush();
            client.read_exact(&mut publish).await.unwrap();
            assert!(budget.used() > 4_000, "{}", budget.used());
            if number == 1 {
                client.write_all(b"\x40\x02\0\x01").await.unwrap();
                all_is_given_back().await;
            }
        }
        // It does not rest between the last acknowledgement and the end.
        client.write_all(b"\x40\x02\0\x02").await.unwrap();
        drop(client);
        serving.await.unwrap();
        assert_eq!((budget.used(), realm.registry.len()), (0, 1));
    }
}
