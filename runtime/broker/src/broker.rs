//! The broker as the rest of the process sees it: made, told to listen, shut down.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};
use tidegate_event::{
    Change, Control, Gate, Hooks, IdSource, Node, OpenGate, Seldom, SessionStore, SessionStoreError, Tenant,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::BrokerConfig;
use crate::control::BrokerControl;
use crate::guard::Guard;
use crate::limits::QueueLimits;
use crate::limits::budget::Budget;
use crate::listener::{self, Admission, Arrival, ListenError, ListenerConfig};
use crate::metrics::Metrics;
use crate::pipeline::inject;
use crate::realm::Realm;
use crate::reconnects::Reconnects;
use crate::restore::{self, Overdue};
use crate::route::ALL_CACHED;
use crate::share;
use crate::sys;
use crate::timers::Timers;

/// Expired retained messages of a tenant that are deleted before others have their turn.
const SWEPT_AT_ONCE: usize = 500;

/// How far the broker is in stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Not at all.
    Running,
    /// Nothing is read any more; what was taken is finished.
    Draining,
    /// The deadline has passed: connections are closed.
    Closing,
}

/// Log lines that clients can cause as often as they like.
#[derive(Default)]
pub(crate) struct Lines {
    /// A CONNECT was refused.
    pub(crate) refused: Seldom,
    /// A CONNECT could not be read.
    pub(crate) malformed: Seldom,
    /// A connection was closed because its client broke the protocol.
    pub(crate) protocol: Seldom,
    /// A subscription was refused.
    pub(crate) subscription: Seldom,
    /// A message was not retained.
    pub(crate) retained: Seldom,
}

/// What all tenants own. Each keeps the broker in memory that keeps them: they go when it has stopped.
#[derive(Default)]
struct Realms {
    by_tenant: HashMap<Tenant, Arc<Realm>, RandomState>,
    has_stopped: bool,
}

/// What everything in the broker shares.
pub(crate) struct Shared {
    pub(crate) config: BrokerConfig,
    pub(crate) ids: Arc<IdSource>,
    pub(crate) guard: Guard,
    pub(crate) reconnects: Reconnects,
    pub(crate) hooks: Arc<dyn Hooks>,
    pub(crate) store: Arc<dyn SessionStore>,
    /// Whether the store keeps anything.
    pub(crate) keeps: bool,
    pub(crate) metrics: Metrics,
    pub(crate) budget: Arc<Budget>,
    /// Memory of what publishers know of who subscribes to their topics.
    pub(crate) routes: Arc<Budget>,
    pub(crate) started: Instant,
    pub(crate) timers: Timers,
    /// Listeners and connections, with what these leave behind.
    pub(crate) tasks: TaskTracker,
    /// The tasks that serve all connections and end after them.
    services: TaskTracker,
    /// Nothing new is accepted.
    pub(crate) stopping: CancellationToken,
    /// Nothing is waited for any more.
    pub(crate) closing: CancellationToken,
    /// Connections are gone: finish what is queued and end.
    services_stopping: CancellationToken,
    phase: AtomicU8,
    pub(crate) connection_numbers: AtomicU64,
    pub(crate) session_numbers: AtomicU64,
    pub(crate) connections: AtomicUsize,
    pub(crate) admission: Admission,
    pub(crate) lines: Lines,
    realms: RwLock<Realms>,
    /// What was due when the process was away, until [`Broker::begin`].
    overdue: Mutex<Option<Vec<Overdue>>>,
    default_tenant: Tenant,
}

