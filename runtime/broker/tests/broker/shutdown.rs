//! Graceful shutdown: what was taken is finished, answered and said good-bye to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_broker::BrokerConfig;
use tidegate_event::{Hook, VolatileStore};

use crate::support::client::{Client, PUBACK};
use crate::support::packet::Connect;
use crate::support::script::{Script, Withheld, pass};
use crate::support::{start, with_hooks};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_messages_are_stored_and_acknowledged_before_the_end() {
    let withheld = Withheld::default();
    let taken = withheld.clone();
    let hooks = Script::new(&[Hook::MessagePublish, Hook::ClientDisconnected], move |scope| {
        if scope.event.hook() == Hook::MessagePublish {
            taken.take(scope);
        }
        pass()
    });
    let server = with_hooks(hooks.clone()).await;
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    let mut idle = Client::connect(server.address, &Connect::v5("idle")).await;
    let unconnected = Client::open(server.address, false).await;
    five.publish("t", "5", 1, 5).await;
    four.publish("t", "4", 2, 4).await;
    hooks.until(|log| log.len() == 4).await;
    let broker = server.broker.clone();
    let stopping = tokio::spawn(async move { broker.shutdown(Duration::from_secs(10)).await });
    assert_eq!(idle.closed().await, Some(0x8b));
    assert!(!stopping.is_finished());
    withheld.part("5").done();
    withheld.part("4").done();
    assert_eq!(five.expect(PUBACK).await.id(), 5);
    assert_eq!(five.closed().await, Some(0x8b));
    assert_eq!(four.expect(0x50).await.id(), 4);
    assert_eq!(four.closed().await, None);
    stopping.await.unwrap();
    assert_eq!(server.broker.connections(), 0);
    let ends = hooks.raised().into_iter().filter(|line| line.ends_with("shutdown")).count();
    assert_eq!(ends, 3, "client.disconnected is raised for each");
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err(), "nothing listens");
    drop(unconnected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_never_answers_does_not_hold_the_shutdown_beyond_the_deadline() {
    let withheld = Withheld::default();
    let taken = withheld.clone();
    let hooks = Script::new(&[Hook::MessagePublish], move |scope| {
        taken.take(scope);
        pass()
    });
    let server = start(BrokerConfig::default(), hooks.clone(), Arc::new(VolatileStore)).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.publish("t", "x", 1, 1).await;
    hooks.until(|log| log.len() == 2).await;
    let begun = Instant::now();
    let broker = server.broker.clone();
    let stopping = tokio::spawn(async move { broker.shutdown(Duration::from_millis(300)).await });
    assert_eq!(client.closed().await, Some(0x8b), "without PUBACK: the client will send it again");
    stopping.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(withheld.part("x"));
}
