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
    // Judged by its length alone when that is wrong: a name of 65,535 bytes is not waited for.
    let known: &[u8] = match length {
        4 => b"MQTT",
        6 => b"MQIsdp",
        _ => return Err(UNSUPPORTED_NAME),
    };
    let Some((name, rest)) = rest.split_at_checked(known.len()) else {
        return Ok(None);
    };
    if name != known {
        return Err(UNSUPPORTED_NAME);
    }
    match (known.len(), rest.first()) {
        (_, None) => Ok(None),
        (6, Some(3)) => Ok(Some(Protocol::V31)),
        (4, Some(4)) => Ok(Some(Protocol::V311)),
        (4, Some(5)) => Ok(Some(Protocol::V5)),
        // A bridge marks its level with bit 7 (0x84) and tries again without it when it is refused.
        (_, Some(&level)) => Err(CodecError::UnsupportedVersion { level }),
    }
}

const TOO_SHORT: CodecError =
    CodecError::Malformed { packet: PacketType::Connect, rule: "too short for a protocol name and level" };
const UNSUPPORTED_NAME: CodecError = CodecError::UnsupportedVersion { level: 0 };
