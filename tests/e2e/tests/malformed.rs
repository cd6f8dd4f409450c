//! Packets that break the rules: the sender is told the reason and cut off, everybody else goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use tidegate_e2e::Server;
use tidegate_e2e::mosquitto::Subscriber;
use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::wire::{self, Connect, Wire, frame, kind, publish, publish_with, subscribe, text};

/// Sends `bytes` on a connected client and gives the packets that come before the end of the connection.
fn offend(server: &Server, version: u8, bytes: &[u8]) -> Vec<wire::Packet> {
    let (mut wire, _) = Wire::connect(server.port, &Connect::new(version, "offender"));
    wire.send(bytes);
    wire.read_to_end()
}

/// What breaks a rule in version 5, and the reason codes that say so (MQTT 5 clause 4.13).
fn offences() -> Vec<(&'static str, Vec<u8>, &'static [u8])> {
    const MALFORMED: u8 = 0x81;
    const PROTOCOL: u8 = 0x82;
    let raw_topic = |topic: &[u8]| {
        let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend(topic);
        body.push(0);
        frame(0x30, &body)
    };
    let mut without_filter = 9_u16.to_be_bytes().to_vec();
    without_filter.push(0);
    let mut bad_option = without_filter.clone();
    text(&mut bad_option, "a");
    bad_option.push(3);
    vec![
        ("packet type 0", vec![0x00, 0], &[MALFORMED, PROTOCOL]),
        ("PUBLISH with QoS 3", publish_with(5, "a", b"x", 0b0110, 1, &[]), &[MALFORMED]),
        ("PUBLISH with DUP at QoS 0", publish_with(5, "a", b"x", 0b1000, 0, &[]), &[MALFORMED, PROTOCOL]),
        ("PUBLISH QoS 1 with packet id 0", publish(5, "a", b"x", 1, 0), &[MALFORMED, PROTOCOL]),
        ("a wildcard in a topic name", publish(5, "a/#", b"x", 0, 0), &[0x90, MALFORMED]),
        ("a NUL in a topic name", publish(5, "a\0b", b"x", 0, 0), &[MALFORMED, 0x90]),
        ("a topic name that is not UTF-8", raw_topic(&[b'a', 0xC3, 0x28]), &[MALFORMED]),
        ("a surrogate in a topic name", raw_topic(&[0xED, 0xA0, 0x80]), &[MALFORMED]),
        ("a topic longer than the packet", vec![0x30, 4, 0x00, 0x09, b'a', 0], &[MALFORMED]),
        ("an empty topic without an alias", raw_topic(b""), &[PROTOCOL, 0x90]),
        ("topic alias 0", publish_with(5, "a", b"x", 0, 0, &[0x23, 0, 0]), &[0x94, PROTOCOL]),
        ("an unknown topic alias", publish_with(5, "", b"x", 0, 0, &[0x23, 0, 9]), &[0x94, PROTOCOL]),
        ("a property given twice", publish_with(5, "a", b"x", 0, 0, &[1, 0, 1, 0]), &[PROTOCOL, MALFORMED]),
        ("an unknown property", publish_with(5, "a", b"x", 0, 0, &[0x7F, 0]), &[MALFORMED, PROTOCOL]),
        (
            "a property of another packet",
            publish_with(5, "a", b"x", 0, 0, &[0x21, 0, 9]),
            &[MALFORMED, PROTOCOL],
        ),
        ("properties longer than the packet", vec![0x30, 5, 0, 1, b'a', 9, 1], &[MALFORMED]),
        ("SUBSCRIBE with flags 0", frame(0x80, &[0, 9, 0, 0, 1, b'a', 0]), &[MALFORMED]),
        ("SUBSCRIBE without a filter", frame(0x82, &without_filter), &[PROTOCOL, MALFORMED]),
        ("SUBSCRIBE with packet id 0", subscribe(5, 0, "a", 0), &[MALFORMED, PROTOCOL]),
        ("SUBSCRIBE with QoS 3", frame(0x82, &bad_option), &[MALFORMED, PROTOCOL]),
        ("UNSUBSCRIBE without a filter", frame(0xA2, &without_filter), &[PROTOCOL, MALFORMED]),
        ("PUBREL with flags 0", frame(0x60, &[0, 9]), &[MALFORMED]),
        ("PINGREQ with a body", vec![0xC0, 1, 0], &[MALFORMED]),
        ("a remaining length of five bytes", vec![0x30, 0x80, 0x80, 0x80, 0x80, 1], &[MALFORMED]),
        ("a second CONNECT", Connect::new(5, "offender").encode(), &[PROTOCOL]),
        ("CONNACK from a client", frame(0x20, &[0, 0, 0]), &[PROTOCOL, MALFORMED]),
        ("SUBACK from a client", frame(0x90, &[0, 1, 0, 0]), &[PROTOCOL, MALFORMED]),
        ("UNSUBACK from a client", frame(0xB0, &[0, 1, 0, 0]), &[PROTOCOL, MALFORMED]),
        ("PINGRESP from a client", vec![0xD0, 0], &[PROTOCOL, MALFORMED]),
        ("a packet above the maximum size", vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F], &[0x95]),
    ]
}

