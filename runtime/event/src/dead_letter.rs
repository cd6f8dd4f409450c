//! Where events go that no handler could handle: the seam from modules to the file of dead letters.

use std::io;

use crate::BoxFuture;

/// Keeps letters for a person, or a program, to look at. An event whose letter is kept counts as handled and is
/// acknowledged, so a letter must be as safe as stored data.
pub trait DeadLetters: std::fmt::Debug + Send + Sync + 'static {
    /// Keeps `letter`, the text of one JSON object without a line break. Ends when it is on disk.
    ///
    /// # Errors
    /// The system's: the letter is not kept, and the event must not count as handled.
    fn keep(&self, letter: String) -> BoxFuture<'_, io::Result<()>>;
}
