//! The fixed header (clause 2.2), PUBREL's flags (3.6.1) and PINGREQ (3.12).

use tidegate_conformance::Version::V311;
use tidegate_conformance::packet::PINGREQ;
use tidegate_conformance::refusal::{after_connect, case};
use tidegate_conformance::wire::frame;
use tidegate_conformance::{Client, Publish, Subscribe, Unsubscribe, kind, name};

#[test]
fn mqtt_2_2_2_1_the_server_sets_reserved_flags_as_the_table_says() {
    let topic = name("flags");
    let mut client = Client::open(V311);
    client.send(tidegate_conformance::Connect::new(V311).encode());
    client.expect_bytes(&[0x20, 2, 0, 0]);
    client.send(Subscribe::new(1).filter(&topic, 2).encode(V311));
    client.expect_bytes(&[0x90, 3, 0, 1, 2]);
    client.send_publish(&Publish::new("elsewhere", "x").qos(1, 2));
    client.expect_bytes(&[0x40, 2, 0, 2]);
    client.send_publish(&Publish::new("elsewhere", "x").qos(2, 3));
    client.expect_bytes(&[0x50, 2, 0, 3]);
    client.send_ack(kind::PUBREL, 3);
    client.expect_bytes(&[0x70, 2, 0, 3]);
    Client::new(V311).publish(&topic, "x", 2);
    let [high, low] = client.expect_publish().id.unwrap().to_be_bytes();
    client.send_ack(kind::PUBREC, u16::from_be_bytes([high, low]));
    client.expect_bytes(&[0x62, 2, high, low]);
    client.send_ack(kind::PUBCOMP, u16::from_be_bytes([high, low]));
    client.send(Unsubscribe::new(4).filter(&topic).encode(V311));
    client.expect_bytes(&[0xB0, 2, 0, 4]);
    client.send(PINGREQ);
    client.expect_bytes(&[0xD0, 0]);
}

#[test]
fn mqtt_2_2_2_2_wrong_flags_end_the_connection() {
    let filter = name("flags/");
    let acknowledgement = vec![0, 1];
    let bodies = [
        ("PUBACK", 0x40, 0, acknowledgement.clone()),
        ("PUBREC", 0x50, 0, acknowledgement.clone()),
        ("PUBREL", 0x60, 0b0010, acknowledgement.clone()),
        ("PUBCOMP", 0x70, 0, acknowledgement),
        ("SUBSCRIBE", 0x80, 0b0010, Subscribe::new(1).filter(&filter, 0).body(V311)),
        ("UNSUBSCRIBE", 0xA0, 0b0010, Unsubscribe::new(1).filter(&filter).body(V311)),
        ("PINGREQ", 0xC0, 0, vec![]),
        ("DISCONNECT", 0xE0, 0, vec![]),
    ];
    let cases = bodies.iter().flat_map(|(what, first, right, body)| {
        (0..16)
            .filter(move |flags| flags != right)
            .map(move |flags: u8| case(format!("{what} with {flags:04b}"), frame(first | flags, body)))
    });
    after_connect(V311, cases.collect::<Vec<_>>()).without_a_packet();
}

#[test]
fn mqtt_3_6_1_1_the_flags_of_pubrel_are_0010() {
    let topic = name("pubrel/");
    for flags in (0..16).filter(|flags| *flags != 0b0010) {
        // In an exchange that is right until then.
        let mut client = Client::new(V311);
        client.send_publish(&Publish::new(&topic, "x").qos(2, 5));
        client.expect_ack(kind::PUBREC, 5);
        client.send(frame(0x60 | flags, &[0, 5]));
        client.expect_closed();
    }
}

#[test]
fn mqtt_3_12_4_1_pingreq_is_answered_by_pingresp() {
    let mut client = Client::new(V311);
    client.send(PINGREQ);
    client.expect_bytes(&[0xD0, 0]);
    // As often as it is asked, also in one segment.
    client.send(PINGREQ.repeat(50));
    client.expect_bytes(&[0xD0, 0].repeat(50));
    client.expect_silence();
    // In the midst of other packets.
    let topic = name("ping/");
    let mut bytes = Publish::new(&topic, "x").qos(1, 1).encode(V311);
    bytes.extend(PINGREQ);
    bytes.extend(Publish::new(&topic, "x").qos(1, 2).encode(V311));
    client.send(bytes);
    let mut kinds = [0; 3].map(|_: u8| match client.expect() {
        tidegate_conformance::Packet::PingResp => kind::PINGRESP,
        tidegate_conformance::Packet::Ack(ack) => ack.kind,
        other => panic!("{other:?}"),
    });
    kinds.sort_unstable();
    assert_eq!(kinds, [kind::PUBACK, kind::PUBACK, kind::PINGRESP]);
}
