//! Inserts a row for every message and answers when it is there; messages that come together are one transaction.

use tidegate_sdk::config::Config;
use tidegate_sdk::sql::Value;
use tidegate_sdk::{HookError, Published, Result, Verdict, export, params, sql};

export!(init: start, message_publish_batch: insert);

const DATABASE: &str = "sqlite:default";

fn start(_: Config) -> std::result::Result<(), String> {
    let create = "CREATE TABLE IF NOT EXISTS reading (topic TEXT NOT NULL, payload BLOB NOT NULL)";
    sql::exec(DATABASE, create, params![]).map(drop).map_err(|error| error.to_string())
}

fn insert(batch: Vec<Published>) -> Vec<Result<Verdict>> {
    let count = batch.len();
    let row = |one: Published| vec![Value::from(&*one.message.topic), Value::from(one.message.payload)];
    let rows: Vec<_> = batch.into_iter().map(row).collect();
    let done = sql::exec_batch(DATABASE, "INSERT INTO reading (topic, payload) VALUES (?, ?)", &rows);
    let answer = done.map(|_| Verdict::Pass).map_err(HookError::from);
    vec![answer; count]
}
