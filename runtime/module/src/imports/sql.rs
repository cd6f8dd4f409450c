//! `tidegate:storage/sql`: statements with typed parameters on a SQL connector.

use tidegate_event::{Rows, SqlValue};

use crate::bindings::tidegate::storage::sql::{Host, Rows as GuestRows};
use crate::bindings::tidegate::storage::types::{Error, Value};
use crate::state::State;

pub(super) fn value_in(value: Value) -> SqlValue {
    match value {
        Value::Null => SqlValue::Null,
        Value::Boolean(value) => SqlValue::Boolean(value),
        Value::Int64(value) => SqlValue::Int64(value),
        Value::Uint64(value) => SqlValue::Uint64(value),
        Value::Float64(value) => SqlValue::Float64(value),
        Value::Text(value) => SqlValue::Text(value),
        Value::Binary(value) => SqlValue::Binary(value),
        Value::Json(value) => SqlValue::Json(value),
        Value::TimestampMs(value) => SqlValue::TimestampMs(value),
    }
}

fn value_out(value: SqlValue) -> Value {
    match value {
        SqlValue::Null => Value::Null,
        SqlValue::Boolean(value) => Value::Boolean(value),
        SqlValue::Int64(value) => Value::Int64(value),
        SqlValue::Uint64(value) => Value::Uint64(value),
        SqlValue::Float64(value) => Value::Float64(value),
        SqlValue::Text(value) => Value::Text(value),
        SqlValue::Binary(value) => Value::Binary(value),
        SqlValue::Json(value) => Value::Json(value),
        SqlValue::TimestampMs(value) => Value::TimestampMs(value),
    }
}

fn rows_out(rows: Rows) -> GuestRows {
    let rows_of_values = rows.rows.into_iter().map(|row| row.into_iter().map(value_out).collect()).collect();
    GuestRows { columns: rows.columns, rows: rows_of_values }
}

impl State {
    /// Runs a query and gives its rows.
    pub(super) async fn query_rows(
        &mut self,
        connector: &str,
        statement: &str,
        params: Vec<Value>,
    ) -> Result<Rows, Error> {
        self.count_storage_op()?;
        let shared = self.shared.clone();
        let connector = shared.grants.resolve(connector)?;
        let params = params.into_iter().map(value_in).collect();
        Ok(shared.services.storage.query(&shared.tenant, connector, statement, params).await?)
    }

    /// Runs a statement once per list of parameters and gives the number of rows changed.
    pub(super) async fn run_exec(
        &mut self,
        connector: &str,
        statement: &str,
        params: Vec<Vec<Value>>,
    ) -> Result<u64, Error> {
        self.count_storage_op()?;
        let shared = self.shared.clone();
        let connector = shared.grants.resolve(connector)?;
        let params = params.into_iter().map(|row| row.into_iter().map(value_in).collect()).collect();
        Ok(shared.services.storage.exec(&shared.tenant, connector, statement, params).await?)
    }
}

impl Host for State {
    async fn query(
        &mut self,
        connector: String,
        statement: String,
        params: Vec<Value>,
    ) -> wasmtime::Result<Result<GuestRows, Error>> {
        Ok(self.query_rows(&connector, &statement, params).await.map(rows_out))
    }

    async fn exec(
        &mut self,
        connector: String,
        statement: String,
        params: Vec<Value>,
    ) -> wasmtime::Result<Result<u64, Error>> {
        Ok(self.run_exec(&connector, &statement, vec![params]).await)
    }

    async fn exec_batch(
        &mut self,
        connector: String,
        statement: String,
        params: Vec<Vec<Value>>,
    ) -> wasmtime::Result<Result<u64, Error>> {
        Ok(self.run_exec(&connector, &statement, params).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_round_trip() {
        for value in [
            SqlValue::Null,
            SqlValue::Boolean(true),
            SqlValue::Int64(i64::MIN),
            SqlValue::Uint64(u64::MAX),
            SqlValue::Float64(0.5),
            SqlValue::Text("é".into()),
            SqlValue::Binary(vec![0, 255]),
            SqlValue::Json("{}".into()),
            SqlValue::TimestampMs(1),
        ] {
            assert_eq!(value_in(value_out(value.clone())), value);
        }
    }
}
