//! Timescale: the options of document 003 and one of our own.

use super::pgsql::{CACERTFILE, CERTFILE, KEYFILE, certificate_with_key};
use super::{CONNECTIONS, TEMPLATE_FUNCTIONS, row};
use crate::backend::{BackendKind, Carried, OptionKind, OptionRow, Schema};

pub(crate) static KIND: BackendKind = BackendKind {
    name: "timescale",
    aliases: &[],
    statements: "sql",
    doc: "Timescale: rows made by the templates of `emqx_backend_timescale.tmpl`.",
    options: OPTIONS,
    shared: &[],
    check: certificate_with_key,
    functions: Carried::Only(TEMPLATE_FUNCTIONS),
    expires: false,
    exact_only: None,
    documents: false,
    schema: Schema::Nothing("its tables are yours: the statements of the templates name them"),
    open: None,
};

const OPTIONS: &[OptionRow] = &[
    row("server", OptionKind::Server { port: 5432 }, "127.0.0.1:5432", "The server."),
    row("pool_size", CONNECTIONS, "8", "Connections."),
    row("username", OptionKind::Text, "postgres", "User name."),
    row("password", OptionKind::Secret, "password", "Password; empty for a user that has none."),
    row("database", OptionKind::Text, "tutorial", "The database with your tables."),
    row("ssl", OptionKind::Boolean, "false", "Whether connections are encrypted."),
    KEYFILE,
    CERTFILE,
    CACERTFILE,
    row("template", OptionKind::Path, "DATA/templates/emqx_backend_timescale.tmpl", "File of templates."),
];
