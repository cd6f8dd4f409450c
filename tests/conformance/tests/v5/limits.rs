//! Maximum packet size, both ways (MQTT 5 clauses 3.1.2.11.4 and 3.2.2.3.6), and that nothing optional passes it.

use std::sync::OnceLock;

use tidegate_conformance::client::{Came, PATIENCE};
use tidegate_conformance::ending::{NOT_AUTHORIZED, TOO_LARGE, connect_refused};
use tidegate_conformance::packet::PINGREQ;
use tidegate_conformance::property::id;
use tidegate_conformance::server::{Server, port};
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

/// The answers of an exchange: their reason codes and properties.
type Answers = Vec<(Vec<u8>, Properties)>;

/// Has `exchange` with a client that takes large answers, which are explained to it in words, and with one that does not
/// take the words: it has the same codes, in packets that it takes. Gives all of the answers.
#[track_caller]
fn words_are_left_out(port: u16, exchange: impl Fn(&mut Client) -> Answers) -> Answers {
    let (mut large, _) = Client::connect_at(port, &Connect::new(V5));
    let most = large.largest();
    let mut told = exchange(&mut large);
    assert!(large.largest() > most, "nothing is explained that could be left out: {told:?}");
    let (mut small, _) = Client::connect_at(port, &Connect::new(V5).properties(taking(most)));
    let left = exchange(&mut small);
    fits(&small, most);
    let codes = |answers: &Answers| answers.iter().map(|(codes, _)| codes.clone()).collect::<Vec<_>>();
    assert_eq!(codes(&left), codes(&told), "the codes are the same");
    told.extend(left);
    told
}

/// None of the answers has a user property, which could be too large.
#[track_caller]
fn without_user_properties(answers: &Answers) {
    let without = |(_, properties): &(Vec<u8>, Properties)| properties.users().is_empty();
    assert!(!answers.is_empty() && answers.iter().all(without), "{answers:?}");
}

/// What a server could explain in PUBACK (QoS 1) or PUBREC (QoS 2).
fn refused_publishes(qos: u8) -> impl Fn(&mut Client) -> Answers {
    let kind = if qos == 1 { kind::PUBACK } else { kind::PUBREC };
    move |client| {
        // Nobody subscribes; a payload that is not what it says; a topic of the server's own.
        let says_text = Properties::new().byte(id::PAYLOAD_FORMAT, 1);
        let messages = [
            Publish::new(name("limits/nobody"), "x"),
            Publish::new(name("limits/nobody"), [0xFF]).properties(says_text),
            Publish::new("$SYS/limits", "x"),
        ];
        let mut answers = Answers::new();
        for (message, id) in messages.into_iter().zip(1..) {
            client.send_publish(&message.qos(qos, id));
            let answer = client.expect_ack(kind, id);
            answers.push((vec![answer.reason], answer.properties));
        }
        answers
    }
}

#[test]
fn mqtt_3_4_2_2_no_reason_string_makes_puback_too_large() {
    words_are_left_out(port(), refused_publishes(1));
}

#[test]
fn mqtt_3_4_2_3_no_user_property_makes_puback_too_large() {
    without_user_properties(&words_are_left_out(port(), refused_publishes(1)));
}

#[test]
fn mqtt_3_5_2_2_no_reason_string_makes_pubrec_too_large() {
    words_are_left_out(port(), refused_publishes(2));
}

#[test]
fn mqtt_3_5_2_3_no_user_property_makes_pubrec_too_large() {
    without_user_properties(&words_are_left_out(port(), refused_publishes(2)));
}

/// What a server could explain in PUBREL or PUBCOMP: an unknown identifier.
fn unknown(sent: u8, answer: u8) -> impl Fn(&mut Client) -> Answers {
    move |client| {
        client.send_ack(sent, 900);
        let answer = client.expect_ack(answer, 900);
        assert_eq!(answer.reason, 0x92);
        vec![(vec![answer.reason], answer.properties)]
    }
}

#[test]
fn mqtt_3_6_2_2_no_reason_string_makes_pubrel_too_large() {
    words_are_left_out(port(), unknown(kind::PUBREC, kind::PUBREL));
}

#[test]
fn mqtt_3_6_2_3_no_user_property_makes_pubrel_too_large() {
    without_user_properties(&words_are_left_out(port(), unknown(kind::PUBREC, kind::PUBREL)));
}

#[test]
fn mqtt_3_7_2_2_no_reason_string_makes_pubcomp_too_large() {
    words_are_left_out(port(), unknown(kind::PUBREL, kind::PUBCOMP));
}

#[test]
fn mqtt_3_7_2_3_no_user_property_makes_pubcomp_too_large() {
    without_user_properties(&words_are_left_out(port(), unknown(kind::PUBREL, kind::PUBCOMP)));
}

/// The port of a server on which nobody may subscribe to `denied`.
pub(crate) fn denying() -> u16 {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let start =
        || Server::start_with("[access]\nacl_file = \"acl\"\n", &[("acl", "deny all subscribe denied/#\n")]);
    SERVER.get_or_init(start).port
}

/// What a server could explain in SUBACK: a filter that is not allowed.
fn denied(client: &mut Client) -> Answers {
    client.send(Subscribe::new(1).filter("denied/x", 2).filter(name("limits/s"), 2).encode(V5));
    let answer = client.expect_suback(1);
    assert_eq!(answer.codes, [NOT_AUTHORIZED, 2]);
    vec![(answer.codes, answer.properties)]
}

#[test]
fn mqtt_3_9_2_1_no_reason_string_makes_suback_too_large() {
    words_are_left_out(denying(), denied);
}

#[test]
fn mqtt_3_9_2_2_no_user_property_makes_suback_too_large() {
    without_user_properties(&words_are_left_out(denying(), denied));
}

#[test]
fn mqtt_3_11_2_2_no_user_property_makes_unsuback_too_large() {
    let (mut client, most) = small();
    let topic = name("limits/unsubscribe");
    client.subscribe(&topic, 0);
    client.send(Unsubscribe::new(9).filter(&topic).filter(name("limits/none")).encode(V5));
    let answer = client.expect_unsuback(9);
    assert_eq!(answer.codes, [0, 0x11]);
    assert!(answer.properties.users().is_empty(), "{answer:?}");
    fits(&client, most);
}

/// DISCONNECT for errors of several kinds.
fn disconnects() -> Answers {
    let mut answers = Answers::new();
    for bytes in [
        vec![0x00, 0],
        Publish::new("a/#", "x").encode(V5),
        Publish::new("a", "x").properties(Properties::new().two(id::TOPIC_ALIAS, u16::MAX)).encode(V5),
        vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F],
        Connect::new(V5).encode(),
    ] {
        answers.extend(words_are_left_out(port(), |client| {
            client.send(&bytes);
            match client.read_within(PATIENCE) {
                Came::Packet(Packet::Disconnect(said)) => vec![(vec![said.reason], said.properties)],
                other => panic!("{other:?}"),
            }
        }));
    }
    answers
}

#[test]
fn mqtt_3_14_2_3_no_reason_string_makes_disconnect_too_large() {
    disconnects();
}

#[test]
fn mqtt_3_14_2_4_no_user_property_makes_disconnect_too_large() {
    without_user_properties(&disconnects());
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
