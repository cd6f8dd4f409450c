//! Reads of the built-in functions: subscriptions, stored and retained messages.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::TryStreamExt as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use tidegate_event::{Message, MsgId, Origin, QoS, TopicFilter, TopicName};

use super::Failure;
use super::value::{Params, datetime, parse_datetime};
use crate::backend::{Page, RetainedPage, Unread};
use crate::operation::foreign_id;

/// Positions are row numbers of `mqtt_msg`; no row (a client's first fetch, or a queue) = 0.
const PAGE_OF_TOPIC: &str = "SELECT id, msgid, topic, sender, qos, retain, payload, arrived FROM mqtt_msg \
    WHERE topic = ?1 AND id > max(?2, coalesce((SELECT mid FROM mqtt_acked WHERE clientid = ?3 AND topic = ?1), 0)) \
    AND (?4 IS NULL OR arrived >= ?4) ORDER BY id LIMIT ?5";

/// First unread row of every topic of a range, found by jumping from topic to topic in the index.
const FIRST_UNREAD: &str = "WITH RECURSIVE t (topic) AS ( \
      SELECT min(topic) FROM mqtt_msg WHERE topic >= ?1 AND topic < ?2 \
      UNION ALL \
      SELECT (SELECT min(topic) FROM mqtt_msg WHERE topic > t.topic AND topic < ?2) FROM t WHERE t.topic IS NOT NULL) \
    SELECT topic, (SELECT min(id) FROM mqtt_msg m WHERE m.topic = t.topic AND m.id > coalesce( \
        (SELECT mid FROM mqtt_acked a WHERE a.clientid = ?3 AND a.topic = t.topic), 0)) \
    FROM t WHERE topic IS NOT NULL";

/// Unread rows of a range of topics in the order of their ids (the unary + keeps SQLite from sorting by topic).
const PAGE_OF_RANGE: &str = "SELECT m.id, m.msgid, m.topic, m.sender, m.qos, m.retain, m.payload, m.arrived \
    FROM mqtt_msg m LEFT JOIN mqtt_acked a ON a.clientid = ?4 AND a.topic = m.topic \
    WHERE m.id > ?3 AND +m.topic >= ?1 AND +m.topic < ?2 AND m.id > coalesce(a.mid, 0) \
    AND (?5 IS NULL OR m.arrived >= ?5) ORDER BY m.id LIMIT ?6";

const RETAINED_OF_TOPIC: &str =
    "SELECT id, msgid, topic, sender, qos, 1, payload, arrived FROM mqtt_retain WHERE topic = ?1";
const RETAINED_OF_RANGE: &str = "SELECT id, msgid, topic, sender, qos, 1, payload, arrived FROM mqtt_retain \
    WHERE topic >= ?1 AND topic < ?2 AND topic > ?3 ORDER BY topic LIMIT ?4";

/// The filter and QoS of every subscription stored for `client`.
pub(super) async fn subscriptions(
    connection: &mut SqliteConnection,
    client: &str,
) -> Result<Vec<(String, i64)>, Failure> {
    let rows = sqlx::query(
        "SELECT coalesce(topic, ''), coalesce(qos, 0) FROM mqtt_sub WHERE clientid = ?1 ORDER BY id",
    )
    .bind(client)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| Ok((row.try_get_unchecked(0)?, row.try_get_unchecked(1)?)))
        .collect::<Result<_, sqlx::Error>>()
        .map_err(Failure::from)
}

/// A page of stored messages.
pub(super) async fn unread(
    connection: &mut SqliteConnection,
    wanted: &Unread,
    max_bytes: usize,
) -> Result<Page, Failure> {
    let since = wanted.since_ms.map(|ms| datetime(i64::try_from(ms / 1_000 * 1_000).unwrap_or(i64::MAX)));
    if wanted.filter.is_wildcard() {
        return unread_of_range(connection, wanted, since.as_deref(), max_bytes).await;
    }
    let mut params = Params::default();
    params.text(wanted.filter.as_str());
    params.integer(wanted.after);
    params.optional_text(wanted.client.as_deref());
    params.optional_text(since.as_deref());
    params.integer(wanted.limit.into());
    let mut rows = sqlx::query_with(PAGE_OF_TOPIC, params.finish()?).fetch(connection);
    let mut page = Filling::new(wanted.limit, max_bytes);
    let mut seen = 0;
    while let Some(row) = rows.try_next().await? {
        seen += 1;
        page.row(&row, Origin::Fetched, |_| true)?;
        if page.is_full() {
            break;
        }
    }
    // The limit counts rows, also those that are no messages: more may follow a page that is not full.
    let more = page.is_full() || seen >= wanted.limit;
    Ok(Page { next: more.then_some(page.last), messages: page.messages })
}

