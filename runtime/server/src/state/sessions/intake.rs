//! Where changes of durable sessions wait for the thread that writes: memory and no disk, so that whoever records one goes
//! on at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use metrics::counter;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use tidegate_event::{AckJoin, AckPart, Change, Message, SessionStoreError, Tenant};

use super::index::Index;
use super::unwritten::{KEPT_CAPACITY, Unwritten};

/// Bytes of changes that wait, or are being written, from which on publishers wait for them.
const BEHIND_BYTES: usize = 16 << 20;
/// Bytes of changes that may wait for a disk that hangs: publishers that are not told so go on for a while.
const MOST_BYTES: usize = 64 << 20;
/// How long those who begin changes that belong together are held up by one who has begun before and is not done,
const HOLDS_UP: Duration = Duration::from_millis(1);
/// how long they go on then,
const LETS_GO_ON: Duration = Duration::from_millis(4);
/// and for how long that is repeated: what was recorded is to be written at last.
const PATIENT: Duration = Duration::from_secs(1);
/// What a change takes besides its content.
const CHANGE_BYTES: usize = size_of::<(Option<Tenant>, Change)>();

/// What was taken out at once.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Changes in the order in which they were recorded; with the tenant where it says something.
    pub(super) changes: Vec<(Option<Tenant>, Change)>,
    /// Who waits for all of it.
    pub(super) waiting: Vec<AckPart>,
    /// About how much memory it takes.
    pub(super) bytes: usize,
    /// Where the last message lies that was counted: a message for many sessions is in memory once.
    counted: usize,
}

impl Taken {
    /// An empty one with the room that `old` has, if that is not too much.
    pub(super) fn with_room_of(old: Self) -> Self {
        let Self { mut changes, mut waiting, .. } = old;
        changes.clear();
        changes.shrink_to(KEPT_CAPACITY);
        waiting.clear();
        waiting.shrink_to(KEPT_CAPACITY);
        Self { changes, waiting, ..Self::default() }
    }

    /// Adds a change. Gives the bytes that it takes.
    fn push(&mut self, tenant: Option<Tenant>, change: Change) -> usize {
        let mut bytes = CHANGE_BYTES + text_bytes(&change);
        if let Some(message) = message(&change) {
            let address = Arc::as_ptr(message).addr();
            if address != self.counted {
                self.counted = address;
                bytes += message.size();
            }
        }
        self.changes.push((tenant, change));
        self.bytes += bytes;
        bytes
    }
}

/// The message in `change`.
fn message(change: &Change) -> Option<&Arc<Message>> {
    match change {
        Change::Opened { will, .. } => will.as_ref().map(|will| &will.message),
        Change::Queued { delivery, .. } => Some(&delivery.message),
        Change::Sent { sending, .. } => sending.replacement.as_ref(),
        Change::Retained { message } => Some(message),
        _ => None,
    }
}

/// Bytes of the texts in `change`.
fn text_bytes(change: &Change) -> usize {
    match change {
        Change::Opened { client, .. } => client.len(),
        Change::Subscribed { filter, .. } | Change::Unsubscribed { filter, .. } => filter.len(),
        Change::RetainCleared { topic } => topic.as_str().len(),
        _ => 0,
    }
}

/// Whether changes can be written.
#[derive(Debug, Default)]
enum Health {
    #[default]
    Good,
    /// Not now, and why.
    Failing(String),
    /// Too much could not be written: what was recorded since is not kept.
    Lost(String),
}

/// Changes that wait, and what both sides must know of each other.
#[derive(Debug, Default)]
pub(in crate::state) struct Intake {
    waiting: Mutex<Taken>,
    /// Held by who records changes that belong together; nothing is taken out meanwhile.
    whole: RwLock<()>,
    /// The thread has been told that something waits.
    told: AtomicBool,
    /// It has been told that somebody waits for it.
    urgent: AtomicBool,
    /// Something was taken out that is not written yet.
    behind: AtomicBool,
    /// Every change must be on disk, not only with the operating system.
    synced: AtomicBool,
    fails: AtomicBool,
    /// Nothing is taken in any more.
    closed: AtomicBool,
    health: Mutex<Health>,
    /// Bytes of what waits and of what is being written.
    bytes: AtomicUsize,
    /// Who waits for the commit that is being made.
    promised: Mutex<Vec<AckPart>>,
    /// Since when the thread is at the disk.
    busy_since: Mutex<Option<Instant>>,
    /// What was found on disk at start, for the thread to begin with.
    restored: Mutex<Option<(Index, Unwritten)>>,
}

