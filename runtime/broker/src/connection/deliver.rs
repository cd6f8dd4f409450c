//! Deliveries to the client and their acknowledgements: the outbound life of a client.
//!
//! Events of this direction (message.deliver, message.acked) are raised one at a time. A delivery is written
//! when its handlers have run; without handlers it is encoded straight into the output.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tidegate_event::{
    Admitted, BoxFuture, Change, Event, Hook, Message, MsgId, Origin, QoS, Raised, Shown, StoredSending,
    Verdict, now_ms,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::feed::Next;
use super::output::is_shared;
use super::{Connection, OUTPUT_ENOUGH};
use crate::codec::{self, Ack, Connect, Outgoing};
use crate::config::BrokerConfig;
use crate::limits::budget::is_charged_once;
use crate::metrics::Drop;
use crate::session::delivery::{Delivery, Source};
use crate::session::inflight::{Resend, Sent};
use crate::session::outbox::IDLE_CAPACITY;
use crate::session::positions::Positions;

/// Deliveries taken out of the outbox at once.
const BATCH: usize = 256;
/// Deliveries encoded before others have their turn, and joins looked at for them.
const STEPS: usize = 65_536;

/// An event of the outbound direction whose handlers run.
pub(super) enum Running {
    Deliver(Delivery, BoxFuture<'static, Admitted>),
    /// With the id of the message.
    Acked(MsgId, BoxFuture<'static, Admitted>),
}

/// A message.acked event to be raised.
pub(super) struct Acked {
    message: Arc<Message>,
    through: Option<MsgId>,
    explicit: bool,
}

/// What is on its way from the outbox to the output.
pub(super) struct Deliveries {
    pub(super) batch: VecDeque<Delivery>,
    /// Live messages of QoS 0 that wait for the retained one of their topic, which waits for an acknowledgement: others go
    /// past them.
    pub(super) parked: VecDeque<Delivery>,
    pub(super) running: Option<Running>,
    pub(super) acked: VecDeque<Acked>,
    /// Greatest number of unacknowledged deliveries.
    window: u16,
    /// Greatest packet the client takes, bytes.
    max_packet: usize,
    /// Stored and live messages take turns.
    feeds_turn: bool,
    /// Whether message.deliver and message.acked have handlers; looked up once a turn.
    deliver_bound: bool,
    acked_bound: bool,
}

impl Deliveries {
    pub(super) fn new(config: &BrokerConfig, connect: &Connect) -> Self {
        let asked = connect.properties.receive_maximum.unwrap_or(u16::MAX).max(1);
        let most = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
        Self {
            batch: VecDeque::new(),
            parked: VecDeque::new(),
            running: None,
            acked: VecDeque::new(),
            window: config.max_inflight.max(1).min(asked),
            max_packet: usize::try_from(most).unwrap_or(usize::MAX),
            feeds_turn: false,
            deliver_bound: false,
            acked_bound: false,
        }
    }

    /// Nothing, of a connection that has ended.
    pub(super) fn none() -> Self {
        Self {
            batch: VecDeque::new(),
            parked: VecDeque::new(),
            running: None,
            acked: VecDeque::new(),
            window: 0,
            max_packet: 0,
            feeds_turn: false,
            deliver_bound: false,
            acked_bound: false,
        }
    }

    /// Whether a new message in the outbox could be sent at once.
    pub(super) fn wants_messages(&self) -> bool {
        self.batch.is_empty() && self.running.is_none() && self.acked.is_empty()
    }

    /// Ids of what the client has acknowledged and no handler of message.acked knows yet.
    pub(super) fn acked_ids(&self) -> impl Iterator<Item = MsgId> {
        let running = match &self.running {
            Some(Running::Acked(id, _)) => Some(*id),
            _ => None,
        };
        self.acked.iter().map(|acked| acked.message.id).chain(running)
    }

    /// Ids of what was taken out of the outbox and is not sent.
    pub(super) fn ids(&self) -> impl Iterator<Item = MsgId> {
        let running = match &self.running {
            Some(Running::Deliver(delivery, _)) => Some(delivery.message.id),
            _ => None,
        };
        self.batch.iter().chain(&self.parked).map(|delivery| delivery.message.id).chain(running)
    }

    /// Live messages that were taken out of the outbox and are not sent, oldest first.
    pub(super) fn live(&self) -> impl Iterator<Item = &Delivery> {
        let running = match &self.running {
            Some(Running::Deliver(delivery, _)) => Some(delivery),
            _ => None,
        };
        let all = running.into_iter().chain(&self.parked).chain(&self.batch);
        all.filter(|delivery| delivery.source == Source::Live)
    }

    /// How many deliveries were taken out of the outbox and cannot be sent yet.
    pub(super) fn taken(&self) -> usize {
        self.batch.len() + self.parked.len()
    }

    /// Gives memory back while the client is idle.
    pub(super) fn rest(&mut self) {
        if self.batch.is_empty() && self.batch.capacity() > IDLE_CAPACITY {
            self.batch = VecDeque::new();
        }
    }
}

impl Acked {
    /// The event, for the client `client`.
    pub(super) fn into_event(self, client: &Arc<tidegate_event::Client>) -> Event {
        let Self { message, through, explicit } = self;
        Event::MessageAcked { client: Arc::clone(client), message, through, explicit }
    }
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Looks up which hooks of this direction have handlers.
    pub(super) fn refresh_hooks(&mut self) {
        self.pipeline.refresh_hooks();
        let hooks = &self.shared.hooks;
        self.deliveries.deliver_bound = hooks.is_bound(&self.realm.tenant, Hook::MessageDeliver);
        self.deliveries.acked_bound = hooks.is_bound(&self.realm.tenant, Hook::MessageAcked);
        if !self.deliveries.acked_bound {
            self.seat.positions = None;
        } else if self.seat.positions.is_none() {
            let mut positions = Positions::with_unread(self.unread());
            for sent in self.seat.inflight.iter().filter(|sent| sent.delivery.source.is_positional()) {
                let message = sent.acked_message();
                positions.sent(&message.topic, message.id);
            }
            self.seat.positions = Some(positions);
        }
    }

    /// Whether deliveries may begin: their handlers run after those of client.connected and session.created.
    pub(super) fn may_deliver(&self) -> bool {
        !self.deliveries.deliver_bound || self.pipeline.is_open()
    }

    /// Whether one more delivery may be encoded: what is there is taken by the client, or not much.
    pub(super) fn may_encode(&self) -> bool {
        let withheld = self.withheld.bytes();
        withheld < OUTPUT_ENOUGH && !self.withheld.is_full() && self.takes_output(OUTPUT_ENOUGH - withheld)
    }

    /// Encodes deliveries until something is to be waited for. Gives whether anything was done.
    pub(super) fn poll_deliveries(&mut self, cx: &mut Context<'_>) -> bool {
        let (mut moved, mut steps) = (false, 0);
        while steps < STEPS {
            steps += 1 + self.seat.joins.len();
            match self.deliveries.running.take() {
                None => {}
                Some(Running::Acked(id, mut handlers)) => {
                    if handlers.as_mut().poll(cx).is_pending() {
                        self.deliveries.running = Some(Running::Acked(id, handlers));
                        return moved;
                    }
                    moved = true;
                }
                Some(Running::Deliver(delivery, mut handlers)) => match handlers.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.deliveries.running = Some(Running::Deliver(delivery, handlers));
                        return moved;
                    }
                    Poll::Ready(admitted) => {
                        self.decided(delivery, admitted.verdict);
                        moved = true;
                    }
                },
            }
            let open = self.pipeline.is_open();
            if !self.deliveries.acked.is_empty() {
                if !open {
                    return moved;
                }
                self.raise_acked();
                moved = true;
                continue;
            }
            if !self.may_encode() || !self.may_deliver() {
                return moved;
            }
            if !self.resend_next() {
                match self.next_delivery() {
                    Some(delivery) => self.deliver(delivery),
                    None => return moved,
                }
            }
            moved = true;
        }
        moved
    }

