//! Retained messages.

use tidegate_event::{Message, Origin};

use crate::fixture::{Ability, Bench, Factory, pages, texts};

const LINES: [&str; 3] = [
    r#"message.publish.2 = {"action": {"function": "on_message_retain"}}"#,
    r#"message.publish.3 = {"action": {"function": "on_retain_delete"}}"#,
    r#"session.subscribed.2 = {"action": {"function": "on_retain_lookup"}}"#,
];

async fn retain(bench: &Bench, topic: &str, payload: &str) {
    bench.publish(Message { retain: true, ..bench.message(topic, payload.to_owned(), 1) }).await;
}

pub(crate) async fn a_retained_message_is_replaced_and_deleted(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &LINES).await;
    bench.publish_text("retain", "not retained").await;
    let now = async |topic: &str| bench.look().retained(&bench.topic(topic)).await;
    assert_eq!(now("retain").await, None);
    retain(&bench, "retain", "www").await;
    retain(&bench, "retain", "wwww").await;
    let found = now("retain").await.unwrap();
    assert_eq!(
        (&*found.topic, &*found.sender, &*found.qos, found.retain, &*found.payload),
        (&*bench.topic("retain"), "publisher", "1", true, "wwww")
    );
    retain(&bench, "other", "").await;
    assert_eq!(now("retain").await, Some(found), "another topic");
    retain(&bench, "retain", "").await;
    assert_eq!(now("retain").await, None);
}

pub(crate) async fn a_look_up_finds_what_the_filter_matches(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &LINES).await;
    if bench.lacks(Ability::Wildcards) {
        retain(&bench, "a", "x").await;
        for (filter, expected) in [("a", &["x"][..]), ("none", &[])] {
            let found = bench.subscribe(&bench.client("c"), filter).await.retained;
            assert_eq!(texts(&found.unwrap()), expected, "{filter}");
        }
        let found = bench.subscribe(&bench.client("c"), "+").await.retained;
        assert!(found.is_none(), "the broker's own retained messages speak");
        return;
    }
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

pub(crate) async fn a_large_look_up_goes_on_in_a_backlog(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &LINES).await;
    if bench.lacks(Ability::Wildcards) {
        // An exact filter has one message at the most: there is never a rest.
        retain(&bench, "r/1", "x").await;
        let effects = bench.subscribe(&bench.client("c"), "r/1").await;
        assert_eq!((effects.retained.unwrap().len(), effects.retained_rest.len()), (1, 0));
        return;
    }
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
