//! Durable sessions in the hands of the thread that writes: what was recorded goes into its next commit.
//!
//! A commit that fails changes nothing here: everything waits for the next one, in memory and bounded, and who waited for
//! it is told at once that it is not durable.

use std::sync::Arc;
use std::time::Duration;

use fjall::OwnedWriteBatch;
use metrics::{counter, gauge};
use tidegate_event::AckPart;

use super::index::Index;
use super::intake::{Intake, Taken};
use super::key::Key;
use super::unwritten::{Unwritten, Value, Written};
use super::watch;
use crate::state::disk::Database;

/// Bytes of changes that may wait for a disk that fails. What the broker holds in memory is in them only once, and once it
/// knows of the failure it takes nothing new.
const MAX_UNWRITTEN_BYTES: usize = 64 << 20;

/// The thread's side of durable sessions.
pub(in crate::state) struct Ledger {
    intake: Arc<Intake>,
    /// `None`: nobody has restored what is on disk, so nothing can be added to it.
    known: Option<(Index, Unwritten)>,
    taken: Taken,
    /// Bytes that were taken in and are not settled.
    intake_bytes: usize,
    /// What the batch of that commit has.
    written: Written,
    /// The last commit has failed.
    fails: bool,
    /// Nothing is kept any more.
    lost: bool,
    limit: usize,
}

impl Ledger {
    pub(in crate::state) fn new(intake: Arc<Intake>) -> Self {
        Self {
            intake,
            known: None,
            taken: Taken::default(),
            intake_bytes: 0,
            written: Written::default(),
            fails: false,
            lost: false,
            limit: MAX_UNWRITTEN_BYTES,
        }
    }

    /// Whether somebody waits for what was recorded.
    pub(in crate::state) fn is_urgent(&self) -> bool {
        self.intake.is_urgent()
    }

    /// Whether a commit must be on disk when it is done.
    pub(in crate::state) fn is_synced(&self) -> bool {
        self.intake.is_synced()
    }

    /// Whether there is anything to commit. After a failure there always is, or it would not be known when that ends.
    pub(in crate::state) fn has_work(&self) -> bool {
        self.known.as_ref().is_some_and(|(_, unwritten)| self.fails || !unwritten.is_empty())
    }

    /// The thread goes to the disk, which may take its time.
    pub(in crate::state) fn begins_at_disk(&self) {
        self.intake.begins_at_disk();
    }

    /// The thread is back from the disk.
    pub(in crate::state) fn ends_at_disk(&self) {
        self.intake.ends_at_disk();
    }

    /// Has the thread watched, from its first commit on.
    pub(in crate::state) fn be_watched(&self, patience: Duration) {
        watch::begin(&self.intake, patience);
    }

    /// Takes in what was recorded.
    pub(in crate::state) fn take(&mut self) {
        self.intake.take(&mut self.taken);
        self.intake_bytes += self.taken.bytes;
        if self.lost {
            // They came in before they could know.
            self.intake.fail_promised();
        }
        if self.known.is_none() {
            self.known = self.intake.take_restored();
        }
        let changes = self.taken.changes.drain(..);
        let count = changes.len() as u64;
        if count == 0 {
            return;
        }
        match &mut self.known {
            Some((index, unwritten)) if !self.lost => {
                counter!("tidegate_server_sessions_changes_total").increment(count);
                index.apply(changes, unwritten);
            }
            Some(_) => {
                drop(changes);
                counter!("tidegate_server_sessions_lost_total").increment(count);
            }
            None => {
                drop(changes);
                tracing::error!(count, "changes of sessions were recorded before the sessions were restored");
                self.intake.fail_promised();
            }
        }
        // After a time with much to write its room would stay for good.
        self.taken = Taken::with_room_of(std::mem::take(&mut self.taken));
    }

    /// Puts everything into `batch`.
    ///
    /// # Errors
    /// What could not be written.
    pub(in crate::state) fn write(
        &mut self,
        database: &Database,
        batch: &mut OwnedWriteBatch,
    ) -> Result<(), String> {
        let Some((index, unwritten)) = &mut self.known else { return Ok(()) };
        if self.fails && unwritten.is_empty() {
            // Something to try the disk with.
            unwritten.put(Key::LastSession, Value::LastSession(index.last_session), true);
        }
        self.written = unwritten.write(database, batch, |body| index.is_single(body))?;
        Ok(())
    }

    /// What [`write`](Self::write) has put into a batch is on disk, or nothing of it.
    pub(in crate::state) fn settle(&mut self, done: &Result<(), String>) {
        let written = std::mem::take(&mut self.written);
        self.intake.release(std::mem::take(&mut self.intake_bytes));
        match done {
            Ok(()) => {
                self.fails = false;
                let has_failed = self.intake.is_written();
                if let Some((index, unwritten)) = &mut self.known {
                    index.inline(&written.inlined);
                    unwritten.clear();
                    measure(&written, index);
                    if has_failed {
                        tracing::info!("sessions are kept on disk again");
                    }
                }
                self.intake.settle().into_iter().for_each(AckPart::done);
            }
            Err(reason) => self.fail(reason),
        }
    }

    /// What was taken in cannot be written now: who waits for it is told.
    pub(in crate::state) fn fail(&mut self, reason: &str) {
        self.fails = true;
        // What waits here has a bound of its own.
        self.intake.release(std::mem::take(&mut self.intake_bytes));
        self.intake.has_failed(reason);
        let Some((_, unwritten)) = &self.known else { return self.intake.fail_promised() };
        gauge!("tidegate_server_sessions_unwritten").set(unwritten.len() as f64);
        if !self.lost && unwritten.size() > self.limit {
            self.lost = true;
            let limit = self.limit;
            let reason = format!(
                "{reason}; more than {limit} bytes of changes of sessions could not be written, and later ones are not \
                 kept: when the disk has been mended, a restart goes on with what was kept until now"
            );
            tracing::error!("the embedded state: {reason}");
            self.intake.has_lost(&reason);
        }
        self.intake.fail_promised();
    }

    #[cfg(test)]
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn measure(written: &Written, index: &Index) {
    if written.records > 0 {
        counter!("tidegate_server_sessions_commits_total").increment(1);
        counter!("tidegate_server_sessions_records_total").increment(written.records);
        counter!("tidegate_server_sessions_bytes_total").increment(written.bytes);
    }
    gauge!("tidegate_server_sessions_kept").set(index.sessions.len() as f64);
    gauge!("tidegate_server_sessions_deliveries").set(index.deliveries as f64);
    gauge!("tidegate_server_sessions_unwritten").set(0.0);
}
