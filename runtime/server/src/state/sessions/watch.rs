//! Sees whether the thread that writes comes back from the disk.
//!
//! A disk can take a write and never answer, and the database can wait for ever for threads of its own that have failed.
//! Then nothing fails by itself: whoever waits for the disk would wait as long, and nobody would know why.

use std::sync::Arc;
use std::time::Duration;

use super::intake::Intake;

/// How long a commit may take: more than the slowest disk that works.
pub(in crate::state) const PATIENCE: Duration = Duration::from_secs(20);

/// Begins to look at `intake`, until nobody has it any more: a commit that takes longer than `patience` has failed.
pub(super) fn begin(intake: &Arc<Intake>, patience: Duration) {
    let watched = Arc::downgrade(intake);
    let watch = move || {
        loop {
            std::thread::sleep(patience / 4);
            let Some(intake) = watched.upgrade() else { return };
            intake.check(patience);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("state-watch".into()).spawn(watch) {
        tracing::warn!("no thread that watches the embedded state: {error}");
    }
}
