//! The program `sqlite3`, as another process that reads and locks a database.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// What `sqlite3 FILE SQL` prints, columns separated by `|`.
pub(crate) fn cli(file: &Path, sql: &str) -> String {
    let output =
        Command::new("sqlite3").arg("-bail").arg(file).arg(sql).output().expect("sqlite3 is installed");
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Another process that holds the write lock.
pub(crate) struct Locker(Child, ChildStdin);

impl Locker {
    pub(crate) fn lock(file: &Path) -> Self {
        let mut child = Command::new("sqlite3")
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sqlite3 is installed");
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "BEGIN EXCLUSIVE;\nSELECT 'locked';").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "locked");
        Self(child, input)
    }

    pub(crate) fn unlock(mut self) {
        writeln!(self.1, "COMMIT;\n.quit").unwrap();
        drop(self.1);
        assert!(self.0.wait().unwrap().success());
    }
}
