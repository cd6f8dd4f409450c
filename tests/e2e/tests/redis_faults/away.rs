//! Redis goes away, in every way it can, and comes back.

use std::time::{Duration, Instant};

use tidegate_e2e::redis::Redis;
use tidegate_e2e::wait::{tell, until_within};
use tidegate_servers::Place;
use tidegate_servers::proxy::Proxy;
use tidegate_servers::redis::{Cli, Cluster, Options, Sentinels};

use crate::scene::{FAULT, RECOVERY, Scene};

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
fn a_master_that_never_comes_back_costs_no_acknowledged_message() {
    let place = Place::temporary().unwrap();
    let mut sentinels = Sentinels::with_replicas(&place, 2).unwrap();
    let addresses = sentinels.addresses();
    let pool = |cli| {
        let redis = Redis::at(cli, &addresses).option("type", "sentinel");
        redis.option("sentinel", "mymaster").option("wait_replicas", "1").option("query_timeout", "2000")
    };
    // Without a buffer only the store acknowledges.
    let mut scene = Scene::start(pool(sentinels.master.cli()), "buffer_bytes = 0");
    sentinels.master.server_mut().kill();
    let start = Instant::now();
    scene.wait_down();
    // What was answered before the kill is on its way for less than that; sentinels take longer to notice.
    std::thread::sleep(Duration::from_secs(1));
    let acknowledged = scene.load.acknowledged();
    until_within(RECOVERY, "the store acknowledges again", || {
        (scene.load.acknowledged() > acknowledged).then_some(())
    });
    let took = start.elapsed();
    assert!(took > Duration::from_secs(2), "acknowledged by a store that was not promoted yet");
    tell(&format!("the store acknowledged again {:.1} s after the master was killed", took.as_secs_f64()));
    sentinels.wait_promoted().unwrap();
    scene.wait_recovered("the master was lost for good");
    scene.redis = pool(Cli::at(&sentinels.current().unwrap(), None).unwrap());
    scene.assert_all_stored();
}

/// A cluster promises that a node that is lost has a successor, not that this has what the node has answered: that is
/// asynchronous, and `WAIT` is not for keys on several nodes. So the node is lost when its replica has everything, and
/// what this test shows is that the runtime itself loses nothing and finds its way.
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
    cluster.kill_replicated(owner).unwrap();
    let start = Instant::now();
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
