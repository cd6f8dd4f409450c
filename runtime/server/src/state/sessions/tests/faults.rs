//! A disk that fails or is damaged: it is told at once, nothing gets lost or out of order, and no start is made on half of it.

use std::sync::atomic::Ordering;

use super::super::index::Index;
use super::super::intake::Intake;
use super::super::key::{Key, Kind};
use super::super::ledger::Ledger;
use super::super::unwritten::Unwritten;
use super::*;
use crate::state::disk::guarded;

impl Store {
    /// From now on the disk reports that it has failed, or no longer.
    fn fails(&self, fails: bool) {
        self.state.disk.fails.store(fails, Ordering::Relaxed);
    }

    async fn wait_healthy(&self) {
        while self.sessions.health().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn what_could_not_be_written_is_written_first_when_the_disk_works_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    let text = |number: u64| message("t", &number.to_string());
    store.keep([opened(1, "c"), queued(1, 1, &text(1))]).await;
    store.sessions.health().unwrap();
    store.fails(true);
    store.record(queued(1, 2, &text(2)));
    assert_eq!(store.durable().await, Err(AckError::Abandoned));
    let reason = store.sessions.health().unwrap_err().to_string();
    assert!(reason.contains("a test lets it fail"), "{reason}");
    // Told at once, without waiting for another attempt.
    store.sessions.together(&mut || {
        store.record(queued(1, 3, &text(3)));
        store.record(Change::Finished { session: 1, number: 1 });
    });
    let begun = std::time::Instant::now();
    assert_eq!(store.durable().await, Err(AckError::Abandoned));
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    store.fails(false);
    // By itself: nobody needs to ask for it.
    store.wait_healthy().await;
    store.keep([queued(1, 4, &text(4))]).await;
    let (_store, restored) = store.again(dir.path()).await;
    assert_eq!(waiting(&restored.sessions[0]), ["2", "3", "4"]);
}

#[tokio::test]
async fn what_could_not_be_written_is_not_found_when_the_process_ends_before_it_could() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    store.keep([opened(1, "c"), queued(1, 1, &message("t", "x"))]).await;
    store.fails(true);
    store.record(queued(1, 2, &message("t", "y")));
    store.durable().await.unwrap_err();
    let (_store, restored) = store.again(dir.path()).await;
    assert_eq!(waiting(&restored.sessions[0]), ["x"]);
}

#[tokio::test]
async fn what_is_known_of_messages_is_right_after_a_commit_that_failed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    let (news, other) = (message("t", "news"), message("t", "other"));
    store.keep([opened(1, "c"), opened(2, "d"), queued(1, 1, &news), queued(2, 1, &news)]).await;
    store.fails(true);
    // One would have gone into its delivery's record; the other goes from one of two that wait for it.
    store.record(queued(1, 2, &other));
    store.record(Change::Finished { session: 1, number: 1 });
    store.durable().await.unwrap_err();
    store.record(queued(2, 2, &other));
    store.durable().await.unwrap_err();
    store.fails(false);
    store.wait_healthy().await;
    store.durable().await.unwrap();
    let (store, restored) = store.again(dir.path()).await;
    let queues: Vec<_> = restored.sessions.iter().map(waiting).collect();
    assert_eq!(queues, [vec!["other"], vec!["news", "other"]]);
    let numbers = [(1, 2), (2, 1), (2, 2)];
    store.keep(numbers.map(|(session, number)| Change::Finished { session, number })).await;
    for kind in [Kind::Body, Kind::Delivery, Kind::Sending] {
        assert_eq!(store.records(kind), 0, "{kind:?}");
    }
}

#[tokio::test]
async fn a_failure_of_something_else_is_one_of_sessions_until_the_disk_works_again() {
    use crate::state::tests::{set, space};
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    store.fails(true);
    set(&store.state, &space("m", "b"), "k", b"v").await.unwrap_err();
    store.sessions.health().unwrap_err();
    store.fails(false);
    store.wait_healthy().await;
    store.keep([opened(1, "c")]).await;
}

