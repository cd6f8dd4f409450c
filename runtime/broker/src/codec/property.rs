//! MQTT 5 properties (clause 2.2.2): one table of what a client may send, and the walk that enforces it.

use tidegate_event::ReasonCode;

use super::error::reason;
use super::reader::Reader;
use super::{CodecError, Limits};

/// A place where a client sends properties. The values are bits of [`Rule::sections`].
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Section {
    Connect = 1,
    Will = 2,
    Publish = 4,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP.
    Ack = 8,
    Subscribe = 16,
    Unsubscribe = 32,
    Disconnect = 64,
    Auth = 128,
}

/// Identifiers (clause 2.2.2.2).
pub(super) mod id {
    pub(in crate::codec) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(in crate::codec) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(in crate::codec) const CONTENT_TYPE: u8 = 0x03;
    pub(in crate::codec) const RESPONSE_TOPIC: u8 = 0x08;
    pub(in crate::codec) const CORRELATION_DATA: u8 = 0x09;
    pub(in crate::codec) const SUBSCRIPTION_ID: u8 = 0x0b;
    pub(in crate::codec) const SESSION_EXPIRY: u8 = 0x11;
    pub(in crate::codec) const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub(in crate::codec) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(in crate::codec) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(in crate::codec) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(in crate::codec) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(in crate::codec) const WILL_DELAY: u8 = 0x18;
    pub(in crate::codec) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(in crate::codec) const RESPONSE_INFORMATION: u8 = 0x1a;
    pub(in crate::codec) const SERVER_REFERENCE: u8 = 0x1c;
    pub(in crate::codec) const REASON_STRING: u8 = 0x1f;
    pub(in crate::codec) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(in crate::codec) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(in crate::codec) const TOPIC_ALIAS: u8 = 0x23;
    pub(in crate::codec) const MAXIMUM_QOS: u8 = 0x24;
    pub(in crate::codec) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(in crate::codec) const USER: u8 = 0x26;
    pub(in crate::codec) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(in crate::codec) const WILDCARD_AVAILABLE: u8 = 0x28;
    pub(in crate::codec) const SUBSCRIPTION_ID_AVAILABLE: u8 = 0x29;
    pub(in crate::codec) const SHARED_AVAILABLE: u8 = 0x2a;
}

/// How a value is written, and which values are legal.
#[derive(Clone, Copy, PartialEq)]
enum Wire {
    /// One byte, 0 or 1.
    Flag,
    /// Two bytes.
    Two,
    /// Two bytes, not 0.
    TwoNotZero,
    /// Four bytes.
    Four,
    /// Four bytes, not 0.
    FourNotZero,
    /// A variable byte integer, not 0.
    VarintNotZero,
    /// A UTF-8 string.
    Text,
    /// A UTF-8 string that is a topic name.
    Topic,
    /// Binary data.
    Binary,
    /// A pair of UTF-8 strings. The only property that may repeat.
    Pair,
}

/// A row of the table.
#[derive(Clone, Copy)]
struct Rule {
    id: u8,
    name: &'static str,
    wire: Wire,
    /// Where a client may send it: bits of [`Section`].
    sections: u8,
    /// Where only a server may send it.
    server_only: u8,
}

const fn rule(id: u8, name: &'static str, wire: Wire, sections: u8) -> Rule {
    Rule { id, name, wire, sections, server_only: 0 }
}

const CONNECT: u8 = Section::Connect as u8;
const WILL: u8 = Section::Will as u8;
const PUBLISH: u8 = Section::Publish as u8;
const ACK: u8 = Section::Ack as u8;
const SUBSCRIBE: u8 = Section::Subscribe as u8;
const DISCONNECT: u8 = Section::Disconnect as u8;
const AUTH: u8 = Section::Auth as u8;
/// In packets that only a server sends.
const NOWHERE: u8 = 0;
const EVERYWHERE: u8 = 0xff;

