//! The MQTT 5 reason codes (clause 2.4) that sessions use, besides those of the event crate.

use tidegate_event::ReasonCode;

pub(crate) const DISCONNECT_WITH_WILL: ReasonCode = ReasonCode(0x04);
pub(crate) const NO_SUBSCRIPTION_EXISTED: ReasonCode = ReasonCode(0x11);
pub(crate) const PROTOCOL_ERROR: ReasonCode = ReasonCode(0x82);
pub(crate) const IMPLEMENTATION_SPECIFIC: ReasonCode = ReasonCode(0x83);
pub(crate) const CLIENT_ID_NOT_VALID: ReasonCode = ReasonCode(0x85);
pub(crate) const UNSUPPORTED_VERSION: ReasonCode = ReasonCode(0x84);
pub(crate) const SERVER_UNAVAILABLE: ReasonCode = ReasonCode(0x88);
pub(crate) const SERVER_BUSY: ReasonCode = ReasonCode(0x89);
pub(crate) const SERVER_SHUTTING_DOWN: ReasonCode = ReasonCode(0x8b);
pub(crate) const BAD_AUTHENTICATION_METHOD: ReasonCode = ReasonCode(0x8c);
pub(crate) const KEEP_ALIVE_TIMEOUT: ReasonCode = ReasonCode(0x8d);
pub(crate) const SESSION_TAKEN_OVER: ReasonCode = ReasonCode(0x8e);
pub(crate) const TOPIC_FILTER_INVALID: ReasonCode = ReasonCode(0x8f);
pub(crate) const TOPIC_NAME_INVALID: ReasonCode = ReasonCode(0x90);
pub(crate) const PACKET_ID_NOT_FOUND: ReasonCode = ReasonCode(0x92);
pub(crate) const RECEIVE_MAXIMUM_EXCEEDED: ReasonCode = ReasonCode(0x93);
pub(crate) const TOPIC_ALIAS_INVALID: ReasonCode = ReasonCode(0x94);
pub(crate) const PACKET_TOO_LARGE: ReasonCode = ReasonCode(0x95);
pub(crate) const MESSAGE_RATE_TOO_HIGH: ReasonCode = ReasonCode(0x96);
pub(crate) const PAYLOAD_FORMAT_INVALID: ReasonCode = ReasonCode(0x99);
pub(crate) const RETAIN_NOT_SUPPORTED: ReasonCode = ReasonCode(0x9a);
pub(crate) const QOS_NOT_SUPPORTED: ReasonCode = ReasonCode(0x9b);
pub(crate) const ADMINISTRATIVE_ACTION: ReasonCode = ReasonCode(0x98);

/// Whether the code says that something failed (clause 2.4: 0x80 or greater).
pub(crate) fn is_error(code: ReasonCode) -> bool {
    code.0 >= 0x80
}
