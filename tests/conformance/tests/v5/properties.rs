//! Properties (MQTT 5 clause 2.2.2): every identifier in every packet that a client sends, once, twice, cut off, with
//! values that it must not have.

use tidegate_conformance::ending::{
    ALIAS_INVALID, Failures, MALFORMED, PROTOCOL_ERROR, connect_refused, offend,
};
use tidegate_conformance::packet::{ack_with, auth, disconnect_with};
use tidegate_conformance::property::{Value, id};
use tidegate_conformance::wire::{ILL_FORMED, frame, text, two, variable};
use tidegate_conformance::{
    Client, Connect, Packet, Properties, Publish, Subscribe, Unsubscribe, Version::V5, Will, kind, name,
};

/// Where a client sends properties.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Section {
    Connect,
    Will,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Auth,
}
use Section::{Auth, Disconnect, PubAck, PubComp, PubRec, PubRel, Unsubscribe as Unsub, Will as InWill};

const SECTIONS: [Section; 11] = [
    Section::Connect,
    InWill,
    Section::Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    Section::Subscribe,
    Unsub,
    Disconnect,
    Auth,
];
const ACKS: [Section; 4] = [PubAck, PubRec, PubRel, PubComp];

/// Table 2-4: every property, a good value, and the sections of a client's packets that may have it.
fn table() -> Vec<(u8, Value, Vec<Section>)> {
    let text = |text: &str| Value::Text(text.into());
    let message = vec![Section::Publish, InWill];
    let nowhere = Vec::new();
    let mut reasons = ACKS.to_vec();
    reasons.extend([Disconnect, Auth]);
    vec![
        (id::PAYLOAD_FORMAT, Value::Byte(0), message.clone()),
        (id::MESSAGE_EXPIRY, Value::Four(60), message.clone()),
        (id::CONTENT_TYPE, text("a/b"), message.clone()),
        (id::RESPONSE_TOPIC, text("a"), message.clone()),
        (id::CORRELATION_DATA, Value::Binary(vec![0, 0xFF]), message),
        (id::SUBSCRIPTION_IDENTIFIER, Value::Variable(300), vec![Section::Subscribe]),
        (id::SESSION_EXPIRY, Value::Four(0), vec![Section::Connect, Disconnect]),
        (id::ASSIGNED_CLIENT_ID, text("a"), nowhere.clone()),
        (id::SERVER_KEEP_ALIVE, Value::Two(60), nowhere.clone()),
        (id::AUTHENTICATION_METHOD, text("m"), vec![Section::Connect, Auth]),
        (id::AUTHENTICATION_DATA, Value::Binary(vec![1]), vec![Section::Connect, Auth]),
        (id::REQUEST_PROBLEM_INFORMATION, Value::Byte(1), vec![Section::Connect]),
        (id::WILL_DELAY, Value::Four(1), vec![InWill]),
        (id::REQUEST_RESPONSE_INFORMATION, Value::Byte(1), vec![Section::Connect]),
        (id::RESPONSE_INFORMATION, text("a"), nowhere.clone()),
        (id::SERVER_REFERENCE, text("a"), nowhere.clone()),
        (id::REASON_STRING, text("a"), reasons),
        (id::RECEIVE_MAXIMUM, Value::Two(10), vec![Section::Connect]),
        (id::TOPIC_ALIAS_MAXIMUM, Value::Two(10), vec![Section::Connect]),
        (id::TOPIC_ALIAS, Value::Two(1), vec![Section::Publish]),
        (id::MAXIMUM_QOS, Value::Byte(1), nowhere.clone()),
        (id::RETAIN_AVAILABLE, Value::Byte(1), nowhere.clone()),
        (id::USER, Value::Pair("a".into(), "b".into()), SECTIONS.to_vec()),
        (id::MAXIMUM_PACKET_SIZE, Value::Four(10_000), vec![Section::Connect]),
        (id::WILDCARD_AVAILABLE, Value::Byte(1), nowhere.clone()),
        (id::SUBSCRIPTION_IDENTIFIER_AVAILABLE, Value::Byte(1), nowhere.clone()),
        (id::SHARED_AVAILABLE, Value::Byte(1), nowhere),
    ]
}

