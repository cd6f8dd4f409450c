//! The hook catalogue: one row a hook, the single place to add one.
//!
//! Dispatch, statement variables, guest linking, metrics and the reference page are derived from the rows;
//! a test compares the WIT names with the files under `wit/`.

use crate::ReasonCode;

/// A point in the life of a client, session or message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Hook {
    /// CONNACK with success is being sent.
    ClientConnected,
    /// The network connection ended.
    ClientDisconnected,
    /// A new session exists, before its first delivery.
    SessionCreated,
    /// A subscription was granted; once per topic filter.
    SessionSubscribed,
    /// A subscription was removed; once per topic filter.
    SessionUnsubscribed,
    /// A PUBLISH was accepted, before routing; also for wills.
    MessagePublish,
    /// About to be written to one subscriber.
    MessageDeliver,
    /// A subscriber's PUBACK or PUBCOMP arrived.
    MessageAcked,
    /// CONNECT is complete, no session has been touched: may the client connect?
    ClientAuthenticate,
    /// May the client publish to a topic, or subscribe to a filter? Before message.publish and client.subscribe.
    ClientAuthorize,
    /// A subscription that the client asks for, before it is granted; once per topic filter.
    ClientSubscribe,
}

/// A variable that handlers of a hook can read (`spec`: backends, hooks and variables).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// Client id of the client the event is about (the subscriber for deliver and acked).
    Clientid,
    /// User name, may be null.
    Username,
    /// IP address of the peer.
    Peerhost,
    /// Name of this node.
    Node,
    /// Milliseconds since the epoch.
    Timestamp,
    /// Tenant name.
    Tenant,
    /// Topic name, or the filter for subscribe and unsubscribe.
    Topic,
    /// Quality of service, integer.
    Qos,
    /// Message id, 32 hex digits.
    Msgid,
    /// Payload bytes.
    Payload,
    /// The message as JSON text.
    Message,
    /// RETAIN flag, 0 or 1.
    Retain,
    /// DUP flag, 0 or 1.
    Dup,
    /// MQTT 5 user properties as JSON text, null without.
    Properties,
    /// Why the connection ended.
    Reason,
}

impl Field {
    /// Every field.
    pub const ALL: [Self; 15] = [
        Self::Clientid,
        Self::Username,
        Self::Peerhost,
        Self::Node,
        Self::Timestamp,
        Self::Tenant,
        Self::Topic,
        Self::Qos,
        Self::Msgid,
        Self::Payload,
        Self::Message,
        Self::Retain,
        Self::Dup,
        Self::Properties,
        Self::Reason,
    ];

    /// The name inside `${...}`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clientid => "clientid",
            Self::Username => "username",
            Self::Peerhost => "peerhost",
            Self::Node => "node",
            Self::Timestamp => "timestamp",
            Self::Tenant => "tenant",
            Self::Topic => "topic",
            Self::Qos => "qos",
            Self::Msgid => "msgid",
            Self::Payload => "payload",
            Self::Message => "message",
            Self::Retain => "retain",
            Self::Dup => "dup",
            Self::Properties => "properties",
            Self::Reason => "reason",
        }
    }

    /// The field called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }
}

/// What a handler's topic filter is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicOf {
    /// The hook has no topic: filters are ignored.
    None,
    /// The message's topic name: the filter must match it.
    Message,
    /// The subscription's filter: the handler's filter must cover it.
    Subscription,
    /// The topic name or filter that a client wants to use. A handler's filter must guard the name
    /// ([`crate::TopicFilter::guards`]); it must overlap the filter ([`crate::TopicFilter::overlaps`]): who guards `a/b` is
    /// asked about `a/#` too, and who guards `#` about `$SYS/#`.
    Access,
}

/// What the answer of a handler can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decides {
    /// Nothing: handlers observe.
    Nothing,
    /// Pass, drop, reject, replace, fan out.
    Publish,
    /// Pass, drop, replace.
    Deliver,
    /// Subscriptions to add.
    Subscriptions,
    /// Ignore, allow, refuse.
    Access,
    /// Ignore, allow, refuse, or another subscription instead.
    Grant,
}

impl Decides {
    /// Whether the client waits for leave: the first handler with an opinion decides, one that fails refuses, and
    /// no action can stand there.
    pub const fn is_leave(self) -> bool {
        matches!(self, Self::Access | Self::Grant)
    }
}

/// A row of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which hook.
    pub hook: Hook,
    /// Its name in configuration: `message.publish`.
    pub name: &'static str,
    /// The WIT interface a guest exports for it, without version: `tidegate:hooks/message-publish`.
    pub interface: &'static str,
    /// The function in that interface.
    pub function: &'static str,
    /// The interface for several events in one call, if there is one: `tidegate:hooks/message-publish-batch`. Its
    /// function is called like it.
    pub batch: Option<&'static str>,
    /// The variables it offers.
    pub fields: &'static [Field],
    /// What a topic filter means for it.
    pub topic: TopicOf,
    /// What a handler can change.
    pub decides: Decides,
}

use Field::*;

