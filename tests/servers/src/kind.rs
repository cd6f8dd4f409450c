//! What tests share: a row for each kind of server, and the variable that tells tests where it is.

use crate::{Error, Place, Result, Server, redis};

/// A kind of shared server.
#[derive(Debug)]
pub struct Kind {
    /// What people call it: `cargo xtask servers start NAME`.
    pub name: &'static str,
    /// The environment variable that holds its address.
    pub variable: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// What it needs: programs and the Debian packages they come in.
    pub programs: &'static [(&'static str, &'static str)],
    /// Starts it.
    pub start: fn(&Place) -> Result<Shared>,
}

/// A shared server that runs.
#[derive(Debug)]
pub struct Shared {
    /// What [`Kind::variable`] is set to.
    pub value: String,
    /// Its processes.
    pub servers: Vec<Server>,
}

/// All kinds, in the order in which they are started.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "redis",
        variable: "TIDEGATE_REDIS",
        about: "Redis without a password, HOST:PORT",
        programs: redis::PROGRAMS,
        start: redis::shared,
    },
    Kind {
        name: "redis-auth",
        variable: "TIDEGATE_REDIS_AUTH",
        about: "Redis with the password \"public\", HOST:PORT",
        programs: redis::PROGRAMS,
        start: redis::shared_with_password,
    },
    Kind {
        name: "redis-sentinel",
        variable: "TIDEGATE_REDIS_SENTINEL",
        about: "three sentinels, HOST:PORT,HOST:PORT,..; their master is called mymaster and has one replica",
        programs: redis::PROGRAMS,
        start: redis::shared_sentinels,
    },
    Kind {
        name: "redis-cluster",
        variable: "TIDEGATE_REDIS_CLUSTER",
        about: "the nodes of a Redis cluster, HOST:PORT,HOST:PORT,..",
        programs: redis::PROGRAMS,
        start: redis::shared_cluster,
    },
];

/// Where the shared server is, by its variable.
///
/// # Errors
/// The variable is not set: a test that needs the server fails, and says how to get it.
pub fn address(variable: &str) -> Result<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Error::NotShared { variable: variable.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_variables_are_unique() {
        for (number, kind) in KINDS.iter().enumerate() {
            let others = KINDS.get(number + 1..).unwrap_or_default();
            assert!(others.iter().all(|other| other.name != kind.name && other.variable != kind.variable));
        }
    }
}
