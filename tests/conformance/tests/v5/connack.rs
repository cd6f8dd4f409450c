//! CONNACK (MQTT 5 clause 3.2), and what CONNECT asks for about answers (clauses 3.1.2.11.6 and 3.1.2.11.7).

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tidegate_conformance::client::{Came, PATIENCE};
use tidegate_conformance::ending::{
    BAD_METHOD, FORMAT_INVALID, Failures, MALFORMED, NOT_AUTHORIZED, PROTOCOL_ERROR, TOO_LARGE, answer_bytes,
    connect_refused,
};
use tidegate_conformance::packet::{ack, ack_with};
use tidegate_conformance::property::id;
use tidegate_conformance::server::Server;
use tidegate_conformance::wire::frame_with_length;
use tidegate_conformance::{
    Client, Connect, Packet, Properties, Publish, Subscribe, Unsubscribe, Version::V5, Will, kind, name,
};

use crate::limits::denying;

fn with_method() -> Properties {
    Properties::new().text(id::AUTHENTICATION_METHOD, "no-such-method")
}

/// CONNECTs that are refused, with the code.
fn refusals() -> Vec<(&'static str, Vec<u8>, u8)> {
    vec![
        ("a method", Connect::new(V5).properties(with_method()).encode(), BAD_METHOD),
        ("the reserved flag", Connect::new(V5).flags(0b11).encode(), MALFORMED),
        (
            "receive maximum 0",
            Connect::new(V5).properties(Properties::new().two(id::RECEIVE_MAXIMUM, 0)).encode(),
            PROTOCOL_ERROR,
        ),
        // The length alone shows it; the version has to be read to know how to answer.
        ("a packet of 256 MiB", frame_with_length(0x10, 268_435_455, &Connect::new(V5).body()), TOO_LARGE),
    ]
}

#[test]
fn mqtt_3_2_0_1_connack_comes_before_what_waits() {
    let topic = name("connack/first");
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 1);
    client.cut();
    Client::new(V5).publish(&topic, "waits", 1);
    // connect_with fails when another packet comes first.
    let (mut client, answer) = Client::connect_with(&connect);
    assert!(answer.session_present);
    client.expect_payload("waits");
}

#[test]
fn mqtt_3_2_0_2_there_is_one_connack() {
    let connect = Connect::new(V5);
    let mut client = Client::open(V5);
    let mut twice = connect.encode();
    twice.extend(connect.encode());
    client.send(twice);
    assert_eq!(client.expect_connack().code, 0);
    client.expect_disconnect(PROTOCOL_ERROR);
}

#[test]
fn mqtt_3_2_2_1_the_other_acknowledge_flags_are_zero() {
    // The harness fails on any flag but the first: this looks at the bytes.
    let connect = Connect::new(V5).persistent();
    for (connect, flags) in [(connect.clone(), 0), (connect, 1)] {
        let mut bytes = connect.encode();
        bytes.extend([0xE0, 0]);
        let answer = answer_bytes(&bytes).unwrap();
        assert_eq!((answer[0], answer[2], answer[3]), (0x20, flags, 0), "{answer:02X?}");
    }
    for (what, bytes, code) in refusals() {
        let answer = answer_bytes(&bytes).unwrap();
        assert_eq!((answer[0], answer[2], answer[3]), (0x20, 0, code), "{what}: {answer:02X?}");
    }
}

#[test]
fn mqtt_3_2_2_2_no_session_is_present_after_clean_start() {
    let connect = Connect::new(V5).persistent();
    Client::connect(&connect).cut();
    let (client, answer) = Client::connect_with(&connect.clone().clean(true));
    assert!(!answer.session_present);
    client.cut();
    let (_, answer) = Client::connect_with(&connect);
    assert!(answer.session_present, "the session that clean start began");
}

#[test]
fn mqtt_3_2_2_3_session_present_tells_of_a_session() {
    let connect = Connect::new(V5).persistent();
    for present in [false, true, true] {
        let (client, answer) = Client::connect_with(&connect);
        assert_eq!((answer.session_present, answer.code), (present, 0));
        client.cut();
    }
    // A session that ends with its connection is not there for the next one.
    let brief = Connect::new(V5).clean(false);
    for _ in 0..2 {
        let (client, answer) = Client::connect_with(&brief);
        assert!(!answer.session_present);
        client.disconnect();
    }
}

#[test]
fn mqtt_3_2_2_6_a_refusal_has_no_session() {
    let connect = Connect::new(V5).persistent();
    Client::connect(&connect).cut();
    connect_refused(V5, &connect.clone().properties(with_method()).encode(), &[BAD_METHOD]).unwrap();
    connect_refused(V5, &connect.clone().flags(0b1).encode(), &[MALFORMED]).unwrap();
    let (_, answer) = Client::connect_with(&connect);
    assert!(answer.session_present, "a refused CONNECT does not end the session");
}

#[test]
fn mqtt_3_2_2_7_a_refusal_is_the_end() {
    let mut failures = Failures::new();
    for (what, bytes, code) in refusals() {
        failures.add(what, connect_refused(V5, &bytes, &[code]));
    }
    failures.report();
}

