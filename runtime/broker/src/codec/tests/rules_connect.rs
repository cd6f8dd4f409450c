//! CONNECT: versions, flags, fields, properties.

use bytes::{Bytes, BytesMut};
use tidegate_event::{Protocol, QoS};

use super::{LIMITS, decode_all, packet, refusal};
use crate::codec::{CodecError, Connect, ConnectProperties, Decoder, Incoming, PacketType};

/// The first packet of a connection, as a body of CONNECT.
fn decode(body: &[u8]) -> Result<Connect, CodecError> {
    let mut packets = decode_all(&mut Decoder::new(LIMITS), &packet(0x10, body))?;
    match packets.pop() {
        Some(Incoming::Connect(connect)) if packets.is_empty() => Ok(*connect),
        other => panic!("{other:?} {packets:?}"),
    }
}

/// A body of CONNECT: `flags`, no keep-alive, `rest` from the properties on.
fn body(protocol: Protocol, flags: u8, rest: &[u8]) -> Vec<u8> {
    let start: &[u8] = match protocol {
        Protocol::V31 => b"\x00\x06MQIsdp\x03",
        Protocol::V311 => b"\x00\x04MQTT\x04",
        Protocol::V5 => b"\x00\x04MQTT\x05",
    };
    [start, &[flags, 0, 0], rest].concat()
}

#[test]
fn the_first_packet_is_connect() {
    for (first, reason) in
        [(0x30, 0x82), (0xc0, 0x82), (0x20, 0x82), (0x00, 0x82), (0xf0, 0x82), (0x11, 0x81)]
    {
        // The first byte is enough, even when no more ever comes.
        let mut decoder = Decoder::new(LIMITS);
        assert_eq!(refusal(decode_all(&mut decoder, &[first])).0, reason, "{first:#x}");
        // And the answer stays the same.
        assert_eq!(refusal(decode_all(&mut decoder, b"\xc0\x00")).0, reason);
        assert_eq!(refusal(decode_all(&mut decoder, b"")).0, reason);
    }
}

#[test]
fn name_and_level_choose_the_version() {
    for protocol in [Protocol::V31, Protocol::V311, Protocol::V5] {
        let mut decoder = Decoder::new(LIMITS);
        decode_all(&mut decoder, super::connect(protocol)).unwrap();
        assert_eq!(decoder.protocol(), Some(protocol));
    }
    for (start, level) in [
        (&b"\x00\x04MQTT\x03"[..], 3),
        (b"\x00\x04MQTT\x06", 6),
        (b"\x00\x04MQTT\x84", 0x84),
        (b"\x00\x04MQTT\x00", 0),
        (b"\x00\x06MQIsdp\x04", 4),
        (b"\x00\x06MQIsdp\x83", 0x83),
    ] {
        let error = decode(&[start, b"\x02\x00\x00\x00\x01c"].concat()).unwrap_err();
        assert_eq!(error, CodecError::UnsupportedVersion { level }, "{start:?}");
        assert_eq!(error.reason().0, 0x84);
    }
}

/// Any name was answered by CONNACK in the form of MQTT 3.1.1, a client of MQTT 5 too.
#[test]
fn other_protocols_are_unknown_whatever_their_level() {
    for (start, level) in [
        (&b"\x00\x04mqtt\x04"[..], 4),
        (b"\x00\x04HTTP\x05", 5),
        (b"\x00\x05MQTT5\x05", 5),
        (b"\x00\x00\x04\x00\x00\x00\x00", 4),
        (b"\x00\x05MQTTX\x04\x00\x00\x00\x00", 4),
        (&[&b"\x00\x21"[..], &[b'M'; 33], b"\x05"].concat(), 0),
    ] {
        let error = decode(&[start, b"\x02\x00\x00\x00\x01c"].concat()).unwrap_err();
        assert_eq!(error, CodecError::UnknownProtocol { level }, "{start:?}");
        assert_eq!(error.reason().0, 0x84);
    }
}

/// An MQTT 5 client was told nothing when the fixed header of its CONNECT was wrong.
#[test]
fn the_version_is_known_though_the_fixed_header_is_wrong() {
    for header in [&b"\x11\x0e"[..], b"\x1f\x0e", b"\x10\xff\xff\xff\xff\x01"] {
        let mut decoder = Decoder::new(LIMITS);
        let mut buffer = BytesMut::from(&[header, b"\x00\x04MQTT\x05"].concat()[..]);
        assert_eq!(decoder.decode(&mut buffer).unwrap_err().reason().0, 0x81);
        assert_eq!(decoder.protocol(), Some(Protocol::V5), "{header:?}");
    }
    let mut decoder = Decoder::new(LIMITS);
    let error = decoder.decode(&mut BytesMut::from(&b"\x20\x0e\x00\x04MQTT\x05"[..])).unwrap_err();
    assert_eq!((error.reason().0, decoder.protocol()), (0x82, None), "it is no CONNECT");
}

