//! All stores of a process: connectors opened from a configuration, and the actions bound to hooks.
//!
//! A configuration is replaced whole while the process serves. [`Stores::prepare`] opens what is new beside what there
//! is, and may fail without a trace; [`Stores::commit`] puts it in its place. Connectors whose options are the same are
//! kept, with their writers and queues. One that is changed or gone finishes first what it has (`retire`), and its
//! successor writes after it: nothing is lost and nothing overtakes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tidegate_event::{Control, Hook, IdSource, Node, StorageError};
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actions::Action;
use crate::backend::{Limits, Schema};
use crate::buffer::{BufferSpace, Spill};
use crate::config::{Diagnostic, HookLine, PoolConfig, StoreConfig};
use crate::connector::Connector;
use crate::dead_letter::DeadLetters;
use crate::metrics::{ConnectorMetrics, LastError};
use crate::opened::Opened;
use crate::retire::retire;
use crate::statement::TemplateCache;
use crate::turn::{Predecessor, Turn};
use crate::writer::{BatchLimits, Budget, Writer, WriterParts};

/// How long a new connector's database may take to say whether it answers, before it is used all the same.
const FIRST_CHECK: Duration = Duration::from_secs(5);

/// Bytes of a batch when the memory budget is very small.
const LEAST_BATCH: usize = 64 << 10;

/// Limits and places that are not part of a pool's options.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Where `dead-letters.jsonl` goes. Default `data`.
    pub data_dir: PathBuf,
    /// Memory of operations that wait for their store, over all connectors: half of it common, half in equal
    /// shares. When it is used up, publishers wait. Default 64 MiB.
    pub memory_budget_bytes: usize,
    /// Operations in one batch. Default 4,096.
    pub batch_operations: usize,
    /// Bytes in one batch; less where the batches of all shards would pass the memory budget. Default 8 MiB.
    pub batch_bytes: usize,
    /// How long a look-up is tried again while its store is down. Default 30 s.
    pub read_deadline: Duration,
    /// How long a custom or direct statement may run. Default 30 s.
    pub statement_timeout: Duration,
    /// Bytes of a query's result. Default 16 MiB.
    pub max_result_bytes: usize,
    /// Size at which the dead-letter file is rotated. Default 64 MiB.
    pub dead_letter_bytes: u64,
    /// Where operations wait on disk while their store is down. Default none: they wait in memory, and their publishers
    /// with them.
    pub buffer: Option<Arc<dyn BufferSpace>>,
    /// Where the ids of this node's messages come from: a message that comes behind a newer one of its topic gets another,
    /// where ids are positions. Default one of its own.
    pub ids: Arc<IdSource>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            memory_budget_bytes: 64 << 20,
            batch_operations: 4_096,
            batch_bytes: 8 << 20,
            read_deadline: Duration::from_secs(30),
            statement_timeout: Duration::from_secs(30),
            max_result_bytes: 16 << 20,
            dead_letter_bytes: 64 << 20,
            buffer: None,
            ids: Arc::new(IdSource::new(&Node::default())),
        }
    }
}

/// The open stores. [`tidegate_event::Storage`] is implemented for guests.
pub struct Stores {
    current: ArcSwap<Opened>,
    options: StoreOptions,
    budget: Budget,
    pub(crate) dead_letters: Arc<DeadLetters>,
    pub(crate) templates: TemplateCache,
    /// Configurations follow each other.
    changing: Arc<tokio::sync::Mutex<()>>,
    /// Connectors that are changed or gone and have something left to do.
    retiring: TaskTracker,
    /// When each of them is done, by name: one that comes back under the same name, at once or later, begins after it.
    turns: Mutex<HashMap<String, Turn>>,
    /// Whom requests of databases for subscriptions go to.
    control: Mutex<Option<Arc<dyn Control>>>,
    stopping: CancellationToken,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let current = self.current.load();
        f.debug_struct("Stores")
            .field("connectors", &current.names())
            .field("actions", &current.actions)
            .finish_non_exhaustive()
    }
}

/// A configuration, opened and not yet in use. No other can be prepared meanwhile.
pub struct Prepared {
    next: Opened,
    /// What was opened for it. None of them writes, or empties a buffer, before it is used.
    fresh: Vec<Fresh>,
    changes: Changes,
    _only: OwnedMutexGuard<()>,
}

/// What a configuration changes: names of connectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New ones.
    pub added: Vec<String>,
    /// Those with other options.
    pub changed: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("changes", &self.changes).finish_non_exhaustive()
    }
}

impl Prepared {
    /// One action per hook line, ordered by hook, then number.
    pub fn actions(&self) -> Vec<Arc<Action>> {
        self.next.actions.clone()
    }

