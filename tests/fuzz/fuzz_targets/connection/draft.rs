//! Packets as clients write them, out of the numbers of a scenario: well formed, whatever the numbers are.

use super::packet::{self, Kind};
use super::scenario::{Connect, Publish, Subscription, Will};
use super::wire::{Properties, Value, Version, id, put_binary, put_varint};

const CLIENTS: [&str; 8] = ["a", "b", "c", "", "a", "b", "a", "somebody-with-a-very-long-name"];
const KEEP_ALIVE: [u16; 8] = [0, 0, 60, 5, 1, 65_535, 0, 30];
const EXPIRY: [Option<u32>; 8] =
    [None, Some(0), Some(1), Some(5), Some(60), Some(3_600), Some(100_000), Some(u32::MAX)];
const RECEIVE_MAXIMUM: [Option<u16>; 8] =
    [None, None, Some(1), Some(2), Some(3), Some(10), Some(100), Some(65_535)];
const MAX_PACKET: [Option<u32>; 8] =
    [None, None, None, Some(20), Some(40), Some(64), Some(200), Some(20_000)];
const ALIAS_MAXIMUM: [Option<u16>; 8] =
    [None, None, Some(0), Some(1), Some(2), Some(10), Some(100), Some(65_535)];
const LONG: &str = "a/long/name/of/a/topic/that/is/well/worth/an/alias/because/it/is/so/long";
const TOPICS: [&str; 12] =
    ["a", "a/b", "a/b/c", "b", "b/c", LONG, "/", "$s/x", "$SYS/broker/x", "a", "a/b", "b"];
const FILTERS: [&str; 20] = [
    "a",
    "a/b",
    "a/#",
    "+/b",
    "#",
    "a/+/c",
    "b/+",
    "$share/g/a/#",
    "$share/g/#",
    "$share/h/a",
    "$SYS/broker/clients/+",
    "/",
    "+",
    "b",
    "$share/g/b/+",
    "$s/#",
    LONG,
    "$share/g/a",
    "a/b",
    "a",
];
const LENGTHS: [usize; 8] = [0, 0, 1, 20, 100, 1_000, 5_000, 17_000];
const LIFETIMES: [Option<u32>; 8] = [None, None, None, Some(0), Some(1), Some(10), Some(100), Some(5_000)];
const ACK_REASONS: [u8; 4] = [0, 0, 0x10, 0x80];
const GOODBYES: [u8; 8] = [0, 0, 0, 4, 4, 0x80, 0x81, 0x99];

/// The place of the long topic among the topics.
#[cfg(test)]
pub const TOPIC_LONG: u8 = 5;

pub fn pick<T: Copy, const N: usize>(list: [T; N], number: u8) -> T {
    list[usize::from(number) % N]
}

/// The version and the client id that `connect` names.
pub fn who(connect: &Connect) -> (Version, &'static str) {
    let version = pick([Version::V5, Version::V5, Version::V311, Version::V31], connect.version);
    (version, pick(CLIENTS, connect.client))
}

/// A whole packet.
pub fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    put_varint(&mut packet, body.len());
    packet.extend_from_slice(body);
    packet
}

