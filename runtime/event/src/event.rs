//! One occurrence of a hook.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::hook::{Field, Hook};
use crate::{Access, Client, Message, MsgId, Node, Password, QoS, Requested, Tenant, TopicFilter, now_ms};

/// Why a network connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DisconnectReason {
    /// The client sent DISCONNECT.
    Normal,
    /// The socket closed or failed without DISCONNECT.
    SocketClosed,
    /// Nothing arrived for one and a half keep-alives.
    KeepAliveTimeout,
    /// Another connection with the same client id took the session over.
    TakenOver,
    /// The client broke the protocol.
    ProtocolError,
    /// A packet could not be read.
    MalformedPacket,
    /// A handler or an operator ended it.
    Kicked,
    /// The server is stopping.
    Shutdown,
}

impl DisconnectReason {
    /// The text of `${reason}`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::SocketClosed => "socket_closed",
            Self::KeepAliveTimeout => "keepalive_timeout",
            Self::TakenOver => "takenover",
            Self::ProtocolError => "protocol_error",
            Self::MalformedPacket => "malformed_packet",
            Self::Kicked => "kicked",
            Self::Shutdown => "shutdown",
        }
    }
}

/// An occurrence of a hook, with what it is about.
#[derive(Clone, Debug)]
pub enum Event {
    /// [`Hook::ClientConnected`].
    ClientConnected {
        /// Who.
        client: Arc<Client>,
    },
    /// [`Hook::ClientDisconnected`].
    ClientDisconnected {
        /// Who.
        client: Arc<Client>,
        /// Why.
        reason: DisconnectReason,
    },
    /// [`Hook::SessionCreated`].
    SessionCreated {
        /// Whose session.
        client: Arc<Client>,
    },
    /// [`Hook::SessionSubscribed`].
    SessionSubscribed {
        /// Who subscribed.
        client: Arc<Client>,
        /// To what, without a `$share/` prefix.
        filter: TopicFilter,
        /// The granted QoS.
        qos: QoS,
        /// Whether the subscription is shared: then there is no fetch and no retained look-up.
        shared: bool,
    },
    /// [`Hook::SessionUnsubscribed`].
    SessionUnsubscribed {
        /// Who unsubscribed.
        client: Arc<Client>,
        /// From what, without a `$share/` prefix.
        filter: TopicFilter,
        /// Whether the subscription was shared: the one without a share name, if there is one, stays.
        shared: bool,
    },
    /// [`Hook::MessagePublish`]. The publisher is in the message.
    MessagePublish {
        /// The message; `message.publisher` is who sent it.
        message: Arc<Message>,
        /// The tenant it lives in.
        tenant: Tenant,
    },
    /// [`Hook::MessageDeliver`].
    MessageDeliver {
        /// The subscriber.
        client: Arc<Client>,
        /// The message.
        message: Arc<Message>,
    },
    /// [`Hook::MessageAcked`].
    MessageAcked {
        /// The subscriber.
        client: Arc<Client>,
        /// The message.
        message: Arc<Message>,
        /// The newest message of this topic up to which this client has acknowledged all that it was sent,
        /// when this ack moved it. `None`: an older message of the topic is still outstanding.
        through: Option<MsgId>,
        /// False for a message written at QoS 0: it counts as acked for positions, but the hook does not
        /// fire for modules, rules and custom statements.
        explicit: bool,
    },
    /// [`Hook::ClientAuthenticate`].
    ClientAuthenticate {
        /// Who wants to connect.
        client: Arc<Client>,
        /// The password of CONNECT. `Debug` does not show it.
        password: Option<Password>,
    },
    /// [`Hook::ClientAuthorize`].
    ClientAuthorize {
        /// Who wants it.
        client: Arc<Client>,
        /// What it wants.
        access: Access,
    },
    /// [`Hook::ClientSubscribe`].
    ClientSubscribe {
        /// Who wants to subscribe.
        client: Arc<Client>,
        /// To what, as the handlers so far left it.
        request: Arc<Requested>,
    },
}

/// The value of a [`Field`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Nothing there.
    Null,
    /// A number.
    Int(i64),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes, not necessarily text.
    Bytes(&'a Bytes),
}

