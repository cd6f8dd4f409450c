//! What we encode: exact bytes where a form is prescribed, and read back by another implementation.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use tidegate_event::Protocol::{V5, V31, V311};
use tidegate_event::{
    IdSource, Message, Node, Origin, Protocol, PublishProperties, QoS, ReasonCode, TopicName,
};

use crate::codec::{
    Ack, ConnAck, ConnAckProperties, Delivery, Disconnect, MAX_REMAINING_LENGTH, Outgoing, SubAck, Terms,
    encode, encode_publish, encode_within, publish_len, reason_text,
};

fn bytes_of(packet: &Outgoing, protocol: Protocol) -> BytesMut {
    let mut out = BytesMut::from(&b"before"[..]);
    encode(packet, protocol, &mut out);
    out.split_off(6)
}

fn ack(packet_id: u16, reason: u8) -> Ack {
    Ack { packet_id, reason: ReasonCode(reason) }
}

#[test]
fn acknowledgements_have_their_shortest_form() {
    for (packet, first) in [
        (Outgoing::PubAck as fn(Ack) -> Outgoing, 0x40),
        (Outgoing::PubRec, 0x50),
        (Outgoing::PubRel, 0x62),
        (Outgoing::PubComp, 0x70),
    ] {
        for protocol in [V31, V311, V5] {
            assert_eq!(bytes_of(&packet(ack(0x0102, 0)), protocol), [first, 2, 1, 2][..]);
        }
        for protocol in [V31, V311] {
            assert_eq!(bytes_of(&packet(ack(0x0102, 0x92)), protocol), [first, 2, 1, 2][..]);
        }
        assert_eq!(bytes_of(&packet(ack(0x0102, 0x92)), V5), [first, 3, 1, 2, 0x92][..]);
    }
    for protocol in [V31, V311, V5] {
        assert_eq!(bytes_of(&Outgoing::PingResp, protocol), b"\xd0\x00"[..]);
    }
}

#[test]
fn connack_has_return_codes_before_mqtt_5() {
    for (reason, code) in [
        (0x00, 0),
        (0x84, 1),
        (0x85, 2),
        (0x88, 3),
        (0x89, 3),
        (0x97, 3),
        (0x86, 4),
        (0x87, 5),
        (0x8a, 5),
        (0x90, 5),
        (0x9b, 5),
        (0x9d, 3),
        (0x80, 3),
    ] {
        let packet = Outgoing::ConnAck(Box::new(ConnAck {
            session_present: true,
            reason: ReasonCode(reason),
            properties: ConnAckProperties { receive_maximum: Some(1), ..ConnAckProperties::default() },
        }));
        let present = u8::from(code == 0);
        assert_eq!(bytes_of(&packet, V311), [0x20, 2, present, code][..]);
        assert_eq!(bytes_of(&packet, V31), [0x20, 2, 0, code][..]);
        assert_eq!(bytes_of(&packet, V5), [0x20, 6, present, reason, 3, 0x21, 0, 1][..]);
        let read = v4::Packet::ConnAck(v4::ConnAck {
            session_present: present == 1,
            code: match code {
                0 => v4::ConnectReturnCode::Success,
                1 => v4::ConnectReturnCode::RefusedProtocolVersion,
                2 => v4::ConnectReturnCode::BadClientId,
                3 => v4::ConnectReturnCode::ServiceUnavailable,
                4 => v4::ConnectReturnCode::BadUserNamePassword,
                _ => v4::ConnectReturnCode::NotAuthorized,
            },
        });
        assert_eq!(v4::Packet::read(&mut bytes_of(&packet, V311), 100).unwrap(), read);
    }
}

