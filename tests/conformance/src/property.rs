//! The properties of MQTT 5 (clause 2.2.2): to send, right or wrong, and as received.

use crate::wire::{Reader, text, two, variable};

/// Identifiers of properties (MQTT 5 clause 2.2.2.2).
pub mod id {
    #![allow(missing_docs, reason = "names of the standard")]
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTHENTICATION_METHOD: u8 = 0x15;
    pub const AUTHENTICATION_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub const WILL_DELAY: u8 = 0x18;
    pub const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub const RESPONSE_INFORMATION: u8 = 0x1A;
    pub const SERVER_REFERENCE: u8 = 0x1C;
    pub const REASON_STRING: u8 = 0x1F;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER: u8 = 0x26;
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub const WILDCARD_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_IDENTIFIER_AVAILABLE: u8 = 0x29;
    pub const SHARED_AVAILABLE: u8 = 0x2A;
}

/// What a property holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A byte.
    Byte(u8),
    /// A number of two bytes.
    Two(u16),
    /// A number of four bytes.
    Four(u32),
    /// A number of one to four bytes.
    Variable(usize),
    /// A string.
    Text(String),
    /// Binary data.
    Binary(Vec<u8>),
    /// A name and a value.
    Pair(String, String),
}

/// Properties in their order. Nothing is checked when they are made: a test may repeat or misplace one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Identifiers and values.
    pub list: Vec<(u8, Value)>,
    /// Bytes after the last one, counted in the length: for what has no [`Value`].
    pub raw: Vec<u8>,
}

impl Properties {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one that holds a byte.
    pub fn byte(self, id: u8, value: u8) -> Self {
        self.with(id, Value::Byte(value))
    }

    /// Adds one that holds a number of two bytes.
    pub fn two(self, id: u8, value: u16) -> Self {
        self.with(id, Value::Two(value))
    }

    /// Adds one that holds a number of four bytes.
    pub fn four(self, id: u8, value: u32) -> Self {
        self.with(id, Value::Four(value))
    }

    /// Adds one that holds a number of one to four bytes.
    pub fn variable(self, id: u8, value: usize) -> Self {
        self.with(id, Value::Variable(value))
    }

    /// Adds one that holds a string.
    pub fn text(self, id: u8, value: &str) -> Self {
        self.with(id, Value::Text(value.into()))
    }

    /// Adds one that holds binary data, or a string that is none: both look the same.
    pub fn binary(self, id: u8, value: impl AsRef<[u8]>) -> Self {
        self.with(id, Value::Binary(value.as_ref().into()))
    }

    /// Adds a user property.
    pub fn user(self, name: &str, value: &str) -> Self {
        self.with(id::USER, Value::Pair(name.into(), value.into()))
    }

    /// Adds bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.raw.extend(bytes);
        self
    }

    /// Adds one.
    pub fn with(mut self, id: u8, value: Value) -> Self {
        self.list.push((id, value));
        self
    }

    /// The first with this identifier.
    pub fn get(&self, id: u8) -> Option<&Value> {
        self.all(id).next()
    }

    /// All with this identifier, in their order.
    pub fn all(&self, id: u8) -> impl Iterator<Item = &Value> {
        self.list.iter().filter(move |(of, _)| *of == id).map(|(_, value)| value)
    }

    /// The number that the first with this identifier holds.
    pub fn number(&self, id: u8) -> Option<usize> {
        match self.get(id)? {
            Value::Byte(value) => Some((*value).into()),
            Value::Two(value) => Some((*value).into()),
            Value::Four(value) => usize::try_from(*value).ok(),
            Value::Variable(value) => Some(*value),
            _ => None,
        }
    }

    /// The string that the first with this identifier holds.
    pub fn string(&self, id: u8) -> Option<&str> {
        match self.get(id)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The user properties in their order.
    pub fn users(&self) -> Vec<(&str, &str)> {
        let users = self.all(id::USER).filter_map(|value| match value {
            Value::Pair(name, value) => Some((name.as_str(), value.as_str())),
            _ => None,
        });
        users.collect()
    }

    /// Appends the length and the properties.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let body = self.bytes();
        variable(out, body.len());
        out.extend(body);
    }

    /// The properties without their length.
    pub fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (id, value) in &self.list {
            body.push(*id);
            match value {
                Value::Byte(value) => body.push(*value),
                Value::Two(value) => two(&mut body, *value),
                Value::Four(value) => body.extend(value.to_be_bytes()),
                Value::Variable(value) => variable(&mut body, *value),
                Value::Text(value) => text(&mut body, value),
                Value::Binary(value) => text(&mut body, value),
                Value::Pair(name, value) => {
                    text(&mut body, name);
                    text(&mut body, value);
                }
            }
        }
        body.extend(&self.raw);
        body
    }

    /// Reads the length and the properties; `allowed` are the identifiers that the packet may have, of which only
    /// those of `repeated` more than once.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(reader: &mut Reader<'_>, allowed: &[u8], repeated: &[u8]) -> Result<Self, String> {
        let length = reader.variable()?;
        let mut body = Reader::new(reader.take(length)?);
        let mut properties = Self::new();
        while !body.is_empty() {
            let id = u8::try_from(body.variable()?).map_err(|_| "an unknown property")?;
            let value = value(id, &mut body).map_err(|error| format!("property {id:#04x}: {error}"))?;
            if !allowed.contains(&id) {
                return Err(format!("property {id:#04x} does not belong there"));
            }
            if !repeated.contains(&id) && properties.get(id).is_some() {
                return Err(format!("property {id:#04x} twice"));
            }
            properties = properties.with(id, value);
        }
        Ok(properties)
    }
}

