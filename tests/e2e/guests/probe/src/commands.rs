//! Redis commands as a payload says: one a line, words with single spaces between them.

use tidegate_sdk::config;
use tidegate_sdk::redis::{self, Command, Reply};
use tidegate_sdk::{Result, StorageError, words};

/// Calls of one event.
const CALLS: u32 = 1_000;

/// Runs a single line as a command and several as a pipeline. Gives the replies as text, or why there are none.
pub(crate) fn run(payload: &[u8]) -> Result<String> {
    let connector = connector()?;
    let mut commands = commands(payload);
    let replies = if commands.len() == 1 {
        redis::command(&connector, &commands.remove(0)).map(|reply| vec![reply])
    } else {
        redis::pipeline(&connector, &commands)
    };
    Ok(match replies {
        Ok(replies) => replies.iter().map(shown).collect::<Vec<_>>().join("\n"),
        Err(error) => format!("{}: {}", kind(&error), error.reason()),
    })
}

/// Adds one to `key` again and again; what a quota refuses is left out.
pub(crate) fn flood(key: &str) -> Result<()> {
    let connector = connector()?;
    for _ in 0..CALLS {
        match redis::command(&connector, &words!["INCR", key]) {
            Ok(_) | Err(StorageError::QuotaExceeded) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn connector() -> Result<String> {
    Ok(config::get("redis")?.unwrap_or_else(|| "redis:pool1".to_owned()))
}

fn commands(payload: &[u8]) -> Vec<Command> {
    let words = |line: &[u8]| line.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect();
    payload.split(|byte| *byte == b'\n').map(words).collect()
}

/// A reply in the words of its type.
fn shown(reply: &Reply) -> String {
    match reply {
        Reply::Nil => "nil".to_owned(),
        Reply::Integer(value) => format!("integer {value}"),
        Reply::Double(value) => format!("double {value}"),
        Reply::Boolean(value) => format!("boolean {value}"),
        Reply::Status(text) => format!("status {text}"),
        Reply::Bytes(bytes) => format!("bytes {}", bytes.escape_ascii()),
        Reply::List(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Reply::Map(_) => {
            let pair = |(key, value): (&Reply, &Reply)| format!("{}: {}", shown(key), shown(value));
            format!("{{{}}}", reply.pairs().into_iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        Reply::Error(failure) => {
            format!("error {} {} retryable={}", failure.code, failure.message, failure.retryable)
        }
    }
}

/// The case of an error.
fn kind(error: &StorageError) -> &'static str {
    match error {
        StorageError::NoSuchConnector => "no-such-connector",
        StorageError::AccessDenied => "access-denied",
        StorageError::InvalidArgument(_) => "invalid-argument",
        StorageError::Timeout => "timeout",
        StorageError::Unavailable => "unavailable",
        StorageError::QuotaExceeded => "quota-exceeded",
        StorageError::Failed(_) => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_command_of_words() {
        assert_eq!(commands(b"SET k \x00\xff\nGET k"), [words!["SET", "k", [0_u8, 255]], words!["GET", "k"]]);
        assert_eq!(commands(b"PING"), [words!["PING"]]);
    }

    #[test]
    fn a_reply_shows_its_types() {
        let reply = Reply::List(vec![Reply::Integer(1), Reply::List(vec![Reply::Bytes(vec![0, b'a'])])]);
        assert_eq!(shown(&reply), "[integer 1, [bytes \\x00a]]");
        let map = Reply::Map(vec![(Reply::Status("k".into()), Reply::Nil)]);
        assert_eq!(shown(&map), "{status k: nil}");
    }
}
