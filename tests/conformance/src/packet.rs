//! Packets to send. They are made as the standard says until a test says otherwise: every field can be set to what it
//! must not be, and [`frame`] makes whatever these cannot.

use crate::name;
use crate::property::{Properties, id};
use crate::received::kind;
use crate::wire::{Version, frame, text, two};

/// PINGREQ, whole.
pub const PINGREQ: &[u8] = &[0xC0, 0];
/// DISCONNECT, whole; in MQTT 5 with reason code 0.
pub const DISCONNECT: &[u8] = &[0xE0, 0];

/// CONNECT (MQTT 3.1.1 and 5 clause 3.1).
#[derive(Clone, Debug)]
pub struct Connect {
    /// Decides how it is encoded.
    pub version: Version,
    /// Protocol name, any bytes.
    pub protocol: Vec<u8>,
    /// Protocol level.
    pub level: u8,
    /// Connect flags instead of those that the fields below ask for.
    pub flags: Option<u8>,
    /// Clean session, clean start.
    pub clean: bool,
    /// Seconds; 0 = none.
    pub keep_alive: u16,
    /// Only in MQTT 5.
    pub properties: Properties,
    /// Client id, any bytes.
    pub client_id: Vec<u8>,
    /// Will.
    pub will: Option<Will>,
    /// User name, any bytes.
    pub username: Option<Vec<u8>>,
    /// Password, any bytes.
    pub password: Option<Vec<u8>>,
    /// Bytes after the last field.
    pub tail: Vec<u8>,
}

impl Connect {
    /// A new client id, a clean session, no keep-alive, nothing else.
    pub fn new(version: Version) -> Self {
        Self {
            version,
            protocol: version.name().into(),
            level: version.level(),
            flags: None,
            clean: true,
            keep_alive: 0,
            properties: Properties::new(),
            client_id: name("c").into(),
            will: None,
            username: None,
            password: None,
            tail: Vec::new(),
        }
    }

    /// Sets the client id.
    pub fn client_id(self, client_id: impl AsRef<[u8]>) -> Self {
        Self { client_id: client_id.as_ref().into(), ..self }
    }

    /// A session that is taken up again and kept: in MQTT 5 for an hour.
    pub fn persistent(self) -> Self {
        let properties = match self.version {
            Version::V5 => self.properties.four(id::SESSION_EXPIRY, 3_600),
            _ => self.properties,
        };
        Self { clean: false, properties, ..self }
    }

    /// Sets clean session or clean start, and nothing of the session's expiry.
    pub fn clean(self, clean: bool) -> Self {
        Self { clean, ..self }
    }

    /// Sets the keep-alive.
    pub fn keep_alive(self, seconds: u16) -> Self {
        Self { keep_alive: seconds, ..self }
    }

    /// Sets the will.
    pub fn will(self, will: Will) -> Self {
        Self { will: Some(will), ..self }
    }

    /// Sets user name and password.
    pub fn login(self, username: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> Self {
        Self { username: Some(username.as_ref().into()), password: Some(password.as_ref().into()), ..self }
    }

    /// Sets the properties, instead of those set before.
    pub fn properties(self, properties: Properties) -> Self {
        Self { properties, ..self }
    }

    /// Sets the flags, whatever fields there are.
    pub fn flags(self, flags: u8) -> Self {
        Self { flags: Some(flags), ..self }
    }

    /// Adds bytes after the last field.
    pub fn tail(self, tail: impl AsRef<[u8]>) -> Self {
        Self { tail: tail.as_ref().into(), ..self }
    }

    /// The flags that the fields ask for.
    pub fn proper_flags(&self) -> u8 {
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0b100 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags | u8::from(self.password.is_some()) << 6 | u8::from(self.username.is_some()) << 7
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        frame(0x10, &self.body())
    }

    /// The bytes after the fixed header.
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        text(&mut body, &self.protocol);
        body.push(self.level);
        body.push(self.flags.unwrap_or_else(|| self.proper_flags()));
        two(&mut body, self.keep_alive);
        if self.version.is_v5() {
            self.properties.encode(&mut body);
        }
        text(&mut body, &self.client_id);
        if let Some(will) = &self.will {
            if self.version.is_v5() {
                will.properties.encode(&mut body);
            }
            text(&mut body, &will.topic);
            text(&mut body, &will.payload);
        }
        for field in [&self.username, &self.password].into_iter().flatten() {
            text(&mut body, field);
        }
        body.extend(&self.tail);
        body
    }
}

/// The will in CONNECT.
#[derive(Clone, Debug)]
pub struct Will {
    /// Topic name, any bytes.
    pub topic: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
    /// Quality of service, 0 to 3.
    pub qos: u8,
    /// RETAIN.
    pub retain: bool,
    /// Only in MQTT 5.
    pub properties: Properties,
}

impl Will {
    /// QoS 0, not retained.
    pub fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        Self {
            topic: topic.as_ref().into(),
            payload: payload.as_ref().into(),
            qos: 0,
            retain: false,
            properties: Properties::new(),
        }
    }

    /// Sets the QoS.
    pub fn qos(self, qos: u8) -> Self {
        Self { qos, ..self }
    }

    /// Sets RETAIN.
    pub fn retain(self) -> Self {
        Self { retain: true, ..self }
    }

    /// Sets the properties.
    pub fn properties(self, properties: Properties) -> Self {
        Self { properties, ..self }
    }
}

