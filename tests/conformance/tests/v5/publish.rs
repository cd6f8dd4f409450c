//! PUBLISH (MQTT 5 clause 3.3): flags, topic name, properties on their way to subscribers, overlapping subscriptions.
//! Retained messages, topic aliases and flow control have files of their own.

use std::thread::sleep;
use std::time::Duration;

use tidegate_conformance::ending::{Failures, MALFORMED, PROTOCOL_ERROR, TOPIC_INVALID};
use tidegate_conformance::property::{Value, id};
use tidegate_conformance::wire::{ILL_FORMED, frame, text};
use tidegate_conformance::{Client, Connect, Properties, Publish, Subscribe, Version::V5, kind, name};

/// A subscriber of `topic` at `qos`.
fn subscriber(topic: &str, qos: u8) -> Client {
    let mut client = Client::new(V5);
    client.subscribe(topic, qos);
    client
}

/// The rest of a QoS 2 exchange: a server may deliver the message when it comes, or only now.
#[track_caller]
fn finish(sender: &mut Client, qos: u8, id: u16) {
    if qos == 2 {
        sender.send_ack(kind::PUBREL, id);
        sender.expect_ack(kind::PUBCOMP, id);
    }
}

/// Sends a message with `properties` and gives those with which it arrives.
#[track_caller]
fn carried(properties: Properties) -> Properties {
    let topic = name("publish/carried");
    let mut receiver = subscriber(&topic, 0);
    let mut sender = Client::new(V5);
    sender.send_publish(&Publish::new(&topic, "x").properties(properties));
    sender.ping();
    receiver.expect_payload("x").properties
}

#[test]
fn mqtt_2_2_1_2_qos_zero_has_no_packet_identifier() {
    let topic = name("p");
    let mut receiver = subscriber(&topic, 2);
    Client::new(V5).publish(&topic, "payload", 0);
    let mut expected = Vec::new();
    text(&mut expected, &topic);
    // No identifier, and a property length of 0.
    expected.push(0);
    expected.extend(b"payload");
    receiver.expect_bytes(&frame(0x30, &expected));
}

#[test]
fn mqtt_2_2_2_1_no_properties_are_a_length_of_zero() {
    let topic = name("p");
    let mut receiver = subscriber(&topic, 1);
    Client::new(V5).publish(&topic, "x", 1);
    let message = receiver.expect_publish();
    assert_eq!(message.properties, Properties::new());
    // The same without a byte for the length would be read as malformed; with one it is refused as well.
    let mut body = Vec::new();
    text(&mut body, &topic);
    let mut failures = Failures::new();
    failures.offend("PUBLISH without a property length", frame(0x30, &body), &[MALFORMED]);
    failures.offend("SUBSCRIBE without a property length", frame(0x82, &[0, 1]), &[MALFORMED]);
    failures.offend("UNSUBSCRIBE without a property length", frame(0xA2, &[0, 1]), &[MALFORMED]);
    failures.report();
}

#[test]
fn mqtt_3_3_1_1_what_is_sent_again_has_dup() {
    let topic = name("publish/dup");
    let connect = Connect::new(V5).persistent();
    let mut receiver = Client::connect(&connect);
    receiver.subscribe(&topic, 2);
    let mut sender = Client::new(V5);
    for qos in [1, 2] {
        sender.publish(&topic, qos.to_string(), qos);
        assert!(!receiver.expect_payload(&qos.to_string()).dup);
    }
    receiver.cut();
    let mut receiver = Client::connect(&connect);
    for qos in [1, 2] {
        let again = receiver.expect_payload(&qos.to_string());
        assert_eq!((again.qos, again.dup), (qos, true));
    }
}

#[test]
fn mqtt_3_3_1_2_dup_at_qos_zero_is_refused() {
    let mut failures = Failures::new();
    let topic = name("publish/dup");
    failures.offend("DUP", Publish::new(&topic, "x").dup().encode(V5), &[MALFORMED, PROTOCOL_ERROR]);
    failures.offend(
        "and RETAIN",
        Publish::new(&topic, "x").dup().retain().encode(V5),
        &[MALFORMED, PROTOCOL_ERROR],
    );
    failures.report();
}

#[test]
fn mqtt_3_3_1_3_dup_that_came_in_does_not_go_out() {
    let topic = name("publish/dup");
    let mut receiver = subscriber(&topic, 2);
    let mut sender = Client::new(V5);
    for qos in [1, 2] {
        sender.send_publish(&Publish::new(&topic, "again").qos(qos, 9).dup());
        sender.expect_ack(if qos == 1 { kind::PUBACK } else { kind::PUBREC }, 9);
        finish(&mut sender, qos, 9);
        let message = receiver.expect_payload("again");
        assert_eq!((message.qos, message.dup), (qos, false));
    }
}

