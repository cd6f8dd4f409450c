//! Maximum packet size, both ways (MQTT 5 clauses 3.1.2.11.4 and 3.2.2.3.6), and that nothing optional passes it.

use tidegate_conformance::client::{Came, PATIENCE};
use tidegate_conformance::ending::{TOO_LARGE, connect_refused};
use tidegate_conformance::packet::PINGREQ;
use tidegate_conformance::property::id;
use tidegate_conformance::{
    Client, Connect, Packet, Properties, Publish, Subscribe, Unsubscribe, Version::V5, kind, name,
};

fn taking(most: usize) -> Properties {
    Properties::new().four(id::MAXIMUM_PACKET_SIZE, u32::try_from(most).unwrap())
}

/// A client that takes no packet larger than the CONNACK it was sent, and how large that is.
fn small() -> (Client, usize) {
    let (client, _) = Client::connect_with(&Connect::new(V5).properties(taking(10_000)));
    let most = client.largest();
    (Client::connect(&Connect::new(V5).properties(taking(most))), most)
}

/// Every packet that came to `client` has at most `most` bytes.
#[track_caller]
fn fits(client: &Client, most: usize) {
    assert!(client.largest() <= most, "{} bytes to a client that takes {most}", client.largest());
}

/// The bytes of a PUBLISH from the server with `payload` on `topic` at `qos`, without properties.
fn size(topic: &str, payload: &str, qos: u8) -> usize {
    Publish::new(topic, payload).qos(qos, 1).encode(V5).len()
}

#[test]
fn mqtt_3_1_2_24_no_larger_packet_than_the_client_takes() {
    let topic = name("limits/out");
    let most = 120;
    let mut client = Client::connect(&Connect::new(V5).properties(taking(most)));
    client.subscribe(&topic, 1);
    let mut sender = Client::new(V5);
    // Around the boundary, which is the size with fixed header.
    let room = most - size(&topic, "", 1);
    for length in room - 3..=room + 3 {
        sender.publish(&topic, "x".repeat(length), 1);
        if length <= room {
            let message = client.expect_publish();
            assert_eq!(message.payload.len(), length);
            client.acknowledge(&message);
        }
    }
    sender.publish(&topic, "marker", 1);
    client.expect_payload("marker");
    fits(&client, most);
    assert_eq!(client.largest(), most, "and the largest that it takes was sent");
}

#[test]
fn mqtt_3_1_2_24_retained_messages_and_properties_count_too() {
    let topic = name("limits/retained");
    let mut sender = Client::new(V5);
    sender.publish_retained(format!("{topic}/large"), "x".repeat(200), 1);
    sender.publish_retained(format!("{topic}/small"), "x", 1);
    let long = Properties::new().user("name", &"v".repeat(200));
    sender.send_publish(&Publish::new(format!("{topic}/property"), "x").qos(1, 9).retain().properties(long));
    sender.expect_ack(kind::PUBACK, 9);
    let mut client = Client::connect(&Connect::new(V5).properties(taking(120)));
    client.subscribe(format!("{topic}/#"), 1);
    let message = client.expect_publish();
    assert_eq!(message.topic(), format!("{topic}/small"));
    client.acknowledge(&message);
    client.ping();
    client.expect_silence();
    fits(&client, 120);
}

#[test]
fn mqtt_3_1_2_24_the_identifiers_of_the_subscription_count_too() {
    let topic = name("limits/identifier");
    let most = 60;
    let mut client = Client::connect(&Connect::new(V5).properties(taking(most)));
    let identified = Properties::new().variable(id::SUBSCRIPTION_IDENTIFIER, 268_435_455);
    client.send(Subscribe::new(1).filter(&topic, 0).properties(identified).encode(V5));
    client.expect_suback(1);
    let mut sender = Client::new(V5);
    let room = most - size(&topic, "", 0);
    // With the five bytes of the identifier it is too large.
    sender.publish(&topic, "x".repeat(room), 0);
    sender.publish(&topic, "x".repeat(room - 5), 0);
    assert_eq!(client.expect_publish().payload.len(), room - 5);
    fits(&client, most);
}

