//! MQTT 5 over WebSocket (clause 6).

use std::time::Duration;

use tidegate_conformance::client::PATIENCE;
use tidegate_conformance::ending::UNSUPPORTED_VERSION;
use tidegate_conformance::packet::{DISCONNECT, PINGREQ};
use tidegate_conformance::websocket::{WebSocket, opcode};
use tidegate_conformance::{Connect, Publish, Subscribe, Version::V5, name};

/// A connection over which CONNECT was accepted.
fn connected() -> WebSocket {
    let mut socket = WebSocket::open();
    socket.send_frame(opcode::BINARY, &Connect::new(V5).encode());
    accepted(&mut socket);
    socket
}

/// The next frame is CONNACK of success, and nothing else.
#[track_caller]
fn accepted(socket: &mut WebSocket) {
    let frame = socket.read(PATIENCE).expect("CONNACK");
    assert_eq!((frame.last, frame.opcode), (true, opcode::BINARY), "{frame:?}");
    let answer = &frame.payload;
    assert_eq!((answer[0], answer.get(2), answer.get(3)), (0x20, Some(&0), Some(&0)), "{answer:02X?}");
}

#[test]
fn mqtt_6_0_0_1_packets_go_in_binary_frames() {
    let topic = name("websocket/binary");
    let mut socket = connected();
    socket.send_frame(opcode::BINARY, &Subscribe::new(1).filter(&topic, 0).encode(V5));
    socket.expect_bytes(&[0x90, 4, 0, 1, 0, 0]);
    let publish = Publish::new(&topic, "over WebSocket").encode(V5);
    socket.send_frame(opcode::BINARY, &publish);
    socket.expect_bytes(&publish);
    socket.send_frame(opcode::BINARY, DISCONNECT);
    socket.expect_closed();
}

#[test]
fn mqtt_6_0_0_1_another_data_frame_ends_the_connection() {
    let mut socket = connected();
    socket.send_frame(opcode::TEXT, PINGREQ);
    socket.expect_closed();
    let mut socket = WebSocket::open();
    socket.send_frame(opcode::TEXT, &Connect::new(V5).encode());
    socket.expect_closed();
    // Nor does an empty one make it right.
    let mut socket = connected();
    socket.send_frame(opcode::TEXT, &[]);
    socket.expect_closed();
}

#[test]
fn mqtt_6_0_0_1_control_frames_are_no_data_frames() {
    let mut socket = connected();
    socket.send_frame(opcode::PING, b"still there?");
    let pong = socket.read(PATIENCE).expect("PONG");
    assert_eq!((pong.opcode, &pong.payload[..]), (opcode::PONG, &b"still there?"[..]));
    socket.send_frame(opcode::PONG, b"");
    socket.send_frame(opcode::BINARY, PINGREQ);
    socket.expect_bytes(&[0xD0, 0]);
}

#[test]
fn mqtt_6_0_0_2_a_packet_may_come_in_many_frames() {
    let mut socket = WebSocket::open();
    for byte in Connect::new(V5).encode() {
        socket.send_frame(opcode::BINARY, &[byte]);
    }
    accepted(&mut socket);
    // The parts of one message, with a control frame and an empty part between.
    let ping = PINGREQ;
    socket.send_part(false, opcode::BINARY, &ping[..1]);
    socket.send_part(false, opcode::CONTINUATION, &[]);
    socket.send_part(true, opcode::CONTINUATION, &ping[1..]);
    socket.expect_bytes(&[0xD0, 0]);
    socket.send_frame(opcode::BINARY, &[]);
    socket.send_frame(opcode::BINARY, ping);
    socket.expect_bytes(&[0xD0, 0]);
}

#[test]
fn mqtt_6_0_0_2_a_frame_may_hold_many_packets() {
    let mut socket = WebSocket::open();
    let mut bytes = Connect::new(V5).encode();
    bytes.extend(PINGREQ.repeat(3));
    // The last one is cut in its middle.
    bytes.pop();
    socket.send_frame(opcode::BINARY, &bytes);
    let connack = socket.read(PATIENCE).expect("CONNACK").payload;
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    let rest = connack[2 + usize::from(connack[1])..].to_vec();
    assert!(rest.is_empty() || rest.chunks(2).all(|two| two == [0xD0, 0]), "{rest:02X?}");
    socket.expect_bytes(&[0xD0, 0].repeat(2)[rest.len()..]);
    assert_eq!(socket.read(Duration::from_millis(200)), None, "the third is not whole");
    socket.send_frame(opcode::BINARY, &PINGREQ[1..]);
    socket.expect_bytes(&[0xD0, 0]);
}

#[test]
fn mqtt_6_0_0_4_the_sub_protocol_is_mqtt() {
    for offer in ["mqtt", "other, mqtt", "mqtt,other"] {
        let (_, answer) = WebSocket::ask(Some(offer));
        assert_eq!(answer.status, 101, "{answer:?}");
        let chosen = answer.fields.get("sec-websocket-protocol");
        assert_eq!(chosen.map(String::as_str), Some("mqtt"), "{offer}: {answer:?}");
    }
}

#[test]
fn mqtt_6_0_0_4_no_other_sub_protocol_is_chosen() {
    for offer in [Some("other"), Some("mqttx, xmqtt"), None] {
        let (_, answer) = WebSocket::ask(offer);
        let chosen = answer.fields.get("sec-websocket-protocol");
        assert!(answer.status != 101 || chosen.is_none(), "{offer:?}: {answer:?}");
    }
}

#[test]
fn mqtt_6_0_0_4_by_the_name_of_mqtt_3_1_this_version_is_not_served() {
    let (mut socket, answer) = WebSocket::ask(Some("mqttv3.1"));
    assert_eq!(answer.status, 101, "{answer:?}");
    socket.send_frame(opcode::BINARY, &Connect::new(V5).encode());
    let refusal = socket.read(PATIENCE).expect("CONNACK").payload;
    assert_eq!((refusal[0], refusal[3]), (0x20, UNSUPPORTED_VERSION), "{refusal:02X?}");
    socket.expect_closed();
}
