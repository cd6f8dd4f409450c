//! Storage and broker as the host sees them, played.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tidegate_event::{
    AckError, AckLevel, AckPart, ActionOptions, BoxFuture, Control, ControlError, DeadLetters, KeyValue,
    Message, QoS, ReasonCode, Reply, ReplyError, Rows, Scope, SqlValue, Storage, StorageError, Tenant,
    TopicFilter,
};
use tokio::sync::Notify;

/// Records what is asked and answers as told.
#[derive(Default)]
pub struct FakeStorage {
    /// One line a call.
    pub asked: Mutex<Vec<String>>,
    /// The messages of the scopes that `run` got.
    pub messages: Mutex<Vec<Arc<Message>>>,
    /// Parts of enqueued operations, completed by the test.
    pub parts: Mutex<Vec<AckPart>>,
    /// Told at every call.
    pub called: Notify,
    /// Whether parts are completed at once.
    pub at_once: Mutex<bool>,
    /// The key-value pairs of `fake:pool`, if it has any.
    pub pairs: Mutex<Option<Arc<dyn KeyValue>>>,
    /// Whether being asked for connectors, as every load does, panics.
    pub panics: AtomicBool,
}

impl FakeStorage {
    /// Completes everything that is enqueued.
    pub fn complete(&self) {
        for part in self.parts.lock().drain(..) {
            part.done();
        }
    }

    /// Refuses everything that is enqueued.
    pub fn refuse(&self) {
        for part in self.parts.lock().drain(..) {
            part.fail(AckError::Refused {
                connector: "fake:pool".into(),
                reason: "too long".into(),
                code: ReasonCode::IMPLEMENTATION_SPECIFIC,
            });
        }
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }

    fn enqueue(
        &self,
        scope: &Scope,
        connector: &str,
        what: String,
        level: AckLevel,
    ) -> BoxFuture<'_, Result<(), StorageError>> {
        self.asked.lock().push(format!("{connector} {what} {level:?}"));
        let answer = match connector {
            "fake:pool" | "fake:stuck" => Ok(()),
            "fake:down" => {
                Err(StorageError::Unavailable { connector: connector.into(), reason: "refused".into() })
            }
            "fake:slow" => Err(StorageError::Timeout { connector: connector.into() }),
            "fake:full" => Err(StorageError::QuotaExceeded("rows".into())),
            "fake:picky" => Err(StorageError::Failed {
                connector: connector.into(),
                code: "23505".into(),
                message: "duplicate".into(),
                retryable: true,
            }),
            other => Err(StorageError::NoSuchConnector(other.into())),
        };
        if answer.is_ok() {
            let part = match level {
                AckLevel::Stored => scope.acks.part(),
                AckLevel::Accepted => AckPart::detached(),
            };
            if let Some(message) = scope.event.message() {
                self.messages.lock().push(message.clone());
            }
            if *self.at_once.lock() { part.done() } else { self.parts.lock().push(part) }
        }
        self.called.notify_one();
        let stuck = connector == "fake:stuck";
        // Queues first, answers after a turn: as a writer with a full queue does.
        Box::pin(async move {
            tokio::task::yield_now().await;
            if stuck {
                std::future::pending::<()>().await;
            }
            answer
        })
    }
}

impl Storage for FakeStorage {
    fn run<'a>(
        &'a self,
        scope: &'a Scope,
        connector: &'a str,
        function: &'a str,
        options: &'a ActionOptions,
        level: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        let options =
            if *options == ActionOptions::default() { String::new() } else { format!(" {options:?}") };
        self.enqueue(scope, connector, format!("{function}{options}"), level)
    }

    fn execute<'a>(
        &'a self,
        scope: &'a Scope,
        connector: &'a str,
        statements: &'a [String],
        level: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.enqueue(scope, connector, format!("{statements:?}"), level)
    }

    fn query<'a>(
        &'a self,
        tenant: &'a Tenant,
        connector: &'a str,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, StorageError>> {
        self.asked.lock().push(format!("{connector} {tenant} {statement} {params:?}"));
        Box::pin(async move {
            tokio::task::yield_now().await;
            Ok(Rows { columns: vec!["a".into()], rows: vec![vec![SqlValue::Binary(vec![1, 2])]] })
        })
    }

    fn exec<'a>(
        &'a self,
        tenant: &'a Tenant,
        connector: &'a str,
        statement: &'a str,
        params: Vec<Vec<SqlValue>>,
    ) -> BoxFuture<'a, Result<u64, StorageError>> {
        self.asked.lock().push(format!("{connector} {tenant} {statement} {params:?}"));
        Box::pin(async move { Ok(params.len() as u64) })
    }

    fn key_value(&self, tenant: &Tenant, connector: &str) -> Result<Arc<dyn KeyValue>, StorageError> {
        match (connector, self.pairs.lock().clone()) {
            ("fake:pool", Some(pairs)) => Ok(pairs),
            (known, _) if self.connectors(tenant).iter().any(|name| name == known) => {
                Err(StorageError::InvalidArgument(format!("{known} does not serve wasi:keyvalue")))
            }
            (other, _) => Err(StorageError::NoSuchConnector(other.into())),
        }
    }

    fn commands<'a>(
        &'a self,
        tenant: &'a Tenant,
        connector: &'a str,
        commands: Vec<Vec<Vec<u8>>>,
    ) -> BoxFuture<'a, Result<Vec<Reply>, StorageError>> {
        let words = |command: &Vec<Vec<u8>>| {
            command.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
        };
        let lines: Vec<_> = commands.iter().map(words).collect();
        self.asked.lock().push(format!("{connector} {tenant} {lines:?}"));
        let answer = match connector {
            "fake:pool" => Ok(lines.iter().map(|line| reply(line)).collect()),
            "fake:picky" => Err(StorageError::InvalidArgument("fake takes no commands".into())),
            other => Err(StorageError::Unavailable { connector: other.into(), reason: "refused".into() }),
        };
        Box::pin(async move {
            tokio::task::yield_now().await;
            answer
        })
    }

    fn connectors(&self, _: &Tenant) -> Vec<String> {
        assert!(!self.panics.load(Ordering::Relaxed), "told to panic");
        ["fake:pool", "fake:down", "fake:slow", "fake:full", "fake:picky", "fake:stuck"]
            .map(str::to_owned)
            .to_vec()
    }
}

