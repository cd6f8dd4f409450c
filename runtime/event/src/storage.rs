//! The seam between modules and stores: what a guest may ask of a connector.

use std::sync::Arc;

use crate::{BoxFuture, KeyValue, Reply, Scope, Tenant};

/// A value in a statement or a row.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlValue {
    /// NULL.
    Null,
    /// Boolean.
    Boolean(bool),
    /// Signed integer.
    Int64(i64),
    /// Unsigned integer.
    Uint64(u64),
    /// Floating point.
    Float64(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// JSON text.
    Json(String),
    /// Milliseconds since the epoch.
    TimestampMs(i64),
}

/// Rows of a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Column names.
    pub columns: Vec<String>,
    /// One list of values a row, in the order of `columns`.
    pub rows: Vec<Vec<SqlValue>>,
}

/// Options of a built-in function, the same words as a hook line's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ActionOptions {
    /// Seconds after which what is written expires, where the store can.
    pub expired_time: Option<u64>,
    /// Page size of a fetch.
    pub max_returned_count: Option<u32>,
    /// Greatest age of fetched messages, in milliseconds.
    pub time_range_ms: Option<u64>,
    /// `mongo_json` or nothing.
    pub payload_format: Option<String>,
}

/// Why a storage call failed, by what the caller can do (`wit/tidegate-storage`, `variant error`).
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum StorageError {
    /// The name is wrong.
    #[error("no connector {0:?}")]
    NoSuchConnector(String),
    /// The module was not granted it.
    #[error("access to connector {0:?} is not granted")]
    AccessDenied(String),
    /// The call is wrong and would be wrong again.
    #[error("{0}")]
    InvalidArgument(String),
    /// No answer in time.
    #[error("{connector}: no answer in time")]
    Timeout {
        /// The connector, as `kind:pool`.
        connector: String,
    },
    /// Not reachable now: try again.
    #[error("{connector}: unavailable: {reason}")]
    Unavailable {
        /// The connector, as `kind:pool`.
        connector: String,
        /// What the driver said.
        reason: String,
    },
    /// A quota of the module or tenant is used up.
    #[error("quota exceeded: {0}")]
    QuotaExceeded(String),
    /// The database refused.
    #[error("{connector}: {message} ({code})")]
    Failed {
        /// The connector, as `kind:pool`.
        connector: String,
        /// The database's code.
        code: String,
        /// The database's words.
        message: String,
        /// Whether the same call may succeed later.
        retryable: bool,
    },
}

impl StorageError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Unavailable { .. } => true,
            Self::Failed { retryable, .. } => *retryable,
            Self::NoSuchConnector(_)
            | Self::AccessDenied(_)
            | Self::InvalidArgument(_)
            | Self::QuotaExceeded(_) => false,
        }
    }
}

/// Whether an enqueued operation holds back the event's ack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckLevel {
    /// The event is acknowledged when the store (or the durable buffer) has the data.
    #[default]
    Stored,
    /// The event is acknowledged when the operation is queued in memory.
    Accepted,
}

/// Runs storage calls of guests. Implemented by the store, called by modules.
///
/// `connector` is `kind:pool` (`sqlite:pool1`); a bare pool name is accepted when it is unique.
pub trait Storage: Send + Sync + 'static {
    /// Enqueues the built-in `function` for the event of `scope`, with the message as `scope` has it. The
    /// future ends when it is queued (a full writer delays it); completion joins `scope.acks` when `level`
    /// is stored.
    fn run<'a>(
        &'a self,
        scope: &'a Scope,
        connector: &'a str,
        function: &'a str,
        options: &'a ActionOptions,
        level: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>>;

    /// Enqueues custom statements with `${...}` variables of the event, in order, in one transaction where
    /// the store has them. Ends and joins as [`run`](Self::run).
    fn execute<'a>(
        &'a self,
        scope: &'a Scope,
        connector: &'a str,
        statements: &'a [String],
        level: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>>;

    /// Runs a query and returns its rows.
    fn query<'a>(
        &'a self,
        tenant: &'a Tenant,
        connector: &'a str,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, StorageError>>;

    /// Runs a statement once per list of parameters, in one transaction; gives the number of rows changed.
    fn exec<'a>(
        &'a self,
        tenant: &'a Tenant,
        connector: &'a str,
        statement: &'a str,
        params: Vec<Vec<SqlValue>>,
    ) -> BoxFuture<'a, Result<u64, StorageError>>;

    /// The key-value pairs of a connector (`wasi:keyvalue`).
    ///
    /// # Errors
    /// [`StorageError::NoSuchConnector`]; [`StorageError::InvalidArgument`] when it has none.
    fn key_value(&self, _tenant: &Tenant, connector: &str) -> Result<Arc<dyn KeyValue>, StorageError> {
        Err(StorageError::InvalidArgument(format!("{connector} does not serve wasi:keyvalue")))
    }

    /// Sends commands of words to a database that takes them (Redis), at one time; those that touch the same data run in
    /// their order. One reply a command; a refused command has an error as its reply, and the others run.
    fn commands<'a>(
        &'a self,
        _tenant: &'a Tenant,
        connector: &'a str,
        _commands: Vec<Vec<Vec<u8>>>,
    ) -> BoxFuture<'a, Result<Vec<Reply>, StorageError>> {
        let error = StorageError::InvalidArgument(format!("{connector} takes no commands"));
        Box::pin(std::future::ready(Err(error)))
    }

    /// The connectors of a tenant, as `kind:pool`.
    fn connectors(&self, tenant: &Tenant) -> Vec<String>;
}
