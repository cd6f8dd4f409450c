//! The server's replies as guests get them.

use redis::Value;
use tidegate_event::{Reply, ReplyPart};

use super::error::{Answer, answer};
use super::link::Known;
use crate::backend::BackendError;

/// Why none of some commands was executed, so that they can be sent again: `None` when any of them may have been.
pub(super) fn why_none(known: &[Known]) -> Option<BackendError> {
    let why = |known: &Known| match known {
        Err(error) => Some(error.clone()),
        Ok(answers) => match &**answers {
            [Err(fault)] if fault.is_passing() => Some(fault.clone().into_backend("")),
            _ => None,
        },
    };
    let mut all = known.iter().map(why);
    let first = all.next()??;
    all.all(|why| why.is_some()).then_some(first)
}

/// The reply to one command. That there is none is a reply, too: others have theirs.
pub(super) fn of(known: Known) -> Reply {
    match known {
        Ok(answers) => answers.into_iter().flat_map(flat).collect(),
        Err(error) => vec![ReplyPart::Error(format!("UNAVAILABLE {error}"))],
    }
}

/// Flattens a reply: see [`ReplyPart`].
fn flat(reply: Answer) -> Reply {
    let mut parts = Vec::new();
    push(reply, &mut parts);
    parts
}

/// Bytes that a part takes.
pub(super) fn size(part: &ReplyPart) -> usize {
    let held = match part {
        ReplyPart::Status(text) | ReplyPart::Error(text) => text.len(),
        ReplyPart::Bytes(bytes) => bytes.len(),
        _ => 0,
    };
    size_of::<ReplyPart>() + held
}

fn push(reply: Answer, parts: &mut Reply) {
    let value = match reply {
        Ok(value) => value,
        Err(fault) => {
            parts.push(ReplyPart::Error(format!("{} {}", fault.code, fault.message)));
            return;
        }
    };
    match value {
        Value::Nil => parts.push(ReplyPart::Nil),
        Value::Int(number) => parts.push(ReplyPart::Integer(number)),
        Value::Double(number) => parts.push(ReplyPart::Double(number)),
        Value::Boolean(yes) => parts.push(ReplyPart::Boolean(yes)),
        Value::Okay => parts.push(ReplyPart::Status("OK".into())),
        Value::SimpleString(text) => parts.push(ReplyPart::Status(text)),
        Value::BulkString(bytes) => parts.push(ReplyPart::Bytes(bytes)),
        Value::VerbatimString { text, .. } => parts.push(ReplyPart::Bytes(text.into_bytes())),
        Value::Array(values) | Value::Set(values) => {
            parts.push(ReplyPart::List(length(values.len())));
            values.into_iter().for_each(|value| push(answer(value), parts));
        }
        Value::Map(pairs) => {
            parts.push(ReplyPart::Map(length(pairs.len())));
            for (key, value) in pairs {
                push(answer(key), parts);
                push(answer(value), parts);
            }
        }
        Value::Attribute { data, .. } => push(answer(*data), parts),
        Value::ServerError(error) => push(answer(Value::ServerError(error)), parts),
        // Parts of newer protocols than the one that is spoken.
        other => parts.push(ReplyPart::Bytes(format!("{other:?}").into_bytes())),
    }
}

fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::error::Fault;

    #[test]
    fn a_call_fails_only_when_none_of_its_commands_was_executed() {
        let done = || Ok(vec![Ok(Value::Int(1))]);
        let passing = || Ok(vec![Err(Fault::new("LOADING", "words"))]);
        let lost = || Err(BackendError::Unavailable("words".into()));
        assert!(why_none(&[passing(), lost()]).is_some_and(|error| error.is_retryable()));
        assert_eq!(why_none(&[done(), passing(), lost()]), None);
        assert_eq!(why_none(&[passing(), done()]), None);
        assert_eq!(why_none(&[Ok(vec![Err(Fault::new("NOSCRIPT", "words").of_others())])]), None);
        assert_eq!(why_none(&[]), None);
        assert_eq!(of(lost()), [ReplyPart::Error("UNAVAILABLE words".into())]);
    }

    #[test]
    fn a_list_is_its_length_and_its_elements() {
        let inner = Value::Array(vec![Value::Int(1), Value::Nil]);
        let reply = flat(Ok(Value::Array(vec![inner, Value::BulkString(b"x\0".to_vec()), Value::Okay])));
        assert_eq!(
            reply,
            [
                ReplyPart::List(3),
                ReplyPart::List(2),
                ReplyPart::Integer(1),
                ReplyPart::Nil,
                ReplyPart::Bytes(b"x\0".to_vec()),
                ReplyPart::Status("OK".into())
            ]
        );
    }
}
