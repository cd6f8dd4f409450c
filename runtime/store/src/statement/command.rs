//! Commands of words, as Redis takes them: `HSET ack:${clientid} ${topic} ${msgid}`.
//!
//! A command is split at single spaces first and its variables are put in after, so that a value with spaces, line
//! ends or quotes stays one word, byte by byte. There are no quotes: they would be part of the value.

use tidegate_event::{Field, Hook};

use super::{Bound, StatementError, field};

/// A word of a command: text and variables, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    /// The index of a variable.
    Value(usize),
}

impl Word {
    /// The word with these values. What is not there (a user name) is empty.
    pub(super) fn with(&self, values: &[Bound]) -> Vec<u8> {
        let mut word = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => word.extend_from_slice(text.as_bytes()),
                Piece::Value(index) => match values.get(*index) {
                    None | Some(Bound::Null) => {}
                    Some(Bound::Integer(number)) => word.extend_from_slice(number.to_string().as_bytes()),
                    Some(Bound::Text(text)) => word.extend_from_slice(text.as_bytes()),
                    Some(Bound::Bytes(bytes)) => word.extend_from_slice(bytes),
                },
            }
        }
        word
    }
}

/// Commands that would wait, that change the connection, which others share, or end it (`POST` and `Host:` are what a
/// browser says: the server hangs up), or that are the administrator's. Lower case, sorted.
const REFUSED: [&str; 62] = [
    "acl",
    "asking",
    "auth",
    "bgrewriteaof",
    "bgsave",
    "blmove",
    "blmpop",
    "blpop",
    "brpop",
    "brpoplpush",
    "bzmpop",
    "bzpopmax",
    "bzpopmin",
    "client",
    "cluster",
    "config",
    "debug",
    "discard",
    "exec",
    "failover",
    "flushall",
    "flushdb",
    "function",
    "hello",
    "host:",
    "keys",
    "latency",
    "memory",
    "migrate",
    "module",
    "monitor",
    "multi",
    "pfdebug",
    "pfselftest",
    "post",
    "psubscribe",
    "psync",
    "punsubscribe",
    "quit",
    "readonly",
    "readwrite",
    "replconf",
    "replicaof",
    "reset",
    "restore-asking",
    "save",
    "script",
    "select",
    "sentinel",
    "shutdown",
    "slaveof",
    "slowlog",
    "ssubscribe",
    "subscribe",
    "sunsubscribe",
    "swapdb",
    "sync",
    "unsubscribe",
    "unwatch",
    "wait",
    "waitaof",
    "watch",
];

/// Whether the command may be sent on a connection that others share.
///
/// # Errors
/// [`StatementError::NotAllowed`], [`StatementError::Empty`].
pub(crate) fn check_words<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> Result<(), StatementError> {
    let name = words.next().unwrap_or_default().to_ascii_lowercase();
    if name.is_empty() {
        return Err(StatementError::Empty);
    }
    let name = String::from_utf8_lossy(&name);
    let mut waits = || words.any(|word| word.eq_ignore_ascii_case(b"block"));
    let refused = match &*name {
        // Reading what is there is fine, waiting for more is not.
        "xread" | "xreadgroup" => waits(),
        name => REFUSED.contains(&name),
    };
    if refused { Err(StatementError::NotAllowed(name.to_uppercase())) } else { Ok(()) }
}

/// The words of `text` and its variables.
pub(super) fn compile(text: &str, hook: Hook) -> Result<(Vec<Word>, Vec<Field>), StatementError> {
    if text.trim().is_empty() {
        return Err(StatementError::Empty);
    }
    let (mut words, mut fields) = (Vec::new(), Vec::new());
    let mut column = 1;
    for part in text.split(' ') {
        if part.is_empty() {
            return Err(StatementError::Word(format!(
                "words are separated by one space: there is one too many at column {column}"
            )));
        }
        if part.starts_with(['\'', '"']) {
            let words = match part.contains("${") {
                true => return Err(StatementError::InQuotes(super::placeholder_in(part))),
                false => format!("{part}: quotes would be part of the value, write it without them"),
            };
            return Err(StatementError::Word(words));
        }
        words.push(word(part, column, hook, &mut fields)?);
        column += part.chars().count() + 1;
    }
    let literal = |word: &Word| match &*word.0 {
        [Piece::Text(text)] => Some(text.as_bytes().to_vec()),
        _ => None,
    };
    let Some(name) = words.first().and_then(literal) else {
        return Err(StatementError::Word("the first word names the command: it cannot be a variable".into()));
    };
    let rest: Vec<Vec<u8>> = words.iter().skip(1).filter_map(literal).collect();
    check_words(std::iter::once(&*name).chain(rest.iter().map(Vec::as_slice)))?;
    Ok((words, fields))
}

