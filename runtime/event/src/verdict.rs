//! What the handlers of a message decide about it.

use std::sync::Arc;

use crate::{Message, Requested};

/// An MQTT 5 reason code (clause 2.4). On 3.1.1, which has none, a refused message is acknowledged and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReasonCode(pub u8);

impl ReasonCode {
    /// 0x00.
    pub const SUCCESS: Self = Self(0x00);
    /// 0x80: the receiver does not want to say more.
    pub const UNSPECIFIED: Self = Self(0x80);
    /// 0x83: valid, but refused by this server.
    pub const IMPLEMENTATION_SPECIFIC: Self = Self(0x83);
    /// 0x86: the server takes neither the user name nor the password, and does not say which.
    pub const BAD_USER_NAME_OR_PASSWORD: Self = Self(0x86);
    /// 0x87: not authorised.
    pub const NOT_AUTHORIZED: Self = Self(0x87);
    /// 0x88: the server is not available.
    pub const SERVER_UNAVAILABLE: Self = Self(0x88);
    /// 0x97: a limit was passed.
    pub const QUOTA_EXCEEDED: Self = Self(0x97);
    /// 0x9f: connections come too fast (MQTT 5 clause 3.2.2.2).
    pub const CONNECTION_RATE_EXCEEDED: Self = Self(0x9f);
}

/// The outcome of all handlers of one event.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Go on with the message as it is; nobody objects to what the client asks for (observers always pass).
    Pass,
    /// A handler allows what the client asks for: none after it is asked.
    Allow,
    /// Acknowledge as a success, but do not route.
    Drop,
    /// Do not route; MQTT 5 publishers get this reason code, others a plain acknowledgement. Refuse a connection or
    /// a subscription with this code, or what is nearest to it in the client's version.
    Reject(ReasonCode),
    /// A handler failed and its policy is to refuse: MQTT 5 publishers get this reason code, others are
    /// disconnected without an acknowledgement, so that they send again. A connection or a subscription is refused.
    Fail(ReasonCode),
    /// Route this message instead.
    Replace(Arc<Message>),
    /// Route these messages instead, in this order.
    FanOut(Vec<Arc<Message>>),
    /// Grant this subscription instead.
    Change(Arc<Requested>),
}
