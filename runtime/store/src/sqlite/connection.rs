//! Connections to one database file: one that writes, several that read.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::backend::BackendError;

/// How long SQLite waits for a lock of another process before it reports "busy". Short, so that the state becomes
/// visible; the writer tries again anyway.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// Prepared statements kept by a connection: ours of every size, and custom ones.
const STATEMENT_CACHE: usize = 256;
/// Virtual machine steps between two looks at the clock.
const STEPS_PER_LOOK: i32 = 20_000;

/// Where the database is.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
}

impl File {
    fn options(&self, connector: &str, role: &'static str) -> SqliteConnectOptions {
        let thread = format!("{connector} {role}");
        SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // COMMIT returns after the log is on the disk: what is acknowledged survives.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(false)
            .statement_cache_capacity(STATEMENT_CACHE)
            .thread_name(move |_| thread.clone())
            .disable_statement_logging()
    }

    /// Opens the connection that writes and makes the tables that are missing.
    pub(super) async fn open_writer(&self, connector: &str) -> Result<Connection, sqlx::Error> {
        if let Some(dir) = self.path.parent() {
            tokio::fs::create_dir_all(dir).await?;
        }
        self.create().await;
        let mut connection = Connection::open(self.options(connector, "writer")).await?;
        sqlx::raw_sql(include_str!("schema.sql")).execute(&mut connection.inner).await?;
        connection.busy = false;
        Ok(connection)
    }

    /// Makes a missing file that only its owner can read: it may hold whatever is published. SQLite's other files get
    /// the same permissions from it. SQLite reports what is wrong when this fails.
    async fn create(&self) {
        let mut options = tokio::fs::OpenOptions::new();
        // Never opens a file that exists: closing it again would release SQLite's locks of this process (POSIX).
        options.write(true).create_new(true);
        #[cfg(unix)]
        options.mode(0o600);
        if let Err(error) = options.open(&self.path).await
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            tracing::debug!(path = %self.path.display(), %error, "the database file cannot be made");
        }
    }

    async fn open_reader(&self, connector: &str) -> Result<Connection, sqlx::Error> {
        let options = self.options(connector, "reader").create_if_missing(false).pragma("query_only", "1");
        Connection::open(options).await
    }
}

/// Milliseconds since the process began to use databases: a clock that never jumps.
fn clock_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A connection and the deadline of what runs on it.
pub(super) struct Connection {
    pub(super) inner: SqliteConnection,
    /// On [`clock_ms`]; 0 = none.
    deadline: Arc<AtomicU64>,
    /// Set while it is used. Still set when the user went away half-way: a statement may be running and a
    /// transaction be open, so the connection is not used again.
    pub(super) busy: bool,
}

impl Connection {
    async fn open(options: SqliteConnectOptions) -> Result<Self, sqlx::Error> {
        let mut inner = SqliteConnection::connect_with(&options).await?;
        let deadline = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&deadline);
        inner.lock_handle().await?.set_progress_handler(STEPS_PER_LOOK, move || {
            let deadline = seen.load(Ordering::Relaxed);
            deadline == 0 || clock_ms() < deadline
        });
        Ok(Self { inner, deadline, busy: true })
    }

    /// Interrupts what runs from now on after `timeout`; `None` = never.
    pub(super) fn limit(&self, timeout: Option<Duration>) {
        let deadline = timeout.map_or(0, |timeout| {
            clock_ms().saturating_add(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)).max(1)
        });
        self.deadline.store(deadline, Ordering::Relaxed);
    }
}

/// The connections that read: opened when needed, at most `size`.
pub(super) struct Readers {
    file: File,
    connector: String,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

/// A reading connection on loan.
pub(super) struct Reader<'a> {
    pub(super) connection: Option<Connection>,
    home: &'a Readers,
    _permit: SemaphorePermit<'a>,
}

impl Readers {
    pub(super) fn new(file: File, connector: String, size: usize) -> Self {
        Self { file, connector, idle: Mutex::default(), permits: Semaphore::new(size.max(1)) }
    }

    /// Lends a connection, waiting for one.
    pub(super) async fn lend(&self) -> Result<Reader<'_>, sqlx::Error> {
        let permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.file.open_reader(&self.connector).await?,
        };
        Ok(Reader { connection: Some(connection), home: self, _permit: permit })
    }

    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        for connection in idle {
            close(connection).await;
        }
    }
}

impl Reader<'_> {
    /// The connection, marked as used until [`finished`](Self::finished).
    pub(super) fn begin(&mut self, timeout: Duration) -> Result<&mut Connection, BackendError> {
        let gone = || BackendError::Unavailable("the connection is gone".into());
        let connection = self.connection.as_mut().ok_or_else(gone)?;
        connection.busy = true;
        connection.limit(Some(timeout));
        Ok(connection)
    }

    /// The statement ended, well or badly: the connection can be used again.
    pub(super) fn finished(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.busy = false;
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|c| !c.busy) {
            self.home.idle.lock().push(connection);
        }
    }
}

pub(super) async fn close(connection: Connection) {
    if let Err(error) = connection.inner.close().await {
        tracing::debug!(%error, "closing a connection");
    }
}
