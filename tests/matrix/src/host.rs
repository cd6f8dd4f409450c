//! The real host, with a store and a broker that are played, and the log it writes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;
use tidegate_event::{
    AckLevel, AckPart, ActionOptions, BoxFuture, Client, Control, ControlError, Event, IdSource, Message,
    Node, Origin, Protocol, QoS, Rows, Scope, SqlValue, Storage, StorageError, Tenant, TopicFilter, now_ms,
};
use tidegate_module::{Host, HostConfig, Module};

/// A host, what is around it, and a folder for modules.
pub struct Bench {
    host: Arc<Host>,
    /// What guests asked the store for: connector and function.
    pub asked: Arc<Mutex<Vec<String>>>,
    folder: TempDir,
}

impl Bench {
    /// With compiled artefacts in `cache`.
    ///
    /// # Errors
    /// The folder or the host cannot be made.
    pub fn new(cache: &Path) -> anyhow::Result<Self> {
        let asked = Arc::default();
        let node = Arc::new(Node::new("matrix@127.0.0.1"));
        let mut config = HostConfig::new(cache, Arc::new(IdSource::new(&node)));
        config.max_instances = 32;
        let host = Host::new(config, node, Arc::new(Store(Arc::clone(&asked))), Arc::new(Nobody))?;
        Ok(Self { host, asked, folder: tempfile::tempdir()? })
    }

    /// Loads the file `wasm` under the name of a guest, with this manifest.
    ///
    /// # Errors
    /// It cannot be copied or does not load.
    pub async fn load(&self, name: &str, wasm: &Path, manifest: &str) -> anyhow::Result<Arc<Module>> {
        let path: PathBuf = self.folder.path().join(format!("{name}.wasm"));
        std::fs::copy(wasm, &path)?;
        std::fs::write(path.with_extension("toml"), manifest)?;
        Ok(self.host.load(&path, &Tenant::default()).await?)
    }
}

/// The event of a message of QoS 1 that client `c1` publishes.
///
/// # Panics
/// `topic` is none.
pub fn publish(topic: &str, payload: &[u8]) -> Scope {
    let client = Arc::new(Client {
        id: "c1".into(),
        username: Some("user".into()),
        peer: SocketAddr::from(([127, 0, 0, 1], 4321)),
        protocol: Protocol::V5,
        tenant: Tenant::default(),
        keep_alive: 60,
        clean_start: true,
        connected_at_ms: now_ms(),
        connection: 1,
        ..Client::default()
    });
    let node = Arc::new(Node::new("matrix@127.0.0.1"));
    let Ok(topic) = topic.parse() else { panic!("{topic:?} is no topic name") };
    let message = Message {
        id: IdSource::new(&node).next_id(),
        topic,
        payload: Bytes::copy_from_slice(payload),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        timestamp_ms: now_ms(),
        sender: "c1".into(),
        publisher: Some(client),
        properties: None,
        origin: Origin::Client,
        hops: 0,
    };
    Scope::new(Event::MessagePublish { message: Arc::new(message), tenant: Tenant::default() }, node)
}

/// A store with the one connector `fake:pool`, which takes everything at once.
struct Store(Arc<Mutex<Vec<String>>>);

impl Store {
    fn take(&self, scope: &Scope, connector: &str, what: &str) -> Result<(), StorageError> {
        if connector != "fake:pool" {
            return Err(StorageError::NoSuchConnector(connector.into()));
        }
        self.0.lock().push(format!("{connector} {what}"));
        let part: AckPart = scope.acks.part();
        part.done();
        Ok(())
    }
}

impl Storage for Store {
    fn run<'a>(
        &'a self,
        scope: &'a Scope,
        connector: &'a str,
        function: &'a str,
        _: &'a ActionOptions,
        _: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        let taken = self.take(scope, connector, function);
        Box::pin(async move { taken })
    }

    fn execute<'a>(
        &'a self,
        scope: &'a Scope,
        connector: &'a str,
        statements: &'a [String],
        _: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        let taken = self.take(scope, connector, &statements.join("; "));
        Box::pin(async move { taken })
    }

    fn query<'a>(
        &'a self,
        _: &'a Tenant,
        connector: &'a str,
        _: &'a str,
        _: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, StorageError>> {
        let refused = StorageError::NoSuchConnector(connector.into());
        Box::pin(async move { Err(refused) })
    }

    fn exec<'a>(
        &'a self,
        _: &'a Tenant,
        connector: &'a str,
        _: &'a str,
        _: Vec<Vec<SqlValue>>,
    ) -> BoxFuture<'a, Result<u64, StorageError>> {
        let refused = StorageError::NoSuchConnector(connector.into());
        Box::pin(async move { Err(refused) })
    }

    fn connectors(&self, _: &Tenant) -> Vec<String> {
        vec!["fake:pool".into()]
    }
}

/// A broker without a client.
struct Nobody;

impl Control for Nobody {
    fn publish(&self, _: &Tenant, _: Message) -> Result<(), ControlError> {
        Ok(())
    }

    fn deliver(&self, _: &Tenant, client: &str, _: Message) -> Result<(), ControlError> {
        Err(ControlError::NoSuchClient(client.into()))
    }

    fn subscribe(&self, _: &Tenant, client: &str, _: TopicFilter, _: QoS) -> Result<(), ControlError> {
        Err(ControlError::NoSuchClient(client.into()))
    }

    fn unsubscribe(&self, _: &Tenant, client: &str, _: TopicFilter) -> Result<(), ControlError> {
        Err(ControlError::NoSuchClient(client.into()))
    }

    fn disconnect(&self, _: &Tenant, client: &str) -> Result<(), ControlError> {
        Err(ControlError::NoSuchClient(client.into()))
    }
}

/// Keeps the log lines of the process.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// One that gets every line from now on. Once a process.
    ///
    /// # Errors
    /// There is one already.
    pub fn install() -> anyhow::Result<Self> {
        let log = Self::default();
        tracing::subscriber::set_global_default(log.clone())?;
        Ok(log)
    }

    /// The lines since the last call: level, fields, message.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {}={value:?}", field.name()));
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("tidegate")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(event.metadata().level().to_string());
        event.record(&mut fields);
        self.0.lock().push(fields.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
