//! What a pool's options do, looked at from the server: connections, pipelines, and who is let in.
//!
//! Every test starts servers of its own: others would be seen in their counters, and these let nobody else in.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tidegate_event::{Event, IdSource, Message, Node, Origin, QoS, Scope, StorageError, Tenant, now_ms};
use tidegate_servers::Place;
use tidegate_servers::redis::{Cli, Cluster, MASTER, Options, Redis, Sentinels};
use tidegate_store::{StoreOptions, Stores, config};

const PUBLISH: &str = "backend.redis.hook.message.publish.1 = {\"action\": {\"function\": \"on_message_publish\"}, \"pool\": \"pool1\"}\n";

/// A store of one pool with these options, and a line that stores messages.
struct Bench {
    stores: Arc<Stores>,
    ids: IdSource,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// `options`: `name = value` lines.
    async fn new(options: &str) -> Self {
        let lines: String = options.lines().map(|line| format!("backend.redis.pool1.{line}\n")).collect();
        let loaded = config::load(&[("redis.conf".into(), format!("{lines}{PUBLISH}"))], None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            data_dir: dir.path().into(),
            read_deadline: Duration::from_secs(2),
            ..StoreOptions::default()
        };
        let stores = Stores::open(&loaded.config, Arc::new(Node::default()), options).await.unwrap();
        Self { stores, ids: IdSource::new(&Node::default()), _dir: dir }
    }

    /// A message on its way: queued, not awaited.
    async fn publish(&self, topic: &str) -> Scope {
        let message = Arc::new(Message {
            id: self.ids.next_id(),
            topic: topic.parse().unwrap(),
            payload: "x".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            timestamp_ms: now_ms(),
            sender: "publisher".into(),
            publisher: None,
            properties: None,
            origin: Origin::Client,
            hops: 0,
        });
        let event = Event::MessagePublish { message, tenant: Tenant::default() };
        let scope = Scope::new(event, Arc::new(Node::default()));
        for action in self.stores.actions_of(scope.event.hook()) {
            action.run(&scope).await;
        }
        scope
    }

    /// Waits until it is stored.
    async fn stored(scope: Scope) {
        let decided = tokio::time::timeout(Duration::from_secs(20), scope.acks).await;
        assert_eq!(decided.expect("decided"), Ok(()));
    }

    /// Whether the servers can be used, in words.
    async fn check(&self) -> Result<(), String> {
        self.stores.check("pool1").await.map_err(|error: StorageError| error.to_string())
    }
}

/// Where the servers of a test are.
fn place() -> Place {
    Place::temporary().unwrap()
}

