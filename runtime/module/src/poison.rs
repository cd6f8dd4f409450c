//! Messages that fail again and again: known by who sent what to where, because a message that is sent again has a
//! new id.
//!
//! Only failures touch this memory, and it is bounded: the message that failed longest ago is forgotten first, and
//! each one after an hour without a failure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_event::Message;

/// How many messages are remembered for a module version.
const MAX_SUSPECTS: usize = 4_096;
/// How long a failure is remembered.
const MEMORY: Duration = Duration::from_secs(60 * 60);

/// What a message is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Of a message: its sender, topic and payload.
    pub(crate) fn of(message: &Message) -> Self {
        let mut hasher = blake3::Hasher::new();
        for text in [&*message.sender, message.topic.as_str()] {
            hasher.update(&text.len().to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&message.payload);
        let mut short = [0; 16];
        hasher.finalize_xof().fill(&mut short);
        Self(short)
    }
}

/// How a message has failed so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Times it came and failed.
    pub(crate) failures: u32,
    /// Attempts made at it, over all these times.
    pub(crate) attempts: u32,
}

/// The messages that failed lately.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    known: Mutex<HashMap<Fingerprint, (Record, Instant)>>,
}

impl Suspects {
    /// A message failed at `now`, after so many attempts; gives all its failures that are remembered.
    pub(crate) fn failed(&self, message: Fingerprint, attempts: u32, now: Instant) -> Record {
        let mut known = self.known.lock();
        if known.len() >= MAX_SUSPECTS && !known.contains_key(&message) {
            make_room(&mut known, now);
        }
        let (record, last) = known.entry(message).or_insert((Record { failures: 0, attempts: 0 }, now));
        if now.saturating_duration_since(*last) > MEMORY {
            *record = Record { failures: 0, attempts: 0 };
        }
        *last = now;
        record.failures = record.failures.saturating_add(1);
        record.attempts = record.attempts.saturating_add(attempts);
        *record
    }

    /// The message is dealt with: should it come again, it is counted anew.
    pub(crate) fn forget(&self, message: Fingerprint) {
        self.known.lock().remove(&message);
    }
}

fn make_room(known: &mut HashMap<Fingerprint, (Record, Instant)>, now: Instant) {
    known.retain(|_, (_, last)| now.saturating_duration_since(*last) <= MEMORY);
    if known.len() < MAX_SUSPECTS {
        return;
    }
    let oldest = known.iter().min_by_key(|(_, (_, last))| *last).map(|(message, _)| *message);
    if let Some(oldest) = oldest {
        known.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use bytes::Bytes;
    use tidegate_event::{MsgId, Origin, QoS};

    use super::*;

    fn message(id: u128, sender: &str, topic: &str, payload: &[u8]) -> Message {
        Message {
            id: MsgId::from_bits(id),
            topic: topic.parse().unwrap(),
            payload: Bytes::copy_from_slice(payload),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: id > 0,
            timestamp_ms: 0,
            sender: sender.into(),
            publisher: None,
            properties: None,
            origin: Origin::Client,
            hops: 0,
        }
    }

    fn number(n: u32) -> Fingerprint {
        Fingerprint::of(&message(0, "c", "t", &n.to_le_bytes()))
    }

    #[test]
    fn a_message_is_known_by_sender_topic_and_payload() {
        let first = Fingerprint::of(&message(0, "c", "a/b", b"x"));
        assert_eq!(first, Fingerprint::of(&message(9, "c", "a/b", b"x")), "sent again");
        for other in [
            message(0, "d", "a/b", b"x"),
            message(0, "c", "a/c", b"x"),
            message(0, "c", "a/b", b"y"),
            message(0, "ca", "/b", b"x"),
            message(0, "c", "a/", b"bx"),
        ] {
            assert_ne!(first, Fingerprint::of(&other), "{other:?}");
        }
    }

    #[test]
    fn failures_add_up_until_they_are_forgotten() {
        let (suspects, now) = (Suspects::default(), Instant::now());
        assert_eq!(suspects.failed(number(1), 4, now), Record { failures: 1, attempts: 4 });
        assert_eq!(suspects.failed(number(1), 1, now), Record { failures: 2, attempts: 5 });
        assert_eq!(suspects.failed(number(2), 1, now).failures, 1);
        suspects.forget(number(1));
        assert_eq!(suspects.failed(number(1), 1, now).failures, 1);
        let later = now + MEMORY + Duration::from_secs(1);
        assert_eq!(suspects.failed(number(1), 1, later).failures, 1, "an hour is long enough");
    }

    #[test]
    fn what_failed_longest_ago_is_forgotten_first() {
        let (suspects, start) = (Suspects::default(), Instant::now());
        let at = |n: u32| start + Duration::from_millis(n.into());
        let most = u32::try_from(MAX_SUSPECTS).unwrap();
        for n in 0..most {
            suspects.failed(number(n), 1, at(n));
        }
        // The first one fails again: now the second has waited longest.
        assert_eq!(suspects.failed(number(0), 1, at(most)).failures, 2);
        suspects.failed(number(most), 1, at(most + 1));
        assert_eq!(suspects.known.lock().len(), MAX_SUSPECTS);
        assert_eq!(suspects.failed(number(0), 1, at(most + 2)).failures, 3);
        assert_eq!(suspects.failed(number(1), 1, at(most + 3)).failures, 1, "it was forgotten");
    }
}