/// A packet that is right but for these properties.
fn packet(section: Section, properties: Properties) -> Vec<u8> {
    let topic = name("properties/");
    match section {
        Section::Connect => Connect::new(V5).properties(properties).encode(),
        InWill => Connect::new(V5).will(Will::new(topic, "w").properties(properties)).encode(),
        Section::Publish => Publish::new(topic, "x").properties(properties).encode(V5),
        PubAck => ack_with(kind::PUBACK, 1, 0, &properties),
        PubRec => ack_with(kind::PUBREC, 1, 0, &properties),
        PubRel => ack_with(kind::PUBREL, 1, 0, &properties),
        PubComp => ack_with(kind::PUBCOMP, 1, 0, &properties),
        Section::Subscribe => Subscribe::new(1).filter(topic, 0).properties(properties).encode(V5),
        Unsub => Unsubscribe::new(1).filter(topic).properties(properties).encode(V5),
        Disconnect => disconnect_with(0, &properties),
        Auth => auth(0x19, &properties),
    }
}

/// The properties must be refused in this section.
fn refuse(section: Section, properties: Properties, reasons: &[u8]) -> Result<(), String> {
    let bytes = packet(section, properties);
    match section {
        Section::Connect | InWill => connect_refused(V5, &bytes, reasons),
        // A client that has not authenticated may not send AUTH at all, which may be noticed first.
        Auth => offend(V5, &bytes, &[reasons, &[PROTOCOL_ERROR]].concat()),
        _ => offend(V5, &bytes, reasons),
    }
}

fn one(id: u8, value: Value) -> Properties {
    Properties::new().with(id, value)
}

#[test]
fn clause_2_2_2_2_a_property_where_it_belongs_is_taken() {
    for (id, value, sections) in table() {
        for section in sections {
            // Authentication is another matter: this server has no method.
            if section == Auth || [id::AUTHENTICATION_METHOD, id::AUTHENTICATION_DATA].contains(&id) {
                continue;
            }
            let bytes = packet(section, one(id, value.clone()));
            let what = format!("property {id:#04x} in {section:?}");
            if matches!(section, Section::Connect | InWill) {
                let mut client = Client::open(V5);
                client.send(&bytes);
                assert_eq!(client.expect_connack().code, 0, "{what}");
                client.ping();
                continue;
            }
            let mut client = Client::new(V5);
            client.send(&bytes);
            match section {
                // The identifiers are of nothing: PUBREC and PUBREL are answered all the same.
                PubRec => assert_eq!(client.expect_ack(kind::PUBREL, 1).reason, 0x92, "{what}"),
                PubRel => assert_eq!(client.expect_ack(kind::PUBCOMP, 1).reason, 0x92, "{what}"),
                Section::Subscribe => assert_eq!(client.expect_suback(1).codes, [0], "{what}"),
                Unsub => assert_eq!(client.expect_unsuback(1).codes, [0x11], "{what}"),
                Disconnect => {
                    client.expect_closed();
                    continue;
                }
                _ => {}
            }
            client.ping();
        }
    }
}

#[test]
fn clause_2_2_2_2_a_property_of_another_packet_is_malformed() {
    let mut failures = Failures::new();
    for (id, value, allowed) in table() {
        for section in SECTIONS.iter().filter(|section| !allowed.contains(section)) {
            let reasons: &[u8] = match (id, section) {
                // Properties of these packets, but only when a server sends them.
                (id::SUBSCRIPTION_IDENTIFIER, Section::Publish) => &[PROTOCOL_ERROR],
                (id::SERVER_REFERENCE, Disconnect) => &[MALFORMED, PROTOCOL_ERROR],
                _ => &[MALFORMED],
            };
            failures.add(
                format!("property {id:#04x} in {section:?}"),
                refuse(*section, one(id, value.clone()), reasons),
            );
        }
    }
    failures.report();
}

