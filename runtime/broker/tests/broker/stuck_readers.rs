//! Clients that do not take what they are sent.

use std::time::Duration;

use tidegate_broker::BrokerConfig;

use crate::support::client::{Client, PATIENCE};
use crate::support::packet::Connect;
use crate::support::with_config;

/// Its PINGREQ kept it alive, and without keep-alive nothing was asked of it at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_closed() {
    let config = BrokerConfig { write_timeout: Duration::from_millis(500), ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").keep_alive(0)).await;
    let mut idle = Client::connect(server.address, &Connect::v5("idle").keep_alive(0)).await;
    // As many as the system keeps answers of, and more.
    let pings = [0xc0, 0].repeat(100_000);
    let flood = async {
        while server.broker.connections() > 1 {
            // It is not read from any more at some time.
            tokio::time::timeout(Duration::from_millis(100), client.try_send(&pings)).await.ok();
        }
    };
    tokio::time::timeout(PATIENCE, flood).await.expect("it is closed");
    idle.ping().await;
}

/// Reads as much as it likes, when it likes; the time is of those that take nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_stays() {
    let config = BrokerConfig { write_timeout: Duration::from_millis(600), ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut slow = Client::connect(server.address, &Connect::v5("slow")).await;
    slow.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    let payload = "x".repeat(500_000);
    for id in 1..=30 {
        publisher.publish_done("t", &payload, 1, id).await;
    }
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(slow.take().await.payload.len(), payload.len());
    }
    slow.ping().await;
}
