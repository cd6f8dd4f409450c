//! What a database must be able to do, and which back ends this binary has.

use std::sync::Arc;
use std::time::Duration;

use tidegate_event::{BoxFuture, Control, Message, Rows, SqlValue, StorageError, TopicFilter};

use crate::commands::Commands;
use crate::config::{HookLine, PoolConfig, documented};
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
    /// Not empty: these operations, in their order, were refused, and **all others of the batch are written**, but for the
    /// [`undecided`](Self::undecided). A database without transactions over a batch says it this way, so that nothing is
    /// executed twice.
    pub refused: Vec<(usize, BackendError)>,
    /// Not empty: of these operations, in their order, it is not known whether they are written, and `error`, which may pass,
    /// says why; all others are decided. The writer writes these again, and only these.
    pub undecided: Vec<usize>,
}

impl WriteError {
    /// The operations that were refused, and those that are undecided, while all others were written. One of the lists is
    /// not empty.
    pub(crate) fn all_but(
        refused: Vec<(usize, BackendError)>,
        undecided: Vec<(usize, BackendError)>,
    ) -> Self {
        let first = undecided.first().or(refused.first());
        let error = first.map_or(BackendError::Invalid(String::new()), |(_, error)| error.clone());
        Self {
            error,
            operation: first.map(|(at, _)| *at),
            refused,
            undecided: undecided.into_iter().map(|(at, _)| at).collect(),
        }
    }
}

impl From<BackendError> for WriteError {
    fn from(error: BackendError) -> Self {
        Self { error, operation: None, refused: Vec::new(), undecided: Vec::new() }
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

    /// Whether a client's position in a topic is the id of a message, so that it passes every message with a smaller one:
    /// the ids of a topic must reach the database in their order then.
    fn positions_are_ids(&self) -> bool {
        false
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

    /// Executes `operations` in order, all or none (but see [`WriteError::refused`] and [`WriteError::undecided`]), and
    /// returns when they are durable.
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
    /// A text that is never printed. An empty one means none, also where the default is another.
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
    /// One of these words.
    Word {
        /// The words.
        words: &'static [&'static str],
        /// Other spellings, with the word that each stands for.
        synonyms: &'static [(&'static str, &'static str)],
    },
    /// `host:port`.
    Server {
        /// The port when none is written.
        port: u16,
    },
    /// `host:port`, several with commas between them.
    Servers {
        /// The port when none is written.
        port: u16,
    },
    /// `http://...` or `https://...`.
    Url,
    /// A file. `DATA` and `POOL` in its default stand for the data directory and the pool's name: who knows them fills
    /// it in.
    Path,
    /// Accepted so that a file written for another driver loads, without effect; a value of the wrong form is an error
    /// all the same.
    Inert(&'static OptionKind),
}

/// A row of a back end's option table: the reference page and the check of names come from it.
#[derive(Clone, Copy, Debug)]
pub struct OptionRow {
    /// The last word of the key.
    pub name: &'static str,
    /// What it may hold.
    pub kind: OptionKind,
    /// The default, as it would be written; empty when there is none.
    pub default: &'static str,
    /// What it means; for an inert option why it has no effect.
    pub doc: &'static str,
}

/// Which of the built-in functions a back end carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// All of them.
    All,
    /// These.
    Only(&'static [&'static str]),
}

/// What a database needs before it can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// Tables, made by this file.
    File {
        /// Its name.
        name: &'static str,
        /// Its content.
        text: &'static str,
    },
    /// The same, and the back end makes them by itself.
    ByItself {
        /// Its name.
        name: &'static str,
        /// Its content.
        text: &'static str,
    },
    /// Nothing, and why.
    Nothing(&'static str),
}

