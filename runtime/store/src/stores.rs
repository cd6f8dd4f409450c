//! All stores of a process: connectors opened from a configuration, and the actions bound to hooks.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tidegate_event::{Control, Hook, Node, StorageError};
use tokio::task::JoinSet;

use crate::actions::{Action, Builtin, Work};
use crate::backend::{self, Limits};
use crate::buffer::{BufferSpace, Spill};
use crate::config::{Diagnostic, HookLine, LineAction, PoolConfig, StoreConfig};
use crate::connector::{Connector, OnlineClients};
use crate::dead_letter::DeadLetters;
use crate::metrics::ConnectorMetrics;
use crate::statement::{Template, TemplateCache};
use crate::writer::{BatchLimits, Budget, Writer, WriterParts};

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
    /// Bytes in one batch. Default 8 MiB.
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
        }
    }
}

/// The open stores. [`tidegate_event::Storage`] is implemented for guests.
pub struct Stores {
    connectors: Vec<Arc<Connector>>,
    by_name: HashMap<String, usize>,
    actions: Vec<Arc<Action>>,
    pub(crate) templates: TemplateCache,
    pub(crate) dead_letters: Arc<DeadLetters>,
    pub(crate) space: Option<Arc<dyn BufferSpace>>,
    /// Tasks that take requests from databases; they end with the stores.
    listeners: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.connectors.iter().map(|c| c.name.as_str()).collect();
        f.debug_struct("Stores").field("connectors", &names).field("actions", &self.actions).finish()
    }
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
        let mut findings = Vec::new();
        let limits = Limits {
            statement_timeout: options.statement_timeout,
            max_result_bytes: options.max_result_bytes,
        };
        let budget = Budget::new(options.memory_budget_bytes, config.pools.len());
        let letters = options.data_dir.join("dead-letters.jsonl");
        let dead_letters = Arc::new(DeadLetters::new(letters, options.dead_letter_bytes));
        let mut stores = Self {
            connectors: Vec::new(),
            by_name: HashMap::new(),
            actions: Vec::new(),
            templates: TemplateCache::default(),
            dead_letters: Arc::clone(&dead_letters),
            space: options.buffer.clone(),
            listeners: Mutex::default(),
        };
        for pool in &config.pools {
            match (pool.kind.open)(pool, limits).await {
                Ok(backend) => {
                    let name = pool.connector();
                    let metrics = Arc::new(ConnectorMetrics::new(&name));
                    metrics.up.set(if backend.check().await.is_ok() { 1.0 } else { 0.0 });
                    let parts = WriterParts {
                        connector: name.clone(),
                        backend: Arc::clone(&backend),
                        metrics: Arc::clone(&metrics),
                        dead_letters: Arc::clone(&dead_letters),
                        limits: BatchLimits {
                            operations: options.batch_operations,
                            bytes: options.batch_bytes,
                        },
                        knock: Arc::default(),
                    };
                    let spill = match Spill::open(&name, options.buffer.clone(), Arc::clone(&metrics)).await {
                        Ok(spill) => spill,
                        Err(error) => {
                            findings.push(pool.place.error(format!("{name}: {error}")));
                            continue;
                        }
                    };
                    let writer = Writer::start(parts, &budget, spill);
                    let online = OnlineClients::default();
                    let read_deadline = options.read_deadline;
                    stores.add(pool, Connector { name, backend, writer, metrics, online, read_deadline });
                }
                Err(error) => findings.push(pool.place.error(format!("{}: {error}", pool.connector()))),
            }
        }
        let mut lines: Vec<&HookLine> = config.hooks.iter().collect();
        lines.sort_by_key(|line| (line.hook, line.n));
        for line in lines {
            stores.add_action(line, &mut findings).await;
        }
        tracing::debug!(node = node.name(), ?stores, "stores opened");
        if findings.is_empty() {
            return Ok(Arc::new(stores));
        }
        // Nothing was queued yet: there is nothing to lose.
        if let Err(error) = stores.close(Duration::from_secs(1)).await {
            tracing::debug!(%error, "closing stores that cannot be used");
        }
        Err(findings)
    }

    fn add(&mut self, pool: &PoolConfig, connector: Connector) {
        let index = self.connectors.len();
        self.by_name.insert(connector.name.clone(), index);
        let twin =
            self.connectors.iter().any(|c| c.name.rsplit_once(':').is_some_and(|(_, p)| p == pool.name));
        if twin {
            self.by_name.remove(&pool.name); // the bare name says no longer which
        } else {
            self.by_name.insert(pool.name.clone(), index);
        }
        self.connectors.push(Arc::new(connector));
    }

    async fn add_action(&mut self, line: &HookLine, findings: &mut Vec<Diagnostic>) {
        let name = format!("{}:{}", line.kind.name, line.pool);
        let Some(connector) = self.by_name.get(&name).and_then(|index| self.connectors.get(*index)) else {
            return; // the pool's own error says why
        };
        let (work, what) = match &line.action {
            LineAction::Function(function) => {
                if function.builtin == Builtin::ClientDisconnected {
                    connector.online.track();
                }
                let (builtin, options) = (function.builtin, line.options.clone());
                (Work::Function { builtin, options }, function.name.to_owned())
            }
            LineAction::Statements(texts) => {
                let mut templates = Vec::with_capacity(texts.len());
                for text in texts {
                    match checked(connector, line, text).await {
                        Ok(template) => templates.push(Arc::new(template)),
                        Err(finding) => findings.push(finding),
                    }
                }
                let first: String = texts.first().map(|t| t.chars().take(40).collect()).unwrap_or_default();
                (Work::Custom(templates.into()), format!("{}: {first}", line.kind.statements))
            }
        };
        let label = format!("{name} {what}");
        let connector = Arc::clone(connector);
        self.actions.push(Arc::new(Action::new(
            line.hook,
            line.topic.clone(),
            label,
            work,
            line.ack,
            connector,
        )));
    }

    /// One action per hook line, ordered by hook, then number.
    pub fn actions(&self) -> Vec<Arc<Action>> {
        self.actions.clone()
    }

    /// The actions of one hook, in their order.
    pub fn actions_of(&self, hook: Hook) -> impl Iterator<Item = &Arc<Action>> {
        self.actions.iter().filter(move |action| action.hook() == hook)
    }

    /// From now on takes requests for subscriptions from the databases that give some, and makes them with `control`,
    /// until the stores are closed. Inside a tokio runtime.
    pub fn listen(&self, control: Arc<dyn Control>) {
        for connector in &self.connectors {
            if let Some(requests) = connector.backend.listen(Arc::clone(&control)) {
                self.listeners.lock().spawn(requests);
            }
        }
    }

    /// Asks a connector's database whether it answers ("test connection").
    ///
    /// # Errors
    /// No such connector, or what the database said.
    pub async fn check(&self, connector: &str) -> Result<(), StorageError> {
        let connector = self.connector(connector)?;
        connector.backend.check().await.map_err(|error| error.into_storage(&connector.name))
    }

    /// Writes what is queued, until the deadline, and closes every connector.
    ///
    /// # Errors
    /// Operations had to be given up; they were never acknowledged, so their publishers send them again.
    pub async fn close(&self, deadline: Duration) -> Result<(), StorageError> {
        self.listeners.lock().abort_all();
        let closing = self.connectors.iter().map(|connector| async {
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
        join_all(closing).await.into_iter().collect()
    }

    /// The connector called `name`: `kind:pool`, or a pool name that only one back end has.
    pub(crate) fn connector(&self, name: &str) -> Result<&Arc<Connector>, StorageError> {
        self.by_name
            .get(name)
            .and_then(|index| self.connectors.get(*index))
            .ok_or_else(|| StorageError::NoSuchConnector(name.to_owned()))
    }

    /// All connectors.
    pub(crate) fn connectors(&self) -> &[Arc<Connector>] {
        &self.connectors
    }

    /// The names of all connectors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.connectors.iter().map(|connector| connector.name.clone()).collect()
    }
}

/// A custom statement, compiled, and checked by its database if that can be reached.
async fn checked(connector: &Connector, line: &HookLine, text: &str) -> Result<Template, Diagnostic> {
    let at = |words: String| line.place.error(words);
    let template = Template::compile(text, line.hook, connector.backend.language())
        .map_err(|error| at(error.to_string()))?;
    match connector.backend.prepare(&template).await {
        Ok(()) => {}
        Err(error) if error.is_retryable() => {
            tracing::warn!(connector = %connector.name, %error, statement = text, "statement cannot be checked now");
        }
        Err(error) => return Err(at(backend::refused_statement(line, text, &error))),
    }
    Ok(template)
}