#[test]
fn connack_of_mqtt_5_carries_its_properties() {
    let packet = Outgoing::ConnAck(Box::new(ConnAck {
        session_present: true,
        reason: ReasonCode::SUCCESS,
        properties: ConnAckProperties {
            session_expiry: Some(60),
            receive_maximum: Some(1000),
            maximum_packet_size: Some(1_048_576),
            assigned_client_id: Some("auto-1".into()),
            topic_alias_maximum: Some(10),
            reason_string: Some("välkommen".into()),
            server_keep_alive: Some(300),
            maximum_qos: Some(1),
            retain_available: Some(false),
            response_information: Some("answers/".into()),
        },
    }));
    let v5::Packet::ConnAck(read) = v5::Packet::read(&mut bytes_of(&packet, V5), None).unwrap() else {
        panic!()
    };
    assert!(read.session_present);
    let properties = read.properties.unwrap();
    assert_eq!(properties.session_expiry_interval, Some(60));
    assert_eq!(properties.receive_max, Some(1000));
    assert_eq!(properties.max_packet_size, Some(1_048_576));
    assert_eq!(properties.assigned_client_identifier.as_deref(), Some("auto-1"));
    assert_eq!(properties.topic_alias_max, Some(10));
    assert_eq!(properties.reason_string.as_deref(), Some("välkommen"));
    assert_eq!(properties.server_keep_alive, Some(300));
    assert_eq!((properties.max_qos, properties.retain_available), (Some(1), Some(0)));
    assert_eq!(properties.response_information.as_deref(), Some("answers/"));
}

#[test]
fn a_text_too_long_for_the_protocol_is_cut_at_a_character() {
    let packet = Outgoing::Disconnect(Disconnect {
        reason: ReasonCode(0x8b),
        session_expiry: None,
        reason_string: Some("é".repeat(40_000).into()),
    });
    let v5::Packet::Disconnect(read) = v5::Packet::read(&mut bytes_of(&packet, V5), None).unwrap() else {
        panic!()
    };
    assert_eq!(read.properties.unwrap().reason_string.unwrap().len(), 65_534);
}

#[test]
fn suback_and_unsuback() {
    let reasons = [0x00, 0x01, 0x02, 0x80, 0x87, 0x8f, 0x9e].map(ReasonCode).to_vec();
    let packet = Outgoing::SubAck(SubAck { packet_id: 0x0102, reasons });
    assert_eq!(bytes_of(&packet, V5), b"\x90\x0a\x01\x02\x00\x00\x01\x02\x80\x87\x8f\x9e"[..]);
    assert_eq!(bytes_of(&packet, V311), b"\x90\x09\x01\x02\x00\x01\x02\x80\x80\x80\x80"[..]);
    assert_eq!(bytes_of(&packet, V31), b"\x90\x09\x01\x02\x00\x01\x02\x00\x00\x00\x00"[..]);
    let packet =
        Outgoing::UnsubAck(SubAck { packet_id: 0x0102, reasons: vec![ReasonCode(0), ReasonCode(0x11)] });
    assert_eq!(bytes_of(&packet, V5), b"\xb0\x05\x01\x02\x00\x00\x11"[..]);
    for protocol in [V31, V311] {
        assert_eq!(bytes_of(&packet, protocol), b"\xb0\x02\x01\x02"[..]);
    }
    let many = Outgoing::SubAck(SubAck { packet_id: 1, reasons: vec![ReasonCode(1); 200] });
    let v5::Packet::SubAck(read) = v5::Packet::read(&mut bytes_of(&many, V5), None).unwrap() else {
        panic!()
    };
    assert_eq!(read.return_codes.len(), 200);
    let v4::Packet::SubAck(read) = v4::Packet::read(&mut bytes_of(&many, V311), 1000).unwrap() else {
        panic!()
    };
    assert_eq!(read.return_codes.len(), 200);
}

#[test]
fn disconnect_exists_only_in_mqtt_5() {
    let disconnect = |reason, text: Option<&str>| {
        Outgoing::Disconnect(Disconnect {
            reason: ReasonCode(reason),
            // Never sent: only a client may (clause 3.14.2-2).
            session_expiry: Some(5),
            reason_string: text.map(Into::into),
        })
    };
    assert_eq!(bytes_of(&disconnect(0, None), V5), b"\xe0\x00"[..]);
    assert_eq!(bytes_of(&disconnect(0x8e, None), V5), b"\xe0\x01\x8e"[..]);
    assert_eq!(bytes_of(&disconnect(0x8e, Some("by")), V5), b"\xe0\x07\x8e\x05\x1f\x00\x02by"[..]);
    for protocol in [V31, V311] {
        assert!(bytes_of(&disconnect(0x8e, None), protocol).is_empty());
    }
}

