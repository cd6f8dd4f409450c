//! Stored messages: storing, fetching, positions, queues.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tidegate_event::{Event, Message, Origin, QoS, Reply, Storage as _, Tenant, now_ms};

use crate::fixture::{Ability, Bench, Factory, Stored, pages, texts};

pub(crate) const PUBLISH: &str =
    r##"message.publish.1 = {"topic": "#", "action": {"function": "on_message_publish"}}"##;
const STORE: &str = r##"message.publish.4 = {"topic": "#", "action": {"function": "on_message_store"}}"##;
pub(crate) const FETCH: &str =
    r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch"}}"##;
pub(crate) const ACKED: &str =
    r##"message.acked.1 = {"topic": "#", "action": {"function": "on_message_acked"}}"##;

pub(crate) async fn publish_stores_qos_1_and_2_only(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH]).await;
    let mut ids = Vec::new();
    for qos in 0..=2 {
        ids.push(bench.publish(bench.message("hello", format!("qos {qos}"), qos)).await.id.to_string());
    }
    let stored = bench.stored("hello").await;
    let seen: Vec<_> = stored.iter().map(|m| (&*m.id, &*m.qos, &*m.payload)).collect();
    assert_eq!(seen, [(&*ids[1], "1", "qos 1"), (&*ids[2], "2", "qos 2")]);
    assert!(stored.iter().all(|m| m.sender == "publisher" && !m.retain && m.topic == bench.topic("hello")));
    // A date and time, or seconds since the epoch.
    let time = &stored[0].time;
    assert!(time.len() == 19 && time.starts_with("20") || time.parse::<u64>().is_ok(), "{time}");
}

pub(crate) async fn store_stores_every_qos_and_once_beside_publish(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, STORE]).await;
    assert!(bench.warnings.iter().any(|w| w.message.contains("stored once")), "{:?}", bench.warnings);
    for qos in 0..=2 {
        bench.publish(bench.message("hello", format!("qos {qos}"), qos)).await;
    }
    assert_eq!(bench.stored_texts("hello").await, ["qos 0", "qos 1", "qos 2"]);
}

pub(crate) async fn payloads_are_bytes(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH]).await;
    let large: Vec<u8> = (0..65_536_u32).map(|n| (n * 7 % 251) as u8).collect();
    let payloads: [&[u8]; 8] =
        [b"hello", "größe".as_bytes(), b"", b"\0", b"a\0b", b"\xff\xfe\x00", b"*3\r\n$3\r\nDEL\r\n", &large];
    for payload in payloads {
        bench.publish(bench.message("t", payload.to_vec(), 1)).await;
    }
    let found = bench.fetch(&bench.client("c"), "t").await.concat();
    let found: Vec<&[u8]> = found.iter().map(|m| &*m.payload).collect();
    assert_eq!(found, payloads);
    assert_eq!(bench.stored("t").await[0].payload, "hello");
}

pub(crate) async fn two_subscribers_have_their_own_positions(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let (one, two) = (bench.client("one"), bench.client("two"));
    let mut sent = Vec::new();
    for n in 1..=3 {
        sent.push(bench.publish_text("news", &n.to_string()).await);
    }
    assert_eq!(bench.fetch_texts(&one, "news").await, ["1", "2", "3"]);
    bench.ack(&one, &sent[1], Some(sent[1].id)).await;
    assert_eq!(bench.fetch_texts(&one, "news").await, ["3"]);
    assert_eq!(bench.fetch_texts(&two, "news").await, ["1", "2", "3"]);
    bench.ack(&two, &sent[2], Some(sent[2].id)).await;
    assert_eq!(bench.fetch_texts(&two, "news").await, Vec::<String>::new());
    assert_eq!(bench.position("one", "news").await, Some(sent[1].id.to_string()));
    assert_eq!(bench.position("two", "news").await, Some(sent[2].id.to_string()));
    let fetched = bench.fetch(&one, "news").await.concat();
    assert_eq!((fetched[0].id, fetched[0].origin), (sent[2].id, Origin::Fetched));
    assert_eq!((fetched[0].qos, &*fetched[0].sender), (QoS::AtLeastOnce, "publisher"));
    assert_eq!(fetched[0].timestamp_ms, sent[2].id.micros() / 1_000);
}

