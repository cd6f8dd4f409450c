//! Listeners keep serving: whoever stalls, floods or comes too often.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_broker::{Arrival, BrokerConfig, ListenerConfig, WebSocketConfig};
use tidegate_event::{Hook, VolatileStore};
use tokio::io::{AsyncWriteExt as _, duplex};
use tokio::net::TcpStream;

use crate::support::certificates::Authority;
use crate::support::client::{Client, PUBACK};
use crate::support::packet::{Connect, Publish};
use crate::support::script::{Gate, Script};
use crate::support::{free, plain, start, with_config};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_served_without_a_listener() {
    let server = plain().await;
    let (near, far) = duplex(1_000);
    let peer: SocketAddr = "192.0.2.7:1000".parse().unwrap();
    let serving = tokio::spawn(server.broker.serve(far, peer));
    let mut client = Client::connect_on(near, &Connect::v5("c")).await;
    let mut other = Client::connect(server.address, &Connect::v4("o")).await;
    client.subscribe("t", 1).await;
    other.publish_done("t", "x", 1, 1).await;
    assert_eq!(client.take().await.payload, "x");
    client.disconnect().await;
    serving.await.unwrap();
    let (near, far) = duplex(1_000);
    let serving = tokio::spawn(server.broker.serve(far, peer));
    let mut client = Client::connect_on(near, &Connect::v5("c")).await;
    server.broker.shutdown(Duration::from_secs(5)).await;
    assert_eq!(client.closed().await, Some(0x8b));
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_that_waits_longest_gives_way() {
    let server = with_config(BrokerConfig { max_handshakes: 3, ..BrokerConfig::default() }).await;
    let mut stalled = Vec::new();
    for _ in 0..5 {
        stalled.push(Client::open(server.address, false).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // In the order in which they came.
    for client in &mut stalled[..2] {
        assert_eq!(client.next().await, None);
    }
    let mut good = Client::connect(server.address, &Connect::v4("good")).await;
    good.ping().await;
    assert_eq!(stalled[2].next().await, None, "for the good one");
    // Who is connected counts no more.
    for client in &mut stalled[3..] {
        client.greet(&Connect::v4("late")).await;
    }
    good.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_the_rate_wait_and_are_served() {
    let server = with_config(BrokerConfig { connection_rate: 10, ..BrokerConfig::default() }).await;
    let began = Instant::now();
    let clients = (0..25).map(|number| {
        tokio::spawn(async move {
            Client::connect(server.address, &Connect::v4(&format!("c{number}"))).await.ping().await;
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    // Ten at once, fifteen in the time that they take.
    assert!(began.elapsed() >= Duration::from_millis(1_400), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_no_more_connections_than_it_may() {
    let config = BrokerConfig { max_connections_per_address: 2, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let from = |address: &str| {
        let (near, far) = duplex(1_000);
        tokio::spawn(server.broker.serve(far, Arrival::from(SocketAddr::new(address.parse().unwrap(), 1))));
        near
    };
    let mut first = Client::connect_on(from("192.0.2.1"), &Connect::v4("1")).await;
    let second = Client::connect_on(from("192.0.2.1"), &Connect::v4("2")).await;
    let mut third = Client::on(from("192.0.2.1"), false);
    third.try_send(&Connect::v4("3").bytes()).await;
    assert_eq!(third.next().await, None);
    Client::connect_on(from("192.0.2.2"), &Connect::v4("4")).await.ping().await;
    second.disconnect().await;
    while server.broker.connections() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Client::connect_on(from("192.0.2.1"), &Connect::v4("5")).await.ping().await;
    first.ping().await;
    // This machine has as many as it wants.
    for number in 0..5 {
        Client::connect(server.address, &Connect::v4(&format!("l{number}"))).await.ping().await;
    }
}

/// The time for TLS, WebSocket and CONNECT began anew with each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_deadline_is_for_all_handshakes_together() {
    let timeout = Duration::from_millis(1_000);
    let server = with_config(BrokerConfig { connect_timeout: timeout, ..BrokerConfig::default() }).await;
    let authority = Authority::new();
    let config = |websocket| ListenerConfig {
        name: "l".into(),
        address: free(),
        tls: Some(authority.tls()),
        websocket,
    };
    let secure = server.broker.listen(config(None)).await.unwrap();
    let web = server.broker.listen(config(Some(WebSocketConfig::default()))).await.unwrap();
    let part = timeout * 6 / 10;
    for (address, next) in [(secure, &b"\x10"[..]), (web, b"GET /mqtt")] {
        let began = Instant::now();
        let stream = TcpStream::connect(address).await.unwrap();
        tokio::time::sleep(part).await;
        let mut tls = authority.trust().continue_on(stream).await.unwrap();
        tls.write_all(next).await.unwrap();
        assert_eq!(Client::on(tls, false).next().await, None);
        let took = began.elapsed();
        assert!(took >= timeout && took < timeout + part, "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_stall_delay_nobody() {
    let server = plain().await;
    let authority = Authority::new();
    let config = ListenerConfig {
        name: "secure".into(),
        address: free(),
        tls: Some(authority.tls()),
        websocket: None,
    };
    let address = server.broker.listen(config).await.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc").await.unwrap();
        stalled.push(stream);
    }
    let began = Instant::now();
    Client::connect_on(authority.trust().connect(address).await, &Connect::v4("c")).await.ping().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(stalled);
}

/// A large packet is begun on every connection and never ended: together they were as large as the memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_packets_that_stay_incomplete_the_oldest_go() {
    let config = BrokerConfig { inbound_budget_bytes: 4 << 20, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let rest = vec![0; 600_000];
    // Half of the budget holds two of each. First as CONNECT, which is smaller, then as PUBLISH.
    let connect = [&[0x10, 0xff, 0xff, 0x0f, 0, 4][..], b"MQTT", &[5, 2, 0, 60], &rest[..250_000]].concat();
    let publish = [&[0x30, 0xff, 0xff, 0x3e, 0, 1, b't', 0][..], &rest].concat();
    let mut stalled = Vec::new();
    for number in 0..6 {
        let mut client = Client::open(server.address, true).await;
        client.try_send(&connect).await;
        stalled.push(client);
        let mut client = Client::connect(server.address, &Connect::v5(&format!("s{number}"))).await;
        client.try_send(&publish).await;
        stalled.push(client);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let closed = async {
        while server.broker.connections() > 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), closed).await.expect("eight of twelve are closed");
    assert_eq!(stalled[0].next().await, None);
    assert_eq!(stalled[1].closed().await, Some(0x97));
    // One that is whole in a moment is not among them.
    let mut good = Client::connect(server.address, &Connect::v5("good")).await;
    for id in 1..=5 {
        good.publish_done("t", &"x".repeat(900_000), 1, id).await;
    }
    good.ping().await;
}

/// Clients whose handlers are slow had a read-ahead each, in any number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_whose_handlers_are_slow_share_a_bound_and_lose_nothing() {
    let gate = Gate::default();
    let hooks = Script::gated(Hook::MessagePublish, &gate);
    let config = BrokerConfig { inbound_budget_bytes: 1 << 20, ..BrokerConfig::default() };
    let server = start(config, hooks, Arc::new(VolatileStore)).await;
    let payload = "x".repeat(30_000);
    let mut writing = Vec::new();
    for number in 0..8 {
        // A stream that holds little: what is not read is not written.
        let (near, far) = duplex(10_000);
        tokio::spawn(server.broker.serve(far, free()));
        let mut client = Client::connect_on(near, &Connect::v4(&format!("c{number}"))).await;
        let bytes: Vec<u8> =
            (1..=30).flat_map(|id| Publish { qos: 1, id, ..client.draft("t", &payload) }.bytes()).collect();
        writing.push(tokio::spawn(async move {
            client.send(&bytes).await;
            client
        }));
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    let written = writing.iter().filter(|task| task.is_finished()).count();
    assert!(written <= 1, "of eight times 900 KB about one was read, and {written} clients are through");
    for _ in 0..8 * 30 {
        gate.open();
    }
    for task in writing {
        let mut client = task.await.unwrap();
        for id in 1..=30 {
            assert_eq!(client.expect(PUBACK).await.id(), id);
        }
    }
}
