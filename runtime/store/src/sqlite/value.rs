//! Values between Rust and SQLite.

use std::sync::Arc;

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, Row as _, TypeInfo as _, ValueRef as _};
use tidegate_event::{MsgId, SqlValue};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::backend::BackendError;
use crate::statement::Bound;

/// Parameters of a statement, in order. Binding cannot fail for the types used here; should the driver think
/// otherwise, the statement is refused.
#[derive(Default)]
pub(super) struct Params {
    inner: SqliteArguments,
    failure: Option<String>,
}

impl Params {
    pub(super) fn with_capacity(parameters: usize) -> Self {
        let mut params = Self::default();
        params.inner.reserve(parameters, 0);
        params
    }

    fn add<'t, T: sqlx::Encode<'t, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>>(&mut self, value: T) {
        if let Err(error) = self.inner.add(value) {
            self.failure.get_or_insert(error.to_string());
        }
    }

    pub(super) fn null(&mut self) {
        self.add(None::<i64>);
    }

    pub(super) fn integer(&mut self, value: i64) {
        self.add(value);
    }

    pub(super) fn text(&mut self, value: impl Into<Arc<str>>) {
        self.add(value.into());
    }

    pub(super) fn optional_text(&mut self, value: Option<&str>) {
        match value {
            Some(text) => self.text(text),
            None => self.null(),
        }
    }

    /// Text where it is text, a blob where it is not: both compare and print as one expects.
    pub(super) fn payload(&mut self, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) if !bytes.contains(&0) => self.text(text),
            _ => self.add(bytes.to_vec()),
        }
    }

    pub(super) fn msgid(&mut self, id: MsgId) {
        let mut digits = [0_u8; 32];
        for (index, digit) in digits.iter_mut().enumerate() {
            let nibble = (id.bits() >> (4 * (31 - index))) & 0xf;
            *digit = b"0123456789ABCDEF".get(nibble as usize).copied().unwrap_or(b'0');
        }
        self.text(std::str::from_utf8(&digits).unwrap_or_default());
    }

    pub(super) fn bound(&mut self, value: &Bound) {
        match value {
            Bound::Null => self.null(),
            Bound::Integer(number) => self.integer(*number),
            Bound::Text(text) => self.text(Arc::clone(text)),
            Bound::Bytes(bytes) => self.payload(bytes),
        }
    }

    fn sql(&mut self, value: SqlValue) {
        match value {
            SqlValue::Null => self.null(),
            SqlValue::Boolean(flag) => self.integer(flag.into()),
            SqlValue::Int64(number) => self.integer(number),
            SqlValue::Uint64(number) => match i64::try_from(number) {
                Ok(number) => self.integer(number),
                Err(_) => {
                    self.failure.get_or_insert(format!("{number} is greater than SQLite's largest integer"));
                }
            },
            SqlValue::Float64(number) => self.add(number),
            SqlValue::Text(text) | SqlValue::Json(text) => self.add(text),
            SqlValue::Binary(bytes) => self.add(bytes),
            SqlValue::TimestampMs(ms) => self.text(datetime(ms)),
        }
    }

    /// The parameters of a direct statement.
    pub(super) fn of(values: Vec<SqlValue>) -> Self {
        let mut params = Self::with_capacity(values.len());
        values.into_iter().for_each(|value| params.sql(value));
        params
    }

    /// The driver's form.
    pub(super) fn finish(self) -> Result<SqliteArguments, BackendError> {
        match self.failure {
            None => Ok(self.inner),
            Some(message) => Err(BackendError::Invalid(message)),
        }
    }
}

/// Shares the memory of equal texts that follow each other: rows of a batch often have one topic or sender.
#[derive(Default)]
pub(super) struct LastText(Option<Arc<str>>);

impl LastText {
    pub(super) fn get(&mut self, text: &str) -> Arc<str> {
        match &self.0 {
            Some(last) if **last == *text => Arc::clone(last),
            _ => Arc::clone(self.0.insert(Arc::from(text))),
        }
    }
}

/// `YYYY-MM-DD HH:MM:SS` of times that mostly fall into the same second.
#[derive(Default)]
pub(super) struct LastTime(Option<(u64, Arc<str>)>);

impl LastTime {
    pub(super) fn get(&mut self, ms: u64) -> Arc<str> {
        let second = ms / 1_000;
        match &self.0 {
            Some((last, text)) if *last == second => Arc::clone(text),
            _ => {
                let text: Arc<str> = datetime(i64::try_from(second * 1_000).unwrap_or(i64::MAX)).into();
                self.0 = Some((second, Arc::clone(&text)));
                text
            }
        }
    }
}

/// UTC text of milliseconds since the epoch, with the fraction only when there is one.
pub(super) fn datetime(ms: i64) -> String {
    let nanos = i128::from(ms) * 1_000_000;
    let moment = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let text = if ms.rem_euclid(1_000) == 0 {
        moment.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"))
    } else {
        moment
            .format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]"))
    };
    text.unwrap_or_default()
}

/// Milliseconds since the epoch of `YYYY-MM-DD HH:MM:SS`; 0 for anything else.
pub(super) fn parse_datetime(text: &str) -> u64 {
    let whole = text.get(..19).unwrap_or_default();
    time::PrimitiveDateTime::parse(
        whole,
        format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"),
    )
    .ok()
    .and_then(|moment| u64::try_from(moment.assume_utc().unix_timestamp()).ok())
    .map_or(0, |seconds| seconds * 1_000)
}

/// A column's value by its storage class.
pub(super) fn column(row: &SqliteRow, index: usize) -> Result<SqlValue, sqlx::Error> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(SqlValue::Null);
    }
    let class = raw.type_info();
    Ok(match class.name() {
        "INTEGER" | "BOOLEAN" => SqlValue::Int64(row.try_get_unchecked(index)?),
        "REAL" => SqlValue::Float64(row.try_get_unchecked(index)?),
        "TEXT" => match row.try_get_unchecked::<String, _>(index) {
            Ok(text) => SqlValue::Text(text),
            // Text that was stored as something else than UTF-8.
            Err(_) => SqlValue::Binary(row.try_get_unchecked(index)?),
        },
        _ => SqlValue::Binary(row.try_get_unchecked(index)?),
    })
}

/// Bytes a value takes in a result.
pub(super) fn size(value: &SqlValue) -> usize {
    match value {
        SqlValue::Text(text) | SqlValue::Json(text) => 24 + text.len(),
        SqlValue::Binary(bytes) => 24 + bytes.len(),
        _ => 24,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_as_the_documents_print_them() {
        assert_eq!(datetime(1_479_202_840_000), "2016-11-15 09:40:40");
        assert_eq!(datetime(1_479_202_840_123), "2016-11-15 09:40:40.123");
        assert_eq!(parse_datetime("2016-11-15 09:40:40"), 1_479_202_840_000);
        assert_eq!(parse_datetime("yesterday"), 0);
        assert!(datetime(i64::MAX).starts_with("1970-01-01"), "the calendar has no year 292,278,994");
        assert_eq!(LastTime::default().get(1_479_202_840_999).as_ref(), "2016-11-15 09:40:40");
    }

    #[test]
    fn equal_texts_in_a_row_share_memory() {
        let mut last = LastText::default();
        let (a, b, c) = (last.get("t"), last.get("t"), last.get("u"));
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&b, &c));
    }
}
