//! Message ids: 128 bits that sort by time of arrival (document 000; `spec`: backends, "msgid").

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A message id: 64 bits of microseconds, 48 bits of node, 16 bits of sequence.
///
/// Ids of one node strictly increase, so "after this message" is a comparison on every back end. The text
/// form is 32 upper-case hex digits, which sorts like the number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MsgId(u128);

impl MsgId {
    /// The id with these bits.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The bits.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// Microseconds since the epoch at which the id was made.
    pub const fn micros(self) -> u64 {
        (self.0 >> 64) as u64
    }
}

impl fmt::Display for MsgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032X}", self.0)
    }
}

impl fmt::Debug for MsgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no message id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a message id is 32 hex digits")]
pub struct ParseMsgIdError;

impl FromStr for MsgId {
    type Err = ParseMsgIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseMsgIdError);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| ParseMsgIdError)
    }
}

/// This process among its peers: `name@host` and the 48 bits that go into message ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    name: Arc<str>,
    bits: u64,
}

impl Node {
    /// The node's name when nothing is configured.
    pub const DEFAULT_NAME: &'static str = "tidegate@127.0.0.1";

    /// The node called `name`; its id bits are a hash of the name (FNV-1a, folded to 48 bits).
    pub fn new(name: &str) -> Self {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        Self { name: Arc::from(name), bits: (hash ^ (hash >> 48)) & 0xffff_ffff_ffff }
    }

    /// `name@host`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new(Self::DEFAULT_NAME)
    }
}

/// Makes the message ids of one node. Lock-free; one per process.
#[derive(Debug)]
pub struct IdSource {
    node: u64,
    /// The last id given, without its node bits: microseconds since 2020, then the sequence.
    last: AtomicU64,
}

impl IdSource {
    /// A source for `node`.
    pub fn new(node: &Node) -> Self {
        Self { node: node.bits, last: AtomicU64::new(0) }
    }

    /// The next id: now, or just after the last one when the clock has not moved (or went back).
    pub fn next_id(&self) -> MsgId {
        self.next_id_at(micros_now())
    }

    /// The time, for [`IdSource::next_id_at`]: microseconds since the epoch.
    pub fn now() -> u64 {
        micros_now()
    }

    /// The next id for something that happened at `micros`. Reading the clock costs more than the rest; what
    /// arrives together can share one reading.
    pub fn next_id_at(&self, micros: u64) -> MsgId {
        let now = micros.saturating_sub(BASE_MICROS) << SEQUENCE_BITS;
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = now.max(last + 1);
            match self.last.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return self.pack(next),
                Err(seen) => last = seen,
            }
        }
    }

    fn pack(&self, word: u64) -> MsgId {
        let micros = u128::from((word >> SEQUENCE_BITS) + BASE_MICROS);
        let sequence = u128::from(word & ((1 << SEQUENCE_BITS) - 1));
        MsgId((micros << 64) | (u128::from(self.node) << 16) | sequence)
    }
}

/// Bits of the packed word that count ids within a microsecond. Six are plenty (one id takes longer than
/// 16 ns) and leave 58 bits of microseconds: 9,000 years.
const SEQUENCE_BITS: u32 = 6;
const BASE_MICROS: u64 = 1_577_836_800_000_000; // 2020-01-01T00:00:00Z

fn micros_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(BASE_MICROS, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn ids_increase_within_a_node_even_across_threads() {
        let source = IdSource::new(&Node::default());
        let mut all = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..10_000).map(|_| source.next_id()).collect::<Vec<_>>()))
                .collect();
            threads
                .into_iter()
                .flat_map(|t| {
                    let ids = t.join().unwrap();
                    assert!(ids.is_sorted_by(|a, b| a < b));
                    ids
                })
                .collect::<Vec<_>>()
        });
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 40_000);
    }

    #[test]
    fn text_form_is_32_digits_and_reads_back() {
        let id = IdSource::new(&Node::new("a@b")).next_id();
        let text = id.to_string();
        assert_eq!(text.len(), 32);
        assert_eq!(text.parse::<MsgId>().unwrap(), id);
        assert_eq!("xyz".parse::<MsgId>(), Err(ParseMsgIdError));
        assert_eq!("+005F65F239F03FEF44300000BB40002".parse::<MsgId>(), Err(ParseMsgIdError));
    }

    #[test]
    fn micros_are_the_time_of_arrival() {
        let before = micros_now();
        let id = IdSource::new(&Node::default()).next_id();
        assert!((before..=micros_now()).contains(&id.micros()));
    }
}
