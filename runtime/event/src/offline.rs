//! A store, a state and a broker that are not there, for whoever looks at modules without running a node.

use crate::{
    AckLevel, ActionOptions, BoxFuture, Control, ControlError, KeyValue, Message, QoS, Reply, Rows, Scope,
    Space, SqlValue, Storage, StorageError, Swap, Tenant, TopicFilter,
};

/// As [`Storage`] it has no connector, as [`KeyValue`] it is a disk that is away, as [`Control`] it is a broker
/// that stops: every call is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offline;

fn no_connector<'a, T: Send + 'a>(name: &str) -> BoxFuture<'a, Result<T, StorageError>> {
    let error = StorageError::NoSuchConnector(name.to_owned());
    Box::pin(std::future::ready(Err(error)))
}

impl Storage for Offline {
    fn run<'a>(
        &'a self,
        _: &'a Scope,
        connector: &'a str,
        _: &'a str,
        _: &'a ActionOptions,
        _: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        no_connector(connector)
    }

    fn execute<'a>(
        &'a self,
        _: &'a Scope,
        connector: &'a str,
        _: &'a [String],
        _: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        no_connector(connector)
    }

    fn query<'a>(
        &'a self,
        _: &'a Tenant,
        connector: &'a str,
        _: &'a str,
        _: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, StorageError>> {
        no_connector(connector)
    }

    fn exec<'a>(
        &'a self,
        _: &'a Tenant,
        connector: &'a str,
        _: &'a str,
        _: Vec<Vec<SqlValue>>,
    ) -> BoxFuture<'a, Result<u64, StorageError>> {
        no_connector(connector)
    }

    fn commands<'a>(
        &'a self,
        _: &'a Tenant,
        connector: &'a str,
        _: Vec<Vec<Vec<u8>>>,
    ) -> BoxFuture<'a, Result<Vec<Reply>, StorageError>> {
        no_connector(connector)
    }

    fn connectors(&self, _: &Tenant) -> Vec<String> {
        Vec::new()
    }
}

fn no_state<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, StorageError>> {
    let reason = "no node is running".into();
    Box::pin(std::future::ready(Err(StorageError::Unavailable { connector: "state".into(), reason })))
}

impl KeyValue for Offline {
    fn get<'a>(
        &'a self,
        _: &'a Space,
        _: Vec<String>,
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, StorageError>> {
        no_state()
    }

    fn set<'a>(&'a self, _: &'a Space, _: Vec<(String, Vec<u8>)>) -> BoxFuture<'a, Result<(), StorageError>> {
        no_state()
    }

    fn delete<'a>(&'a self, _: &'a Space, _: Vec<String>) -> BoxFuture<'a, Result<(), StorageError>> {
        no_state()
    }

    fn exists<'a>(&'a self, _: &'a Space, _: String) -> BoxFuture<'a, Result<bool, StorageError>> {
        no_state()
    }

    fn keys<'a>(
        &'a self,
        _: &'a Space,
        _: Option<String>,
        _: usize,
    ) -> BoxFuture<'a, Result<Vec<String>, StorageError>> {
        no_state()
    }

    fn increment<'a>(&'a self, _: &'a Space, _: String, _: i64) -> BoxFuture<'a, Result<i64, StorageError>> {
        no_state()
    }

    fn swap<'a>(
        &'a self,
        _: &'a Space,
        _: String,
        _: Option<Vec<u8>>,
        _: Vec<u8>,
    ) -> BoxFuture<'a, Result<Swap, StorageError>> {
        no_state()
    }
}

impl Control for Offline {
    fn publish(&self, _: &Tenant, _: Message) -> Result<(), ControlError> {
        Err(ControlError::Stopping)
    }

    fn deliver(&self, _: &Tenant, _: &str, _: Message) -> Result<(), ControlError> {
        Err(ControlError::Stopping)
    }

    fn subscribe(&self, _: &Tenant, _: &str, _: TopicFilter, _: QoS) -> Result<(), ControlError> {
        Err(ControlError::Stopping)
    }

    fn unsubscribe(&self, _: &Tenant, _: &str, _: TopicFilter) -> Result<(), ControlError> {
        Err(ControlError::Stopping)
    }

    fn disconnect(&self, _: &Tenant, _: &str) -> Result<(), ControlError> {
        Err(ControlError::Stopping)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use bytes::Bytes;
    use futures_util::FutureExt as _;

    use super::*;
    use crate::{Event, IdSource, Node, Origin};

    /// A guest that is only looked at must not hang, and not believe that something was stored or sent.
    #[test]
    fn every_call_is_refused_at_once_and_no_acknowledgement_waits() {
        let (tenant, none) = (Tenant::default(), StorageError::NoSuchConnector("p".into()));
        let message = Message {
            id: IdSource::new(&Node::default()).next_id(),
            topic: "a".parse().unwrap(),
            payload: Bytes::new(),
            qos: QoS::AtMostOnce,
            retain: false,
            dup: false,
            timestamp_ms: 0,
            sender: "c".into(),
            publisher: None,
            properties: None,
            origin: Origin::Client,
            hops: 0,
        };
        let event = Event::MessagePublish { message: Arc::new(message.clone()), tenant: tenant.clone() };
        let scope = Scope::new(event, Arc::new(Node::default()));
        let (level, options) = (AckLevel::Stored, ActionOptions::default());
        assert_eq!(Offline.run(&scope, "p", "f", &options, level).now_or_never(), Some(Err(none.clone())));
        assert_eq!(Offline.execute(&scope, "p", &[], level).now_or_never(), Some(Err(none.clone())));
        assert_eq!(Offline.query(&tenant, "p", "", vec![]).now_or_never(), Some(Err(none.clone())));
        assert_eq!(Offline.exec(&tenant, "p", "", vec![]).now_or_never(), Some(Err(none.clone())));
        assert_eq!(Offline.commands(&tenant, "p", vec![]).now_or_never(), Some(Err(none)));
        assert!(scope.acks.is_clear() && Offline.connectors(&tenant).is_empty());
        let stopping = Err(ControlError::Stopping);
        assert_eq!(Offline.publish(&tenant, message.clone()), stopping);
        assert_eq!(Offline.deliver(&tenant, "c", message), stopping);
        assert_eq!(Offline.subscribe(&tenant, "c", TopicFilter::all(), QoS::AtMostOnce), stopping);
        assert_eq!(Offline.unsubscribe(&tenant, "c", TopicFilter::all()), stopping);
        assert_eq!(Offline.disconnect(&tenant, "c"), stopping);
    }
}
