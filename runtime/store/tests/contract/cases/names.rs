//! Names that meet: a topic may be called like a message, and some back ends keep both under one key.
//!
//! Such a back end must refuse the second of the two, with words that say why, and keep the first as it is. One that
//! has room for both keeps both.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tidegate_event::{AckError, Event, Message, QoS};

use super::messages::{ACKED, FETCH, PUBLISH};
use crate::fixture::{Bench, Factory, texts};

const RETAIN: &str = r##"message.publish.2 = {"topic": "#", "action": {"function": "on_message_retain"}}"##;

/// The message under another topic, which is not one of this bench.
fn in_topic(topic: &str, message: Message) -> Message {
    Message { topic: topic.parse().unwrap(), ..message }
}

/// Publishes; a refusal must say why and become a dead letter. Gives whether it was stored.
async fn publish(bench: &Bench, message: Message) -> bool {
    let payload = message.payload.clone();
    match bench.raise(bench.publishing(message)).await.0 {
        Ok(()) => true,
        Err(AckError::Refused { connector, reason, .. }) => {
            assert_eq!(connector, bench.connector());
            assert!(
                reason.contains("holds another kind of value") && reason.contains("mqtt:msg:"),
                "{reason}"
            );
            let letters = std::fs::read_to_string(bench.dir.path().join("dead-letters.jsonl")).unwrap();
            let letters =
                letters.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let kept = STANDARD.encode(&payload);
            assert!(letters.into_iter().any(|letter| letter["payload"] == *kept), "it is a dead letter");
            false
        }
        Err(other) => panic!("{other}"),
    }
}

/// What a client gets that subscribes to a topic which is not one of this bench; an error of the store in words.
async fn fetch(bench: &Bench, topic: &str) -> Result<Vec<String>, String> {
    let (client, filter) = (bench.client("c"), topic.parse().unwrap());
    let event = Event::SessionSubscribed { client, filter, qos: QoS::AtLeastOnce, shared: false };
    let (result, mut effects) = bench.raise(event).await;
    assert_eq!(result, Ok(()));
    let mut found = Vec::new();
    for backlog in &mut effects.backlogs {
        loop {
            match backlog.next_page().await {
                Ok(page) if page.is_empty() => break,
                Ok(page) => found.extend(texts(&page)),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
    Ok(found)
}

pub(crate) async fn a_topic_that_is_called_like_a_stored_message_harms_nothing(
    factory: &'static dyn Factory,
) {
    let bench = Bench::new(factory, &[PUBLISH, RETAIN, FETCH, ACKED]).await;
    let first = bench.publish_text("t", "first").await;
    let name = first.id.to_string();
    let stored = publish(&bench, in_topic(&name, bench.message("t", "in the named topic", 1))).await;
    let found = fetch(&bench, &name).await;
    if stored {
        assert_eq!(found, Ok(vec!["in the named topic".to_owned()]));
    } else {
        let words = found.unwrap_err();
        assert!(words.contains("holds another kind of value") && words.contains(&name), "{words}");
    }
    // The message whose name it was, and those after it, are as they were.
    bench.publish_text("t", "second").await;
    let client = bench.client("c");
    let page = bench.fetch(&client, "t").await.concat();
    assert_eq!(texts(&page), ["first", "second"]);
    bench.ack(&client, &page[0], Some(page[0].id)).await;
    assert_eq!(bench.fetch_texts(&client, "t").await, ["second"]);
}

/// Stores a message whose name a topic has taken, between two others of `topic`, with these lines and one that fetches.
/// Gives what a client gets, and whether the message was stored. The topic that is called like it must be as it was.
async fn meets_a_topic(factory: &'static dyn Factory, store: &str, topic: &str) -> (Vec<String>, bool) {
    let lines = [
        store,
        r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch_for_queue"}}"##,
        r##"message.acked.1 = {"topic": "queue/#", "action": {"function": "on_message_acked_for_queue"}}"##,
    ];
    let bench = Bench::new(factory, &lines).await;
    // A node that stores every topic: the name of this one does not begin as those of the bench.
    let wide = bench.second(&[PUBLISH]).await;
    bench.publish_text(topic, "before").await;
    let late = bench.message(topic, "late", 1);
    let name = late.id.to_string();
    assert!(publish(&wide, in_topic(&name, wide.message("x", "in the named topic", 1))).await);
    let stored = publish(&bench, late).await;
    bench.publish_text(topic, "after").await;
    let client = bench.client("c");
    let found = bench.fetch(&client, topic).await.concat();
    for message in &found {
        bench.ack(&client, message, Some(message.id)).await;
    }
    assert_eq!(fetch(&bench, &name).await, Ok(vec!["in the named topic".to_owned()]), "{topic}");
    (texts(&found), stored)
}

pub(crate) async fn a_message_that_is_called_like_a_topic_harms_nothing(factory: &'static dyn Factory) {
    let store = r#"message.publish.1 = {"topic": "queue/#", "action": {"function": "on_message_publish"}}"#;
    let (found, stored) = meets_a_topic(factory, store, "queue/a").await;
    let expected: &[&str] = if stored { &["before", "late", "after"] } else { &["before", "after"] };
    assert_eq!(found, expected);
}

pub(crate) async fn a_refused_message_that_is_replaced_takes_nothing_with_it(factory: &'static dyn Factory) {
    let store = r#"message.publish.1 = {"topic": "latest/#", "action": {"function": "on_message_store_keep_latest"}}"#;
    assert_eq!(meets_a_topic(factory, store, "latest/a").await.0, ["after"]);
}
