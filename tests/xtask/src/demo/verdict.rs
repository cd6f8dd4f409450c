//! What the demo has seen, counted and judged.

use std::collections::BTreeSet;

use super::clients::Received;
use crate::process::Result;
use crate::screen;

/// The checks of a demo.
#[derive(Default)]
pub(crate) struct Verdict(Vec<(String, bool)>);

impl Verdict {
    /// Notes whether something holds.
    pub(crate) fn check(&mut self, what: &str, holds: bool) {
        self.0.push((what.to_owned(), holds));
    }

    /// Shows every check.
    pub(crate) fn print(&self) {
        for (what, holds) in &self.0 {
            let mark = if *holds { screen::good("ok    ") } else { screen::bad("FAILED") };
            println!("  {mark} {what}");
        }
    }

    /// Whether all held.
    ///
    /// # Errors
    /// One did not.
    pub(crate) fn result(&self) -> Result<()> {
        match self.0.iter().filter(|(_, holds)| !holds).count() {
            0 if self.0.is_empty() => Err("nothing was checked".into()),
            0 => Ok(()),
            failed => Err(format!("{failed} of {} checks failed", self.0.len())),
        }
    }
}

/// What became of the numbered messages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// With the old field only.
    pub old: usize,
    /// With the new field only.
    pub new: usize,
    /// Different numbers.
    pub distinct: usize,
    /// Numbers smaller than one before them.
    pub reordered: usize,
    /// Whether the old version served after the new one.
    pub back: bool,
}

/// Counts `messages`, in which `field` is the new field.
pub(crate) fn tally(messages: &[Received], field: &str) -> Tally {
    let mut tally = Tally::default();
    let mut numbers = BTreeSet::new();
    let mut highest = None;
    for message in messages {
        match (
            message.payload.contains("\"fahrenheit\":"),
            message.payload.contains(&format!("\"{field}\":")),
        ) {
            (true, false) => {
                tally.old += 1;
                tally.back |= tally.new > 0;
            }
            (false, true) => tally.new += 1,
            _ => {}
        }
        if let Some(number) = number(&message.payload) {
            numbers.insert(number);
            if highest.is_some_and(|highest| number < highest) {
                tally.reordered += 1;
            }
            highest = highest.max(Some(number));
        }
    }
    tally.distinct = numbers.len();
    tally
}

/// The number after `"n":`.
fn number(payload: &str) -> Option<u64> {
    let (_, rest) = payload.split_once("\"n\":")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(payloads: &[&str]) -> Vec<Received> {
        payloads.iter().map(|payload| Received { payload: (*payload).to_owned() }).collect()
    }

    #[test]
    fn a_clean_swap_is_counted() {
        let all = messages(&[
            r#"{"n":0,"fahrenheit":68.0}"#,
            r#"{"n":1,"fahrenheit":68.0}"#,
            r#"{"n":2,"x":68.0}"#,
        ]);
        let expected = Tally { old: 2, new: 1, distinct: 3, reordered: 0, back: false };
        assert_eq!(tally(&all, "x"), expected);
    }

    #[test]
    fn losses_doubles_and_steps_back_are_seen() {
        let all = messages(&[r#"{"n":3,"x":1}"#, r#"{"n":2,"fahrenheit":1}"#, r#"{"n":2}"#]);
        let expected = Tally { old: 1, new: 1, distinct: 2, reordered: 2, back: true };
        assert_eq!(tally(&all, "x"), expected);
    }

    #[test]
    fn one_failed_check_fails_the_demo() {
        let mut verdict = Verdict::default();
        assert!(verdict.result().is_err(), "nothing checked is no success");
        verdict.check("a", true);
        assert!(verdict.result().is_ok());
        verdict.check("b", false);
        assert!(verdict.result().is_err());
    }
}
