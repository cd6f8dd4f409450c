//! SQLite in particular, looked at from outside with the `sqlite3` command line client: what the tables hold, and
//! what happens while another process has the file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod sqlite3;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlite3::{Locker, cli};
use tempfile::TempDir;
use tidegate_event::{
    AckLevel, ActionOptions, BoxFuture, Client, DisconnectReason, Event, IdSource, Message, Node, Origin,
    Protocol, QoS, Scope, Storage as _, StorageError, Tenant, now_ms,
};
use tidegate_store::config::{self, PoolConfig, StoreConfig};
use tidegate_store::{StoreOptions, Stores};

struct Bench {
    dir: TempDir,
    stores: Arc<Stores>,
    ids: IdSource,
}

const PUBLISH: &str = r##"
backend.sqlite.hook.message.publish.1 = {"topic": "#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
"##;

fn file_in(dir: &TempDir) -> PathBuf {
    dir.path().join("data/mqtt.db")
}

fn parse(dir: &TempDir, text: &str) -> StoreConfig {
    let text = format!("backend.sqlite.pool1.path = {}\n{text}", file_in(dir).display());
    config::load(&[("test.conf".into(), text)], None).unwrap().config
}

async fn try_open(dir: &TempDir, text: &str, budget: usize) -> Result<Arc<Stores>, Vec<config::Diagnostic>> {
    let options =
        StoreOptions { data_dir: dir.path().into(), memory_budget_bytes: budget, ..StoreOptions::default() };
    Stores::open(&parse(dir, text), Arc::new(Node::default()), options).await
}

impl Bench {
    async fn open(text: &str) -> Self {
        Self::open_in(tempfile::tempdir().unwrap(), text, 1 << 20).await
    }

    async fn open_in(dir: TempDir, text: &str, budget: usize) -> Self {
        let stores = try_open(&dir, text, budget).await.unwrap();
        Self { dir, stores, ids: IdSource::new(&Node::default()) }
    }

    fn file(&self) -> PathBuf {
        file_in(&self.dir)
    }

    fn message(&self, topic: &str, payload: &str, retain: bool) -> Arc<Message> {
        Arc::new(Message {
            id: self.ids.next_id(),
            topic: topic.parse().unwrap(),
            payload: payload.to_owned().into(),
            qos: QoS::AtLeastOnce,
            retain,
            dup: false,
            timestamp_ms: now_ms(),
            sender: "test".into(),
            publisher: None,
            properties: None,
            origin: Origin::Client,
            hops: 0,
        })
    }

    async fn run(&self, event: Event) -> Scope {
        let scope = Scope::new(event, Arc::new(Node::default()));
        for action in self.stores.actions_of(scope.event.hook()) {
            action.run(&scope).await;
        }
        scope
    }

    async fn publish(&self, message: &Arc<Message>) -> Scope {
        self.run(Event::MessagePublish { message: Arc::clone(message), tenant: Tenant::default() }).await
    }
}

fn client(id: &str) -> Arc<Client> {
    Arc::new(Client {
        id: id.into(),
        username: None,
        peer: "127.0.0.1:1".parse().unwrap(),
        protocol: Protocol::V311,
        tenant: Tenant::default(),
        keep_alive: 60,
        clean_start: true,
        connected_at_ms: now_ms(),
        connection: 1,
        ..Client::default()
    })
}

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/emqx_backend_{name}.conf"));
    std::fs::read_to_string(path).unwrap()
}

