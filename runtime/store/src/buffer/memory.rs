//! A buffer space in memory, for tests: it can be full, broken or slow at will.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_event::BoxFuture;

use super::{Amount, BufferSpace, Extent, Removed, SpaceError, Stored};

/// One buffer.
#[derive(Debug, Default)]
struct Queue {
    records: BTreeMap<u64, Bytes>,
    last: u64,
}

/// Buffers that a test may fill, break and look into.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    queues: Mutex<BTreeMap<String, Queue>>,
    /// What appends fail with.
    pub(crate) refuses: Mutex<Option<SpaceError>>,
    /// How long an append takes.
    pub(crate) delay: Mutex<Duration>,
    /// How long whoever appended does not hear that it is done.
    pub(crate) silence: Mutex<Duration>,
    /// How often records were read.
    pub(crate) reads: AtomicUsize,
}

impl Memory {
    pub(crate) fn count(&self) -> usize {
        self.queues.lock().values().map(|queue| queue.records.len()).sum()
    }

    /// Somebody empties all of them.
    pub(crate) fn clear(&self) {
        self.queues.lock().values_mut().for_each(|queue| queue.records.clear());
    }
}

impl BufferSpace for Memory {
    fn extent<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Extent, SpaceError>> {
        Box::pin(async move {
            let queues = self.queues.lock();
            let Some(queue) = queues.get(name) else { return Ok(Extent::default()) };
            Ok(Extent { held: amount(queue.records.values()), last: queue.last })
        })
    }

    fn names(&self) -> BoxFuture<'_, Result<Vec<String>, SpaceError>> {
        Box::pin(async { Ok(self.queues.lock().keys().cloned().collect()) })
    }

    fn append<'a>(&'a self, name: &'a str, records: Vec<Bytes>) -> BoxFuture<'a, Result<u64, SpaceError>> {
        Box::pin(async move {
            let delay = *self.delay.lock();
            tokio::time::sleep(delay).await;
            if let Some(error) = self.refuses.lock().clone() {
                return Err(error);
            }
            let last = {
                let mut queues = self.queues.lock();
                let queue = queues.entry(name.to_owned()).or_default();
                for record in records {
                    queue.last += 1;
                    queue.records.insert(queue.last, record);
                }
                queue.last
            };
            let silence = *self.silence.lock();
            tokio::time::sleep(silence).await;
            Ok(last)
        })
    }

    fn read<'a>(
        &'a self,
        name: &'a str,
        from: u64,
        records: usize,
        _: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, SpaceError>> {
        Box::pin(async move {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let queues = self.queues.lock();
            let Some(queue) = queues.get(name) else { return Ok(Vec::new()) };
            let stored = |(number, bytes): (&u64, &Bytes)| Stored { number: *number, bytes: bytes.clone() };
            Ok(queue.records.range(from..).take(records).map(stored).collect())
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        mut numbers: Vec<u64>,
        _: Option<u64>,
    ) -> BoxFuture<'a, Result<Removed, SpaceError>> {
        Box::pin(async move {
            let mut queues = self.queues.lock();
            let Some(queue) = queues.get_mut(name) else { return Ok(Removed::default()) };
            numbers.sort_unstable();
            let mut removed = Vec::new();
            numbers.retain(|number| {
                let record = queue.records.remove(number);
                let was_there = record.is_some();
                removed.extend(record);
                was_there
            });
            Ok(Removed { numbers, amount: amount(removed.iter()) })
        })
    }
}

fn amount<'a>(records: impl Iterator<Item = &'a Bytes>) -> Amount {
    records.fold(Amount::default(), |sum, record| Amount {
        records: sum.records + 1,
        bytes: sum.bytes + record.len() as u64,
    })
}
