//! Keep-alive against clients that send slowly, on purpose or because they cannot faster (MQTT 5 clause 3.1.2.10).

use std::time::{Duration, Instant};

use crate::support::client::{Client, PUBACK};
use crate::support::packet::{Connect, Publish};
use crate::support::plain;

/// Only a control packet counts ([MQTT-3.1.2-22]). A client that sent one byte of a packet now and then was never closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_bytes_of_a_packet_do_not_keep_a_client_alive() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c").keep_alive(1)).await;
    let start = Instant::now();
    client.send(&[0x30, 100, 0, 1]).await;
    let dribble = async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            client.try_send(b"a").await;
            if start.elapsed() > Duration::from_secs(4) {
                break;
            }
        }
        client.closed().await
    };
    assert_eq!(dribble.await, Some(0x8d));
    while server.broker.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_packet_on_a_slow_line_is_not_cut() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c").keep_alive(1)).await;
    let payload = "x".repeat(600_000);
    let bytes = Publish { qos: 1, id: 1, ..client.draft("t", &payload) }.bytes();
    let start = Instant::now();
    // Longer than one and a half keep-alives, steadily.
    for piece in bytes.chunks(20_000) {
        client.send(piece).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(start.elapsed() > Duration::from_secs(2));
    assert_eq!(client.expect(PUBACK).await.id(), 1);
    // Half of one that then goes no further.
    client.send(&bytes[..300_000]).await;
    assert_eq!(client.closed().await, Some(0x8d));
}
