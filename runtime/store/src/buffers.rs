//! What waits on disk, for an operator: operations in the buffers of connectors, and dead letters.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use tidegate_event::{AckError, AckJoin, StorageError};

use crate::buffer::{Going, record};
use crate::connector::Connector;
use crate::operation::Operation;
use crate::statement::TemplateCache;
use crate::stores::Stores;

/// How long [`Stores::retry`] waits for what a store makes of a dead letter.
const RETRY: Duration = Duration::from_secs(10);
/// Bytes of records that [`Stores::buffered`] reads.
const SHOWN_BYTES: usize = 8 << 20;

/// What waits for one connector.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BufferReport {
    /// `kind:pool`.
    pub connector: String,
    /// Whether there is such a connector now; without one its operations wait until it comes back.
    pub configured: bool,
    /// Operations in the buffer.
    pub buffered: u64,
    /// Their bytes on disk.
    pub buffered_bytes: u64,
    /// When the oldest of them came, milliseconds since the epoch.
    pub oldest_ms: Option<u64>,
    /// Operations that the store has refused.
    pub dead: u64,
}

/// What [`Stores::retry`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Retried {
    /// Dead letters that are stored now.
    pub stored: u64,
    /// Dead letters that the store has refused again.
    pub refused: u64,
    /// Dead letters about which nothing is known yet; they stay.
    pub waiting: u64,
    /// Operations of the buffer, which is emptied now if the store answers.
    pub buffered: u64,
}

/// Which of what waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// Those with these names: ids of dead letters, numbers of operations in the buffer.
    These(HashSet<String>),
}

impl Which {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(name),
        }
    }
}

/// A line of the dead-letter file that is one.
struct Letter {
    id: String,
    connector: String,
    fields: Map<String, Value>,
}

fn letter(line: &str) -> Option<Letter> {
    let Ok(Value::Object(fields)) = serde_json::from_str(line) else { return None };
    let text = |key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
    // Letters of earlier releases have no id: their time names them.
    let (id, connector) = (text("id").or_else(|| text("time"))?, text("connector")?);
    Some(Letter { id, connector, fields })
}

fn failed(connector: &str, error: impl ToString) -> StorageError {
    StorageError::Unavailable { connector: connector.to_owned(), reason: error.to_string() }
}

impl Stores {
    /// What waits on disk, for every connector that there is or for which anything waits.
    ///
    /// # Errors
    /// The disk's.
    pub async fn buffers(&self) -> Result<Vec<BufferReport>, StorageError> {
        let mut reports: Vec<BufferReport> = Vec::new();
        for connector in self.connectors() {
            let spill = connector.writer.spill();
            let held = spill.amount().await.map_err(|error| failed(&connector.name, error))?;
            let oldest = spill.read(0, 1, 0).await.map_err(|error| failed(&connector.name, error))?;
            reports.push(BufferReport {
                connector: connector.name.clone(),
                configured: true,
                buffered: held.records,
                buffered_bytes: held.bytes,
                oldest_ms: oldest.first().and_then(|stored| record::made_at_ms(&stored.bytes)),
                dead: 0,
            });
        }
        if let Some(space) = self.space() {
            for name in space.names().await.map_err(|error| failed("buffers", error))? {
                if reports.iter().any(|report| report.connector == name) {
                    continue;
                }
                let extent = space.extent(&name).await.map_err(|error| failed(&name, error))?;
                let oldest = space.read(&name, 0, 1, 0).await.map_err(|error| failed(&name, error))?;
                reports.push(BufferReport {
                    connector: name,
                    configured: false,
                    buffered: extent.held.records,
                    buffered_bytes: extent.held.bytes,
                    oldest_ms: oldest.first().and_then(|stored| record::made_at_ms(&stored.bytes)),
                    dead: 0,
                });
            }
        }
        let count = |counts: &mut BTreeMap<String, u64>, line: &str| {
            if let Some(letter) = letter(line) {
                *counts.entry(letter.connector).or_default() += 1;
            }
        };
        let counts = self.dead_letters.file().read(BTreeMap::new(), count).await;
        for (name, dead) in counts.map_err(|error| failed("dead letters", error))? {
            let at = reports.iter().position(|report| report.connector == name);
            let at = at.unwrap_or_else(|| {
                reports.push(BufferReport {
                    connector: name,
                    configured: false,
                    buffered: 0,
                    buffered_bytes: 0,
                    oldest_ms: None,
                    dead: 0,
                });
                reports.len() - 1
            });
            if let Some(report) = reports.get_mut(at) {
                report.dead = dead;
            }
        }
        Ok(reports)
    }

