//! What a client was not given is read from the store, once, and in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_broker::BrokerConfig;
use tidegate_event::{Hook, QoS, Verdict, VolatileStore};

use crate::support::client::{Client, PUBACK};
use crate::support::packet::{Connect, ack, subscribe, unsubscribe};
use crate::support::script::{Gate, Script};
use crate::support::shelf::{Shelf, until_left};
use crate::support::{start, with_hooks};

fn numbers(range: impl Iterator<Item = u16>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn publish(publisher: &mut Client, topic: &str, range: impl Iterator<Item = u16>) {
    for number in range {
        publisher.publish_done(topic, &number.to_string(), 1, number).await;
    }
}

const STORING: [Hook; 3] = [Hook::MessagePublish, Hook::SessionSubscribed, Hook::MessageAcked];

/// The hooks of `shelf`; handlers of `gated` wait at `gate`.
fn gated(shelf: &Shelf, gated: Hook, gate: &Gate, more: &[Hook]) -> Arc<Script> {
    let (shelf, gate) = (shelf.clone(), gate.clone());
    let hooks: Vec<Hook> = STORING.iter().chain(more).copied().collect();
    Script::new(&hooks, move |scope| {
        shelf.handle(scope);
        let gate = gate.clone();
        let mine = scope.event.client().is_none_or(|client| client.id != "p");
        if scope.event.hook() == Hook::ClientConnected && mine {
            scope.effects.lock().subscriptions.push(("t".parse().unwrap(), QoS::AtLeastOnce));
        }
        if scope.event.hook() == Hook::SessionCreated && mine {
            scope.effects.lock().subscriptions.push(("created".parse().unwrap(), QoS::AtLeastOnce));
        }
        let wait = mine && scope.event.hook() == gated;
        Some(Box::pin(async move {
            if wait {
                gate.pass().await;
            }
            Verdict::Pass
        }))
    })
}

/// Deliveries at QoS 0 that were displaced in a full queue, or dropped with their connection, were stored all the
/// same: the next one moved the position over them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_position_passes_dropped_deliveries_at_qos_0() {
    let (shelf, gate) = (Shelf::new(10, None), Gate::default());
    let hooks = gated(&shelf, Hook::MessageDeliver, &gate, &[Hook::MessageDeliver]);
    let config = BrokerConfig { max_queued: 4, ..BrokerConfig::default() };
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let connect = Connect::v4("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 0).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    // 1 waits for its handler, up to four in the queue, the older ones give way.
    publish(&mut publisher, "t", 1..=1).await;
    hooks.until_line("message.deliver c t 1").await;
    publish(&mut publisher, "t", 2..=10).await;
    for _ in 0..5 {
        gate.open();
    }
    assert_eq!(client.take().await.payload, "1");
    let rest = client.payloads(4).await;
    assert_eq!(rest.last().map(String::as_str), Some("10"));
    let first_lost = 2;
    hooks.until_line("+message.acked c t 10").await;
    assert_eq!(shelf.position("c", "t").as_deref(), Some("1"), "{first_lost} is not read");
    for _ in 0..5 {
        gate.open();
    }
    client.subscribe("t", 0).await;
    let missing: Vec<String> = numbers(2..=10).into_iter().filter(|number| !rest.contains(number)).collect();
    assert_eq!(client.payloads(5).await, missing);
    client.ping().await;
    // What is live comes when nothing stored is left to bring.
    gate.open();
    publish(&mut publisher, "t", 11..=11).await;
    assert_eq!(client.take().await.payload, "11");
    hooks.until_line("+message.acked c t 11").await;
    // The same when they wait and the connection is lost.
    publish(&mut publisher, "t", 12..=14).await;
    hooks.until_line("message.deliver c t 12").await;
    drop(client);
    until_left(&server, 1).await;
    for _ in 0..10 {
        gate.open();
    }
    let mut client = Client::connect(server.address, &connect).await;
    publish(&mut publisher, "t", 15..=15).await;
    assert_eq!(client.take().await.payload, "15");
    client.subscribe("t", 0).await;
    let mut got = client.payloads(2).await;
    got.extend(tokio::time::timeout(Duration::from_millis(200), client.take()).await.map(|m| m.payload).ok());
    got.sort();
    // 12 was with its handler when the connection was lost: at most once.
    assert!(got == numbers(12..=14) || got == numbers(13..=14), "{got:?}");
}

/// The subscription that a handler of client.connected names was made while messages were on their way out: they and
/// the stored ones took turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_looked_up_at_connect_keeps_the_order_of_what_is_queued() {
    let (shelf, gate) = (Shelf::new(100, None), Gate::default());
    let hooks = gated(&shelf, Hook::ClientConnected, &gate, &[Hook::ClientConnected]);
    let server = with_hooks(hooks.clone()).await;
    let connect = Connect::v5("c").persistent().receive_maximum(4);
    gate.open();
    let client = Client::connect(server.address, &connect).await;
    hooks.until_line("+session.subscribed c t").await;
    drop(client);
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    until_left(&server, 1).await;
    publish(&mut publisher, "t", 1..=600).await;
    let mut client = Client::connect(server.address, &connect).await;
    let mut first = Vec::new();
    for _ in 0..4 {
        first.push(client.message().await);
    }
    let subscribed =
        |log: &[String]| log.iter().filter(|line| line.starts_with("+session.subscribed c")).count();
    gate.open();
    hooks.until(|log| subscribed(log) == 2).await;
    for message in &first {
        client.send(&ack(PUBACK, message.id)).await;
    }
    let mut got: Vec<String> = first.into_iter().map(|message| message.payload).collect();
    got.extend(client.payloads(596).await);
    assert_eq!(got, numbers(1..=600));
    client.ping().await;
}

