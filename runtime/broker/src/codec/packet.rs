//! Our own packet types: what the codec gives to sessions and takes from them.
//!
//! They hold what the protocol carries, already checked: topics are valid names, filters valid filters, packet
//! ids not zero. Payloads and texts share memory with the network buffer.

use bytes::Bytes;
use bytestring::ByteString;
use tidegate_event::{Protocol, PublishProperties, QoS, ReasonCode, SubscriptionOptions, TopicName};

/// A packet that a client may send.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// CONNECT.
    Connect(Box<Connect>),
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK.
    PubAck(Ack),
    /// PUBREC.
    PubRec(Ack),
    /// PUBREL.
    PubRel(Ack),
    /// PUBCOMP.
    PubComp(Ack),
    /// SUBSCRIBE.
    Subscribe(Subscribe),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe),
    /// PINGREQ.
    PingReq,
    /// DISCONNECT.
    Disconnect(Disconnect),
    /// AUTH (MQTT 5).
    Auth(Auth),
}

impl Incoming {
    /// How many topic filters it has.
    pub fn filters(&self) -> usize {
        match self {
            Self::Subscribe(subscribe) => subscribe.filters.len(),
            Self::Unsubscribe(unsubscribe) => unsubscribe.filters.len(),
            _ => 0,
        }
    }
}

/// A packet that the server sends. PUBLISH is not here: it is encoded straight from the shared message by
/// [`crate::codec::encode_publish`].
#[derive(Clone, Debug, PartialEq)]
pub enum Outgoing {
    /// CONNACK.
    ConnAck(Box<ConnAck>),
    /// PUBACK.
    PubAck(Ack),
    /// PUBREC.
    PubRec(Ack),
    /// PUBREL.
    PubRel(Ack),
    /// PUBCOMP.
    PubComp(Ack),
    /// SUBACK.
    SubAck(SubAck),
    /// UNSUBACK.
    UnsubAck(SubAck),
    /// PINGRESP.
    PingResp,
    /// DISCONNECT (MQTT 5 only).
    Disconnect(Disconnect),
}

/// CONNECT (clause 3.1).
#[derive(Clone, Debug, PartialEq)]
pub struct Connect {
    /// Version, from protocol name and level.
    pub protocol: Protocol,
    /// Client id; empty = the server gives one.
    pub client_id: ByteString,
    /// Clean session (3.1.1), clean start (5).
    pub clean_start: bool,
    /// Seconds, 0 = none.
    pub keep_alive: u16,
    /// User name.
    pub username: Option<ByteString>,
    /// Password, any bytes.
    pub password: Option<Bytes>,
    /// Will message.
    pub will: Option<Will>,
    /// Properties (MQTT 5; defaults otherwise).
    pub properties: ConnectProperties,
}

/// Properties of CONNECT (clause 3.1.2.11).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectProperties {
    /// Seconds; absent = 0 on MQTT 5.
    pub session_expiry: Option<u32>,
    /// How many QoS 1 and 2 deliveries the client takes at once; absent = 65,535.
    pub receive_maximum: Option<u16>,
    /// Greatest packet the client takes, bytes.
    pub maximum_packet_size: Option<u32>,
    /// How many topic aliases the client takes.
    pub topic_alias_maximum: Option<u16>,
    /// Wants response information.
    pub request_response_information: bool,
    /// False: no reason strings or user properties except on PUBLISH, CONNACK, DISCONNECT.
    pub request_problem_information: Option<bool>,
    /// User properties.
    pub user: Vec<(ByteString, ByteString)>,
    /// Enhanced authentication method.
    pub authentication_method: Option<ByteString>,
    /// Enhanced authentication data.
    pub authentication_data: Option<Bytes>,
}

/// Will message (clause 3.1.2.5, 3.1.3.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Will {
    /// Topic.
    pub topic: TopicName,
    /// Payload.
    pub payload: Bytes,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// Seconds between the connection's end and the will.
    pub delay: u32,
    /// Properties of the message it becomes.
    pub properties: Option<Box<PublishProperties>>,
}

impl Will {
    /// About how many bytes of memory it takes.
    pub fn size(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, PublishProperties::size);
        size_of::<Self>() + self.topic.as_str().len() + self.payload.len() + properties
    }
}

