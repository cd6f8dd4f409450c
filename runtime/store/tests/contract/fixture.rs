//! A store on a fresh database, driven as dispatch drives it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tidegate_event::hook::TopicOf;
use tidegate_event::{
    AckError, Backlog, BoxFuture, Client, DisconnectReason, Effects, Event, IdSource, Message, MsgId, Node,
    Origin, Protocol, QoS, Scope, SqlValue, Storage as _, Tenant, TopicFilter, now_ms,
};
use tidegate_store::config::{self, Diagnostic};
use tidegate_store::{StoreOptions, Stores};

/// How the suite gets a back end.
pub(crate) trait Factory: Sync {
    /// The word in configuration keys.
    fn kind(&self) -> &'static str;
    /// The lines that configure `pool1`, on a database of its own for `dir` where that is cheap.
    fn pool(&self, dir: &Path) -> String;
    /// A text that tells this bench's client ids and topics from those of others on the same database; empty when
    /// the database is its own. Nothing but letters and digits.
    fn space(&self) -> String {
        String::new()
    }
    /// What the back end cannot do by contract; the cases then look for what is documented instead.
    fn lacks(&self, _ability: Ability) -> bool {
        false
    }
    /// A look at the database past the back end.
    fn look<'a>(&'a self, bench: &'a Bench) -> Box<dyn Look + 'a>;
}

/// What not every back end can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ability {
    /// Statements in SQL.
    Sql,
    /// Commands of words.
    Commands,
    /// Scripts of guests among them.
    Scripts,
    /// Fetch, look up and forget by filters with wildcards.
    Wildcards,
    /// Positions of their own numbers: messages are in the order in which they were stored, ids of any form have a
    /// place in it, and positions are those of stored messages only.
    RowPositions,
    /// `expired_time`.
    Expiry,
}

/// A message as the database has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) sender: String,
    pub(crate) qos: String,
    pub(crate) retain: bool,
    pub(crate) payload: String,
    /// When it was stored: in the database's own words, but seconds since the epoch in
    /// [`put_messages`](Look::put_messages).
    pub(crate) time: String,
}

/// A client's state as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) state: String,
    /// Whether it is listed on this node, or was last.
    pub(crate) node: bool,
    pub(crate) online_at: Option<String>,
    pub(crate) offline_at: Option<String>,
}

/// What cases see and do in the database past the back end. Topics and client ids are as stored.
pub(crate) trait Look: Sync {
    /// The messages of a topic, in the order in which they are fetched.
    fn messages<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Vec<Stored>>;
    /// The retained message of a topic.
    fn retained<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Option<Stored>>;
    /// The id of the message at a client's position in a topic.
    fn position<'a>(&'a self, client: &'a str, topic: &'a str) -> BoxFuture<'a, Option<String>>;
    /// A client's state.
    fn state<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Option<State>>;
    /// A client's subscriptions, filter and QoS, sorted.
    fn subscriptions<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Vec<(String, String)>>;
    /// Writes a subscription as another program may, whatever its QoS is.
    fn put_subscription<'a>(&'a self, client: &'a str, filter: &'a str, qos: &'a str) -> BoxFuture<'a, ()>;
    /// Writes messages as another program may.
    fn put_messages<'a>(&'a self, messages: &'a [Stored]) -> BoxFuture<'a, ()>;
    /// Deletes a message.
    fn delete_message<'a>(&'a self, topic: &'a str, id: &'a str) -> BoxFuture<'a, ()>;
    /// Gives a message a QoS that does not exist.
    fn spoil_message<'a>(&'a self, topic: &'a str, id: &'a str) -> BoxFuture<'a, ()>;
}

/// A store and the peers around it.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    /// Where the database is, when it is a file: several nodes may share it.
    database: Arc<TempDir>,
    pub(crate) stores: Arc<Stores>,
    pub(crate) warnings: Vec<Diagnostic>,
    pub(crate) node: Arc<Node>,
    factory: &'static dyn Factory,
    space: String,
    ids: Arc<IdSource>,
    connections: AtomicU64,
}

/// What handlers asked for, and whether the event may be acknowledged.
pub(crate) type Answer = (Result<(), AckError>, Effects);

impl Bench {
    /// A store with these hook lines, each `message.publish.1 = {...}`; every line that names no pool is on `pool1`.
    pub(crate) async fn new(factory: &'static dyn Factory, lines: &[&str]) -> Self {
        Self::with_tables(factory, &[], lines).await
    }

    /// A second node on the database of `self`.
    pub(crate) async fn second(&self, lines: &[&str]) -> Self {
        self.beside("other@127.0.0.2", lines).await
    }

    /// Another node, called `node`, on the database of `self`.
    pub(crate) async fn beside(&self, node: &str, lines: &[&str]) -> Self {
        let node = Arc::new(Node::new(node));
        Self::on(self.factory, Arc::clone(&self.database), node, self.space.clone(), &[], lines).await
    }

    /// The same, after `tables` were made: custom statements are checked when the store opens.
    pub(crate) async fn with_tables(factory: &'static dyn Factory, tables: &[&str], lines: &[&str]) -> Self {
        let database = Arc::new(tempfile::tempdir().expect("temporary directory"));
        Self::on(factory, database, Arc::new(Node::default()), factory.space(), tables, lines).await
    }

