//! What one tenant owns: its sessions, topic tree and retained messages. Nothing here is shared with another.

use std::sync::Arc;
use std::time::Duration;

use tidegate_event::{Change, Message, Shown, Tenant, now_ms};
use tokio::sync::mpsc;

use crate::broker::Shared;
use crate::registry::{Ended, Registry};
use crate::retained::Retained;
use crate::route::SharedRoutes;
use crate::session::{LateWill, RecordedWill, Seat, Session};
use crate::sys::Statistics;
use crate::timers::Due;
use crate::tree::TopicTree;
use crate::will;

/// When it is tried again to end a session whose time is up and whose seat is taken.
const AGAIN: Duration = Duration::from_secs(1);

/// A message that is published without a connection.
pub(crate) struct Injected {
    pub(crate) message: Message,
    /// The will that it is, when the session store has that.
    pub(crate) will: Option<RecordedWill>,
}

/// One tenant's part of the broker.
pub(crate) struct Realm {
    pub(crate) tenant: Tenant,
    pub(crate) broker: Arc<Shared>,
    pub(crate) registry: Registry,
    pub(crate) ended: Arc<Ended>,
    pub(crate) tree: TopicTree,
    pub(crate) shared_routes: SharedRoutes,
    pub(crate) retained: Retained,
    pub(crate) statistics: Statistics,
    /// To the task that publishes messages without a connection: those of modules and delayed wills.
    pub(crate) injected: mpsc::Sender<Injected>,
}

impl Realm {
    pub(crate) fn new(tenant: Tenant, broker: Arc<Shared>, injected: mpsc::Sender<Injected>) -> Self {
        Self {
            tenant,
            broker,
            registry: Registry::default(),
            ended: Arc::default(),
            tree: TopicTree::default(),
            shared_routes: SharedRoutes::default(),
            retained: Retained::default(),
            statistics: Statistics::default(),
            injected,
        }
    }

    /// Records a change of the tenant's durable state.
    pub(crate) fn record(&self, change: Change) {
        self.broker.store.record(&self.tenant, change);
    }

    /// Ends `session`, whose `seat` is held and emptied, and publishes the will that was waiting for that.
    pub(crate) fn end_session(self: &Arc<Self>, session: &Arc<Session>, seat: &mut Seat) {
        // Its end is recorded before another session can have its name.
        let will = session.end(self, seat);
        // Publishers may know the session for a while yet.
        *seat = Seat::default();
        self.registry.remove(session);
        if let Some(will) = will {
            self.publish_later(will);
        }
    }

    /// Ends the session whose client has been away longest, to make room for another. `false`: every client is there.
    pub(crate) fn end_longest_away(self: &Arc<Self>) -> bool {
        let (mut held, mut ended) = (Vec::new(), false);
        while let Some(session) = self.registry.take_longest_away() {
            let Ok(mut seat) = Arc::clone(session.seat()).try_lock_owned() else {
                // Who holds the seat is about to be connected, or only looks at what waits: then it may be its turn later.
                held.push(session);
                continue;
            };
            if session.is_connected() || session.is_closed() {
                continue;
            }
            let client = Shown(&session.client_id);
            tracing::info!(%client, "its session was ended: there are as many as may be, and it was away longest");
            self.end_session(&session, &mut seat);
            ended = true;
            break;
        }
        self.registry.put_back_away(held);
        ended
    }

    /// The session lives on without a connection, which ended so long ago: starts the timer of its end.
    pub(crate) fn start_expiry(self: &Arc<Self>, session: &Arc<Session>, gone: Duration) {
        let gone_ms = u64::try_from(gone.as_millis()).unwrap_or(u64::MAX);
        self.registry.went_away(session, now_ms().saturating_sub(gone_ms));
        let expiry = session.expiry();
        if expiry != u32::MAX {
            let delay = Duration::from_secs(expiry.into()).saturating_sub(gone);
            self.start_timer(Due::Expiry(session.away().0), session, delay);
        }
    }

