//! A connector's use of its buffer: when operations go there, and how they come out again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_event::now_ms;
use tokio::sync::{Notify, OnceCell, RwLock, RwLockReadGuard, watch};

use super::record;
use super::{Amount, BufferSpace, Extent, Removed, SpaceError, Stored};
use crate::metrics::ConnectorMetrics;
use crate::operation::{Operation, shard_of};

/// The buffer of one connector. Without a space it is off: nothing is taken, everything is written directly.
pub(crate) struct Spill {
    name: String,
    space: Option<Arc<dyn BufferSpace>>,
    metrics: Arc<ConnectorMetrics>,
    level: Mutex<Level>,
    /// Somebody appended.
    filled: Notify,
    /// Somebody removed.
    freed: Notify,
    /// The number up to which everything has left the buffer.
    left: watch::Sender<u64>,
    /// What was left there has been looked at.
    begun: OnceCell<()>,
    /// The same, for those who wait for it; also when the writer has closed.
    known: watch::Sender<bool>,
    /// How many records that it appended are about which client or topic, by hash: a look-up waits only for its own.
    about: Box<[AtomicU32]>,
    /// Whether the store takes what comes out.
    flows: AtomicBool,
    /// Operations that may go in while it does: half of what came out, so that the buffer empties under any load.
    credit: AtomicU64,
    /// Held for reading while a worker writes directly: what it wrote before others went into the buffer must be
    /// decided before those come out.
    direct: RwLock<()>,
}

/// What is in the buffer, as far as this process knows.
///
/// A record can leave before whoever appended it has counted it: the disk has it earlier. So both are counted for themselves,
/// and what is held is the difference.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    /// What has gone in, with what was there at the beginning.
    appended: Amount,
    /// What has come out.
    removed: Amount,
    /// Appends that have begun and not ended.
    appending: usize,
    /// Removals that have begun and not ended.
    removing: usize,
    /// Number of the newest record.
    last: u64,
    /// Number of the newest record of an earlier process, or of the connector that stood in this one's place: what those
    /// are about is not known.
    before: u64,
}

impl Level {
    fn held(self) -> Amount {
        Amount {
            records: self.appended.records.saturating_sub(self.removed.records),
            bytes: self.appended.bytes.saturating_sub(self.removed.bytes),
        }
    }

    fn is_empty(self) -> bool {
        self.held().records == 0 && self.appending == 0
    }

    /// Whether all that the disk has is counted.
    fn is_exact(self) -> bool {
        self.appending == 0 && self.removing == 0
    }
}

/// More than any number of a record: the writer has closed, nobody waits for the buffer.
const CLOSED: u64 = u64::MAX;

/// How often it is looked whether operations may go in.
const LOOK: Duration = Duration::from_millis(20);
/// Operations that may go in at once: more than any batch has.
const MOST_CREDIT: u64 = 1 << 20;

/// How many hashes of clients and topics are told apart.
const SLOTS: usize = 4_096;

/// What a look-up may have to wait for in `operation`. Whether a client is online is looked up by nobody: its own connect
/// would wait for it otherwise.
fn slot(operation: &Operation) -> Option<usize> {
    match operation {
        Operation::ClientOnline { .. } | Operation::ClientOffline { .. } => None,
        _ => Some(operation.shard(SLOTS)),
    }
}

/// A record that is to go, and what it is about, if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Going {
    pub(crate) number: u64,
    slot: Option<usize>,
}

impl Going {
    /// The record `number`, which is `operation`.
    pub(crate) fn of(number: u64, operation: &Operation) -> Self {
        Self { number, slot: slot(operation) }
    }

    /// The record `number`, which cannot be read.
    pub(crate) fn unknown(number: u64) -> Self {
        Self { number, slot: None }
    }
}

/// The right to write directly.
pub(crate) struct Direct<'a>(#[expect(dead_code, reason = "held, not used")] RwLockReadGuard<'a, ()>);

/// Counts an append that has not ended.
struct Appending<'a>(&'a Spill);

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        self.0.level.lock().appending -= 1;
    }
}

/// Counts a removal that has not ended.
struct Removing<'a>(&'a Spill);

impl Drop for Removing<'_> {
    fn drop(&mut self) {
        self.0.level.lock().removing -= 1;
    }
}

