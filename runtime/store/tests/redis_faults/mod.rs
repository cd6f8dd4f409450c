//! What goes wrong with servers while something is stored: nodes that are lost, replicas that are missing, hosts that
//! say nothing. Servers that are killed or changed are this file's own.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use tidegate_event::{AckError, AckJoin, Reply, Storage as _};
use tidegate_servers::Place;
use tidegate_servers::redis::{Cluster, Options, Redis};

use super::*;

/// Lines of a pool and of hooks.
fn config(pool: &[&str], hooks: &[&str]) -> Loaded {
    let pool = pool.iter().map(|line| format!("backend.redis.pool1.{line}\n"));
    let hooks = hooks.iter().map(|line| format!("backend.redis.hook.{line}\n"));
    load(pool.chain(hooks).collect())
}

/// Has the lines of `message.publish` store a message in each of `topics`; gives what they wait for.
async fn published(stores: &Stores, topics: &[String]) -> Vec<AckJoin> {
    let ids = tidegate_event::IdSource::new(&Node::default());
    let mut joins = Vec::new();
    for topic in topics {
        let mut message = Message::clone(&message(ID, topic, "x", false));
        message.id = ids.next_id();
        let event = Event::MessagePublish { message: Arc::new(message), tenant: Tenant::default() };
        let scope = Scope::new(event, Arc::new(Node::default()));
        let name = topic.parse().unwrap();
        for action in stores.actions_of(scope.event.hook()) {
            if action.filter().is_none_or(|own| own.matches(&name)) {
                action.run(&scope).await;
            }
        }
        joins.push(scope.acks);
    }
    joins
}

async fn ended(join: AckJoin) -> Result<(), AckError> {
    tokio::time::timeout(Duration::from_secs(60), join).await.expect("decided")
}

/// Started on a thread that outlives the test's use of it: servers end with the thread that starts them.
fn start<T>(started: impl FnOnce(&Place) -> tidegate_servers::Result<T>) -> T {
    started(&Place::temporary().expect("a folder")).expect("a server")
}

