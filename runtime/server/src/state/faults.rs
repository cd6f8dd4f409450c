//! The embedded state on a disk that fails: what was acknowledged stays, what was refused does not come back.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

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

async fn numbers(space: &dyn BufferSpace) -> Vec<u64> {
    space.read("a", 0, 100, usize::MAX).await.unwrap().into_iter().map(|stored| stored.number).collect()
}

fn records(count: usize) -> Vec<Bytes> {
    vec![Bytes::from_static(b"record"); count]
}

/// Each read that hung kept a thread, until none was left for others: nobody's password could be checked.
#[test]
fn reads_that_hang_leave_threads_for_others() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(disk::READERS + 1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (state, mine) = (open(dir.path(), 1_000), space("m", "b"));
        set(&state, &mine, "a", b"1").await.unwrap();
        let hangs = Arc::new(AtomicBool::new(true));
        let reads: Vec<_> = (0..10 * disk::READERS)
            .map(|_| {
                let (state, hangs) = (state.clone(), hangs.clone());
                let hang = move |_: &Database| {
                    while hangs.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Ok(())
                };
                tokio::spawn(async move { state.read(hang).await })
            })
            .collect();
        let buffers = state.buffers(1_000).unwrap();
        let extent = tokio::spawn(async move { buffers.extent("a").await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let others = tokio::time::timeout(Duration::from_secs(5), tokio::task::spawn_blocking(|| 7)).await;
        let is_waiting = !extent.is_finished();
        hangs.store(false, Ordering::Relaxed);
        assert!(matches!(others, Ok(Ok(7))), "{others:?}");
        assert!(is_waiting, "buffers share the threads");
        for read in reads {
            read.await.unwrap().unwrap();
        }
        extent.await.unwrap().unwrap();
        assert_eq!(get(&state, &mine, "a").await, Some(b"1".to_vec()));
    });
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
async fn a_tree_that_has_lost_its_pointer_is_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (state, mine) = (open(dir.path(), 1_000), space("m", "b"));
    set(&state, &mine, "a", b"1").await.unwrap();
    let flushed = state
        .disk
        .read(|database| guarded(|| database.pairs.rotate_memtable_and_wait()).map_err(unavailable));
    flushed.unwrap();
    close(state).await;
    let trees = dir.path().join("state/keyspaces");
    let kept = dir.path().join("kept");
    let mut refused = 0;
    for entry in fs::read_dir(&trees).unwrap() {
        let tree = entry.unwrap().path();
        let is_empty = fs::read_dir(tree.join("tables")).unwrap().next().is_none();
        if is_empty {
            continue;
        }
        fs::rename(tree.join("current"), &kept).unwrap();
        let said = State::open(&dir.path().join("state"), 1_000).unwrap_err().to_string();
        assert!(said.contains("current is missing"), "{said}");
        fs::rename(&kept, tree.join("current")).unwrap();
        refused += 1;
    }
    assert_eq!(refused, 2, "the first one, and that of pairs");
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

#[tokio::test]
async fn a_database_whose_maker_was_killed_before_its_first_tree_was_whole_is_used() {
    // Each moment between the marker, which comes first, and the pointer of the first tree.
    let (whole, mine) = (tempfile::tempdir().unwrap(), space("m", "b"));
    let state = open(whole.path(), 1_000);
    set(&state, &mine, "a", b"1").await.unwrap();
    close(state).await;
    for step in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = path.join("keyspaces/0");
        fs::create_dir_all(path.join("keyspaces")).unwrap();
        fs::write(path.join("lock"), b"").unwrap();
        fs::File::create(path.join("0.jnl")).unwrap().set_len(1 << 20).unwrap();
        fs::copy(whole.path().join("state/version"), path.join("version")).unwrap();
        if step > 0 {
            fs::create_dir(&first).unwrap();
        }
        if step > 1 {
            fs::create_dir(first.join("tables")).unwrap();
        }
        if step > 2 {
            fs::write(first.join("v0"), &b"a part of it"[..4 * (step - 2)]).unwrap();
        }
        let state = open(dir.path(), 1_000);
        assert_eq!(get(&state, &mine, "a").await, None, "{step}");
        set(&state, &mine, "a", b"1").await.unwrap();
        close(state).await;
        assert_eq!(get(&open(dir.path(), 1_000), &mine, "a").await, Some(b"1".to_vec()), "{step}");
    }
}

