//! Delivery again after a reconnect (clause 4.4), DUP (3.3.1.1), and who gets a message (4.5).

use tidegate_conformance::Version::V311;
use tidegate_conformance::{Client, Connect, Packet, Publish, kind, name};

#[test]
fn mqtt_3_3_1_1_dup_is_1_in_a_delivery_again() {
    let topic = name("dup1/");
    let connect = Connect::new(V311).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 2);
    let mut publisher = Client::new(V311);
    for qos in [1, 2] {
        publisher.publish(&topic, qos.to_string(), qos);
    }
    let sent = [client.expect_payload("1"), client.expect_payload("2")];
    assert!(sent.iter().all(|message| !message.dup));
    for _ in 0..2 {
        client.cut();
        client = Client::connect(&connect);
        for first in &sent {
            assert_eq!(client.expect_publish(), first.clone().dup());
        }
    }
    // What was never sent has no DUP, although it waited.
    for message in &sent {
        client.acknowledge(message);
    }
    client.ping();
    client.disconnect();
    publisher.publish(&topic, "waited", 1);
    let mut client = Client::connect(&connect);
    assert!(!client.expect_payload("waited").dup);
}

#[test]
fn mqtt_4_4_0_1_what_was_not_answered_is_sent_again_with_its_id() {
    let topic = name("again/");
    let connect = Connect::new(V311).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 2);
    let mut publisher = Client::new(V311);
    let mut publishes = Vec::new();
    let mut releases = Vec::new();
    for at in 0..12 {
        publisher.publish(&topic, at.to_string(), 1 + at % 2);
        let message = client.expect_publish();
        match at % 4 {
            // Of QoS 1, and of QoS 2 without PUBREC.
            0 | 1 => publishes.push(message),
            2 => client.acknowledge(&message),
            _ => {
                client.send_ack(kind::PUBREC, message.id.unwrap());
                client.expect_ack(kind::PUBREL, message.id.unwrap());
                releases.push(message.id.unwrap());
            }
        }
    }
    client.ping();
    for end in 0..3 {
        // However the connection ended: by a cut, DISCONNECT, a violation.
        match end {
            0 => client.cut(),
            1 => client.disconnect(),
            _ => {
                client.send([0xF0, 0]);
                client.expect_closed();
            }
        }
        let answer;
        (client, answer) = Client::connect_with(&connect);
        assert!(answer.session_present);
        let (mut again, mut released) = (Vec::new(), Vec::new());
        for _ in 0..publishes.len() + releases.len() {
            match client.expect() {
                Packet::Publish(publish) => again.push(publish),
                Packet::Ack(ack) if ack.kind == kind::PUBREL => released.push(ack.id),
                other => panic!("{other:?}"),
            }
        }
        let expected: Vec<Publish> = publishes.iter().map(|publish| publish.clone().dup()).collect();
        assert_eq!(again, expected);
        assert_eq!(released, releases);
        client.ping();
    }
    for message in &publishes {
        client.acknowledge(message);
    }
    for id in releases {
        client.send_ack(kind::PUBCOMP, id);
    }
    client.ping();
    client.cut();
    let mut client = Client::connect(&connect);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_4_4_0_1_nothing_is_sent_again_on_a_connection_that_stays() {
    let topic = name("stays/");
    let mut client = Client::new(V311);
    client.subscribe(&topic, 1);
    Client::new(V311).publish(&topic, "once", 1);
    client.expect_payload("once");
    client.expect_silence();
    client.ping();
}

#[test]
fn mqtt_4_5_0_1_a_message_goes_into_every_matching_session() {
    let topic = name("every/");
    let filters = [topic.clone(), format!("{topic}/#"), topic.replace("every/", "+/")];
    // Present and absent clients, of clean and of kept sessions, the publisher itself.
    let mut present: Vec<Client> = Vec::new();
    let mut absent: Vec<Connect> = Vec::new();
    for filter in &filters {
        for connect in [Connect::new(V311), Connect::new(V311).persistent()] {
            let mut client = Client::connect(&connect);
            client.subscribe(filter, 1);
            present.push(client);
        }
        let connect = Connect::new(V311).persistent();
        let mut client = Client::connect(&connect);
        client.subscribe(filter, 2);
        client.cut();
        absent.push(connect);
    }
    let mut bystander = Client::new(V311);
    bystander.subscribe(format!("{topic}x"), 2);
    for qos in [1, 2] {
        Client::new(V311).publish(&topic, qos.to_string(), qos);
    }
    for client in &mut present {
        for qos in [1, 2] {
            let message = client.expect_payload(&qos.to_string());
            client.acknowledge(&message);
        }
        client.ping();
    }
    for connect in absent {
        let mut client = Client::connect(&connect);
        for qos in [1, 2] {
            let message = client.expect_payload(&qos.to_string());
            client.acknowledge(&message);
        }
        client.ping();
    }
    bystander.ping();
}

#[test]
fn mqtt_4_5_0_1_a_client_gets_its_own_messages() {
    let topic = name("own/");
    let mut client = Client::new(V311);
    client.subscribe(&topic, 2);
    client.send_publish(&Publish::new(&topic, "own").qos(1, 9));
    let mut came = [client.expect(), client.expect()];
    came.sort_by_key(|packet| matches!(packet, Packet::Publish(_)));
    assert!(matches!(&came[0], Packet::Ack(ack) if (ack.kind, ack.id) == (kind::PUBACK, 9)), "{came:?}");
    assert!(matches!(&came[1], Packet::Publish(own) if own.text() == "own" && own.qos == 1), "{came:?}");
}