pub(crate) async fn a_position_waits_for_the_oldest_unacked_message(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    let mut sent = Vec::new();
    for n in 1..=3 {
        sent.push(bench.publish_text("t", &n.to_string()).await);
    }
    // 3 and 2 are acknowledged while 1 is outstanding: the session says so.
    bench.ack(&client, &sent[2], None).await;
    bench.ack(&client, &sent[1], None).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["1", "2", "3"]);
    bench.ack(&client, &sent[0], Some(sent[2].id)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, Vec::<String>::new());
}

pub(crate) async fn a_position_never_goes_back(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    let (first, second) = (bench.publish_text("t", "1").await, bench.publish_text("t", "2").await);
    bench.ack(&client, &second, Some(second.id)).await;
    bench.ack(&client, &first, Some(first.id)).await;
    assert_eq!(bench.position("c", "t").await, Some(second.id.to_string()));
    let third = bench.publish_text("t", "3").await;
    bench.ack(&client, &third, Some(third.id)).await;
    assert_eq!(bench.position("c", "t").await, Some(third.id.to_string()));
}

/// Messages of several publishers may be stored in another order than that of their ids.
pub(crate) async fn a_position_passes_no_older_row_of_a_newer_message(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    let drafts = ["1", "2", "3", "4"].map(|text| bench.message("t", text, 1));
    let [one, two, three, four] = drafts;
    let two = bench.publish(two).await;
    let one = bench.publish(one).await;
    let four = bench.publish(four).await;
    let three = bench.publish(three).await;
    if bench.lacks(Ability::RowPositions) {
        // What came behind a newer one has got a newer id.
        assert_eq!(bench.fetch_texts(&client, "t").await, ["2", "1", "4", "3"]);
        bench.ack(&client, &two, Some(two.id)).await;
        assert_eq!(bench.fetch_texts(&client, "t").await, ["1", "4", "3"]);
        bench.ack(&client, &three, Some(three.id)).await;
        assert_eq!(bench.fetch_texts(&client, "t").await, Vec::<String>::new());
        return;
    }
    bench.ack(&client, &one, Some(one.id)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["2", "1", "4", "3"], "2 is not acknowledged");
    bench.ack(&client, &two, Some(two.id)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["4", "3"]);
    bench.ack(&client, &three, Some(three.id)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["4", "3"]);
    bench.ack(&client, &four, Some(four.id)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, Vec::<String>::new());
}

/// A message that was held up on its way, by a module or by a full budget, was never fetched: the position had passed its
/// id when it was stored.
pub(crate) async fn an_older_message_stored_after_a_newer_one_was_acknowledged_is_fetched(
    factory: &'static dyn Factory,
) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    let [older, newer] = ["older", "newer"].map(|text| bench.message("t", text, 1));
    let newer = bench.publish(newer).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["newer"]);
    bench.ack(&client, &newer, Some(newer.id)).await;
    let older = bench.publish(older).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["older"]);
    bench.ack(&client, &older, Some(older.id.max(newer.id))).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, Vec::<String>::new());
}

/// A backlog whose last page had been given stayed at its end for ever: messages that were lost while the client
/// took that page were never read.
pub(crate) async fn a_backlog_asked_again_gives_what_was_stored_since(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    for (filter, topic) in bench.findable(&[("t", "t"), ("u/+", "u/x")]) {
        bench.publish_text(topic, "1").await;
        let mut effects = bench.subscribe(&client, filter).await;
        assert_eq!(texts(&pages(&mut effects).await.concat()), ["1"]);
        assert!(pages(&mut effects).await.is_empty());
        bench.publish_text(topic, "2").await;
        assert_eq!(texts(&pages(&mut effects).await.concat()), ["2"]);
        assert!(pages(&mut effects).await.is_empty());
    }
}

