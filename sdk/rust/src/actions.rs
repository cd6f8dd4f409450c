//! The built-in storage functions and statements with `${...}` variables, run for the event being handled.
//!
//! [`run`] and [`execute`] return when the work is queued: it then joins the event's acknowledgement, so the
//! publisher's PUBACK or PUBREC waits for the store while the guest is free for the next event. If the store
//! refuses, the publisher learns it. The `_wait` forms return when the store has answered.
//!
//! Connectors are named `kind:pool`: `sqlite:default`.
//!
//! ```no_run
//! use tidegate_sdk::{Client, Event, Message, Result, Verdict, actions, export};
//!
//! export!(message_publish: store);
//!
//! fn store(event: Event, _: Option<Client>, _: Message) -> Result<Verdict> {
//!     actions::run(event, "sqlite:default", "on_message_publish")?;
//!     actions::execute(event, "sqlite:default", &["INSERT INTO seen (topic) VALUES (${topic})"])?;
//!     Ok(Verdict::Pass)
//! }
//! # fn main() {}
//! ```

use crate::bindings::imports::tidegate::storage::actions;
use crate::{Event, StorageError};

pub use actions::Options;

impl Default for Options {
    /// Nothing said: the event's message, and the function's own defaults.
    fn default() -> Self {
        Self {
            message: None,
            expired_time: None,
            max_returned_count: None,
            time_range_ms: None,
            payload_format: None,
        }
    }
}

/// Queues the built-in function `function` for `event`, with the event's own message.
///
/// # Errors
/// The connector or function is wrong, not granted or does not fit the event's hook; the queue cannot take it.
pub fn run(event: Event, connector: &str, function: &str) -> Result<(), StorageError> {
    actions::run(event.number(), connector, function, None)
}

/// As [`run`], with the words of a hook line; `Options::message` stores another message than the event's.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    event: Event,
    connector: &str,
    function: &str,
    options: &Options,
) -> Result<(), StorageError> {
    actions::run(event.number(), connector, function, Some(options))
}

/// As [`run`], and waits for the store.
///
/// # Errors
/// As [`run`], and what the store answered.
pub fn run_wait(event: Event, connector: &str, function: &str) -> Result<(), StorageError> {
    actions::run_wait(event.number(), connector, function, None)
}

/// As [`run_with`], and waits for the store.
///
/// # Errors
/// As [`run`], and what the store answered.
pub fn run_with_wait(
    event: Event,
    connector: &str,
    function: &str,
    options: &Options,
) -> Result<(), StorageError> {
    actions::run_wait(event.number(), connector, function, Some(options))
}

/// Queues statements for `event`, in order and in one transaction where the store has them. `${topic}`,
/// `${payload}`, `${clientid}` and the other variables of the event's hook are bound as parameters, never
/// pasted, so they stand without quotes.
///
/// # Errors
/// The connector is wrong or not granted; a statement names a variable the event has not; the queue cannot
/// take it.
pub fn execute<S: AsRef<str>>(event: Event, connector: &str, statements: &[S]) -> Result<(), StorageError> {
    actions::execute(event.number(), connector, &owned(statements))
}

/// As [`execute`], and waits for the store.
///
/// # Errors
/// As [`execute`], and what the store answered.
pub fn execute_wait<S: AsRef<str>>(
    event: Event,
    connector: &str,
    statements: &[S],
) -> Result<(), StorageError> {
    actions::execute_wait(event.number(), connector, &owned(statements))
}

fn owned<S: AsRef<str>>(statements: &[S]) -> Vec<String> {
    statements.iter().map(|statement| statement.as_ref().to_owned()).collect()
}
