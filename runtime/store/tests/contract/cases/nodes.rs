//! Two nodes, and two clients, on one database at the same time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join, join_all};

use super::messages::{ACKED, FETCH, PUBLISH};
use crate::fixture::{Bench, Factory, texts};

/// What each of two nodes publishes.
const EACH: usize = 500;

/// Two nodes store on one database: everything arrives, and the order of each node's messages is kept.
pub(crate) async fn two_nodes_share_a_database(factory: &'static dyn Factory) {
    let lines = [PUBLISH, FETCH, ACKED];
    let first = Bench::new(factory, &lines).await;
    let second = first.second(&lines).await;
    for n in 0..20 {
        first.publish_text("t", &format!("a{n:02}")).await;
        second.publish_text("t", &format!("b{n:02}")).await;
    }
    for bench in [&first, &second] {
        let found = bench.fetch(&bench.client("c"), "t").await.concat();
        assert_eq!(found.len(), 40);
        for node in ["a", "b"] {
            let of_node: Vec<String> =
                texts(&found).into_iter().filter(|text| text.starts_with(node)).collect();
            assert_eq!(of_node.len(), 20);
            assert!(of_node.is_sorted(), "{of_node:?}");
        }
    }
    let last = first.fetch(&first.client("c"), "t").await.concat().pop().unwrap();
    second.ack(&second.client("c"), &last, Some(last.id)).await;
    assert!(first.fetch(&first.client("c"), "t").await.is_empty(), "positions belong to both");
}

/// Both publish all at once, and a client's acks come from both while they do.
pub(crate) async fn two_nodes_publish_and_acknowledge_at_the_same_time(factory: &'static dyn Factory) {
    let lines = [PUBLISH, FETCH, ACKED];
    let first = Bench::new(factory, &lines).await;
    let second = first.second(&lines).await;
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let node = async |bench: &Bench, name: &str| {
        let client = bench.client("c");
        // Made in order, published at once.
        let drafts: Vec<_> = (0..EACH).map(|n| bench.message("t", format!("{name}{n:03}"), 1)).collect();
        let all = drafts.into_iter().map(|draft| async {
            let message = bench.publish(draft).await;
            begun.store(true, Ordering::Relaxed);
            bench.ack(&client, &message, Some(message.id)).await;
        });
        join_all(all).await;
    };
    let work = async {
        join(node(&first, "a"), node(&second, "b")).await;
        done.store(true, Ordering::Relaxed);
    };
    let watch = async {
        let mut seen = Vec::new();
        while !done.load(Ordering::Relaxed) {
            if begun.load(Ordering::Relaxed) {
                seen.extend(first.position("c", "t").await);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        seen.extend(second.position("c", "t").await);
        seen
    };
    let ((), seen) = join(work, watch).await;

    let found = second.fetch(&second.client("d"), "t").await.concat();
    assert_eq!(found.len(), 2 * EACH);
    let all = texts(&found);
    for node in ["a", "b"] {
        let of_node: Vec<&String> = all.iter().filter(|text| text.starts_with(node)).collect();
        assert_eq!(of_node.len(), EACH);
        assert!(of_node.is_sorted(), "{of_node:?}");
    }
    let places: HashMap<String, usize> =
        found.iter().enumerate().map(|(place, message)| (message.id.to_string(), place)).collect();
    let places: Vec<usize> = seen.iter().map(|id| places[id]).collect();
    assert!(!places.is_empty() && places.is_sorted(), "a position went back: {places:?}");
    // What both have acknowledged is behind the client, on both.
    let newest = found.iter().max_by_key(|message| message.id).unwrap();
    first.ack(&first.client("c"), newest, Some(newest.id)).await;
    for bench in [&first, &second] {
        assert!(bench.fetch(&bench.client("c"), "t").await.is_empty());
    }
}

/// Both have fetched all of it and acknowledge in opposite orders, each on a node of its own.
pub(crate) async fn a_queue_is_emptied_by_two_clients_at_the_same_time(factory: &'static dyn Factory) {
    let lines = [
        r#"message.publish.1 = {"topic": "queue/#", "action": {"function": "on_message_publish"}}"#,
        r#"session.subscribed.1 = {"topic": "queue/#", "action": {"function": "on_message_fetch_for_queue"}}"#,
        r#"message.acked.1 = {"topic": "queue/#", "action": {"function": "on_message_acked_for_queue"}}"#,
    ];
    let first = Bench::new(factory, &lines).await;
    let second = first.second(&lines).await;
    let drafts: Vec<_> = (0..200).map(|n| first.message("queue/a", format!("{n:03}"), 1)).collect();
    join_all(drafts.into_iter().map(|draft| first.publish(draft))).await;
    let (one, two) = (first.client("one"), second.client("two"));
    let of_one = first.fetch(&one, "queue/a").await.concat();
    let mut of_two = second.fetch(&two, "queue/a").await.concat();
    assert_eq!((of_one.len(), of_two.len()), (200, 200));
    of_two.reverse();
    // The last of each is left: the others are acknowledged by both, while new ones come.
    let acks_of_one = of_one.iter().take(199).skip(1).map(|message| first.ack(&one, message, None));
    let acks_of_two = of_two.iter().take(199).skip(1).map(|message| second.ack(&two, message, None));
    let more: Vec<_> = (0..50).map(|n| first.message("queue/a", format!("new{n:02}"), 1)).collect();
    let more = join_all(more.into_iter().map(|draft| first.publish(draft)));
    join(join(join_all(acks_of_one), join_all(acks_of_two)), more).await;
    let expected: Vec<String> =
        ["000", "199"].map(str::to_owned).into_iter().chain((0..50).map(|n| format!("new{n:02}"))).collect();
    for (bench, client) in [(&first, &one), (&second, &two)] {
        assert_eq!(bench.fetch_texts(client, "queue/a").await, expected);
    }
    let rest = first.fetch(&one, "queue/a").await.concat();
    let both = [(&first, &one), (&second, &two)];
    let acks = both.iter().flat_map(|(bench, client)| rest.iter().map(|m| bench.ack(client, m, None)));
    join_all(acks).await;
    assert_eq!(second.stored_texts("queue/a").await, Vec::<String>::new());
    assert!(second.fetch(&two, "queue/a").await.is_empty());
}
