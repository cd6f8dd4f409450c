//! Stores what sensors publish twice: whole, by the built-in action, and as a row of its own table.

use tidegate_sdk::config::{self, Config};
use tidegate_sdk::{Client, Event, Message, Result, Verdict, actions, export, params, sql, warn};

export! {
    init: start,
    message_publish: store,
}

/// Where to store when the manifest does not say.
const DEFAULT_CONNECTOR: &str = "sqlite:default";

const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS reading (device TEXT NOT NULL, celsius REAL NOT NULL, at INTEGER NOT NULL)";

/// `${...}` are variables of the event, bound as parameters by the host. The statement is the same for every
/// message, so the database prepares it once; it takes the number out of the payload itself.
const INSERT: &str = "INSERT INTO reading (device, celsius, at) \
     VALUES (${clientid}, CAST(${payload} AS TEXT) ->> 'celsius', ${timestamp})";

fn start(config: Config) -> std::result::Result<(), String> {
    let connector = config.get("connector").unwrap_or(DEFAULT_CONNECTOR);
    // There is no event yet, so no variables and no ack to join: a typed call, which waits for the database.
    sql::exec(connector, CREATE, params![])?;
    Ok(())
}

fn store(event: Event, _: Option<Client>, message: Message) -> Result<Verdict> {
    let connector = config::get("connector")?.unwrap_or_else(|| DEFAULT_CONNECTOR.to_owned());

    // Both calls only queue their work, and the publisher's acknowledgement waits for both.
    actions::run(event, &connector, "on_message_publish")?;
    if is_reading(&message.payload) {
        actions::execute(event, &connector, &[INSERT])?;
    } else {
        warn!("no number celsius in the message on {}: stored, but it is no reading", message.topic);
    }
    Ok(Verdict::Pass)
}

/// Whether `payload` is a JSON object with a number `celsius`: what [`INSERT`] relies on.
fn is_reading(payload: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(payload).is_ok_and(|json| json["celsius"].is_number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_has_a_number_in_celsius() {
        assert!(is_reading(br#"{"device":"d1","celsius":21.5}"#));
        assert!(is_reading(br#" {"celsius": -40} "#));
        for payload in ["", "21.5", "[21.5]", "{}", r#"{"celsius":"21.5"}"#, r#"{"celsius":{"value":1}}"#] {
            assert!(!is_reading(payload.as_bytes()), "{payload}");
        }
    }
}