    fn start_timer(self: &Arc<Self>, due: Due, session: &Arc<Session>, delay: Duration) {
        if let Some(timer) = self.broker.timers.start(delay, due, self, session) {
            session.keep_timer(timer);
        }
    }

    /// Keeps `will` until its delay has passed or the session ends.
    pub(crate) fn start_will(self: &Arc<Self>, session: &Arc<Session>, will: LateWill, delay: Duration) {
        session.keep_will(will, delay);
        self.start_timer(Due::Will, session, delay);
    }

    /// A timer of `session` has run out.
    pub(crate) fn due(self: &Arc<Self>, due: Due, session: &Arc<Session>) {
        match due {
            Due::Will => {
                if let Some(will) = session.take_will() {
                    self.publish_later(will);
                }
            }
            // A timer that was started while its client came back is of an absence that is over.
            Due::Expiry(away_since) if away_since != session.away().0 => {}
            Due::Expiry(_) => {
                // Who holds the seat is, or is about to be, connected. Whoever asks for it while it is held here
                // finds the session ended and gets a new one.
                let Ok(mut seat) = Arc::clone(session.seat()).try_lock_owned() else {
                    // Or it is only looked at, or the connection is refused: then the session's time is still up.
                    if !session.is_connected() {
                        self.start_timer(due, session, AGAIN);
                    }
                    return;
                };
                if !session.is_connected() {
                    self.end_session(session, &mut seat);
                }
                drop(seat);
            }
        }
    }

    /// Publishes a will that has no connection any more, when the tenant's queue has room.
    pub(crate) fn publish_later(self: &Arc<Self>, will: LateWill) {
        self.broker.metrics.wills.increment(1);
        let LateWill { message, recorded, account } = will;
        let will = Injected { message: will::renewed(&self.broker, message), will: recorded };
        if let Err(mpsc::error::TrySendError::Full(will)) = self.injected.try_send(will) {
            let injected = self.injected.clone();
            self.broker.tasks.spawn(async move {
                // It fails only when the broker has stopped.
                injected.send(will).await.ok();
                drop(account);
            });
        }
    }
}

/// The realm of a broker without hooks that keeps nothing.
#[cfg(test)]
pub(crate) fn test_realm(config: crate::BrokerConfig) -> Arc<Realm> {
    let (hooks, store) = (Arc::new(tidegate_event::NoHooks), Arc::new(tidegate_event::VolatileStore));
    let broker = crate::Broker::new(config, Arc::default(), hooks, store);
    broker.unwrap_or_else(|error| panic!("{error}")).default_realm()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn away(realm: &Arc<Realm>, number: u64, since_ms: u64) -> Arc<Session> {
        let session = Arc::new(Session::new(number, format!("c{number}").into(), 0, 60));
        realm.registry.restore(Arc::clone(&session));
        realm.registry.went_away(&session, since_ms);
        session
    }

    /// Who gave the messages of shared subscriptions away held the seat for a moment, and the session was never ended for
    /// another.
    #[tokio::test]
    async fn a_session_whose_seat_is_held_when_room_is_made_makes_room_later() {
        let realm = test_realm(crate::BrokerConfig::default());
        let (first, second) = (away(&realm, 1, 1), away(&realm, 2, 2));
        let seat = first.seat().try_lock().unwrap();
        assert!(realm.end_longest_away());
        assert!(second.is_closed() && !first.is_closed());
        drop(seat);
        assert!(realm.end_longest_away());
        assert!(first.is_closed() && !realm.end_longest_away());
    }

    /// A client came back just when its session was to end, and went again: the session ended a second later.
    #[tokio::test]
    async fn a_session_ends_by_the_timer_of_its_clients_last_absence_alone() {
        let realm = test_realm(crate::BrokerConfig::default());
        let session = away(&realm, 1, 1);
        let timer = Due::Expiry(session.away().0);
        session.connect(&realm);
        session.disconnect(&realm, std::iter::empty());
        realm.start_expiry(&session, Duration::ZERO);
        realm.due(timer, &session);
        assert!(!session.is_closed());
        realm.due(Due::Expiry(session.away().0), &session);
        assert!(session.is_closed());
    }
}
