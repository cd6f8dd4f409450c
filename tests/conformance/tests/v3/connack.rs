//! CONNACK (clause 3.2).

use tidegate_conformance::Version::V311;
use tidegate_conformance::packet::PINGREQ;
use tidegate_conformance::refusal::{case, first_on_a_connection};
use tidegate_conformance::wire::frame;
use tidegate_conformance::{Client, Connect, Packet, Publish, Subscribe, Will, kind, name};

#[test]
fn mqtt_3_2_0_1_the_first_packet_is_connack() {
    let topic = name("first/");
    let connect = Connect::new(V311).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 2);
    client.cut();
    // Messages wait for it, and it asks at once for what is answered.
    let mut publisher = Client::new(V311);
    for qos in [1, 2] {
        publisher.publish(&topic, "waits", qos);
    }
    publisher.publish_retained(&topic, "retained", 1);
    let mut client = Client::open(V311);
    let mut bytes = connect.encode();
    bytes.extend(PINGREQ);
    bytes.extend(Subscribe::new(9).filter(&topic, 1).encode(V311));
    bytes.extend(Publish::new(&topic, "own").qos(1, 10).encode(V311));
    client.send(bytes);
    client.expect_bytes(&[0x20, 2, 1, 0]);
    // And then the rest.
    let mut kinds: Vec<u8> = Vec::new();
    while kinds.len() < 3 {
        match client.expect() {
            Packet::PingResp => kinds.push(kind::PINGRESP),
            Packet::SubAck(_) => kinds.push(kind::SUBACK),
            Packet::Ack(ack) => kinds.push(ack.kind),
            Packet::Publish(_) => {}
            other => panic!("{other:?}"),
        }
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [kind::PUBACK, kind::SUBACK, kind::PINGRESP]);
}

#[test]
fn mqtt_3_2_2_1_no_session_is_present_with_clean_session() {
    let connect = Connect::new(V311);
    let mut client = Client::connect(&connect.clone().persistent());
    client.subscribe(name("t/"), 1);
    client.disconnect();
    for _ in 0..2 {
        let mut client = Client::open(V311);
        client.send(connect.encode());
        client.expect_bytes(&[0x20, 2, 0, 0]);
        client.disconnect();
    }
}

#[test]
fn mqtt_3_2_2_2_a_kept_session_is_present() {
    let connect = Connect::new(V311).persistent();
    let mut first = Client::connect(&connect);
    first.ping();
    // By DISCONNECT, by a cut and by a take-over; without a single subscription, too.
    first.disconnect();
    for at in 0..3 {
        let mut client = Client::open(V311);
        client.send(connect.encode());
        client.expect_bytes(&[0x20, 2, 1, 0]);
        match at {
            0 => client.cut(),
            1 => {
                let mut other = Client::open(V311);
                other.send(connect.encode());
                other.expect_bytes(&[0x20, 2, 1, 0]);
                client.expect_closed();
            }
            _ => client.disconnect(),
        }
    }
}

#[test]
fn mqtt_3_2_2_3_a_new_session_is_not_present() {
    let connect = Connect::new(V311);
    let new = |connect: &Connect| {
        let mut client = Client::open(V311);
        client.send(connect.encode());
        client.expect_bytes(&[0x20, 2, 0, 0]);
        client.disconnect();
    };
    new(&connect.clone().persistent());
    // Discarded by a clean one, which leaves none.
    new(&connect);
    new(&connect.persistent());
}

#[test]
fn mqtt_3_2_2_4_no_session_is_present_with_another_code() {
    let connect = Connect::new(V311).persistent();
    Client::connect(&connect).disconnect();
    let mut unknown = connect.clone();
    unknown.level = 2;
    let mut client = Client::open(V311);
    client.send(unknown.encode());
    client.expect_bytes(&[0x20, 2, 0, 1]);
    client.expect_closed();
    let mut client = Client::open(V311);
    client.send(Connect::new(V311).client_id("").persistent().encode());
    client.expect_bytes(&[0x20, 2, 0, 2]);
    client.expect_closed();
    // The session is still there.
    assert!(Client::connect_with(&connect).1.session_present);
}

#[test]
fn mqtt_3_2_2_5_the_connection_ends_after_another_code() {
    let mut unknown = Connect::new(V311);
    unknown.level = 0;
    let nameless = Connect::new(V311).client_id("").persistent();
    for (code, connect) in [(1, unknown), (2, nameless)] {
        let mut client = Client::open(V311);
        client.send(connect.encode());
        assert_eq!(client.expect_connack().code, code);
        client.expect_closed();
    }
}

#[test]
fn mqtt_3_2_2_6_without_a_fitting_code_nothing_is_answered() {
    let cases = [
        case("a reserved flag", Connect::new(V311).flags(0b11).encode()),
        case("will QoS 3", Connect::new(V311).will(Will::new("t", "m").qos(3)).encode()),
        case("bytes after the end", Connect::new(V311).tail("x").encode()),
        case("an empty CONNECT", frame(0x10, &[])),
        case("no CONNECT", PINGREQ),
        case("no MQTT", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ];
    first_on_a_connection(V311, cases).without_a_packet();
}