#[test]
fn clause_2_2_2_2_an_unknown_property_is_malformed() {
    let known: Vec<u8> = table().iter().map(|(id, ..)| *id).collect();
    let mut failures = Failures::new();
    for section in SECTIONS {
        for id in [0x00, 0x04, 0x0A, 0x10, 0x14, 0x1B, 0x1D, 0x20, 0x2B, 0x7F] {
            assert!(!known.contains(&id), "{id:#04x} is a property");
            let properties = Properties::new().raw(&[id, 0]);
            failures
                .add(format!("property {id:#04x} in {section:?}"), refuse(section, properties, &[MALFORMED]));
        }
        let two_bytes = Properties::new().raw(&[0x80, 0x01, 0]);
        failures.add(format!("property 128 in {section:?}"), refuse(section, two_bytes, &[MALFORMED]));
        let all_ones = Properties::new().raw(&[0xFF, 0xFF, 0xFF, 0xFF]);
        failures.add(format!("no identifier in {section:?}"), refuse(section, all_ones, &[MALFORMED]));
    }
    failures.report();
}

#[test]
fn clause_2_2_2_2_a_property_given_twice_is_a_protocol_error() {
    let mut failures = Failures::new();
    for (id, value, allowed) in table() {
        if id == id::USER {
            continue;
        }
        for section in allowed {
            let twice = one(id, value.clone()).with(id, value.clone());
            failures.add(
                format!("property {id:#04x} twice in {section:?}"),
                refuse(section, twice, &[PROTOCOL_ERROR]),
            );
            let apart = one(id, value.clone()).user("a", "b").with(id, value.clone());
            failures.add(
                format!("property {id:#04x} twice, apart, in {section:?}"),
                refuse(section, apart, &[PROTOCOL_ERROR]),
            );
        }
    }
    failures.report();
}

#[test]
fn clause_2_2_2_2_user_properties_may_be_given_often_everywhere() {
    let mut many = Properties::new();
    for _ in 0..50 {
        many = many.user("the same", "value");
    }
    for section in SECTIONS {
        if section == Auth {
            continue;
        }
        let bytes = packet(section, many.clone());
        let mut client =
            if matches!(section, Section::Connect | InWill) { Client::open(V5) } else { Client::new(V5) };
        client.send(bytes);
        if section == Disconnect {
            client.expect_closed();
            continue;
        }
        client.send([0xC0, 0]);
        // Whatever answer the packet has comes first.
        loop {
            match client.expect() {
                Packet::PingResp => break,
                Packet::ConnAck(answer) => assert_eq!(answer.code, 0, "{section:?}"),
                Packet::Disconnect(said) => panic!("{section:?}: {said:?}"),
                _ => {}
            }
        }
    }
}

#[test]
fn clause_2_2_2_1_a_property_that_is_cut_off_is_malformed() {
    let mut failures = Failures::new();
    for (id, value, allowed) in table() {
        let whole = one(id, value.clone()).bytes();
        for section in allowed {
            for length in 1..whole.len() {
                let cut = Properties::new().raw(&whole[..length]);
                let what = format!("{length} of {} bytes of property {id:#04x} in {section:?}", whole.len());
                failures.add(what, refuse(section, cut, &[MALFORMED]));
            }
        }
    }
    failures.report();
}

/// The part of each packet before its property length and the part after its properties, without the fixed header.
fn around(section: Section) -> (u8, Vec<u8>, Vec<u8>) {
    let mut before = Vec::new();
    let mut after = Vec::new();
    match section {
        Section::Connect => {
            text(&mut before, "MQTT");
            before.extend([5, 2, 0, 0]);
            text(&mut after, name("c"));
            (0x10, before, after)
        }
        InWill => {
            text(&mut before, "MQTT");
            before.extend([5, 6, 0, 0, 0]);
            text(&mut before, name("c"));
            text(&mut after, "properties/will");
            text(&mut after, "w");
            (0x10, before, after)
        }
        Section::Publish => {
            text(&mut before, name("properties/"));
            (0x30, before, b"payload".to_vec())
        }
        PubAck | PubRec | PubRel | PubComp => {
            two(&mut before, 1);
            before.push(0);
            let first = match section {
                PubAck => 0x40,
                PubRec => 0x50,
                PubRel => 0x62,
                _ => 0x70,
            };
            (first, before, after)
        }
        Section::Subscribe => {
            two(&mut before, 1);
            text(&mut after, "properties/filter");
            after.push(0);
            (0x82, before, after)
        }
        Unsub => {
            two(&mut before, 1);
            text(&mut after, "properties/filter");
            (0xA2, before, after)
        }
        Disconnect => (0xE0, vec![0], after),
        Auth => (0xF0, vec![0x19], after),
    }
}