#[test]
fn mqtt_3_1_2_25_what_is_too_large_counts_as_sent() {
    let topic = name("limits/sent");
    let properties = taking(120).two(id::RECEIVE_MAXIMUM, 1).four(id::SESSION_EXPIRY, 60);
    let connect = Connect::new(V5).properties(properties).clean(false);
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 2);
    let mut sender = Client::new(V5);
    // They take no place in a window of one.
    for (number, qos) in [1, 2, 0, 1].into_iter().enumerate() {
        sender.publish(&topic, "x".repeat(200), qos);
        sender.publish(&topic, number.to_string(), qos);
        let message = client.expect_payload(&number.to_string());
        client.acknowledge(&message);
    }
    client.ping();
    client.cut();
    // And they are not sent later, not even to a connection that would take them.
    sender.publish(&topic, "y".repeat(200), 1);
    let mut client = Client::connect(&connect);
    client.ping();
    client.expect_silence();
    client.cut();
    let roomy = Properties::new().four(id::SESSION_EXPIRY, 60);
    let mut client = Client::connect(&connect.properties(roomy));
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_1_2_25_others_have_what_is_too_large_for_one() {
    let topic = name("limits/others");
    let mut small = Client::connect(&Connect::new(V5).properties(taking(120)));
    let mut large = Client::new(V5);
    small.subscribe(&topic, 1);
    large.subscribe(&topic, 1);
    let mut sender = Client::new(V5);
    sender.publish(&topic, "x".repeat(200), 1);
    sender.publish(&topic, "marker", 1);
    assert_eq!(large.expect_publish().payload.len(), 200);
    small.expect_payload("marker");
}

#[test]
fn mqtt_3_2_2_15_a_packet_above_the_servers_maximum_is_refused() {
    let (mut client, answer) = Client::connect_with(&Connect::new(V5));
    let most = answer.properties.number(id::MAXIMUM_PACKET_SIZE).expect("this server tells it");
    let topic = name("limits/in");
    let publish = |size: usize| {
        let empty = Publish::new(&topic, vec![0; 2_097_152]).encode(V5);
        // Remaining lengths of this size have as many bytes.
        let header = empty.len() - 2_097_152;
        let digits = |remaining: usize| if remaining < 2_097_152 { 3 } else { 4 };
        let payload = size - header + 4 - digits(size - 5);
        Publish::new(&topic, vec![0; payload]).encode(V5)
    };
    let largest = publish(most);
    assert_eq!(largest.len(), most, "the test counts right");
    client.send(&largest);
    client.ping();
    let larger = publish(most + 1);
    assert_eq!(larger.len(), most + 1);
    client.try_send(&larger).ok();
    client.expect_disconnect(TOO_LARGE);
}

#[test]
fn mqtt_3_2_2_15_a_connect_above_the_servers_maximum_is_refused() {
    let long = "x".repeat(65_000);
    let properties = (0..20).fold(Properties::new(), |properties, _| properties.user(&long, &long));
    connect_refused(V5, &Connect::new(V5).properties(properties).encode(), &[TOO_LARGE]).unwrap();
}

/// What a server could explain in PUBACK, to a client that takes little: `qos` is 1, or 2 for PUBREC.
#[track_caller]
fn answer_fits(qos: u8, kind: u8) {
    let (mut client, most) = small();
    // Nobody subscribes.
    client.send_publish(&Publish::new(name("limits/nobody"), "x").qos(qos, 1));
    client.expect_ack(kind, 1);
    // A payload that is not what it says.
    let says_text = Properties::new().byte(id::PAYLOAD_FORMAT, 1);
    client.send_publish(&Publish::new(name("limits/nobody"), [0xFF]).qos(qos, 2).properties(says_text));
    client.expect_ack(kind, 2);
    // A topic of the server's own.
    client.send_publish(&Publish::new("$SYS/limits", "x").qos(qos, 3));
    client.expect_ack(kind, 3);
    fits(&client, most);
}

#[test]
fn mqtt_3_4_2_2_no_reason_string_makes_puback_too_large() {
    answer_fits(1, kind::PUBACK);
}

#[test]
fn mqtt_3_4_2_3_no_user_property_makes_puback_too_large() {
    answer_fits(1, kind::PUBACK);
}

