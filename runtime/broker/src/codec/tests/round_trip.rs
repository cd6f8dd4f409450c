//! What another implementation's encoder writes, our decoder reads.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes as mqtt5;
use rumqttc::v5::mqttbytes::v5;
use tidegate_event::{Protocol, PublishProperties, QoS, SubscriptionOptions};

use super::{LIMITS, decode_all, decode_one};
use crate::codec::{Ack, Connect, ConnectProperties, Decoder, Incoming};

const QOS: [(rumqttc::QoS, mqtt5::QoS, QoS); 3] = [
    (rumqttc::QoS::AtMostOnce, mqtt5::QoS::AtMostOnce, QoS::AtMostOnce),
    (rumqttc::QoS::AtLeastOnce, mqtt5::QoS::AtLeastOnce, QoS::AtLeastOnce),
    (rumqttc::QoS::ExactlyOnce, mqtt5::QoS::ExactlyOnce, QoS::ExactlyOnce),
];

fn pairs() -> Vec<(String, String)> {
    vec![("name".into(), "värde".into()), ("name".into(), "".into())]
}

fn first_packet(bytes: &[u8]) -> Connect {
    let mut packets = decode_all(&mut Decoder::new(LIMITS), bytes).unwrap();
    match packets.pop() {
        Some(Incoming::Connect(connect)) if packets.is_empty() => *connect,
        other => panic!("{other:?}"),
    }
}

#[test]
fn connect_v4() {
    let mut sent = v4::Connect::new("client/1");
    sent.keep_alive = 77;
    sent.clean_session = false;
    let mut bytes = BytesMut::new();
    sent.write(&mut bytes).unwrap();
    let read = first_packet(&bytes);
    assert_eq!((read.protocol, read.client_id.as_ref(), read.keep_alive), (Protocol::V311, "client/1", 77));
    assert_eq!((read.clean_start, read.username, read.password, read.will), (false, None, None, None));

    for (qos, _, expected) in QOS {
        sent.set_login("user", "secret");
        sent.last_will = Some(v4::LastWill::new("will/topic", "gone", qos, true));
        let mut bytes = BytesMut::new();
        sent.write(&mut bytes).unwrap();
        let read = first_packet(&bytes);
        assert_eq!(read.username.as_deref(), Some("user"));
        assert_eq!(read.password.as_deref(), Some(&b"secret"[..]));
        let will = read.will.unwrap();
        assert_eq!((will.topic.as_str(), &will.payload[..]), ("will/topic", &b"gone"[..]));
        assert_eq!((will.qos, will.retain, will.delay, will.properties), (expected, true, 0, None));
    }
}

#[test]
fn connect_v5() {
    let sent = v5::Connect {
        keep_alive: 5,
        client_id: "c".into(),
        clean_start: true,
        properties: Some(v5::ConnectProperties {
            session_expiry_interval: Some(3600),
            receive_maximum: Some(10),
            max_packet_size: Some(1000),
            topic_alias_max: Some(4),
            request_response_info: Some(1),
            request_problem_info: Some(0),
            user_properties: pairs(),
            authentication_method: Some("SCRAM".into()),
            authentication_data: Some(Bytes::from_static(b"\x00\xff")),
        }),
    };
    let will = v5::LastWill::new(
        "w",
        "bye",
        mqtt5::QoS::AtLeastOnce,
        false,
        Some(v5::LastWillProperties {
            delay_interval: Some(30),
            payload_format_indicator: Some(1),
            message_expiry_interval: Some(60),
            content_type: Some("text/plain".into()),
            response_topic: Some("answers".into()),
            correlation_data: Some(Bytes::from_static(b"id")),
            user_properties: pairs(),
        }),
    );
    let login = v5::Login { username: "u".into(), password: "p".into() };
    let mut bytes = BytesMut::new();
    v5::Packet::Connect(sent, Some(will), Some(login)).write(&mut bytes, None).unwrap();
    let read = first_packet(&bytes);
    let user = pairs().into_iter().map(|(k, v)| (k.into(), v.into())).collect::<Vec<_>>();
    assert_eq!(
        read.properties,
        ConnectProperties {
            session_expiry: Some(3600),
            receive_maximum: Some(10),
            maximum_packet_size: Some(1000),
            topic_alias_maximum: Some(4),
            request_response_information: true,
            request_problem_information: Some(false),
            user: user.clone(),
            authentication_method: Some("SCRAM".into()),
            authentication_data: Some(Bytes::from_static(b"\x00\xff")),
        }
    );
    assert_eq!((read.protocol, read.keep_alive, read.clean_start), (Protocol::V5, 5, true));
    assert_eq!((read.username.as_deref(), read.password.as_deref()), (Some("u"), Some(&b"p"[..])));
    let will = read.will.unwrap();
    assert_eq!((will.topic.as_str(), &will.payload[..], will.delay), ("w", &b"bye"[..], 30));
    assert_eq!((will.qos, will.retain), (QoS::AtLeastOnce, false));
    assert_eq!(
        will.properties.as_deref(),
        Some(&PublishProperties {
            payload_format: Some(1),
            message_expiry: Some(60),
            content_type: Some("text/plain".into()),
            response_topic: Some("answers".into()),
            correlation_data: Some(Bytes::from_static(b"id")),
            user,
        })
    );
}

