//! Client ids whose kept session has ended a moment ago: as long as that is not on disk, a crash brings it back, so nobody is
//! told before that there is none.

use std::collections::HashMap;

use bytestring::ByteString;
use foldhash::fast::RandomState;
use futures_util::FutureExt as _;
use tidegate_event::{AckJoin, SessionStore};

/// Entries from which on those that are on disk are looked for.
const MANY: usize = 64;

/// The client ids of one tenant, each with what is ready when the last end of its session is on disk.
#[derive(Default)]
pub(super) struct Ended {
    ends: HashMap<ByteString, AckJoin, RandomState>,
    /// As many as were left when it was last looked.
    left: usize,
}

impl Ended {
    /// The session of `client_id` has ended, and `store` was told.
    pub(super) fn add(&mut self, client_id: &ByteString, store: &dyn SessionStore) {
        // Each is looked at about once: there are twice as many as the last time.
        if self.ends.len() >= MANY.max(self.left * 2) {
            self.ends.retain(|_, written| !is_written(written, store));
            self.left = self.ends.len();
        }
        self.ends.insert(client_id.clone(), store.durable());
    }

    /// Whether that of `client_id` is not on disk yet.
    pub(super) fn contains(&mut self, client_id: &str, store: &dyn SessionStore) -> bool {
        let Some(written) = self.ends.get_mut(client_id) else { return false };
        let is_gone = is_written(written, store);
        if is_gone {
            self.ends.remove(client_id);
        }
        !is_gone
    }
}

/// Whether it is on disk. What could not be written in time is asked for anew: it is written when that is possible again.
fn is_written(written: &mut AckJoin, store: &dyn SessionStore) -> bool {
    match written.now_or_never() {
        Some(Ok(())) => true,
        Some(Err(_)) => {
            *written = store.durable();
            false
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use tidegate_event::VolatileStore;

    use super::*;

    #[test]
    fn what_is_on_disk_does_not_stay() {
        let mut ended = Ended::default();
        for number in 0..10_000 {
            ended.add(&format!("{number}").into(), &VolatileStore);
            assert!(ended.ends.len() <= MANY);
        }
        assert!(!ended.contains("9999", &VolatileStore));
        assert!(!ended.ends.contains_key("9999"));
    }

    #[test]
    fn what_waits_for_the_disk_is_not_looked_at_again_and_again() {
        let (mut ended, disk) = (Ended::default(), AckJoin::new());
        let part = disk.part();
        for number in 0..1_000 {
            ended.ends.insert(format!("{number}").into(), disk.clone());
        }
        ended.add(&"new".into(), &VolatileStore);
        assert_eq!((ended.ends.len(), ended.left), (1_001, 1_000));
        assert!(ended.contains("7", &VolatileStore));
        part.done();
        assert!(!ended.contains("7", &VolatileStore));
    }
}