#[test]
fn mqtt_3_5_2_2_no_reason_string_makes_pubrec_too_large() {
    answer_fits(2, kind::PUBREC);
}

#[test]
fn mqtt_3_5_2_3_no_user_property_makes_pubrec_too_large() {
    answer_fits(2, kind::PUBREC);
}

/// What a server could explain in PUBREL or PUBCOMP: an unknown identifier.
#[track_caller]
fn unknown_fits(sent: u8, answer: u8) {
    let (mut client, most) = small();
    client.send_ack(sent, 900);
    assert_eq!(client.expect_ack(answer, 900).reason, 0x92);
    fits(&client, most);
}

#[test]
fn mqtt_3_6_2_2_no_reason_string_makes_pubrel_too_large() {
    unknown_fits(kind::PUBREC, kind::PUBREL);
}

#[test]
fn mqtt_3_6_2_3_no_user_property_makes_pubrel_too_large() {
    unknown_fits(kind::PUBREC, kind::PUBREL);
}

#[test]
fn mqtt_3_7_2_2_no_reason_string_makes_pubcomp_too_large() {
    unknown_fits(kind::PUBREL, kind::PUBCOMP);
}

#[test]
fn mqtt_3_7_2_3_no_user_property_makes_pubcomp_too_large() {
    unknown_fits(kind::PUBREL, kind::PUBCOMP);
}

#[track_caller]
fn suback_fits() {
    let (mut client, most) = small();
    client.send(Subscribe::new(1).filter("$SYS/#", 2).encode(V5));
    client.expect_suback(1);
    client.send(Subscribe::new(2).filter(format!("$share/g/{}", name("limits/s")), 2).encode(V5));
    client.expect_suback(2);
    fits(&client, most);
}

#[test]
fn mqtt_3_9_2_1_no_reason_string_makes_suback_too_large() {
    suback_fits();
}

#[test]
fn mqtt_3_9_2_2_no_user_property_makes_suback_too_large() {
    suback_fits();
}

#[track_caller]
fn unsuback_fits() {
    let (mut client, most) = small();
    client.send(Unsubscribe::new(1).filter(name("limits/none")).encode(V5));
    assert_eq!(client.expect_unsuback(1).codes, [0x11]);
    fits(&client, most);
}

#[test]
fn mqtt_3_11_2_1_no_reason_string_makes_unsuback_too_large() {
    unsuback_fits();
}

#[test]
fn mqtt_3_11_2_2_no_user_property_makes_unsuback_too_large() {
    unsuback_fits();
}

/// DISCONNECT for errors of several kinds, to a client that takes little.
#[track_caller]
fn disconnect_fits() {
    for bytes in [
        vec![0x00, 0],
        Publish::new("a/#", "x").encode(V5),
        Publish::new("a", "x").properties(Properties::new().two(id::TOPIC_ALIAS, u16::MAX)).encode(V5),
        vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F],
        Connect::new(V5).encode(),
    ] {
        let (mut client, most) = small();
        client.send(&bytes);
        match client.read_within(PATIENCE) {
            Came::Packet(Packet::Disconnect(_)) => {}
            other => panic!("{other:?}"),
        }
        fits(&client, most);
    }
}

#[test]
fn mqtt_3_14_2_3_no_reason_string_makes_disconnect_too_large() {
    disconnect_fits();
}

#[test]
fn mqtt_3_14_2_4_no_user_property_makes_disconnect_too_large() {
    disconnect_fits();
}

#[test]
fn clause_3_2_2_3_6_a_large_packet_in_pieces_is_served_beside_others() {
    let topic = name("limits/pieces");
    let mut other = Client::new(V5);
    let mut client = Client::new(V5);
    client.subscribe(&topic, 0);
    let bytes = Publish::new(&topic, vec![7; 500_000]).encode(V5);
    for piece in bytes.chunks(100_000) {
        client.send(piece);
        other.ping();
    }
    assert_eq!(client.expect_publish().payload.len(), 500_000);
    client.send(PINGREQ);
    assert_eq!(client.expect(), Packet::PingResp);
}
