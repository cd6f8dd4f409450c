//! Stored messages on their way to the client: drives the joins of its subscriptions.

use std::collections::HashSet;

use foldhash::fast::RandomState;
use std::sync::Arc;
use std::task::Context;
use tidegate_event::{Change, Message, MsgId};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use crate::session::delivery::{Delivery, Source};
use crate::session::join::{Advance, Join};

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Moves every join as far as it can go. Gives whether any moved.
    pub(super) fn poll_feeds(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        let mut index = 0;
        while let Some(join) = self.seat.joins.get_mut(index) {
            match join.advance(cx) {
                Advance::Wait => {
                    index += 1;
                    continue;
                }
                Advance::Again => {}
                Advance::Page(page) => self.page(index, page),
                Advance::Retry(error) => {
                    self.shared.metrics.backlog_errors.increment(1);
                    let (client, filter) = (&self.client.id, &join.filter);
                    tracing::warn!(%client, %filter, %error, "stored messages could not be read: trying again");
                }
                Advance::Failed(error) => {
                    self.shared.metrics.backlog_errors.increment(1);
                    let error = error.map_or("the read was cut off".to_owned(), |error| error.to_string());
                    let (client, filter) = (&self.client.id, &join.filter);
                    tracing::warn!(%client, %filter, %error, "stored messages could not be read");
                }
                Advance::Exhausted => self.exhausted(index),
            }
            moved = true;
        }
        moved
    }

    fn page(&mut self, index: usize, page: Vec<Arc<Message>>) {
        self.shared.metrics.backlog_pages.increment(1);
        let mut known: HashSet<MsgId, RandomState> = HashSet::default();
        known.extend(self.seat.inflight.iter().map(|sent| sent.acked_message().id));
        known.extend(self.deliveries.ids());
        let session = Arc::clone(&self.session);
        let mut outbox = session.outbox();
        outbox.known_ids(&mut known);
        if let Some(join) = self.seat.joins.get_mut(index) {
            let ids = join.accept(page, &known);
            outbox.deliver_once(ids.into_iter());
        }
    }

    /// All backlogs of a join are at their end: once more, if live messages were lost meanwhile that a store
    /// may have; else live ones follow.
    fn exhausted(&mut self, index: usize) {
        let Some(join) = self.seat.joins.get_mut(index) else { return };
        let (overflowed, delivered) = {
            let mut outbox = self.session.outbox();
            let lost = outbox.take_overflow(join.number);
            (lost.is_some(), lost.unwrap_or_default())
        };
        self.forget(delivered);
        let Some(join) = self.seat.joins.get_mut(index) else { return };
        if overflowed && join.again() {
            return;
        }
        let Join { number, .. } = self.seat.joins.remove(index);
        let delivered = self.session.outbox().release(number);
        self.forget(delivered);
    }

    /// Live messages that the client got out of a store.
    fn forget(&self, delivered: Vec<Delivery>) {
        for delivery in delivered.iter().filter(|delivery| delivery.recorded) {
            let change = Change::Finished { client: &self.client.id, message: delivery.message.id };
            self.realm.record(change);
        }
    }

    /// A delivery is acknowledged, written at QoS 0 or dropped: its join may go on.
    pub(super) fn feed_finished(&mut self, source: Source) {
        if let Source::Backlog(number) = source
            && let Some(join) = self.seat.joins.iter_mut().find(|join| join.number == number)
        {
            join.finished_one();
        }
    }
}