impl Event {
    /// Which hook it is of.
    pub const fn hook(&self) -> Hook {
        match self {
            Self::ClientConnected { .. } => Hook::ClientConnected,
            Self::ClientDisconnected { .. } => Hook::ClientDisconnected,
            Self::SessionCreated { .. } => Hook::SessionCreated,
            Self::SessionSubscribed { .. } => Hook::SessionSubscribed,
            Self::SessionUnsubscribed { .. } => Hook::SessionUnsubscribed,
            Self::MessagePublish { .. } => Hook::MessagePublish,
            Self::MessageDeliver { .. } => Hook::MessageDeliver,
            Self::MessageAcked { .. } => Hook::MessageAcked,
            Self::ClientAuthenticate { .. } => Hook::ClientAuthenticate,
            Self::ClientAuthorize { .. } => Hook::ClientAuthorize,
            Self::ClientSubscribe { .. } => Hook::ClientSubscribe,
        }
    }

    /// The client it is about: the publisher for message.publish (absent for messages that modules make).
    pub fn client(&self) -> Option<&Arc<Client>> {
        match self {
            Self::ClientConnected { client }
            | Self::ClientDisconnected { client, .. }
            | Self::SessionCreated { client }
            | Self::SessionSubscribed { client, .. }
            | Self::SessionUnsubscribed { client, .. }
            | Self::MessageDeliver { client, .. }
            | Self::MessageAcked { client, .. }
            | Self::ClientAuthenticate { client, .. }
            | Self::ClientAuthorize { client, .. }
            | Self::ClientSubscribe { client, .. } => Some(client),
            Self::MessagePublish { message, .. } => message.publisher.as_ref(),
        }
    }

    /// The message, for hooks that are about one. That a client asks for leave to publish one is not.
    pub const fn message(&self) -> Option<&Arc<Message>> {
        match self {
            Self::MessagePublish { message, .. }
            | Self::MessageDeliver { message, .. }
            | Self::MessageAcked { message, .. } => Some(message),
            _ => None,
        }
    }

    /// The tenant.
    pub fn tenant(&self) -> &Tenant {
        match self {
            Self::MessagePublish { tenant, .. } => tenant,
            Self::ClientConnected { client }
            | Self::ClientDisconnected { client, .. }
            | Self::SessionCreated { client }
            | Self::SessionSubscribed { client, .. }
            | Self::SessionUnsubscribed { client, .. }
            | Self::MessageDeliver { client, .. }
            | Self::MessageAcked { client, .. }
            | Self::ClientAuthenticate { client, .. }
            | Self::ClientAuthorize { client, .. }
            | Self::ClientSubscribe { client, .. } => &client.tenant,
        }
    }

    /// The topic name or filter it is about; what a client asks for is as it wrote it, `$share/` included.
    pub fn topic(&self) -> Option<&str> {
        match self {
            Self::SessionSubscribed { filter, .. } | Self::SessionUnsubscribed { filter, .. } => {
                Some(filter.as_str())
            }
            Self::ClientAuthorize { access, .. } => Some(access.topic()),
            Self::ClientSubscribe { request, .. } => Some(&request.text),
            _ => self.message().map(|message| message.topic.as_str()),
        }
    }

    /// The same event about another message (a module replaced it). Events without a message are returned
    /// as they are.
    #[must_use]
    pub fn with_message(&self, message: Arc<Message>) -> Self {
        let mut event = self.clone();
        match &mut event {
            Self::MessagePublish { message: m, .. }
            | Self::MessageDeliver { message: m, .. }
            | Self::MessageAcked { message: m, .. } => *m = message,
            _ => {}
        }
        event
    }