pub fn connect(connect: &Connect, serial: u32) -> Vec<u8> {
    let (version, client) = who(connect);
    let bit = |bit: u8| connect.flags & bit != 0;
    let is_v5 = version == Version::V5;
    let has_username = bit(2);
    let has_password = bit(4) && (has_username || is_v5);
    let mut flags = [(bit(1), 0x02), (has_username, 0x80), (has_password, 0x40)]
        .iter()
        .map(|(set, flag)| if *set { *flag } else { 0 })
        .sum::<u8>();
    if let Some(will) = &connect.will {
        flags |= 0x04 | qos(&will.message) << 3 | u8::from(will.message.flags & 4 != 0) << 5;
    }
    let mut body = Vec::new();
    let (name, level): (&[u8], u8) = match version {
        Version::V31 => (b"MQIsdp", 3),
        Version::V311 => (b"MQTT", 4),
        Version::V5 => (b"MQTT", 5),
    };
    put_binary(&mut body, name);
    body.extend([level, flags]);
    body.extend(pick(KEEP_ALIVE, connect.keep_alive).to_be_bytes());
    if is_v5 {
        connect_properties(connect).encode(&mut body);
    }
    put_binary(&mut body, client.as_bytes());
    if let Some(Will { delay, message }) = &connect.will {
        if is_v5 {
            let mut properties = message_properties(message);
            if let Some(delay) = pick(EXPIRY, *delay) {
                properties.0.push((id::WILL_DELAY, Value::Four(delay)));
            }
            properties.encode(&mut body);
        }
        put_binary(&mut body, pick(TOPICS, message.topic).as_bytes());
        put_binary(&mut body, &payload(message, serial));
    }
    if has_username {
        put_binary(&mut body, b"somebody");
    }
    if has_password {
        put_binary(&mut body, b"\xff\x00secret");
    }
    framed(0x10, &body)
}

fn connect_properties(connect: &Connect) -> Properties {
    let mut properties = Vec::new();
    let mut add = |id, value: Option<Value>| properties.extend(value.map(|value| (id, value)));
    add(id::SESSION_EXPIRY, pick(EXPIRY, connect.expiry).map(Value::Four));
    add(id::RECEIVE_MAXIMUM, pick(RECEIVE_MAXIMUM, connect.receive_maximum).map(Value::Two));
    add(id::MAXIMUM_PACKET_SIZE, pick(MAX_PACKET, connect.max_packet).map(Value::Four));
    add(id::TOPIC_ALIAS_MAXIMUM, pick(ALIAS_MAXIMUM, connect.alias_maximum).map(Value::Two));
    let bit = |bit: u8| connect.flags & bit == bit;
    add(id::REQUEST_PROBLEM_INFORMATION, bit(8).then_some(Value::Byte(0)));
    add(id::REQUEST_RESPONSE_INFORMATION, bit(16).then_some(Value::Byte(1)));
    add(id::AUTHENTICATION_METHOD, bit(0x60).then(|| Value::Text("none".into())));
    Properties(properties)
}

/// The QoS of a message.
pub fn qos(publish: &Publish) -> u8 {
    (publish.flags & 3) % 3
}

/// What nobody else publishes, unless it is to be nothing.
fn payload(publish: &Publish, serial: u32) -> Vec<u8> {
    if publish.flags & 0x10 != 0 {
        return Vec::new();
    }
    let mut payload = format!("m{serial} ").into_bytes();
    payload.resize(payload.len() + pick(LENGTHS, publish.length), b'.');
    payload
}

fn message_properties(publish: &Publish) -> Properties {
    let bit = |bit: u8| publish.properties & bit != 0;
    let mut properties = Vec::new();
    let mut add = |id, value: Option<Value>| properties.extend(value.map(|value| (id, value)));
    add(id::PAYLOAD_FORMAT, bit(1).then_some(Value::Byte(1)));
    add(id::CONTENT_TYPE, bit(2).then(|| Value::Text("text/plain".into())));
    add(id::RESPONSE_TOPIC, bit(4).then(|| Value::Text("a/b".into())));
    add(id::CORRELATION_DATA, bit(8).then(|| Value::Binary(vec![0, 1, 0xff])));
    add(id::USER, bit(16).then(|| Value::Pair("name".into(), "value".into())));
    add(id::USER, bit(32).then(|| Value::Pair("name".into(), String::new())));
    add(id::MESSAGE_EXPIRY, pick(LIFETIMES, publish.expiry).map(Value::Four));
    Properties(properties)
}

