//! Packets after CONNECT: fixed header, then every rule of every body.

use tidegate_event::Protocol::{V5, V31, V311};
use tidegate_event::{Protocol, QoS, ReasonCode, SubscriptionOptions};

use super::{LIMITS, connected, decode_all, decode_one, packet, refusal};
use crate::codec::{Ack, CodecError, Decoder, Incoming, Limits};

const ALL: [Protocol; 3] = [V31, V311, V5];

/// Checks that `bytes` are refused with `reason` and a message that contains `text`.
fn refused(protocol: Protocol, bytes: &[u8], reason: u8, text: &str) {
    let (got, message) = refusal(decode_one(protocol, bytes));
    assert_eq!(got, reason, "{protocol:?} {bytes:x?}: {message}");
    assert!(message.contains(text), "{protocol:?} {bytes:x?}: {message}");
}

#[test]
fn packets_of_a_server_are_refused() {
    for protocol in ALL {
        for first in [0x20, 0x90, 0xb0, 0xd0] {
            refused(protocol, &[first, 0], 0x82, "only a server");
        }
        refused(protocol, &[0x00, 0], 0x81, "reserved");
        refused(protocol, super::connect(protocol), 0x82, "only once");
    }
    for protocol in [V31, V311] {
        refused(protocol, b"\xf0\x00", 0x81, "reserved");
    }
}

#[test]
fn flags_of_the_fixed_header_are_checked() {
    for protocol in ALL {
        for flags in 1..16 {
            for kind in [0x40, 0x50, 0x70, 0xc0, 0xe0] {
                refused(protocol, &[kind | flags], 0x81, "flags");
            }
        }
        for flags in (0..16).filter(|&flags| flags != 0b0010) {
            for kind in [0x60, 0x80, 0xa0] {
                // MQTT 3.1 marks resends of these three.
                if (protocol, flags) == (V31, 0b1010) {
                    assert_eq!(decode_all(&mut connected(V31), &[kind | flags]), Ok(vec![]));
                } else {
                    refused(protocol, &[kind | flags], 0x81, "flags");
                }
            }
        }
        refused(protocol, &[0x38], 0x81, "DUP must be 0 at QoS 0");
        for first in [0x36, 0x37, 0x3e, 0x3f] {
            refused(protocol, &[first], 0x81, "QoS must not be 3");
        }
    }
    for flags in 1..16 {
        refused(V5, &[0xf0 | flags], 0x81, "flags");
    }
}

#[test]
fn the_remaining_length_has_at_most_four_bytes() {
    for protocol in ALL {
        refused(protocol, b"\x30\xff\xff\xff\x80", 0x81, "remaining length");
        assert_eq!(decode_all(&mut connected(protocol), b"\x30\xff\xff"), Ok(vec![]));
    }
    // MQTT 5 wants the shortest form (clause 1.5.5-1); before, it was not asked for.
    assert_eq!(decode_one(V311, b"\xc0\x80\x00"), Ok(Incoming::PingReq));
    refused(V5, b"\xc0\x80\x00", 0x81, "longer than need be");
    let padded = b"\x10\x8e\x00\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c";
    assert_eq!(refusal(decode_all(&mut Decoder::new(LIMITS), padded)).0, 0x81);
}

#[test]
fn a_packet_over_the_limit_is_refused_before_it_is_buffered() {
    for protocol in ALL {
        let mut decoder = connected(protocol);
        // 1,024 bytes are allowed, with the fixed header.
        assert_eq!(decode_all(&mut decoder, b"\x30\xfd\x07"), Ok(vec![]));
        assert_eq!(decoder.missing(3), 1021);
        refused(
            protocol,
            b"\x30\xfe\x07",
            0x95,
            "PUBLISH of 1025 bytes is larger than the limit of 1024 bytes",
        );
        refused(protocol, b"\x30\xff\xff\xff\x7f", 0x95, "268435460 bytes");
    }
}

