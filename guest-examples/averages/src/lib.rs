//! Publishes the mean of what each topic brought since the last tick.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate_sdk::{Event, Message, Published, Result, State, Verdict, client_control, export};

export! {
    message_publish_batch: add,
    tick: publish,
    state: Sums,
}

/// What the manifest's topics begin with, and what the means are published under instead.
const READINGS: &str = "sensors/";
const MEANS: &str = "averages/";

thread_local! {
    static SUMS: RefCell<Sums> = const { RefCell::new(Sums { of: BTreeMap::new() }) };
}

/// Sum and count of each topic.
#[derive(Debug, Default, PartialEq)]
struct Sums {
    of: BTreeMap<String, (f64, u64)>,
}

fn add(batch: Vec<Published>) -> Vec<Result<Verdict>> {
    SUMS.with_borrow_mut(|sums| {
        for published in &batch {
            sums.add(&published.message.topic, &published.message.payload);
        }
    });
    batch.iter().map(|_| Ok(Verdict::Pass)).collect()
}

fn publish(event: Event) -> std::result::Result<(), String> {
    while let Some((topic, mean)) = SUMS.with_borrow(Sums::first) {
        let message = Message::new(means_topic(&topic), mean.to_string()).with_retain(true);
        // What cannot be published now stays for the next tick.
        client_control::publish(event, &message).map_err(|error| error.to_string())?;
        SUMS.with_borrow_mut(|sums| sums.of.remove(&topic));
    }
    Ok(())
}

impl Sums {
    /// Counts the number `celsius` of a JSON object; anything else is no reading.
    fn add(&mut self, topic: &str, payload: &[u8]) {
        let reading = serde_json::from_slice::<Value>(payload).ok();
        let Some(celsius) = reading.and_then(|reading| reading.get("celsius")?.as_f64()) else { return };
        let (sum, count) = self.of.entry(topic.to_owned()).or_default();
        *sum += celsius;
        *count += 1;
    }

    /// The first topic, and the mean of its readings.
    fn first(&self) -> Option<(String, Value)> {
        let (topic, (sum, count)) = self.of.first_key_value()?;
        // Exact up to 2^53 readings.
        Some((topic.clone(), json!({"celsius": sum / *count as f64, "count": count})))
    }
}

/// Where the mean of `topic` is published.
fn means_topic(topic: &str) -> String {
    format!("{MEANS}{}", topic.strip_prefix(READINGS).unwrap_or(topic))
}

impl State for Sums {
    fn drain() -> Vec<u8> {
        SUMS.with_borrow(|sums| json!(sums.of).to_string().into_bytes())
    }

    fn restore(state: Vec<u8>) -> std::result::Result<(), String> {
        let of = serde_json::from_slice(&state).map_err(|error| error.to_string())?;
        SUMS.set(Sums { of });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_of_a_topic_become_a_mean() {
        let mut sums = Sums::default();
        for (topic, payload) in [
            ("sensors/a", r#"{"celsius":21.5}"#),
            ("sensors/b/c", r#"{"celsius":-3}"#),
            ("sensors/a", r#"{"celsius":22.5}"#),
            ("sensors/a", r#"{"celsius":"warm"}"#),
            ("sensors/a", "no reading"),
        ] {
            sums.add(topic, payload.as_bytes());
        }
        for (topic, published, mean) in [
            ("sensors/a", "averages/a", r#"{"celsius":22.0,"count":2}"#),
            ("sensors/b/c", "averages/b/c", r#"{"celsius":-3.0,"count":1}"#),
        ] {
            let first = sums.first().map(|(topic, mean)| (topic, mean.to_string()));
            assert_eq!(first, Some((topic.to_owned(), mean.to_owned())));
            assert_eq!(means_topic(topic), published);
            sums.of.remove(topic);
        }
        assert_eq!(sums.first(), None);
    }

    #[test]
    fn the_next_version_gets_the_sums() {
        SUMS.with_borrow_mut(|sums| sums.add("sensors/a", br#"{"celsius":20}"#));
        let state = Sums::drain();
        let before = SUMS.take();
        assert_eq!(Sums::restore(state), Ok(()));
        assert_eq!(SUMS.take(), before);
        assert!(Sums::restore(b"{".to_vec()).is_err());
    }
}