/// A packet with these bytes as its property length and what follows instead of its properties.
fn with_length(section: Section, length: &[u8]) -> Vec<u8> {
    let (first, mut body, after) = around(section);
    body.extend(length);
    body.extend(after);
    frame(first, &body)
}

fn refuse_bytes(section: Section, bytes: &[u8]) -> Result<(), String> {
    match section {
        Section::Connect | InWill => connect_refused(V5, bytes, &[MALFORMED]),
        Auth => offend(V5, bytes, &[MALFORMED, PROTOCOL_ERROR]),
        _ => offend(V5, bytes, &[MALFORMED]),
    }
}

#[test]
fn clause_2_2_2_1_a_property_length_beyond_the_packet_is_malformed() {
    let mut failures = Failures::new();
    for section in SECTIONS {
        let rest = around(section).2.len();
        for beyond in [1, 2, 100, 268_435_000] {
            let mut length = Vec::new();
            variable(&mut length, rest + beyond);
            let what = format!("{beyond} bytes beyond the end of {section:?}");
            failures.add(what, refuse_bytes(section, &with_length(section, &length)));
        }
        failures.add(
            format!("a length that is cut off in {section:?}"),
            refuse_bytes(section, &{
                let (first, mut body, _) = around(section);
                body.push(0x80);
                frame(first, &body)
            }),
        );
    }
    failures.report();
}

#[test]
fn mqtt_1_5_5_1_a_property_length_in_more_bytes_than_it_needs_is_malformed() {
    let mut failures = Failures::new();
    for section in SECTIONS {
        for length in [&[0x80, 0][..], &[0x80, 0x80, 0], &[0x80, 0x80, 0x80, 0], &[0x80, 0x80, 0x80, 0x80, 0]]
        {
            let what = format!("{length:02X?} in {section:?}");
            failures.add(what, refuse_bytes(section, &with_length(section, length)));
        }
    }
    failures.report();
}

#[test]
fn mqtt_1_5_5_1_a_subscription_identifier_in_more_bytes_than_it_needs_is_malformed() {
    let mut failures = Failures::new();
    for value in [&[0x81, 0][..], &[0xFF, 0x80, 0], &[0x80, 0x80, 0x80, 0], &[0xFF, 0xFF, 0xFF, 0xFF, 0x01]] {
        let properties = Properties::new().raw(&[id::SUBSCRIPTION_IDENTIFIER]).raw(value);
        failures.add(format!("{value:02X?}"), refuse(Section::Subscribe, properties, &[MALFORMED]));
    }
    failures.report();
}

#[test]
fn mqtt_1_5_5_1_an_identifier_in_more_bytes_than_it_needs_is_malformed() {
    let mut failures = Failures::new();
    for section in SECTIONS {
        // A user property, were its identifier one byte long.
        let properties = Properties::new().raw(&[0xA6, 0, 0, 1, b'a', 0, 1, b'b']);
        failures.add(format!("{section:?}"), refuse(section, properties, &[MALFORMED]));
    }
    failures.report();
}

#[test]
fn mqtt_1_5_7_1_both_parts_of_a_pair_are_strings() {
    let mut failures = Failures::new();
    for section in SECTIONS {
        for (what, bytes) in ILL_FORMED.iter().chain(&[("NUL", &b"a\0b"[..])]) {
            let pair = |name: &[u8], value: &[u8]| {
                let mut raw = vec![id::USER];
                text(&mut raw, name);
                text(&mut raw, value);
                Properties::new().raw(&raw)
            };
            failures.add(
                format!("{what} in the name in {section:?}"),
                refuse(section, pair(bytes, b"v"), &[MALFORMED]),
            );
            failures.add(
                format!("{what} in the value in {section:?}"),
                refuse(section, pair(b"n", bytes), &[MALFORMED]),
            );
        }
    }
    failures.report();
}

