//! Keep-alive, PINGREQ and DISCONNECT (MQTT 5 clauses 3.1.2.10, 3.12 to 3.14).

use std::thread::sleep;
use std::time::{Duration, Instant};

use tidegate_conformance::client::{Came, PATIENCE};
use tidegate_conformance::ending::{
    Failures, KEEP_ALIVE_TIMEOUT, MALFORMED, PROTOCOL_ERROR, TAKEN_OVER, answer_bytes, ending,
};
use tidegate_conformance::packet::{DISCONNECT, PINGREQ, disconnect_with};
use tidegate_conformance::property::id;
use tidegate_conformance::wire::frame;
use tidegate_conformance::{Client, Connect, Packet, Properties, Publish, Version::V5, Will, name};

#[test]
fn mqtt_3_12_4_1_pingreq_is_answered_by_pingresp() {
    let mut client = Client::new(V5);
    client.send(PINGREQ);
    client.expect_bytes(&[0xD0, 0]);
    // One answer each.
    client.send(PINGREQ.repeat(20));
    client.expect_bytes(&[0xD0, 0].repeat(20));
    client.expect_silence();
}

#[test]
fn clause_3_12_pingreq_has_no_body_and_no_flags() {
    let mut failures = Failures::new();
    failures.offend("a body", frame(0xC0, &[0]), &[MALFORMED]);
    for flags in 1..16 {
        failures.offend(format!("flags {flags:#06b}"), frame(0xC0 | flags, &[]), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_1_2_22_a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    for seconds in [1, 2] {
        // From before its only packet was sent.
        let start = Instant::now();
        let mut client = Client::connect(&Connect::new(V5).keep_alive(seconds));
        client.expect_disconnect(KEEP_ALIVE_TIMEOUT);
        let silent = start.elapsed().as_secs_f64() / f64::from(seconds);
        assert!(silent >= 1.5, "closed after {silent} keep alives");
        assert!(start.elapsed().as_secs_f64() < 1.5 * f64::from(seconds) + 1.5, "{:?}", start.elapsed());
    }
}

#[test]
fn mqtt_3_1_2_22_any_packet_is_a_sign_of_life() {
    let topic = name("ping/alive");
    let mut client = Client::connect(&Connect::new(V5).keep_alive(1));
    for round in 0..5 {
        sleep(Duration::from_millis(900));
        if round % 2 == 0 { client.ping() } else { client.send_publish(&Publish::new(&topic, "x")) }
    }
    client.ping();
}

#[test]
fn mqtt_3_1_2_22_what_the_server_sends_is_no_sign_of_life() {
    let topic = name("ping/receives");
    let mut client = Client::connect(&Connect::new(V5).keep_alive(1));
    client.subscribe(&topic, 0);
    let mut sender = Client::new(V5);
    let start = Instant::now();
    let (mut ended, mut last) = (false, None);
    while !ended && start.elapsed() < Duration::from_secs(5) {
        sender.publish(&topic, "x", 0);
        loop {
            match client.read_within(Duration::from_millis(100)) {
                Came::Packet(packet) => last = Some(packet),
                Came::End => {
                    ended = true;
                    break;
                }
                Came::Nothing => break,
            }
        }
    }
    assert!(ended, "it is kept for {:?} without a packet", start.elapsed());
    let is_told = matches!(&last, Some(Packet::Disconnect(said)) if said.reason == KEEP_ALIVE_TIMEOUT);
    assert!(is_told, "{last:?}");
}

#[test]
fn mqtt_3_1_2_22_a_part_of_a_packet_is_no_sign_of_life() {
    let start = Instant::now();
    let mut client = Client::connect(&Connect::new(V5).keep_alive(1));
    // The header of a PUBLISH, then its body, a byte at a time.
    client.send([0x30, 0x7F]);
    while client.try_send([0]).is_ok() && start.elapsed() < Duration::from_secs(4) {
        sleep(Duration::from_millis(100));
    }
    assert!(start.elapsed() >= Duration::from_millis(1_500), "nor is it an offence: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(3_500), "it is kept without a packet");
}

#[test]
fn clause_3_1_2_10_a_keep_alive_of_zero_is_none() {
    let mut client = Client::connect(&Connect::new(V5).keep_alive(0));
    sleep(Duration::from_secs(4));
    client.ping();
}

#[test]
fn mqtt_3_14_0_1_no_disconnect_before_connack() {
    let mut failures = Failures::new();
    for (what, bytes) in [
        ("no CONNECT", Publish::new("a", "x").encode(V5)),
        ("a malformed CONNECT", Connect::new(V5).flags(1).encode()),
        (
            "a CONNECT above the maximum",
            vec![0x10, 0xFF, 0xFF, 0xFF, 0x7F, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0],
        ),
        (
            "a refused method",
            Connect::new(V5).properties(Properties::new().text(id::AUTHENTICATION_METHOD, "m")).encode(),
        ),
        ("another version", Connect { level: 9, ..Connect::new(V5) }.encode()),
        ("nonsense", vec![0xFF; 64]),
    ] {
        let result = answer_bytes(&bytes).and_then(|answer| match answer.first() {
            None | Some(0x20) => Ok(()),
            _ => Err(format!("the server answers {answer:02X?}")),
        });
        failures.add(what, result);
    }
    failures.report();
}

#[test]
fn mqtt_3_14_1_1_reserved_flags_of_disconnect_are_malformed() {
    let mut failures = Failures::new();
    for flags in 1..16 {
        failures.offend(format!("flags {flags:#06b}"), [0xE0 | flags, 0], &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_14_1_1_a_disconnect_with_reserved_flags_leaves_the_will_in_force() {
    let topic = name("disconnect/will");
    let mut watcher = Client::new(V5);
    watcher.subscribe(&topic, 0);
    let mut client = Client::connect(&Connect::new(V5).will(Will::new(&topic, "will")));
    client.send([0xE1, 0]);
    client.expect_disconnect(MALFORMED);
    watcher.expect_payload("will");
}

#[test]
fn mqtt_3_14_2_1_a_servers_code_is_one_of_its_table() {
    const CODES: [u8; 28] = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
        0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
    ];
    for bytes in [
        &[0x00, 0][..],
        &[0x30, 0],
        &[0x82, 3, 0, 1, 0],
        &[0x30, 0xFF, 0xFF, 0xFF, 0x7F],
        &[0x20, 3, 0, 0, 0],
    ] {
        let mut client = Client::new(V5);
        client.send(bytes);
        match client.read_within(PATIENCE) {
            Came::Packet(Packet::Disconnect(said)) => {
                assert!(CODES.contains(&said.reason), "{said:?}");
                assert!(said.reason >= 0x80, "{said:?} for an error");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn mqtt_3_14_2_1_a_clients_code_is_one_that_a_client_may_send() {
    const CLIENT: [u8; 14] =
        [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    let mut failures = Failures::new();
    for code in (0..=u8::MAX).filter(|code| !CLIENT.contains(code)) {
        let bytes = disconnect_with(code, &Properties::new());
        failures.offend(format!("code {code:#04x}"), bytes, &[MALFORMED, PROTOCOL_ERROR]);
    }
    failures.report();
    for code in CLIENT {
        let mut client = Client::new(V5);
        client.send(disconnect_with(code, &Properties::new()));
        client.expect_closed();
    }
}

#[test]
fn clause_3_14_2_every_form_of_disconnect_is_taken() {
    let reason = Properties::new().text(id::REASON_STRING, "bye").user("a", "b").four(id::SESSION_EXPIRY, 0);
    for bytes in [DISCONNECT.to_vec(), vec![0xE0, 1, 0], vec![0xE0, 2, 0, 0], disconnect_with(0, &reason)] {
        let mut client = Client::new(V5);
        client.send(bytes);
        client.expect_closed();
    }
}

#[test]
fn mqtt_3_14_2_2_a_servers_disconnect_has_no_session_expiry() {
    let connect = Connect::new(V5).persistent();
    let mut older = Client::connect(&connect);
    let _newer = Client::connect(&connect);
    let said = older.expect_disconnect(TAKEN_OVER);
    assert_eq!(said.properties.get(id::SESSION_EXPIRY), None);
    let mut wrong = Client::connect(&Connect::new(V5).persistent());
    wrong.send([0x00, 0]);
    match wrong.expect() {
        Packet::Disconnect(said) => assert_eq!(said.properties.get(id::SESSION_EXPIRY), None),
        other => panic!("{other:?}"),
    }
}

#[test]
fn mqtt_3_14_4_1_nothing_follows_a_servers_disconnect() {
    let topic = name("disconnect/last");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 0);
    // Answers and messages are on their way when the error comes.
    let mut bytes = Vec::new();
    for number in 1..=50 {
        bytes.extend(Publish::new(&topic, "x").qos(1, number).encode(V5));
    }
    bytes.extend([0x00, 0]);
    bytes.extend(PINGREQ.repeat(50));
    client.send(bytes);
    let packets = ending(&mut client).unwrap();
    let at = packets.iter().position(|packet| matches!(packet, Packet::Disconnect(_)));
    assert_eq!(at, Some(packets.len() - 1), "{packets:?}");
}

#[test]
fn mqtt_3_14_4_1_what_follows_a_clients_disconnect_is_not_done() {
    let topic = name("disconnect/after");
    let mut watcher = Client::new(V5);
    watcher.subscribe(&topic, 0);
    let mut bytes = Publish::new(&topic, "before").encode(V5);
    bytes.extend(DISCONNECT);
    bytes.extend(Publish::new(&topic, "after").encode(V5));
    bytes.extend(PINGREQ);
    let mut client = Client::new(V5);
    client.send(bytes);
    let packets = client.expect_end();
    assert_eq!(packets, [], "no PINGRESP either");
    watcher.expect_payload("before");
    Client::new(V5).publish(&topic, "marker", 0);
    watcher.expect_payload("marker");
}

#[test]
fn mqtt_3_14_4_2_the_server_closes_after_its_disconnect() {
    let mut client = Client::new(V5);
    client.send([0x00, 0]);
    let Packet::Disconnect(_) = client.expect() else { panic!("DISCONNECT was expected") };
    client.expect_closed();
}

#[test]
fn mqtt_3_14_4_2_the_server_closes_after_the_clients_disconnect() {
    for reason in [0x00, 0x04, 0x81] {
        let mut client = Client::new(V5);
        client.send(disconnect_with(reason, &Properties::new()));
        client.expect_closed();
    }
}
