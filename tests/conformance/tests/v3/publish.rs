//! PUBLISH (clause 3.3): flags, topic name, answer, what a subscriber gets. RETAIN is in `retain`.

use tidegate_conformance::Version::V311;
use tidegate_conformance::packet::PINGREQ;
use tidegate_conformance::refusal::{after_connect, case};
use tidegate_conformance::wire::{ILL_FORMED, frame};
use tidegate_conformance::{Client, Publish, kind, name};

#[test]
fn mqtt_3_3_1_2_dup_is_0_at_qos_0() {
    let topic = name("dup0/");
    let wrong = Publish::new(&topic, "x").dup();
    after_connect(
        V311,
        [case("DUP", wrong.encode(V311)), case("DUP and RETAIN", wrong.retain().encode(V311))],
    )
    .without_a_packet();
    // And from the server, whatever the publisher's was: its decoder here refuses DUP at QoS 0.
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 0);
    let mut publisher = Client::new(V311);
    publisher.send_publish(&Publish::new(&topic, "1").qos(1, 1).dup());
    publisher.send_publish(&Publish::new(&topic, "2").qos(2, 2).dup());
    publisher.expect_ack(kind::PUBACK, 1);
    publisher.expect_ack(kind::PUBREC, 2);
    publisher.send_ack(kind::PUBREL, 2);
    publisher.expect_ack(kind::PUBCOMP, 2);
    for payload in ["1", "2"] {
        let message = watcher.expect_payload(payload);
        assert_eq!((message.qos, message.dup), (0, false));
    }
}

