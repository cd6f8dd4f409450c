//! Empty copies of the databases: custom statements are prepared and modules started on them, and the databases
//! themselves are not touched.

use std::path::Path;
use std::sync::Arc;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection};
use tidegate_event::Node;
use tidegate_store::config::{Diagnostic, LineAction, OptionValue, PoolConfig, StoreConfig};
use tidegate_store::{StoreOptions, Stores};

/// The back end whose statements can be checked without its server.
const SQLITE: &str = "sqlite";

/// Stores on copies of the databases of `config` without their rows, made in `scratch`, and what the databases say
/// about the statements of hook lines. Modules start on the copies: their `init` may well make a table.
///
/// # Errors
/// Not even the copies can be opened.
pub(super) async fn open(
    config: &StoreConfig,
    scratch: &Path,
) -> Result<(Arc<Stores>, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut config = config.clone();
    config.pools.retain(|pool| pool.kind.name == SQLITE);
    config.hooks.retain(|line| line.kind.name == SQLITE && matches!(line.action, LineAction::Statements(_)));
    let mut findings: Vec<Diagnostic> = config.pools.iter().filter_map(misplaced).collect();
    for (number, pool) in config.pools.iter_mut().enumerate() {
        let copy = scratch.join(format!("{number}.db"));
        if let Some(path) = pool.text("path")
            && let Err(error) = copy_tables(Path::new(path), &copy).await
        {
            findings.push(pool.place.error(format!("{path} cannot be read: {error}")));
        }
        pool.options.insert("path", OptionValue::Text(copy.display().to_string()));
    }
    let node = Arc::new(Node::default());
    let options = StoreOptions { data_dir: scratch.to_path_buf(), ..StoreOptions::default() };
    match Stores::open(&config, node.clone(), options.clone()).await {
        Ok(stores) => Ok((stores, findings)),
        Err(refused) => {
            findings.extend(refused);
            // A wrong statement is no reason to find fault with the modules as well.
            config.hooks.clear();
            match Stores::open(&config, node, options).await {
                Ok(stores) => Ok((stores, findings)),
                Err(_) => Err(findings),
            }
        }
    }
}

/// A database below something that is no directory can never be made.
fn misplaced(pool: &PoolConfig) -> Option<Diagnostic> {
    let path = Path::new(pool.text("path")?);
    let nearest = path.ancestors().skip(1).find(|ancestor| ancestor.exists())?;
    let message = || format!("path: {} is no directory", nearest.display());
    (!nearest.is_dir()).then(|| pool.place.error(message()))
}

/// Makes `copy` with the tables of the database at `path`, without their rows. No database, no tables.
async fn copy_tables(path: &Path, copy: &Path) -> sqlx::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mut journal = path.as_os_str().to_owned();
    journal.push("-wal");
    // Without a write-ahead log nobody writes now: immutable keeps SQLite from making one just to read.
    let immutable = !Path::new(&journal).exists();
    let source = SqliteConnectOptions::new().filename(path).read_only(true).immutable(immutable);
    let mut source = source.connect().await?;
    let tables: Vec<(String,)> = sqlx::query_as(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid",
    )
    .fetch_all(&mut source)
    .await?;
    source.close().await?;
    let mut target: SqliteConnection =
        SqliteConnectOptions::new().filename(copy).create_if_missing(true).connect().await?;
    for (definition,) in tables {
        sqlx::raw_sql(AssertSqlSafe(definition)).execute(&mut target).await?;
    }
    target.close().await
}