    /// What is different.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Closes what was opened for it.
    pub async fn discard(self) {
        discard(self.fresh).await;
    }
}

/// A connector that nobody has used yet.
struct Fresh {
    connector: Arc<Connector>,
    /// Its turn comes when this is dropped.
    predecessor: Predecessor,
    /// Why its database could not be reached, if it could not.
    unreachable: Option<String>,
    /// Whether it takes the place of another, whose metrics it goes on with.
    replaces: bool,
}

impl Fresh {
    /// It is used from now on: what its first check found counts.
    fn check_in(&self) {
        let Connector { name, metrics, .. } = &*self.connector;
        match &self.unreachable {
            None => {
                if metrics.health.set_up() && self.replaces {
                    tracing::info!(connector = %name, "store is up");
                }
            }
            Some(error) => {
                metrics.failed(error);
                // Said now: the first write finds it down already.
                if metrics.health.set_down() {
                    tracing::warn!(connector = %name, %error, "store is down: operations wait and are tried again");
                }
            }
        }
    }
}

/// Closes connectors that nobody has used.
async fn discard(fresh: Vec<Fresh>) {
    for Fresh { connector, predecessor, .. } in fresh {
        connector.writer.close(Duration::from_secs(1)).await;
        connector.backend.close().await;
        // Only now: its turn must not come.
        drop(predecessor);
    }
}

/// What a connector is doing.
#[derive(Clone, Debug)]
pub struct ConnectorReport {
    /// `kind:pool`.
    pub name: String,
    /// Whether its database answered last time.
    pub is_up: bool,
    /// Operations that wait for a batch.
    pub queued: u64,
    /// Operations that are durable in the database.
    pub stored: u64,
    /// Operations refused for good: they are dead letters.
    pub refused: u64,
    /// Operations given up; their publishers were not told that they are stored.
    pub abandoned: u64,
    /// Calls that the database did not answer, or refused.
    pub errors: u64,
    /// The last of them.
    pub last_error: Option<LastError>,
    /// Whether it waits until the connector in whose place it is has written what it had.
    pub waits: bool,
}

impl Stores {
    /// Connects every pool and lets the databases check custom statements. A pool that cannot be reached now is
    /// tried again; one that can never be opened is an error. Inside a tokio runtime.
    ///
    /// # Errors
    /// Every pool that can never be opened and every statement that its database refuses, with their places.
    pub async fn open(
        config: &StoreConfig,
        node: Arc<Node>,
        options: StoreOptions,
    ) -> Result<Arc<Self>, Vec<Diagnostic>> {
        let letters = options.data_dir.join("dead-letters.jsonl");
        let stores = Self {
            current: ArcSwap::default(),
            budget: Budget::new(options.memory_budget_bytes, config.pools.len()),
            dead_letters: Arc::new(DeadLetters::new(letters, options.dead_letter_bytes)),
            options,
            templates: TemplateCache::default(),
            changing: Arc::default(),
            retiring: TaskTracker::new(),
            turns: Mutex::default(),
            control: Mutex::default(),
            stopping: CancellationToken::new(),
        };
        let prepared = stores.prepare(config).await?;
        stores.commit(prepared);
        tracing::debug!(node = node.name(), ?stores, "stores opened");
        Ok(Arc::new(stores))
    }

    /// Opens what `config` has and the configuration in use has not, and makes its actions. Nothing that is in use
    /// changes. Waits while another configuration is prepared.
    ///
    /// # Errors
    /// As [`Self::open`]; what was opened is closed.
    pub async fn prepare(&self, config: &StoreConfig) -> Result<Prepared, Vec<Diagnostic>> {
        let only = Arc::clone(&self.changing).lock_owned().await;
        let before = self.current.load_full();
        let budget = self.budget.divided(self.options.memory_budget_bytes, config.pools.len());
        let (mut next, mut fresh) = (Opened::default(), Vec::new());
        let (mut changes, mut findings) = (Changes::default(), Vec::new());
        for pool in &config.pools {
            let old = before.find(&pool.connector());
            if let Some(old) = old.filter(|old| old.is_opened_with(pool)) {
                next.add(Arc::clone(old));
                continue;
            }
            match self.connect(pool, old, &budget).await {
                Ok(opened) => {
                    let list = if opened.replaces { &mut changes.changed } else { &mut changes.added };
                    list.push(opened.connector.name.clone());
                    next.add(Arc::clone(&opened.connector));
                    fresh.push(opened);
                }
                Err(finding) => findings.push(finding),
            }
        }
        let is_gone = |old: &&Arc<Connector>| next.find(&old.name).is_none();
        changes.removed = before.connectors.iter().filter(is_gone).map(|old| old.name.clone()).collect();
        let mut lines: Vec<&HookLine> = config.hooks.iter().collect();
        lines.sort_by_key(|line| (line.hook, line.n));
        for line in lines {
            next.add_action(line, &mut findings).await;
        }
        if findings.is_empty() {
            return Ok(Prepared { next, fresh, changes, _only: only });
        }
        // Nothing was queued yet: there is nothing to lose.
        discard(fresh).await;
        Err(findings)
    }

