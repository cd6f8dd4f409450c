//! The writer in front of every connector: queues operations, writes them in natural batches, tries again while
//! the database is down, and singles out what it refuses.
//!
//! *Natural batching*: a batch is whatever has gathered while the previous one was written. There is no timer: an
//! idle database gets a single operation at once, a busy one gets large batches.
//!
//! *Order*: operations of one client or topic are in one shard; a shard has one batch in flight, so an earlier
//! operation is durable before a later one starts.
//!
//! *A store that is down*: after a second of asking, operations go to the connector's buffer on disk ([`crate::buffer`]),
//! which counts as stored, and from there to the store when it is back (`replay`). Without room there they wait in
//! memory, and when the memory budget is used up, publishers wait.

/// The methods of a scripted back end that only writes.
#[cfg(test)]
macro_rules! asked_nothing {
    () => {
        fn subscriptions<'a>(
            &'a self,
            _: &'a str,
        ) -> tidegate_event::BoxFuture<'a, Result<Vec<(String, i64)>, crate::backend::BackendError>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn unread<'a>(
            &'a self,
            _: &'a crate::backend::Unread,
        ) -> tidegate_event::BoxFuture<'a, Result<crate::backend::Page, crate::backend::BackendError>> {
            Box::pin(async { Ok(crate::backend::Page::default()) })
        }

        fn retained<'a>(
            &'a self,
            _: &'a tidegate_event::TopicFilter,
            _: Option<&'a str>,
            _: u32,
        ) -> tidegate_event::BoxFuture<'a, Result<crate::backend::RetainedPage, crate::backend::BackendError>>
        {
            Box::pin(async { Ok(crate::backend::RetainedPage::default()) })
        }

        fn query<'a>(
            &'a self,
            _: &'a str,
            _: Vec<tidegate_event::SqlValue>,
        ) -> tidegate_event::BoxFuture<'a, Result<tidegate_event::Rows, crate::backend::BackendError>> {
            Box::pin(async { Ok(tidegate_event::Rows::default()) })
        }

        fn exec<'a>(
            &'a self,
            _: &'a str,
            _: Vec<Vec<tidegate_event::SqlValue>>,
        ) -> tidegate_event::BoxFuture<'a, Result<u64, crate::backend::BackendError>> {
            Box::pin(async { Ok(0) })
        }

        fn prepare<'a>(
            &'a self,
            _: &'a crate::statement::Template,
        ) -> tidegate_event::BoxFuture<'a, Result<(), crate::backend::BackendError>> {
            Box::pin(async { Ok(()) })
        }

        fn check(&self) -> tidegate_event::BoxFuture<'_, Result<(), crate::backend::BackendError>> {
            Box::pin(async { Ok(()) })
        }

        fn close(&self) -> tidegate_event::BoxFuture<'_, ()> {
            Box::pin(async {})
        }
    };
}

mod backoff;
mod budget;
mod commit;
mod order;
mod replay;
mod shard;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytestring::ByteString;
use tidegate_event::{AckPart, IdSource, MsgId, TopicFilter};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use backoff::Backoff;
pub(crate) use budget::Budget;
use budget::{Charge, Share};
use commit::{Committer, Unkept};
use order::Order;
use replay::Replay;
use shard::{Queue, Worker};

use crate::backend::Backend;
use crate::buffer::Spill;
use crate::dead_letter::DeadLetters;
use crate::metrics::ConnectorMetrics;
use crate::operation::{Operation, shard_of};
use crate::statement::TemplateCache;
use crate::turn::Turn;

/// How long the workers may take to leave what they have when they are told to give up.
const LAST: Duration = Duration::from_secs(3);

/// Upper bounds of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    pub(crate) operations: usize,
    pub(crate) bytes: usize,
}

/// An operation on its way.
struct Pending {
    operation: Operation,
    part: AckPart,
    bytes: usize,
    charge: Charge,
}

/// The handle of a connector's writer.
pub(crate) struct Writer {
    shards: Vec<Arc<Queue>>,
    share: Arc<Share>,
    spill: Arc<Spill>,
    knock: Arc<Notify>,
    metrics: Arc<ConnectorMetrics>,
    /// Ends the workers once their queues are empty.
    closing: CancellationToken,
    /// Ends the workers at once.
    abort: CancellationToken,
    /// Each ends with the number of operations that it gave up.
    workers: tokio::sync::Mutex<JoinSet<usize>>,
}

/// What every worker of a connector shares.
pub(crate) struct WriterParts {
    pub(crate) connector: String,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) metrics: Arc<ConnectorMetrics>,
    pub(crate) dead_letters: Arc<DeadLetters>,
    pub(crate) limits: BatchLimits,
    /// Where the ids of messages come from.
    pub(crate) ids: Arc<IdSource>,
    /// When it may write: not before what stood in its place has written what it had.
    pub(crate) turn: Turn,
    /// Ends the pause before the database is asked again.
    pub(crate) knock: Arc<Notify>,
}

/// Waits until it is the connector's turn, and has its buffer look at what it holds then.
async fn begin(parts: &WriterParts, spill: &Spill) {
    parts.turn.comes().await;
    let mut backoff = Backoff::default();
    while let Err(error) = spill.begin().await {
        tracing::warn!(connector = %parts.connector, %error, "nothing is written before the buffer can be read");
        backoff.wait().await;
    }
}

