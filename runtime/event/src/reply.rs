//! What a database of commands answers.

/// The reply to one command: a value, or values within each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing there.
    Nil,
    /// A number.
    Integer(i64),
    /// A floating point number.
    Double(f64),
    /// True or false.
    Boolean(bool),
    /// A word of the server: `OK`.
    Status(String),
    /// Bytes as they are stored.
    Bytes(Vec<u8>),
    /// Elements in order.
    List(Vec<Reply>),
    /// Keys with their values, in the server's order.
    Map(Vec<(Reply, Reply)>),
    /// This command, or this part of what it did, was refused.
    Error(ReplyError),
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyError {
    /// The database's code: `ERR`, `WRONGTYPE`.
    pub code: String,
    /// The database's words.
    pub message: String,
    /// Whether the same command may succeed later.
    pub retryable: bool,
}

impl Reply {
    /// Bytes that it takes in memory.
    pub fn size(&self) -> usize {
        let held = match self {
            Self::Status(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Error(error) => error.code.len() + error.message.len(),
            Self::List(list) => list.iter().map(Self::size).sum(),
            Self::Map(pairs) => pairs.iter().map(|(key, value)| key.size() + value.size()).sum(),
            Self::Nil | Self::Integer(_) | Self::Double(_) | Self::Boolean(_) => 0,
        };
        size_of::<Self>() + held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_as_large_as_all_that_is_in_it() {
        let part = size_of::<Reply>();
        assert_eq!(Reply::Nil.size(), part);
        let bytes = Reply::Bytes(vec![0; 100]);
        let pair = (Reply::Status("k".into()), Reply::List(vec![bytes, Reply::Nil]));
        assert_eq!(Reply::Map(vec![pair]).size(), 5 * part + 101);
    }
}
