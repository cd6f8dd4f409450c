//! What a client asks leave for: to connect, to publish, to subscribe.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use crate::{Message, QoS, SharedFilter, TopicError};

/// The password of a CONNECT: any bytes. They show in nothing that is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Bytes);

impl Password {
    /// The password that is `bytes`: a copy, because the packet around them may be large and long-lived otherwise.
    pub fn new(bytes: Bytes) -> Self {
        Self(Bytes::copy_from_slice(&bytes))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// One filter of a SUBSCRIBE as a client asks for it, or as a handler changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The filter as written, with a `$share/` prefix if it has one.
    pub text: ByteString,
    /// What the text says.
    pub filter: SharedFilter,
    /// The QoS asked for.
    pub qos: QoS,
}

impl Requested {
    /// The request for the filter `text` at `qos`.
    ///
    /// # Errors
    /// [`TopicError`] naming the rule that `text` breaks.
    pub fn parse(text: ByteString, qos: QoS) -> Result<Self, TopicError> {
        let filter = SharedFilter::parse(&text)?;
        Ok(Self { text, filter, qos })
    }
}

/// What a client wants to do with a topic.
#[derive(Clone, Debug)]
pub enum Access {
    /// Publish this message.
    Publish(Arc<Message>),
    /// Subscribe to this filter.
    Subscribe(Arc<Requested>),
}

impl Access {
    /// The topic name, or the filter as the client wrote it.
    pub fn topic(&self) -> &str {
        match self {
            Self::Publish(message) => message.topic.as_str(),
            Self::Subscribe(request) => &request.text,
        }
    }

    /// The QoS of the message, or the one asked for.
    pub fn qos(&self) -> QoS {
        match self {
            Self::Publish(message) => message.qos,
            Self::Subscribe(request) => request.qos,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{Client, Event, Protocol, Tenant};

    /// A client without a user name.
    pub(crate) fn client() -> Client {
        Client {
            id: "c1".into(),
            username: None,
            peer: "127.0.0.1:5".parse().unwrap(),
            protocol: Protocol::V5,
            tenant: Tenant::default(),
            keep_alive: 60,
            clean_start: true,
            connected_at_ms: 5,
            connection: 1,
            ..Client::default()
        }
    }

    #[test]
    fn a_password_shows_nowhere() {
        let password = Some(Password::new(Bytes::from_static(b"s3cret")));
        let event = Event::ClientAuthenticate { client: Arc::new(client()), password };
        let printed = format!("{event:?} {event:#?}");
        assert!(!printed.contains("s3cret") && !printed.contains("115"), "{printed}");
    }

    #[test]
    fn a_request_keeps_its_prefix_and_its_filter() {
        let request = Requested::parse("$share/g/a/#".into(), QoS::AtLeastOnce).unwrap();
        assert_eq!((&*request.text, request.filter.filter.as_str()), ("$share/g/a/#", "a/#"));
        assert!(Requested::parse("a/#/b".into(), QoS::AtLeastOnce).is_err());
    }
}
