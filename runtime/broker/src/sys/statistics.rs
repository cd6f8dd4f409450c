//! What a tenant's clients have done.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Value;
use super::averages::Averages;

/// Counts of one tenant since the broker started.
#[derive(Default)]
pub(crate) struct Statistics {
    connected: AtomicUsize,
    most_connected: AtomicUsize,
    connections: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    dropped: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    averages: Mutex<[Averages; AVERAGED.len()]>,
    /// How many messages waited in queues, and when that was counted.
    queued: Mutex<Option<(Instant, usize)>>,
}

/// So long the number of waiting messages holds: to count them, every session is looked at.
const COUNTED: Duration = Duration::from_secs(1);

/// What has load averages, as it is called.
const AVERAGED: [&str; 5] =
    ["messages/received", "messages/sent", "bytes/received", "bytes/sent", "connections"];

/// The names of the averages, in the order of [`AVERAGED`].
const LOADS: [[&str; 3]; AVERAGED.len()] = [
    ["load/messages/received/1min", "load/messages/received/5min", "load/messages/received/15min"],
    ["load/messages/sent/1min", "load/messages/sent/5min", "load/messages/sent/15min"],
    ["load/bytes/received/1min", "load/bytes/received/5min", "load/bytes/received/15min"],
    ["load/bytes/sent/1min", "load/bytes/sent/5min", "load/bytes/sent/15min"],
    ["load/connections/1min", "load/connections/5min", "load/connections/15min"],
];

/// What a connection has done since it said so last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

impl Statistics {
    /// A client has connected.
    pub(crate) fn client_connected(&self) {
        let connected = self.connected.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_connected.fetch_max(connected, Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A client that was connected has gone.
    pub(crate) fn client_left(&self) {
        self.connected.fetch_sub(1, Ordering::Relaxed);
    }

    /// A message did not go on.
    pub(crate) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// How many messages did not go on.
    #[cfg(test)]
    pub(crate) fn dropped_so_far(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// A connection has done this.
    pub(crate) fn add(&self, traffic: Traffic) {
        let add = |count: &AtomicU64, by: u64| {
            if by > 0 {
                count.fetch_add(by, Ordering::Relaxed);
            }
        };
        add(&self.received, traffic.received);
        add(&self.sent, traffic.sent);
        add(&self.bytes_received, traffic.bytes_received);
        add(&self.bytes_sent, traffic.bytes_sent);
    }

    /// Clients that are connected.
    pub(super) fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    /// Messages that wait in queues, as they were counted lately, or are by `count`.
    pub(super) fn queued(&self, count: impl FnOnce() -> usize) -> usize {
        let mut known = self.queued.lock();
        match *known {
            Some((at, queued)) if at.elapsed() < COUNTED => queued,
            _ => known.insert((Instant::now(), count())).1,
        }
    }

    /// Brings the averages up to date: `elapsed` has passed since they last were.
    pub(super) fn average(&self, elapsed: Duration) {
        let totals = [&self.received, &self.sent, &self.bytes_received, &self.bytes_sent, &self.connections];
        let mut averages = self.averages.lock();
        for (average, total) in averages.iter_mut().zip(totals) {
            average.add(total.load(Ordering::Relaxed), elapsed);
        }
    }

    /// Appends every value.
    pub(super) fn add_to(&self, values: &mut Vec<Value>) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed).to_string();
        values.extend([
            ("clients/connected", self.connected().to_string()),
            ("clients/maximum", self.most_connected.load(Ordering::Relaxed).to_string()),
            ("messages/received", of(&self.received)),
            ("messages/sent", of(&self.sent)),
            ("messages/dropped", of(&self.dropped)),
            ("publish/messages/received", of(&self.received)),
            ("publish/messages/sent", of(&self.sent)),
            ("publish/messages/dropped", of(&self.dropped)),
            ("bytes/received", of(&self.bytes_received)),
            ("bytes/sent", of(&self.bytes_sent)),
        ]);
        let averages = self.averages.lock();
        for (names, average) in LOADS.iter().zip(averages.iter()) {
            let loads = names.iter().zip(average.per_minute());
            values.extend(loads.map(|(name, load)| (*name, format!("{load:.2}"))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_average_is_named_after_what_it_is_of() {
        for (of, names) in AVERAGED.iter().zip(LOADS) {
            let expected = ["1min", "5min", "15min"].map(|span| format!("load/{of}/{span}"));
            assert_eq!(names.map(str::to_owned), expected);
        }
    }

    #[test]
    fn waiting_messages_are_not_counted_again_and_again() {
        let statistics = Statistics::default();
        assert_eq!((statistics.queued(|| 5), statistics.queued(|| 6)), (5, 5));
    }

    #[test]
    fn counts_are_told_under_their_names() {
        let statistics = Statistics::default();
        statistics.client_connected();
        statistics.client_connected();
        statistics.client_left();
        statistics.add(Traffic { received: 3, sent: 4, bytes_received: 50, bytes_sent: 60 });
        statistics.average(Duration::from_secs(10));
        statistics.dropped();
        let mut values = Vec::new();
        statistics.add_to(&mut values);
        for (name, expected) in [
            ("clients/connected", "1"),
            ("clients/maximum", "2"),
            ("messages/received", "3"),
            ("messages/sent", "4"),
            ("messages/dropped", "1"),
            ("bytes/received", "50"),
            ("bytes/sent", "60"),
        ] {
            let found = values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
            assert_eq!(found, Some(expected), "{name}");
        }
    }
}
