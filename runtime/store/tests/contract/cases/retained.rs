//! Retained messages.

use tidegate_event::{Message, Origin};

use crate::fixture::{Bench, Factory, pages, texts};

const LINES: [&str; 3] = [
    r#"message.publish.2 = {"action": {"function": "on_message_retain"}}"#,
    r#"message.publish.3 = {"action": {"function": "on_retain_delete"}}"#,
    r#"session.subscribed.2 = {"action": {"function": "on_retain_lookup"}}"#,
];

async fn retain(bench: &Bench, topic: &str, payload: &str) {
    bench.publish(Message { retain: true, ..bench.message(topic, payload.to_owned(), 1) }).await;
}

pub(crate) async fn a_retained_message_is_replaced_and_deleted(factory: &dyn Factory) {
    let bench = Bench::new(factory, &LINES).await;
    bench.publish_text("retain", "not retained").await;
    assert_eq!(bench.rows("select count(*) from mqtt_retain").await, [["0"]]);
    retain(&bench, "retain", "www").await;
    let id = bench.rows("select id from mqtt_retain").await;
    retain(&bench, "retain", "wwww").await;
    let row = "select topic, sender, node, qos, payload from mqtt_retain";
    assert_eq!(bench.rows(row).await, [["retain", "publisher", "NULL", "1", "wwww"]]);
    assert_eq!(bench.rows("select id from mqtt_retain").await, id, "replaced, not added");
    retain(&bench, "other", "").await;
    assert_eq!(bench.rows("select count(*) from mqtt_retain").await, [["1"]]);
    retain(&bench, "retain", "").await;
    assert_eq!(bench.rows("select count(*) from mqtt_retain").await, [["0"]]);
}

pub(crate) async fn a_look_up_finds_what_the_filter_matches(factory: &dyn Factory) {
    let bench = Bench::new(factory, &LINES).await;
    for topic in ["a", "a/b", "a/b/c", "ab", "$SYS/x"] {
        retain(&bench, topic, topic).await;
    }
    let client = bench.client("c");
    for (filter, expected) in [
        ("a", &["a"][..]),
        ("a/#", &["a", "a/b", "a/b/c"]),
        ("+/b", &["a/b"]),
        ("#", &["a", "a/b", "a/b/c", "ab"]),
        ("$SYS/#", &["$SYS/x"]),
        ("x", &[]),
    ] {
        let found = bench.subscribe(&client, filter).await.retained;
        let found =
            found.expect("the broker's own retained messages stay silent, also when nothing was found");
        assert_eq!(texts(&found), expected, "{filter}");
        assert!(found.iter().all(|m| m.retain && m.origin == Origin::RetainedStore));
    }
}

pub(crate) async fn a_large_look_up_goes_on_in_a_backlog(factory: &dyn Factory) {
    let bench = Bench::new(factory, &LINES).await;
    let values: Vec<String> = (0..2_500).map(|n| format!("('r/{n:04}', '{n}', 1)")).collect();
    bench.exec(&format!("insert into mqtt_retain(topic, payload, qos) values {}", values.join(","))).await;
    let mut effects = bench.subscribe(&bench.client("c"), "r/#").await;
    let first = effects.retained.take().unwrap();
    assert!(effects.backlogs.is_empty(), "retained messages are no unread ones");
    effects.backlogs.append(&mut effects.retained_rest);
    let rest = pages(&mut effects).await.concat();
    assert_eq!((first.len(), rest.len()), (1_000, 1_500));
    let all: Vec<_> = first.iter().chain(&rest).map(|m| m.topic.as_str().to_owned()).collect();
    assert!(all.is_sorted_by(|a, b| a < b));
}