#[test]
fn mqtt_1_5_4_1_a_text_property_that_is_no_string_is_malformed() {
    let mut failures = Failures::new();
    for (id, value, allowed) in table() {
        if !matches!(value, Value::Text(_)) {
            continue;
        }
        for section in allowed {
            for (what, bytes) in ILL_FORMED.iter().chain(&[("NUL", &b"a\0b"[..])]) {
                let result = refuse(section, Properties::new().binary(id, bytes), &[MALFORMED]);
                failures.add(format!("{what} in property {id:#04x} in {section:?}"), result);
            }
        }
    }
    failures.report();
}

#[test]
fn clause_3_1_2_11_values_that_connect_must_not_have() {
    let mut failures = Failures::new();
    let mut connect = |what: &str, properties, reasons: &[u8]| {
        failures.add(what, refuse(Section::Connect, properties, reasons));
    };
    connect("receive maximum 0", one(id::RECEIVE_MAXIMUM, Value::Two(0)), &[PROTOCOL_ERROR]);
    connect("maximum packet size 0", one(id::MAXIMUM_PACKET_SIZE, Value::Four(0)), &[PROTOCOL_ERROR]);
    for value in [2, 0x80, 0xFF] {
        connect(
            "problem information",
            one(id::REQUEST_PROBLEM_INFORMATION, Value::Byte(value)),
            &[PROTOCOL_ERROR],
        );
        connect(
            "response information",
            one(id::REQUEST_RESPONSE_INFORMATION, Value::Byte(value)),
            &[PROTOCOL_ERROR],
        );
    }
    connect("data without a method", one(id::AUTHENTICATION_DATA, Value::Binary(vec![1])), &[PROTOCOL_ERROR]);
    failures.report();
}

#[test]
fn clause_3_1_2_11_the_extreme_values_are_taken() {
    for properties in [
        one(id::SESSION_EXPIRY, Value::Four(u32::MAX)),
        one(id::RECEIVE_MAXIMUM, Value::Two(1)),
        one(id::RECEIVE_MAXIMUM, Value::Two(u16::MAX)),
        one(id::MAXIMUM_PACKET_SIZE, Value::Four(u32::MAX)),
        one(id::TOPIC_ALIAS_MAXIMUM, Value::Two(0)),
        one(id::TOPIC_ALIAS_MAXIMUM, Value::Two(u16::MAX)),
        one(id::REQUEST_PROBLEM_INFORMATION, Value::Byte(0)),
        one(id::REQUEST_RESPONSE_INFORMATION, Value::Byte(0)),
    ] {
        Client::connect(&Connect::new(V5).properties(properties)).ping();
    }
}

#[test]
fn clause_3_3_2_3_values_that_publish_must_not_have() {
    let mut failures = Failures::new();
    for value in [2, 0x80, 0xFF] {
        let format = || one(id::PAYLOAD_FORMAT, Value::Byte(value));
        let what = format!("payload format {value}");
        failures.add(&what, refuse(Section::Publish, format(), &[MALFORMED, PROTOCOL_ERROR]));
        failures.add(format!("{what} of a will"), refuse(InWill, format(), &[MALFORMED, PROTOCOL_ERROR]));
    }
    let alias = one(id::TOPIC_ALIAS, Value::Two(0));
    failures.add("topic alias 0", refuse(Section::Publish, alias, &[ALIAS_INVALID, PROTOCOL_ERROR]));
    failures.report();
}

#[test]
fn clause_3_8_2_1_2_a_subscription_identifier_of_zero_is_a_protocol_error() {
    let zero = one(id::SUBSCRIPTION_IDENTIFIER, Value::Variable(0));
    refuse(Section::Subscribe, zero, &[PROTOCOL_ERROR]).unwrap();
    for value in [1, 127, 128, 268_435_455] {
        let mut client = Client::new(V5);
        client.send(packet(Section::Subscribe, one(id::SUBSCRIPTION_IDENTIFIER, Value::Variable(value))));
        assert_eq!(client.expect_suback(1).codes, [0]);
    }
}