#[test]
fn more_than_may_wait_for_a_failing_disk_is_an_end_and_not_a_gap() {
    let intake = Arc::new(Intake::default());
    intake.begin_with(Index::default(), Unwritten::default());
    let mut ledger = Ledger::new(intake.clone());
    ledger.set_limit(1_000);
    let record = |change| assert!(intake.record(&Tenant::default(), change));
    record(opened(1, "c"));
    ledger.take();
    ledger.fail("no room");
    let reason = intake.health().unwrap_err().to_string();
    assert!(reason.ends_with("no room"), "{reason}");
    record(queued(1, 1, &message("t", &"x".repeat(2_000))));
    ledger.take();
    ledger.fail("no room");
    let reason = intake.health().unwrap_err().to_string();
    assert!(reason.contains("a restart goes on with what was kept until now"), "{reason}");
    // The disk works again: what was before the end is written, and nothing behind it.
    ledger.settle(&Ok(()));
    record(queued(1, 2, &message("t", "y")));
    ledger.take();
    assert!(!ledger.has_work());
    intake.health().unwrap_err();
    let (join, _) = intake.durable();
    assert!(!join.is_clear(), "nothing is promised any more");
}

#[test]
fn who_came_in_before_the_end_was_known_is_not_told_that_all_is_well() {
    let intake = Arc::new(Intake::default());
    intake.begin_with(Index::default(), Unwritten::default());
    let mut ledger = Ledger::new(intake.clone());
    ledger.set_limit(1_000);
    intake.record(&Tenant::default(), opened(1, "c"));
    intake.record(&Tenant::default(), queued(1, 1, &message("t", &"x".repeat(2_000))));
    ledger.take();
    // While the commit is being made that fails.
    intake.record(&Tenant::default(), queued(1, 2, &message("t", "y")));
    let (join, _) = intake.durable();
    ledger.fail("no room");
    // The disk works again, and what comes behind the end is not kept.
    ledger.take();
    ledger.settle(&Ok(()));
    assert_eq!(futures_util::FutureExt::now_or_never(join), Some(Err(AckError::Abandoned)));
}

/// Short enough for a test, and longer than a commit takes here once there is a database.
const SHORT: Duration = Duration::from_secs(2);

impl Store {
    /// With a session of number 1, and [`SHORT`] patience.
    async fn impatient(dir: &Path) -> Self {
        let (store, _) = Self::open(dir);
        store.keep([opened(1, "c")]).await;
        store.close().await;
        Self::open_patient(dir, SessionDurability::Synced, SHORT).0
    }

    /// From now on no write comes back, or again.
    fn stalls(&self, stalls: bool) {
        self.state.disk.stalls.store(stalls, Ordering::Relaxed);
    }

