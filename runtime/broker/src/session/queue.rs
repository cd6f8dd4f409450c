//! A bounded queue of deliveries of which QoS 0 goes first.

use std::collections::VecDeque;

use tidegate_event::QoS;

use super::delivery::{Delivery, detached};

/// Whether there was a place in a [`Queue`].
#[derive(Debug)]
pub(super) enum Place {
    Free,
    /// This older QoS 0 message was dropped for it.
    Displaced(Delivery),
    /// Everything in it must be kept.
    None,
}

/// Deliveries in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    deliveries: VecDeque<Delivery>,
    /// How many of them are QoS 0.
    dispensable: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.deliveries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.deliveries.iter()
    }

    /// Makes room for one more if `limit` allows.
    pub(super) fn make_room(&mut self, limit: usize) -> Place {
        if self.deliveries.len() < limit {
            return Place::Free;
        }
        if self.dispensable == 0 {
            return Place::None;
        }
        // Only a queue that is full pays for the search, and one of QoS 0 alone finds it at once.
        match self.deliveries.iter().position(|delivery| delivery.qos == QoS::AtMostOnce) {
            Some(oldest) => {
                self.dispensable -= 1;
                self.deliveries.remove(oldest).map_or(Place::None, Place::Displaced)
            }
            None => Place::None,
        }
    }

    pub(super) fn push(&mut self, delivery: Delivery) {
        self.dispensable += usize::from(delivery.qos == QoS::AtMostOnce);
        self.deliveries.push_back(delivery);
    }

    pub(super) fn push_front(&mut self, delivery: Delivery) {
        self.dispensable += usize::from(delivery.qos == QoS::AtMostOnce);
        self.deliveries.push_front(delivery);
    }

    /// Moves up to `most` deliveries to `batch`.
    pub(super) fn take(&mut self, batch: &mut VecDeque<Delivery>, most: usize) {
        if self.deliveries.len() <= most && batch.is_empty() {
            // The whole queue: swap the buffers instead of moving what is in them.
            std::mem::swap(batch, &mut self.deliveries);
            self.dispensable = 0;
            return;
        }
        for _ in 0..most {
            let Some(delivery) = self.deliveries.pop_front() else { break };
            self.dispensable -= usize::from(delivery.qos == QoS::AtMostOnce);
            batch.push_back(delivery);
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
        self.dispensable = 0;
        for delivery in &mut self.deliveries {
            delivery.message = detached(&delivery.message);
        }
    }

    /// Gives memory back if it is empty and has places for more than `kept`.
    pub(super) fn shrink(&mut self, kept: usize) {
        if self.deliveries.is_empty() && self.deliveries.capacity() > kept {
            self.deliveries = VecDeque::new();
        }
    }
}