/// A back end: its name, its options and how to open it.
#[derive(Debug)]
pub struct BackendKind {
    /// The word in configuration keys and connector names.
    pub name: &'static str,
    /// Other words for it in configuration keys.
    pub aliases: &'static [&'static str],
    /// The key of custom statements: `sql`, `cql` or `commands`; empty: it takes none.
    pub statements: &'static str,
    /// One sentence for the reference.
    pub doc: &'static str,
    /// The options of a pool: `backend.NAME.POOL.OPTION`.
    pub options: &'static [OptionRow],
    /// Options that all pools share: `backend.NAME.OPTION`. A pool may have its own.
    pub shared: &'static [OptionRow],
    /// What is wrong with the options that are set, taken together: the option to point at, and words.
    pub check: fn(&PoolConfig) -> Option<(&'static str, String)>,
    /// The built-in functions that it carries.
    pub functions: Carried,
    /// Whether `expired_time` of a line has an effect.
    pub expires: bool,
    /// Why only exact filters fetch, look up and forget; `None`: wildcards do too.
    pub exact_only: Option<&'static str>,
    /// Whether `payload_format` of a line has an effect.
    pub documents: bool,
    /// What a new database needs.
    pub schema: Schema,
    /// Opens a pool. Gives a back end also when the database cannot be reached now; an error means that it never
    /// can with these options. `None`: there is no driver yet, its configuration is checked all the same.
    pub open: Option<OpenFn>,
}

impl BackendKind {
    /// The row of a pool's option, its own or a shared one.
    pub fn row(&self, option: &str) -> Option<&'static OptionRow> {
        self.options.iter().chain(self.shared).find(|row| row.name == option)
    }

    /// Whether it carries the built-in function `name`.
    pub fn carries(&self, name: &str) -> bool {
        match self.functions {
            Carried::All => true,
            Carried::Only(names) => names.contains(&name),
        }
    }

    /// Why it cannot be opened, when there is no driver.
    pub fn no_driver(&self) -> String {
        let drivers: Vec<_> = built_in().iter().map(|kind| kind.name).collect();
        format!("back end {} has no driver in this binary yet (it has: {})", self.name, drivers.join(", "))
    }

    /// Whether configuration keys call it `word`.
    pub fn is_called(&self, word: &str) -> bool {
        self.name == word || self.aliases.contains(&word)
    }
}

/// For [`BackendKind::check`]: any options go together.
pub const fn any_options(_: &PoolConfig) -> Option<(&'static str, String)> {
    None
}

impl BackendKind {
    /// The language of its custom statements.
    pub fn language(&self) -> Language {
        if self.statements == "commands" { Language::Commands } else { Language::Sql }
    }
}

/// The type of [`BackendKind::open`].
pub type OpenFn = for<'a> fn(&'a PoolConfig, Limits) -> BoxFuture<'a, Result<Arc<dyn Backend>, BackendError>>;

/// Back ends that the documents name and that have not even a table of options yet.
pub const PLANNED: [&str; 2] = ["hstreamdb", "tablestore"];

/// Makes [`built_in`] of the modules' `KIND`s.
macro_rules! backends {
    ($($module:ident if $feature:literal),* $(,)?) => {
        /// The back ends that this binary has a driver for.
        pub fn built_in() -> &'static [&'static BackendKind] {
            static BUILT_IN: &[&BackendKind] = &[$(#[cfg(feature = $feature)] &crate::$module::KIND),*];
            BUILT_IN
        }
    };
}

backends! { redis if "redis", sqlite if "sqlite" }

/// Every back end whose configuration can be checked: those with a driver, then the documented ones without.
pub fn known() -> impl Iterator<Item = &'static BackendKind> {
    let is_new = |kind: &&&BackendKind| !built_in().iter().any(|other| other.name == kind.name);
    built_in().iter().chain(documented::WITHOUT_DRIVER.iter().filter(is_new)).copied()
}

/// The back end that configuration keys call `word`.
pub fn find(word: &str) -> Option<&'static BackendKind> {
    known().find(|kind| kind.is_called(word))
}

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
    fn every_back_end_is_explained_and_called_by_one_name() {
        let mut words: Vec<&str> = PLANNED.to_vec();
        for kind in known() {
            words.extend([kind.name].iter().chain(kind.aliases));
            assert!(kind.doc.ends_with('.'), "{}", kind.name);
            for row in kind.options.iter().chain(kind.shared) {
                assert!(!row.doc.is_empty(), "{} {}", kind.name, row.name);
                assert_eq!(
                    kind.options.iter().chain(kind.shared).filter(|other| other.name == row.name).count(),
                    1,
                    "{} {}",
                    kind.name,
                    row.name
                );
            }
        }
        for documented in [
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
            "sqlite",
        ] {
            assert!(words.contains(&documented), "{documented}");
        }
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count, "a word has two meanings: {words:?}");
    }
}
