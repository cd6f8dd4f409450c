//! The Redis servers of this crate do what tests will ask of them.

#![allow(clippy::unwrap_used, reason = "tests")]

use tidegate_servers::Place;
use tidegate_servers::bed::Kept;
use tidegate_servers::kind::KINDS;
use tidegate_servers::redis::{Cli, Cluster, Options, Sentinels};

#[test]
fn what_was_answered_is_there_after_kill_9() {
    let place = Place::temporary().unwrap();
    let mut redis = Options::new("one").durable().start(&place).unwrap();
    let address = redis.server().address();
    redis.run(&["SET", "key", "two words"]).unwrap();
    redis.server_mut().kill();
    assert!(redis.run(&["GET", "key"]).is_err());
    redis.start().unwrap();
    assert_eq!(redis.server().address(), address);
    assert_eq!(redis.run(&["GET", "key"]).unwrap(), "two words");
}

#[test]
fn a_password_is_asked_for_and_errors_are_errors() {
    let place = Place::temporary().unwrap();
    let redis = Options::new("auth").password("public").start(&place).unwrap();
    assert_eq!(redis.run(&["PING"]).unwrap(), "PONG");
    let stranger = Cli::at(&redis.server().address(), None).unwrap();
    let error = stranger.run(&["PING"]).unwrap_err().to_string();
    assert!(error.contains("NOAUTH"), "{error}");
    assert!(redis.run(&["NO-SUCH-COMMAND"]).is_err());
    redis.run(&["SET", "text", "x"]).unwrap();
    assert!(redis.run(&["HGETALL", "text"]).unwrap_err().to_string().contains("WRONGTYPE"));
}

#[test]
fn tls_and_an_acl_user_are_asked_for() {
    let place = Place::temporary().unwrap();
    let redis = Options::new("tls").tls().user("mqtt", "public").start(&place).unwrap();
    assert_eq!(redis.run(&["ACL", "WHOAMI"]).unwrap(), "mqtt");
    assert!(redis.authority().is_file());
    let stranger = Cli::at(&redis.server().address(), Some("public")).unwrap();
    assert!(stranger.run(&["PING"]).is_err());
}

#[test]
fn a_paused_server_says_nothing_until_it_goes_on() {
    let place = Place::temporary().unwrap();
    let redis = Options::new("paused").start(&place).unwrap();
    redis.server().pause().unwrap();
    assert!(redis.run(&["PING"]).is_err());
    redis.server().resume().unwrap();
    assert_eq!(redis.run(&["PING"]).unwrap(), "PONG");
}

#[test]
fn sentinels_promote_the_replica_and_take_the_old_master_back() {
    let place = Place::temporary().unwrap();
    let mut sentinels = Sentinels::start(&place).unwrap();
    assert_eq!(sentinels.current().unwrap(), sentinels.master.server().address());
    sentinels.master.run(&["SET", "key", "kept"]).unwrap();
    assert_eq!(sentinels.master.run(&["WAIT", "1", "5000"]).unwrap(), "1");
    sentinels.master.server_mut().kill();
    sentinels.wait_promoted().unwrap();
    assert_eq!(sentinels.replica.run(&["GET", "key"]).unwrap(), "kept");
    let error = sentinels.replica.run(&["SET", "key", "alone"]).unwrap_err().to_string();
    assert!(error.contains("NOREPLICAS"), "{error}");
    sentinels.master.start().unwrap();
    let cli = sentinels.master.cli();
    sentinels
        .master
        .server_mut()
        .wait("it follows the new master", |_| {
            cli.run(&["INFO", "replication"]).is_ok_and(|text| text.contains("master_link_status:up"))
        })
        .unwrap();
    // The link is up before the new master has heard from it that it is.
    let cli = sentinels.replica.cli();
    let writes = |_| cli.run(&["SET", "key", "two again"]).is_ok();
    sentinels.replica.server_mut().wait("the new master takes writes", writes).unwrap();
}

#[test]
fn with_a_second_replica_a_lost_master_is_not_missed() {
    let place = Place::temporary().unwrap();
    let mut sentinels = Sentinels::with_replicas(&place, 2).unwrap();
    sentinels.master.run(&["SET", "key", "kept"]).unwrap();
    // One has it at least, and that one, or one that has it too, is promoted.
    assert_ne!(sentinels.master.run(&["WAIT", "1", "5000"]).unwrap(), "0");
    sentinels.master.server_mut().kill();
    sentinels.wait_promoted().unwrap();
    let promoted = Cli::at(&sentinels.current().unwrap(), None).unwrap();
    assert_eq!(promoted.run(&["GET", "key"]).unwrap(), "kept");
    // It takes writes when the other one follows it.
    sentinels
        .replica
        .server_mut()
        .wait("the promoted one takes writes", |_| promoted.run(&["SET", "key", "two again"]).is_ok())
        .unwrap();
    assert_ne!(promoted.run(&["WAIT", "1", "10000"]).unwrap(), "0");
}

#[test]
fn a_cluster_survives_the_loss_of_a_node_and_moves_slots() {
    let place = Place::temporary().unwrap();
    let mut cluster = Cluster::start(&place, 3, 1).unwrap();
    let everywhere = cluster.nodes[0].cli().follow();
    for number in 0..50 {
        everywhere.run(&["SET", &format!("key-{number}"), &number.to_string()]).unwrap();
    }
    let slot: u16 = everywhere.run(&["CLUSTER", "KEYSLOT", "key-7"]).unwrap().parse().unwrap();
    let from = cluster.owner(slot).unwrap();
    let to = (from + 1) % 3;
    cluster.move_slot(slot, to).unwrap();
    assert_eq!(cluster.owner(slot).unwrap(), to);
    assert_eq!(cluster.nodes[to].run(&["GET", "key-7"]).unwrap(), "7");
    cluster.wait_whole().unwrap();

    cluster.kill_replicated(to).unwrap();
    let survivor = cluster.nodes[from].cli().follow();
    cluster.nodes[from]
        .server_mut()
        .wait("the replica has taken over", |_| {
            survivor.run(&["GET", "key-7"]).is_ok_and(|value| value == "7")
        })
        .unwrap();
    assert_ne!(cluster.owner(slot).unwrap(), to);
    for number in 0..50 {
        assert_eq!(survivor.run(&["GET", &format!("key-{number}")]).unwrap(), number.to_string());
    }
    cluster.nodes[to].start().unwrap();
    cluster.wait_whole().unwrap();
}

#[test]
fn kept_servers_are_found_again_and_stopped() {
    let place = Place::temporary().unwrap();
    let kept = Kept::at(&place.folder().join("kept"));
    let kind = &KINDS[0];
    let record = kept.start(kind).unwrap();
    let cli = Cli::at(&record.value, None).unwrap();
    cli.run(&["SET", "key", "value"]).unwrap();
    // Started again: the same processes, the same data.
    assert_eq!(kept.start(kind).unwrap(), record);
    assert_eq!(cli.run(&["GET", "key"]).unwrap(), "value");
    assert!(record.is_whole() && !record.processes.is_empty());
    assert!(kept.stop(kind).unwrap());
    assert!(record.processes.iter().all(|(_, identity)| !identity.is_alive()));
    assert!(kept.record(kind).is_none() && !kept.stop(kind).unwrap());
}
