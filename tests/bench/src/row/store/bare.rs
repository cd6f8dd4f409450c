//! The bare peer: sqlx and SQLite, the runtime's schema, pragmas, statements and batch size, and no broker.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tidegate_event::{IdSource, Node};

use crate::load::Span;

/// The very file that the runtime applies to a new database.
const SCHEMA: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../runtime/store/src/sqlite/schema.sql"));

/// Rows of one statement, largest first, as the runtime prepares them.
const SIZES: [usize; 5] = [256, 64, 16, 4, 1];

/// Rows a second, inserted in transactions of `batch` rows for `span`.
pub(super) async fn rate(batch: usize, topic: &str, payload: &[u8], span: Span) -> anyhow::Result<f64> {
    let directory = tempfile::tempdir()?;
    let options = SqliteConnectOptions::new()
        .filename(directory.path().join("bare.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(false)
        .statement_cache_capacity(256)
        .disable_statement_logging();
    let mut connection = SqliteConnection::connect_with(&options).await?;
    sqlx::raw_sql(SCHEMA).execute(&mut connection).await.context("making the tables")?;
    let mut rows = Rows {
        ids: IdSource::new(&Node::default()),
        statements: SIZES.map(statement),
        topic: topic.into(),
        sender: "pub-0".into(),
        arrived: "2026-01-01 00:00:00".into(),
        payload: std::str::from_utf8(payload).context("the payload is text")?.to_owned(),
    };
    let start = Instant::now();
    let mut measured = None;
    let mut count = 0;
    while start.elapsed() < span.warm_up + span.measure {
        if measured.is_none() && start.elapsed() >= span.warm_up {
            measured = Some((Instant::now(), count));
        }
        rows.insert(&mut connection, batch.max(1)).await?;
        count += batch.max(1);
    }
    let (since, before) = measured.context("one batch took longer than the warm-up")?;
    let rate = (count - before) as f64 / since.elapsed().as_secs_f64();
    connection.close().await?;
    Ok(rate)
}

fn statement(rows: usize) -> Arc<str> {
    let values = vec!["(?,?,?,?,?,?,?)"; rows].join(",");
    format!(
        "INSERT INTO mqtt_msg (msgid, topic, sender, qos, retain, payload, arrived) VALUES {values} \
         ON CONFLICT (msgid) DO NOTHING"
    )
    .into()
}

struct Rows {
    ids: IdSource,
    statements: [Arc<str>; SIZES.len()],
    topic: Arc<str>,
    sender: Arc<str>,
    arrived: Arc<str>,
    payload: String,
}

impl Rows {
    /// One transaction of `count` rows.
    async fn insert(&mut self, connection: &mut SqliteConnection, mut count: usize) -> anyhow::Result<()> {
        connection.execute("BEGIN IMMEDIATE").await?;
        for (size, statement) in SIZES.into_iter().zip(&self.statements) {
            while count >= size {
                let mut arguments = SqliteArguments::default();
                arguments.reserve(size * 7, 0);
                for _ in 0..size {
                    self.bind(&mut arguments).map_err(anyhow::Error::from_boxed)?;
                }
                let query = sqlx::query_with(AssertSqlSafe(statement.clone()), arguments);
                query.execute(&mut *connection).await?;
                count -= size;
            }
        }
        connection.execute("COMMIT").await?;
        Ok(())
    }

    fn bind(&self, arguments: &mut SqliteArguments) -> Result<(), sqlx::error::BoxDynError> {
        arguments.add(self.ids.next_id().to_string())?;
        arguments.add(self.topic.clone())?;
        arguments.add(self.sender.clone())?;
        arguments.add(1_i64)?;
        arguments.add(0_i64)?;
        arguments.add(self.payload.clone())?;
        arguments.add(self.arrived.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn rows_are_inserted_in_transactions_of_any_size() {
        let span = Span { warm_up: Duration::from_millis(1), measure: Duration::from_millis(50) };
        for batch in [1, 341] {
            assert!(rate(batch, "t", b"{}", span).await.unwrap() > 0.0);
        }
    }
}
