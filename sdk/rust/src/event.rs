//! The event a handler was called for.

use crate::{Client, Message};

/// The event a handler was called for: pass it to the functions that act for it, such as
/// [`actions::run`](crate::actions::run) or [`client_control::publish`](crate::client_control::publish).
///
/// It is valid during that call of the handler: kept longer, it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(u64);

impl Event {
    /// The event that the host calls by this number.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The host's number of the event, unique among the calls that are running.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// A published message among several that come in one call.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its event.
    pub event: Event,
    /// Who published it; absent for messages that no client sent.
    pub client: Option<Client>,
    /// What was published.
    pub message: Message,
}