/// One late acknowledgement may release many: the position does not stop half-way.
pub(crate) async fn a_position_moves_over_any_number_of_rows(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    let stored: Vec<Stored> =
        (1..=2_500).map(|n| stored(&bench, &format!("{:032X}", (1_u128 << 80) + n), "x")).collect();
    bench.look().put_messages(&stored).await;
    let last = bench.publish_text("t", "last").await;
    bench.ack(&client, &last, Some(last.id)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, Vec::<String>::new());
}

/// An id that only looks like one of ours is known by its row, also by the statement that moves positions.
pub(crate) async fn a_position_passes_rows_of_foreign_form(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    let ids = ["9f86d081884c7d659a2feaa0c55ad015", "0000000000000000000000000000FFFF", "x"];
    let unique = |id: &str| if id == "x" { bench.client_id("x") } else { id.to_owned() };
    for (number, id) in ids.into_iter().enumerate() {
        bench.look().put_messages(&[stored(&bench, &unique(id), &format!("f{number}"))]).await;
    }
    bench.publish_text("t", "own").await;
    let found = bench.fetch(&client, "t").await.concat();
    if bench.lacks(Ability::RowPositions) {
        // They have no place in the order of ids, and none of them can be a position.
        assert_eq!(texts(&found), ["own"]);
        bench.ack(&client, &found[0], Some(found[0].id)).await;
        assert_eq!(bench.fetch(&client, "t").await.concat().len(), 0);
        return;
    }
    assert_eq!(texts(&found), ["f0", "f1", "f2", "own"]);
    for (index, message) in found.iter().enumerate() {
        bench.ack(&client, message, Some(message.id)).await;
        assert_eq!(bench.fetch(&client, "t").await.concat().len(), 3 - index);
    }
}

pub(crate) async fn an_ack_of_an_unstored_message_moves_to_the_newest_stored_one(
    factory: &'static dyn Factory,
) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    bench.publish_text("t", "stored").await;
    let unstored = bench.publish(bench.message("t", "not stored", 0)).await;
    bench.publish_text("t", "later").await;
    bench.ack_event(&client, &unstored, Some(unstored.id), false).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["later"]);
    let nothing = bench.publish(bench.message("never/stored", "x", 0)).await;
    bench.ack_event(&client, &nothing, Some(nothing.id), false).await;
    if !bench.lacks(Ability::RowPositions) {
        assert_eq!(bench.position("c", "never/stored").await, None);
    }
}

pub(crate) async fn a_backlog_comes_in_pages(factory: &'static dyn Factory) {
    let fetch = r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch"}, "offline_opts": {"max_returned_count": 3}, "pool": "pool1"}"##;
    let bench = Bench::new(factory, &[PUBLISH, fetch]).await;
    for n in 0..7 {
        bench.publish_text("t", &n.to_string()).await;
        bench.publish_text("other", "x").await;
    }
    for (filter, _) in bench.findable(&[("t", ""), ("t/#", "")]) {
        let pages = bench.fetch(&bench.client("c"), filter).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1], "{filter}");
        assert_eq!(texts(&pages.concat()), ["0", "1", "2", "3", "4", "5", "6"]);
    }
    // Six: the last page is full, and then there is nothing.
    let last = bench.stored("t").await.pop().unwrap();
    bench.look().delete_message(&last.topic, &last.id).await;
    let pages = bench.fetch(&bench.client("c"), "t").await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
}

pub(crate) async fn a_time_range_bounds_the_age(factory: &'static dyn Factory) {
    let fetch = r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch"}, "offline_opts": {"time_range": "2h"}, "pool": "pool1"}"##;
    let bench = Bench::new(factory, &[PUBLISH, fetch]).await;
    for (age_ms, text) in [(3 * 3_600_000, "old"), (3_600_000, "recent"), (0, "now")] {
        let message = Message { timestamp_ms: now_ms() - age_ms, ..bench.message("t/a", text, 1) };
        bench.publish(message).await;
    }
    assert_eq!(bench.fetch_texts(&bench.client("c"), "t/a").await, ["recent", "now"]);
    for (filter, _) in bench.findable(&[("t/+", "")]) {
        assert_eq!(bench.fetch_texts(&bench.client("c"), filter).await, ["recent", "now"]);
    }
}

