//! The three qualities of service as sender and receiver (clause 4.3).

use tidegate_conformance::Version::V311;
use tidegate_conformance::{Client, Connect, Publish, kind, name};

#[test]
fn mqtt_4_3_1_1_at_qos_0_qos_and_dup_are_0() {
    let topic = name("q0");
    let mut client = Client::new(V311);
    client.subscribe(&topic, 0);
    let mut publisher = Client::new(V311);
    for qos in [0, 1, 2] {
        publisher.publish(&topic, "xyz", qos);
        // Byte for byte: no packet id.
        let mut expected =
            vec![0x30, u8::try_from(topic.len() + 5).unwrap(), 0, u8::try_from(topic.len()).unwrap()];
        expected.extend(topic.as_bytes());
        expected.extend(b"xyz");
        client.expect_bytes(&expected);
    }
    client.ping();
}

#[test]
fn mqtt_4_3_2_1_at_qos_1_an_id_is_in_use_until_puback() {
    let topic = name("q1");
    let mut client = Client::new(V311);
    client.subscribe(&topic, 1);
    let mut publisher = Client::new(V311);
    let mut held = Vec::new();
    for at in 0..20 {
        publisher.publish(&topic, at.to_string(), if at % 2 == 0 { 1 } else { 2 });
        let message = client.expect_payload(&at.to_string());
        assert_eq!((message.qos, message.dup), (1, false));
        let id = message.id.unwrap();
        assert!(!held.contains(&id), "id {id} is in use");
        // Every third is acknowledged: then its id may come again.
        if at % 3 == 0 {
            client.send_ack(kind::PUBACK, id);
        } else {
            held.push(id);
        }
    }
    client.ping();
}

#[test]
fn mqtt_4_3_2_1_at_qos_1_a_message_is_held_until_puback() {
    let topic = name("held/");
    let connect = Connect::new(V311).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 1);
    Client::new(V311).publish(&topic, "held", 1);
    let first = client.expect_payload("held");
    for _ in 0..3 {
        client.cut();
        client = Client::connect(&connect);
        assert_eq!(client.expect_publish(), first.clone().dup());
    }
    // An answer of another kind, or of another id, is none.
    client.send_ack(kind::PUBACK, first.id.unwrap() ^ 0x4000);
    client.cut();
    client = Client::connect(&connect);
    assert_eq!(client.expect_publish(), first.clone().dup());
    client.send_ack(kind::PUBACK, first.id.unwrap());
    client.ping();
    client.cut();
    client = Client::connect(&connect);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_4_3_2_2_at_qos_1_puback_has_the_id_and_frees_it() {
    let topic = name("receiver1");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 1);
    let mut client = Client::new(V311);
    for (at, dup) in [false, true, true, false].into_iter().enumerate() {
        // After PUBACK the same id is another message, whatever DUP says.
        let mut publish = Publish::new(&topic, at.to_string()).qos(1, 0x1234);
        publish.dup = dup;
        client.send_publish(&publish);
        client.expect_bytes(&[0x40, 2, 0x12, 0x34]);
        let message = watcher.expect_payload(&at.to_string());
        watcher.acknowledge(&message);
    }
    // The very same packet, too.
    for _ in 0..2 {
        client.send_publish(&Publish::new(&topic, "same").qos(1, 7).dup());
        client.expect_bytes(&[0x40, 2, 0, 7]);
        let message = watcher.expect_payload("same");
        watcher.acknowledge(&message);
    }
    watcher.ping();
}

