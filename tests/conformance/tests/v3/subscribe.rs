//! SUBSCRIBE and SUBACK (clauses 3.8 and 3.9).

use tidegate_conformance::Version::V311;
use tidegate_conformance::client::{CLOSES_WITHIN, Came, PATIENCE};
use tidegate_conformance::refusal::{after_connect, case};
use tidegate_conformance::wire::{ILL_FORMED, frame};
use tidegate_conformance::{Client, Packet, Subscribe, name};

#[test]
fn mqtt_3_8_1_1_the_flags_of_subscribe_are_0010() {
    let topic = name("flags/");
    let body = Subscribe::new(1).filter(&topic, 0).body(V311);
    let wrong = (0..16).filter(|flags| *flags != 0b0010);
    after_connect(V311, wrong.map(|flags: u8| case(format!("{flags:04b}"), frame(0x80 | flags, &body))))
        .without_a_packet();
    let mut client = Client::new(V311);
    client.send(frame(0x82, &body));
    client.expect_bytes(&[0x90, 3, 0, 1, 0]);
}

#[test]
fn mqtt_3_8_3_1_filters_are_utf_8() {
    let filter = name("utf8/");
    let alone = ILL_FORMED.map(|(what, bytes)| case(what, Subscribe::new(1).filter(bytes, 0).encode(V311)));
    after_connect(V311, alone).without_a_packet();
    let second = ILL_FORMED.map(|(what, bytes)| {
        case(format!("second: {what}"), Subscribe::new(1).filter(&filter, 0).filter(bytes, 0).encode(V311))
    });
    after_connect(V311, second).without_a_packet();
    let nul = case("U+0000", Subscribe::new(1).filter("a\0b", 0).encode(V311));
    after_connect(V311, [nul]).without_a_packet();
}

#[test]
fn mqtt_3_8_3_2_wildcards_are_supported() {
    let prefix = name("wild");
    let mut client = Client::new(V311);
    for filter in ["+", "#", "a/+", "a/#", "+/b", "+/+/#", "a/+/c"] {
        client.subscribe(format!("{prefix}/{filter}"), 0);
        Client::new(V311).publish(format!("{prefix}/{}", filter.replace(['+', '#'], "x")), filter, 0);
        // As often as it matches; at least once.
        client.expect_payload(filter);
        client.unsubscribe(format!("{prefix}/{filter}"));
    }
}

#[test]
fn mqtt_3_8_3_3_subscribe_has_a_filter() {
    let cases = [
        case("only an id", frame(0x82, &[0, 1])),
        case("nothing", frame(0x82, &[])),
        case("half an id", frame(0x82, &[0])),
        case("no QoS", frame(0x82, &[0, 1, 0, 1, b'a'])),
        case("half a length", frame(0x82, &[0, 1, 0])),
        case("a filter longer than the packet", frame(0x82, &[0, 1, 0, 9, b'a', 0])),
        case("a second filter without QoS", frame(0x82, &[0, 1, 0, 1, b'a', 0, 0, 1, b'b'])),
        case("a byte after the last filter", frame(0x82, &[0, 1, 0, 1, b'a', 0, 0])),
    ];
    after_connect(V311, cases).without_a_packet();
}

#[test]
fn mqtt_3_8_3_4_reserved_bits_and_qos_3_end_the_connection() {
    let filter = name("options/");
    let wrong: Vec<u8> = (0..8)
        .flat_map(|bit| [1 << bit, 1 << bit | 1, 1 << bit | 2])
        .filter(|options| *options > 2)
        .collect();
    assert!(wrong.contains(&3) && wrong.contains(&4) && wrong.contains(&0x80) && wrong.contains(&0x82));
    let alone = wrong.iter().map(|&options| {
        case(format!("{options:08b}"), Subscribe::new(1).filter(&filter, options).encode(V311))
    });
    after_connect(V311, alone.collect::<Vec<_>>()).without_a_packet();
    let second = Subscribe::new(1).filter(&filter, 1).filter("b", 3).encode(V311);
    after_connect(V311, [case("in the second filter", second)]).without_a_packet();
}