    /// Opens a pool; `old` is the connector whose place it is going to take.
    async fn connect(
        &self,
        pool: &PoolConfig,
        old: Option<&Arc<Connector>>,
        budget: &Budget,
    ) -> Result<Fresh, Diagnostic> {
        let (name, options) = (pool.connector(), &self.options);
        let Some(open) = pool.kind.open else { return Err(pool.place.error(pool.kind.no_driver())) };
        let limits = Limits {
            statement_timeout: options.statement_timeout,
            max_result_bytes: options.max_result_bytes,
        };
        if let Some(space) = self.space() {
            // Should that fail, nothing may be written past what is there.
            space.extent(&name).await.map_err(|error| pool.place.error(format!("{name}: {error}")))?;
        }
        let opened = open(pool, limits).await;
        let backend = opened.map_err(|error| pool.place.error(format!("{name}: {error}")))?;
        let metrics = match old {
            Some(old) => Arc::clone(&old.metrics),
            None => Arc::new(ConnectorMetrics::new(&name)),
        };
        // Nothing is said of it yet: this configuration may still be refused, and another one is in use.
        let unreachable = match tokio::time::timeout(FIRST_CHECK, backend.check()).await {
            Ok(checked) => checked.err().map(|error| error.to_string()),
            Err(_) => Some(format!("no answer within {FIRST_CHECK:?}")),
        };
        let (predecessor, turn) = Turn::after();
        let spill = Spill::new(&name, options.buffer.clone(), Arc::clone(&metrics));
        let parts = WriterParts {
            connector: name.clone(),
            backend: Arc::clone(&backend),
            metrics: Arc::clone(&metrics),
            dead_letters: Arc::clone(&self.dead_letters),
            limits: BatchLimits {
                operations: options.batch_operations,
                // Of a batch there are copies while it is written, in the driver and on its way; of all shards together
                // they are not to be more than the budget.
                bytes: options
                    .batch_bytes
                    .min(options.memory_budget_bytes / (4 * backend.shards().max(1)))
                    .max(LEAST_BATCH),
            },
            ids: Arc::clone(&options.ids),
            turn: turn.clone(),
            knock: Arc::default(),
        };
        let connector = Connector {
            name,
            number: Connector::next_number(),
            kind: pool.kind,
            pool: pool.clone(),
            backend,
            writer: Writer::start(parts, budget, spill),
            metrics,
            online: old.map(|old| Arc::clone(&old.online)).unwrap_or_default(),
            turn,
            read_deadline: options.read_deadline,
            listener: Mutex::default(),
            successor: OnceLock::new(),
        };
        Ok(Fresh { connector: Arc::new(connector), predecessor, unreachable, replaces: old.is_some() })
    }

    /// Puts a configuration in the place of the one in use. Install [`Prepared::actions`] first, so that new events
    /// find them; those in flight finish on the old ones, and then the connectors that are gone or changed write what
    /// they have and close. Inside a tokio runtime.
    pub fn commit(&self, prepared: Prepared) -> Changes {
        let Prepared { next, fresh, changes, _only } = prepared;
        next.tracked.iter().for_each(|connector| connector.online.track());
        fresh.iter().for_each(Fresh::check_in);
        let next = Arc::new(next);
        let before = self.current.swap(Arc::clone(&next));
        let mut turns = self.turns.lock();
        turns.retain(|_, turn| !turn.has_come());
        for old in &before.connectors {
            match next.find(&old.name) {
                Some(kept) if Arc::ptr_eq(kept, old) => continue,
                Some(successor) => old.succeeded_by(successor),
                None => {}
            }
            let (predecessor, turn) = Turn::after();
            turns.insert(old.name.clone(), turn);
            let users = before.users_of(old);
            self.retiring.spawn(retire(Arc::clone(old), users, predecessor, self.stopping.clone()));
        }
        for Fresh { connector, predecessor, .. } in fresh {
            match turns.get(&connector.name).cloned() {
                None => drop(predecessor),
                Some(turn) => {
                    let handed_on = async move {
                        turn.comes().await;
                        drop(predecessor);
                    };
                    self.retiring.spawn(handed_on);
                }
            }
        }
        drop(turns);
        self.listen_now();
        changes
    }

