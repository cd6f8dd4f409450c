//! MongoDB: the options of document 003.

use super::pgsql::{CACERTFILE, CERTFILE, KEYFILE, certificate_with_key};
use super::{CONNECTIONS, MILLISECONDS, row, word};
use crate::backend::{BackendKind, Carried, OptionKind, OptionRow, Schema};
use crate::config::PoolConfig;

pub(crate) static KIND: BackendKind = BackendKind {
    name: "mongo",
    aliases: &[],
    statements: "",
    doc: "MongoDB: the collections of `emqx_backend_mongo.js`.",
    options: OPTIONS,
    shared: TOPOLOGY,
    check,
    functions: Carried::All,
    expires: false,
    exact_only: None,
    documents: true,
    schema: Schema::File {
        name: "emqx_backend_mongo.js",
        text: include_str!("../../../schema/emqx_backend_mongo.js"),
    },
    open: None,
};

const OPTIONS: &[OptionRow] = &[
    row("type", word(&["single", "unknown", "sharded", "rs"]), "single", "What the servers are."),
    row("rs_set_name", OptionKind::Text, "", "With `type = rs`: the name of the replica set."),
    row(
        "server",
        OptionKind::Servers { port: 27017 },
        "127.0.0.1:27017",
        "The server, or several with commas.",
    ),
    row("c_pool_size", CONNECTIONS, "8", "Connections."),
    row("database", OptionKind::Text, "mqtt", "The database with the collections."),
    row("login", OptionKind::Text, "", "User name."),
    row("password", OptionKind::Secret, "", "Password."),
    row("auth_source", OptionKind::Text, "admin", "The database that knows the user."),
    row("ssl", OptionKind::Boolean, "false", "Whether connections are encrypted."),
    KEYFILE,
    CERTFILE,
    CACERTFILE,
    row(
        "w_mode",
        word(&["unsafe", "safe"]),
        "safe",
        "`safe`: a write is acknowledged by the server (w: 1); `unsafe`: it is not (w: 0), and may be lost.",
    ),
    row(
        "r_mode",
        OptionKind::Word { words: &["master", "slave_ok"], synonyms: &[("slaver_ok", "slave_ok")] },
        "master",
        "Who answers reads: the primary, or a secondary where there is one (`slave_ok`), which may not have the \
         newest messages yet.",
    ),
];

/// Why an option of the documents' driver means nothing to another.
const POOL_OF_ITS_OWN: &str = "connections are kept by the pool of `c_pool_size`";

const TOPOLOGY: &[OptionRow] = &[
    row("topology.pool_size", OptionKind::Inert(&CONNECTIONS), "1", POOL_OF_ITS_OWN),
    row(
        "topology.max_overflow",
        OptionKind::Inert(&OptionKind::Integer { min: 0, max: 65_535 }),
        "0",
        POOL_OF_ITS_OWN,
    ),
    row("topology.overflow_ttl", OptionKind::Inert(&MILLISECONDS), "1000", POOL_OF_ITS_OWN),
    row("topology.overflow_check_period", OptionKind::Inert(&MILLISECONDS), "1000", POOL_OF_ITS_OWN),
    row(
        "topology.local_threshold_ms",
        MILLISECONDS,
        "1000",
        "How much slower than the nearest server one may be that answers reads.",
    ),
    row("topology.connect_timeout_ms", MILLISECONDS, "20000", "How long a connection may take to be made."),
    row(
        "topology.socket_timeout_ms",
        MILLISECONDS,
        "100",
        "How long an idle connection waits for an answer of the server.",
    ),
    row(
        "topology.server_selection_timeout_ms",
        MILLISECONDS,
        "30000",
        "How long an operation waits for a server that may take it.",
    ),
    row("topology.wait_queue_timeout_ms", MILLISECONDS, "1000", "How long an operation waits for a connection."),
    row("topology.heartbeat_frequency_ms", MILLISECONDS, "10000", "Time between two looks at each server."),
    row("topology.min_heartbeat_frequency_ms", MILLISECONDS, "1000", "The least time between two such looks."),
];

fn check(pool: &PoolConfig) -> Option<(&'static str, String)> {
    if pool.text("type") == Some("rs") && pool.text("rs_set_name").is_none() {
        return Some(("type", "type = rs needs `rs_set_name`, the name of the replica set".into()));
    }
    if pool.text("login").is_some() && pool.text("password").is_none() {
        return Some(("login", "login needs `password`".into()));
    }
    certificate_with_key(pool)
}