async fn unread_of_range(
    connection: &mut SqliteConnection,
    wanted: &Unread,
    since: Option<&str>,
    max_bytes: usize,
) -> Result<Page, Failure> {
    let (low, high) = topic_range(&wanted.filter);
    let mut after = wanted.after;
    if after == 0 {
        match first_unread(connection, wanted, &low, &high).await? {
            Some(first) => after = first - 1,
            None => return Ok(Page::default()),
        }
    }
    let mut page = Filling::new(wanted.limit, max_bytes);
    loop {
        let mut params = Params::default();
        params.text(&*low);
        params.text(&*high);
        params.integer(after);
        params.optional_text(wanted.client.as_deref());
        params.optional_text(since);
        params.integer(wanted.limit.into());
        let mut rows = sqlx::query_with(PAGE_OF_RANGE, params.finish()?).fetch(&mut *connection);
        let mut seen = 0;
        while let Some(row) = rows.try_next().await? {
            seen += 1;
            after = page.row(&row, Origin::Fetched, |topic| wanted.filter.matches(topic))?;
            if page.is_full() {
                return Ok(page.messages());
            }
        }
        if seen < wanted.limit {
            return Ok(page.messages());
        }
    }
}

/// A page that is being filled.
struct Filling {
    messages: Vec<Arc<Message>>,
    limit: usize,
    bytes: usize,
    max_bytes: usize,
    last: i64,
}

impl Filling {
    fn new(limit: u32, max_bytes: usize) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { messages: Vec::new(), limit, bytes: 0, max_bytes, last: 0 }
    }

    /// Adds a row if it is a message that is wanted. Gives its number.
    fn row(
        &mut self,
        row: &SqliteRow,
        origin: Origin,
        wanted: impl FnOnce(&TopicName) -> bool,
    ) -> Result<i64, Failure> {
        self.last = row.try_get_unchecked(0)?;
        if let Some(message) = message(row, origin).filter(|message| wanted(&message.topic)) {
            self.bytes += message.payload.len() + message.topic.as_str().len();
            self.messages.push(Arc::new(message));
        }
        Ok(self.last)
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= self.limit || self.bytes >= self.max_bytes
    }

    fn messages(self) -> Page {
        let next = self.is_full().then_some(self.last);
        Page { messages: self.messages, next }
    }
}

/// The oldest row that the client has not read, over all topics that the filter matches.
async fn first_unread(
    connection: &mut SqliteConnection,
    wanted: &Unread,
    low: &str,
    high: &str,
) -> Result<Option<i64>, Failure> {
    let mut params = Params::default();
    params.text(low);
    params.text(high);
    params.optional_text(wanted.client.as_deref());
    let mut topics = sqlx::query_with(FIRST_UNREAD, params.finish()?).fetch(connection);
    let mut first: Option<i64> = None;
    while let Some(row) = topics.try_next().await? {
        let topic: String = row.try_get_unchecked(0)?;
        let oldest: Option<i64> = row.try_get_unchecked(1)?;
        if let Some(oldest) = oldest
            && TopicName::new(topic).is_ok_and(|topic| wanted.filter.matches(&topic))
        {
            first = Some(first.map_or(oldest, |first| first.min(oldest)));
        }
    }
    Ok(first)
}

/// A page of retained messages.
pub(super) async fn retained(
    connection: &mut SqliteConnection,
    filter: &TopicFilter,
    after: Option<&str>,
    limit: u32,
    max_bytes: usize,
) -> Result<RetainedPage, Failure> {
    let wildcard = filter.is_wildcard();
    let mut params = Params::default();
    let text = if wildcard {
        let (low, high) = topic_range(filter);
        params.text(low);
        params.text(high);
        params.text(after.unwrap_or_default());
        params.integer(limit.into());
        RETAINED_OF_RANGE
    } else {
        params.text(filter.as_str());
        RETAINED_OF_TOPIC
    };
    let mut rows = sqlx::query_with(text, params.finish()?).fetch(connection);
    let mut page = Filling::new(limit, max_bytes);
    let (mut seen, mut last) = (0, String::new());
    while let Some(row) = rows.try_next().await? {
        seen += 1;
        last = row.try_get_unchecked(2)?;
        page.row(&row, Origin::RetainedStore, |topic| filter.matches(topic))?;
        if page.is_full() {
            break;
        }
    }
    let more = wildcard && (page.is_full() || seen >= limit);
    page.messages.retain(|message| !message.payload.is_empty());
    Ok(RetainedPage { messages: page.messages, next: more.then_some(last) })
}

