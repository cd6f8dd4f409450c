//! What a database must be able to do, and which back ends this binary has.

use std::sync::Arc;
use std::time::Duration;

use tidegate_event::{BoxFuture, Control, Message, Rows, SqlValue, StorageError, TopicFilter};

use crate::commands::Commands;
use crate::config::{HookLine, PoolConfig};
use crate::operation::Operation;
use crate::pairs::Pairs;
use crate::statement::{Language, Template};

/// Why a database call failed, by what the caller can do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BackendError {
    /// The database cannot be used now (down, locked, disk full): the same call may succeed later.
    #[error("{0}")]
    Unavailable(String),
    /// The database refuses this operation for good.
    #[error("{message} (code {code})")]
    Refused {
        /// The database's code.
        code: String,
        /// The database's words.
        message: String,
    },
    /// The statement ran longer than it may.
    #[error("the statement ran longer than {0:?}")]
    TimedOut(Duration),
    /// The call itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The result is larger than it may be.
    #[error("the result has more than {0} bytes")]
    TooLarge(usize),
}

impl BackendError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// The error as a guest sees it.
    pub(crate) fn into_storage(self, connector: &str) -> StorageError {
        let connector = connector.to_owned();
        match self {
            Self::Unavailable(reason) => StorageError::Unavailable { connector, reason },
            Self::Refused { code, message } => {
                StorageError::Failed { connector, code, message, retryable: false }
            }
            Self::TimedOut(_) => StorageError::Timeout { connector },
            Self::Invalid(message) => StorageError::InvalidArgument(message),
            Self::TooLarge(_) => StorageError::QuotaExceeded(self.to_string()),
        }
    }
}

/// Why a batch was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteError {
    /// What happened.
    pub error: BackendError,
    /// The operation that failed, when the database said: the writer need not search for it.
    pub operation: Option<usize>,
    /// Not empty: these operations, in their order, were refused, and **all others of the batch are written**. A database without
    /// transactions over a batch says it this way, so that nothing is executed twice.
    pub refused: Vec<(usize, BackendError)>,
}

impl WriteError {
    /// The operations that were refused while all others were written; the list is not empty.
    pub(crate) fn all_but(refused: Vec<(usize, BackendError)>) -> Self {
        let first = refused.first();
        let error = first.map_or(BackendError::Invalid(String::new()), |(_, error)| error.clone());
        Self { error, operation: first.map(|(at, _)| *at), refused }
    }
}

impl From<BackendError> for WriteError {
    fn from(error: BackendError) -> Self {
        Self { error, operation: None, refused: Vec::new() }
    }
}

/// A place among stored messages, in the back end's own order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cursor {
    /// A row's number.
    Row(i64),
    /// A message's id as stored.
    Id(String),
}

impl Cursor {
    /// The row's number; 0, which is before all rows, for a place of another kind or none.
    pub fn row(place: Option<&Self>) -> i64 {
        match place {
            Some(Self::Row(row)) => *row,
            _ => 0,
        }
    }
}

/// Which stored messages a page is to hold.
#[derive(Clone, Debug)]
pub struct Unread {
    /// Messages of topics that this filter matches.
    pub filter: TopicFilter,
    /// `Some`: only after this client's position in each topic. `None`: all that is stored (a queue).
    pub client: Option<String>,
    /// Only after this place; `None` at the beginning.
    pub after: Option<Cursor>,
    /// Only what arrived at or after this time, milliseconds since the epoch.
    pub since_ms: Option<u64>,
    /// Messages in the page; fewer when they are large ([`Limits::max_result_bytes`]).
    pub limit: u32,
}

/// A page of stored messages, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The messages, of origin [`tidegate_event::Origin::Fetched`].
    pub messages: Vec<Arc<Message>>,
    /// The last place that was looked at, to go on after.
    pub last: Option<Cursor>,
    /// Whether more may follow now.
    pub more: bool,
}

/// A page of retained messages, in the order of their topics.
#[derive(Clone, Debug, Default)]
pub struct RetainedPage {
    /// The messages, of origin [`tidegate_event::Origin::RetainedStore`].
    pub messages: Vec<Arc<Message>>,
    /// The topic to go on after; `None` when nothing follows.
    pub next: Option<String>,
}