/// A connection whose client's earlier one had left much to do read nothing, and was not woken when that was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_reads_on_when_earlier_ones_have_finished() {
    let (shelf, gate) = (Shelf::new(10, None), Gate::default());
    let hooks = gated(&shelf, Hook::MessagePublish, &gate, &[]);
    let config = BrokerConfig { read_ahead_bytes: 20_000, ..BrokerConfig::default() };
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let text = "x".repeat(8_000);
    for connect in [Connect::v4("a").keep_alive(0), Connect::v4("b").keep_alive(0).persistent()] {
        let mut client = Client::connect(server.address, &connect).await;
        for id in 1..=3 {
            client.publish("t", &text, 1, id).await;
        }
        hooks.until_line(&format!("message.publish {} t", connect.id)).await;
        client.send(&[0xe0, 0]).await;
        client.closed().await;
        let mut client = Client::connect(server.address, &connect).await;
        client.publish("t", "next", 1, 7).await;
        for _ in 0..4 {
            gate.open();
            tokio::task::yield_now().await;
        }
        assert_eq!(client.expect(PUBACK).await.id(), 7);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_acknowledged_before_an_older_one_is_not_fetched_again() {
    let shelf = Shelf::new(10, None);
    let hooks = shelf.hooks();
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publish(&mut publisher, "t", 1..=2).await;
    let (one, two) = (client.message().await, client.message().await);
    client.send(&ack(PUBACK, two.id)).await;
    hooks.until_line("+message.acked c t 2 through none").await;
    client.subscribe("t", 1).await;
    client.ping().await;
    client.send(&ack(PUBACK, one.id)).await;
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_unsubscribed_filter_was_to_bring_comes_by_another_that_matches() {
    let shelf = Shelf::new(10, None);
    let server = with_hooks(shelf.hooks()).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publish(&mut publisher, "a/b", 1..=4).await;
    publish(&mut publisher, "a/c", 5..=6).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").receive_maximum(1)).await;
    client.subscribe("a/#", 1).await;
    let one = client.message().await;
    client.subscribe("a/b", 1).await;
    client.ping().await;
    client.unsubscribe(&["a/#"]).await;
    client.send(&ack(PUBACK, one.id)).await;
    assert_eq!(client.payloads(3).await, numbers(2..=4));
    client.ping().await;
    publish(&mut publisher, "a/b", 7..=7).await;
    assert_eq!(client.payloads(1).await, numbers(7..=7));
}

/// Each repeated SUBSCRIBE left a task behind that waited for the store.
#[tokio::test]
async fn a_fetch_that_nobody_waits_for_is_given_up() {
    let gate = Gate::default();
    let shelf = Shelf::new(10, Some(gate.clone()));
    let server = with_hooks(shelf.hooks()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 1).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for _ in 0..50 {
        client.subscribe("t", 1).await;
    }
    client.ping().await;
    let after = metrics.num_alive_tasks();
    assert!(after <= before + 2, "{before} tasks before, {after} after");
}

/// A SUBSCRIBE that waited for acknowledgements kept a shutdown waiting to its deadline, and what came after it was
/// given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_subscribe_does_not_hold_up_a_shutdown() {
    let config = BrokerConfig { max_queued: 2, max_inflight: 2, ..BrokerConfig::default() };
    let shelf = Shelf::new(100, None);
    let hooks = shelf.hooks();
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publish(&mut publisher, "t", 1..=20).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 1).await;
    client.message().await;
    client.message().await;
    client.send(&subscribe(false, 9, &[("t", 1)], &[])).await;
    client.publish("u", "after", 0, 0).await;
    client.ping().await;
    let begun = Instant::now();
    server.broker.shutdown(Duration::from_secs(15)).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    hooks.until_line("+message.publish c u after").await;
}

