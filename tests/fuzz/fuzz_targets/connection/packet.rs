//! Packets as they were sent, by a client or by the broker (MQTT 5 chapter 3), read strictly.

use super::wire::{
    From, Place, Properties, Read, Reader, Version, Wrong, id, is_filter, properties, shared, varint,
    varint_len, wrong,
};

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

#[derive(Clone, Debug)]
pub struct Will {
    pub message: Publish,
    pub delay: u32,
}

#[derive(Clone, Debug)]
pub struct Connect {
    pub version: Version,
    pub client_id: String,
    pub clean_start: bool,
    pub keep_alive: u16,
    pub will: Option<Will>,
    pub properties: Properties,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    /// 0 at QoS 0.
    pub packet_id: u16,
    /// Empty: the alias stands for it.
    pub topic: String,
    pub properties: Properties,
    pub payload: Vec<u8>,
}

/// A filter of SUBSCRIBE with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub filter: String,
    pub qos: u8,
    pub no_local: bool,
}

/// A packet that a client may send.
#[derive(Clone, Debug)]
pub enum FromClient {
    Connect(Box<Connect>),
    Publish(Publish),
    Ack { kind: Kind, packet_id: u16, reason: u8 },
    Subscribe { packet_id: u16, id: Option<u32>, wanted: Vec<Wanted> },
    Unsubscribe { packet_id: u16, filters: Vec<String> },
    PingReq,
    Disconnect { reason: u8, session_expiry: Option<u32> },
    Auth,
}

/// A packet that the broker may send.
#[derive(Clone, Debug)]
pub enum FromBroker {
    ConnAck { session_present: bool, code: u8, properties: Properties },
    Publish(Publish),
    Ack { kind: Kind, packet_id: u16, reason: u8, properties: Properties },
    SubAck { packet_id: u16, reasons: Vec<u8>, properties: Properties },
    UnsubAck { packet_id: u16, reasons: Vec<u8>, properties: Properties },
    PingResp,
    Disconnect { reason: u8 },
}

/// The first packet of some bytes.
pub struct Frame<'a> {
    pub first: u8,
    pub body: &'a [u8],
    /// With its fixed header.
    pub size: usize,
    /// Whether its length takes no more bytes than need be.
    pub is_shortest: bool,
}

/// Cuts the first packet off `bytes`; `None`: it is not whole.
pub fn frame(bytes: &[u8]) -> Option<Read<Frame<'_>>> {
    let (&first, rest) = bytes.split_first()?;
    let Some((length, length_len)) = varint(rest) else {
        return (rest.len() >= 4).then(|| wrong("a remaining length of over four bytes"));
    };
    let body = rest.get(length_len..length_len + length as usize)?;
    let size = 1 + length_len + body.len();
    Some(Ok(Frame { first, body, size, is_shortest: length_len == varint_len(length) }))
}

/// What is wrong with a packet of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The standard says so: the connection must be closed.
    Bad(String),
    /// The standard leaves it open, or says it of another version.
    Unsure,
}

impl std::convert::From<Wrong> for Refusal {
    fn from(Wrong(why): Wrong) -> Self {
        Self::Bad(why)
    }
}

/// Reads a packet of a client that speaks `version`; `None`: it must be CONNECT.
pub fn from_client(frame: &Frame<'_>, version: Option<Version>) -> Result<FromClient, Refusal> {
    let Some(version) = version else { return first_of_client(frame) };
    if !frame.is_shortest && version != Version::V5 {
        // "Bytes more than need be" are forbidden since MQTT 5 only.
        return Err(Refusal::Unsure);
    }
    let read = read_from_client(frame, version);
    // MQTT 3.1 says little of what must not be.
    read.map_err(|refusal| if version == Version::V31 { Refusal::Unsure } else { refusal })
}

fn first_of_client(frame: &Frame<'_>) -> Result<FromClient, Refusal> {
    if frame.first != 0x10 {
        // `[MQTT-3.1.0-1]`.
        return Err(Refusal::Bad("the first packet is not CONNECT".into()));
    }
    let mut reader = Reader(frame.body);
    let (name, level) = (reader.binary()?, reader.byte()?);
    let version = match (name, level) {
        (b"MQIsdp", 3) => Version::V31,
        (b"MQTT", 4) => Version::V311,
        (b"MQTT", 5) => Version::V5,
        _ => return Err(Refusal::Unsure),
    };
    if !frame.is_shortest {
        return Err(Refusal::Unsure);
    }
    let connect = connect(&mut reader, version);
    match (connect, version) {
        (Ok(connect), _) => Ok(FromClient::Connect(Box::new(connect))),
        (Err(_), Version::V31) => Err(Refusal::Unsure),
        (Err(Wrong(why)), _) => Err(Refusal::Bad(why)),
    }
}

