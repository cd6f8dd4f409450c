//! CONNECT (clause 3.1), in the rules of all three versions.
//!
//! Not read by `rumqttd`: its decoders refuse a password that is not UTF-8 (the field is binary data, clause
//! 3.1.3.6), cannot tell an empty user name from an absent one, and do not know MQTT 3.1.

use bytes::Bytes;
use tidegate_event::{Protocol, PublishProperties, QoS, TopicName};

use super::property::{self, Section, Value, id};
use super::publish::keep_property;
use super::reader::{Reader, levels_over, shared_text, topic_error};
use super::{CodecError, Connect, ConnectProperties, Limits, PacketType, Will};

const RESERVED: u8 = 0b0000_0001;
const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_QOS: u8 = 0b0001_1000;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USER_NAME: u8 = 0b1000_0000;

/// Characters of a client id in MQTT 3.1, at most; "if the Client ID contains more than 23 characters, the server
/// responds [...] Identifier Rejected" (its clause 3.1). Later versions leave it to the server.
const MAX_CLIENT_ID_V31: usize = 23;

/// Reads the body of CONNECT. Its texts become slices of `frame`, which should hold nothing else: they live as
/// long as the session. `client_takes` is set as soon as the packet has told it: a refusal must not be larger.
pub(super) fn decode(
    frame: &Bytes,
    protocol: Protocol,
    limits: Limits,
    client_takes: &mut Option<usize>,
) -> Result<Connect, CodecError> {
    let mut reader = Reader::new(frame, PacketType::Connect);
    reader.binary()?;
    reader.byte()?;
    let flags = reader.byte()?;
    check_flags(&reader, flags, protocol)?;
    let keep_alive = reader.two()?;

    let mut properties = ConnectProperties::default();
    if protocol.is_v5() {
        property::read(&mut reader, Section::Connect, limits, |id, value| {
            keep_connect_property(&mut properties, frame, id, value)
        })?;
        let most = properties.maximum_packet_size.unwrap_or(u32::MAX);
        *client_takes = Some(usize::try_from(most).unwrap_or(usize::MAX));
        if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
            return Err(reader.protocol_error("authentication data without an authentication method"));
        }
    }

    let client_id = shared_text(frame, reader.text()?);
    let clean_start = flags & CLEAN_START != 0;
    let needs_client_id = match protocol {
        Protocol::V31 => true,
        Protocol::V311 => !clean_start,
        Protocol::V5 => false,
    };

    let will =
        if flags & WILL != 0 { Some(will(&mut reader, frame, flags, protocol, limits)?) } else { None };

    // MQTT 3.1, clause 3.1: the flag of user name or password may be set and the field missing.
    let missing = |reader: &Reader<'_>| protocol == Protocol::V31 && reader.is_empty();
    let username = if flags & USER_NAME != 0 && !missing(&reader) {
        Some(shared_text(frame, reader.text()?))
    } else {
        None
    };
    let password = if flags & PASSWORD != 0 && !missing(&reader) {
        Some(frame.slice_ref(reader.binary()?))
    } else {
        None
    };
    reader.end()?;

    // Last, because it is answered also where what is malformed is not.
    if needs_client_id && client_id.is_empty() {
        return Err(CodecError::ClientId { rule: "client id must not be empty" });
    }
    if protocol == Protocol::V31 && client_id.chars().count() > MAX_CLIENT_ID_V31 {
        return Err(CodecError::ClientId { rule: "client id must not have more than 23 characters" });
    }
    Ok(Connect { protocol, client_id, clean_start, keep_alive, username, password, will, properties })
}

fn check_flags(reader: &Reader<'_>, flags: u8, protocol: Protocol) -> Result<(), CodecError> {
    // MQTT 3.1 does not use bit 0 and disregards the bits of a will that is not there.
    let strict = protocol != Protocol::V31;
    if strict && flags & RESERVED != 0 {
        return Err(reader.malformed("the reserved connect flag must be 0"));
    }
    if strict && flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0 {
        return Err(reader.malformed("will QoS and will retain must be 0 without a will"));
    }
    if flags & WILL != 0 && flags & WILL_QOS == WILL_QOS {
        return Err(reader.malformed("will QoS must not be 3"));
    }
    if !protocol.is_v5() && flags & PASSWORD != 0 && flags & USER_NAME == 0 {
        return Err(reader.malformed("a password needs a user name in this version"));
    }
    Ok(())
}

fn keep_connect_property(properties: &mut ConnectProperties, frame: &Bytes, id: u8, value: Value<'_>) {
    match (id, value) {
        (id::SESSION_EXPIRY, Value::Four(seconds)) => properties.session_expiry = Some(seconds),
        (id::RECEIVE_MAXIMUM, Value::Two(count)) => properties.receive_maximum = Some(count),
        (id::MAXIMUM_PACKET_SIZE, Value::Four(bytes)) => properties.maximum_packet_size = Some(bytes),
        (id::TOPIC_ALIAS_MAXIMUM, Value::Two(count)) => properties.topic_alias_maximum = Some(count),
        (id::REQUEST_RESPONSE_INFORMATION, Value::Flag(on)) => properties.request_response_information = on,
        (id::REQUEST_PROBLEM_INFORMATION, Value::Flag(on)) => {
            properties.request_problem_information = Some(on);
        }
        (id::AUTHENTICATION_METHOD, Value::Text(text)) => {
            properties.authentication_method = Some(shared_text(frame, text));
        }
        (id::AUTHENTICATION_DATA, Value::Binary(data)) => {
            properties.authentication_data = Some(frame.slice_ref(data));
        }
        (id::USER, Value::Pair(name, value)) => {
            properties.user.push((shared_text(frame, name), shared_text(frame, value)));
        }
        _ => {}
    }
}

fn will(
    reader: &mut Reader<'_>,
    frame: &Bytes,
    flags: u8,
    protocol: Protocol,
    limits: Limits,
) -> Result<Will, CodecError> {
    let mut delay = 0;
    let mut properties = PublishProperties::default();
    if protocol.is_v5() {
        property::read(reader, Section::Will, limits, |id, value| match (id, value) {
            (id::WILL_DELAY, Value::Four(seconds)) => delay = seconds,
            (id, value) => keep_property(&mut properties, frame, id, value),
        })?;
    }
    let topic = reader.text()?;
    if let Some(levels) = levels_over(topic.as_bytes(), limits.max_topic_levels) {
        return Err(CodecError::TopicLevels {
            packet: PacketType::Connect,
            levels,
            limit: limits.max_topic_levels,
        });
    }
    let topic =
        TopicName::new(shared_text(frame, topic)).map_err(|error| topic_error(PacketType::Connect, error))?;
    let payload = frame.slice_ref(reader.binary()?);
    let qos =
        QoS::try_from((flags & WILL_QOS) >> 3).map_err(|_| reader.malformed("will QoS must not be 3"))?;
    let properties = (properties != PublishProperties::default()).then(|| Box::new(properties));
    Ok(Will { topic, payload, qos, retain: flags & WILL_RETAIN != 0, delay, properties })
}
