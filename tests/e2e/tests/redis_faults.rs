//! Redis breaks while ten publishers send at QoS 1: every message that was acknowledged is in the store afterwards, and
//! the runtime's memory stays within its budget.
//!
//! Acknowledged means that the store answered, or that the durable buffer has it (`[store] buffer_bytes`). What Redis
//! itself promises with its answer is set up by each test: `appendonly yes` for a server that dies and comes back, and
//! `wait_replicas = 1` where a replica is promoted, as Redis replicates after it has answered.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "redis_faults/scene.rs"]
mod scene;

use std::collections::HashSet;
use std::io::Write as _;
use std::time::{Duration, Instant};

use scene::{LINE, Scene};
use tidegate_e2e::load::Load;
use tidegate_e2e::redis::Redis;
use tidegate_e2e::wait::{tell, until_within};
use tidegate_e2e::{Server, until};
use tidegate_servers::Place;
use tidegate_servers::proxy::Proxy;
use tidegate_servers::redis::{Cluster, Options, Sentinels};

/// How long a fault lasts, where the test decides.
const FAULT: Duration = Duration::from_secs(4);

#[test]
fn a_server_that_is_killed_and_restarted_costs_no_acknowledged_message() {
    let place = Place::temporary().unwrap();
    let mut server = Options::new("killed").durable().start(&place).unwrap();
    let scene = Scene::start(Redis::at(server.cli(), &server.server().address()), "");
    for _ in 0..2 {
        server.server_mut().kill();
        scene.wait_down();
        std::thread::sleep(FAULT);
        server.start().unwrap();
        scene.wait_recovered("Redis was killed and restarted");
    }
    scene.assert_all_stored();
}

#[test]
fn without_a_buffer_publishers_wait_for_the_server() {
    let place = Place::temporary().unwrap();
    let mut server = Options::new("waited-for").durable().start(&place).unwrap();
    let scene = Scene::start(Redis::at(server.cli(), &server.server().address()), "buffer_bytes = 0");
    server.server_mut().kill();
    scene.wait_down();
    // What was answered before the kill is on its way; then nothing more is acknowledged.
    std::thread::sleep(Duration::from_secs(1));
    let before = scene.load.acknowledged();
    std::thread::sleep(FAULT);
    assert_eq!(scene.load.acknowledged(), before, "acknowledged by nobody");
    server.start().unwrap();
    scene.wait_recovered("Redis was killed and restarted, without a buffer");
    scene.assert_all_stored();
}

#[test]
fn a_connection_that_swallows_everything_costs_no_acknowledged_message() {
    let place = Place::temporary().unwrap();
    let server = Options::new("behind-a-proxy").durable().start(&place).unwrap();
    let proxy = Proxy::start(&server.server().address()).unwrap();
    let redis = Redis::at(server.cli(), &proxy.address()).option("query_timeout", "1000");
    let scene = Scene::start(redis, "");
    proxy.swallow();
    scene.wait_down();
    std::thread::sleep(FAULT);
    proxy.forward();
    scene.wait_recovered("a connection swallowed everything");
    proxy.cut();
    scene.load.wait_more(2_000);
    proxy.delay(Duration::from_millis(40));
    scene.load.wait_more(2_000);
    proxy.delay(Duration::ZERO);
    scene.assert_all_stored();
}

#[test]
fn a_server_that_is_paused_costs_no_acknowledged_message() {
    let place = Place::temporary().unwrap();
    let server = Options::new("paused").durable().start(&place).unwrap();
    let redis = Redis::at(server.cli(), &server.server().address()).option("query_timeout", "1000");
    let scene = Scene::start(redis, "");
    server.server().pause().unwrap();
    scene.wait_down();
    std::thread::sleep(FAULT);
    server.server().resume().unwrap();
    scene.wait_recovered("Redis was paused");
    scene.assert_all_stored();
}

#[test]
fn a_replica_that_is_promoted_has_every_acknowledged_message() {
    let place = Place::temporary().unwrap();
    let mut sentinels = Sentinels::start(&place).unwrap();
    let pool = |cli| {
        let redis = Redis::at(cli, &sentinels.addresses()).option("type", "sentinel");
        redis.option("sentinel", "mymaster").option("wait_replicas", "1").option("query_timeout", "2000")
    };
    let scene = Scene::start(pool(sentinels.replica.cli()), "");
    sentinels.master.server_mut().kill();
    let start = Instant::now();
    sentinels.wait_promoted().unwrap();
    tell(&format!("promoted {:.1} s after the kill", start.elapsed().as_secs_f64()));
    // The new master has no replica: nothing counts as stored until the old master is back as one.
    sentinels.master.start().unwrap();
    scene.wait_recovered(
        "the master was killed, its replica promoted, and the old master came back as replica",
    );
    scene.assert_all_stored();
}