#[test]
fn mqtt_3_2_2_8_the_code_is_one_of_connack() {
    const CODES: [u8; 22] = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
        0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
    ];
    let mut accepted = Connect::new(V5).encode();
    accepted.extend([0xE0, 0]);
    for (what, bytes) in
        refusals().into_iter().map(|(what, bytes, _)| (what, bytes)).chain([("nothing wrong", accepted)])
    {
        let answer = answer_bytes(&bytes).unwrap();
        assert!(CODES.contains(&answer[3]), "{what}: {answer:02X?}");
    }
}

#[test]
fn mqtt_3_2_2_9_without_a_maximum_every_qos_is_taken() {
    let (mut client, answer) = Client::connect_with(&Connect::new(V5));
    assert_eq!(answer.properties.get(id::MAXIMUM_QOS), None);
    for qos in 0..=2 {
        client.publish(name("connack/qos"), "x", qos);
    }
    Client::connect(&Connect::new(V5).will(Will::new("connack/will", "x").qos(2))).disconnect();
}

#[test]
fn mqtt_3_2_2_10_every_qos_may_be_subscribed_to() {
    let mut client = Client::new(V5);
    for qos in 0..=2 {
        client.send(Subscribe::new(9).filter(name("connack/qos"), qos).encode(V5));
        let codes = client.expect_suback(9).codes;
        assert!(matches!(codes[..], [granted] if granted <= qos), "{codes:02X?}");
    }
}

#[test]
fn mqtt_3_2_2_16_assigned_client_ids_are_nobody_elses() {
    let connect = || Connect::new(V5).client_id("");
    let mut seen = HashSet::new();
    let mut clients: Vec<Client> = (0..10)
        .map(|_| {
            let (client, answer) = Client::connect_with(&connect());
            assert!(!answer.session_present);
            let assigned = answer.properties.string(id::ASSIGNED_CLIENT_ID).expect("it is told");
            assert!(seen.insert(assigned.to_owned()), "{assigned} twice");
            client
        })
        .collect();
    // None of them took another one over.
    for client in &mut clients {
        client.ping();
    }
}

/// CONNACK keeps to every maximum packet size from 1 up, and a client that takes the usual one is served.
fn connack_fits(connect: impl Fn() -> Connect, code: u8) {
    let with = |most: u32| {
        let connect = connect();
        let properties = connect.properties.clone().four(id::MAXIMUM_PACKET_SIZE, most);
        let mut client = Client::open(V5);
        client.send(connect.properties(properties).encode());
        let came = client.read_within(PATIENCE);
        (came, client.largest())
    };
    let (_, usual) = with(10_000);
    for most in 1..=usual + 8 {
        let (came, largest) = with(u32::try_from(most).unwrap());
        assert!(largest <= most, "{largest} bytes to a client that takes {most}: {came:?}");
        match came {
            Came::End if most < usual => {}
            Came::Packet(Packet::ConnAck(answer)) if most < usual || answer.code == code => {}
            _ => panic!("maximum packet size {most}, usually {usual}: {came:?}"),
        }
    }
}

#[test]
fn mqtt_3_2_2_19_no_reason_string_makes_connack_too_large() {
    connack_fits(|| Connect::new(V5).properties(with_method()), BAD_METHOD);
    // What a CONNECT says that breaks the protocol says nothing that could be relied on: no more than a bare refusal.
    let broken = Properties::new().two(id::RECEIVE_MAXIMUM, 0).four(id::MAXIMUM_PACKET_SIZE, 5);
    let mut client = Client::open(V5);
    client.send(Connect::new(V5).properties(broken).encode());
    let came = client.read_within(PATIENCE);
    assert!(
        matches!(&came, Came::Packet(Packet::ConnAck(answer)) if answer.code == PROTOCOL_ERROR),
        "{came:?}"
    );
    assert!(client.largest() <= 5, "{} bytes", client.largest());
}

#[test]
fn mqtt_3_2_2_20_no_user_property_makes_connack_too_large() {
    connack_fits(|| Connect::new(V5), 0);
    connack_fits(|| Connect::new(V5).client_id(""), 0);
}

#[test]
fn mqtt_3_2_2_22_without_one_of_its_own_the_server_uses_the_clients_keep_alive() {
    let (mut client, answer) = Client::connect_with(&Connect::new(V5).keep_alive(2));
    assert_eq!(answer.properties.get(id::SERVER_KEEP_ALIVE), None, "it is taken as it is");
    let start = Instant::now();
    let came = client.read_within(PATIENCE);
    let silent = start.elapsed();
    assert!(matches!(came, Came::End | Came::Packet(Packet::Disconnect(_))), "{came:?}");
    assert!((Duration::from_secs(2)..Duration::from_millis(4_500)).contains(&silent), "{silent:?}");
}