#[test]
fn mqtt_3_3_1_3_dup_is_not_passed_on() {
    let topic = name("dup/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    let mut publisher = Client::new(V311);
    for (qos, dup) in [(1, true), (1, false), (2, true), (2, false)] {
        let mut publish = Publish::new(&topic, format!("{qos} {dup}")).qos(qos, 5);
        publish.dup = dup;
        publisher.send_publish(&publish);
        if qos == 1 {
            publisher.expect_ack(kind::PUBACK, 5);
        } else {
            publisher.expect_ack(kind::PUBREC, 5);
            publisher.send_ack(kind::PUBREL, 5);
            publisher.expect_ack(kind::PUBCOMP, 5);
        }
        let message = watcher.expect_payload(&format!("{qos} {dup}"));
        assert_eq!((message.qos, message.dup), (qos, false));
        watcher.acknowledge(&message);
    }
    // Nor to one whom it is sent when it subscribes.
    publisher.send_publish(&Publish::new(&topic, "retained").qos(1, 6).dup().retain());
    publisher.expect_ack(kind::PUBACK, 6);
    let mut later = Client::new(V311);
    later.subscribe(&topic, 1);
    assert!(!later.expect_payload("retained").dup);
}

#[test]
fn mqtt_3_3_1_4_qos_3_ends_the_connection() {
    let topic = name("qos3/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    let body = Publish::new(&topic, "x").qos(1, 1).encode(V311)[2..].to_vec();
    let cases = [0x36, 0x37, 0x3E, 0x3F].map(|first: u8| case(format!("{first:#04x}"), frame(first, &body)));
    after_connect(V311, cases).without_a_packet();
    Client::new(V311).publish(&topic, "end", 0);
    watcher.expect_payload("end");
}

#[test]
fn mqtt_3_3_2_1_the_topic_name_is_utf_8() {
    let cases = ILL_FORMED.iter().flat_map(|(what, bytes)| {
        [0, 1, 2]
            .map(|qos| case(format!("{what}, QoS {qos}"), Publish::new(bytes, "x").qos(qos, 1).encode(V311)))
    });
    after_connect(V311, cases).without_a_packet();
}

#[test]
fn mqtt_3_3_2_1_the_topic_name_comes_first() {
    let cases = [
        case("nothing at all", frame(0x30, &[])),
        case("half a length", frame(0x30, &[0])),
        case("a topic longer than the packet", frame(0x30, &[0, 5, b'a', b'b'])),
        case("a topic as long as there is", frame(0x30, &[0xFF, 0xFF, b'a'])),
        case("QoS 1 without an id", frame(0x32, &[0, 1, b'a'])),
        case("QoS 1 with half an id", frame(0x32, &[0, 1, b'a', 1])),
        case("QoS 2 without an id", frame(0x34, &[0, 1, b'a'])),
        case("QoS 1 with the id first", frame(0x32, &[0, 7, 0, 1, b'a'])),
    ];
    after_connect(V311, cases).without_a_packet();
    // The payload may be empty.
    let topic = name("empty/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 1);
    Client::new(V311).publish(&topic, "", 1);
    assert_eq!(watcher.expect_payload("").topic(), topic);
}

#[test]
fn mqtt_3_3_2_2_there_is_no_wildcard_in_the_topic_name() {
    let topic = name("wild/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(format!("{topic}/#"), 2);
    let topics = ["+", "#", "/+", "a/+", "a/#", "a+", "a#b", "+a/b", "a/+/b", "#/a"];
    let wrong = topics.iter().flat_map(|wild| {
        let topic = format!("{topic}/{wild}");
        [
            case(format!("{topic}, QoS 0"), Publish::new(&topic, "x").encode(V311)),
            case(format!("{topic}, QoS 1"), Publish::new(&topic, "x").qos(1, 1).retain().encode(V311)),
            case(format!("{topic}, QoS 2"), Publish::new(&topic, "x").qos(2, 1).encode(V311)),
        ]
    });
    after_connect(V311, wrong).without_a_packet();
    after_connect(V311, ["+", "#"].map(|alone| case(alone, Publish::new(alone, "x").encode(V311))))
        .without_a_packet();
    Client::new(V311).publish(&topic, "end", 0);
    watcher.expect_payload("end");
}

#[test]
fn mqtt_3_3_2_3_the_topic_name_matches_the_filter_of_the_subscriber() {
    let prefix = name("match");
    let topics =
        ["a/b/c", "a/b", "a", "a//c", "/a", "b/b/c", "a/b/c/d"].map(|rest| format!("{prefix}/{rest}"));
    let matched: [(&str, &[usize]); 7] = [
        ("a/b/c", &[0]),
        ("a/+/c", &[0, 3]),
        ("+/b/c", &[0, 5]),
        ("a/#", &[0, 1, 2, 3, 6]),
        ("+", &[2]),
        ("+/+", &[1, 4]),
        ("a/b/+", &[0]),
    ];
    let mut clients = matched.map(|(filter, expected)| {
        let mut client = Client::new(V311);
        client.subscribe(format!("{prefix}/{filter}"), 1);
        client.subscribe(&prefix, 1);
        (filter, expected, client)
    });
    let mut publisher = Client::new(V311);
    for topic in &topics {
        publisher.publish(topic, topic, 1);
    }
    publisher.publish(&prefix, "end", 1);
    for (filter, expected, client) in &mut clients {
        for at in *expected {
            let message = client.expect_publish();
            assert_eq!((message.topic(), &message.text()), (topics[*at].as_str(), &topics[*at]), "{filter}");
            client.acknowledge(&message);
        }
        let end = client.expect_payload("end");
        assert_eq!(end.topic(), prefix);
    }
}

#[test]
fn mqtt_3_3_4_1_publish_is_answered_as_its_qos_asks_for() {
    let topic = name("answer/");
    let mut client = Client::new(V311);
    client.send_publish(&Publish::new(&topic, "x"));
    client.send(PINGREQ);
    client.expect_bytes(&[0xD0, 0]);
    client.send_publish(&Publish::new(&topic, "x").qos(1, 0x0102));
    client.expect_bytes(&[0x40, 2, 1, 2]);
    client.send_publish(&Publish::new(&topic, "x").qos(2, 0x0304));
    client.expect_bytes(&[0x50, 2, 3, 4]);
    client.send_ack(kind::PUBREL, 0x0304);
    client.expect_bytes(&[0x70, 2, 3, 4]);
    client.ping();
}

#[test]
fn mqtt_3_3_4_1_of_payloads_of_every_length_of_the_header() {
    let topic = name("length/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 1);
    let mut publisher = Client::new(V311);
    // Around 127 and 16,383 bytes of remaining length, and far above.
    let around = |length: usize| (length - 4..length + 4).map(|all| all - topic.len() - 4);
    for length in around(127).chain(around(16_383)).chain([100_000, 900_000]) {
        let payload: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        publisher.publish(&topic, &payload, 1);
        let message = watcher.expect_publish();
        assert!(message.payload == payload, "a payload of {length} bytes");
        watcher.acknowledge(&message);
    }
}

#[test]
fn mqtt_3_3_5_1_overlapping_subscriptions_give_the_highest_qos() {
    let prefix = name("overlap");
    let topic = format!("{prefix}/a/b");
    for qos in [0, 1, 2] {
        let filters = ["#", "+/b", "a/+", "a/b"];
        for highest in 0..filters.len() {
            let mut client = Client::new(V311);
            for (at, filter) in filters.iter().enumerate() {
                client.subscribe(format!("{prefix}/{filter}"), if at == highest { 2 } else { 0 });
            }
            client.subscribe(format!("{prefix}/end"), 2);
            let mut publisher = Client::new(V311);
            publisher.publish(&topic, "x", qos);
            publisher.publish(format!("{prefix}/end"), "end", 2);
            // Further copies are allowed, each with the QoS of its subscription.
            let mut came = Vec::new();
            loop {
                let message = client.take();
                match message.text().as_str() {
                    "end" => break,
                    _ => came.push(message.qos),
                }
            }
            assert!(came.contains(&qos), "QoS {qos} by {filters:?}, {highest} at QoS 2: {came:?}");
            assert!(came.len() <= filters.len(), "{came:?}");
        }
    }
}