/// `packet` as MQTT 5 within `terms`; empty when that is not possible.
fn within(packet: &Outgoing, terms: Terms) -> Vec<u8> {
    let mut out = BytesMut::from(&b"before"[..]);
    let sent = encode_within(packet, V5, terms, &mut out);
    assert_eq!(sent, out.len() > 6);
    assert!(out.starts_with(b"before"));
    out.split_off(6).to_vec()
}

/// All packets that may have a reason string, refusing something.
fn refusals() -> Vec<Outgoing> {
    let reason = ReasonCode(0x97);
    let several = || SubAck { packet_id: 1, reasons: vec![ReasonCode(0), reason, ReasonCode(0x87)] };
    vec![
        Outgoing::ConnAck(Box::new(ConnAck {
            session_present: false,
            reason,
            properties: ConnAckProperties::default(),
        })),
        Outgoing::Disconnect(Disconnect { reason, session_expiry: None, reason_string: None }),
        Outgoing::PubAck(ack(1, 0x97)),
        Outgoing::PubRec(ack(1, 0x97)),
        Outgoing::PubRel(ack(1, 0x97)),
        Outgoing::PubComp(ack(1, 0x97)),
        Outgoing::SubAck(several()),
        Outgoing::UnsubAck(several()),
    ]
}

/// What is larger than the client's maximum packet size must not be sent (clause 3.1.2-24). Reason strings go first.
#[test]
fn nothing_is_sent_that_is_larger_than_the_client_takes() {
    for packet in refusals() {
        let whole = within(&packet, Terms::default());
        let text = b"\x1f\x00\x13a limit is exceeded";
        assert!(whole.windows(text.len()).any(|part| part == text), "{whole:x?}");
        let mut sizes = std::collections::BTreeSet::new();
        for max_packet in 0..=whole.len() {
            let sent = within(&packet, Terms { max_packet, ..Terms::default() });
            assert!(sent.len() <= max_packet);
            sizes.insert(sent.len());
        }
        assert_eq!(sizes.len(), 3, "with the text, without it, not at all: {sizes:?}");
    }
    // What a client can do without is left out of CONNACK, what it must know is not.
    let connack = |information: Option<&str>| {
        Outgoing::ConnAck(Box::new(ConnAck {
            session_present: true,
            reason: ReasonCode(0),
            properties: ConnAckProperties {
                receive_maximum: Some(1),
                response_information: information.map(Into::into),
                ..ConnAckProperties::default()
            },
        }))
    };
    let terms = Terms { max_packet: 8, ..Terms::default() };
    assert_eq!(within(&connack(Some("answers/")), terms), within(&connack(None), Terms::default()));
    assert!(within(&connack(None), Terms { max_packet: 7, ..terms }).is_empty());
}

/// Clause 3.1.2.11.7: without problem information only CONNACK and DISCONNECT may have a reason string.
#[test]
fn reason_strings_are_sent_to_who_takes_them() {
    let has_text = |packet: &Outgoing, terms| within(packet, terms).contains(&0x1f);
    for (at, packet) in refusals().iter().enumerate() {
        assert!(has_text(packet, Terms::default()));
        assert!(!has_text(packet, Terms { reason_strings: false, ..Terms::default() }));
        let quiet = Terms { problem_information: false, ..Terms::default() };
        assert_eq!(has_text(packet, quiet), at < 2, "{packet:?}");
    }
    for packet in [Outgoing::PubAck(ack(1, 0)), Outgoing::PubComp(ack(1, 0)), Outgoing::PingResp] {
        assert_eq!(within(&packet, Terms::default()), bytes_of(&packet, V5)[..]);
    }
    for code in 0x80..=0xa2 {
        // Every code that CONNACK, DISCONNECT or an acknowledgement can have, but "unspecified".
        assert_eq!(reason_text::text(ReasonCode(code)).is_none(), code == 0x80, "{code:#x}");
    }
    let read = within(&refusals()[6], Terms::default());
    let v5::Packet::SubAck(read) = v5::Packet::read(&mut BytesMut::from(&read[..]), None).unwrap() else {
        panic!()
    };
    assert_eq!(read.properties.unwrap().reason_string.as_deref(), Some("a limit is exceeded"));
    assert_eq!(read.return_codes.len(), 3);
}

