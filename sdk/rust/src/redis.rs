//! Commands of one's own on a Redis connector.
//!
//! A command is its words, which [`words!`](crate::words!) makes of texts, bytes and numbers. The calls return when the
//! server has answered and need no event, so `init` may use them. Commands that would wait or change the connection,
//! which is shared, and the administrator's are refused by name (`InvalidArgument`); what must happen at one time
//! is for a script (`EVAL`).
//!
//! ```no_run
//! use tidegate_sdk::{Result, redis, words};
//!
//! /// Counts a message of `device`, and gives how many there were.
//! fn count(device: &str, bytes: usize) -> Result<i64> {
//!     let key = format!("device:{device}");
//!     let replies = redis::pipeline(
//!         "redis:pool1",
//!         &[words!["HINCRBY", &key, "messages", 1], words!["HINCRBY", &key, "bytes", bytes]],
//!     )?;
//!     let first = replies.into_iter().next().ok_or("no reply")?;
//!     Ok(first.accepted()?.as_i64().ok_or("no number")?)
//! }
//! ```

use crate::bindings::imports::tidegate::storage::redis::{self, Node, Span};
use crate::{Failure, StorageError};

/// A command: its name, then its other words.
pub type Command = Vec<Vec<u8>>;

/// What the server answered to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing there.
    Nil,
    /// An integer.
    Integer(i64),
    /// A number with a fraction. The protocol that is spoken now has such numbers as [`Bytes`](Self::Bytes).
    Double(f64),
    /// True or false. The protocol that is spoken now has 1 and 0.
    Boolean(bool),
    /// A word of the server: `OK`.
    Status(String),
    /// A value as it is stored.
    Bytes(Vec<u8>),
    /// Elements in order. The protocol that is spoken now gives hashes (`HGETALL`) so, too: see [`pairs`](Self::pairs).
    List(Vec<Reply>),
    /// Keys with their values.
    Map(Vec<(Reply, Reply)>),
    /// The server refused this command of a pipeline, or this part of what a script gave.
    Error(Failure),
}

/// Runs a command and gives its reply.
///
/// # Errors
/// The connector is wrong, not granted or no Redis; the command is one that modules may not send; or what the server
/// answered.
pub fn command(connector: &str, command: &[Vec<u8>]) -> Result<Reply, StorageError> {
    redis::command(connector, command).map(tree)
}

/// Runs at most 1,000 commands in one round trip and gives a reply for each, in their order. They are no transaction: a
/// refused one is a [`Reply::Error`] and the others run.
///
/// # Errors
/// As for [`command`], but for what the server answered to one of them. Nothing was sent, or nothing is known about any.
pub fn pipeline(connector: &str, commands: &[Command]) -> Result<Vec<Reply>, StorageError> {
    Ok(redis::pipeline(connector, commands)?.into_iter().map(tree).collect())
}

/// A command of texts, bytes and numbers: `words!["HINCRBY", key, "messages", 1]`.
///
/// ```
/// use tidegate_sdk::words;
///
/// assert_eq!(words!["SETEX", "k", 60, [0_u8, 255]], [&b"SETEX"[..], b"k", b"60", b"\x00\xff"]);
/// ```
#[macro_export]
macro_rules! words {
    ($($word:expr),* $(,)?) => { ::std::vec![$($crate::redis::Word::into_word($word)),*] as $crate::redis::Command };
}

/// What can be a word of a command.
pub trait Word {
    /// Its bytes.
    fn into_word(self) -> Vec<u8>;
}

/// `Word` for what is bytes already.
macro_rules! bytes {
    ($($type:ty),+) => {$(
        impl Word for $type {
            fn into_word(self) -> Vec<u8> {
                Vec::from(self)
            }
        }
    )+};
}

bytes!(&str, String, &[u8], Vec<u8>);

/// `Word` for references to what is bytes.
macro_rules! references {
    ($($type:ty),+) => {$(
        impl Word for &$type {
            fn into_word(self) -> Vec<u8> {
                AsRef::<[u8]>::as_ref(self).to_vec()
            }
        }
    )+};
}

references!(String, Vec<u8>);

impl<const N: usize> Word for [u8; N] {
    fn into_word(self) -> Vec<u8> {
        self.to_vec()
    }
}

impl<const N: usize> Word for &[u8; N] {
    fn into_word(self) -> Vec<u8> {
        self.to_vec()
    }
}

/// `Word` for numbers, in decimal digits.
macro_rules! numbers {
    ($($type:ty),+) => {$(
        impl Word for $type {
            fn into_word(self) -> Vec<u8> {
                self.to_string().into_bytes()
            }
        }
    )+};
}

numbers!(i8, i16, i32, i64, isize, u8, u16, u32, u64, usize, f32, f64);

impl Reply {
    /// The reply, unless the server refused the command.
    ///
    /// # Errors
    /// [`StorageError::Failed`] with what the server said.
    pub fn accepted(self) -> Result<Self, StorageError> {
        match self {
            Self::Error(failure) => Err(StorageError::Failed(failure)),
            reply => Ok(reply),
        }
    }

    /// Whether nothing was there.
    pub const fn is_nil(&self) -> bool {
        matches!(self, Self::Nil)
    }