/// Every property of MQTT 5 (table 2-4), as far as a server receives it.
const RULES: [Rule; 27] = [
    rule(id::PAYLOAD_FORMAT, "payload format indicator", Wire::Flag, WILL | PUBLISH),
    rule(id::MESSAGE_EXPIRY, "message expiry interval", Wire::Four, WILL | PUBLISH),
    rule(id::CONTENT_TYPE, "content type", Wire::Text, WILL | PUBLISH),
    rule(id::RESPONSE_TOPIC, "response topic", Wire::Topic, WILL | PUBLISH),
    rule(id::CORRELATION_DATA, "correlation data", Wire::Binary, WILL | PUBLISH),
    Rule {
        server_only: PUBLISH,
        ..rule(id::SUBSCRIPTION_ID, "subscription identifier", Wire::VarintNotZero, SUBSCRIBE)
    },
    rule(id::SESSION_EXPIRY, "session expiry interval", Wire::Four, CONNECT | DISCONNECT),
    rule(id::ASSIGNED_CLIENT_ID, "assigned client identifier", Wire::Text, NOWHERE),
    rule(id::SERVER_KEEP_ALIVE, "server keep alive", Wire::Two, NOWHERE),
    rule(id::AUTHENTICATION_METHOD, "authentication method", Wire::Text, CONNECT | AUTH),
    rule(id::AUTHENTICATION_DATA, "authentication data", Wire::Binary, CONNECT | AUTH),
    rule(id::REQUEST_PROBLEM_INFORMATION, "request problem information", Wire::Flag, CONNECT),
    rule(id::WILL_DELAY, "will delay interval", Wire::Four, WILL),
    rule(id::REQUEST_RESPONSE_INFORMATION, "request response information", Wire::Flag, CONNECT),
    rule(id::RESPONSE_INFORMATION, "response information", Wire::Text, NOWHERE),
    Rule { server_only: DISCONNECT, ..rule(id::SERVER_REFERENCE, "server reference", Wire::Text, NOWHERE) },
    rule(id::REASON_STRING, "reason string", Wire::Text, ACK | DISCONNECT | AUTH),
    rule(id::RECEIVE_MAXIMUM, "receive maximum", Wire::TwoNotZero, CONNECT),
    rule(id::TOPIC_ALIAS_MAXIMUM, "topic alias maximum", Wire::Two, CONNECT),
    rule(id::TOPIC_ALIAS, "topic alias", Wire::TwoNotZero, PUBLISH),
    rule(id::MAXIMUM_QOS, "maximum QoS", Wire::Flag, NOWHERE),
    rule(id::RETAIN_AVAILABLE, "retain available", Wire::Flag, NOWHERE),
    rule(id::USER, "user property", Wire::Pair, EVERYWHERE),
    rule(id::MAXIMUM_PACKET_SIZE, "maximum packet size", Wire::FourNotZero, CONNECT),
    rule(id::WILDCARD_AVAILABLE, "wildcard subscription available", Wire::Flag, NOWHERE),
    rule(id::SUBSCRIPTION_ID_AVAILABLE, "subscription identifiers available", Wire::Flag, NOWHERE),
    rule(id::SHARED_AVAILABLE, "shared subscription available", Wire::Flag, NOWHERE),
];

/// [`RULES`] by identifier.
static BY_ID: [Option<Rule>; 43] = {
    let mut table = [None; 43];
    let mut at = 0;
    while at < RULES.len() {
        table[RULES[at].id as usize] = Some(RULES[at]);
        at += 1;
    }
    table
};

/// A checked value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Flag(bool),
    Two(u16),
    Four(u32),
    Varint(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    Pair(&'a str, &'a str),
}

/// Reads the property length and the properties of `section`, gives each checked value to `take`.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    section: Section,
    limits: Limits,
    take: impl FnMut(u8, Value<'a>),
) -> Result<(), CodecError> {
    let length = reader.varint()?;
    walk(Reader::new(reader.take(length)?, reader.packet()), section, limits, take)
}