/// The range of topics that can match a wildcard filter: those that begin with its levels before the first
/// wildcard. `a/#` also matches `a`, so its range begins there.
fn topic_range(filter: &TopicFilter) -> (String, String) {
    let mut prefix = String::new();
    for (index, level) in filter.levels().enumerate() {
        if level == "#" {
            break;
        }
        if index > 0 {
            prefix.push('/');
        }
        if level == "+" {
            break;
        }
        prefix.push_str(level);
    }
    // No text sorts behind the last character: topics compare by their bytes.
    let end = format!("{prefix}\u{10FFFF}");
    (prefix, end)
}

/// A row as a message; `None`, with a line in the log, when it cannot be one.
fn message(row: &SqliteRow, origin: Origin) -> Option<Message> {
    match read_message(row, origin) {
        Ok(message) => Some(message),
        Err(reason) => {
            let id: Option<i64> = row.try_get_unchecked(0).ok();
            tracing::warn!(row = id, %reason, "a stored message cannot be delivered, skipped");
            None
        }
    }
}

fn read_message(row: &SqliteRow, origin: Origin) -> Result<Message, String> {
    let wrong = |error: sqlx::Error| error.to_string();
    let number: i64 = row.try_get_unchecked(0).map_err(wrong)?;
    let msgid: Option<String> = row.try_get_unchecked(1).map_err(wrong)?;
    let topic: Option<String> = row.try_get_unchecked(2).map_err(wrong)?;
    let sender: Option<String> = row.try_get_unchecked(3).map_err(wrong)?;
    let qos: Option<i64> = row.try_get_unchecked(4).map_err(wrong)?;
    let retain: Option<i64> = row.try_get_unchecked(5).map_err(wrong)?;
    let payload: Option<Vec<u8>> = row.try_get_unchecked(6).map_err(wrong)?;
    let arrived: Option<String> = row.try_get_unchecked(7).map_err(wrong)?;
    let qos = qos.unwrap_or_default();
    let level = u8::try_from(qos).ok().and_then(|qos| QoS::try_from(qos).ok());
    let (id, timestamp_ms) = match msgid.as_deref().and_then(our_id) {
        Some(id) => (id, id.micros() / 1_000),
        None => (foreign(number, origin), arrived.as_deref().map_or(0, parse_datetime)),
    };
    Ok(Message {
        id,
        topic: TopicName::new(topic.unwrap_or_default()).map_err(|error| error.to_string())?,
        payload: Bytes::from(payload.unwrap_or_default()),
        qos: level.ok_or_else(|| format!("qos {qos}"))?,
        retain: retain.unwrap_or_default() != 0,
        dup: false,
        timestamp_ms,
        sender: ByteString::from(sender.unwrap_or_default()),
        publisher: None,
        properties: None,
        origin,
        hops: 0,
    })
}

/// The id, when the text is exactly what this runtime writes.
fn our_id(text: &str) -> Option<MsgId> {
    let id: MsgId = text.parse().ok()?;
    (id.micros() > 0 && !text.bytes().any(|b| b.is_ascii_lowercase())).then_some(id)
}

fn foreign(row: i64, origin: Origin) -> MsgId {
    match origin {
        // Rows of mqtt_retain are counted apart: their ids must not look like those of mqtt_msg.
        Origin::RetainedStore => MsgId::from_bits(foreign_id(row).bits() | 1 << 63),
        _ => foreign_id(row),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_range_of_a_filter_begins_with_its_fixed_levels() {
        for (filter, prefix) in [
            ("#", ""),
            ("+", ""),
            ("+/a", ""),
            ("a/#", "a"),
            ("a/+", "a/"),
            ("a/b/+/c/#", "a/b/"),
            ("/#", ""),
            ("/+", "/"),
        ] {
            let (low, high) = topic_range(&filter.parse().unwrap());
            assert_eq!((&*low, high), (prefix, format!("{prefix}\u{10FFFF}")), "{filter}");
        }
    }

    #[test]
    fn only_ids_of_our_form_are_ours() {
        assert!(our_id("0005F65F239F03FEF44300000BB40002").is_some());
        assert!(our_id("0005f65f239f03fef44300000bb40002").is_none(), "would not be found again by its text");
        assert!(our_id("53F98F80F66017005000004A60003").is_none(), "document 003's 29 digits");
        assert!(our_id("00000000000000000000000000000001").is_none(), "looks like a foreign row");
    }
}