/// What the fake answers to a command.
fn reply(line: &str) -> Reply {
    match line {
        "FAIL" => {
            Reply::Error(ReplyError { code: "ERR".into(), message: "told to".into(), retryable: false })
        }
        "NEST" => Reply::List(vec![Reply::List(vec![Reply::Nil]), Reply::Integer(7)]),
        _ => Reply::Bytes(vec![1, 255]),
    }
}

/// Records what is asked; `c2` is the only client.
#[derive(Default)]
pub struct FakeControl {
    pub asked: Mutex<Vec<String>>,
    pub published: Mutex<Vec<Message>>,
    /// What `publish` answers.
    pub refusal: Mutex<Option<ControlError>>,
}

impl FakeControl {
    fn ask(&self, client: &str, what: String) -> Result<(), ControlError> {
        self.asked.lock().push(what);
        if client == "c2" { Ok(()) } else { Err(ControlError::NoSuchClient(client.into())) }
    }
}

impl Control for FakeControl {
    fn publish(&self, _: &Tenant, message: Message) -> Result<(), ControlError> {
        if let Some(refusal) = self.refusal.lock().clone() {
            return Err(refusal);
        }
        self.published.lock().push(message);
        Ok(())
    }

    fn deliver(&self, _: &Tenant, client: &str, message: Message) -> Result<(), ControlError> {
        self.ask(client, format!("deliver {client} {}", message.topic))
    }

    fn subscribe(&self, _: &Tenant, client: &str, filter: TopicFilter, qos: QoS) -> Result<(), ControlError> {
        self.ask(client, format!("subscribe {client} {filter} {qos:?}"))
    }

    fn unsubscribe(&self, _: &Tenant, client: &str, filter: TopicFilter) -> Result<(), ControlError> {
        self.ask(client, format!("unsubscribe {client} {filter}"))
    }

    fn disconnect(&self, _: &Tenant, client: &str) -> Result<(), ControlError> {
        self.ask(client, format!("disconnect {client}"))
    }
}

/// Keeps dead letters in memory.
#[derive(Debug, Default)]
pub struct FakeLetters {
    letters: Mutex<Vec<String>>,
    /// Whether there is no room for more.
    pub full: AtomicBool,
}

impl FakeLetters {
    pub fn all(&self) -> Vec<serde_json::Value> {
        self.letters.lock().iter().map(|letter| serde_json::from_str(letter).unwrap()).collect()
    }

    /// The only one there is.
    pub fn one(&self) -> serde_json::Value {
        let mut all = self.all();
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0)
    }
}

impl DeadLetters for FakeLetters {
    fn keep(&self, letter: String) -> BoxFuture<'_, std::io::Result<()>> {
        assert!(!letter.contains('\n'), "a letter is a line: {letter}");
        Box::pin(async move {
            tokio::task::yield_now().await;
            if self.full.load(Ordering::Relaxed) {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.letters.lock().push(letter);
            Ok(())
        })
    }
}

/// Counts metrics, by name and labels: `name{label=value,...}`.
#[derive(Default)]
pub struct Recorder(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Recorder {
    fn slot(&self, key: &metrics::Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|l| format!("{}={}", l.key(), l.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Arc::clone(self.0.lock().entry(name).or_default())
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.0.lock().get(name).expect(name).load(Ordering::Relaxed)
    }

    pub fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.counter(name))
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}

    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        metrics::Counter::from_arc(self.slot(key))
    }

    fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::from_arc(self.slot(key))
    }

    fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

/// Collects log lines: level, fields, message.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {}={value:?}", field.name()));
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.push_str(&format!(" {}={value}", field.name()));
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