    /// Sends the next message that was in flight when the last connection ended, if there is one and the window
    /// has room (MQTT 5 clause 4.4).
    fn resend_next(&mut self) -> bool {
        if self.seat.inflight.is_resent() || !self.withheld.is_empty() {
            // What the client has acknowledged again may not be durable yet.
            return false;
        }
        match self.seat.inflight.next_resend(self.deliveries.window.into()) {
            None => return false,
            Some(Resend::Publish(packet_id, delivery)) => {
                let packet = codec::Delivery {
                    dup: true,
                    retain: delivery.retain,
                    subscription_ids: delivery.subscription_ids.as_deref().unwrap_or_default(),
                    expiry_remaining: remaining_seconds(&delivery.message),
                    ..codec::Delivery::new(&delivery.message, delivery.qos, packet_id)
                };
                let qos = delivery.qos;
                let most = self.deliveries.max_packet;
                let shared = Some(&delivery.message.payload).filter(|payload| is_shared(payload)).cloned();
                let output = self.output.encoded();
                if self.aliases_out.encode(packet, true, self.protocol, most, output) == 0 {
                    // The client takes smaller packets than on its last connection (clause 3.1.2.11.4).
                    if qos == QoS::ExactlyOnce {
                        // It may have the message, and would take the next one under this packet id for the same: it is told
                        // that this one is complete.
                        self.realm.dropped(Drop::TooLarge);
                        self.sent_for_good(packet_id);
                    } else if let Some(Sent { delivery, original, .. }) =
                        self.seat.inflight.withdraw(packet_id)
                    {
                        self.discard(delivery, original, Drop::TooLarge);
                    }
                    return true;
                }
                if let Some(payload) = shared {
                    self.output.share(payload);
                }
                self.tally.sent(qos);
            }
            Some(Resend::Release(packet_id)) => {
                let ack = Ack { packet_id, reason: tidegate_event::ReasonCode::SUCCESS };
                self.send(&Outgoing::PubRel(ack));
            }
        }
        self.shared.metrics.redelivered.increment(1);
        true
    }

