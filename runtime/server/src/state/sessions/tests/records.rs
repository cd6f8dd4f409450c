//! Which records there are: none for what comes and goes, one for a message however many wait for it.

use std::collections::BTreeSet;

use super::super::index::Index;
use super::super::key::Kind;
use super::super::unwritten::Unwritten;
use super::*;

/// Applies `changes` to a session that is on disk, as one commit would.
fn left(changes: impl IntoIterator<Item = Change>) -> usize {
    let (mut index, mut unwritten) = (Index::default(), Unwritten::default());
    index.apply([(Some(Tenant::default()), opened(1, "c"))], &mut unwritten);
    unwritten.clear();
    index.apply(changes.into_iter().map(|change| (None, change)), &mut unwritten);
    assert_eq!((index.deliveries, index.bodies.len()), (0, 0));
    unwritten.len()
}

#[test]
fn what_comes_and_goes_in_one_commit_is_never_written() {
    let (news, id) = (message("t", "x"), MsgId::from_bits(1));
    assert_eq!(left([queued(1, 1, &news), Change::Finished { session: 1, number: 1 }]), 0);
    assert_eq!(
        left([
            queued(1, 1, &news),
            sent(1, 1, 1, Some(message("t", "y"))),
            Change::Released { session: 1, number: 1 },
            Change::Finished { session: 1, number: 1 },
        ]),
        0
    );
    assert_eq!(
        left([
            Change::Received { session: 1, packet_id: 1, message: id },
            Change::Handled { session: 1, packet_id: 1, message: id },
            Change::Freed { session: 1, packet_id: 1 },
        ]),
        0
    );
    let filter = ByteString::from_static("a");
    assert_eq!(left([subscribed(1, "a", 1), Change::Unsubscribed { session: 1, filter }]), 0);
}

#[test]
fn of_a_session_that_comes_and_goes_in_one_commit_only_its_number_is_written() {
    let changes = [
        opened(2, "c"),
        subscribed(2, "a", 0),
        queued(2, 1, &message("a", "x")),
        Change::Received { session: 2, packet_id: 1, message: MsgId::from_bits(1) },
        Change::Closed { session: 2 },
    ];
    assert_eq!(left(changes), 1);
}

#[tokio::test]
async fn a_message_is_on_disk_once_and_goes_with_the_last_who_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    let (news, other) = (message("t", "news"), message("t", "other"));
    let sessions: Vec<SessionNumber> = (1..=5).collect();
    store.keep(sessions.iter().map(|session| opened(*session, &format!("c{session}")))).await;
    // A message that one delivery alone waits for is in its record.
    store.sessions.together(&mut || {
        sessions.iter().for_each(|session| store.record(queued(*session, 1, &news)));
        store.record(queued(1, 2, &other));
    });
    store.durable().await.unwrap();
    assert_eq!((store.records(Kind::Body), store.records(Kind::Delivery)), (1, 6));
    store
        .keep([Change::Finished { session: 1, number: 1 }, Change::Finished { session: 1, number: 2 }])
        .await;
    assert_eq!((store.records(Kind::Body), store.records(Kind::Delivery)), (1, 4));

    let (store, restored) = store.again(dir.path()).await;
    let with_it = restored.sessions.iter().filter(|session| waiting(session) == ["news"]).count();
    assert_eq!(with_it, 4);
    let addresses = restored.sessions.iter().flat_map(|session| &session.queue);
    let addresses: BTreeSet<_> =
        addresses.map(|delivery| Arc::as_ptr(&delivery.delivery.message).addr()).collect();
    assert_eq!(addresses.len(), 1, "it is in memory once again, too");
    // Finished, closed, replaced.
    store
        .keep([
            Change::Finished { session: 2, number: 1 },
            Change::Closed { session: 3 },
            queued(4, 1, &other),
        ])
        .await;
    assert_eq!((store.records(Kind::Body), store.records(Kind::Delivery)), (1, 2));
    store.keep([Change::Finished { session: 5, number: 1 }]).await;
    assert_eq!((store.records(Kind::Body), store.records(Kind::Delivery)), (0, 1));
    let (store, restored) = store.again(dir.path()).await;
    let queues: Vec<_> = restored.sessions.iter().map(waiting).collect();
    assert_eq!(queues, [vec![], vec![], vec!["other".to_owned()], vec![]]);
    store.keep([Change::Closed { session: 4 }]).await;
    for kind in [Kind::Body, Kind::Delivery, Kind::Sending] {
        assert_eq!(store.records(kind), 0, "{kind:?}");
    }
}

#[tokio::test]
async fn a_replacement_goes_with_its_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    store.keep([opened(1, "c"), queued(1, 1, &message("t", "x"))]).await;
    store.keep([sent(1, 1, 1, Some(message("t", "y")))]).await;
    assert_eq!((store.records(Kind::Body), store.records(Kind::Sending)), (1, 1));
    store.keep([sent(1, 1, 1, Some(message("t", "z")))]).await;
    assert_eq!(store.records(Kind::Body), 1);
    let (store, restored) = store.again(dir.path()).await;
    let sending = restored.sessions[0].queue[0].sending.as_ref().unwrap();
    assert_eq!(&sending.replacement.as_ref().unwrap().payload[..], b"z");
    store.keep([Change::Finished { session: 1, number: 1 }]).await;
    for kind in [Kind::Body, Kind::Delivery, Kind::Sending] {
        assert_eq!(store.records(kind), 0, "{kind:?}");
    }
}

#[tokio::test]
async fn records_that_nothing_needs_are_removed_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    store.keep([opened(5, "c"), subscribed(5, "a", 0), queued(5, 2, &message("a", "x"))]).await;
    use super::super::format::{ReceiptForm, SendingForm, encode};
    use super::super::key::Key;
    let put = |key: Key, value: Vec<u8>| {
        let written = store.state.disk.write(|database| {
            let mut batch = database.batch(true);
            let keyspace = if key.kind().is_lasting() { &database.sessions } else { &database.deliveries };
            batch.insert(keyspace, key.to_bytes(), value);
            crate::state::disk::guarded(|| batch.commit())
        });
        written.unwrap();
    };
    let sending = || encode(&SendingForm::default()).unwrap();
    for session in [4, 6] {
        put(Key::Sending(session, 1), sending());
        put(Key::Receipt(session, 1), encode(&ReceiptForm { message: 1, handled: false }).unwrap());
        put(Key::Delivery(session, 1), vec![]);
        put(Key::Subscription(session, [7; 16]), vec![]);
    }
    put(Key::Sending(5, 1), sending());
    put(Key::Sending(5, 3), sending());
    let (store, restored) = store.again(dir.path()).await;
    assert_eq!(restored.sessions.len(), 1);
    assert_eq!(waiting(&restored.sessions[0]), ["x"]);
    // With the first commit.
    store.keep([opened(7, "d")]).await;
    for (kind, left) in [(Kind::Sending, 0), (Kind::Receipt, 0), (Kind::Delivery, 1), (Kind::Subscription, 1)]
    {
        assert_eq!(store.records(kind), left, "{kind:?}");
    }
}
