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
use crate::backend::{Cursor, Page, RetainedPage, Unread};
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

/// Unread rows of a range of topics in the order of their ids, by walking all rows from a position on (the unary +
/// keeps SQLite from sorting by topic). Good for a range that is a large part of the table.
const WALK_OF_RANGE: &str = "SELECT m.id, m.msgid, m.topic, m.sender, m.qos, m.retain, m.payload, m.arrived \
    FROM mqtt_msg m LEFT JOIN mqtt_acked a ON a.clientid = ?4 AND a.topic = m.topic \
    WHERE m.id > ?3 AND +m.topic >= ?1 AND +m.topic < ?2 AND m.id > coalesce(a.mid, 0) \
    AND (?5 IS NULL OR m.arrived >= ?5) ORDER BY m.id LIMIT ?6";

/// The same rows, by sorting what the index of topics holds of the range (the unary + keeps SQLite from walking).
/// Good for a range that is a small part of the table, whose other rows are not read.
const SORT_OF_RANGE: &str = "SELECT id, msgid, topic, sender, qos, retain, payload, arrived FROM mqtt_msg \
    WHERE id IN (SELECT m.id FROM mqtt_msg m LEFT JOIN mqtt_acked a ON a.clientid = ?4 AND a.topic = m.topic \
      WHERE m.topic >= ?1 AND m.topic < ?2 AND +m.id > ?3 AND m.id > coalesce(a.mid, 0) \
      AND (?5 IS NULL OR m.arrived >= ?5) ORDER BY m.id LIMIT ?6) \
    ORDER BY id";

/// How many rows a range of topics has, counted no further than ?3.
const SIZE_OF_RANGE: &str =
    "SELECT count(*) FROM (SELECT 1 FROM mqtt_msg WHERE topic >= ?1 AND topic < ?2 LIMIT ?3)";

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
    params.integer(Cursor::row(wanted.after.as_ref()));
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
    Ok(Page { messages: page.messages, last: place(page.last), more })
}

