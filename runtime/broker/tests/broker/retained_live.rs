//! Retained messages and live ones on their way to the same client: each topic in order, and nobody waits for the other
//! (MQTT 5 clauses 3.3.1.3, 3.8.4, 4.6 and 4.9).

use std::sync::Arc;

use tidegate_broker::BrokerConfig;
use tidegate_event::NoHooks;

use crate::support::client::{Client, PUBACK};
use crate::support::packet::{Connect, Publish, ack, property_list, subscribe};
use crate::support::store::Journal;
use crate::support::{plain, start, with_config};

/// The 65th SUBSCRIBE, and all behind it, waited for acknowledgements of what the first had brought.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_packet_is_answered_though_nothing_that_is_retained_is_acknowledged() {
    let server = plain().await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    for number in 0..200 {
        publisher.retain(&format!("r/{number}"), "x").await;
    }
    let mut client = Client::connect(server.address, &Connect::v5("c").receive_maximum(1)).await;
    for number in 0..200 {
        client.send(&subscribe(true, number + 1, &[(&format!("r/{number}"), 1)], &[])).await;
    }
    client.publish("other", "x", 1, 1).await;
    let (mut subacks, mut messages) = (0, Vec::new());
    loop {
        let packet = client.recv().await;
        match packet.first >> 4 {
            9 => {
                subacks += 1;
                assert_eq!(packet.body[3..], [1], "{packet:?}");
            }
            3 => messages.push(packet.published(true)),
            _ => break assert_eq!((packet.first, packet.id()), (PUBACK, 1)),
        }
    }
    assert_eq!((subacks, messages.len()), (200, 1));
    // Each brings what is retained, when its turn comes.
    while messages.len() < 200 {
        let last = messages.last().unwrap().id;
        client.send(&ack(PUBACK, last)).await;
        messages.push(client.message().await);
    }
    let topics: std::collections::HashSet<_> = messages.iter().map(|message| &message.topic).collect();
    assert_eq!(topics.len(), 200);
}

/// Live messages that matched the filter were held until all that is retained was sent, and lost when they were many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_live_message_is_lost_while_a_second_subscribe_brings_what_is_retained() {
    let config = BrokerConfig { max_queued: 20, max_inflight: 10, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 0..300 {
        publisher.retain(&format!("r/{number}"), "retained").await;
    }
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("r/#", 1).await;
    assert_eq!(client.payloads(300).await, ["retained"; 300]);
    client.subscribe("r/#", 1).await;
    let (mut live, mut retained) = (Vec::new(), 0);
    for number in 0..100_u16 {
        // The first of a topic whose retained message is still to come, the others of none.
        let topic = if number == 0 { "r/99" } else { "r/live" };
        publisher.publish_done(topic, &number.to_string(), 1, 1).await;
        for _ in 0..3 {
            let message = client.take().await;
            match message.retain {
                true => retained += 1,
                false => live.push(message.payload),
            }
        }
    }
    assert!(live.len() >= 90, "they do not wait for what is retained: {}", live.len());
    while live.len() + retained < 400 {
        let message = client.take().await;
        match message.retain {
            true => retained += 1,
            false => live.push(message.payload),
        }
    }
    assert_eq!(live, (0..100).map(|number: u16| number.to_string()).collect::<Vec<_>>());
    client.ping().await;
}

/// A client that acknowledges nothing still gets live messages of QoS 0 ("the flow of publications MUST NOT be
/// interrupted"), but none before an older one of its topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_messages_go_past_retained_ones_that_wait_but_not_those_of_their_topic() {
    let config = BrokerConfig { max_inflight: 5, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 0..100 {
        publisher.retain(&format!("r/{number}"), "retained").await;
    }
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("r/#", 1).await;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(client.message().await.id);
    }
    for payload in ["first", "second"] {
        publisher.publish_done("r/99", payload, 0, 0).await;
    }
    publisher.publish_done("r/live", "live", 0, 0).await;
    assert_eq!(client.message().await.payload, "live");
    client.ping().await;
    for id in waiting {
        client.send(&ack(PUBACK, id)).await;
    }
    let mut of_topic = Vec::new();
    for _ in 0..97 {
        let message = client.take().await;
        if message.topic == "r/99" {
            of_topic.push(message.payload);
        }
    }
    assert_eq!(of_topic, ["retained", "first", "second"]);
    client.ping().await;
}

/// While SUBACK waits for the disk, a live message is not sent before the older retained one of its topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_message_comes_before_a_newer_live_one_of_its_topic() {
    let journal = Journal::default();
    let store = Arc::new(journal.clone());
    let server = start(BrokerConfig::default(), Arc::new(NoHooks), store).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    publisher.retain("a/b", "retained").await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    for filter in ["a/b", "a/+", "#"] {
        journal.slow();
        client.send(&subscribe(true, 7, &[(filter, 0)], &[])).await;
        while journal.waiting() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        publisher.publish_done("a/b", "live", 0, 0).await;
        client.ping().await;
        journal.sync();
        client.expect(0x90).await;
        let (first, second) = (client.message().await, client.message().await);
        assert_eq!((first.payload.as_str(), first.retain), ("retained", true), "{filter}");
        assert_eq!((second.payload.as_str(), second.retain), ("live", false), "{filter}");
        client.ping().await;
        client.send(&crate::support::packet::unsubscribe(true, 8, &[filter])).await;
        while journal.waiting() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        journal.sync();
        client.expect(0xb0).await;
    }
}

/// A retained message that waited for the client because of an older subscription was not sent as retained to a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_subscription_brings_what_is_retained_though_an_older_one_is_to_deliver_it() {
    let server = plain().await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").receive_maximum(1)).await;
    client.subscribe_with(&[("a/+", 1)], &[0x0b, 1]).await;
    publisher.publish_done("a/x", "x", 1, 1).await;
    let x = client.message().await;
    let draft = publisher.draft("a/b", "m");
    publisher.publish_as(Publish { qos: 1, id: 2, retain: true, ..draft }).await;
    publisher.finish(1, 2).await;
    client.subscribe_with(&[("a/b", 1)], &[0x0b, 2]).await;
    client.send(&ack(PUBACK, x.id)).await;
    let mut got = Vec::new();
    for _ in 0..2 {
        let message = client.take().await;
        assert_eq!(message.payload, "m");
        got.push((message.retain, property_list(&message.properties)));
    }
    got.sort();
    assert_eq!(got, [(false, vec![(0x0b, vec![1])]), (true, vec![(0x0b, vec![2])])]);
    client.ping().await;
}

/// A live message that waited for the retained one of its topic slept until another one came, when that had expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_message_does_not_wait_for_a_retained_one_that_is_gone() {
    let server = with_config(BrokerConfig { max_queued: 5, ..BrokerConfig::default() }).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    for number in 0..10 {
        publisher.retain(&format!("r/{number}"), "retained").await;
    }
    let one_second = [0x02, 0, 0, 0, 1];
    let short = Publish { qos: 1, id: 1, retain: true, ..publisher.draft("t", "short") };
    publisher.publish_as(Publish { properties: &one_second, ..short }).await;
    publisher.finish(1, 1).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").receive_maximum(1)).await;
    // What the second one brings is not looked up before most of the first is sent.
    client.subscribe_all(&[("r/#", 1), ("t", 1)]).await;
    let first = client.message().await;
    publisher.publish_done("t", "live", 0, 0).await;
    client.ping().await;
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    client.send(&ack(PUBACK, first.id)).await;
    let mut others = client.payloads(10).await;
    others.sort();
    assert_eq!((others[0].as_str(), others[9].as_str()), ("live", "retained"));
    client.ping().await;
}
