//! Where stored and live messages meet: nothing is lost, doubled or out of order, and nothing grows without bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tidegate_broker::BrokerConfig;
use tidegate_event::{
    Backlog, BoxFuture, Hook, IdSource, Message, Node, Origin, QoS, StorageError, VolatileStore,
};

use crate::support::client::{Client, PUBACK};
use crate::support::packet::{Connect, ack, subscribe};
use crate::support::script::{Gate, Script, Withheld, pass};
use crate::support::shelf::{Shelf, until_left};
use crate::support::{counted, start, with_hooks};

fn numbers(range: impl Iterator<Item = u16>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn publish(publisher: &mut Client, topic: &str, range: impl Iterator<Item = u16>) {
    for number in range {
        publisher.publish_done(topic, &number.to_string(), 1, number).await;
    }
}

/// The acknowledgement of a later message moved the client's position over what its full queue had dropped, so that
/// it never got it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_position_passes_messages_that_a_full_queue_dropped() {
    let shelf = Shelf::new(4, None);
    let hooks = shelf.hooks();
    let config = BrokerConfig { max_queued: 5, ..BrokerConfig::default() };
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let connect = Connect::v4("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t/+", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    // It has brought all that there was: what comes while the client is away waits in its queue.
    publish(&mut publisher, "t/x", 100..=100).await;
    assert_eq!(client.payloads(1).await, numbers(100..=100));
    hooks.until_line("+message.acked c t/x 100").await;
    drop(client);
    until_left(&server, 1).await;
    publish(&mut publisher, "t/x", 1..=20).await;
    let mut client = Client::connect(server.address, &connect).await;
    assert_eq!(client.payloads(5).await, numbers(1..=5));
    publish(&mut publisher, "t/x", 21..=21).await;
    publish(&mut publisher, "t/y", 22..=22).await;
    assert_eq!(client.payloads(2).await, numbers(21..=22));
    hooks.until_line("+message.acked c t/y 22").await;
    assert_eq!(shelf.position("c", "t/x").as_deref(), Some("5"), "6 to 20 are not read");
    assert_eq!(shelf.position("c", "t/y").as_deref(), Some("22"), "other topics go on");
    // What was lost comes out of the store, and what was given is not given again.
    client.subscribe("t/+", 1).await;
    assert_eq!(client.payloads(15).await, numbers(6..=20));
    publish(&mut publisher, "t/x", 23..=23).await;
    assert_eq!(client.payloads(1).await, numbers(23..=23));
    hooks.until_line("+message.acked c t/x 23").await;
    assert_eq!(shelf.position("c", "t/x").as_deref(), Some("23"));
}

/// MQTT keeps no QoS 0 messages for a client that is away; its store does, until the client asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_position_passes_messages_that_came_while_a_qos_0_subscriber_was_away() {
    let shelf = Shelf::new(4, None);
    let hooks = shelf.hooks();
    let server = with_hooks(hooks.clone()).await;
    let connect = Connect::v4("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 0).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publish(&mut publisher, "t", 1..=1).await;
    assert_eq!(client.payloads(1).await, numbers(1..=1));
    drop(client);
    until_left(&server, 1).await;
    publish(&mut publisher, "t", 2..=4).await;
    let mut client = Client::connect(server.address, &connect).await;
    publish(&mut publisher, "t", 5..=5).await;
    assert_eq!(client.payloads(1).await, numbers(5..=5));
    hooks.until_line("+message.acked c t 5").await;
    assert_eq!(shelf.position("c", "t").as_deref(), Some("1"));
    client.subscribe("t", 0).await;
    assert_eq!(client.payloads(3).await, numbers(2..=4));
    client.ping().await;
}

/// A client that came back and subscribed again got messages twice when it acknowledged them before the page that
/// had them too arrived, and out of order when the queue had others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_after_a_reconnect_doubles_nothing_and_keeps_the_order() {
    let gate = Gate::default();
    let shelf = Shelf::new(100, Some(gate.clone()));
    let hooks = shelf.hooks();
    let config = BrokerConfig { max_queued: 8, ..BrokerConfig::default() };
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let connect = Connect::v5("c").persistent().receive_maximum(4);
    let mut client = Client::connect(server.address, &connect).await;
    client.send(&subscribe(true, 1, &[("t", 1)], &[])).await;
    client.expect(0x90).await;
    gate.open();
    gate.until_passed().await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publish(&mut publisher, "t", 1..=6).await;
    for number in numbers(1..=4) {
        assert_eq!(client.message().await.payload, number);
    }
    drop(client);
    until_left(&server, 1).await;
    // 5 to 12 wait, 13 to 20 find no place.
    publish(&mut publisher, "t", 7..=20).await;
    let mut client = Client::connect(server.address, &connect).await;
    let mut again = Vec::new();
    for _ in 0..4 {
        again.push(client.message().await);
    }
    let payloads: Vec<&str> = again.iter().map(|message| message.payload.as_str()).collect();
    assert_eq!(payloads, ["1", "2", "3", "4"]);
    let reads = shelf.reads();
    client.subscribe("t", 1).await;
    while shelf.reads() == reads {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    for message in again {
        client.send(&ack(PUBACK, message.id)).await;
    }
    hooks.until_line("+message.acked c t 4").await;
    gate.open();
    assert_eq!(client.payloads(16).await, numbers(5..=20));
    gate.open();
    client.ping().await;
    hooks.until_line("+message.acked c t 20").await;
    assert_eq!(shelf.position("c", "t").as_deref(), Some("20"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsubscribe_stops_a_fetch_and_a_later_one_begins_where_it_stopped() {
    let shelf = Shelf::new(3, None);
    let server = with_hooks(shelf.hooks()).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publish(&mut publisher, "t", 1..=10).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").receive_maximum(2)).await;
    client.subscribe("t", 1).await;
    let (one, two) = (client.message().await, client.message().await);
    publish(&mut publisher, "t", 11..=11).await;
    client.unsubscribe(&["t"]).await;
    client.send(&ack(PUBACK, one.id)).await;
    client.send(&ack(PUBACK, two.id)).await;
    client.ping().await;
    assert_eq!(shelf.reads(), 1, "nothing more is read");
    client.subscribe("t", 1).await;
    assert_eq!(client.payloads(9).await, numbers(3..=11));
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_subscribe_replaces_the_fetch_that_goes_on() {
    let shelf = Shelf::new(5, None);
    let server = with_hooks(shelf.hooks()).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publish(&mut publisher, "t", 1..=10).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").receive_maximum(2)).await;
    client.subscribe("t", 1).await;
    let mut taken = vec![client.message().await, client.message().await];
    publish(&mut publisher, "t", 11..=11).await;
    for _ in 0..5 {
        client.subscribe("t", 1).await;
    }
    let mut payloads = Vec::new();
    while payloads.len() < 11 {
        let message = match taken.is_empty() {
            true => client.message().await,
            false => taken.remove(0),
        };
        client.send(&ack(PUBACK, message.id)).await;
        payloads.push(message.payload);
    }
    assert_eq!(payloads, numbers(1..=11));
    client.ping().await;
}

/// Gives the messages a page at a time.
struct Pages(Vec<Vec<Arc<Message>>>);

impl Backlog for Pages {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Vec<Arc<Message>>, StorageError>> {
        let page = if self.0.is_empty() { Vec::new() } else { self.0.remove(0) };
        Box::pin(async { Ok(page) })
    }
}

/// Retained messages of a store, of topics below `t`.
fn retained(count: usize) -> Vec<Arc<Message>> {
    let ids = IdSource::new(&Node::default());
    let message = |number: usize| Message {
        id: ids.next_id(),
        topic: format!("t/{number}").parse().unwrap(),
        payload: Bytes::from(number.to_string()),
        qos: QoS::AtLeastOnce,
        retain: true,
        dup: false,
        timestamp_ms: 0,
        sender: "earlier".into(),
        publisher: None,
        properties: None,
        origin: Origin::RetainedStore,
        hops: 0,
    };
    (0..count).map(|number| Arc::new(message(number))).collect()
}

/// A store that brings 300 retained messages to every subscription.
fn bringing() -> Arc<Script> {
    let all = retained(300);
    Script::new(&[Hook::SessionSubscribed], move |scope| {
        scope.effects.lock().retained = Some(all.clone());
        pass()
    })
}

/// Of retained messages that did not fit into a store's first answer, a second SUBSCRIBE got none, and a
/// subscription that wants none got all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_beyond_the_first_answer_follow_the_same_rules() {
    let all = retained(7);
    let hooks = Script::new(&[Hook::SessionSubscribed, Hook::MessageAcked], move |scope| {
        if scope.event.hook() == Hook::SessionSubscribed {
            let mut effects = scope.effects.lock();
            effects.retained = Some(all[..3].to_vec());
            let rest = Pages(vec![all[3..5].to_vec(), all[5..].to_vec()]);
            effects.retained_rest.push(Box::new(rest));
        }
        pass()
    });
    let server = with_hooks(hooks).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let never = 1 | 2 << 4;
    client.subscribe("t/#", never).await;
    client.ping().await;
    for _ in 0..2 {
        client.subscribe("t/#", 1).await;
        for number in numbers(0..=6) {
            let message = client.take().await;
            assert_eq!((message.payload, message.retain), (number, true));
        }
        client.ping().await;
    }
}

/// Every SUBSCRIBE brought all retained messages of a store into memory, however many of them the client had not taken
/// yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscribe_waits_until_the_client_has_taken_what_the_last_ones_brought() {
    let hooks = bringing();
    let config = BrokerConfig { max_queued: 100, max_inflight: 5, ..BrokerConfig::default() };
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    for (id, filter) in (1..).zip(["#", "+/#", "r/+", "r/#", "+/+"].iter().cycle().take(40)) {
        client.send(&subscribe(false, id, &[(filter, 1)], &[])).await;
    }
    // All is read: only the acknowledgements are missing.
    client.send(&[0xc0, 0]).await;
    let (mut messages, mut subacks, mut waiting, mut answered) = (0, 0, Vec::new(), false);
    while messages < 5 || !answered {
        let packet = client.recv().await;
        match packet.kind() {
            3 => {
                messages += 1;
                waiting.push(packet.published(false).id);
            }
            13 => answered = true,
            _ => subacks += 1,
        }
    }
    let raised = hooks.raised().len();
    assert!(raised <= 17, "{raised} subscriptions were made at once");
    let mut asked = false;
    loop {
        for id in waiting.drain(..) {
            client.send(&ack(PUBACK, id)).await;
        }
        let packet = client.recv().await;
        match packet.kind() {
            3 => {
                messages += 1;
                waiting.push(packet.published(false).id);
            }
            13 => break,
            _ => {
                assert_eq!(packet.first, 0x90, "{packet:?}");
                subacks += 1;
            }
        }
        if subacks == 40 && messages >= 5 * 300 && !asked {
            asked = true;
            client.send(&[0xc0, 0]).await;
        }
    }
}

/// The acknowledgements that a waiting SUBSCRIBE waits for may lie behind packets that are not read: it is refused
/// rather than left to wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribes_beyond_the_read_ahead_are_refused_not_stuck() {
    let config = BrokerConfig {
        max_queued: 100,
        max_inflight: 5,
        read_ahead_bytes: 16 * 1024,
        ..BrokerConfig::default()
    };
    for (connect, refusal) in [(Connect::v4("c"), 0x80), (Connect::v5("c"), 0x97)] {
        let (server, counts) = counted(config.clone(), bringing()).await;
        let mut client = Client::connect(server.address, &connect).await;
        for id in 1..=200 {
            client.send(&subscribe(connect.v5, id, &[("r/#", 1)], &[])).await;
        }
        let (mut granted, mut refused) = (0, 0);
        while granted + refused < 200 {
            let packet = client.recv().await;
            // The code of SUBACK is its last byte, behind the properties of MQTT 5.
            match (packet.kind(), packet.body.last()) {
                (3, _) => client.send(&ack(PUBACK, packet.published(connect.v5).id)).await,
                (9, Some(&code)) if code == refusal => refused += 1,
                (9, Some(1)) => granted += 1,
                _ => panic!("{packet:?}"),
            }
        }
        assert!(granted >= 1 && refused >= 1, "granted {granted}, refused {refused}");
        assert_eq!(counts.limited("read_ahead"), refused);
    }
}

/// What stores bring for one SUBSCRIBE is in memory until all of its filters are granted, and there may be a thousand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_behind_64_mib_that_stores_have_brought_are_refused() {
    let payload = Bytes::from(vec![b'x'; 1024 * 1024]);
    let large = |message: &Arc<Message>| Message { payload: payload.clone(), ..Message::clone(message) };
    let all: Vec<Arc<Message>> = retained(64).iter().map(large).map(Arc::new).collect();
    let hooks = Script::new(&[Hook::SessionSubscribed], move |scope| {
        scope.effects.lock().retained = Some(all.clone());
        pass()
    });
    let (server, counts) = counted(BrokerConfig::default(), hooks).await;
    for (connect, refusal, count) in [(Connect::v4("four"), 0x80, 2), (Connect::v5("five"), 0x97, 4)] {
        let mut client = Client::connect(server.address, &connect).await;
        let codes = client.subscribe_all(&[("t/#", 1), ("t/1", 1), ("t/2", 0)]).await;
        assert_eq!(codes, [1, refusal, refusal]);
        assert_eq!(counts.limited("brought_bytes"), count);
    }
}

/// What stores had for the subscription was thrown away when its handlers were ready after the connection had ended, and the
/// acknowledgement of a live message moved the client's position over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stores_have_for_a_subscription_comes_on_the_next_connection() {
    for is_back in [false, true] {
        let (shelf, withheld) = (Shelf::new(4, None), Withheld::default());
        let (handler, acks, first) = (shelf.clone(), withheld.clone(), AtomicBool::new(true));
        let hooks = [Hook::MessagePublish, Hook::SessionSubscribed, Hook::MessageAcked];
        let hooks = Script::new(&hooks, move |scope| {
            handler.handle(scope);
            if scope.event.hook() == Hook::SessionSubscribed && first.swap(false, Ordering::SeqCst) {
                acks.take(scope);
            }
            pass()
        });
        let server = with_hooks(hooks.clone()).await;
        let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
        publish(&mut publisher, "t", 1..=3).await;
        let connect = Connect::v5("c").persistent();
        let mut client = Client::connect(server.address, &connect).await;
        client.send(&subscribe(true, 1, &[("t", 1)], &[])).await;
        hooks.until_line("+session.subscribed c t 1").await;
        drop(client);
        until_left(&server, 1).await;
        publish(&mut publisher, "t", 4..=4).await;
        let ready = withheld.part("session.subscribed");
        let mut client = if is_back {
            let mut client = Client::connect(server.address, &connect).await;
            client.ping().await;
            ready.done();
            client
        } else {
            ready.done();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            Client::connect(server.address, &connect).await
        };
        assert_eq!(client.payloads(4).await, numbers(1..=4), "{is_back}");
        hooks.until_line("+message.acked c t 4").await;
        assert_eq!(shelf.position("c", "t").as_deref(), Some("4"));
        client.ping().await;
    }
}
