//! Client ids whose kept session has ended a moment ago: as long as that is not on disk, a crash brings it back, so nobody is
//! told before that there is none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::broker::Shared;

/// How long the store is left alone: it writes what nobody waits for in a fraction of that, and hurries for whoever asks.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Default)]
struct State {
    /// Each with the number of its last end.
    ends: HashMap<ByteString, u64, RandomState>,
    /// Ends so far.
    last: u64,
    /// A task takes out what is on disk.
    is_watched: bool,
}

/// The client ids of one tenant.
#[derive(Default)]
pub(crate) struct Ended(Mutex<State>);

impl Ended {
    /// The session of `client_id` has ended, and the store of `broker` was told.
    pub(crate) fn add(self: &Arc<Self>, client_id: &ByteString, broker: &Arc<Shared>) {
        let mut state = self.0.lock();
        state.last += 1;
        let number = state.last;
        state.ends.insert(client_id.clone(), number);
        let was_watched = std::mem::replace(&mut state.is_watched, true);
        drop(state);
        if !was_watched {
            broker.tasks.spawn(Arc::clone(self).watch(Arc::clone(broker)));
        }
    }

    /// Whether that of `client_id` may not be on disk yet.
    pub(crate) fn contains(&self, client_id: &str) -> bool {
        self.0.lock().ends.contains_key(client_id)
    }

    /// Takes out what is on disk, until nothing is left.
    async fn watch(self: Arc<Self>, broker: Arc<Shared>) {
        let written = async {
            loop {
                tokio::time::sleep(PATIENCE).await;
                let last = self.0.lock().last;
                // What could not be written in time is written when that is possible again.
                if broker.store.durable().await.is_ok() && self.written(last) {
                    break;
                }
            }
        };
        tokio::select! {
            () = written => {}
            () = broker.stopping.cancelled() => {}
        }
    }

    /// All up to the end with the number `last` are on disk. Gives whether nothing is left.
    fn written(&self, last: u64) -> bool {
        let mut state = self.0.lock();
        state.ends.retain(|_, number| *number > last);
        state.is_watched = !state.ends.is_empty();
        if !state.is_watched {
            state.ends = HashMap::default();
        }
        !state.is_watched
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_on_disk_does_not_stay() {
        let realm = crate::realm::test_realm(crate::BrokerConfig::default());
        let ended = Arc::new(Ended::default());
        for round in 0..3 {
            for number in 0..1_000 {
                ended.add(&format!("{number}").into(), &realm.broker);
            }
            assert!(ended.contains("7"));
            assert_eq!(realm.broker.tasks.len(), 1, "one task waits for all");
            tokio::time::sleep(PATIENCE * 2).await;
            assert!(!ended.contains("7"), "round {round}");
            assert_eq!((ended.0.lock().ends.capacity(), realm.broker.tasks.len()), (0, 0));
        }
    }

    #[test]
    fn who_has_ended_again_stays() {
        let ended = Ended::default();
        *ended.0.lock() = State {
            ends: [("a".into(), 3), ("b".into(), 2)].into_iter().collect(),
            last: 3,
            is_watched: true,
        };
        assert!(!ended.written(2));
        assert!(ended.contains("a") && !ended.contains("b") && ended.0.lock().is_watched);
        assert!(ended.written(3));
        assert!(!ended.contains("a") && !ended.0.lock().is_watched);
    }
}