/// Waits, while others run, until `is`.
async fn until(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(60), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Healthy nodes answer their commands; when one is lost, only what was for that one is sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_of_a_cluster_runs_no_command_of_another_again() {
    let mut cluster = start(|place| Cluster::start(place, 3, 0));
    // Every other node goes on with its own slots.
    for node in &cluster.nodes {
        node.run(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let server = format!("server = {}", cluster.addresses());
    let stores = open(
        &config(
            &["type = cluster", "pool_size = 1", "query_timeout = 1000", "connect_timeout = 1000", &server],
            &[r#"message.publish.1 = {"action": {"commands": ["RPUSH pub:${topic} ${msgid}"]}, "pool": "pool1"}"#],
        ),
        dir.path(),
    )
    .await;
    let is_lost = |topic: &String| {
        let slot = cluster.nodes[0].run(&["CLUSTER", "KEYSLOT", &format!("pub:{topic}")]).unwrap();
        cluster.owner(slot.parse().unwrap()).unwrap() == 2
    };
    let mut topics: Vec<String> = (0..60).map(|n| format!("t{n}")).collect();
    // The first one is a batch by itself, and nothing of a shard passes what is undecided.
    let first = topics.iter().position(|topic| !is_lost(topic)).unwrap();
    topics.swap(0, first);
    for join in published(&stores, &["warm".to_owned()]).await {
        assert_eq!(ended(join).await, Ok(()));
    }
    cluster.nodes[2].server_mut().kill();
    let joins = published(&stores, &topics).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let waiting = joins.iter().filter(|join| (*join).clone().now_or_never().is_none());
    let waiting = waiting.count();
    assert!(waiting > 0 && waiting < topics.len(), "only those of the lost node wait: {waiting}");
    cluster.nodes[2].start().unwrap();
    for join in joins {
        assert_eq!(ended(join).await, Ok(()));
    }
    cluster.wait_whole().unwrap();
    let cli = cluster.nodes[0].cli().follow();
    for topic in topics {
        assert_eq!(cli.run(&["LLEN", &format!("pub:{topic}")]).unwrap(), "1", "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_missing_runs_no_command_again() {
    let master = start(|place| Options::new("master").line("repl-diskless-sync-delay 0").start(place));
    let dir = tempfile::tempdir().unwrap();
    let server = format!("server = {}", master.server().address());
    let loaded = config(
        &["wait_replicas = 1", "query_timeout = 1000", &server],
        &[r#"message.publish.1 = {"action": {"commands": ["INCR count"]}, "pool": "pool1"}"#],
    );
    let stores = open(&loaded, dir.path()).await;
    let join = published(&stores, &["t".to_owned()]).await.remove(0);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(join.clone().now_or_never(), None, "no replica has it");
    assert_eq!(master.run(&["GET", "count"]).unwrap(), "1");
    let line = format!("replicaof 127.0.0.1 {}", master.server().port());
    let _replica = start(|place| Options::new("replica").line(&line).start(place));
    assert_eq!(ended(join).await, Ok(()));
    assert_eq!(master.run(&["GET", "count"]).unwrap(), "1");
}

/// Whoever may not ask how many replicas have a batch never learns that they have: nothing is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_in_the_place_of_replicas_stores_nothing() {
    let server: Redis = start(|place| Options::new("nowait").start(place));
    server.run(&["ACL", "SETUSER", "default", "-wait"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let address = format!("server = {}", server.server().address());
    let loaded = config(
        &["wait_replicas = 1", &address],
        &[r#"message.publish.1 = {"action": {"commands": ["INCR count"]}, "pool": "pool1"}"#],
    );
    let stores = open(&loaded, dir.path()).await;
    let error = stores.check("pool1").await.unwrap_err().to_string();
    assert!(error.contains("NOPERM"), "{error}");
    let join = published(&stores, &["t".to_owned()]).await.remove(0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(join.now_or_never(), None);
    assert_eq!(server.run(&["EXISTS", "count"]).unwrap(), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_is_not_there_is_refused_and_holds_nobody_up() {
    const DB: u8 = 6;
    cli(DB, &["flushdb"]);
    let dir = tempfile::tempdir().unwrap();
    let (server, database) = (format!("server = {}", servers("TIDEGATE_REDIS")), format!("database = {DB}"));
    let missing = "0123456789012345678901234567890123456789";
    let line = format!(
        r#"message.publish.1 = {{"topic": "script", "action": {{"commands": ["INCR before", "EVALSHA {missing} 0"]}}, "pool": "pool1"}}"#
    );
    let next =
        r#"message.publish.2 = {"topic": "next", "action": {"commands": ["INCR after"]}, "pool": "pool1"}"#;
    let stores = open(&config(&["pool_size = 1", &server, &database], &[&line, next]), dir.path()).await;
    let mut joins = published(&stores, &["script".to_owned(), "next".to_owned()]).await;
    assert_eq!(ended(joins.remove(1)).await, Ok(()));
    let refused = ended(joins.remove(0)).await.unwrap_err();
    assert!(matches!(&refused, AckError::Refused { reason, .. } if reason.contains("NOSCRIPT")), "{refused}");
    assert_eq!([cli(DB, &["get", "before"]), cli(DB, &["get", "after"])], ["\"1\"", "\"1\""]);

    let words = |text: &str| text.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let commands = vec![words("INCR guest"), words(&format!("EVALSHA {missing} 0")), words("INCR guest")];
    let replies = stores.commands(&Tenant::default(), "pool1", commands).await.unwrap();
    assert_eq!([&replies[0], &replies[2]], [&Reply::Integer(1), &Reply::Integer(2)]);
    assert!(matches!(&replies[1], Reply::Error(error) if error.code == "NOSCRIPT" && !error.retryable));
    cli(DB, &["flushdb"]);
}

/// A proxy to the server whose first `mute` connections say nothing any more.
async fn half_mute(mute: Arc<AtomicUsize>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((mut near, _)) = listener.accept().await {
            let (mute, own) = (Arc::clone(&mute), number);
            number += 1;
            tokio::spawn(async move {
                let mut far = TcpStream::connect(servers("TIDEGATE_REDIS")).await.unwrap();
                let (mut up, mut down) = ([0; 4_096], [0; 4_096]);
                loop {
                    let (to, bytes) = tokio::select! {
                        count = near.read(&mut up) => (&mut far, &up[..count.unwrap_or(0)]),
                        count = far.read(&mut down) => (&mut near, &down[..count.unwrap_or(0)]),
                    };
                    let is_mute = own < mute.load(Ordering::Relaxed);
                    if bytes.is_empty() || !is_mute && to.write_all(bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_gone_is_found_out_once_for_all_connections() {
    let mute = Arc::new(AtomicUsize::new(0));
    let address = half_mute(Arc::clone(&mute)).await;
    let (_dir, stores) =
        pool(&format!("server = {address}\npool_size = 6\nquery_timeout = 1000\nconnect_timeout = 1000"))
            .await;
    for _ in 0..6 {
        assert_eq!(stores.check("pool1").await, Ok(()));
    }
    mute.store(6, Ordering::Relaxed);
    assert!(stores.check("pool1").await.is_err());
    let began = Instant::now();
    for _ in 0..6 {
        assert_eq!(stores.check("pool1").await, Ok(()), "it leads to where somebody answers");
    }
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
}

/// A sentinel that names this master, whatever it is asked.
async fn sentinel(master: &str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (host, port) = master.split_once(':').expect("host:port");
    let named = format!("*2\r\n${}\r\n{host}\r\n${}\r\n{port}\r\n", host.len(), port.len());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let named = named.clone();
            tokio::spawn(async move {
                let mut bytes = [0; 4_096];
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                    // Commands are arrays of words; the driver greets with some of its own.
                    for command in text.split('*').skip(1) {
                        let reply = if command.contains("SENTINEL") { &named } else { "+OK\r\n" };
                        stream.write_all(reply.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_names_a_lost_master_is_not_the_last_to_be_asked() {
    let channel = format!("sentinel-channel-{}", now_ms());
    let (lost, right) = (sentinel("127.0.0.1:1").await, sentinel(&servers("TIDEGATE_REDIS")).await);
    let (_dir, stores) =
        pool(&format!("type = sentinel\nsentinel = m\nserver = {lost},{right}\nchannel = {channel}")).await;
    assert_eq!(stores.check("pool1").await, Ok(()));
    stores.listen(Arc::new(Asked::default()));
    until("the channel is followed", || cli(0, &["publish", &channel, "{}"]) == "(integer) 1").await;
    // What the only one names is what is said to be wrong.
    let (_dir, stores) = pool(&format!("type = sentinel\nsentinel = m\nserver = {lost}")).await;
    let error = stores.check("pool1").await.unwrap_err().to_string();
    assert!(error.contains("master 127.0.0.1:1 of sentinel"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_says_nothing_is_asked_about_one_statement() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("server = {}", silent.local_addr().unwrap());
    let hooks: Vec<String> = (1..=20)
        .map(|n| {
            format!(r#"message.publish.{n} = {{"action": {{"commands": ["INCR a{n}"]}}, "pool": "pool1"}}"#)
        })
        .collect();
    let hooks: Vec<&str> = hooks.iter().map(String::as_str).collect();
    let loaded = config(&["query_timeout = 1000", "connect_timeout = 1000", &server], &hooks);
    let (dir, began) = (tempfile::tempdir().unwrap(), Instant::now());
    let stores = open(&loaded, dir.path()).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(stores.actions().len(), 20);
}

/// Counts warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicU64>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// The check of a pool set the one in use down, though its configuration was refused; and one that was taken said nothing.
#[tokio::test]
async fn only_a_configuration_that_is_taken_says_that_its_store_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let up = format!("server = {}", servers("TIDEGATE_REDIS"));
    let stores = open(&config(&[&up], &[]), dir.path()).await;
    let state = || {
        let report = stores.report().remove(0);
        (report.is_up, report.errors)
    };
    assert_eq!(state(), (true, 0));
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let wrong = format!(
        "backend.redis.pool1.server = 127.0.0.1:1\nbackend.sqlite.q.path = {}/q.db\nbackend.sqlite.hook.message.publish.1 = \
         {{\"action\": {{\"sql\": [\"delete from nowhere\"]}}, \"pool\": \"q\"}}\n",
        dir.path().display()
    );
    let refused = stores.prepare(&load(wrong).config).await.expect_err("there is no such table");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!((state(), warnings.0.load(Ordering::Relaxed)), ((true, 0), 0));
    let down = stores.prepare(&config(&["server = 127.0.0.1:1"], &[]).config).await.expect("it may come up");
    stores.commit(down);
    assert_eq!((state(), warnings.0.load(Ordering::Relaxed)), ((false, 1), 1));
    let back = stores.prepare(&config(&[&up], &[]).config).await.expect("it is up");
    stores.commit(back);
    assert_eq!((state(), warnings.0.load(Ordering::Relaxed)), ((true, 1), 1));
    stores.close(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn what_fails_for_everybody_gives_one_line_a_second() {
    const DB: u8 = 5;
    cli(DB, &["flushdb"]);
    for n in 0..40 {
        let id = format!("0005F65F239F03FEF443000000000{n:03}");
        cli(DB, &["hset", &format!("mqtt:msg:{id}"), "topic", "t", "qos", "3"]);
        cli(DB, &["zadd", "mqtt:msg:t", "1", &id]);
    }
    let (server, database) = (format!("server = {}", servers("TIDEGATE_REDIS")), format!("database = {DB}"));
    let fetch = r#"session.subscribed.1 = {"action": {"function": "on_message_fetch"}, "pool": "pool1"}"#;
    let look = r#"session.created.1 = {"action": {"function": "on_subscribe_lookup"}, "pool": "pool1"}"#;
    let dir = tempfile::tempdir().unwrap();
    let stores = open(&config(&[&server, &database], &[fetch]), dir.path()).await;
    let down = open(&config(&["server = 127.0.0.1:1"], &[look]), dir.path()).await;
    let warnings = Warnings::default();
    let guard = tracing::subscriber::set_default(warnings.clone());
    assert_eq!(fetched(&stores, "t").await, Vec::<String>::new());
    let skipped = warnings.0.swap(0, Ordering::Relaxed);
    assert!((1..=3).contains(&skipped), "40 messages: {skipped}");
    let scopes: Vec<Scope> = (0..20)
        .map(|_| Scope::new(Event::SessionCreated { client: client(1) }, Arc::new(Node::default())))
        .collect();
    let actions = down.actions();
    let runs = scopes.iter().map(|scope| actions[0].run(scope));
    futures_util::future::join_all(runs).await;
    for scope in &scopes {
        assert!(ended(scope.acks.clone()).await.is_err());
    }
    let failed = warnings.0.load(Ordering::Relaxed);
    drop(guard);
    assert!((1..=3).contains(&failed), "20 look-ups: {failed}");
    cli(DB, &["flushdb"]);
}

/// Nobody fetches the topic: what comes takes the names of expired messages away, and of no others.
async fn names_go(pool: &[&str], topic: &str, cli: impl Fn(&[&str]) -> String) {
    let set = format!("mqtt:msg:{topic}");
    let old = |n: usize| format!("0005000000000000F443000000000{n:03}");
    for n in 0..60 {
        cli(&["zadd", &set, "1", &old(n)]);
    }
    // An older one that lives longer than what comes.
    let lives = format!("mqtt:msg:{}", old(58));
    cli(&["hset", &lives, "topic", topic, "qos", "1"]);
    let line = r#"message.publish.1 = {"action": {"function": "on_message_store"}, "pool": "pool1", "expired_time": 3600}"#;
    let dir = tempfile::tempdir().unwrap();
    let stores = open(&config(pool, &[line]), dir.path()).await;
    for _ in 0..40 {
        for join in published(&stores, &[topic.to_owned()]).await {
            assert_eq!(ended(join).await, Ok(()));
        }
    }
    assert_eq!(cli(&["zcard", &set]), "41", "what came, and what lives");
    assert_ne!(cli(&["zrank", &set, &old(58)]), "", "it lives");
    stores.close(Duration::from_secs(5)).await.unwrap();
    cli(&["del", &set]);
    cli(&["del", &lives]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_expired_messages_go_as_others_come() {
    let topic = format!("expired{}", now_ms());
    let single = servers("TIDEGATE_REDIS");
    names_go(&[&format!("server = {single}")], &topic, |words| cli_at(&single, words)).await;
    let cluster = servers("TIDEGATE_REDIS_CLUSTER");
    let node = cluster.split(',').next().unwrap();
    names_go(&["type = cluster", &format!("server = {cluster}")], &topic, |words| {
        let follow: Vec<&str> = std::iter::once("-c").chain(words.iter().copied()).collect();
        cli_at(node, &follow).lines().last().unwrap_or_default().to_owned()
    })
    .await;
}
