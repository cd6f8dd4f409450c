//! `tidegate sql`: rows of an SQLite file, for the demo on a machine that has no `sqlite3`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tidegate_event::{Node, Rows, SqlValue, Storage as _, Tenant};
use tidegate_store::config::{PoolConfig, StoreConfig};
use tidegate_store::{StoreOptions, Stores};

/// Name of the pool that is made for the file.
const POOL: &str = "file";

/// Prints the rows of `statement`: a line each, columns apart by tabs, in a text by itself.
pub(crate) fn main(file: &Path, statement: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let rows =
        runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(query(file, statement)));
    match rows {
        Ok(rows) => {
            print!("{}", text(&rows));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn query(file: &Path, statement: &str) -> anyhow::Result<Rows> {
    if !file.is_file() {
        bail!("{}: no such file", file.display());
    }
    let pool = PoolConfig::sqlite(POOL, &file.display().to_string());
    let config = StoreConfig { pools: vec![pool], ..StoreConfig::default() };
    let node = Arc::new(Node::new("tidegate@127.0.0.1"));
    let stores = Stores::open(&config, node, StoreOptions::default()).await.map_err(|problems| {
        anyhow::Error::msg(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    let rows = stores.query(&Tenant::default(), &format!("sqlite:{POOL}"), statement, Vec::new()).await;
    stores.close(Duration::from_secs(5)).await.context("closing")?;
    rows.with_context(|| file.display().to_string())
}

fn text(rows: &Rows) -> String {
    let line = |row: &Vec<SqlValue>| row.iter().map(cell).collect::<Vec<_>>().join("\t") + "\n";
    rows.rows.iter().map(line).collect()
}

fn cell(value: &SqlValue) -> String {
    match value {
        SqlValue::Null => "NULL".into(),
        SqlValue::Boolean(value) => value.to_string(),
        SqlValue::Int64(value) | SqlValue::TimestampMs(value) => value.to_string(),
        SqlValue::Uint64(value) => value.to_string(),
        SqlValue::Float64(value) => value.to_string(),
        // A tab or an end of line in a value would look like the next column or row.
        SqlValue::Text(text) | SqlValue::Json(text) => text.replace(['\t', '\n', '\r'], " "),
        SqlValue::Binary(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn the_rows_of_a_file_are_lines() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.db");
        let missing = query(&file, "select 1").await.unwrap_err();
        assert!(missing.to_string().contains("no such file"));
        std::fs::write(&file, "").unwrap();
        let rows = query(&file, "select 1, 'a\tb', null, x'00ff', 1.5 union all select 2, '', 3, x'', 0")
            .await
            .unwrap();
        assert_eq!(text(&rows), "1\ta b\tNULL\t00ff\t1.5\n2\t\t3\t\t0\n");
        assert!(query(&file, "select nothing").await.is_err());
    }
}