impl Writer {
    /// Starts a worker for every shard of the back end, and one that empties the buffer. Inside a tokio runtime.
    pub(crate) fn start(parts: WriterParts, budget: &Budget, spill: Arc<Spill>) -> Self {
        let parts = Arc::new(parts);
        let share = Arc::new(budget.share());
        let (closing, abort) = (CancellationToken::new(), CancellationToken::new());
        let mut workers = JoinSet::new();
        let shards = parts.backend.shards().max(1);
        let committer = |abort: &CancellationToken, unkept| Committer {
            parts: Arc::clone(&parts),
            closing: closing.clone(),
            abort: abort.clone(),
            unkept,
        };
        if spill.is_on() {
            let replay = Replay {
                // What is left in the buffer is safe: closing need not wait for it.
                committers: (0..shards).map(|_| committer(&closing, Unkept::TryAgain)).collect(),
                parts: Arc::clone(&parts),
                spill: Arc::clone(&spill),
                closing: closing.clone(),
                templates: TemplateCache::default(),
                records: AtomicUsize::new(replay::FIRST),
            };
            workers.spawn(replay.run());
        }
        let start = |_| {
            let order = parts.backend.positions_are_ids().then(|| Order::new(Arc::clone(&parts.ids)));
            let queue = Arc::new(Queue::new(order));
            let worker = Worker {
                committer: committer(&abort, Unkept::Abandon),
                queue: Arc::clone(&queue),
                share: Arc::clone(&share),
                spill: Arc::clone(&spill),
            };
            workers.spawn(worker.run());
            queue
        };
        let shards = (0..shards).map(start).collect();
        let (metrics, knock) = (Arc::clone(&parts.metrics), Arc::clone(&parts.knock));
        Self {
            shards,
            share,
            spill,
            knock,
            metrics,
            closing,
            abort,
            workers: tokio::sync::Mutex::new(workers),
        }
    }

    /// Queues `operation`; `part` is completed when it is durable or refused. Waits while the memory budget is
    /// used up. After [`close`](Self::close) the part fails as abandoned.
    pub(crate) async fn enqueue(&self, operation: Operation, part: AckPart) {
        self.queue(operation, part, false).await;
    }

    /// The same, behind the messages of its topic that are newer: then it stores its message under a new id, and gives that.
    pub(crate) async fn enqueue_in_order(&self, operation: Operation, part: AckPart) -> Option<MsgId> {
        self.queue(operation, part, true).await
    }

    async fn queue(&self, operation: Operation, part: AckPart, in_order: bool) -> Option<MsgId> {
        let bytes = operation.size();
        let Some(charge) = self.share.take(bytes).await else {
            self.metrics.abandoned.increment(1);
            return None; // dropping the part says so
        };
        let queue = self.shards.get(operation.shard(self.shards.len()))?;
        self.metrics.queued.increment(1.0);
        match queue.push(Pending { operation, part, bytes, charge }, in_order) {
            Ok(id) => id,
            Err(charge) => {
                self.metrics.queued.decrement(1.0);
                self.metrics.abandoned.increment(1);
                self.share.release(charge);
                None
            }
        }
    }

    /// Waits until everything queued so far for this client has been decided.
    pub(crate) async fn drain_client(&self, client: &ByteString) {
        if let Some(queue) = self.shards.get(shard_of(client, self.shards.len())) {
            queue.drain().await;
        }
        self.spill.drain_of(client).await;
    }

    /// Asks a database that is down now, not after the pause.
    pub(crate) fn knock(&self) {
        self.knock.notify_waiters();
    }

    /// Its buffer.
    pub(crate) fn spill(&self) -> &Arc<Spill> {
        &self.spill
    }

    /// Waits until everything queued so far for topics that `filter` matches has been decided.
    pub(crate) async fn drain_filter(&self, filter: &TopicFilter) {
        if filter.is_wildcard() {
            for queue in &self.shards {
                queue.drain().await;
            }
            self.spill.drain().await;
        } else if let Some(queue) = self.shards.get(shard_of(filter.as_str(), self.shards.len())) {
            queue.drain().await;
            self.spill.drain_of(filter.as_str()).await;
        }
    }

    /// Takes nothing more, writes what is queued or puts it into the buffer, and gives up at the deadline. Gives the
    /// number of operations that were abandoned.
    pub(crate) async fn close(&self, deadline: Duration) -> usize {
        self.share.close();
        self.shards.iter().for_each(|queue| queue.close());
        self.closing.cancel();
        let mut workers = self.workers.lock().await;
        let mut given_up = 0;
        let finished = async {
            while let Some(worker) = workers.join_next().await {
                given_up += worker.unwrap_or(0);
            }
        };
        if tokio::time::timeout(deadline, finished).await.is_err() {
            self.abort.cancel();
            let last = async {
                while let Some(worker) = workers.join_next().await {
                    given_up += worker.unwrap_or(0);
                }
            };
            // A disk that does not answer must not keep the process.
            if tokio::time::timeout(LAST, last).await.is_err() {
                workers.abort_all();
            }
        }
        let left: usize = self.shards.iter().map(|queue| queue.clear()).sum();
        self.metrics.abandoned.increment(left as u64);
        // Not to 0: the connector in its place counts on.
        self.metrics.queued.decrement(left as f64);
        self.spill.close();
        given_up + left
    }
}

#[cfg(test)]
mod tests;
