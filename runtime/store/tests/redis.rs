//! Redis looked at with `redis-cli`: the documents' own lines, and exactly the printed keys, fields and values.
//!
//! Also what happens when servers are not there, are something else, or go silent.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod redis_faults;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_event::{
    Client, Control, ControlError, DisconnectReason, Event, Message, Node, Origin, Protocol, QoS, Scope,
    StorageError, Tenant, TopicFilter, now_ms,
};
use tidegate_store::config::{self, Loaded};
use tidegate_store::{StoreOptions, Stores};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Document 003's file, but for the address, which has a port of its own here.
const PRINTED: &str = include_str!("data/emqx_backend_redis.conf");

fn servers(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: start servers with `cargo xtask servers start redis`")
    })
}

/// Runs a command with `redis-cli` on database `database`; its reply as the tool prints it for people.
fn cli(database: u8, words: &[&str]) -> String {
    let server = servers("TIDEGATE_REDIS");
    let (host, port) = server.split_once(':').expect("host:port");
    let output = std::process::Command::new("redis-cli")
        .args(["-h", host, "-p", port, "-n", &database.to_string(), "--no-raw"])
        .args(words)
        .output()
        .expect("redis-cli, which is in the package redis-tools");
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

fn load(text: String) -> Loaded {
    config::load(&[("emqx_backend_redis.conf".into(), text)], None).expect("the configuration loads")
}

async fn open(loaded: &Loaded, dir: &std::path::Path) -> Arc<Stores> {
    let options = StoreOptions {
        data_dir: dir.into(),
        read_deadline: Duration::from_secs(2),
        ..StoreOptions::default()
    };
    Stores::open(&loaded.config, Arc::new(Node::default()), options).await.expect("the stores open")
}

/// A store of a pool with these options, without lines.
async fn pool(options: &str) -> (tempfile::TempDir, Arc<Stores>) {
    let dir = tempfile::tempdir().unwrap();
    let text = options.lines().map(|line| format!("backend.redis.pool1.{line}\n")).collect();
    let stores = open(&load(text), dir.path()).await;
    (dir, stores)
}

fn client(connected_at_ms: u64) -> Arc<Client> {
    Arc::new(Client {
        id: "test".into(),
        username: None,
        peer: "127.0.0.1:1".parse().unwrap(),
        protocol: Protocol::V5,
        tenant: Tenant::default(),
        keep_alive: 60,
        clean_start: false,
        connected_at_ms,
        connection: connected_at_ms,
        ..Client::default()
    })
}

fn message(id: &str, topic: &str, payload: &'static str, retain: bool) -> Arc<Message> {
    Arc::new(Message {
        id: id.parse().unwrap(),
        topic: topic.parse().unwrap(),
        payload: Bytes::from_static(payload.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain,
        dup: false,
        timestamp_ms: 1_481_690_659_999,
        sender: "test".into(),
        publisher: None,
        properties: None,
        origin: Origin::Client,
        hops: 0,
    })
}

/// Runs every line of the event's hook whose filter matches.
async fn raise(stores: &Stores, event: Event) -> tidegate_event::Effects {
    let scope = Scope::new(event, Arc::new(Node::default()));
    for action in stores.actions_of(scope.event.hook()) {
        let topic = match &scope.event {
            Event::SessionSubscribed { filter, .. } | Event::SessionUnsubscribed { filter, .. } => {
                action.filter().is_none_or(|own| own.covers(filter))
            }
            event => match event.message() {
                Some(message) => action.filter().is_none_or(|own| own.matches(&message.topic)),
                None => true,
            },
        };
        if topic {
            action.run(&scope).await;
        }
    }
    let decided = tokio::time::timeout(Duration::from_secs(10), scope.acks.clone()).await;
    assert_eq!(decided.expect("decided"), Ok(()));
    scope.take_effects()
}

async fn publish(stores: &Stores, message: &Arc<Message>) {
    let message = Arc::clone(message);
    raise(stores, Event::MessagePublish { message, tenant: Tenant::default() }).await;
}

async fn acked(stores: &Stores, message: &Arc<Message>) {
    let event = Event::MessageAcked {
        client: client(1),
        message: Arc::clone(message),
        through: Some(message.id),
        explicit: true,
    };
    raise(stores, event).await;
}

async fn subscribed(stores: &Stores, filter: &str) -> tidegate_event::Effects {
    let filter: TopicFilter = filter.parse().unwrap();
    let event = Event::SessionSubscribed { client: client(1), filter, qos: QoS::AtLeastOnce, shared: false };
    raise(stores, event).await
}

async fn fetched(stores: &Stores, filter: &str) -> Vec<String> {
    let mut effects = subscribed(stores, filter).await;
    let mut found = Vec::new();
    for backlog in &mut effects.backlogs {
        loop {
            let page = backlog.next_page().await.unwrap();
            if page.is_empty() {
                break;
            }
            found.extend(page.iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()));
        }
    }
    found
}

const ID: &str = "0005F65F239F03FEF44300000BB40002";
const NEXT: &str = "0005F65F239F03FEF44300000BB40003";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_lines_write_exactly_the_printed_keys() {
    const DB: u8 = 9;
    cli(DB, &["flushdb"]);
    let text = PRINTED
        .replace("127.0.0.1:6379", &servers("TIDEGATE_REDIS"))
        .replace("database = 0", &format!("database = {DB}"));
    let (dir, loaded) = (tempfile::tempdir().unwrap(), load(text));
    let stores = open(&loaded, dir.path()).await;

    // Online and offline, as printed for ClientId test.
    raise(&stores, Event::ClientConnected { client: client(1_481_685_802_345) }).await;
    let online =
        "1) \"state\"\n2) \"1\"\n3) \"online_at\"\n4) \"1481685802\"\n5) \"offline_at\"\n6) \"undefined\"";
    assert_eq!(cli(DB, &["hgetall", "mqtt:client:test"]), online);
    assert_eq!(cli(DB, &["hgetall", "mqtt:node:tidegate@127.0.0.1"]), "1) \"test\"\n2) \"1481685802\"");
    let end =
        Event::ClientDisconnected { client: client(1_481_685_802_345), reason: DisconnectReason::Normal };
    raise(&stores, end).await;
    let offline = cli(DB, &["hgetall", "mqtt:client:test"]);
    let before = "1) \"state\"\n2) \"0\"\n3) \"online_at\"\n4) \"1481685802\"\n5) \"offline_at\"\n6) \"";
    let at: u64 = offline.strip_prefix(before).expect(&offline).trim_end_matches('"').parse().unwrap();
    assert!(now_ms() / 1_000 - at < 10);
    assert_eq!(cli(DB, &["exists", "mqtt:node:tidegate@127.0.0.1"]), "(integer) 0");

    // A client's subscriptions, as the document writes them.
    cli(DB, &["hset", "mqtt:sub:test", "topic1", "1"]);
    cli(DB, &["hset", "mqtt:sub:test", "topic2", "2"]);
    let effects = raise(&stores, Event::SessionCreated { client: client(1) }).await;
    let expected =
        [("topic1".parse().unwrap(), QoS::AtLeastOnce), ("topic2".parse().unwrap(), QoS::ExactlyOnce)];
    assert_eq!(effects.subscriptions, expected);

    // A retained message, as printed; every line that matches stores it, too.
    let retained = message(ID, "topic", "Hello world!", true);
    publish(&stores, &retained).await;
    let fields = format!(
        "1) \"id\"\n 2) \"{ID}\"\n 3) \"from\"\n 4) \"test\"\n 5) \"qos\"\n 6) \"1\"\n 7) \"topic\"\n 8) \"topic\"\n 9) \
         \"retain\"\n10) \"true\"\n11) \"payload\"\n12) \"Hello world!\"\n13) \"ts\"\n14) \"1481690659\""
    );
    assert_eq!(cli(DB, &["hgetall", "mqtt:retain:topic"]).trim_start(), fields);
    assert_eq!(cli(DB, &["hgetall", &format!("mqtt:msg:{ID}")]).trim_start(), fields);
    assert_eq!(
        cli(DB, &["zrange", "mqtt:msg:topic", "0", "-1", "withscores"]),
        format!("1) \"{ID}\"\n2) \"1\"")
    );
    for key in ["mqtt:retain:topic", &format!("mqtt:msg:{ID}"), "mqtt:msg:topic"] {
        let left: u64 = cli(DB, &["ttl", key]).trim_start_matches("(integer) ").parse().unwrap();
        assert!((3_500..=3_600).contains(&left), "{key}: {left}");
    }
    assert_eq!(subscribed(&stores, "topic").await.retained.map(|found| found.len()), Some(1));
    publish(&stores, &message(NEXT, "topic", "", true)).await;
    assert_eq!(cli(DB, &["exists", "mqtt:retain:topic"]), "(integer) 0");

    // One to one: the ack deletes the message and its name.
    let queued = message(ID, "queue/a", "one", false);
    publish(&stores, &queued).await;
    assert_eq!(fetched(&stores, "queue/a").await, ["one"]);
    acked(&stores, &queued).await;
    assert_eq!(cli(DB, &["exists", &format!("mqtt:msg:{ID}"), "mqtt:msg:queue/a"]), "(integer) 0");

    // One to many: the ack sets the position; unsubscribing deletes it, by the document's command.
    let (first, second) = (message(ID, "pubsub/a", "1", false), message(NEXT, "pubsub/a", "2", false));
    publish(&stores, &first).await;
    publish(&stores, &second).await;
    assert_eq!(fetched(&stores, "pubsub/a").await, ["1", "2"]);
    acked(&stores, &first).await;
    assert_eq!(cli(DB, &["get", "mqtt:acked:test:pubsub/a"]), format!("\"{ID}\""));
    assert_eq!(fetched(&stores, "pubsub/a").await, ["2"]);
    let filter = "pubsub/a".parse().unwrap();
    raise(&stores, Event::SessionUnsubscribed { client: client(1), filter, shared: false }).await;
    assert_eq!(cli(DB, &["exists", "mqtt:acked:test:pubsub/a"]), "(integer) 0");

    // A name whose message has expired is dropped by the fetch.
    cli(DB, &["del", &format!("mqtt:msg:{ID}")]);
    assert_eq!(fetched(&stores, "pubsub/a").await, ["2"]);
    assert_eq!(cli(DB, &["zrange", "mqtt:msg:pubsub/a", "0", "-1"]), format!("1) \"{NEXT}\""));
    stores.close(Duration::from_secs(5)).await.unwrap();
    cli(DB, &["flushdb"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_server_is_said_by_the_check() {
    let check = async |options: &str| {
        let (_dir, stores) = pool(options).await;
        stores.check("pool1").await.map_err(|error| error.to_string())
    };
    let auth = servers("TIDEGATE_REDIS_AUTH");
    assert_eq!(check(&format!("server = {auth}\npassword = public")).await, Ok(()));
    assert_eq!(check(&format!("server = {auth}\nuser = default\npassword = public")).await, Ok(()));
    let wrong = check(&format!("server = {auth}\npassword = secret-word")).await.unwrap_err();
    assert!(wrong.contains("does not accept user and password") && !wrong.contains("secret-word"), "{wrong}");
    let none = check(&format!("server = {auth}")).await.unwrap_err();
    assert!(none.contains("NOAUTH"), "{none}");
    let nobody = check("server = 127.0.0.1:1").await.unwrap_err();
    assert!(nobody.contains("unavailable"), "{nobody}");

    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap();
    let http = tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap_or_default();
        }
    });
    let wrong = check(&format!("server = {address}")).await.unwrap_err();
    assert!(wrong.contains("not a Redis server"), "{wrong}");
    http.abort();

    let sentinels = servers("TIDEGATE_REDIS_SENTINEL");
    let unknown =
        check(&format!("type = sentinel\nserver = {sentinels}\nsentinel = nobody")).await.unwrap_err();
    assert!(unknown.contains("knows no master \"nobody\""), "{unknown}");
    let single = servers("TIDEGATE_REDIS");
    let lone = check(&format!("type = cluster\nserver = {single}")).await.unwrap_err();
    assert!(lone.contains("unavailable"), "{lone}");
    // The first nodes and sentinels of a list may be down.
    let cluster = servers("TIDEGATE_REDIS_CLUSTER");
    assert_eq!(check(&format!("type = cluster\nserver = 127.0.0.1:1,{cluster}")).await, Ok(()));
    let found =
        check(&format!("type = sentinel\nserver = 127.0.0.1:1,{sentinels}\nsentinel = mymaster")).await;
    assert_eq!(found, Ok(()));
}

/// A proxy to the server that can go silent: bytes are taken and lead nowhere.
async fn proxy(silent: Arc<std::sync::atomic::AtomicBool>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let silent = Arc::clone(&silent);
            tokio::spawn(async move {
                let mut far = TcpStream::connect(servers("TIDEGATE_REDIS")).await.unwrap();
                let (mut up, mut down) = ([0; 4_096], [0; 4_096]);
                loop {
                    let (from, count) = tokio::select! {
                        count = near.read(&mut up) => (true, count.unwrap_or(0)),
                        count = far.read(&mut down) => (false, count.unwrap_or(0)),
                    };
                    if count == 0 {
                        return;
                    }
                    if silent.load(std::sync::atomic::Ordering::Relaxed) {
                        continue;
                    }
                    let sent = match from {
                        true => far.write_all(&up[..count]).await,
                        false => near.write_all(&down[..count]).await,
                    };
                    if sent.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_into_nowhere_is_given_up_and_opened_anew() {
    const DB: u8 = 8;
    cli(DB, &["flushdb"]);
    let silent = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let address = proxy(Arc::clone(&silent)).await;
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "backend.redis.pool1.server = {address}\nbackend.redis.pool1.database = {DB}\n\
         backend.redis.pool1.query_timeout = 300\nbackend.redis.pool1.connect_timeout = 300\n\
         backend.redis.hook.message.publish.1 = {{\"action\": {{\"function\": \"on_message_publish\"}}, \
         \"pool\": \"pool1\"}}\n"
    );
    let stores = open(&load(text), dir.path()).await;
    publish(&stores, &message(ID, "t", "before", false)).await;
    silent.store(true, std::sync::atomic::Ordering::Relaxed);
    let began = Instant::now();
    let error = stores.check("pool1").await.unwrap_err();
    assert!(matches!(error, StorageError::Unavailable { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // What is stored meanwhile waits, and is written when the server answers again.
    let scope = Scope::new(
        Event::MessagePublish { message: message(NEXT, "t", "meanwhile", false), tenant: Tenant::default() },
        Arc::new(Node::default()),
    );
    for action in stores.actions_of(scope.event.hook()) {
        action.run(&scope).await;
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(cli(DB, &["zcard", "mqtt:msg:t"]), "(integer) 1");
    silent.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), scope.acks).await.unwrap(), Ok(()));
    assert_eq!(cli(DB, &["zcard", "mqtt:msg:t"]), "(integer) 2");
    cli(DB, &["flushdb"]);
}

/// What was asked of clients.
#[derive(Default)]
struct Asked(Mutex<Vec<String>>);

impl Control for Asked {
    fn publish(&self, _: &Tenant, _: Message) -> Result<(), ControlError> {
        Err(ControlError::Stopping)
    }

    fn deliver(&self, _: &Tenant, _: &str, _: Message) -> Result<(), ControlError> {
        Err(ControlError::Stopping)
    }

    fn subscribe(&self, _: &Tenant, client: &str, filter: TopicFilter, qos: QoS) -> Result<(), ControlError> {
        if client == "nobody" {
            return Err(ControlError::NoSuchClient(client.to_owned()));
        }
        self.0.lock().push(format!("+{client} {filter} {}", qos.level()));
        Ok(())
    }

    fn unsubscribe(&self, _: &Tenant, client: &str, filter: TopicFilter) -> Result<(), ControlError> {
        self.0.lock().push(format!("-{client} {filter}"));
        Ok(())
    }

    fn disconnect(&self, _: &Tenant, _: &str) -> Result<(), ControlError> {
        Err(ControlError::Stopping)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_the_channel_subscribe_and_unsubscribe() {
    let channel = format!("channel-{}", now_ms());
    let server = servers("TIDEGATE_REDIS");
    let (_dir, stores) = pool(&format!("server = {server}\nchannel = {channel}")).await;
    let asked = Arc::new(Asked::default());
    stores.listen(Arc::clone(&asked) as Arc<dyn Control>);
    let publish = async |text: &str| {
        for _ in 0..200 {
            if cli(0, &["publish", &channel, text]) == "(integer) 1" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody listens");
    };
    for text in [
        r#"{"type": "subscribe", "topic": "topic0", "clientid": "test", "qos": "0"}"#,
        "no json",
        r#"{"type": "subscribe", "topic": "topic0", "clientid": "nobody", "qos": 1}"#,
        r#"{"type": "subscribe", "topic": "a/#/b", "clientid": "test", "qos": 1}"#,
        r#"{"type": "subscribe", "topic": "topic1/#", "clientid": "test", "qos": 2}"#,
        r#"{"type": "unsubscribe", "topic": "test_topic0", "clientid": "test"}"#,
    ] {
        publish(text).await;
    }
    // The connection is lost, and made again.
    cli(0, &["client", "kill", "type", "pubsub"]);
    publish(r#"{"type": "unsubscribe", "topic": "topic1/#", "clientid": "test"}"#).await;
    let expected = ["+test topic0 0", "+test topic1/# 2", "-test test_topic0", "-test topic1/#"];
    for _ in 0..100 {
        if asked.0.lock().len() >= expected.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(*asked.0.lock(), expected);
    stores.close(Duration::from_secs(5)).await.unwrap();
    for _ in 0..100 {
        if cli(0, &["publish", &channel, "x"]) == "(integer) 0" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it still listens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_is_used_again_without_its_scripts() {
    const DB: u8 = 7;
    cli(DB, &["flushdb"]);
    let dir = tempfile::tempdir().unwrap();
    let server = servers("TIDEGATE_REDIS");
    let text = format!(
        "backend.redis.pool1.server = {server}\nbackend.redis.pool1.database = {DB}\n\
         backend.redis.hook.message.acked.1 = {{\"action\": {{\"function\": \"on_message_acked_for_pubsub\"}}, \
         \"pool\": \"pool1\"}}\n"
    );
    let stores = open(&load(text), dir.path()).await;
    acked(&stores, &message(ID, "t", "", false)).await;
    cli(DB, &["script", "flush"]);
    acked(&stores, &message(NEXT, "t", "", false)).await;
    assert_eq!(cli(DB, &["get", "mqtt:acked:test:t"]), format!("\"{NEXT}\""));
    acked(&stores, &message(ID, "t", "", false)).await;
    assert_eq!(cli(DB, &["get", "mqtt:acked:test:t"]), format!("\"{NEXT}\""), "never back");
    cli(DB, &["flushdb"]);
}

/// Publishes number after number to `topics` topics, each acknowledged before the next, until `stop`. Gives how many.
async fn publish_until(
    stores: Arc<Stores>,
    topics: usize,
    prefix: String,
    stop: Arc<std::sync::atomic::AtomicBool>,
) -> Vec<Arc<Message>> {
    let ids = tidegate_event::IdSource::new(&Node::default());
    let mut acknowledged = Vec::new();
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let topic = format!("{prefix}/{}", acknowledged.len() % topics);
        let mut message = Message::clone(&message(ID, &topic, "x", false));
        message.id = ids.next_id();
        let message = Arc::new(message);
        let event = Event::MessagePublish { message: Arc::clone(&message), tenant: Tenant::default() };
        let scope = Scope::new(event, Arc::new(Node::default()));
        for action in stores.actions_of(scope.event.hook()) {
            action.run(&scope).await;
        }
        assert_eq!(tokio::time::timeout(Duration::from_secs(60), scope.acks).await.unwrap(), Ok(()));
        acknowledged.push(message);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    acknowledged
}

const PUBSUB: &str = "backend.redis.hook.message.publish.1 = {\"action\": {\"function\": \"on_message_publish\"}, \
    \"pool\": \"pool1\"}\nbackend.redis.hook.session.subscribed.1 = {\"action\": {\"function\": \
    \"on_message_fetch_for_pubsub\"}, \"pool\": \"pool1\"}\n";

/// Runs `redis-cli` against `address`.
fn cli_at(address: &str, words: &[&str]) -> String {
    let (host, port) = address.split_once(':').expect("host:port");
    let output = std::process::Command::new("redis-cli")
        .args(["-h", host, "-p", port])
        .args(words)
        .output()
        .expect("redis-cli, which is in the package redis-tools");
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

async fn all_are_fetched(stores: &Stores, topics: usize, prefix: &str, acknowledged: &[Arc<Message>]) {
    let mut found = 0;
    for topic in 0..topics {
        found += fetched(stores, &format!("{prefix}/{topic}")).await.len();
    }
    assert_eq!(found, acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_over_loses_nothing_that_was_acknowledged() {
    let sentinels = servers("TIDEGATE_REDIS_SENTINEL");
    let sentinel = sentinels.split(',').next().unwrap();
    let master = || cli_at(sentinel, &["sentinel", "get-master-addr-by-name", "mymaster"]);
    let before = master();
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "backend.redis.pool1.type = sentinel\nbackend.redis.pool1.server = {sentinels}\n\
         backend.redis.pool1.sentinel = mymaster\nbackend.redis.pool1.wait_replicas = 1\n{PUBSUB}"
    );
    let stores = open(&load(text), dir.path()).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let prefix = format!("failover{}", now_ms());
    let publisher = tokio::spawn(publish_until(Arc::clone(&stores), 3, prefix.clone(), Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The last fail-over may be too recent for another one.
    let mut asked = Vec::new();
    while asked.last().is_none_or(|answer| answer != "OK") {
        assert!(asked.len() < 100, "{asked:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
        asked.push(cli_at(sentinel, &["sentinel", "failover", "mymaster"]));
    }
    for _ in 0..300 {
        if master() != before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_ne!(master(), before, "another master");
    // The old master becomes a replica of the new one; only then `wait_replicas` lets anything be stored.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let known = stores.check("pool1").await;
    assert_eq!(known, Ok(()));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let acknowledged = tokio::time::timeout(Duration::from_secs(60), publisher).await.unwrap().unwrap();
    all_are_fetched(&stores, 3, &prefix, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_lose_nothing() {
    let nodes = servers("TIDEGATE_REDIS_CLUSTER");
    let node = |at: usize| nodes.split(',').nth(at).unwrap().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let text = format!("backend.redis.pool1.type = cluster\nbackend.redis.pool1.server = {nodes}\n{PUBSUB}");
    let stores = open(&load(text), dir.path()).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let prefix = format!("moved{}", now_ms());
    let publisher = tokio::spawn(publish_until(Arc::clone(&stores), 200, prefix.clone(), Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let id = |at: usize| cli_at(&node(at), &["cluster", "myid"]);
    // There and back again, so that the cluster stays balanced.
    for (from, to) in [(0, 1), (1, 0)] {
        let (first, from, to) = (node(0), id(from), id(to));
        let reshard = tokio::task::spawn_blocking(move || {
            let moves = ["--cluster-from", &from, "--cluster-to", &to, "--cluster-slots", "300"];
            std::process::Command::new("redis-cli")
                .args(["--cluster", "reshard", &first])
                .args(moves)
                .args(["--cluster-yes", "--cluster-pipeline", "50"])
                .output()
                .expect("redis-cli")
        });
        let moved = reshard.await.unwrap();
        assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stdout));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let acknowledged = tokio::time::timeout(Duration::from_secs(60), publisher).await.unwrap().unwrap();
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    all_are_fetched(&stores, 200, &prefix, &acknowledged).await;
}
