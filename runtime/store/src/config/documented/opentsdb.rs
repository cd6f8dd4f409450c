//! OpenTSDB: the options of document 003 and one of our own.

use super::{CONNECTIONS, MILLISECONDS, TEMPLATE_FUNCTIONS, row};
use crate::backend::{BackendKind, Carried, OptionKind, OptionRow, Schema, any_options};

pub(crate) static KIND: BackendKind = BackendKind {
    name: "opentsdb",
    aliases: &[],
    statements: "",
    doc: "OpenTSDB: points made by the templates of `emqx_backend_opentsdb.tmpl`.",
    options: OPTIONS,
    shared: &[],
    check: any_options,
    functions: Carried::Only(TEMPLATE_FUNCTIONS),
    expires: false,
    exact_only: None,
    documents: false,
    schema: Schema::Nothing("OpenTSDB's tables are made with its own tools; metrics may be made as points come"),
    open: None,
};

const OPTIONS: &[OptionRow] = &[
    row("server", OptionKind::Server { port: 4242 }, "127.0.0.1:4242", "The server."),
    row("pool_size", CONNECTIONS, "8", "Requests at the same time."),
    row("summary", OptionKind::Boolean, "true", "Whether the server answers with numbers of points."),
    row("details", OptionKind::Boolean, "false", "Whether the server answers with what was wrong with points."),
    row("sync", OptionKind::Boolean, "false", "Whether the server answers after the points are stored."),
    row(
        "sync_timeout",
        MILLISECONDS,
        "0",
        "With `sync`: milliseconds after which the server answers all the same; 0 = never.",
    ),
    row(
        "max_batch_size",
        OptionKind::Integer { min: 0, max: 1_000_000 },
        "20",
        "Most points of a request; 0 = no limit.",
    ),
    row("template", OptionKind::Path, "DATA/templates/emqx_backend_opentsdb.tmpl", "File of templates."),
];