#[test]
fn the_version_is_known_before_the_packet_is_complete() {
    let mut decoder = Decoder::new(LIMITS);
    let mut buffer = BytesMut::from(&b"\x10\xff\x07\x00\x04MQTT\x05"[..]);
    // 1,026 bytes: over the limit, but the answer can be in the client's version.
    let error = decoder.decode(&mut buffer).unwrap_err();
    assert_eq!(error, CodecError::TooLarge { packet: PacketType::Connect, size: 1026, limit: 1024 });
    assert_eq!(error.reason().0, 0x95);
    assert_eq!(decoder.protocol(), Some(Protocol::V5));
}

#[test]
fn a_body_too_short_for_a_version_is_malformed() {
    for body in [
        &b""[..],
        b"\x00",
        b"\x00\x04",
        b"\x00\x04MQT",
        b"\x00\x04MQTT",
        b"\x00\x06MQIsdp",
        b"\xff\x04MQTT\x04\x02\x00\x00\x00\x01c",
    ] {
        assert_eq!(refusal(decode(body)).0, 0x81, "{body:?}");
    }
}

#[test]
fn every_field_may_not_be_cut_short_and_nothing_may_follow() {
    // Will, user name and password; properties in CONNECT and will.
    let v5 = body(
        Protocol::V5,
        0b1110_1110,
        b"\x05\x11\x00\x00\x00\x01\x00\x01c\x02\x01\x01\x00\x01w\x00\x02hi\x00\x01u\x00\x01p",
    );
    let v311 = body(Protocol::V311, 0b1110_1110, b"\x00\x01c\x00\x01w\x00\x02hi\x00\x01u\x00\x01p");
    for whole in [v5, v311] {
        decode(&whole).unwrap();
        for end in 0..whole.len() {
            assert_eq!(refusal(decode(&whole[..end])).0, 0x81, "{end} bytes");
        }
        assert_eq!(refusal(decode(&[&whole[..], b"x"].concat())).0, 0x81);
    }
}

#[test]
fn flags_are_checked() {
    let will = b"\x00\x01c\x00\x01w\x00\x00";
    for (flags, rest, error) in [
        (0b0000_0011, &b"\x00\x01c"[..], "reserved connect flag"),
        (0b0000_1010, b"\x00\x01c", "without a will"),
        (0b0010_0010, b"\x00\x01c", "without a will"),
        (0b0001_1110, will, "will QoS must not be 3"),
        (0b0100_0010, b"\x00\x01c\x00\x01p", "a password needs a user name"),
    ] {
        let (reason, text) = refusal(decode(&body(Protocol::V311, flags, rest)));
        assert_eq!(reason, 0x81);
        assert!(text.contains(error), "{text}");
    }
    // MQTT 5 allows a password alone (clause 3.1.2.9).
    let connect = decode(&body(Protocol::V5, 0b0100_0010, b"\x00\x00\x01c\x00\x01p")).unwrap();
    assert_eq!((connect.username, connect.password), (None, Some(Bytes::from_static(b"p"))));
    for flags in [0b0000_0011, 0b0000_1010, 0b0010_0010] {
        assert_eq!(refusal(decode(&body(Protocol::V5, flags, b"\x00\x00\x01c"))).0, 0x81);
    }
}

#[test]
fn mqtt_3_1_has_its_own_rules() {
    // Bit 0 and the bits of an absent will are not looked at.
    decode(&body(Protocol::V31, 0b0011_1011, b"\x00\x01c")).unwrap();
    // A flag may promise a user name or password that is not there.
    let connect = decode(&body(Protocol::V31, 0b1100_0010, b"\x00\x01c")).unwrap();
    assert_eq!((connect.username, connect.password), (None, None));
    let connect = decode(&body(Protocol::V31, 0b1100_0010, b"\x00\x01c\x00\x01u")).unwrap();
    assert_eq!((connect.username.as_deref(), connect.password), (Some("u"), None));
    // A client id has 1 to 23 characters. Later versions leave the length to the server.
    for bad in [&b"\x00\x00"[..], b"\x00\x18abcdefghijklmnopqrstuvwx"] {
        let error = decode(&body(Protocol::V31, 2, bad)).unwrap_err();
        assert!(matches!(error, CodecError::ClientId { .. }), "{error:?}");
        assert_eq!(error.reason().0, 0x85);
    }
    decode(&body(Protocol::V31, 2, b"\x00\x17abcdefghijklmnopqrstuvw")).unwrap();
    decode(&body(Protocol::V31, 2, &[&b"\x00\x2e"[..], "é".repeat(23).as_bytes()].concat())).unwrap();
    decode(&body(Protocol::V311, 2, b"\x00\x18abcdefghijklmnopqrstuvwx")).unwrap();
    // A password still needs a user name's flag.
    assert_eq!(refusal(decode(&body(Protocol::V31, 0b0100_0010, b"\x00\x01c\x00\x01p"))).0, 0x81);
}