/// A number of `INFO stats`.
fn stat(redis: &Redis, name: &str) -> u64 {
    let text = redis.run(&["INFO", "stats"]).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect(name);
    line.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_opens_so_many_connections() {
    let redis = Options::new("pool").start(&place()).unwrap();
    for size in [1, 3] {
        let bench = Bench::new(&format!("server = {}\npool_size = {size}", redis.server().address())).await;
        for round in 0..3 {
            let scopes = join_all((0..60).map(|n| {
                let topic = format!("{size}/{round}/{n}");
                let bench = &bench;
                async move { bench.publish(&topic).await }
            }));
            join_all(scopes.await.into_iter().map(Bench::stored)).await;
        }
        let list = redis.run(&["CLIENT", "LIST", "TYPE", "normal"]).unwrap();
        // The one that asks is none of them.
        let ours = list.lines().filter(|line| !line.is_empty() && !line.contains("cmd=client")).count();
        assert_eq!(ours, size, "{list}");
        bench.stores.close(Duration::from_secs(5)).await.unwrap();
    }
    let mut left = String::new();
    for _ in 0..100 {
        left = redis.run(&["CLIENT", "LIST", "TYPE", "normal"]).unwrap();
        if left.lines().filter(|line| !line.is_empty()).count() == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("a closed pool leaves connections: {left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_a_few_pipelines() {
    let redis = Options::new("burst").start(&place()).unwrap();
    let bench = Bench::new(&format!("server = {}", redis.server().address())).await;
    // All connections are open, and what that takes is not counted.
    for n in 0..100 {
        Bench::stored(bench.publish(&format!("before/{n}")).await).await;
    }
    let before = stat(&redis, "total_reads_processed");
    for n in 0..100 {
        Bench::stored(bench.publish(&format!("alone/{n}")).await).await;
    }
    let alone = stat(&redis, "total_reads_processed");
    let mut scopes = Vec::new();
    for n in 0..2_000 {
        scopes.push(bench.publish(&format!("burst/{}", n % 50)).await);
    }
    join_all(scopes.into_iter().map(Bench::stored)).await;
    let burst = stat(&redis, "total_reads_processed");
    println!("reads: {} for 100 one after the other, {} for 2,000 at once", alone - before, burst - alone);
    assert!(alone - before >= 100, "one at a time is a pipeline each: {}", alone - before);
    assert!(burst - alone < 400, "{} reads for 2,000 messages", burst - alone);
    let stored: usize = (0..50)
        .map(|n| redis.run(&["ZCARD", &format!("mqtt:msg:burst/{n}")]).unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(stored, 2_000);
}

/// How a pool of one form comes to its servers, and what it stores arrives.
async fn comes_in(options: &str, see: &dyn Fn(&str) -> String) {
    let bench = Bench::new(options).await;
    assert_eq!(bench.check().await, Ok(()), "{options}");
    let topics: Vec<String> = (0..20).map(|n| format!("secured/{n}")).collect();
    let scopes = join_all(topics.iter().map(|topic| bench.publish(topic))).await;
    join_all(scopes.into_iter().map(Bench::stored)).await;
    for topic in &topics {
        assert_eq!(see(topic), "1", "{topic}");
    }
    bench.stores.close(Duration::from_secs(5)).await.unwrap();
}

/// What keeps a pool with these options out. No secret is told.
async fn is_kept_out(options: &str, reasons: &[&str]) {
    let error = Bench::new(&format!("{options}\nconnect_timeout = 2000")).await.check().await.unwrap_err();
    println!("{}: {error}", options.lines().last().unwrap_or_default());
    assert!(reasons.iter().any(|reason| error.contains(reason)), "{options}\n{error}");
    assert!(!error.contains("correct-horse") && !error.contains("wrong-horse"), "{error}");
}

const PASSWORD: &str = "correct-horse";

/// The options of a client that trusts the authority and shows the certificate of `redis`.
fn certificates(redis: &Redis) -> String {
    let file = |path: &Path| path.display().to_string();
    let (certificate, key) = (file(&redis.authority()), file(&redis.key()));
    format!("ssl = true\ncacertfile = {certificate}\ncertfile = {certificate}\nkeyfile = {key}")
}

/// The same without a certificate of its own.
fn authority(redis: &Redis) -> String {
    format!("ssl = true\ncacertfile = {}", redis.authority().display())
}

/// How many messages of a topic there are, by `redis-cli`.
fn count(cli: &Cli, topic: &str) -> String {
    cli.run(&["ZCARD", &format!("mqtt:msg:{topic}")]).unwrap()
}

/// What a client without a certificate is told depends on when the server's alert is read.
const NO_CERTIFICATE: &[&str] =
    &["ertificate", "alert", "reset", "roken pipe", "closed", "EOF", "eof", "in time"];
const UNTRUSTED: &[&str] = &["UnknownIssuer", "certificate"];
const NO_PASSWORD: &[&str] = &["NOAUTH", "Authentication required", "does not accept user and password"];
/// The driver's words are those of a cluster.
const WRONG_PASSWORD: &[&str] = &["does not accept user and password", "Password authentication failed"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_is_reached_by_password_and_certificates() {
    let place = place();
    let redis = Options::new("one").password(PASSWORD).certificates().start(&place).unwrap();
    let server = format!("server = {}", redis.server().address());
    let (password, certificates) = (format!("password = {PASSWORD}"), certificates(&redis));
    comes_in(&format!("{server}\n{password}\n{certificates}"), &|topic| count(&redis.cli(), topic)).await;
    is_kept_out(&format!("{server}\n{password}\n{}", authority(&redis)), NO_CERTIFICATE).await;
    is_kept_out(&format!("{server}\n{password}\nssl = true"), UNTRUSTED).await;
    is_kept_out(&format!("{server}\n{certificates}"), NO_PASSWORD).await;
    is_kept_out(&format!("{server}\n{certificates}\npassword = wrong-horse"), WRONG_PASSWORD).await;

    let user = Options::new("user").tls().user("mqtt", PASSWORD).start(&place).unwrap();
    let server = format!("server = {}\n{}", user.server().address(), authority(&user));
    let whole = format!("{server}\nuser = mqtt\n{password}");
    comes_in(&whole, &|topic| count(&user.cli(), topic)).await;
    is_kept_out(&format!("{server}\nuser = somebody\n{password}"), WRONG_PASSWORD).await;
    is_kept_out(&format!("{server}\n{password}"), WRONG_PASSWORD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_is_found_by_password_and_certificates() {
    let how = |options: Options| options.password(PASSWORD).certificates();
    let sentinels = Sentinels::start_as(&place(), how).unwrap();
    let server = format!("type = sentinel\nsentinel = {MASTER}\nserver = {}", sentinels.addresses());
    let certificates = certificates(&sentinels.master);
    let password = format!("password = {PASSWORD}");
    let sentinel_password = format!("sentinel_password = {PASSWORD}");
    let whole = format!("{server}\n{password}\n{sentinel_password}\n{certificates}");
    comes_in(&whole, &|topic| count(&sentinels.master.cli(), topic)).await;
    let without =
        |what: &str| whole.lines().filter(|line| !line.starts_with(what)).collect::<Vec<_>>().join("\n");
    is_kept_out(&without("sentinel_password"), NO_PASSWORD).await;
    is_kept_out(&without("password"), NO_PASSWORD).await;
    is_kept_out(&without("cacertfile"), UNTRUSTED).await;
    let keyless = format!("{server}\n{password}\n{sentinel_password}\n{}", authority(&sentinels.master));
    is_kept_out(&keyless, NO_CERTIFICATE).await;
    let wrong = format!("{}\npassword = wrong-horse", without("password"));
    is_kept_out(&wrong, WRONG_PASSWORD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_reached_by_password_and_certificates() {
    let how = |options: Options| options.password(PASSWORD).certificates();
    let cluster = Cluster::start_as(&place(), 3, 0, how).unwrap();
    let server = format!("type = cluster\nserver = {}", cluster.addresses());
    let (password, certificates) = (format!("password = {PASSWORD}"), certificates(&cluster.nodes[0]));
    let whole = format!("{server}\n{password}\n{certificates}");
    comes_in(&whole, &|topic| count(&cluster.nodes[0].cli().follow(), topic)).await;
    // Every node has some: each was reached.
    for node in &cluster.nodes {
        assert_ne!(node.run(&["DBSIZE"]).unwrap(), "0");
    }
    is_kept_out(&format!("{server}\n{certificates}"), NO_PASSWORD).await;
    is_kept_out(&format!("{server}\n{certificates}\npassword = wrong-horse"), WRONG_PASSWORD).await;
    is_kept_out(&format!("{server}\n{password}\nssl = true"), UNTRUSTED).await;
    is_kept_out(&format!("{server}\n{password}\n{}", authority(&cluster.nodes[0])), NO_CERTIFICATE).await;
}
