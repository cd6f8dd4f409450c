//! message.deliver: per subscriber, before the write, in order.

use std::sync::Arc;

use tidegate_event::{Hook, Message, Verdict};

use crate::support::client::Client;
use crate::support::packet::Connect;
use crate::support::script::{Gate, Script, decide, pass, payload};
use crate::support::with_hooks;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_waits_for_its_handlers_and_keeps_its_order() {
    let gate = Gate::default();
    let hooks = Script::gated(Hook::MessageDeliver, &gate);
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 1..=3_u16 {
        publisher.publish_done("t", &number.to_string(), 1, number).await;
    }
    client.ping().await;
    assert_eq!(hooks.raised(), ["message.deliver c t 1"]);
    for expected in ["1", "2", "3"] {
        gate.open();
        assert_eq!(client.take().await.payload, expected);
        client.ping().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_may_drop_or_replace_for_one_subscriber() {
    let hooks = Script::new(&[Hook::MessageDeliver, Hook::MessageAcked], |scope| {
        if scope.event.hook() == Hook::MessageAcked || scope.event.client().unwrap().id != "changed" {
            return pass();
        }
        match payload(scope).as_str() {
            "drop" => decide(Verdict::Drop),
            "replace" => {
                let mut message = Message::clone(scope.event.message().unwrap());
                message.payload = "replaced".into();
                decide(Verdict::Replace(Arc::new(message)))
            }
            _ => None,
        }
    });
    let server = with_hooks(hooks.clone()).await;
    let mut changed = Client::connect(server.address, &Connect::v5("changed").receive_maximum(1)).await;
    let mut plain = Client::connect(server.address, &Connect::v5("plain")).await;
    changed.subscribe("t", 1).await;
    plain.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for (id, payload) in [(1, "drop"), (2, "replace"), (3, "drop"), (4, "drop"), (5, "pass")] {
        publisher.publish_done("t", payload, 1, id).await;
    }
    assert_eq!(changed.payloads(2).await, ["replaced", "pass"], "what is dropped takes no slot");
    assert_eq!(plain.payloads(5).await, ["drop", "replace", "drop", "drop", "pass"]);
    let log = hooks.until(|log| log.iter().filter(|l| l.starts_with("+message.acked ch")).count() == 5).await;
    let acked: Vec<&str> = log
        .iter()
        .filter(|line| line.starts_with("message.acked changed"))
        .map(|line| line.trim_start_matches("message.acked changed t "))
        .collect();
    let expected = [
        "drop through itself implicit",
        "replace through itself",
        "drop through itself implicit",
        "drop through itself implicit",
        "pass through itself",
    ];
    assert_eq!(acked, expected, "a dropped delivery counts as acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redelivery_raises_no_second_deliver_and_sends_the_same_bytes() {
    let hooks = Script::new(&[Hook::MessageDeliver], |scope| {
        let mut message = Message::clone(scope.event.message().unwrap());
        message.payload = "replaced".into();
        decide(Verdict::Replace(Arc::new(message)))
    });
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c").persistent()).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("t", "x", 1, 1).await;
    assert_eq!(client.message().await.payload, "replaced");
    drop(client);
    let mut client = Client::connect(server.address, &Connect::v4("c").persistent()).await;
    let again = client.take().await;
    assert!(again.dup);
    assert_eq!(again.payload, "replaced");
    client.ping().await;
    assert_eq!(hooks.raised().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_whose_client_goes_away_is_not_lost() {
    let gate = Gate::default();
    let closed = gate.clone();
    let hooks = Script::new(&[Hook::MessageDeliver, Hook::ClientDisconnected], move |scope| {
        let (gate, wait) = (closed.clone(), scope.event.hook() == Hook::MessageDeliver);
        Some(Box::pin(async move {
            if wait {
                gate.pass().await;
            }
            Verdict::Pass
        }))
    });
    let server = with_hooks(hooks.clone()).await;
    let connect = Connect::v4("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("t", "1", 1, 1).await;
    publisher.publish_done("t", "2", 1, 2).await;
    client.ping().await;
    client.disconnect().await;
    let mut client = Client::connect(server.address, &connect).await;
    client.ping().await;
    // The first pass ends the handlers of the old connection; then each message is delivered.
    for _ in 0..3 {
        gate.open();
    }
    assert_eq!(client.payloads(2).await, ["1", "2"]);
    let expected = [
        "message.deliver c t 1",
        "client.disconnected c normal",
        "message.deliver c t 1",
        "message.deliver c t 2",
    ];
    assert_eq!(hooks.raised(), expected);
}