#[test]
fn publish_is_read() {
    for protocol in ALL {
        let none: &[u8] = if protocol == V5 { b"\x00" } else { b"" };
        for (first, qos, dup, retain) in [
            (0x30, QoS::AtMostOnce, false, false),
            (0x31, QoS::AtMostOnce, false, true),
            (0x32, QoS::AtLeastOnce, false, false),
            (0x3b, QoS::AtLeastOnce, true, true),
            (0x34, QoS::ExactlyOnce, false, false),
            (0x3c, QoS::ExactlyOnce, true, false),
        ] {
            let id: &[u8] = if qos == QoS::AtMostOnce { b"" } else { b"\x12\x34" };
            let bytes = packet(first, &[b"\x00\x03a/b", id, none, b"\x00payload\xff"].concat());
            let Incoming::Publish(publish) = decode_one(protocol, &bytes).unwrap() else { panic!() };
            assert_eq!((publish.qos, publish.dup, publish.retain), (qos, dup, retain));
            assert_eq!(publish.packet_id, if id.is_empty() { 0 } else { 0x1234 });
            assert_eq!(publish.topic.unwrap().as_str(), "a/b");
            assert_eq!(&publish.payload[..], b"\x00payload\xff");
            assert_eq!((publish.alias, publish.properties), (None, None));
            // Every cut before the payload is too short.
            for end in 0..5 + id.len() + none.len() {
                refused(protocol, &packet(first, &bytes[2..2 + end]), 0x81, "in the middle of a field");
            }
        }
    }
}

#[test]
fn publish_rules() {
    for protocol in ALL {
        let none: &[u8] = if protocol == V5 { b"\x00" } else { b"" };
        let publish = |topic: &[u8], id: &[u8], first: u8| {
            let length = u16::try_from(topic.len()).unwrap().to_be_bytes();
            packet(first, &[&length[..], topic, id, none].concat())
        };
        refused(protocol, &publish(b"a", b"\x00\x00", 0x32), 0x82, "packet identifier must not be 0");
        refused(protocol, &publish(b"a", b"\x00\x00", 0x34), 0x82, "packet identifier must not be 0");
        for bad in ["+", "a/#", "a+b", "#"] {
            refused(protocol, &publish(bad.as_bytes(), b"", 0x30), 0x81, "wildcards");
        }
        refused(protocol, &publish(b"a\x00b", b"", 0x30), 0x81, "U+0000");
        for bad in [&b"\xff"[..], b"\xc3\x28", b"\xed\xa0\x80", b"\xf0\x9f\x98"] {
            refused(protocol, &publish(bad, b"", 0x30), 0x81, "UTF-8");
        }
        decode_one(protocol, &publish(b"1/2/3/4/5/6/7/8", b"", 0x30)).unwrap();
        decode_one(protocol, &publish(b"///////", b"", 0x30)).unwrap();
        refused(protocol, &publish(b"////////", b"", 0x30), 0x90, "9 levels are more than the limit of 8");
        if protocol == V5 {
            refused(protocol, &publish(b"", b"", 0x30), 0x82, "an empty topic name needs a topic alias");
        } else {
            refused(protocol, &publish(b"", b"", 0x30), 0x81, "must not be empty");
        }
    }
}