/// Reads the properties of `section` up to the end, gives each checked value to `take`. A packet of one mebibyte can
/// hold two hundred thousand user properties, for each of which `take` may keep some memory: they are counted here,
/// before.
pub(super) fn walk<'a>(
    mut properties: Reader<'a>,
    section: Section,
    limits: Limits,
    mut take: impl FnMut(u8, Value<'a>),
) -> Result<(), CodecError> {
    let packet = properties.packet();
    let mut seen = 0_u64;
    let mut pairs = 0;
    while !properties.is_empty() {
        // The identifier is a variable byte integer, but all that exist are below 128 (clause 2.2.2.2).
        let id = properties.byte()?;
        let Some(rule) = BY_ID.get(usize::from(id)).copied().flatten() else {
            return Err(properties.malformed("an unknown property identifier"));
        };
        let fault =
            |rule_text, reason| CodecError::Property { packet, name: rule.name, rule: rule_text, reason };
        if rule.sections & section as u8 == 0 {
            return Err(if rule.server_only & section as u8 == 0 {
                fault("not a property of this packet", reason::MALFORMED)
            } else {
                fault("only a server may send it", reason::PROTOCOL_ERROR)
            });
        }
        if rule.wire != Wire::Pair && seen & 1 << id != 0 {
            return Err(fault("must not be repeated", reason::PROTOCOL_ERROR));
        }
        seen |= 1 << id;
        if rule.wire == Wire::Pair {
            pairs += 1;
            if pairs > limits.max_user_properties {
                return Err(CodecError::TooMany {
                    packet,
                    what: "user properties",
                    limit: limits.max_user_properties,
                });
            }
        }
        let value = value(&mut properties, rule.wire)?;
        match value {
            Value::Two(0) if rule.wire == Wire::TwoNotZero => {
                return Err(fault("must not be 0", zero_reason(id)));
            }
            Value::Four(0) | Value::Varint(0)
                if matches!(rule.wire, Wire::FourNotZero | Wire::VarintNotZero) =>
            {
                return Err(fault("must not be 0", zero_reason(id)));
            }
            value => take(id, value),
        }
    }
    Ok(())
}

fn zero_reason(id: u8) -> ReasonCode {
    if id == id::TOPIC_ALIAS { reason::TOPIC_ALIAS_INVALID } else { reason::PROTOCOL_ERROR }
}

fn value<'a>(properties: &mut Reader<'a>, wire: Wire) -> Result<Value<'a>, CodecError> {
    Ok(match wire {
        Wire::Flag => match properties.byte()? {
            0 => Value::Flag(false),
            1 => Value::Flag(true),
            _ => return Err(properties.protocol_error("a property of the values 0 and 1 has another")),
        },
        Wire::Two | Wire::TwoNotZero => Value::Two(properties.two()?),
        Wire::Four | Wire::FourNotZero => Value::Four(properties.four()?),
        Wire::VarintNotZero => {
            // At most 268,435,455.
            Value::Varint(u32::try_from(properties.varint()?).unwrap_or(u32::MAX))
        }
        Wire::Text => Value::Text(properties.text()?),
        Wire::Topic => {
            // Clauses 3.3.2.3.5 and 4.7.3. A property of a value that the protocol does not allow is a protocol
            // error, unlike the packet's own topic name, which it is parsed by.
            let text = properties.text()?;
            if text.is_empty() {
                return Err(properties.protocol_error("a response topic must not be empty"));
            }
            if text.contains(['+', '#']) {
                return Err(properties.protocol_error("a response topic must not contain wildcards"));
            }
            Value::Text(text)
        }
        Wire::Binary => Value::Binary(properties.binary()?),
        Wire::Pair => Value::Pair(properties.text()?, properties.text()?),
    })
}