/// Document 003's MySQL file, `mysql` replaced by `sqlite`: it loads as printed, and the tables hold what the
/// document shows.
#[tokio::test]
async fn the_documents_mysql_sample_runs() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    cli(&file_in(&dir), "create table conn(clientid text)"); // the sample's own statement writes to it
    let bench = Bench::open_in(dir, &sample("mysql").replace(".mysql.", ".sqlite."), 1 << 20).await;
    let file = bench.file();
    assert_eq!(bench.stores.actions().len(), 11);
    let test = client("test");
    cli(&file, "insert into mqtt_sub(clientid, topic, qos) values('test', 'test_topic1', 1)");

    let scope = bench.run(Event::ClientConnected { client: Arc::clone(&test) }).await;
    assert_eq!(scope.acks.await, Ok(()));
    let scope = bench.run(Event::SessionCreated { client: Arc::clone(&test) }).await;
    assert_eq!(scope.acks.clone().await, Ok(()));
    assert_eq!(scope.take_effects().subscriptions, [("test_topic1".parse().unwrap(), QoS::AtLeastOnce)]);
    let state = "select id, clientid, state, node, online_at like '20__-__-__ __:__:__', offline_at, \
                 created like '20__-__-__ __:__:__' from mqtt_client where clientid = 'test'";
    assert_eq!(cli(&file, state), "1|test|1|tidegate@127.0.0.1|1||1");
    assert_eq!(cli(&file, "select * from conn"), "test");

    let hello = bench.message("hello", "hello", false);
    let world = bench.message("world", "world", true);
    for message in [&hello, &world] {
        assert_eq!(bench.publish(message).await.acks.await, Ok(()));
    }
    let messages =
        "select id, msgid, topic, sender, node, qos, retain, payload from mqtt_msg where sender = 'test'";
    assert_eq!(
        cli(&file, messages),
        format!("1|{}|hello|test||1|0|hello\n2|{}|world|test||1|1|world", hello.id, world.id)
    );
    assert_eq!(
        cli(&file, "select id, topic, msgid, sender, node, qos, payload from mqtt_retain"),
        format!("1|world|{}|test||1|world", world.id)
    );

    let filter = "hello".parse().unwrap();
    let subscribed =
        Event::SessionSubscribed { client: Arc::clone(&test), filter, qos: QoS::AtLeastOnce, shared: false };
    let scope = bench.run(subscribed).await;
    assert_eq!(scope.acks.clone().await, Ok(()));
    let mut effects = scope.take_effects();
    assert_eq!(effects.backlogs[0].next_page().await.unwrap().len(), 1);
    assert_eq!(effects.retained.unwrap().len(), 0);
    let (through, message) = (Some(hello.id), Arc::clone(&hello));
    let acked = Event::MessageAcked { client: Arc::clone(&test), message, through, explicit: true };
    assert_eq!(bench.run(acked).await.acks.await, Ok(()));
    assert_eq!(cli(&file, "select clientid, topic, mid from mqtt_acked"), "test|hello|1");
    let filter = "hello".parse().unwrap();
    let scope =
        bench.run(Event::SessionUnsubscribed { client: Arc::clone(&test), filter, shared: false }).await;
    assert_eq!(scope.acks.await, Ok(()));
    assert_eq!(cli(&file, "select count(*) from mqtt_acked"), "0");

    let reason = DisconnectReason::Normal;
    let scope = bench.run(Event::ClientDisconnected { client: test, reason }).await;
    assert_eq!(scope.acks.await, Ok(()));
    let state = "select state, online_at is not null, offline_at like '20__-__-__ __:__:__' from mqtt_client";
    assert_eq!(cli(&file, state), "0|1|1");
}