#[test]
fn mqtt_3_8_4_1_subscribe_is_answered_by_suback() {
    let topic = name("answer/");
    let mut client = Client::new(V311);
    client.send(Subscribe::new(7).filter(&topic, 1).encode(V311));
    // PUBLISH may come before it, but none is sent here.
    client.expect_bytes(&[0x90, 3, 0, 7, 1]);
    client.publish_and_get(&topic);
}

#[test]
fn mqtt_3_8_4_2_suback_has_the_id_of_its_subscribe() {
    let mut client = Client::new(V311);
    let ids = [1, 0xFF, 0x100, 0x1234, 0xFFFF, 2];
    for id in ids {
        client.send(Subscribe::new(id).filter(name("id/"), 0).encode(V311));
    }
    for id in ids {
        let [high, low] = id.to_be_bytes();
        client.expect_bytes(&[0x90, 3, high, low, 0]);
    }
}

#[test]
fn mqtt_3_8_4_3_the_same_filter_replaces_the_subscription() {
    let topic = name("replace/");
    let mut publisher = Client::new(V311);
    let mut client = Client::new(V311);
    for qos in [2, 0, 1] {
        client.subscribe(&topic, qos);
        publisher.publish(&topic, "x", 2);
        // One copy, with the QoS of the last subscription.
        let message = client.expect_payload("x");
        assert_eq!(message.qos, qos);
        client.acknowledge(&message);
        client.ping();
    }
    client.unsubscribe(&topic);
    publisher.publish(&topic, "gone", 2);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_8_4_3_retained_messages_are_sent_again() {
    let topic = name("again/");
    let mut publisher = Client::new(V311);
    publisher.publish_retained(format!("{topic}/r"), "retained", 1);
    let mut client = Client::new(V311);
    for qos in [1, 0, 1] {
        client.subscribe(format!("{topic}/+"), qos);
        let message = client.expect_payload("retained");
        assert_eq!((message.retain, message.qos), (true, qos));
        client.acknowledge(&message);
        client.ping();
    }
}

#[test]
fn mqtt_3_8_4_3_the_flow_of_messages_is_not_interrupted() {
    const MESSAGES: usize = 300;
    let topic = name("flow/");
    let mut client = Client::new(V311);
    client.subscribe(&topic, 1);
    let to = topic.clone();
    let publisher = std::thread::spawn(move || {
        let mut publisher = Client::new(V311);
        for at in 0..MESSAGES {
            publisher.publish(&to, at.to_string(), 1);
        }
    });
    let (mut next, mut subscribed, mut answered) = (0, 0, 0);
    while next < MESSAGES || answered < subscribed {
        match client.expect() {
            Packet::Publish(publish) => {
                assert_eq!(publish.text(), next.to_string());
                next += 1;
                client.acknowledge(&publish);
                if next.is_multiple_of(10) {
                    subscribed += 1;
                    client.send(Subscribe::new(1_000 + subscribed).filter(&topic, 1).encode(V311));
                }
            }
            Packet::SubAck(_) => answered += 1,
            other => panic!("{other:?}"),
        }
    }
    publisher.join().unwrap();
    client.ping();
}

#[test]
fn mqtt_3_8_4_4_several_filters_are_as_several_packets() {
    let topic = name("several");
    let mut client = Client::new(V311);
    let subscribe = Subscribe::new(3)
        .filter(format!("{topic}/a"), 0)
        .filter(format!("{topic}/b"), 2)
        .filter(format!("{topic}/a"), 2)
        .filter(format!("{topic}/b"), 0);
    client.send(subscribe.encode(V311));
    client.expect_bytes(&[0x90, 6, 0, 3, 0, 2, 2, 0]);
    // The last one of each filter counts.
    let mut publisher = Client::new(V311);
    for (leaf, qos) in [("a", 2), ("b", 0)] {
        publisher.publish(format!("{topic}/{leaf}"), leaf, 2);
        let message = client.expect_payload(leaf);
        assert_eq!(message.qos, qos);
        client.acknowledge(&message);
    }
    client.ping();
}

#[test]
fn mqtt_3_8_4_4_a_filter_twice_brings_its_retained_messages_twice() {
    let topic = name("twice");
    Client::new(V311).publish_retained(&topic, "retained", 1);
    let mut client = Client::new(V311);
    client.send(Subscribe::new(3).filter(&topic, 1).filter(&topic, 0).encode(V311));
    // Before or after SUBACK, by each of the two subscriptions.
    let (mut answers, mut retained) = (0, Vec::new());
    loop {
        match client.read_within(CLOSES_WITHIN) {
            Came::Packet(Packet::SubAck(answer)) => {
                assert_eq!(answer.codes, [1, 0]);
                answers += 1;
            }
            Came::Packet(Packet::Publish(publish)) => {
                client.acknowledge(&publish);
                retained.push((publish.qos, publish.retain));
            }
            Came::Nothing => break,
            other => panic!("{other:?}"),
        }
        if answers == 1 && retained.len() == 2 {
            break;
        }
    }
    retained.sort_unstable();
    assert_eq!((answers, retained), (1, vec![(0, true), (1, true)]));
}

#[test]
fn mqtt_3_8_4_5_suback_has_a_code_for_each_filter() {
    let topic = name("codes");
    for count in [1, 2, 3, 10, 100] {
        let mut client = Client::new(V311);
        let all = (0..count).fold(Subscribe::new(1), |subscribe, at| {
            subscribe.filter(format!("{topic}/{at}"), u8::try_from(at % 3).unwrap())
        });
        client.send(all.encode(V311));
        let expected: Vec<u8> = (0..count).map(|at| u8::try_from(at % 3).unwrap()).collect();
        assert_eq!(client.expect_suback(1).codes, expected);
    }
}

#[test]
fn mqtt_3_8_4_6_the_lower_qos_counts() {
    let topic = name("lower");
    let mut client = Client::new(V311);
    for granted in [0, 1, 2] {
        client.subscribe(format!("{topic}/{granted}"), granted);
    }
    let mut publisher = Client::new(V311);
    for granted in [0, 1, 2] {
        for published in [0, 1, 2] {
            publisher.publish(format!("{topic}/{granted}"), "x", published);
            let message = client.expect_publish();
            assert_eq!(message.qos, granted.min(published), "published at {published}, granted {granted}");
            client.acknowledge(&message);
            client.ping();
        }
    }
}

#[test]
fn mqtt_3_9_3_1_the_codes_have_the_order_of_the_filters() {
    let topic = name("order");
    let filters = [("z", 2), ("a", 0), ("+", 1), ("m", 2), ("b", 1), ("#", 0)];
    let subscribe = filters
        .iter()
        .fold(Subscribe::new(0x0A0B), |packet, (leaf, qos)| packet.filter(format!("{topic}/{leaf}"), *qos));
    let mut client = Client::new(V311);
    client.send(subscribe.encode(V311));
    client.expect_bytes(&[0x90, 8, 0x0A, 0x0B, 2, 0, 1, 2, 1, 0]);
}

#[test]
fn mqtt_3_9_3_2_no_other_codes_are_used() {
    // Filters of every kind; whoever reads SUBACK here refuses other codes. A bad filter may end the connection.
    for filter in [
        "a/#/b",
        "#a",
        "a+",
        "a/+b",
        "$SYS/#",
        "$share/g/t",
        "$share/g",
        "$share//t",
        "$share/g+/t",
        "/",
        "//",
        "$",
    ] {
        let mut client = Client::new(V311);
        client.send(Subscribe::new(1).filter(filter, 1).filter(name("t/"), 1).encode(V311));
        let came = std::iter::repeat_with(|| client.read_within(PATIENCE))
            .find(|came| !matches!(came, Came::Packet(Packet::Publish(_))));
        match came {
            Some(Came::Packet(Packet::SubAck(answer))) => {
                assert!(
                    answer.codes.len() == 2 && matches!(answer.codes[0], 0..=2 | 0x80),
                    "{filter}: {answer:?}"
                );
                assert_eq!(answer.codes[1], 1, "{filter}");
            }
            Some(Came::End) => {}
            other => panic!("{filter}: {other:?}"),
        }
    }
}
