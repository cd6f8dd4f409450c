//! PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT 5 clauses 3.4 to 3.7). What they do is in `qos.rs`.

use tidegate_conformance::ending::{Failures, MALFORMED, PROTOCOL_ERROR};
use tidegate_conformance::packet::{ack, ack_with};
use tidegate_conformance::wire::frame;
use tidegate_conformance::{Client, Properties, Publish, Version::V5, kind, name};

/// Codes of PUBACK and PUBREC.
const PUBLISHED: [u8; 9] = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
/// Codes of PUBREL and PUBCOMP.
const RELEASED: [u8; 2] = [0x00, 0x92];

/// The first byte of this acknowledgement.
fn first(kind: u8) -> u8 {
    if kind == kind::PUBREL { 0x62 } else { kind << 4 }
}

#[test]
fn mqtt_2_2_1_5_acknowledgements_repeat_the_identifier() {
    let topic = name("acks/same");
    let mut client = Client::new(V5);
    for id in [1, 255, 256, 0x7FFF, 0x8000, 0xFFFF] {
        client.send_publish(&Publish::new(&topic, "1").qos(1, id));
        client.expect_ack(kind::PUBACK, id);
        client.send_publish(&Publish::new(&topic, "2").qos(2, id));
        client.expect_ack(kind::PUBREC, id);
        client.send_ack(kind::PUBREL, id);
        client.expect_ack(kind::PUBCOMP, id);
    }
}

#[test]
fn mqtt_2_2_1_5_a_servers_pubrel_has_the_identifier_of_its_publish() {
    let topic = name("acks/release");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 2);
    let mut sender = Client::new(V5);
    let ids: Vec<u16> = (0..3)
        .map(|number| {
            sender.publish(&topic, number.to_string(), 2);
            client.expect_payload(&number.to_string()).id.unwrap()
        })
        .collect();
    for id in [ids[1], ids[0], ids[2]] {
        client.send_ack(kind::PUBREC, id);
        client.expect_ack(kind::PUBREL, id);
        client.send_ack(kind::PUBCOMP, id);
    }
    client.ping();
}

/// Every reason code that `kind` does not have must be refused.
#[track_caller]
fn no_other_code(kind: u8, known: &[u8]) {
    let mut failures = Failures::new();
    for code in (0..=u8::MAX).filter(|code| !known.contains(code)) {
        let what = format!("type {kind} with {code:#04x}");
        failures.offend(&what, ack_with(kind, 1, code, &Properties::new()), &[MALFORMED, PROTOCOL_ERROR]);
    }
    // Without properties their length may be left out (clause 3.4.2.2.1).
    failures.offend(
        "without a property length",
        frame(first(kind), &[0, 1, 0x01]),
        &[MALFORMED, PROTOCOL_ERROR],
    );
    failures.report();
}

/// The forms of `kind` that are right, with success: identifier alone, with the code, with a property length of 0.
fn forms(kind: u8, id: u16) -> [Vec<u8>; 3] {
    let [high, low] = id.to_be_bytes();
    [ack(kind, id), frame(first(kind), &[high, low, 0]), ack_with(kind, id, 0, &Properties::new())]
}

#[test]
fn mqtt_3_4_2_1_puback_has_a_code_of_its_table() {
    let topic = name("acks/puback");
    let mut client = Client::new(V5);
    client.send_publish(&Publish::new(&topic, "nobody").qos(1, 1));
    let reason = client.expect_ack(kind::PUBACK, 1).reason;
    assert!(matches!(reason, 0x00 | 0x10), "{reason:#04x}");
    client.subscribe(&topic, 0);
    client.send_publish(&Publish::new(&topic, "somebody").qos(1, 2));
    let mut answers = [client.expect(), client.expect()].map(|packet| format!("{packet:?}"));
    answers.sort();
    assert!(answers[0].contains("kind: 4, id: 2, reason: 0,"), "{answers:?}");
}

#[test]
fn mqtt_3_4_2_1_a_clients_puback_has_a_code_of_its_table() {
    no_other_code(kind::PUBACK, &PUBLISHED);
}

