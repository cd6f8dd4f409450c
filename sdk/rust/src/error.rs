//! Every error of a host call becomes a [`HookError`] by `?`.

use crate::bindings::imports::wasi::config::store::Error as ConfigError;
use crate::client_control::ControlError;
use crate::http::HttpError;
use crate::keyvalue::KeyValueError;
use crate::{HookError, StorageError};

impl HookError {
    /// An error that will not get better.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::Failed(reason.into())
    }

    /// An error worth another try.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::Retry(reason.into())
    }
}

impl From<String> for HookError {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<&str> for HookError {
    fn from(reason: &str) -> Self {
        Self::Failed(reason.to_owned())
    }
}

impl From<std::str::Utf8Error> for HookError {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::Failed(error.to_string())
    }
}

#[cfg(feature = "json")]
impl From<serde_json::Error> for HookError {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl StorageError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout | Self::Unavailable => true,
            Self::Failed(failure) => failure.retryable,
            Self::NoSuchConnector | Self::AccessDenied | Self::InvalidArgument(_) | Self::QuotaExceeded => {
                false
            }
        }
    }

    /// What happened, for people.
    pub fn reason(&self) -> String {
        match self {
            Self::NoSuchConnector => "no such connector".to_owned(),
            Self::AccessDenied => "access to the connector is not granted".to_owned(),
            Self::InvalidArgument(what) => format!("invalid argument: {what}"),
            Self::Timeout => "the store gave no answer in time".to_owned(),
            Self::Unavailable => "the store is not reachable now".to_owned(),
            Self::QuotaExceeded => "a storage quota is used up".to_owned(),
            Self::Failed(failure) => format!("{} ({})", failure.message, failure.code),
        }
    }
}

impl From<StorageError> for HookError {
    fn from(error: StorageError) -> Self {
        if error.is_retryable() { Self::Retry(error.reason()) } else { Self::Failed(error.reason()) }
    }
}

/// For `init`, whose error is text.
impl From<StorageError> for String {
    fn from(error: StorageError) -> Self {
        error.reason()
    }
}

impl From<ControlError> for HookError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NoSuchClient => Self::failed("no such client is connected"),
            ControlError::InvalidTopic(why) => Self::Failed(format!("invalid topic: {why}")),
            ControlError::HopLimit => {
                Self::failed("the message has passed through too many module publishes")
            }
            ControlError::Busy => Self::retry("the broker's queue is full"),
            ControlError::Stopping => Self::retry("the broker is stopping"),
        }
    }
}

impl From<KeyValueError> for HookError {
    fn from(error: KeyValueError) -> Self {
        match error {
            KeyValueError::NoSuchStore => Self::failed("no such bucket"),
            KeyValueError::AccessDenied => Self::failed("access to the bucket is not granted"),
            // The standard has one case for all else; that the store is away is the one which passes.
            KeyValueError::Other(why) => Self::Retry(why),
        }
    }
}

impl From<HttpError> for HookError {
    fn from(error: HttpError) -> Self {
        if error.is_retryable() { Self::Retry(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

impl From<ConfigError> for HookError {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Upstream(why) | ConfigError::Io(why) => {
                Self::Failed(format!("configuration: {why}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;

    #[test]
    fn a_storage_error_is_retried_when_it_may_pass() {
        let failure = |retryable| {
            StorageError::Failed(Failure {
                code: "5".into(),
                message: "database is locked".into(),
                retryable,
            })
        };
        assert_eq!(HookError::from(failure(true)), HookError::retry("database is locked (5)"));
        assert_eq!(HookError::from(failure(false)), HookError::failed("database is locked (5)"));
        assert!(matches!(HookError::from(StorageError::Timeout), HookError::Retry(_)));
        assert!(matches!(HookError::from(StorageError::AccessDenied), HookError::Failed(_)));
    }

    #[test]
    fn a_full_broker_is_worth_another_try_and_a_wrong_topic_is_not() {
        assert!(matches!(HookError::from(ControlError::Busy), HookError::Retry(_)));
        let wrong = ControlError::InvalidTopic("a/+: wildcard".into());
        assert_eq!(HookError::from(wrong), HookError::failed("invalid topic: a/+: wildcard"));
    }
}
