//! Inputs that stop or derail the rumqttd 0.20 router and listeners, each given to our broker. The name says the
//! cause there; the assertions say what is right.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::client::{Client, PUBACK, PUBCOMP, PUBREC, PUBREL};
use support::packet::{self, Connect, Publish, ack, frame};
use support::{Server, plain};

/// A message from a new publisher reaches a new subscriber.
async fn alive(server: &Server) {
    let mut subscriber = Client::connect(server.address, &Connect::v4("alive-s")).await;
    subscriber.subscribe("alive", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("alive-p")).await;
    publisher.publish_done("alive", "yes", 1, 1).await;
    assert_eq!(subscriber.take().await.payload, "yes");
    subscriber.disconnect().await;
}

// Panics.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_slicing_a_topic_whose_first_character_is_multi_byte() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe_all(&[("é/+", 0), ("#", 0), ("$x", 0)]).await;
    client.publish_done("é/x", "1", 1, 1).await;
    assert_eq!(client.take().await.topic, "é/x");
    client.publish_done("日本", "2", 1, 2).await;
    assert_eq!(client.take().await.topic, "日本");
    alive(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_group_must_exist_when_its_last_persistent_member_drops_with_an_unacked_message() {
    let server = plain().await;
    let connect = Connect::v4("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("$share/g/t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("t", "x", 1, 1).await;
    client.message().await;
    drop(client);
    alive(&server).await;
    let mut client = Client::connect(server.address, &connect).await;
    assert!(client.present);
    assert!(client.take().await.dup);
    client.unsubscribe(&["$share/g/t"]).await;
    alive(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_with_a_poisoned_lock_connecting_twice_with_slashes_in_the_client_id() {
    let server = plain().await;
    for id in ["a/b", "a/b/c", "+", "#", "$x", "é/é"] {
        let mut first = Client::connect(server.address, &Connect::v5(id)).await;
        let mut second = Client::connect(server.address, &Connect::v5(id)).await;
        assert_eq!(first.closed().await, Some(0x8e));
        second.ping().await;
    }
    alive(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_waking_a_slow_client_that_was_taken_over() {
    let server = plain().await;
    let connect = Connect::v4("slow");
    let mut slow = Client::connect(server.address, &connect).await;
    slow.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    let payload = "x".repeat(10_000);
    for round in 0..500_u16 {
        publisher.publish_done("t", &payload, 1, round + 1).await;
        if round % 50 == 49 {
            // It never read a byte of what it was sent.
            slow = Client::connect(server.address, &connect).await;
            slow.subscribe("t", 1).await;
        }
    }
    publisher.ping().await;
    alive(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_writing_a_publish_with_properties_to_a_version_4_subscriber() {
    let server = plain().await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    four.subscribe("t", 2).await;
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    let properties = b"\x26\0\x01k\0\x01v\x02\0\0\0\x09";
    for qos in 0..=2 {
        five.publish_as(Publish { qos, id: 3, properties, ..five.draft("t", "x") }).await;
        five.finish(qos, 3).await;
        assert_eq!(four.take().await.payload, "x");
    }
    four.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_on_packets_that_only_a_server_sends() {
    let server = plain().await;
    for first in [0x20, 0x90, 0xb0, 0xd0, 0x00] {
        // As the first packet, and after CONNECT, on both versions.
        let mut raw = Client::open(server.address, true).await;
        raw.send(&frame(first, &[0, 1, 0, 0])).await;
        assert_eq!(raw.closed().await, None, "{first:#x}");
        for connect in [Connect::v4("c"), Connect::v5("c")] {
            let mut client = Client::connect(server.address, &connect).await;
            client.send(&frame(first, &[0, 1, 0, 0])).await;
            let reason = client.closed().await;
            assert_eq!(reason.is_some(), connect.v5, "{first:#x}: {reason:?}");
        }
    }
    alive(&server).await;
}

// Conformance.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qos_0_is_not_upgraded_to_the_subscriptions_qos() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 2).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("t", "x", 0, 0).await;
    assert_eq!(client.take().await.qos, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resent_qos_2_publish_does_not_shift_every_later_message() {
    let server = plain().await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("t", 2).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.publish("t", "1", 2, 1).await;
    client.expect(PUBREC).await;
    client.publish("t", "1", 2, 1).await;
    client.expect(PUBREC).await;
    client.send(&ack(PUBREL, 1)).await;
    client.expect(PUBCOMP).await;
    for number in 2..=4_u16 {
        client.publish_done("t", &number.to_string(), 2, number).await;
    }
    assert_eq!(subscriber.payloads(4).await, ["1", "2", "3", "4"]);
    subscriber.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pubrel_with_properties_is_taken_and_an_unknown_one_does_not_disconnect() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.publish("t", "x", 2, 1).await;
    client.expect(PUBREC).await;
    let mut body = vec![0, 1, 0, 7];
    body.extend_from_slice(b"\x26\0\x01k\0\x01v");
    client.send(&frame(PUBREL, &body)).await;
    assert_eq!(client.expect(PUBCOMP).await.reason(), 0);
    client.send(&ack(PUBREL, 9)).await;
    assert_eq!(client.expect(PUBCOMP).await.reason(), 0x92);
    client.ping().await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    four.send(&ack(PUBREL, 9)).await;
    assert_eq!(four.expect(PUBCOMP).await.id(), 9);
    four.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsubscribe_of_an_unknown_filter_is_answered_and_of_two_filters_once() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe("b", 0).await;
    assert_eq!(client.unsubscribe(&["unknown"]).await.body[3..], [0x11]);
    assert_eq!(client.unsubscribe(&["a", "b"]).await.body[3..], [0x11, 0]);
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_persistent_session_can_unsubscribe() {
    let server = plain().await;
    let connect = Connect::v4("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 1).await;
    client.disconnect().await;
    let mut client = Client::connect(server.address, &connect).await;
    client.unsubscribe(&["t"]).await;
    client.publish_done("t", "x", 1, 1).await;
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redelivery_has_dup_and_the_same_ids_and_no_qos_0_is_kept() {
    let server = plain().await;
    let connect = Connect::v4("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for id in 1..=3 {
        publisher.publish_done("t", &id.to_string(), 1, id).await;
    }
    let sent = [client.message().await, client.message().await, client.message().await];
    client.send(&ack(PUBACK, sent[0].id)).await;
    client.ping().await;
    drop(client);
    while server.broker.connections() > 1 {
        tokio::task::yield_now().await;
    }
    publisher.publish_done("t", "zero", 0, 0).await;
    publisher.publish_done("t", "4", 1, 4).await;
    let mut client = Client::connect(server.address, &connect).await;
    for old in &sent[1..] {
        let again = client.take().await;
        assert_eq!((again.id, again.dup, &again.payload), (old.id, true, &old.payload));
    }
    let new = client.take().await;
    assert_eq!((new.payload.as_str(), new.dup), ("4", false));
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_subscribe_sends_retained_again_and_changes_the_qos() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.retain("t", "r").await;
    client.subscribe("t", 0).await;
    assert_eq!(client.take().await.qos, 0);
    client.subscribe("t", 1).await;
    let message = client.take().await;
    assert!(message.retain);
    assert_eq!(message.qos, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_payload_without_retain_deletes_nothing() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.retain("t", "r").await;
    client.publish_done("t", "", 1, 1).await;
    client.subscribe("t", 0).await;
    assert_eq!(client.take().await.payload, "r");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_retained_messages_than_a_window_all_arrive() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    for number in 0..150 {
        client.retain(&format!("t/{number}"), "r").await;
    }
    for qos in [1, 0] {
        client.subscribe("#", qos).await;
        let mut topics = Vec::new();
        for _ in 0..150 {
            topics.push(client.take().await.topic);
        }
        topics.sort();
        topics.dedup();
        assert_eq!(topics.len(), 150);
        client.ping().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_out_of_order_do_not_disconnect() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 2).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for (id, qos) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
        publisher.publish_done("t", "x", qos, id).await;
    }
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(client.message().await.id);
    }
    client.send(&ack(PUBREC, ids[3])).await;
    client.send(&ack(PUBACK, ids[2])).await;
    client.send(&ack(PUBREC, ids[1])).await;
    client.send(&ack(PUBACK, ids[0])).await;
    assert_eq!(client.expect(PUBREL).await.id(), ids[3]);
    assert_eq!(client.expect(PUBREL).await.id(), ids[1]);
    client.send(&ack(PUBCOMP, ids[1])).await;
    client.send(&ack(PUBCOMP, ids[3])).await;
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_filters_are_refused_and_dollar_filters_are_taken() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    assert_eq!(client.subscribe_all(&[("$SYS/#", 1), ("$x/y", 0)]).await, [1, 0]);
    client.publish_done("$x/y", "dollar", 1, 1).await;
    assert_eq!(client.take().await.payload, "dollar");
    client.send(&packet::subscribe(true, 1, &[("a/#/b", 0)], &[])).await;
    assert_eq!(client.closed().await, Some(0x81));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_subscriptions_merge_their_identifiers() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe_with(&[("t/#", 0)], &[0x0b, 2]).await;
    client.subscribe_with(&[("t/+", 0)], &[0x0b, 1]).await;
    client.publish_done("t/x", "x", 1, 1).await;
    assert_eq!(client.take().await.properties, [0x0b, 1, 0x0b, 2]);
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_or_absent_subscriber_loses_nothing_within_its_bound() {
    let server = plain().await;
    let connect = Connect::v4("away").persistent();
    let mut away = Client::connect(server.address, &connect).await;
    away.subscribe("t", 1).await;
    away.disconnect().await;
    let mut slow = Client::connect(server.address, &Connect::v4("slow")).await;
    slow.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 0..1_000_u16 {
        publisher.publish_done("t", &number.to_string(), 1, number + 1).await;
    }
    let expected: Vec<String> = (0..1_000_u16).map(|number| number.to_string()).collect();
    assert_eq!(slow.payloads(1_000).await, expected);
    let mut away = Client::connect(server.address, &connect).await;
    assert_eq!(away.payloads(1_000).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_alias_belongs_to_a_topic_and_not_to_a_filter() {
    let server = plain().await;
    let mut subscriber = Client::connect(server.address, &Connect::v5("s")).await;
    subscriber.subscribe("a/#", 0).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    for (topic, alias) in [("a/1", 1), ("a/2", 2), ("", 1), ("", 2)] {
        let properties = [0x23, 0, alias];
        client.publish_as(Publish { properties: &properties, ..client.draft(topic, "x") }).await;
    }
    for expected in ["a/1", "a/2", "a/1", "a/2"] {
        assert_eq!(subscriber.take().await.topic, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_take_over_publishes_the_old_will_and_keeps_the_new_one() {
    let server = plain().await;
    let mut watcher = Client::connect(server.address, &Connect::v4("w")).await;
    watcher.subscribe("will", 0).await;
    let old = Client::connect(server.address, &Connect::v4("c").will("will", "old", 0, false)).await;
    let new = Client::connect(server.address, &Connect::v4("c").will("will", "new", 0, false)).await;
    assert_eq!(watcher.take().await.payload, "old");
    watcher.ping().await;
    drop(new);
    assert_eq!(watcher.take().await.payload, "new");
    drop(old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_one_name_on_two_filters_are_two_groups() {
    let server = plain().await;
    let mut one = Client::connect(server.address, &Connect::v4("1")).await;
    let mut two = Client::connect(server.address, &Connect::v4("2")).await;
    one.subscribe("$share/g/a", 0).await;
    two.subscribe("$share/g/b", 0).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for topic in ["a", "b", "a", "b"] {
        publisher.publish_done(topic, topic, 1, 1).await;
    }
    assert_eq!(one.payloads(2).await, ["a", "a"]);
    assert_eq!(two.payloads(2).await, ["b", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqtt_3_1_and_a_keep_alive_of_zero_are_taken() {
    let server = plain().await;
    let mut old = Connect::v4("c").keep_alive(0);
    old.level = 3;
    let mut client = Client::connect(server.address, &old).await;
    client.subscribe("t", 1).await;
    client.publish_done("t", "x", 1, 1).await;
    assert_eq!(client.take().await.payload, "x");
}
