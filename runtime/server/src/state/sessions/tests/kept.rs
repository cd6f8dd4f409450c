//! What is recorded is found again, whatever kind of change it was.

use tidegate_event::{Owner, RestoredDelivery, RestoredReceipt};

use super::*;

fn id(bits: u128) -> MsgId {
    MsgId::from_bits(bits)
}

#[tokio::test]
async fn every_kind_of_change_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, restored) = Store::open(dir.path());
    assert!(restored.sessions.is_empty() && restored.last_session == 0);
    let (acme, news) = (Tenant::new("acme"), message("news", "to all"));
    let full = Arc::new(Message {
        properties: Some(Box::new(all_properties())),
        qos: QoS::ExactlyOnce,
        retain: true,
        dup: true,
        origin: Origin::Module,
        hops: 3,
        ..(*message("full", "everything")).clone()
    });
    let options = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: 2,
        id: 77,
    };
    let stored = StoredDelivery {
        number: 3,
        message: full.clone(),
        qos: QoS::ExactlyOnce,
        retain: true,
        source: StoredSource::Shared(Some("$share/g/a/+".into())),
        subscription_ids: Some(Arc::from([1, 77])),
    };
    let replaced =
        StoredSending { sequence: 12, qos: QoS::ExactlyOnce, replacement: Some(message("full", "another")) };
    store.sessions.record(
        &acme,
        Change::Opened {
            session: 7,
            client: "one".into(),
            expiry: u32::MAX,
            owner: Some(Owner { user: "u".into(), certified: false }),
            will: Some(will("farewell", 5)),
        },
    );
    store
        .keep([
            opened(9, "two"),
            Change::Subscribed { session: 7, filter: "$share/g/a/+".into(), options, joining: false },
            Change::Subscribed {
                session: 7,
                filter: "b".into(),
                options: SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() },
                joining: true,
            },
            queued(7, 1, &news),
            queued(7, 2, &news),
            queued(9, 1, &news),
            Change::Queued { session: 7, delivery: stored.clone() },
            sent(7, 1, 11, None),
            Change::Sent { session: 7, number: 3, sending: replaced.clone() },
            Change::Released { session: 7, number: 3 },
            Change::Received { session: 7, packet_id: 4, message: id(40) },
            Change::Received { session: 7, packet_id: 5, message: id(50) },
            Change::Handled { session: 7, packet_id: 5, message: id(50) },
            Change::Handled { session: 9, packet_id: 65_535, message: id(60) },
            Change::ExpiryChanged { session: 9, expiry: 1 },
            Change::Disconnected { session: 9, at_ms: 123 },
        ])
        .await;
    store.sessions.record(&acme, Change::Retained { message: full.clone() });
    store.keep([Change::Retained { message: news.clone() }]).await;

    let plain = |number, message: &Arc<Message>| RestoredDelivery {
        delivery: delivery(number, message),
        sending: None,
        released: false,
    };
    let first = RestoredSession {
        number: 7,
        tenant: acme.clone(),
        client: "one".into(),
        owner: Some(Owner { user: "u".into(), certified: false }),
        expiry: u32::MAX,
        disconnected_at_ms: None,
        wills: vec![will("farewell", 5)],
        subscriptions: vec![
            ("$share/g/a/+".into(), options),
            ("b".into(), SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() }),
        ],
        joining: vec!["b".into()],
        queue: vec![
            RestoredDelivery {
                sending: Some(StoredSending { sequence: 11, qos: QoS::AtLeastOnce, replacement: None }),
                ..plain(1, &news)
            },
            plain(2, &news),
            RestoredDelivery { delivery: stored, sending: Some(replaced), released: true },
        ],
        received: vec![
            RestoredReceipt { packet_id: 4, message: id(40), handled: false },
            RestoredReceipt { packet_id: 5, message: id(50), handled: true },
        ],
    };
    let second = RestoredSession {
        number: 9,
        tenant: Tenant::default(),
        client: "two".into(),
        owner: None,
        expiry: 1,
        disconnected_at_ms: Some(123),
        wills: Vec::new(),
        subscriptions: Vec::new(),
        joining: Vec::new(),
        queue: vec![plain(1, &news)],
        received: vec![RestoredReceipt { packet_id: 65_535, message: id(60), handled: true }],
    };
    let mut store = store;
    // Twice: what was restored is kept, too.
    for _ in 0..2 {
        let (again, mut restored) = store.again(dir.path()).await;
        store = again;
        let session = restored.sessions.first_mut().unwrap();
        session.subscriptions.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(text(&restored.sessions), text(&[&first, &second]));
        restored.retained.sort_by(|one, other| one.0.cmp(&other.0));
        let retained = [(acme.clone(), full.clone()), (Tenant::default(), news.clone())];
        assert_eq!(text(&restored.retained), text(&retained));
        assert_eq!((restored.wills.len(), restored.last_session), (0, 9));
    }
    // And each of them can be taken back.
    store
        .keep([
            Change::Unsubscribed { session: 7, filter: "b".into() },
            Change::Finished { session: 7, number: 1 },
            Change::Finished { session: 7, number: 3 },
            Change::Freed { session: 7, packet_id: 4 },
            Change::WillGone { session: 7, will: will("farewell", 5).message.id },
            Change::RetainCleared { topic: "news".parse().unwrap() },
            // Of which there is nothing.
            Change::RetainCleared { topic: "never".parse().unwrap() },
            Change::Closed { session: 9 },
        ])
        .await;
    let (_store, restored) = store.again(dir.path()).await;
    let left = RestoredSession {
        wills: Vec::new(),
        subscriptions: vec![("$share/g/a/+".into(), options)],
        joining: Vec::new(),
        queue: vec![plain(2, &news)],
        received: vec![RestoredReceipt { packet_id: 5, message: id(50), handled: true }],
        ..first
    };
    assert_eq!(text(&restored.sessions), text(&[left]));
    assert_eq!(text(&restored.retained), text(&[(acme, full)]));
    assert_eq!(restored.last_session, 9, "no number is given twice");
}

