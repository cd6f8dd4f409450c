//! One shard: a queue and the worker that empties it, one batch at a time.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_event::{AckPart, MsgId};
use tokio::sync::{Notify, watch};

use super::commit::{Batch, Committed, Committer, Patience};
use super::order::Order;
use super::{Backoff, Charge, Pending, Share, WriterParts};
use crate::buffer::{Going, SpaceError, Spill};

/// Operations that wait. Bounded by the memory budget: whoever pushes has paid.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
    /// How many operations have been decided, ever.
    decided: watch::Sender<u64>,
}

#[derive(Default)]
struct Waiting {
    pending: VecDeque<Pending>,
    /// The order of messages, where ids are positions.
    order: Option<Order>,
    /// How many operations were pushed, ever.
    pushed: u64,
    closed: bool,
}

impl Queue {
    pub(super) fn new(order: Option<Order>) -> Self {
        let waiting = Waiting { order, ..Waiting::default() };
        Self { waiting: Mutex::new(waiting), filled: Notify::new(), decided: watch::Sender::new(0) }
    }

    /// Appends; `in_order`: under a new id, which it gives, where that is needed. A closed queue gives what was paid back; the
    /// part then fails as abandoned.
    pub(super) fn push(&self, mut pending: Pending, in_order: bool) -> Result<Option<MsgId>, Charge> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(pending.charge);
        }
        let order = waiting.order.as_mut().filter(|_| in_order);
        let renewed = order.and_then(|order| order.keep(&mut pending.operation));
        waiting.pending.push_back(pending);
        waiting.pushed += 1;
        let was_empty = waiting.pending.len() == 1;
        drop(waiting);
        if was_empty {
            self.filled.notify_one();
        }
        Ok(renewed)
    }

    /// Waits until everything pushed so far has been decided.
    pub(super) async fn drain(&self) {
        let target = self.waiting.lock().pushed;
        // An error means that the queue is gone, and with it what was waited for.
        self.decided.subscribe().wait_for(|decided| *decided >= target).await.map(drop).unwrap_or_default();
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
    }

    /// Drops what is left; their parts fail as abandoned.
    pub(super) fn clear(&self) -> usize {
        let mut waiting = self.waiting.lock();
        let left = std::mem::take(&mut waiting.pending);
        let pushed = waiting.pushed;
        drop(waiting);
        self.decided.send_replace(pushed);
        left.len()
    }

    /// Whether nothing waits.
    fn is_empty(&self) -> bool {
        self.waiting.lock().pending.is_empty()
    }

    /// Moves the next batch out.
    fn take(&self, batch: &mut Batch, operations: usize, bytes: usize) {
        let mut waiting = self.waiting.lock();
        let mut size = batch.charge.bytes();
        while batch.operations.len() < operations
            && let Some(next) = waiting.pending.front()
            && (size == 0 || size + next.bytes <= bytes)
            && let Some(next) = waiting.pending.pop_front()
        {
            size += next.bytes;
            batch.operations.push(next.operation);
            batch.parts.push(Some(next.part));
            batch.charge += next.charge;
        }
    }
}

/// How long a database that is down is asked again before operations go to the buffer: a short pause is no reason.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// A database that has not answered for so long holds only the batch it was given; what comes after goes to the buffer.
pub(super) const SILENCE: Duration = Duration::from_secs(2);

/// Empties one queue.
pub(super) struct Worker {
    pub(super) committer: Committer,
    pub(super) queue: Arc<Queue>,
    pub(super) share: Arc<Share>,
    pub(super) spill: Arc<Spill>,
}

impl Worker {
    /// Runs until the writer closes. Gives the number of operations that it gave up.
    pub(super) async fn run(self) -> usize {
        let Committer { parts, closing, abort, .. } = &self.committer;
        let closed_idle = async {
            closing.cancelled().await;
            if !self.queue.is_empty() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = super::begin(parts, &self.spill) => {}
            () = closed_idle => return 0,
            () = abort.cancelled() => return 0, // what is queued is counted by who clears the queue
        }
        let metrics = &parts.metrics;
        // What was taken from the queue and found no place on disk.
        let mut held = Batch::default();
        loop {
            let mut batch = std::mem::take(&mut held);
            self.take(&mut batch);
            if batch.operations.is_empty() {
                if closing.is_cancelled() {
                    return 0;
                }
                tokio::select! {
                    () = self.queue.filled.notified() => {}
                    () = closing.cancelled() => {}
                }
                continue;
            }
            let count = batch.operations.len() as u64;
            metrics.inflight.set(count as f64);
            let behind = self.settle(&mut batch, &mut held).await;
            metrics.inflight.set(0.0);
            let given_up = batch.awaited();
            metrics.abandoned.increment(batch.operations.len() as u64);
            batch.parts.clear(); // parts that are left fail as abandoned
            self.share.release(std::mem::take(&mut batch.charge));
            let decided = count + behind;
            self.queue.decided.send_modify(|all| *all += decided);
            if given_up > 0 || self.committer.abort.is_cancelled() {
                self.share.release(held.charge);
                return given_up + held.awaited();
            }
        }
    }