fn message(topic: &str, payload: impl Into<Bytes>, properties: Option<PublishProperties>) -> Message {
    Message {
        id: IdSource::new(&Node::default()).next_id(),
        topic: TopicName::new(topic).unwrap(),
        payload: payload.into(),
        qos: QoS::AtLeastOnce,
        retain: true,
        dup: true,
        timestamp_ms: 0,
        sender: "someone".into(),
        publisher: None,
        properties: properties.map(Box::new),
        origin: Origin::Client,
        hops: 0,
    }
}

fn published(delivery: &Delivery<'_>, protocol: Protocol) -> BytesMut {
    let mut out = BytesMut::from(&b"before"[..]);
    encode_publish(delivery, protocol, &mut out);
    let bytes = out.split_off(6);
    assert_eq!(publish_len(delivery, protocol), Some(bytes.len()));
    bytes
}

fn full_properties() -> PublishProperties {
    PublishProperties {
        payload_format: Some(1),
        // Not sent as it is: the delivery says what remains.
        message_expiry: Some(100),
        content_type: Some("json".into()),
        response_topic: Some("r".into()),
        correlation_data: Some(Bytes::from_static(b"\x00\xff")),
        user: vec![("k".into(), "v".into()), ("k".into(), "".into())],
    }
}

#[test]
fn publish_of_every_form_is_read_back() {
    let qos = [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)];
    // Payloads at which the remaining length grows by a byte, and beyond.
    for size in [
        0, 1, 100, 110, 115, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 16_370, 16_384, 2_097_152,
    ] {
        for properties in [None, Some(full_properties())] {
            let message = message("a/é", vec![b'x'; size], properties);
            for (qos, level) in qos {
                for (dup, retain) in [(false, false), (level > 0, true)] {
                    let mut delivery = Delivery::new(&message, qos, 0xfffe);
                    delivery.dup = dup;
                    delivery.retain = retain;
                    for protocol in [V31, V311] {
                        let mut bytes = published(&delivery, protocol);
                        let Ok(v4::Packet::Publish(read)) = v4::Packet::read(&mut bytes, 3_000_000) else {
                            panic!()
                        };
                        assert!(bytes.is_empty());
                        assert_eq!((read.topic.as_str(), read.payload.len()), ("a/é", size));
                        assert_eq!((read.qos as u8, read.dup, read.retain), (level, dup, retain));
                        assert_eq!(read.pkid, if level == 0 { 0 } else { 0xfffe });
                    }
                    delivery.subscription_ids = &[1, 128, 268_435_455];
                    delivery.topic_alias = Some(5);
                    delivery.expiry_remaining = Some(7);
                    let mut bytes = published(&delivery, V5);
                    let Ok(v5::Packet::Publish(read)) = v5::Packet::read(&mut bytes, None) else { panic!() };
                    assert!(bytes.is_empty());
                    assert_eq!((&read.topic[..], read.payload.len()), ("a/é".as_bytes(), size));
                    assert_eq!((read.qos as u8, read.dup, read.retain), (level, dup, retain));
                    assert_eq!(read.pkid, if level == 0 { 0 } else { 0xfffe });
                    let got = read.properties.unwrap();
                    assert_eq!(got.subscription_identifiers, [1, 128, 268_435_455]);
                    assert_eq!((got.topic_alias, got.message_expiry_interval), (Some(5), Some(7)));
                    if message.properties.is_some() {
                        assert_eq!(got.payload_format_indicator, Some(1));
                        assert_eq!(got.content_type.as_deref(), Some("json"));
                        assert_eq!(got.response_topic.as_deref(), Some("r"));
                        assert_eq!(got.correlation_data.as_deref(), Some(&b"\x00\xff"[..]));
                        assert_eq!(got.user_properties.len(), 2);
                    } else {
                        assert_eq!((got.payload_format_indicator, got.user_properties), (None, vec![]));
                    }
                }
            }
        }
    }
}