    /// The integer, also when it is stored in digits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => self.as_str()?.parse().ok(),
        }
    }

    /// The number, also when it is stored in digits; large integers lose some.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Double(value) => Some(*value),
            Self::Integer(value) => Some(*value as f64),
            _ => self.as_str()?.parse().ok(),
        }
    }

    /// The text, when it is a value that is UTF-8, or a word of the server.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Status(text) => Some(text),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The value's bytes.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The elements of a list.
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }

    /// Keys with their values: of a map, or of a list in which they stand in turn, as `HGETALL` gives them.
    pub fn pairs(&self) -> Vec<(&Self, &Self)> {
        match self {
            Self::Map(pairs) => pairs.iter().map(|(key, value)| (key, value)).collect(),
            Self::List(list) => list.as_chunks::<2>().0.iter().map(|[key, value]| (key, value)).collect(),
            _ => Vec::new(),
        }
    }

    /// The value of the field or key `name`, in [`pairs`](Self::pairs).
    pub fn get(&self, name: &str) -> Option<&Self> {
        let mut pairs = self.pairs().into_iter();
        pairs.find_map(|(key, value)| (key.as_str() == Some(name)).then_some(value))
    }
}

/// The tree that is laid out in `nodes`, from its leaves up: what is within a node lies behind it.
fn tree(nodes: Vec<Node>) -> Reply {
    let mut made: Vec<Reply> = nodes.iter().map(|_| Reply::Nil).collect();
    for (place, node) in nodes.into_iter().enumerate().rev() {
        let mut within = |span: Span| {
            let first = usize::try_from(span.first).unwrap_or(usize::MAX).max(place + 1);
            let count = usize::try_from(span.count).unwrap_or(usize::MAX);
            made.iter_mut()
                .skip(first)
                .take(count)
                .map(|reply| std::mem::replace(reply, Reply::Nil))
                .collect()
        };
        let reply = match node {
            Node::Nil => Reply::Nil,
            Node::Integer(value) => Reply::Integer(value),
            Node::Double(value) => Reply::Double(value),
            Node::Boolean(value) => Reply::Boolean(value),
            Node::Status(text) => Reply::Status(text),
            Node::Bytes(bytes) => Reply::Bytes(bytes),
            Node::List(span) => Reply::List(within(span)),
            Node::Map(span) => {
                let all: Vec<Reply> = within(span);
                let (mut pairs, mut all) = (Vec::with_capacity(all.len() / 2), all.into_iter());
                while let (Some(key), Some(value)) = (all.next(), all.next()) {
                    pairs.push((key, value));
                }
                Reply::Map(pairs)
            }
            Node::Error(failure) => Reply::Error(failure),
        };
        if let Some(slot) = made.get_mut(place) {
            *slot = reply;
        }
    }
    made.into_iter().next().unwrap_or(Reply::Nil)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Reply {
        Reply::Bytes(text.into())
    }

    #[test]
    fn words_are_bytes_of_texts_and_digits_of_numbers() {
        let (owned, payload) = ("k".to_owned(), vec![0_u8, 255]);
        let command = words!["SET", &owned, &payload, -1, 0.5, u64::MAX, b"x", owned.as_str(), &payload[..1]];
        let expected: [&[u8]; 9] =
            [b"SET", b"k", b"\x00\xff", b"-1", b"0.5", b"18446744073709551615", b"x", b"k", b"\x00"];
        assert_eq!(command, expected);
        assert!(words![].is_empty());
    }

    #[test]
    fn a_tree_is_made_of_its_nodes() {
        let span = |first, count| Span { first, count };
        assert_eq!(tree(vec![Node::Integer(1)]), Reply::Integer(1));
        assert_eq!(tree(vec![Node::List(span(1, 0))]), Reply::List(Vec::new()));
        // As the host lays it out: level by level.
        let nodes = vec![
            Node::List(span(1, 3)),
            Node::List(span(4, 2)),
            Node::Nil,
            Node::Map(span(6, 4)),
            Node::Integer(1),
            Node::List(span(10, 1)),
            Node::Integer(3),
            Node::List(span(11, 1)),
            Node::Integer(4),
            Node::Nil,
            Node::Integer(2),
            Node::Double(0.5),
        ];
        let inner = Reply::List(vec![Reply::Integer(1), Reply::List(vec![Reply::Integer(2)])]);
        let map = Reply::Map(vec![
            (Reply::Integer(3), Reply::List(vec![Reply::Double(0.5)])),
            (Reply::Integer(4), Reply::Nil),
        ]);
        assert_eq!(tree(nodes), Reply::List(vec![inner, Reply::Nil, map]));
    }

    #[test]
    fn nodes_that_no_host_gives_are_no_panic() {
        let span = |first, count| Span { first, count };
        assert_eq!(tree(Vec::new()), Reply::Nil);
        assert_eq!(tree(vec![Node::List(span(0, 9))]), Reply::List(Vec::new()));
        assert_eq!(tree(vec![Node::Map(span(u32::MAX, u32::MAX)), Node::Nil]), Reply::Map(Vec::new()));
    }

    #[test]
    fn values_are_read_as_what_they_hold() {
        assert_eq!((text("12").as_i64(), text("12").as_f64()), (Some(12), Some(12.0)));
        assert_eq!((text("0.5").as_i64(), text("0.5").as_f64()), (None, Some(0.5)));
        assert_eq!(
            (Reply::Status("OK".into()).as_str(), Reply::Bytes(vec![255]).as_str()),
            (Some("OK"), None)
        );
        let hash = Reply::List(vec![text("a"), text("1"), text("b"), text("2")]);
        assert_eq!(hash.get("b").and_then(Reply::as_i64), Some(2));
        assert_eq!(hash.get("1"), None, "a value is no field");
        assert_eq!(Reply::Map(vec![(text("a"), Reply::Nil)]).get("a"), Some(&Reply::Nil));
        let failure = Failure { code: "ERR".into(), message: "no".into(), retryable: false };
        assert_eq!(Reply::Error(failure.clone()).accepted(), Err(StorageError::Failed(failure)));
        assert!(Reply::Nil.accepted().is_ok_and(|reply| reply.is_nil()));
    }
}