    /// Whether one more QoS 1 or 2 message may be in flight.
    pub(super) fn has_window(&self) -> bool {
        let inflight = &self.seat.inflight;
        inflight.has_room(self.deliveries.window.into())
            && inflight.bytes() < self.shared.config.max_queued_bytes
    }

    /// The next delivery that may be sent now: stored and live ones take turns.
    fn next_delivery(&mut self) -> Option<Delivery> {
        if !self.seat.inflight.is_resent() {
            return None;
        }
        if self.deliveries.batch.is_empty() && !self.pipeline.is_bringing() {
            let mut outbox = self.session.outbox();
            if !self.seat.joins.is_empty() {
                // All that was taken so far is sent.
                let (taken, all) = (outbox.progress(), outbox.len() == 0);
                self.seat.joins.iter_mut().for_each(|join| join.caught_up(taken, all));
            }
            outbox.take(&mut self.deliveries.batch, BATCH);
            outbox.flies(self.seat.inflight.weight());
            let (relieved, losses) = (outbox.relieved(), outbox.take_losses());
            drop(outbox);
            // Before anything that was queued after the loss can be acknowledged.
            if let (Some(losses), Some(positions)) = (losses, &mut self.seat.positions) {
                positions.lost(*losses);
            }
            for publisher in relieved {
                self.pipeline.fanout.wake(publisher);
            }
        }
        let room = self.has_window();
        let qos_fits = |qos: QoS| room || qos == QoS::AtMostOnce;
        let is_free = match self.earlier(qos_fits) {
            Next::Earlier(copy) => return Some(copy),
            Next::Batch => true,
            Next::Waits => false,
        };
        let sendable = |delivery: &Delivery| is_free && qos_fits(delivery.qos);
        if !self.seat.joins.is_empty() {
            self.deliveries.feeds_turn = !self.deliveries.feeds_turn;
            if self.deliveries.feeds_turn || !self.deliveries.batch.front().is_some_and(sendable) {
                while let Some(join) =
                    self.seat.joins.iter_mut().find(|join| join.next_qos().is_some_and(qos_fits))
                {
                    match join.pop() {
                        Some((delivery, true)) => self.skip_copy(&delivery),
                        Some((delivery, false)) => {
                            self.unpark(&delivery);
                            return Some(delivery);
                        }
                        None => break,
                    }
                }
            }
        }
        if self.deliveries.batch.front().is_some_and(sendable) {
            self.deliveries.batch.pop_front()
        } else {
            None
        }
    }