#[test]
fn a_cluster_that_loses_a_node_and_moves_slots_costs_no_acknowledged_message() {
    let place = Place::temporary().unwrap();
    let mut cluster = Cluster::start(&place, 3, 1).unwrap();
    let nodes = cluster.nodes.iter().map(tidegate_servers::redis::Redis::cli).collect();
    let redis = Redis::cluster_of(nodes, &cluster.addresses()).option("query_timeout", "2000");
    let scene = Scene::start(redis, "");
    // The slot of the first topic's sorted set, to every other master in turn; clients are redirected meanwhile.
    let key = format!("mqtt:msg:{}", scene.load.topics()[0]);
    let slot: u16 = cluster.nodes[0].run(&["CLUSTER", "KEYSLOT", &key]).unwrap().parse().unwrap();
    let first = cluster.owner(slot).unwrap();
    for to in (0..3).filter(|to| *to != first) {
        cluster.move_slot(slot, to).unwrap();
        scene.load.wait_more(1_000);
    }
    let owner = cluster.owner(slot).unwrap();
    let start = Instant::now();
    cluster.nodes[owner].server_mut().kill();
    until_within(Duration::from_secs(60), "a replica takes the lost node's slots", || {
        cluster.owner(slot).ok().filter(|now| *now != owner)
    });
    tell(&format!("a replica took over {:.1} s after the kill", start.elapsed().as_secs_f64()));
    scene.wait_recovered("a node of a cluster was lost");
    cluster.nodes[owner].start().unwrap();
    cluster.wait_whole().unwrap();
    scene.load.wait_more(1_000);
    scene.assert_all_stored();
}

#[test]
fn a_full_buffer_makes_publishers_wait_and_loses_nothing() {
    let place = Place::temporary().unwrap();
    let mut server = Options::new("buffered").durable().start(&place).unwrap();
    let redis = Redis::at(server.cli(), &server.server().address());
    let scene = Scene::start(redis, "buffer_bytes = \"1MiB\"");
    server.server_mut().kill();
    scene.wait_down();
    // Full: nobody is acknowledged any more, and nobody is cut off.
    let acknowledged = scene.wait_still();
    let held = scene.server.metric("tidegate_store_buffered_bytes", "redis:pool1");
    assert!(held > 0.0 && held <= f64::from(1 << 20), "{held} bytes are held");
    assert!(scene.server.metric("tidegate_store_buffer_refused_total", "redis:pool1") > 0.0);
    tell(&format!("full with {acknowledged} messages acknowledged"));
    server.start().unwrap();
    scene.wait_recovered("the buffer was full");
    scene.assert_all_stored();
}

#[test]
fn a_full_disk_makes_publishers_wait_and_loses_nothing() {
    let place = Place::temporary().unwrap();
    let mut server = Options::new("disk-full").durable().start(&place).unwrap();
    let redis = Redis::at(server.cli(), &server.server().address());
    let scene = Scene::on_small_disk(redis, 32 << 20);
    server.server_mut().kill();
    scene.wait_down();
    scene.load.wait_more(1_000);
    let filler = scene.server.on_disk("filler");
    let mark = scene.server.log_mark();
    fill(&filler);
    let acknowledged = scene.wait_still();
    tell(&format!("the disk is full with {acknowledged} messages acknowledged"));
    scene.server.wait_log(mark, "the reason", |line| line.contains("No space left on device"));
    assert!(scene.server.metric("tidegate_store_buffer_refused_total", "redis:pool1") > 0.0);
    // What is stored now cannot leave the buffer, as that is a write, too.
    server.start().unwrap();
    std::thread::sleep(FAULT);
    std::fs::remove_file(filler).unwrap();
    scene.wait_recovered("the disk was full");
    scene.assert_all_stored();
}

/// Writes to a file until its disk has no room.
fn fill(path: &std::path::Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4_096, 1] {
        let block = vec![0; size];
        let error = loop {
            if let Err(error) = file.write_all(&block) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    }
}

