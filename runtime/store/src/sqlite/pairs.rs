//! Key-value pairs of guests: the table `mqtt_kv`.

use std::collections::HashMap;

use futures_util::TryStreamExt as _;
use sqlx::{Row as _, SqliteConnection};
use tidegate_event::key_value::add;
use tidegate_event::{BoxFuture, StorageError, Swap};

use super::connection::Connection;
use super::rows::run_one;
use super::value::Params;
use super::{Failure, Sqlite};
use crate::backend::BackendError;
use crate::pairs::{Call, Pairs, Reply};

/// One statement, so that all values are of one time.
const GET: &str = "SELECT k, v FROM mqtt_kv WHERE k IN (SELECT value FROM json_each(?1))";
const SET: &str = "INSERT INTO mqtt_kv (k, v) VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET v = excluded.v";
const DELETE: &str = "DELETE FROM mqtt_kv WHERE k IN (SELECT value FROM json_each(?1))";
const EXISTS: &str = "SELECT 1 FROM mqtt_kv WHERE k = ?1";
const KEYS: &str = "SELECT k FROM mqtt_kv WHERE k > ?1 ORDER BY k LIMIT ?2";

fn list(keys: &[String]) -> Params {
    let mut params = Params::default();
    params.text(serde_json::Value::from(keys).to_string());
    params
}

async fn get(
    connection: &mut SqliteConnection,
    keys: &[String],
    max_bytes: usize,
) -> Result<Vec<Option<Vec<u8>>>, Failure> {
    let mut found: HashMap<String, Vec<u8>> = HashMap::new();
    let mut bytes = 0;
    let mut rows = sqlx::query_with(GET, list(keys).finish()?).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let value: Vec<u8> = row.try_get_unchecked(1)?;
        bytes += value.len();
        if bytes > max_bytes {
            return Err(Failure::Ours(BackendError::TooLarge(max_bytes)));
        }
        found.insert(row.try_get_unchecked(0)?, value);
    }
    Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
}

async fn set(connection: &mut SqliteConnection, key: String, value: &[u8]) -> Result<(), Failure> {
    let bind = |params: &mut Params| {
        params.text(key);
        params.payload(value);
    };
    run_one(connection, SET, bind).await
}

async fn keys(
    connection: &mut SqliteConnection,
    after: String,
    limit: usize,
) -> Result<Vec<String>, Failure> {
    let mut params = Params::default();
    params.text(after);
    params.integer(i64::try_from(limit).unwrap_or(i64::MAX));
    let rows = sqlx::query_with(KEYS, params.finish()?).fetch_all(connection).await?;
    Ok(rows.iter().map(|row| row.try_get_unchecked(0)).collect::<Result<_, sqlx::Error>>()?)
}

async fn exists(connection: &mut SqliteConnection, key: String) -> Result<bool, Failure> {
    let mut params = Params::default();
    params.text(key);
    Ok(sqlx::query_with(EXISTS, params.finish()?).fetch_optional(connection).await?.is_some())
}

/// The value of one key, for a transaction that goes on to change it.
async fn current(connection: &mut SqliteConnection, key: &String) -> Result<Option<Vec<u8>>, Failure> {
    Ok(get(connection, std::slice::from_ref(key), usize::MAX).await?.pop().flatten())
}

async fn answer(connection: &mut SqliteConnection, call: Call, max_bytes: usize) -> Result<Reply, Failure> {
    match call {
        Call::Get(wanted) => get(connection, &wanted, max_bytes).await.map(Reply::Values),
        Call::Exists(key) => exists(connection, key).await.map(Reply::Exists),
        Call::Keys { after, limit } => keys(connection, after, limit).await.map(Reply::Keys),
        Call::Set(pairs) => {
            for (key, value) in pairs {
                set(connection, key, &value).await?;
            }
            Ok(Reply::Done)
        }
        Call::Delete(keys) => {
            sqlx::query_with(DELETE, list(&keys).finish()?).execute(connection).await?;
            Ok(Reply::Done)
        }
        Call::Increment { key, delta } => {
            let sum = add(current(connection, &key).await?.as_deref(), delta).map_err(|error| {
                let message = match error {
                    StorageError::InvalidArgument(message) => message,
                    other => other.to_string(),
                };
                Failure::Ours(BackendError::Invalid(message))
            })?;
            set(connection, key, sum.to_string().as_bytes()).await?;
            Ok(Reply::Sum(sum))
        }
        Call::Swap { key, expected, value } => {
            let now = current(connection, &key).await?;
            if now != expected {
                return Ok(Reply::Swap(Swap::Differs(now)));
            }
            set(connection, key, &value).await?;
            Ok(Reply::Swap(Swap::Done))
        }
    }
}

impl Pairs for Sqlite {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, BackendError>> {
        Box::pin(async move {
            let max_bytes = self.limits.max_result_bytes;
            if matches!(call, Call::Get(_) | Call::Exists(_) | Call::Keys { .. }) {
                let read = self.reading(async |connection| answer(connection, call, max_bytes).await);
                return read.await.map_err(|failure| self.error(failure));
            }
            let write = async |connection: &mut Connection| {
                connection.limit(Some(self.limits.statement_timeout));
                answer(&mut connection.inner, call, max_bytes).await
            };
            self.transaction(write).await
        })
    }
}
