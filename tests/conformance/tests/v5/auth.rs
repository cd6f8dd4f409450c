//! AUTH and enhanced authentication (MQTT 5 clauses 3.15 and 4.12). This server knows no method.

use tidegate_conformance::ending::{
    BAD_METHOD, Failures, MALFORMED, NOT_AUTHORIZED, PROTOCOL_ERROR, connect_refused,
};
use tidegate_conformance::packet::auth;
use tidegate_conformance::property::id;
use tidegate_conformance::wire::frame;
use tidegate_conformance::{Client, Connect, Packet, Properties, Version::V5, Will, name};

fn method(method: &str) -> Properties {
    Properties::new().text(id::AUTHENTICATION_METHOD, method)
}

#[test]
fn mqtt_3_15_1_1_other_flags_of_auth_are_malformed() {
    let mut failures = Failures::new();
    for flags in 1..16 {
        let mut bytes = auth(0x19, &method("m"));
        bytes[0] |= flags;
        failures.offend(format!("flags {flags:#06b}"), bytes, &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_15_2_1_auth_has_a_code_of_its_table() {
    let mut failures = Failures::new();
    for code in (0..=u8::MAX).filter(|code| ![0x00, 0x18, 0x19].contains(code)) {
        let bytes = auth(code, &method("m"));
        failures.offend(format!("code {code:#04x}"), bytes, &[MALFORMED, PROTOCOL_ERROR]);
    }
    failures.report();
}

#[test]
fn mqtt_4_12_0_1_a_method_that_is_not_known_ends_the_connection() {
    let mut failures = Failures::new();
    for (what, properties) in [
        ("SCRAM-SHA-1", method("SCRAM-SHA-1")),
        ("an empty method", method("")),
        ("with data", method("GS2-KRB5").binary(id::AUTHENTICATION_DATA, [0, 1, 2])),
    ] {
        let connect = Connect::new(V5).properties(properties);
        failures.connect(what, &connect, &[BAD_METHOD, NOT_AUTHORIZED]);
        failures.connect(
            format!("{what}, and a login"),
            &connect.login("u", "p"),
            &[BAD_METHOD, NOT_AUTHORIZED],
        );
    }
    failures.report();
}

#[test]
fn mqtt_4_12_0_4_a_refused_authentication_ends_the_connection() {
    // Its session and its will never come to be.
    let topic = name("auth/will");
    let mut watcher = Client::new(V5);
    watcher.subscribe(&topic, 0);
    let connect = Connect::new(V5).persistent();
    let with_method = connect.properties.clone().text(id::AUTHENTICATION_METHOD, "m");
    let refused = connect.clone().will(Will::new(&topic, "will")).properties(with_method);
    connect_refused(V5, &refused.encode(), &[BAD_METHOD, NOT_AUTHORIZED]).unwrap();
    let (_, answer) = Client::connect_with(&connect);
    assert!(!answer.session_present);
    watcher.ping();
    watcher.expect_silence();
}

#[test]
fn mqtt_4_12_0_6_without_a_method_there_is_no_auth_and_none_in_connack() {
    let (mut client, answer) = Client::connect_with(&Connect::new(V5).login("user", "password"));
    assert_eq!(answer.properties.get(id::AUTHENTICATION_METHOD), None);
    assert_eq!(answer.properties.get(id::AUTHENTICATION_DATA), None);
    client.ping();
}

#[test]
fn mqtt_4_12_0_7_auth_of_a_client_without_a_method_is_a_protocol_error() {
    let mut failures = Failures::new();
    for code in [0x18, 0x19] {
        failures.offend(format!("code {code:#04x}"), auth(code, &method("m")), &[PROTOCOL_ERROR]);
        failures.offend(
            format!("code {code:#04x}, no method"),
            auth(code, &Properties::new()),
            &[PROTOCOL_ERROR],
        );
        failures.offend(
            format!("code {code:#04x} alone"),
            frame(0xF0, &[code]),
            &[PROTOCOL_ERROR, MALFORMED],
        );
    }
    // Success is for a server to say.
    failures.offend("success", auth(0x00, &method("m")), &[PROTOCOL_ERROR, MALFORMED]);
    failures.offend("nothing", frame(0xF0, &[]), &[PROTOCOL_ERROR, MALFORMED]);
    failures.report();
}

#[test]
fn mqtt_4_12_1_2_authenticating_again_without_having_done_so_ends_the_connection() {
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.send(auth(0x19, &method("m")));
    client.expect_disconnect(PROTOCOL_ERROR);
    // The session is not the worse for it.
    assert!(Client::connect_with(&connect).1.session_present);
}

#[test]
fn clause_3_1_2_11_10_data_without_a_method_is_a_protocol_error() {
    let data = Properties::new().binary(id::AUTHENTICATION_DATA, [1]);
    connect_refused(V5, &Connect::new(V5).properties(data).encode(), &[PROTOCOL_ERROR]).unwrap();
}

#[test]
fn clause_4_12_auth_in_the_same_breath_as_connect_does_not_help() {
    let mut bytes = Connect::new(V5).properties(method("m")).encode();
    bytes.extend(auth(0x18, &method("m").binary(id::AUTHENTICATION_DATA, [1])));
    let mut client = Client::open(V5);
    client.send(bytes);
    let answer = client.expect_end();
    assert!(
        matches!(&answer[..], [Packet::ConnAck(answer)] if [BAD_METHOD, NOT_AUTHORIZED].contains(&answer.code)),
        "{answer:?}"
    );
}
