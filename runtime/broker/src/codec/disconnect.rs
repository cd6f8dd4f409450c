//! DISCONNECT from a client (clause 3.14).
//!
//! Not read by `rumqttd`: its MQTT 5 decoder refuses the form with a reason and no property length (remaining
//! length 1, clause 3.14.2.2.1), which clients send to have their will published.

use bytes::Bytes;
use tidegate_event::{Protocol, ReasonCode};

use super::property::{self, Section, Value, id};
use super::reader::{Reader, shared_text};
use super::{CodecError, Disconnect, Limits, PacketType};

/// Reads the body of DISCONNECT.
pub(super) fn decode(frame: &Bytes, protocol: Protocol, limits: Limits) -> Result<Disconnect, CodecError> {
    let mut reader = Reader::new(frame, PacketType::Disconnect);
    let mut packet = Disconnect { reason: ReasonCode::SUCCESS, session_expiry: None, reason_string: None };
    if protocol.is_v5() && !reader.is_empty() {
        let reason = reader.byte()?;
        check_reason(&reader, reason)?;
        packet.reason = ReasonCode(reason);
        if !reader.is_empty() {
            property::read(&mut reader, Section::Disconnect, limits, |id, value| match (id, value) {
                (id::SESSION_EXPIRY, Value::Four(seconds)) => packet.session_expiry = Some(seconds),
                (id::REASON_STRING, Value::Text(text)) => {
                    packet.reason_string = Some(shared_text(frame, text))
                }
                _ => {}
            })?;
        }
    }
    reader.end()?;
    Ok(packet)
}

/// Clause 3.14.2.1, table 3-10: which reasons a client may give.
fn check_reason(reader: &Reader<'_>, reason: u8) -> Result<(), CodecError> {
    match reason {
        0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99 => Ok(()),
        0x87 | 0x89 | 0x8b | 0x8d..=0x8f | 0x9a..=0xa2 => {
            Err(reader.protocol_error("a reason code that only a server may send"))
        }
        _ => Err(reader.malformed("a reason code that DISCONNECT does not have")),
    }
}
