//! Statements with typed parameters on a SQL connector.
//!
//! Placeholders are the database's own: `?` for SQLite and MySQL, `$1` for PostgreSQL. Connectors are named
//! `kind:pool`. The calls return when the database has answered and need no event, so `init` may use them.
//!
//! ```no_run
//! use tidegate_sdk::{Result, params, sql};
//!
//! fn limit(device: &str) -> Result<f64> {
//!     let rows = sql::query(
//!         "sqlite:default",
//!         "SELECT celsius FROM alarm_limit WHERE device = ?",
//!         params![device],
//!     )?;
//!     Ok(rows.get(0, "celsius").and_then(|value| value.as_f64()).unwrap_or(100.0))
//! }
//! ```

use crate::StorageError;
use crate::bindings::imports::tidegate::storage::sql;

pub use crate::bindings::imports::tidegate::storage::types::Value;
pub use sql::Rows;

/// Runs a query and gives its rows.
///
/// # Errors
/// The connector is wrong or not granted, or what the database answered.
pub fn query(connector: &str, statement: &str, params: &[Value]) -> Result<Rows, StorageError> {
    sql::query(connector, statement, params)
}

/// Runs a statement and gives the number of rows it changed.
///
/// # Errors
/// The connector is wrong or not granted, or what the database answered.
pub fn exec(connector: &str, statement: &str, params: &[Value]) -> Result<u64, StorageError> {
    sql::exec(connector, statement, params)
}

/// Runs a statement once per list of parameters, in one transaction, and gives the number of rows changed.
///
/// # Errors
/// The connector is wrong or not granted, or what the database answered; then nothing has changed.
pub fn exec_batch(connector: &str, statement: &str, params: &[Vec<Value>]) -> Result<u64, StorageError> {
    sql::exec_batch(connector, statement, params)
}

/// Parameters of a statement: `params![device, 21.5, None::<i64>]`.
///
/// ```
/// use tidegate_sdk::{params, sql::Value};
///
/// assert_eq!(params!["d1", 7_u32, true][1], Value::Int64(7));
/// ```
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::sql::Value::from($value)),*] as &[$crate::sql::Value] };
}

impl Rows {
    /// The value in row `row` (from 0) of the column called `column`.
    pub fn get(&self, row: usize, column: &str) -> Option<&Value> {
        let index = self.columns.iter().position(|name| name == column)?;
        self.rows.get(row)?.get(index)
    }
}

impl Value {
    /// The number, when it is an integer that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int64(value) | Self::TimestampMs(value) => Some(*value),
            Self::Uint64(value) => i64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The number, when it is one; large integers lose digits.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float64(value) => Some(*value),
            Self::Int64(value) => Some(*value as f64),
            Self::Uint64(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// The text, when it is text or JSON.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Json(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes, when it is binary.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// `From` for the types that fit a case without loss.
macro_rules! from {
    ($($case:ident: $($type:ty),+;)+) => {$($(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$case(value.into())
            }
        }
    )+)+};
}

from! {
    Boolean: bool;
    Int64: i8, i16, i32, i64, u8, u16, u32;
    Uint64: u64;
    Float64: f32, f64;
    Text: &str, String;
    Binary: &[u8], Vec<u8>;
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_type() {
        let values = params![true, -1, u64::MAX, 0.5, "text", vec![0_u8], None::<i64>];
        assert_eq!(
            values,
            [
                Value::Boolean(true),
                Value::Int64(-1),
                Value::Uint64(u64::MAX),
                Value::Float64(0.5),
                Value::Text("text".into()),
                Value::Binary(vec![0]),
                Value::Null,
            ]
        );
    }

    #[test]
    fn a_cell_is_found_by_row_and_column() {
        let rows = Rows {
            columns: vec!["device".into(), "celsius".into()],
            rows: vec![vec!["d1".into(), 21.5.into()], vec!["d2".into(), 3.into()]],
        };
        assert_eq!(rows.get(1, "celsius").and_then(Value::as_f64), Some(3.0));
        assert_eq!(rows.get(0, "device").and_then(Value::as_str), Some("d1"));
        assert_eq!(rows.get(2, "device"), None);
        assert_eq!(rows.get(0, "humidity"), None);
        assert_eq!(Value::Uint64(u64::MAX).as_i64(), None);
    }
}
