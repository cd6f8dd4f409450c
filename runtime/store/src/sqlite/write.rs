//! Operations -> statements, within one transaction.
//!
//! Operations on different tables do not disturb each other, so they are sorted into lanes, one a kind of data, and
//! every lane is written with statements over many rows. The order within a lane is kept. Custom statements can do
//! anything: they stand between the lanes of what comes before and after them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::{AssertSqlSafe, Row as _};
use tidegate_event::{Message, MsgId, TopicName};

use super::Failure;
use super::connection::Connection;
use super::rows::{RowStatement, run_one};
use super::value::{LastText, LastTime, Params};
use crate::backend::Limits;
use crate::operation::{Operation, foreign_row};
use crate::statement::{Bound, Template};

static ONLINE: RowStatement = RowStatement::new(
    "INSERT INTO mqtt_client (clientid, state, node, online_at, offline_at) VALUES ",
    "(?,'1',?,?,NULL)",
    " ON CONFLICT (clientid) DO UPDATE SET state = '1', node = excluded.node, online_at = excluded.online_at, \
     offline_at = NULL",
    3,
);
// The client may have connected to another node by now: then it is that node's.
static OFFLINE: RowStatement = RowStatement::new(
    "INSERT INTO mqtt_client (clientid, state, node, offline_at) VALUES ",
    "(?,'0',?,?)",
    " ON CONFLICT (clientid) DO UPDATE SET state = '0', offline_at = excluded.offline_at \
     WHERE mqtt_client.node IS excluded.node OR mqtt_client.node IS NULL",
    3,
);
static STORE_SUBSCRIPTION: RowStatement = RowStatement::new(
    "INSERT INTO mqtt_sub (clientid, topic, qos) VALUES ",
    "(?,?,?)",
    " ON CONFLICT (clientid, topic) DO UPDATE SET qos = excluded.qos",
    3,
);
static DELETE_SUBSCRIPTION: RowStatement = RowStatement::new(
    "WITH v (clientid, topic) AS (VALUES ",
    "(?,?)",
    ") DELETE FROM mqtt_sub WHERE id IN (SELECT s.id FROM v \
       CROSS JOIN mqtt_sub s ON s.clientid = v.clientid AND s.topic = v.topic)",
    2,
);
static APPEND: RowStatement = RowStatement::new(
    "INSERT INTO mqtt_msg (msgid, topic, sender, qos, retain, payload, arrived) VALUES ",
    "(?,?,?,?,?,?,?)",
    " ON CONFLICT (msgid) DO NOTHING",
    7,
);
static DELETE_OLDER: RowStatement = RowStatement::new(
    "WITH v (topic, msgid) AS (VALUES ",
    "(?,?)",
    ") DELETE FROM mqtt_msg WHERE id IN (SELECT older.id FROM v \
       CROSS JOIN mqtt_msg newest ON newest.msgid = v.msgid \
       CROSS JOIN mqtt_msg older ON older.topic = v.topic AND older.id < newest.id)",
    2,
);
// Positions are row numbers, `through` is an id, and rows of several publishers need not be in the order of their
// ids: the position is the last row before the first one, beyond the position so far, that `through` does not cover.
// `through` itself may not be stored (QoS 0 beside on_message_publish). A message whose id is of foreign form is known
// by its row.
static ADVANCE: RowStatement = RowStatement::new(
    "WITH v (clientid, topic, msgid, row) AS (VALUES ",
    "(?,?,?,?)",
    "), w AS MATERIALIZED (SELECT v.*, coalesce( \
         (SELECT mid FROM mqtt_acked a WHERE a.clientid = v.clientid AND a.topic = v.topic), 0) AS mid FROM v), \
     e AS MATERIALIZED (SELECT w.*, coalesce((SELECT id FROM mqtt_msg m WHERE m.topic = w.topic AND m.id > w.mid \
         AND CASE WHEN length(m.msgid) = 32 AND m.msgid NOT GLOB '*[^0-9A-F]*' AND m.msgid >= '0000000000000001' \
             THEN m.msgid > w.msgid ELSE m.id > w.row END \
         ORDER BY id LIMIT 1), 9223372036854775807) AS until FROM w), \
     p AS MATERIALIZED (SELECT e.clientid, e.topic, (SELECT id FROM mqtt_msg m WHERE m.topic = e.topic \
         AND m.id > e.mid AND m.id < e.until \
         AND CASE WHEN length(m.msgid) = 32 AND m.msgid NOT GLOB '*[^0-9A-F]*' AND m.msgid >= '0000000000000001' \
             THEN m.msgid <= e.msgid ELSE m.id <= e.row END \
         ORDER BY id DESC LIMIT 1) AS mid FROM e) \
     INSERT INTO mqtt_acked (clientid, topic, mid, created) \
       SELECT clientid, topic, mid, CURRENT_TIMESTAMP FROM p WHERE mid IS NOT NULL \
     ON CONFLICT (clientid, topic) DO UPDATE SET mid = excluded.mid \
       WHERE mqtt_acked.mid IS NULL OR excluded.mid > mqtt_acked.mid",
    4,
);
static REMOVE: RowStatement = RowStatement::new("DELETE FROM mqtt_msg WHERE msgid IN (", "?", ")", 1);
static REMOVE_FOREIGN: RowStatement = RowStatement::new("DELETE FROM mqtt_msg WHERE id IN (", "?", ")", 1);
static PUT_RETAINED: RowStatement = RowStatement::new(
    "INSERT INTO mqtt_retain (topic, msgid, sender, qos, payload, arrived) VALUES ",
    "(?,?,?,?,?,?)",
    " ON CONFLICT (topic) DO UPDATE SET msgid = excluded.msgid, sender = excluded.sender, qos = excluded.qos, \
     payload = excluded.payload, arrived = excluded.arrived",
    6,
);
static DELETE_RETAINED: RowStatement =
    RowStatement::new("DELETE FROM mqtt_retain WHERE topic IN (", "?", ")", 1);

