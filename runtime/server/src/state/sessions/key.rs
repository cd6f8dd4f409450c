//! What the records of durable sessions are called on disk.
//!
//! Everything of a session has its number behind one byte that says what it is, so that the records of one kind lie in the
//! order of their sessions, and a restart reads them side by side.

use std::fmt;

use tidegate_event::{MsgId, SessionNumber, Tenant, TopicName};

/// The name of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The greatest number that a session ever had.
    LastSession,
    /// A session.
    Session(SessionNumber),
    /// A subscription: session and [`filter_name`].
    Subscription(SessionNumber, Name),
    /// A will: session and message.
    Will(SessionNumber, MsgId),
    /// A retained message: [`topic_name`].
    Retained(Name),
    /// A message that waits for a client: session and number.
    Delivery(SessionNumber, u64),
    /// How it was sent: session and number.
    Sending(SessionNumber, u64),
    /// A QoS 2 packet id in use by a client.
    Receipt(SessionNumber, u16),
    /// A message that several deliveries share.
    Body(u64),
}

/// Stands for a text that may be longer than a key.
pub(super) type Name = [u8; 16];

/// The name of the subscription `filter` within its session.
pub(super) fn filter_name(filter: &str) -> Name {
    shortened(&blake3::hash(filter.as_bytes()))
}

/// The name of the retained message of `topic`.
pub(super) fn topic_name(tenant: &Tenant, topic: &TopicName) -> Name {
    let mut hasher = blake3::Hasher::new();
    // The length comes first, or one tenant's topic could look like another's.
    hasher.update(&(tenant.name().len() as u64).to_be_bytes());
    hasher.update(tenant.name().as_bytes());
    hasher.update(topic.as_str().as_bytes());
    shortened(&hasher.finalize())
}

fn shortened(hash: &blake3::Hash) -> Name {
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

/// What a record is: the first byte of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    LastSession = 1,
    Session = 2,
    Subscription = 3,
    Will = 4,
    Retained = 5,
    Delivery = 16,
    Sending = 17,
    Receipt = 18,
    Body = 19,
}

impl Kind {
    /// Whether records of this kind live long and change seldom: they are kept apart from those that come and go with
    /// every message, which would have them written over and over again.
    pub(super) fn is_lasting(self) -> bool {
        (self as u8) < Self::Delivery as u8
    }
}

impl Key {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::LastSession => Kind::LastSession,
            Self::Session(_) => Kind::Session,
            Self::Subscription(..) => Kind::Subscription,
            Self::Will(..) => Kind::Will,
            Self::Retained(_) => Kind::Retained,
            Self::Delivery(..) => Kind::Delivery,
            Self::Sending(..) => Kind::Sending,
            Self::Receipt(..) => Kind::Receipt,
            Self::Body(_) => Kind::Body,
        }
    }

    /// The key as it is on disk.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32);
        bytes.push(self.kind() as u8);
        match self {
            Self::LastSession => {}
            Self::Session(number) | Self::Body(number) => bytes.extend(number.to_be_bytes()),
            Self::Subscription(session, name) => {
                bytes.extend(session.to_be_bytes());
                bytes.extend(name);
            }
            Self::Will(session, message) => {
                bytes.extend(session.to_be_bytes());
                bytes.extend(message.bits().to_be_bytes());
            }
            Self::Retained(name) => bytes.extend(name),
            Self::Delivery(session, number) | Self::Sending(session, number) => {
                bytes.extend(session.to_be_bytes());
                bytes.extend(number.to_be_bytes());
            }
            Self::Receipt(session, packet_id) => {
                bytes.extend(session.to_be_bytes());
                bytes.extend(packet_id.to_be_bytes());
            }
        }
        bytes
    }

    /// The key that `bytes` are, if they are one.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        let [kind] = rest.take()?;
        let key = match kind {
            1 => Self::LastSession,
            2 => Self::Session(rest.number()?),
            3 => Self::Subscription(rest.number()?, rest.take()?),
            4 => Self::Will(rest.number()?, MsgId::from_bits(u128::from_be_bytes(rest.take()?))),
            5 => Self::Retained(rest.take()?),
            16 => Self::Delivery(rest.number()?, rest.number()?),
            17 => Self::Sending(rest.number()?, rest.number()?),
            18 => Self::Receipt(rest.number()?, u16::from_be_bytes(rest.take()?)),
            19 => Self::Body(rest.number()?),
            _ => return None,
        };
        rest.0.is_empty().then_some(key)
    }

    /// The session that it belongs to.
    pub(super) fn session(self) -> Option<SessionNumber> {
        match self {
            Self::LastSession | Self::Retained(_) | Self::Body(_) => None,
            Self::Session(session)
            | Self::Subscription(session, _)
            | Self::Will(session, _)
            | Self::Delivery(session, _)
            | Self::Sending(session, _)
            | Self::Receipt(session, _) => Some(session),
        }
    }
}

/// What is still to be read of a key.
struct Rest<'k>(&'k [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

/// As an operator reads it in an error.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LastSession => f.write_str("the number of the last session"),
            Self::Session(session) => write!(f, "session {session}"),
            Self::Subscription(session, _) => write!(f, "a subscription of session {session}"),
            Self::Will(session, message) => write!(f, "the will {message} of session {session}"),
            Self::Retained(_) => f.write_str("a retained message"),
            Self::Delivery(session, number) => write!(f, "delivery {number} of session {session}"),
            Self::Sending(session, number) => {
                write!(f, "the sending of delivery {number} of session {session}")
            }
            Self::Receipt(session, packet_id) => write!(f, "packet id {packet_id} of session {session}"),
            Self::Body(number) => write!(f, "message {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn all() -> Vec<Key> {
        vec![
            Key::LastSession,
            Key::Session(7),
            Key::Subscription(7, filter_name("a/+")),
            Key::Will(7, MsgId::from_bits(1 << 100)),
            Key::Retained(topic_name(&Tenant::default(), &"a/b".parse().unwrap())),
            Key::Delivery(7, 9),
            Key::Sending(u64::MAX, 1),
            Key::Receipt(7, 65_535),
            Key::Body(u64::MAX - 1),
        ]
    }

    #[test]
    fn what_is_written_reads_back_and_nothing_else_does() {
        for key in all() {
            let bytes = key.to_bytes();
            assert_eq!(Key::from_bytes(&bytes), Some(key));
            assert_eq!(Key::from_bytes(&[&bytes[..], b"x"].concat()), None, "{key}");
            assert_eq!(Key::from_bytes(&bytes[..bytes.len() - 1]), None, "{key}");
        }
        assert_eq!(Key::from_bytes(&[6, 0]), None);
    }

    #[test]
    fn records_of_one_kind_lie_in_the_order_of_sessions_and_numbers() {
        let keys = [Key::Delivery(1, 300), Key::Delivery(2, 1), Key::Delivery(2, 256), Key::Delivery(256, 1)];
        assert!(keys.map(Key::to_bytes).is_sorted());
    }

    #[test]
    fn topics_of_two_tenants_have_two_names() {
        let name = |tenant: &str, topic: &str| topic_name(&Tenant::new(tenant), &topic.parse().unwrap());
        assert_ne!(name("a", "bc"), name("ab", "c"));
        assert_ne!(name("a", "x"), name("b", "x"));
        assert_eq!(name("a", "x"), name("a", "x"));
    }
}
