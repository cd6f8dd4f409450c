//! From an event and a built-in function to what has to be done: pure decisions, no I/O.

use std::sync::Arc;

use bytestring::ByteString;
use tidegate_event::{DisconnectReason, Event, Message, Origin, QoS, Scope, TopicFilter, now_ms};

use super::Builtin;
use crate::connector::Connector;
use crate::operation::{Operation, Subject};

/// What a function does for one event.
pub(super) enum Plan<'a> {
    /// Nothing: the function does not concern this event.
    Nothing,
    /// A change of the database.
    Write(Operation),
    /// Read the client's subscriptions.
    Subscriptions { client: &'a ByteString },
    /// Deliver stored messages; `client` = after its positions.
    Fetch { client: Option<&'a ByteString>, filter: &'a TopicFilter },
    /// Deliver retained messages.
    Retained { filter: &'a TopicFilter },
}

/// Decides. A function on an event of a hook where it cannot stand does nothing (configuration and calls of
/// guests are checked before).
pub(super) fn plan<'a>(
    connector: &Connector,
    builtin: Builtin,
    scope: &'a Scope,
    ttl: Option<u64>,
) -> Plan<'a> {
    // Nothing is looked up that the database could only find by reading everything.
    let found = |filter: &TopicFilter| !filter.is_wildcard() || connector.backend.finds_by_wildcard();
    match (builtin, &scope.event) {
        (Builtin::ClientConnected, Event::ClientConnected { client }) => {
            connector.online.connected(&client.id, client.connection);
            Plan::Write(Operation::ClientOnline {
                client: client.id.clone(),
                node: Arc::clone(&scope.node),
                at_ms: client.connected_at_ms,
                ttl,
            })
        }
        (Builtin::ClientDisconnected, Event::ClientDisconnected { client, reason }) => {
            let newest = connector.online.disconnected(&client.id, client.connection);
            if !newest || *reason == DisconnectReason::TakenOver {
                return Plan::Nothing; // the client is online on a newer connection
            }
            Plan::Write(Operation::ClientOffline {
                client: client.id.clone(),
                node: Arc::clone(&scope.node),
                since_ms: client.connected_at_ms,
                at_ms: now_ms(),
                ttl,
            })
        }
        (Builtin::SubscribeLookup, Event::SessionCreated { client } | Event::ClientConnected { client }) => {
            Plan::Subscriptions { client: &client.id }
        }
        (Builtin::SubscriptionStore, Event::SessionSubscribed { client, filter, qos, shared: false }) => {
            Plan::Write(Operation::StoreSubscription {
                client: client.id.clone(),
                filter: filter.clone(),
                qos: *qos,
                ttl,
            })
        }
        // The plain row and the positions belong to the subscription without a share name.
        (Builtin::SubscriptionDelete, Event::SessionUnsubscribed { client, filter, shared: false }) => {
            Plan::Write(Operation::DeleteSubscription { client: client.id.clone(), filter: filter.clone() })
        }
        (Builtin::AckedDelete, Event::SessionUnsubscribed { client, filter, shared: false })
            if found(filter) =>
        {
            Plan::Write(Operation::DeletePositions { client: client.id.clone(), filter: filter.clone() })
        }
        (_, Event::MessagePublish { message, .. }) => publish(builtin, message, ttl),
        // A shared subscription gets no fetch and no retained look-up.
        (Builtin::Fetch, Event::SessionSubscribed { client, filter, shared: false, .. }) if found(filter) => {
            Plan::Fetch { client: Some(&client.id), filter }
        }
        (Builtin::FetchQueue, Event::SessionSubscribed { filter, shared: false, .. }) if found(filter) => {
            Plan::Fetch { client: None, filter }
        }
        (Builtin::RetainLookup, Event::SessionSubscribed { filter, shared: false, .. }) if found(filter) => {
            Plan::Retained { filter }
        }
        (_, Event::MessageAcked { message, .. }) if message.origin == Origin::RetainedStore => Plan::Nothing,
        (Builtin::Acked, Event::MessageAcked { client, message, through: Some(through), .. }) => {
            Plan::Write(Operation::AdvancePosition {
                client: client.id.clone(),
                topic: message.topic.clone(),
                through: *through,
                ttl,
            })
        }
        (Builtin::AckedQueue, Event::MessageAcked { message, .. }) => {
            Plan::Write(Operation::RemoveMessage { topic: message.topic.clone(), id: message.id })
        }
        _ => Plan::Nothing,
    }
}

fn publish(builtin: Builtin, message: &Arc<Message>, ttl: Option<u64>) -> Plan<'static> {
    let shared = || Arc::clone(message);
    match builtin {
        Builtin::MessagePublish if message.qos != QoS::AtMostOnce => {
            Plan::Write(Operation::AppendMessage { message: shared(), ttl })
        }
        Builtin::MessageStore => Plan::Write(Operation::AppendMessage { message: shared(), ttl }),
        Builtin::StoreKeepLatest => Plan::Write(Operation::KeepLatest { message: shared(), ttl }),
        Builtin::Retain if message.retain && !message.payload.is_empty() => {
            Plan::Write(Operation::PutRetained { message: shared(), ttl })
        }
        Builtin::RetainDelete if message.retain && message.payload.is_empty() => {
            Plan::Write(Operation::DeleteRetained { topic: message.topic.clone() })
        }
        _ => Plan::Nothing,
    }
}

/// What an event is about, for custom statements.
pub(super) fn subject(event: &Event) -> Subject {
    let client = match event {
        Event::MessagePublish { message, .. } => Some(message.sender.clone()),
        _ => event.client().map(|client| client.id.clone()),
    };
    let topic = match event {
        Event::SessionSubscribed { filter, .. } | Event::SessionUnsubscribed { filter, .. } => {
            Some(filter.as_byte_string().clone())
        }
        _ => event.message().map(|message| message.topic.as_byte_string().clone()),
    };
    Subject { client, topic, message: event.message().cloned() }
}