pub(crate) async fn a_wildcard_fetch_filters_by_topic(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Wildcards) {
        return wildcards_find_nothing(factory).await;
    }
    // Without a topic: `#` would not cover `$SYS/#`.
    let lines = [
        r#"message.publish.1 = {"action": {"function": "on_message_store"}}"#,
        r#"session.subscribed.1 = {"action": {"function": "on_message_fetch"}}"#,
        ACKED,
    ];
    let bench = Bench::new(factory, &lines).await;
    let client = bench.client("c");
    let topics = ["a", "a/b", "a/b/c", "ab", "b/b", "a/d/c", "é/b", "$SYS/b", "a/b"];
    let mut sent = Vec::new();
    for (n, topic) in topics.iter().enumerate() {
        sent.push(bench.publish_text(topic, &n.to_string()).await);
    }
    for (filter, expected) in [
        ("#", &["0", "1", "2", "3", "4", "5", "6", "8"][..]),
        ("a/#", &["0", "1", "2", "5", "8"]),
        ("a/+", &["1", "8"]),
        ("+/b", &["1", "4", "6", "8"]),
        ("a/+/c", &["2", "5"]),
        ("é/#", &["6"]),
        ("$SYS/#", &["7"]),
        ("x/#", &[]),
    ] {
        assert_eq!(bench.fetch_texts(&client, filter).await, expected, "{filter}");
    }
    // Every topic has its own position.
    bench.ack(&client, &sent[8], Some(sent[8].id)).await;
    bench.ack(&client, &sent[0], Some(sent[0].id)).await;
    assert_eq!(bench.fetch_texts(&client, "a/#").await, ["2", "5"]);
    assert_eq!(bench.fetch_texts(&bench.client("d"), "a/#").await, ["0", "1", "2", "5", "8"]);
}

pub(crate) async fn a_wildcard_fetch_fills_its_pages(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Wildcards) {
        return wildcards_find_nothing(factory).await;
    }
    let fetch = r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch"}, "offline_opts": {"max_returned_count": 10}, "pool": "pool1"}"##;
    let bench = Bench::new(factory, &[PUBLISH, fetch]).await;
    let mut expected = Vec::new();
    for n in 0..100 {
        // One in ten matches `s/+/x`; all lie in the filter's range of topics.
        let topic = if n % 10 == 0 { format!("s/{n}/x") } else { format!("s/{n}/y") };
        bench.publish_text(&topic, &n.to_string()).await;
        if n % 10 == 0 {
            expected.push(n.to_string());
        }
    }
    let pages = bench.fetch(&bench.client("c"), "s/+/x").await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [10]);
    assert_eq!(texts(&pages.concat()), expected);
}

pub(crate) async fn a_shared_subscription_gets_nothing_stored(factory: &'static dyn Factory) {
    let retained = r##"session.subscribed.2 = {"topic": "#", "action": {"function": "on_retain_lookup"}}"##;
    let bench = Bench::new(factory, &[PUBLISH, FETCH, retained]).await;
    bench.publish_text("t", "x").await;
    let event = Event::SessionSubscribed {
        client: bench.client("c"),
        filter: bench.topic("t").parse().unwrap(),
        qos: QoS::AtLeastOnce,
        shared: true,
    };
    let (result, effects) = bench.raise(event).await;
    assert_eq!(result, Ok(()));
    assert!(effects.is_empty(), "{effects:?}");
}

pub(crate) async fn a_queue_is_emptied_by_acks(factory: &'static dyn Factory) {
    let lines = [
        r#"message.publish.1 = {"topic": "queue/#", "action": {"function": "on_message_store"}}"#,
        r#"session.subscribed.1 = {"topic": "queue/#", "action": {"function": "on_message_fetch_for_queue"}}"#,
        r#"message.acked.1 = {"topic": "queue/#", "action": {"function": "on_message_acked_for_queue"}}"#,
    ];
    let bench = Bench::new(factory, &lines).await;
    let client = bench.client("c");
    let mut sent = Vec::new();
    for n in 1..=3 {
        sent.push(bench.publish_text("queue/a", &n.to_string()).await);
    }
    bench.ack(&client, &sent[1], None).await; // each ack deletes its own message
    assert_eq!(bench.fetch_texts(&bench.client("d"), "queue/a").await, ["1", "3"]);
    bench.ack_event(&client, &sent[0], Some(sent[1].id), false).await;
    for (filter, _) in bench.findable(&[("queue/a", ""), ("queue/+", "")]) {
        assert_eq!(bench.fetch_texts(&client, filter).await, ["3"]);
    }
    assert_eq!(bench.position("c", "queue/a").await, None);
    bench.ack(&client, &sent[2], None).await;
    bench.publish_text("queue/a", "4").await;
    assert_eq!(bench.stored_texts("queue/a").await, ["4"]);
}