#[test]
fn publish_has_exactly_these_bytes() {
    let plain = message("a", "hi", None);
    let mut delivery = Delivery::new(&plain, QoS::AtMostOnce, 9);
    assert_eq!(published(&delivery, V311), b"\x30\x05\x00\x01ahi"[..]);
    assert_eq!(published(&delivery, V5), b"\x30\x06\x00\x01a\x00hi"[..]);
    delivery.qos = QoS::AtLeastOnce;
    assert_eq!(published(&delivery, V311), b"\x32\x07\x00\x01a\x00\x09hi"[..]);
    delivery.topic_alias = Some(3);
    delivery.with_topic = false;
    assert_eq!(published(&delivery, V5), b"\x32\x0a\x00\x00\x00\x09\x03\x23\x00\x03hi"[..]);
    // Before MQTT 5 there is no alias: the topic is always sent.
    assert_eq!(published(&delivery, V31), b"\x32\x07\x00\x01a\x00\x09hi"[..]);
}

#[test]
fn encoding_a_publish_reserves_once() {
    let message = message("a/b/c", vec![0; 5000], Some(full_properties()));
    let delivery = Delivery::new(&message, QoS::AtLeastOnce, 1);
    let mut out = BytesMut::new();
    encode_publish(&delivery, V5, &mut out);
    // Room for a remaining length of four bytes was made, and no more: nothing grew on the way.
    assert!(out.capacity() - out.len() <= 4, "{} of {}", out.len(), out.capacity());
}

#[test]
fn what_no_packet_can_carry_is_not_sent() {
    let long = "x".repeat(65_536);
    let carries = |properties: PublishProperties| {
        let message = message("a", "", Some(properties));
        let delivery = Delivery::new(&message, QoS::AtMostOnce, 0);
        let mut out = BytesMut::new();
        encode_publish(&delivery, V5, &mut out);
        assert_eq!(publish_len(&delivery, V5), (!out.is_empty()).then_some(out.len()));
        // Before MQTT 5 there are no properties.
        assert_eq!(publish_len(&delivery, V311), Some(5));
        !out.is_empty()
    };
    let none = PublishProperties::default;
    assert!(carries(none()));
    assert!(carries(PublishProperties { content_type: Some(long[1..].into()), ..none() }));
    assert!(!carries(PublishProperties { content_type: Some(long[..].into()), ..none() }));
    assert!(!carries(PublishProperties { response_topic: Some(long[..].into()), ..none() }));
    assert!(!carries(PublishProperties { correlation_data: Some(long.clone().into()), ..none() }));
    assert!(!carries(PublishProperties { user: vec![(long[..].into(), "".into())], ..none() }));
    assert!(!carries(PublishProperties { user: vec![("".into(), long[..].into())], ..none() }));

    let message = message("a", vec![0; MAX_REMAINING_LENGTH - 3], None);
    let mut delivery = Delivery::new(&message, QoS::AtMostOnce, 0);
    assert_eq!(publish_len(&delivery, V311), Some(MAX_REMAINING_LENGTH + 5));
    delivery.qos = QoS::AtLeastOnce;
    let mut out = BytesMut::new();
    encode_publish(&delivery, V311, &mut out);
    assert_eq!((publish_len(&delivery, V311), out.len()), (None, 0));
    delivery.subscription_ids = &[268_435_456];
    assert_eq!(publish_len(&delivery, V5), None);
}
