//! What a subscriber was given: how often each message, and whether in the order in which they were published.

use std::collections::HashMap;

/// Messages by publisher.
#[derive(Default)]
pub(crate) struct Tally {
    /// How often each number came.
    counts: HashMap<String, HashMap<u64, u32>>,
    /// The greatest number so far.
    last: HashMap<String, u64>,
    /// First deliveries behind a greater number.
    overtaken: Vec<String>,
}

impl Tally {
    /// `payload` is the publisher's name and a number.
    pub(crate) fn add(&mut self, payload: &str) {
        let (name, number) =
            payload.split_once(' ').unwrap_or_else(|| panic!("a strange payload: {payload}"));
        let number: u64 = number.parse().unwrap_or_else(|_| panic!("a strange payload: {payload}"));
        let count = self.counts.entry(name.to_owned()).or_default().entry(number).or_default();
        *count += 1;
        if *count > 1 {
            return;
        }
        let last = self.last.entry(name.to_owned()).or_default();
        if number < *last {
            self.overtaken.push(format!("{payload} behind {last}"));
        }
        *last = number.max(*last);
    }

    /// Adds what a member of the same shared subscription was given.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (name, counts) in &other.counts {
            let own = self.counts.entry(name.clone()).or_default();
            for (number, count) in counts {
                *own.entry(*number).or_default() += count;
            }
        }
    }

    /// Whether every number of `name` below `end` came.
    pub(crate) fn has_all(&self, name: &str, end: u64) -> bool {
        let counts = self.counts.get(name);
        end == 0 || counts.is_some_and(|counts| counts.len() as u64 >= end)
    }

    /// Panics unless every number of `name` below `end` came; once, if `exactly_once`.
    pub(crate) fn check(&self, who: &str, name: &str, end: u64, exactly_once: bool) {
        let empty = HashMap::new();
        let counts = self.counts.get(name).unwrap_or(&empty);
        let missing: Vec<u64> = (0..end).filter(|number| !counts.contains_key(number)).collect();
        let first = &missing[..missing.len().min(10)];
        assert!(missing.is_empty(), "{who} lacks {} of {end} of {name}: {first:?}", missing.len());
        if exactly_once {
            let mut twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
            twice.sort_unstable();
            assert!(twice.is_empty(), "{who} got more than once of {name} (number, times): {twice:?}");
        }
    }

    /// Panics when a message came behind a later one of its publisher.
    pub(crate) fn check_order(&self, who: &str) {
        let first = &self.overtaken[..self.overtaken.len().min(10)];
        assert!(self.overtaken.is_empty(), "{who} got {} messages late: {first:?}", self.overtaken.len());
    }

    /// How many messages came again.
    pub(crate) fn repeated(&self) -> u32 {
        self.counts.values().flat_map(|counts| counts.values()).map(|count| count - 1).sum()
    }
}
