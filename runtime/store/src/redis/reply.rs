//! The server's replies as guests get them.

use redis::Value;
use tidegate_event::{Reply, ReplyError};

use super::error::{Answer, Fault, answer};

/// The reply to a guest's command. What the driver nests, however deep a server may, it has bounded before.
pub(super) fn reply(answered: Answer) -> Reply {
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
    // A guest's script is not loaded by anybody else.
    let retryable = fault.is_passing() && !fault.lacks_script();
    ReplyError { code: fault.code, message: fault.message, retryable }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let refused = |code: &str| match reply(Err(Fault { code: code.into(), message: "words".into() })) {
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
