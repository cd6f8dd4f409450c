//! Packets as bytes, written and read by the test itself so that it does not share the broker's mistakes.

/// A packet as it came: first byte and body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    pub(crate) first: u8,
    pub(crate) body: Vec<u8>,
}

/// A PUBLISH as a subscriber gets it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Published {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: u8,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    pub(crate) id: u16,
    /// MQTT 5 properties without their length.
    pub(crate) properties: Vec<u8>,
}

impl Packet {
    /// Packet type, 1 to 15.
    pub(crate) fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The packet id of an acknowledgement.
    pub(crate) fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// The reason string of PUBACK, PUBREC, SUBACK or DISCONNECT in MQTT 5.
    pub(crate) fn reason_string(&self) -> Option<String> {
        let start = match self.kind() {
            4..=7 => 3,
            9 | 11 => 2,
            14 => 1,
            other => panic!("packets of type {other} are not looked at"),
        };
        let properties = self.body.get(start..).filter(|rest| !rest.is_empty())?;
        let (length, used) = varint(properties);
        string(&properties[used..used + length], 0x1f)
    }

    /// The reason code of PUBACK, PUBREC, PUBREL or PUBCOMP; success when it is left out.
    pub(crate) fn reason(&self) -> u8 {
        self.body.get(2).copied().unwrap_or(0)
    }

    pub(crate) fn published(&self, v5: bool) -> Published {
        assert_eq!(self.kind(), 3, "PUBLISH expected, got {self:?}");
        let qos = self.first >> 1 & 3;
        let len = usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        let (topic, mut rest) = self.body[2..].split_at(len);
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        let mut properties = Vec::new();
        if v5 {
            let (len, used) = varint(rest);
            properties = rest[used..used + len].to_vec();
            rest = &rest[used + len..];
        }
        Published {
            topic: String::from_utf8(topic.to_vec()).unwrap(),
            payload: String::from_utf8_lossy(rest).into_owned(),
            qos,
            dup: self.first & 8 != 0,
            retain: self.first & 1 != 0,
            id,
            properties,
        }
    }
}