/// A connected database. Calls come from many tasks; every call may fail and be made again.
///
/// The writer calls [`write`](Self::write) for one batch per shard at a time. Reads and direct statements come at
/// any time.
pub trait Backend: Send + Sync + 'static {
    /// How many batches may be written at the same time. Operations of one client or topic are in one shard.
    fn shards(&self) -> usize {
        1
    }

    /// The language of its custom statements.
    fn language(&self) -> Language {
        Language::Sql
    }

    /// Whether stored and retained messages, and positions, can be found by a filter with wildcards without reading
    /// everything. Where not, only exact filters fetch, look up and forget.
    fn finds_by_wildcard(&self) -> bool {
        true
    }

    /// Executes `operations` in order, all or none (but see [`WriteError::refused`]), and returns when they are
    /// durable.
    fn write<'a>(&'a self, operations: &'a [Operation]) -> BoxFuture<'a, Result<(), WriteError>>;

    /// The client's subscriptions: filter and QoS as stored, not checked.
    fn subscriptions<'a>(
        &'a self,
        client: &'a str,
    ) -> BoxFuture<'a, Result<Vec<(String, i64)>, BackendError>>;

    /// A page of stored messages.
    fn unread<'a>(&'a self, wanted: &'a Unread) -> BoxFuture<'a, Result<Page, BackendError>>;

    /// Retained messages of topics that `filter` matches, after topic `after`, at most `limit`.
    fn retained<'a>(
        &'a self,
        filter: &'a TopicFilter,
        after: Option<&'a str>,
        limit: u32,
    ) -> BoxFuture<'a, Result<RetainedPage, BackendError>>;

    /// Runs a statement and gives its rows.
    fn query<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, BackendError>>;

    /// Runs a statement once per list of parameters in one transaction; gives the number of rows changed.
    fn exec<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<Vec<SqlValue>>,
    ) -> BoxFuture<'a, Result<u64, BackendError>>;

    /// The database as a place for key-value pairs, if it is one for guests.
    fn pairs(&self) -> Option<&dyn Pairs> {
        None
    }

    /// The database as one that takes commands of guests, if it does.
    fn commands(&self) -> Option<&dyn Commands> {
        None
    }

    /// Takes requests for subscriptions from the database, and makes them with `control`, until the future is
    /// dropped. `None`: the pool is not configured for it.
    fn listen(&self, _control: Arc<dyn Control>) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// Lets the database check a custom statement without running it.
    fn prepare<'a>(&'a self, statement: &'a Template) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Whether the database answers.
    fn check(&self) -> BoxFuture<'_, Result<(), BackendError>>;

    /// Closes connections; later calls open them anew.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Limits that every back end keeps.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a direct or custom statement may run.
    pub statement_timeout: Duration,
    /// Bytes of a query's result, and of a page of messages.
    pub max_result_bytes: usize,
}

/// What a pool's option may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    /// A text.
    Text,
    /// A text that is never printed.
    Secret,
    /// A whole number.
    Integer {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// `true` or `false`.
    Boolean,
    /// Accepted so that a file written for another back end loads, without effect.
    Inert,
}

/// A row of a back end's option table: the reference page and the check of names come from it.
#[derive(Clone, Copy, Debug)]
pub struct OptionRow {
    /// The last word of the key.
    pub name: &'static str,
    /// What it may hold.
    pub kind: OptionKind,
    /// The default, as it would be written.
    pub default: &'static str,
    /// What it means; for an inert option why it has no effect.
    pub doc: &'static str,
}

/// A back end: its name, its options and how to open it.
#[derive(Debug)]
pub struct BackendKind {
    /// The word in configuration keys and connector names.
    pub name: &'static str,
    /// The key of custom statements: `sql`, `cql` or `commands`.
    pub statements: &'static str,
    /// One sentence for the reference.
    pub doc: &'static str,
    /// Whether `expired_time` of a line has an effect.
    pub expires: bool,
    /// Why only exact filters fetch, look up and forget; `None`: wildcards do too.
    pub exact_only: Option<&'static str>,
    /// The options of a pool.
    pub options: &'static [OptionRow],
    /// Opens a pool. Gives a back end also when the database cannot be reached now; an error means that it never
    /// can with these options.
    pub open: OpenFn,
}

impl BackendKind {
    /// The language of its custom statements.
    pub fn language(&self) -> Language {
        if self.statements == "commands" { Language::Commands } else { Language::Sql }
    }
}

/// The type of [`BackendKind::open`].
pub type OpenFn = for<'a> fn(&'a PoolConfig, Limits) -> BoxFuture<'a, Result<Arc<dyn Backend>, BackendError>>;

/// The back ends that the documents name.
pub const DOCUMENTED: [&str; 13] = [
    "redis",
    "mysql",
    "pgsql",
    "mongo",
    "cassa",
    "ecql",
    "dynamo",
    "influxdb",
    "opentsdb",
    "timescale",
    "hstreamdb",
    "tablestore",
    "sqlite",
];

/// Makes [`built_in`] of the modules' `KIND`s.
macro_rules! backends {
    ($($module:ident if $feature:literal),* $(,)?) => {
        /// The back ends in this binary.
        pub fn built_in() -> &'static [&'static BackendKind] {
            static BUILT_IN: &[&BackendKind] = &[$(#[cfg(feature = $feature)] &crate::$module::KIND),*];
            BUILT_IN
        }
    };
}

backends! { redis if "redis", sqlite if "sqlite" }

/// Where a statement of a hook line was refused by the database: words for the line's diagnostic.
pub(crate) fn refused_statement(line: &HookLine, statement: &str, error: &BackendError) -> String {
    let hint = if error.to_string().contains("no such table") {
        "; create the table first, custom statements do not make their own"
    } else {
        ""
    };
    format!("{} refuses the statement `{statement}`: {error}{hint}", line.kind.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_documented_and_explained() {
        for kind in built_in() {
            assert!(DOCUMENTED.contains(&kind.name), "{}", kind.name);
            assert!(!kind.doc.is_empty());
            assert!(kind.options.iter().all(|row| !row.doc.is_empty()));
        }
    }
}
