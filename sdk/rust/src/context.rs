//! Rarer facts about the event being handled.

use crate::bindings::imports::tidegate::broker::context;
use crate::{Client, Event};

/// A property of the message that [`Message`](crate::Message) does not carry, by its MQTT 5 name:
/// `content-type`, `response-topic`, `payload-format-indicator`, `message-expiry-interval`. `None` where the
/// publisher gave none.
pub fn message_property(event: Event, name: &str) -> Option<String> {
    context::message_property(event.number(), name)
}

/// Correlation data of the message (MQTT 5 clause 3.3.2.3.6).
pub fn correlation_data(event: Event) -> Option<Vec<u8>> {
    context::correlation_data(event.number())
}

/// The client the event is about; `None` for messages that no client sent.
pub fn client(event: Event) -> Option<Client> {
    context::client(event.number())
}

/// The tenant the event happened in.
pub fn tenant(event: Event) -> String {
    context::tenant(event.number())
}

/// The node this instance runs on, `name@host`.
pub fn node() -> String {
    context::node()
}
