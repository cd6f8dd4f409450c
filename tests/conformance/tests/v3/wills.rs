//! Wills (clause 3.1.2.5): when they are published, when not, and how.

use tidegate_conformance::Version::V311;
use tidegate_conformance::packet::DISCONNECT;
use tidegate_conformance::wire::frame;
use tidegate_conformance::{Client, Connect, Publish, Will, name};

/// A new topic, and a client that has subscribed to it.
fn watched() -> (String, Client) {
    let topic = name("will/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    (topic, watcher)
}

/// That nothing came before a message which is published now.
#[track_caller]
fn nothing_before(topic: &str, watcher: &mut Client) {
    Client::new(V311).publish(topic, "end", 0);
    watcher.expect_payload("end");
}

#[test]
fn mqtt_3_1_2_8_the_will_comes_when_the_connection_is_cut() {
    for connect in [Connect::new(V311), Connect::new(V311).persistent()] {
        let (topic, mut watcher) = watched();
        let mut client = Client::connect(&connect.will(Will::new(&topic, "cut")));
        client.ping();
        nothing_before(&topic, &mut watcher);
        client.cut();
        watcher.expect_payload("cut");
        nothing_before(&topic, &mut watcher);
    }
}

#[test]
fn mqtt_3_1_2_8_the_will_comes_after_a_violation() {
    let (topic, mut watcher) = watched();
    for (what, bytes) in [
        ("a reserved type", frame(0xF0, &[])),
        ("a second CONNECT", Connect::new(V311).encode()),
        ("QoS 3", frame(0x36, &[0, 1, b'a', 0, 1])),
        ("a DISCONNECT with a body", frame(0xE0, &[0])),
        ("a DISCONNECT with flags", frame(0xE1, &[])),
    ] {
        let mut client = Client::connect(&Connect::new(V311).will(Will::new(&topic, what)));
        client.send(bytes);
        client.expect_closed();
        watcher.expect_payload(what);
    }
    nothing_before(&topic, &mut watcher);
}

#[test]
fn mqtt_3_1_2_8_the_will_comes_when_the_client_is_taken_over() {
    for clean in [true, false] {
        let (topic, mut watcher) = watched();
        let connect = Connect::new(V311).clean(clean);
        let mut old = Client::connect(&connect.clone().will(Will::new(&topic, "old")));
        let new = Client::connect(&connect.will(Will::new(&topic, "new")));
        old.expect_closed();
        // Of the connection that ended, and only that.
        watcher.expect_payload("old");
        nothing_before(&topic, &mut watcher);
        new.cut();
        watcher.expect_payload("new");
    }
}

#[test]
fn mqtt_3_1_2_8_the_will_comes_when_keep_alive_runs_out() {
    let (topic, mut watcher) = watched();
    let mut client =
        Client::connect(&Connect::new(V311).keep_alive(1).will(Will::new(&topic, "silent").qos(1)));
    let will = watcher.expect_payload("silent");
    assert_eq!(will.qos, 1);
    watcher.acknowledge(&will);
    client.expect_closed();
}

#[test]
fn mqtt_3_1_2_10_a_published_will_is_gone() {
    let (topic, mut watcher) = watched();
    let connect = Connect::new(V311).persistent();
    Client::connect(&connect.clone().will(Will::new(&topic, "once"))).cut();
    watcher.expect_payload("once");
    // The session is taken up; the will does not belong to it.
    let (mut client, answer) = Client::connect_with(&connect);
    assert!(answer.session_present);
    client.ping();
    client.cut();
    // The end of that connection is over when the client is back again.
    Client::connect(&connect).disconnect();
    nothing_before(&topic, &mut watcher);
}

#[test]
fn mqtt_3_1_2_10_a_discarded_will_is_gone() {
    let (topic, mut watcher) = watched();
    let connect = Connect::new(V311).persistent();
    Client::connect(&connect.clone().will(Will::new(&topic, "discarded"))).disconnect();
    Client::connect(&connect).cut();
    Client::connect(&connect).disconnect();
    nothing_before(&topic, &mut watcher);
}

#[test]
fn mqtt_3_1_2_12_without_the_will_flag_nothing_is_published() {
    let prefix = name("none/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(format!("{prefix}/#"), 0);
    watcher.subscribe(&prefix, 0);
    let connect = Connect::new(V311).client_id(&prefix).login(&prefix, &prefix);
    for end in [frame(0xF0, &[]), connect.encode(), frame(0xE1, &[])] {
        let mut client = Client::connect(&connect);
        client.send(end);
        client.expect_closed();
    }
    Client::connect(&connect).cut();
    Client::connect(&connect).disconnect();
    nothing_before(&prefix, &mut watcher);
}

#[test]
fn mqtt_3_1_2_16_a_will_without_retain_is_not_retained() {
    for qos in [0, 1, 2] {
        let (topic, mut watcher) = watched();
        Client::new(V311).publish_retained(&topic, "before", 1);
        let before = watcher.expect_payload("before");
        watcher.acknowledge(&before);
        Client::connect(&Connect::new(V311).will(Will::new(&topic, "will").qos(qos))).cut();
        let will = watcher.expect_payload("will");
        assert!(!will.retain);
        watcher.acknowledge(&will);
        // What was retained before still is.
        let mut later = Client::new(V311);
        later.subscribe(&topic, 0);
        assert!(later.expect_payload("before").retain);
        later.ping();
    }
}

#[test]
fn mqtt_3_1_2_17_a_will_with_retain_is_retained() {
    for qos in [0, 1, 2] {
        let (topic, mut watcher) = watched();
        Client::connect(&Connect::new(V311).will(Will::new(&topic, "will").qos(qos).retain())).cut();
        let will = watcher.expect_payload("will");
        assert_eq!((will.qos, will.retain), (qos, false), "by an older subscription");
        watcher.acknowledge(&will);
        let mut later = Client::new(V311);
        later.subscribe(&topic, 2);
        let will = later.expect_payload("will");
        assert_eq!((will.qos, will.retain), (qos, true), "by a new subscription");
        later.acknowledge(&will);
    }
}

#[test]
fn mqtt_3_1_2_17_an_empty_retained_will_removes_what_was_retained() {
    let (topic, mut watcher) = watched();
    Client::new(V311).publish_retained(&topic, "before", 0);
    watcher.expect_payload("before");
    Client::connect(&Connect::new(V311).will(Will::new(&topic, "").retain())).cut();
    watcher.expect_payload("");
    let mut later = Client::new(V311);
    later.subscribe(&topic, 0);
    later.ping();
}

#[test]
fn mqtt_3_14_4_3_disconnect_discards_the_will() {
    let (topic, mut watcher) = watched();
    for connect in [Connect::new(V311), Connect::new(V311).persistent(), Connect::new(V311).keep_alive(1)] {
        Client::connect(&connect.will(Will::new(&topic, "will").qos(1).retain())).disconnect();
    }
    // Behind other packets, and with the end of the connection right behind it.
    let mut client = Client::connect(&Connect::new(V311).will(Will::new(&topic, "will")));
    let mut bytes = Publish::new(&topic, "last words").encode(V311);
    bytes.extend(DISCONNECT);
    client.send(bytes);
    client.cut();
    watcher.expect_payload("last words");
    nothing_before(&topic, &mut watcher);
    // Nothing was retained.
    watcher.subscribe(&topic, 2);
    watcher.ping();
}