/// The documents' names for Redis and DynamoDB: the same work, on the same positions.
pub(crate) async fn one_to_many_functions_do_as_fetch_and_acked(factory: &'static dyn Factory) {
    let lines = [
        PUBLISH,
        r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch_for_pubsub"}}"##,
        r##"message.acked.1 = {"topic": "#", "action": {"function": "on_message_acked_for_pubsub"}}"##,
    ];
    let bench = Bench::new(factory, &lines).await;
    let plain = bench.second(&[FETCH, ACKED]).await;
    let mut sent = Vec::new();
    for n in 1..=4 {
        sent.push(bench.publish_text("news", &n.to_string()).await);
    }
    let (one, two) = (bench.client("one"), bench.client("two"));
    for client in [&one, &two] {
        assert_eq!(bench.fetch_texts(client, "news").await, ["1", "2", "3", "4"]);
    }
    // 2 is acknowledged while 1 is outstanding: the session says so.
    bench.ack(&one, &sent[1], None).await;
    assert_eq!(bench.position("one", "news").await, None);
    bench.ack(&one, &sent[0], Some(sent[1].id)).await;
    assert_eq!(bench.position("one", "news").await, Some(sent[1].id.to_string()));
    bench.ack(&one, &sent[0], Some(sent[0].id)).await;
    assert_eq!(bench.position("one", "news").await, Some(sent[1].id.to_string()), "never back");
    for node in [&bench, &plain] {
        assert_eq!(node.fetch_texts(&one, "news").await, ["3", "4"]);
        assert_eq!(node.fetch_texts(&two, "news").await, ["1", "2", "3", "4"], "a position of its own");
    }
    plain.ack(&one, &sent[2], Some(sent[2].id)).await;
    assert_eq!(bench.fetch_texts(&one, "news").await, ["4"], "on_message_acked moves the same position");
    assert_eq!(bench.stored_texts("news").await, ["1", "2", "3", "4"], "acks delete nothing");
}

/// Nobody waits for such a line, but whoever fetches sees all that was accepted before.
pub(crate) async fn a_fetch_sees_what_was_only_accepted(factory: &'static dyn Factory) {
    let line = r##"message.publish.1 = {"topic": "#", "action": {"function": "on_message_store"}, "ack": "accepted", "pool": "pool1"}"##;
    let bench = Bench::new(factory, &[line, FETCH]).await;
    for (filter, topic) in bench.findable(&[("t", "t"), ("u/+", "u/x")]) {
        let mut expected = Vec::new();
        for n in 0..200 {
            let scope = bench.scope(bench.publishing(bench.message(topic, n.to_string(), n % 3)));
            for action in bench.stores.actions_of(scope.event.hook()) {
                action.run(&scope).await;
            }
            assert_eq!(scope.acks.now_or_never(), Some(Ok(())), "the ack waits for nothing");
            expected.push(n.to_string());
        }
        assert_eq!(bench.fetch_texts(&bench.client("c"), filter).await, expected, "{filter}");
    }
}