    /// One action per hook line, ordered by hook, then number.
    pub fn actions(&self) -> Vec<Arc<Action>> {
        self.current.load().actions.clone()
    }

    /// The actions of one hook, in their order.
    pub fn actions_of(&self, hook: Hook) -> impl Iterator<Item = Arc<Action>> {
        self.actions().into_iter().filter(move |action| action.hook() == hook)
    }

    /// From now on takes requests for subscriptions from the databases that give some, and makes them with `control`,
    /// until the stores are closed. Inside a tokio runtime.
    pub fn listen(&self, control: Arc<dyn Control>) {
        *self.control.lock() = Some(control);
        self.listen_now();
    }

    /// Has the connectors in use listen, those that do not yet.
    fn listen_now(&self) {
        let control = self.control.lock().clone();
        if let Some(control) = control {
            self.current.load().connectors.iter().for_each(|connector| connector.listen(&control));
        }
    }

    /// Asks a connector's database whether it answers ("test connection").
    ///
    /// # Errors
    /// No such connector, or what the database said.
    pub async fn check(&self, connector: &str) -> Result<(), StorageError> {
        let connector = self.connector(connector)?;
        let checked = connector.backend.check().await.map_err(|error| {
            connector.metrics.failed(&error);
            error.into_storage(&connector.name)
        });
        if checked.is_ok() && connector.metrics.health.set_up() {
            tracing::info!(connector = %connector.name, "store is up");
        }
        checked
    }

    /// What every connector is doing.
    pub fn report(&self) -> Vec<ConnectorReport> {
        let report = |connector: &Arc<Connector>| {
            let metrics = &connector.metrics;
            ConnectorReport {
                name: connector.name.clone(),
                is_up: metrics.health.is_up(),
                queued: u64::try_from(metrics.queued.now()).unwrap_or(0),
                stored: metrics.stored.total(),
                refused: metrics.refused.total(),
                abandoned: metrics.abandoned.total(),
                errors: metrics.errors(),
                last_error: metrics.last_error(),
                waits: !connector.turn.has_come(),
            }
        };
        self.current.load().connectors.iter().map(report).collect()
    }

    /// Makes the tables of a connector's database, where its driver does so. Gives words for a person.
    ///
    /// # Errors
    /// No such connector, the driver does not, or what the database said.
    pub async fn apply_schema(&self, connector: &str) -> Result<String, StorageError> {
        let kind = self.connector(connector)?.kind;
        match kind.schema {
            Schema::ByItself { name, .. } => {
                self.check(connector).await?;
                Ok(format!("the tables of {name} are there: the driver makes them"))
            }
            Schema::Nothing(why) => Ok(format!("nothing to do: {why}")),
            Schema::File { name, .. } => Err(StorageError::InvalidArgument(format!(
                "the driver of {} does not make tables: `tidegate schema print {}` prints {name}, for the database's own tools",
                kind.name, kind.name
            ))),
        }
    }

    /// Writes what is queued, until the deadline, and closes every connector.
    ///
    /// # Errors
    /// Operations had to be given up; they were never acknowledged, so their publishers send them again.
    pub async fn close(&self, deadline: Duration) -> Result<(), StorageError> {
        self.stopping.cancel();
        self.retiring.close();
        self.control.lock().take();
        let current = self.current.load_full();
        let closing = current.connectors.iter().map(|connector| async {
            connector.end_listening();
            let abandoned = connector.writer.close(deadline).await;
            connector.backend.close().await;
            if abandoned == 0 {
                return Ok(());
            }
            tracing::error!(connector = %connector.name, abandoned, "operations were given up at shutdown");
            Err(StorageError::Unavailable {
                connector: connector.name.clone(),
                reason: format!("{abandoned} operations were given up at shutdown"),
            })
        });
        let retired = async {
            if tokio::time::timeout(deadline, self.retiring.wait()).await.is_err() {
                tracing::error!("connectors that were taken out did not end within the deadline");
            }
        };
        let (results, ()) = tokio::join!(join_all(closing), retired);
        results.into_iter().collect()
    }

    /// The connector called `name`: `kind:pool`, or a pool name that only one back end has.
    pub(crate) fn connector(&self, name: &str) -> Result<Arc<Connector>, StorageError> {
        let found = self.current.load().find(name).cloned();
        found.ok_or_else(|| StorageError::NoSuchConnector(name.to_owned()))
    }

    /// All connectors.
    pub(crate) fn connectors(&self) -> Vec<Arc<Connector>> {
        self.current.load().connectors.clone()
    }

    /// Where operations wait on disk.
    pub(crate) fn space(&self) -> Option<&Arc<dyn BufferSpace>> {
        self.options.buffer.as_ref()
    }

    /// The names of all connectors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.current.load().names()
    }
}