#[test]
fn publish_properties_follow_the_table() {
    let publish = |properties: &[u8]| {
        let length = u8::try_from(properties.len()).unwrap();
        packet(0x30, &[b"\x00\x01a", &[length][..], properties, b"payload"].concat())
    };
    let all = b"\x01\x00\x02\x00\x00\x00\x09\x03\x00\x01t\x08\x00\x01r\x09\x00\x01\x00\x23\x00\x03\
                \x26\x00\x01k\x00\x01v\x26\x00\x00\x00\x00";
    let Incoming::Publish(read) = decode_one(V5, &publish(all)).unwrap() else { panic!() };
    assert_eq!(read.alias, Some(3));
    assert_eq!(&read.payload[..], b"payload");
    let properties = read.properties.unwrap();
    assert_eq!(properties.payload_format, Some(0));
    assert_eq!(properties.message_expiry, Some(9));
    assert_eq!(properties.content_type.as_deref(), Some("t"));
    assert_eq!(properties.response_topic.as_deref(), Some("r"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&[0][..]));
    assert_eq!(properties.user, [("k".into(), "v".into()), ("".into(), "".into())]);

    // An alias alone is not a property of the message, and stands for the topic.
    let Incoming::Publish(read) = decode_one(V5, b"\x30\x07\x00\x00\x03\x23\x00\x01x").unwrap() else {
        panic!()
    };
    assert_eq!((read.topic, read.alias, read.properties), (None, Some(1), None));

    for (properties, reason, text) in [
        (&b"\x23\x00\x00"[..], 0x94, "topic alias: must not be 0"),
        (b"\x23\x00\x01\x23\x00\x01", 0x82, "topic alias: must not be repeated"),
        (b"\x01\x02", 0x82, "values 0 and 1"),
        (b"\x0b\x01", 0x82, "subscription identifier: only a server may send it"),
        (b"\x08\x00\x01#", 0x82, "wildcards"),
        (b"\x08\x00\x00", 0x82, "must not be empty"),
        (b"\x11\x00\x00\x00\x01", 0x81, "session expiry interval: not a property of this packet"),
        (b"\x1f\x00\x01r", 0x81, "reason string: not a property of this packet"),
        (b"\x02\x00\x00", 0x81, "in the middle of a field"),
    ] {
        refused(V5, &publish(properties), reason, text);
    }
    // A property length that reaches beyond the packet, or is not in its shortest form.
    refused(V5, &packet(0x30, b"\x00\x01a\x05\x01\x00"), 0x81, "in the middle of a field");
    refused(V5, &packet(0x30, b"\x00\x01a\x80\x00"), 0x81, "variable byte integer");
    refused(V5, &packet(0x30, b"\x00\x01a\xff\xff\xff\xff\x00"), 0x81, "variable byte integer");
    refused(V5, &packet(0x30, b"\x00\x01a\x80"), 0x81, "in the middle of a field");
}

#[test]
fn acknowledgements() {
    type Make = fn(Ack) -> Incoming;
    let kinds: [(u8, Make, &[u8]); 4] = [
        (0x40, Incoming::PubAck, b"\x00\x10\x80\x83\x87\x90\x91\x97\x99"),
        (0x50, Incoming::PubRec, b"\x00\x10\x80\x83\x87\x90\x91\x97\x99"),
        (0x62, Incoming::PubRel, b"\x00\x92"),
        (0x70, Incoming::PubComp, b"\x00\x92"),
    ];
    for (first, make, reasons) in kinds {
        let ack = |reason| make(Ack { packet_id: 0x0102, reason: ReasonCode(reason) });
        for protocol in ALL {
            assert_eq!(decode_one(protocol, &[first, 2, 1, 2]), Ok(ack(0)));
            refused(protocol, &[first, 2, 0, 0], 0x82, "packet identifier must not be 0");
            refused(protocol, &[first, 1, 1], 0x81, "in the middle of a field");
            refused(protocol, &[first, 0], 0x81, "in the middle of a field");
            if protocol != V5 {
                refused(protocol, &[first, 3, 1, 2, 0], 0x81, "bytes follow");
            }
        }
        for reason in 0..=255 {
            let short = [first, 3, 1, 2, reason];
            let long = packet(
                first,
                &[&[1, 2, reason], &b"\x0e\x1f\x00\x01r\x26\x00\x01k\x00\x01v\x26"[..]].concat(),
            );
            if reasons.contains(&reason) {
                assert_eq!(decode_one(V5, &short), Ok(ack(reason)));
                assert_eq!(decode_one(V5, &[first, 4, 1, 2, reason, 0]), Ok(ack(reason)));
                let properties = b"\x0b\x1f\x00\x01r\x26\x00\x01k\x00\x01v";
                let whole = packet(first, &[&[1, 2, reason], &properties[..]].concat());
                assert_eq!(decode_one(V5, &whole), Ok(ack(reason)));
                refused(V5, &[&[first, 5, 1, 2, reason, 0], &b"x"[..]].concat(), 0x81, "bytes follow");
                refused(V5, &long, 0x81, "in the middle of a field");
            } else {
                refused(V5, &short, 0x81, "reason code");
            }
        }
        let repeated = packet(first, b"\x01\x02\x00\x08\x1f\x00\x01r\x1f\x00\x01r");
        refused(V5, &repeated, 0x82, "reason string: must not be repeated");
        refused(V5, &packet(first, b"\x01\x02\x00\x03\x23\x00\x01"), 0x81, "not a property of this packet");
    }
}

