//! Sessions over reconnects and restarts (MQTT 5 clauses 4.1, 4.4, 3.1.2.11.2).

use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::BrokerConfig;
use tidegate_event::NoHooks;

use crate::support::client::{Client, PUBACK, PUBCOMP, PUBREC, PUBREL};
use crate::support::packet::{Connect, Publish, ack};
use crate::support::store::Journal;
use crate::support::{journalled, plain, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persistent_session_keeps_subscriptions_and_messages() {
    for connect in [Connect::v4("c").persistent(), Connect::v5("c").persistent()] {
        let server = plain().await;
        let mut client = Client::connect(server.address, &connect).await;
        assert!(!client.present);
        client.subscribe_all(&[("t/#", 2)]).await;
        client.disconnect().await;
        let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
        for qos in 0..=2_u8 {
            publisher.publish_done(&format!("t/{qos}"), "x", qos, 5).await;
        }
        let mut client = Client::connect(server.address, &connect).await;
        assert!(client.present);
        assert_eq!(client.take().await.topic, "t/1", "QoS 0 is not kept");
        assert_eq!(client.take().await.topic, "t/2");
        client.ping().await;
        client.unsubscribe(&["t/#"]).await;
        publisher.publish_done("t/9", "x", 1, 5).await;
        client.ping().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_in_flight_is_sent_again_with_dup_and_the_same_ids() {
    let server = plain().await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 2).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for (number, qos) in [(1, 1), (2, 2), (3, 1), (4, 2), (5, 1)] {
        publisher.publish_done("t", &number.to_string(), qos, number).await;
    }
    let mut first = Vec::new();
    for _ in 0..5 {
        let message = client.message().await;
        assert!(!message.dup);
        first.push(message);
    }
    // 3 is acknowledged; of 2 PUBREC is sent, so it is not published again.
    client.send(&ack(PUBACK, first[2].id)).await;
    client.send(&ack(PUBREC, first[1].id)).await;
    assert_eq!(client.expect(PUBREL).await.id(), first[1].id);
    drop(client);
    let mut client = Client::connect(server.address, &connect).await;
    assert!(client.present);
    assert_eq!(client.expect(PUBREL).await.id(), first[1].id);
    let one = client.message().await;
    assert_eq!((one.id, one.dup, one.payload.as_str()), (first[0].id, true, "1"));
    client.send(&ack(PUBCOMP, first[1].id)).await;
    for index in [3, 4] {
        let again = client.message().await;
        assert_eq!((again.id, again.dup), (first[index].id, true));
        assert_eq!(again.payload, first[index].payload);
    }
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_respects_a_smaller_receive_maximum() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 1..=6 {
        publisher.publish_done("t", &number.to_string(), 1, number).await;
    }
    for _ in 0..6 {
        client.message().await;
    }
    drop(client);
    let connect = Connect::v5("c").persistent().receive_maximum(2);
    let mut client = Client::connect(server.address, &connect).await;
    for expected in ["1", "2"] {
        assert_eq!(client.message().await.payload, expected);
    }
    client.ping().await;
    client.send(&ack(PUBACK, 1)).await;
    client.send(&ack(PUBACK, 2)).await;
    assert_eq!(client.payloads(4).await, ["3", "4", "5", "6"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qos_2_ids_survive_a_reconnect() {
    let server = plain().await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("t", 0).await;
    let connect = Connect::v4("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.publish("t", "x", 2, 7).await;
    client.expect(PUBREC).await;
    drop(client);
    let mut client = Client::connect(server.address, &connect).await;
    client.publish_as(Publish { qos: 2, id: 7, dup: true, ..client.draft("t", "x") }).await;
    client.expect(PUBREC).await;
    client.send(&ack(PUBREL, 7)).await;
    client.expect(PUBCOMP).await;
    subscriber.take().await;
    subscriber.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_when_its_expiry_has_passed() {
    let server = plain().await;
    let short = Connect { clean: false, ..Connect::v5("short").expiry(1) };
    let none = Connect { clean: false, ..Connect::v5("none") };
    for connect in [&short, &none] {
        Client::connect(server.address, connect).await.disconnect().await;
    }
    assert!(!Client::connect(server.address, &none).await.present, "no expiry: it ended with the connection");
    let client = Client::connect(server.address, &short).await;
    assert!(client.present);
    client.disconnect().await;
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    assert!(!Client::connect(server.address, &short).await.present);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnect_may_change_the_expiry() {
    let server = plain().await;
    let resume = Connect { clean: false, ..Connect::v5("c").expiry(100) };
    let mut client = Client::connect(server.address, &resume).await;
    client.send(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]).await;
    client.closed().await;
    assert!(!Client::connect(server.address, &resume).await.present, "ended at once");
    let none = Connect { clean: false, ..Connect::v5("d") };
    let mut client = Client::connect(server.address, &none).await;
    client.send(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 9]).await;
    assert_eq!(client.closed().await, Some(0x82), "a session without expiry cannot be prolonged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_restores_sessions_queues_and_retained_messages() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe_with(&[("t/#", 2)], &[0x0b, 5]).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p").persistent()).await;
    publisher.retain("r", "kept").await;
    publisher.retain("r2", "kept").await;
    publisher.retain("r2", "").await;
    publisher.publish_done("t/1", "sent", 1, 1).await;
    publisher.publish_done("t/2", "acked", 1, 2).await;
    let sent = client.message().await;
    let acked = client.message().await;
    client.send(&ack(PUBACK, acked.id)).await;
    client.disconnect().await;
    publisher.publish_done("t/3", "queued", 2, 3).await;
    publisher.publish("t/4", "two", 2, 4).await;
    publisher.expect(PUBREC).await;
    publisher.disconnect().await;
    assert_eq!(journal.counts("c"), (3, 0));
    assert_eq!(journal.counts("p"), (0, 1));

    let server = journalled(&journal).await;
    let mut client = Client::connect(server.address, &connect).await;
    assert!(client.present);
    let again = client.take().await;
    assert_eq!((again.id, again.dup, again.payload.as_str()), (sent.id, true, "sent"));
    assert_eq!(client.payloads(2).await, ["queued", "two"]);
    client.ping().await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p").persistent()).await;
    assert!(publisher.present);
    publisher.send(&ack(PUBREL, 4)).await;
    assert_eq!(publisher.expect(PUBCOMP).await.reason(), 0, "the id was kept");
    publisher.publish_done("t/5", "live", 1, 1).await;
    let live = client.take().await;
    assert_eq!((live.payload.as_str(), live.properties.as_slice()), ("live", &[0x0b, 5][..]));
    client.subscribe("+", 0).await;
    assert_eq!(client.take().await.topic, "r");
    client.ping().await;
    assert_eq!(journal.counts("c"), (0, 0));
    // A clean start forgets it all.
    let client = Client::connect(server.address, &Connect::v5("c")).await;
    assert!(!client.present);
    assert_eq!(journal.sessions(), ["p"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_acknowledged_when_it_is_durable_for_its_subscribers() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut client = Client::connect(server.address, &Connect::v4("c").persistent()).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    journal.slow();
    // Routed at once, acknowledged later and in order.
    publisher.publish("t", "1", 1, 1).await;
    assert_eq!(client.take().await.payload, "1");
    publisher.publish("t", "2", 1, 2).await;
    publisher.publish("other", "3", 1, 3).await;
    assert_eq!(client.take().await.payload, "2");
    publisher.ping().await;
    assert!(journal.sync_one());
    assert_eq!(publisher.expect(PUBACK).await.id(), 1);
    publisher.ping().await;
    assert!(journal.sync_one());
    assert_eq!(publisher.expect(PUBACK).await.id(), 2);
    assert_eq!(publisher.expect(PUBACK).await.id(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_subscriptions_and_reconnects_leave_nothing_behind() {
    let server = plain().await;
    for round in 0..50 {
        let mut client = Client::connect(server.address, &Connect::v5(&format!("c{round}"))).await;
        client.subscribe(&format!("t/{round}/+"), 1).await;
        drop(client);
    }
    let mut probe = Client::connect(server.address, &Connect::v5("probe").persistent()).await;
    probe.subscribe("t/#", 0).await;
    probe.publish_done("t/1/x", "x", 1, 1).await;
    probe.take().await;
    while server.broker.connections() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    probe.ping().await;
}

/// Messages that had expired filled the queue of a client that was away: what came for it later was dropped, for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_in_a_full_queue_gives_its_place_to_what_has_not() {
    let journal = Journal::default();
    let config = BrokerConfig { max_queued: 3, ..BrokerConfig::default() };
    let server = start(config, Arc::new(NoHooks), Arc::new(journal.clone())).await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 1).await;
    client.disconnect().await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    let one_second = &[0x02, 0, 0, 0, 1];
    for id in 1..=3 {
        let message = Publish { qos: 1, id, properties: one_second, ..publisher.draft("t", "old") };
        publisher.publish_as(message).await;
        publisher.finish(1, id).await;
    }
    assert_eq!(journal.counts("c").0, 3);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    publisher.publish_done("t", "new", 1, 4).await;
    assert_eq!(journal.counts("c").0, 1, "what has expired is not kept on disk either");
    let mut client = Client::connect(server.address, &connect).await;
    assert_eq!(client.take().await.payload, "new");
    client.ping().await;
}
