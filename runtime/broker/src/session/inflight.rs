//! The sender's half of QoS 1 and 2: what was sent to a client and is not acknowledged (MQTT 5 clause 4.3).

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

use tidegate_event::{Message, MsgId, QoS, StoredSending};

use super::delivery::{Delivery, Source, detached};
use super::outbox::FEW;
use crate::limits::budget::{Account, Budget, is_charged_once};

/// Packet ids run from 1 to 65,535.
const IDS: u64 = 65_535;

/// Where a sent message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// PUBLISH was sent.
    Published,
    /// QoS 2: PUBREC arrived, PUBREL was sent.
    Released,
}

/// A message that was sent and not acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) delivery: Delivery,
    /// The message as it was routed, when a handler had another one sent in its place: acknowledgements are
    /// about this one.
    pub(crate) original: Option<Arc<Message>>,
    stage: Stage,
    on_wire: bool,
}

/// How much of the memory of all queues a message takes.
#[derive(Clone, Copy)]
struct Size {
    /// All of it.
    bytes: usize,
    /// What of that counts once for all queues.
    charged_once: usize,
}

impl Sent {
    /// What it takes, with the message in whose place it was sent.
    fn size(&self) -> Size {
        let delivery = Size { bytes: self.delivery.size(), charged_once: self.delivery.charged_once() };
        self.original.as_ref().map_or(delivery, |original| Size {
            bytes: delivery.bytes + size_of::<Message>() + original.size(),
            charged_once: delivery.charged_once
                + if is_charged_once(&original.payload) { original.payload.len() } else { 0 },
        })
    }

    /// The message that an acknowledgement is about.
    pub(crate) fn acked_message(&self) -> &Arc<Message> {
        self.original.as_ref().unwrap_or(&self.delivery.message)
    }
}

/// What an acknowledgement met.
#[derive(Debug)]
pub(crate) enum Settled {
    /// The exchange is complete.
    Done(Sent),
    /// No message was sent with this packet id.
    Unknown,
    /// The message has another QoS or is at another step: a protocol error.
    Wrong,
}

/// What a PUBREC met.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// The client has the message, recorded under this number: send PUBREL.
    Released(Option<NonZeroU64>),
    /// No message was sent with this packet id.
    Unknown,
    /// The message is not QoS 2: a protocol error.
    Wrong,
}

/// Messages in flight to one client, in the order they were sent.
///
/// Packet ids are given in order, so that an id names its place without a map: the message with sequence
/// number `n` has the packet id `n % 65,535 + 1`.
#[derive(Debug, Default)]
pub(crate) struct Inflight {
    sent: VecDeque<Option<Sent>>,
    /// Sequence number of `sent[0]`.
    base: u64,
    /// How many were sent on the present connection and are not acknowledged.
    on_wire: usize,
    /// After a reconnect: indices in `sent` of the next PUBREL and the next PUBLISH to be sent again, and their end.
    release: usize,
    resend: usize,
    resend_end: usize,
    /// What they take in memory, and what of that counts once for all queues.
    bytes: usize,
    charged_once: usize,
    account: Account,
}

/// A message to be sent again.
#[derive(Debug)]
pub(crate) enum Resend<'a> {
    /// PUBLISH with DUP under this packet id.
    Publish(u16, &'a Delivery),
    /// PUBREL under this packet id.
    Release(u16),
}

fn packet_id(sequence: u64) -> u16 {
    // At most 65,534, plus one.
    (sequence % IDS) as u16 + 1
}

