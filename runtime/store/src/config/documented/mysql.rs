//! MySQL: the options of document 003.

use super::{CONNECTIONS, row};
use crate::backend::{BackendKind, Carried, OptionKind, OptionRow, Schema, any_options};

pub(crate) static KIND: BackendKind = BackendKind {
    name: "mysql",
    aliases: &[],
    statements: "sql",
    doc: "MySQL and MariaDB: the tables of `emqx_backend_mysql.sql`.",
    options: OPTIONS,
    shared: &[],
    check: any_options,
    functions: Carried::All,
    expires: false,
    exact_only: None,
    documents: false,
    schema: Schema::File {
        name: "emqx_backend_mysql.sql",
        text: include_str!("../../../schema/emqx_backend_mysql.sql"),
    },
    open: None,
};

const OPTIONS: &[OptionRow] = &[
    row("server", OptionKind::Server { port: 3306 }, "127.0.0.1:3306", "The server."),
    row("pool_size", CONNECTIONS, "8", "Connections."),
    row("user", OptionKind::Text, "root", "User name."),
    row("password", OptionKind::Secret, "public", "Password; empty for a user that has none."),
    row("database", OptionKind::Text, "mqtt", "The database with the tables."),
];
