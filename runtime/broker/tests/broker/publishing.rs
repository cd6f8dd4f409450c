//! PUBLISH towards the broker: QoS exchanges, topic aliases, the receive maximum (MQTT 5 clauses 3.3, 4.3).

use tidegate_broker::BrokerConfig;

use crate::support::client::{Client, PUBACK, PUBCOMP, PUBREC, PUBREL};
use crate::support::packet::{Connect, Publish, ack, frame};
use crate::support::{plain, with_config};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_qos_reaches_every_version_on_one_port() {
    let server = plain().await;
    let mut old = Connect::v4("three");
    old.level = 3;
    let mut subscribers = Vec::new();
    for connect in [old, Connect::v4("four"), Connect::v5("five")] {
        let mut client = Client::connect(server.address, &connect).await;
        assert_eq!(client.subscribe("a/+", 2).await, 2);
        subscribers.push(client);
    }
    for (qos, id) in [(0, 0), (1, 1), (2, 2)] {
        for connect in [Connect::v4("p4"), Connect::v5("p5")] {
            let text = format!("{} {qos}", connect.id);
            let mut publisher = Client::connect(server.address, &connect).await;
            publisher.publish_done("a/b", &text, qos, id).await;
            for client in &mut subscribers {
                let message = client.take().await;
                assert_eq!((message.payload.as_str(), message.qos), (text.as_str(), qos));
                assert!(!message.dup && !message.retain);
            }
        }
    }
    for client in &mut subscribers {
        client.ping().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_delivered_qos_is_the_lesser_of_the_two() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    for granted in 0..=2 {
        assert_eq!(client.subscribe("t", granted).await, granted);
        for published in 0..=2_u8 {
            let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
            publisher.publish_done("t", "x", published, 5).await;
            assert_eq!(client.take().await.qos, published.min(granted));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resent_qos_2_message_is_handled_once() {
    let server = plain().await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("t", 0).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    for _ in 0..3 {
        client.publish_as(Publish { qos: 2, id: 9, dup: true, ..client.draft("t", "once") }).await;
        let answer = client.expect(PUBREC).await;
        assert_eq!((answer.id(), answer.reason()), (9, 0));
    }
    client.send(&ack(PUBREL, 9)).await;
    assert_eq!(client.expect(PUBCOMP).await.reason(), 0);
    client.send(&ack(PUBREL, 9)).await;
    assert_eq!(client.expect(PUBCOMP).await.reason(), 0x92, "the packet id is free");
    client.publish_done("t", "again", 2, 9).await;
    assert_eq!(subscriber.payloads(2).await, ["once", "again"]);
    subscriber.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_come_in_the_order_of_the_messages() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    let mut bytes = Vec::new();
    for id in 1..=500 {
        bytes.extend(Publish { qos: 1, id, ..client.draft("t", "x") }.bytes());
    }
    client.send(&bytes).await;
    for id in 1..=500 {
        assert_eq!(client.expect(PUBACK).await.id(), id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_publisher_arrive_in_order() {
    let server = plain().await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("t/#", 2).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    let mut bytes = Vec::new();
    for number in 0..600_u16 {
        let (qos, topic) = (u8::from(number % 3 == 0), if number % 2 == 0 { "t/a" } else { "t/b" });
        let text = number.to_string();
        bytes.extend(Publish { qos, id: number + 1, ..client.draft(topic, &text) }.bytes());
    }
    client.send(&bytes).await;
    let expected: Vec<String> = (0..600).map(|number: u16| number.to_string()).collect();
    assert_eq!(subscriber.payloads(600).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_alias_stands_for_the_topic() {
    let config = BrokerConfig { max_topic_alias: 3, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut subscriber = Client::connect(server.address, &Connect::v5("s")).await;
    subscriber.subscribe("#", 0).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let alias = |n: u8| [0x23, 0, n];
    for (topic, number, payload) in [
        ("long/name", 1, "1"),
        ("", 1, "2"),
        ("other", 3, "3"),
        ("other", 1, "4"),
        ("", 1, "5"),
        ("", 3, "6"),
    ] {
        client.publish_as(Publish { properties: &alias(number), ..client.draft(topic, payload) }).await;
    }
    for expected in ["long/name", "long/name", "other", "other", "other", "other"] {
        let message = subscriber.message().await;
        assert_eq!(message.topic, expected);
        assert!(message.properties.is_empty(), "an alias belongs to one hop");
    }
    for (number, reason) in [(4, 0x94), (0, 0x94), (2, 0x82)] {
        let mut client = Client::connect(server.address, &Connect::v5("c")).await;
        client.publish_as(Publish { properties: &alias(number), ..client.draft("", "x") }).await;
        assert_eq!(client.closed().await, Some(reason), "alias {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_in_flight_than_the_receive_maximum_is_an_error() {
    let config = BrokerConfig { receive_maximum: 3, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    for id in 1..=3 {
        client.publish("t", "x", 2, id).await;
        assert_eq!(client.expect(PUBREC).await.id(), id);
    }
    // A resend and QoS 0 do not count, and what is released makes room.
    client.publish("t", "x", 2, 3).await;
    assert_eq!(client.expect(PUBREC).await.id(), 3);
    client.publish("t", "x", 0, 0).await;
    client.send(&ack(PUBREL, 1)).await;
    assert_eq!(client.expect(PUBCOMP).await.id(), 1);
    client.publish_done("t", "x", 1, 4).await;
    client.publish("t", "x", 2, 5).await;
    assert_eq!(client.expect(PUBREC).await.id(), 5);
    client.publish("t", "x", 1, 6).await;
    assert_eq!(client.closed().await, Some(0x93));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn properties_travel_with_the_message_to_version_5_only() {
    let server = plain().await;
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    five.subscribe("t", 1).await;
    four.subscribe("t", 1).await;
    // Format, content type, response topic, correlation data, user property.
    let properties = b"\x01\x01\x03\0\x01c\x08\0\x01r\x09\0\x02\x01\x02\x26\0\x01k\0\x01v";
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.publish_as(Publish { qos: 1, id: 1, properties, ..client.draft("t", "x") }).await;
    client.finish(1, 1).await;
    let message = five.take().await;
    let mut sorted = message.properties.clone();
    sorted.sort_unstable();
    let mut expected = properties.to_vec();
    expected.sort_unstable();
    assert_eq!(sorted, expected);
    assert_eq!(four.take().await.payload, "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_message_passes_whole() {
    let server = plain().await;
    let mut subscriber = Client::connect(server.address, &Connect::v5("s")).await;
    subscriber.subscribe("t", 1).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    let payload = "0123456789".repeat(100_000);
    client.publish_done("t", &payload, 1, 1).await;
    assert_eq!(subscriber.take().await.payload, payload);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_may_come_byte_by_byte() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe("t", 1).await;
    let bytes = Publish { qos: 1, id: 1, ..client.draft("t", "slow") }.bytes();
    for byte in bytes {
        client.send(&[byte]).await;
    }
    assert_eq!(client.expect(PUBACK).await.id(), 1);
    assert_eq!(client.take().await.payload, "slow");
    client.send(&frame(0xc0, &[])).await;
    client.expect(0xd0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_just_before_disconnect_is_still_answered() {
    let server = plain().await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("t", 1).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    let mut bytes = Publish { qos: 1, id: 1, ..client.draft("t", "1") }.bytes();
    bytes.extend(Publish { qos: 2, id: 2, ..client.draft("t", "2") }.bytes());
    bytes.extend([0xe0, 0]);
    client.send(&bytes).await;
    assert_eq!(client.expect(PUBACK).await.id(), 1);
    assert_eq!(client.expect(PUBREC).await.id(), 2);
    assert_eq!(client.closed().await, None);
    assert_eq!(subscriber.payloads(2).await, ["1", "2"]);
}
