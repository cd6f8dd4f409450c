//! Cassandra: the options of document 003, which calls pools `ecql` and hooks `cassa`.

use super::{CONNECTIONS, row, word};
use crate::backend::{BackendKind, Carried, OptionKind, OptionRow, Schema, any_options};

pub(crate) static KIND: BackendKind = BackendKind {
    name: "cassa",
    aliases: &["ecql"],
    statements: "cql",
    doc: "Cassandra: the tables of `emqx_backend_cassa.cql`. `backend.ecql` means the same.",
    options: OPTIONS,
    shared: &[],
    check: any_options,
    functions: Carried::All,
    expires: false,
    exact_only: None,
    documents: false,
    schema: Schema::File {
        name: "emqx_backend_cassa.cql",
        text: include_str!("../../../schema/emqx_backend_cassa.cql"),
    },
    open: None,
};

const OPTIONS: &[OptionRow] = &[
    row(
        "nodes",
        OptionKind::Servers { port: 9042 },
        "127.0.0.1:9042",
        "Nodes to ask first, with commas; the others are found.",
    ),
    row("size", CONNECTIONS, "8", "Connections."),
    row(
        "auto_reconnect",
        OptionKind::Integer { min: 1, max: 3_600 },
        "1",
        "Seconds between two attempts to connect again.",
    ),
    row("username", OptionKind::Text, "cassandra", "User name."),
    row("password", OptionKind::Secret, "cassandra", "Password."),
    row("keyspace", OptionKind::Text, "mqtt", "The keyspace with the tables."),
    row(
        "logger",
        OptionKind::Inert(&word(&["debug", "info", "warning", "error"])),
        "info",
        "log lines follow `log.level`",
    ),
];