#[test]
fn subscribe_is_read() {
    for protocol in [V31, V311] {
        let Incoming::Subscribe(subscribe) =
            decode_one(protocol, b"\x82\x0e\x00\x07\x00\x03a/+\x01\x00\x03b/#\x02").unwrap()
        else {
            panic!()
        };
        assert_eq!(subscribe.packet_id, 7);
        let options = |qos| SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        assert_eq!(
            subscribe.filters,
            [("a/+".into(), options(QoS::AtLeastOnce)), ("b/#".into(), options(QoS::ExactlyOnce))]
        );
    }
    let bytes =
        packet(0x82, b"\x00\x07\x0a\x0b\x80\x01\x26\x00\x01k\x00\x01v\x00\x01a\x2d\x00\x0a$share/g/#\x1a");
    let Incoming::Subscribe(subscribe) = decode_one(V5, &bytes).unwrap() else { panic!() };
    assert_eq!(
        subscribe.filters,
        [
            (
                "a".into(),
                SubscriptionOptions {
                    qos: QoS::AtLeastOnce,
                    no_local: true,
                    retain_as_published: true,
                    retain_handling: 2,
                    id: 128
                }
            ),
            (
                "$share/g/#".into(),
                SubscriptionOptions {
                    qos: QoS::ExactlyOnce,
                    no_local: false,
                    retain_as_published: true,
                    retain_handling: 1,
                    id: 128
                }
            ),
        ]
    );
}

#[test]
fn subscribe_rules() {
    for protocol in ALL {
        let none: &[u8] = if protocol == V5 { b"\x00" } else { b"" };
        let subscribe = |id: &[u8], filters: &[u8]| packet(0x82, &[id, none, filters].concat());
        refused(protocol, &subscribe(b"\x00\x00", b"\x00\x01a\x00"), 0x82, "packet identifier must not be 0");
        refused(protocol, &subscribe(b"\x00\x01", b""), 0x82, "at least one topic filter");
        refused(protocol, &subscribe(b"\x00\x01", b"\x00\x01a"), 0x81, "in the middle of a field");
        refused(protocol, &subscribe(b"\x00\x01", b"\x00\x00\x00"), 0x81, "must not be empty");
        refused(protocol, &subscribe(b"\x00\x01", b"\x00\x01\x00\x00"), 0x81, "U+0000");
        refused(protocol, &subscribe(b"\x00\x01", b"\x00\x01\xff\x00"), 0x81, "UTF-8");
        refused(protocol, &subscribe(b"\x00\x01", b"\x00\x01a\x03"), 0x82, "QoS must not be 3");
        refused(protocol, &subscribe(b"\x00\x01", b"\x00\x01a\x40"), 0x81, "reserved bits");
        refused(protocol, &subscribe(b"\x00\x01", b"\x00\x01a\x80"), 0x81, "reserved bits");
        if protocol == V5 {
            refused(
                protocol,
                &subscribe(b"\x00\x01", b"\x00\x01a\x30"),
                0x82,
                "retain handling must not be 3",
            );
            refused(protocol, &subscribe(b"\x00\x01", b"\x00\x0a$share/g/a\x04"), 0x82, "no local");
        } else {
            for bit in 2..8 {
                refused(protocol, &subscribe(b"\x00\x01", &[0, 1, b'a', 1 << bit]), 0x81, "reserved bits");
            }
        }
    }
    for (properties, reason, text) in [
        (&b"\x0b\x00"[..], 0x82, "subscription identifier: must not be 0"),
        (b"\x0b\x01\x0b\x02", 0x82, "subscription identifier: must not be repeated"),
        (b"\x0b\x81\x00", 0x81, "variable byte integer"),
        (b"\x0b\xff\xff\xff\xff", 0x81, "variable byte integer"),
        (b"\x23\x00\x01", 0x81, "topic alias: not a property of this packet"),
    ] {
        let length = u8::try_from(properties.len()).unwrap();
        let bytes = packet(0x82, &[b"\x00\x01", &[length][..], properties, b"\x00\x01a\x00"].concat());
        refused(V5, &bytes, reason, text);
    }
}

