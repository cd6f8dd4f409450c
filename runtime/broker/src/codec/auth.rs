//! AUTH from a client (clause 3.15), which `rumqttd` does not know.

use bytes::Bytes;
use tidegate_event::ReasonCode;

use super::property::{self, Section, Value, id};
use super::reader::{Reader, shared_text};
use super::{Auth, CodecError, Limits, PacketType};

const SUCCESS: u8 = 0x00;
const CONTINUE: u8 = 0x18;
const REAUTHENTICATE: u8 = 0x19;

/// Reads the body of AUTH.
pub(super) fn decode(frame: &Bytes, limits: Limits) -> Result<Auth, CodecError> {
    let mut reader = Reader::new(frame, PacketType::Auth);
    // An empty body means success (clause 3.15.2.1), which only a server may say.
    let reason = if reader.is_empty() { SUCCESS } else { reader.byte()? };
    match reason {
        CONTINUE | REAUTHENTICATE => {}
        SUCCESS => return Err(reader.protocol_error("only a server may say success")),
        _ => return Err(reader.malformed("a reason code that AUTH does not have")),
    }
    let mut packet = Auth { reason: ReasonCode(reason), method: None, data: None };
    if !reader.is_empty() {
        property::read(&mut reader, Section::Auth, limits, |id, value| match (id, value) {
            (id::AUTHENTICATION_METHOD, Value::Text(text)) => packet.method = Some(shared_text(frame, text)),
            (id::AUTHENTICATION_DATA, Value::Binary(data)) => packet.data = Some(frame.slice_ref(data)),
            _ => {}
        })?;
    }
    reader.end()?;
    if packet.method.is_none() {
        return Err(reader.protocol_error("it needs an authentication method"));
    }
    Ok(packet)
}