#[test]
fn mqtt_4_3_3_1_at_qos_2_publish_is_held_until_pubrec_and_pubrel_until_pubcomp() {
    let topic = name("sender2/");
    let connect = Connect::new(V311).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 2);
    Client::new(V311).publish(&topic, "held", 2);
    let first = client.expect_payload("held");
    let id = first.id.unwrap();
    assert_eq!((first.qos, first.dup), (2, false));
    for _ in 0..2 {
        client.cut();
        client = Client::connect(&connect);
        assert_eq!(client.expect_publish(), first.clone().dup());
    }
    let [high, low] = id.to_be_bytes();
    client.send_ack(kind::PUBREC, id);
    client.expect_bytes(&[0x62, 2, high, low]);
    // From now on PUBREL and never PUBLISH.
    for _ in 0..2 {
        client.cut();
        client = Client::connect(&connect);
        client.expect_bytes(&[0x62, 2, high, low]);
        client.ping();
    }
    // PUBREC once more is answered once more.
    client.send_ack(kind::PUBREC, id);
    client.expect_bytes(&[0x62, 2, high, low]);
    client.send_ack(kind::PUBCOMP, id);
    client.ping();
    client.cut();
    client = Client::connect(&connect);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_4_3_3_1_at_qos_2_an_id_is_in_use_until_pubcomp() {
    let topic = name("ids2/");
    let mut client = Client::new(V311);
    client.subscribe(&topic, 2);
    let mut publisher = Client::new(V311);
    let mut held = Vec::new();
    for at in 0..20 {
        publisher.publish(&topic, at.to_string(), 2);
        let message = client.expect_payload(&at.to_string());
        let id = message.id.unwrap();
        assert!(!held.contains(&id), "id {id} is in use");
        match at % 3 {
            0 => client.acknowledge(&message),
            1 => {
                client.send_ack(kind::PUBREC, id);
                client.expect_ack(kind::PUBREL, id);
                held.push(id);
            }
            _ => held.push(id),
        }
    }
    client.ping();
}

#[test]
fn mqtt_4_3_3_2_at_qos_2_a_message_is_delivered_once() {
    let topic = name("receiver2/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    let mut client = Client::new(V311);
    let publish = Publish::new(&topic, "once").qos(2, 0x1234);
    for again in [publish.clone(), publish.clone().dup(), publish.clone(), publish.clone().dup()] {
        client.send_publish(&again);
        client.expect_bytes(&[0x50, 2, 0x12, 0x34]);
    }
    for _ in 0..2 {
        client.send_ack(kind::PUBREL, 0x1234);
        client.expect_bytes(&[0x70, 2, 0x12, 0x34]);
    }
    let once = watcher.expect_payload("once");
    watcher.acknowledge(&once);
    watcher.ping();
    watcher.expect_silence();
}

#[test]
fn mqtt_4_3_3_2_at_qos_2_the_id_is_free_after_pubcomp() {
    let topic = name("free2/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    let mut client = Client::new(V311);
    for (at, dup) in [false, true, false, true].into_iter().enumerate() {
        let mut publish = Publish::new(&topic, at.to_string()).qos(2, 9);
        publish.dup = dup;
        client.send_publish(&publish);
        client.expect_ack(kind::PUBREC, 9);
        client.send_ack(kind::PUBREL, 9);
        client.expect_ack(kind::PUBCOMP, 9);
        let message = watcher.expect_payload(&at.to_string());
        watcher.acknowledge(&message);
    }
    watcher.ping();
}

#[test]
fn mqtt_4_3_3_2_at_qos_2_once_over_a_new_connection_too() {
    let topic = name("over2/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    let connect = Connect::new(V311).persistent();
    let publish = Publish::new(&topic, "once").qos(2, 21);
    let mut client = Client::connect(&connect);
    client.send_publish(&publish);
    for _ in 0..3 {
        client.expect_ack(kind::PUBREC, 21);
        client.cut();
        client = Client::connect(&connect);
        client.send_publish(&publish.clone().dup());
    }
    client.expect_ack(kind::PUBREC, 21);
    client.send_ack(kind::PUBREL, 21);
    client.expect_ack(kind::PUBCOMP, 21);
    // PUBREL again, as after a lost PUBCOMP.
    client.cut();
    client = Client::connect(&connect);
    client.send_ack(kind::PUBREL, 21);
    client.expect_ack(kind::PUBCOMP, 21);
    let once = watcher.expect_payload("once");
    watcher.acknowledge(&once);
    watcher.ping();
    watcher.expect_silence();
    // With a new session the same id is another message.
    client.disconnect();
    let mut client = Client::connect(&connect.clean(true));
    client.send_publish(&publish);
    client.expect_ack(kind::PUBREC, 21);
    client.send_ack(kind::PUBREL, 21);
    client.expect_ack(kind::PUBCOMP, 21);
    watcher.expect_payload("once");
}

#[test]
fn mqtt_4_3_3_2_pubrel_of_an_unknown_id_is_answered() {
    let mut client = Client::new(V311);
    for id in [1, 0x0102, 0xFFFF] {
        let [high, low] = u16::to_be_bytes(id);
        client.send_ack(kind::PUBREL, id);
        client.expect_bytes(&[0x70, 2, high, low]);
    }
}
