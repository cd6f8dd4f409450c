//! Right packets of every type that a client sends: what the wrong ones are made of.

use tidegate_conformance::packet::{PINGREQ, ack, ack_with, disconnect_with};
use tidegate_conformance::property::id;
use tidegate_conformance::{Connect, Properties, Publish, Subscribe, Unsubscribe, Version, Will, kind};

/// The packets that are broken.
pub(crate) const TARGETS: [Target; 17] = [
    Target::Connect,
    Target::ConnectWithWill,
    Target::ConnectWithEverything,
    Target::Publish(0),
    Target::Publish(1),
    Target::Publish(2),
    Target::PublishWithProperties,
    Target::Ack(kind::PUBACK),
    Target::Ack(kind::PUBREC),
    Target::Ack(kind::PUBREL),
    Target::Ack(kind::PUBCOMP),
    Target::Subscribe,
    Target::SubscribeTwo,
    Target::Unsubscribe,
    Target::Pingreq,
    Target::Disconnect,
    Target::AckAlone,
];

/// A packet that is broken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    Connect,
    ConnectWithWill,
    ConnectWithEverything,
    Publish(u8),
    PublishWithProperties,
    /// With reason code and properties in MQTT 5.
    Ack(u8),
    /// PUBACK of two bytes.
    AckAlone,
    Subscribe,
    SubscribeTwo,
    Unsubscribe,
    Pingreq,
    Disconnect,
}

impl Target {
    /// Whether it is the first packet of its connection.
    pub(crate) fn is_connect(self) -> bool {
        matches!(self, Self::Connect | Self::ConnectWithWill | Self::ConnectWithEverything)
    }
}

/// A client id that no change of a byte turns into another sequence's: the number is in it twice. All versions are tried at
/// the same time, and no flipped bit makes one's letter another's.
pub(crate) fn client_id(version: Version, number: usize) -> String {
    let letter = match version {
        Version::V31 => 'k',
        Version::V311 => 'n',
        Version::V5 => 'm',
    };
    format!("{letter}{number:06}-{number:06}")
}

/// A plain CONNECT of sequence `number`.
pub(crate) fn connect(version: Version, number: usize) -> Vec<u8> {
    Connect::new(version).client_id(client_id(version, number)).encode()
}

/// What comes between CONNECT and the packet that is broken, in turn: nothing, or something that has begun.
pub(crate) fn before(version: Version, number: usize) -> Vec<u8> {
    let topic = format!("malformed/{number}");
    match number % 5 {
        0 => Vec::new(),
        1 => Subscribe::new(10).filter(&topic, 0).encode(version),
        2 => Publish::new(&topic, "1").qos(1, 11).encode(version),
        3 => Publish::new(&topic, "2").qos(2, 12).encode(version),
        _ => [
            Subscribe::new(10).filter(&topic, 0).encode(version),
            Publish::new(&topic, "0").encode(version),
            PINGREQ.to_vec(),
            Unsubscribe::new(13).filter(&topic).encode(version),
        ]
        .concat(),
    }
}

/// The right packet.
pub(crate) fn right(target: Target, version: Version, number: usize) -> Vec<u8> {
    let topic = format!("malformed/{number:06}");
    let reasons = || Properties::new().text(id::REASON_STRING, "why").user("n", "v");
    let connect = || Connect::new(version).client_id(client_id(version, number));
    let will_properties =
        || Properties::new().four(id::WILL_DELAY, 0).byte(id::PAYLOAD_FORMAT, 1).text(id::CONTENT_TYPE, "c");
    match target {
        Target::Connect => connect().encode(),
        Target::ConnectWithWill => {
            connect().will(Will::new(&topic, "will").qos(1).properties(will_properties())).encode()
        }
        Target::ConnectWithEverything => {
            let properties = Properties::new()
                .four(id::SESSION_EXPIRY, 0)
                .two(id::RECEIVE_MAXIMUM, 9)
                .four(id::MAXIMUM_PACKET_SIZE, 70_000)
                .two(id::TOPIC_ALIAS_MAXIMUM, 0)
                .byte(id::REQUEST_PROBLEM_INFORMATION, 1)
                .byte(id::REQUEST_RESPONSE_INFORMATION, 0)
                .user("n", "v");
            let will = Will::new(&topic, "will").properties(will_properties().user("n", "v"));
            connect().properties(properties).will(will).login("user", "password").keep_alive(60).encode()
        }
        Target::Publish(qos) => Publish::new(&topic, "payload").qos(qos, 21).encode(version),
        Target::PublishWithProperties => {
            let properties = Properties::new()
                .byte(id::PAYLOAD_FORMAT, 0)
                .four(id::MESSAGE_EXPIRY, 60)
                .two(id::TOPIC_ALIAS, 3)
                .text(id::RESPONSE_TOPIC, "r/t")
                .binary(id::CORRELATION_DATA, [1, 2])
                .user("n", "v")
                .text(id::CONTENT_TYPE, "c");
            Publish::new(&topic, "payload").qos(1, 22).properties(properties).encode(version)
        }
        Target::Ack(kind) if version.is_v5() => ack_with(kind, 31, 0, &reasons()),
        Target::Ack(kind) => ack(kind, 31),
        Target::AckAlone => ack(kind::PUBACK, 32),
        Target::Subscribe => {
            let properties = Properties::new().variable(id::SUBSCRIPTION_IDENTIFIER, 300).user("n", "v");
            Subscribe::new(41).filter(&topic, 1).properties(properties).encode(version)
        }
        Target::SubscribeTwo => {
            Subscribe::new(42).filter("malformed/+/x", 0).filter(&topic, 2).encode(version)
        }
        Target::Unsubscribe => {
            let properties = Properties::new().user("n", "v");
            Unsubscribe::new(51).filter(&topic).filter("malformed/+").properties(properties).encode(version)
        }
        Target::Pingreq => PINGREQ.to_vec(),
        Target::Disconnect if version.is_v5() => disconnect_with(0, &reasons()),
        Target::Disconnect => vec![0xE0, 0],
    }
}
