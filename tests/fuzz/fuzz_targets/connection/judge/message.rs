//! What clients have published, as far as the broker has read it: nothing else may be delivered.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::super::packet::Publish;
use super::super::wire::{Properties, id};

/// One time a message was published.
#[derive(Clone, Debug)]
pub struct Variant {
    pub qos: u8,
    pub forwarded: Properties,
    /// Message expiry, seconds, and when it was published; `None` for the time of a will, which is not known.
    pub expiry: Option<(u32, Option<Duration>)>,
    pub publisher: String,
    pub is_will: bool,
}

/// All messages of one topic and payload.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub variants: Vec<Variant>,
    /// How often it was a new message; resends at QoS 2 are none.
    pub count: u32,
    /// When it was read first, by the judge's count.
    pub first: u64,
    pub was_retained: bool,
    /// It is the will of a client that has said good-bye since (`[MQTT-3.1.2-10]`), on this connection.
    pub withdrawn: Option<usize>,
}

impl Message {
    pub fn qos(&self) -> u8 {
        self.variants.iter().map(|variant| variant.qos).max().unwrap_or(0)
    }

    pub fn publishers(&self) -> HashSet<&str> {
        self.variants.iter().map(|variant| variant.publisher.as_str()).collect()
    }

    pub fn is_will(&self) -> bool {
        self.variants.iter().any(|variant| variant.is_will)
    }

    /// Whether all of it had expired at `now`.
    pub fn is_expired(&self, now: Duration) -> bool {
        // The broker counts in milliseconds, the standard in seconds.
        let over = |seconds: u32, since: Duration| {
            now > since + Duration::from_secs(u64::from(seconds)) + Duration::from_millis(1_500)
        };
        self.variants.iter().all(|variant| match variant.expiry {
            Some((seconds, Some(since))) => over(seconds, since),
            _ => false,
        })
    }
}

/// Every message that was published.
#[derive(Default)]
pub struct Messages {
    all: Vec<Message>,
    known: HashMap<(String, Vec<u8>), usize>,
}

impl Messages {
    /// `publish` was read, its topic resolved. `is_new`: it is no resend.
    pub fn publish(
        &mut self,
        publish: &Publish,
        publisher: &str,
        now: Option<Duration>,
        count: u64,
        is_new: bool,
    ) -> usize {
        let key = (publish.topic.clone(), publish.payload.clone());
        let index = *self.known.entry(key).or_insert_with(|| {
            self.all.push(Message { first: count, ..Message::default() });
            self.all.len() - 1
        });
        let message = &mut self.all[index];
        message.count += u32::from(is_new);
        message.was_retained |= publish.retain;
        let expiry = publish.properties.number(id::MESSAGE_EXPIRY);
        message.variants.push(Variant {
            qos: publish.qos,
            forwarded: publish.properties.forwarded(),
            expiry: expiry.map(|seconds| (seconds, now)),
            publisher: publisher.to_owned(),
            is_will: now.is_none(),
        });
        index
    }

    pub fn find(&self, topic: &str, payload: &[u8]) -> Option<usize> {
        self.known.get(&(topic.to_owned(), payload.to_vec())).copied()
    }

    pub fn get(&self, index: usize) -> &Message {
        &self.all[index]
    }

    pub fn get_mut(&mut self, index: usize) -> &mut Message {
        &mut self.all[index]
    }

    /// The broker has crashed: a will that it had published, and not recorded as published, is published again.
    pub fn crash(&mut self) {
        self.all.iter_mut().filter(|message| message.is_will()).for_each(|message| message.count += 1);
    }

    /// How many topics may have a retained message.
    pub fn retained(&self) -> usize {
        let topics: HashSet<_> = self
            .known
            .iter()
            .filter(|(_, index)| self.all[**index].was_retained)
            .map(|(key, _)| &key.0)
            .collect();
        topics.len()
    }
}