fn connect(reader: &mut Reader<'_>, version: Version) -> Read<Connect> {
    let flags = reader.byte()?;
    let keep_alive = reader.two()?;
    let is_v5 = version == Version::V5;
    let [clean_start, has_will, will_retain, has_password, has_username] =
        [0x02, 0x04, 0x20, 0x40, 0x80].map(|bit| flags & bit != 0);
    let will_qos = flags >> 3 & 3;
    // `[MQTT-3.1.2-3]`, `[MQTT-3.1.2-11]` to `[MQTT-3.1.2-15]`; a password alone is new in MQTT 5.
    if flags & 1 != 0
        || will_qos == 3
        || (!has_will && (will_qos != 0 || will_retain))
        || (!is_v5 && has_password && !has_username)
    {
        return wrong("connect flags that must not be");
    }
    let sent = if is_v5 { properties(reader, Place::Connect, From::Client)? } else { Properties::default() };
    if sent.has(id::AUTHENTICATION_DATA) && !sent.has(id::AUTHENTICATION_METHOD) {
        return wrong("authentication data without a method");
    }
    let client_id = reader.text()?;
    let will = if has_will {
        let properties =
            if is_v5 { properties(reader, Place::Will, From::Client)? } else { Properties::default() };
        let topic = topic(reader.text()?)?;
        let delay = properties.number(id::WILL_DELAY).unwrap_or(0);
        let payload = reader.binary()?.to_vec();
        let message =
            Publish { qos: will_qos, retain: will_retain, topic, properties, payload, ..Publish::default() };
        Some(Will { message, delay })
    } else {
        None
    };
    if has_username {
        reader.text()?;
    }
    if has_password {
        reader.binary()?;
    }
    reader.end()?;
    Ok(Connect { version, client_id, clean_start, keep_alive, will, properties: sent })
}

/// `[MQTT-3.3.2-2]`, `[MQTT-4.7.3-1]`.
fn topic(name: String) -> Read<String> {
    if name.is_empty() || name.contains(['+', '#']) { wrong("no topic name") } else { Ok(name) }
}

fn publish(frame: &Frame<'_>, version: Version, from: From) -> Read<Publish> {
    let (flags, mut reader) = (frame.first & 0x0f, Reader(frame.body));
    let (dup, qos, retain) = (flags & 8 != 0, flags >> 1 & 3, flags & 1 != 0);
    // `[MQTT-3.3.1-2]`, `[MQTT-3.3.1-4]`.
    if qos == 3 || (qos == 0 && dup) {
        return wrong("flags that no PUBLISH has");
    }
    let name = reader.text()?;
    let packet_id = if qos > 0 { reader.packet_id()? } else { 0 };
    let properties = if version == Version::V5 {
        properties(&mut reader, Place::Publish, from)?
    } else {
        Properties::default()
    };
    let topic = if properties.has(id::TOPIC_ALIAS) && name.is_empty() { name } else { topic(name)? };
    Ok(Publish { dup, qos, retain, packet_id, topic, properties, payload: reader.0.to_vec() })
}

fn kind(first: u8) -> Kind {
    match first >> 4 {
        4 => Kind::PubAck,
        5 => Kind::PubRec,
        6 => Kind::PubRel,
        _ => Kind::PubComp,
    }
}

fn ack(frame: &Frame<'_>, version: Version, from: From) -> Read<(Kind, u16, u8, Properties)> {
    let (kind, mut reader) = (kind(frame.first), Reader(frame.body));
    // `[MQTT-3.6.1-1]` and the fixed headers of the others.
    let required = if kind == Kind::PubRel { 2 } else { 0 };
    if frame.first & 0x0f != required {
        return wrong("reserved flags");
    }
    let packet_id = reader.packet_id()?;
    let (mut reason, mut sent) = (0, Properties::default());
    if version == Version::V5 && !reader.is_empty() {
        reason = reader.byte()?;
        let known: &[u8] = match kind {
            Kind::PubAck | Kind::PubRec => &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
            Kind::PubRel | Kind::PubComp => &[0, 0x92],
        };
        if !known.contains(&reason) {
            return wrong("a reason code that the packet does not have");
        }
        if !reader.is_empty() {
            sent = properties(&mut reader, Place::Ack, from)?;
        }
    }
    reader.end()?;
    Ok((kind, packet_id, reason, sent))
}