    /// Waits until the state says that it fails, and gives why.
    async fn reason(&self) -> String {
        loop {
            match self.sessions.health() {
                Err(error) => return error.to_string(),
                Ok(()) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

#[tokio::test]
async fn a_disk_that_never_answers_is_one_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::impatient(dir.path()).await;
    store.keep([queued(1, 1, &message("t", "1"))]).await;
    store.stalls(true);
    store.record(queued(1, 2, &message("t", "2")));
    let (one, begun) = (store.sessions.durable(), std::time::Instant::now());
    // The thread has the first and not the second.
    tokio::time::sleep(SHORT / 4).await;
    store.record(queued(1, 3, &message("t", "3")));
    let other = store.sessions.durable();
    assert_eq!(one.await, Err(AckError::Abandoned));
    assert!(begun.elapsed() >= SHORT, "{:?}", begun.elapsed());
    assert_eq!(other.await, Err(AckError::Abandoned));
    let reason = store.reason().await;
    assert!(reason.contains("has not answered"), "{reason}");
    // From now on it is told at once.
    store.record(queued(1, 4, &message("t", "4")));
    assert_eq!(
        futures_util::FutureExt::now_or_never(store.sessions.durable()),
        Some(Err(AckError::Abandoned))
    );
    store.stalls(false);
    store.wait_healthy().await;
    store.keep([queued(1, 5, &message("t", "5"))]).await;
    let (_store, restored) = store.again(dir.path()).await;
    assert_eq!(waiting(&restored.sessions[0]), ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn a_thread_that_has_ended_is_told_to_those_who_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    store.keep([opened(1, "c"), queued(1, 1, &message("t", "1"))]).await;
    store.stalls(true);
    store.record(queued(1, 2, &message("t", "2")));
    let one = store.sessions.durable();
    tokio::time::sleep(SHORT / 4).await;
    store.record(queued(1, 3, &message("t", "3")));
    let other = store.sessions.durable();
    store.state.disk.panics.store(true, Ordering::Relaxed);
    store.stalls(false);
    assert_eq!(one.await, Err(AckError::Abandoned));
    assert_eq!(other.await, Err(AckError::Abandoned));
    let reason = store.reason().await;
    assert!(reason.contains("its thread has failed"), "{reason}");
    // What comes now is not held for a thread that will never take it.
    let news = message("t", "4");
    store.record(queued(1, 4, &news));
    assert_eq!(Arc::strong_count(&news), 1);
    assert_eq!(store.durable().await, Err(AckError::Abandoned));
    let (_store, restored) = store.again(dir.path()).await;
    assert_eq!(waiting(&restored.sessions[0]), ["1"]);
}

#[tokio::test]
async fn what_waits_for_a_disk_that_hangs_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::impatient(dir.path()).await;
    store.keep([queued(1, 1, &message("t", "1"))]).await;
    store.stalls(true);
    let payload = "x".repeat(1 << 20);
    let mut sent = Vec::new();
    let mut retain = |number: u64| {
        let message = message(&format!("t/{number}"), &payload);
        sent.push(Arc::downgrade(&message));
        store.record(Change::Retained { message });
        sent.iter().filter(|message| message.strong_count() > 0).count()
    };
    // Publishers are told to wait long before.
    let behind = (0..).find(|number| {
        retain(*number);
        store.sessions.is_behind()
    });
    assert!(behind.is_some_and(|number| (15..20).contains(&number)), "{behind:?}");
    store.reason().await;
    // Those who do not.
    let held = (100..300).map(&mut retain).max();
    assert!(held.is_some_and(|held| held <= 66), "{held:?} MiB of 200 are held");
    let reason = store.reason().await;
    assert!(reason.contains("a restart goes on with what was kept until now"), "{reason}");
    store.stalls(false);
    while store.sessions.is_behind() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(store.sessions.health().is_err(), "what was lost in between is not forgotten");
    let (_store, restored) = store.again(dir.path()).await;
    let kept = restored.retained.len();
    assert!((60..=66).contains(&kept), "{kept}: the first of them");
}

#[tokio::test]
async fn a_message_for_many_sessions_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    store.keep((1..=100).map(|session| opened(session, &format!("c{session}")))).await;
    store.stalls(true);
    let news = message("t", &"x".repeat(1 << 20));
    (1..=100).for_each(|session| store.record(queued(session, 1, &news)));
    assert!(!store.sessions.is_behind());
    store.stalls(false);
    store.durable().await.unwrap();
}

#[tokio::test]
async fn nothing_is_promised_before_what_is_there_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(&dir.path().join("state"), 1 << 20).unwrap();
    let sessions = state.sessions(SessionDurability::Synced);
    sessions.record(&Tenant::default(), opened(1, "c"));
    assert_eq!(sessions.durable().await, Err(AckError::Abandoned));
    assert!(!dir.path().join("state").exists());
}

/// What restoring says of the state in `dir`.
fn refusal(dir: &Path) -> String {
    let state = match State::open(&dir.join("state"), 1 << 20) {
        Ok(state) => state,
        Err(error) => return error.to_string(),
    };
    state.sessions(SessionDurability::Synced).restore().unwrap_err().to_string()
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_a_refusal_that_names_it() {
    use super::super::format::{DeliveryForm, encode};
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    store.keep([opened(1, "c"), subscribed(1, "a", 0), queued(1, 1, &message("a", "x"))]).await;
    let missing = encode(&DeliveryForm::new(&delivery(1, &message("a", "x")), Some(99))).unwrap();
    let mut store = Some(store);
    for (key, value, says) in [
        (Key::Session(1), vec![1, 2, 3], "session 1 is damaged"),
        (Key::Session(1), vec![9, 2, 3], "session 1 has form 9, and this release reads forms 1 to 2"),
        (Key::Session(1), vec![], "session 1 is empty"),
        (Key::Delivery(1, 1), vec![1], "delivery 1 of session 1 is damaged"),
        (Key::Delivery(1, 1), missing, "delivery 1 of session 1 needs message 99, which is missing"),
        (Key::Subscription(1, [9; 16]), vec![1, 5], "a subscription of session 1 is damaged"),
        (Key::Body(5), vec![1, 5], "message 5 is damaged"),
        (Key::Will(7, MsgId::from_bits(255)), vec![1], "of session 7 is damaged"),
        (Key::Retained([0; 16]), vec![1], "a retained message is damaged"),
        (Key::LastSession, vec![1], "the number of the last session is damaged"),
    ] {
        let open = match store.take() {
            Some(open) => open.state.clone(),
            None => State::open(&dir.path().join("state"), 1 << 20).unwrap(),
        };
        let mut before = None;
        let mut put = |value: Option<Vec<u8>>| {
            let written = open.disk.write(|database| {
                let keyspace =
                    if key.kind().is_lasting() { &database.sessions } else { &database.deliveries };
                before = guarded(|| keyspace.get(key.to_bytes()))?;
                let mut batch = database.batch(true);
                match value {
                    Some(value) => batch.insert(keyspace, key.to_bytes(), value),
                    None => batch.remove(keyspace, key.to_bytes()),
                }
                guarded(|| batch.commit())
            });
            written.unwrap();
            before.take().map(|value| value.to_vec())
        };
        let old = put(Some(value));
        let said = open.sessions(SessionDurability::Synced).restore().unwrap_err().to_string();
        let path = dir.path().join("state").display().to_string();
        assert!(
            said.contains(says) && said.contains(&path) && said.contains("move it away"),
            "{says}: {said}"
        );
        put(old);
        open.sessions(SessionDurability::Synced).restore().unwrap();
        crate::state::tests::close(open).await;
    }
}

/// Every file below `dir`.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn a_damaged_table_is_a_refusal_or_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    store.keep((1..=50).map(|session| opened(session, &format!("client-{session}")))).await;
    store.keep((1..=50).map(|session| queued(session, 1, &message("t", &"payload ".repeat(50))))).await;
    let flushed = store.state.disk.read(|database| {
        guarded(|| {
            database.sessions.rotate_memtable_and_wait()?;
            database.deliveries.rotate_memtable_and_wait()
        })
        .map_err(super::super::unavailable)
    });
    flushed.unwrap();
    let (store, whole) = store.again(dir.path()).await;
    store.close().await;
    let tables: Vec<_> = files(&dir.path().join("state/keyspaces"))
        .into_iter()
        .filter(|path| path.parent().is_some_and(|parent| parent.ends_with("tables")))
        .collect();
    assert!(tables.len() >= 2, "{tables:?}");
    let mut refused = 0;
    for table in tables {
        let bytes = std::fs::read(&table).unwrap();
        for part in 0..8 {
            let mut damaged = bytes.clone();
            let at = bytes.len() * part / 8 + 40 * part % bytes.len().max(1);
            let at = at.min(bytes.len() - 1);
            damaged[at] ^= 0x55;
            std::fs::write(&table, &damaged).unwrap();
            let state = State::open(&dir.path().join("state"), 1 << 20);
            match state.map(|state| (state.sessions(SessionDurability::Synced).restore(), state)) {
                Ok((Ok(restored), state)) => {
                    assert_eq!(text(&restored), text(&whole), "{}: byte {at}", table.display());
                    crate::state::tests::close(state).await;
                }
                Ok((Err(_), state)) => {
                    refused += 1;
                    crate::state::tests::close(state).await;
                }
                Err(_) => refused += 1,
            }
        }
        std::fs::write(&table, &bytes).unwrap();
    }
    assert!(refused > 4, "only {refused} of 16 or more damaged bytes were found");
    let (_store, restored) = Store::open(dir.path());
    assert_eq!(text(&restored), text(&whole));
}

#[test]
fn a_directory_that_is_no_database_is_a_refusal_that_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    std::fs::write(dir.path().join("state/version"), b"no database").unwrap();
    let refused = refusal(dir.path());
    assert!(refused.contains("move it away to begin without sessions"), "{refused}");
}
