//! What a database of commands answers, as a flat list: a tree that a component interface can carry.

/// A part of a reply. A reply is its parts in the order in which they are read: a list is its length followed by the
/// parts of its elements, a map the number of its pairs followed by keys and values in turn.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyPart {
    /// Nothing there.
    Nil,
    /// A number.
    Integer(i64),
    /// A floating point number.
    Double(f64),
    /// True or false.
    Boolean(bool),
    /// A word of the server: `OK`, `QUEUED`.
    Status(String),
    /// Bytes as they are stored.
    Bytes(Vec<u8>),
    /// So many elements follow.
    List(u32),
    /// So many pairs follow.
    Map(u32),
    /// This command was refused: its code and words.
    Error(String),
}

/// The reply to one command.
pub type Reply = Vec<ReplyPart>;
