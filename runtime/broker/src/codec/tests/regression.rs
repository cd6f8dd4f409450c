//! Inputs that stop `rumqttd`'s listener or router, or that its decoder reads wrongly, and defects found by
//! fuzzing: each test is named by its cause.

use bytes::BytesMut;
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5 as RumqttdV5;
use rumqttd::protocol::{Packet, Protocol as _};
use tidegate_event::Protocol::{V5, V31, V311};

use super::{LIMITS, connect, decode_all, decode_one, packet, refusal};
use crate::codec::{Decoder, Incoming};

#[test]
fn a_topic_may_begin_with_a_multi_byte_character() {
    for (protocol, none) in [(V31, ""), (V311, ""), (V5, "\0")] {
        let bytes = packet(0x30, format!("\0\u{4}é/x{none}hi").as_bytes());
        let Incoming::Publish(publish) = decode_one(protocol, &bytes).unwrap() else { panic!() };
        assert_eq!(publish.topic.unwrap().as_str(), "é/x");
        assert_eq!(&publish.payload[..], b"hi");
    }
}

#[test]
fn unsuback_and_connack_from_a_client_do_not_reach_the_decoder() {
    for first in [0x20, 0xb0] {
        // As the first packet, and later.
        let bytes = packet(first, b"\x00\x01\x00");
        assert_eq!(refusal(decode_all(&mut Decoder::new(LIMITS), &bytes)).0, 0x82);
        for protocol in [V311, V5] {
            assert_eq!(refusal(decode_one(protocol, &bytes)).0, 0x82);
        }
    }
}

#[test]
fn a_client_id_may_contain_slashes_and_wildcards() {
    for id in ["a/b", "+", "#", "$SYS/x", "é"] {
        let length = u8::try_from(id.len()).unwrap();
        let body = [b"\x00\x04MQTT\x04\x02\x00\x00\x00", &[length][..], id.as_bytes()].concat();
        let packets = decode_all(&mut Decoder::new(LIMITS), &packet(0x10, &body)).unwrap();
        let [Incoming::Connect(connect)] = &packets[..] else { panic!("{packets:?}") };
        assert_eq!(connect.client_id, *id);
    }
}

#[test]
fn a_password_is_binary_data() {
    let bytes = packet(0x10, b"\x00\x04MQTT\x04\xc2\x00\x00\x00\x01c\x00\x01u\x00\x01\xff");
    // Why CONNECT is read here: the wire decoder refuses it.
    assert!(V4.read_mut(&mut BytesMut::from(&bytes[..]), 100).is_err());
    let packets = decode_all(&mut Decoder::new(LIMITS), &bytes).unwrap();
    let [Incoming::Connect(connect)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(connect.password.as_deref(), Some(&[0xff][..]));
}

#[test]
fn an_empty_user_name_is_not_an_absent_one() {
    let bytes = packet(0x10, b"\x00\x04MQTT\x04\x82\x00\x00\x00\x01c\x00\x00");
    let read = V4.read_mut(&mut BytesMut::from(&bytes[..]), 100).unwrap();
    assert!(matches!(read, Packet::Connect(_, _, _, _, None)), "the wire decoder can tell them apart now");
    let packets = decode_all(&mut Decoder::new(LIMITS), &bytes).unwrap();
    let [Incoming::Connect(connect)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(connect.username.as_deref(), Some(""));
}

#[test]
fn disconnect_may_end_after_its_reason() {
    let bytes = b"\xe0\x01\x04";
    // Why DISCONNECT is read here: the wire decoder refuses it.
    assert!(RumqttdV5.read_mut(&mut BytesMut::from(&bytes[..]), 100).is_err());
    let Incoming::Disconnect(disconnect) = decode_one(V5, bytes).unwrap() else { panic!() };
    assert_eq!(disconnect.reason.0, 0x04);
}

#[test]
fn pubrel_of_mqtt_5_may_have_properties() {
    let bytes = packet(0x62, b"\x00\x01\x00\x07\x26\x00\x01k\x00\x01v");
    let Incoming::PubRel(ack) = decode_one(V5, &bytes).unwrap() else { panic!() };
    assert_eq!((ack.packet_id, ack.reason.0), (1, 0));
}

#[test]
fn the_version_is_not_read_beyond_the_end_of_connect() {
    // An empty CONNECT, then a good one: its first bytes are not a protocol name's length.
    for start in [&b"\x10\x00"[..], b"\x10\x01\x00", b"\x10\x06\x00\x04MQTT"] {
        let alone = refusal(decode_all(&mut Decoder::new(LIMITS), start));
        assert_eq!(alone.0, 0x81);
        let followed = [start, connect(V311)].concat();
        assert_eq!(refusal(decode_all(&mut Decoder::new(LIMITS), &followed)), alone, "{start:x?}");
    }
}
