//! Acting on clients of the same tenant.
//!
//! The calls return at once and the broker works in their order. All take the event on whose behalf they are
//! made: it carries the tenant and counts how many module publishes lie behind a message, so that modules
//! that publish to each other's topics cannot loop for ever.
//!
//! ```no_run
//! use tidegate_sdk::{Client, Event, Message, Result, client_control, export};
//!
//! export!(client_disconnected: announce);
//!
//! fn announce(event: Event, client: Client, reason: String) -> Result<()> {
//!     client_control::publish(event, &Message::new(format!("presence/{}", client.id), reason))?;
//!     Ok(())
//! }
//! # fn main() {}
//! ```

use crate::bindings::imports::tidegate::broker::client_control;
use crate::{Event, Message, Qos};

pub use client_control::Error as ControlError;

/// Publishes as if a client had: hooks run, then it is routed.
///
/// # Errors
/// The topic is invalid, the hop limit is reached, or the broker is busy or stopping.
pub fn publish(event: Event, message: &Message) -> Result<(), ControlError> {
    client_control::publish(event.number(), message)
}

/// Sends to one client, whatever it has subscribed to.
///
/// # Errors
/// No such client is connected, the topic is invalid, or the broker is busy or stopping.
pub fn deliver(event: Event, client_id: &str, message: &Message) -> Result<(), ControlError> {
    client_control::deliver(event.number(), client_id, message)
}

/// Subscribes a connected client, as if it had asked.
///
/// # Errors
/// No such client is connected, the filter is invalid, or the broker is busy or stopping.
pub fn subscribe(event: Event, client_id: &str, filter: &str, qos: Qos) -> Result<(), ControlError> {
    client_control::subscribe(event.number(), client_id, filter, qos)
}

/// Removes a subscription of a connected client, as if it had asked.
///
/// # Errors
/// No such client is connected, the filter is invalid, or the broker is busy or stopping.
pub fn unsubscribe(event: Event, client_id: &str, filter: &str) -> Result<(), ControlError> {
    client_control::unsubscribe(event.number(), client_id, filter)
}

/// Ends a client's connection.
///
/// # Errors
/// No such client is connected, or the broker is stopping.
pub fn disconnect(event: Event, client_id: &str) -> Result<(), ControlError> {
    client_control::disconnect(event.number(), client_id)
}
