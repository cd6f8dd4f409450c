//! The `sqlite3` command: reads (and prepares) databases without any code of ours.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Runs a statement; gives one `Vec` of columns a row, `NULL` for null.
pub fn query(database: &Path, statement: &str) -> Vec<Vec<String>> {
    let output = Command::new("sqlite3")
        .args(["-batch", "-noheader", "-nullvalue", "NULL", "-separator", "\u{1f}", "-cmd", ".timeout 10000"])
        .arg(database)
        .arg(statement)
        .output()
        .expect("sqlite3 must be installed (`cargo xtask test` does it)");
    assert!(
        output.status.success(),
        "sqlite3 refused {statement:?} on {}: {}",
        database.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.split('\u{1f}').map(str::to_owned).collect())
        .collect()
}

/// The first column of every row.
pub fn column(database: &Path, statement: &str) -> Vec<String> {
    query(database, statement).into_iter().map(|row| row.into_iter().next().unwrap_or_default()).collect()
}

/// The number that `statement` counts.
pub fn count(database: &Path, statement: &str) -> usize {
    column(database, statement).first().and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// Waits until `statement` gives exactly `rows`, and shows what it gave instead when it never does.
pub fn expect_rows(database: &Path, statement: &str, rows: &[&[&str]]) {
    let start = std::time::Instant::now();
    loop {
        let found = if database.exists() { query(database, statement) } else { Vec::new() };
        if found == rows {
            return;
        }
        assert!(
            start.elapsed() < crate::wait::PATIENCE,
            "{statement}\n  gave     {found:?}\n  expected {rows:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Another process that holds the database's write lock until [`release`](Self::release).
pub struct Lock {
    child: Child,
    input: Option<ChildStdin>,
}

impl Lock {
    /// Takes the lock with `BEGIN EXCLUSIVE`; returns when it is held.
    pub fn take(database: &Path) -> Self {
        use std::io::{BufRead as _, BufReader};
        let mut child = Command::new("stdbuf")
            .args(["-oL", "sqlite3", "-batch"])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("stdbuf and sqlite3 must be installed");
        let mut input = child.stdin.take().expect("stdin is piped");
        input.write_all(b".timeout 20000\nBEGIN EXCLUSIVE;\nSELECT 'locked';\n").unwrap();
        input.flush().unwrap();
        // `.timeout` answers on some versions; the lock is held when `locked` is printed.
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        assert!(
            lines.any(|line| line.is_ok_and(|line| line.contains("locked"))),
            "sqlite3 could not take the lock"
        );
        Self { child, input: Some(input) }
    }

    /// Gives the lock back.
    pub fn release(mut self) {
        if let Some(mut input) = self.input.take() {
            input.write_all(b"COMMIT;\n.quit\n").unwrap();
        }
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.input.take().is_some() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
