//! Redis: one server, a master that sentinels know, or a cluster; the keys are those of document 003.
//!
//! ```text
//! settings -> link (connections; sentinel finds the master) <- write (batch: operations -> commands in stages)
//!                                                           <- read, pairs, commands of guests
//!             channel (requests for subscriptions)
//! ```
//!
//! A batch is one pipeline of transactions on a server. On a cluster its steps go to the nodes of their keys at the
//! same time, stage after stage, in an order in which a crash loses nothing. Everything built-in may be repeated.

mod batch;
mod channel;
mod commands;
mod error;
mod keys;
mod link;
mod message;
mod pairs;
mod read;
mod reply;
mod script;
mod sentinel;
mod settings;
mod write;

use std::sync::Arc;

use redis::{Value, cmd};
use tidegate_event::{BoxFuture, Control, Rows, SqlValue, TopicFilter};

use crate::backend::{
    Backend, BackendError, BackendKind, Carried, Limits, OptionKind, Page, RetainedPage, Schema, Unread,
    WriteError,
};
use crate::commands::Commands;
use crate::config::PoolConfig;
use crate::config::documented::{row, word};
use crate::operation::Operation;
use crate::pairs::Pairs;
use crate::statement::{Language, Template};
use link::{Links, one};
use message::ForeignIds;
use settings::Settings;

/// The back end's entry in the list.
pub static KIND: BackendKind = BackendKind {
    name: "redis",
    aliases: &[],
    statements: "commands",
    doc: "Redis, as one server, a master with sentinels, or a cluster: hashes, sorted sets and keys under `mqtt:`.",
    options: &[
        row("type", word(&["single", "sentinel", "cluster"]), "single", "What the servers are."),
        row(
            "server",
            OptionKind::Servers { port: 6_379 },
            "127.0.0.1:6379",
            "host:port of the server; a comma list of sentinels, or of some nodes of the cluster.",
        ),
        row("sentinel", OptionKind::Text, "", "With `sentinel`: the name of the master."),
        row(
            "pool_size",
            OptionKind::Integer { min: 1, max: 64 },
            "8",
            "Connections (on a cluster: to every master). As many batches of different topics are written at once.",
        ),
        row(
            "database",
            OptionKind::Integer { min: 0, max: 1_000_000 },
            "0",
            "Number of the database; 0 on a cluster.",
        ),
        row("user", OptionKind::Text, "", "ACL user; the default user when unset."),
        row("password", OptionKind::Secret, "", "Its password."),
        row("sentinel_password", OptionKind::Secret, "", "The sentinels' own password."),
        row(
            "channel",
            OptionKind::Text,
            "mqtt_channel",
            "Channel on which requests for subscriptions are taken. Refused on a cluster.",
        ),
        row("ssl", OptionKind::Boolean, "false", "TLS, to sentinels too."),
        row("cacertfile", OptionKind::Text, "", "PEM file of authorities; the system's when unset."),
        row("certfile", OptionKind::Text, "", "PEM file of the client's certificate."),
        row("keyfile", OptionKind::Text, "", "PEM file of its key."),
        row(
            "connect_timeout",
            OptionKind::Integer { min: 1, max: 600_000 },
            "5000",
            "Milliseconds until an attempt to connect is given up.",
        ),
        row(
            "query_timeout",
            OptionKind::Integer { min: 1, max: 600_000 },
            "5000",
            "Milliseconds until a command without an answer is given up, and its connection with it.",
        ),
        row(
            "wait_replicas",
            OptionKind::Integer { min: 0, max: 16 },
            "0",
            "Replicas that must have a batch before it counts as stored (WAIT). Refused on a cluster.",
        ),
        row(
            "auto_reconnect",
            OptionKind::Inert(&OptionKind::Text),
            "",
            "the driver always connects again, by need",
        ),
    ],
    shared: &[],
    check: settings::check,
    functions: Carried::All,
    expires: true,
    exact_only: Some("Redis could only find what they match by reading all keys"),
    documents: false,
    schema: Schema::Nothing("Redis has no tables: keys are made as they are written"),
    open: Some(|pool, limits| Box::pin(std::future::ready(open(pool, limits)))),
};

