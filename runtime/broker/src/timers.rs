//! What happens to a session some time after its client has gone: its end, its will.
//!
//! One task and one ordered map for all sessions of the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::realm::Realm;
use crate::session::Session;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The session's expiry has passed (MQTT 5 clause 3.1.2.11.2) since its client went away then, milliseconds since the epoch.
    Expiry(u64),
    /// The will's delay has passed (clause 3.1.3.2.2).
    Will,
}

/// Names a timer, to cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timer(Instant, u64);

struct Entry {
    due: Due,
    realm: Weak<Realm>,
    session: Weak<Session>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Timer, Entry>,
    last: u64,
}

/// The timers of all sessions.
#[derive(Default)]
pub(crate) struct Timers {
    state: Mutex<State>,
    earlier: Notify,
}

/// How often expired retained messages are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// Sessions whose time has come, after which others have their turn.
const AT_ONCE: usize = 64;

impl Timers {
    /// `due` is done to `session` after `delay`, unless the timer is cancelled.
    pub(crate) fn start(
        &self,
        delay: Duration,
        due: Due,
        realm: &Arc<Realm>,
        session: &Arc<Session>,
    ) -> Option<Timer> {
        // A delay beyond what the clock can express never passes.
        let at = Instant::now().checked_add(delay)?;
        let mut state = self.state.lock();
        state.last += 1;
        let timer = Timer(at, state.last);
        let first = state.entries.first_key_value().is_none_or(|(first, _)| timer < *first);
        let entry = Entry { due, realm: Arc::downgrade(realm), session: Arc::downgrade(session) };
        state.entries.insert(timer, entry);
        drop(state);
        if first {
            self.earlier.notify_one();
        }
        Some(timer)
    }

    /// `timer` is not wanted any more.
    pub(crate) fn cancel(&self, timer: Timer) {
        self.state.lock().entries.remove(&timer);
    }

    /// Runs the timers until the task is dropped. `sweep` is called once a minute, and until it gives that all is done;
    /// others have their turn before it is called again.
    pub(crate) async fn run(&self, sweep: impl Fn() -> bool) {
        let mut swept = Instant::now();
        loop {
            let next = self.state.lock().entries.first_key_value().map(|(timer, _)| timer.0);
            let until = next.map_or(swept + SWEEP, |next| next.min(swept + SWEEP));
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.earlier.notified() => {}
            }
            let (now, mut done) = (Instant::now(), 0_usize);
            while let Some(entry) = self.take_due(now) {
                if let (Some(realm), Some(session)) = (entry.realm.upgrade(), entry.session.upgrade()) {
                    realm.due(entry.due, &session);
                }
                done += 1;
                if done.is_multiple_of(AT_ONCE) {
                    tokio::task::yield_now().await;
                }
            }
            if now >= swept + SWEEP {
                if sweep() {
                    swept = now;
                } else {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn take_due(&self, now: Instant) -> Option<Entry> {
        let mut state = self.state.lock();
        let first = state.entries.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// All sessions that ended at once, as those do whose clients a network lost, were ended in one go.
    #[tokio::test(start_paused = true)]
    async fn others_have_their_turn_while_very_many_sessions_end() {
        let (node, hooks) = (Arc::default(), Arc::new(tidegate_event::NoHooks));
        let store = Arc::new(tidegate_event::VolatileStore);
        let broker = crate::Broker::new(crate::BrokerConfig::default(), node, hooks, store).unwrap();
        broker.begin();
        let realm = broker.default_realm();
        let sessions: Vec<_> = (0..1_000)
            .map(|number| Arc::new(Session::new(number, format!("{number}").into(), 0, 1)))
            .collect();
        for session in &sessions {
            realm.registry.restore(Arc::clone(session));
            realm.start_expiry(session, Duration::ZERO);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (mut left, mut most) = (1_000, 0);
        while left > 0 {
            let before = std::mem::replace(&mut left, realm.registry.len());
            most = most.max(before - left);
            tokio::task::yield_now().await;
        }
        assert!(most <= 2 * AT_ONCE, "{most} ended in one go");
    }
}