#[test]
fn an_empty_client_id_needs_a_clean_session_before_mqtt_5() {
    decode(&body(Protocol::V311, 2, b"\x00\x00")).unwrap();
    let error = decode(&body(Protocol::V311, 0, b"\x00\x00")).unwrap_err();
    assert!(matches!(error, CodecError::ClientId { .. }), "{error:?}");
    assert_eq!(error.reason().0, 0x85);
    decode(&body(Protocol::V5, 0, b"\x00\x00\x00")).unwrap();
    // What is malformed besides is malformed first: it is not answered in 3.1.1.
    assert_eq!(refusal(decode(&body(Protocol::V311, 0x80, b"\x00\x00\x00\x09u"))).0, 0x81);
}

#[test]
fn texts_are_utf_8_without_nul() {
    let surrogate = b"\x00\x03\xed\xa0\x80";
    for bad in [&b"\x00\x01\x00"[..], b"\x00\x02\xc3\x28", surrogate, b"\x00\x01\xff"] {
        for (flags, rest) in [
            (0b0000_0010, bad.to_vec()),
            (0b0000_0110, [b"\x00\x01c", bad, b"\x00\x00"].concat()),
            (0b1000_0010, [b"\x00\x01c", bad].concat()),
        ] {
            assert_eq!(refusal(decode(&body(Protocol::V311, flags, &rest))).0, 0x81, "{flags:b} {bad:?}");
        }
    }
    // A password is binary data in both versions.
    let connect = decode(&body(Protocol::V311, 0b1100_0010, b"\x00\x01c\x00\x00\x00\x02\x00\xff")).unwrap();
    assert_eq!(connect.username.as_deref(), Some(""));
    assert_eq!(connect.password.as_deref(), Some(&b"\x00\xff"[..]));
}

#[test]
fn a_will_needs_a_topic_name() {
    let will = |topic: &[u8]| {
        let length = u16::try_from(topic.len()).unwrap().to_be_bytes();
        let rest = [b"\x00\x01c", &length[..], topic, b"\x00\x02hi"].concat();
        decode(&body(Protocol::V311, 0b0011_0110, &rest))
    };
    let connect = will("é/w".as_bytes()).unwrap();
    let kept = connect.will.unwrap();
    assert_eq!(
        (kept.topic.as_str(), &kept.payload[..], kept.qos, kept.retain),
        ("é/w", &b"hi"[..], QoS::ExactlyOnce, true)
    );
    for bad in ["", "a/+", "#"] {
        assert_eq!(refusal(will(bad.as_bytes())).0, 0x81, "{bad:?}");
    }
    assert_eq!(refusal(will(b"1/2/3/4/5/6/7/8/9")).0, 0x90);
    will(b"1/2/3/4/5/6/7/8").unwrap();
}

#[test]
fn all_connect_properties_are_read() {
    let properties = b"\x11\x00\x00\x00\x0a\x21\x00\x14\x27\x00\x00\x10\x00\x22\x00\x05\x19\x01\x17\x00\
                       \x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x01w\x15\x00\x01m\x16\x00\x02\x00\x01";
    let rest = [&[u8::try_from(properties.len()).unwrap()], &properties[..], b"\x00\x01c"].concat();
    let connect = decode(&body(Protocol::V5, 2, &rest)).unwrap();
    assert_eq!(
        connect.properties,
        ConnectProperties {
            session_expiry: Some(10),
            receive_maximum: Some(20),
            maximum_packet_size: Some(4096),
            topic_alias_maximum: Some(5),
            request_response_information: true,
            request_problem_information: Some(false),
            user: vec![("k".into(), "v".into()), ("k".into(), "w".into())],
            authentication_method: Some("m".into()),
            authentication_data: Some(Bytes::from_static(&[0, 1])),
        }
    );
}

