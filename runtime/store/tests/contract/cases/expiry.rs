//! `expired_time`: what a line writes is gone after it, and nothing else is.

use std::time::Duration;

use tidegate_event::{Event, Message};

use super::messages::{ACKED, FETCH, PUBLISH};
use crate::fixture::{Ability, Bench, Factory};

/// What is written for a second is gone after so long.
const GONE: Duration = Duration::from_millis(1_500);

const RETAIN: &str = r##"message.publish.2 = {"topic": "#", "action": {"function": "on_message_retain"}}"##;
const RETAINED: &str =
    r##"session.subscribed.2 = {"topic": "#", "action": {"function": "on_retain_lookup"}}"##;
const STORE_SUBSCRIPTION: &str =
    r##"session.subscribed.3 = {"topic": "#", "action": {"function": "on_subscription_store"}}"##;
const CONNECTED: &str = r#"client.connected.1 = {"action": {"function": "on_client_connected"}}"#;

/// The same line, for what lives only so many seconds.
fn lives(line: &str, seconds: u64) -> String {
    line.replace("}}", &format!("}}, \"expired_time\": {seconds}, \"pool\": \"pool1\"}}"))
}

/// A node on the database of `bench` whose messages live only so many seconds.
async fn beside(bench: &Bench, seconds: u64) -> Bench {
    bench.second(&[&lives(PUBLISH, seconds)]).await
}

/// A back end whose rows stay until they are deleted says at load that the option has no effect.
fn says_that_all_stays(bench: &Bench) -> bool {
    let lacks = bench.lacks(Ability::Expiry);
    let says = bench.warnings.iter().any(|warning| warning.message.contains("accepted, no effect"));
    assert_eq!(lacks, says, "{:?}", bench.warnings);
    lacks
}

pub(crate) async fn what_a_line_writes_expires(factory: &'static dyn Factory) {
    let lines = [
        &*lives(PUBLISH, 1),
        &lives(RETAIN, 1),
        FETCH,
        ACKED,
        RETAINED,
        r#"message.publish.3 = {"topic": "stays/#", "action": {"function": "on_message_store"}}"#,
    ];
    let bench = Bench::new(factory, &lines).await;
    let client = bench.client("c");
    let retained = Message { retain: true, ..bench.message("t", "gone soon", 1) };
    bench.publish(retained).await;
    if says_that_all_stays(&bench) {
        return;
    }
    bench.publish(bench.message("stays/a", "stays", 0)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["gone soon"]);
    tokio::time::sleep(GONE).await;
    let effects = bench.subscribe(&client, "t").await;
    assert!(effects.retained.is_some_and(|found| found.is_empty()));
    assert!(bench.fetch(&client, "t").await.is_empty());
    assert!(bench.look().retained(&bench.topic("t")).await.is_none());
    assert_eq!(bench.fetch_texts(&client, "stays/a").await, ["stays"]);
}

/// What names a topic's messages must not go with the first of them that does.
pub(crate) async fn a_message_that_stays_outlives_a_younger_one_with_a_time(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let brief = beside(&bench, 1).await;
    bench.publish_text("t", "stays").await;
    brief.publish_text("t", "gone soon").await;
    let client = bench.client("c");
    assert_eq!(bench.fetch_texts(&client, "t").await, ["stays", "gone soon"]);
    if says_that_all_stays(&brief) {
        return;
    }
    tokio::time::sleep(GONE).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["stays"]);
    assert_eq!(bench.stored_texts("t").await, ["stays"]);
}

pub(crate) async fn a_message_that_stays_outlives_an_older_one_with_a_time(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[PUBLISH, FETCH, ACKED]).await;
    let brief = beside(&bench, 1).await;
    brief.publish_text("t", "gone soon").await;
    bench.publish_text("t", "stays").await;
    let client = bench.client("c");
    assert_eq!(bench.fetch_texts(&client, "t").await, ["gone soon", "stays"]);
    if says_that_all_stays(&brief) {
        return;
    }
    tokio::time::sleep(GONE).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["stays"]);
    assert_eq!(bench.stored_texts("t").await, ["stays"]);
}