impl Intake {
    /// Adds a change. Gives whether the thread is to be told.
    pub(super) fn record(&self, tenant: &Tenant, change: Change) -> bool {
        let names_tenant =
            matches!(change, Change::Opened { .. } | Change::Retained { .. } | Change::RetainCleared { .. });
        let tenant = names_tenant.then(|| tenant.clone());
        let bytes = {
            let mut waiting = self.waiting.lock();
            if self.closed.load(Ordering::Acquire) {
                drop(waiting);
                counter!("tidegate_server_sessions_lost_total").increment(1);
                return false;
            }
            let pushed = waiting.push(tenant, change);
            // Under the lock: before they are taken out, and taken off again.
            self.bytes.fetch_add(pushed, Ordering::Relaxed) + pushed
        };
        if bytes > MOST_BYTES && self.fails.load(Ordering::Acquire) {
            self.close_if_whole();
        }
        !self.told.swap(true, Ordering::AcqRel)
    }

    /// The disk hangs, and too much waits for it: nothing more is taken in, from a moment on at which nobody is in the middle
    /// of changes that belong together.
    fn close_if_whole(&self) {
        let Some(_whole) = self.whole.try_write() else { return };
        if !self.closed.swap(true, Ordering::AcqRel) {
            let reason = format!(
                "the disk does not answer, and more than {MOST_BYTES} bytes of changes of sessions wait for it; later ones are \
                 not kept: when the disk has been mended, a restart goes on with what was kept until now"
            );
            tracing::error!("the embedded state: {reason}");
            self.has_lost(&reason);
        }
    }

    /// Whether so much waits that who records more is to wait for it.
    pub(super) fn is_behind(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > BEHIND_BYTES
    }

    pub(super) fn together(&self, changes: &mut dyn FnMut()) {
        let _whole = self.whole.read();
        changes();
    }

    /// Ready when all that was recorded before is written; and whether the thread is to be told.
    pub(super) fn durable(&self) -> (AckJoin, bool) {
        let join = AckJoin::new();
        {
            let mut waiting = self.waiting.lock();
            // Under the lock: who fails says so first, and then fails those who wait.
            if self.fails.load(Ordering::Acquire) {
                drop(waiting);
                drop(join.part());
                return (join, false);
            }
            if waiting.changes.is_empty() && !self.behind.load(Ordering::Acquire) {
                return (join, false);
            }
            waiting.waiting.push(join.part());
        }
        let is_news = !self.urgent.swap(true, Ordering::AcqRel);
        (join, is_news)
    }

    pub(super) fn health(&self) -> Result<(), SessionStoreError> {
        if !self.fails.load(Ordering::Acquire) {
            return Ok(());
        }
        match &*self.health.lock() {
            Health::Good => Ok(()),
            Health::Failing(reason) | Health::Lost(reason) => Err(SessionStoreError(reason.clone())),
        }
    }

    pub(super) fn set_synced(&self, synced: bool) {
        self.synced.store(synced, Ordering::Relaxed);
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }

    pub(super) fn begin_with(&self, index: Index, unwritten: Unwritten) {
        *self.restored.lock() = Some((index, unwritten));
    }

    // The thread's side.

