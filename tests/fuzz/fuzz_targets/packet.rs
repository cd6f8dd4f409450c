//! Arbitrary bytes, arbitrarily cut, through the MQTT decoder; then what a server would answer, through the
//! encoder and back.
//!
//! An input is two bytes of settings and the stream (see [`Settings`] and `README.md`).
#![no_main]

use bytes::{BufMut, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tidegate_broker::codec::{
    Ack, CodecError, ConnAck, ConnAckProperties, Decoder, Delivery, Disconnect, Incoming, Limits, Outgoing,
    Publish, SubAck, Terms, encode, encode_publish, encode_within, publish_len,
};
use tidegate_event::{Message, MsgId, Origin, Protocol, PublishProperties, QoS, ReasonCode, TopicName};

/// The first two bytes of an input.
#[derive(Clone, Copy)]
struct Settings {
    limits: Limits,
    /// Whether the stream is a list of bodies, around which the fixed headers are made: the fuzzer need not
    /// keep lengths right.
    framed: bool,
    /// Seed of the lengths of the pieces.
    pieces: u8,
}

impl Settings {
    fn of(first: u8, second: u8) -> Self {
        let max_packet_bytes = match first & 0b111 {
            0 => 2,
            1 => 16,
            2 => 64,
            3 => 128,
            4 => 1024,
            5 => 65_536,
            6 => 1 << 20,
            _ => u32::MAX,
        };
        let max_topic_levels = match first >> 3 & 0b11 {
            0 => 1,
            1 => 3,
            2 => 128,
            _ => usize::MAX,
        };
        Self {
            limits: Limits {
                max_packet_bytes,
                max_topic_levels,
                max_filters: if first & 0x20 == 0 { usize::MAX } else { 2 },
                max_user_properties: if first & 0x40 == 0 { usize::MAX } else { 2 },
            },
            framed: first & 0x80 != 0,
            pieces: second,
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let [first, second, rest @ ..] = input else { return };
    let settings = Settings::of(*first, *second);
    let framed;
    let stream = if settings.framed {
        framed = frame(rest);
        &framed[..]
    } else {
        rest
    };

    let whole = feed(settings.limits, [stream]);
    let cut = feed(settings.limits, pieces(stream, settings.pieces));
    assert_eq!(whole, cut, "how the bytes were cut made a difference");

    let (packets, _) = whole;
    let mut protocol = Protocol::V311;
    for packet in &packets {
        if let Incoming::Connect(connect) = packet {
            protocol = connect.protocol;
        }
        answer(packet, protocol);
        // A message goes to subscribers of every version.
        for to in [Protocol::V31, Protocol::V311, Protocol::V5] {
            forward(packet, protocol, to);
        }
    }
});

/// Each packet is a first byte, the number of body bytes (or what is left) and the body.
fn frame(mut rest: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [first, length, tail @ ..] = rest {
        let (body, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        stream.push(*first);
        let mut length = body.len();
        loop {
            let more = if length > 0x7f { 0x80 } else { 0 };
            stream.push((length & 0x7f) as u8 | more);
            length >>= 7;
            if length == 0 {
                break;
            }
        }
        stream.extend_from_slice(body);
        rest = tail;
    }
    stream
}

/// Cuts `stream` into pieces of 0 to 15 bytes, the same for the same seed.
fn pieces(mut stream: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut state = u32::from(seed);
    std::iter::from_fn(move || {
        if stream.is_empty() {
            return None;
        }
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (piece, rest) = stream.split_at(stream.len().min((state >> 28) as usize));
        stream = rest;
        Some(piece)
    })
}

fn feed<'a>(
    limits: Limits,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Incoming>, Option<CodecError>) {
    let mut decoder = Decoder::new(limits);
    let mut buffer = BytesMut::new();
    let mut packets = Vec::new();
    for piece in pieces {
        buffer.put_slice(piece);
        loop {
            let before = buffer.len();
            match decoder.decode(&mut buffer) {
                Ok(Some(packet)) => {
                    assert!(buffer.len() + 2 <= before, "a packet took less than a fixed header");
                    assert_eq!(packets.is_empty(), matches!(packet, Incoming::Connect(_)));
                    packets.push(packet);
                }
                Ok(None) => {
                    assert_eq!(buffer.len(), before, "an incomplete packet took bytes");
                    assert!(decoder.missing(buffer.len()) > 0);
                    break;
                }
                Err(error) => {
                    assert!(
                        !matches!(error, CodecError::Decoder { .. }),
                        "checks and wire decoder disagree: {error}"
                    );
                    assert!(error.reason().0 >= 0x80);
                    assert_eq!(decoder.decode(&mut buffer), Err(error), "an error must be final");
                    return (packets, Some(error));
                }
            }
        }
    }
    (packets, None)
}

/// What a server would answer to `packet`, encoded in every version.
fn answer(packet: &Incoming, protocol: Protocol) {
    let reason = |packet_id: u16| ReasonCode(packet_id as u8);
    let answer = match packet {
        Incoming::Connect(connect) => Outgoing::ConnAck(Box::new(ConnAck {
            session_present: !connect.clean_start,
            reason: reason(connect.keep_alive),
            properties: ConnAckProperties {
                session_expiry: connect.properties.session_expiry,
                receive_maximum: connect.properties.receive_maximum,
                maximum_packet_size: connect.properties.maximum_packet_size,
                assigned_client_id: Some(connect.client_id.clone()),
                topic_alias_maximum: connect.properties.topic_alias_maximum,
                reason_string: connect.username.clone(),
                server_keep_alive: Some(connect.keep_alive),
                maximum_qos: Some(u8::from(connect.clean_start)),
                retain_available: Some(connect.clean_start),
                response_information: connect.properties.authentication_method.clone(),
            },
        })),
        Incoming::Publish(publish) => {
            Outgoing::PubAck(Ack { packet_id: publish.packet_id, reason: reason(publish.packet_id) })
        }
        Incoming::PubAck(ack) => Outgoing::PubAck(*ack),
        Incoming::PubRec(ack) => Outgoing::PubRec(*ack),
        Incoming::PubRel(ack) => Outgoing::PubRel(*ack),
        Incoming::PubComp(ack) => Outgoing::PubComp(*ack),
        Incoming::Subscribe(subscribe) => Outgoing::SubAck(SubAck {
            packet_id: subscribe.packet_id,
            reasons: subscribe.filters.iter().map(|(_, options)| ReasonCode(options.qos.level())).collect(),
        }),
        Incoming::Unsubscribe(unsubscribe) => Outgoing::UnsubAck(SubAck {
            packet_id: unsubscribe.packet_id,
            reasons: unsubscribe.filters.iter().map(|_| ReasonCode(0x11)).collect(),
        }),
        Incoming::PingReq => Outgoing::PingResp,
        Incoming::Disconnect(disconnect) => {
            Outgoing::Disconnect(Disconnect { session_expiry: None, ..disconnect.clone() })
        }
        // This server knows no method (clause 4.12): it never sends one.
        Incoming::Auth(_) => return,
    };
    for to in [Protocol::V31, Protocol::V311, Protocol::V5] {
        let mut out = BytesMut::new();
        encode(&answer, to, &mut out);
        assert!(whole_packets(&out), "{answer:?} to {to:?}: {out:x?}");
        let whole = out.len();
        for max_packet in [2, 4, 8, 64, usize::MAX] {
            let terms = Terms { max_packet, ..Terms::default() };
            let mut out = BytesMut::new();
            let sent = encode_within(&answer, to, terms, &mut out);
            assert!(whole_packets(&out) && out.len() <= max_packet, "{answer:?} within {terms:?}: {out:x?}");
            assert!(sent || (out.is_empty() && max_packet < whole), "{answer:?} within {terms:?}");
        }
    }
    // What both sides may send must come back as it was.
    let mut out = BytesMut::from(connect(protocol));
    encode(&answer, protocol, &mut out);
    let both_ways = matches!(
        packet,
        Incoming::PubAck(_) | Incoming::PubRec(_) | Incoming::PubRel(_) | Incoming::PubComp(_)
    ) || matches!(packet, Incoming::Disconnect(d) if protocol.is_v5() && d.session_expiry.is_none());
    if both_ways {
        let (read, error) = feed(UNLIMITED, [&out[..]]);
        assert_eq!((read.get(1), error), (Some(packet), None));
    }
}

const UNLIMITED: Limits = Limits {
    max_packet_bytes: u32::MAX,
    max_topic_levels: usize::MAX,
    max_filters: usize::MAX,
    max_user_properties: usize::MAX,
};

/// Whether `bytes` is made of complete packets by their remaining lengths.
fn whole_packets(mut bytes: &[u8]) -> bool {
    while let [_, rest @ ..] = bytes {
        let mut length = 0;
        let mut header = 0;
        loop {
            let Some(&byte) = rest.get(header) else { return false };
            length |= usize::from(byte & 0x7f) << (7 * header);
            header += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let Some(after) = rest.get(header + length..) else { return false };
        bytes = after;
    }
    true
}

fn connect(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::V31 => b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c",
        Protocol::V311 => b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c",
        Protocol::V5 => b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c",
    }
}

/// Sends a published message (or a will) from a client of `from` to one of `to` and reads what arrives.
fn forward(packet: &Incoming, from: Protocol, to: Protocol) {
    let publish = match packet {
        Incoming::Publish(publish) => publish.clone(),
        Incoming::Connect(connect) if let Some(will) = &connect.will => Publish {
            dup: false,
            qos: will.qos,
            retain: will.retain,
            packet_id: 1,
            topic: Some(will.topic.clone()),
            alias: None,
            payload: will.payload.clone(),
            properties: will.properties.clone(),
        },
        _ => return,
    };
    assert!(publish.properties.is_none() || from.is_v5());
    let topic = match &publish.topic {
        Some(topic) => topic.clone(),
        None => TopicName::new("alias").unwrap(),
    };
    let message = Message {
        id: MsgId::from_bits(1),
        topic: topic.clone(),
        payload: publish.payload.clone(),
        qos: publish.qos,
        retain: publish.retain,
        dup: publish.dup,
        timestamp_ms: 0,
        sender: "sender".into(),
        publisher: None,
        properties: publish.properties.clone(),
        origin: Origin::Client,
        hops: 0,
    };
    let expiry = publish.properties.as_ref().and_then(|p| p.message_expiry);
    let delivery = Delivery {
        message: &message,
        qos: publish.qos,
        packet_id: publish.packet_id.max(1),
        dup: publish.dup,
        retain: publish.retain,
        subscription_ids: &[],
        topic_alias: publish.alias,
        with_topic: publish.topic.is_some(),
        expiry_remaining: expiry,
    };
    let mut out = BytesMut::from(connect(to));
    let before = out.len();
    encode_publish(&delivery, to, &mut out);
    assert_eq!(publish_len(&delivery, to), Some(out.len() - before));
    let (read, error) = feed(UNLIMITED, [&out[..]]);
    assert_eq!(error, None);
    let v5 = to.is_v5();
    let expected = Publish {
        packet_id: if publish.qos == QoS::AtMostOnce { 0 } else { publish.packet_id.max(1) },
        topic: if v5 && publish.topic.is_none() { None } else { Some(topic) },
        alias: publish.alias.filter(|_| v5),
        properties: publish.properties.clone().filter(|p| v5 && **p != PublishProperties::default()),
        payload: Bytes::clone(&publish.payload),
        ..publish
    };
    assert_eq!(read.get(1), Some(&Incoming::Publish(expected)));
    // With identifiers of subscriptions, which only a server sends: the length must still be right.
    let delivery = Delivery { subscription_ids: &[1, 300, 70_000, 268_435_455], ..delivery };
    let mut out = BytesMut::new();
    encode_publish(&delivery, to, &mut out);
    assert!(whole_packets(&out));
    assert_eq!(publish_len(&delivery, to), Some(out.len()));
}