    async fn on(
        factory: &'static dyn Factory,
        database: Arc<TempDir>,
        node: Arc<Node>,
        space: String,
        tables: &[&str],
        lines: &[&str],
    ) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pool = factory.pool(database.path());
        let ids = Arc::new(IdSource::new(&node));
        let open = async |text: String| {
            let loaded = config::load(&[("test.conf".into(), text)], None).expect("the configuration loads");
            let options = StoreOptions {
                data_dir: dir.path().into(),
                read_deadline: Duration::from_secs(10),
                statement_timeout: Duration::from_secs(2),
                ids: Arc::clone(&ids),
                ..StoreOptions::default()
            };
            let stores = Stores::open(&loaded.config, Arc::clone(&node), options).await;
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
                let line = line.replace("\"topic\": \"", &format!("\"topic\": \"{}", topic_of(&space, "")));
                // `#` stays what it is: all topics.
                let line = line.replace(&format!("\"{}#\"", topic_of(&space, "")), "\"#\"");
                format!("backend.{}.hook.{}\n", factory.kind(), line.replace("}}", "}, \"pool\": \"pool1\"}"))
            })
            .collect();
        let (stores, warnings) = open(format!("{pool}\n{hooks}")).await;
        Self { dir, stores, warnings, ids, node, database, factory, space, connections: AtomicU64::new(1) }
    }

    /// The connector's full name.
    pub(crate) fn connector(&self) -> String {
        format!("{}:pool1", self.factory.kind())
    }

    /// A topic or filter of this bench.
    pub(crate) fn topic(&self, name: &str) -> String {
        topic_of(&self.space, name)
    }

    /// A client id of this bench.
    pub(crate) fn client_id(&self, name: &str) -> String {
        format!("{}{name}", self.space)
    }

    /// Whether the back end lacks the ability.
    pub(crate) fn lacks(&self, ability: Ability) -> bool {
        self.factory.lacks(ability)
    }

    /// What opening the stores finds wrong with `line`.
    pub(crate) async fn refused(&self, line: &str) -> Vec<Diagnostic> {
        let pool = self.factory.pool(self.database.path());
        let text = format!("{pool}backend.{}.hook.{line}\n", self.factory.kind());
        let loaded = config::load(&[("test.conf".into(), text)], None).expect("the configuration loads");
        let options = StoreOptions { data_dir: self.dir.path().into(), ..StoreOptions::default() };
        Stores::open(&loaded.config, Arc::clone(&self.node), options).await.expect_err("a refusal")
    }

    /// What tells this bench's names from those of others.
    pub(crate) fn space(&self) -> &str {
        &self.space
    }

    /// Those whose first part is a filter that the back end can look up.
    pub(crate) fn findable<'a>(&self, filters: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let wildcards = !self.lacks(Ability::Wildcards);
        filters.iter().copied().filter(|(filter, _)| wildcards || !filter.contains(['+', '#'])).collect()
    }

    /// A look at the database.
    pub(crate) fn look(&self) -> Box<dyn Look + '_> {
        self.factory.look(self)
    }

    /// The messages of a topic.
    pub(crate) async fn stored(&self, topic: &str) -> Vec<Stored> {
        self.look().messages(&self.topic(topic)).await
    }

    /// Their payloads.
    pub(crate) async fn stored_texts(&self, topic: &str) -> Vec<String> {
        self.stored(topic).await.into_iter().map(|message| message.payload).collect()
    }

    /// The id at the position of a client.
    pub(crate) async fn position(&self, client: &str, topic: &str) -> Option<String> {
        self.look().position(&self.client_id(client), &self.topic(topic)).await
    }

    /// A new connection of client `id`.
    pub(crate) fn client(&self, id: &str) -> Arc<Client> {
        self.client_of(id, "user")
    }

    /// A new connection of client `id` of the user `user`.
    pub(crate) fn client_of(&self, id: &str, user: &str) -> Arc<Client> {
        Arc::new(Client {
            id: self.client_id(id).into(),
            username: Some(user.into()),
            peer: "127.0.0.1:1".parse().expect("address"),
            protocol: Protocol::V5,
            tenant: Tenant::default(),
            keep_alive: 60,
            clean_start: false,
            connected_at_ms: now_ms(),
            connection: self.connections.fetch_add(1, Ordering::Relaxed),
            ..Client::default()
        })
    }

    /// The event of a message that a client publishes.
    pub(crate) fn publishing(&self, message: Message) -> Event {
        Event::MessagePublish { message: Arc::new(message), tenant: Tenant::default() }
    }

    /// A message as a client published it now.
    pub(crate) fn message(&self, topic: &str, payload: impl Into<Bytes>, qos: u8) -> Message {
        Message {
            id: self.ids.next_id(),
            topic: self.topic(topic).parse().expect("topic"),
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

    /// Publishes and expects to be acknowledged. Gives the message as subscribers get it.
    pub(crate) async fn publish(&self, message: Message) -> Arc<Message> {
        let message = Arc::new(message);
        let event = Event::MessagePublish { message: Arc::clone(&message), tenant: Tenant::default() };
        let (result, effects) = self.raise(event).await;
        assert_eq!(result, Ok(()));
        match effects.renewed(message.id) {
            Some(id) => Arc::new(Message { id, ..(*message).clone() }),
            None => message,
        }
    }

    /// Publishes `payload` at QoS 1.
    pub(crate) async fn publish_text(&self, topic: &str, payload: &str) -> Arc<Message> {
        self.publish(self.message(topic, payload.to_owned(), 1)).await
    }

    /// Subscribes and gives what handlers asked for.
    pub(crate) async fn subscribe(&self, client: &Arc<Client>, filter: &str) -> Effects {
        let (client, filter) = (Arc::clone(client), self.topic(filter).parse().expect("filter"));
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
        let (client, filter): (_, TopicFilter) =
            (Arc::clone(client), self.topic(filter).parse().expect("filter"));
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

fn topic_of(space: &str, name: &str) -> String {
    if space.is_empty() { name.to_owned() } else { format!("{space}/{name}") }
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