/// Operations by kind of data, in order.
#[derive(Default)]
struct Lanes<'a> {
    clients: Vec<&'a Operation>,
    subscriptions: Vec<&'a Operation>,
    messages: Vec<&'a Operation>,
    positions: Vec<&'a Operation>,
    removals: Vec<MsgId>,
    retained: Vec<&'a Operation>,
}

/// Executes `operations`; the caller has begun the transaction and ends it. When custom statements fail, `failed`
/// gets the index of their operation.
pub(super) async fn execute(
    connection: &mut Connection,
    operations: &[Operation],
    limits: &Limits,
    failed: &AtomicUsize,
) -> Result<(), Failure> {
    let mut lanes = Lanes::default();
    for (index, operation) in operations.iter().enumerate() {
        match operation {
            Operation::ClientOnline { .. } | Operation::ClientOffline { .. } => lanes.clients.push(operation),
            Operation::StoreSubscription { .. } | Operation::DeleteSubscription { .. } => {
                lanes.subscriptions.push(operation);
            }
            Operation::AppendMessage { .. } | Operation::KeepLatest { .. } => lanes.messages.push(operation),
            Operation::AdvancePosition { .. } | Operation::DeletePositions { .. } => {
                lanes.positions.push(operation);
            }
            Operation::RemoveMessage { id, .. } => lanes.removals.push(*id),
            Operation::PutRetained { .. } | Operation::DeleteRetained { .. } => {
                lanes.retained.push(operation)
            }
            Operation::Execute { statements, values, .. } => {
                std::mem::take(&mut lanes).write(connection).await?;
                connection.limit(Some(limits.statement_timeout));
                let result = custom(connection, statements, values).await;
                connection.limit(None);
                if result.is_err() {
                    failed.store(index, Ordering::Relaxed);
                    return result;
                }
            }
        }
    }
    lanes.write(connection).await
}

async fn custom(
    connection: &mut Connection,
    statements: &[Arc<Template>],
    values: &[Box<[Bound]>],
) -> Result<(), Failure> {
    for (statement, values) in statements.iter().zip(values) {
        let mut params = Params::with_capacity(values.len());
        values.iter().for_each(|value| params.bound(value));
        let text = AssertSqlSafe(Arc::clone(statement.text()));
        sqlx::query_with(text, params.finish()?).execute(&mut connection.inner).await?;
    }
    Ok(())
}

impl Lanes<'_> {
    async fn write(self, connection: &mut Connection) -> Result<(), Failure> {
        // Messages first: a position may name one of them.
        messages(connection, &self.messages).await?;
        positions(connection, &self.positions).await?;
        removals(connection, &self.removals).await?;
        retained(connection, &self.retained).await?;
        clients(connection, &self.clients).await?;
        subscriptions(connection, &self.subscriptions).await
    }
}