#[tokio::test]
async fn the_last_of_two_changes_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    let retained = |payload| Change::Retained { message: message("t", payload) };
    store.keep([opened(1, "c"), subscribed(1, "a", 1), sent(1, 1, 1, None), retained("old")]).await;
    store
        .keep([
            Change::Disconnected { session: 1, at_ms: 5 },
            opened(1, "c"),
            subscribed(1, "a", 2),
            queued(1, 1, &message("t", "x")),
            sent(1, 1, 1, Some(message("t", "y"))),
            sent(1, 1, 2, None),
            Change::RetainCleared { topic: "t".parse().unwrap() },
            retained("new"),
        ])
        .await;
    let (_store, restored) = store.again(dir.path()).await;
    let session = &restored.sessions[0];
    assert_eq!(session.disconnected_at_ms, None);
    assert_eq!(session.subscriptions.iter().map(|(_, options)| options.id).collect::<Vec<_>>(), [2]);
    let sending = session.queue[0].sending.as_ref().unwrap();
    assert_eq!((sending.sequence, sending.replacement.is_none()), (2, true));
    assert_eq!(&restored.retained[0].1.payload[..], b"new");
}

#[tokio::test]
async fn an_opened_session_keeps_what_it_has_and_its_earlier_wills() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    let with_will = |payload| Change::Opened {
        session: 1,
        client: "c".into(),
        expiry: 10,
        owner: None,
        will: Some(will(payload, 30)),
    };
    store.keep([with_will("first"), subscribed(1, "a", 0), queued(1, 1, &message("a", "x"))]).await;
    store.keep([with_will("second")]).await;
    let (store, restored) = store.again(dir.path()).await;
    let session = &restored.sessions[0];
    assert_eq!((session.subscriptions.len(), session.queue.len(), session.wills.len()), (1, 1, 2));
    // The session ends, its wills do not, until they are published; another session may even have begun.
    store
        .keep([Change::Closed { session: 1 }, opened(2, "c"), opened(3, "d"), Change::Closed { session: 3 }])
        .await;
    let (store, restored) = store.again(dir.path()).await;
    assert_eq!(restored.sessions.iter().map(|session| session.number).collect::<Vec<_>>(), [2]);
    assert_eq!(restored.last_session, 3);
    let wills = |restored: &Restored| {
        restored
            .wills
            .iter()
            .map(|(_, session, will)| (*session, will.message.payload.to_vec()))
            .collect::<Vec<_>>()
    };
    let mut found = wills(&restored);
    found.sort();
    assert_eq!(found, [(1, b"first".to_vec()), (1, b"second".to_vec())]);
    store.keep([Change::WillGone { session: 1, will: will("first", 0).message.id }]).await;
    let (_store, restored) = store.again(dir.path()).await;
    assert_eq!(wills(&restored), [(1, b"second".to_vec())]);
}

