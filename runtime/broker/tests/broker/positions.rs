//! message.acked and the positions it carries.

use tidegate_event::Hook;

use crate::support::client::{Client, PUBACK, PUBCOMP, PUBREC, PUBREL};
use crate::support::packet::{Connect, ack};
use crate::support::script::Script;
use crate::support::with_hooks;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_position_moves_over_contiguous_acknowledgements_only() {
    let hooks = Script::observer(&[Hook::MessageAcked]);
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("#", 2).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for (id, topic, qos) in [(1, "a", 1), (2, "a", 1), (3, "b", 1), (4, "a", 2), (5, "a", 0)] {
        publisher.publish_done(topic, &id.to_string(), qos, id).await;
    }
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(client.message().await.id);
    }
    client.send(&ack(PUBACK, ids[1])).await;
    client.send(&ack(PUBACK, ids[2])).await;
    client.send(&ack(PUBREC, ids[3])).await;
    client.expect(PUBREL).await;
    client.send(&ack(PUBCOMP, ids[3])).await;
    client.send(&ack(PUBACK, ids[0])).await;
    let log = hooks.until(|log| log.len() == 10).await;
    let raised: Vec<String> = log.into_iter().filter(|line| !line.starts_with('+')).collect();
    let expected = [
        "message.acked c a 5 through none implicit",
        "message.acked c a 2 through none",
        "message.acked c b 3 through itself",
        "message.acked c a 4 through none",
        "message.acked c a 1 through beyond",
    ];
    assert_eq!(raised, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_copy_moves_no_position() {
    let hooks = Script::observer(&[Hook::MessageAcked]);
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.retain("t", "x").await;
    client.subscribe("t", 1).await;
    assert!(client.take().await.retain);
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("t", "y", 0, 0).await;
    assert_eq!(client.take().await.payload, "y");
    let log = hooks.until(|log| log.len() == 4).await;
    assert_eq!(log[0], "message.acked c t x through none");
    assert_eq!(log[2], "message.acked c t y through itself implicit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_after_a_reconnect_count_too() {
    let hooks = Script::observer(&[Hook::MessageAcked, Hook::ClientConnected]);
    let server = with_hooks(hooks.clone()).await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for id in 1..=3 {
        publisher.publish_done("t", &id.to_string(), 1, id).await;
        client.message().await;
    }
    client.send(&ack(PUBACK, 2)).await;
    client.ping().await;
    drop(client);
    let mut client = Client::connect(server.address, &connect).await;
    assert_eq!(client.payloads(2).await, ["1", "3"]);
    let log = hooks.until(|log| log.iter().any(|line| line.starts_with("+message.acked c t 3"))).await;
    let acked: Vec<&String> = log.iter().filter(|line| line.starts_with("message.acked")).collect();
    let expected = [
        "message.acked c t 2 through none",
        "message.acked c t 1 through beyond",
        "message.acked c t 3 through itself",
    ];
    assert_eq!(acked, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_a_handler_made_moves_no_position_and_a_shared_one_does() {
    let hooks = Script::observer(&[Hook::MessageAcked]);
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe("$share/g/t", 1).await;
    client.publish_done("t", "shared", 1, 1).await;
    assert_eq!(client.take().await.payload, "shared");
    let made = tidegate_event::Message {
        id: tidegate_event::IdSource::new(&tidegate_event::Node::default()).next_id(),
        topic: "t".parse().unwrap(),
        payload: "made".into(),
        qos: tidegate_event::QoS::AtLeastOnce,
        retain: false,
        dup: false,
        timestamp_ms: 0,
        sender: "".into(),
        publisher: None,
        properties: None,
        origin: tidegate_event::Origin::Module,
        hops: 1,
    };
    server.broker.control().deliver(&tidegate_event::Tenant::default(), "c", made).unwrap();
    assert_eq!(client.take().await.payload, "made");
    hooks.until_line("+message.acked c t made").await;
    let expected = ["message.acked c t shared through itself", "message.acked c t made through none"];
    assert_eq!(hooks.raised(), expected);
}
