//! Dead letters: operations that a database refused for good, kept in a file for a person to look at.
//!
//! One JSON object a line in a [`LetterFile`], on disk before the publisher learns of the refusal.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use tidegate_event::{IdSource, now_ms};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::buffer::record;
use crate::letter_file::LetterFile;
use crate::operation::Operation;

/// A line of the file.
#[derive(Serialize)]
struct Letter<'a> {
    /// Names the letter in `tidegate buffers`.
    id: String,
    time: String,
    connector: &'a str,
    operation: &'a str,
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
    /// The whole operation ([`record`]), base64: what `tidegate buffers retry` runs.
    record: String,
}

impl<'a> Letter<'a> {
    fn of(connector: &'a str, operation: &'a str, error: &'a str) -> Self {
        Self {
            id: new_id(),
            time: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            connector,
            operation,
            error,
            client: None,
            topic: None,
            msgid: None,
            qos: None,
            retain: None,
            payload: None,
            statements: Vec::new(),
            record: String::new(),
        }
    }
}

/// An id that no other letter has: the time in microseconds, and later ones of the same microsecond count on.
fn new_id() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = IdSource::now();
    let next = |last: u64| Some(now.max(last + 1));
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default();
    format!("{:x}", now.max(last + 1))
}

/// The dead letters of all connectors.
pub(crate) struct DeadLetters {
    file: LetterFile,
}

impl DeadLetters {
    /// Letters go to `path`; nothing is created before the first one.
    pub(crate) fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { file: LetterFile::new(path, max_bytes) }
    }

    /// The file that they are in.
    pub(crate) fn file(&self) -> &LetterFile {
        &self.file
    }

    /// Writes one letter and returns when it is on disk. False: it could not be written, and the operation must not
    /// count as decided.
    #[must_use]
    pub(crate) async fn keep(&self, connector: &str, operation: &Operation, error: &str) -> bool {
        self.write(connector, line(connector, operation, error)).await
    }

    /// Writes a record that is no operation, so that nothing which counts as stored is lost. As [`Self::keep`].
    #[must_use]
    pub(crate) async fn keep_record(&self, connector: &str, record: &[u8], error: &str) -> bool {
        let letter = Letter { record: BASE64.encode(record), ..Letter::of(connector, "unknown", error) };
        self.write(connector, serde_json::to_string(&letter)).await
    }

    async fn write(&self, connector: &str, line: Result<String, serde_json::Error>) -> bool {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(connector, %error, "dead letter cannot be written as JSON");
                return false;
            }
        };
        let Err(error) = self.file.append(line).await else { return true };
        let path = self.file.path().display();
        tracing::error!(connector, %path, %error, "dead letter cannot be written: the operation is not acknowledged");
        false
    }
}

fn line(connector: &str, operation: &Operation, error: &str) -> Result<String, serde_json::Error> {
    let subject = operation.subject();
    let message = subject.message.as_deref();
    let statements = match operation {
        Operation::Execute { statements, .. } => statements.iter().map(|s| &**s.text()).collect(),
        _ => Vec::new(),
    };
    let record = record::encode(operation, now_ms()).map(|bytes| BASE64.encode(bytes)).unwrap_or_default();
    let letter = Letter {
        client: subject.client.as_deref(),
        topic: subject.topic.as_deref(),
        msgid: message.map(|m| m.id.to_string()),
        qos: message.map(|m| m.qos.level()),
        retain: message.map(|m| m.retain),
        payload: message.map(|m| BASE64.encode(&m.payload)),
        statements,
        record,
        ..Letter::of(connector, operation.name(), error)
    };
    serde_json::to_string(&letter)
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
        let letters = DeadLetters::new(path.clone(), 1 << 20);
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
        assert_ne!(first["id"], lines.get(1).unwrap()["id"]);
        let record = BASE64.decode(first["record"].as_str().unwrap()).unwrap();
        let back = record::decode(&record, &crate::statement::TemplateCache::default()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", operation()));
    }
}
