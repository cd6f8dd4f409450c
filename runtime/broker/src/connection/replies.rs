//! What the pipeline answers, and what handlers and modules want of the connection.

use std::sync::Arc;

use tidegate_event::{DisconnectReason, Message, QoS, ReasonCode, SharedFilter, Shown, SubscriptionOptions};
use tokio::io::{AsyncRead, AsyncWrite};

use super::feed::retained_from;
use super::{Connection, End};
use crate::codec::{Ack, Outgoing, SubAck};
use crate::control::Command;
use crate::limits::budget::is_charged_once;
use crate::pipeline::{Granted, Job, Reply, Subscribing, Unsubscribing, Wanted};
use crate::reason;
use crate::session::delivery::{Delivery, Rank, Source};
use crate::session::join::{Beside, Join, RetainedFrom};
use crate::session::received::Meanwhile;
use crate::session::subscriptions::WHEN_NEW;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Does what the pipeline says.
    pub(super) fn reply(&mut self, reply: Reply) -> Result<(), End> {
        match reply {
            Reply::PubAck(ack) => {
                self.exchange_ended();
                self.send(&Outgoing::PubAck(ack));
            }
            Reply::PubRec { ack, meanwhile } => {
                if reason::is_error(ack.reason) {
                    self.exchange_ended();
                }
                self.send(&Outgoing::PubRec(ack));
                self.answer_meanwhile(ack, meanwhile);
            }
            Reply::Subscribed { packet_id, reasons, granted } => {
                if let Some(packet_id) = packet_id {
                    self.send(&Outgoing::SubAck(SubAck { packet_id, reasons }));
                }
                for granted in granted {
                    self.join(granted);
                }
            }
            Reply::Unsubscribed { packet_id, reasons, removed } => {
                if let Some(packet_id) = packet_id {
                    self.send(&Outgoing::UnsubAck(SubAck { packet_id, reasons }));
                }
                for filter in &removed {
                    self.stop_joins(filter);
                }
            }
            Reply::Close { .. } => return Err(self.not_handled()),
        }
        Ok(())
    }

    /// Answers what came under a packet id while its message was handled: `ack` is the answer to each copy of it.
    fn answer_meanwhile(&mut self, ack: Ack, meanwhile: Meanwhile) {
        self.pipeline.copies_answered(meanwhile.resent);
        for _ in 0..meanwhile.resent {
            self.send(&Outgoing::PubRec(ack));
        }
        if meanwhile.released {
            self.release(ack.packet_id);
        }
    }

    /// A message could not be handled and the client's version has no way to say so, or it was routed and is not safe: the
    /// client sends it again when the connection was closed.
    fn not_handled(&self) -> End {
        let (client, peer) = (Shown(&self.client.id), self.client.peer);
        tracing::info!(%client, %peer, "closed: a message could not be handled and is to be sent again");
        End::new(DisconnectReason::Kicked, Some(ReasonCode::UNSPECIFIED))
    }

    /// A subscription is granted: retained and stored messages come before live ones.
    fn join(&mut self, granted: Granted) {
        let Granted {
            filter: SharedFilter { group, filter },
            options,
            existed,
            since,
            before,
            hold,
            ticket,
            resumed,
            effects,
            ..
        } = granted;
        if resumed {
            let interrupted = self.seat.interrupted.len();
            self.seat.interrupted.retain(|interrupted| Some(interrupted.hold) != hold);
            if self.seat.interrupted.len() == interrupted {
                // It was stopped meanwhile.
                return;
            }
        }
        if group.is_some() {
            // Shared subscriptions get neither (MQTT 5 clause 4.8.2).
            return;
        }
        let wants_retained = match options.retain_handling {
            0 => true,
            WHEN_NEW => !existed,
            _ => false,
        };
        let retained =
            retained_from(wants_retained, effects.retained, effects.retained_rest, before.is_some());
        let brings_retained = !matches!(retained, RetainedFrom::Nowhere);
        let reads_stores = matches!(retained, RetainedFrom::Store(..)) || !effects.backlogs.is_empty();
        let hold = match hold {
            Some(number) if !reads_stores => {
                self.session.release(&self.realm, number, |_| true);
                None
            }
            None if reads_stores => Some(self.session.outbox().hold(filter.clone())),
            hold => hold,
        };
        if !brings_retained && !reads_stores {
            self.joined(&filter, ticket);
            return;
        }
        let ids: Option<Arc<[u32]>> = (options.id != 0).then(|| Arc::from([options.id]));
        let mut join = Join::new(hold, filter, options.qos, ids, retained, effects.backlogs)
            .without_own_since(options.no_local.then_some(since))
            .with_ticket(ticket, resumed);
        if hold.is_none() {
            join = join.beside(Beside::new(before.unwrap_or_default(), since));
        }
        self.begin_join(join, brings_retained);
    }

    /// Does what handlers and modules want of this client.
    pub(super) fn poll_commands(&mut self) -> Result<bool, End> {
        let mut moved = false;
        loop {
            let enqueue = self.may_enqueue();
            let Some(command) = self.session.outbox().next_command(enqueue) else { break };
            moved = true;
            match command {
                Command::Deliver(message) => self.deliver_direct(message),
                Command::Subscribe(text, qos) => {
                    let filter = SharedFilter::parse(&text).map_err(|_| reason::TOPIC_FILTER_INVALID);
                    let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
                    let wanted = Wanted { text, filter, options, leave: &[] };
                    self.enqueue_subscribe(Subscribing::new(None, [wanted]));
                }
                Command::Unsubscribe(text) => {
                    self.pipeline.push(Job::Unsubscribe(Unsubscribing::new(None, [text])));
                }
                Command::Disconnect => {
                    let code = Some(reason::ADMINISTRATIVE_ACTION);
                    return Err(End::new(DisconnectReason::Kicked, code));
                }
                Command::Answer(ack, meanwhile) => self.answer_meanwhile(ack, meanwhile),
                Command::Close => return Err(self.not_handled()),
            }
        }
        Ok(moved)
    }

    /// Whether the pipeline has room for what a command would put into it.
    pub(super) fn may_enqueue(&self) -> bool {
        self.pipeline.waiting_bytes() < self.shared.config.read_ahead()
    }

    fn deliver_direct(&mut self, message: Arc<Message>) {
        let qos: QoS = message.qos;
        let is_large = is_charged_once(&message.payload);
        let delivery = Delivery {
            message: if is_large { self.shared.budget.charged(&message) } else { message },
            subscription_ids: None,
            qos,
            retain: false,
            number: None,
            source: Source::Direct,
            rank: Rank::default(),
            pins_buffer: false,
        };
        self.session.push(&self.realm, delivery, &mut self.pipeline.fanout);
        // Nobody awaits an answer, so nothing waits until it is durable.
        self.pipeline.fanout.recorded = false;
    }
}
