//! Clients that go away and come back while the broker still works for them.

use std::sync::Arc;

use tidegate_broker::BrokerConfig;
use tidegate_event::{Hook, Message, ReasonCode, Verdict, VolatileStore};

use crate::support::client::{Client, PUBACK, PUBCOMP, PUBREC, PUBREL};
use crate::support::packet::{Connect, Publish, ack, subscribe};
use crate::support::script::{Gate, Script, Withheld, decide, pass, payload};
use crate::support::store::Journal;
use crate::support::{start, with_hooks};

/// The answer to a QoS 2 message went to the connection that had sent it, which was gone; the one on which the
/// client had sent it again waited for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_2_message_sent_again_on_a_new_connection_is_answered_there() {
    let withheld = Withheld::default();
    let taken = withheld.clone();
    let hooks = Script::new(&[Hook::MessagePublish], move |scope| {
        taken.take(scope);
        match payload(scope).as_str() {
            "bad" => decide(Verdict::Fail(ReasonCode::UNSPECIFIED)),
            _ => pass(),
        }
    });
    let server = with_hooks(hooks.clone()).await;
    for connect in [Connect::v5("five").persistent(), Connect::v4("four").persistent()] {
        let (id, v5) = (connect.id.clone(), connect.v5);
        for (text, packet_id) in [("good", 3), ("bad", 4)] {
            let text = format!("{text} {id}");
            let text = if text.starts_with("bad") { "bad" } else { text.as_str() };
            let mut client = Client::connect(server.address, &connect).await;
            client.publish("t", text, 2, packet_id).await;
            hooks.until_line(&format!("+message.publish {id} t {text}")).await;
            drop(client);
            let mut client = Client::connect(server.address, &connect).await;
            assert!(client.present);
            let again = Publish { qos: 2, id: packet_id, dup: true, ..client.draft("t", text) };
            client.publish_as(again).await;
            client.ping().await;
            withheld.part(text).done();
            if text == "bad" && !v5 {
                assert_eq!(client.closed().await, None, "so that it is sent again as a new message");
                continue;
            }
            let answer = client.expect(PUBREC).await;
            assert_eq!((answer.id(), answer.reason() != 0), (packet_id, text == "bad"));
            if text != "bad" {
                client.send(&ack(PUBREL, packet_id)).await;
                assert_eq!(client.expect(PUBCOMP).await.reason(), 0);
            }
            client.ping().await;
        }
    }
}

/// What a lost connection had sent counted for nobody: a client that came back again and again while its messages
/// could not be handled had ever more of them accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reconnects_has_no_more_accepted_than_one_that_stays() {
    let gate = Gate::default();
    let closed = gate.clone();
    let hooks = Script::new(&[Hook::MessagePublish], move |scope| {
        let (gate, wait) = (closed.clone(), scope.event.client().unwrap().id.starts_with("loop"));
        Some(Box::pin(async move {
            if wait {
                gate.pass().await;
            }
            Verdict::Pass
        }))
    });
    let config = BrokerConfig { read_ahead_bytes: 64 * 1024, receive_maximum: 10, ..BrokerConfig::default() };
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let text = "x".repeat(8 * 1024);
    for connect in [Connect::v5("loop5").persistent(), Connect::v4("loop4")] {
        let mut rounds = 0;
        let code = loop {
            let mut client = Client::try_connect(server.address, &connect).await;
            if client.code != 0 {
                break client.code;
            }
            rounds += 1;
            assert!(rounds < 200, "never refused");
            for id in 1..=6 {
                client.publish("t", &text, 1, id).await;
            }
            if rounds < 3 {
                // Before the limit is reached everything is read.
                continue;
            }
        };
        assert_eq!(code, if connect.v5 { 0x89 } else { 3 });
        assert!(rounds >= 2, "refused after {rounds} connections");
        // Others do not notice, and the client itself is served when its messages are handled.
        let mut other = Client::connect(server.address, &Connect::v4("other")).await;
        other.publish_done("t", "y", 1, 1).await;
        let begun = hooks.raised().len();
        for _ in 0..100 {
            gate.open();
        }
        let mut client = loop {
            let client = Client::try_connect(server.address, &connect).await;
            if client.code == 0 {
                break client;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        client.publish_done("t", "after", 1, 9).await;
        let handled = hooks.raised().len() - begun;
        assert!(handled * text.len() < 4 * 64 * 1024, "{handled} messages had been accepted");
        client.disconnect().await;
        while gate_is_left(&gate).await {}
    }
}

/// Uses up what was opened too often.
async fn gate_is_left(gate: &Gate) -> bool {
    tokio::time::timeout(std::time::Duration::from_millis(20), gate.pass()).await.is_ok()
}

/// Live messages that a lost connection's SUBSCRIBE held back stayed held while the client's next connection slept,
/// and were never marked as done in the durable queue when a store had delivered them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_held_by_a_lost_connection_reach_the_next_one() {
    let withheld = Withheld::default();
    let taken = withheld.clone();
    let hooks = Script::new(&[Hook::SessionSubscribed], move |scope| {
        taken.take(scope);
        pass()
    });
    let journal = Journal::default();
    let server = start(BrokerConfig::default(), hooks.clone(), Arc::new(journal.clone())).await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.send(&subscribe(true, 1, &[("t", 1)], &[])).await;
    hooks.until_line("+session.subscribed").await;
    drop(client);
    let mut client = Client::connect(server.address, &connect).await;
    assert!(client.present);
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("t", "held", 1, 1).await;
    client.ping().await;
    withheld.part("session.subscribed").done();
    assert_eq!(client.take().await.payload, "held");
    client.ping().await;
    assert_eq!(journal.counts("c"), (0, 0));
}

