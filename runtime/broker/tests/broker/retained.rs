//! Retained messages (MQTT 5 clauses 3.3.1.3, 3.8.3.1).

use crate::support::client::{Client, PUBACK};
use crate::support::packet::{self, Connect, Publish};
use crate::support::plain;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_subscriber_gets_what_is_retained() {
    let server = plain().await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for (topic, payload) in [("a/1", "old"), ("a/1", "new"), ("a/2", "two"), ("b", "b"), ("$hidden", "h")] {
        publisher.retain(topic, payload).await;
    }
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe("a/#", 0).await;
    let mut got = [client.take().await, client.take().await];
    got.sort_by(|a, b| a.topic.cmp(&b.topic));
    assert_eq!([got[0].payload.as_str(), got[1].payload.as_str()], ["new", "two"]);
    assert!(got.iter().all(|message| message.retain && message.qos == 0));
    client.ping().await;
    client.subscribe("#", 2).await;
    let mut topics = Vec::new();
    for _ in 0..3 {
        let message = client.take().await;
        assert_eq!(message.qos, 1, "min of the publisher's and the subscription's");
        topics.push(message.topic);
    }
    topics.sort();
    assert_eq!(topics, ["a/1", "a/2", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_retained_message_deletes_and_an_empty_plain_one_does_not() {
    let server = plain().await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.retain("kept", "x").await;
    publisher.retain("gone", "x").await;
    publisher.publish_done("kept", "", 1, 1).await;
    publisher.retain("gone", "").await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe_all(&[("kept", 0), ("gone", 0)]).await;
    assert_eq!(client.take().await.topic, "kept");
    client.ping().await;
}

/// The second subscription took what the first one had not sent yet (clauses 3.8.4 and 3.8.3: as several packets).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_is_twice_in_one_packet_brings_them_twice() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.retain("t", "x").await;
    assert_eq!(client.subscribe_all(&[("t", 1), ("t", 0)]).await, [1, 0]);
    assert_eq!(client.payloads(2).await, ["x", "x"]);
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_subscription_gets_them_again() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.retain("t", "x").await;
    for _ in 0..3 {
        client.subscribe("t", 0).await;
        assert!(client.take().await.retain);
    }
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retain_handling_says_when() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.retain("t", "x").await;
    let handling = |value: u8| value << 4;
    client.subscribe("t", handling(2)).await;
    client.ping().await;
    client.subscribe("t", handling(1)).await;
    client.ping().await;
    client.subscribe("t", handling(0)).await;
    assert!(client.take().await.retain);
    client.subscribe("+", handling(1)).await;
    assert!(client.take().await.retain, "a new subscription");
    client.subscribe("+", handling(1)).await;
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_retained_messages_than_the_queue_holds_all_arrive() {
    let config = tidegate_broker::BrokerConfig { max_queued: 50, max_inflight: 10, ..Default::default() };
    let server = crate::support::with_config(config).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 0..300 {
        publisher.retain(&format!("t/{number}"), "x").await;
    }
    for qos in 0..=2 {
        let mut client = Client::connect(server.address, &Connect::v4("c")).await;
        client.subscribe("t/#", qos).await;
        let mut topics = std::collections::HashSet::new();
        for _ in 0..300 {
            let message = client.take().await;
            assert_eq!(message.qos, qos.min(1));
            topics.insert(message.topic);
        }
        assert_eq!(topics.len(), 300);
        client.ping().await;
    }
}

/// They are looked up a page at a time, as the client takes them: what follows a page must not be forgotten when the
/// client subscribes again meanwhile without wanting them, nor overtaken by a live message of its topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_of_many_pages_arrive_once_and_before_live_ones() {
    let config = tidegate_broker::BrokerConfig { max_queued: 10_000, max_inflight: 10, ..Default::default() };
    let server = crate::support::with_config(config).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 0..1_500 {
        publisher.retain(&format!("{}/{number}", number % 7), "old").await;
    }
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe("#", 1).await;
    client.send(&packet::subscribe(true, 79, &[("#", 1 | 1 << 4)], &[])).await;
    for number in 0..1_500 {
        let topic = format!("{}/{number}", number % 7);
        let draft = publisher.draft(&topic, "new");
        publisher.publish_as(Publish { retain: number % 2 == 0, ..draft }).await;
    }
    publisher.ping().await;
    let (mut old, mut new) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    while new.len() < 1_500 {
        let packet = client.recv().await;
        if packet.kind() == 9 {
            continue;
        }
        let message = packet.published(true);
        if message.qos == 1 {
            client.send(&packet::ack(PUBACK, message.id)).await;
        }
        if message.payload == "old" {
            assert!(!new.contains(&message.topic), "{} came too late", message.topic);
            assert!(old.insert(message.topic.clone()), "{} came twice", message.topic);
        } else {
            assert!(new.insert(message.topic.clone()), "{} came twice", message.topic);
        }
    }
    assert!((750..1_500).contains(&old.len()), "{}: all but those that were replaced", old.len());
    client.ping().await;
}

/// A client could have all retained messages walked over as often as it liked, with twenty bytes each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_in_vain_again_and_again_waits_and_others_do_not() {
    let server = plain().await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 0..20_000 {
        let topic = format!("{number}/a");
        let draft = publisher.draft(&topic, "x");
        publisher.publish_as(Publish { retain: true, ..draft }).await;
        if number % 1_000 == 0 {
            publisher.ping().await;
        }
    }
    publisher.ping().await;
    let mut attacker = Client::connect(server.address, &Connect::v4("attacker")).await;
    let mut vain: Vec<String> = (0..25).map(|number| format!("+/{number}/b")).collect();
    vain.push("19999/+".into());
    let filters: Vec<(&str, u8)> = vain.iter().map(|filter| (filter.as_str(), 0)).collect();
    let begun = std::time::Instant::now();
    attacker.subscribe_all(&filters).await;
    let mut other = Client::connect(server.address, &Connect::v4("other")).await;
    other.subscribe("19999/+", 0).await;
    assert_eq!(other.take().await.topic, "19999/a");
    let took = begun.elapsed();
    // 500,000 levels: as many as in the first second and one and a half more.
    assert_eq!(attacker.take().await.topic, "19999/a");
    assert!(begun.elapsed() > std::time::Duration::from_millis(1_400), "{took:?}, {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_subscription_gets_none() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.retain("t", "x").await;
    client.subscribe("$share/g/t", 0).await;
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_message_expires() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let draft = Publish { qos: 1, id: 1, retain: true, ..client.draft("t", "x") };
    let expiry = [0x02, 0, 0, 0, 1];
    client.publish_as(Publish { properties: &expiry, ..draft }).await;
    client.finish(1, 1).await;
    client.subscribe("t", 0).await;
    let message = client.take().await;
    assert_eq!(message.properties, expiry, "one second left, rounded up");
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    client.subscribe("t", 0).await;
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_messages_follow_the_retained_one_of_their_topic() {
    let server = plain().await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    let live = tokio::spawn(async move {
        for number in 0..2_000_u16 {
            let payload = number.to_string();
            let draft = publisher.draft("t", &payload);
            publisher.publish_as(Publish { qos: 1, id: 1, retain: true, ..draft }).await;
            publisher.finish(1, 1).await;
        }
    });
    for _ in 0..20 {
        let mut client = Client::connect(server.address, &Connect::v4("c")).await;
        client.subscribe("t", 1).await;
        let mut last = None;
        for _ in 0..20 {
            let number: u16 = client.take().await.payload.parse().unwrap();
            if let Some(last) = last {
                assert_eq!(number, last + 1, "in order, nothing twice, nothing missing");
            }
            last = Some(number);
            if number == 1_999 {
                break;
            }
        }
    }
    live.await.unwrap();
}
