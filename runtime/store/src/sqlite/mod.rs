//! SQLite: the embedded back end. One connection writes, several read; the tables are MySQL's of document 003.

mod connection;
mod error;
mod pairs;
mod read;
mod rows;
mod value;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Column as _, Executor as _, Row as _, SqlSafeStr as _, SqliteConnection};
use tidegate_event::{BoxFuture, Rows, SqlValue, TopicFilter};
use tokio::sync::{Mutex, MutexGuard};

use crate::backend::{
    Backend, BackendError, BackendKind, Carried, Limits, OptionKind, OptionRow, Page, RetainedPage, Schema,
    Unread, WriteError, any_options,
};
use crate::config::{OptionValue, PoolConfig};
use crate::operation::Operation;
use crate::pairs::Pairs;
use crate::statement::{Template, changes_rows};
use connection::{Connection, File, Readers};
use value::Params;

/// The back end's entry in the list.
pub static KIND: BackendKind = BackendKind {
    name: "sqlite",
    aliases: &[],
    statements: "sql",
    doc: "A file on this machine, with MySQL's tables; a new file gets them by itself.",
    options: &[
        OptionRow {
            name: "path",
            kind: OptionKind::Path,
            default: "DATA/POOL.db",
            doc: "The database file, relative to the working directory; made with its directory when missing. DATA is \
                  the directory of `[data]`; the file of the pool `default` is `DATA/tidegate.db`.",
        },
        OptionRow {
            name: "pool_size",
            kind: OptionKind::Integer { min: 1, max: 64 },
            default: "8",
            doc: "Connections that read; one more writes.",
        },
        inert("server"),
        inert("user"),
        inert("password"),
        inert("database"),
    ],
    shared: &[],
    check: any_options,
    functions: Carried::All,
    expires: false,
    exact_only: None,
    documents: false,
    schema: Schema::ByItself { name: "emqx_backend_sqlite.sql", text: include_str!("schema.sql") },
    open: Some(|pool, limits| Box::pin(open(pool, limits))),
};

/// Options of MySQL's pools, so that its file loads with the word replaced.
const fn inert(name: &'static str) -> OptionRow {
    let kind = OptionKind::Inert(&OptionKind::Text);
    OptionRow { name, kind, default: "", doc: "the database is the file named by `path`" }
}

/// A database call that failed: in the driver, or before it got there.
enum Failure {
    Driver(sqlx::Error),
    Ours(BackendError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Driver(error)
    }
}

/// An open database file.
struct Sqlite {
    connector: String,
    file: File,
    limits: Limits,
    /// `None` until it is opened, and after it was lost.
    writer: Mutex<Option<Connection>>,
    readers: Readers,
}

async fn open(pool: &PoolConfig, limits: Limits) -> Result<Arc<dyn Backend>, BackendError> {
    let path = match pool.text("path") {
        Some(path) if path == ":memory:" || path.starts_with("file:") => {
            let message =
                "path must name a file: connections of a pool cannot share a database in memory".into();
            return Err(BackendError::Invalid(message));
        }
        Some(path) => PathBuf::from(path),
        // The default is in the data directory, which only the caller knows.
        None => return Err(BackendError::Invalid("path is not set: it names the database file".into())),
    };
    let readers = usize::try_from(pool.integer("pool_size").unwrap_or(8)).unwrap_or(8);
    let (file, connector) = (File { path }, pool.connector());
    let writer = match file.open_writer(&connector).await {
        Ok(connection) => Some(connection),
        Err(error) if error::is_hopeless(&error) || matches!(error, sqlx::Error::Io(_)) => {
            // A path that was given by reference is shown by reference.
            let shown = match pool.options.get("path") {
                Some(OptionValue::Secret(secret)) => secret.to_string(),
                _ => file.path.display().to_string(),
            };
            return Err(BackendError::Invalid(format!("{shown} cannot be used as a database: {error}")));
        }
        Err(error) => {
            tracing::warn!(%connector, %error, "the database cannot be opened now, it is tried again");
            None
        }
    };
    let readers = Readers::new(file.clone(), connector.clone(), readers);
    Ok(Arc::new(Sqlite { connector, file, limits, writer: Mutex::new(writer), readers }))
}

