//! What is in the buffer, written to the store when that answers again.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::commit::{Batch, Committer, Patience};
use super::shard::{PATIENCE, SILENCE};
use super::{Backoff, WriterParts};
use crate::buffer::{Going, SpaceError, Spill, Stored, record};
use crate::operation::Operation;
use crate::statement::TemplateCache;

/// Records that are read at once, and their bytes: they are in memory beside the budget.
const RECORDS: usize = 4_096;
/// The first time, and the least.
pub(super) const FIRST: usize = 32;
const BYTES: usize = 1 << 20;

/// Empties the buffer of a connector.
pub(super) struct Replay {
    pub(super) committers: Vec<Committer>,
    pub(super) parts: Arc<WriterParts>,
    pub(super) spill: Arc<Spill>,
    pub(super) closing: CancellationToken,
    pub(super) templates: TemplateCache,
    /// Records that are read at once: as many as the store takes in a time much shorter than [`SILENCE`], so that a slow
    /// store is not taken for a silent one.
    pub(super) records: AtomicUsize,
}

/// The operations of one shard, with the numbers of their records.
#[derive(Default)]
struct Lane {
    batch: Batch,
    going: Vec<Going>,
}

impl Replay {
    /// Runs until the writer closes: what is left then is written by the next process.
    pub(super) async fn run(self) -> usize {
        tokio::select! {
            () = super::begin(&self.parts, &self.spill) => {}
            () = self.closing.cancelled() => return 0,
        }
        let mut backoff = Backoff::default();
        loop {
            tokio::select! {
                () = self.spill.filled() => {}
                () = self.closing.cancelled() => return 0,
            }
            match self.step().await {
                Ok(true) => {
                    backoff = Backoff::default();
                    continue;
                }
                Ok(false) => {}
                Err(error) => {
                    let connector = &self.parts.connector;
                    tracing::warn!(%connector, %error, "what is in the buffer cannot be taken out of it now");
                }
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = self.parts.knock.notified() => {}
                () = self.closing.cancelled() => {}
            }
            if self.closing.is_cancelled() {
                return 0;
            }
        }
    }

    /// Writes the oldest records and removes those that are decided. False: none of them is, so it is to be tried later,
    /// with the records that are the oldest then.
    async fn step(&self) -> Result<bool, SpaceError> {
        let at_once = self.records.load(Ordering::Relaxed);
        let records = self.spill.oldest(at_once, BYTES).await?;
        let began = tokio::time::Instant::now();
        let Some(newest) = records.last().map(|record| record.number) else {
            // Whoever appends or removes right now has not counted it yet.
            return Ok(self.spill.held().records == 0);
        };
        let total = records.len();
        let (lanes, unread) = self.lanes(records);
        // That a store "took" a lane of nothing would say that it is up.
        let filled = lanes.into_iter().zip(&self.committers).filter(|(lane, _)| !lane.going.is_empty());
        let writing = filled.map(|(mut lane, committer)| async move {
            let Batch { operations, parts, .. } = &mut lane.batch;
            let undecided = committer.commit(operations, parts, Patience::Only(PATIENCE)).await.undecided();
            let going = lane.going.into_iter().enumerate();
            going.filter(|(index, _)| !undecided.has(*index)).map(|(_, record)| record).collect::<Vec<_>>()
        });
        let mut writing = pin!(join_all(writing));
        let written = loop {
            tokio::select! {
                written = &mut writing => break written,
                // It takes nothing now: what comes need not wait for it.
                () = tokio::time::sleep(SILENCE) => self.spill.flows(false),
            }
        };
        let took = began.elapsed();
        if took > SILENCE / 4 {
            self.records.store((at_once / 2).max(FIRST), Ordering::Relaxed);
        } else if took < SILENCE / 16 {
            self.records.store((at_once * 2).min(RECORDS), Ordering::Relaxed);
        }
        let mut decided: Vec<Going> = written.into_iter().flatten().collect();
        for Stored { number, bytes } in unread {
            if self.keep_unread(number, &bytes).await {
                decided.push(Going::unknown(number));
            }
        }
        let count = decided.len();
        if count == 0 {
            self.spill.flows(false);
            return Ok(false);
        }
        let through = (count == total).then_some(newest);
        self.remove(&decided, through).await?;
        self.parts.metrics.replayed.increment(count as u64);
        self.spill.flows(true);
        Ok(true)
    }

    /// The records by shard, and those that are no operations.
    fn lanes(&self, records: Vec<Stored>) -> (Vec<Lane>, Vec<Stored>) {
        let shards = self.committers.len();
        let mut lanes: Vec<Lane> = (0..shards).map(|_| Lane::default()).collect();
        let mut unread = Vec::new();
        for stored in records {
            match record::decode(&stored.bytes, &self.templates) {
                Ok(operation) => {
                    if let Some(lane) = lanes.get_mut(operation.shard(shards)) {
                        lane.push(stored.number, operation);
                    }
                }
                Err(error) => {
                    let connector = &self.parts.connector;
                    tracing::error!(%connector, number = stored.number, %error, "a record of the buffer cannot be read");
                    unread.push(stored);
                }
            }
        }
        (lanes, unread)
    }

    /// Makes a record that is no operation a dead letter.
    async fn keep_unread(&self, number: u64, bytes: &[u8]) -> bool {
        let WriterParts { connector, dead_letters, metrics, .. } = &*self.parts;
        let why = match record::decode(bytes, &self.templates) {
            Ok(_) => return false,
            Err(error) => format!("record {number} of the buffer: {error}"),
        };
        let kept = dead_letters.keep_record(connector, bytes, &why).await;
        if kept {
            metrics.refused.increment(1);
        }
        kept
    }

    /// Removes what is decided: tried again until it succeeds, as it would be written again otherwise.
    async fn remove(&self, going: &[Going], through: Option<u64>) -> Result<(), SpaceError> {
        let mut backoff = Backoff::default();
        loop {
            match self.spill.remove(going, through).await {
                Ok(_) => return Ok(()),
                Err(error) if self.closing.is_cancelled() => return Err(error),
                Err(error) => {
                    let connector = &self.parts.connector;
                    tracing::warn!(%connector, %error, "what was stored cannot be taken out of the buffer yet");
                    tokio::select! {
                        () = backoff.wait() => {}
                        () = self.closing.cancelled() => {}
                    }
                }
            }
        }
    }
}

impl Lane {
    fn push(&mut self, number: u64, operation: Operation) {
        self.going.push(Going::of(number, &operation));
        self.batch.operations.push(operation);
        self.batch.parts.push(None);
    }
}