#[test]
fn connect_properties_follow_the_table() {
    for (properties, reason, text) in [
        (&b"\x21\x00\x00"[..], 0x82, "receive maximum: must not be 0"),
        (b"\x27\x00\x00\x00\x00", 0x82, "maximum packet size: must not be 0"),
        (b"\x17\x02", 0x82, "values 0 and 1"),
        (b"\x19\xff", 0x82, "values 0 and 1"),
        (b"\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01", 0x82, "session expiry interval: must not be repeated"),
        (b"\x16\x00\x01d", 0x82, "without an authentication method"),
        (b"\x23\x00\x01", 0x81, "topic alias: not a property of this packet"),
        (b"\x12\x00\x01c", 0x81, "assigned client identifier: not a property of this packet"),
        (b"\x18\x00\x00\x00\x01", 0x81, "will delay interval: not a property of this packet"),
        (b"\x04\x00", 0x81, "unknown property"),
        (b"\x7f", 0x81, "unknown property"),
        (b"\x91\x00\x00\x00\x00\x01", 0x81, "unknown property"),
        (b"\x11\x00\x00\x00", 0x81, "in the middle of a field"),
        (b"\x15\x00\x02m", 0x81, "in the middle of a field"),
        (b"\x26\x00\x01k\x00\x01", 0x81, "in the middle of a field"),
        (b"\x26\x00\x01\x00\x00\x01v", 0x81, "U+0000"),
        (b"\x15\x00\x01\xff", 0x81, "UTF-8"),
    ] {
        let rest = [&[u8::try_from(properties.len()).unwrap()], properties, b"\x00\x01c"].concat();
        let (got, message) = refusal(decode(&body(Protocol::V5, 2, &rest)));
        assert_eq!(got, reason, "{properties:x?} {message}");
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn will_properties_follow_the_table() {
    let will = |properties: &[u8]| {
        let length = u8::try_from(properties.len()).unwrap();
        let rest = [b"\x00\x00\x01c", &[length][..], properties, b"\x00\x01w\x00\x00"].concat();
        decode(&body(Protocol::V5, 0b0000_0110, &rest)).map(|connect| connect.will.unwrap())
    };
    let all = will(
        b"\x18\x00\x00\x00\x07\x01\x01\x02\x00\x00\x00\x09\x03\x00\x01t\x08\x00\x01r\x09\x00\x01\x00\
          \x26\x00\x01k\x00\x01v",
    )
    .unwrap();
    assert_eq!(all.delay, 7);
    let properties = all.properties.unwrap();
    assert_eq!(properties.payload_format, Some(1));
    assert_eq!(properties.message_expiry, Some(9));
    assert_eq!(properties.content_type.as_deref(), Some("t"));
    assert_eq!(properties.response_topic.as_deref(), Some("r"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&[0][..]));
    assert_eq!(properties.user, [("k".into(), "v".into())]);
    assert_eq!(will(b"").unwrap().properties, None);
    for (bad, reason) in [
        (&b"\x18\x00\x00\x00\x07\x18\x00\x00\x00\x07"[..], 0x82),
        (b"\x01\x02", 0x82),
        (b"\x23\x00\x01", 0x81),
        (b"\x11\x00\x00\x00\x01", 0x81),
        (b"\x08\x00\x01+", 0x82),
        (b"\x08\x00\x00", 0x82),
    ] {
        assert_eq!(refusal(will(bad)).0, reason, "{bad:x?}");
    }
}

#[test]
fn user_properties_of_connect_and_will_are_counted() {
    let pairs = |count: usize| {
        let pairs = b"\x26\x00\x00\x00\x00".repeat(count);
        [&[u8::try_from(pairs.len()).unwrap()], &pairs[..]].concat()
    };
    let connect = |connect, will| {
        let rest = [&pairs(connect)[..], b"\x00\x01c", &pairs(will), b"\x00\x01w\x00\x00"].concat();
        decode(&body(Protocol::V5, 0b0000_0110, &rest))
    };
    connect(20, 20).unwrap();
    for (reason, text) in [refusal(connect(21, 0)), refusal(connect(0, 21))] {
        assert_eq!(reason, 0x97);
        assert!(text.contains("more user properties than the limit of 20"), "{text}");
    }
}

#[test]
fn how_much_the_client_takes_is_known_before_the_rest_is_refused() {
    for (rest, takes) in [
        // A bad client id comes after the properties, an unknown property among them.
        (&b"\x05\x27\x00\x00\x00\x40\x00\x01\xff"[..], Some(64)),
        (b"\x00\x00\x01\xff", Some(u32::MAX as usize)),
        (b"\x06\x27\x00\x00\x00\x40\x04\x00\x01c", None),
    ] {
        let mut decoder = Decoder::new(LIMITS);
        assert_eq!(decoder.client_takes(), None);
        decode_all(&mut decoder, &packet(0x10, &body(Protocol::V5, 2, rest))).unwrap_err();
        assert_eq!(decoder.client_takes(), takes, "{rest:x?}");
    }
}