    /// The oldest operations in the buffer of `connector`, at most `limit`, as JSON objects.
    ///
    /// # Errors
    /// The disk's.
    pub async fn buffered(&self, connector: &str, limit: usize) -> Result<Vec<Value>, StorageError> {
        let Some(space) = self.space() else { return Ok(Vec::new()) };
        let read = space.read(connector, 0, limit, SHOWN_BYTES).await;
        let templates = TemplateCache::default();
        let shown = |stored: crate::buffer::Stored| {
            let mut fields = match record::decode(&stored.bytes, &templates) {
                Ok(operation) => describe(&operation),
                Err(error) => Map::from_iter([("error".to_owned(), error.to_string().into())]),
            };
            fields.insert("id".into(), stored.number.to_string().into());
            fields.insert("time_ms".into(), record::made_at_ms(&stored.bytes).into());
            Value::Object(fields)
        };
        Ok(read.map_err(|error| failed(connector, error))?.into_iter().map(shown).collect())
    }

    /// The newest dead letters of `connector`, at most `limit`, oldest first, as JSON objects.
    ///
    /// # Errors
    /// The disk's.
    pub async fn dead(&self, connector: &str, limit: usize) -> Result<Vec<Value>, StorageError> {
        let name = connector.to_owned();
        let look = move |newest: &mut VecDeque<Letter>, line: &str| {
            newest.extend(letter(line).filter(|letter| letter.connector == name));
            if newest.len() > limit {
                newest.pop_front();
            }
        };
        let letters = self.dead_letters.file().read(VecDeque::new(), look).await;
        let letters = letters.map_err(|error| failed(connector, error))?;
        let shown = |letter: Letter| {
            let mut fields = letter.fields;
            fields.remove("record");
            fields.insert("id".into(), letter.id.into());
            Value::Object(fields)
        };
        Ok(letters.into_iter().map(shown).collect())
    }

    /// Runs dead letters of `connector` again, and asks the store now whether it takes what is in the buffer. A letter goes
    /// when the store has decided about it, so one that is refused again is a new letter.
    ///
    /// # Errors
    /// [`StorageError::NoSuchConnector`], or the disk's.
    pub async fn retry(&self, connector: &str, which: &Which) -> Result<Retried, StorageError> {
        let connector = self.connector(connector)?;
        connector.writer.knock();
        let mut done = Retried { buffered: connector.writer.spill().held().records, ..Retried::default() };
        let templates = TemplateCache::default();
        let mut joins = Vec::new();
        let until = tokio::time::Instant::now() + RETRY;
        for letter in self.letters(&connector.name, which).await? {
            let record = letter.fields.get("record").and_then(Value::as_str).unwrap_or_default();
            let bytes = BASE64.decode(record).unwrap_or_default();
            let Ok(operation) = record::decode(&bytes, &templates) else {
                // It has no operation that could be run: one of an earlier release, or a damaged one.
                done.waiting += 1;
                continue;
            };
            let join = AckJoin::new();
            let enqueued = connector.writer.enqueue_in_order(operation, join.part());
            if tokio::time::timeout_at(until, enqueued).await.is_err() {
                // The memory budget is used up.
                done.waiting += 1;
                continue;
            }
            joins.push((letter.id, join));
        }
        let mut decided = Vec::new();
        for (id, join) in joins {
            match tokio::time::timeout_at(until, join).await {
                Ok(Ok(())) => {
                    done.stored += 1;
                    decided.push(id);
                }
                Ok(Err(AckError::Refused { .. })) => {
                    done.refused += 1;
                    decided.push(id);
                }
                Ok(Err(AckError::Abandoned)) | Err(_) => done.waiting += 1,
            }
        }
        self.bury(&connector, decided).await?;
        Ok(done)
    }