/// Stretches of `operations` for which `of` gives the same.
fn runs<'s, 'a, K: PartialEq>(
    operations: &'s [&'a Operation],
    of: impl Fn(&Operation) -> K,
) -> impl Iterator<Item = &'s [&'a Operation]> {
    operations.chunk_by(move |a, b| of(a) == of(b))
}

/// Binds what all rows about messages have in common, sharing texts between rows.
#[derive(Default)]
struct MessageBinder {
    topic: LastText,
    sender: LastText,
    arrived: LastTime,
}

impl MessageBinder {
    fn sender(&mut self, params: &mut Params, message: &Message) {
        if message.sender.is_empty() {
            params.null();
        } else {
            params.text(self.sender.get(&message.sender));
        }
    }

    fn append(&mut self, params: &mut Params, message: &Message) {
        params.msgid(message.id);
        params.text(self.topic.get(message.topic.as_str()));
        self.sender(params, message);
        params.integer(message.qos.level().into());
        params.integer(message.retain.into());
        params.payload(&message.payload);
        params.text(self.arrived.get(message.timestamp_ms));
    }

    fn retained(&mut self, params: &mut Params, message: &Message) {
        params.text(self.topic.get(message.topic.as_str()));
        params.msgid(message.id);
        self.sender(params, message);
        params.integer(message.qos.level().into());
        params.payload(&message.payload);
        params.text(self.arrived.get(message.timestamp_ms));
    }
}

async fn messages(connection: &mut Connection, lane: &[&Operation]) -> Result<(), Failure> {
    for run in runs(lane, |o| matches!(o, Operation::KeepLatest { .. })) {
        let mut rows: Vec<&Message> = Vec::with_capacity(run.len());
        let mut newest: HashMap<&TopicName, usize> = HashMap::new();
        for operation in run {
            match operation {
                Operation::AppendMessage { message, .. } => rows.push(message),
                Operation::KeepLatest { message, .. } => match newest.get(&message.topic) {
                    // Of one topic only the newest would stay anyway.
                    Some(at) => rows.get_mut(*at).into_iter().for_each(|row| *row = message),
                    None => {
                        newest.insert(&message.topic, rows.len());
                        rows.push(message);
                    }
                },
                _ => {}
            }
        }
        let mut binder = MessageBinder::default();
        APPEND.run(&mut connection.inner, &rows, |params, message| binder.append(params, message)).await?;
        if !newest.is_empty() {
            let bind = |params: &mut Params, message: &&Message| {
                params.text(message.topic.as_str());
                params.msgid(message.id);
            };
            DELETE_OLDER.run(&mut connection.inner, &rows, bind).await?;
        }
    }
    Ok(())
}

async fn positions(connection: &mut Connection, lane: &[&Operation]) -> Result<(), Failure> {
    for run in runs(lane, |o| matches!(o, Operation::AdvancePosition { .. })) {
        // Of one client and topic only the furthest position counts.
        let mut rows: Vec<(&str, &str, MsgId)> = Vec::with_capacity(run.len());
        let mut known: HashMap<(&str, &str), usize> = HashMap::new();
        for operation in run {
            match operation {
                Operation::AdvancePosition { client, topic, through, .. } => {
                    let (client, topic) = (&**client, topic.as_str());
                    match known.get(&(client, topic)).and_then(|at| rows.get_mut(*at)) {
                        Some(row) if foreign_row(row.2).is_some() == foreign_row(*through).is_some() => {
                            row.2 = row.2.max(*through);
                        }
                        _ => {
                            known.insert((client, topic), rows.len());
                            rows.push((client, topic, *through));
                        }
                    }
                }
                Operation::DeletePositions { client, filter } => {
                    delete_positions(connection, client, filter).await?;
                }
                _ => {}
            }
        }
        let (mut clients, mut topics) = (LastText::default(), LastText::default());
        let bind = |params: &mut Params, (client, topic, through): &(&str, &str, MsgId)| {
            params.text(clients.get(client));
            params.text(topics.get(topic));
            params.msgid(*through);
            match foreign_row(*through) {
                Some(row) => params.integer(row),
                None => params.null(),
            }
        };
        ADVANCE.run(&mut connection.inner, &rows, bind).await?;
    }
    Ok(())
}

