//! The embedded state on a disk that fails: what was acknowledged stays, what was refused does not come back.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::tests::{close, get, open, set, space};
use super::*;

/// Longer than nothing is tried after a failure.
const REST: Duration = Duration::from_millis(1_100);

/// Lets every look at the database's marker fail until it is mended.
fn break_marker(dir: &Path) {
    let marker = dir.join("state/version");
    fs::rename(&marker, dir.join("kept")).unwrap();
    symlink(&marker, &marker).unwrap();
}

fn mend_marker(dir: &Path) {
    fs::rename(dir.join("kept"), dir.join("state/version")).unwrap();
}

#[tokio::test]
async fn a_marker_that_cannot_be_looked_at_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (state, mine) = (open(dir.path(), 1_000), space("m", "b"));
    set(&state, &mine, "a", b"1").await.unwrap();
    close(state).await;
    break_marker(dir.path());
    let refused = State::open(&dir.path().join("state"), 1_000).unwrap_err().to_string();
    assert!(refused.contains("version"), "{refused}");
    mend_marker(dir.path());
    let state = open(dir.path(), 1_000);
    assert_eq!(get(&state, &mine, "a").await, Some(b"1".to_vec()));
    // The same when a write opens the files.
    break_marker(dir.path());
    state.disk.close();
    set(&state, &mine, "b", b"2").await.unwrap_err();
    mend_marker(dir.path());
    tokio::time::sleep(REST).await;
    set(&state, &mine, "b", b"2").await.unwrap();
    assert_eq!(get(&state, &mine, "a").await, Some(b"1".to_vec()));
}

#[tokio::test]
async fn a_database_that_has_lost_its_marker_is_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (state, mine) = (open(dir.path(), 1_000), space("m", "b"));
    set(&state, &mine, "a", b"1").await.unwrap();
    close(state).await;
    let marker = dir.path().join("state/version");
    let content = fs::read(&marker).unwrap();
    fs::write(&marker, b"").unwrap();
    State::open(&dir.path().join("state"), 1_000).unwrap_err();
    fs::remove_file(&marker).unwrap();
    let refuses = || {
        let refused = State::open(&dir.path().join("state"), 1_000).unwrap_err().to_string();
        assert!(refused.contains("is missing"), "{refused}");
    };
    refuses();
    // Whatever else is left of it.
    for file in ["0.jnl", "lock"] {
        fs::rename(dir.path().join("state").join(file), dir.path().join(file)).unwrap();
    }
    refuses();
    for file in ["0.jnl", "lock"] {
        fs::rename(dir.path().join(file), dir.path().join("state").join(file)).unwrap();
    }
    fs::write(&marker, content).unwrap();
    assert_eq!(get(&open(dir.path(), 1_000), &mine, "a").await, Some(b"1".to_vec()));
}

#[tokio::test]
async fn a_database_that_was_never_finished_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    fs::create_dir_all(path.join("keyspaces")).unwrap();
    fs::write(path.join("lock"), b"").unwrap();
    fs::File::create(path.join("0.jnl")).unwrap().set_len(64 << 20).unwrap();
    let (state, mine) = (open(dir.path(), 1_000), space("m", "b"));
    assert_eq!(get(&state, &mine, "a").await, None);
    set(&state, &mine, "a", b"1").await.unwrap();
    assert_eq!(get(&state, &mine, "a").await, Some(b"1".to_vec()));
    assert!(dir.path().join("state.unfinished-1/0.jnl").exists());
}