/// An UNSUBSCRIBE whose connection was lost before it was done let the fetch go on for the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsubscribe_that_ends_after_its_connection_stops_the_fetch_too() {
    let (shelf, gate) = (Shelf::new(2, None), Gate::default());
    let hooks = gated(&shelf, Hook::SessionUnsubscribed, &gate, &[Hook::SessionUnsubscribed]);
    let server = with_hooks(hooks.clone()).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publish(&mut publisher, "t", 1..=10).await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 1).await;
    client.message().await;
    client.message().await;
    client.send(&unsubscribe(true, 5, &["t"])).await;
    hooks.until_line("session.unsubscribed c t").await;
    drop(client);
    let mut client = Client::connect(server.address, &connect).await;
    let (one, two) = (client.message().await, client.message().await);
    gate.open();
    hooks.until_line("+session.unsubscribed c t").await;
    // The ended connection takes note of that a moment later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.ping().await;
    for message in [one, two] {
        client.send(&ack(PUBACK, message.id)).await;
    }
    client.ping().await;
    assert_eq!(shelf.reads(), 1);
}

/// The subscriptions that handlers of session.created name were never made when the connection was lost meanwhile,
/// although the session lived on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_gets_the_subscriptions_of_its_creation_though_its_connection_is_lost() {
    let (shelf, gate) = (Shelf::new(10, None), Gate::default());
    let hooks = gated(&shelf, Hook::SessionCreated, &gate, &[Hook::SessionCreated]);
    let server = with_hooks(hooks.clone()).await;
    let connect = Connect::v5("c").persistent();
    let client = Client::connect(server.address, &connect).await;
    hooks.until_line("session.created c").await;
    drop(client);
    until_left(&server, 0).await;
    gate.open();
    hooks.until_line("+session.created c").await;
    let mut client = Client::connect(server.address, &connect).await;
    assert!(client.present);
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publish(&mut publisher, "created", 1..=1).await;
    assert_eq!(client.payloads(1).await, numbers(1..=1));
}

/// Live messages that the hold of a join had no place for were read again only where positions are kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overflow_is_read_again_without_positions_too() {
    let shelf = Shelf::new(3, None);
    let stored = shelf.clone();
    let hooks = Script::new(&[Hook::MessagePublish, Hook::SessionSubscribed], move |scope| {
        stored.handle(scope);
        Some(Box::pin(async { Verdict::Pass }))
    });
    let config = BrokerConfig { max_queued: 4, ..BrokerConfig::default() };
    let server = start(config, hooks, Arc::new(VolatileStore)).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publish(&mut publisher, "t", 1..=2).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 1).await;
    let (one, two) = (client.message().await, client.message().await);
    publish(&mut publisher, "t", 3..=20).await;
    client.send(&ack(PUBACK, one.id)).await;
    client.send(&ack(PUBACK, two.id)).await;
    assert_eq!(client.payloads(18).await, numbers(3..=20));
    client.ping().await;
}

/// A flood that no store has kept the stores being read again and again, and everything live held back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_that_is_not_stored_does_not_keep_a_join_going() {
    let gate = Gate::default();
    let shelf = Shelf::new(10, Some(gate.clone()));
    let config = BrokerConfig { max_queued: 4, ..BrokerConfig::default() };
    let server = start(config, shelf.hooks(), Arc::new(VolatileStore)).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for reads in 1..=2 {
        for _ in 0..10 {
            publisher.publish("t", "flood", 0, 0).await;
        }
        publisher.ping().await;
        while shelf.reads() < reads {
            tokio::task::yield_now().await;
        }
        gate.open();
    }
    assert_eq!(client.take().await.payload, "flood");
    assert_eq!(shelf.reads(), 2);
}

/// Two joins of overlapping filters: the younger one's page passed over what the older one had still to send, and
/// sent newer messages first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_joins_keep_the_order_of_a_topic() {
    let shelf = Shelf::new(4, None);
    let server = with_hooks(shelf.hooks()).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publish(&mut publisher, "a/b", 1..=10).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").receive_maximum(1)).await;
    let both = [("a/b", 1), ("a/#", 1)];
    assert_eq!(client.subscribe_all(&both).await, [1, 1]);
    assert_eq!(client.payloads(10).await, numbers(1..=10));
    client.ping().await;
}
