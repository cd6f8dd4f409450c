//! Commands that guests send to a database that takes them.

use tidegate_event::{BoxFuture, Reply};

use crate::backend::BackendError;

/// A database that takes commands of words.
pub trait Commands: Send + Sync {
    /// Whether guests may send the command `name` here, of those that the connection allows.
    ///
    /// # Errors
    /// [`BackendError::Invalid`], which names it.
    fn check(&self, name: &[u8]) -> Result<(), BackendError>;

    /// Runs the commands at one time, each by itself; those that touch the same data in their order. One reply a command:
    /// a command that the database refuses has [`Reply::Error`] as its reply, and the others run. An error of the call
    /// means that nothing is known about any of them.
    ///
    /// The commands have been checked: none of them changes the connection or waits.
    fn run(&self, commands: Vec<Vec<Vec<u8>>>) -> BoxFuture<'_, Result<Vec<Reply>, BackendError>>;
}
