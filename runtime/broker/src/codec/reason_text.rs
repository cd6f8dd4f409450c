//! Reason codes in words, for reason strings (clause 2.4): "human readable", not to be parsed.

use tidegate_event::ReasonCode;

/// What an error code means, in a few words; `None` when the code is no error, or says no more than that there is one.
pub(super) fn text(code: ReasonCode) -> Option<&'static str> {
    Some(match code.0 {
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "the request cannot be carried out by this server",
        0x84 => "this version of MQTT is not spoken here",
        0x85 => "the client identifier is not allowed",
        0x86 => "unknown user name or wrong password",
        0x87 => "not authorized",
        0x88 => "the server is not available",
        0x89 => "the server is busy, try again later",
        0x8a => "the client is banned",
        0x8b => "the server is shutting down",
        0x8c => "the authentication method is not supported",
        0x8d => "nothing was heard for one and a half keep-alives",
        0x8e => "another connection uses this client identifier",
        0x8f => "the topic filter is not allowed",
        0x90 => "the topic name is not allowed",
        0x91 => "the packet identifier is in use",
        0x92 => "no exchange has this packet identifier",
        0x93 => "more messages in flight than the receive maximum",
        0x94 => "the topic alias is 0 or above the maximum",
        0x95 => "a packet is too large",
        0x96 => "messages come too fast",
        0x97 => "a limit is exceeded",
        0x98 => "closed by an administrator",
        0x99 => "the payload is not the UTF-8 text that its format indicator promises",
        0x9a => "retained messages are not supported",
        0x9b => "this QoS is not supported",
        0x9c => "use another server",
        0x9d => "the server has moved",
        0x9e => "shared subscriptions are not supported",
        0x9f => "connections come too fast",
        0xa0 => "the connection was open for as long as it may be",
        0xa1 => "subscription identifiers are not supported",
        0xa2 => "wildcard subscriptions are not supported",
        _ => return None,
    })
}