/// The values of MQTT 5 properties (without their length before them) by identifier, in order.
pub(crate) fn property_list(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let text = |bytes: &[u8]| 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let mut properties = Vec::new();
    while let [id, rest @ ..] = bytes {
        let length = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x13 | 0x21 | 0x22 | 0x23 => 2,
            0x02 | 0x11 | 0x18 | 0x27 => 4,
            0x0b => varint(rest).1,
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => text(rest),
            0x26 => text(rest) + text(&rest[text(rest)..]),
            other => panic!("an unexpected property {other:#x}"),
        };
        properties.push((*id, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    properties
}

/// The value of the property `id`, a number.
pub(crate) fn number(properties: &[u8], id: u8) -> Option<u32> {
    let value = property_list(properties).into_iter().find(|(found, _)| *found == id)?.1;
    Some(value.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
}

/// The value of the property `id`, a string.
pub(crate) fn string(properties: &[u8], id: u8) -> Option<String> {
    let value = property_list(properties).into_iter().find(|(found, _)| *found == id)?.1;
    Some(String::from_utf8(value[2..].to_vec()).unwrap())
}

/// A variable byte integer at the start of `bytes`: its value and its length.
pub(crate) fn varint(bytes: &[u8]) -> (usize, usize) {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return (value, index + 1);
        }
    }
    panic!("a partial variable byte integer");
}

/// A packet of `first` byte and `body`.
pub(crate) fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut len = body.len();
    loop {
        let more = len > 127;
        bytes.push((len & 0x7f) as u8 | if more { 0x80 } else { 0 });
        len >>= 7;
        if !more {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

/// Properties with their length before them, when the version has any.
pub(crate) fn properties(out: &mut Vec<u8>, v5: bool, properties: &[u8]) {
    if v5 {
        assert!(properties.len() < 128);
        out.push(properties.len() as u8);
        out.extend_from_slice(properties);
    }
}

/// CONNECT, to be filled in.
#[derive(Clone)]
pub(crate) struct Connect {
    pub(crate) v5: bool,
    pub(crate) level: u8,
    pub(crate) id: String,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) properties: Vec<u8>,
    pub(crate) will: Option<(String, String, u8, bool, Vec<u8>)>,
    /// User name and password.
    pub(crate) login: Option<(String, Vec<u8>)>,
}

impl Connect {
    /// MQTT 3.1.1, clean session.
    pub(crate) fn v4(id: &str) -> Self {
        Self {
            v5: false,
            level: 4,
            id: id.into(),
            clean: true,
            keep_alive: 60,
            properties: Vec::new(),
            will: None,
            login: None,
        }
    }

    /// MQTT 5, clean start.
    pub(crate) fn v5(id: &str) -> Self {
        Self { v5: true, level: 5, ..Self::v4(id) }
    }

    /// Keep the session: a persistent one on 3.1.1; on 5 one of an hour, resumed.
    pub(crate) fn persistent(mut self) -> Self {
        self.clean = false;
        if self.v5 { self.expiry(3_600) } else { self }
    }

    /// Session expiry, seconds.
    pub(crate) fn expiry(mut self, seconds: u32) -> Self {
        self.properties.push(0x11);
        self.properties.extend_from_slice(&seconds.to_be_bytes());
        self
    }

    pub(crate) fn receive_maximum(mut self, most: u16) -> Self {
        self.properties.push(0x21);
        self.properties.extend_from_slice(&most.to_be_bytes());
        self
    }

    pub(crate) fn maximum_packet_size(mut self, most: u32) -> Self {
        self.properties.push(0x27);
        self.properties.extend_from_slice(&most.to_be_bytes());
        self
    }

    /// Any property.
    pub(crate) fn property(mut self, id: u8, value: &[u8]) -> Self {
        self.properties.push(id);
        self.properties.extend_from_slice(value);
        self
    }

    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub(crate) fn will(self, topic: &str, payload: &str, qos: u8, retain: bool) -> Self {
        self.will_with(topic, payload, qos, retain, &[])
    }

    pub(crate) fn login(mut self, username: &str, password: impl AsRef<[u8]>) -> Self {
        self.login = Some((username.into(), password.as_ref().to_vec()));
        self
    }

    /// A will with MQTT 5 properties.
    pub(crate) fn will_with(
        mut self,
        topic: &str,
        payload: &str,
        qos: u8,
        retain: bool,
        properties: &[u8],
    ) -> Self {
        self.will = Some((topic.into(), payload.into(), qos, retain, properties.to_vec()));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        text(&mut body, if self.level == 3 { b"MQIsdp" } else { b"MQTT" });
        body.push(self.level);
        let mut flags = if self.clean { 2 } else { 0 };
        if let Some((_, _, qos, retain, _)) = &self.will {
            flags |= 4 | qos << 3 | u8::from(*retain) << 5;
        }
        if self.login.is_some() {
            flags |= 0xc0;
        }
        body.push(flags);
        body.extend_from_slice(&self.keep_alive.to_be_bytes());
        properties(&mut body, self.v5, &self.properties);
        text(&mut body, self.id.as_bytes());
        if let Some((topic, payload, _, _, will_properties)) = &self.will {
            properties(&mut body, self.v5, will_properties);
            text(&mut body, topic.as_bytes());
            text(&mut body, payload.as_bytes());
        }
        if let Some((username, password)) = &self.login {
            text(&mut body, username.as_bytes());
            text(&mut body, password);
        }
        frame(0x10, &body)
    }
}

/// PUBLISH, to be filled in.
pub(crate) struct Publish<'a> {
    pub(crate) v5: bool,
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: u8,
    pub(crate) id: u16,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) properties: &'a [u8],
}

impl Publish<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        text(&mut body, self.topic.as_bytes());
        if self.qos > 0 {
            body.extend_from_slice(&self.id.to_be_bytes());
        }
        properties(&mut body, self.v5, self.properties);
        body.extend_from_slice(self.payload);
        frame(0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }
}

/// SUBSCRIBE for filters with their options byte.
pub(crate) fn subscribe(v5: bool, id: u16, filters: &[(&str, u8)], subscribe_properties: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    properties(&mut body, v5, subscribe_properties);
    for (filter, options) in filters {
        text(&mut body, filter.as_bytes());
        body.push(*options);
    }
    frame(0x82, &body)
}

pub(crate) fn unsubscribe(v5: bool, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    properties(&mut body, v5, &[]);
    for filter in filters {
        text(&mut body, filter.as_bytes());
    }
    frame(0xa2, &body)
}

pub(crate) fn ack(first: u8, id: u16) -> Vec<u8> {
    frame(first, &id.to_be_bytes())
}
