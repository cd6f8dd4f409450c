//! Reason codes for [`Verdict::Reject`](crate::Verdict::Reject), as in PUBACK and PUBREC (MQTT 5 clauses
//! 3.4.2.1 and 3.5.2.1).

/// The receiver does not accept the publish and does not say why.
pub const UNSPECIFIED_ERROR: u8 = 0x80;
/// The PUBLISH is valid, but not accepted by this server.
pub const IMPLEMENTATION_SPECIFIC_ERROR: u8 = 0x83;
/// The client may not publish this.
pub const NOT_AUTHORIZED: u8 = 0x87;
/// The topic name is well formed, but not accepted.
pub const TOPIC_NAME_INVALID: u8 = 0x90;
/// A limit set by the server's operator has been passed.
pub const QUOTA_EXCEEDED: u8 = 0x97;
/// The payload is not what its payload format indicator, or this topic, promises.
pub const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
