//! SQLite: a file of the runtime's, and the bare peer: sqlx, the runtime's schema, pragmas and statements, and no broker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tempfile::TempDir;
use tidegate_event::{IdSource, Node};

use super::Work;

/// The very file that the runtime applies to a new database.
const SCHEMA: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../runtime/store/src/sqlite/schema.sql"));

/// Rows of one statement, largest first, as the runtime prepares them.
const SIZES: [usize; 5] = [256, 64, 16, 4, 1];

/// A file for the runtime, in a directory of its own.
pub(super) struct Sqlite {
    directory: TempDir,
}

impl Sqlite {
    pub(super) fn open() -> anyhow::Result<Self> {
        Ok(Self { directory: tempfile::tempdir()? })
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("bench.db")
    }

    pub(super) fn pool(&self) -> String {
        format!("backend.sqlite.pool1.path = {}\n", self.path().display())
    }

    /// How many messages there are, each with an id of its own.
    pub(super) async fn stored(&self) -> anyhow::Result<u64> {
        let options = SqliteConnectOptions::new().filename(self.path()).read_only(true);
        let mut connection =
            SqliteConnection::connect_with(&options).await.context("opening the database")?;
        let (rows, ids): (i64, i64) = sqlx::query_as("SELECT count(*), count(DISTINCT msgid) FROM mqtt_msg")
            .fetch_one(&mut connection)
            .await
            .context("counting rows")?;
        connection.close().await.context("closing the database")?;
        ensure!(rows == ids, "{rows} rows have {ids} ids");
        Ok(rows.unsigned_abs())
    }

    /// A connection that holds the file's one right to write.
    pub(super) async fn lock(&self) -> anyhow::Result<SqliteConnection> {
        let options = SqliteConnectOptions::new().filename(self.path()).busy_timeout(Duration::from_secs(30));
        let mut connection = SqliteConnection::connect_with(&options).await?;
        connection.execute("BEGIN IMMEDIATE").await.context("locking the database")?;
        Ok(connection)
    }

    /// Removes the file; the runtime makes a new one.
    pub(super) fn empty(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(self.directory.path())? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }
}

/// Rows a second, inserted by one connection, as the runtime does: a file has one writer.
pub(super) async fn rate(work: &Work) -> anyhow::Result<f64> {
    let (batch, span) = (work.batch, work.span);
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
        topics: work.topics.iter().map(|topic| topic.as_str().into()).collect(),
        bound: 0,
        sender: "pub-0".into(),
        arrived: "2026-01-01 00:00:00".into(),
        payload: std::str::from_utf8(&work.payload).context("the payload is text")?.to_owned(),
    };
    let start = Instant::now();
    let mut measured = None;
    let mut count = 0;
    while start.elapsed() < span.warm_up + span.measure {
        if measured.is_none() && start.elapsed() >= span.warm_up {
            measured = Some((Instant::now(), count));
        }
        rows.insert(&mut connection, batch).await?;
        count += batch;
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
    topics: Vec<Arc<str>>,
    /// Rows bound so far: topics take turns.
    bound: usize,
    sender: Arc<str>,
    arrived: Arc<str>,
    payload: String,
}

impl Rows {
    /// One transaction of `count` rows.
    async fn insert(&mut self, connection: &mut SqliteConnection, mut count: usize) -> anyhow::Result<()> {
        connection.execute("BEGIN IMMEDIATE").await?;
        for (size, statement) in SIZES.into_iter().zip(self.statements.clone()) {
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

    fn bind(&mut self, arguments: &mut SqliteArguments) -> Result<(), sqlx::error::BoxDynError> {
        arguments.add(self.ids.next_id().to_string())?;
        let topic = self.topics.get(self.bound % self.topics.len().max(1)).cloned().unwrap_or_default();
        self.bound += 1;
        arguments.add(topic)?;
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
    use super::*;
    use crate::load::Span;

    #[tokio::test]
    async fn rows_are_inserted_in_transactions_of_any_size() {
        let span = Span { warm_up: Duration::from_millis(1), measure: Duration::from_millis(50) };
        for batch in [1, 341] {
            let topics = vec!["t/0".into(), "t/1".into()];
            let work = Work { topics, batch, payload: b"{}".to_vec(), span };
            assert!(rate(&work).await.unwrap() > 0.0);
        }
    }
}