fn read_from_client(frame: &Frame<'_>, version: Version) -> Result<FromClient, Refusal> {
    let is_v5 = version == Version::V5;
    let (flags, mut reader) = (frame.first & 0x0f, Reader(frame.body));
    if !frame.is_shortest {
        return Err(Refusal::Bad("a remaining length that is longer than need be".into()));
    }
    let require = |wanted: u8| {
        if flags == wanted { Ok(()) } else { Err(Refusal::Bad("reserved flags".into())) }
    };
    Ok(match frame.first >> 4 {
        3 => FromClient::Publish(publish(frame, version, From::Client)?),
        4..=7 => {
            let (kind, packet_id, reason, _) = ack(frame, version, From::Client)?;
            FromClient::Ack { kind, packet_id, reason }
        }
        8 => {
            require(2)?;
            let packet_id = reader.packet_id()?;
            let mut id = None;
            if is_v5 {
                id = properties(&mut reader, Place::Subscribe, From::Client)?.number(id::SUBSCRIPTION_ID);
            }
            let mut wanted = Vec::new();
            while !reader.is_empty() {
                wanted.push(subscription(&mut reader, is_v5)?);
            }
            // `[MQTT-3.8.3-2]`.
            if wanted.is_empty() {
                return Err(Refusal::Bad("SUBSCRIBE to nothing".into()));
            }
            FromClient::Subscribe { packet_id, id, wanted }
        }
        10 => {
            require(2)?;
            let packet_id = reader.packet_id()?;
            if is_v5 {
                properties(&mut reader, Place::Unsubscribe, From::Client)?;
            }
            let mut filters = Vec::new();
            while !reader.is_empty() {
                filters.push(filter(reader.text()?, is_v5)?);
            }
            // `[MQTT-3.10.3-2]`.
            if filters.is_empty() {
                return Err(Refusal::Bad("UNSUBSCRIBE from nothing".into()));
            }
            FromClient::Unsubscribe { packet_id, filters }
        }
        12 => {
            require(0)?;
            reader.end()?;
            FromClient::PingReq
        }
        14 => {
            require(0)?;
            let (mut reason, mut session_expiry) = (0, None);
            if is_v5 && !reader.is_empty() {
                reason = reader.byte()?;
                if !matches!(reason, 0 | 4 | 0x80..=0x83 | 0x90 | 0x93..=0x99) {
                    return Err(Refusal::Bad("a reason code that no client's DISCONNECT has".into()));
                }
                if !reader.is_empty() {
                    let properties = properties(&mut reader, Place::Disconnect, From::Client)?;
                    session_expiry = properties.number(id::SESSION_EXPIRY);
                }
            }
            reader.end()?;
            FromClient::Disconnect { reason, session_expiry }
        }
        15 if is_v5 => {
            require(0)?;
            // Whether it is well formed or not, without a method in CONNECT it is an error (`[MQTT-4.12.0-6]`).
            FromClient::Auth
        }
        // `[MQTT-3.1.0-2]`.
        1 => return Err(Refusal::Bad("a second CONNECT".into())),
        _ => return Err(Refusal::Bad("a packet that no client sends".into())),
    })
}

fn subscription(reader: &mut Reader<'_>, is_v5: bool) -> Result<Wanted, Refusal> {
    let filter = filter(reader.text()?, is_v5)?;
    let options = reader.byte()?;
    let (qos, no_local, handling) = (options & 3, options & 4 != 0, options >> 4 & 3);
    // `[MQTT-3.8.3-5]` and clause 3.8.3.1; before MQTT 5 all but the QoS is reserved.
    let reserved = if is_v5 { 0xc0 } else { 0xfc };
    if qos == 3 || handling == 3 || options & reserved != 0 {
        return Err(Refusal::Bad("subscription options that must not be".into()));
    }
    // `[MQTT-3.8.3-4]`.
    if is_v5 && no_local && shared(&filter).is_some() {
        return Err(Refusal::Bad("no local on a shared subscription".into()));
    }
    Ok(Wanted { filter, qos, no_local })
}

