//! Messages <-> hashes of the fields `id from qos topic retain payload ts`.

use std::collections::HashMap;

use bytes::Bytes;
use bytestring::ByteString;
use foldhash::fast::FixedState;
use parking_lot::Mutex;
use redis::{Cmd, Value, cmd};
use std::hash::BuildHasher as _;
use tidegate_event::{Message, MsgId, Origin, QoS, TopicName};

use super::keys;
use crate::operation::{foreign_id, foreign_row};

/// The command that writes a message to `key`.
pub(super) fn store(key: &str, message: &Message, retained: bool) -> Cmd {
    let mut store = Cmd::with_capacity(16, 160 + message.payload.len());
    store.arg("HSET").arg(key);
    store.arg("id").arg(message.id.to_string());
    store.arg("from").arg(&*message.sender);
    store.arg("qos").arg(message.qos.level());
    store.arg("topic").arg(message.topic.as_str());
    store.arg("retain").arg(if retained || message.retain { "true" } else { "false" });
    store.arg("payload").arg(&*message.payload);
    store.arg("ts").arg(message.timestamp_ms / 1_000);
    store
}

/// The command that reads what [`store`] wrote.
pub(super) fn load(key: &str) -> Cmd {
    let mut load = cmd("HMGET");
    load.arg(key).arg(&["id", "from", "qos", "topic", "retain", "payload", "ts"]);
    load
}

/// Ids of another form than ours, by the number under which they travel. They are needed again when the message is
/// acknowledged; after a restart, or when too many are about, the message is delivered once more.
#[derive(Debug, Default)]
pub(super) struct ForeignIds(Mutex<HashMap<i64, String>>);

/// Foreign ids that are remembered.
const FOREIGN: usize = 65_536;

impl ForeignIds {
    /// The number under which `text` travels.
    fn remember(&self, text: &str) -> MsgId {
        let row = i64::try_from(FixedState::with_seed(1).hash_one(text) >> 2).unwrap_or(1).max(1);
        let mut known = self.0.lock();
        if known.len() >= FOREIGN {
            known.clear();
        }
        known.insert(row, text.to_owned());
        foreign_id(row)
    }

    /// The text of an id as it is stored; `None` for a foreign one that was forgotten.
    pub(super) fn text(&self, id: MsgId) -> Option<String> {
        match foreign_row(id) {
            Some(row) => self.0.lock().get(&row).cloned(),
            None => Some(id.to_string()),
        }
    }
}

/// The message in the fields of a hash. `Ok(None)`: there is no hash.
///
/// # Errors
/// Why it cannot be delivered.
pub(super) fn read(
    fields: Value,
    member: Option<&str>,
    origin: Origin,
    foreign: &ForeignIds,
) -> Result<Option<Message>, String> {
    let fields: Vec<Option<Vec<u8>>> = redis::from_redis_value(fields).map_err(|error| error.to_string())?;
    if fields.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut fields = fields.into_iter();
    let mut bytes = || fields.next().flatten();
    let text = |bytes: Option<Vec<u8>>| {
        bytes.map(|bytes| String::from_utf8(bytes).map_err(|_| "a field is not UTF-8".to_owned())).transpose()
    };
    let (id, from, qos, topic) = (text(bytes())?, text(bytes())?, text(bytes())?, text(bytes())?);
    let (retain, payload, ts) = (text(bytes())?, bytes(), text(bytes())?);
    let name = member.map(str::to_owned).or(id).unwrap_or_default();
    let seconds: u64 = ts.as_deref().unwrap_or_default().parse().unwrap_or(0);
    let (id, timestamp_ms) = match keys::our_id(&name) {
        Some(id) => (id, id.micros() / 1_000),
        None => (foreign.remember(&name), seconds.saturating_mul(1_000)),
    };
    let id = match (origin, foreign_row(id)) {
        // A retained message of a foreign id must not look like a stored one.
        (Origin::RetainedStore, Some(_)) => MsgId::from_bits(id.bits() | 1 << 63),
        _ => id,
    };
    let qos = qos.unwrap_or_default();
    let level = qos.parse::<u8>().ok().and_then(|level| QoS::try_from(level).ok());
    Ok(Some(Message {
        id,
        topic: TopicName::new(topic.unwrap_or_default()).map_err(|error| error.to_string())?,
        payload: Bytes::from(payload.unwrap_or_default()),
        qos: level.ok_or_else(|| format!("qos {qos:?}"))?,
        retain: origin == Origin::RetainedStore || matches!(retain.as_deref(), Some("true" | "1")),
        dup: false,
        timestamp_ms,
        sender: ByteString::from(from.unwrap_or_default()),
        publisher: None,
        properties: None,
        origin,
        hops: 0,
    }))
}

/// The time field alone, for the age of a message: seconds since the epoch.
pub(super) fn seconds(fields: &Value) -> Option<u64> {
    let Value::Array(fields) = fields else { return None };
    match fields.last() {
        Some(Value::BulkString(text)) => std::str::from_utf8(text).ok()?.parse().ok(),
        Some(Value::Int(seconds)) => u64::try_from(*seconds).ok(),
        _ => None,
    }
}
