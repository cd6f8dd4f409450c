//! More than a well-behaved guest asks for: the host has to bound it.

use tidegate_sdk::client_control::{self, ControlError};
use tidegate_sdk::{Client, Event, Message, Result, StorageError, info, params, sql};

use crate::{RECORD, connector};

/// Lines of one event.
const LINES: u32 = 10_000;
/// Storage calls of one event.
const ROWS: u32 = 1_000;
/// Publishes of one event.
const PUBLISHES: u32 = 100;

/// Writes lines to the log.
pub(crate) fn log() {
    for number in 0..LINES {
        info!("flood line {number}");
    }
}

/// Writes rows until all have been tried; those over the quota are refused one by one.
pub(crate) fn storage(client: Option<&Client>, topic: &str) -> Result<()> {
    let connector = connector()?;
    let client = client.map(|client| client.id.as_str());
    for number in 0..ROWS {
        match sql::exec(&connector, RECORD, params!["flood", client, topic, number.to_string()]) {
            Ok(_) | Err(StorageError::QuotaExceeded) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Publishes the message to its own topic, again and again.
pub(crate) fn publish(event: Event, message: &Message) -> Result<()> {
    for _ in 0..PUBLISHES {
        match client_control::publish(event, message) {
            Ok(()) | Err(ControlError::Busy) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
