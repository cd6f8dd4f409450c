//! Stored messages: storing, fetching, positions, queues.

use std::sync::Arc;

use tidegate_event::{Event, Message, Origin, QoS, Tenant, now_ms};

use crate::fixture::{Bench, Factory, pages, texts};

const PUBLISH: &str = r##"message.publish.1 = {"topic": "#", "action": {"function": "on_message_publish"}}"##;
const STORE: &str = r##"message.publish.4 = {"topic": "#", "action": {"function": "on_message_store"}}"##;
const FETCH: &str = r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch"}}"##;
const ACKED: &str = r##"message.acked.1 = {"topic": "#", "action": {"function": "on_message_acked"}}"##;

pub(crate) async fn publish_stores_qos_1_and_2_only(factory: &dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH]).await;
    let mut ids = Vec::new();
    for qos in 0..=2 {
        ids.push(bench.publish(bench.message("hello", format!("qos {qos}"), qos)).await.id.to_string());
    }
    let rows = "select id, msgid, topic, sender, node, qos, retain, payload from mqtt_msg order by id";
    assert_eq!(
        bench.rows(rows).await,
        [
            ["1", &ids[1], "hello", "publisher", "NULL", "1", "0", "qos 1"],
            ["2", &ids[2], "hello", "publisher", "NULL", "2", "0", "qos 2"]
        ]
    );
    let arrived = bench.rows("select arrived from mqtt_msg limit 1").await.concat().concat();
    assert!(arrived.len() == 19 && arrived.starts_with("20") && arrived.contains(' '), "{arrived}");
}

pub(crate) async fn store_stores_every_qos_and_once_beside_publish(factory: &dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, STORE]).await;
    assert!(bench.warnings.iter().any(|w| w.message.contains("stored once")), "{:?}", bench.warnings);
    for qos in 0..=2 {
        bench.publish(bench.message("hello", format!("qos {qos}"), qos)).await;
    }
    assert_eq!(
        bench.rows("select payload from mqtt_msg order by id").await,
        [["qos 0"], ["qos 1"], ["qos 2"]]
    );
}

pub(crate) async fn payloads_are_bytes(factory: &dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH]).await;
    let payloads: [&[u8]; 6] = [b"hello", "größe".as_bytes(), b"", b"\0", b"a\0b", b"\xff\xfe\x00"];
    for payload in payloads {
        bench.publish(bench.message("t", payload.to_vec(), 1)).await;
    }
    let found = bench.fetch(&bench.client("c"), "t").await.concat();
    let found: Vec<&[u8]> = found.iter().map(|m| &*m.payload).collect();
    assert_eq!(found, payloads);
    assert_eq!(bench.rows("select topic from mqtt_msg where payload = 'hello'").await, [["t"]]);
}

pub(crate) async fn two_subscribers_have_their_own_positions(factory: &dyn Factory) {
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
    assert_eq!(
        bench
            .rows("select clientid, topic, mid, created is not null from mqtt_acked order by clientid")
            .await,
        [["one", "news", "2", "1"], ["two", "news", "3", "1"]]
    );
    let fetched = bench.fetch(&one, "news").await.concat();
    assert_eq!((fetched[0].id, fetched[0].origin), (sent[2].id, Origin::Fetched));
    assert_eq!((fetched[0].qos, &*fetched[0].sender), (QoS::AtLeastOnce, "publisher"));
    assert_eq!(fetched[0].timestamp_ms, sent[2].id.micros() / 1_000);
}