async fn delete_positions(
    connection: &mut Connection,
    client: &str,
    filter: &tidegate_event::TopicFilter,
) -> Result<(), Failure> {
    const EXACT: &str = "DELETE FROM mqtt_acked WHERE clientid = ?1 AND topic = ?2";
    if !filter.is_wildcard() {
        return run_one(&mut connection.inner, EXACT, |params| {
            params.text(client);
            params.text(filter.as_str());
        })
        .await;
    }
    let topics = sqlx::query("SELECT topic FROM mqtt_acked WHERE clientid = ?1")
        .bind(client)
        .fetch_all(&mut connection.inner)
        .await?;
    for row in topics {
        let text: String = row.try_get_unchecked(0)?;
        if TopicName::new(text.as_str()).is_ok_and(|topic| filter.matches(&topic)) {
            run_one(&mut connection.inner, EXACT, |params| {
                params.text(client);
                params.text(text);
            })
            .await?;
        }
    }
    Ok(())
}

async fn removals(connection: &mut Connection, ids: &[MsgId]) -> Result<(), Failure> {
    let (foreign, ours): (Vec<_>, Vec<_>) = ids.iter().partition(|id| foreign_row(**id).is_some());
    REMOVE.run(&mut connection.inner, &ours, |params, id| params.msgid(*id)).await?;
    let rows: Vec<i64> = foreign.into_iter().filter_map(foreign_row).collect();
    REMOVE_FOREIGN.run(&mut connection.inner, &rows, |params, row| params.integer(*row)).await
}

async fn retained(connection: &mut Connection, lane: &[&Operation]) -> Result<(), Failure> {
    // What was done last to a topic is all that stays; the order of topics does not matter.
    let mut last: HashMap<&str, Option<&Message>> = HashMap::new();
    for operation in lane {
        match operation {
            Operation::PutRetained { message, .. } => last.insert(message.topic.as_str(), Some(message)),
            Operation::DeleteRetained { topic } => last.insert(topic.as_str(), None),
            _ => None,
        };
    }
    let put: Vec<&Message> = last.values().copied().flatten().collect();
    let mut binder = MessageBinder::default();
    PUT_RETAINED.run(&mut connection.inner, &put, |params, message| binder.retained(params, message)).await?;
    let deleted: Vec<&str> = last.iter().filter(|(_, m)| m.is_none()).map(|(topic, _)| *topic).collect();
    DELETE_RETAINED.run(&mut connection.inner, &deleted, |params, topic| params.text(*topic)).await
}

async fn clients(connection: &mut Connection, lane: &[&Operation]) -> Result<(), Failure> {
    let (mut nodes, mut times) = (LastText::default(), LastTime::default());
    for run in runs(lane, |o| matches!(o, Operation::ClientOnline { .. })) {
        let online = matches!(run.first(), Some(Operation::ClientOnline { .. }));
        let statement = if online { &ONLINE } else { &OFFLINE };
        let bind = |params: &mut Params, operation: &&Operation| {
            if let Operation::ClientOnline { client, node, at_ms, .. }
            | Operation::ClientOffline { client, node, at_ms, .. } = operation
            {
                params.text(&**client);
                params.text(nodes.get(node.name()));
                params.text(times.get(*at_ms));
            }
        };
        statement.run(&mut connection.inner, run, bind).await?;
    }
    Ok(())
}

async fn subscriptions(connection: &mut Connection, lane: &[&Operation]) -> Result<(), Failure> {
    let mut last: HashMap<(&str, &str), Option<u8>> = HashMap::new();
    for operation in lane {
        match operation {
            Operation::StoreSubscription { client, filter, qos, .. } => {
                last.insert((client, filter.as_str()), Some(qos.level()))
            }
            Operation::DeleteSubscription { client, filter } => last.insert((client, filter.as_str()), None),
            _ => None,
        };
    }
    let rows: Vec<_> = last.iter().map(|((client, topic), qos)| (*client, *topic, *qos)).collect();
    let (stored, deleted): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, _, qos)| qos.is_some());
    let bind = |params: &mut Params, (client, topic, qos): &(&str, &str, Option<u8>)| {
        params.text(*client);
        params.text(*topic);
        params.integer(qos.unwrap_or(0).into());
    };
    STORE_SUBSCRIPTION.run(&mut connection.inner, &stored, bind).await?;
    let bind = |params: &mut Params, (client, topic, _): &(&str, &str, Option<u8>)| {
        params.text(*client);
        params.text(*topic);
    };
    DELETE_SUBSCRIPTION.run(&mut connection.inner, &deleted, bind).await
}
