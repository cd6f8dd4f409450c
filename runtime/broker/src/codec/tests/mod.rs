//! Tests of the codec: every rule with bytes written by hand, every packet against another implementation,
//! every packet cut into pieces, and the inputs that stop `rumqttd`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod feeding;
mod regression;
mod round_trip;
mod rules_connect;
mod rules_packets;
mod samples;
mod sent;

use bytes::BytesMut;
use tidegate_event::Protocol;

use super::{CodecError, Decoder, Incoming, Limits};

const LIMITS: Limits =
    Limits { max_packet_bytes: 1024, max_topic_levels: 8, max_filters: 20, max_user_properties: 20 };

/// A small CONNECT of each version.
fn connect(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::V31 => b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c",
        Protocol::V311 => b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c",
        Protocol::V5 => b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c",
    }
}

/// A decoder to which a client of `protocol` has sent CONNECT.
fn connected(protocol: Protocol) -> Decoder {
    let mut decoder = Decoder::new(LIMITS);
    let mut buffer = BytesMut::from(connect(protocol));
    let packet = decoder.decode(&mut buffer).unwrap();
    assert!(matches!(packet, Some(Incoming::Connect(_))), "{packet:?}");
    assert!(buffer.is_empty());
    assert_eq!(decoder.protocol(), Some(protocol));
    decoder
}

/// Decodes all of `bytes`, which come in one piece.
fn decode_all(decoder: &mut Decoder, bytes: &[u8]) -> Result<Vec<Incoming>, CodecError> {
    let mut buffer = BytesMut::from(bytes);
    let mut packets = Vec::new();
    while let Some(packet) = decoder.decode(&mut buffer)? {
        packets.push(packet);
    }
    Ok(packets)
}

/// The one packet in `bytes`, sent after CONNECT.
fn decode_one(protocol: Protocol, bytes: &[u8]) -> Result<Incoming, CodecError> {
    let mut packets = decode_all(&mut connected(protocol), bytes)?;
    assert_eq!(packets.len(), 1, "{packets:?}");
    Ok(packets.remove(0))
}

/// A packet of first byte `first` around `body`.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::from(&[first][..]);
    super::encode::put_varint(&mut bytes, body.len());
    bytes.extend_from_slice(body);
    bytes.to_vec()
}

/// An error's reason code and text.
fn refusal<T: std::fmt::Debug>(result: Result<T, CodecError>) -> (u8, String) {
    let error = result.unwrap_err();
    (error.reason().0, error.to_string())
}