pub(crate) async fn keep_latest_keeps_one_message_a_topic(factory: &'static dyn Factory) {
    let lines = [
        r##"message.publish.1 = {"topic": "#", "action": {"function": "on_message_store_keep_latest"}}"##,
        r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch_for_keep_latest"}}"##,
        r##"message.acked.1 = {"topic": "#", "action": {"function": "on_message_acked_for_keep_latest"}}"##,
    ];
    let bench = Bench::new(factory, &lines).await;
    let client = bench.client("c");
    for n in 0..5 {
        bench.publish(bench.message("a", format!("a{n}"), n % 3)).await;
        bench.publish(bench.message("b", format!("b{n}"), n % 3)).await;
    }
    // Many at once, so that several are in one batch.
    let events: Vec<_> = (5..50)
        .map(|n| {
            bench.scope(Event::MessagePublish {
                message: Arc::new(bench.message("a", format!("a{n}"), 1)),
                tenant: Tenant::default(),
            })
        })
        .collect();
    for scope in &events {
        for action in bench.stores.actions_of(scope.event.hook()) {
            action.run(scope).await;
        }
    }
    for scope in events {
        assert_eq!(scope.acks.await, Ok(()));
    }
    assert_eq!(bench.stored_texts("a").await, ["a49"]);
    assert_eq!(bench.stored_texts("b").await, ["b4"]);
    let page = bench.fetch(&client, "a").await.concat();
    assert_eq!(texts(&page), ["a49"]);
    bench.ack(&client, &page[0], Some(page[0].id)).await;
    assert_eq!(bench.fetch_texts(&client, "a").await, Vec::<String>::new());
    assert_eq!(bench.fetch_texts(&bench.client("d"), "a").await, ["a49"], "the message stays");
}

pub(crate) async fn acked_delete_forgets_positions(factory: &'static dyn Factory) {
    let delete = r##"session.unsubscribed.1 = {"topic": "#", "action": {"function": "on_acked_delete"}}"##;
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED, delete]).await;
    let (client, other) = (bench.client("c"), bench.client("d"));
    for topic in ["a", "b/1", "b/2", "b/2/3"] {
        let message = bench.publish_text(topic, topic).await;
        bench.ack(&client, &message, Some(message.id)).await;
        bench.ack(&other, &message, Some(message.id)).await;
    }
    let topics = ["a", "b/1", "b/2", "b/2/3"];
    let kept = async |name: &str| {
        let mut kept = Vec::new();
        for topic in topics {
            if bench.position(name, topic).await.is_some() {
                kept.push(topic);
            }
        }
        kept
    };
    bench.unsubscribe(&client, "a").await;
    assert_eq!(kept("c").await, ["b/1", "b/2", "b/2/3"]);
    bench.unsubscribe(&client, "b/+").await;
    if bench.lacks(Ability::Wildcards) {
        assert_eq!(kept("c").await, ["b/1", "b/2", "b/2/3"], "only exact filters are forgotten");
        bench.unsubscribe(&client, "b/1").await;
        bench.unsubscribe(&client, "b/2").await;
    }
    assert_eq!(kept("c").await, ["b/2/3"]);
    assert_eq!(kept("d").await, topics);
    for topic in ["b/1", "b/2"] {
        assert_eq!(bench.fetch_texts(&client, topic).await, [topic], "from the beginning again");
    }
}

pub(crate) async fn rows_of_other_writers_are_delivered_and_acked(factory: &'static dyn Factory) {
    let lines = [
        r##"message.publish.1 = {"topic": "#", "action": {"function": "on_message_publish"}}"##,
        r#"session.subscribed.1 = {"topic": "queue/#", "action": {"function": "on_message_fetch_for_queue"}}"#,
        r#"message.acked.1 = {"topic": "queue/#", "action": {"function": "on_message_acked_for_queue"}}"#,
    ];
    let bench = Bench::new(factory, &lines).await;
    // The documents' own rows, and one that cannot be delivered.
    let row = |id: &str, payload: &str, qos: &str| Stored {
        id: format!("{id}{}", bench.space()),
        topic: bench.topic("queue/hello"),
        qos: qos.to_owned(),
        ..stored(&bench, "", payload)
    };
    let rows = [
        Stored { time: "1482600312".into(), ..row("53F98F80F66017005000004A60003", "hello", "1") },
        row("6P9NLcJ65VXBbC22sYb4", "other", "2"),
        row("y", "bad qos", "7"),
    ];
    bench.look().put_messages(&rows).await;
    let client = bench.client("c");
    let page = bench.fetch(&client, "queue/hello").await.concat();
    assert_eq!(texts(&page), ["hello", "other"]);
    assert_eq!(page[0].timestamp_ms, 1_482_600_312_000);
    bench.ack(&client, &page[0], Some(page[0].id)).await;
    let ours = bench.publish_text("queue/hello", "ours").await;
    let mut left = bench.fetch_texts(&client, "queue/hello").await;
    left.sort();
    assert_eq!(left, ["other", "ours"]);
    bench.ack(&client, &ours, Some(ours.id)).await;
    bench.ack(&client, &page[1], Some(page[1].id)).await;
    assert_eq!(bench.fetch_texts(&client, "queue/hello").await, Vec::<String>::new());
}