pub(crate) async fn a_longer_time_is_not_cut_by_a_shorter_one(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[&*lives(PUBLISH, 60), FETCH]).await;
    let brief = beside(&bench, 1).await;
    for (topic, order) in [("long/first", [&bench, &brief]), ("short/first", [&brief, &bench])] {
        for node in order {
            let text = if std::ptr::eq(node, &raw const bench) { "a minute" } else { "a second" };
            node.publish_text(topic, text).await;
        }
    }
    if says_that_all_stays(&bench) {
        return;
    }
    tokio::time::sleep(GONE).await;
    for topic in ["long/first", "short/first"] {
        assert_eq!(bench.fetch_texts(&bench.client("c"), topic).await, ["a minute"], "{topic}");
    }
}

/// The other lines that write: client states, positions, subscriptions.
pub(crate) async fn states_positions_and_subscriptions_expire(factory: &'static dyn Factory) {
    let lines = [CONNECTED, PUBLISH, ACKED, STORE_SUBSCRIPTION];
    let brief = [CONNECTED, ACKED, STORE_SUBSCRIPTION].map(|line| lives(line, 2));
    let brief: Vec<&str> = brief.iter().map(|line| &**line).collect();
    let bench = Bench::new(factory, &lines).await;
    // A name of its own: other tests look at the clients of the usual node, which would expire with this one.
    let node = format!("{}@127.0.0.3", bench.client_id("brief"));
    let brief = bench.beside(&node, &brief).await;
    let message = bench.publish_text("t", "x").await;
    for (bench, client) in [(&bench, "stays"), (&brief, "gone")] {
        let client = bench.client(client);
        bench.raise(Event::ClientConnected { client: client.clone() }).await.0.unwrap();
        bench.subscribe(&client, "t").await;
        bench.ack(&client, &message, Some(message.id)).await;
    }
    let written = async |bench: &Bench, client: &str| {
        let (look, id) = (bench.look(), bench.client_id(client));
        let state = look.state(&id).await.map(|state| state.state);
        let position = bench.position(client, "t").await;
        (state, position, look.subscriptions(&id).await.len())
    };
    let all = (Some("1".to_owned()), Some(message.id.to_string()), 1);
    assert_eq!(written(&brief, "gone").await, all);
    if says_that_all_stays(&brief) {
        return;
    }
    tokio::time::sleep(GONE + Duration::from_secs(1)).await;
    assert_eq!(written(&brief, "gone").await, (None, None, 0));
    assert_eq!(written(&bench, "stays").await, all, "what has no time stays");
}

/// A newer row, state or position of a line without a time does not go with the older one in its place.
pub(crate) async fn what_is_written_again_without_a_time_stays(factory: &'static dyn Factory) {
    let lines = [CONNECTED, PUBLISH, RETAIN, ACKED, RETAINED, STORE_SUBSCRIPTION];
    let brief = [CONNECTED, RETAIN, ACKED, STORE_SUBSCRIPTION].map(|line| lives(line, 1));
    let brief: Vec<&str> = brief.iter().map(|line| &**line).collect();
    let bench = Bench::new(factory, &lines).await;
    let node = format!("{}@127.0.0.4", bench.client_id("brief"));
    let brief = bench.beside(&node, &brief).await;
    let client = bench.client("c");
    for (node, text) in [(&brief, "replaced"), (&bench, "stays")] {
        let message = Message { retain: true, ..node.message("t", text, 1) };
        let message = node.publish(message).await;
        node.raise(Event::ClientConnected { client: client.clone() }).await.0.unwrap();
        node.subscribe(&client, "t").await;
        node.ack(&client, &message, Some(message.id)).await;
    }
    says_that_all_stays(&brief);
    tokio::time::sleep(GONE).await;
    let retained = bench.subscribe(&bench.client("d"), "t").await.retained.unwrap();
    assert_eq!(crate::fixture::texts(&retained), ["stays"]);
    let (look, id) = (bench.look(), bench.client_id("c"));
    assert_eq!(look.state(&id).await.map(|state| state.state).as_deref(), Some("1"));
    assert_eq!(look.subscriptions(&id).await.len(), 1);
    let stored = bench.stored("t").await;
    assert_eq!(bench.position("c", "t").await.as_deref(), stored.last().map(|last| &*last.id));
}
