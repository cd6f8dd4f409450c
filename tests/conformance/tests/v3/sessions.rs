//! Sessions (clauses 3.1.2.4 and 4.1): taken up, kept for an absent client, discarded.

use std::time::Duration;

use tidegate_conformance::Version::V311;
use tidegate_conformance::{Client, Connect, Packet, Publish, kind, name};

#[test]
fn mqtt_3_1_2_4_a_kept_session_is_taken_up() {
    let topic = name("up/");
    let connect = Connect::new(V311).persistent();
    let (mut client, answer) = Client::connect_with(&connect);
    assert!(!answer.session_present, "a new one is made");
    client.subscribe(format!("{topic}/+"), 1);
    client.subscribe(format!("{topic}/x"), 0);
    client.unsubscribe(format!("{topic}/x"));
    let mut publisher = Client::new(V311);
    // By DISCONNECT, by a cut, by a take-over.
    client.disconnect();
    for end in 0..3 {
        let (mut client, answer) = Client::connect_with(&connect);
        assert!(answer.session_present);
        publisher.publish(format!("{topic}/y"), end.to_string(), 2);
        let message = client.expect_payload(&end.to_string());
        assert_eq!(message.qos, 1);
        client.acknowledge(&message);
        client.ping();
        match end {
            0 => client.cut(),
            1 => drop(Client::connect(&connect)),
            _ => client.disconnect(),
        }
    }
}

#[test]
fn mqtt_3_1_2_5_messages_wait_for_an_absent_client() {
    let topic = name("absent/");
    let connect = Connect::new(V311).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(format!("{topic}/2"), 2);
    client.subscribe(format!("{topic}/1"), 1);
    client.subscribe(format!("{topic}/gone"), 2);
    client.unsubscribe(format!("{topic}/gone"));
    client.disconnect();
    let mut publisher = Client::new(V311);
    for at in 0..20 {
        let (filter, qos) = ([1, 2][at % 2], [1, 2, 2, 1][at % 4]);
        publisher.publish(format!("{topic}/{filter}"), at.to_string(), qos);
        publisher.publish(format!("{topic}/gone"), "no", 2);
    }
    let mut client = Client::connect(&connect);
    let messages: Vec<Publish> = (0..20).map(|_| client.take()).collect();
    // Of each QoS in its order, with the lower QoS of publisher and subscription.
    for qos in [1, 2] {
        let expected: Vec<String> = (0..20)
            .filter(|at| usize::from(qos) == [1, 2][at % 2].min([1, 2, 2, 1][at % 4]))
            .map(|at: usize| at.to_string())
            .collect();
        let came: Vec<String> = messages.iter().filter(|m| m.qos == qos).map(Publish::text).collect();
        assert_eq!(came, expected, "QoS {qos}");
    }
    assert!(messages.iter().all(|message| !message.retain && !message.dup));
}

#[test]
fn mqtt_3_1_2_5_of_a_client_that_was_cut_too() {
    let topic = name("lost/");
    let connect = Connect::new(V311).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 2);
    client.cut();
    let mut publisher = Client::new(V311);
    for qos in [1, 2] {
        publisher.publish(&topic, qos.to_string(), qos);
    }
    let mut client = Client::connect(&connect);
    for qos in [1, 2] {
        let message = client.expect_payload(&qos.to_string());
        assert_eq!(message.qos, qos);
        client.acknowledge(&message);
    }
    client.ping();
}

