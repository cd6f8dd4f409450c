//! MQTT's data types and properties (MQTT 5 clauses 1.5 and 2.2.2), read strictly: nothing of the broker's codec is
//! used, because what it writes is judged here.

/// Which MQTT a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V31,
    V311,
    V5,
}

/// Who has sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Client,
    Broker,
}

/// Why bytes are no packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong(pub String);

pub type Read<T> = Result<T, Wrong>;

pub fn wrong<T>(why: impl Into<String>) -> Read<T> {
    Err(Wrong(why.into()))
}

/// What is left of a packet's body.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let Some((taken, rest)) = self.0.split_at_checked(count) else {
            return wrong("it ends in the middle of a field");
        };
        self.0 = rest;
        Ok(taken)
    }

    pub fn byte(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }

    pub fn two(&mut self) -> Read<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub fn four(&mut self) -> Read<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A variable byte integer in as few bytes as it can be written (`[MQTT-1.5.5-1]`).
    pub fn varint(&mut self) -> Read<u32> {
        match varint(self.0) {
            Some((value, length)) if length == varint_len(value) => {
                self.take(length)?;
                Ok(value)
            }
            _ => wrong("a variable byte integer that is none, or longer than need be"),
        }
    }

    pub fn binary(&mut self) -> Read<&'a [u8]> {
        let length = self.two()?;
        self.take(usize::from(length))
    }

    /// `[MQTT-1.5.4-1]`, `[MQTT-1.5.4-2]`.
    pub fn text(&mut self) -> Read<String> {
        match std::str::from_utf8(self.binary()?) {
            Ok(text) if text.contains('\0') => wrong("a string with U+0000"),
            Ok(text) => Ok(text.to_owned()),
            Err(_) => wrong("a string that is not UTF-8"),
        }
    }

    /// `[MQTT-2.2.1-3]`, `[MQTT-2.2.1-4]`: not 0.
    pub fn packet_id(&mut self) -> Read<u16> {
        match self.two()? {
            0 => wrong("packet identifier 0"),
            id => Ok(id),
        }
    }

    pub fn end(&self) -> Read<()> {
        if self.is_empty() { Ok(()) } else { wrong("bytes behind the last field") }
    }
}

/// The variable byte integer at the start of `bytes` and its length; `None`: it is not whole, or has five bytes.
pub fn varint(bytes: &[u8]) -> Option<(u32, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

pub fn varint_len(value: u32) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

pub fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let more = if value > 0x7f { 0x80 } else { 0 };
        out.push((value & 0x7f) as u8 | more);
        value >>= 7;
        if value == 0 {
            return;
        }
    }
}

pub fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Identifiers of properties (clause 2.2.2.2).
pub mod id {
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0b;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTHENTICATION_METHOD: u8 = 0x15;
    pub const AUTHENTICATION_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub const WILL_DELAY: u8 = 0x18;
    pub const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub const RESPONSE_INFORMATION: u8 = 0x1a;
    pub const SERVER_REFERENCE: u8 = 0x1c;
    pub const REASON_STRING: u8 = 0x1f;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER: u8 = 0x26;
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub const WILDCARD_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_ID_AVAILABLE: u8 = 0x29;
    pub const SHARED_AVAILABLE: u8 = 0x2a;
}

/// The value of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Byte(u8),
    Two(u16),
    Four(u32),
    Varint(u32),
    Text(String),
    Binary(Vec<u8>),
    Pair(String, String),
}

/// The packet, or the part of one, that properties are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Connect,
    Will,
    ConnAck,
    Publish,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK.
    Ack,
    Subscribe,
    Unsubscribe,
    Disconnect,
}

/// Properties in the order in which they were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(pub Vec<(u8, Value)>);

impl Properties {
    pub fn find(&self, id: u8) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == id).map(|(_, value)| value)
    }

    pub fn number(&self, id: u8) -> Option<u32> {
        match self.find(id)? {
            Value::Byte(value) => Some(u32::from(*value)),
            Value::Two(value) => Some(u32::from(*value)),
            Value::Four(value) | Value::Varint(value) => Some(*value),
            _ => None,
        }
    }

    pub fn has(&self, id: u8) -> bool {
        self.find(id).is_some()
    }

    /// Those that a message keeps on its way from one client to another (clause 3.3.2.3), in order.
    pub fn forwarded(&self) -> Self {
        let kept = [id::PAYLOAD_FORMAT, id::CONTENT_TYPE, id::RESPONSE_TOPIC, id::CORRELATION_DATA, id::USER];
        let mut properties: Vec<_> = self.0.iter().filter(|(id, _)| kept.contains(id)).cloned().collect();
        // User properties keep their order among themselves (`[MQTT-3.3.2-18]`), the others have none.
        properties.sort_by_key(|(id, _)| *id);
        Self(properties)
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        for (id, value) in &self.0 {
            body.push(*id);
            match value {
                Value::Byte(byte) => body.push(*byte),
                Value::Two(number) => body.extend(number.to_be_bytes()),
                Value::Four(number) => body.extend(number.to_be_bytes()),
                Value::Varint(number) => put_varint(&mut body, *number as usize),
                Value::Text(text) => put_binary(&mut body, text.as_bytes()),
                Value::Binary(bytes) => put_binary(&mut body, bytes),
                Value::Pair(name, value) => {
                    put_binary(&mut body, name.as_bytes());
                    put_binary(&mut body, value.as_bytes());
                }
            }
        }
        put_varint(out, body.len());
        out.extend(body);
    }
}

