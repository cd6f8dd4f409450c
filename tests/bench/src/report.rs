//! What a person and a program read: tables on the terminal, JSON lines in a file.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail};
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

/// A number that has a target, as the last table shows it.
#[derive(Debug)]
struct Check {
    row: String,
    case: String,
    what: String,
    value: String,
    target: Target,
    met: bool,
}

/// Prints as results come and writes them down.
#[derive(Debug)]
pub struct Report {
    json: Option<File>,
    started: Instant,
    checks: Vec<Check>,
    /// What makes the run a failure: numbers do not, losing a message does.
    failures: Vec<String>,
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
        Ok(Self { json, started: Instant::now(), checks: Vec::new(), failures: Vec::new() })
    }

    /// Starts a case.
    pub fn heading(&mut self, text: &str) {
        self.line(&format!("\n{text}"));
    }

    /// Prints a line. A reader that has gone away (`| head`) does not stop the bench.
    pub fn line(&mut self, text: &str) {
        drop(writeln!(std::io::stdout(), "{text}"));
    }

    /// Says what is being done, on standard error, so that tables stay tables.
    pub fn progress(&self, text: &str) {
        drop(writeln!(std::io::stderr(), "[{:>4} s] {text}", self.started.elapsed().as_secs()));
    }

    /// A row that could not be run to its end. The others are.
    pub fn failed(&mut self, row: &str, error: &anyhow::Error) {
        self.line(&format!("    FAILED: {error:#}"));
        self.failures.push(format!("{row}: {error:#}"));
    }

    /// Takes note of what our server lost, or did not deliver in order: then the run fails, whatever its numbers.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kept(&mut self, row: &str, case: &str, lost: u64, misordered: u64) -> anyhow::Result<()> {
        if lost == 0 && misordered == 0 {
            return Ok(());
        }
        let text = format!("{row}, {case}: {lost} messages lost, {misordered} not in order");
        self.line(&format!("    FAILED: {text}"));
        self.failures.push(text);
        self.json(&json!({"row": row, "case": case, "lost": lost, "misordered": misordered, "failed": true}))
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
        let word = word(met);
        self.line(&format!("    {what:<44} {value:>9.2}{unit:<3} target {:<9} {word}", target.to_string()));
        self.checks.push(Check {
            row: row.to_owned(),
            case: case.to_owned(),
            what: what.to_owned(),
            value: format!("{value:.2}{unit}"),
            target,
            met,
        });
        self.json(&json!({
            "row": row, "case": case, "check": what, "value": value, "unit": unit,
            "target": target.to_string(), "met": met,
        }))
    }

    /// Prints every number that has a target in one table.
    ///
    /// # Errors
    /// When a message was lost or out of order, or a row did not come to its end. A missed target is a result, not
    /// an error.
    pub fn finish(mut self) -> anyhow::Result<()> {
        let checks = std::mem::take(&mut self.checks);
        let width = |of: fn(&Check) -> &str| checks.iter().map(|c| of(c).chars().count()).max().unwrap_or(0);
        let (row, case, what) = (width(|c| &c.row), width(|c| &c.case), width(|c| &c.what));
        self.line(&format!("\nall targets, after {} s", self.started.elapsed().as_secs()));
        for check in &checks {
            self.line(&format!(
                "    {:<row$}  {:<case$}  {:<what$} {:>11}  target {:<9} {}",
                check.row,
                check.case,
                check.what,
                check.value,
                check.target.to_string(),
                word(check.met),
            ));
        }
        let met = checks.iter().filter(|check| check.met).count();
        self.line(&format!("{met} targets met, {} missed", checks.len() - met));
        if self.failures.is_empty() {
            return Ok(());
        }
        bail!("{}", self.failures.join("\n       "))
    }

    fn json(&mut self, value: &Value) -> anyhow::Result<()> {
        if let Some(file) = &mut self.json {
            writeln!(file, "{value}").context("writing JSON lines")?;
        }
        Ok(())
    }
}

fn word(met: bool) -> &'static str {
    if met { "pass" } else { "MISS" }
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
        assert!(report.checks.iter().all(|c| !c.met), "a number that was not measured is no pass");
        let text = std::fs::read_to_string(&path).unwrap();
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["met"], false);
        assert_eq!(line["target"], ">= 1.5");
        assert!(report.finish().is_ok(), "a missed target is a result");
    }

    #[test]
    fn a_run_fails_when_a_message_is_lost_or_out_of_order_or_a_row_does_not_end() {
        let mut whole = Report::new(None).unwrap();
        whole.kept("broker", "1 -> 1", 0, 0).unwrap();
        assert!(whole.finish().is_ok());
        for (lost, misordered) in [(1, 0), (0, 1)] {
            let mut report = Report::new(None).unwrap();
            report.kept("broker", "1 -> 1", lost, misordered).unwrap();
            report.kept("broker", "1 -> 100", 0, 0).unwrap();
            let error = report.finish().unwrap_err().to_string();
            assert!(error.contains("1 -> 1: ") && !error.contains("1 -> 100"), "{error}");
        }
        let mut report = Report::new(None).unwrap();
        report.failed("store", &anyhow::anyhow!("no server"));
        assert!(report.finish().unwrap_err().to_string().contains("store: no server"));
    }
}
