//! What the server and the driver say, by what the caller can do.

use redis::{ErrorKind, RedisError, ServerError, Value};

use crate::backend::BackendError;

/// A command that the server refused.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) code: String,
    pub(super) message: String,
}

/// The reply to one command.
pub(super) type Answer = Result<Value, Fault>;

/// Codes of a server that cannot serve now: it loads, was demoted, has no memory or disk, or does not know us.
const PASSING: [&str; 18] = [
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "EXECABORT",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOGOODSLAVE",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNBLOCKED",
    "UNKILLABLE",
    "WRONGPASS",
];

impl Fault {
    fn of(error: &ServerError) -> Self {
        let details = error.details().unwrap_or_default();
        Self { code: error.code().to_owned(), message: details.to_owned() }
    }

    /// Whether the same command may succeed later.
    pub(super) fn is_passing(&self) -> bool {
        PASSING.contains(&&*self.code)
    }

    /// Whether this connection will go on saying so, because the server changed its role.
    pub(super) fn spoils_connection(&self) -> bool {
        ["READONLY", "MASTERDOWN", "NOAUTH", "MOVED", "UNBLOCKED"].contains(&&*self.code)
    }

    /// Whether the server does not know a script. Ours are loaded when a connection is opened.
    pub(super) fn lacks_script(&self) -> bool {
        self.code == "NOSCRIPT"
    }

    /// As an error of a command on `key`.
    pub(super) fn into_backend(self, key: &str) -> BackendError {
        if self.is_passing() {
            return BackendError::Unavailable(format!("{} {}", self.code, self.message));
        }
        let message = match &*self.code {
            "WRONGTYPE" => format!("key {key:?} holds another kind of value"),
            _ => self.message,
        };
        BackendError::Refused { code: self.code, message }
    }
}

/// A reply, apart from an error that stands in its place.
pub(super) fn answer(value: Value) -> Answer {
    match value {
        Value::ServerError(error) => Err(Fault::of(&error)),
        value => Ok(value),
    }
}

/// An error of a call: a fault of the server where the driver gives it so, else why there is no answer.
pub(super) fn fault(error: RedisError) -> Result<Fault, BackendError> {
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            let text = error.to_string();
            match error.into_server_errors().as_deref() {
                Some([(_, first), ..]) => Ok(Fault::of(first)),
                _ => Err(BackendError::Unavailable(text)),
            }
        }
        _ => Err(unanswered(&error)),
    }
}

/// Why there is no answer.
pub(super) fn unanswered(error: &RedisError) -> BackendError {
    let reason = match error.kind() {
        ErrorKind::AuthenticationFailed => format!("the server does not accept user and password: {error}"),
        ErrorKind::Parse => format!("what answers there is not a Redis server: {error}"),
        ErrorKind::InvalidClientConfig => return BackendError::Invalid(error.to_string()),
        _ if error.is_timeout() => "no answer in time".to_owned(),
        _ => error.to_string(),
    };
    BackendError::Unavailable(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_apart_by_what_helps() {
        let fault = |code: &str| Fault { code: code.into(), message: "words".into() };
        for code in
            ["MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "LOADING", "NOAUTH", "WRONGPASS", "OOM"]
        {
            assert!(fault(code).into_backend("k").is_retryable(), "{code}");
        }
        let wrong = fault("WRONGTYPE").into_backend("mqtt:msg:t");
        assert_eq!(wrong.to_string(), "key \"mqtt:msg:t\" holds another kind of value (code WRONGTYPE)");
        assert!(!fault("ERR").into_backend("k").is_retryable());
        assert!(PASSING.is_sorted());
    }
}
