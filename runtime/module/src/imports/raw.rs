//! `host-call` of the world `raw`: a request of a guest as JSON, the answer as JSON.
//!
//! Each request is one function of the typed interfaces and goes through the very same code, with the event that is
//! being handled: `{"ok": ...}` or `{"error": {"kind": "access-denied", "message": "..."}}`.

mod pairs;
mod redis;
mod request;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value as Json, json};
use tidegate_event::{Rows, SqlValue};
use wasmtime::component::Linker;

use crate::bindings::tidegate::broker::{client_control, context};
use crate::bindings::tidegate::storage::actions::{self, Options};
use crate::bindings::tidegate::storage::types::{Error, Value};
use crate::bindings::wasi::config::store as config;
use crate::bindings::wasi::logging::logging::{self, Level};
use crate::envelope;
use crate::state::{Call, State};
use request::{OptionsIn, Request};

/// The import's name, at the root of the component.
pub(super) const HOST_CALL: &str = "host-call";

/// Adds the import.
///
/// # Errors
/// wasmtime's, when there is one of this name.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.root().func_wrap_async(HOST_CALL, |mut store, (request,): (Vec<u8>,)| {
        Box::new(async move { Ok((store.data_mut().host_call(&request).await?,)) })
    })
}

/// Why a request was not carried out.
struct Refusal {
    kind: &'static str,
    message: String,
}

impl Refusal {
    fn invalid(message: impl Into<String>) -> Self {
        Self { kind: "invalid-argument", message: message.into() }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (kind, message) = match error {
            Error::NoSuchConnector => ("no-such-connector", "there is no such connector".to_owned()),
            Error::AccessDenied => ("access-denied", "the connector is not granted".to_owned()),
            Error::InvalidArgument(message) => ("invalid-argument", message),
            Error::Timeout => ("timeout", "the store did not answer in time".to_owned()),
            Error::Unavailable => ("unavailable", "the store is not reachable now".to_owned()),
            Error::QuotaExceeded => ("quota-exceeded", "a limit of the module is used up".to_owned()),
            Error::Failed(failure) => ("failed", format!("{} ({})", failure.message, failure.code)),
        };
        Self { kind, message }
    }
}

impl From<client_control::Error> for Refusal {
    fn from(error: client_control::Error) -> Self {
        use client_control::Error;
        let (kind, message) = match error {
            Error::NoSuchClient => ("no-such-client", "no such client is connected".to_owned()),
            Error::InvalidTopic(message) => ("invalid-argument", message),
            Error::HopLimit => ("hop-limit", "the message passed through too many publishes".to_owned()),
            Error::Busy => ("busy", "the broker's queue is full".to_owned()),
            Error::Stopping => ("stopping", "the broker is stopping".to_owned()),
        };
        Self { kind, message }
    }
}

impl State {
    /// Carries a request out. A mistake in it is an answer; only what ends the call is an error.
    async fn host_call(&mut self, request: &[u8]) -> wasmtime::Result<Vec<u8>> {
        let read = envelope::check_size(request)
            .and_then(|()| serde_json::from_slice(request).map_err(|error| error.to_string()));
        let answer = match read {
            Ok(request) => self.carry_out(request).await?,
            Err(error) => Err(Refusal::invalid(format!("the request's JSON: {error}"))),
        };
        let answer = match answer {
            Ok(value) => json!({ "ok": value }),
            Err(Refusal { kind, message }) => json!({ "error": { "kind": kind, "message": message } }),
        };
        Ok(serde_json::to_vec(&answer)?)
    }

