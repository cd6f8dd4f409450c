//! What is known of a session (MQTT 5 clause 4.1): what it is subscribed to, what it was sent.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::super::packet::Wanted;
use super::super::wire::{matches, shared};

/// A filter that the client has asked for.
#[derive(Clone, Debug)]
pub struct Filter {
    pub text: String,
    /// Greatest QoS that was ever asked for.
    pub qos: u8,
    /// Subscription identifiers that it ever had.
    pub ids: Vec<u32>,
    /// Whether it was ever wanted with messages of the client itself.
    pub with_own: bool,
    /// SUBSCRIBE packets for it without SUBACK.
    pub pending: u32,
    pub was_granted: bool,
    /// When UNSUBACK was sent, by the judge's count.
    pub ended: Option<u64>,
}

impl Filter {
    pub fn is_shared(&self) -> bool {
        shared(&self.text).is_some()
    }

    pub fn matches(&self, topic: &str) -> bool {
        matches(shared(&self.text).unwrap_or(&self.text), topic)
    }
}

/// A QoS 1 or 2 message that was sent to the client.
#[derive(Clone, Debug)]
pub struct Sent {
    pub qos: u8,
    pub message: Option<usize>,
    /// The connection on which it was sent last.
    pub connection: usize,
    /// PUBREC was read.
    pub is_received: bool,
    /// PUBREL was written: the message is never sent again.
    pub is_released: bool,
    /// PUBACK, PUBCOMP or a PUBREC with an error was read. The broker may not have looked at it, if the connection has
    /// ended.
    pub is_acked: bool,
}

/// What the broker should know of a client.
#[derive(Clone, Debug)]
pub struct Session {
    /// Whether the judge knows all of it: not, for example, when a crash may have brought back an older one.
    pub is_known: bool,
    /// Seconds it outlives its connection, at least and at most.
    pub expiry: (u32, u32),
    /// The connection that has it.
    pub current: Option<usize>,
    /// When its last connection ended, at the earliest and at the latest.
    pub gone: Option<(Duration, Duration)>,
    pub filters: Vec<Filter>,
    pub sent: BTreeMap<u16, Sent>,
    /// QoS 2 packet ids that the client has used and not released, and for which message.
    pub received: HashMap<u16, usize>,
    /// How often each message was delivered as a new one.
    pub delivered: HashMap<usize, u32>,
    /// The newest message by publisher, topic and QoS.
    pub newest: HashMap<(String, String, u8, u8), u64>,
    /// The client has acknowledged what the broker may not have sent: what is in flight is not known any more.
    pub is_wild: bool,
    pub has_crashed: bool,
    /// A connection of it took small packets only: what was larger counts as sent (`[MQTT-3.1.2-25]`), and its packet id is free.
    pub was_small: bool,
}

impl Session {
    pub fn new(connection: usize, expiry: u32) -> Self {
        Self {
            is_known: true,
            expiry: (expiry, expiry),
            current: Some(connection),
            gone: None,
            filters: Vec::new(),
            sent: BTreeMap::new(),
            received: HashMap::new(),
            delivered: HashMap::new(),
            newest: HashMap::new(),
            is_wild: false,
            has_crashed: false,
            was_small: false,
        }
    }

    /// Whether the broker may still have it at `now`.
    pub fn may_live(&self, now: Duration) -> bool {
        let until =
            |(_, last): (Duration, Duration)| last + Duration::from_secs(u64::from(self.expiry.1) + 3);
        self.expiry.1 > 0 && (self.current.is_some() || self.gone.is_none_or(|gone| now <= until(gone)))
    }

    /// Whether the broker must still have it at `now`.
    pub fn must_live(&self, now: Duration) -> bool {
        let until = |(first, _): (Duration, Duration)| first + Duration::from_secs(u64::from(self.expiry.0));
        let soon = now + Duration::from_secs(3);
        self.is_known
            && self.expiry.0 > 0
            && (self.current.is_some() || self.gone.is_none_or(|gone| soon < until(gone)))
    }

    /// SUBSCRIBE was read: from now on messages may come.
    pub fn subscribe(&mut self, wanted: &Wanted, id: Option<u32>) {
        let present =
            self.filters.iter_mut().find(|known| known.text == wanted.filter && known.ended.is_none());
        let filter = match present {
            Some(filter) => filter,
            None => {
                self.filters.push(Filter {
                    text: wanted.filter.clone(),
                    qos: 0,
                    ids: Vec::new(),
                    with_own: false,
                    pending: 0,
                    was_granted: false,
                    ended: None,
                });
                let last = self.filters.len() - 1;
                &mut self.filters[last]
            }
        };
        filter.qos = filter.qos.max(wanted.qos);
        filter.ids.extend(id);
        filter.with_own |= !wanted.no_local;
        filter.pending += 1;
    }

    /// SUBACK was written.
    pub fn subscribed(&mut self, text: &str, granted: bool, count: u64) {
        if let Some(filter) = self.present(text) {
            filter.pending = filter.pending.saturating_sub(1);
            filter.was_granted |= granted;
            if !filter.was_granted && filter.pending == 0 {
                filter.ended = Some(count);
            }
        }
    }

    /// UNSUBACK was written.
    pub fn unsubscribed(&mut self, text: &str, count: u64) {
        if let Some(filter) = self.present(text).filter(|filter| filter.pending == 0) {
            filter.ended = Some(count);
        }
    }

    fn present(&mut self, text: &str) -> Option<&mut Filter> {
        self.filters.iter_mut().find(|known| known.text == text && known.ended.is_none())
    }

    /// The filters that a message on `topic`, published at `first`, may have come by.
    pub fn reasons_for<'a>(&'a self, topic: &'a str, first: u64) -> impl Iterator<Item = &'a Filter> {
        self.filters
            .iter()
            .filter(move |filter| filter.matches(topic) && filter.ended.is_none_or(|ended| ended >= first))
    }

    /// The broker has crashed; `synced`: nothing that it had recorded was lost.
    pub fn crash(&mut self, synced: bool, now: Duration) {
        // What CONNACK has promised is on disk: that it was made, when it expires, that the one before it has ended. Only what
        // DISCONNECT has changed may be undone.
        let first = self.gone.map_or(now, |(first, _)| first);
        let last = if synced { self.gone.map_or(now, |(_, last)| last) } else { now };
        self.gone = Some((first, last));
        self.current = None;
        // That a QoS 1 message was sent need not be on disk when it goes out: it may be sent again as a new one.
        self.sent.retain(|_, sent| sent.qos == 2);
        self.newest.clear();
        self.has_crashed = true;
    }
}
