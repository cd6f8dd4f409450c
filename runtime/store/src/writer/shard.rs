//! One shard: a queue and the worker that empties it, one batch at a time.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tidegate_event::{AckError, AckPart, ReasonCode};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Backoff, Charge, Pending, Share, WriterParts};
use crate::backend::{BackendError, WriteError};
use crate::operation::Operation;

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
    /// How many operations were pushed, ever.
    pushed: u64,
    closed: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: Mutex::default(), filled: Notify::new(), decided: watch::Sender::new(0) }
    }
}

impl Queue {
    /// Appends. A closed queue gives what was paid back; the part then fails as abandoned.
    pub(super) fn push(&self, pending: Pending) -> Result<(), Charge> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(pending.charge);
        }
        waiting.pending.push_back(pending);
        waiting.pushed += 1;
        let was_empty = waiting.pending.len() == 1;
        drop(waiting);
        if was_empty {
            self.filled.notify_one();
        }
        Ok(())
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

    /// Moves the next batch out.
    fn take(&self, batch: &mut Batch, operations: usize, bytes: usize) {
        let mut waiting = self.waiting.lock();
        let mut size = 0;
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

/// Operations written together, and who waits for them.
#[derive(Default)]
struct Batch {
    operations: Vec<Operation>,
    parts: Vec<Option<AckPart>>,
    charge: Charge,
}

/// Empties one queue.
pub(super) struct Worker {
    pub(super) parts: Arc<WriterParts>,
    pub(super) queue: Arc<Queue>,
    pub(super) share: Arc<Share>,
    pub(super) closing: CancellationToken,
    pub(super) abort: CancellationToken,
}

/// How writing ended.
enum Outcome {
    Stored,
    Refused(WriteError),
    /// The writer was told to give up.
    Abandoned,
}

impl Worker {
    /// Runs until the writer closes. Gives the number of operations that it gave up.
    pub(super) async fn run(self) -> usize {
        let metrics = &self.parts.metrics;
        let down = AtomicBool::new(false);
        let mut batch = Batch::default();
        loop {
            self.queue.take(&mut batch, self.parts.limits.operations, self.parts.limits.bytes);
            if batch.operations.is_empty() {
                if self.closing.is_cancelled() {
                    return 0;
                }
                tokio::select! {
                    () = self.queue.filled.notified() => {}
                    () = self.closing.cancelled() => {}
                }
                continue;
            }
            let count = batch.operations.len();
            metrics.queued.decrement(count as f64);
            metrics.inflight.set(count as f64);
            metrics.batch_size.record(count as f64);
            let given_up = self.commit(&mut batch, &down).await;
            metrics.inflight.set(0.0);
            batch.operations.clear();
            batch.parts.clear(); // parts that are left fail as abandoned
            self.share.release(std::mem::take(&mut batch.charge));
            self.queue.decided.send_modify(|decided| *decided += count as u64);
            if given_up > 0 {
                return given_up;
            }
        }
    }

    /// Writes the batch; when the database refuses it, divides it until the refused operations stand alone. Gives
    /// the number of operations given up because the writer closes.
    async fn commit(&self, batch: &mut Batch, down: &AtomicBool) -> usize {
        let metrics = &self.parts.metrics;
        let mut ranges = vec![(0, batch.operations.len())];
        while let Some((from, to)) = ranges.pop() {
            let operations = batch.operations.get(from..to).unwrap_or_default();
            match self.write(operations, down).await {
                Outcome::Stored => {
                    metrics.stored.increment(operations.len() as u64);
                    for part in
                        batch.parts.get_mut(from..to).unwrap_or_default().iter_mut().filter_map(Option::take)
                    {
                        part.done();
                    }
                }
                Outcome::Refused(WriteError { refused, .. }) if !refused.is_empty() => {
                    let failed = refused.len().min(operations.len());
                    metrics.stored.increment((operations.len() - failed) as u64);
                    for (index, part) in (from..to).zip(batch.parts.get_mut(from..to).unwrap_or_default()) {
                        match refused.binary_search_by_key(&(index - from), |(at, _)| *at) {
                            Err(_) => part.take().into_iter().for_each(AckPart::done),
                            Ok(found) => {
                                if let Some(((_, error), operation)) =
                                    refused.get(found).zip(batch.operations.get(index))
                                {
                                    self.refuse(operation, part.take(), error).await;
                                }
                            }
                        }
                    }
                }
                Outcome::Refused(WriteError { error, operation: at, .. }) => {
                    if let [operation] = operations {
                        let part = batch.parts.get_mut(from).and_then(Option::take);
                        self.refuse(operation, part, &error).await;
                        continue;
                    }
                    // The last pushed is the next written: order is kept.
                    match at {
                        Some(at) => ranges.extend([
                            (from + at + 1, to),
                            (from + at, from + at + 1),
                            (from, from + at),
                        ]),
                        None => {
                            let middle = from + (to - from) / 2;
                            ranges.extend([(middle, to), (from, middle)]);
                        }
                    }
                    ranges.retain(|(from, to)| from < to);
                }
                Outcome::Abandoned => {
                    let left = batch.parts.iter().flatten().count();
                    metrics.abandoned.increment(left as u64);
                    return left;
                }
            }
        }
        0
    }

    /// Writes until the database has decided: for ever while it is down, unless the writer is told to give up.
    async fn write(&self, operations: &[Operation], down: &AtomicBool) -> Outcome {
        let WriterParts { connector, backend, metrics, .. } = &*self.parts;
        let mut backoff = Backoff::default();
        loop {
            // A panic in a driver is an answer too: the operation that causes it must not stop the others.
            let attempt = AssertUnwindSafe(backend.write(operations)).catch_unwind();
            let result = tokio::select! {
                result = attempt => result.unwrap_or_else(|_| {
                    Err(BackendError::Refused { code: "panic".into(), message: "the driver panicked".into() }.into())
                }),
                () = self.abort.cancelled() => return Outcome::Abandoned,
            };
            match result {
                Err(WriteError { error, .. }) if error.is_retryable() => {
                    metrics.write_retries.increment(1);
                    if !down.swap(true, Ordering::Relaxed) {
                        metrics.up.set(0.0);
                        tracing::warn!(%connector, %error, "store is down: operations wait and are tried again");
                    }
                    tokio::select! {
                        () = backoff.wait() => {}
                        () = self.abort.cancelled() => return Outcome::Abandoned,
                    }
                }
                decided => {
                    if down.swap(false, Ordering::Relaxed) {
                        metrics.up.set(1.0);
                        tracing::info!(%connector, "store is up again");
                    }
                    return decided.map_or_else(Outcome::Refused, |()| Outcome::Stored);
                }
            }
        }
    }

    async fn refuse(&self, operation: &Operation, part: Option<AckPart>, error: &BackendError) {
        let WriterParts { connector, metrics, dead_letters, .. } = &*self.parts;
        let reason = error.to_string();
        tracing::warn!(%connector, operation = operation.name(), error = %reason, "operation refused");
        if !dead_letters.keep(connector, operation, &reason).await {
            // Neither stored nor kept: without an ack, which dropping the part says, the publisher sends it again.
            metrics.abandoned.increment(1);
            return;
        }
        metrics.refused.increment(1);
        if let Some(part) = part {
            part.fail(AckError::Refused {
                connector: connector.clone(),
                reason,
                code: ReasonCode::IMPLEMENTATION_SPECIFIC,
            });
        }
    }
}