/// An open pool.
struct Redis {
    links: Arc<Links>,
    limits: Limits,
    foreign: ForeignIds,
}

fn open(pool: &PoolConfig, limits: Limits) -> Result<Arc<dyn Backend>, BackendError> {
    let links = Links::new(Settings::of(pool)?);
    Ok(Arc::new(Redis { links: Arc::new(links), limits, foreign: ForeignIds::default() }))
}

fn no_sql() -> BackendError {
    BackendError::Invalid("redis takes commands, not SQL".into())
}

impl Backend for Redis {
    fn shards(&self) -> usize {
        self.links.settings.connections
    }

    fn positions_are_ids(&self) -> bool {
        true
    }

    fn language(&self) -> Language {
        Language::Commands
    }

    fn finds_by_wildcard(&self) -> bool {
        false
    }

    fn write<'a>(&'a self, operations: &'a [Operation]) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(write::execute(&self.links, operations, &self.foreign))
    }

    fn subscriptions<'a>(
        &'a self,
        client: &'a str,
    ) -> BoxFuture<'a, Result<Vec<(String, i64)>, BackendError>> {
        Box::pin(read::subscriptions(&self.links, client))
    }

    fn unread<'a>(&'a self, wanted: &'a Unread) -> BoxFuture<'a, Result<Page, BackendError>> {
        if wanted.filter.is_wildcard() {
            return Box::pin(std::future::ready(Ok(Page::default())));
        }
        Box::pin(read::unread(&self.links, wanted, &self.foreign, self.limits.max_result_bytes))
    }

    fn retained<'a>(
        &'a self,
        filter: &'a TopicFilter,
        _after: Option<&'a str>,
        _limit: u32,
    ) -> BoxFuture<'a, Result<RetainedPage, BackendError>> {
        if filter.is_wildcard() {
            return Box::pin(std::future::ready(Ok(RetainedPage::default())));
        }
        Box::pin(read::retained(&self.links, filter, &self.foreign))
    }

    fn query<'a>(&'a self, _: &'a str, _: Vec<SqlValue>) -> BoxFuture<'a, Result<Rows, BackendError>> {
        Box::pin(std::future::ready(Err(no_sql())))
    }

    fn exec<'a>(&'a self, _: &'a str, _: Vec<Vec<SqlValue>>) -> BoxFuture<'a, Result<u64, BackendError>> {
        Box::pin(std::future::ready(Err(no_sql())))
    }

    fn pairs(&self) -> Option<&dyn Pairs> {
        Some(self)
    }

    fn commands(&self) -> Option<&dyn Commands> {
        Some(self)
    }

    fn listen(&self, control: Arc<dyn Control>) -> Option<BoxFuture<'static, ()>> {
        self.links.settings.channel.as_ref()?;
        Some(Box::pin(channel::listen(Arc::clone(&self.links), control)))
    }

    fn prepare<'a>(&'a self, statement: &'a Template) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let words = statement.words(&[]);
            let Some(name) = words.first() else { return Err(no_sql()) };
            let mut info = cmd("COMMAND");
            info.arg("INFO").arg(name);
            let reply = one(self.links.each(vec![vec![info]]).await?, "")?;
            check_arity(&reply, words.len())
                .map_err(|message| BackendError::Refused { code: "ERR".into(), message })
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(self.links.check())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.links.close())
    }
}

/// Whether a command of so many words can be right, by the server's own description of it.
fn check_arity(info: &Value, words: usize) -> Result<(), String> {
    let Value::Array(list) = info else { return Ok(()) };
    let Some(Value::Array(parts)) = list.first() else {
        return Err("the server does not know this command".into());
    };
    let Some(Value::Int(arity)) = parts.get(1) else { return Ok(()) };
    let (given, wanted) = (i64::try_from(words).unwrap_or(i64::MAX), arity.abs());
    if given == wanted || (*arity < 0 && given > wanted) {
        return Ok(());
    }
    let least = if *arity < 0 { "at least " } else { "" };
    Err(format!("the command has {given} words, it takes {least}{wanted}"))
}