fn filter(text: String, is_v5: bool) -> Result<String, Refusal> {
    if is_v5 && text.starts_with("$share/") {
        let (name, inner) = text["$share/".len()..].split_once('/').unwrap_or_default();
        let is_right = !name.is_empty() && !name.contains(['+', '#']) && is_filter(inner);
        // `[MQTT-4.8.2-1]`, `[MQTT-4.8.2-2]` say what must be, not what is done when it is not.
        return if is_right { Ok(text) } else { Err(Refusal::Unsure) };
    }
    if is_filter(&text) { Ok(text) } else { Err(Refusal::Bad("no topic filter".into())) }
}

/// Reads a packet of the broker to a client of `version`.
pub fn from_broker(frame: &Frame<'_>, version: Version) -> Read<FromBroker> {
    let is_v5 = version == Version::V5;
    let (flags, mut reader) = (frame.first & 0x0f, Reader(frame.body));
    if !frame.is_shortest {
        return wrong("a remaining length that is longer than need be");
    }
    let packet_type = frame.first >> 4;
    if !matches!(packet_type, 3 | 6) && flags != 0 {
        return wrong("reserved flags");
    }
    Ok(match packet_type {
        2 => {
            let (present, code) = (reader.byte()?, reader.byte()?);
            let properties = if is_v5 {
                properties(&mut reader, Place::ConnAck, From::Broker)?
            } else {
                Properties::default()
            };
            reader.end()?;
            let known = match version {
                Version::V5 => matches!(
                    code,
                    0 | 0x80..=0x8a | 0x8c | 0x90 | 0x95 | 0x97 | 0x99 | 0x9a | 0x9b..=0x9d | 0x9f
                ),
                _ => code <= 5,
            };
            if present > 1 || !known {
                return wrong("CONNACK with flags or a code that it does not have");
            }
            FromBroker::ConnAck { session_present: present == 1, code, properties }
        }
        3 => FromBroker::Publish(publish(frame, version, From::Broker)?),
        4..=7 => {
            let (kind, packet_id, reason, properties) = ack(frame, version, From::Broker)?;
            FromBroker::Ack { kind, packet_id, reason, properties }
        }
        9 | 11 => {
            let packet_id = reader.packet_id()?;
            let mut sent = Properties::default();
            if is_v5 {
                sent = properties(&mut reader, Place::Ack, From::Broker)?;
            }
            let reasons = reader.0.to_vec();
            let known = match (packet_type, version) {
                (9, Version::V5) => |code: &u8| {
                    matches!(code, 0..=2 | 0x80 | 0x83 | 0x87 | 0x8f | 0x91 | 0x97 | 0x9e | 0xa1 | 0xa2)
                },
                (9, Version::V311) => |code: &u8| matches!(code, 0..=2 | 0x80),
                (9, Version::V31) => |code: &u8| matches!(code, 0..=2),
                (_, Version::V5) => |code: &u8| matches!(code, 0 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8f | 0x91),
                // It has no payload (MQTT 3.1.1 clause 3.11).
                _ => |_: &u8| false,
            };
            if !reasons.iter().all(known) {
                return wrong("a reason code that the packet does not have");
            }
            match packet_type {
                9 => FromBroker::SubAck { packet_id, reasons, properties: sent },
                _ => FromBroker::UnsubAck { packet_id, reasons, properties: sent },
            }
        }
        13 => {
            reader.end()?;
            FromBroker::PingResp
        }
        14 if is_v5 => {
            let mut reason = 0;
            if !reader.is_empty() {
                reason = reader.byte()?;
                if !matches!(reason, 0 | 0x81..=0x83 | 0x87 | 0x89 | 0x8b | 0x8d..=0x90 | 0x93..=0xa2 | 0x80)
                {
                    return wrong("a reason code that no server's DISCONNECT has");
                }
                if !reader.is_empty() {
                    properties(&mut reader, Place::Disconnect, From::Broker)?;
                }
            }
            reader.end()?;
            FromBroker::Disconnect { reason }
        }
        _ => return wrong("a packet that no server sends to this version"),
    })
}
