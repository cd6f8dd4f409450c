//! What handlers and modules do to clients.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_event::{Control, ControlError, Hook, IdSource, Message, Node, Origin, QoS, Tenant, Verdict};

use crate::support::client::Client;
use crate::support::packet::Connect;
use crate::support::script::{Gate, Script, decide, payload};
use crate::support::{plain, start, with_hooks};

fn message(topic: &str, payload: &str, qos: QoS, hops: u8) -> Message {
    Message {
        id: IdSource::new(&Node::default()).next_id(),
        topic: topic.parse().unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        dup: false,
        timestamp_ms: 0,
        sender: "module".into(),
        publisher: None,
        properties: None,
        origin: Origin::Module,
        hops,
    }
}

fn tenant() -> Tenant {
    Tenant::default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_carried_out_in_order() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    let control = server.broker.control();
    control.deliver(&tenant(), "c", message("direct", "1", QoS::AtLeastOnce, 0)).unwrap();
    control.subscribe(&tenant(), "c", "t/+".parse().unwrap(), QoS::AtLeastOnce).unwrap();
    control.deliver(&tenant(), "c", message("direct", "2", QoS::AtMostOnce, 0)).unwrap();
    assert_eq!(client.payloads(2).await, ["1", "2"]);
    client.ping().await;
    publisher.publish_done("t/x", "3", 1, 1).await;
    assert_eq!(client.take().await.payload, "3");
    control.unsubscribe(&tenant(), "c", "t/+".parse().unwrap()).unwrap();
    control.deliver(&tenant(), "c", message("direct", "4", QoS::AtMostOnce, 0)).unwrap();
    assert_eq!(client.take().await.payload, "4");
    client.ping().await;
    publisher.publish_done("t/x", "5", 1, 1).await;
    client.ping().await;
    control.disconnect(&tenant(), "c").unwrap();
    assert_eq!(client.closed().await, Some(0x98));
    assert_eq!(
        control.deliver(&tenant(), "nobody", message("t", "", QoS::AtMostOnce, 0)),
        Err(ControlError::NoSuchClient("nobody".into()))
    );
    assert!(control.disconnect(&Tenant::new("other"), "p").is_err(), "tenants do not see each other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_message_goes_through_the_hooks_up_to_a_limit() {
    let hooks = Script::new(&[Hook::MessagePublish], |scope| {
        decide(if payload(scope) == "bad" { Verdict::Drop } else { Verdict::Pass })
    });
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe("t", 1).await;
    let control = server.broker.control();
    for (number, payload) in ["1", "bad", "2", "3"].into_iter().enumerate() {
        control.publish(&tenant(), message("t", payload, QoS::AtLeastOnce, number as u8)).unwrap();
    }
    assert_eq!(client.payloads(3).await, ["1", "2", "3"]);
    assert_eq!(
        control.publish(&tenant(), message("t", "loop", QoS::AtMostOnce, 9)),
        Err(ControlError::HopLimit(8))
    );
    assert_eq!(hooks.raised().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_queues_say_busy_and_a_stopping_broker_says_so() {
    let gate = Gate::default();
    let hooks = Script::gated(Hook::MessagePublish, &gate);
    let config = tidegate_broker::BrokerConfig { max_commands: 3, ..Default::default() };
    let server = start(config, hooks.clone(), Arc::new(tidegate_event::VolatileStore)).await;
    let control: Arc<dyn Control> = server.broker.control();
    let mut sent = 0;
    loop {
        match control.publish(&tenant(), message("t", "x", QoS::AtMostOnce, 0)) {
            Ok(()) => sent += 1,
            Err(error) => {
                assert_eq!(error, ControlError::Busy);
                break;
            }
        }
        assert!(sent < 100, "the queue is bounded");
    }
    for _ in 0..100 {
        gate.open();
    }
    hooks.until(|log| log.iter().filter(|line| line.starts_with('+')).count() == sent).await;
    server.broker.shutdown(std::time::Duration::from_secs(5)).await;
    assert_eq!(
        control.publish(&tenant(), message("t", "x", QoS::AtMostOnce, 0)),
        Err(ControlError::Stopping)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_with_too_many_levels_is_refused_everywhere() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let control = server.broker.control();
    let deep = "x/".repeat(30_000);
    control.subscribe(&tenant(), "c", deep.parse().unwrap(), QoS::AtMostOnce).unwrap();
    let mut retained = message(&deep, "x", QoS::AtMostOnce, 0);
    retained.retain = true;
    let mut witness = Client::connect(server.address, &Connect::v5("witness")).await;
    witness.subscribe("#", 0).await;
    control.publish(&tenant(), retained).unwrap();
    assert_eq!(witness.take().await.payload, "x");
    control.deliver(&tenant(), "c", message("t", "alive", QoS::AtMostOnce, 0)).unwrap();
    assert_eq!(client.take().await.payload, "alive");
    client.subscribe("#", 0).await;
    client.ping().await;
}
