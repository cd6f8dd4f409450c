//! The embedded state: what it keeps, what it refuses, what it survives.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use tidegate_event::Tenant;

pub(super) fn space(module: &str, bucket: &str) -> Space {
    Space { tenant: Tenant::default(), module: module.into(), bucket: bucket.into() }
}

pub(super) fn open(dir: &Path, quota: u64) -> Arc<State> {
    State::open(&dir.join("state"), quota).unwrap()
}

pub(super) async fn set(state: &State, space: &Space, key: &str, value: &[u8]) -> Result<(), StorageError> {
    state.set(space, vec![(key.into(), value.into())]).await
}

pub(super) async fn get(state: &State, space: &Space, key: &str) -> Option<Vec<u8>> {
    state.get(space, vec![key.into()]).await.unwrap().pop().unwrap()
}

/// Closes the state. The thread lets the files go when it has seen that nobody sends any more.
pub(super) async fn close(state: Arc<State>) {
    let disk = state.disk.clone();
    drop(state);
    while Arc::strong_count(&disk) > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn nothing_is_made_before_the_first_change() {
    let dir = tempfile::tempdir().unwrap();
    let (state, mine) = (open(dir.path(), 1_000), space("m", "default"));
    assert_eq!(get(&state, &mine, "a").await, None);
    assert_eq!(state.exists(&mine, "a".into()).await, Ok(false));
    assert!(state.keys(&mine, None, 10).await.unwrap().is_empty());
    assert!(!dir.path().join("state").exists());
    set(&state, &mine, "a", b"1").await.unwrap();
    assert!(dir.path().join("state").exists());
}

#[tokio::test]
async fn pairs_are_kept_apart_by_module_and_bucket_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let spaces = [space("m", "default"), space("m", "other"), space("n", "default")];
    {
        let state = open(dir.path(), 1_000);
        for (number, space) in spaces.iter().enumerate() {
            set(&state, space, "k", number.to_string().as_bytes()).await.unwrap();
        }
        state.delete(&spaces[1], vec!["k".into(), "never".into()]).await.unwrap();
        close(state).await;
    }
    let state = open(dir.path(), 1_000);
    assert_eq!(get(&state, &spaces[0], "k").await, Some(b"0".to_vec()));
    assert_eq!(get(&state, &spaces[1], "k").await, None);
    assert_eq!(get(&state, &spaces[2], "k").await, Some(b"2".to_vec()));
    let other_tenant = Space { tenant: Tenant::new("acme"), ..spaces[0].clone() };
    assert_eq!(get(&state, &other_tenant, "k").await, None);
}

#[tokio::test]
async fn keys_come_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let (state, mine) = (open(dir.path(), 100_000), space("m", "b"));
    let pairs = (0..25).map(|n| (format!("k{n:02}"), vec![0; 3])).collect();
    state.set(&mine, pairs).await.unwrap();
    set(&state, &space("m", "c"), "z", b"").await.unwrap();
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let page = state.keys(&mine, after, 10).await.unwrap();
        let full = page.len() == 10;
        after = page.last().cloned();
        all.extend(page);
        if !full {
            break;
        }
    }
    assert_eq!(all, (0..25).map(|n| format!("k{n:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn increments_and_swaps_lose_nothing_to_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (state, mine) = (open(dir.path(), 100_000), space("m", "b"));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (state, mine) = (state.clone(), mine.clone());
        tasks.spawn(async move {
            for _ in 0..10 {
                state.increment(&mine, "n".into(), 2).await.unwrap();
                let mut expected = None;
                while let Swap::Differs(now) = {
                    let sum = expected.as_deref().map_or(1, |old: &[u8]| old.len() + 1);
                    state.swap(&mine, "s".into(), expected.clone(), vec![7; sum]).await.unwrap()
                } {
                    expected = now;
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(get(&state, &mine, "n").await, Some(b"640".to_vec()));
    assert_eq!(get(&state, &mine, "s").await.unwrap().len(), 320);
    set(&state, &mine, "x", b"no number").await.unwrap();
    assert!(matches!(
        state.increment(&mine, "x".into(), 1).await,
        Err(StorageError::InvalidArgument(text)) if text == "the value is no number"
    ));
}

#[tokio::test]
async fn the_quota_is_a_modules_own() {
    let dir = tempfile::tempdir().unwrap();
    let (state, mine) = (open(dir.path(), 1_000), space("m", "b"));
    set(&state, &mine, "a", &[0; 600]).await.unwrap();
    // All of a call or nothing.
    let both = vec![("b".into(), vec![0; 10]), ("c".into(), vec![0; 500])];
    let refused = state.set(&mine, both).await.unwrap_err();
    assert!(
        matches!(&refused, StorageError::QuotaExceeded(text) if text.contains("modules.max_state_bytes = 1000")),
        "{refused}"
    );
    assert_eq!(get(&state, &mine, "b").await, None);
    // Other modules have their own share; another bucket has not.
    set(&state, &space("n", "b"), "a", &[0; 600]).await.unwrap();
    assert!(set(&state, &space("m", "c"), "a", &[0; 600]).await.is_err());
    // What is replaced or deleted is free again.
    set(&state, &mine, "a", &[0; 900]).await.unwrap();
    state.delete(&mine, vec!["a".into()]).await.unwrap();
    set(&state, &mine, "c", &[0; 900]).await.unwrap();
}

#[tokio::test]
async fn what_is_too_long_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (state, mine) = (open(dir.path(), 1 << 30), space("m", "b"));
    set(&state, &mine, &"k".repeat(1 << 10), &vec![1; 1 << 20]).await.unwrap();
    assert!(matches!(set(&state, &mine, "", b"").await, Err(StorageError::InvalidArgument(_))));
    assert!(matches!(
        set(&state, &mine, "k", &vec![1; (1 << 20) + 1]).await,
        Err(StorageError::InvalidArgument(_))
    ));
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    for key in &keys {
        set(&state, &mine, key, &vec![1; 1 << 20]).await.unwrap();
    }
    assert!(matches!(state.get(&mine, keys).await, Err(StorageError::QuotaExceeded(_))));
}

#[test]
fn damaged_files_are_an_error_that_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("version"), b"no database").unwrap();
    let refused = State::open(&path, 1).unwrap_err().to_string();
    assert!(
        refused.starts_with(&path.display().to_string()) && refused.contains("move it away"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_disk_that_refuses_is_unavailable_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (state, mine) = (open(dir.path(), 1_000), space("m", "b"));
    // A file where the directory belongs.
    std::fs::write(dir.path().join("state"), b"").unwrap();
    let refused = set(&state, &mine, "a", b"1").await.unwrap_err();
    assert!(
        matches!(&refused, StorageError::Unavailable { connector, .. } if connector == "state"),
        "{refused}"
    );
    std::fs::remove_file(dir.path().join("state")).unwrap();
    // Refused at once while it rests, written when it tries again.
    assert!(set(&state, &mine, "a", b"1").await.is_err());
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    set(&state, &mine, "a", b"1").await.unwrap();
    assert_eq!(get(&state, &mine, "a").await, Some(b"1".to_vec()));
}
