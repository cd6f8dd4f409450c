//! Durable sessions, retained messages and wills: the broker's [`SessionStore`] on the embedded state.
//!
//! Whoever records a change puts it into memory (`intake`) and goes on. The one thread that writes takes all that is there
//! (`ledger`), works out what becomes of each record (`index`, `unwritten`) and has it in its next commit, together with
//! whatever else changes at that time; then it tells who waits. What comes and goes between two commits, as most messages
//! for a connected client do, is never written.
//!
//! Nobody waits for most changes. They are written at the next commit that somebody waits for, and after 25 ms. What waits
//! is counted: from so much on publishers wait for the disk whatever they send. A disk that hangs is one that fails (`watch`).

mod format;
mod index;
pub(super) mod intake;
mod key;
pub(super) mod ledger;
mod restore;
mod unwritten;
pub(super) mod watch;

use std::sync::Arc;

use tidegate_event::{
    AckJoin, Change, Restored, SessionStore, SessionStoreError, StorageError, Tenant, VolatileStore,
};
use tokio::sync::mpsc;

use super::State;
use super::disk::{Disk, unavailable};
use super::writer::Work;
use intake::Intake;

/// What must have happened before QoS 1 and 2 messages of durable sessions are acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionDurability {
    /// They are on disk: a power cut costs nothing.
    #[default]
    Synced,
    /// The operating system has them: the end of the process costs nothing, a power cut the last of them.
    Written,
    /// Sessions live as long as the process.
    Off,
}

/// The broker's side.
struct Sessions {
    intake: Arc<Intake>,
    disk: Arc<Disk>,
    queue: mpsc::Sender<Work>,
}

impl State {
    /// The store of the broker's durable sessions.
    pub fn sessions(&self, durability: SessionDurability) -> Arc<dyn SessionStore> {
        if durability == SessionDurability::Off {
            return Arc::new(VolatileStore);
        }
        self.intake.set_synced(durability == SessionDurability::Synced);
        let (intake, disk, queue) = (self.intake.clone(), self.disk.clone(), self.queue.clone());
        Arc::new(Sessions { intake, disk, queue })
    }
}

impl Sessions {
    /// Tells the thread. When its queue is full it comes by without being told.
    fn tell(&self) {
        drop(self.queue.try_send(Work::Sessions));
    }
}

impl SessionStore for Sessions {
    fn keeps(&self) -> bool {
        true
    }

    fn restore(&self) -> Result<Restored, SessionStoreError> {
        let found = self.disk.read(|database| restore::read(database).map_err(unavailable)).map_err(|error| {
            let reason = match error {
                StorageError::Unavailable { reason, .. } => reason,
                other => other.to_string(),
            };
            SessionStoreError(format!(
                "{}: {reason}; restore the directory from a copy, or move it away to begin without sessions, retained \
                 messages, pairs of modules and operations that wait for databases",
                self.disk.path().display()
            ))
        })?;
        if !found.orphans.is_empty() {
            tracing::warn!(records = found.orphans.len(), "records of sessions that are gone are removed");
        }
        self.intake.begin_with(found.index, found.orphans);
        Ok(found.restored)
    }

    fn record(&self, tenant: &Tenant, change: Change) {
        if self.intake.record(tenant, change) {
            self.tell();
        }
    }

    fn together(&self, changes: &mut dyn FnMut()) {
        self.intake.together(changes);
    }

    fn durable(&self) -> AckJoin {
        let (join, is_news) = self.intake.durable();
        if is_news {
            self.tell();
        }
        join
    }

    fn is_behind(&self) -> bool {
        self.intake.is_behind()
    }

    fn health(&self) -> Result<(), SessionStoreError> {
        self.intake.health()
    }
}

#[cfg(test)]
mod tests;