#[test]
fn mqtt_3_4_2_1_every_form_of_puback_is_taken() {
    let topic = name("acks/forms");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 1);
    let mut sender = Client::new(V5);
    for form in 0..3 {
        sender.publish(&topic, "x", 1);
        let id = client.expect_payload("x").id.unwrap();
        client.send(&forms(kind::PUBACK, id)[form]);
    }
    for code in PUBLISHED {
        sender.publish(&topic, "x", 1);
        let id = client.expect_payload("x").id.unwrap();
        let properties = Properties::new().text(0x1F, "because").user("a", "b");
        client.send(ack_with(kind::PUBACK, id, code, &properties));
    }
    client.ping();
}

#[test]
fn mqtt_3_5_2_1_pubrec_has_a_code_of_its_table() {
    let topic = name("acks/pubrec");
    let mut client = Client::new(V5);
    client.send_publish(&Publish::new(&topic, "nobody").qos(2, 1));
    let reason = client.expect_ack(kind::PUBREC, 1).reason;
    assert!(matches!(reason, 0x00 | 0x10), "{reason:#04x}");
}

#[test]
fn mqtt_3_5_2_1_a_clients_pubrec_has_a_code_of_its_table() {
    no_other_code(kind::PUBREC, &PUBLISHED);
}

#[test]
fn mqtt_3_5_2_1_every_form_of_pubrec_is_taken() {
    let topic = name("acks/forms");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 2);
    let mut sender = Client::new(V5);
    for form in 0..3 {
        sender.publish(&topic, "x", 2);
        let id = client.expect_payload("x").id.unwrap();
        client.send(&forms(kind::PUBREC, id)[form]);
        assert_eq!(client.expect_ack(kind::PUBREL, id).reason, 0);
        client.send(&forms(kind::PUBCOMP, id)[form]);
    }
    client.ping();
}

#[test]
fn mqtt_3_6_1_1_other_flags_of_pubrel_are_malformed() {
    let mut failures = Failures::new();
    for flags in (0..16).filter(|flags| *flags != 0b0010) {
        failures.offend(format!("flags {flags:#06b}"), frame(0x60 | flags, &[0, 1]), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_6_2_1_pubrel_has_a_code_of_its_table() {
    let topic = name("acks/pubrel");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 2);
    Client::new(V5).publish(&topic, "x", 2);
    let id = client.expect_payload("x").id.unwrap();
    client.send_ack(kind::PUBREC, id);
    assert_eq!(client.expect_ack(kind::PUBREL, id).reason, 0);
    let unknown = id.wrapping_add(1_000);
    client.send_ack(kind::PUBREC, unknown);
    assert_eq!(client.expect_ack(kind::PUBREL, unknown).reason, 0x92);
}

#[test]
fn mqtt_3_6_2_1_a_clients_pubrel_has_a_code_of_its_table() {
    no_other_code(kind::PUBREL, &RELEASED);
}

#[test]
fn mqtt_3_6_2_1_every_form_of_pubrel_is_taken() {
    let mut client = Client::new(V5);
    for form in 0..3 {
        client.send_publish(&Publish::new(name("acks/forms"), "x").qos(2, 1));
        client.expect_ack(kind::PUBREC, 1);
        client.send(&forms(kind::PUBREL, 1)[form]);
        assert_eq!(client.expect_ack(kind::PUBCOMP, 1).reason, 0);
    }
    // The client does not know this identifier either: the server answers all the same.
    client.send(ack_with(kind::PUBREL, 1, 0x92, &Properties::new()));
    assert_eq!(client.expect_ack(kind::PUBCOMP, 1).reason, 0x92);
}

#[test]
fn mqtt_3_7_2_1_pubcomp_has_a_code_of_its_table() {
    let mut client = Client::new(V5);
    client.send_publish(&Publish::new(name("acks/pubcomp"), "x").qos(2, 1));
    client.expect_ack(kind::PUBREC, 1);
    client.send_ack(kind::PUBREL, 1);
    assert_eq!(client.expect_ack(kind::PUBCOMP, 1).reason, 0);
    client.send_ack(kind::PUBREL, 1);
    assert_eq!(client.expect_ack(kind::PUBCOMP, 1).reason, 0x92, "it is done");
}

#[test]
fn mqtt_3_7_2_1_a_clients_pubcomp_has_a_code_of_its_table() {
    no_other_code(kind::PUBCOMP, &RELEASED);
}