impl Sqlite {
    fn error(&self, failure: impl Into<Failure>) -> BackendError {
        match failure.into() {
            Failure::Driver(error) => error::classify(error, self.limits.statement_timeout),
            Failure::Ours(error) => error,
        }
    }

    /// The writing connection, opened anew when its last user went away half-way.
    async fn writer(&self) -> Result<MutexGuard<'_, Option<Connection>>, BackendError> {
        let mut writer = self.writer.lock().await;
        if writer.as_ref().is_none_or(|connection| connection.busy) {
            *writer = None; // closes the old one, which rolls its transaction back
            *writer = Some(self.file.open_writer(&self.connector).await.map_err(|e| self.error(e))?);
        }
        Ok(writer)
    }

    /// Runs `work` in a transaction on the writing connection: all or nothing, durable when it returns.
    async fn transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, BackendError> {
        let mut writer = self.writer().await?;
        let Some(connection) = writer.as_mut() else {
            return Err(BackendError::Unavailable("the connection is gone".into()));
        };
        connection.limit(None);
        connection.busy = true;
        let result: Result<T, Failure> = async {
            // IMMEDIATE: wait for other processes before the work is done, not in the middle of it.
            command(&mut connection.inner, "BEGIN IMMEDIATE").await?;
            let result = work(connection).await?;
            connection.limit(None);
            command(&mut connection.inner, "COMMIT").await?;
            Ok(result)
        }
        .await;
        match result {
            Ok(result) => {
                connection.busy = false;
                Ok(result)
            }
            Err(failure) => {
                connection.limit(None);
                // SQLite has rolled back by itself after some errors; "no transaction is active" is fine then.
                connection.busy = match command(&mut connection.inner, "ROLLBACK").await {
                    Ok(()) => false,
                    Err(error) => error.as_database_error().is_none(),
                };
                Err(self.error(failure))
            }
        }
    }

    /// Runs `work` on a reading connection.
    async fn reading<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut reader = self.readers.lend().await?;
        let connection = reader.begin(self.limits.statement_timeout)?;
        let result = work(&mut connection.inner).await;
        if !matches!(&result, Err(Failure::Driver(error)) if error.as_database_error().is_none()) {
            reader.finished();
        }
        result
    }

    async fn rows(
        &self,
        connection: &mut SqliteConnection,
        statement: &str,
        params: Params,
    ) -> Result<Rows, Failure> {
        let text = AssertSqlSafe(Arc::<str>::from(statement)).into_sql_str();
        let mut stream =
            sqlx::query_with(text, params.finish()?).persistent(is_kept(statement)).fetch(connection);
        let (mut rows, mut size) = (Rows::default(), 0);
        while let Some(row) = stream.try_next().await? {
            if rows.columns.is_empty() {
                rows.columns = row.columns().iter().map(|column| column.name().to_owned()).collect();
            }
            let values =
                (0..row.len()).map(|index| value::column(&row, index)).collect::<Result<Vec<_>, _>>()?;
            size += values.iter().map(value::size).sum::<usize>();
            if size > self.limits.max_result_bytes {
                return Err(Failure::Ours(BackendError::TooLarge(self.limits.max_result_bytes)));
            }
            rows.rows.push(values);
        }
        Ok(rows)
    }
}

/// Whether a connection keeps a guest's statement prepared. Long ones would fill the memory: a connection keeps many.
const fn is_kept(statement: &str) -> bool {
    statement.len() <= 16 * 1024
}

async fn command(connection: &mut SqliteConnection, text: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(text).execute(connection).await.map(drop)
}