#[test]
fn publish_v4() {
    for (qos, _, expected) in QOS {
        for payload in [&b""[..], b"x", &[0xa5; 300]] {
            let mut sent = v4::Publish::new("a/é", qos, payload);
            sent.retain = true;
            sent.dup = expected != QoS::AtMostOnce;
            sent.pkid = if expected == QoS::AtMostOnce { 0 } else { 65_535 };
            let mut bytes = BytesMut::new();
            sent.write(&mut bytes).unwrap();
            for protocol in [Protocol::V31, Protocol::V311] {
                let Incoming::Publish(read) = decode_one(protocol, &bytes).unwrap() else { panic!() };
                assert_eq!((read.qos, read.retain, read.dup), (expected, true, sent.dup));
                assert_eq!((read.packet_id, &read.payload[..]), (sent.pkid, payload));
                assert_eq!(read.topic.unwrap().as_str(), "a/é");
            }
        }
    }
}

#[test]
fn publish_v5() {
    for (_, qos, expected) in QOS {
        let mut sent = v5::Publish::new("a/b", qos, &b"payload"[..], None);
        sent.pkid = if expected == QoS::AtMostOnce { 0 } else { 1 };
        for (alias, topic) in [(None, "a/b"), (Some(9), "a/b"), (Some(9), "")] {
            sent.topic = Bytes::from(topic);
            sent.properties = Some(v5::PublishProperties {
                payload_format_indicator: Some(1),
                message_expiry_interval: Some(1),
                topic_alias: alias,
                response_topic: Some("r".into()),
                correlation_data: Some(Bytes::from_static(&[0; 200])),
                user_properties: pairs(),
                subscription_identifiers: vec![],
                content_type: Some("c".into()),
            });
            let mut bytes = BytesMut::new();
            v5::Packet::Publish(sent.clone()).write(&mut bytes, None).unwrap();
            let Incoming::Publish(read) = decode_one(Protocol::V5, &bytes).unwrap() else { panic!() };
            assert_eq!((read.qos, read.packet_id, read.alias), (expected, sent.pkid, alias));
            assert_eq!(read.topic.as_ref().map(|t| t.as_str()), (!topic.is_empty()).then_some(topic));
            assert_eq!(&read.payload[..], b"payload");
            let properties = read.properties.unwrap();
            assert_eq!((properties.payload_format, properties.message_expiry), (Some(1), Some(1)));
            assert_eq!(properties.user.len(), 2);
            assert_eq!(properties.user[0].1, "värde");
            assert_eq!(properties.correlation_data.as_deref(), Some(&[0; 200][..]));
        }
    }
}

#[test]
fn subscribe_and_unsubscribe_v4() {
    let sent = v4::Subscribe {
        pkid: 12,
        filters: QOS
            .iter()
            .map(|(qos, _, level)| v4::SubscribeFilter::new(format!("f/{}/#", level.level()), *qos))
            .collect(),
    };
    let mut bytes = BytesMut::new();
    sent.write(&mut bytes).unwrap();
    let Incoming::Subscribe(read) = decode_one(Protocol::V311, &bytes).unwrap() else { panic!() };
    assert_eq!(read.packet_id, 12);
    for ((filter, options), (_, _, qos)) in read.filters.iter().zip(QOS) {
        assert_eq!(*filter, format!("f/{}/#", qos.level()));
        assert_eq!(*options, SubscriptionOptions { qos, ..SubscriptionOptions::default() });
    }

    let mut sent = v4::Unsubscribe::new("a/+");
    sent.pkid = 13;
    sent.topics.push("b".into());
    let mut bytes = BytesMut::new();
    sent.write(&mut bytes).unwrap();
    let Incoming::Unsubscribe(read) = decode_one(Protocol::V311, &bytes).unwrap() else { panic!() };
    assert_eq!((read.packet_id, read.filters), (13, vec!["a/+".into(), "b".into()]));
}

