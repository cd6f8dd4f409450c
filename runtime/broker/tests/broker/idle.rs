//! A connection that can do nothing takes no processor time.

use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::BrokerConfig;
use tidegate_event::{Hook, Verdict, VolatileStore};

use crate::support::client::{Client, PUBACK};
use crate::support::packet::{Connect, ack};
use crate::support::script::{Gate, Script};
use crate::support::start;

/// Processor time of the calling thread.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// Connections asked again and again whether they could go on: while deliveries waited for the handlers of
/// client.connected, and while commands waited behind a full read-ahead.
#[tokio::test]
async fn a_connection_that_waits_for_handlers_sleeps() {
    let gate = Gate::default();
    let closed = gate.clone();
    let bound = [Hook::ClientConnected, Hook::MessageDeliver, Hook::MessagePublish];
    let hooks = Script::new(&bound, move |scope| {
        let (gate, wait) = (closed.clone(), scope.event.client().unwrap().id == "c");
        Some(Box::pin(async move {
            if wait {
                gate.pass().await;
            }
            Verdict::Pass
        }))
    });
    let config = BrokerConfig { read_ahead_bytes: 2_000, ..BrokerConfig::default() };
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let connect = Connect::v4("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    gate.open();
    client.subscribe("t", 1).await;
    drop(client);
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("t", "waits", 1, 1).await;
    let mut client = Client::connect(server.address, &connect).await;
    for _ in 0..20 {
        client.publish("u", "fills the read-ahead", 0, 0).await;
    }
    hooks.until(|log| log.iter().filter(|line| *line == "client.connected c").count() == 2).await;
    let control = server.broker.control();
    control
        .subscribe(&Default::default(), "c", "v".parse().unwrap(), tidegate_event::QoS::AtMostOnce)
        .unwrap();
    // Everything that can move has moved.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = processor_time();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let used = processor_time() - before;
    assert!(used < Duration::from_millis(100), "{used:?} of 400 ms");
    for _ in 0..30 {
        gate.open();
    }
    let message = client.message().await;
    assert_eq!(message.payload, "waits");
    client.send(&ack(PUBACK, message.id)).await;
    client.ping().await;
}
