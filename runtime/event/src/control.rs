//! What handlers may do to clients: the seam from modules and stores back to the broker.

use crate::{Message, QoS, Tenant, TopicFilter};

/// Why the broker could not do it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ControlError {
    /// No such client in the tenant, or it is not connected.
    #[error("no client {0:?} is connected")]
    NoSuchClient(String),
    /// The message has passed through too many module publishes.
    #[error("the message has passed through {0} module publishes, the limit")]
    HopLimit(u8),
    /// A queue is full: try again later.
    #[error("the broker's queue for module messages is full")]
    Busy,
    /// The broker is stopping.
    #[error("the broker is stopping")]
    Stopping,
}

/// Acts on clients of one tenant. Every call returns at once; the work is done by the broker's tasks in the
/// order of the calls.
pub trait Control: Send + Sync + 'static {
    /// Publishes `message` as if a client had: hooks run, then it is routed.
    ///
    /// # Errors
    /// [`ControlError::HopLimit`], [`ControlError::Busy`], [`ControlError::Stopping`].
    fn publish(&self, tenant: &Tenant, message: Message) -> Result<(), ControlError>;

    /// Sends `message` to one client, whatever it has subscribed to. message.publish does not fire.
    ///
    /// # Errors
    /// [`ControlError::NoSuchClient`] and the errors of a full or stopping broker.
    fn deliver(&self, tenant: &Tenant, client_id: &str, message: Message) -> Result<(), ControlError>;

    /// Subscribes a connected client, as if it had sent SUBSCRIBE.
    ///
    /// # Errors
    /// [`ControlError::NoSuchClient`] and the errors of a full or stopping broker.
    fn subscribe(
        &self,
        tenant: &Tenant,
        client_id: &str,
        filter: TopicFilter,
        qos: QoS,
    ) -> Result<(), ControlError>;

    /// Removes a subscription of a connected client, as if it had sent UNSUBSCRIBE.
    ///
    /// # Errors
    /// [`ControlError::NoSuchClient`] and the errors of a full or stopping broker.
    fn unsubscribe(&self, tenant: &Tenant, client_id: &str, filter: TopicFilter) -> Result<(), ControlError>;

    /// Ends a client's connection.
    ///
    /// # Errors
    /// [`ControlError::NoSuchClient`].
    fn disconnect(&self, tenant: &Tenant, client_id: &str) -> Result<(), ControlError>;
}