    async fn carry_out(&mut self, request: Request) -> wasmtime::Result<Result<Json, Refusal>> {
        let event = self.number();
        Ok(match request {
            Request::StorageRun { connector, function, options, wait } => {
                let options = match options.map(|options| self.options(options)).transpose() {
                    Ok(options) => options,
                    Err(refusal) => return Ok(Err(refusal)),
                };
                use actions::Host;
                let done = if wait {
                    self.run_wait(event, connector, function, options).await?
                } else {
                    Host::run(self, event, connector, function, options).await?
                };
                nothing(done)
            }
            Request::StorageExecute { connector, statements, wait } => {
                use actions::Host;
                let done = if wait {
                    self.execute_wait(event, connector, statements).await?
                } else {
                    Host::execute(self, event, connector, statements).await?
                };
                nothing(done)
            }
            Request::SqlQuery { connector, statement, params } => match values(params) {
                Ok(params) => {
                    self.query_rows(&connector, &statement, params).await.map(rows).map_err(Into::into)
                }
                Err(refusal) => Err(refusal),
            },
            Request::SqlExec { connector, statement, params } => match values(params) {
                Ok(params) => changed(self.run_exec(&connector, &statement, vec![params]).await),
                Err(refusal) => Err(refusal),
            },
            Request::SqlExecBatch { connector, statement, params } => {
                match params.into_iter().map(values).collect::<Result<_, _>>() {
                    Ok(params) => changed(self.run_exec(&connector, &statement, params).await),
                    Err(refusal) => Err(refusal),
                }
            }
            Request::RedisCommand { connector, command } => match redis::words(command) {
                Ok(words) => self.run_command(&connector, words).await.map(redis::reply).map_err(Into::into),
                Err(refusal) => Err(refusal),
            },
            Request::RedisPipeline { connector, commands } => {
                match commands.into_iter().map(redis::words).collect::<Result<_, _>>() {
                    Ok(commands) => match self.run_commands(&connector, commands).await {
                        Ok(replies) => Ok(replies.into_iter().map(redis::reply).collect()),
                        Err(error) => Err(Error::from(error).into()),
                    },
                    Err(refusal) => Err(refusal),
                }
            }
            Request::KeyvalueGet(asked) => self.get_pair(asked).await,
            Request::KeyvalueGetMany(asked) => self.get_pairs(asked).await,
            Request::KeyvalueSet(asked) => self.set_pair(asked).await,
            Request::KeyvalueSetMany(asked) => self.set_pairs(asked).await,
            Request::KeyvalueDelete(asked) => self.delete_pair(asked).await,
            Request::KeyvalueDeleteMany(asked) => self.delete_pairs(asked).await,
            Request::KeyvalueExists(asked) => self.has_pair(asked).await,
            Request::KeyvalueListKeys(asked) => self.list_pairs(asked).await,
            Request::KeyvalueIncrement(asked) => self.add_to_pair(asked).await,
            Request::KeyvalueSwap(asked) => self.swap_pair(asked).await,
            Request::Log { level, message, context } => match log_level(&level) {
                Some(level) => {
                    logging::Host::log(self, level, context, message)?;
                    Ok(Json::Null)
                }
                None => Err(Refusal::invalid(format!(
                    "level {level:?}, expected trace, debug, info, warn, error or critical"
                ))),
            },
            Request::ConfigGet { key } => config_answer(config::Host::get(self, key)?.map(Json::from)),
            Request::ConfigGetAll {} => config_answer(
                config::Host::get_all(self)?
                    .map(|all| all.into_iter().map(|(k, v)| (k, Json::from(v))).collect()),
            ),
            Request::Publish { message } => match message.complete(None) {
                Ok(message) => nothing(client_control::Host::publish(self, event, message)?),
                Err(text) => Err(Refusal::invalid(text)),
            },
            Request::Deliver { client, message } => match message.complete(None) {
                Ok(message) => nothing(client_control::Host::deliver(self, event, client, message)?),
                Err(text) => Err(Refusal::invalid(text)),
            },
            Request::Subscribe { client, filter, qos } => match envelope::qos(qos) {
                Ok(qos) => nothing(client_control::Host::subscribe(self, event, client, filter, qos)?),
                Err(text) => Err(Refusal::invalid(text)),
            },
            Request::Unsubscribe { client, filter } => {
                nothing(client_control::Host::unsubscribe(self, event, client, filter)?)
            }
            Request::Disconnect { client } => nothing(client_control::Host::disconnect(self, event, client)?),
            Request::ContextProperty { name } => {
                Ok(context::Host::message_property(self, event, name)?.into())
            }
            Request::ContextCorrelationData {} => {
                Ok(context::Host::correlation_data(self, event)?.map(|data| BASE64.encode(data)).into())
            }
            Request::ContextTenant {} => Ok(context::Host::tenant(self, event)?.into()),
            Request::ContextNode {} => Ok(context::Host::node(self)?.into()),
        })
    }