pub(crate) async fn a_position_waits_for_the_oldest_unacked_message(factory: &dyn Factory) {
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

pub(crate) async fn a_position_never_goes_back(factory: &dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    let (first, second) = (bench.publish_text("t", "1").await, bench.publish_text("t", "2").await);
    bench.ack(&client, &second, Some(second.id)).await;
    bench.ack(&client, &first, Some(first.id)).await;
    assert_eq!(bench.rows("select mid from mqtt_acked").await, [["2"]]);
    let before = bench.rows("select created from mqtt_acked").await;
    let third = bench.publish_text("t", "3").await;
    bench.ack(&client, &third, Some(third.id)).await;
    assert_eq!(bench.rows("select mid from mqtt_acked").await, [["3"]]);
    assert_eq!(bench.rows("select created from mqtt_acked").await, before, "an update keeps it");
}

/// Messages of several publishers may be stored in another order than that of their ids.
pub(crate) async fn a_position_passes_no_older_row_of_a_newer_message(factory: &dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    let drafts = ["1", "2", "3", "4"].map(|text| bench.message("t", text, 1));
    let [one, two, three, four] = drafts;
    let two = bench.publish(two).await;
    let one = bench.publish(one).await;
    let four = bench.publish(four).await;
    let three = bench.publish(three).await;
    bench.ack(&client, &one, Some(one.id)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["2", "1", "4", "3"], "2 is not acknowledged");
    bench.ack(&client, &two, Some(two.id)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["4", "3"]);
    bench.ack(&client, &three, Some(three.id)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["4", "3"]);
    bench.ack(&client, &four, Some(four.id)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, Vec::<String>::new());
}

/// A backlog whose last page had been given stayed at its end for ever: messages that were lost while the client
/// took that page were never read.
pub(crate) async fn a_backlog_asked_again_gives_what_was_stored_since(factory: &dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    for (filter, topic) in [("t", "t"), ("u/+", "u/x")] {
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
pub(crate) async fn a_position_moves_over_any_number_of_rows(factory: &dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    let values: Vec<String> = (1..=2_500)
        .map(|n| format!("('{:032X}', 't', 1, '{n}', '2026-01-01 00:00:00')", (1_u128 << 80) + n))
        .collect();
    bench
        .exec(&format!(
            "insert into mqtt_msg(msgid, topic, qos, payload, arrived) values {}",
            values.join(",")
        ))
        .await;
    let last = bench.publish_text("t", "last").await;
    bench.ack(&client, &last, Some(last.id)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, Vec::<String>::new());
}

/// An id that only looks like one of ours is known by its row, also by the statement that moves positions.
pub(crate) async fn a_position_passes_rows_of_foreign_form(factory: &dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    for (number, id) in
        ["'9f86d081884c7d659a2feaa0c55ad015'", "'0000000000000000000000000000FFFF'", "'x'", "NULL"]
            .iter()
            .enumerate()
    {
        bench
            .exec(&format!(
                "insert into mqtt_msg(msgid, topic, qos, payload, arrived) \
                 values ({id}, 't', 1, 'f{number}', '2026-01-01 00:00:00')"
            ))
            .await;
    }
    bench.publish_text("t", "own").await;
    let found = bench.fetch(&client, "t").await.concat();
    assert_eq!(texts(&found), ["f0", "f1", "f2", "f3", "own"]);
    for (index, message) in found.iter().enumerate() {
        bench.ack(&client, message, Some(message.id)).await;
        assert_eq!(bench.fetch(&client, "t").await.concat().len(), 4 - index);
    }
}

pub(crate) async fn an_ack_of_an_unstored_message_moves_to_the_newest_stored_one(factory: &dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let client = bench.client("c");
    bench.publish_text("t", "stored").await;
    let unstored = bench.publish(bench.message("t", "not stored", 0)).await;
    bench.publish_text("t", "later").await;
    bench.ack_event(&client, &unstored, Some(unstored.id), false).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["later"]);
    let nothing = bench.publish(bench.message("never/stored", "x", 0)).await;
    bench.ack_event(&client, &nothing, Some(nothing.id), false).await;
    assert_eq!(bench.rows("select topic from mqtt_acked").await, [["t"]]);
}

pub(crate) async fn a_backlog_comes_in_pages(factory: &dyn Factory) {
    let fetch = r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch"}, "offline_opts": {"max_returned_count": 3}, "pool": "pool1"}"##;
    let bench = Bench::new(factory, &[PUBLISH, fetch]).await;
    for n in 0..7 {
        bench.publish_text("t", &n.to_string()).await;
        bench.publish_text("other", "x").await;
    }
    for filter in ["t", "t/#"] {
        let pages = bench.fetch(&bench.client("c"), filter).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1], "{filter}");
        assert_eq!(texts(&pages.concat()), ["0", "1", "2", "3", "4", "5", "6"]);
    }
    // Six: the last page is full, and then there is nothing.
    bench.exec("delete from mqtt_msg where payload = '6'").await;
    let pages = bench.fetch(&bench.client("c"), "t").await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
}

pub(crate) async fn a_time_range_bounds_the_age(factory: &dyn Factory) {
    let fetch = r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch"}, "offline_opts": {"time_range": "2h"}, "pool": "pool1"}"##;
    let bench = Bench::new(factory, &[PUBLISH, fetch]).await;
    for (age_ms, text) in [(3 * 3_600_000, "old"), (3_600_000, "recent"), (0, "now")] {
        let message = Message { timestamp_ms: now_ms() - age_ms, ..bench.message("t/a", text, 1) };
        bench.publish(message).await;
    }
    assert_eq!(bench.fetch_texts(&bench.client("c"), "t/a").await, ["recent", "now"]);
    assert_eq!(bench.fetch_texts(&bench.client("c"), "t/+").await, ["recent", "now"]);
}