pub(crate) async fn a_page_with_an_unusable_row_is_not_the_last(factory: &'static dyn Factory) {
    let fetch = r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch"}, "offline_opts": {"max_returned_count": 3}, "pool": "pool1"}"##;
    let bench = Bench::new(factory, &[PUBLISH, fetch]).await;
    for n in 0..7 {
        bench.publish_text("t", &n.to_string()).await;
    }
    let spoil = async |payload: &str| {
        let found = bench.stored("t").await.into_iter().find(|m| m.payload == payload).unwrap();
        bench.look().spoil_message(&found.topic, &found.id).await;
    };
    spoil("1").await;
    for (filter, _) in bench.findable(&[("t", ""), ("t/#", "")]) {
        let found = bench.fetch_texts(&bench.client("c"), filter).await;
        assert_eq!(found, ["0", "2", "3", "4", "5", "6"], "{filter}");
    }
    spoil("0").await;
    spoil("2").await;
    let found = bench.fetch_texts(&bench.client("c"), "t").await;
    assert_eq!(found, ["3", "4", "5", "6"], "a page of nothing else");
}

/// Where filters with wildcards cannot be looked up, they find nothing, nothing fails, and loading says so.
async fn wildcards_find_nothing(factory: &'static dyn Factory) {
    let retained = r##"session.subscribed.2 = {"topic": "#", "action": {"function": "on_retain_lookup"}}"##;
    let bench = Bench::new(factory, &[PUBLISH, FETCH, retained]).await;
    let warned = |name: &str| {
        let says = |text: &str| text.contains(name) && text.contains("skips subscriptions with wildcards");
        bench.warnings.iter().any(|warning| says(&warning.message))
    };
    assert!(warned("on_message_fetch") && warned("on_retain_lookup"), "{:?}", bench.warnings);
    bench.publish_text("a/b", "x").await;
    for filter in ["a/#", "a/+", "+/b", "#"] {
        let effects = bench.subscribe(&bench.client("c"), filter).await;
        assert!(effects.is_empty(), "{filter}: the broker's own retained messages are not kept silent");
    }
    assert_eq!(bench.fetch_texts(&bench.client("c"), "a/b").await, ["x"]);
}

/// Another program's message in the topic `t`.
fn stored(bench: &Bench, id: &str, payload: &str) -> Stored {
    Stored {
        id: id.to_owned(),
        topic: bench.topic("t"),
        sender: "other".into(),
        qos: "1".into(),
        retain: false,
        payload: payload.to_owned(),
        time: "1767225600".into(),
    }
}

/// A QoS 2 message that its client sends again, because the answer was lost, is known by its id; and an ack may come twice.
pub(crate) async fn an_operation_written_twice_is_done_once(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    let mut sent = Vec::new();
    for text in ["1", "2"] {
        sent.push(bench.publish(bench.message("t", text, 2)).await);
    }
    for message in [&sent[1], &sent[0], &sent[1]] {
        let again = bench.publish(Message { dup: true, ..Message::clone(message) }).await;
        assert_eq!(again.id, message.id);
    }
    assert_eq!(bench.fetch_texts(&client, "t").await, ["1", "2"]);
    // The newest of its topic is not behind anything, whatever its QoS.
    let third = bench.publish_text("t", "3").await;
    bench.publish(Message::clone(&third)).await;
    assert_eq!(bench.stored_texts("t").await, ["1", "2", "3"]);
    for _ in 0..2 {
        bench.ack(&client, &sent[0], Some(sent[0].id)).await;
    }
    assert_eq!(bench.fetch_texts(&client, "t").await, ["2", "3"]);
}