    pub(super) fn take_restored(&self) -> Option<(Index, Unwritten)> {
        self.restored.lock().take()
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire)
    }

    /// Waits until nobody is in the middle of changes that belong together, and lets nobody begin. A message for a hundred
    /// thousand sessions takes its time, and meanwhile others are to go on.
    fn when_whole(&self) -> RwLockWriteGuard<'_, ()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENT {
            if let Some(whole) = self.whole.try_write_for(HOLDS_UP) {
                return whole;
            }
            std::thread::sleep(LETS_GO_ON);
        }
        self.whole.write()
    }

    /// Takes everything out, once nobody is in the middle of changes that belong together. `spare` is left in its place. Those
    /// who wait for it are told what becomes of it by [`settle`](Self::settle) or [`fail_promised`](Self::fail_promised).
    pub(super) fn take(&self, spare: &mut Taken) {
        // Before: what comes from now on tells the thread anew.
        self.told.store(false, Ordering::Release);
        self.urgent.store(false, Ordering::Release);
        let _whole = self.when_whole();
        let mut waiting = self.waiting.lock();
        std::mem::swap(&mut *waiting, spare);
        if !spare.changes.is_empty() {
            self.behind.store(true, Ordering::Release);
        }
        drop(waiting);
        self.promised.lock().append(&mut spare.waiting);
    }

    /// So many bytes of what was taken out are written, or wait elsewhere.
    pub(super) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Gives those who wait for what was taken out.
    pub(super) fn settle(&self) -> Vec<AckPart> {
        std::mem::take(&mut *self.promised.lock())
    }

    /// Those who wait for what was taken out are told that it is not durable.
    pub(super) fn fail_promised(&self) {
        // A part that is dropped fails what waits for it.
        drop(self.settle());
    }

    /// The same, and those who wait for what was not taken out.
    fn fail_all(&self) {
        let waiting = std::mem::take(&mut self.waiting.lock().waiting);
        drop(waiting);
        self.fail_promised();
    }

    /// The thread goes to the disk.
    pub(super) fn begins_at_disk(&self) {
        *self.busy_since.lock() = Some(Instant::now());
    }

    /// The thread is back from the disk.
    pub(super) fn ends_at_disk(&self) {
        *self.busy_since.lock() = None;
    }

    // The side of who watches the thread.

    /// When the thread is at the disk for longer than `patience`, the disk has failed, until the thread comes back.
    pub(super) fn check(&self, patience: Duration) {
        // Held to the end: the thread must not come back and say that all is well before this says that it is not.
        let busy_since = self.busy_since.lock();
        if busy_since.is_none_or(|since| since.elapsed() < patience) {
            return;
        }
        let reason = format!("the disk has not answered for {} seconds", patience.as_secs());
        if !self.fails.load(Ordering::Acquire) {
            tracing::error!("the embedded state cannot be written: {reason}");
        }
        self.has_failed(&reason);
        self.fail_all();
    }

    /// The thread has ended before its time.
    pub(in crate::state) fn has_died(&self) {
        let reason = "its thread has failed, and nothing is kept any more: a restart goes on with what was kept until now";
        tracing::error!("the embedded state: {reason}");
        self.has_lost(reason);
        self.closed.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut *self.waiting.lock());
        self.bytes.store(0, Ordering::Relaxed);
        drop(waiting);
        self.fail_promised();
    }

    /// Everything that was taken is written. Gives whether the disk had failed until now.
    pub(super) fn is_written(&self) -> bool {
        self.behind.store(false, Ordering::Release);
        let mut health = self.health.lock();
        if matches!(*health, Health::Failing(_)) {
            *health = Health::Good;
            self.fails.store(false, Ordering::Release);
            return true;
        }
        false
    }

    /// What was taken could not be written.
    pub(super) fn has_failed(&self, reason: &str) {
        let mut health = self.health.lock();
        if !matches!(*health, Health::Lost(_)) {
            *health = Health::Failing(reason.to_owned());
        }
        self.fails.store(true, Ordering::Release);
    }

    /// What was recorded from now on is not kept.
    pub(super) fn has_lost(&self, reason: &str) {
        *self.health.lock() = Health::Lost(reason.to_owned());
        self.fails.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_belong_together_and_take_long_do_not_hold_up_others() {
        let intake = Intake::default();
        let change = || Change::Closed { session: 1 };
        let record = |count: usize| {
            for _ in 0..count {
                intake.record(&Tenant::default(), change());
            }
        };
        let (begun, long) = (Instant::now(), Duration::from_millis(400));
        let mut longest = Duration::ZERO;
        std::thread::scope(|scope| {
            let (sender, is_begun) = std::sync::mpsc::sync_channel(1);
            let record = &record;
            let intake = &intake;
            scope.spawn(move || {
                intake.together(&mut || {
                    record(1);
                    sender.send(()).ok();
                    std::thread::sleep(long);
                    record(1);
                });
            });
            is_begun.recv().ok();
            let taking = scope.spawn(|| {
                let mut taken = Taken::default();
                intake.take(&mut taken);
                (taken.changes.len(), begun.elapsed())
            });
            let mut others = 0;
            while begun.elapsed() < long / 2 {
                let before = Instant::now();
                intake.together(&mut || record(1));
                others += 1;
                longest = longest.max(before.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(matches!(taking.join(), Ok((count, after)) if count == others + 2 && after >= long));
        });
        assert!(longest < long / 4, "another was held up for {longest:?}");
    }

    #[test]
    fn room_for_much_is_given_back() {
        let changes = Vec::with_capacity(1_000_000);
        let old = Taken { changes, bytes: 7, counted: 7, ..Taken::default() };
        let new = Taken::with_room_of(old);
        assert!(new.changes.capacity() < 2 * KEPT_CAPACITY, "{}", new.changes.capacity());
        assert_eq!((new.bytes, new.counted), (0, 0));
    }
}
