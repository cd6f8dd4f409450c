//! What ends a connection, whatever the packet (MQTT 5 clauses 1.5, 2.1, 2.2.1 and 4.13).

use tidegate_conformance::ending::{Failures, MALFORMED, PROTOCOL_ERROR, TOO_LARGE, ending, offend};
use tidegate_conformance::packet::{PINGREQ, ack, ack_with};
use tidegate_conformance::wire::{ILL_FORMED, frame, frame_with_length, text};
use tidegate_conformance::{
    Client, Connect, Packet, Properties, Publish, Subscribe, Unsubscribe, Version::V5, Will, kind, name,
};

/// A right packet of each type that a client sends after CONNECT, with the first byte that it must have.
fn right() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("PUBACK", ack(kind::PUBACK, 1)),
        ("PUBREC", ack(kind::PUBREC, 1)),
        ("PUBREL", ack(kind::PUBREL, 1)),
        ("PUBCOMP", ack(kind::PUBCOMP, 1)),
        ("SUBSCRIBE", Subscribe::new(1).filter("errors/flags", 0).encode(V5)),
        ("UNSUBSCRIBE", Unsubscribe::new(1).filter("errors/flags").encode(V5)),
        ("PINGREQ", PINGREQ.to_vec()),
        ("DISCONNECT", vec![0xE0, 0]),
    ]
}

#[test]
fn mqtt_2_1_3_1_reserved_header_flags_are_malformed() {
    let mut failures = Failures::new();
    for (what, bytes) in right() {
        for flags in (0..16).filter(|flags| *flags != bytes[0] & 0x0F) {
            let mut bytes = bytes.clone();
            bytes[0] = bytes[0] & 0xF0 | flags;
            failures.offend(format!("{what} with flags {flags:#06b}"), &bytes, &[MALFORMED]);
        }
    }
    failures.report();
}