async fn unread_of_range(
    connection: &mut SqliteConnection,
    wanted: &Unread,
    since: Option<&str>,
    max_bytes: usize,
) -> Result<Page, Failure> {
    let (low, high) = topic_range(&wanted.filter);
    let mut after = Cursor::row(wanted.after.as_ref());
    let statement = if is_small(connection, wanted, &low, &high).await? {
        SORT_OF_RANGE
    } else {
        if after == 0 {
            match first_unread(connection, wanted, &low, &high).await? {
                Some(first) => after = first - 1,
                None => return Ok(Page::default()),
            }
        }
        WALK_OF_RANGE
    };
    let mut page = Filling::new(wanted.limit, max_bytes);
    loop {
        let mut params = Params::default();
        params.text(&*low);
        params.text(&*high);
        params.integer(after);
        params.optional_text(wanted.client.as_deref());
        params.optional_text(since);
        params.integer(wanted.limit.into());
        let mut rows = sqlx::query_with(statement, params.finish()?).fetch(&mut *connection);
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

/// Whether a range of topics is better sorted than walked.
///
/// Over all its pages, sorting reads (rows of the range)^2 / (rows of a page) entries of the index, walking reads the
/// rows of the table behind the position once. They are equal at the number that is counted to here, so neither
/// way reads more than about sqrt(rows of the table / rows of a page) for a message.
async fn is_small(
    connection: &mut SqliteConnection,
    wanted: &Unread,
    low: &str,
    high: &str,
) -> Result<bool, Failure> {
    if low.is_empty() {
        return Ok(false); // the range is the whole table
    }
    let newest: Option<i64> = sqlx::query("SELECT max(id) FROM mqtt_msg")
        .fetch_one(&mut *connection)
        .await?
        .try_get_unchecked(0)?;
    let behind = newest.unwrap_or_default().saturating_sub(Cursor::row(wanted.after.as_ref())).max(0);
    let most = behind.saturating_mul(wanted.limit.into()).isqrt();
    let mut params = Params::default();
    params.text(low);
    params.text(high);
    params.integer(most.saturating_add(1));
    let size: i64 = sqlx::query_with(SIZE_OF_RANGE, params.finish()?)
        .fetch_one(connection)
        .await?
        .try_get_unchecked(0)?;
    Ok(size <= most)
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
        let more = self.is_full();
        Page { messages: self.messages, last: place(self.last), more }
    }
}

/// The place of a row; rows are counted from 1.
fn place(row: i64) -> Option<Cursor> {
    (row > 0).then_some(Cursor::Row(row))
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use sqlx::Connection as _;

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

    /// A database in memory, and how many thousands of SQLite's steps have been made on it.
    async fn database() -> (SqliteConnection, Arc<AtomicUsize>) {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::raw_sql(include_str!("schema.sql")).execute(&mut connection).await.unwrap();
        let steps = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&steps);
        connection.lock_handle().await.unwrap().set_progress_handler(1_000, move || {
            counter.fetch_add(1, Ordering::Relaxed);
            true
        });
        (connection, steps)
    }

    /// `rows` messages; the n-th has the topic that the SQL expression `topic` gives for `n`.
    async fn fill(connection: &mut SqliteConnection, rows: u32, topic: &str) {
        let insert = format!(
            "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows}) \
             INSERT INTO mqtt_msg (topic, qos, retain, payload, arrived) \
             SELECT {topic}, 1, 0, 'p' || n, CASE WHEN n % 3 THEN '2020-01-01 00:00:00' ELSE '2030-01-01 00:00:00' END FROM c"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(connection).await.unwrap();
    }

    async fn plan(connection: &mut SqliteConnection, statement: &str) -> String {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let rows = sqlx::query(explain).fetch_all(connection).await.unwrap();
        rows.iter().map(|row| row.get::<String, _>("detail")).collect::<Vec<_>>().join("; ")
    }

    fn wanted(filter: &str, client: Option<&str>, after: i64, limit: u32) -> Unread {
        Unread {
            filter: filter.parse().unwrap(),
            client: client.map(str::to_owned),
            after: Some(Cursor::Row(after)),
            since_ms: None,
            limit,
        }
    }

    /// All pages: payloads and the number of pages.
    async fn all(connection: &mut SqliteConnection, mut wanted: Unread) -> (Vec<String>, usize) {
        let (mut found, mut pages) = (Vec::new(), 0);
        loop {
            let Ok(page) = unread(connection, &wanted, usize::MAX).await else { panic!("a page") };
            pages += 1;
            found.extend(page.messages.iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()));
            if !page.more {
                return (found, pages);
            }
            wanted.after = page.last;
        }
    }

    #[tokio::test]
    async fn ranges_of_topics_are_found_in_the_index_and_walks_follow_the_rows() {
        let (mut connection, _) = database().await;
        let sort = plan(&mut connection, SORT_OF_RANGE).await;
        assert!(sort.contains("SEARCH m USING INDEX mqtt_msg_topic (topic>? AND topic<?)"), "{sort}");
        assert!(!sort.contains("SCAN m"), "{sort}");
        let size = plan(&mut connection, SIZE_OF_RANGE).await;
        assert!(size.contains("USING COVERING INDEX mqtt_msg_topic (topic>? AND topic<?)"), "{size}");
        let walk = plan(&mut connection, WALK_OF_RANGE).await;
        assert!(walk.contains("SEARCH m USING INTEGER PRIMARY KEY (rowid>?)"), "{walk}");
        assert!(!walk.contains("TEMP B-TREE"), "{walk}");
    }

    /// A wildcard fetch read every row behind the first unread one, whatever its topic.
    #[tokio::test]
    async fn a_fetch_of_a_few_topics_does_not_read_all_the_others() {
        let (mut connection, steps) = database().await;
        fill(&mut connection, 200_000, "CASE WHEN n % 10000 THEN 'other/' || (n % 100) ELSE 'site/a' END")
            .await;
        steps.store(0, Ordering::Relaxed);
        let (found, pages) = all(&mut connection, wanted("site/#", Some("c"), 0, 1_000)).await;
        let few = steps.swap(0, Ordering::Relaxed);
        assert_eq!((found.len(), pages), (20, 1));
        assert!(few <= 10, "20 messages of 200,000 took {few} thousand steps");
        // And the other way round: a range that is nearly the table is not sorted for every page of it.
        let (found, pages) = all(&mut connection, wanted("other/#", Some("c"), 0, 1_000)).await;
        let many = steps.load(Ordering::Relaxed);
        assert_eq!((found.len(), pages), (199_980, 200));
        assert!(many < 60_000, "199,980 messages took {many} thousand steps");
    }

    /// Both ways to read a range against each other and against the table.
    #[tokio::test]
    async fn sorting_and_walking_give_the_same_messages_in_the_same_order() {
        let (mut connection, _) = database().await;
        fill(&mut connection, 3_000, "'t/' || (n * 7919 % 13) || '/' || (n * 31 % 5)").await;
        sqlx::raw_sql(
            "INSERT INTO mqtt_acked (clientid, topic, mid) VALUES ('c', 't/3/1', 2000), ('c', 't/3/2', 1)",
        )
        .execute(&mut connection)
        .await
        .unwrap();
        for (filter, client, since_ms, like) in [
            ("t/3/#", Some("c"), None, "t/3/%"),
            ("t/3/#", None, None, "t/3/%"),
            ("t/3/+", Some("c"), Some(1_800_000_000_000), "t/3/%"),
            ("t/+/2", Some("c"), None, "t/%/2"),
            ("t/#", Some("nobody"), Some(1_800_000_000_000), "t/%"),
        ] {
            let expected: Vec<String> = sqlx::query_scalar(
                "SELECT payload FROM mqtt_msg m WHERE topic LIKE ?1 AND (?2 = 0 OR arrived > '2027-01-01') \
                 AND id > coalesce((SELECT mid FROM mqtt_acked a WHERE a.clientid = ?3 AND a.topic = m.topic), 0) \
                 ORDER BY id",
            )
            .bind(like)
            .bind(i64::from(since_ms.is_some()))
            .bind(client)
            .fetch_all(&mut connection)
            .await
            .unwrap();
            assert!(expected.len() > 50, "{filter}");
            // The smaller the pages, the more often a range would be sorted.
            for (limit, small) in [(1, false), (7, false), (100_000, true)] {
                let wanted = Unread { since_ms, ..wanted(filter, client, 0, limit) };
                let (low, high) = topic_range(&wanted.filter);
                let Ok(is_small) = is_small(&mut connection, &wanted, &low, &high).await else {
                    panic!("size")
                };
                assert_eq!(is_small, small, "{filter} in pages of {limit}");
                let (found, _) = all(&mut connection, wanted).await;
                assert_eq!(found, expected, "{filter} in pages of {limit}");
            }
        }
    }
}