#[tokio::test]
async fn changes_of_a_session_that_is_closed_or_was_never_opened_mean_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    let late = |session| {
        vec![
            subscribed(session, "a", 0),
            queued(session, 1, &message("a", "x")),
            sent(session, 1, 1, Some(message("a", "y"))),
            Change::Released { session, number: 1 },
            Change::Received { session, packet_id: 1, message: id(1) },
            Change::Handled { session, packet_id: 2, message: id(2) },
            Change::ExpiryChanged { session, expiry: 9 },
            Change::Disconnected { session, at_ms: 9 },
            Change::Freed { session, packet_id: 1 },
            Change::Finished { session, number: 1 },
            Change::Unsubscribed { session, filter: "a".into() },
            Change::Closed { session },
            Change::WillGone { session, will: id(3) },
        ]
    };
    store.keep(late(1)).await;
    assert!(!dir.path().join("state").exists(), "nothing was written at all");
    store.keep([opened(2, "c")]).await;
    store.keep([Change::Closed { session: 2 }]).await;
    store.keep(late(2)).await;
    store.keep(late(1)).await;
    assert_eq!(store.records(super::super::key::Kind::Body), 0);
    let (_store, restored) = store.again(dir.path()).await;
    assert!(restored.sessions.is_empty() && restored.wills.is_empty(), "{restored:?}");
}

#[tokio::test]
async fn what_nobody_waits_for_is_written_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    store.keep([opened(1, "c")]).await;
    store.record(subscribed(1, "a", 0));
    while store.records(super::super::key::Kind::Subscription) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // At the end, too.
    store.record(subscribed(1, "b", 0));
    let (_store, restored) = store.again(dir.path()).await;
    assert_eq!(restored.sessions[0].subscriptions.len(), 2);
}

#[tokio::test]
async fn nothing_is_written_of_changes_that_belong_together_before_all_are_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    store.keep([opened(1, "c")]).await;
    let written = || store.records(super::super::key::Kind::Subscription);
    store.sessions.together(&mut || {
        store.record(subscribed(1, "a", 0));
        // Longer than the thread would wait for more, and somebody waits for it, too.
        drop(store.sessions.durable());
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(written(), 0);
        store.record(subscribed(1, "b", 0));
    });
    store.durable().await.unwrap();
    assert_eq!(written(), 2);
}

#[tokio::test]
async fn topics_and_filters_may_be_as_long_as_the_protocol_allows() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path());
    let long = "x".repeat(tidegate_event::MAX_TOPIC_BYTES);
    store
        .keep([
            opened(1, &long),
            subscribed(1, &long, 0),
            queued(1, 1, &message(&long, "x")),
            Change::Retained { message: message(&long, "x") },
        ])
        .await;
    let (_store, restored) = store.again(dir.path()).await;
    let session = &restored.sessions[0];
    assert_eq!(
        (&session.client, &session.subscriptions[0].0),
        (&long.as_str().into(), &long.as_str().into())
    );
    assert_eq!(session.queue[0].delivery.message.topic.as_str(), long);
    assert_eq!(restored.retained[0].1.topic.as_str(), long);
}

#[tokio::test]
async fn a_store_that_keeps_nothing_makes_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open_with(dir.path(), SessionDurability::Off);
    assert!(!store.sessions.keeps());
    store.keep([opened(1, "c"), Change::Retained { message: message("t", "x") }]).await;
    store.close().await;
    assert!(!dir.path().join("state").exists());
}