/// Every hook, in the order of [`Hook`].
pub const CATALOGUE: [Row; 11] = [
    Row {
        hook: Hook::ClientConnected,
        name: "client.connected",
        interface: "tidegate:hooks/client-connected",
        function: "on-client-connected",
        batch: None,
        fields: &[Clientid, Username, Peerhost, Node, Timestamp, Tenant],
        topic: TopicOf::None,
        decides: Decides::Subscriptions,
    },
    Row {
        hook: Hook::ClientDisconnected,
        name: "client.disconnected",
        interface: "tidegate:hooks/client-disconnected",
        function: "on-client-disconnected",
        batch: None,
        fields: &[Clientid, Username, Peerhost, Node, Timestamp, Tenant, Reason],
        topic: TopicOf::None,
        decides: Decides::Nothing,
    },
    Row {
        hook: Hook::SessionCreated,
        name: "session.created",
        interface: "tidegate:hooks/session-created",
        function: "on-session-created",
        batch: None,
        fields: &[Clientid, Username, Peerhost, Node, Timestamp, Tenant],
        topic: TopicOf::None,
        decides: Decides::Nothing,
    },
    Row {
        hook: Hook::SessionSubscribed,
        name: "session.subscribed",
        interface: "tidegate:hooks/session-subscribed",
        function: "on-session-subscribed",
        batch: None,
        fields: &[Clientid, Username, Peerhost, Node, Timestamp, Tenant, Topic, Qos],
        topic: TopicOf::Subscription,
        decides: Decides::Nothing,
    },
    Row {
        hook: Hook::SessionUnsubscribed,
        name: "session.unsubscribed",
        interface: "tidegate:hooks/session-unsubscribed",
        function: "on-session-unsubscribed",
        batch: None,
        fields: &[Clientid, Username, Peerhost, Node, Timestamp, Tenant, Topic],
        topic: TopicOf::Subscription,
        decides: Decides::Nothing,
    },
    Row {
        hook: Hook::MessagePublish,
        name: "message.publish",
        interface: "tidegate:hooks/message-publish",
        function: "on-message-publish",
        batch: Some("tidegate:hooks/message-publish-batch"),
        fields: &[
            Message, Msgid, Topic, Payload, Qos, Clientid, Username, Peerhost, Node, Timestamp, Tenant,
            Retain, Dup, Properties,
        ],
        topic: TopicOf::Message,
        decides: Decides::Publish,
    },
    Row {
        hook: Hook::MessageDeliver,
        name: "message.deliver",
        interface: "tidegate:hooks/message-deliver",
        function: "on-message-deliver",
        batch: None,
        fields: &[Msgid, Topic, Clientid, Username, Peerhost, Node, Timestamp, Tenant],
        topic: TopicOf::Message,
        decides: Decides::Deliver,
    },
    Row {
        hook: Hook::MessageAcked,
        name: "message.acked",
        interface: "tidegate:hooks/message-acked",
        function: "on-message-acked",
        batch: None,
        fields: &[Msgid, Topic, Clientid, Username, Peerhost, Node, Timestamp, Tenant],
        topic: TopicOf::Message,
        decides: Decides::Nothing,
    },
    Row {
        hook: Hook::ClientAuthenticate,
        name: "client.authenticate",
        interface: "tidegate:hooks/client-authenticate",
        function: "on-client-authenticate",
        batch: None,
        fields: &[Clientid, Username, Peerhost, Node, Timestamp, Tenant],
        topic: TopicOf::None,
        decides: Decides::Access,
    },
    Row {
        hook: Hook::ClientAuthorize,
        name: "client.authorize",
        interface: "tidegate:hooks/client-authorize",
        function: "on-client-authorize",
        batch: None,
        fields: &[Clientid, Username, Peerhost, Node, Timestamp, Tenant, Topic, Qos],
        topic: TopicOf::Access,
        decides: Decides::Access,
    },
    Row {
        hook: Hook::ClientSubscribe,
        name: "client.subscribe",
        interface: "tidegate:hooks/client-subscribe",
        function: "on-client-subscribe",
        batch: None,
        fields: &[Clientid, Username, Peerhost, Node, Timestamp, Tenant, Topic, Qos],
        topic: TopicOf::Access,
        decides: Decides::Grant,
    },
];

impl Hook {
    /// How many hooks there are; `hook as usize` is below it.
    pub const COUNT: usize = CATALOGUE.len();

    /// Every hook.
    pub fn all() -> impl Iterator<Item = Self> {
        CATALOGUE.iter().map(|row| row.hook)
    }

    /// Its row.
    pub const fn row(self) -> &'static Row {
        &CATALOGUE[self as usize]
    }

    /// Its name in configuration.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// What an MQTT 5 client is told when a handler of the hook failed and its policy is to refuse: something
    /// that makes a good client try again.
    pub const fn failure(self) -> ReasonCode {
        match self {
            Self::ClientAuthenticate => ReasonCode::SERVER_UNAVAILABLE,
            _ => ReasonCode::IMPLEMENTATION_SPECIFIC,
        }
    }

    /// The hook called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        CATALOGUE.iter().find(|row| row.name == name).map(|row| row.hook)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_enum() {
        for (index, row) in CATALOGUE.iter().enumerate() {
            assert_eq!(row.hook as usize, index, "{}", row.name);
            assert_eq!(Hook::from_name(row.name), Some(row.hook));
            assert!(row.interface.ends_with(&row.name.replace('.', "-")));
        }
    }

    #[test]
    fn field_names_read_back() {
        for field in Field::ALL {
            assert_eq!(Field::from_name(field.name()), Some(field));
        }
    }
}
