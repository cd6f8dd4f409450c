//! Redis: the options of document 003.

use super::{CONNECTIONS, row, word};
use crate::backend::{BackendKind, Carried, OptionKind, OptionRow, Schema};
use crate::config::PoolConfig;

pub(crate) static KIND: BackendKind = BackendKind {
    name: "redis",
    aliases: &[],
    statements: "commands",
    doc: "Redis: hashes, sorted sets and keys under `mqtt:`.",
    options: OPTIONS,
    shared: &[],
    check,
    functions: Carried::All,
    expires: true,
    exact_only: Some("Redis could only find what they match by reading all keys"),
    documents: false,
    schema: Schema::Nothing("Redis has no tables: keys are made as they are written"),
    open: None,
};

const OPTIONS: &[OptionRow] = &[
    row("type", word(&["single", "sentinel", "cluster"]), "single", "What the servers are."),
    row(
        "server",
        OptionKind::Servers { port: 6379 },
        "127.0.0.1:6379",
        "The server; with sentinel and cluster several, with commas.",
    ),
    row("sentinel", OptionKind::Text, "", "With `type = sentinel`: the name of the master."),
    row("pool_size", CONNECTIONS, "8", "Connections."),
    row("database", OptionKind::Integer { min: 0, max: 65_535 }, "0", "Number of the database."),
    row("password", OptionKind::Secret, "", "Password."),
    row(
        "channel",
        OptionKind::Text,
        "mqtt_channel",
        "Channel on which other programs subscribe and unsubscribe clients; not with `type = cluster`.",
    ),
];

fn check(pool: &PoolConfig) -> Option<(&'static str, String)> {
    let kind = pool.text("type");
    if kind == Some("sentinel") && pool.text("sentinel").is_none() {
        return Some(("type", "type = sentinel needs `sentinel`, the name of the master".into()));
    }
    if kind == Some("cluster") && pool.is_set("channel") {
        let words = "Redis Cluster cannot use PUB/SUB: take `channel` out, or use another type";
        return Some(("channel", words.into()));
    }
    None
}