    /// A stored message whose retained copy the client has got: it is not sent again, but now that all older
    /// ones of its topic are sent, the copy's acknowledgement stands for it.
    fn skip_copy(&mut self, delivery: &Delivery) {
        let message = &delivery.message;
        if self.seat.inflight.adopt(message.id, delivery.source) {
            if let Some(positions) = &mut self.seat.positions {
                positions.sent_from_store(&message.topic, message.id);
            }
            return;
        }
        self.feed_finished(delivery.source);
        self.acked_implicitly(message, delivery.source);
    }

    fn deliver(&mut self, delivery: Delivery) {
        if is_expired(&delivery.message) {
            self.discard(delivery, None, Drop::Expired);
            return;
        }
        if self.deliveries.deliver_bound && delivery.message.origin != Origin::Broker {
            let (client, message) = (Arc::clone(&self.client), Arc::clone(&delivery.message));
            if let Raised::Running(handlers) =
                self.shared.hooks.raise(Event::MessageDeliver { client, message })
            {
                self.deliveries.running = Some(Running::Deliver(delivery, handlers));
                return;
            }
        }
        self.write(delivery, None);
    }

    /// The handlers of message.deliver have run.
    fn decided(&mut self, mut delivery: Delivery, verdict: Verdict) {
        match verdict {
            Verdict::Drop | Verdict::Reject(_) | Verdict::Fail(_) => {
                self.discard(delivery, None, Drop::Handler);
            }
            Verdict::Replace(mut other) => {
                if is_charged_once(&other.payload) {
                    other = self.shared.budget.charged(&other);
                }
                delivery.qos = delivery.qos.min(other.qos);
                let original = std::mem::replace(&mut delivery.message, other);
                self.write(delivery, Some(original));
            }
            Verdict::Pass | Verdict::Allow | Verdict::Change(_) => self.write(delivery, None),
            Verdict::FanOut(_) => {
                // The hook's answer has no such case; the message goes on as it is rather than be lost.
                tracing::warn!(client = %Shown(&self.client.id), "message.deliver cannot fan out");
                self.write(delivery, None);
            }
        }
    }

    /// Encodes `delivery`. `original`: the message in whose place it is sent.
    fn write(&mut self, mut delivery: Delivery, original: Option<Arc<Message>>) {
        let before = self.output.encoded().len();
        let message = &delivery.message;
        let packet = codec::Delivery {
            retain: delivery.retain,
            subscription_ids: delivery.subscription_ids.as_deref().unwrap_or_default(),
            expiry_remaining: remaining_seconds(message),
            ..codec::Delivery::new(message, delivery.qos, self.seat.inflight.next_packet_id())
        };
        let most = self.deliveries.max_packet;
        let is_recorded = self.session.is_recorded(&self.realm);
        // It would be sent under another packet id after a crash, as another message: it waits until it is recorded.
        let promises = is_recorded && delivery.qos == QoS::ExactlyOnce;
        // Other messages do not overtake it (clause 4.6).
        let waits = promises || self.withheld.has_messages();
        if self.aliases_out.encode(packet, !waits, self.protocol, most, self.output.encoded()) == 0 {
            self.discard(delivery, original, Drop::TooLarge);
            return;
        }
        let payload = if is_shared(&message.payload) { message.payload.clone() } else { Bytes::new() };
        if waits {
            let encoded = self.output.encoded();
            self.withheld.push(encoded.get(before..).unwrap_or_default(), payload, promises);
            encoded.truncate(before);
        } else if !payload.is_empty() {
            self.output.share(payload);
        }
        self.tally.sent(delivery.qos);
        let qos = delivery.qos;
        if qos == QoS::AtMostOnce {
            // It may have been recorded before a handler had another one sent in its place.
            self.session.finished(&self.realm, delivery.number);
            let remembers = self.seat.reads_stores() || self.pipeline.is_subscribing();
            if self.deliveries.acked_bound || remembers || delivery.source != Source::Live {
                self.feed_finished(delivery.source);
                self.acked_implicitly(original.as_ref().unwrap_or(&delivery.message), delivery.source);
            }
            return;
        }
        let about = original.as_ref().unwrap_or(&delivery.message);
        if let Some(positions) = &mut self.seat.positions {
            match delivery.source {
                Source::Backlog(_) => positions.sent_from_store(&about.topic, about.id),
                source if source.is_positional() => positions.sent(&about.topic, about.id),
                _ => {}
            }
        }
        if is_recorded {
            self.record_sent(&mut delivery, original.as_ref());
        }
        self.seat.inflight.push(delivery, original);
        self.seat.inflight.charge(&self.shared.budget);
    }

