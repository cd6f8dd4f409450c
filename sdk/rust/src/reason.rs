//! Reason codes for refusals: [`Verdict::Reject`](crate::Verdict::Reject), [`Decision::Refuse`](crate::Decision::Refuse)
//! and [`Grant::Refuse`](crate::Grant::Refuse).
//!
//! Each answer may carry the codes of one packet: PUBACK and PUBREC for publishes (MQTT 5 clauses 3.4.2.1 and 3.5.2.1),
//! CONNACK for `client_authenticate` (3.2.2.2), SUBACK for subscriptions (3.9.3). Any other code is an error of the
//! module. A client of an earlier version is told what is nearest.

/// Refused without saying why: publishes, connections, subscriptions.
pub const UNSPECIFIED_ERROR: u8 = 0x80;
/// Valid, but not accepted by this server: publishes, connections, subscriptions.
pub const IMPLEMENTATION_SPECIFIC_ERROR: u8 = 0x83;
/// The client identifier is not accepted: connections.
pub const CLIENT_IDENTIFIER_NOT_VALID: u8 = 0x85;
/// User name or password is wrong: connections.
pub const BAD_USER_NAME_OR_PASSWORD: u8 = 0x86;
/// The client may not do this: publishes, connections, subscriptions.
pub const NOT_AUTHORIZED: u8 = 0x87;
/// Not now, later perhaps: connections.
pub const SERVER_UNAVAILABLE: u8 = 0x88;
/// The client is kept out by its operator: connections.
pub const BANNED: u8 = 0x8a;
/// The topic filter is well formed, but not accepted: subscriptions.
pub const TOPIC_FILTER_INVALID: u8 = 0x8f;
/// The topic name is well formed, but not accepted: publishes, and connections for their will.
pub const TOPIC_NAME_INVALID: u8 = 0x90;
/// A limit set by the server's operator has been passed: publishes, connections, subscriptions.
pub const QUOTA_EXCEEDED: u8 = 0x97;
/// The payload is not what its payload format indicator, or this topic, promises: publishes, and connections for
/// their will.
pub const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
