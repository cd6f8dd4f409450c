//! The wire decoder of `rumqttd`, for packets that have passed [`super::validate`], and its packets turned into
//! ours. MQTT 3.1 is taken as 3.1.1: these packets have the same form.

use bytes::BytesMut;
use bytestring::ByteString;
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{
    Error, Packet, Protocol as _, PubAckReason, PubCompReason, PubRecReason, PubRelReason, RetainForwardRule,
};
use tidegate_event::{Protocol, QoS, ReasonCode, SubscriptionOptions};

use super::{Ack, CodecError, Incoming, PacketType, Subscribe, Unsubscribe};

/// The reason codes of PUBACK and PUBREC, two equal enums there.
macro_rules! publish_reason {
    ($enum:ident, $reason:expr) => {
        match $reason {
            $enum::Success => 0x00,
            $enum::NoMatchingSubscribers => 0x10,
            $enum::UnspecifiedError => 0x80,
            $enum::ImplementationSpecificError => 0x83,
            $enum::NotAuthorized => 0x87,
            $enum::TopicNameInvalid => 0x90,
            $enum::PacketIdentifierInUse => 0x91,
            $enum::QuotaExceeded => 0x97,
            $enum::PayloadFormatInvalid => 0x99,
        }
    };
}

/// Takes the packet of `total` bytes from the start of `buffer`.
pub(super) fn decode(
    packet: PacketType,
    buffer: &mut BytesMut,
    total: usize,
    protocol: Protocol,
) -> Result<Incoming, CodecError> {
    let read = if protocol.is_v5() { V5.read_mut(buffer, total) } else { V4.read_mut(buffer, total) };
    read.and_then(convert).map_err(|error| CodecError::Decoder { packet, error })
}

fn convert(packet: Packet) -> Result<Incoming, Error> {
    Ok(match packet {
        Packet::PubAck(ack, _) => {
            Incoming::PubAck(ack_of(ack.pkid, publish_reason!(PubAckReason, ack.reason)))
        }
        Packet::PubRec(ack, _) => {
            Incoming::PubRec(ack_of(ack.pkid, publish_reason!(PubRecReason, ack.reason)))
        }
        Packet::PubRel(ack, _) => Incoming::PubRel(ack_of(
            ack.pkid,
            match ack.reason {
                PubRelReason::Success => 0x00,
                PubRelReason::PacketIdentifierNotFound => 0x92,
            },
        )),
        Packet::PubComp(ack, _) => Incoming::PubComp(ack_of(
            ack.pkid,
            match ack.reason {
                PubCompReason::Success => 0x00,
                PubCompReason::PacketIdentifierNotFound => 0x92,
            },
        )),
        Packet::Subscribe(subscribe, properties) => {
            // At most 268,435,455: a variable byte integer.
            let id = properties.and_then(|p| p.id).map_or(0, |id| u32::try_from(id).unwrap_or(u32::MAX));
            let filters = subscribe.filters.into_iter().map(|filter| {
                let options = SubscriptionOptions {
                    qos: qos(filter.qos),
                    no_local: filter.nolocal,
                    retain_as_published: filter.preserve_retain,
                    retain_handling: match filter.retain_forward_rule {
                        RetainForwardRule::OnEverySubscribe => 0,
                        RetainForwardRule::OnNewSubscribe => 1,
                        RetainForwardRule::Never => 2,
                    },
                    id,
                };
                (ByteString::from(filter.path), options)
            });
            Incoming::Subscribe(Subscribe { packet_id: subscribe.pkid, filters: filters.collect() })
        }
        Packet::Unsubscribe(unsubscribe, _) => Incoming::Unsubscribe(Unsubscribe {
            packet_id: unsubscribe.pkid,
            filters: unsubscribe.filters.into_iter().map(ByteString::from).collect(),
        }),
        _ => return Err(Error::IncorrectPacketFormat),
    })
}

fn ack_of(packet_id: u16, reason: u8) -> Ack {
    Ack { packet_id, reason: ReasonCode(reason) }
}

fn qos(qos: rumqttd::protocol::QoS) -> QoS {
    match qos {
        rumqttd::protocol::QoS::AtMostOnce => QoS::AtMostOnce,
        rumqttd::protocol::QoS::AtLeastOnce => QoS::AtLeastOnce,
        rumqttd::protocol::QoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}