#[tokio::test]
async fn a_database_with_a_journal_and_without_its_first_tree_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (state, mine) = (open(dir.path(), 1_000), space("m", "b"));
    set(&state, &mine, "a", b"1").await.unwrap();
    close(state).await;
    let (trees, kept) = (dir.path().join("state/keyspaces"), dir.path().join("kept"));
    fs::rename(&trees, &kept).unwrap();
    for with_first in [false, true] {
        fs::create_dir_all(if with_first { trees.join("0/tables") } else { trees.clone() }).unwrap();
        let refused = State::open(&dir.path().join("state"), 1_000).unwrap_err().to_string();
        assert!(refused.contains("0/current is missing"), "{refused}");
    }
    fs::remove_dir_all(&trees).unwrap();
    fs::rename(&kept, &trees).unwrap();
    assert_eq!(get(&open(dir.path(), 1_000), &mine, "a").await, Some(b"1".to_vec()));
}

#[tokio::test]
async fn a_change_that_failed_is_not_found_later() {
    let dir = tempfile::tempdir().unwrap();
    let (state, mine) = (open(dir.path(), 1_000), space("m", "b"));
    let buffers = state.buffers(1 << 20).unwrap();
    buffers.append("a", records(2)).await.unwrap();
    state.increment(&mine, "n".into(), 1).await.unwrap();
    let fails = |fails| state.disk.fails.store(fails, Ordering::Relaxed);
    // On disk each time, and nobody was told so.
    fails(true);
    buffers.append("a", records(3)).await.unwrap_err();
    assert_eq!(numbers(&*buffers).await, [1, 2]);
    tokio::time::sleep(REST).await;
    buffers.remove("a", vec![1, 2], Some(2)).await.unwrap_err();
    assert_eq!(numbers(&*buffers).await, [1, 2]);
    tokio::time::sleep(REST).await;
    state.increment(&mine, "n".into(), 1).await.unwrap_err();
    fails(false);
    tokio::time::sleep(REST).await;
    assert_eq!(state.increment(&mine, "n".into(), 1).await.unwrap(), 2);
    assert_eq!(buffers.append("a", records(1)).await.unwrap(), 3);
    assert_eq!(numbers(&*buffers).await, [1, 2, 3]);
    // Not after a restart either.
    drop(buffers);
    close(state).await;
    let state = open(dir.path(), 1_000);
    let buffers = state.buffers(1 << 20).unwrap();
    assert_eq!(numbers(&*buffers).await, [1, 2, 3]);
    assert_eq!(buffers.extent("a").await.unwrap().held.records, 3);
    assert_eq!(get(&state, &mine, "n").await, Some(b"2".to_vec()));
}

#[tokio::test]
async fn who_only_reads_does_not_wait_for_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let (state, mine) = (open(dir.path(), 1_000), space("m", "b"));
    let buffers = state.buffers(1 << 20).unwrap();
    set(&state, &mine, "a", b"1").await.unwrap();
    buffers.append("a", records(1)).await.unwrap();
    break_marker(dir.path());
    state.disk.fails.store(true, Ordering::Relaxed);
    buffers.append("a", records(1)).await.unwrap_err();
    // Neither written nor opened again.
    assert!(state.get(&mine, vec!["a".into()]).await.is_err());
    tokio::time::sleep(REST).await;
    assert!(state.get(&mine, vec!["a".into()]).await.is_err());
    mend_marker(dir.path());
    assert!(state.get(&mine, vec!["a".into()]).await.is_err(), "not tried at every read");
    tokio::time::sleep(REST).await;
    assert_eq!(get(&state, &mine, "a").await, Some(b"1".to_vec()));
    assert_eq!(numbers(&*buffers).await, [1], "what failed before is not found");
}