impl Spill {
    /// The buffer `name` in `space`. Nothing may be written before it [begins](Self::begin).
    pub(crate) fn new(
        name: &str,
        space: Option<Arc<dyn BufferSpace>>,
        metrics: Arc<ConnectorMetrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            known: watch::Sender::new(space.is_none()),
            space,
            metrics,
            level: Mutex::default(),
            filled: Notify::new(),
            freed: Notify::new(),
            left: watch::Sender::new(0),
            begun: OnceCell::new(),
            about: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
            flows: AtomicBool::new(false),
            credit: AtomicU64::new(0),
            direct: RwLock::new(()),
        })
    }

    /// Looks, the first time, at what an earlier process left there, or the connector that stood in this one's place: that
    /// must have closed, for nobody else may use the buffer from now on.
    ///
    /// # Errors
    /// [`SpaceError`]: what is there cannot be read, so nothing may be written past it.
    pub(crate) async fn begin(&self) -> Result<(), SpaceError> {
        let Some(space) = &self.space else { return Ok(()) };
        let look = || async {
            let Extent { held, last } = space.extent(&self.name).await?;
            let before = if held.records > 0 { last } else { 0 };
            *self.level.lock() = Level { appended: held, last, before, ..Level::default() };
            self.tell();
            self.filled.notify_one();
            self.known.send_replace(true);
            Ok(())
        };
        self.begun.get_or_try_init(look).await?;
        Ok(())
    }

    /// Its writer has closed: nobody needs to wait for anything any more.
    pub(crate) fn close(&self) {
        self.left.send_replace(CLOSED);
        self.known.send_replace(true);
    }

    /// Whether operations may go to disk at all.
    pub(crate) fn is_on(&self) -> bool {
        self.space.is_some()
    }

    /// What the buffer holds.
    pub(crate) fn held(&self) -> Amount {
        self.level.lock().held()
    }

    /// The same, also before it begins.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub(crate) async fn amount(&self) -> Result<Amount, SpaceError> {
        match &self.space {
            Some(space) if !self.begun.initialized() => Ok(space.extent(&self.name).await?.held),
            _ => Ok(self.held()),
        }
    }

    /// The right to write directly, while nothing is in the buffer.
    pub(crate) async fn direct(&self) -> Option<Direct<'_>> {
        if !self.level.lock().is_empty() {
            return None;
        }
        let guard = self.direct.read().await;
        self.level.lock().is_empty().then_some(Direct(guard))
    }

    /// Appends `operations`, which are numbered one after the other, and gives the last number when they are on disk. Not
    /// to be dropped half-way: it would not know what is there.
    ///
    /// # Errors
    /// [`SpaceError`]: none of them was appended.
    pub(crate) async fn append(&self, operations: &[Operation]) -> Result<u64, SpaceError> {
        let Some(space) = &self.space else { return Err(SpaceError::Failed("it is switched off".into())) };
        let now = now_ms();
        let encoded: Result<Vec<Bytes>, _> =
            operations.iter().map(|operation| record::encode(operation, now)).collect();
        let records = encoded.map_err(|error| SpaceError::Failed(error.to_string()))?;
        let added = Amount {
            records: records.len() as u64,
            bytes: records.iter().map(|record| record.len() as u64).sum(),
        };
        self.level.lock().appending += 1;
        let appending = Appending(self);
        let slots = || operations.iter().filter_map(|operation| self.about.get(slot(operation)?));
        slots().for_each(|count| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let last = match space.append(&self.name, records).await {
            Ok(last) => last,
            Err(error) => {
                slots().for_each(|count| {
                    count.fetch_sub(1, Ordering::Relaxed);
                });
                drop(appending);
                // Nothing may be left but for this one, which is not there either.
                self.tell();
                self.left.send_modify(|_| ());
                return Err(error);
            }
        };
        {
            let mut level = self.level.lock();
            level.appended.records += added.records;
            level.appended.bytes += added.bytes;
            level.last = level.last.max(last);
        }
        drop(appending);
        self.metrics.spilled.increment(added.records);
        self.tell();
        self.filled.notify_one();
        Ok(last)
    }

    /// Whether the store takes what comes out of the buffer.
    pub(crate) fn flows(&self, flows: bool) {
        self.flows.store(flows, Ordering::Relaxed);
        if !flows {
            self.freed.notify_waiters();
        }
    }

    /// Waits until `count` operations may go into the buffer: at once while the store takes nothing; else as it empties, or
    /// the publishers would fill it faster than the store can empty it, and it would never be written directly again. False:
    /// it is empty.
    pub(crate) async fn turn(&self, count: u64) -> bool {
        loop {
            if self.level.lock().is_empty() {
                return false;
            }
            let paid = |credit: u64| credit.checked_sub(count);
            if !self.flows.load(Ordering::Relaxed)
                || self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid).is_ok()
            {
                return true;
            }
            // Looked at now and then, too: what frees may come between the look and the wait.
            tokio::time::timeout(LOOK, self.freed.notified()).await.ok();
        }
    }

    /// Waits until something is in the buffer.
    pub(crate) async fn filled(&self) {
        while self.held().records == 0 {
            self.filled.notified().await;
        }
    }

    /// Waits until room may have come.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// The oldest records, once everything that was written directly before them has been decided.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub(crate) async fn oldest(&self, records: usize, bytes: usize) -> Result<Vec<Stored>, SpaceError> {
        drop(self.direct.write().await);
        let Some(space) = &self.space else { return Ok(Vec::new()) };
        let before = *self.level.lock();
        let found = space.read(&self.name, 0, records, bytes).await?;
        if found.is_empty() {
            {
                let mut level = self.level.lock();
                // Somebody else removed them. What went in or out beside the read is counted by whoever did it.
                if before.is_exact() && level.is_exact() && before.last == level.last && !level.is_empty() {
                    level.removed = level.appended;
                    // Whoever appends or removes touches these only while that is counted above.
                    self.about.iter().for_each(|count| count.store(0, Ordering::Relaxed));
                }
            }
            self.tell();
            self.freed.notify_waiters();
        }
        Ok(found)
    }

    /// Records numbered `from` or more, to look at.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub(crate) async fn read(
        &self,
        from: u64,
        records: usize,
        bytes: usize,
    ) -> Result<Vec<Stored>, SpaceError> {
        match &self.space {
            Some(space) => space.read(&self.name, from, records, bytes).await,
            None => Ok(Vec::new()),
        }
    }

    /// Removes records that are decided, or that nobody wants. `through`: the number up to which nothing is left then, as
    /// far as the caller knows. Gives how many records there were.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub(crate) async fn remove(&self, going: &[Going], through: Option<u64>) -> Result<u64, SpaceError> {
        let Some(space) = &self.space else { return Ok(0) };
        let numbers = going.iter().map(|record| record.number).collect();
        let was_known = self.begun.initialized();
        // One that is not subtracted does not count: what is looked at meanwhile may be there or not.
        let removing = was_known.then(|| {
            self.level.lock().removing += 1;
            Removing(self)
        });
        let Removed { numbers, amount: removed } = space.remove(&self.name, numbers, through).await?;
        if !was_known {
            // What is there is looked at later, without these.
            return Ok(removed.records);
        }
        let before = self.level.lock().before;
        // Somebody else may have removed the others, and have counted them.
        let was_there = |record: &&Going| numbers.binary_search(&record.number).is_ok();
        for record in going.iter().filter(|record| record.number > before).filter(was_there) {
            if let Some(count) = record.slot.and_then(|slot| self.about.get(slot)) {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let left_over = {
            let mut level = self.level.lock();
            level.removed.records += removed.records;
            level.removed.bytes += removed.bytes;
            level.held().records
        };
        drop(removing);
        // No more than what is left: the last records would be followed by others for as long as there is credit.
        let more = |credit: u64| Some((credit + removed.records / 2).min(left_over).min(MOST_CREDIT));
        self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok();
        self.tell();
        self.left.send_modify(|left| *left = through.map_or(*left, |through| through.max(*left)));
        self.freed.notify_waiters();
        Ok(removed.records)
    }

    /// Waits until it is known what the buffer holds.
    async fn known(&self) {
        self.known.subscribe().wait_for(|known| *known).await.map(drop).unwrap_or_default();
    }

    /// Waits until everything that is in the buffer now has left it.
    pub(crate) async fn drain(&self) {
        self.known().await;
        let level = *self.level.lock();
        if level.held().records > 0 {
            // An error means that the buffer is gone, and with it what was waited for.
            self.left.subscribe().wait_for(|left| *left >= level.last).await.map(drop).unwrap_or_default();
        }
    }

    /// Waits until nothing about the client or topic `key` is in the buffer, or nothing of what is there now.
    pub(crate) async fn drain_of(&self, key: &str) {
        self.known().await;
        let level = *self.level.lock();
        if level.held().records == 0 {
            return;
        }
        let Level { before, last, .. } = level;
        let count = self.about.get(shard_of(key, SLOTS));
        let is_out = |left: &u64| {
            let is_gone = || count.is_none_or(|count| count.load(Ordering::Relaxed) == 0);
            *left >= last || *left >= before && is_gone()
        };
        self.left.subscribe().wait_for(is_out).await.map(drop).unwrap_or_default();
    }

    /// Shows what is held, and tells those who wait for all of it to leave when nothing is.
    fn tell(&self) {
        let mut level = self.level.lock();
        if level.is_exact() {
            // More has come out than is known to have gone in, by a connector that stood in this one's place and ended in the
            // middle of it: that must not hide what comes.
            level.appended.records = level.appended.records.max(level.removed.records);
            level.appended.bytes = level.appended.bytes.max(level.removed.bytes);
        }
        let held = level.held();
        // Under the lock: an older value must not be the last one shown.
        self.metrics.buffered.set(held.records as f64);
        self.metrics.buffered_bytes.set(held.bytes as f64);
        let gone = level.is_empty().then_some(level.last);
        drop(level);
        if let Some(last) = gone {
            self.left.send_modify(|left| *left = last.max(*left));
        }
    }
}
