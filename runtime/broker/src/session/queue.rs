//! A bounded queue of deliveries of which QoS 0 goes first.

use std::collections::VecDeque;

use smallvec::SmallVec;
use tidegate_event::QoS;

use super::delivery::{Delivery, detached};

/// Bytes of deliveries that are taken at once, at most, when there are more than one.
const TAKEN: usize = 1024 * 1024;

/// QoS 0 messages dropped to make room for another.
pub(crate) type Displaced = SmallVec<[Delivery; 1]>;

/// Whether there was a place in a [`Queue`].
#[derive(Debug)]
pub(super) enum Place {
    Free,
    /// These older QoS 0 messages were dropped for it.
    Displaced(Displaced),
    /// Everything in it must be kept.
    None,
}

/// Deliveries in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    deliveries: VecDeque<Delivery>,
    /// How many of them are QoS 0.
    dispensable: usize,
    /// The size of all, of those of QoS 0, and what of it counts once for all queues.
    bytes: usize,
    dispensable_bytes: usize,
    charged_once: usize,
    /// None of them expires before, milliseconds since the epoch; `None`: none at all.
    expires_ms: Option<u64>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.deliveries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.deliveries.iter()
    }

    /// What its deliveries take in memory, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How much of that is counted for this queue and not elsewhere.
    pub(super) fn weight(&self) -> usize {
        self.bytes - self.charged_once
    }

    /// Whether there is room for one more of `size` bytes in a queue of so many `messages` and `bytes`.
    pub(super) fn fits(&self, size: usize, messages: usize, bytes: usize) -> bool {
        // One message that is larger than the limit passes through an empty queue.
        self.deliveries.len() < messages && (self.bytes + size <= bytes || self.deliveries.is_empty())
    }

    /// Makes room for one more of `size` bytes in a queue of so many `messages` and `bytes`, if it can.
    pub(super) fn make_room(&mut self, size: usize, messages: usize, bytes: usize) -> Place {
        if self.fits(size, messages, bytes) {
            return Place::Free;
        }
        let (kept, kept_bytes) =
            (self.deliveries.len() - self.dispensable, self.bytes - self.dispensable_bytes);
        if self.dispensable == 0 || kept >= messages || (kept > 0 && kept_bytes + size > bytes) {
            return Place::None;
        }
        let (mut displaced, mut from) = (Displaced::new(), 0);
        while !self.fits(size, messages, bytes) {
            // Only a queue that is full pays for the search, and one of QoS 0 alone finds it at once.
            let mut rest = self.deliveries.iter().skip(from);
            let Some(oldest) = rest.position(|delivery| delivery.qos == QoS::AtMostOnce) else { break };
            from += oldest;
            if let Some(delivery) = self.deliveries.remove(from) {
                self.count_out(&delivery);
                displaced.push(delivery);
            }
        }
        Place::Displaced(displaced)
    }

    fn count_in(&mut self, delivery: &Delivery) {
        let size = delivery.size();
        self.bytes += size;
        self.charged_once += delivery.charged_once();
        if let Some(at) = delivery.message.expires_at_ms() {
            self.expires_ms = Some(self.expires_ms.map_or(at, |first| first.min(at)));
        }
        if delivery.qos == QoS::AtMostOnce {
            self.dispensable += 1;
            self.dispensable_bytes += size;
        }
    }

    fn count_out(&mut self, delivery: &Delivery) {
        let size = delivery.size();
        self.bytes -= size;
        self.charged_once -= delivery.charged_once();
        if delivery.qos == QoS::AtMostOnce {
            self.dispensable -= 1;
            self.dispensable_bytes -= size;
        }
    }

    pub(super) fn push(&mut self, delivery: Delivery) {
        self.count_in(&delivery);
        self.deliveries.push_back(delivery);
    }

    pub(super) fn push_front(&mut self, delivery: Delivery) {
        self.count_in(&delivery);
        self.deliveries.push_front(delivery);
    }

    /// Moves up to `most` deliveries to `batch`, fewer when they are large.
    pub(super) fn take(&mut self, batch: &mut VecDeque<Delivery>, most: usize) {
        if self.deliveries.len() <= most && self.bytes <= TAKEN && batch.is_empty() {
            // The whole queue: swap the buffers instead of moving what is in them.
            std::mem::swap(batch, &mut self.deliveries);
            let emptied = std::mem::take(&mut self.deliveries);
            *self = Self { deliveries: emptied, ..Self::default() };
            return;
        }
        let enough = self.bytes.saturating_sub(TAKEN);
        for _ in 0..most {
            let Some(delivery) = self.deliveries.pop_front() else { break };
            self.count_out(&delivery);
            batch.push_back(delivery);
            if self.bytes <= enough {
                break;
            }
        }
    }

    /// Takes out those that `wanted` is true of, in order.
    pub(super) fn extract(&mut self, wanted: impl Fn(&Delivery) -> bool) -> Self {
        let mut taken = Self::default();
        if self.deliveries.iter().any(&wanted) {
            for delivery in std::mem::take(self).deliveries {
                if wanted(&delivery) { taken.push(delivery) } else { self.push(delivery) }
            }
        }
        taken
    }

    /// Whether any of them may have expired at `now_ms`.
    pub(super) fn may_have_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|at| at <= now_ms)
    }

    /// Moves those that have expired at `now_ms` to `expired`.
    pub(super) fn take_expired(&mut self, now_ms: u64, expired: &mut VecDeque<Delivery>) {
        if !self.may_have_expired(now_ms) {
            return;
        }
        let deliveries = std::mem::take(self).deliveries;
        for delivery in deliveries {
            let is_expired = delivery.message.expires_at_ms().is_some_and(|at| at <= now_ms);
            if is_expired { expired.push_back(delivery) } else { self.push(delivery) }
        }
    }

    /// Everything in it, in order.
    pub(super) fn into_deliveries(self) -> VecDeque<Delivery> {
        self.deliveries
    }

    /// Prepares for a long wait: without QoS 0, which is given to `lost`, and without the read buffers of the
    /// publishers.
    pub(super) fn settle_down(&mut self, mut lost: impl FnMut(&Delivery)) {
        self.deliveries.retain(|delivery| {
            let kept = delivery.qos != QoS::AtMostOnce;
            if !kept {
                lost(delivery);
            }
            kept
        });
        for delivery in &mut self.deliveries {
            delivery.message = detached(&delivery.message);
        }
        let kept = std::mem::take(&mut self.deliveries);
        *self = Self::default();
        kept.iter().for_each(|delivery| self.count_in(delivery));
        self.deliveries = kept;
    }

    /// Gives memory back if it is empty and has places for more than `kept`.
    pub(super) fn shrink(&mut self, kept: usize) {
        if self.deliveries.is_empty() && self.deliveries.capacity() > kept {
            self.deliveries = VecDeque::new();
        }
    }
}