impl Backend for Sqlite {
    fn write<'a>(&'a self, operations: &'a [Operation]) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move {
            let failed = AtomicUsize::new(usize::MAX);
            let work = async |connection: &mut Connection| {
                write::execute(connection, operations, &self.limits, &failed).await
            };
            self.transaction(work).await.map_err(|error| {
                let failed = failed.load(Ordering::Relaxed);
                WriteError {
                    error,
                    operation: (failed < operations.len()).then_some(failed),
                    refused: Vec::new(),
                    undecided: Vec::new(),
                }
            })
        })
    }

    fn subscriptions<'a>(
        &'a self,
        client: &'a str,
    ) -> BoxFuture<'a, Result<Vec<(String, i64)>, BackendError>> {
        Box::pin(async move {
            let read = self.reading(async |connection| read::subscriptions(connection, client).await);
            read.await.map_err(|failure| self.error(failure))
        })
    }

    fn unread<'a>(&'a self, wanted: &'a Unread) -> BoxFuture<'a, Result<Page, BackendError>> {
        Box::pin(async move {
            let read = self.reading(async |connection| {
                read::unread(connection, wanted, self.limits.max_result_bytes).await
            });
            read.await.map_err(|failure| self.error(failure))
        })
    }

    fn retained<'a>(
        &'a self,
        filter: &'a TopicFilter,
        after: Option<&'a str>,
        limit: u32,
    ) -> BoxFuture<'a, Result<RetainedPage, BackendError>> {
        Box::pin(async move {
            let read = self.reading(async |connection| {
                read::retained(connection, filter, after, limit, self.limits.max_result_bytes).await
            });
            read.await.map_err(|failure| self.error(failure))
        })
    }

    fn query<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, BackendError>> {
        Box::pin(async move {
            let given = Params::of(params.clone());
            let read = self.reading(async |connection| self.rows(connection, statement, given).await);
            match read.await {
                // INSERT ... RETURNING and the like: rows, but not for a connection that reads.
                Err(Failure::Driver(error)) if error::is_read_only(&error) => {
                    let write = async |connection: &mut Connection| {
                        connection.limit(Some(self.limits.statement_timeout));
                        self.rows(&mut connection.inner, statement, Params::of(params)).await
                    };
                    self.transaction(write).await
                }
                other => other.map_err(|failure| self.error(failure)),
            }
        })
    }

    fn exec<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<Vec<SqlValue>>,
    ) -> BoxFuture<'a, Result<u64, BackendError>> {
        Box::pin(async move {
            let text: Arc<str> = Arc::from(statement);
            let changes_rows = changes_rows(statement);
            let write = async |connection: &mut Connection| {
                connection.limit(Some(self.limits.statement_timeout));
                let mut changed = 0;
                for list in params {
                    let query =
                        sqlx::query_with(AssertSqlSafe(Arc::clone(&text)), Params::of(list).finish()?)
                            .persistent(is_kept(&text));
                    let rows = query.execute(&mut connection.inner).await?.rows_affected();
                    // After other statements SQLite repeats the number of the last one that changed rows.
                    changed += if changes_rows { rows } else { 0 };
                }
                Ok(changed)
            };
            self.transaction(write).await
        })
    }

    fn pairs(&self) -> Option<&dyn Pairs> {
        Some(self)
    }

    fn prepare<'a>(&'a self, statement: &'a Template) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let text = AssertSqlSafe(Arc::clone(statement.text())).into_sql_str();
            let prepare = self.reading(async |connection| Ok(connection.prepare(text).await.map(drop)?));
            prepare.await.map_err(|failure| self.error(failure))
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(async move {
            drop(self.writer().await?);
            let ask = self
                .reading(async |connection| Ok(command(connection, "SELECT 1 FROM mqtt_msg LIMIT 1").await?));
            ask.await.map_err(|failure| self.error(failure))
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // Readers first: the last connection that closes writes the log back into the file.
            self.readers.close().await;
            if let Some(connection) = self.writer.lock().await.take() {
                connection::close(connection).await;
            }
        })
    }
}
