//! What the server and the driver say, by what the caller can do.

use redis::{ErrorKind, RedisError, ServerError, Value};

use crate::backend::BackendError;

/// A command that the server refused.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) code: String,
    pub(super) message: String,
    passes: bool,
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
    /// What the server says, to a command of our own.
    pub(super) fn new(code: &str, message: &str) -> Self {
        Self { code: code.to_owned(), message: message.to_owned(), passes: PASSING.contains(&code) }
    }

    fn of(error: &ServerError) -> Self {
        Self::new(error.code(), error.details().unwrap_or_default())
    }

    /// The same to a command of somebody else: nobody loads a script again that we did not load.
    pub(super) fn of_others(self) -> Self {
        if self.code == "NOSCRIPT" { self.for_good() } else { self }
    }

    /// The same, not to be tried again whatever it is.
    pub(super) fn for_good(self) -> Self {
        Self { passes: false, ..self }
    }

    /// Whether the same command may succeed later.
    pub(super) fn is_passing(&self) -> bool {
        self.passes
    }

    /// Whether this connection will go on saying so: the server changed its role, or lost our scripts.
    pub(super) fn spoils_connection(&self) -> bool {
        self.passes
            && ["READONLY", "MASTERDOWN", "NOAUTH", "NOSCRIPT", "MOVED", "UNBLOCKED"].contains(&&*self.code)
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

/// The same of a connection that has just been made.
pub(super) fn at_first(error: &RedisError) -> BackendError {
    if error.is_connection_dropped() && !error.is_connection_refusal() {
        return BackendError::Unavailable(format!(
            "the server ends the connection at the first command: it is no Redis server, or only one side speaks TLS: {error}"
        ));
    }
    unanswered(error)
}

/// Why there is no answer. Whatever it is may pass: what can never work is found when the options are read, and an
/// operation is not refused because its database could not be reached.
pub(super) fn unanswered(error: &RedisError) -> BackendError {
    let reason = match error.kind() {
        ErrorKind::AuthenticationFailed => format!("the server does not accept user and password: {error}"),
        ErrorKind::Parse => {
            let words = error.to_string();
            let words = words.split(char::is_control).map(str::trim).filter(|word| !word.is_empty());
            format!("what answers there is not a Redis server: {}", words.collect::<Vec<_>>().join(" "))
        }
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
        let fault = |code: &str| Fault::new(code, "words");
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

    #[test]
    fn a_script_of_somebody_else_does_not_come_back_by_itself() {
        let lost = Fault::new("NOSCRIPT", "No matching script");
        assert!(lost.is_passing() && lost.spoils_connection(), "ours are loaded again");
        let lost = lost.of_others();
        assert!(!lost.is_passing() && !lost.spoils_connection());
        assert!(!lost.into_backend("").is_retryable());
        assert!(Fault::new("LOADING", "").of_others().is_passing());
    }

    #[test]
    fn no_error_of_a_connection_refuses_an_operation() {
        for kind in
            [ErrorKind::InvalidClientConfig, ErrorKind::Io, ErrorKind::Parse, ErrorKind::AuthenticationFailed]
        {
            assert!(unanswered(&RedisError::from((kind, "words"))).is_retryable(), "{kind:?}");
        }
    }
}
