//! A store on a fresh database, driven as dispatch drives it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tidegate_event::hook::TopicOf;
use tidegate_event::{
    AckError, Backlog, Client, DisconnectReason, Effects, Event, IdSource, Message, MsgId, Node, Origin,
    Protocol, QoS, Scope, SqlValue, Storage as _, Tenant, TopicFilter, now_ms,
};
use tidegate_store::config::{self, Diagnostic};
use tidegate_store::{StoreOptions, Stores};

/// How the suite gets a back end.
pub(crate) trait Factory: Sync {
    /// The word in configuration keys.
    fn kind(&self) -> &'static str;
    /// The lines that configure `pool1` on a database of its own for `dir`.
    fn pool(&self, dir: &Path) -> String;
}

/// A store and the peers around it.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) stores: Arc<Stores>,
    pub(crate) warnings: Vec<Diagnostic>,
    pub(crate) node: Arc<Node>,
    kind: &'static str,
    ids: IdSource,
    connections: AtomicU64,
}

/// What handlers asked for, and whether the event may be acknowledged.
pub(crate) type Answer = (Result<(), AckError>, Effects);

impl Bench {
    /// A store with these hook lines, each `message.publish.1 = {...}`; every line that names no pool is on `pool1`.
    pub(crate) async fn new(factory: &dyn Factory, lines: &[&str]) -> Self {
        Self::with_tables(factory, &[], lines).await
    }

    /// The same, after `tables` were made: custom statements are checked when the store opens.
    pub(crate) async fn with_tables(factory: &dyn Factory, tables: &[&str], lines: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pool = factory.pool(dir.path());
        let open = async |text: String| {
            let loaded = config::load(&[("test.conf".into(), text)], None).expect("the configuration loads");
            let options = StoreOptions {
                data_dir: dir.path().into(),
                read_deadline: Duration::from_secs(10),
                statement_timeout: Duration::from_secs(2),
                ..StoreOptions::default()
            };
            let stores = Stores::open(&loaded.config, Arc::new(Node::default()), options).await;
            (stores.expect("the store opens"), loaded.warnings)
        };
        if !tables.is_empty() {
            let (stores, _) = open(pool.clone()).await;
            for table in tables {
                stores.exec(&Tenant::default(), "pool1", table, vec![vec![]]).await.expect("a table is made");
            }
            stores.close(Duration::from_secs(5)).await.expect("the store closes");
        }
        let hooks: String = lines
            .iter()
            .map(|line| {
                format!("backend.{}.hook.{}\n", factory.kind(), line.replace("}}", "}, \"pool\": \"pool1\"}"))
            })
            .collect();
        let (stores, warnings) = open(format!("{pool}\n{hooks}")).await;
        Self {
            dir,
            stores,
            warnings,
            node: Arc::new(Node::default()),
            kind: factory.kind(),
            ids: IdSource::new(&Node::default()),
            connections: AtomicU64::new(1),
        }
    }

    /// The connector's full name.
    pub(crate) fn connector(&self) -> String {
        format!("{}:pool1", self.kind)
    }