#[test]
fn mqtt_3_1_2_28_response_information_is_for_those_who_ask() {
    let server = Server::start("[broker]\nresponse_information = \"replies/${clientid}\"\n");
    let told = |asks: Option<u8>| {
        let properties = asks
            .map(|asks| Properties::new().byte(id::REQUEST_RESPONSE_INFORMATION, asks))
            .unwrap_or_default();
        let connect = Connect::new(V5).client_id("asks").properties(properties);
        Client::connect_at(server.port, &connect).1.properties
    };
    for asks in [None, Some(0)] {
        assert_eq!(told(asks).get(id::RESPONSE_INFORMATION), None);
    }
    assert_eq!(told(Some(1)).string(id::RESPONSE_INFORMATION), Some("replies/asks"));
    // A server that has none to give.
    let asked = Properties::new().byte(id::REQUEST_RESPONSE_INFORMATION, 1);
    let (_, answer) = Client::connect_with(&Connect::new(V5).properties(asked));
    assert_eq!(answer.properties.get(id::RESPONSE_INFORMATION), None);
}

/// The properties of every answer to what a server could explain: first to refusals, then to what is right or no error.
/// `asks` is the request problem information.
fn explained(asks: Option<u8>) -> (Vec<Properties>, Vec<Properties>) {
    let topic = name("connack/problem");
    let properties =
        asks.map(|asks| Properties::new().byte(id::REQUEST_PROBLEM_INFORMATION, asks)).unwrap_or_default();
    let (mut client, _) = Client::connect_at(denying(), &Connect::new(V5).properties(properties));
    let (mut refused, mut taken) = (Vec::new(), Vec::new());

    let not_text = || Publish::new(&topic, [0xFF]).properties(Properties::new().byte(id::PAYLOAD_FORMAT, 1));
    for (qos, kind) in [(1, kind::PUBACK), (2, kind::PUBREC)] {
        for (message, reason) in
            [(Publish::new("$SYS/problem", "x"), NOT_AUTHORIZED), (not_text(), FORMAT_INVALID)]
        {
            client.send_publish(&message.qos(qos, 1));
            let answer = client.expect_ack(kind, 1);
            assert_eq!(answer.reason, reason);
            refused.push(answer.properties);
        }
        client.send_publish(&Publish::new(&topic, "nobody subscribes").qos(qos, 2));
        taken.push(client.expect_ack(kind, 2).properties);
    }
    client.send(ack(kind::PUBREL, 2));
    taken.push(client.expect_ack(kind::PUBCOMP, 2).properties);
    // Identifiers that nobody knows.
    client.send(ack(kind::PUBREL, 99));
    let answer = client.expect_ack(kind::PUBCOMP, 99);
    assert_eq!(answer.reason, 0x92);
    refused.push(answer.properties);
    client.send(ack_with(kind::PUBREC, 99, 0, &Properties::new()));
    let answer = client.expect_ack(kind::PUBREL, 99);
    assert_eq!(answer.reason, 0x92);
    refused.push(answer.properties);

    client.send(Subscribe::new(3).filter("denied/x", 0).filter(&topic, 0).encode(V5));
    let answer = client.expect_suback(3);
    assert_eq!(answer.codes, [NOT_AUTHORIZED, 0]);
    refused.push(answer.properties);
    client.send(Unsubscribe::new(4).filter(name("connack/none")).encode(V5));
    taken.push(client.expect_unsuback(4).properties);

    // A message's own user properties are not problem information.
    let message = Publish::new(&topic, "x").properties(Properties::new().user("a", "b"));
    Client::connect_at(denying(), &Connect::new(V5)).0.send_publish(&message);
    assert_eq!(client.expect_payload("x").properties.users(), [("a", "b")]);
    (refused, taken)
}

#[test]
fn mqtt_3_1_2_29_without_problem_information_answers_say_nothing_more() {
    // This server explains all of these refusals to those who want to know.
    for asks in [None, Some(1)] {
        let (refused, _) = explained(asks);
        assert!(
            refused.iter().all(|properties| properties.string(id::REASON_STRING).is_some()),
            "{refused:?}"
        );
    }
    let (refused, taken) = explained(Some(0));
    assert_eq!(refused.len(), 7);
    for properties in refused.iter().chain(&taken) {
        assert_eq!(*properties, Properties::new());
    }
}

#[test]
fn clause_3_2_2_3_3_limits_are_told_with_legal_values() {
    let (_, answer) = Client::connect_with(&Connect::new(V5));
    let at_least_one = |id| assert!(answer.properties.number(id).is_none_or(|value| value > 0), "{answer:?}");
    at_least_one(id::RECEIVE_MAXIMUM);
    at_least_one(id::MAXIMUM_PACKET_SIZE);
    for available in [
        id::RETAIN_AVAILABLE,
        id::WILDCARD_AVAILABLE,
        id::SUBSCRIPTION_IDENTIFIER_AVAILABLE,
        id::SHARED_AVAILABLE,
    ] {
        // This server has all of them; left out means that, too.
        assert!(answer.properties.number(available).is_none_or(|value| value == 1), "{answer:?}");
    }
}