#[test]
fn mqtt_3_1_2_6_clean_session_discards_what_was_kept() {
    let topic = name("discard/");
    let connect = Connect::new(V311);
    let mut client = Client::connect(&connect.clone().persistent());
    client.subscribe(&topic, 2);
    client.cut();
    let mut publisher = Client::new(V311);
    for qos in [1, 2] {
        publisher.publish(&topic, "discarded", qos);
    }
    // Neither the messages nor the subscription ..
    let (mut client, answer) = Client::connect_with(&connect);
    assert!(!answer.session_present);
    publisher.publish(&topic, "not subscribed", 2);
    client.ping();
    client.expect_silence();
    client.disconnect();
    // .. come back later.
    let (mut client, answer) = Client::connect_with(&connect.persistent());
    assert!(!answer.session_present);
    publisher.publish(&topic, "not subscribed", 2);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_1_2_6_a_clean_session_ends_with_its_connection() {
    let topic = name("ends/");
    let connect = Connect::new(V311);
    let mut publisher = Client::new(V311);
    for cut in [false, true] {
        let mut client = Client::connect(&connect);
        client.subscribe(&topic, 1);
        publisher.publish(&topic, "unacknowledged", 1);
        client.expect_payload("unacknowledged");
        if cut {
            client.cut();
        } else {
            client.disconnect();
        }
        publisher.publish(&topic, "to nobody", 1);
        let (mut client, answer) = Client::connect_with(&connect.clone().persistent());
        assert!(!answer.session_present);
        client.ping();
        client.expect_silence();
        client.disconnect();
        Client::connect(&connect).disconnect();
    }
}

#[test]
fn mqtt_3_1_2_7_retained_messages_stay_when_a_session_ends() {
    let topic = name("stays/");
    let connect = Connect::new(V311);
    let mut client = Client::connect(&connect);
    client.publish_retained(format!("{topic}/clean"), "clean", 1);
    client.disconnect();
    let mut client = Client::connect(&connect.clone().persistent());
    client.publish_retained(format!("{topic}/kept"), "kept", 1);
    client.cut();
    Client::connect(&connect).disconnect();
    let mut later = Client::new(V311);
    later.subscribe(format!("{topic}/+"), 0);
    let mut came = [later.expect_publish().text(), later.expect_publish().text()];
    came.sort();
    assert_eq!(came, ["clean", "kept"]);
}

#[test]
fn mqtt_4_1_0_1_the_whole_state_is_kept() {
    let topic = name("whole/");
    let connect = Connect::new(V311).persistent();
    let mut watcher = Client::new(V311);
    watcher.subscribe(format!("{topic}/from"), 2);
    let mut client = Client::connect(&connect);
    client.subscribe(format!("{topic}/to"), 2);
    let mut publisher = Client::new(V311);
    // To it: one of QoS 1 without PUBACK, one of QoS 2 without PUBREC, one without PUBCOMP, one that waits.
    for (qos, payload) in [(1, "a"), (2, "b"), (2, "c")] {
        publisher.publish(format!("{topic}/to"), payload, qos);
    }
    let a = client.expect_payload("a");
    let b = client.expect_payload("b");
    let c = client.expect_payload("c");
    client.send_ack(kind::PUBREC, c.id.unwrap());
    client.expect_ack(kind::PUBREL, c.id.unwrap());
    // From it: one of QoS 2 without PUBREL.
    let from = Publish::new(format!("{topic}/from"), "once").qos(2, 77);
    client.send_publish(&from);
    client.expect_ack(kind::PUBREC, 77);
    client.cut();
    publisher.publish(format!("{topic}/to"), "d", 1);

    let (mut client, answer) = Client::connect_with(&connect);
    assert!(answer.session_present);
    let mut released = Vec::new();
    let mut messages = Vec::new();
    for _ in 0..4 {
        match client.expect() {
            Packet::Publish(publish) => messages.push(publish),
            Packet::Ack(ack) if ack.kind == kind::PUBREL => released.push(ack.id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(released, [c.id.unwrap()]);
    let d = messages.pop().unwrap();
    assert_eq!(messages, [a.clone().dup(), b.clone().dup()]);
    assert_eq!((d.text().as_str(), d.dup), ("d", false));
    client.send_ack(kind::PUBCOMP, released[0]);
    for message in [&a, &b, &d] {
        client.acknowledge(message);
    }
    client.send_publish(&from.dup());
    client.expect_ack(kind::PUBREC, 77);
    client.send_ack(kind::PUBREL, 77);
    client.expect_ack(kind::PUBCOMP, 77);
    client.ping();
    let once = watcher.expect_payload("once");
    watcher.acknowledge(&once);
    watcher.ping();
    watcher.expect_silence();
    // Nothing of it is left.
    client.cut();
    let mut client = Client::connect(&connect);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_4_1_0_2_a_session_lasts_as_long_as_its_connection() {
    let topic = name("lasts/");
    let mut client = Client::new(V311);
    client.subscribe(&topic, 1);
    let mut publisher = Client::new(V311);
    publisher.publish(&topic, "0", 1);
    let unacknowledged = client.expect_payload("0");
    for at in 1..4 {
        std::thread::sleep(Duration::from_millis(500));
        publisher.publish(&topic, at.to_string(), 1);
        let message = client.expect_payload(&at.to_string());
        assert_ne!(message.id, unacknowledged.id, "that id is still in use");
        client.acknowledge(&message);
    }
    client.acknowledge(&unacknowledged);
    client.ping();
}