#[test]
fn mqtt_1_5_4_1_a_string_that_is_no_utf_8_is_malformed() {
    let mut failures = Failures::new();
    for (what, bytes) in ILL_FORMED {
        let subscribe = Subscribe::new(1).filter(bytes, 0);
        let unsubscribe = Unsubscribe::new(1).filter(bytes);
        failures.offend(format!("{what} in PUBLISH"), Publish::new(bytes, "x").encode(V5), &[MALFORMED]);
        failures.offend(format!("{what} in SUBSCRIBE"), subscribe.encode(V5), &[MALFORMED]);
        failures.offend(format!("{what} in UNSUBSCRIBE"), unsubscribe.encode(V5), &[MALFORMED]);
        failures.connect(format!("{what} in CONNECT"), &Connect::new(V5).client_id(bytes), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_1_5_4_1_every_code_point_that_may_be_there_is_taken() {
    // Control characters and those that are none may be refused (clause 1.5.4).
    let mut client = Client::new(V5);
    for text in
        ["\u{A0}", "\u{7FF}", "\u{800}", "\u{D7FF}", "\u{E000}", "\u{FFFD}", "\u{10000}", "\u{10FFFD}"]
    {
        let topic = format!("{}{text}", name("errors/"));
        client.subscribe(&topic, 0);
        client.send_publish(&Publish::new(&topic, text));
        assert_eq!(client.expect_payload(text).topic(), topic);
    }
}

#[test]
fn mqtt_1_5_4_2_a_string_with_nul_is_malformed() {
    let mut failures = Failures::new();
    for text in ["\0", "a\0", "\0a", "a\0b", "a/\0/b"] {
        let what = text.escape_debug();
        failures.offend(format!("{what} in PUBLISH"), Publish::new(text, "x").encode(V5), &[MALFORMED]);
        failures.offend(
            format!("{what} in SUBSCRIBE"),
            Subscribe::new(1).filter(text, 0).encode(V5),
            &[MALFORMED],
        );
        failures.offend(
            format!("{what} in UNSUBSCRIBE"),
            Unsubscribe::new(1).filter(text).encode(V5),
            &[MALFORMED],
        );
        failures.connect(format!("{what} as client id"), &Connect::new(V5).client_id(text), &[MALFORMED]);
        failures.connect(format!("{what} as user name"), &Connect::new(V5).login(text, "x"), &[MALFORMED]);
        failures.connect(
            format!("{what} as will topic"),
            &Connect::new(V5).will(Will::new(text, "x")),
            &[MALFORMED],
        );
    }
    failures.report();
}

#[test]
fn mqtt_1_5_5_1_a_remaining_length_in_more_bytes_than_it_needs_is_malformed() {
    let mut failures = Failures::new();
    for bytes in
        [&[0xC0, 0x80, 0][..], &[0xC0, 0x80, 0x80, 0], &[0xC0, 0x80, 0x80, 0x80, 0], &[0x40, 0x82, 0, 0, 1]]
    {
        failures.offend(format!("{bytes:02X?}"), bytes, &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn clause_2_1_4_a_remaining_length_of_five_bytes_is_malformed() {
    let mut failures = Failures::new();
    for first in [0x30, 0x40, 0x82, 0xC0, 0xE0] {
        for last in [0, 1, 0x7F, 0x80] {
            let bytes = [first, 0xFF, 0xFF, 0xFF, 0xFF, last];
            failures.offend(format!("{bytes:02X?}"), bytes, &[MALFORMED]);
        }
    }
    failures.report();
}

#[test]
fn clause_2_1_2_the_reserved_type_is_refused() {
    let mut failures = Failures::new();
    for bytes in [&[0x00, 0][..], &[0x0F, 0], &[0x00, 2, 0, 1]] {
        failures.offend(format!("{bytes:02X?}"), bytes, &[MALFORMED, PROTOCOL_ERROR]);
    }
    failures.report();
}

#[test]
fn clause_2_1_2_packets_that_only_a_server_sends_are_refused() {
    let mut failures = Failures::new();
    for (what, bytes) in [
        ("CONNACK", frame(0x20, &[0, 0, 0])),
        ("SUBACK", frame(0x90, &[0, 1, 0, 0])),
        ("UNSUBACK", frame(0xB0, &[0, 1, 0, 0])),
        ("PINGRESP", frame(0xD0, &[])),
    ] {
        failures.offend(what, bytes, &[PROTOCOL_ERROR]);
    }
    failures.report();
}

#[test]
fn mqtt_2_2_1_3_packet_identifier_zero_is_refused() {
    let mut failures = Failures::new();
    let topic = name("errors/zero");
    for (what, bytes) in [
        ("PUBLISH of QoS 1", Publish::new(&topic, "x").qos(1, 0).encode(V5)),
        ("PUBLISH of QoS 2", Publish::new(&topic, "x").qos(2, 0).encode(V5)),
        ("SUBSCRIBE", Subscribe::new(0).filter(&topic, 0).encode(V5)),
        ("UNSUBSCRIBE", Unsubscribe::new(0).filter(&topic).encode(V5)),
        ("PUBACK", ack(kind::PUBACK, 0)),
        ("PUBREC", ack(kind::PUBREC, 0)),
        ("PUBREL", ack(kind::PUBREL, 0)),
        ("PUBCOMP", ack(kind::PUBCOMP, 0)),
        ("PUBREL with a code", ack_with(kind::PUBREL, 0, 0, &Properties::new())),
    ] {
        failures.offend(what, bytes, &[MALFORMED, PROTOCOL_ERROR]);
    }
    failures.report();
}

#[test]
fn mqtt_4_13_1_1_packets_that_are_too_short_are_malformed() {
    let mut failures = Failures::new();
    for (what, bytes) in [
        ("PUBLISH", Publish::new("errors/short", "").qos(1, 1).encode(V5)),
        ("SUBSCRIBE", Subscribe::new(1).filter("errors/short", 0).encode(V5)),
        ("UNSUBSCRIBE", Unsubscribe::new(1).filter("errors/short").encode(V5)),
        ("PUBACK", ack(kind::PUBACK, 1)),
        ("PUBREC", ack(kind::PUBREC, 1)),
        ("PUBREL", ack(kind::PUBREL, 1)),
        ("PUBCOMP", ack(kind::PUBCOMP, 1)),
    ] {
        let body = &bytes[2..];
        for length in 0..body.len() {
            // SUBSCRIBE without a filter is a protocol error, however it came to be so.
            let empty = bytes[0] & 0x80 != 0 && length == 3;
            let reason = if empty { PROTOCOL_ERROR } else { MALFORMED };
            let what = format!("{length} of {} bytes of {what}", body.len());
            failures.offend(what, frame(bytes[0], &body[..length]), &[reason]);
        }
    }
    failures.report();
}

#[test]
fn mqtt_4_13_1_1_packets_that_are_too_long_are_malformed() {
    let mut failures = Failures::new();
    let mut acknowledged = Vec::new();
    for (what, kind) in [
        ("PUBACK", kind::PUBACK),
        ("PUBREC", kind::PUBREC),
        ("PUBREL", kind::PUBREL),
        ("PUBCOMP", kind::PUBCOMP),
    ] {
        let mut bytes = ack_with(kind, 1, 0, &Properties::new());
        bytes.push(0);
        bytes[1] += 1;
        acknowledged.push((what, bytes));
    }
    for (what, bytes) in acknowledged.into_iter().chain([
        ("PINGREQ", frame(0xC0, &[0])),
        ("PINGREQ with a packet inside", frame(0xC0, PINGREQ)),
        ("DISCONNECT", frame(0xE0, &[0, 0, 0])),
        ("UNSUBSCRIBE, half a filter", frame(0xA2, b"\0\x01\0\0\x01a\0")),
        ("SUBSCRIBE, half a filter", frame(0x82, b"\0\x01\0\0\x01a\0\0")),
    ]) {
        failures.offend(what, bytes, &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_4_13_1_1_what_came_before_the_error_is_done_and_what_follows_is_not() {
    let topic = name("errors/between");
    let mut watcher = Client::new(V5);
    watcher.subscribe(&topic, 1);
    let mut bytes = Publish::new(&topic, "before").qos(1, 1).encode(V5);
    bytes.extend([0x00, 0]);
    bytes.extend(Publish::new(&topic, "after").qos(1, 2).encode(V5));
    let mut client = Client::new(V5);
    client.send(bytes);
    let packets = ending(&mut client).unwrap();
    assert!(matches!(packets.last(), Some(Packet::Disconnect(_))), "{packets:?}");
    watcher.expect_payload("before");
    Client::new(V5).publish(&topic, "marker", 1);
    watcher.expect_payload("marker");
}

#[test]
fn mqtt_4_13_1_1_an_error_of_one_client_does_not_touch_another() {
    let topic = name("errors/other");
    let mut other = Client::new(V5);
    other.subscribe(&topic, 1);
    for bytes in [&[0x00, 0][..], &[0x30, 0], &[0x82, 0], &[0x30, 0xFF, 0xFF, 0xFF, 0xFF]] {
        offend(V5, bytes, &[MALFORMED, PROTOCOL_ERROR]).unwrap();
        other.send_publish(&Publish::new(&topic, "served"));
        other.expect_payload("served");
        other.ping();
    }
}

#[test]
fn mqtt_4_13_2_1_disconnect_of_an_error_is_the_end() {
    // Whatever the client goes on sending.
    let mut client = Client::new(V5);
    client.send([0x00, 0]);
    let mut failed = false;
    // A server may read on for a while, so that its last packet is not lost to a reset.
    for _ in 0..500 {
        failed |= client.try_send(PINGREQ).is_err();
        if failed {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(failed, "the server still takes bytes");
    let packets = ending(&mut client).unwrap();
    assert!(packets.iter().all(|packet| matches!(packet, Packet::Disconnect(_))), "{packets:?}");
}

#[test]
fn clause_4_13_1_a_packet_above_the_maximum_is_told_so_before_it_is_read() {
    let mut failures = Failures::new();
    for first in [0x30, 0x82, 0xA2, 0x40, 0xE0] {
        // The header alone: the body never comes.
        let bytes = frame_with_length(first, 268_435_455, &[]);
        failures.offend(format!("{first:#04x}"), bytes, &[TOO_LARGE]);
    }
    failures.report();
}

#[test]
fn clause_4_3_an_acknowledgement_of_another_kind_is_a_protocol_error() {
    let topic = name("errors/kind");
    // PUBACK of a QoS 2 message, PUBREC and PUBCOMP of a QoS 1 message, PUBCOMP before PUBREC.
    for (qos, kind) in [(2, kind::PUBACK), (1, kind::PUBREC), (1, kind::PUBCOMP), (2, kind::PUBCOMP)] {
        let mut client = Client::new(V5);
        client.subscribe(&topic, qos);
        Client::new(V5).publish(&topic, "x", qos);
        let id = client.expect_payload("x").id.unwrap();
        client.send_ack(kind, id);
        client.expect_disconnect(PROTOCOL_ERROR);
    }
}

#[test]
fn clause_4_3_an_acknowledgement_of_nothing_is_no_reason_to_close() {
    let mut client = Client::new(V5);
    client.send_ack(kind::PUBACK, 77);
    client.send_ack(kind::PUBCOMP, 78);
    client.ping();
    client.send_ack(kind::PUBREC, 79);
    assert_eq!(client.expect_ack(kind::PUBREL, 79).reason, 0x92);
    client.send_ack(kind::PUBREL, 80);
    assert_eq!(client.expect_ack(kind::PUBCOMP, 80).reason, 0x92);
    client.ping();
}

#[test]
fn clause_3_3_2_3_2_a_payload_that_is_not_what_it_says_is_refused_or_carried() {
    let topic = name("errors/payload");
    let mut receiver = Client::new(V5);
    receiver.subscribe(&topic, 0);
    let mut sender = Client::new(V5);
    let mut body = Vec::new();
    text(&mut body, &topic);
    body.extend([0, 1, 2, 1, 1, 0xFF]);
    sender.send(frame(0x32, &body));
    match sender.expect_ack(kind::PUBACK, 1).reason {
        0x99 => {}
        reason => {
            assert!(reason < 0x80, "{reason:#04x}");
            assert_eq!(receiver.expect_publish().payload, [0xFF]);
        }
    }
    sender.publish(&topic, "marker", 0);
    receiver.expect_payload("marker");
}
