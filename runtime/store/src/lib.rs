//! Stores: connectors to databases, the built-in actions, statement templates and the writer in front of every
//! connector.
//!
//! ```text
//! Action::run / Storage::run -> actions (what to do, once for all back ends)
//!                                  |-- Operation --> writer (queue, budget, batches, retry, dead letters) --+
//!                                  '-- reads (look-ups, backlogs) ------------------------------------------+--> Backend
//! ```
//!
//! * [`config`] turns the documents' `.conf` files and `tidegate.toml` into one model and reports every error.
//! * [`statement`] compiles statements with `${...}` variables into statements with bound parameters.
//! * [`actions`] holds the built-in functions; [`actions::reference`] lists them.
//! * [`backend`] is what a database must be able to do: typed operations in batches and a few reads; [`pairs`] what it
//!   and [`commands`] what it may be able to do besides, for guests.
//! * `writer` batches, retries, isolates poison and bounds memory; [`buffer`] is where operations wait on disk while
//!   their store is down, and [`buffers`] what an operator may see of it and do with it.
//! * [`sqlite`] is the embedded back end; [`redis`] talks to a server, a fail-over group or a cluster.
//!
//! Adding a back end is a folder, a word in [`backend::built_in`] and a feature line in `Cargo.toml`.

pub mod actions;
pub mod backend;
pub mod buffer;
pub mod buffers;
pub mod commands;
pub mod config;
mod connector;
mod dead_letter;
mod health;
mod letter_file;
mod metrics;
mod opened;
pub mod operation;
pub mod pairs;
#[cfg(feature = "redis")]
pub mod redis;
mod retire;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod statement;
mod storage;
mod stores;
mod turn;
mod writer;

pub use actions::Action;
pub use letter_file::LetterFile;
pub use metrics::LastError;
pub use stores::{Changes, ConnectorReport, Prepared, StoreOptions, Stores};
