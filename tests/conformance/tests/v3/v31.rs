//! What MQTT 3.1 (`MQIsdp`) wants differently. Its clauses have other numbers than those of 3.1.1.

use tidegate_conformance::Version::V31;
use tidegate_conformance::client::{Came, PATIENCE};
use tidegate_conformance::packet::ack;
use tidegate_conformance::received::ConnAck;
use tidegate_conformance::refusal::{case, first_on_a_connection};
use tidegate_conformance::wire::{frame, text};
use tidegate_conformance::{Client, Connect, Packet, Publish, Subscribe, Unsubscribe, Will, kind, name};

const CLEAN: u8 = 0b10;
const PASSWORD: u8 = 0b100_0000;
const USER_NAME: u8 = 0b1000_0000;

#[test]
fn mqisdp_2_1_1_dup_is_taken_in_what_is_sent_again() {
    let topic = name("dup/");
    let mut client = Client::new(V31);
    for first in [0x82, 0x8A] {
        client.send(frame(first, &Subscribe::new(1).filter(&topic, 1).body(V31)));
        client.expect_bytes(&[0x90, 3, 0, 1, 1]);
    }
    client.send_publish(&Publish::new("elsewhere", "x").qos(2, 2));
    client.expect_ack(kind::PUBREC, 2);
    for first in [0x62, 0x6A] {
        client.send(frame(first, &[0, 2]));
        client.expect_bytes(&[0x70, 2, 0, 2]);
    }
    for first in [0xA2, 0xAA] {
        client.send(frame(first, &Unsubscribe::new(3).filter(&topic).body(V31)));
        client.expect_bytes(&[0xB0, 2, 0, 3]);
    }
    client.send(ack(kind::PUBREL, 2));
    client.expect_ack(kind::PUBCOMP, 2);
}

#[test]
fn mqisdp_3_1_1_name_and_level_belong_together() {
    let mut client = Client::open(V31);
    let connect = Connect::new(V31);
    client.send(connect.encode());
    client.expect_bytes(&[0x20, 2, 0, 0]);
    client.publish(name("t/"), "x", 2);
    client.disconnect();
    let other = |protocol: &str, level: u8| {
        let mut connect = Connect::new(V31);
        connect.protocol = protocol.into();
        connect.level = level;
        case(format!("{protocol} {level}"), connect.encode())
    };
    let pairs = [
        other("MQIsdp", 4),
        other("MQIsdp", 5),
        other("MQIsdp", 2),
        other("MQIsdp", 0),
        other("MQTT", 3),
        other("mqisdp", 3),
        other("MQIsdp ", 3),
    ];
    // It may be told that the level is not known.
    first_on_a_connection(V31, pairs).each("no success", |packets| {
        packets.iter().all(|packet| matches!(packet, Packet::ConnAck(ConnAck { code: 1, .. })))
    });
}

#[test]
fn mqisdp_3_1_2_the_client_id_is_not_empty() {
    let nameless = Connect::new(V31).client_id("");
    first_on_a_connection(
        V31,
        [
            case("clean session", nameless.clone().encode()),
            case("kept session", nameless.clone().persistent().encode()),
            case("with a will", nameless.will(Will::new("t", "m")).encode()),
        ],
    )
    .with_return_code(2);
    Client::connect(&Connect::new(V31).client_id("1")).disconnect();
}

#[test]
fn mqisdp_3_1_3_the_client_id_has_at_most_23_characters() {
    let long = |length: usize| {
        let mut id = name("l");
        id.push_str(&"x".repeat(length - id.len()));
        Connect::new(V31).client_id(id)
    };
    Client::connect(&long(23)).disconnect();
    let cases = [24, 25, 64, 1_000].map(|length| case(format!("{length} characters"), long(length).encode()));
    first_on_a_connection(V31, cases).with_return_code(2);
}

#[test]
fn mqisdp_3_1_4_the_fields_of_a_login_may_be_missing_at_the_end() {
    for (flags, fields) in [
        (CLEAN | USER_NAME, &[][..]),
        (CLEAN | USER_NAME | PASSWORD, &[]),
        (CLEAN | USER_NAME | PASSWORD, &["user"]),
        (CLEAN | USER_NAME | PASSWORD, &["user", "secret"]),
    ] {
        let mut tail = Vec::new();
        for field in fields {
            text(&mut tail, field);
        }
        let mut client = Client::open(V31);
        client.send(Connect::new(V31).flags(flags).tail(tail).encode());
        client.expect_bytes(&[0x20, 2, 0, 0]);
        client.disconnect();
    }
}

#[test]
fn mqisdp_3_1_5_there_is_no_password_flag_without_the_user_name_flag() {
    let mut tail = Vec::new();
    text(&mut tail, "secret");
    let cases = [
        case("with the field", Connect::new(V31).flags(CLEAN | PASSWORD).tail(&tail).encode()),
        case("without it", Connect::new(V31).flags(CLEAN | PASSWORD).encode()),
    ];
    first_on_a_connection(V31, cases).each("no success", |packets| {
        packets.iter().all(|packet| matches!(packet, Packet::ConnAck(ConnAck { code: 1..=5, .. })))
    });
}

#[test]
fn mqisdp_3_1_6_bits_without_a_meaning_are_passed_over() {
    // Bit 0, will QoS and will retain.
    for bits in [0b1, 0b1000, 0b1_0000, 0b10_0000, 0b11_0001] {
        let mut client = Client::open(V31);
        client.send(Connect::new(V31).flags(CLEAN | bits).encode());
        client.expect_bytes(&[0x20, 2, 0, 0]);
        client.disconnect();
    }
}

#[test]
fn mqisdp_3_1_7_the_older_connection_is_ended_first() {
    let connect = Connect::new(V31);
    let mut old = Client::connect(&connect);
    let mut new = Client::connect(&connect);
    old.expect_closed();
    new.ping();
}

#[test]
fn mqisdp_3_2_1_there_is_no_session_present() {
    let topic = name("kept/");
    let connect = Connect::new(V31).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 1);
    client.disconnect();
    Client::new(V31).publish(&topic, "kept", 1);
    for _ in 0..2 {
        let mut client = Client::open(V31);
        client.send(connect.encode());
        client.expect_bytes(&[0x20, 2, 0, 0]);
        // It is taken up all the same.
        client.expect_payload("kept");
        client.cut();
    }
}

#[test]
fn mqisdp_3_9_1_suback_has_no_failure() {
    // The right ones beside wrong ones; who reads SUBACK of 3.1 here refuses other codes than 0, 1 and 2.
    let topic = name("grant");
    let mut client = Client::new(V31);
    for qos in [0, 1, 2] {
        client.send(Subscribe::new(1).filter(format!("{topic}/{qos}"), qos).encode(V31));
        client.expect_bytes(&[0x90, 3, 0, 1, qos]);
    }
    for wrong in ["a/#/b", "a+", "#a"] {
        let mut client = Client::new(V31);
        client.send(Subscribe::new(2).filter(wrong, 1).encode(V31));
        match client.read_within(PATIENCE) {
            Came::End => {}
            Came::Packet(Packet::SubAck(answer)) => assert_eq!(answer.codes.len(), 1, "{wrong}"),
            other => panic!("{wrong}: {other:?}"),
        }
    }
}