/// Reads what the property `id` holds, by the table of MQTT 5 clause 2.2.2.2, without the values that a server must not
/// send: 0 as receive maximum, maximum packet size, alias or subscription identifier (clauses 3.2.2.3.3, 3.2.2.3.6,
/// 3.3.2.3.4 and 3.3.2.3.8), a response topic with wildcards (3.3.2-14).
fn value(id: u8, body: &mut Reader<'_>) -> Result<Value, String> {
    Ok(match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => match body.byte()? {
            value @ (0 | 1) => Value::Byte(value),
            value => return Err(format!("{value} is neither 0 nor 1")),
        },
        0x13 | 0x22 => Value::Two(body.two()?),
        0x21 | 0x23 => match body.two()? {
            0 => return Err("0".into()),
            value => Value::Two(value),
        },
        0x02 | 0x11 | 0x18 => Value::Four(body.four()?),
        0x27 => match body.four()? {
            0 => return Err("0".into()),
            value => Value::Four(value),
        },
        0x0B => match body.variable()? {
            0 => return Err("0".into()),
            value => Value::Variable(value),
        },
        0x08 => match body.text()? {
            topic if topic.is_empty() || topic.contains(['+', '#']) => {
                return Err(format!("{topic:?} is no topic name"));
            }
            topic => Value::Text(topic.into()),
        },
        0x03 | 0x12 | 0x15 | 0x1A | 0x1C | 0x1F => Value::Text(body.text()?.into()),
        0x09 | 0x16 => Value::Binary(body.binary()?.into()),
        0x26 => Value::Pair(body.text()?.into(), body.text()?.into()),
        _ => return Err("unknown".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_and_wrong_ones_do_not() {
        let sent = Properties::new()
            .byte(id::PAYLOAD_FORMAT, 1)
            .four(id::MESSAGE_EXPIRY, 7)
            .variable(id::SUBSCRIPTION_IDENTIFIER, 200)
            .binary(id::CORRELATION_DATA, [0, 1])
            .user("a", "b")
            .user("a", "c");
        let read = |sent: &Properties, allowed: &[u8]| {
            let mut bytes = Vec::new();
            sent.encode(&mut bytes);
            Properties::read(&mut Reader::new(&bytes), allowed, &[id::USER])
        };
        let allowed = [0x01, 0x02, 0x0B, 0x09, 0x26];
        assert_eq!(read(&sent, &allowed).as_ref(), Ok(&sent));
        assert_eq!((sent.number(0x0B), sent.users().len()), (Some(200), 2));
        assert!(read(&sent, &allowed[1..]).is_err(), "one that is not allowed");
        assert!(read(&sent.clone().four(0x02, 1), &allowed).is_err(), "one twice");
        assert!(read(&sent.clone().raw(&[0x7F]), &allowed).is_err(), "an unknown one");
        assert!(read(&sent.raw(&[0x02, 0]), &allowed).is_err(), "one that is cut off");
        let none = Properties::new;
        for (good, bad) in [
            (none().two(id::RECEIVE_MAXIMUM, 1), none().two(id::RECEIVE_MAXIMUM, 0)),
            (none().four(id::MAXIMUM_PACKET_SIZE, 1), none().four(id::MAXIMUM_PACKET_SIZE, 0)),
            (none().two(id::TOPIC_ALIAS, 1), none().two(id::TOPIC_ALIAS, 0)),
            (
                none().variable(id::SUBSCRIPTION_IDENTIFIER, 1),
                none().variable(id::SUBSCRIPTION_IDENTIFIER, 0),
            ),
            (none().text(id::RESPONSE_TOPIC, "a/b"), none().text(id::RESPONSE_TOPIC, "a/+")),
            (none().text(id::RESPONSE_TOPIC, "a"), none().text(id::RESPONSE_TOPIC, "")),
            (none().byte(id::MAXIMUM_QOS, 1), none().byte(id::MAXIMUM_QOS, 2)),
        ] {
            let allowed = [good.list[0].0];
            assert_eq!(read(&good, &allowed).as_ref(), Ok(&good));
            assert!(read(&bad, &allowed).is_err(), "{bad:?}");
        }
    }
}