pub(crate) async fn a_wildcard_fetch_filters_by_topic(factory: &dyn Factory) {
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

pub(crate) async fn a_wildcard_fetch_fills_its_pages(factory: &dyn Factory) {
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

pub(crate) async fn a_shared_subscription_gets_nothing_stored(factory: &dyn Factory) {
    let retained = r##"session.subscribed.2 = {"topic": "#", "action": {"function": "on_retain_lookup"}}"##;
    let bench = Bench::new(factory, &[PUBLISH, FETCH, retained]).await;
    bench.publish_text("t", "x").await;
    let event = Event::SessionSubscribed {
        client: bench.client("c"),
        filter: "t".parse().unwrap(),
        qos: QoS::AtLeastOnce,
        shared: true,
    };
    let (result, effects) = bench.raise(event).await;
    assert_eq!(result, Ok(()));
    assert!(effects.is_empty(), "{effects:?}");
}

pub(crate) async fn a_queue_is_emptied_by_acks(factory: &dyn Factory) {
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
    assert_eq!(bench.fetch_texts(&client, "queue/+").await, ["3"]);
    assert_eq!(bench.rows("select count(*) from mqtt_acked").await, [["0"]]);
    // A row number is never used again, so positions of other functions stay true.
    bench.ack(&client, &sent[2], None).await;
    bench.publish_text("queue/a", "4").await;
    assert_eq!(bench.rows("select id, payload from mqtt_msg").await, [["4", "4"]]);
}

pub(crate) async fn keep_latest_keeps_one_message_a_topic(factory: &dyn Factory) {
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
    assert_eq!(bench.rows("select payload from mqtt_msg order by payload").await, [["a49"], ["b4"]]);
    let page = bench.fetch(&client, "a").await.concat();
    assert_eq!(texts(&page), ["a49"]);
    bench.ack(&client, &page[0], Some(page[0].id)).await;
    assert_eq!(bench.fetch_texts(&client, "a").await, Vec::<String>::new());
    assert_eq!(bench.fetch_texts(&bench.client("d"), "a").await, ["a49"], "the message stays");
}

pub(crate) async fn acked_delete_forgets_positions(factory: &dyn Factory) {
    let delete = r##"session.unsubscribed.1 = {"topic": "#", "action": {"function": "on_acked_delete"}}"##;
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED, delete]).await;
    let (client, other) = (bench.client("c"), bench.client("d"));
    for topic in ["a", "b/1", "b/2", "b/2/3"] {
        let message = bench.publish_text(topic, topic).await;
        bench.ack(&client, &message, Some(message.id)).await;
        bench.ack(&other, &message, Some(message.id)).await;
    }
    let mine = "select topic from mqtt_acked where clientid = 'c' order by topic";
    bench.unsubscribe(&client, "a").await;
    assert_eq!(bench.rows(mine).await, [["b/1"], ["b/2"], ["b/2/3"]]);
    bench.unsubscribe(&client, "b/+").await;
    assert_eq!(bench.rows(mine).await, [["b/2/3"]]);
    assert_eq!(bench.rows("select count(*) from mqtt_acked where clientid = 'd'").await, [["4"]]);
    assert_eq!(bench.fetch_texts(&client, "b/#").await, ["b/1", "b/2"], "from the beginning again");
}

pub(crate) async fn rows_of_other_writers_are_delivered_and_acked(factory: &dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    // The documents' own rows, one without an id, and two that cannot be delivered.
    for values in [
        "'53F98F80F66017005000004A60003', 'hello', 'test', 1, 0, 'hello', '2016-12-24 17:25:12'",
        "null, 'hello', null, 1, 0, 'none', '2016-12-24 17:25:45'",
        "'x', '', 'test', 1, 0, 'bad topic', '2016-12-24 17:25:45'",
        "'y', 'hello', 'test', 7, 0, 'bad qos', '2016-12-24 17:25:45'",
        "'53F98F9FE42AD7005000004A60004', 'hello', 'test', 2, 0, null, '2016-12-24 17:25:45'",
    ] {
        let sql = "insert into mqtt_msg(msgid, topic, sender, qos, retain, payload, arrived) values";
        bench.exec(&format!("{sql} ({values})")).await;
    }
    let client = bench.client("c");
    let page = bench.fetch(&client, "hello").await.concat();
    assert_eq!(texts(&page), ["hello", "none", ""]);
    assert_eq!(page[0].timestamp_ms, 1_482_600_312_000);
    bench.ack(&client, &page[0], Some(page[0].id)).await;
    assert_eq!(bench.rows("select mid from mqtt_acked").await, [["1"]]);
    assert_eq!(bench.fetch_texts(&client, "hello").await, ["none", ""]);
    let ours = bench.publish_text("hello", "ours").await;
    bench.ack(&client, &ours, Some(ours.id)).await;
    assert_eq!(bench.fetch_texts(&client, "hello").await, Vec::<String>::new());
}

pub(crate) async fn a_page_with_an_unusable_row_is_not_the_last(factory: &dyn Factory) {
    let fetch = r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch"}, "offline_opts": {"max_returned_count": 3}, "pool": "pool1"}"##;
    let bench = Bench::new(factory, &[PUBLISH, fetch]).await;
    for n in 0..7 {
        bench.publish_text("t", &n.to_string()).await;
    }
    bench.exec("update mqtt_msg set qos = 3 where payload = '1'").await;
    for filter in ["t", "t/#"] {
        assert_eq!(
            bench.fetch_texts(&bench.client("c"), filter).await,
            ["0", "2", "3", "4", "5", "6"],
            "{filter}"
        );
    }
    bench.exec("update mqtt_msg set qos = 3 where id <= 3").await;
    assert_eq!(
        bench.fetch_texts(&bench.client("c"), "t").await,
        ["3", "4", "5", "6"],
        "a page of nothing else"
    );
}
