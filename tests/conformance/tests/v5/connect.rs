//! CONNECT (MQTT 5 clause 3.1): its fields and flags. Sessions and wills have files of their own.

use tidegate_conformance::ending::{
    BAD_METHOD, CLIENT_ID_INVALID, Failures, MALFORMED, PROTOCOL_ERROR, TAKEN_OVER, answer_bytes,
    connect_refused,
};
use tidegate_conformance::packet::{self, DISCONNECT, PINGREQ};
use tidegate_conformance::property::id;
use tidegate_conformance::wire::{ILL_FORMED, frame, text, two};
use tidegate_conformance::{
    Client, Connect, Packet, Properties, Publish, Subscribe, Unsubscribe, Version::V5, Will, kind, name,
};

/// A CONNECT with every field that there is.
fn full() -> Connect {
    let properties =
        Properties::new().four(id::SESSION_EXPIRY, 0).two(id::RECEIVE_MAXIMUM, 10).user("a", "b");
    let will = Will::new(name("connect/will"), "w").properties(Properties::new().user("c", "d"));
    Connect::new(V5).properties(properties).will(will).login("user", "password")
}

#[test]
fn mqtt_3_1_0_1_the_first_packet_must_be_connect() {
    let mut failures = Failures::new();
    for (what, bytes) in [
        ("PUBLISH", Publish::new("connect/first", "x").encode(V5)),
        ("PUBACK", packet::ack(kind::PUBACK, 1)),
        ("PUBREL", packet::ack(kind::PUBREL, 1)),
        ("SUBSCRIBE", Subscribe::new(1).filter("connect/first", 0).encode(V5)),
        ("UNSUBSCRIBE", Unsubscribe::new(1).filter("connect/first").encode(V5)),
        ("PINGREQ", PINGREQ.to_vec()),
        ("DISCONNECT", DISCONNECT.to_vec()),
        ("AUTH", packet::auth(0x18, &Properties::new().text(id::AUTHENTICATION_METHOD, "m"))),
        ("CONNACK", frame(0x20, &[0, 0, 0])),
        ("the reserved type", frame(0x00, &[])),
        ("something else", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ] {
        failures.add(
            what,
            answer_bytes(&bytes).and_then(|answer| match &answer[..] {
                [] => Ok(()),
                _ => Err(format!("no CONNECT, and the server answers {answer:02X?}")),
            }),
        );
    }
    failures.report();
}

#[test]
fn mqtt_3_1_0_2_a_second_connect_is_a_protocol_error() {
    let connect = Connect::new(V5);
    let mut client = Client::connect(&connect);
    client.send(connect.encode());
    client.expect_disconnect(PROTOCOL_ERROR);
}

/// Closed, after CONNACK 0x84, or 1 in the form before MQTT 5, or nothing: gives which.
fn version_refused(connect: &Connect) -> Result<Vec<u8>, String> {
    let answer = answer_bytes(&connect.encode())?;
    match answer[..] {
        [] | [0x20, 2, 0, 1] | [0x20, 3, 0, 0x84, 0] => Ok(answer),
        _ => Err(format!("the server answers {answer:02X?}")),
    }
}

#[test]
fn mqtt_3_1_2_1_another_protocol_name_ends_the_connection() {
    let mut failures = Failures::new();
    for protocol in
        ["", "M", "MQT", "MQTTX", "mqtt", "MQTt", "MQIsdp", "HTTP", "MQTT\0", "\u{feff}MQTT", "МQTT"]
    {
        let connect = Connect { protocol: protocol.into(), ..Connect::new(V5) };
        failures.add(
            format!("{protocol:?}"),
            version_refused(&connect).and_then(|answer| {
                // It is not of an earlier version.
                let earlier = answer == [0x20, 2, 0, 1] && protocol != "MQIsdp";
                if earlier { Err("CONNACK of MQTT 3.1.1".to_owned()) } else { Ok(()) }
            }),
        );
    }
    failures.report();
}

#[test]
fn mqtt_3_1_2_2_another_version_ends_the_connection() {
    let mut failures = Failures::new();
    for level in [0, 1, 2, 3, 6, 7, 0x7F, 0x80, 0x85, 0xFF] {
        failures.add(
            format!("level {level}"),
            version_refused(&Connect { level, ..Connect::new(V5) }).map(|_| ()),
        );
    }
    failures.report();
}

#[test]
fn mqtt_3_1_2_3_the_reserved_connect_flag_is_malformed() {
    let mut failures = Failures::new();
    for (what, connect) in [("without a will", Connect::new(V5)), ("with everything", full())] {
        let flags = connect.proper_flags() | 1;
        failures.connect(what, &connect.flags(flags), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_1_2_9_the_will_flag_needs_the_fields_of_a_will() {
    let connect = || Connect::new(V5).flags(0b110);
    let mut failures = Failures::new();
    failures.connect("no field", &connect(), &[MALFORMED]);
    failures.connect("properties alone", &connect().tail([0]), &[MALFORMED]);
    failures.connect("properties and topic", &connect().tail(b"\0\0\x01a"), &[MALFORMED]);
    failures.connect("a payload that is cut off", &connect().tail(b"\0\0\x01a\0\x02x"), &[MALFORMED]);
    failures.connect("topic and payload, no properties", &connect().tail(b"\0\x01a\0\x01x"), &[MALFORMED]);
    failures.report();
    Client::connect(&connect().tail(b"\0\0\x01a\0\x01x")).disconnect();
}

#[test]
fn mqtt_3_1_2_9_without_the_will_flag_the_fields_of_a_will_are_too_much() {
    let connect = Connect::new(V5).will(Will::new("connect/will", "x")).flags(0b10);
    connect_refused(V5, &connect.encode(), &[MALFORMED]).unwrap();
}

#[test]
fn mqtt_3_1_2_11_will_qos_without_a_will_is_refused() {
    let mut failures = Failures::new();
    for qos in 1..=3 {
        let connect = Connect::new(V5).flags(0b10 | qos << 3);
        failures.connect(format!("will QoS {qos}"), &connect, &[MALFORMED, PROTOCOL_ERROR]);
    }
    failures.report();
}

#[test]
fn mqtt_3_1_2_12_a_will_qos_of_three_is_malformed() {
    let connect = Connect::new(V5).will(Will::new(name("connect/will"), "x").qos(3));
    connect_refused(V5, &connect.encode(), &[MALFORMED]).unwrap();
}

#[test]
fn mqtt_3_1_2_13_will_retain_without_a_will_is_refused() {
    let connect = Connect::new(V5).flags(0b10 | 0b10_0000);
    connect_refused(V5, &connect.encode(), &[MALFORMED, PROTOCOL_ERROR]).unwrap();
}

/// `connect`, with the flags that `drop` names taken away although their fields are there.
fn without_flags(connect: Connect, drop: u8) -> Connect {
    let flags = connect.proper_flags() & !drop;
    connect.flags(flags)
}

#[test]
fn mqtt_3_1_2_16_a_user_name_without_its_flag_is_malformed() {
    let mut connect = full();
    connect.password = None;
    connect_refused(V5, &without_flags(connect, 0x80).encode(), &[MALFORMED]).unwrap();
}

#[test]
fn mqtt_3_1_2_17_the_user_name_flag_without_a_user_name_is_malformed() {
    let mut failures = Failures::new();
    failures.connect("nothing follows", &Connect::new(V5).flags(0x82), &[MALFORMED]);
    failures.connect("a length alone", &Connect::new(V5).flags(0x82).tail([0, 4]), &[MALFORMED]);
    failures.connect("both flags, one field", &Connect::new(V5).flags(0xC2).tail(b"\0\x01p"), &[MALFORMED]);
    failures.report();
}

#[test]
fn mqtt_3_1_2_18_a_password_without_its_flag_is_malformed() {
    connect_refused(V5, &without_flags(full(), 0x40).encode(), &[MALFORMED]).unwrap();
}

#[test]
fn mqtt_3_1_2_19_the_password_flag_without_a_password_is_malformed() {
    let mut failures = Failures::new();
    failures.connect("nothing follows", &Connect::new(V5).flags(0x42), &[MALFORMED]);
    failures.connect("a field that is cut off", &Connect::new(V5).flags(0x42).tail(b"\0\x02p"), &[MALFORMED]);
    failures.report();
}

#[test]
fn mqtt_3_1_2_19_a_password_needs_no_user_name() {
    // New in MQTT 5 (clause 3.1.2.9). Whether the password is accepted is another matter.
    let mut client = Client::open(V5);
    client.send(Connect { password: Some(vec![0xFF, 0]), ..Connect::new(V5) }.encode());
    let code = client.expect_connack().code;
    assert!(matches!(code, 0 | 0x86 | 0x87), "{code:#04x}");
}

#[test]
fn mqtt_3_1_3_1_the_fields_are_taken_in_their_order() {
    let topic = name("connect/order");
    let mut watcher = Client::new(V5);
    watcher.subscribe(&topic, 0);
    let mut connect = full();
    connect.will = Some(Will::new(&topic, "the payload").properties(Properties::new().user("c", "d")));
    Client::connect(&connect).cut();
    let will = watcher.expect_payload("the payload");
    assert_eq!(will.properties.users(), [("c", "d")]);
}

#[test]
fn mqtt_3_1_3_2_the_client_id_names_the_session() {
    let connect = Connect::new(V5).persistent();
    Client::connect(&connect).disconnect();
    let (other, answer) = Client::connect_with(&Connect::new(V5).persistent());
    assert!(!answer.session_present, "a new client id has no session");
    let (same, answer) = Client::connect_with(&connect);
    assert!(answer.session_present, "the session of this client id");
    other.disconnect();
    same.disconnect();
}

#[test]
fn mqtt_3_1_3_3_the_client_id_must_be_there() {
    let mut body = Vec::new();
    text(&mut body, "MQTT");
    body.extend([5, 0b10]);
    two(&mut body, 0);
    body.push(0);
    connect_refused(V5, &frame(0x10, &body), &[MALFORMED]).unwrap();
}

#[test]
fn mqtt_3_1_3_4_a_client_id_that_is_no_string_is_malformed() {
    let mut failures = Failures::new();
    for (what, bytes) in ILL_FORMED.iter().chain(&[("NUL", &b"a\0b"[..])]) {
        failures.connect(what, &Connect::new(V5).client_id(bytes), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_1_3_5_letters_and_digits_up_to_their_greatest_length_are_taken() {
    const ALPHABET: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for length in 1..=23 {
        let start = length * 2 % (ALPHABET.len() - 23);
        Client::connect(&Connect::new(V5).client_id(&ALPHABET[start..start + length])).ping();
    }
    for chunk in ALPHABET.as_bytes().chunks(23) {
        let (mut client, answer) = Client::connect_with(&Connect::new(V5).client_id(chunk));
        assert_eq!(answer.properties.get(id::ASSIGNED_CLIENT_ID), None, "it has one");
        client.ping();
    }
}

#[test]
fn mqtt_3_1_3_6_an_empty_client_id_is_replaced_whatever_clean_start_says() {
    for clean in [true, false] {
        let (client, answer) = Client::connect_with(&Connect::new(V5).client_id("").clean(clean));
        assert!(
            answer.properties.string(id::ASSIGNED_CLIENT_ID).is_some_and(|assigned| !assigned.is_empty())
        );
        assert!(!answer.session_present);
        client.disconnect();
    }
}

#[test]
fn mqtt_3_1_3_7_the_assigned_client_id_is_as_good_as_the_clients_own() {
    let (client, answer) = Client::connect_with(&Connect::new(V5).client_id("").persistent());
    let assigned = answer.properties.string(id::ASSIGNED_CLIENT_ID).unwrap().to_owned();
    client.cut();
    let (client, answer) = Client::connect_with(&Connect::new(V5).client_id(&assigned).persistent());
    assert!(answer.session_present, "the session of {assigned}");
    assert_eq!(answer.properties.get(id::ASSIGNED_CLIENT_ID), None);
    client.disconnect();
}

#[test]
fn mqtt_3_1_3_8_a_client_id_is_taken_or_the_connection_ends() {
    // This server takes 1,024 bytes, unless it is told otherwise (broker.max_client_id_bytes).
    let long = |length| Connect::new(V5).client_id(format!("{:x<length$}", name("long")));
    for length in [24, 256, 1_024] {
        Client::connect(&long(length)).ping();
    }
    let mut failures = Failures::new();
    for length in [1_025, 16_384, 65_535] {
        failures.connect(format!("{length} bytes"), &long(length), &[CLIENT_ID_INVALID]);
    }
    failures.report();
}

#[test]
fn mqtt_3_1_3_11_a_will_topic_that_is_no_string_is_malformed() {
    let mut failures = Failures::new();
    for (what, bytes) in ILL_FORMED.iter().chain(&[("NUL", &b"a\0b"[..])]) {
        failures.connect(what, &Connect::new(V5).will(Will::new(bytes, "x")), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_1_3_12_a_user_name_that_is_no_string_is_malformed() {
    let mut failures = Failures::new();
    for (what, bytes) in ILL_FORMED.iter().chain(&[("NUL", &b"a\0b"[..])]) {
        failures.connect(what, &Connect::new(V5).login(bytes, "x"), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_1_4_1_connect_cut_off_anywhere_is_malformed() {
    let body = full().body();
    // Name and level are the first seven bytes; before them the server cannot know which version to answer in.
    let known = 7;
    let mut failures = Failures::new();
    for length in 0..body.len() {
        let bytes = frame(0x10, &body[..length]);
        let what = format!("{length} of {} bytes", body.len());
        if length < known {
            let result = answer_bytes(&bytes).and_then(|answer| match &answer[..] {
                [] | [0x20, 2, 0, 1] | [0x20, 3, 0, 0x81 | 0x84, 0] => Ok(()),
                _ => Err(format!("the server answers {answer:02X?}")),
            });
            failures.add(what, result);
        } else {
            failures.add(what, connect_refused(V5, &bytes, &[MALFORMED]));
        }
    }
    failures.report();
}

#[test]
fn mqtt_3_1_4_1_bytes_after_the_last_field_are_malformed() {
    let mut failures = Failures::new();
    failures.connect("one byte", &Connect::new(V5).tail([0]), &[MALFORMED]);
    failures.connect("after every field", &full().tail([0]), &[MALFORMED]);
    failures.connect("a packet", &Connect::new(V5).tail(PINGREQ), &[MALFORMED]);
    failures.report();
}

#[test]
fn mqtt_3_1_4_1_header_flags_are_malformed() {
    let mut failures = Failures::new();
    for flags in 1..=15 {
        let mut bytes = Connect::new(V5).encode();
        bytes[0] |= flags;
        let result = answer_bytes(&bytes).and_then(|answer| match &answer[..] {
            [0x20, 3, 0, 0x81, 0] => Ok(()),
            _ => Err(format!("the server answers {answer:02X?}")),
        });
        failures.add(format!("flags {flags:#06b}"), result);
    }
    failures.report();
}

#[test]
fn mqtt_3_1_4_2_a_connect_that_is_not_accepted_ends_the_connection() {
    let method = Properties::new().text(id::AUTHENTICATION_METHOD, "no-such-method");
    connect_refused(V5, &Connect::new(V5).properties(method).encode(), &[BAD_METHOD]).unwrap();
}

#[test]
fn mqtt_3_1_4_3_the_older_connection_of_a_client_is_taken_over() {
    for connect in [Connect::new(V5), Connect::new(V5).persistent()] {
        let mut older = Client::connect(&connect);
        older.subscribe(name("connect/taken"), 1);
        let mut newer = Client::connect(&connect);
        older.expect_disconnect(TAKEN_OVER);
        newer.ping();
        newer.disconnect();
    }
}

#[test]
fn mqtt_3_1_4_3_a_client_is_told_apart_by_its_whole_id() {
    let base = name("Taken");
    let mut clients: Vec<Client> =
        [base.clone(), base.to_lowercase(), format!("{base} "), format!("{base}/")]
            .iter()
            .map(|client_id| Client::connect(&Connect::new(V5).client_id(client_id)))
            .collect();
    for client in &mut clients {
        client.ping();
    }
}

#[test]
fn mqtt_3_1_4_4_clean_start_is_done_before_connack() {
    let topic = name("connect/clean");
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 1);
    client.cut();
    let mut client = Client::connect(&connect.clean(true));
    Client::new(V5).publish(&topic, "for the old session", 1);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_1_4_5_connect_is_acknowledged_with_success() {
    let mut client = Client::open(V5);
    client.send(Connect::new(V5).encode());
    let answer = client.expect_connack();
    assert_eq!((answer.code, answer.session_present), (0, false));
    client.ping();
}

#[test]
fn mqtt_3_1_4_5_packets_need_not_wait_for_connack() {
    let topic = name("connect/early");
    let mut bytes = Connect::new(V5).encode();
    bytes.extend(Subscribe::new(1).filter(&topic, 0).encode(V5));
    bytes.extend(Publish::new(&topic, "early").encode(V5));
    bytes.extend(PINGREQ);
    let mut client = Client::open(V5);
    client.send(bytes);
    assert_eq!(client.expect_connack().code, 0);
    // In whatever order: they answer each its own packet.
    let rest = [client.expect(), client.expect(), client.expect()];
    let came = |is: &dyn Fn(&Packet) -> bool| assert!(rest.iter().any(is), "{rest:?}");
    came(&|packet| matches!(packet, Packet::SubAck(codes) if codes.id == 1 && codes.codes == [0]));
    came(&|packet| matches!(packet, Packet::Publish(publish) if publish.text() == "early"));
    came(&|packet| matches!(packet, Packet::PingResp));
}

#[test]
fn mqtt_3_1_4_6_what_follows_a_refused_connect_is_not_done() {
    let topic = name("connect/refused");
    let mut watcher = Client::new(V5);
    watcher.subscribe(format!("{topic}/#"), 0);
    for (what, mut bytes, code) in [
        (
            "method",
            Connect::new(V5).properties(Properties::new().text(id::AUTHENTICATION_METHOD, "m")).encode(),
            BAD_METHOD,
        ),
        ("flag", Connect::new(V5).flags(0b11).encode(), MALFORMED),
    ] {
        let topic = format!("{topic}/{what}");
        bytes.extend(Publish::new(&topic, "from a refused client").retain().encode(V5));
        bytes.extend(PINGREQ);
        connect_refused(V5, &bytes, &[code]).unwrap();
        Client::new(V5).publish(&topic, "marker", 0);
        watcher.expect_payload("marker");
        let mut later = Client::new(V5);
        later.subscribe(&topic, 0);
        later.ping();
        later.expect_silence();
    }
}