/// A `#` that is not a whole last level, a `+` that is not a whole level, a shared subscription without a name or a
/// filter: the filter is not "correctly formed", so 0x8F in SUBACK is no answer to it.
#[test]
fn a_misplaced_wildcard_is_malformed() {
    for protocol in ALL {
        let none: &[u8] = if protocol == V5 { b"\x00" } else { b"" };
        let packets = |filter: &str| {
            let length = u16::try_from(filter.len()).unwrap().to_be_bytes();
            let body = [b"\x00\x01", none, &length[..], filter.as_bytes()].concat();
            [packet(0x82, &[&body[..], b"\x01"].concat()), packet(0xa2, &body)]
        };
        for bad in ["a/#/b", "#/", "a#", "##", "/a/b#", "+a", "a/b+/c", "++", "$share/g/a#", "$share/g#/a"] {
            for bytes in packets(bad) {
                refused(protocol, &bytes, 0x81, "topic filter: ");
            }
        }
        for good in ["#", "+", "/", "a/+/#", "+/+", "//", "$SYS/#", "$share/g/#", "$share", "$shared/+"] {
            for bytes in packets(good) {
                decode_one(protocol, &bytes).unwrap();
            }
        }
        // Shared subscriptions came with MQTT 5: before, these are filters like others.
        for share in ["$share/g", "$share//a", "$share/", "$share/g/", "$share/+/a"] {
            for bytes in packets(share) {
                if protocol == V5 {
                    refused(protocol, &bytes, 0x81, "topic filter: ");
                } else {
                    decode_one(protocol, &bytes).unwrap();
                }
            }
        }
    }
}

#[test]
fn filters_and_user_properties_are_counted() {
    for protocol in ALL {
        let none: &[u8] = if protocol == V5 { b"\x00" } else { b"" };
        let subscribe = |count| packet(0x82, &[b"\x00\x01", none, &b"\x00\x01a\x00".repeat(count)].concat());
        let unsubscribe = |count| packet(0xa2, &[b"\x00\x01", none, &b"\x00\x01a".repeat(count)].concat());
        for make in [&subscribe as &dyn Fn(usize) -> Vec<u8>, &unsubscribe] {
            decode_one(protocol, &make(20)).unwrap();
            refused(protocol, &make(21), 0x97, "more topic filters than the limit of 20");
        }
    }
    let pairs = |count: usize| {
        let pairs = b"\x26\x00\x00\x00\x00".repeat(count);
        [&[u8::try_from(pairs.len()).unwrap()], &pairs[..]].concat()
    };
    for (first, before, after) in [
        (0x30, &b"\x00\x01a"[..], &b""[..]),
        (0x40, b"\x00\x01\x00", b""),
        (0x82, b"\x00\x01", b"\x00\x01a\x00"),
        (0xa2, b"\x00\x01", b"\x00\x01a"),
        (0xe0, b"\x00", b""),
    ] {
        decode_one(V5, &packet(first, &[before, &pairs(20), after].concat())).unwrap();
        let many = packet(first, &[before, &pairs(21), after].concat());
        refused(V5, &many, 0x97, "more user properties than the limit of 20");
    }
}

#[test]
fn unsubscribe_rules() {
    for protocol in ALL {
        let none: &[u8] = if protocol == V5 { b"\x00" } else { b"" };
        let unsubscribe = |id: &[u8], filters: &[u8]| packet(0xa2, &[id, none, filters].concat());
        let Incoming::Unsubscribe(read) =
            decode_one(protocol, &unsubscribe(b"\x00\x09", b"\x00\x01a\x00\x03b/#")).unwrap()
        else {
            panic!()
        };
        assert_eq!((read.packet_id, read.filters), (9, vec!["a".into(), "b/#".into()]));
        refused(protocol, &unsubscribe(b"\x00\x00", b"\x00\x01a"), 0x82, "packet identifier must not be 0");
        refused(protocol, &unsubscribe(b"\x00\x01", b""), 0x82, "at least one topic filter");
        refused(protocol, &unsubscribe(b"\x00\x01", b"\x00\x02a"), 0x81, "in the middle of a field");
        refused(protocol, &unsubscribe(b"\x00\x01", b"\x00\x00"), 0x81, "must not be empty");
        refused(protocol, &unsubscribe(b"\x00\x01", b"\x00\x01\xff"), 0x81, "UTF-8");
    }
    decode_one(V5, &packet(0xa2, b"\x00\x01\x07\x26\x00\x01k\x00\x01v\x00\x01a")).unwrap();
    refused(V5, &packet(0xa2, b"\x00\x01\x02\x0b\x01\x00\x01a"), 0x81, "not a property of this packet");
}