    fn options(&self, options: OptionsIn) -> Result<Options, Refusal> {
        let original = self.event(self.number()).and_then(Call::message);
        let message = options.message.map(|message| message.complete(original.map(|message| &**message)));
        Ok(Options {
            message: message.transpose().map_err(Refusal::invalid)?,
            expired_time: options.expired_time,
            max_returned_count: options.max_returned_count,
            time_range_ms: options.time_range_ms,
            payload_format: options.payload_format,
        })
    }
}

fn nothing<E: Into<Refusal>>(done: Result<(), E>) -> Result<Json, Refusal> {
    done.map(|()| Json::Null).map_err(Into::into)
}

fn changed(done: Result<u64, Error>) -> Result<Json, Refusal> {
    done.map(Json::from).map_err(Into::into)
}

fn config_answer(answer: Result<Json, config::Error>) -> Result<Json, Refusal> {
    answer.map_err(|error| Refusal { kind: "failed", message: format!("{error:?}") })
}

fn log_level(name: &str) -> Option<Level> {
    Some(match name {
        "trace" => Level::Trace,
        "debug" => Level::Debug,
        "info" => Level::Info,
        "warn" => Level::Warn,
        "error" => Level::Error,
        "critical" => Level::Critical,
        _ => return None,
    })
}

/// Parameters of a statement: JSON's own types, `{"base64": "..."}` for bytes, other objects and arrays as JSON text.
fn values(params: Vec<Json>) -> Result<Vec<Value>, Refusal> {
    params.into_iter().map(value).collect()
}

fn value(json: Json) -> Result<Value, Refusal> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Boolean(flag),
        Json::String(text) => Value::Text(text),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Value::Int64(number),
            (None, Some(number), _) => Value::Uint64(number),
            (None, None, Some(number)) => Value::Float64(number),
            (None, None, None) => return Err(Refusal::invalid(format!("the number {number} is too large"))),
        },
        Json::Object(object) if object.len() == 1 && object.contains_key("base64") => {
            let text = object.get("base64").and_then(Json::as_str);
            let bytes = text.and_then(|text| BASE64.decode(text).ok());
            Value::Binary(bytes.ok_or_else(|| Refusal::invalid("base64: expected base64 text"))?)
        }
        other => Value::Json(other.to_string()),
    })
}

fn rows(rows: Rows) -> Json {
    let cells = |row: Vec<SqlValue>| row.into_iter().map(cell).collect::<Json>();
    json!({ "columns": rows.columns, "rows": rows.rows.into_iter().map(cells).collect::<Json>() })
}

fn cell(value: SqlValue) -> Json {
    match value {
        SqlValue::Null => Json::Null,
        SqlValue::Boolean(flag) => flag.into(),
        SqlValue::Int64(number) | SqlValue::TimestampMs(number) => number.into(),
        SqlValue::Uint64(number) => number.into(),
        SqlValue::Float64(number) => number.into(),
        SqlValue::Text(text) => text.into(),
        SqlValue::Binary(bytes) => json!({ "base64": BASE64.encode(bytes) }),
        SqlValue::Json(text) => serde_json::from_str(&text).unwrap_or(Json::String(text)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::imports::sql;

    #[test]
    fn values_of_statements_survive() {
        for json in [
            json!(null),
            json!(true),
            json!(-5),
            json!(u64::MAX),
            json!(0.5),
            json!("é"),
            json!({"base64": "/w=="}),
            json!({"a": [1]}),
        ] {
            let Ok(value) = value(json.clone()) else { panic!("{json}") };
            assert_eq!(cell(sql::value_in(value)), json);
        }
        assert!(value(json!({"base64": "*"})).is_err());
    }
}
