//! PostgreSQL: the options of document 003.

use super::{CONNECTIONS, row};
use crate::backend::{BackendKind, Carried, OptionKind, OptionRow, Schema};
use crate::config::PoolConfig;

pub(crate) static KIND: BackendKind = BackendKind {
    name: "pgsql",
    aliases: &[],
    statements: "sql",
    doc: "PostgreSQL: the tables of `emqx_backend_pgsql.sql`.",
    options: OPTIONS,
    shared: &[],
    check: certificate_with_key,
    functions: Carried::All,
    expires: false,
    exact_only: None,
    documents: false,
    schema: Schema::File {
        name: "emqx_backend_pgsql.sql",
        text: include_str!("../../../schema/emqx_backend_pgsql.sql"),
    },
    open: None,
};

const OPTIONS: &[OptionRow] = &[
    row("server", OptionKind::Server { port: 5432 }, "127.0.0.1:5432", "The server."),
    row("pool_size", CONNECTIONS, "8", "Connections."),
    row("username", OptionKind::Text, "root", "User name."),
    row("password", OptionKind::Secret, "public", "Password; empty for a user that has none."),
    row("database", OptionKind::Text, "mqtt", "The database with the tables."),
    row("ssl", OptionKind::Boolean, "false", "Whether connections are encrypted."),
    KEYFILE,
    CERTFILE,
    CACERTFILE,
];

pub(super) const KEYFILE: OptionRow =
    row("keyfile", OptionKind::Path, "", "With `ssl`: the client's key, PEM; `certfile` belongs to it.");
pub(super) const CERTFILE: OptionRow =
    row("certfile", OptionKind::Path, "", "With `ssl`: the client's certificate, PEM.");
pub(super) const CACERTFILE: OptionRow = row(
    "cacertfile",
    OptionKind::Path,
    "",
    "With `ssl`: certificates of authorities that the server's must come from, PEM.",
);

/// A certificate without its key is no use, nor a key without its certificate.
pub(super) fn certificate_with_key(pool: &PoolConfig) -> Option<(&'static str, String)> {
    match (pool.text("certfile"), pool.text("keyfile")) {
        (Some(_), None) => Some(("certfile", "certfile needs `keyfile`, its key".into())),
        (None, Some(_)) => Some(("keyfile", "keyfile needs `certfile`, its certificate".into())),
        _ => None,
    }
}