/// Acks of many clients and messages at a time: each client ends where its last ack was.
pub(crate) async fn acks_at_the_same_time_keep_every_position(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let mut sent = Vec::new();
    for n in 0..20 {
        sent.push(bench.publish_text("t", &n.to_string()).await);
    }
    let clients: Vec<_> = (0..10).map(|n| bench.client(&format!("c{n}"))).collect();
    let acks = clients.iter().enumerate().flat_map(|(n, client)| {
        let bench = &bench;
        sent.iter().take(n + 5).rev().map(move |message| bench.ack(client, message, Some(message.id)))
    });
    futures_util::future::join_all(acks).await;
    for (n, client) in clients.iter().enumerate() {
        let left: Vec<String> = (n + 5..20).map(|n| n.to_string()).collect();
        assert_eq!(bench.fetch_texts(client, "t").await, left, "{n}");
    }
}

/// The user name that a custom line has stored for a client.
async fn user_of(bench: &Bench, client: &str) -> String {
    let id = bench.client_id(client);
    if bench.lacks(Ability::Commands) {
        let rows = bench.rows("select client, name from who order by rowid desc limit 1").await;
        assert_eq!(rows[0][0], id);
        return rows[0][1].clone();
    }
    let words = vec![b"GET".to_vec(), format!("who:{id}").into_bytes()];
    let replies = bench.stores.commands(&Tenant::default(), "pool1", vec![words]).await.unwrap();
    match &replies[0] {
        Reply::Bytes(name) => String::from_utf8(name.clone()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Texts that mean something in some protocol or language are only data here.
pub(crate) async fn nothing_in_a_name_or_payload_is_taken_for_a_command(factory: &'static dyn Factory) {
    let retain = r##"message.publish.2 = {"topic": "#", "action": {"function": "on_message_retain"}}"##;
    let store = r##"session.subscribed.3 = {"topic": "#", "action": {"function": "on_subscription_store"}}"##;
    let lookup = r#"client.connected.1 = {"action": {"function": "on_subscribe_lookup"}}"#;
    // The only way of a user name into a database is a line that binds it.
    let (tables, who): (&[&str], _) = if factory.lacks(Ability::Commands) {
        let line = r##"session.subscribed.4 = {"topic": "#", "action": {"sql": ["insert into who values(${clientid}, ${username})"]}}"##;
        (&["create table who(client text, name text)"], line)
    } else {
        let line = r##"session.subscribed.4 = {"topic": "#", "action": {"commands": ["SET who:${clientid} ${username}"]}}"##;
        (&[], line)
    };
    let lines = [PUBLISH, retain, FETCH, ACKED, store, lookup, who];
    let bench = Bench::with_tables(factory, tables, &lines).await;
    for nasty in [
        "a b",
        "x\r\n*3\r\n$3\r\nDEL\r\n",
        "'; drop table mqtt_msg; --",
        "\"quotes\" 'and' `more`",
        "a/${payload}",
        "{slot}a:b:c",
        "ü\u{1F600}",
    ] {
        let client = bench.client_of(nasty, nasty);
        bench.subscribe(&client, nasty).await;
        assert_eq!(user_of(&bench, nasty).await, nasty);
        let message = Message { retain: true, sender: nasty.into(), ..bench.message(nasty, nasty, 1) };
        let message = bench.publish(message).await;
        let found = bench.fetch(&client, nasty).await.concat();
        let seen = (&*found[0].payload, found[0].topic.as_str(), &*found[0].sender);
        assert_eq!((found.len(), seen), (1, (nasty.as_bytes(), &*bench.topic(nasty), nasty)));
        bench.ack(&client, &message, Some(message.id)).await;
        assert!(bench.fetch(&client, nasty).await.is_empty(), "{nasty:?}");
        let effects = bench.raise(Event::ClientConnected { client }).await.1;
        assert_eq!(effects.subscriptions, [(bench.topic(nasty).parse().unwrap(), QoS::AtLeastOnce)]);
    }
}