#[test]
fn mqtt_3_3_1_4_qos_three_is_malformed() {
    let mut failures = Failures::new();
    for flags in [0b0110, 0b0111, 0b1110, 0b1111] {
        let mut bytes = Publish::new("publish/three", "x").qos(1, 1).encode(V5);
        bytes[0] = 0x30 | flags;
        failures.offend(format!("flags {flags:#06b}"), bytes, &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_3_2_1_the_topic_must_be_there_and_a_string() {
    let mut failures = Failures::new();
    failures.offend("nothing", frame(0x30, &[]), &[MALFORMED]);
    failures.offend("half a length", frame(0x30, &[0]), &[MALFORMED]);
    failures.offend("a length alone", frame(0x30, &[0, 1]), &[MALFORMED]);
    failures.offend("cut off", frame(0x30, b"\0\x05abc"), &[MALFORMED]);
    for (what, bytes) in ILL_FORMED.iter().chain(&[("NUL", &b"a\0b"[..])]) {
        failures.offend(what, Publish::new(bytes, "x").encode(V5), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_3_2_2_a_topic_name_has_no_wildcards() {
    let mut failures = Failures::new();
    for topic in ["#", "+", "a/#", "a/+", "a/+/b", "a+", "#a", "+/a", "$SYS/#"] {
        let reasons = [MALFORMED, PROTOCOL_ERROR, TOPIC_INVALID];
        failures.offend(topic, Publish::new(topic, "x").encode(V5), &reasons);
        failures.offend(format!("{topic} at QoS 1"), Publish::new(topic, "x").qos(1, 1).encode(V5), &reasons);
    }
    failures.report();
}

#[test]
fn mqtt_3_3_2_3_what_goes_out_matches_the_subscription() {
    let base = name("publish/match");
    let mut receiver = subscriber(&format!("{base}/+/b"), 0);
    let mut sender = Client::new(V5);
    for (topic, matches) in
        [("a/b", true), ("a", false), ("a/c", false), ("/b", true), ("a/b/c", false), ("b/b", true)]
    {
        sender.publish(format!("{base}/{topic}"), topic, 0);
        if matches {
            let message = receiver.expect_payload(topic);
            assert_eq!(message.topic(), format!("{base}/{topic}"));
        }
    }
    receiver.expect_silence();
}

#[test]
fn mqtt_3_3_2_4_the_payload_format_is_carried() {
    for format in [0, 1] {
        assert_eq!(
            carried(Properties::new().byte(id::PAYLOAD_FORMAT, format)).number(id::PAYLOAD_FORMAT),
            Some(format.into())
        );
    }
    assert_eq!(carried(Properties::new()), Properties::new(), "and nothing is added");
}

#[test]
fn mqtt_3_3_2_5_an_expired_message_is_not_delivered() {
    let topic = name("publish/expired");
    let connect = Connect::new(V5).persistent();
    let mut receiver = Client::connect(&connect);
    receiver.subscribe(&topic, 2);
    receiver.cut();
    let mut sender = Client::new(V5);
    for (qos, id) in [(1, 1), (2, 2)] {
        let brief = Properties::new().four(id::MESSAGE_EXPIRY, 1);
        sender.send_publish(&Publish::new(&topic, "expired").qos(qos, id).properties(brief));
        sender.expect();
        finish(&mut sender, qos, id);
    }
    sender.publish(&topic, "stays", 1);
    sleep(Duration::from_millis(2_200));
    let mut receiver = Client::connect(&connect);
    receiver.expect_payload("stays");
    receiver.expect_silence();
}

#[test]
fn mqtt_3_3_2_5_an_expired_message_does_not_come_out_of_a_full_window() {
    let topic = name("publish/window");
    let mut receiver =
        Client::connect(&Connect::new(V5).properties(Properties::new().two(id::RECEIVE_MAXIMUM, 1)));
    receiver.subscribe(&topic, 1);
    let mut sender = Client::new(V5);
    sender.publish(&topic, "in flight", 1);
    let first = receiver.expect_payload("in flight");
    let brief = Properties::new().four(id::MESSAGE_EXPIRY, 1);
    sender.send_publish(&Publish::new(&topic, "expired").qos(1, 9).properties(brief));
    sender.expect_ack(kind::PUBACK, 9);
    sender.publish(&topic, "stays", 1);
    sleep(Duration::from_millis(2_200));
    receiver.acknowledge(&first);
    receiver.expect_payload("stays");
}

#[test]
fn mqtt_3_3_2_6_the_expiry_goes_down_while_a_message_waits() {
    let topic = name("publish/waits");
    let connect = Connect::new(V5).persistent();
    let mut receiver = Client::connect(&connect);
    receiver.subscribe(&topic, 1);
    let expiry = Properties::new().four(id::MESSAGE_EXPIRY, 100);
    let mut sender = Client::new(V5);
    sender.send_publish(&Publish::new(&topic, "at once").qos(1, 1).properties(expiry.clone()));
    let message = receiver.expect_payload("at once");
    let left = message.properties.number(id::MESSAGE_EXPIRY);
    assert!(left.is_some_and(|left| (98..=100).contains(&left)), "{left:?}");
    receiver.acknowledge(&message);
    receiver.ping();
    receiver.cut();
    sender.expect_ack(kind::PUBACK, 1);
    sender.send_publish(&Publish::new(&topic, "later").qos(1, 2).properties(expiry));
    sender.expect_ack(kind::PUBACK, 2);
    sleep(Duration::from_millis(2_500));
    let mut receiver = Client::connect(&connect);
    let left = receiver.expect_payload("later").properties.number(id::MESSAGE_EXPIRY);
    assert!(left.is_some_and(|left| (90..=98).contains(&left)), "{left:?}");
}

#[test]
fn mqtt_3_3_2_13_a_response_topic_that_is_no_string_is_malformed() {
    property_that_is_no_string(id::RESPONSE_TOPIC);
}

#[test]
fn mqtt_3_3_2_14_a_response_topic_has_no_wildcards() {
    let mut failures = Failures::new();
    for topic in ["#", "+", "a/#", "a/+/b", "a+"] {
        let properties = Properties::new().text(id::RESPONSE_TOPIC, topic);
        let bytes = Publish::new("publish/response", "x").properties(properties).encode(V5);
        failures.offend(topic, bytes, &[MALFORMED, PROTOCOL_ERROR, TOPIC_INVALID]);
    }
    failures.report();
}

#[test]
fn mqtt_3_3_2_15_the_response_topic_is_carried() {
    for topic in ["a", "a/b/é", "/", "$x/y"] {
        assert_eq!(
            carried(Properties::new().text(id::RESPONSE_TOPIC, topic)).string(id::RESPONSE_TOPIC),
            Some(topic)
        );
    }
}

#[test]
fn mqtt_3_3_2_16_the_correlation_data_is_carried() {
    for data in [vec![], vec![0], (0..=255).collect::<Vec<u8>>(), vec![0xFF; 65_535]] {
        let came = carried(Properties::new().binary(id::CORRELATION_DATA, &data));
        assert!(came.get(id::CORRELATION_DATA) == Some(&Value::Binary(data)));
    }
}

#[test]
fn mqtt_3_3_2_17_user_properties_are_carried() {
    for (name, value) in [("a", "b"), ("", ""), ("a", ""), ("", "b"), ("é", "\u{10FFFD}"), ("\u{feff}", " ")]
    {
        assert_eq!(carried(Properties::new().user(name, value)).users(), [(name, value)]);
    }
    let long = "x".repeat(65_535);
    assert!(
        carried(Properties::new().user(&long, &long)).users() == [(&*long, &*long)],
        "the longest there are"
    );
}

#[test]
fn mqtt_3_3_2_18_user_properties_keep_their_order() {
    let pairs = [("b", "1"), ("a", "1"), ("b", "0"), ("b", "1"), ("a", "1"), ("c", "")];
    let mut properties = Properties::new().text(id::CONTENT_TYPE, "first");
    for (name, value) in pairs {
        properties = properties.user(name, value);
    }
    assert_eq!(carried(properties.byte(id::PAYLOAD_FORMAT, 0)).users(), pairs);
}

#[test]
fn mqtt_3_3_2_19_a_content_type_that_is_no_string_is_malformed() {
    property_that_is_no_string(id::CONTENT_TYPE);
}

#[track_caller]
fn property_that_is_no_string(id: u8) {
    let mut failures = Failures::new();
    for (what, bytes) in ILL_FORMED.iter().chain(&[("NUL", &b"a\0b"[..])]) {
        let properties = Properties::new().binary(id, bytes);
        failures.offend(
            what,
            Publish::new("publish/text", "x").properties(properties).encode(V5),
            &[MALFORMED],
        );
    }
    failures.report();
}

#[test]
fn mqtt_3_3_2_20_the_content_type_is_carried() {
    for content in ["text/plain", "", "é"] {
        assert_eq!(
            carried(Properties::new().text(id::CONTENT_TYPE, content)).string(id::CONTENT_TYPE),
            Some(content)
        );
    }
}

#[test]
fn clause_3_3_2_3_all_properties_are_carried_at_every_qos_and_to_everybody() {
    let topic = name("publish/all");
    let connect = Connect::new(V5).persistent();
    let mut away = Client::connect(&connect);
    away.subscribe(&topic, 2);
    away.cut();
    let mut there = [subscriber(&topic, 2), subscriber(&topic, 0)];
    let properties = Properties::new()
        .byte(id::PAYLOAD_FORMAT, 1)
        .text(id::RESPONSE_TOPIC, "r")
        .binary(id::CORRELATION_DATA, "c")
        .user("a", "b")
        .text(id::CONTENT_TYPE, "t");
    let mut sender = Client::new(V5);
    for qos in [1, 2] {
        sender.send_publish(&Publish::new(&topic, "x").qos(qos, qos.into()).properties(properties.clone()));
        sender.expect();
        finish(&mut sender, qos, qos.into());
    }
    let sorted = |properties: &Properties| {
        let mut list = properties.list.clone();
        list.sort_by_key(|(id, _)| *id);
        list
    };
    let mut back = Client::connect(&connect);
    let [first, second] = &mut there;
    for client in [&mut back, first, second] {
        for _ in 0..2 {
            let message = client.expect_payload("x");
            assert_eq!(sorted(&message.properties), sorted(&properties));
        }
    }
}

#[test]
fn clause_3_3_3_the_payload_is_any_bytes() {
    let topic = name("publish/payload");
    let mut receiver = subscriber(&topic, 1);
    let mut sender = Client::new(V5);
    for payload in [vec![], vec![0], (0..=255).collect(), vec![0xFF; 200_000]] {
        sender.send_publish(&Publish::new(&topic, &payload).qos(1, 1));
        let message = receiver.expect_publish();
        assert!(message.payload == payload, "{} of {} bytes", message.payload.len(), payload.len());
        receiver.acknowledge(&message);
        sender.expect_ack(kind::PUBACK, 1);
    }
}

#[test]
fn mqtt_3_3_4_1_publish_is_answered_as_its_qos_asks() {
    let topic = name("publish/answer");
    let mut client = Client::new(V5);
    client.send_publish(&Publish::new(&topic, "0"));
    // Nothing but the answer to the ping comes.
    client.ping();
    client.send_publish(&Publish::new(&topic, "1").qos(1, 11));
    assert!(client.expect_ack(kind::PUBACK, 11).reason < 0x80);
    client.send_publish(&Publish::new(&topic, "2").qos(2, 12));
    assert!(client.expect_ack(kind::PUBREC, 12).reason < 0x80);
    client.send_ack(kind::PUBREL, 12);
    assert_eq!(client.expect_ack(kind::PUBCOMP, 12).reason, 0);
    client.ping();
}

/// A client with the subscriptions `filters`, each with its options and perhaps a subscription identifier.
fn overlapping(filters: &[(&str, u8, Option<usize>)]) -> Client {
    let mut client = Client::new(V5);
    for (filter, options, identifier) in filters {
        let properties = match identifier {
            Some(identifier) => Properties::new().variable(id::SUBSCRIPTION_IDENTIFIER, *identifier),
            None => Properties::new(),
        };
        let id = client.next_id();
        client.send(Subscribe::new(id).filter(filter, *options).properties(properties).encode(V5));
        assert_eq!(client.expect_suback(id).codes, [options & 3]);
    }
    client
}

/// Every copy of a message that comes until a marker on `topic` does: QoS and subscription identifiers.
#[track_caller]
fn copies(client: &mut Client, topic: &str, qos: u8) -> Vec<(u8, Vec<usize>)> {
    let mut sender = Client::new(V5);
    sender.publish(topic, "message", qos);
    sender.publish(topic, "marker", qos);
    let mut copies = Vec::new();
    loop {
        let message = client.expect_publish();
        if message.text() == "marker" {
            return copies;
        }
        let mut identifiers: Vec<usize> = message
            .properties
            .all(id::SUBSCRIPTION_IDENTIFIER)
            .map(|value| match value {
                Value::Variable(value) => *value,
                other => panic!("{other:?}"),
            })
            .collect();
        identifiers.sort_unstable();
        copies.push((message.qos, identifiers));
    }
}

#[test]
fn mqtt_3_3_4_2_overlapping_subscriptions_give_the_greatest_qos() {
    let topic = name("publish/overlap");
    let all = format!("{topic}/#");
    for (first, second, sent, expected) in
        [(0, 2, 2, 2), (2, 0, 2, 2), (1, 2, 1, 1), (0, 1, 2, 1), (0, 0, 2, 0)]
    {
        let mut client = overlapping(&[(&topic, first, None), (&all, second, None)]);
        let copies = copies(&mut client, &topic, sent);
        assert_eq!(copies.iter().map(|copy| copy.0).max(), Some(expected), "{copies:?}");
        assert!(copies.len() <= 2, "a copy a subscription at most: {copies:?}");
    }
}

#[test]
fn mqtt_3_3_4_3_overlapping_subscriptions_give_their_identifiers() {
    let topic = name("publish/identifiers");
    let all = format!("{topic}/#");
    let mut client = overlapping(&[
        (&topic, 1, Some(1)),
        (&all, 1, Some(268_435_455)),
        (&format!("{topic}/x"), 1, Some(3)),
    ]);
    let mut identifiers: Vec<usize> =
        copies(&mut client, &topic, 1).into_iter().flat_map(|copy| copy.1).collect();
    identifiers.sort_unstable();
    assert_eq!(identifiers, [1, 268_435_455]);
}

#[test]
fn mqtt_3_3_4_4_one_copy_carries_all_identifiers() {
    let topic = name("publish/merged");
    let all = format!("{topic}/#");
    let mut client = overlapping(&[
        (&topic, 0, Some(7)),
        (&all, 2, Some(9)),
        (&topic.replacen("publish", "+", 1), 1, None),
    ]);
    let copies = copies(&mut client, &topic, 2);
    match &copies[..] {
        [(qos, identifiers)] => assert_eq!((*qos, &identifiers[..]), (2, &[7, 9][..])),
        // Several copies are allowed: 3.3.4-5 is about them.
        several => assert_eq!(several.len(), 3, "one copy, or one a subscription: {several:?}"),
    }
}

#[test]
fn mqtt_3_3_4_5_of_several_copies_each_carries_its_own_identifier() {
    let topic = name("publish/copies");
    let mut client = overlapping(&[(&topic, 1, Some(7)), (&format!("{topic}/#"), 1, None)]);
    let copies = copies(&mut client, &topic, 1);
    let with: Vec<&(u8, Vec<usize>)> = copies.iter().filter(|copy| !copy.1.is_empty()).collect();
    assert_eq!(with.len(), 1, "{copies:?}");
    assert_eq!(with[0].1, [7]);
}

#[test]
fn mqtt_3_3_4_3_an_identifier_used_twice_is_sent_for_each_match() {
    let topic = name("publish/twice");
    let mut client = overlapping(&[(&topic, 1, Some(5)), (&format!("{topic}/#"), 1, Some(5))]);
    let identifiers: Vec<usize> =
        copies(&mut client, &topic, 1).into_iter().flat_map(|copy| copy.1).collect();
    // In one copy or in two.
    assert_eq!(identifiers, [5, 5]);
}

#[test]
fn mqtt_3_3_4_6_a_clients_publish_has_no_subscription_identifier() {
    let mut failures = Failures::new();
    for value in [1, 127, 128, 268_435_455] {
        let properties = Properties::new().variable(id::SUBSCRIPTION_IDENTIFIER, value);
        let bytes = Publish::new("publish/identifier", "x").properties(properties).encode(V5);
        failures.offend(value, bytes, &[PROTOCOL_ERROR]);
    }
    failures.report();
}

#[test]
fn mqtt_1_5_4_3_a_byte_order_mark_is_kept() {
    let mark = "\u{feff}";
    let topic = name("publish/mark");
    let marked = format!("{mark}{topic}");
    let mut client = Client::new(V5);
    client.subscribe(&marked, 0);
    let mut sender = Client::new(V5);
    sender.publish(&topic, "without", 0);
    let properties = Properties::new().user(mark, "a\u{feff}b");
    sender.send_publish(&Publish::new(&marked, "with").properties(properties));
    let message = client.expect_payload("with");
    assert_eq!(message.topic(), marked);
    assert_eq!(message.properties.users(), [(mark, "a\u{feff}b")]);
}

#[test]
fn mqtt_1_5_4_3_a_client_id_with_a_byte_order_mark_is_another() {
    let plain = name("mark");
    let mut first = Client::connect(&Connect::new(V5).client_id(&plain));
    let mut second = Client::connect(&Connect::new(V5).client_id(format!("\u{feff}{plain}")));
    first.ping();
    second.ping();
}
