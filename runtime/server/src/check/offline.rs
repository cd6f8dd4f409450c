//! What modules see behind `client-control` while they are only looked at: a broker that is not there.

use tidegate_event::{Control, ControlError, Message, QoS, Tenant, TopicFilter};

/// The broker of a node that does not run.
pub(super) struct Offline;

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
