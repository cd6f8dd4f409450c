//! MQTT over WebSocket (clause 6).

use tidegate_conformance::Version::{V31, V311};
use tidegate_conformance::packet::{DISCONNECT, PINGREQ};
use tidegate_conformance::websocket::{WebSocket, opcode};
use tidegate_conformance::{Connect, Publish, Subscribe, Will, name};

const CONNACK: &[u8] = &[0x20, 2, 0, 0];

/// A connection whose CONNECT was accepted.
fn connected(connect: &Connect) -> WebSocket {
    let mut socket = WebSocket::open();
    socket.send_frame(opcode::BINARY, &connect.encode());
    socket.expect_bytes(CONNACK);
    socket
}

#[test]
fn mqtt_6_0_0_1_another_data_frame_ends_the_connection() {
    // As the first thing, with a CONNECT that is right but for the frame.
    let mut socket = WebSocket::open();
    socket.send_frame(opcode::TEXT, &Connect::new(V311).client_id("text").encode());
    socket.expect_closed();
    // Later, with a packet or without; in parts.
    for payload in [&b"hello"[..], PINGREQ, b""] {
        let mut socket = connected(&Connect::new(V311));
        socket.send_frame(opcode::TEXT, payload);
        socket.expect_closed();
    }
    let mut socket = connected(&Connect::new(V311));
    socket.send_part(false, opcode::TEXT, &PINGREQ[..1]);
    socket.expect_closed();
    // The reserved types of data frames.
    for reserved in 3..8 {
        let mut socket = connected(&Connect::new(V311));
        socket.send_frame(reserved, PINGREQ);
        socket.expect_closed();
    }
}

#[test]
fn mqtt_6_0_0_1_it_is_a_fault_and_the_will_is_published() {
    let topic = name("fault/");
    let mut watcher = connected(&Connect::new(V311));
    watcher.send_frame(opcode::BINARY, &Subscribe::new(1).filter(&topic, 0).encode(V311));
    watcher.expect_bytes(&[0x90, 3, 0, 1, 0]);
    let mut socket = connected(&Connect::new(V311).will(Will::new(&topic, "will")));
    socket.send_frame(opcode::TEXT, PINGREQ);
    socket.expect_closed();
    watcher.expect_bytes(&Publish::new(&topic, "will").encode(V311));
}

#[test]
fn mqtt_6_0_0_1_the_server_sends_binary_frames() {
    let topic = name("binary/");
    let mut socket = connected(&Connect::new(V311));
    socket.send_frame(opcode::BINARY, &Subscribe::new(1).filter(&topic, 0).encode(V311));
    socket.expect_bytes(&[0x90, 3, 0, 1, 0]);
    // Of every length of a frame's header.
    for length in [0, 100, 125, 126, 1_000, 40_000] {
        let publish = Publish::new(&topic, vec![b'x'; length]).encode(V311);
        socket.send_frame(opcode::BINARY, &publish);
        socket.expect_bytes(&publish);
    }
    socket.send_frame(opcode::BINARY, DISCONNECT);
    socket.expect_closed();
}

#[test]
fn mqtt_6_0_0_2_a_frame_may_hold_several_packets() {
    let topic = name("several/");
    let mut socket = WebSocket::open();
    let mut bytes = Connect::new(V311).encode();
    bytes.extend(Publish::new(&topic, "x").qos(1, 1).encode(V311));
    bytes.extend(Publish::new(&topic, "x").qos(1, 2).encode(V311));
    socket.send_frame(opcode::BINARY, &bytes);
    socket.expect_bytes(CONNACK);
    socket.expect_bytes(&[0x40, 2, 0, 1]);
    socket.expect_bytes(&[0x40, 2, 0, 2]);
    // A packet and a half, and the rest with the next one.
    socket.send_frame(opcode::BINARY, &[PINGREQ, &PINGREQ[..1]].concat());
    socket.expect_bytes(&[0xD0, 0]);
    socket.send_frame(opcode::BINARY, &[&PINGREQ[1..], PINGREQ].concat());
    socket.expect_bytes(&[0xD0, 0]);
    socket.expect_bytes(&[0xD0, 0]);
}

#[test]
fn mqtt_6_0_0_2_a_frame_may_hold_a_part_of_a_packet() {
    let topic = name("part/");
    let connect = Connect::new(V311).encode();
    // Every byte in a frame of its own; then in the parts of one message, with an empty one and a ping in between.
    let mut socket = WebSocket::open();
    for byte in &connect {
        socket.send_frame(opcode::BINARY, &[*byte]);
    }
    socket.expect_bytes(CONNACK);
    let publish = Publish::new(&topic, "in parts").qos(1, 9).encode(V311);
    let (first, rest) = publish.split_at(5);
    socket.send_part(false, opcode::BINARY, first);
    socket.send_part(false, opcode::CONTINUATION, &[]);
    socket.send_frame(opcode::PING, b"still there?");
    socket.send_part(true, opcode::CONTINUATION, rest);
    let pong = socket.read(tidegate_conformance::client::PATIENCE).expect("a pong");
    assert_eq!((pong.opcode, &pong.payload[..]), (opcode::PONG, &b"still there?"[..]));
    socket.expect_bytes(&[0x40, 2, 0, 9]);
}

#[test]
fn mqtt_6_0_0_3_without_the_sub_protocol_there_is_no_connection() {
    for offered in [None, Some("http"), Some("mqttv5, amqp"), Some("")] {
        let (_, answer) = WebSocket::ask(offered);
        assert!(answer.status >= 400, "{offered:?}: {answer:?}");
    }
}

#[test]
fn mqtt_6_0_0_4_the_server_selects_mqtt() {
    for offered in ["mqtt", "http, mqtt", "mqtt,http", "amqp ,  mqtt , mqttv9", "mqttv3.1, mqtt"] {
        let (_, answer) = WebSocket::ask(Some(offered));
        assert_eq!(answer.status, 101, "{offered}: {answer:?}");
        assert_eq!(
            answer.fields.get("sec-websocket-protocol").map(String::as_str),
            Some("mqtt"),
            "{offered}"
        );
    }
}

#[test]
fn mqtt_6_0_0_4_by_the_name_of_mqtt_3_1_only_that_version_is_served() {
    for (version, answer) in [(V31, [0x20, 2, 0, 0]), (V311, [0x20, 2, 0, 1])] {
        let (mut socket, upgraded) = WebSocket::ask(Some("mqttv3.1"));
        assert_eq!(upgraded.status, 101, "{upgraded:?}");
        socket.send_frame(opcode::BINARY, &Connect::new(version).encode());
        socket.expect_bytes(&answer);
        match version {
            V31 => socket.send_frame(opcode::BINARY, DISCONNECT),
            _ => socket.expect_closed(),
        }
    }
}
