//! Which MQTT a client speaks: the protocol name and level at the start of CONNECT.

use tidegate_event::Protocol;

use super::{CodecError, PacketType};

/// Reads name and level from the first bytes of CONNECT's variable header, as soon as they are there, so that
/// later errors can be answered in the client's version. `remaining` is the packet's remaining length.
/// `None`: more bytes are needed.
pub(super) fn peek(body: &[u8], remaining: usize) -> Result<Option<Protocol>, CodecError> {
    // The next packet may be in the buffer already: it is not part of this one.
    if remaining < 2 {
        return Err(TOO_SHORT);
    }
    let Some((length, rest)) = body.split_first_chunk::<2>() else {
        return Ok(None);
    };
    let length = u16::from_be_bytes(*length);
    if remaining < 2 + usize::from(length) + 1 {
        return Err(TOO_SHORT);
    }
    let length = usize::from(length);
    if length > LONGEST_NAME {
        // Judged by its length alone: a name of 65,535 bytes is not waited for.
        return Err(CodecError::UnknownProtocol { level: 0 });
    }
    let Some((name, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let Some(&level) = rest.first() else {
        return Ok(None);
    };
    match (name, level) {
        (b"MQIsdp", 3) => Ok(Some(Protocol::V31)),
        (b"MQTT", 4) => Ok(Some(Protocol::V311)),
        (b"MQTT", 5) => Ok(Some(Protocol::V5)),
        // A bridge marks its level with bit 7 (0x84) and tries again without it when it is refused.
        (b"MQTT" | b"MQIsdp", level) => Err(CodecError::UnsupportedVersion { level }),
        (_, level) => Err(CodecError::UnknownProtocol { level }),
    }
}

/// A protocol name that is longer is not looked past.
const LONGEST_NAME: usize = 32;

const TOO_SHORT: CodecError =
    CodecError::Malformed { packet: PacketType::Connect, rule: "too short for a protocol name and level" };
