//! Counts the messages and bytes of each device in Redis, where other programs read them.

use tidegate_sdk::config;
use tidegate_sdk::redis::{self, Command};
use tidegate_sdk::{Client, Event, Message, Result, Verdict, export, words};

export!(message_publish: count);

/// Where to count when the manifest does not say.
const DEFAULT_CONNECTOR: &str = "redis:pool1";
/// After how many silent days a device is forgotten when the manifest does not say.
const DEFAULT_KEEP_DAYS: u64 = 30;

fn count(_: Event, client: Option<Client>, message: Message) -> Result<Verdict> {
    // What modules publish is of no device.
    let Some(device) = client else { return Ok(Verdict::Pass) };
    let connector = config::get("connector")?.unwrap_or_else(|| DEFAULT_CONNECTOR.to_owned());
    let keep_days = match config::get("keep_days")? {
        Some(days) => days.parse().map_err(|_| format!("keep_days = {days:?} is no number of days"))?,
        None => DEFAULT_KEEP_DAYS,
    };
    // A refused command of a pipeline is its own reply: the others have run.
    for reply in redis::pipeline(&connector, &commands(&device.id, &message, keep_days))? {
        reply.accepted()?;
    }
    Ok(Verdict::Pass)
}

/// What to do in Redis for a message of `device`. Words are bytes, so an id or a topic may hold anything.
fn commands(device: &str, message: &Message, keep_days: u64) -> [Command; 5] {
    let key = format!("device:{device}");
    [
        words!["HINCRBY", &key, "messages", 1],
        words!["HINCRBY", &key, "bytes", message.payload.len()],
        words!["HSET", &key, "last_topic", &message.topic],
        words!["EXPIRE", &key, keep_days.saturating_mul(24 * 60 * 60)],
        words!["INCR", "devices:messages"],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_counted_with_its_bytes() {
        let message = Message::new("sensors/d 1", "21.5");
        let shown = commands("d 1", &message, 2).map(|words| {
            let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            words.join("|")
        });
        assert_eq!(
            shown,
            [
                "HINCRBY|device:d 1|messages|1",
                "HINCRBY|device:d 1|bytes|4",
                "HSET|device:d 1|last_topic|sensors/d 1",
                "EXPIRE|device:d 1|172800",
                "INCR|devices:messages",
            ]
        );
    }
}