impl Shared {
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Closing,
        }
    }

    /// The tenant of a new connection. All of them are the default tenant's: nothing tells tenants apart yet.
    pub(crate) fn tenant_of(&self, _username: Option<&ByteString>, _peer: SocketAddr) -> Tenant {
        self.default_tenant.clone()
    }

    /// The tenant's part of the broker, if anybody has used it.
    pub(crate) fn known_realm(&self, tenant: &Tenant) -> Option<Arc<Realm>> {
        self.realms.read().by_tenant.get(tenant).cloned()
    }

    /// The tenant's part of the broker, made at first use.
    pub(crate) fn realm(self: &Arc<Self>, tenant: &Tenant) -> Arc<Realm> {
        if let Some(realm) = self.known_realm(tenant) {
            return realm;
        }
        let mut realms = self.realms.write();
        if let Some(realm) = realms.by_tenant.get(tenant) {
            return Arc::clone(realm);
        }
        let (sender, receiver) = mpsc::channel(self.config.max_commands.max(1));
        let realm = Arc::new(Realm::new(tenant.clone(), Arc::clone(self), sender));
        if realms.has_stopped {
            // Nothing is done for it any more; it goes with whoever has asked.
            return realm;
        }
        self.services.spawn(inject::run(Arc::clone(&realm), receiver, self.services_stopping.clone()));
        realms.by_tenant.insert(tenant.clone(), Arc::clone(&realm));
        realm
    }

    /// What one session's queue may hold.
    pub(crate) fn queue_limits(&self) -> QueueLimits<'_> {
        QueueLimits {
            messages: self.config.queue_limit(),
            bytes: self.config.max_queued_bytes,
            budget: &self.budget,
        }
    }

    pub(crate) fn all_realms(&self) -> Vec<Arc<Realm>> {
        self.realms.read().by_tenant.values().cloned().collect()
    }

    /// Enters `phase` and wakes every connection to see it.
    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
        for realm in self.all_realms() {
            realm.registry.all().iter().for_each(|session| session.nudge());
        }
    }

    /// The broker has stopped: nothing that keeps it in memory is kept.
    fn forget_realms(&self) {
        let mut realms = self.realms.write();
        realms.has_stopped = true;
        let forgotten = std::mem::take(&mut realms.by_tenant);
        drop(realms);
        let overdue = self.overdue.lock().take();
        drop((forgotten, overdue));
    }

    /// Nobody can stop the broker any more who would wait for it.
    fn stop_at_once(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.closing.cancel();
        self.enter(Phase::Closing);
        self.services_stopping.cancel();
        self.services.close();
        self.forget_realms();
    }

    /// Done once a minute. Gives whether all is done.
    fn sweep(&self) -> bool {
        let mut all = true;
        for realm in self.all_realms() {
            realm.shared_routes.forget_stale(&realm.tree);
            let expired = realm.retained.sweep_and(SWEPT_AT_ONCE, |topic| {
                if self.keeps {
                    realm.record(Change::RetainCleared { topic: topic.clone() });
                }
            });
            all &= expired.len() < SWEPT_AT_ONCE;
            self.metrics.retained.decrement(expired.len() as f64);
            // What waits for clients that are away and has expired takes memory from others.
            realm.registry.all().iter().for_each(|session| session.sweep(&realm));
        }
        all
    }
}

/// An MQTT 3.1, 3.1.1 and 5 broker. Cheap to clone; all clones are one broker. When the last is dropped it stops at once, as
/// after a [`Self::shutdown`] whose deadline has passed.
#[derive(Clone)]
pub struct Broker {
    shared: Arc<Shared>,
    _last: Arc<Last>,
}

/// What all clones of a [`Broker`] have, and nothing else: dropped with the last of them.
struct Last(Arc<Shared>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.stop_at_once();
    }
}

impl Broker {
    /// Makes a broker that raises its events at `hooks` and records its durable state in `store`, and restores
    /// what `store` has. It listens nowhere yet. Call it inside a tokio runtime, after the metrics recorder is
    /// installed.
    ///
    /// # Errors
    /// [`SessionStoreError`] when the durable state cannot be read.
    pub fn new(
        config: BrokerConfig,
        node: Arc<Node>,
        hooks: Arc<dyn Hooks>,
        store: Arc<dyn SessionStore>,
    ) -> Result<Self, SessionStoreError> {
        Self::with_ids(config, Arc::new(IdSource::new(&node)), hooks, store)
    }

