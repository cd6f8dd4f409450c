//! Packet identifiers (clause 2.3.1).

use tidegate_conformance::Version::V311;
use tidegate_conformance::packet::PINGREQ;
use tidegate_conformance::refusal::{after_connect, case};
use tidegate_conformance::{Client, Connect, Publish, Subscribe, Unsubscribe, kind, name};

#[test]
fn mqtt_2_3_1_1_packet_id_0_ends_the_connection() {
    let topic = name("zero/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    let cases = [
        case("PUBLISH of QoS 1", Publish::new(&topic, "x").qos(1, 0).encode(V311)),
        case("PUBLISH of QoS 2", Publish::new(&topic, "x").qos(2, 0).encode(V311)),
        case("SUBSCRIBE", Subscribe::new(0).filter(&topic, 0).encode(V311)),
        case("UNSUBSCRIBE", Unsubscribe::new(0).filter(&topic).encode(V311)),
    ];
    after_connect(V311, cases).without_a_packet();
    Client::new(V311).publish(&topic, "end", 0);
    watcher.expect_payload("end");
}

#[test]
fn mqtt_2_3_1_4_the_server_uses_no_id_that_is_in_use() {
    const MESSAGES: usize = 60;
    let topic = name("ids/");
    let connect = Connect::new(V311).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 2);
    let mut publisher = Client::new(V311);
    let mut sent: Vec<Publish> = Vec::new();
    for at in 0..MESSAGES {
        publisher.publish(&topic, at.to_string(), 1 + u8::from(at % 2 == 0));
        let message = client.expect_payload(&at.to_string());
        assert!(sent.iter().all(|other| other.id != message.id), "{:?} is in use", message.id);
        sent.push(message);
    }
    // Again under the same ids.
    client.cut();
    let mut client = Client::connect(&connect);
    for first in &sent {
        assert_eq!(client.expect_publish().id, first.id);
    }
    client.ping();
}

#[test]
fn mqtt_2_3_1_4_the_ids_of_both_directions_are_independent() {
    let topic = name("both/");
    let mut client = Client::new(V311);
    client.subscribe(format!("{topic}/to"), 2);
    Client::new(V311).publish(format!("{topic}/to"), "to", 2);
    let to = client.expect_payload("to");
    let id = to.id.unwrap();
    // The client uses the id that the server has in use.
    client.send_publish(&Publish::new(format!("{topic}/from"), "from").qos(2, id));
    client.expect_ack(kind::PUBREC, id);
    client.send_ack(kind::PUBREC, id);
    client.expect_ack(kind::PUBREL, id);
    client.send_ack(kind::PUBREL, id);
    client.expect_ack(kind::PUBCOMP, id);
    client.send_ack(kind::PUBCOMP, id);
    client.send(Subscribe::new(id).filter(&topic, 0).encode(V311));
    client.expect_suback(id);
    client.ping();
}

#[test]
fn mqtt_2_3_1_5_publish_of_qos_0_has_no_id() {
    let topic = name("noid/");
    let mut client = Client::new(V311);
    client.subscribe(&topic, 2);
    // What would be an id is the payload, from the client and to it.
    for payload in [&[0, 1][..], &[0, 0], &[1], &[]] {
        Client::new(V311).publish(&topic, payload, 0);
        let message = client.expect_publish();
        assert_eq!((message.id, &message.payload[..]), (None, payload));
        let mut with_id = Publish::new(&topic, payload);
        with_id.id = Some(0x4142);
        client.send_publish(&with_id);
        assert_eq!(client.expect_publish().payload, [b"AB", payload].concat());
        client.send(PINGREQ);
        client.expect_bytes(&[0xD0, 0]);
    }
}

#[test]
fn mqtt_2_3_1_6_acknowledgements_have_the_id_of_their_publish() {
    let topic = name("ack/");
    let mut client = Client::new(V311);
    let ids = [1, 0xFF, 0x100, 0xABCD, 0xFFFF];
    for id in ids {
        let [high, low] = u16::to_be_bytes(id);
        client.send_publish(&Publish::new(&topic, "x").qos(1, id));
        client.expect_bytes(&[0x40, 2, high, low]);
        client.send_publish(&Publish::new(&topic, "x").qos(2, id));
        client.expect_bytes(&[0x50, 2, high, low]);
    }
    for id in ids {
        let [high, low] = u16::to_be_bytes(id);
        client.send_ack(kind::PUBREL, id);
        client.expect_bytes(&[0x70, 2, high, low]);
    }
    // And PUBREL from the server.
    let mut subscriber = Client::new(V311);
    subscriber.subscribe(&topic, 2);
    client.publish(&topic, "x", 2);
    let [high, low] = subscriber.expect_publish().id.unwrap().to_be_bytes();
    subscriber.send_ack(kind::PUBREC, u16::from_be_bytes([high, low]));
    subscriber.expect_bytes(&[0x62, 2, high, low]);
}

#[test]
fn mqtt_2_3_1_7_suback_and_unsuback_have_the_id_of_their_request() {
    let topic = name("sub/");
    let mut client = Client::new(V311);
    for id in [1, 0xFF, 0x100, 0xABCD, 0xFFFF] {
        let [high, low] = u16::to_be_bytes(id);
        client.send(Subscribe::new(id).filter(&topic, 1).encode(V311));
        client.send(Unsubscribe::new(id).filter(&topic).encode(V311));
        client.expect_bytes(&[0x90, 3, high, low, 1]);
        client.expect_bytes(&[0xB0, 2, high, low]);
    }
}
