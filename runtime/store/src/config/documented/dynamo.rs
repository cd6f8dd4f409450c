//! DynamoDB: the options of documents 001 and 003.

use super::{CONNECTIONS, row};
use crate::backend::{BackendKind, Carried, OptionKind, OptionRow, Schema};
use crate::config::PoolConfig;

pub(crate) static KIND: BackendKind = BackendKind {
    name: "dynamo",
    aliases: &[],
    statements: "",
    doc: "DynamoDB: the tables of `emqx_backend_dynamo.sh`.",
    options: OPTIONS,
    shared: &[row("region", OptionKind::Text, "us-west-2", "The region of AWS.")],
    check,
    functions: Carried::All,
    expires: false,
    exact_only: None,
    documents: false,
    schema: Schema::File {
        name: "emqx_backend_dynamo.sh",
        text: include_str!("../../../schema/emqx_backend_dynamo.sh"),
    },
    open: None,
};

const OPTIONS: &[OptionRow] = &[
    row(
        "server",
        OptionKind::Url,
        "",
        "The server, for instance a local `http://localhost:8000`; none: the service of AWS in the region.",
    ),
    row("pool_size", CONNECTIONS, "8", "Requests at the same time."),
    row("aws_access_key_id", OptionKind::Secret, "", "Id of the access key; none: the environment's own."),
    row("aws_secret_access_key", OptionKind::Secret, "", "The access key."),
];

fn check(pool: &PoolConfig) -> Option<(&'static str, String)> {
    match (pool.text("aws_access_key_id"), pool.text("aws_secret_access_key")) {
        (Some(_), None) => {
            Some(("aws_access_key_id", "aws_access_key_id needs `aws_secret_access_key`".into()))
        }
        (None, Some(_)) => {
            Some(("aws_secret_access_key", "aws_secret_access_key needs `aws_access_key_id`".into()))
        }
        _ => None,
    }
}
