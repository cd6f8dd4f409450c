//! InfluxDB: the options of document 003 and two of our own.

use super::{CONNECTIONS, TEMPLATE_FUNCTIONS, row, word};
use crate::backend::{BackendKind, Carried, OptionKind, OptionRow, Schema, any_options};

pub(crate) static KIND: BackendKind = BackendKind {
    name: "influxdb",
    aliases: &[],
    statements: "",
    doc: "InfluxDB: points made by the templates of `emqx_backend_influxdb.tmpl`.",
    options: OPTIONS,
    shared: &[],
    check: any_options,
    functions: Carried::Only(TEMPLATE_FUNCTIONS),
    expires: false,
    exact_only: None,
    documents: false,
    schema: Schema::Nothing("InfluxDB makes measurements as points come; the database is made with its own tools"),
    open: None,
};

const OPTIONS: &[OptionRow] = &[
    row("server", OptionKind::Server { port: 8089 }, "127.0.0.1:8089", "The server's address for UDP."),
    row("pool_size", CONNECTIONS, "5", "Sockets."),
    row(
        "set_timestamp",
        OptionKind::Boolean,
        "true",
        "Whether a point has the time at which it was sent, in milliseconds: the server's precision must be \"ms\".",
    ),
    row(
        "field_types",
        word(&["string", "auto"]),
        "",
        "`string`: every field is a quoted string, as the documents print it, and as it is for .conf files; `auto`: \
         numbers and booleans stay what they are, as it is for tidegate.toml.",
    ),
    row("template", OptionKind::Path, "DATA/templates/emqx_backend_influxdb.tmpl", "File of templates."),
];
