//! Dead letters: operations that a database refused for good, kept in a file for a person to look at.
//!
//! One JSON object a line, on disk before the publisher learns of the refusal. The file has a bound: when it is
//! reached, it becomes `dead-letters.jsonl.1` (replacing an older one) and a new file begins.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use parking_lot::Mutex;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::operation::Operation;

/// A line of the file.
#[derive(Serialize)]
struct Letter<'a> {
    time: String,
    connector: &'a str,
    operation: &'static str,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    msgid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain: Option<bool>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// Custom statements with `?1`, `?2` ... for their variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statements: Vec<&'a str>,
}

/// The dead-letter file, shared by all connectors.
pub(crate) struct DeadLetters {
    path: PathBuf,
    max_bytes: u64,
    writing: Mutex<()>,
}

impl DeadLetters {
    /// Letters go to `path`; nothing is created before the first one.
    pub(crate) fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { path, max_bytes, writing: Mutex::new(()) }
    }

    /// Writes one letter and returns when it is on disk. False: it could not be written, and the operation must not
    /// count as decided.
    #[must_use]
    pub(crate) async fn keep(self: &Arc<Self>, connector: &str, operation: &Operation, error: &str) -> bool {
        let line = match line(connector, operation, error) {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(connector, %error, "dead letter cannot be written as JSON");
                return false;
            }
        };
        let this = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || this.append(line.as_bytes())).await;
        let failure = match written {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let path = self.path.display();
        tracing::error!(connector, %path, error = %failure, "dead letter cannot be written: the operation is not acknowledged");
        false
    }

    /// Opens the file for every letter: letters are rare, and whoever moves the file away gets the next one in a
    /// new file.
    fn append(&self, line: &[u8]) -> io::Result<()> {
        let _one_at_a_time = self.writing.lock();
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let open = || OpenOptions::new().create(true).append(true).open(&self.path);
        let mut file = open()?;
        let size = file.metadata()?.len();
        if size > 0 && size + line.len() as u64 > self.max_bytes {
            std::fs::rename(&self.path, rotated(&self.path))?;
            file = open()?;
        }
        file.write_all(line)?;
        file.sync_data()?;
        sync_dir(dir)
    }
}

/// Brings the names of new and renamed files to the disk.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { std::fs::File::open(dir)?.sync_all() } else { Ok(()) }
}

fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn line(connector: &str, operation: &Operation, error: &str) -> Result<String, serde_json::Error> {
    let subject = operation.subject();
    let message = subject.message.as_deref();
    let statements = match operation {
        Operation::Execute { statements, .. } => statements.iter().map(|s| &**s.sql()).collect(),
        _ => Vec::new(),
    };
    let letter = Letter {
        time: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        connector,
        operation: operation.name(),
        error,
        client: subject.client.as_deref(),
        topic: subject.topic.as_deref(),
        msgid: message.map(|m| m.id.to_string()),
        qos: message.map(|m| m.qos.level()),
        retain: message.map(|m| m.retain),
        payload: message.map(|m| base64::engine::general_purpose::STANDARD.encode(&m.payload)),
        statements,
    };
    let mut line = serde_json::to_string(&letter)?;
    line.push('\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn operation() -> Operation {
        Operation::DeleteRetained { topic: "a/b".parse().unwrap() }
    }

    #[tokio::test]
    async fn letters_are_lines_of_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data/dead-letters.jsonl");
        let letters = Arc::new(DeadLetters::new(path.clone(), 1 << 20));
        assert!(letters.keep("sqlite:p", &operation(), "too \"long\"").await);
        assert!(letters.keep("sqlite:p", &operation(), "again").await);
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        let first = lines.first().unwrap();
        assert_eq!(first["connector"], "sqlite:p");
        assert_eq!(first["operation"], "delete_retained");
        assert_eq!(first["topic"], "a/b");
        assert_eq!(first["error"], "too \"long\"");
    }

    #[tokio::test]
    async fn the_file_is_bounded_and_the_newest_letters_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dead-letters.jsonl");
        let letters = Arc::new(DeadLetters::new(path.clone(), 500));
        for n in 0..20 {
            assert!(letters.keep("sqlite:p", &operation(), &format!("error {n}")).await);
        }
        let (new, old) =
            (std::fs::read_to_string(&path).unwrap(), std::fs::read_to_string(rotated(&path)).unwrap());
        assert!(new.len() <= 500 && old.len() <= 500, "{} {}", new.len(), old.len());
        assert!(new.contains("error 19") && !new.contains("error 0\""));
    }
}