    /// Records that `delivery` is sent next, and `original`, if that is the message in whose place it is sent.
    fn record_sent(&self, delivery: &mut Delivery, original: Option<&Arc<Message>>) {
        let replacement = original.map(|original| {
            let sent = Arc::clone(&delivery.message);
            if delivery.number.is_none() {
                delivery.message = Arc::clone(original);
            }
            sent
        });
        if delivery.number.is_none() {
            self.session.record_queued(&self.realm, delivery, None);
            if let Some(sent) = &replacement {
                delivery.message = Arc::clone(sent);
            }
        }
        let Some(number) = delivery.number else { return };
        let (sequence, qos) = (self.seat.inflight.next_sequence(), delivery.qos);
        let sending = StoredSending { sequence, qos, replacement };
        self.realm.record(Change::Sent { session: self.session.number, number: number.get(), sending });
    }

    /// Drops `delivery`, which may have been sent in place of `original`: it takes no place in the window and
    /// counts as acknowledged.
    fn discard(&mut self, delivery: Delivery, original: Option<Arc<Message>>, why: Drop) {
        self.realm.dropped(why);
        let about = original.unwrap_or(delivery.message);
        self.feed_finished(delivery.source);
        self.session.finished(&self.realm, delivery.number);
        self.acked_implicitly(&about, delivery.source);
    }

    /// A message that the client does not acknowledge itself: only its position moves.
    fn acked_implicitly(&mut self, message: &Arc<Message>, source: Source) {
        if source.is_positional() && self.seat.positions.is_some() {
            let through = self.advance_position(message, source);
            self.deliveries.acked.push_back(Acked { message: Arc::clone(message), through, explicit: false });
        } else {
            self.remember_given(message.id, false);
        }
    }

    /// The client has got `message`: how far its position in the topic moves, if at all.
    fn advance_position(&mut self, message: &Message, source: Source) -> Option<MsgId> {
        let positions = self.seat.positions.as_mut().filter(|_| source.is_positional());
        let (through, held_back) = match positions {
            Some(positions) => {
                if source.is_from_store() {
                    positions.sent_from_store(&message.topic, message.id);
                }
                let held_back = positions.is_held_back(&message.topic, message.id);
                let through = positions.acked(&message.topic, message.id);
                // A store gives what lies beyond the position again.
                (through, held_back || through.is_none())
            }
            None => (None, false),
        };
        self.remember_given(message.id, held_back);
        through
    }

    /// PUBACK or PUBCOMP of `sent` arrived.
    pub(super) fn acknowledged(&mut self, sent: Sent) {
        self.tally.acked();
        self.seat.inflight.charge(&self.shared.budget);
        self.feed_finished(sent.delivery.source);
        let message = sent.acked_message();
        self.session.finished(&self.realm, sent.delivery.number);
        let through = self.advance_position(message, sent.delivery.source);
        if self.seat.positions.is_some() {
            self.deliveries.acked.push_back(Acked { message: Arc::clone(message), through, explicit: true });
        }
    }

    fn raise_acked(&mut self) {
        let Some(acked) = self.deliveries.acked.pop_front() else { return };
        let id = acked.message.id;
        if let Raised::Running(handlers) = self.shared.hooks.raise(acked.into_event(&self.client)) {
            self.deliveries.running = Some(Running::Acked(id, handlers));
        }
    }
}

fn is_expired(message: &Message) -> bool {
    message.expires_at_ms().is_some_and(|at| at <= now_ms())
}

/// Whole seconds until `message` expires, rounded up (MQTT 5 clause 3.3.2.3.3).
fn remaining_seconds(message: &Message) -> Option<u32> {
    let left = message.expires_at_ms()?.saturating_sub(now_ms());
    Some(u32::try_from(left.div_ceil(1_000)).unwrap_or(u32::MAX))
}
