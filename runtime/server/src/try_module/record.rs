//! A store and a broker that write down what a module asks of them, and say that it was done.

use std::collections::VecDeque;
use std::path::Path;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate_event::{
    AckLevel, ActionOptions, BoxFuture, Control, ControlError, Message, QoS, Reply, Rows, Scope, SqlValue,
    Storage, StorageError, Tenant, TopicFilter,
};

use super::fields::Fields;
use super::report::{bytes_json, message_json};
use super::{read_json, shown};

/// The connector that there is when the manifest names none.
const DEFAULT: &str = "sqlite:default";

/// Answers every call with success.
#[derive(Debug)]
pub(super) struct Recorder {
    connectors: Vec<String>,
    /// What every query gives.
    rows: Rows,
    /// What commands give, one after the other.
    replies: Mutex<VecDeque<Reply>>,
    calls: Mutex<Vec<Value>>,
}

impl Recorder {
    /// Answers queries and commands so; of commands those after the last reply find nothing.
    pub(super) fn new(rows: Rows, replies: Vec<Reply>) -> Self {
        let replies = Mutex::new(replies.into());
        Self { connectors: vec![DEFAULT.to_owned()], rows, replies, calls: Mutex::default() }
    }

    /// With the connectors that a manifest names; `None`: the default one.
    pub(super) fn granted(self, connectors: Option<Vec<String>>) -> Self {
        Self { connectors: connectors.unwrap_or(self.connectors), ..self }
    }

    /// The calls since the last time, an object each.
    pub(super) fn take(&self) -> Vec<Value> {
        std::mem::take(&mut self.calls.lock())
    }

    fn note(&self, call: Value) {
        self.calls.lock().push(call);
    }

    fn answer<T: Send + 'static>(&self, call: Value, answer: T) -> BoxFuture<'_, Result<T, StorageError>> {
        self.note(call);
        Box::pin(std::future::ready(Ok(answer)))
    }
}

/// The rows of a file: `{"columns": ["a"], "rows": [[1]]}`.
///
/// # Errors
/// All mistakes, each with the file and the key.
pub(super) fn rows(path: &Path) -> Result<Rows, Vec<String>> {
    rows_of(&shown(path), &read_json(path)?)
}

fn rows_of(place: &str, value: &Value) -> Result<Rows, Vec<String>> {
    let mut mistakes = Vec::new();
    let Some(fields) = Fields::of(place, "", value, &["columns", "rows"], &mut mistakes) else {
        return Err(mistakes);
    };
    let names = |value: &Value| {
        value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    };
    let columns = fields.read("columns", Vec::new(), "a list of names", &mut mistakes, names);
    let width = columns.len();
    let row = |value: &Value| {
        let row = value.as_array().filter(|row| row.len() == width)?;
        Some(row.iter().map(sql).collect::<Vec<_>>())
    };
    let list = |value: &Value| value.as_array()?.iter().map(row).collect::<Option<Vec<_>>>();
    let expected = format!("a list of rows of {width} values each");
    let rows = fields.read("rows", Vec::new(), &expected, &mut mistakes, list);
    if mistakes.is_empty() { Ok(Rows { columns, rows }) } else { Err(mistakes) }
}

fn sql(value: &Value) -> SqlValue {
    match value {
        Value::Null => SqlValue::Null,
        Value::Bool(value) => SqlValue::Boolean(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => SqlValue::Int64(number),
            (None, Some(number)) => SqlValue::Uint64(number),
            (None, None) => SqlValue::Float64(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => SqlValue::Text(text.clone()),
        Value::Array(_) | Value::Object(_) => SqlValue::Json(value.to_string()),
    }
}

fn sql_json(value: &SqlValue) -> Value {
    match value {
        SqlValue::Null => Value::Null,
        SqlValue::Boolean(value) => json!(value),
        SqlValue::Int64(value) | SqlValue::TimestampMs(value) => json!(value),
        SqlValue::Uint64(value) => json!(value),
        SqlValue::Float64(value) => json!(value),
        SqlValue::Text(text) => json!(text),
        SqlValue::Json(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        SqlValue::Binary(bytes) => bytes_json(bytes),
    }
}

fn row_json(row: &[SqlValue]) -> Value {
    row.iter().map(sql_json).collect()
}

/// A word of a command: text, when it is.
fn word_json(word: &[u8]) -> Value {
    std::str::from_utf8(word).map_or_else(|_| bytes_json(word), Value::from)
}

fn level_word(level: AckLevel) -> &'static str {
    match level {
        AckLevel::Stored => "stored",
        AckLevel::Accepted => "accepted",
    }
}

fn options_json(options: &ActionOptions) -> Value {
    let all = json!({
        "expired_time": options.expired_time,
        "max_returned_count": options.max_returned_count,
        "time_range_ms": options.time_range_ms,
        "payload_format": options.payload_format,
    });
    match all {
        Value::Object(all) => all.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        other => other,
    }
}

impl Storage for Recorder {
    fn run<'a>(
        &'a self,
        scope: &'a Scope,
        connector: &'a str,
        function: &'a str,
        options: &'a ActionOptions,
        level: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        let message = scope.event.message().map(|message| message_json(message));
        self.answer(
            json!({
                "call": "run", "connector": connector, "function": function, "options": options_json(options),
                "ack": level_word(level), "message": message,
            }),
            (),
        )
    }

    fn execute<'a>(
        &'a self,
        _: &'a Scope,
        connector: &'a str,
        statements: &'a [String],
        level: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        let ack = level_word(level);
        self.answer(
            json!({"call": "execute", "connector": connector, "statements": statements, "ack": ack}),
            (),
        )
    }

    fn query<'a>(
        &'a self,
        _: &'a Tenant,
        connector: &'a str,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, StorageError>> {
        let call = json!({"call": "query", "connector": connector, "statement": statement, "params": row_json(&params)});
        self.answer(call, self.rows.clone())
    }

    fn exec<'a>(
        &'a self,
        _: &'a Tenant,
        connector: &'a str,
        statement: &'a str,
        params: Vec<Vec<SqlValue>>,
    ) -> BoxFuture<'a, Result<u64, StorageError>> {
        let changed = u64::try_from(params.len()).unwrap_or(u64::MAX);
        let params: Value = params.iter().map(|row| row_json(row)).collect();
        let call = json!({"call": "exec", "connector": connector, "statement": statement, "params": params});
        self.answer(call, changed)
    }

    fn commands<'a>(
        &'a self,
        _: &'a Tenant,
        connector: &'a str,
        commands: Vec<Vec<Vec<u8>>>,
    ) -> BoxFuture<'a, Result<Vec<Reply>, StorageError>> {
        let words = |command: &Vec<Vec<u8>>| command.iter().map(|word| word_json(word)).collect::<Value>();
        let shown: Value = commands.iter().map(words).collect();
        let call = json!({"call": "commands", "connector": connector, "commands": shown});
        let mut replies = self.replies.lock();
        let answer = commands.iter().map(|_| replies.pop_front().unwrap_or(Reply::Nil)).collect();
        drop(replies);
        self.answer(call, answer)
    }

    fn connectors(&self, _: &Tenant) -> Vec<String> {
        self.connectors.clone()
    }
}