#[test]
fn ping_and_disconnect() {
    for protocol in ALL {
        assert_eq!(decode_one(protocol, b"\xc0\x00"), Ok(Incoming::PingReq));
        refused(protocol, b"\xc0\x01x", 0x81, "must have no body");
        let Incoming::Disconnect(read) = decode_one(protocol, b"\xe0\x00").unwrap() else { panic!() };
        assert_eq!((read.reason.0, read.session_expiry, read.reason_string), (0, None, None));
        if protocol != V5 {
            refused(protocol, b"\xe0\x01\x00", 0x81, "bytes follow");
        }
    }
    let own = [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    let servers = [0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2];
    for reason in 0..=255 {
        for bytes in [&[0xe0, 1, reason][..], &[0xe0, 2, reason, 0]] {
            if own.contains(&reason) {
                let Incoming::Disconnect(read) = decode_one(V5, bytes).unwrap() else { panic!() };
                assert_eq!(read.reason.0, reason);
            } else if servers.contains(&reason) {
                refused(V5, bytes, 0x82, "only a server");
            } else {
                refused(V5, bytes, 0x81, "reason code");
            }
        }
    }
    let bytes = packet(0xe0, b"\x04\x10\x11\x00\x00\x00\x05\x1f\x00\x01r\x26\x00\x01k\x00\x01v");
    let Incoming::Disconnect(read) = decode_one(V5, &bytes).unwrap() else { panic!() };
    assert_eq!((read.session_expiry, read.reason_string.as_deref()), (Some(5), Some("r")));
    refused(V5, &packet(0xe0, b"\x00\x04\x1c\x00\x01s"), 0x82, "server reference: only a server may send it");
    refused(V5, &packet(0xe0, b"\x00\x00x"), 0x81, "bytes follow");
}

#[test]
fn auth() {
    let bytes = packet(0xf0, b"\x18\x09\x15\x00\x01m\x16\x00\x02\x00\xff");
    let Incoming::Auth(read) = decode_one(V5, &bytes).unwrap() else { panic!() };
    assert_eq!((read.reason.0, read.method.as_deref()), (0x18, Some("m")));
    assert_eq!(read.data.as_deref(), Some(&[0x00, 0xff][..]));
    decode_one(V5, &packet(0xf0, b"\x19\x0f\x15\x00\x01m\x1f\x00\x01r\x26\x00\x01k\x00\x01v")).unwrap();
    decode_one(V5, &packet(0xf0, b"\x19\x04\x15\x00\x01m")).unwrap();
    refused(V5, b"\xf0\x00", 0x82, "only a server may say success");
    refused(V5, b"\xf0\x01\x00", 0x82, "only a server may say success");
    refused(V5, b"\xf0\x01\x18", 0x82, "needs an authentication method");
    refused(V5, b"\xf0\x02\x18\x00", 0x82, "needs an authentication method");
    refused(V5, &packet(0xf0, b"\x17\x04\x15\x00\x01m"), 0x81, "reason code");
    refused(V5, &packet(0xf0, b"\x18\x04\x15\x00\x01mx"), 0x81, "bytes follow");
    refused(V5, &packet(0xf0, b"\x18\x05\x11\x00\x00\x00\x01"), 0x81, "not a property of this packet");
}

#[test]
fn limits_are_what_they_say() {
    let mut decoder = Decoder::new(Limits { max_packet_bytes: 15, max_topic_levels: 1, ..LIMITS });
    decode_all(&mut decoder, super::connect(V311)).unwrap();
    assert_eq!(decode_all(&mut decoder, b"\x30\x0d\x00\x01a0123456789").unwrap().len(), 1);
    let error = decode_all(&mut decoder, b"\x30\x05\x00\x02a/x").unwrap_err();
    assert!(matches!(error, CodecError::TopicLevels { levels: 2, limit: 1, .. }), "{error:?}");
}