impl Connect {
    /// About how many bytes of memory it takes.
    pub fn size(&self) -> usize {
        let user: usize = self.properties.user.iter().map(|(name, value)| name.len() + value.len()).sum();
        size_of::<Self>()
            + self.client_id.len()
            + self.username.as_ref().map_or(0, |name| name.len())
            + self.password.as_ref().map_or(0, Bytes::len)
            + self.will.as_ref().map_or(0, Will::size)
            + self.properties.authentication_data.as_ref().map_or(0, Bytes::len)
            + user
    }
}

/// PUBLISH (clause 3.3), as a client sends it.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// DUP.
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// Packet id, 0 at QoS 0.
    pub packet_id: u16,
    /// Topic; `None` when only an alias was sent.
    pub topic: Option<TopicName>,
    /// Topic alias, not zero.
    pub alias: Option<u16>,
    /// Payload.
    pub payload: Bytes,
    /// Other properties.
    pub properties: Option<Box<PublishProperties>>,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP (clauses 3.4 to 3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Packet id.
    pub packet_id: u16,
    /// Reason (MQTT 5; success otherwise).
    pub reason: ReasonCode,
}

/// SUBSCRIBE (clause 3.8).
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    /// Packet id.
    pub packet_id: u16,
    /// Filters as written (valid UTF-8; the session checks filter syntax so that one bad filter fails alone).
    /// `SubscriptionOptions::id` is the packet's subscription identifier.
    pub filters: Vec<(ByteString, SubscriptionOptions)>,
}

/// UNSUBSCRIBE (clause 3.10).
#[derive(Clone, Debug, PartialEq)]
pub struct Unsubscribe {
    /// Packet id.
    pub packet_id: u16,
    /// Filters as written.
    pub filters: Vec<ByteString>,
}

/// SUBACK and UNSUBACK (clauses 3.9, 3.11).
#[derive(Clone, Debug, PartialEq)]
pub struct SubAck {
    /// Packet id of the request.
    pub packet_id: u16,
    /// One MQTT 5 reason a filter, in order; the codec maps them to what the version has.
    pub reasons: Vec<ReasonCode>,
}

/// DISCONNECT (clause 3.14).
#[derive(Clone, Debug, PartialEq)]
pub struct Disconnect {
    /// Reason; 3.1.1 clients always mean normal.
    pub reason: ReasonCode,
    /// A new session expiry, from the client.
    pub session_expiry: Option<u32>,
    /// Text for people, from the server.
    pub reason_string: Option<ByteString>,
}

/// AUTH (clause 3.15).
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// Reason.
    pub reason: ReasonCode,
    /// Method.
    pub method: Option<ByteString>,
    /// Data.
    pub data: Option<Bytes>,
}

/// CONNACK (clause 3.2).
#[derive(Clone, Debug, PartialEq)]
pub struct ConnAck {
    /// A session was there.
    pub session_present: bool,
    /// MQTT 5 reason; the codec maps it to a 3.1.1 return code.
    pub reason: ReasonCode,
    /// Properties (MQTT 5).
    pub properties: ConnAckProperties,
}

/// Properties of CONNACK (clause 3.2.2.3). `None` = the protocol's default holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnAckProperties {
    /// Session expiry in force when it is not what the client asked.
    pub session_expiry: Option<u32>,
    /// How many QoS 1 and 2 PUBLISH the server takes at once.
    pub receive_maximum: Option<u16>,
    /// Greatest packet the server takes.
    pub maximum_packet_size: Option<u32>,
    /// The client id given to a client that sent none.
    pub assigned_client_id: Option<ByteString>,
    /// How many topic aliases the server takes.
    pub topic_alias_maximum: Option<u16>,
    /// Text for people.
    pub reason_string: Option<ByteString>,
    /// Keep-alive the client must use.
    pub server_keep_alive: Option<u16>,
    /// Greatest QoS the server takes, 0 or 1.
    pub maximum_qos: Option<u8>,
    /// False: the server keeps no retained messages.
    pub retain_available: Option<bool>,
    /// What the client may build response topics from.
    pub response_information: Option<ByteString>,
}