#[test]
fn subscribe_and_unsubscribe_v5() {
    let rules = [
        v5::RetainForwardRule::OnEverySubscribe,
        v5::RetainForwardRule::OnNewSubscribe,
        v5::RetainForwardRule::Never,
    ];
    for (retain_handling, rule) in (0..).zip(rules) {
        for (id, user_properties) in [(None, vec![]), (Some(1), pairs()), (Some(268_435_455), vec![])] {
            let filters = QOS
                .iter()
                .map(|(_, qos, _)| v5::Filter {
                    path: "a/#".into(),
                    qos: *qos,
                    nolocal: true,
                    preserve_retain: true,
                    retain_forward_rule: rule.clone(),
                })
                .collect();
            let properties = Some(v5::SubscribeProperties { id, user_properties });
            let sent = v5::Subscribe { pkid: 14, filters, properties };
            let mut bytes = BytesMut::new();
            v5::Packet::Subscribe(sent).write(&mut bytes, None).unwrap();
            let Incoming::Subscribe(read) = decode_one(Protocol::V5, &bytes).unwrap() else { panic!() };
            let id = u32::try_from(id.unwrap_or_default()).unwrap();
            for ((_, options), (_, _, qos)) in read.filters.iter().zip(QOS) {
                let expected = SubscriptionOptions {
                    qos,
                    no_local: true,
                    retain_as_published: true,
                    retain_handling,
                    id,
                };
                assert_eq!(*options, expected);
            }
        }
    }

    let mut sent = v5::Unsubscribe::new("a", Some(v5::UnsubscribeProperties { user_properties: pairs() }));
    sent.pkid = 15;
    let mut bytes = BytesMut::new();
    v5::Packet::Unsubscribe(sent).write(&mut bytes, None).unwrap();
    let Incoming::Unsubscribe(read) = decode_one(Protocol::V5, &bytes).unwrap() else { panic!() };
    assert_eq!((read.packet_id, read.filters), (15, vec!["a".into()]));
}

#[test]
fn acknowledgements_v4() {
    let write = |write: &dyn Fn(&mut BytesMut) -> Result<usize, rumqttc::mqttbytes::Error>| {
        let mut bytes = BytesMut::new();
        write(&mut bytes).unwrap();
        decode_one(Protocol::V311, &bytes).unwrap()
    };
    let ack = Ack { packet_id: 500, reason: tidegate_event::ReasonCode::SUCCESS };
    assert_eq!(write(&|b| v4::PubAck::new(500).write(b)), Incoming::PubAck(ack));
    assert_eq!(write(&|b| v4::PubRec::new(500).write(b)), Incoming::PubRec(ack));
    assert_eq!(write(&|b| v4::PubRel::new(500).write(b)), Incoming::PubRel(ack));
    assert_eq!(write(&|b| v4::PubComp::new(500).write(b)), Incoming::PubComp(ack));
    assert_eq!(write(&|b| v4::PingReq.write(b)), Incoming::PingReq);
    assert!(matches!(write(&|b| v4::Disconnect.write(b)), Incoming::Disconnect(_)));
}

#[test]
fn acknowledgements_v5() {
    let decode = |packet: v5::Packet| {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        decode_one(Protocol::V5, &bytes).unwrap()
    };
    for (reason, code) in [
        (v5::PubAckReason::Success, 0x00),
        (v5::PubAckReason::NoMatchingSubscribers, 0x10),
        (v5::PubAckReason::QuotaExceeded, 0x97),
        (v5::PubAckReason::PayloadFormatInvalid, 0x99),
    ] {
        for with_properties in [false, true] {
            let properties = with_properties.then(|| v5::PubAckProperties {
                reason_string: Some("because".into()),
                user_properties: pairs(),
            });
            let packet = v5::Packet::PubAck(v5::PubAck { pkid: 7, reason, properties });
            let Incoming::PubAck(ack) = decode(packet) else { panic!() };
            assert_eq!((ack.packet_id, ack.reason.0), (7, code));
        }
    }
    let packet = v5::PubRec { pkid: 7, reason: v5::PubRecReason::NotAuthorized, properties: None };
    let Incoming::PubRec(ack) = decode(v5::Packet::PubRec(packet)) else { panic!() };
    assert_eq!((ack.packet_id, ack.reason.0), (7, 0x87));
    let packet = v5::PubRel { pkid: 7, reason: v5::PubRelReason::PacketIdentifierNotFound, properties: None };
    let Incoming::PubRel(ack) = decode(v5::Packet::PubRel(packet)) else { panic!() };
    assert_eq!((ack.packet_id, ack.reason.0), (7, 0x92));
    let properties = v5::PubCompProperties { reason_string: Some("r".into()), user_properties: pairs() };
    let packet = v5::PubComp { pkid: 7, reason: v5::PubCompReason::Success, properties: Some(properties) };
    let Incoming::PubComp(ack) = decode(v5::Packet::PubComp(packet)) else { panic!() };
    assert_eq!((ack.packet_id, ack.reason.0), (7, 0));
    assert_eq!(decode(v5::Packet::PingReq(v5::PingReq)), Incoming::PingReq);
    let packet = v5::Disconnect {
        reason_code: v5::DisconnectReasonCode::DisconnectWithWillMessage,
        properties: Some(v5::DisconnectProperties {
            session_expiry_interval: Some(9),
            reason_string: Some("bye".into()),
            user_properties: pairs(),
            server_reference: None,
        }),
    };
    let Incoming::Disconnect(read) = decode(v5::Packet::Disconnect(packet)) else { panic!() };
    assert_eq!((read.reason.0, read.session_expiry), (4, Some(9)));
    assert_eq!(read.reason_string.as_deref(), Some("bye"));
}