impl Inflight {
    /// The unacknowledged messages, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter().flatten()
    }

    /// Whether everything that was in flight before a reconnect has been sent again.
    pub(crate) fn is_resent(&self) -> bool {
        self.release == self.resend_end && self.resend == self.resend_end
    }

    /// Whether one more may be sent in a window of `window`. A client that withholds one acknowledgement and
    /// sends the others is stopped after sixteen windows, so that the gap behind it stays bounded.
    pub(crate) fn has_room(&self, window: usize) -> bool {
        self.is_resent()
            && self.on_wire < window
            && self.sent.len() < (window.saturating_mul(16)).min(IDS as usize - 1)
    }

    fn count_in(&mut self, sent: &Sent) {
        let Size { bytes, charged_once } = sent.size();
        self.bytes += bytes;
        self.charged_once += charged_once;
    }

    fn count_out(&mut self, Size { bytes, charged_once }: Size) {
        self.bytes -= bytes;
        self.charged_once -= charged_once;
    }

    /// What the messages take in memory, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What of that counts for this client alone, bytes.
    pub(crate) fn weight(&self) -> usize {
        self.bytes - self.charged_once
    }

    /// Counts what the messages take now against `budget`.
    pub(crate) fn charge(&mut self, budget: &Arc<Budget>) {
        let weight = self.weight();
        self.account.settle(budget, weight);
    }

    /// Nothing happens to them for a while: no more stays reserved than what they take now.
    pub(crate) fn rest(&mut self) {
        let weight = self.weight();
        self.account.rest(weight);
    }

    /// The packet id that [`Inflight::push`] will give.
    pub(crate) fn next_packet_id(&self) -> u16 {
        packet_id(self.next_sequence())
    }

    /// The place in the order of sending that [`Inflight::push`] will give; the packet id follows from it.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.base + self.sent.len() as u64
    }

    /// `delivery` is sent now. Gives its packet id.
    pub(crate) fn push(&mut self, mut delivery: Delivery, mut original: Option<Arc<Message>>) -> u16 {
        let id = self.next_packet_id();
        if delivery.pins_buffer && self.sent.len() >= FEW {
            delivery.message = detached(&delivery.message);
            original = original.as_ref().map(detached);
        }
        let sent = Sent { delivery, original, stage: Stage::Published, on_wire: true };
        self.count_in(&sent);
        self.sent.push_back(Some(sent));
        self.on_wire += 1;
        id
    }

    /// A message that an earlier life of the process had sent; call in the order of sending.
    pub(crate) fn restore(&mut self, sending: StoredSending, mut delivery: Delivery, released: bool) {
        let StoredSending { sequence, qos, replacement } = sending;
        let original = replacement.map(|sent| std::mem::replace(&mut delivery.message, sent));
        delivery.qos = qos;
        if self.sent.is_empty() {
            self.base = sequence;
        }
        // More than that were never in flight at once: the record is not ours, and any packet id will do.
        let gap = sequence.saturating_sub(self.next_sequence());
        if self.sent.len() as u64 + gap < IDS - 1 {
            self.sent.extend((0..gap).map(|_| None));
        }
        let stage = if released { Stage::Released } else { Stage::Published };
        let sent = Sent { delivery, original, stage, on_wire: false };
        self.count_in(&sent);
        self.sent.push_back(Some(sent));
    }

    /// A new connection: everything in flight is to be sent again under the same packet ids (clause 4.4).
    pub(crate) fn reconnect(&mut self) {
        self.on_wire = 0;
        for sent in self.sent.iter_mut().flatten() {
            sent.on_wire = false;
        }
        self.release = 0;
        self.resend = 0;
        self.resend_end = self.sent.len();
    }

    /// The next message to send again. First every PUBREL: the send quota counts PUBLISH alone, and what is not one is
    /// sent whatever the quota (clauses 3.3.4 and 4.9). Then every PUBLISH, while the window of `window` has room.
    pub(crate) fn next_resend(&mut self, window: usize) -> Option<Resend<'_>> {
        while self.release < self.resend_end {
            let index = self.release;
            self.release += 1;
            if matches!(self.sent.get(index), Some(Some(sent)) if sent.stage == Stage::Released) {
                return Some(Resend::Release(packet_id(self.base + index as u64)));
            }
        }
        while self.resend < self.resend_end {
            if self.on_wire >= window {
                return None;
            }
            let index = self.resend;
            self.resend += 1;
            if matches!(self.sent.get(index), Some(Some(sent)) if sent.stage == Stage::Published) {
                let id = packet_id(self.base + index as u64);
                self.on_wire += 1;
                let sent = self.sent.get_mut(index)?.as_mut()?;
                sent.on_wire = true;
                return Some(Resend::Publish(id, &sent.delivery));
            }
        }
        None
    }

    /// PUBACK arrived.
    pub(crate) fn puback(&mut self, packet_id: u16) -> Settled {
        self.settle(packet_id, |sent| sent.delivery.qos == QoS::AtLeastOnce)
    }

    /// PUBCOMP arrived.
    pub(crate) fn pubcomp(&mut self, packet_id: u16) -> Settled {
        self.settle(packet_id, |sent| sent.delivery.qos == QoS::ExactlyOnce && sent.stage == Stage::Released)
    }

    /// PUBREC with an error code arrived: the exchange ends there (clause 4.3.3).
    pub(crate) fn pubrec_error(&mut self, packet_id: u16) -> Settled {
        self.settle(packet_id, |sent| sent.delivery.qos == QoS::ExactlyOnce)
    }

    /// PUBREC arrived.
    pub(crate) fn pubrec(&mut self, packet_id: u16) -> Receipt {
        let index = self.index_of(packet_id);
        match index.and_then(|index| self.sent.get_mut(index)?.as_mut()) {
            None => Receipt::Unknown,
            Some(sent) if sent.delivery.qos != QoS::ExactlyOnce => Receipt::Wrong,
            Some(sent) => {
                sent.stage = Stage::Released;
                Receipt::Released(sent.delivery.number)
            }
        }
    }

    /// The retained copy of message `id`, if it is in flight, is from now on a delivery of `source`: a store
    /// gave the same message, which is not sent twice.
    pub(crate) fn adopt(&mut self, id: MsgId, source: Source) -> bool {
        let copy = self
            .sent
            .iter_mut()
            .flatten()
            .find(|sent| sent.delivery.source == Source::Retained && sent.delivery.message.id == id);
        copy.map(|sent| sent.delivery.source = source).is_some()
    }

    /// Withdraws the unacknowledged QoS 1 messages that `taken` is true of: it is given the delivery and the message
    /// that an acknowledgement would be about.
    pub(crate) fn withdraw_at_least_once(&mut self, mut taken: impl FnMut(&Delivery, &Arc<Message>) -> bool) {
        self.withdraw_all(|sent| {
            sent.delivery.qos == QoS::AtLeastOnce && taken(&sent.delivery, sent.acked_message())
        });
    }

    /// Withdraws the messages that `taken` is true of, unless the client has said that it has them (QoS 2).
    pub(crate) fn withdraw_unreceived(&mut self, mut taken: impl FnMut(&Delivery) -> bool) {
        self.withdraw_all(|sent| sent.stage == Stage::Published && taken(&sent.delivery));
    }

    fn withdraw_all(&mut self, mut is_meant: impl FnMut(&Sent) -> bool) {
        for index in 0..self.sent.len() {
            if let Some(slot) = self.sent.get_mut(index)
                && slot.as_ref().is_some_and(&mut is_meant)
                && let Some(sent) = slot.take()
            {
                self.on_wire -= usize::from(sent.on_wire);
                self.count_out(sent.size());
            }
        }
        self.trim();
    }

    /// The message under `packet_id` is not sent again after all.
    pub(crate) fn withdraw(&mut self, packet_id: u16) -> Option<Sent> {
        match self.settle(packet_id, |_| true) {
            Settled::Done(sent) => Some(sent),
            Settled::Unknown | Settled::Wrong => None,
        }
    }

    fn settle(&mut self, packet_id: u16, fits: impl FnOnce(&Sent) -> bool) -> Settled {
        let Some(index) = self.index_of(packet_id) else { return Settled::Unknown };
        let Some(slot) = self.sent.get_mut(index) else { return Settled::Unknown };
        match slot.take() {
            None => Settled::Unknown,
            Some(sent) if !fits(&sent) => {
                *slot = Some(sent);
                Settled::Wrong
            }
            Some(sent) => {
                if sent.on_wire {
                    self.on_wire -= 1;
                }
                self.count_out(sent.size());
                self.trim();
                Settled::Done(sent)
            }
        }
    }

    /// Forgets the settled messages at the front.
    fn trim(&mut self) {
        while matches!(self.sent.front(), Some(None)) {
            self.sent.pop_front();
            self.base += 1;
            self.release = self.release.saturating_sub(1);
            self.resend = self.resend.saturating_sub(1);
            self.resend_end = self.resend_end.saturating_sub(1);
        }
    }

    fn index_of(&self, packet_id: u16) -> Option<usize> {
        let wanted = u64::from(packet_id.checked_sub(1)?);
        let index = ((wanted + IDS - self.base % IDS) % IDS) as usize;
        (index < self.sent.len()).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::session::{test_delivery, test_message};

    fn delivery(qos: QoS) -> Delivery {
        test_delivery(test_message("t", qos, 1), Source::Live)
    }

    #[test]
    fn packet_ids_run_in_order_and_wrap_past_zero() {
        let mut inflight = Inflight::default();
        for round in 0..70_000_u64 {
            let id = inflight.push(delivery(QoS::AtLeastOnce), None);
            assert_eq!(u64::from(id), round % 65_535 + 1);
            assert!(matches!(inflight.puback(id), Settled::Done(_)));
        }
        assert_eq!(inflight.iter().count(), 0);
    }

    #[test]
    fn acknowledgements_may_come_in_any_order() {
        let mut inflight = Inflight::default();
        let ids: Vec<u16> = (0..5).map(|_| inflight.push(delivery(QoS::AtLeastOnce), None)).collect();
        for &id in [3, 1, 4, 0, 2].iter().map(|&i| &ids[i]) {
            assert!(matches!(inflight.puback(id), Settled::Done(_)));
            assert!(matches!(inflight.puback(id), Settled::Unknown));
        }
        assert!(inflight.sent.is_empty());
        assert!(inflight.has_room(1));
    }

    #[test]
    fn qos_2_needs_pubrec_before_pubcomp() {
        let mut inflight = Inflight::default();
        let id = inflight.push(delivery(QoS::ExactlyOnce), None);
        assert!(matches!(inflight.puback(id), Settled::Wrong));
        assert!(matches!(inflight.pubcomp(id), Settled::Wrong));
        assert_eq!(inflight.pubrec(id), Receipt::Released(None));
        assert_eq!(inflight.pubrec(id), Receipt::Released(None), "a resent PUBREC gets PUBREL again");
        assert!(matches!(inflight.pubcomp(id), Settled::Done(_)));
        assert_eq!(inflight.pubrec(id), Receipt::Unknown);
    }

    #[test]
    fn a_reconnect_resends_in_order_within_the_new_window() {
        let mut inflight = Inflight::default();
        for _ in 0..3 {
            inflight.push(delivery(QoS::AtLeastOnce), None);
        }
        inflight.puback(2);
        inflight.push(delivery(QoS::ExactlyOnce), None);
        inflight.reconnect();
        assert!(!inflight.has_room(10), "what was in flight goes first");
        assert!(matches!(inflight.next_resend(2), Some(Resend::Publish(1, _))));
        assert!(matches!(inflight.next_resend(2), Some(Resend::Publish(3, _))));
        assert!(inflight.next_resend(2).is_none());
        inflight.puback(1);
        assert!(matches!(inflight.next_resend(2), Some(Resend::Publish(4, _))));
        assert!(inflight.next_resend(3).is_none());
        assert!(inflight.has_room(10));
    }

    /// PUBREL waited for the window: a client with a small receive maximum got the second when it had answered the first.
    #[test]
    fn a_reconnect_resends_every_pubrel_whatever_the_window() {
        let mut inflight = Inflight::default();
        inflight.push(delivery(QoS::AtLeastOnce), None);
        for _ in 0..2 {
            let id = inflight.push(delivery(QoS::ExactlyOnce), None);
            inflight.pubrec(id);
        }
        inflight.push(delivery(QoS::AtLeastOnce), None);
        inflight.reconnect();
        assert!(matches!(inflight.next_resend(1), Some(Resend::Release(2))));
        assert!(matches!(inflight.next_resend(1), Some(Resend::Release(3))));
        assert!(matches!(inflight.next_resend(1), Some(Resend::Publish(1, _))));
        assert!(inflight.next_resend(1).is_none());
        assert!(matches!(inflight.pubcomp(3), Settled::Done(_)));
        assert!(inflight.next_resend(1).is_none(), "PUBREL had taken no place");
        inflight.puback(1);
        assert!(matches!(inflight.next_resend(1), Some(Resend::Publish(4, _))));
        assert!(inflight.is_resent());
    }

    #[test]
    fn restored_messages_keep_their_packet_ids() {
        let mut inflight = Inflight::default();
        for sequence in [65_533, 65_534, 65_536] {
            let sending = StoredSending { sequence, qos: QoS::AtLeastOnce, replacement: None };
            inflight.restore(sending, delivery(QoS::ExactlyOnce), false);
        }
        inflight.reconnect();
        let mut seen = Vec::new();
        while let Some(Resend::Publish(id, _)) = inflight.next_resend(10) {
            seen.push(id);
        }
        assert_eq!(seen, [65_534, 65_535, 2]);
        assert_eq!(inflight.next_packet_id(), 3);
    }

    /// What a handler had sent in place of a message counted, and not the message itself, which is kept for as long.
    #[test]
    fn the_message_in_whose_place_another_is_sent_counts_too() {
        let mut inflight = Inflight::default();
        let budget = Arc::new(Budget::new(1 << 20));
        let sized = |size: usize| {
            let message = Message::clone(&test_message("t", QoS::AtLeastOnce, 1));
            Arc::new(Message { payload: vec![0; size].into(), ..message })
        };
        let id = inflight.push(delivery(QoS::AtLeastOnce), Some(sized(12_000)));
        inflight.push(delivery(QoS::AtLeastOnce), Some(budget.charged(&sized(50_000))));
        inflight.charge(&budget);
        assert!(inflight.weight() > 12_000 && inflight.weight() < 14_000, "{}", inflight.weight());
        assert!((60_000..66_000).contains(&budget.used()), "{}", budget.used());
        assert!(matches!(inflight.puback(id), Settled::Done(_)));
        inflight.withdraw_unreceived(|_| true);
        assert_eq!((inflight.bytes(), inflight.weight()), (0, 0));
        drop(inflight);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_withheld_acknowledgement_stops_the_client_in_bounded_space() {
        let mut inflight = Inflight::default();
        inflight.push(delivery(QoS::AtLeastOnce), None);
        let mut others = 0;
        while inflight.has_room(10) {
            let id = inflight.push(delivery(QoS::AtLeastOnce), None);
            assert!(matches!(inflight.puback(id), Settled::Done(_)));
            others += 1;
        }
        assert_eq!(others, 159);
        assert!(matches!(inflight.puback(1), Settled::Done(_)));
        assert!(inflight.has_room(10));
    }
}
