//! What a person and a program read: tables on the terminal, JSON lines in a file.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

/// What a measured number has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

impl Target {
    /// Whether `value` is what it has to be. NaN never is.
    pub fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::AtMost(bound) => write!(f, "<= {bound}"),
        }
    }
}

/// Prints as results come and writes them down.
#[derive(Debug)]
pub struct Report {
    json: Option<File>,
    passed: usize,
    missed: Vec<String>,
}

impl Report {
    /// A report that also writes JSON lines to `json`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(json: Option<&Path>) -> anyhow::Result<Self> {
        let json = json
            .map(|path| File::create(path).with_context(|| format!("creating {}", path.display())))
            .transpose()?;
        Ok(Self { json, passed: 0, missed: Vec::new() })
    }

    /// Starts a case.
    pub fn heading(&mut self, text: &str) {
        self.line(&format!("\n{text}"));
    }

    /// Prints a line. A reader that has gone away (`| head`) does not stop the bench.
    pub fn line(&mut self, text: &str) {
        drop(writeln!(std::io::stdout(), "{text}"));
    }

    /// Writes a measurement down; the table shows it in words of its own.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record(&mut self, row: &str, case: &str, values: Value) -> anyhow::Result<()> {
        self.json(&json!({"row": row, "case": case, "values": values}))
    }

    /// Prints and writes down a number that has a target.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn check(
        &mut self,
        row: &str,
        case: &str,
        what: &str,
        value: f64,
        unit: &str,
        target: Target,
    ) -> anyhow::Result<()> {
        let met = target.is_met_by(value);
        let word = if met { "pass" } else { "MISS" };
        self.line(&format!("    {what:<44} {value:>9.2}{unit:<3} target {:<9} {word}", target.to_string()));
        if met {
            self.passed += 1;
        } else {
            self.missed.push(format!("{row}, {case}: {what}: {value:.2}{unit} (target {target})"));
        }
        self.json(&json!({
            "row": row, "case": case, "check": what, "value": value, "unit": unit,
            "target": target.to_string(), "met": met,
        }))
    }

    /// Prints how many targets were met and which were not.
    pub fn finish(mut self) {
        let (passed, missed) = (self.passed, std::mem::take(&mut self.missed));
        self.line(&format!("\n{passed} targets met, {} missed", missed.len()));
        for miss in missed {
            self.line(&format!("  missed: {miss}"));
        }
    }

    fn json(&mut self, value: &Value) -> anyhow::Result<()> {
        if let Some(file) = &mut self.json {
            writeln!(file, "{value}").context("writing JSON lines")?;
        }
        Ok(())
    }
}

/// `1234567.8` as `1,234,568`.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(999.0), "999");
        assert_eq!(grouped(1_000.0), "1,000");
        assert_eq!(grouped(1_234_567.8), "1,234,568");
    }

    #[test]
    fn a_check_is_written_down_with_its_target() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.jsonl");
        let mut report = Report::new(Some(&path)).unwrap();
        report.check("broker", "1 -> 1", "ratio", 1.25, "x", Target::AtLeast(1.5)).unwrap();
        report.check("call", "pass", "time", f64::NAN, "us", Target::AtMost(1.5)).unwrap();
        assert_eq!(report.missed.len(), 2, "a number that was not measured is no pass");
        let text = std::fs::read_to_string(&path).unwrap();
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["met"], false);
        assert_eq!(line["target"], ">= 1.5");
    }
}
