//! Reads of the built-in functions: subscriptions, stored and retained messages.

use std::sync::Arc;

use redis::{Value, cmd};
use tidegate_event::{Message, Origin, TopicFilter};

use super::keys;
use super::link::{Links, one};
use super::message::{self, ForeignIds};
use crate::backend::{BackendError, Cursor, Page, RetainedPage, Unread};

/// Messages that are read at once, at first; then as many as the size of those suggests.
const CHUNK: usize = 16;
/// See [`CHUNK`].
const LARGEST_CHUNK: usize = 256;
/// How much older than its time field an id may be.
const SLACK_MS: u64 = 60_000;

fn unexpected(error: impl ToString) -> BackendError {
    BackendError::Refused { code: "reply".into(), message: error.to_string() }
}

/// The filter and QoS of every subscription stored for `client`.
pub(super) async fn subscriptions(links: &Links, client: &str) -> Result<Vec<(String, i64)>, BackendError> {
    let key = keys::subscriptions(client);
    let reply = one(links.each(vec![vec![cmd("HGETALL").arg(&key).take()]]).await?, &key)?;
    let fields: Vec<(Vec<u8>, Vec<u8>)> = redis::from_redis_value(reply).map_err(unexpected)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let mut rows: Vec<_> =
        fields.into_iter().map(|(filter, qos)| (text(filter), text(qos).parse().unwrap_or(-1))).collect();
    rows.sort(); // a hash has no order of its own
    Ok(rows)
}

/// A page of the messages of one topic.
pub(super) async fn unread(
    links: &Links,
    wanted: &Unread,
    foreign: &ForeignIds,
    max_bytes: usize,
) -> Result<Page, BackendError> {
    let topic = wanted.filter.as_str();
    let key = keys::topic(topic);
    let mut range = cmd("ZRANGEBYLEX");
    range.arg(&key);
    let after = match &wanted.after {
        Some(Cursor::Id(id)) => Some(id.clone()),
        _ => None,
    };
    match &wanted.client {
        Some(client) => {
            let low = lower_bound(links, client, topic, after, wanted.since_ms).await?;
            range.arg(low).arg(format!("({}", keys::OURS.1))
        }
        None => range.arg(after.map_or("-".into(), |after| format!("({after}"))).arg("+"),
    };
    range.arg("LIMIT").arg(0).arg(wanted.limit);
    let reply = one(links.each(vec![vec![range]]).await?, &key)?;
    let members: Vec<Vec<u8>> = redis::from_redis_value(reply).map_err(unexpected)?;
    let members: Vec<String> =
        members.into_iter().map(|id| String::from_utf8_lossy(&id).into_owned()).collect();
    let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let mut page = Page { more: members.len() >= limit, ..Page::default() };
    let (mut bytes, mut expired) = (0, Vec::new());
    let (mut rest, mut chunk) = (&*members, CHUNK);
    while !rest.is_empty() && bytes < max_bytes {
        let (now, later) = rest.split_at(chunk.min(rest.len()));
        rest = later;
        let loads = now.iter().map(|id| vec![message::load(&keys::message(id))]).collect();
        for (id, answers) in now.iter().zip(links.each(loads).await?) {
            match answers.into_iter().next() {
                Some(Ok(Value::Array(fields))) if fields.iter().all(|f| *f == Value::Nil) => expired.push(id),
                Some(Ok(fields)) => {
                    if let Some(message) = wanted_message(links, fields, id, wanted, foreign) {
                        bytes += message.payload.len() + message.topic.as_str().len();
                        page.messages.push(Arc::new(message));
                    }
                }
                Some(Err(fault)) => skip(links, id, &fault.into_backend(&keys::message(id)).to_string()),
                None => return Err(BackendError::Unavailable("a reply is missing".into())),
            }
        }
        page.last = now.last().map(|id| Cursor::Id(id.clone()));
        let size = (bytes / page.messages.len().max(1)).max(1);
        chunk = (max_bytes.saturating_sub(bytes) / size).clamp(1, LARGEST_CHUNK);
    }
    page.more |= !rest.is_empty();
    if !expired.is_empty() {
        // Left by a message that has expired; the next fetch would drop it as well.
        let drop = cmd("ZREM").arg(&key).arg(&expired).take();
        links.each(vec![vec![drop]]).await?;
    }
    Ok(page)
}

/// Where a client begins to read: after its position, what was read before, and what is too old.
async fn lower_bound(
    links: &Links,
    client: &str,
    topic: &str,
    after: Option<String>,
    since_ms: Option<u64>,
) -> Result<String, BackendError> {
    let key = keys::position(client, topic);
    let reply = one(links.each(vec![vec![cmd("GET").arg(&key).take()]]).await?, &key)?;
    let position: Option<Vec<u8>> = redis::from_redis_value(reply).map_err(unexpected)?;
    let position = position.and_then(|bytes| String::from_utf8(bytes).ok());
    // A position of another program's form says nothing about the order of our ids.
    let position = position.filter(|text| keys::our_id(text).is_some());
    let since = since_ms.map(|ms| keys::first_id(ms.saturating_sub(SLACK_MS)));
    match (position.max(after), since) {
        (Some(after), Some(since)) if since > after => Ok(format!("[{since}")),
        (Some(after), _) => Ok(format!("({after}")),
        (None, Some(since)) => Ok(format!("[{since}")),
        (None, None) => Ok(format!("[{}", keys::OURS.0)),
    }
}

fn wanted_message(
    links: &Links,
    fields: Value,
    id: &str,
    wanted: &Unread,
    foreign: &ForeignIds,
) -> Option<Message> {
    if wanted.client.is_some() && keys::our_id(id).is_none() {
        skip(links, id, "an id of another form cannot be a position");
        return None;
    }
    let time = message::seconds(&fields);
    match message::read(fields, Some(id), Origin::Fetched, foreign) {
        Ok(Some(message)) if !wanted.filter.matches(&message.topic) => {
            skip(links, id, "its topic is another");
            None
        }
        Ok(Some(message)) => {
            let since = wanted.since_ms.unwrap_or(0) / 1_000;
            (time.unwrap_or(message.timestamp_ms / 1_000) >= since).then_some(message)
        }
        Ok(None) => None,
        Err(reason) => {
            skip(links, id, &reason);
            None
        }
    }
}

/// Says so, seldom: every fetch meets all of them again.
fn skip(links: &Links, id: &str, reason: &str) {
    if let Some(left_out) = links.skip_line.turn() {
        let connector = &links.settings.connector;
        tracing::warn!(%connector, id, %reason, left_out, "a stored message cannot be delivered, skipped");
    }
}

/// The retained message of one topic.
pub(super) async fn retained(
    links: &Links,
    filter: &TopicFilter,
    foreign: &ForeignIds,
) -> Result<RetainedPage, BackendError> {
    let key = keys::retained(filter.as_str());
    let fields = one(links.each(vec![vec![message::load(&key)]]).await?, &key)?;
    let mut page = RetainedPage::default();
    match message::read(fields, None, Origin::RetainedStore, foreign) {
        Ok(Some(message)) if !message.payload.is_empty() && filter.matches(&message.topic) => {
            page.messages.push(Arc::new(message));
        }
        Ok(_) => {}
        Err(reason) => skip(links, &key, &reason),
    }
    Ok(page)
}
