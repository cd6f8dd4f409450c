//! The server's replies as guests get them.

use redis::Value;
use tidegate_event::{Reply, ReplyError};

use super::error::{Answer, Fault, answer};
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
    let unanswered = |error: BackendError| ReplyError {
        code: "UNAVAILABLE".into(),
        message: error.to_string(),
        retryable: true,
    };
    match known.map(|answers| answers.into_iter().next()) {
        Ok(Some(answer)) => reply(answer),
        Ok(None) => Reply::Error(unanswered(BackendError::Unavailable("a reply is missing".into()))),
        Err(error) => Reply::Error(unanswered(error)),
    }
}

/// The reply to a guest's command. What the driver nests, however deep a server may, it has bounded before.
fn reply(answered: Answer) -> Reply {
    let value = match answered {
        Ok(value) => value,
        Err(fault) => return Reply::Error(refusal(fault)),
    };
    match value {
        Value::Nil => Reply::Nil,
        Value::Int(number) => Reply::Integer(number),
        Value::Double(number) => Reply::Double(number),
        Value::Boolean(yes) => Reply::Boolean(yes),
        Value::Okay => Reply::Status("OK".into()),
        Value::SimpleString(text) => Reply::Status(text),
        Value::BulkString(bytes) => Reply::Bytes(bytes),
        Value::VerbatimString { text, .. } => Reply::Bytes(text.into_bytes()),
        Value::Array(values) | Value::Set(values) => Reply::List(values.into_iter().map(inner).collect()),
        Value::Map(pairs) => {
            Reply::Map(pairs.into_iter().map(|(key, value)| (inner(key), inner(value))).collect())
        }
        Value::Attribute { data, .. } => inner(*data),
        Value::ServerError(error) => inner(Value::ServerError(error)),
        // Parts of newer protocols than the one that is spoken.
        other => Reply::Bytes(format!("{other:?}").into_bytes()),
    }
}

fn inner(value: Value) -> Reply {
    reply(answer(value))
}

fn refusal(fault: Fault) -> ReplyError {
    let retryable = fault.is_passing();
    ReplyError { code: fault.code, message: fault.message, retryable }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(matches!(of(lost()), Reply::Error(error) if error.code == "UNAVAILABLE" && error.retryable));
    }

    #[test]
    fn a_reply_keeps_its_types_and_its_form() {
        let list = Value::Array(vec![Value::Int(1), Value::Nil]);
        let value = Value::Array(vec![list, Value::BulkString(b"x\0".to_vec()), Value::Okay]);
        let list = Reply::List(vec![Reply::Integer(1), Reply::Nil]);
        let expected = vec![list, Reply::Bytes(b"x\0".to_vec()), Reply::Status("OK".into())];
        assert_eq!(reply(Ok(value)), Reply::List(expected));
        let pairs = vec![(Value::SimpleString("k".into()), Value::Double(0.5))];
        let expected = vec![(Reply::Status("k".into()), Reply::Double(0.5))];
        assert_eq!(reply(Ok(Value::Map(pairs))), Reply::Map(expected));
    }

    #[test]
    fn a_refusal_says_whether_it_will_pass() {
        let refused = |code: &str| match reply(Err(Fault::new(code, "words").of_others())) {
            Reply::Error(error) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            refused("ERR"),
            ReplyError { code: "ERR".into(), message: "words".into(), retryable: false }
        );
        assert!(refused("OOM").retryable);
        // The same EVALSHA will not be known later.
        assert!(!refused("NOSCRIPT").retryable);
    }
}