    /// Fills the batch from the queue.
    fn take(&self, batch: &mut Batch) {
        let WriterParts { limits, metrics, .. } = &*self.committer.parts;
        let before = batch.operations.len();
        self.queue.take(batch, limits.operations, limits.bytes);
        let taken = batch.operations.len() - before;
        if taken > 0 {
            metrics.queued.decrement(taken as f64);
            metrics.batch_size.record(taken as f64);
        }
    }

    /// Has the batch decided or on disk; only a writer that is told to give up leaves anything in it. Gives how many
    /// operations of the queue went to the buffer meanwhile, behind it.
    async fn settle(&self, batch: &mut Batch, held: &mut Batch) -> u64 {
        let Committer { parts, abort, .. } = &self.committer;
        let mut backoff = Backoff::default();
        let mut behind = 0;
        loop {
            let direct = self.spill.direct().await;
            if direct.is_some() {
                let (committed, more) = self.write(batch, held).await;
                behind += more;
                let may_spill = self.spill.is_on();
                let abandoned = matches!(committed, Committed::Abandoned(_));
                batch.keep(&committed.undecided());
                if batch.operations.is_empty() || abandoned && !may_spill {
                    return behind;
                }
            }
            let count = batch.operations.len() as u64;
            if direct.is_none() {
                let may = tokio::select! {
                    may = self.spill.turn(count) => may,
                    () = self.committer.closing.cancelled() => true,
                };
                if !may {
                    continue;
                }
            } else {
                self.spill.flows(false);
            }
            // The right to write directly is held until this is on disk: what others append comes out after it.
            let Err(error) = self.append(batch).await else { return behind };
            drop(direct);
            parts.metrics.unspilled.increment(1);
            if abort.is_cancelled() {
                return behind;
            }
            tracing::debug!(connector = %parts.connector, %error, "operations wait in memory");
            tokio::select! {
                () = backoff.wait() => {}
                () = self.spill.freed() => {}
                () = abort.cancelled() => {}
            }
        }
    }

    /// Writes the batch directly. Should the database be silent for long, the batch goes to the buffer beside that, and
    /// what comes behind it, too: whoever waits for those need not wait for the silence to end.
    async fn write(&self, batch: &mut Batch, held: &mut Batch) -> (Committed, u64) {
        let Batch { operations, parts, .. } = batch;
        if !self.spill.is_on() {
            return (self.committer.commit(operations, parts, Patience::Endless).await, 0);
        }
        let (mut behind, mut beside) = (0, None);
        let committed = {
            let mut commit = pin!(self.committer.commit(operations, parts, Patience::Only(PATIENCE)));
            let mut answered = None;
            while answered.is_none() {
                tokio::select! {
                    committed = &mut commit => {
                        answered = Some(committed);
                        break;
                    }
                    () = self.silence(beside.is_some() && held.operations.is_empty()) => {}
                }
                let aside = async {
                    if beside.is_none() {
                        beside = self.spill.append(operations).await.ok();
                        self.spill.flows(false);
                    }
                    if beside.is_some() { self.append_waiting(held).await } else { 0 }
                };
                // An append comes to its end; the database is listened to meanwhile.
                let mut aside = pin!(aside);
                behind += loop {
                    tokio::select! {
                        moved = &mut aside => break moved,
                        committed = &mut commit, if answered.is_none() => answered = Some(committed),
                    }
                };
            }
            answered.unwrap_or(Committed::Decided)
        };
        let Some(newest) = beside else { return (committed, behind) };
        // What is decided must not be written again, whatever has become of the rest.
        let undecided = committed.undecided();
        let oldest = newest.saturating_sub(operations.len() as u64 - 1);
        let decided = (oldest..).zip(operations.iter()).enumerate();
        let decided = decided.filter(|(index, _)| !undecided.has(*index));
        let going: Vec<Going> =
            decided.map(|(_, (number, operation))| Going::of(number, operation)).collect();
        if !going.is_empty()
            && let Err(error) = self.spill.remove(&going, None).await
        {
            let connector = &self.committer.parts.connector;
            tracing::warn!(%connector, %error, "operations that were stored will be stored once more");
        }
        // On disk is as good as stored.
        parts.iter_mut().filter_map(Option::take).for_each(AckPart::done);
        (Committed::Decided, behind)
    }

    /// Waits until the database has been silent for long; or, `or_filled`, something waits in the queue.
    async fn silence(&self, or_filled: bool) {
        let filled = async {
            if !or_filled {
                return std::future::pending().await;
            }
            while self.queue.is_empty() {
                self.queue.filled.notified().await;
            }
        };
        tokio::select! {
            () = filled => {}
            () = tokio::time::sleep(SILENCE) => {}
        }
    }

    /// Moves one batch of what waits in the queue to the buffer; what finds no place there is in `held`. Gives how many
    /// operations.
    async fn append_waiting(&self, held: &mut Batch) -> u64 {
        self.take(held);
        let count = held.operations.len() as u64;
        if count == 0 || self.append(held).await.is_err() {
            return 0;
        }
        self.share.release(std::mem::take(&mut held.charge));
        count
    }

    /// Puts the batch into the buffer: it counts as stored.
    async fn append(&self, batch: &mut Batch) -> Result<(), SpaceError> {
        self.spill.append(&batch.operations).await?;
        batch.done();
        Ok(())
    }
}