#[tokio::test]
async fn the_embedded_default_needs_no_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/tidegate.db");
    let config =
        StoreConfig { pools: vec![PoolConfig::sqlite("default", path.to_str().unwrap())], hooks: Vec::new() };
    let stores = Stores::open(&config, Arc::new(Node::default()), StoreOptions::default()).await.unwrap();
    assert_eq!(stores.connectors(&Tenant::default()), ["sqlite:default"]);
    assert!(stores.actions().is_empty());
    stores.check("default").await.unwrap();
    assert_eq!(
        cli(&path, "select count(*) from sqlite_schema where name like 'mqtt_%' and type = 'table'"),
        "6"
    );
    assert_eq!(cli(&path, "pragma journal_mode"), "wal");
    stores.close(Duration::from_secs(5)).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_database_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::open(PUBLISH).await;
    bench.publish(&bench.message("t", "x", false)).await.acks.await.unwrap();
    for name in ["mqtt.db", "mqtt.db-wal"] {
        let mode = std::fs::metadata(bench.file().with_file_name(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// What is acknowledged can be read by another process at that moment.
#[tokio::test]
async fn an_ack_comes_after_the_commit() {
    let bench = Bench::open(PUBLISH).await;
    for n in 1..=20 {
        let scope = bench.publish(&bench.message("t", &n.to_string(), false)).await;
        assert_eq!(scope.acks.await, Ok(()));
        assert_eq!(cli(&bench.file(), "select max(id), count(*) from mqtt_msg"), format!("{n}|{n}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_of_another_process_delays_and_loses_nothing() {
    let bench = Bench::open(PUBLISH).await;
    let locker = Locker::lock(&bench.file());
    let mut scopes = Vec::new();
    for n in 0..100 {
        scopes.push(bench.publish(&bench.message("t", &n.to_string(), false)).await);
    }
    // Longer than SQLite itself waits for a lock, so that the writer has to try again.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(
        scopes.iter().all(|scope| scope.acks.clone().now_or_never().is_none()),
        "nothing is acknowledged yet"
    );
    // Reads go on meanwhile: the log is not locked for them.
    let count =
        bench.stores.query(&Tenant::default(), "pool1", "select count(*) from mqtt_msg", vec![]).await;
    assert!(count.is_ok(), "{count:?}");
    locker.unlock();
    for scope in scopes {
        assert_eq!(scope.acks.await, Ok(()));
    }
    let stored = cli(
        &bench.file(),
        "select group_concat(payload, ' ') from (select payload from mqtt_msg order by id)",
    );
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(stored, expected.join(" "), "all, once, in order");
    assert!(!bench.dir.path().join("dead-letters.jsonl").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_budget_holds_publishers_back_until_the_store_is_up() {
    let bench = Bench::open_in(tempfile::tempdir().unwrap(), PUBLISH, 128 * 1024).await;
    let locker = Locker::lock(&bench.file());
    let payload = "x".repeat(10_000);
    let mut scopes = Vec::new();
    // Stops by itself: the budget holds a dozen of them.
    let stuck = loop {
        let message = bench.message("t", &payload, false);
        match tokio::time::timeout(Duration::from_millis(300), bench.publish(&message)).await {
            Ok(scope) => scopes.push(scope),
            Err(_) => break message,
        }
        assert!(scopes.len() < 100, "the queue has no bound");
    };
    assert!((8..16).contains(&scopes.len()), "{}", scopes.len());
    locker.unlock();
    scopes.push(bench.publish(&stuck).await);
    let count = scopes.len();
    for scope in scopes {
        assert_eq!(scope.acks.await, Ok(()));
    }
    assert_eq!(cli(&bench.file(), "select count(*) from mqtt_msg"), count.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guests_call_and_batches_share_the_writing_connection() {
    let bench = Bench::open(PUBLISH).await;
    cli(&bench.file(), "create table t(a integer)");
    let (tenant, mut scopes) = (Tenant::default(), Vec::new());
    for n in 0..200 {
        scopes.push(bench.publish(&bench.message("t", &n.to_string(), false)).await);
        let call =
            bench.stores.exec(&tenant, "pool1", "insert into t values (?)", vec![vec![n.into_value()]]);
        match n % 4 {
            // A guest that is stopped half-way: its call is dropped at any point.
            0 => drop(tokio::time::timeout(Duration::from_micros(n * 10), call).await),
            _ => assert_eq!(call.await, Ok(1)),
        }
    }
    for scope in scopes {
        assert_eq!(scope.acks.await, Ok(()));
    }
    assert_eq!(cli(&bench.file(), "select count(*) from mqtt_msg"), "200");
    assert!(cli(&bench.file(), "select count(*) from t").parse::<u32>().unwrap() >= 150);
}

/// Fills the budget with messages while another process holds the lock. Gives their scopes.
async fn fill_budget(bench: &Bench) -> Vec<Scope> {
    let payload = "x".repeat(4_000);
    let mut scopes = Vec::new();
    loop {
        let message = bench.message("t/full", &payload, false);
        match tokio::time::timeout(Duration::from_millis(100), bench.publish(&message)).await {
            Ok(scope) => scopes.push(scope),
            Err(_) => return scopes,
        }
        assert!(scopes.len() < 100, "the queue has no bound");
    }
}

/// What a guest asks for: it needs the whole budget.
fn large(bench: &Bench) -> Scope {
    let message = bench.message("t/large", &"y".repeat(100_000), false);
    Scope::new(Event::MessagePublish { message, tenant: Tenant::default() }, Arc::new(Node::default()))
}

/// A guest's `run` or `execute` that waits for memory.
fn guest_call<'a>(
    bench: &'a Bench,
    scope: &'a Scope,
    run: bool,
    statements: &'a [String],
    options: &'a ActionOptions,
) -> BoxFuture<'a, Result<(), StorageError>> {
    if run {
        bench.stores.run(scope, "pool1", "on_message_publish", options, AckLevel::Stored)
    } else {
        bench.stores.execute(scope, "pool1", statements, AckLevel::Stored)
    }
}

const INSERT: &str =
    "insert into mqtt_msg (topic, qos, arrived, payload) values (${topic}, 1, ${timestamp}, ${payload})";

/// A guest waited for memory in its own future: when that was not polled, it stood first in the queue, was given the
/// memory, and everybody behind it waited for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guests_call_that_nobody_polls_does_not_hold_the_budget() {
    for run in [true, false] {
        let bench = Bench::open_in(tempfile::tempdir().unwrap(), PUBLISH, 0).await;
        let locker = Locker::lock(&bench.file());
        let before = fill_budget(&bench).await;
        let (scope, statements, options) = (large(&bench), [INSERT.to_owned()], ActionOptions::default());
        let mut guest = guest_call(&bench, &scope, run, &statements, &options);
        assert!((&mut guest).now_or_never().is_none(), "it waits");
        let message = bench.message("t/behind", "z", false);
        let behind = bench.publish(&message);
        let mut behind = std::pin::pin!(behind);
        assert!(behind.as_mut().now_or_never().is_none(), "it waits behind the guest");
        locker.unlock();
        let scope_behind =
            tokio::time::timeout(Duration::from_secs(20), behind).await.expect("the queue moves");
        assert_eq!(scope_behind.acks.await, Ok(()));
        assert_eq!(guest.await, Ok(()));
        assert_eq!(scope.acks.clone().await, Ok(()));
        assert_eq!(cli(&bench.file(), "select count(*) from mqtt_msg"), (before.len() + 2).to_string());
    }
}

/// The guest's own time limit drops its call wherever it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guests_call_that_is_given_up_gives_its_memory_back() {
    for run in [true, false] {
        let bench = Bench::open_in(tempfile::tempdir().unwrap(), PUBLISH, 0).await;
        let locker = Locker::lock(&bench.file());
        let before = fill_budget(&bench).await;
        let (statements, options) = ([INSERT.to_owned()], ActionOptions::default());
        for _ in 0..50 {
            let scope = large(&bench);
            let call = guest_call(&bench, &scope, run, &statements, &options);
            let waited = tokio::time::timeout(Duration::from_millis(2), call).await;
            assert!(waited.is_err(), "it waits, for no longer than it may");
            // Not stored: nothing may look as if it were.
            let acked = tokio::time::timeout(Duration::from_secs(20), scope.acks.clone()).await;
            assert_eq!(acked.expect("an answer"), Err(tidegate_event::AckError::Abandoned));
        }
        locker.unlock();
        // Each needs the whole budget: one byte that leaked, and the first would wait for ever.
        for _ in 0..3 {
            let scope = large(&bench);
            let call = guest_call(&bench, &scope, run, &statements, &options);
            let call = tokio::time::timeout(Duration::from_secs(20), call).await;
            assert_eq!(call.expect("memory"), Ok(()));
            assert_eq!(scope.acks.clone().await, Ok(()));
        }
        let counts = "select count(*) filter (where topic = 't/full'), \
                      count(*) filter (where topic = 't/large') from mqtt_msg";
        assert_eq!(cli(&bench.file(), counts), format!("{}|3", before.len()));
    }
}

trait IntoValue {
    fn into_value(self) -> tidegate_event::SqlValue;
}

impl IntoValue for u64 {
    fn into_value(self) -> tidegate_event::SqlValue {
        tidegate_event::SqlValue::Uint64(self)
    }
}

#[tokio::test]
async fn what_is_queued_is_written_at_shutdown_and_read_after_restart() {
    let bench = Bench::open(PUBLISH).await;
    let mut scopes = Vec::new();
    for n in 0..50 {
        scopes.push(bench.publish(&bench.message("t", &n.to_string(), false)).await);
    }
    bench.stores.close(Duration::from_secs(10)).await.unwrap();
    for scope in scopes {
        assert_eq!(scope.acks.await, Ok(()));
    }
    let late = bench.publish(&bench.message("t", "late", false)).await;
    assert_eq!(late.acks.await, Err(tidegate_event::AckError::Abandoned));
    let again = Bench::open_in(bench.dir, PUBLISH, 1 << 20).await;
    again.publish(&again.message("t", "after", false)).await.acks.await.unwrap();
    assert_eq!(cli(&again.file(), "select count(*), max(id) from mqtt_msg"), "51|51");
}

/// A page has a bound in bytes too: a thousand large messages must not be in memory at once.
#[tokio::test]
async fn pages_of_large_messages_are_shorter() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "{PUBLISH}backend.sqlite.hook.session.subscribed.1 = {{\"action\": {{\"function\": \"on_message_fetch\"}}, \"pool\": \"pool1\"}}"
    );
    let options =
        StoreOptions { max_result_bytes: 2_500, data_dir: dir.path().into(), ..StoreOptions::default() };
    let stores = Stores::open(&parse(&dir, &text), Arc::new(Node::default()), options).await.unwrap();
    let bench = Bench { dir, stores, ids: IdSource::new(&Node::default()) };
    for _ in 0..7 {
        bench.publish(&bench.message("t/a", &"x".repeat(1_000), false)).await.acks.await.unwrap();
    }
    for filter in ["t/a", "t/+"] {
        let (client, filter) = (client("c"), filter.parse().unwrap());
        let event = Event::SessionSubscribed { client, filter, qos: QoS::AtLeastOnce, shared: false };
        let mut effects = bench.run(event).await.take_effects();
        let mut sizes = Vec::new();
        loop {
            match effects.backlogs[0].next_page().await.unwrap().len() {
                0 => break,
                size => sizes.push(size),
            }
        }
        assert_eq!(sizes, [3, 3, 1]);
    }
}

#[tokio::test]
async fn a_statement_that_the_database_refuses_is_an_error_of_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"
backend.sqlite.hook.client.connected.1 = {"action": {"sql": ["insert into conn(clientid) values(${clientid})"]}, "pool": "pool1"}
backend.sqlite.hook.client.connected.2 = {"action": {"sql": ["insert in conn values(${clientid})"]}, "pool": "pool1"}
"#;
    let errors = try_open(&dir, text, 1 << 20).await.unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].starts_with("test.conf:3:") && errors[0].contains("no such table: conn"), "{errors:?}");
    assert!(errors[0].contains("create the table first"), "{errors:?}");
    assert!(errors[1].starts_with("test.conf:4:") && errors[1].contains("syntax error"), "{errors:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_an_error_of_its_pool() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    std::fs::write(
        file_in(&dir),
        "this is no database, it is a text of more than a hundred bytes ".repeat(20),
    )
    .unwrap();
    let errors = try_open(&dir, PUBLISH, 1 << 20).await.unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains("not a database"), "{}", errors[0]);
    assert_eq!(errors[0].line, Some(1));

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("data"), "a file where a directory must be").unwrap();
    let errors = try_open(&dir, PUBLISH, 1 << 20).await.unwrap_err();
    assert!(errors[0].to_string().contains("cannot be used as a database"), "{}", errors[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_locked_at_start_is_opened_later() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    cli(&file_in(&dir), "create table t(a); pragma journal_mode = delete");
    let locker = Locker::lock(&file_in(&dir));
    let bench = Bench::open_in(dir, PUBLISH, 1 << 20).await;
    let scope = bench.publish(&bench.message("t", "x", false)).await;
    assert!(scope.acks.clone().now_or_never().is_none());
    locker.unlock();
    assert_eq!(scope.acks.await, Ok(()));
    assert_eq!(cli(&bench.file(), "select payload from mqtt_msg"), "x");
}