#[test]
fn what_the_buffer_holds_survives_kill_9_of_the_runtime() {
    let place = Place::temporary().unwrap();
    let mut redis_server = Options::new("away").durable().start(&place).unwrap();
    let mut scene = Scene::start(Redis::at(redis_server.cli(), &redis_server.server().address()), "");
    redis_server.server_mut().kill();
    scene.wait_down();
    scene.load.wait_more(5_000);
    scene.server.kill();
    let mut promised = scene.load.join();
    // It starts while the store is still down, and takes more.
    scene.server.start();
    let load = Load::start(scene.server.port, "after", 10, 20, scene::PAUSE);
    load.wait_more(2_000);
    let topics: Vec<String> = scene.topics.iter().chain(load.topics()).cloned().collect();
    let listed = scene::buffers(&scene.server, &["list"]);
    assert!(listed.contains("redis:pool1"), "{listed}");
    redis_server.start().unwrap();
    let start = Instant::now();
    promised.extend(load.finish());
    until_within(Duration::from_secs(90), "the buffer is empty", || {
        (scene.server.metric("tidegate_store_buffered", "redis:pool1") == 0.0).then_some(())
    });
    tell(&format!(
        "{} messages acknowledged; the buffer was empty {:.1} s after Redis came back",
        promised.len(),
        start.elapsed().as_secs_f64()
    ));
    let stored: HashSet<String> = scene.redis.payloads(&topics).into_iter().collect();
    scene::assert_none_missing(&promised, &stored);
    scene.server.assert_no_panic();
}

/// Starts the runtime on a store that cannot work, waits for the log line, and looks at the metric.
fn assert_told(redis: &Redis, words: &[&str]) {
    let server = Server::builder().file("conf.d/redis.conf", redis.only(LINE)).start();
    let mut wire =
        tidegate_e2e::wire::Wire::connect(server.port, &tidegate_e2e::wire::Connect::new(4, "one")).0;
    wire.send(&tidegate_e2e::wire::publish(4, "t", b"x", 1, 1));
    server.wait_log(0, &format!("one with {words:?}"), |line| {
        line.contains("redis:pool1") && words.iter().all(|word| line.contains(word))
    });
    assert_eq!(server.metric("tidegate_store_up", "redis:pool1"), 0.0);
    let (status, _) = server.get("/healthz").expect("the API answers");
    assert_eq!(status, 200, "the runtime itself is well");
    server.assert_no_panic();
}

#[test]
fn a_wrong_password_is_told_apart() {
    let place = Place::temporary().unwrap();
    let server = Options::new("locked").password("public").start(&place).unwrap();
    let at = |password: Option<&str>| {
        let redis = Redis::at(server.cli(), &server.server().address());
        password.map_or(redis, |password| {
            Redis::at(server.cli(), &server.server().address()).option("password", password)
        })
    };
    assert_told(&at(Some("not public")), &["does not accept user and password"]);
    assert_told(&at(None), &["NOAUTH"]);
    let told = Server::builder().file("conf.d/redis.conf", at(Some("not public")).only(LINE)).start();
    assert!(!told.log().contains("not public"), "the password is in the log:\n{}", told.log());
}

#[test]
fn another_kind_of_server_on_the_port_is_told_apart() {
    // An HTTP server: the management API of a second runtime; and an MQTT broker: its listener.
    let other = Server::plain();
    let place = Place::temporary().unwrap();
    let server = Options::new("unused").start(&place).unwrap();
    for port in [other.api, other.port] {
        let redis = Redis::at(server.cli(), &format!("127.0.0.1:{port}")).option("connect_timeout", "1000");
        assert_told(&redis.option("query_timeout", "1000"), &["store is down"]);
    }
}

#[test]
fn a_key_of_another_type_refuses_that_message_and_no_other() {
    let redis = Redis::single();
    redis.run(&["SET", "mqtt:msg:taken", "a text"]);
    let server = Server::builder().file("conf.d/redis.conf", redis.only(LINE)).start();
    let options = tidegate_e2e::paho::Options::new(5, "test");
    let mut client = tidegate_e2e::paho::Paho::connect(server.port, &options);
    assert!(client.publish("free", "stored", 1) < 0x80);
    assert!(client.publish("taken", "refused", 1) >= 0x80, "the publisher is told");
    assert!(client.publish("free", "stored too", 1) < 0x80);
    assert_eq!(redis.ids("free").len(), 2);
    assert_eq!(redis.run(&["GET", "mqtt:msg:taken"]), "a text");
    server.wait_log(0, "the refusal", |line| {
        line.contains("refused") && line.contains("WRONGTYPE") && line.contains("mqtt:msg:taken")
    });
    let refused = || server.metric("tidegate_store_operations_total", "result=\"refused\"");
    until("the refusal is counted", || (refused() == 1.0).then_some(()));
    assert_eq!(server.metric("tidegate_store_up", "redis:pool1"), 1.0);
    let letters = std::fs::read_to_string(server.file("data/dead-letters.jsonl")).unwrap();
    assert!(letters.contains("taken"), "{letters}");
}
