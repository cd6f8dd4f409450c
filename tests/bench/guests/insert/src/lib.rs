//! Inserts a row for every message and answers when it is there.

use tidegate_sdk::config::Config;
use tidegate_sdk::{Client, Event, Message, Result, Verdict, export, params, sql};

export!(init: start, message_publish: insert);

const DATABASE: &str = "sqlite:default";

fn start(_: Config) -> std::result::Result<(), String> {
    let create = "CREATE TABLE IF NOT EXISTS reading (topic TEXT NOT NULL, payload BLOB NOT NULL)";
    sql::exec(DATABASE, create, params![]).map(drop).map_err(|error| error.to_string())
}

fn insert(_: Event, _: Option<Client>, message: Message) -> Result<Verdict> {
    let row = params![&*message.topic, message.payload];
    sql::exec(DATABASE, "INSERT INTO reading (topic, payload) VALUES (?, ?)", row)?;
    Ok(Verdict::Pass)
}
