//! What can go wrong with a server, in words for the person who runs the tests.

use std::fmt;

/// Short for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no server, or not the answer that was wanted. Written by hand: this crate has no dependencies.
#[derive(Debug)]
pub enum Error {
    /// A program is not installed.
    Missing {
        /// Its name.
        program: String,
        /// The Debian package it comes in.
        package: &'static str,
    },
    /// The server ended, or was not ready in time.
    NotReady {
        /// Its name.
        server: String,
        /// Which of the two, or what was waited for.
        why: String,
        /// The end of its log.
        log: String,
    },
    /// The server is there and did not do what it was told.
    Refused {
        /// The command.
        command: String,
        /// What it said.
        answer: String,
    },
    /// A shared server is needed and its variable is not set.
    NotShared {
        /// The variable.
        variable: String,
    },
    /// The machine: a file, a folder, a port.
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
}

impl Error {
    /// A function that says what was tried, for `map_err`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { program, package } => {
                write!(
                    f,
                    "{program} is not installed (Debian package {package}); `cargo xtask test` installs it as root"
                )
            }
            Self::NotReady { server, why, log } => write!(f, "{server}: {why}; the end of its log:\n{log}"),
            Self::Refused { command, answer } => write!(f, "`{command}`: {answer}"),
            Self::NotShared { variable } => write!(
                f,
                "{variable} is not set: `cargo xtask test` starts the server and sets it; `cargo xtask servers start` \
                 starts it for you to keep, see docs/servers.md"
            ),
            Self::Io { what, error } => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}