    /// The value of `field`; [`Value::Null`] when the event has none.
    pub fn value<'a>(&'a self, field: Field, node: &'a Node) -> Value<'a> {
        let text = |s: &'a str| Value::Text(Cow::Borrowed(s));
        let message = self.message();
        match field {
            Field::Clientid => match (self, self.client()) {
                (Self::MessagePublish { message, .. }, _) => text(&message.sender),
                (_, Some(client)) => text(&client.id),
                (_, None) => Value::Null,
            },
            Field::Username => match self.client().and_then(|c| c.username.as_ref()) {
                Some(name) => text(name),
                None => Value::Null,
            },
            Field::Peerhost => match self.client() {
                Some(client) => Value::Text(Cow::Owned(client.peer.ip().to_string())),
                None => Value::Null,
            },
            Field::Node => text(node.name()),
            Field::Timestamp => {
                let ms = match self {
                    Self::MessagePublish { message, .. } => message.timestamp_ms,
                    Self::ClientConnected { client } | Self::ClientAuthenticate { client, .. } => {
                        client.connected_at_ms
                    }
                    _ => now_ms(),
                };
                Value::Int(i64::try_from(ms).unwrap_or(i64::MAX))
            }
            Field::Tenant => text(self.tenant().name()),
            Field::Topic => self.topic().map_or(Value::Null, text),
            Field::Qos => match (self, message) {
                (_, Some(message)) => Value::Int(message.qos.level().into()),
                (Self::SessionSubscribed { qos, .. }, _) => Value::Int(qos.level().into()),
                (Self::ClientAuthorize { access, .. }, _) => Value::Int(access.qos().level().into()),
                (Self::ClientSubscribe { request, .. }, _) => Value::Int(request.qos.level().into()),
                _ => Value::Null,
            },
            Field::Msgid => message.map_or(Value::Null, |m| Value::Text(Cow::Owned(m.id.to_string()))),
            Field::Payload => message.map_or(Value::Null, |m| Value::Bytes(&m.payload)),
            Field::Message => message.map_or(Value::Null, |m| Value::Text(Cow::Owned(m.to_json()))),
            Field::Retain => message.map_or(Value::Null, |m| Value::Int(m.retain.into())),
            Field::Dup => message.map_or(Value::Null, |m| Value::Int(m.dup.into())),
            Field::Properties => message
                .and_then(|m| m.properties.as_ref())
                .map_or(Value::Null, |p| Value::Text(Cow::Owned(user_properties_json(&p.user)))),
            Field::Reason => match self {
                Self::ClientDisconnected { reason, .. } => text(reason.name()),
                _ => Value::Null,
            },
        }
    }
}

fn user_properties_json(pairs: &[(bytestring::ByteString, bytestring::ByteString)]) -> String {
    let list = pairs
        .iter()
        .map(|(key, value)| serde_json::json!({"key": &**key, "value": &**value}))
        .collect::<Vec<_>>();
    serde_json::Value::Array(list).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{IdSource, Origin};

    fn publish(payload: &'static [u8]) -> Event {
        let message = Message {
            id: IdSource::new(&Node::default()).next_id(),
            topic: "a/b".parse().unwrap(),
            payload: Bytes::from_static(payload),
            qos: QoS::AtLeastOnce,
            retain: true,
            dup: false,
            timestamp_ms: 1_700_000_000_123,
            sender: "c1".into(),
            publisher: None,
            properties: None,
            origin: Origin::Client,
            hops: 0,
        };
        Event::MessagePublish { message: Arc::new(message), tenant: Tenant::default() }
    }

    #[test]
    fn every_field_of_a_row_has_a_value() {
        let event = publish(b"x");
        let node = Node::default();
        for field in
            [Field::Clientid, Field::Topic, Field::Msgid, Field::Payload, Field::Message, Field::Retain]
        {
            assert_ne!(event.value(field, &node), Value::Null, "{}", field.name());
        }
        assert_eq!(event.value(Field::Qos, &node), Value::Int(1));
        assert_eq!(event.value(Field::Username, &node), Value::Null);
    }

    #[test]
    fn what_a_client_asks_for_has_its_topic_and_qos() {
        let (node, client) = (Node::default(), Arc::new(crate::access::tests::client()));
        let request = Arc::new(Requested::parse("$share/g/a/+".into(), QoS::ExactlyOnce).unwrap());
        let Event::MessagePublish { message, .. } = publish(b"x") else { panic!("publish") };
        for (event, topic, qos) in [
            (Event::ClientAuthorize { client: client.clone(), access: Access::Publish(message) }, "a/b", 1),
            (
                Event::ClientAuthorize { client: client.clone(), access: Access::Subscribe(request.clone()) },
                "$share/g/a/+",
                2,
            ),
            (Event::ClientSubscribe { client, request }, "$share/g/a/+", 2),
        ] {
            assert!(event.message().is_none());
            assert_eq!(event.value(Field::Topic, &node), Value::Text(topic.into()));
            assert_eq!(event.value(Field::Qos, &node), Value::Int(qos));
            for field in event.hook().row().fields {
                let absent = event.value(*field, &node) == Value::Null;
                assert_eq!(absent, *field == Field::Username, "{}", field.name());
            }
        }
    }

    #[test]
    fn a_binary_payload_is_base64_in_the_json_message() {
        let node = Node::default();
        let event = publish(b"\xff\x00");
        let Value::Text(text) = event.value(Field::Message, &node) else { panic!("text") };
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["payload"], "/wA=");
        assert_eq!(json["payload_encoding"], "base64");
        assert_eq!(json["ts"], 1_700_000_000);
        assert_eq!(json["from"], "c1");
    }
}
