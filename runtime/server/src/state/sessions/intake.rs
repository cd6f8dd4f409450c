//! Where changes of durable sessions wait for the thread that writes: memory and no disk, so that whoever records one goes
//! on at once.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use tidegate_event::{AckJoin, AckPart, Change, SessionStoreError, Tenant};

use super::index::Index;
use super::unwritten::Unwritten;

/// What was taken out at once.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Changes in the order in which they were recorded; with the tenant where it says something.
    pub(super) changes: Vec<(Option<Tenant>, Change)>,
    /// Who waits for all of it.
    pub(super) waiting: Vec<AckPart>,
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
    health: Mutex<Health>,
    /// What was found on disk at start, for the thread to begin with.
    restored: Mutex<Option<(Index, Unwritten)>>,
}

impl Intake {
    /// Adds a change. Gives whether the thread is to be told.
    pub(super) fn record(&self, tenant: &Tenant, change: Change) -> bool {
        let names_tenant =
            matches!(change, Change::Opened { .. } | Change::Retained { .. } | Change::RetainCleared { .. });
        let tenant = names_tenant.then(|| tenant.clone());
        self.waiting.lock().changes.push((tenant, change));
        !self.told.swap(true, Ordering::AcqRel)
    }

    pub(super) fn together(&self, changes: &mut dyn FnMut()) {
        let _whole = self.whole.read();
        changes();
    }

    /// Ready when all that was recorded before is written; and whether the thread is to be told.
    pub(super) fn durable(&self) -> (AckJoin, bool) {
        let join = AckJoin::new();
        if self.fails.load(Ordering::Acquire) {
            drop(join.part());
            return (join, false);
        }
        {
            let mut waiting = self.waiting.lock();
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

    /// Takes everything out, once nobody is in the middle of changes that belong together. `spare` is left in its place.
    pub(super) fn take(&self, spare: &mut Taken) {
        // Before: what comes from now on tells the thread anew.
        self.told.store(false, Ordering::Release);
        self.urgent.store(false, Ordering::Release);
        let _whole = self.whole.write();
        let mut waiting = self.waiting.lock();
        std::mem::swap(&mut *waiting, spare);
        if !spare.changes.is_empty() {
            self.behind.store(true, Ordering::Release);
        }
    }

    /// Everything that was taken is written.
    pub(super) fn is_written(&self) {
        self.behind.store(false, Ordering::Release);
        let mut health = self.health.lock();
        if matches!(*health, Health::Failing(_)) {
            *health = Health::Good;
            self.fails.store(false, Ordering::Release);
        }
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
