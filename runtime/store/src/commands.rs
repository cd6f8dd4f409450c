//! Commands that guests send to a database that takes them.

use tidegate_event::{BoxFuture, Reply};

use crate::backend::BackendError;

/// A database that takes commands of words.
pub trait Commands: Send + Sync {
    /// Runs the commands in one pipeline, in order, each by itself. One reply a command: a command that the database
    /// refuses has [`tidegate_event::ReplyPart::Error`] as its reply, and the others run. An error of the call means
    /// that nothing is known about any of them.
    ///
    /// The commands have been checked: none of them changes the connection or waits.
    fn run(&self, commands: Vec<Vec<Vec<u8>>>) -> BoxFuture<'_, Result<Vec<Reply>, BackendError>>;
}