/// PUBLISH (clause 3.3), to send and as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// DUP.
    pub dup: bool,
    /// Quality of service, 0 to 3.
    pub qos: u8,
    /// RETAIN.
    pub retain: bool,
    /// Topic name, any bytes.
    pub topic: Vec<u8>,
    /// Packet id: it is sent when there is one, whatever the QoS.
    pub id: Option<u16>,
    /// Only in MQTT 5.
    pub properties: Properties,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Publish {
    /// QoS 0, not retained.
    pub fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        Self {
            dup: false,
            qos: 0,
            retain: false,
            topic: topic.as_ref().into(),
            id: None,
            properties: Properties::new(),
            payload: payload.as_ref().into(),
        }
    }

    /// Sets the QoS, and the packet id that it needs.
    pub fn qos(self, qos: u8, id: u16) -> Self {
        Self { qos, id: (qos > 0).then_some(id), ..self }
    }

    /// Sets RETAIN.
    pub fn retain(self) -> Self {
        Self { retain: true, ..self }
    }

    /// Sets DUP.
    pub fn dup(self) -> Self {
        Self { dup: true, ..self }
    }

    /// Sets the properties.
    pub fn properties(self, properties: Properties) -> Self {
        Self { properties, ..self }
    }

    /// The topic as text.
    ///
    /// # Panics
    /// It is none; one that was received always is.
    pub fn topic(&self) -> &str {
        str::from_utf8(&self.topic).expect("a topic is UTF-8")
    }

    /// The payload as text, whatever does not fit replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// The bytes.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        text(&mut body, &self.topic);
        if let Some(id) = self.id {
            two(&mut body, id);
        }
        if version.is_v5() {
            self.properties.encode(&mut body);
        }
        body.extend(&self.payload);
        frame(0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }
}

/// SUBSCRIBE (clause 3.8).
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// Packet id.
    pub id: u16,
    /// Only in MQTT 5.
    pub properties: Properties,
    /// Filters, any bytes, each with its QoS or subscription options.
    pub filters: Vec<(Vec<u8>, u8)>,
}

impl Subscribe {
    /// Without filters.
    pub fn new(id: u16) -> Self {
        Self { id, properties: Properties::new(), filters: Vec::new() }
    }

    /// Adds a filter.
    pub fn filter(mut self, filter: impl AsRef<[u8]>, options: u8) -> Self {
        self.filters.push((filter.as_ref().into(), options));
        self
    }

    /// Sets the properties.
    pub fn properties(self, properties: Properties) -> Self {
        Self { properties, ..self }
    }

    /// The bytes.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        frame(0x82, &self.body(version))
    }

    /// The bytes after the fixed header.
    pub fn body(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        two(&mut body, self.id);
        if version.is_v5() {
            self.properties.encode(&mut body);
        }
        for (filter, options) in &self.filters {
            text(&mut body, filter);
            body.push(*options);
        }
        body
    }
}

/// UNSUBSCRIBE (clause 3.10).
#[derive(Clone, Debug)]
pub struct Unsubscribe {
    /// Packet id.
    pub id: u16,
    /// Only in MQTT 5.
    pub properties: Properties,
    /// Filters, any bytes.
    pub filters: Vec<Vec<u8>>,
}

impl Unsubscribe {
    /// Without filters.
    pub fn new(id: u16) -> Self {
        Self { id, properties: Properties::new(), filters: Vec::new() }
    }

    /// Adds a filter.
    pub fn filter(mut self, filter: impl AsRef<[u8]>) -> Self {
        self.filters.push(filter.as_ref().into());
        self
    }

    /// Sets the properties.
    pub fn properties(self, properties: Properties) -> Self {
        Self { properties, ..self }
    }

    /// The bytes.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        frame(0xA2, &self.body(version))
    }

    /// The bytes after the fixed header.
    pub fn body(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        two(&mut body, self.id);
        if version.is_v5() {
            self.properties.encode(&mut body);
        }
        for filter in &self.filters {
            text(&mut body, filter);
        }
        body
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (clauses 3.4 to 3.7) with success: the same in every version.
pub fn ack(kind: u8, id: u16) -> Vec<u8> {
    frame(first_of_ack(kind), &id.to_be_bytes())
}

/// An acknowledgement of MQTT 5 with reason code and properties.
pub fn ack_with(kind: u8, id: u16, reason: u8, properties: &Properties) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(reason);
    properties.encode(&mut body);
    frame(first_of_ack(kind), &body)
}

fn first_of_ack(kind: u8) -> u8 {
    kind << 4 | if kind == kind::PUBREL { 0b0010 } else { 0 }
}

/// DISCONNECT of MQTT 5 with reason code and properties (clause 3.14).
pub fn disconnect_with(reason: u8, properties: &Properties) -> Vec<u8> {
    reason_and_properties(0xE0, reason, properties)
}

/// AUTH (MQTT 5 clause 3.15).
pub fn auth(reason: u8, properties: &Properties) -> Vec<u8> {
    reason_and_properties(0xF0, reason, properties)
}

fn reason_and_properties(first: u8, reason: u8, properties: &Properties) -> Vec<u8> {
    let mut body = vec![reason];
    properties.encode(&mut body);
    frame(first, &body)
}