/// Whether `from` may send the property `id` in `place`: table 2-4.
fn is_allowed(id: u8, place: Place, from: From) -> bool {
    use Place::{Ack, ConnAck, Connect, Disconnect, Publish, Subscribe, Will};
    match id {
        id::PAYLOAD_FORMAT
        | id::MESSAGE_EXPIRY
        | id::CONTENT_TYPE
        | id::RESPONSE_TOPIC
        | id::CORRELATION_DATA => matches!(place, Publish | Will),
        // `[MQTT-3.3.4-6]`: a client must not send one in PUBLISH.
        id::SUBSCRIPTION_ID => place == Subscribe || (place == Publish && from == From::Broker),
        // `[MQTT-3.14.2-2]`: a server must not send one in DISCONNECT.
        id::SESSION_EXPIRY => {
            matches!(place, Connect | ConnAck) || (place == Disconnect && from == From::Client)
        }
        id::AUTHENTICATION_METHOD | id::AUTHENTICATION_DATA => matches!(place, Connect | ConnAck),
        id::REQUEST_PROBLEM_INFORMATION | id::REQUEST_RESPONSE_INFORMATION => place == Connect,
        id::WILL_DELAY => place == Will,
        id::SERVER_REFERENCE => place == ConnAck || (place == Disconnect && from == From::Broker),
        id::REASON_STRING => matches!(place, ConnAck | Ack | Disconnect),
        id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS_MAXIMUM | id::MAXIMUM_PACKET_SIZE => {
            matches!(place, Connect | ConnAck)
        }
        id::TOPIC_ALIAS => place == Publish,
        id::ASSIGNED_CLIENT_ID
        | id::SERVER_KEEP_ALIVE
        | id::RESPONSE_INFORMATION
        | id::MAXIMUM_QOS
        | id::RETAIN_AVAILABLE
        | id::WILDCARD_AVAILABLE
        | id::SUBSCRIPTION_ID_AVAILABLE
        | id::SHARED_AVAILABLE => place == ConnAck,
        id::USER => true,
        _ => false,
    }
}

/// The value of the property `id`, as its clause defines it.
fn value(reader: &mut Reader<'_>, id: u8) -> Read<Value> {
    let value = match id {
        id::PAYLOAD_FORMAT
        | id::REQUEST_PROBLEM_INFORMATION
        | id::REQUEST_RESPONSE_INFORMATION
        | id::MAXIMUM_QOS
        | id::RETAIN_AVAILABLE
        | id::WILDCARD_AVAILABLE
        | id::SUBSCRIPTION_ID_AVAILABLE
        | id::SHARED_AVAILABLE => Value::Byte(reader.byte()?),
        id::SERVER_KEEP_ALIVE | id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS_MAXIMUM | id::TOPIC_ALIAS => {
            Value::Two(reader.two()?)
        }
        id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY | id::MAXIMUM_PACKET_SIZE => {
            Value::Four(reader.four()?)
        }
        id::SUBSCRIPTION_ID => Value::Varint(reader.varint()?),
        id::CORRELATION_DATA | id::AUTHENTICATION_DATA => Value::Binary(reader.binary()?.to_vec()),
        id::USER => Value::Pair(reader.text()?, reader.text()?),
        _ => Value::Text(reader.text()?),
    };
    let is_legal = match (id, &value) {
        (_, Value::Byte(byte)) => *byte <= 1,
        (id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS, Value::Two(number)) => *number != 0,
        (id::MAXIMUM_PACKET_SIZE, Value::Four(number)) => *number != 0,
        (_, Value::Varint(number)) => *number != 0,
        // `[MQTT-3.3.2-14]`; a topic name has at least one character (`[MQTT-4.7.3-1]`).
        (id::RESPONSE_TOPIC, Value::Text(topic)) => !topic.is_empty() && !topic.contains(['+', '#']),
        _ => true,
    };
    if is_legal { Ok(value) } else { wrong(format!("property {id:#04x} has a value that it must not have")) }
}

/// Reads the length of properties and the properties.
pub fn properties(reader: &mut Reader<'_>, place: Place, from: From) -> Read<Properties> {
    let length = reader.varint()?;
    let mut rest = Reader(reader.take(length as usize)?);
    let mut found = Vec::new();
    while !rest.is_empty() {
        let id = rest.byte()?;
        if !is_allowed(id, place, from) {
            return wrong(format!("property {id:#04x} is none of {place:?}"));
        }
        // A PUBLISH to a client may have an identifier for every subscription that it matches (clause 3.3.2.3.8).
        let may_repeat = id == id::USER || (id == id::SUBSCRIPTION_ID && place == Place::Publish);
        if !may_repeat && found.iter().any(|(known, _)| *known == id) {
            return wrong(format!("property {id:#04x} comes twice"));
        }
        found.push((id, value(&mut rest, id)?));
    }
    Ok(Properties(found))
}

/// Whether `filter` matches `topic` (clause 4.7).
pub fn matches(filter: &str, topic: &str) -> bool {
    // `[MQTT-4.7.2-1]`: a wildcard at the start matches no topic of the server's.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            // Also the parent level (`[MQTT-4.7.1-2]`, clause 4.7.1.2).
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(filter), Some(topic)) if filter == topic => {}
            _ => return false,
        }
    }
}

/// The filter inside a shared subscription (clause 4.8.2); `None`: it is no shared one.
pub fn shared(filter: &str) -> Option<&str> {
    filter.strip_prefix("$share/")?.split_once('/').map(|(_, inner)| inner)
}

/// Whether `filter` may be subscribed to (`[MQTT-4.7.1-1]`, `[MQTT-4.7.1-2]`, `[MQTT-4.7.3-1]`).
pub fn is_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_right = match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            level => !level.contains(['+', '#']),
        };
        if !is_right {
            return false;
        }
    }
    !filter.is_empty()
}
