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
    // Judged by its length alone when that is wrong: a name of 65,535 bytes is not waited for.
    let known: &[u8] = match u16::from_be_bytes(*length) {
        4 => b"MQTT",
        6 => b"MQIsdp",
        _ => return Err(UNKNOWN_NAME),
    };
    if remaining < 2 + known.len() + 1 {
        return Err(TOO_SHORT);
    }
    let Some((name, rest)) = rest.split_at_checked(known.len()) else {
        return Ok(None);
    };
    if name != known {
        return Err(UNKNOWN_NAME);
    }
    match (known.len(), rest.first()) {
        (_, None) => Ok(None),
        (6, Some(3)) => Ok(Some(Protocol::V31)),
        (4, Some(4)) => Ok(Some(Protocol::V311)),
        (4, Some(5)) => Ok(Some(Protocol::V5)),
        // A bridge marks its level with bit 7 and tries again without it when refused in 3.1.1 form.
        (_, Some(&level)) => Err(CodecError::UnsupportedVersion {
            level,
            answer: if matches!(level, 6..0x80) { Protocol::V5 } else { Protocol::V311 },
        }),
    }
}

const TOO_SHORT: CodecError =
    CodecError::Malformed { packet: PacketType::Connect, rule: "too short for a protocol name and level" };
const UNKNOWN_NAME: CodecError = CodecError::UnsupportedVersion { level: 0, answer: Protocol::V311 };
