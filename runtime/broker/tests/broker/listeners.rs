//! Listeners keep serving: whoever stalls, floods or comes too often.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidegate_broker::{Arrival, BrokerConfig, ListenerConfig, WebSocketConfig};
use tokio::io::{AsyncWriteExt as _, duplex};
use tokio::net::TcpStream;

use crate::support::certificates::Authority;
use crate::support::client::Client;
use crate::support::packet::Connect;
use crate::support::{free, plain, with_config};

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
    while server.broker.connections() > 2 {
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

/// Nobody knows who sends a CONNECT before it is whole: together they were as large as the memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_that_are_not_whole_share_a_bound() {
    let server = plain().await;
    let part = [&[0x10, 0xff, 0xff, 0x3f, 0, 4][..], b"MQTT", &[5, 2, 0, 60], &[0; 900_000]].concat();
    let mut open = Vec::new();
    for _ in 0..90 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&part).await.ok();
        open.push(stream);
    }
    let closed = async {
        while server.broker.connections() > 80 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(9), closed).await.expect("those above 64 MiB are closed");
    Client::connect(server.address, &Connect::v4("good")).await.ping().await;
    drop(open);
}