/// What was in flight was sent again although the client takes only smaller packets now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_not_sent_again_to_a_client_that_takes_only_smaller_packets_now() {
    let hooks = Script::observer(&[Hook::MessageAcked]);
    let journal = Journal::default();
    let server = start(BrokerConfig::default(), hooks.clone(), Arc::new(journal.clone())).await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 2).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    let large = "x".repeat(500);
    let mut ids = Vec::new();
    for (id, qos) in [(1, 1), (2, 2)] {
        publisher.publish_done("t", &large, qos, id).await;
        ids.push(client.message().await.id);
    }
    publisher.publish_done("t", "small", 1, 3).await;
    let small = client.message().await;
    drop(client);
    let mut client = Client::connect(server.address, &connect.maximum_packet_size(100)).await;
    // It may have the QoS 2 message, and would take the next one under this packet id for the same.
    assert_eq!(client.expect(PUBREL).await.id(), ids[1]);
    client.send(&ack(PUBCOMP, ids[1])).await;
    let again = client.message().await;
    assert_eq!((again.payload.as_str(), again.dup, again.id), ("small", true, small.id));
    client.send(&ack(PUBACK, again.id)).await;
    hooks.until_line("+message.acked c t small through itself").await;
    client.ping().await;
    assert_eq!(journal.counts("c"), (0, 0), "nothing is left in flight");
}

/// A message that a handler replaced and that was then too large moved the position of the wrong topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_that_is_too_large_counts_for_the_message_it_replaced() {
    let hooks = Script::new(&[Hook::MessageDeliver, Hook::MessageAcked], |scope| {
        if scope.event.hook() == Hook::MessageAcked {
            return pass();
        }
        let mut message = Message::clone(scope.event.message().unwrap());
        message.topic = "elsewhere".parse().unwrap();
        message.payload = vec![b'x'; 500].into();
        decide(Verdict::Replace(Arc::new(message)))
    });
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").maximum_packet_size(100)).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("t", "small", 1, 1).await;
    hooks.until_line("+message.acked c t small through itself implicit").await;
    client.ping().await;
}

/// A client whose read-ahead was full could not be disconnected, nor be sent anything directly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_read_ahead_is_full_can_be_disconnected_and_sent_to() {
    let gate = Gate::default();
    let hooks = Script::gated(Hook::MessagePublish, &gate);
    let config = BrokerConfig { read_ahead_bytes: 2_000, ..BrokerConfig::default() };
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    for _ in 0..20 {
        client.publish("t", "flood", 0, 0).await;
    }
    hooks.until_line("message.publish").await;
    let control = server.broker.control();
    let message = Message {
        id: server.broker.ids().next_id(),
        topic: "direct".parse().unwrap(),
        payload: "hello".into(),
        qos: tidegate_event::QoS::AtMostOnce,
        retain: false,
        dup: false,
        timestamp_ms: 0,
        sender: "".into(),
        publisher: None,
        properties: None,
        origin: tidegate_event::Origin::Module,
        hops: 0,
    };
    control.deliver(&Default::default(), "c", message).unwrap();
    assert_eq!(client.message().await.payload, "hello");
    control.disconnect(&Default::default(), "c").unwrap();
    assert_eq!(client.closed().await, Some(0x98));
}

/// Messages that waited for their turn had got their ids long before, so that ids went up and down in the order in
/// which messages reached the stores.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_follow_the_order_in_which_handlers_see_messages() {
    let gate = Gate::default();
    let closed = gate.clone();
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let ids = Arc::clone(&seen);
    let hooks = Script::new(&[Hook::MessagePublish], move |scope| {
        let message = scope.event.message().unwrap();
        ids.lock().push((payload(scope), message.id));
        let (gate, wait) = (closed.clone(), message.sender == "slow");
        Some(Box::pin(async move {
            if wait {
                gate.pass().await;
            }
            Verdict::Pass
        }))
    });
    let server = with_hooks(hooks.clone()).await;
    let mut slow = Client::connect(server.address, &Connect::v4("slow")).await;
    for id in 1..=3 {
        slow.publish("t", &format!("slow {id}"), 1, id).await;
    }
    slow.ping().await;
    let mut other = Client::connect(server.address, &Connect::v4("other")).await;
    other.publish_done("t", "other", 1, 1).await;
    for id in 1..=3 {
        gate.open();
        assert_eq!(slow.expect(PUBACK).await.id(), id);
    }
    let seen = seen.lock();
    let order: Vec<&str> = seen.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(order, ["slow 1", "other", "slow 2", "slow 3"]);
    assert!(seen.is_sorted_by_key(|(_, id)| *id), "{seen:?}");
}
