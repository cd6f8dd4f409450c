//! CONNECT, CONNACK, keep-alive, DISCONNECT, take-over (MQTT 5 clauses 3.1, 3.2, 3.14, 4.1).

use std::time::{Duration, Instant};

use tidegate_broker::BrokerConfig;

use crate::support::client::Client;
use crate::support::packet::{Connect, frame, number, text};
use crate::support::{plain, with_config};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_not_spoken_is_told_so() {
    let server = plain().await;
    // The bridges of Mosquitto set bit 7, and try again without it when they are refused.
    let cases: [(&[u8], u8, &[u8]); 8] = [
        (b"MQTT", 6, &[0, 1]),
        (b"MQTT", 9, &[0, 1]),
        (b"MQTT", 3, &[0, 1]),
        (b"MQTT", 0x84, &[0, 1]),
        (b"MQIsdp", 4, &[0, 1]),
        // Another protocol: MQTT 5 has an answer to that, earlier versions have none.
        (b"MQTTX", 5, &[0, 0x84, 0]),
        (b"mqtt", 4, &[]),
        (b"HTTP", 4, &[]),
    ];
    for (name, level, answer) in cases {
        let mut client = Client::open(server.address, false).await;
        let mut body = Vec::new();
        text(&mut body, name);
        body.extend_from_slice(&[level, 2, 0, 60, 0, 1, b'x']);
        client.send(&frame(0x10, &body)).await;
        if !answer.is_empty() {
            assert_eq!(client.expect(0x20).await.body, answer, "{level}");
        }
        assert_eq!(client.next().await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_an_id_is_given_one() {
    let server = plain().await;
    let mut all = Vec::new();
    for _ in 0..2 {
        let client = Client::connect(server.address, &Connect::v5("")).await;
        assert!(number(&client.properties, 0x12).is_some(), "assigned client identifier");
        all.push(client);
    }
    for client in &mut all {
        client.ping().await;
    }
    let nameless = Client::connect(server.address, &Connect::v4("")).await;
    drop(nameless);
    let refused = Client::try_connect(server.address, &Connect::v4("").persistent()).await;
    assert_eq!(refused.code, 2, "3.1.1: an empty id needs a clean session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connack_names_the_limits() {
    let config = BrokerConfig {
        receive_maximum: 12,
        max_packet_bytes: 5_000,
        max_topic_alias: 7,
        max_session_expiry: 100,
        ..BrokerConfig::default()
    };
    let server = with_config(config).await;
    let client = Client::connect(server.address, &Connect::v5("c").expiry(u32::MAX)).await;
    assert_eq!(number(&client.properties, 0x21), Some(12));
    assert_eq!(number(&client.properties, 0x27), Some(5_000));
    assert_eq!(number(&client.properties, 0x22), Some(7));
    assert_eq!(number(&client.properties, 0x11), Some(100), "the expiry granted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enhanced_authentication_is_refused() {
    let server = plain().await;
    let mut connect = Connect::v5("c");
    connect.properties.push(0x15);
    text(&mut connect.properties, b"SCRAM-SHA-1");
    let mut client = Client::try_connect(server.address, &connect).await;
    assert_eq!(client.code, 0x8c);
    assert_eq!(client.closed().await, None);
    let mut client = Client::connect(server.address, &Connect::v5("d")).await;
    client.send(&[0xf0, 0]).await;
    assert_eq!(client.closed().await, Some(0x82), "AUTH without a method");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_connect_is_a_protocol_error() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.send(&Connect::v5("c").bytes()).await;
    assert_eq!(client.closed().await, Some(0x82));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_socket_is_closed_and_delays_nobody() {
    let config = BrokerConfig { connect_timeout: Duration::from_millis(200), ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut client = Client::open(server.address, false).await;
        client.send(&[0x10]).await;
        silent.push(client);
    }
    Client::connect(server.address, &Connect::v4("c")).await.ping().await;
    for client in &mut silent {
        assert_eq!(client.closed().await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_for_one_and_a_half_keep_alives_ends_the_connection() {
    let server = plain().await;
    let start = Instant::now();
    let mut five = Client::connect(server.address, &Connect::v5("five").keep_alive(1)).await;
    let mut four = Client::connect(server.address, &Connect::v4("four").keep_alive(1)).await;
    let mut never = Client::connect(server.address, &Connect::v4("never").keep_alive(0)).await;
    assert_eq!(five.closed().await, Some(0x8d));
    assert_eq!(four.closed().await, None);
    assert!(start.elapsed() >= Duration::from_millis(1_500));
    never.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_packet_ends_the_connection_with_its_reason() {
    let config = BrokerConfig { max_packet_bytes: 1_000, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let long = "x/".repeat(200);
    let cases: [(Vec<u8>, u8); 5] = [
        (frame(0x36, b"\0\x01t\0\x01"), 0x81),
        (frame(0x80, b"\0\x01\0\0\x01t\0"), 0x81),
        (vec![0x30, 0xff, 0xff, 0x03], 0x95),
        (frame(0x30, b"\0\x03a/+\0"), 0x81),
        (
            {
                let mut body = Vec::new();
                text(&mut body, long.as_bytes());
                body.push(0);
                frame(0x30, &body)
            },
            0x90,
        ),
    ];
    for (bytes, reason) in cases {
        let mut five = Client::connect(server.address, &Connect::v5("five")).await;
        five.send(&bytes).await;
        assert_eq!(five.closed().await, Some(reason), "{bytes:x?}");
        let mut four = Client::connect(server.address, &Connect::v4("four")).await;
        four.send(&bytes).await;
        assert_eq!(four.closed().await, None, "3.1.1 has no DISCONNECT for clients");
    }
    Client::connect(server.address, &Connect::v4("c")).await.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_over_ends_the_older_connection() {
    let server = plain().await;
    let mut first = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    first.subscribe("t", 1).await;
    let mut second = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    assert!(second.present);
    assert_eq!(first.closed().await, Some(0x8e));
    second.publish_done("t", "x", 1, 1).await;
    // The acknowledgement is sent before the message is delivered to the same client.
    assert_eq!(second.take().await.payload, "x");
    let mut third = Client::connect(server.address, &Connect::v4("c")).await;
    assert!(!third.present, "a clean session");
    assert_eq!(second.closed().await, Some(0x8e));
    third.publish_done("t", "y", 1, 1).await;
    third.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_take_overs_at_once_leave_one_connection() {
    let server = plain().await;
    let mut tasks = Vec::new();
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(30);
    for round in 0..30 {
        let (address, arrived) = (server.address, arrived.clone());
        tasks.push(tokio::spawn(async move {
            let connect = Connect::v5("same");
            let connect = if round % 3 == 0 { connect } else { connect.persistent() };
            let mut client = Client::open(address, true).await;
            client.send(&connect.bytes()).await;
            let connack = client.next().await;
            arrived.send(()).await.unwrap();
            // One that is taken over before CONNACK is only closed.
            if let Some(packet) = connack {
                assert_eq!(packet.kind(), 2);
                assert_eq!(client.closed().await, Some(0x8e));
            }
        }));
    }
    // All but one are taken over by another; that one by the last.
    for _ in 0..30 {
        arrivals.recv().await.unwrap();
    }
    let mut last = Client::connect(server.address, &Connect::v5("same")).await;
    for task in tasks {
        task.await.unwrap();
    }
    last.ping().await;
}