    /// The same, with messages' ids from a source that others have, too.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_ids(
        config: BrokerConfig,
        ids: Arc<IdSource>,
        hooks: Arc<dyn Hooks>,
        store: Arc<dyn SessionStore>,
    ) -> Result<Self, SessionStoreError> {
        Self::with_gate(config, ids, Arc::new(OpenGate), hooks, store)
    }

    /// The same, with a gate that says which clients may connect, publish and subscribe, before `hooks` are asked.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_gate(
        config: BrokerConfig,
        ids: Arc<IdSource>,
        gate: Arc<dyn Gate>,
        hooks: Arc<dyn Hooks>,
        store: Arc<dyn SessionStore>,
    ) -> Result<Self, SessionStoreError> {
        let restored = store.restore()?;
        let shared = Arc::new(Shared {
            admission: Admission::new(&config),
            lines: Lines::default(),
            reconnects: Reconnects::new(&config),
            guard: Guard::new(gate),
            ids,
            hooks,
            keeps: store.keeps(),
            store,
            metrics: Metrics::new(),
            budget: Arc::new(Budget::new(config.queue_budget_bytes)),
            routes: Arc::new(Budget::new(ALL_CACHED)),
            started: Instant::now(),
            config,
            timers: Timers::default(),
            tasks: TaskTracker::new(),
            services: TaskTracker::new(),
            stopping: CancellationToken::new(),
            closing: CancellationToken::new(),
            services_stopping: CancellationToken::new(),
            phase: AtomicU8::new(Phase::Running as u8),
            connection_numbers: AtomicU64::new(1),
            session_numbers: AtomicU64::new(restored.last_session + 1),
            connections: AtomicUsize::new(0),
            realms: RwLock::default(),
            overdue: Mutex::default(),
            default_tenant: Tenant::default(),
        });
        let overdue = restore::apply(&shared, restored);
        *shared.overdue.lock() = Some(overdue);
        let counted = Arc::clone(&shared);
        shared.services.spawn(async move {
            tokio::select! {
                () = sys::run(&counted) => {}
                () = share::run(&counted) => {}
                () = counted.services_stopping.cancelled() => {}
            }
        });
        Ok(Self { _last: Arc::new(Last(Arc::clone(&shared))), shared })
    }

    /// Publishes the wills that became due while the process was away, and lets those that wait, and sessions, run out from
    /// now on. Call it when the handlers are bound: it is the clients' gate, hooks and modules that say what becomes of a
    /// will. Only the first call does anything; [`Self::listen`] and [`Self::serve`] make it.
    pub fn begin(&self) {
        let shared = &self.shared;
        let Some(overdue) = shared.overdue.lock().take() else { return };
        for Overdue { realm, will } in overdue {
            realm.publish_later(will);
        }
        let timed = Arc::clone(shared);
        shared.services.spawn(async move {
            tokio::select! {
                () = timed.timers.run(|| timed.sweep()) => {}
                () = timed.services_stopping.cancelled() => {}
            }
        });
    }

    /// Listens as `listener` says, an address for plain MQTT over TCP, and gives the address bound (port 0 = any). Can be
    /// called several times. Connections are accepted by a task of their own.
    ///
    /// # Errors
    /// [`ListenError`] when the address cannot be bound or the listener's certificates cannot be used.
    pub async fn listen(&self, listener: impl Into<ListenerConfig>) -> Result<SocketAddr, ListenError> {
        self.begin();
        listener::listen(&self.shared, listener.into()).await
    }

    /// Serves one client over `stream`, as if a listener had accepted it; `arrival` says what is known of it, at least the
    /// address of its peer. Everything happens in the future, which ends when the connection has ended and what it had
    /// begun is complete; [`Self::shutdown`] ends it, too.
    pub fn serve<S, A>(&self, stream: S, arrival: A) -> impl Future<Output = ()> + Send + use<S, A>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Into<Arrival>,
    {
        self.begin();
        let serving = listener::serve(Arc::clone(&self.shared), Box::new(stream), arrival.into());
        self.shared.tasks.track_future(serving)
    }

    /// Where the ids of messages come from. Everything that makes messages of this node must use it: ids of one
    /// node strictly increase only if they have one source.
    pub fn ids(&self) -> Arc<IdSource> {
        Arc::clone(&self.shared.ids)
    }

    /// What handlers may do to clients.
    pub fn control(&self) -> Arc<dyn Control> {
        Arc::new(BrokerControl::new(Arc::clone(&self.shared)))
    }

    /// How many network connections there are, those without CONNECT so far included.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many sessions there are, of all tenants, connected or not.
    pub fn sessions(&self) -> usize {
        self.shared.all_realms().iter().map(|realm| realm.registry.len()).sum()
    }

    /// Stops: nothing is accepted or read any more; what was read is handled until `deadline` from now;
    /// acknowledgements are written, MQTT 5 clients are sent DISCONNECT 0x8B (Server shutting down), sockets are
    /// flushed and closed. Returns when all that has happened, a little after the deadline at the latest.
    pub async fn shutdown(&self, deadline: Duration) {
        let shared = &self.shared;
        let ends = Instant::now() + deadline;
        shared.stopping.cancel();
        shared.enter(Phase::Draining);
        shared.tasks.close();
        if tokio::time::timeout_at(ends, shared.tasks.wait()).await.is_err() {
            tracing::warn!("handlers have not finished by the deadline: closing the connections");
            shared.closing.cancel();
            shared.enter(Phase::Closing);
            let grace = shared.config.flush_timeout + Duration::from_millis(500);
            if tokio::time::timeout(grace, shared.tasks.wait()).await.is_err() {
                tracing::warn!(connections = self.connections(), "connections are left open");
            }
        }
        shared.services_stopping.cancel();
        shared.services.close();
        let grace = ends.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        if tokio::time::timeout(grace, shared.services.wait()).await.is_err() {
            tracing::warn!("messages of modules are left unhandled");
        }
        shared.closing.cancel();
        shared.forget_realms();
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Broker {
    /// The default tenant's part of it, for tests that go on without it: it does not stop.
    pub(crate) fn default_realm(&self) -> Arc<Realm> {
        std::mem::forget(self.clone());
        self.shared.realm(&Tenant::default())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tidegate_event::{
        AckJoin, Message, NoHooks, PublishProperties, QoS, Restored, RestoredDelivery, RestoredSession,
        StoredDelivery, StoredSource, VolatileStore, now_ms,
    };
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::limits::budget::Account;
    use crate::session::{LateWill, test_message};

    fn broker() -> Broker {
        let (hooks, store) = (Arc::new(NoHooks), Arc::new(VolatileStore));
        Broker::new(BrokerConfig::default(), Arc::default(), hooks, store).unwrap()
    }

    /// All that `broker` has is freed when its tasks have ended.
    async fn is_freed_without(broker: Broker) {
        let shared = Arc::downgrade(&broker.shared);
        drop(broker);
        let freed = async {
            while shared.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), freed).await.unwrap();
    }

    /// Its tenants kept it, it kept them, and its tasks went on.
    #[tokio::test]
    async fn a_broker_that_is_dropped_stops_and_is_freed() {
        let broker = broker();
        let address = broker.listen("127.0.0.1:0".parse::<SocketAddr>().unwrap()).await.unwrap();
        let (mut near, far) = tokio::io::duplex(1024);
        let serving = tokio::spawn(broker.serve(far, address));
        broker.shared.realm(&Tenant::default());
        let other = broker.clone();
        drop(broker);
        tokio::task::yield_now().await;
        assert!(!other.shared.stopping.is_cancelled() && !serving.is_finished());
        is_freed_without(other).await;
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    }

    /// Wills that were due kept it when it had never begun.
    #[tokio::test]
    async fn a_broker_that_never_began_is_freed() {
        let broker = broker();
        let message = Message::clone(&test_message("t", QoS::AtMostOnce, 1));
        let will = LateWill { message, recorded: None, account: Account::default() };
        let realm = broker.shared.realm(&Tenant::default());
        *broker.shared.overdue.lock() = Some(vec![Overdue { realm, will }]);
        is_freed_without(broker).await;
    }

    /// What a module published afterwards made a tenant anew, which kept the broker.
    #[tokio::test]
    async fn a_broker_that_was_shut_down_is_freed_whatever_comes_later() {
        let broker = broker();
        broker.begin();
        broker.shared.realm(&Tenant::default());
        broker.shutdown(Duration::from_secs(1)).await;
        let realm = broker.shared.realm(&Tenant::default());
        assert!(realm.injected.is_closed());
        drop(realm);
        is_freed_without(broker).await;
    }

    /// A store that has something to begin with, and notes what is to go.
    #[derive(Default)]
    struct Found {
        restored: Restored,
        gone: Mutex<Vec<String>>,
    }

    impl SessionStore for Found {
        fn keeps(&self) -> bool {
            true
        }

        fn restore(&self) -> Result<Restored, SessionStoreError> {
            Ok(self.restored.clone())
        }

        fn record(&self, _: &Tenant, change: Change) {
            let gone = match change {
                Change::RetainCleared { topic } => topic.to_string(),
                Change::Finished { session, number } => format!("delivery {session}/{number}"),
                other => format!("{other:?}"),
            };
            self.gone.lock().push(gone);
        }

        fn together(&self, changes: &mut dyn FnMut()) {
            changes();
        }

        fn durable(&self) -> AckJoin {
            AckJoin::new()
        }

        fn is_behind(&self) -> bool {
            false
        }

        fn health(&self) -> Result<(), SessionStoreError> {
            Ok(())
        }
    }

    /// Nobody comes for what has expired: it is on disk until somebody takes it out.
    #[tokio::test]
    async fn what_had_expired_when_it_was_read_back_leaves_the_durable_state_and_nothing_else_does() {
        let message = |topic: &str, seconds| {
            let properties = PublishProperties { message_expiry: Some(seconds), ..Default::default() };
            Arc::new(Message {
                timestamp_ms: now_ms() - 5_000,
                payload: "x".into(),
                properties: Some(Box::new(properties)),
                ..Message::clone(&test_message(topic, QoS::AtLeastOnce, seconds.into()))
            })
        };
        let queued = |number, seconds| {
            let (message, qos, source) = (message("t", seconds), QoS::AtLeastOnce, StoredSource::Live);
            let (retain, subscription_ids) = (false, None);
            let delivery = StoredDelivery { number, message, qos, retain, source, subscription_ids };
            RestoredDelivery { delivery, sending: None, released: false }
        };
        let session = RestoredSession {
            number: 7,
            tenant: Tenant::default(),
            client: "c".into(),
            owner: None,
            expiry: 100,
            disconnected_at_ms: Some(now_ms()),
            wills: Vec::new(),
            subscriptions: Vec::new(),
            joining: Vec::new(),
            queue: vec![queued(1, 1), queued(2, 100)],
            received: Vec::new(),
        };
        let retained = [("short", 1), ("long", 100)];
        let retained = retained.map(|(topic, seconds)| (Tenant::default(), message(topic, seconds)));
        let restored = Restored { sessions: vec![session], retained: retained.into(), ..Restored::default() };
        let store = Arc::new(Found { restored, ..Found::default() });
        let config = BrokerConfig::default();
        let broker = Broker::new(config, Arc::default(), Arc::new(NoHooks), store.clone()).unwrap();
        assert!(store.gone.lock().is_empty());
        assert!(broker.shared.sweep(), "that was all");
        let mut gone = store.gone.lock().clone();
        gone.sort();
        assert_eq!(gone, ["delivery 7/1", "short"]);
    }
}