/// PUBLISH with `packet_id`, if it has one.
pub fn publish(publish: &Publish, version: Version, packet_id: u16, serial: u32) -> Vec<u8> {
    let qos = qos(publish);
    let dup = if qos > 0 { publish.flags & 8 } else { 0 };
    let first = 0x30 | qos << 1 | dup | u8::from(publish.flags & 4 != 0);
    // An alias that is set, or, from 8 on, one that stands for the topic.
    let alias = publish.alias % 16;
    let is_named = version != Version::V5 || alias < 8;
    let mut body = Vec::new();
    put_binary(&mut body, if is_named { pick(TOPICS, publish.topic).as_bytes() } else { b"" });
    if qos > 0 {
        body.extend(packet_id.to_be_bytes());
    }
    if version == Version::V5 {
        let mut properties = message_properties(publish);
        if alias > 0 {
            properties.0.push((id::TOPIC_ALIAS, Value::Two(u16::from(alias % 8).max(1))));
        }
        properties.encode(&mut body);
    }
    body.extend(payload(publish, serial));
    framed(first, &body)
}

pub fn ack(kind: Kind, packet_id: u16, reason: u8, version: Version) -> Vec<u8> {
    let (first, reason) = match kind {
        Kind::PubAck => (0x40, pick(ACK_REASONS, reason)),
        Kind::PubRec => (0x50, pick(ACK_REASONS, reason)),
        Kind::PubRel => (0x62, pick([0, 0, 0, 0x92], reason)),
        Kind::PubComp => (0x70, pick([0, 0, 0, 0x92], reason)),
    };
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 && reason > 0 {
        body.push(reason);
    }
    framed(first, &body)
}

pub fn subscribe(packet_id: u16, id: u8, wanted: &[Subscription], version: Version) -> Vec<u8> {
    let is_v5 = version == Version::V5;
    let mut body = packet_id.to_be_bytes().to_vec();
    if is_v5 {
        let id = (id > 0).then_some((id::SUBSCRIPTION_ID, Value::Varint(u32::from(id) * 100)));
        Properties(id.into_iter().collect()).encode(&mut body);
    }
    for Subscription { filter, options } in wanted {
        let filter = pick(FILTERS, *filter);
        put_binary(&mut body, filter.as_bytes());
        let qos = (options & 3) % 3;
        let no_local = if filter.starts_with("$share/") { 0 } else { options & 4 };
        let more = no_local | options & 8 | ((options >> 4 & 3) % 3) << 4;
        body.push(qos | if is_v5 { more } else { 0 });
    }
    framed(0x82, &body)
}

pub fn unsubscribe(packet_id: u16, filters: &[u8], version: Version) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    filters.iter().for_each(|filter| put_binary(&mut body, pick(FILTERS, *filter).as_bytes()));
    framed(0xa2, &body)
}

pub fn disconnect(reason: u8, expiry: u8, version: Version) -> Vec<u8> {
    let mut body = Vec::new();
    let (reason, expiry) = (pick(GOODBYES, reason), pick(EXPIRY, expiry));
    if version == Version::V5 && (reason > 0 || expiry.is_some()) {
        body.push(reason);
        if let Some(seconds) = expiry {
            Properties(vec![(id::SESSION_EXPIRY, Value::Four(seconds))]).encode(&mut body);
        }
    }
    framed(0xe0, &body)
}

pub fn auth(reason: u8, method: bool) -> Vec<u8> {
    let mut body = vec![pick([0x18, 0x19, 0, 0x80], reason)];
    let method = method.then(|| (id::AUTHENTICATION_METHOD, Value::Text("none".into())));
    Properties(method.into_iter().collect()).encode(&mut body);
    framed(0xf0, &body)
}

/// `packet`, changed.
pub fn mangle(mut packet: Vec<u8>, how: u8, at: u8, with: u8) -> Vec<u8> {
    let place = usize::from(at) % packet.len();
    match how % 6 {
        0 => packet[place] ^= 1 << (with % 8),
        1 => packet[place] = with,
        2 => packet.truncate(place),
        3 => packet[0] = with,
        how => {
            let Some(Ok(frame)) = packet::frame(&packet) else { return packet };
            let mut body = frame.body.to_vec();
            if how == 4 {
                body.truncate(usize::from(at) % (body.len() + 1));
            } else {
                body.extend(std::iter::repeat_n(with, 1 + usize::from(at) % 8));
            }
            return framed(frame.first, &body);
        }
    }
    packet
}