impl Control for Recorder {
    fn publish(&self, _: &Tenant, message: Message) -> Result<(), ControlError> {
        self.note(json!({"call": "publish", "message": message_json(&message)}));
        Ok(())
    }

    fn deliver(&self, _: &Tenant, client_id: &str, message: Message) -> Result<(), ControlError> {
        self.note(json!({"call": "deliver", "client": client_id, "message": message_json(&message)}));
        Ok(())
    }

    fn subscribe(
        &self,
        _: &Tenant,
        client_id: &str,
        filter: TopicFilter,
        qos: QoS,
    ) -> Result<(), ControlError> {
        let filter = filter.as_str();
        self.note(json!({"call": "subscribe", "client": client_id, "filter": filter, "qos": qos.level()}));
        Ok(())
    }

    fn unsubscribe(&self, _: &Tenant, client_id: &str, filter: TopicFilter) -> Result<(), ControlError> {
        self.note(json!({"call": "unsubscribe", "client": client_id, "filter": filter.as_str()}));
        Ok(())
    }

    fn disconnect(&self, _: &Tenant, client_id: &str) -> Result<(), ControlError> {
        self.note(json!({"call": "disconnect", "client": client_id}));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn calls_are_written_down_and_answered() {
        let rows =
            rows_of("r.json", &json!({"columns": ["a", "b"], "rows": [[1, null], ["x", {"k": 1}]]})).unwrap();
        let recorder = Recorder::new(rows.clone(), vec![Reply::Integer(7)]).granted(None);
        let tenant = Tenant::default();
        assert_eq!(recorder.connectors(&tenant), ["sqlite:default"]);
        let params = vec![SqlValue::Int64(1), SqlValue::Binary(vec![255])];
        assert_eq!(recorder.query(&tenant, "c", "select ?", params.clone()).await.unwrap(), rows);
        assert_eq!(recorder.exec(&tenant, "c", "insert", vec![params.clone(), params]).await, Ok(2));
        let commands = vec![vec![b"INCR".to_vec(), vec![255]], vec![b"PING".to_vec()]];
        let replies = recorder.commands(&tenant, "c", commands).await.unwrap();
        assert_eq!(replies, [Reply::Integer(7), Reply::Nil], "after the last there is nothing");
        recorder.disconnect(&tenant, "x").unwrap();
        let calls = recorder.take();
        let query = json!({"call": "query", "connector": "c", "statement": "select ?",
                           "params": [1, {"base64": "/w=="}]});
        assert_eq!((calls.len(), &calls[0]), (4, &query));
        let commands = json!([["INCR", {"base64": "/w=="}], ["PING"]]);
        assert_eq!(calls[2], json!({"call": "commands", "connector": "c", "commands": commands}));
        assert_eq!(calls[3], json!({"call": "disconnect", "client": "x"}));
        assert!(recorder.take().is_empty());
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let mistakes = |value: Value| rows_of("r.json", &value).unwrap_err().join("; ");
        assert!(
            mistakes(json!({"columns": ["a"], "rows": [[1, 2]]}))
                .contains("rows: expected a list of rows of 1")
        );
        assert!(
            mistakes(json!({"colums": []}))
                .contains("r.json: colums: unknown key; did you mean \"columns\"?")
        );
    }
}