    /// A new connection of client `id`.
    pub(crate) fn client(&self, id: &str) -> Arc<Client> {
        Arc::new(Client {
            id: id.into(),
            username: Some("user".into()),
            peer: "127.0.0.1:1".parse().expect("address"),
            protocol: Protocol::V5,
            tenant: Tenant::default(),
            keep_alive: 60,
            clean_start: false,
            connected_at_ms: now_ms(),
            connection: self.connections.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// A message as a client published it now.
    pub(crate) fn message(&self, topic: &str, payload: impl Into<Bytes>, qos: u8) -> Message {
        Message {
            id: self.ids.next_id(),
            topic: topic.parse().expect("topic"),
            payload: payload.into(),
            qos: QoS::try_from(qos).expect("qos"),
            retain: false,
            dup: false,
            timestamp_ms: now_ms(),
            sender: "publisher".into(),
            publisher: None,
            properties: None,
            origin: Origin::Client,
            hops: 0,
        }
    }

    /// A scope, for guests' calls.
    pub(crate) fn scope(&self, event: Event) -> Scope {
        Scope::new(event, Arc::clone(&self.node))
    }

    /// Runs every line that matches, as dispatch does, and waits for the acks.
    pub(crate) async fn raise(&self, event: Event) -> Answer {
        let scope = self.scope(event);
        let hook = scope.event.hook();
        for action in self.stores.actions_of(hook) {
            let matches = match (action.filter(), hook.row().topic, &scope.event) {
                (None, _, _) | (_, TopicOf::None, _) => true,
                (Some(filter), TopicOf::Message, event) => {
                    event.message().is_some_and(|message| filter.matches(&message.topic))
                }
                (
                    Some(filter),
                    TopicOf::Subscription,
                    Event::SessionSubscribed { filter: other, .. }
                    | Event::SessionUnsubscribed { filter: other, .. },
                ) => filter.covers(other),
                _ => false,
            };
            if matches {
                action.run(&scope).await;
            }
        }
        let result = tokio::time::timeout(Duration::from_secs(20), scope.acks.clone()).await;
        (result.expect("the event is decided"), scope.take_effects())
    }

    /// Publishes and expects to be acknowledged.
    pub(crate) async fn publish(&self, message: Message) -> Arc<Message> {
        let message = Arc::new(message);
        let event = Event::MessagePublish { message: Arc::clone(&message), tenant: Tenant::default() };
        assert_eq!(self.raise(event).await.0, Ok(()));
        message
    }

    /// Publishes `payload` at QoS 1.
    pub(crate) async fn publish_text(&self, topic: &str, payload: &str) -> Arc<Message> {
        self.publish(self.message(topic, payload.to_owned(), 1)).await
    }

    /// Subscribes and gives what handlers asked for.
    pub(crate) async fn subscribe(&self, client: &Arc<Client>, filter: &str) -> Effects {
        let (client, filter) = (Arc::clone(client), filter.parse().expect("filter"));
        let event = Event::SessionSubscribed { client, filter, qos: QoS::AtLeastOnce, shared: false };
        let (result, effects) = self.raise(event).await;
        assert_eq!(result, Ok(()));
        effects
    }

    /// Unsubscribes.
    pub(crate) async fn unsubscribe(&self, client: &Arc<Client>, filter: &str) {
        self.unsubscribe_event(client, filter, false).await;
    }

    /// Unsubscribes from `filter` or from its shared namesake.
    pub(crate) async fn unsubscribe_event(&self, client: &Arc<Client>, filter: &str, shared: bool) {
        let (client, filter): (_, TopicFilter) = (Arc::clone(client), filter.parse().expect("filter"));
        assert_eq!(self.raise(Event::SessionUnsubscribed { client, filter, shared }).await.0, Ok(()));
    }

    /// Subscribes and reads all pages of the backlog; nothing is acked.
    pub(crate) async fn fetch(&self, client: &Arc<Client>, filter: &str) -> Vec<Vec<Arc<Message>>> {
        pages(&mut self.subscribe(client, filter).await).await
    }

    /// The payloads of [`fetch`](Self::fetch), all pages joined.
    pub(crate) async fn fetch_texts(&self, client: &Arc<Client>, filter: &str) -> Vec<String> {
        texts(&self.fetch(client, filter).await.concat())
    }

    /// An ack, with what the session says about the ones before it.
    pub(crate) async fn ack(&self, client: &Arc<Client>, message: &Arc<Message>, through: Option<MsgId>) {
        self.ack_event(client, message, through, true).await;
    }

    /// An ack, explicit or of a QoS 0 delivery.
    pub(crate) async fn ack_event(
        &self,
        client: &Arc<Client>,
        message: &Arc<Message>,
        through: Option<MsgId>,
        explicit: bool,
    ) {
        let (client, message) = (Arc::clone(client), Arc::clone(message));
        assert_eq!(self.raise(Event::MessageAcked { client, message, through, explicit }).await.0, Ok(()));
    }

    /// The end of a connection.
    pub(crate) async fn disconnect(&self, client: &Arc<Client>, reason: DisconnectReason) {
        let client = Arc::clone(client);
        assert_eq!(self.raise(Event::ClientDisconnected { client, reason }).await.0, Ok(()));
    }

    /// Rows of a query as texts; NULL is `NULL`.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let rows = self.stores.query(&Tenant::default(), "pool1", sql, vec![]).await.expect("query");
        rows.rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect()
    }

    /// Runs a statement.
    pub(crate) async fn exec(&self, sql: &str) {
        self.stores.exec(&Tenant::default(), "pool1", sql, vec![vec![]]).await.expect("exec");
    }
}

/// All pages of all backlogs.
pub(crate) async fn pages(effects: &mut Effects) -> Vec<Vec<Arc<Message>>> {
    let mut pages = Vec::new();
    for backlog in &mut effects.backlogs {
        pages.extend(backlog_pages(&mut **backlog).await);
    }
    pages
}

async fn backlog_pages(backlog: &mut dyn Backlog) -> Vec<Vec<Arc<Message>>> {
    let mut pages = Vec::new();
    loop {
        let page = backlog.next_page().await.expect("a page");
        if page.is_empty() {
            return pages;
        }
        pages.push(page);
    }
}

/// The payloads.
pub(crate) fn texts(messages: &[Arc<Message>]) -> Vec<String> {
    messages.iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()).collect()
}

fn text(value: SqlValue) -> String {
    match value {
        SqlValue::Null => "NULL".into(),
        SqlValue::Text(text) => text,
        SqlValue::Int64(number) => number.to_string(),
        SqlValue::Binary(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => format!("{other:?}"),
    }
}