#[test]
fn every_offence_is_answered_with_its_reason_on_version_5() {
    let mut server = Server::plain();
    let mut wrong = Vec::new();
    for (what, bytes, reasons) in offences() {
        let answer = offend(&server, 5, &bytes);
        let code = answer.last().filter(|p| p.kind() == kind::DISCONNECT).map(wire::Packet::reason);
        if !code.is_some_and(|code| reasons.contains(&code)) {
            wrong.push(format!("{what}: expected DISCONNECT {reasons:02X?}, got {answer:02X?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(server.is_alive());
    server.assert_no_panic();
}

#[test]
fn the_same_offences_close_a_3_1_1_connection() {
    let mut server = Server::plain();
    let packets = [
        ("packet type 0", vec![0x00, 0]),
        ("packet type 15", vec![0xF0, 0]),
        ("PUBLISH with QoS 3", publish_with(4, "a", b"x", 0b0110, 1, &[])),
        ("PUBLISH QoS 1 with packet id 0", publish(4, "a", b"x", 1, 0)),
        ("a wildcard in a topic name", publish(4, "a/+", b"x", 0, 0)),
        ("a NUL in a topic name", publish(4, "a\0", b"x", 0, 0)),
        ("an empty topic", publish(4, "", b"x", 0, 0)),
        ("SUBSCRIBE without a filter", frame(0x82, &[0, 9])),
        ("SUBSCRIBE with reserved bits", subscribe(4, 9, "a", 0b100)),
        ("PUBACK with a body too long", frame(0x40, &[0, 1, 0, 0, 0])),
        ("a second CONNECT", Connect::new(4, "offender").encode()),
        ("UNSUBACK from a client", frame(0xB0, &[0, 1])),
        ("a packet above the maximum size", vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F]),
    ];
    for (what, bytes) in packets {
        let answer = offend(&server, 4, &bytes);
        assert!(answer.iter().all(|packet| packet.kind() != kind::DISCONNECT), "{what}: {answer:02X?}");
    }
    assert!(server.is_alive());
    server.assert_no_panic();
}

#[test]
fn an_invalid_filter_is_refused() {
    let server = Server::plain();
    for (filter, is_well_formed_in_4) in [
        ("a/#/b", false),
        ("a+", false),
        ("#a", false),
        ("a/b#", false),
        ("", false),
        ("$share/g+/a", false),
        // Shared subscriptions came with version 5: before it, this is a filter like any other.
        ("$share/group", true),
        ("$share//a", true),
    ] {
        let answer = offend(&server, 5, &subscribe(5, 3, filter, 1));
        let [last] = &answer[..] else { panic!("{filter:?}: {answer:02X?}") };
        assert_eq!((last.kind(), last.reason()), (kind::DISCONNECT, 0x81), "{filter:?}: malformed");
        if is_well_formed_in_4 {
            let (mut wire, _) = Wire::connect(server.port, &Connect::new(4, "subscriber"));
            wire.send(&subscribe(4, 3, filter, 1));
            assert_eq!(wire.expect(kind::SUBACK).body, [0, 3, 0x80], "{filter:?}: refused alone");
            wire.send(wire::PINGREQ);
            wire.expect(kind::PINGRESP);
        } else {
            assert_eq!(
                offend(&server, 4, &subscribe(4, 3, filter, 1)),
                [],
                "{filter:?}: closed without a word"
            );
        }
    }
    server.assert_no_panic();
}

#[test]
fn a_filter_of_too_many_levels_or_bytes_is_refused_and_such_a_topic_ends_the_connection() {
    let server = Server::builder().file("tidegate.toml", "broker.max_topic_bytes = 1000").start();
    let levels = |count: usize| vec!["a"; count].join("/");
    for (what, most, over) in
        [("levels", levels(128), levels(129)), ("bytes", "x".repeat(1_000), "x".repeat(1_001))]
    {
        for version in [4, 5] {
            let (mut subscriber, _) = Wire::connect(server.port, &Connect::new(version, "subscriber"));
            let refused = if version == 5 { 0x8F } else { 0x80 };
            for (filter, code) in [(&over, refused), (&most, 1)] {
                subscriber.send(&subscribe(version, 3, filter, 1));
                let answer = subscriber.expect(kind::SUBACK);
                assert_eq!(answer.body.last(), Some(&code), "{what} in version {version}: {answer:02X?}");
            }
            let (mut publisher, _) = Wire::connect(server.port, &Connect::new(version, "publisher"));
            publisher.send(&publish(version, &most, b"x", 1, 1));
            assert_eq!(publisher.expect(kind::PUBACK).id(), 1);
            assert_eq!(subscriber.expect(kind::PUBLISH).publish(version).0, most);
            let answer = offend(&server, version, &publish(version, &over, b"x", 1, 1));
            let codes: Vec<_> = answer.iter().map(|packet| (packet.kind(), packet.reason())).collect();
            let expected: &[(u8, u8)] = if version == 5 { &[(kind::DISCONNECT, 0x90)] } else { &[] };
            assert_eq!(codes, expected, "{what} in version {version}");
        }
    }
    // Two filters and a name of too many bytes, and two filters of too many levels, by each version once.
    assert!(server.metric("tidegate_broker_limited_total", "limit=\"topic_bytes\"") >= 6.0);
    server.assert_no_panic();
}

/// The longest string the protocol knows is a topic of one level.
#[test]
fn the_longest_topic_that_there_is_can_be_subscribed_to_and_published() {
    let server = Server::plain();
    let long = "x".repeat(65_535);
    let mut subscriber = Subscriber::start(server.port, &["-t", "#", "-q", "1"]);
    let mut client = Paho::connect(server.port, &Options::new(5, "long"));
    assert_eq!(client.subscribe(&long, 1), 1);
    assert_eq!(client.publish(&long, "x", 1), 0);
    assert!(subscriber.receive().topic == long && client.receive().topic == long);
    server.assert_no_panic();
}

#[test]
fn a_first_packet_that_is_no_connect_ends_the_connection() {
    let mut server = Server::plain();
    let connack = frame(0x20, &[0, 0, 0]);
    let unsuback = frame(0xB0, &[0, 1, 0]);
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let tls = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];
    for (what, bytes) in [
        ("CONNACK", connack),
        ("UNSUBACK", unsuback),
        ("PINGREQ", wire::PINGREQ.to_vec()),
        ("HTTP", http),
        ("TLS", tls),
        ("zeros", vec![0; 100]),
    ] {
        let mut wire = Wire::open(server.port);
        wire.send(&bytes);
        let answer = wire.read_to_end();
        assert!(answer.iter().all(|p| p.kind() != kind::CONNACK || p.body[1] != 0), "{what}: {answer:02X?}");
    }
    assert!(server.is_alive());
    server.assert_no_panic();
}

#[test]
fn an_unknown_protocol_level_is_refused_by_name() {
    let server = Server::plain();
    for level in [0, 2, 6, 255] {
        let mut wire = Wire::open(server.port);
        wire.send(&Connect::new(level, "future").encode());
        for packet in wire.read_to_end() {
            assert_eq!(packet.kind(), kind::CONNACK);
            assert!([0x01, 0x84].contains(&packet.body[1]), "{packet:02X?}");
        }
    }
}

#[test]
fn topics_and_properties_that_stopped_other_brokers() {
    let mut server = Server::plain();
    let mut four = Paho::connect(server.port, &Options::new(4, "four"));
    let mut five = Paho::connect(server.port, &Options::new(5, "five"));
    for filter in ["é/x", "/#", "#"] {
        four.subscribe(filter, 2);
        five.subscribe(filter, 2);
    }
    // A first character of several bytes; a version 5 message with properties to a version 3.1.1 subscriber. Not at QoS 2: a
    // client hands such a message out at PUBREL, after QoS 1 messages that came later.
    assert_eq!(five.publish_with("é/x", "1", 1, false, &[("é", "ü")]), 0);
    assert_eq!(four.publish("漢/字", "2", 1), 0);
    for client in [&mut four, &mut five] {
        client.publish("end", "end", 1);
    }
    for client in [&mut four, &mut five] {
        let payloads: Vec<_> = client.take_until("end").into_iter().map(|m| m.payload).collect();
        assert!(payloads.contains(&"1".to_owned()) && payloads.contains(&"2".to_owned()), "{payloads:?}");
    }
    assert!(server.is_alive());
    server.assert_no_panic();
}

/// xorshift: the same packets in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }
}

#[test]
fn two_thousand_damaged_packets_leave_the_server_standing() {
    let mut server = Server::builder().document_lines().start();
    let mut watcher = Paho::connect(server.port, &Options::new(5, "watcher"));
    watcher.subscribe("alive", 1);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for round in 0..2_000 {
        let version = [3, 4, 5][random.below(3)];
        let mut connect = Connect::new(version, "damaged");
        connect.will = (random.below(2) == 0).then(|| ("w/x".into(), "gone".into(), 1, false));
        let mut bytes = connect.encode();
        let start = if random.below(4) == 0 { 0 } else { bytes.len() };
        for _ in 0..4 {
            bytes.extend(match random.below(6) {
                0 => subscribe(version, 7, "a/+/#", 2),
                1 => {
                    publish_with(version, "a/b", b"payload", 0b0101, 9, &[1, 1, 0x26, 0, 1, b'k', 0, 1, b'v'])
                }
                2 => wire::ack(kind::PUBREL, 9),
                3 => frame(0xA2, &[0, 9, 0, 0, 3, b'a', b'/', b'b']),
                4 => publish(version, "a/b", b"x", 2, 11),
                _ => wire::PINGREQ.to_vec(),
            });
        }
        for _ in 0..=random.below(4) {
            let at = start + random.below(bytes.len() - start);
            match random.below(3) {
                0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                1 => bytes[at] ^= 1 << random.below(8),
                _ => bytes.insert(at, u8::try_from(random.below(256)).unwrap()),
            }
        }
        bytes.truncate(start + random.below(bytes.len() - start) + 1);
        let mut wire = Wire::open(server.port);
        // It may be cut before it has sent everything.
        drop(wire.try_send(&bytes));
        if round % 4 == 0 {
            wire.patience(std::time::Duration::from_millis(5));
            while wire.read().is_ok() {}
        }
        wire.cut();
        if round % 200 == 0 {
            watcher.publish("alive", &round.to_string(), 1);
            assert_eq!(watcher.receive().payload, round.to_string());
        }
    }
    assert!(server.is_alive());
    server.assert_no_panic();
}