    /// Removes dead letters of `connector`, or of one that there was. Gives how many.
    ///
    /// # Errors
    /// The disk's.
    pub async fn drop_dead(&self, connector: &str, which: Which) -> Result<u64, StorageError> {
        let name = connector.to_owned();
        let is_unwanted = move |line: &str| {
            letter(line).is_some_and(|letter| letter.connector == name && which.has(&letter.id))
        };
        let removed = self.dead_letters.file().remove(is_unwanted).await;
        removed.map(|count| count as u64).map_err(|error| failed(connector, error))
    }

    /// Removes operations from the buffer of `connector`, or of one that there was. They are lost. Gives how many.
    ///
    /// # Errors
    /// The disk's.
    pub async fn drop_buffered(&self, connector: &str, which: &Which) -> Result<u64, StorageError> {
        let Some(space) = self.space() else { return Ok(0) };
        let known = self.connectors().into_iter().find(|known| known.name == connector);
        let templates = TemplateCache::default();
        let (mut from, mut dropped) = (0, 0);
        loop {
            let page = space.read(connector, from, 4_096, SHOWN_BYTES).await;
            let page = page.map_err(|error| failed(connector, error))?;
            let Some(last) = page.last().map(|stored| stored.number) else { return Ok(dropped) };
            from = last + 1;
            let unwanted = page.iter().filter(|stored| which.has(&stored.number.to_string()));
            let going: Vec<Going> = unwanted
                .map(|stored| match record::decode(&stored.bytes, &templates) {
                    Ok(operation) => Going::of(stored.number, &operation),
                    Err(_) => Going::unknown(stored.number),
                })
                .collect();
            if going.is_empty() {
                continue;
            }
            let removed = match &known {
                Some(known) => known.writer.spill().remove(&going, None).await,
                None => {
                    let numbers = going.iter().map(|record| record.number).collect();
                    space.remove(connector, numbers, None).await.map(|removed| removed.amount.records)
                }
            };
            dropped += removed.map_err(|error| failed(connector, error))?;
        }
    }

    /// The dead letters of `connector` for which `which`.
    async fn letters(&self, connector: &str, which: &Which) -> Result<Vec<Letter>, StorageError> {
        let (name, which) = (connector.to_owned(), which.clone());
        let look = move |letters: &mut Vec<Letter>, line: &str| {
            letters.extend(letter(line).filter(|letter| letter.connector == name && which.has(&letter.id)));
        };
        self.dead_letters.file().read(Vec::new(), look).await.map_err(|error| failed(connector, error))
    }

    /// Removes letters that are decided.
    async fn bury(&self, connector: &Connector, ids: Vec<String>) -> Result<(), StorageError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.drop_dead(&connector.name, Which::These(ids.into_iter().collect())).await.map(drop)
    }
}

/// What a person wants to know of an operation.
fn describe(operation: &Operation) -> Map<String, Value> {
    let subject = operation.subject();
    let mut fields = Map::new();
    fields.insert("operation".into(), operation.name().into());
    if let Some(client) = &subject.client {
        fields.insert("client".into(), client.to_string().into());
    }
    if let Some(topic) = &subject.topic {
        fields.insert("topic".into(), topic.to_string().into());
    }
    if let Some(message) = &subject.message {
        fields.insert("msgid".into(), message.id.to_string().into());
        fields.insert("qos".into(), message.qos.level().into());
        fields.insert("retain".into(), message.retain.into());
        fields.insert("payload".into(), BASE64.encode(&message.payload).into());
    }
    if let Operation::Execute { statements, .. } = operation {
        fields.insert("statements".into(), json!(statements.iter().map(|s| s.written()).collect::<Vec<_>>()));
    }
    fields
}