fn word(part: &str, column: usize, hook: Hook, fields: &mut Vec<Field>) -> Result<Word, StatementError> {
    let (mut pieces, mut rest) = (Vec::new(), part);
    while let Some(open) = rest.find("${") {
        let (before, from) = rest.split_at(open);
        if !before.is_empty() {
            pieces.push(Piece::Text(before.into()));
        }
        let Some(close) = from.find('}') else {
            return Err(StatementError::Unclosed("variable", column));
        };
        let field = field(from.get(2..close).unwrap_or_default(), hook)?;
        let index = fields.iter().position(|known| *known == field).unwrap_or_else(|| {
            fields.push(field);
            fields.len() - 1
        });
        pieces.push(Piece::Value(index));
        rest = from.get(close + 1..).unwrap_or_default();
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    Ok(Word(pieces))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::{Language, Template};
    use super::*;

    fn compile(text: &str) -> Result<Template, StatementError> {
        Template::compile(text, Hook::MessagePublish, Language::Commands)
    }

    #[test]
    fn a_value_stays_one_word_whatever_it_holds() {
        let template = compile("HSET a:${clientid}:${topic} ${topic} x${payload}").unwrap();
        let nasty = "a b\r\n*3\r\n$3\r\nDEL '\"${payload}";
        let values = [
            Bound::Text("c 1".into()),
            Bound::Text(nasty.into()),
            Bound::Bytes(bytes::Bytes::from_static(b"\0 \xff")),
        ];
        let words = template.words(&values);
        assert_eq!(words.len(), 4);
        assert_eq!(words.first().unwrap(), b"HSET");
        assert_eq!(words.get(1).unwrap(), format!("a:c 1:{nasty}").as_bytes());
        assert_eq!(words.get(2).unwrap(), nasty.as_bytes());
        assert_eq!(words.get(3).unwrap(), b"x\0 \xff");
    }

    #[test]
    fn every_command_of_the_documents_compiles() {
        for (hook, text) in [
            (Hook::ClientConnected, "SET conn:${clientid} ${clientid}"),
            (Hook::ClientDisconnected, "SET disconn:${clientid} ${clientid}"),
            (Hook::SessionSubscribed, "HSET sub:${clientid} ${topic} ${qos}"),
            (Hook::SessionUnsubscribed, "SET unsub:${clientid} ${topic}"),
            (Hook::SessionUnsubscribed, "DEL mqtt:acked:${clientid}:${topic}"),
            (Hook::MessagePublish, "RPUSH pub:${topic} ${msgid}"),
            (Hook::MessageAcked, "HSET ack:${clientid} ${topic} ${msgid}"),
            (Hook::MessageDeliver, "HSET deliver:${clientid} ${topic} ${msgid}"),
        ] {
            assert!(Template::compile(text, hook, Language::Commands).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_taken_as_written_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("SET  a b", "one too many at column 5"),
            ("SET a b ", "one too many at column 9"),
            (" SET a b", "one too many at column 1"),
            ("${topic} a b", "cannot be a variable"),
            ("SET a '${topic}'", "inside quotes"),
            ("SET a \"b\"", "part of the value"),
            ("SET a ${topik}", "did you mean \"topic\"?"),
            ("SET a ${topic", "not closed"),
        ] {
            let error = compile(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn commands_that_wait_or_change_the_connection_are_refused() {
        for text in [
            "SUBSCRIBE a",
            "monitor",
            "Select 1",
            "AUTH x",
            "MULTI",
            "SHUTDOWN",
            "CLIENT REPLY OFF",
            "BLPOP a 0",
            "XREAD BLOCK 0 STREAMS a $",
            "FLUSHALL",
            "CONFIG SET a b",
            "WAIT 1 0",
            "REPLICAOF NO ONE",
            "HELLO 3",
            "QUIT",
            "RESET",
            "EXEC",
            "WATCH a",
            "SSUBSCRIBE a",
            "POST /",
            "Host: a",
        ] {
            assert!(matches!(compile(text), Err(StatementError::NotAllowed(_))), "{text}");
        }
        assert!(REFUSED.is_sorted());
        assert!(compile("XREAD COUNT 1 STREAMS a 0").is_ok());
        assert!(compile("XADD s * payload ${payload}").is_ok());
    }
}
