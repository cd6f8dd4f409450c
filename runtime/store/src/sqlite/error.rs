//! SQLite's result codes, by what the caller can do.

use std::time::Duration;

use crate::backend::BackendError;

// Primary result codes (https://sqlite.org/rescode.html).
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const NOMEM: i32 = 7;
const READONLY: i32 = 8;
const INTERRUPT: i32 = 9;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const PROTOCOL: i32 = 15;
const SCHEMA: i32 = 17;
const NOTADB: i32 = 26;

/// The primary code, when the database answered at all.
fn primary(error: &sqlx::Error) -> Option<(i32, i32)> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some((extended & 0xff, extended))
}

/// What the caller can do about `error`. What concerns the whole database (locked, full, damaged, gone) is
/// retryable: waiting loses nothing, refusing would lose everything that arrives. What concerns one statement or
/// value is refused.
pub(super) fn classify(error: sqlx::Error, timeout: Duration) -> BackendError {
    let message = match error.as_database_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    };
    match primary(&error) {
        Some((INTERRUPT, _)) => BackendError::TimedOut(timeout),
        Some((
            BUSY | LOCKED | NOMEM | READONLY | IOERR | CORRUPT | FULL | CANTOPEN | PROTOCOL | SCHEMA | NOTADB,
            _,
        )) => BackendError::Unavailable(message),
        Some((primary, extended)) => BackendError::Refused { code: code_name(primary, extended), message },
        None => match error {
            sqlx::Error::Encode(_) | sqlx::Error::Protocol(_) | sqlx::Error::InvalidArgument(_) => {
                BackendError::Invalid(message)
            }
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                BackendError::Refused { code: "decode".into(), message }
            }
            _ => BackendError::Unavailable(message),
        },
    }
}

fn code_name(primary: i32, extended: i32) -> String {
    let name = match primary {
        1 => "SQLITE_ERROR",
        3 => "SQLITE_PERM",
        18 => "SQLITE_TOOBIG",
        19 => "SQLITE_CONSTRAINT",
        20 => "SQLITE_MISMATCH",
        23 => "SQLITE_AUTH",
        25 => "SQLITE_RANGE",
        _ => "SQLITE",
    };
    format!("{name} {extended}")
}

/// Whether a connection cannot be opened with these options, ever.
pub(super) fn is_hopeless(error: &sqlx::Error) -> bool {
    match primary(error) {
        Some((code, _)) => matches!(code, READONLY | CANTOPEN | NOTADB | CORRUPT | 1 | 3 | 23),
        None => matches!(error, sqlx::Error::Configuration(_)),
    }
}

/// Whether a read-only connection refused to write.
pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    primary(error).is_some_and(|(code, _)| code == READONLY)
}
