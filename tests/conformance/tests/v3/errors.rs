//! Protocol violations (clause 4.8) that no other statement names.

use tidegate_conformance::Version::V311;
use tidegate_conformance::packet::ack;
use tidegate_conformance::refusal::{after_connect, case};
use tidegate_conformance::wire::frame;
use tidegate_conformance::{Client, Connect, Publish, kind, name};

#[test]
fn mqtt_4_8_0_1_packets_that_only_a_server_sends() {
    let cases = [
        case("CONNACK", frame(0x20, &[0, 0])),
        case("SUBACK", frame(0x90, &[0, 1, 0])),
        case("UNSUBACK", frame(0xB0, &[0, 1])),
        case("PINGRESP", frame(0xD0, &[])),
        case("type 0", frame(0x00, &[])),
        case("type 0 with a body", frame(0x00, &[0, 1])),
        case("type 15", frame(0xF0, &[])),
        case("AUTH of MQTT 5", frame(0xF0, &[0x18, 0])),
    ];
    after_connect(V311, cases).without_a_packet();
}

#[test]
fn mqtt_4_8_0_1_remaining_lengths_of_five_bytes() {
    let types = [0x30, 0x40, 0x62, 0x82, 0xA2, 0xC0, 0xE0];
    let cases =
        types.map(|first: u8| case(format!("type {first:#04x}"), vec![first, 0x80, 0x80, 0x80, 0x80, 0x01]));
    after_connect(V311, cases).without_a_packet();
    after_connect(V311, [case("the highest bits", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F])])
        .without_a_packet();
}

#[test]
fn mqtt_4_8_0_1_packets_that_are_too_long_or_too_short() {
    let topic = name("length/");
    let mut cases = vec![
        case("PINGREQ with a body", frame(0xC0, &[0])),
        case("DISCONNECT with a body", frame(0xE0, &[0])),
        case("DISCONNECT of MQTT 5", frame(0xE0, &[0x04, 0])),
    ];
    for (what, first) in [("PUBACK", 0x40), ("PUBREC", 0x50), ("PUBREL", 0x62), ("PUBCOMP", 0x70)] {
        cases.push(case(format!("{what} without an id"), frame(first, &[])));
        cases.push(case(format!("{what} with half an id"), frame(first, &[1])));
        cases.push(case(format!("{what} with id 0"), frame(first, &[0, 0])));
        cases.push(case(format!("{what} with a reason code"), frame(first, &[0, 1, 0])));
    }
    after_connect(V311, cases).without_a_packet();
    Client::new(V311).publish(&topic, "x", 1);
}

#[test]
fn mqtt_4_8_0_1_only_the_connection_of_the_violation_ends() {
    let topic = name("others/");
    let mut other = Client::new(V311);
    other.subscribe(&topic, 1);
    let kept = Connect::new(V311).persistent();
    let mut wrong = Client::connect(&kept);
    wrong.subscribe(&topic, 1);
    // What came before it in the same segment is processed, what comes behind is not.
    let mut bytes = Publish::new(&topic, "before").qos(1, 1).encode(V311);
    bytes.extend(frame(0xF0, &[]));
    bytes.extend(Publish::new(&topic, "behind").qos(1, 2).encode(V311));
    wrong.send(bytes);
    wrong.expect_end();
    let before = other.expect_payload("before");
    other.acknowledge(&before);
    other.ping();
    // The session of the client stays, too.
    assert!(Client::connect_with(&kept).1.session_present);
}

#[test]
fn mqtt_4_8_0_1_acknowledgements_of_nothing_do_no_harm() {
    let topic = name("nothing/");
    let mut other = Client::new(V311);
    other.subscribe(&topic, 2);
    for kind in [kind::PUBACK, kind::PUBREC, kind::PUBREL, kind::PUBCOMP] {
        let mut client = Client::new(V311);
        client.send(ack(kind, 0x7777));
        client.send(ack(kind, 0x7777));
        // Whether the server takes that for a violation is its own affair.
        drop(client.read_within(tidegate_conformance::client::SILENCE));
    }
    Client::new(V311).publish(&topic, "still", 2);
    other.expect_payload("still");
}
