//! The overflow buffer: where operations wait on disk while their store is down or slower than what comes in.
//!
//! A healthy store is written directly; the buffer is no log in front of it. Once a connector's operations are in the
//! buffer, those that follow go there too, and leave it in the order in which they came: what concerns one client or
//! topic keeps its order (`spill`). An operation counts as stored when the buffer has it on disk.
//!
//! The disk itself is somebody else's: [`BufferSpace`] is implemented by the server over its embedded store.

#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod record;
mod spill;

use bytes::Bytes;
use tidegate_event::BoxFuture;

pub(crate) use spill::{Going, Spill};

/// Why the buffer did not take or give records.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpaceError {
    /// All buffers together have as many bytes as they may: room comes when records leave.
    #[error("the buffer is full: it may have {limit} bytes ([store] buffer_bytes)")]
    Full {
        /// Bytes that all buffers together may have.
        limit: u64,
    },
    /// The disk does not do its work.
    #[error("the buffer cannot be used: {0}")]
    Failed(String),
}

/// An amount of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// How much.
    pub held: Amount,
    /// Number of the newest record that it ever held; 0: none.
    pub last: u64,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number; numbers of one buffer grow.
    pub number: u64,
    /// Its content.
    pub bytes: Bytes,
}

/// What a removal took out of a buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The numbers of the records that were there, the smallest first.
    pub numbers: Vec<u64>,
    /// How much those were.
    pub amount: Amount,
}

/// Buffers on disk, one for each connector, by its name. Calls come from many tasks.
pub trait BufferSpace: std::fmt::Debug + Send + Sync {
    /// What the buffer `name` holds; nothing when it never had anything.
    fn extent<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Extent, SpaceError>>;

    /// The names of the buffers that hold anything.
    fn names(&self) -> BoxFuture<'_, Result<Vec<String>, SpaceError>>;

    /// Appends `records` to the buffer `name`, all or none, numbered one after the other in their order, and gives the
    /// number of the last one when they are on disk. What is appended after that has larger numbers, in this process and
    /// in those that follow.
    fn append<'a>(&'a self, name: &'a str, records: Vec<Bytes>) -> BoxFuture<'a, Result<u64, SpaceError>>;

    /// The oldest records numbered `from` or more: at most `records`, and no more once they have `bytes` bytes.
    fn read<'a>(
        &'a self,
        name: &'a str,
        from: u64,
        records: usize,
        bytes: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, SpaceError>>;

    /// Removes the records with these numbers; those that are not there are no error. Gives what was removed.
    ///
    /// `through`: no record numbered so or less is left after that, which only somebody knows who has read from the
    /// beginning. Reads do not look there again: one that is there all the same is not found any more.
    fn remove<'a>(
        &'a self,
        name: &'a str,
        numbers: Vec<u64>,
        through: Option<u64>,
    ) -> BoxFuture<'a, Result<Removed, SpaceError>>;
}
