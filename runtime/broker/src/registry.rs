//! Who has which session: client ids of one tenant.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytestring::ByteString;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tidegate_event::{Client, SessionNumber};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

mod ended;

pub(crate) use self::ended::Ended;
use crate::pipeline::Unfinished;
use crate::realm::Realm;
use crate::session::{Seated, Session};

/// What a connection leaves to the next one of the same client id: events of a client are raised, and its
/// messages routed, in order, over reconnects too.
#[derive(Debug)]
pub(crate) struct Handover {
    /// The connection that leaves.
    pub(crate) connection: u64,
    /// Ready when its last event, client.disconnected, has been raised.
    pub(crate) quiet: oneshot::Receiver<()>,
    /// Ready when its last message has been routed.
    pub(crate) done: oneshot::Receiver<()>,
    /// How much it, and those before it, still hold.
    pub(crate) unfinished: Arc<Unfinished>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<ByteString, Arc<Session>, RandomState>,
    /// Those without a connection, by when it ended and their number.
    away: BTreeMap<(u64, SessionNumber), Arc<Session>>,
    /// Client ids whose last connection still has events to raise or messages to route.
    leaving: HashMap<ByteString, Handover, RandomState>,
    /// What ended connections hold, as long as they hold anything.
    unfinished: HashMap<ByteString, Arc<Unfinished>, RandomState>,
}

/// The sessions of one tenant.
#[derive(Default)]
pub(crate) struct Registry(Mutex<State>);

/// A session for a new connection.
enum Claim {
    /// An existing one: take its seat.
    Resumed(Arc<Session>),
    /// A new one; the one it replaces, if any, must be ended first.
    Fresh { session: Arc<Session>, seat: Seated, replaced: Option<Arc<Session>> },
    /// It is another user's.
    Foreign,
    /// A newer connection has asked for it.
    TakenOver,
}

/// Why a connection has no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAttached {
    /// A still newer connection has taken it over.
    TakenOver,
    /// The client id is another user's.
    Foreign,
}

/// A session whose seat is taken.
pub(crate) struct Attached {
    pub(crate) session: Arc<Session>,
    pub(crate) seat: Seated,
    /// Whether the session existed before (session present, MQTT 5 clause 3.2.2.1.1).
    pub(crate) resumed: bool,
    /// What the client's last connection has still to do.
    pub(crate) handover: Option<Handover>,
}

impl Registry {
    /// The session of `client_id`.
    pub(crate) fn find(&self, client_id: &str) -> Option<Arc<Session>> {
        self.0.lock().sessions.get(client_id).cloned()
    }

