//! What handlers and modules may do to clients: [`Control`], carried out by the clients' own tasks.

use std::sync::Arc;

use bytestring::ByteString;
use tidegate_event::{Control, ControlError, Message, QoS, Tenant, TopicFilter};
use tokio::sync::mpsc::error::TrySendError;

use crate::broker::Shared;
use crate::codec::Ack;
use crate::realm::Injected;
use crate::session::outbox::CommandRefused;
use crate::session::received::Meanwhile;

/// How many module publishes may lie behind a message (loop guard).
const HOP_LIMIT: u8 = 8;

/// Something for a connection to do.
pub(crate) enum Command {
    /// Send this message to the client.
    Deliver(Arc<Message>),
    /// As if the client had sent SUBSCRIBE.
    Subscribe(ByteString, QoS),
    /// As if the client had sent UNSUBSCRIBE.
    Unsubscribe(ByteString),
    /// End the connection.
    Disconnect,
    /// The client sent a QoS 2 message again, or released it, that an earlier connection of it had taken: this is the answer.
    Answer(Ack, Meanwhile),
    /// The same, when the answer is to close the connection.
    Close,
}

impl Command {
    /// Whether it goes through the client's pipeline, so that it needs room there.
    pub(crate) fn is_enqueued(&self) -> bool {
        matches!(self, Self::Subscribe(..) | Self::Unsubscribe(_))
    }

    /// Whether it is taken although many commands wait.
    pub(crate) fn is_urgent(&self) -> bool {
        matches!(self, Self::Disconnect | Self::Answer(..) | Self::Close)
    }
}

/// The broker's [`Control`].
pub(crate) struct BrokerControl {
    shared: Arc<Shared>,
}

impl BrokerControl {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn command(&self, tenant: &Tenant, client_id: &str, command: Command) -> Result<(), ControlError> {
        if self.shared.stopping.is_cancelled() {
            return Err(ControlError::Stopping);
        }
        let missing = || ControlError::NoSuchClient(client_id.to_owned());
        let realm = self.shared.known_realm(tenant).ok_or_else(missing)?;
        let session = realm.registry.find(client_id).ok_or_else(missing)?;
        let queued = session.outbox().command(command, self.shared.config.max_commands);
        match queued {
            Ok(waker) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                Ok(())
            }
            Err(CommandRefused::NotConnected) => Err(missing()),
            Err(CommandRefused::Full) => Err(ControlError::Busy),
        }
    }
}

impl Control for BrokerControl {
    fn publish(&self, tenant: &Tenant, message: Message) -> Result<(), ControlError> {
        if message.hops > HOP_LIMIT {
            return Err(ControlError::HopLimit(HOP_LIMIT));
        }
        if self.shared.stopping.is_cancelled() {
            return Err(ControlError::Stopping);
        }
        let injected = Injected { message, will: None };
        self.shared.realm(tenant).injected.try_send(injected).map_err(|error| match error {
            TrySendError::Full(_) => ControlError::Busy,
            TrySendError::Closed(_) => ControlError::Stopping,
        })
    }

    fn deliver(&self, tenant: &Tenant, client_id: &str, message: Message) -> Result<(), ControlError> {
        if message.hops > HOP_LIMIT {
            return Err(ControlError::HopLimit(HOP_LIMIT));
        }
        self.command(tenant, client_id, Command::Deliver(Arc::new(message)))
    }

    fn subscribe(
        &self,
        tenant: &Tenant,
        client_id: &str,
        filter: TopicFilter,
        qos: QoS,
    ) -> Result<(), ControlError> {
        self.command(tenant, client_id, Command::Subscribe(filter.as_byte_string().clone(), qos))
    }

    fn unsubscribe(&self, tenant: &Tenant, client_id: &str, filter: TopicFilter) -> Result<(), ControlError> {
        self.command(tenant, client_id, Command::Unsubscribe(filter.as_byte_string().clone()))
    }

    fn disconnect(&self, tenant: &Tenant, client_id: &str) -> Result<(), ControlError> {
        self.command(tenant, client_id, Command::Disconnect)
    }
}
