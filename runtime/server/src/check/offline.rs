//! What modules see behind their imports while they are only looked at: connectors that exist and do not answer,
//! and a broker without clients.

use tidegate_event::{
    AckLevel, ActionOptions, BoxFuture, Control, ControlError, Message, QoS, Rows, Scope, SqlValue, Storage,
    StorageError, Tenant, TopicFilter,
};

/// Stores and broker of a node that does not run.
pub(super) struct Offline {
    /// Names of the configured connectors.
    pub(super) connectors: Vec<String>,
}

impl Offline {
    fn refuse<'a, T: Send + 'a>(&self, connector: &str) -> BoxFuture<'a, Result<T, StorageError>> {
        let connector = connector.to_owned();
        let reason = "nothing runs: the module is only being checked".to_owned();
        Box::pin(std::future::ready(Err(StorageError::Unavailable { connector, reason })))
    }
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
        self.refuse(connector)
    }

    fn execute<'a>(
        &'a self,
        _: &'a Scope,
        connector: &'a str,
        _: &'a [String],
        _: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.refuse(connector)
    }

    fn query<'a>(
        &'a self,
        _: &'a Tenant,
        connector: &'a str,
        _: &'a str,
        _: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, StorageError>> {
        self.refuse(connector)
    }

    fn exec<'a>(
        &'a self,
        _: &'a Tenant,
        connector: &'a str,
        _: &'a str,
        _: Vec<Vec<SqlValue>>,
    ) -> BoxFuture<'a, Result<u64, StorageError>> {
        self.refuse(connector)
    }

    fn connectors(&self, _: &Tenant) -> Vec<String> {
        self.connectors.clone()
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