    /// How many sessions there are.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().sessions.len()
    }

    /// Whether a session for `client_id` would be one more than `most`.
    pub(crate) fn is_full(&self, client_id: &str, most: usize) -> bool {
        let state = self.0.lock();
        state.sessions.len() >= most && !state.sessions.contains_key(client_id)
    }

    /// Every session.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.0.lock().sessions.values().cloned().collect()
    }

    /// Adds a session that was read back after a restart.
    pub(crate) fn restore(&self, session: Arc<Session>) {
        self.0.lock().sessions.insert(session.client_id.clone(), session);
    }

    /// The client of `session` has gone, at `since_ms`.
    pub(crate) fn went_away(&self, session: &Arc<Session>, since_ms: u64) {
        let mut state = self.0.lock();
        state.away.remove(&session.away());
        session.set_away(since_ms);
        state.away.insert(session.away(), Arc::clone(session));
    }

    /// The client of `session` is there.
    pub(crate) fn came_back(&self, session: &Session) {
        self.0.lock().away.remove(&session.away());
    }

    /// Takes out the session whose client has been away longest: it is to be ended. `None`: all are there.
    pub(crate) fn take_longest_away(&self) -> Option<Arc<Session>> {
        self.0.lock().away.pop_first().map(|(_, session)| session)
    }

    /// Puts `sessions` back that were taken out of those whose clients are away, unless they are there by now, or have ended.
    pub(crate) fn put_back_away(&self, sessions: Vec<Arc<Session>>) {
        let mut state = self.0.lock();
        for session in sessions {
            let is_known =
                state.sessions.get(&session.client_id).is_some_and(|known| Arc::ptr_eq(known, &session));
            if is_known && !session.is_connected() {
                state.away.insert(session.away(), session);
            }
        }
    }

    /// Removes `session` unless another one has its place.
    pub(crate) fn remove(&self, session: &Arc<Session>) {
        let mut state = self.0.lock();
        state.away.remove(&session.away());
        if state.sessions.get(&session.client_id).is_some_and(|known| Arc::ptr_eq(known, session)) {
            state.sessions.remove(&session.client_id);
        }
    }

    /// A connection leaves. `ending`: its session, when that ends with it.
    pub(crate) fn leave(&self, client_id: &ByteString, handover: Handover, ending: Option<&Arc<Session>>) {
        let mut state = self.0.lock();
        state.unfinished.insert(client_id.clone(), Arc::clone(&handover.unfinished));
        state.leaving.insert(client_id.clone(), handover);
        if let Some(session) = ending
            && state.sessions.get(client_id).is_some_and(|known| Arc::ptr_eq(known, session))
        {
            state.sessions.remove(client_id);
        }
    }

    /// A connection that had taken `handover` over was refused: the next one waits for it, if there is still anything to be
    /// waited for.
    pub(crate) fn leave_again(&self, client_id: &ByteString, mut handover: Handover) {
        let mut state = self.0.lock();
        // That all is done is said before it is left, and that under this lock.
        if handover.done.try_recv() == Err(TryRecvError::Empty) {
            state.unfinished.insert(client_id.clone(), Arc::clone(&handover.unfinished));
            state.leaving.insert(client_id.clone(), handover);
        }
    }

    /// The connection has nothing more to do.
    pub(crate) fn left(&self, client_id: &str, connection: u64) {
        let mut state = self.0.lock();
        if state.leaving.get(client_id).is_some_and(|handover| handover.connection == connection) {
            state.leaving.remove(client_id);
        }
        if state.unfinished.get(client_id).is_some_and(|unfinished| unfinished.bytes() == 0) {
            state.unfinished.remove(client_id);
        }
    }

    /// How much the ended connections of `client_id` still hold, bytes.
    pub(crate) fn unfinished(&self, client_id: &str) -> usize {
        self.0.lock().unfinished.get(client_id).map_or(0, |unfinished| unfinished.bytes())
    }

    /// Follow it with [`Session::nudge`] of the one that there was: its lock is not waited for under this one.
    fn claim(&self, realm: &Realm, client: &Client, clean: bool, expiry: u32) -> Claim {
        let (client_id, connection, guard) = (&client.id, client.connection, &realm.broker.guard);
        let mut state = self.0.lock();
        let existing = state.sessions.get(client_id).cloned();
        let owner = guard.owner(client);
        if let Some(session) = &existing {
            if session.owner().is_some_and(|owner| !guard.may_take(client, &owner)) {
                return Claim::Foreign;
            }
            // Whoever asks again, because what it waited for has ended, may have become the older one meanwhile.
            if !session.claim(connection) {
                return Claim::TakenOver;
            }
            if session.is_connected() {
                realm.broker.metrics.takeovers.increment(1);
            }
            // A session without expiry ends with its connection (clause 3.1.2.11.2), so a take-over ends it.
            if !clean && session.is_durable() {
                session.belong_to(owner);
                return Claim::Resumed(Arc::clone(session));
            }
        }
        let number = realm.broker.session_numbers.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Session::new(number, client_id.clone(), connection, expiry));
        session.belong_to(owner);
        // Nobody else knows the session yet, so its seat is free; taking it here keeps the order of claims.
        let seat = loop {
            if let Ok(seat) = Arc::clone(session.seat()).try_lock_owned() {
                break seat;
            }
        };
        state.sessions.insert(client_id.clone(), Arc::clone(&session));
        realm.broker.metrics.sessions.increment(1.0);
        Claim::Fresh { session, seat, replaced: existing }
    }

    /// Gets the session for a new connection, taking it over from another connection if need be: that one is
    /// told, and waited for until it has let go.
    ///
    /// # Errors
    /// [`NotAttached`].
    pub(crate) async fn attach(
        &self,
        realm: &Arc<Realm>,
        client: &Client,
        clean: bool,
        expiry: u32,
    ) -> Result<Attached, NotAttached> {
        loop {
            let (session, mut seat, resumed) = match self.claim(realm, client, clean, expiry) {
                Claim::Foreign => return Err(NotAttached::Foreign),
                Claim::TakenOver => return Err(NotAttached::TakenOver),
                Claim::Resumed(session) => {
                    session.nudge();
                    let seat = Arc::clone(session.seat()).lock_owned().await;
                    if session.is_closed() {
                        // It ended while we waited: its last connection asked for that. Who has come after us gets
                        // the next one.
                        if !session.is_claimed_by(client.connection) {
                            return Err(NotAttached::TakenOver);
                        }
                        continue;
                    }
                    (session, seat, true)
                }
                Claim::Fresh { session, seat, replaced } => {
                    if let Some(replaced) = replaced {
                        replaced.nudge();
                        let mut old = Arc::clone(replaced.seat()).lock_owned().await;
                        realm.end_session(&replaced, &mut old);
                    }
                    (session, seat, false)
                }
            };
            if !session.is_claimed_by(client.connection) {
                if !resumed {
                    // It was never told to anyone: the newer connection gets one of its own.
                    realm.end_session(&session, &mut seat);
                }
                return Err(NotAttached::TakenOver);
            }
            let handover = self.0.lock().leaving.remove(&client.id);
            return Ok(Attached { session, seat, resumed, handover });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;

    fn realm() -> Arc<Realm> {
        crate::realm::test_realm(crate::BrokerConfig::default())
    }

    /// What a refused connection had taken over was put back although it was done with: it stayed for as long as the broker.
    #[tokio::test]
    async fn nothing_stays_of_a_connection_that_has_ended_when_the_next_is_refused() {
        let realm = realm();
        let registry = &realm.registry;
        for done_before in [true, false] {
            let ((_, quiet), (ready, done)) = (oneshot::channel(), oneshot::channel());
            let handover = Handover { connection: 1, quiet, done, unfinished: Arc::default() };
            registry.leave(&"c".into(), handover, None);
            let handover = registry.0.lock().leaving.remove("c").unwrap();
            if done_before {
                ready.send(()).unwrap();
                registry.left("c", 1);
                registry.leave_again(&"c".into(), handover);
            } else {
                registry.leave_again(&"c".into(), handover);
                assert!(registry.0.lock().leaving.contains_key("c"));
                ready.send(()).unwrap();
                registry.left("c", 1);
            }
            let state = registry.0.lock();
            assert!(state.leaving.is_empty() && state.unfinished.is_empty());
        }
    }

    /// The older of two that waited asked for the client id once more, and so became the newer.
    #[tokio::test]
    async fn of_two_connections_that_wait_for_a_session_that_ends_the_newer_gets_the_next() {
        let realm = realm();
        let attach = |connection| {
            let realm = Arc::clone(&realm);
            let client = Client { id: "c".into(), connection, ..Client::default() };
            async move { realm.registry.attach(&realm, &client, false, 60).await }
        };
        let Attached { session, mut seat, .. } = attach(1).await.unwrap();
        let mut waiting = Vec::new();
        for connection in [2, 3] {
            waiting.push(tokio::spawn(attach(connection)));
            while !session.is_claimed_by(connection) {
                tokio::task::yield_now().await;
            }
        }
        realm.end_session(&session, &mut seat);
        drop(seat);
        let newer = tokio::time::timeout(Duration::from_secs(5), waiting.remove(1)).await.unwrap().unwrap();
        assert!(newer.is_ok_and(|attached| attached.session.is_claimed_by(3) && !attached.resumed));
        assert!(waiting.remove(0).await.unwrap().is_err());
    }

    /// The session that it waited for was never made: it asked again, and took over from the newest.
    #[tokio::test]
    async fn whoever_has_to_ask_again_does_not_take_over_from_a_newer_connection() {
        let realm = realm();
        let attach = |connection, expiry| {
            let realm = Arc::clone(&realm);
            let client = Client { id: "c".into(), connection, ..Client::default() };
            Box::pin(async move { realm.registry.attach(&realm, &client, false, expiry).await })
        };
        let Attached { seat, .. } = attach(1, 0).await.unwrap();
        let (mut second, mut third) = (attach(2, 60), attach(3, 60));
        assert!(futures_util::poll!(&mut second).is_pending(), "it waits for the first to let go");
        assert!(futures_util::poll!(&mut third).is_pending(), "it waits for the session of the second");
        drop(seat);
        assert!(second.await.is_err());
        let Attached { session, .. } = attach(4, 60).await.unwrap();
        assert_eq!(third.await.err(), Some(NotAttached::TakenOver));
        assert!(session.is_claimed_by(4));
    }
}
