//! Statements over many rows: the same text with as many value lists as there are rows, in a few fixed sizes so that
//! every size is prepared once and then found in the connection's cache.

use std::sync::OnceLock;

use sqlx::SqliteConnection;

use super::value::Params;
use crate::backend::BackendError;
use crate::sqlite::Failure;

/// Rows of the prepared sizes, largest first. 256 rows of 8 values are far below SQLite's 32,766 parameters, and
/// larger statements were not faster.
const SIZES: [usize; 5] = [256, 64, 16, 4, 1];

/// A statement whose middle is repeated for every row.
pub(super) struct RowStatement {
    before: &'static str,
    row: &'static str,
    after: &'static str,
    parameters: usize,
    texts: [OnceLock<String>; SIZES.len()],
}

impl RowStatement {
    /// `before row, row, ... after`, with `parameters` values a row.
    pub(super) const fn new(
        before: &'static str,
        row: &'static str,
        after: &'static str,
        parameters: usize,
    ) -> Self {
        Self { before, row, after, parameters, texts: [const { OnceLock::new() }; SIZES.len()] }
    }

    fn text(&'static self, size: usize, text: &'static OnceLock<String>) -> &'static str {
        text.get_or_init(|| {
            let rows = vec![self.row; size].join(",");
            format!("{}{rows}{}", self.before, self.after)
        })
    }

    /// Runs it for all `rows`, in order; `bind` binds the values of one.
    pub(super) async fn run<T>(
        &'static self,
        connection: &mut SqliteConnection,
        mut rows: &[T],
        mut bind: impl FnMut(&mut Params, &T),
    ) -> Result<(), Failure> {
        for (size, text) in SIZES.into_iter().zip(&self.texts) {
            while let Some((now, later)) = rows.split_at_checked(size) {
                let mut params = Params::with_capacity(size * self.parameters);
                now.iter().for_each(|row| bind(&mut params, row));
                let params = params.finish().map_err(Failure::Ours)?;
                sqlx::query_with(self.text(size, text), params).execute(&mut *connection).await?;
                rows = later;
            }
        }
        Ok(())
    }
}

/// Runs one statement with parameters.
pub(super) async fn run_one(
    connection: &mut SqliteConnection,
    text: &'static str,
    bind: impl FnOnce(&mut Params),
) -> Result<(), Failure> {
    let mut params = Params::default();
    bind(&mut params);
    let params = params.finish().map_err(Failure::Ours)?;
    sqlx::query_with(text, params).execute(connection).await?;
    Ok(())
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        Self::Ours(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_rows_is_made_of_the_sizes() {
        assert_eq!(SIZES.last(), Some(&1));
        assert!(SIZES.is_sorted_by(|a, b| a > b));
    }

    #[test]
    fn the_row_is_repeated() {
        static STATEMENT: RowStatement =
            RowStatement::new("insert into t values ", "(?,?)", " on conflict do nothing", 2);
        static TEXT: OnceLock<String> = OnceLock::new();
        assert_eq!(STATEMENT.text(2, &TEXT), "insert into t values (?,?),(?,?) on conflict do nothing");
    }
}
