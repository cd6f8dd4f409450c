//! The life of a PUBLISH with handlers, and the events of connections and subscriptions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tidegate_event::{AckError, Hook, Message, QoS, ReasonCode, Scope, Verdict, VolatileStore};

use crate::support::client::{Client, PUBACK, PUBCOMP, PUBREC, PUBREL};
use crate::support::packet::{Connect, Publish, ack};
use crate::support::script::{Gate, Script, Withheld, decide, pass, payload};
use crate::support::store::Journal;
use crate::support::{start, with_hooks};

/// The event's message with another topic and payload.
fn changed(scope: &Scope, topic: &str, payload: &'static str) -> Arc<Message> {
    let mut message = Message::clone(scope.event.message().unwrap());
    message.topic = topic.parse().unwrap();
    message.payload = payload.into();
    Arc::new(message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_acknowledged_and_routed_when_it_is_stored() {
    let withheld = Withheld::default();
    let taken = withheld.clone();
    let hooks = Script::new(&[Hook::MessagePublish], move |scope| {
        taken.take(scope);
        pass()
    });
    let server = with_hooks(hooks.clone()).await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("t", 2).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.publish("t", "1", 1, 1).await;
    client.publish("t", "2", 2, 2).await;
    client.publish("t", "3", 0, 0).await;
    client.publish("t", "4", 1, 4).await;
    hooks.until(|log| log.iter().filter(|line| line.starts_with('+')).count() == 4).await;
    client.ping().await;
    subscriber.ping().await;
    // Completed out of order, applied in order.
    withheld.part("4").done();
    withheld.part("2").done();
    client.ping().await;
    subscriber.ping().await;
    withheld.part("1").done();
    assert_eq!(client.expect(PUBACK).await.id(), 1);
    assert_eq!(client.expect(PUBREC).await.id(), 2);
    assert_eq!(subscriber.payloads(2).await, ["1", "2"]);
    client.ping().await;
    withheld.part("3").done();
    assert_eq!(client.expect(PUBACK).await.id(), 4);
    assert_eq!(subscriber.payloads(2).await, ["3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_run_one_event_at_a_time_per_client() {
    let gate = Gate::default();
    let closed = gate.clone();
    let hooks = Script::new(&[Hook::MessagePublish], move |scope| {
        let (gate, mine) = (closed.clone(), scope.event.client().unwrap().id == "c");
        Some(Box::pin(async move {
            if mine {
                gate.pass().await;
            }
            Verdict::Pass
        }))
    });
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    let mut other = Client::connect(server.address, &Connect::v4("other")).await;
    client.publish("t", "1", 1, 1).await;
    client.publish("t", "2", 1, 2).await;
    client.ping().await;
    other.publish_done("t", "theirs", 1, 1).await;
    assert_eq!(hooks.raised(), ["message.publish c t 1", "message.publish other t theirs"]);
    gate.open();
    assert_eq!(client.expect(PUBACK).await.id(), 1);
    gate.open();
    assert_eq!(client.expect(PUBACK).await.id(), 2);
    let log = hooks.log();
    let place = |line: &str| log.iter().position(|l| l == line).unwrap();
    assert!(place("+message.publish c t 1") < place("message.publish c t 2"));
}

/// A connection went on for as long as sixteen full reads brought packets, and sockets were looked at after sixty-one such
/// polls. With handlers that end at once, as those of a module whose circuit is open, that was half a second for everybody
/// else. On one thread, so that nobody else serves the others.
#[test]
fn a_flood_whose_handlers_end_at_once_leaves_others_their_turn() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().event_interval(tidegate_broker::EVENT_INTERVAL).build().unwrap();
    runtime.block_on(flood_and_ping());
}

async fn flood_and_ping() {
    const MESSAGES: usize = 30_000;
    let handled = Arc::new(AtomicUsize::new(0));
    let counted = handled.clone();
    let hooks = Script::new(&[Hook::MessagePublish], move |_| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(10) {
            std::hint::spin_loop();
        }
        counted.fetch_add(1, Ordering::Relaxed);
        decide(Verdict::Drop)
    });
    let server = with_hooks(hooks).await;
    let mut other = Client::connect(server.address, &Connect::v4("other")).await;
    let mut flooder = Client::connect(server.address, &Connect::v4("flooder")).await;
    let one = flooder.draft("flood", "a payload of forty bytes, more or less...").bytes();
    let flood = one.repeat(MESSAGES);
    let started = Instant::now();
    let flooding = tokio::spawn(async move {
        flooder.send(&flood).await;
        flooder
    });
    let mut longest = Duration::ZERO;
    while handled.load(Ordering::Relaxed) < MESSAGES {
        let sent = Instant::now();
        other.ping().await;
        longest = longest.max(sent.elapsed());
    }
    let whole = started.elapsed();
    drop(flooding.await.unwrap());
    assert!(longest < whole / 2, "one ping took {longest:?} of {whole:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verdict_on_both_versions() {
    let hooks = Script::new(&[Hook::MessagePublish], |scope| match payload(scope).as_str() {
        "drop" => decide(Verdict::Drop),
        "reject" => decide(Verdict::Reject(ReasonCode::NOT_AUTHORIZED)),
        "fail" => decide(Verdict::Fail(ReasonCode::QUOTA_EXCEEDED)),
        "replace" => decide(Verdict::Replace(changed(scope, "t/other", "replaced"))),
        "fan out" => {
            decide(Verdict::FanOut(vec![changed(scope, "t/1", "one"), changed(scope, "t/2", "two")]))
        }
        "none match" => None,
        _ => pass(),
    });
    let server = with_hooks(hooks).await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("t/#", 2).await;
    for qos in [1, 2] {
        let mut five = Client::connect(server.address, &Connect::v5("five")).await;
        let mut four = Client::connect(server.address, &Connect::v4("four")).await;
        let answer = if qos == 1 { PUBACK } else { PUBREC };
        for (id, (payload, code)) in
            [("drop", 0), ("reject", 0x87), ("fail", 0x97), ("replace", 0), ("fan out", 0), ("none match", 0)]
                .into_iter()
                .enumerate()
        {
            let id = id as u16 + 1;
            five.publish("t/x", payload, qos, id).await;
            let packet = five.expect(answer).await;
            assert_eq!((packet.id(), packet.reason()), (id, code), "{payload}");
            if payload == "fail" {
                continue;
            }
            four.publish("t/x", payload, qos, id).await;
            assert_eq!(four.expect(answer).await.id(), id);
        }
        // PUBREC with an error frees the packet id.
        five.publish("t/x", "pass", qos, 2).await;
        assert_eq!(five.expect(answer).await.reason(), 0);
        four.publish("t/x", "fail", qos, 50).await;
        assert_eq!(four.closed().await, None, "without an answer, so that it is sent again");
        let expected =
            ["replaced", "replaced", "one", "two", "one", "two", "none match", "none match", "pass"];
        assert_eq!(subscriber.payloads(9).await, expected);
    }
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    four.publish("t/x", "fail", 0, 0).await;
    four.publish("t/x", "reject", 0, 0).await;
    four.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_or_gives_up() {
    let withheld = Withheld::default();
    let taken = withheld.clone();
    let hooks = Script::new(&[Hook::MessagePublish], move |scope| {
        taken.take(scope);
        pass()
    });
    let server = with_hooks(hooks.clone()).await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("t", 1).await;
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    let refused = || AckError::Refused {
        connector: "sqlite:pool1".into(),
        reason: "too long".into(),
        code: ReasonCode::IMPLEMENTATION_SPECIFIC,
    };
    five.publish("t", "5 refused", 1, 1).await;
    five.publish("t", "5 given up", 2, 2).await;
    four.publish("t", "4 refused", 1, 1).await;
    four.publish("t", "4 given up", 1, 2).await;
    four.publish("t", "4 after", 1, 3).await;
    hooks.until(|log| log.iter().filter(|line| line.starts_with('+')).count() == 5).await;
    withheld.part("5 refused").fail(refused());
    let answer = five.expect(PUBACK).await;
    assert_eq!((answer.id(), answer.reason()), (1, 0x83));
    drop(withheld.part("5 given up"));
    let answer = five.expect(PUBREC).await;
    assert_eq!((answer.id(), answer.reason()), (2, 0x80));
    withheld.part("4 refused").fail(refused());
    assert_eq!(four.expect(PUBACK).await.id(), 1);
    drop(withheld.part("4 given up"));
    assert_eq!(four.closed().await, None);
    // What was accepted after it is completed although nobody is there to be told.
    withheld.part("4 after").done();
    assert_eq!(subscriber.take().await.payload, "4 after");
    subscriber.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_while_the_message_is_being_handled_is_ignored() {
    let withheld = Withheld::default();
    let taken = withheld.clone();
    let hooks = Script::new(&[Hook::MessagePublish], move |scope| {
        taken.take(scope);
        pass()
    });
    let server = with_hooks(hooks.clone()).await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("t", 2).await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    for dup in [false, true] {
        client.publish_as(Publish { qos: 2, id: 3, dup, ..client.draft("t", "x") }).await;
    }
    client.send(&ack(PUBREL, 3)).await;
    // There is nothing to release yet: PUBCOMP would come after PUBREC.
    client.ping().await;
    // The same over a reconnect.
    drop(client);
    let mut client = Client::connect(server.address, &connect).await;
    assert!(client.present);
    client.publish_as(Publish { qos: 2, id: 3, dup: true, ..client.draft("t", "x") }).await;
    client.ping().await;
    withheld.part("x").done();
    assert_eq!(subscriber.take().await.payload, "x");
    assert_eq!(client.expect(PUBREC).await.reason(), 0);
    client.publish_as(Publish { qos: 2, id: 3, dup: true, ..client.draft("t", "x") }).await;
    assert_eq!(client.expect(PUBREC).await.reason(), 0);
    client.send(&ack(PUBREL, 3)).await;
    assert_eq!(client.expect(PUBCOMP).await.reason(), 0);
    subscriber.ping().await;
    assert_eq!(hooks.raised().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_2_id_is_durable_before_any_handler_runs() {
    let journal = Journal::default();
    let hooks = Script::observer(&[Hook::MessagePublish]);
    let server = start(Default::default(), hooks.clone(), Arc::new(journal.clone())).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    journal.slow();
    client.publish("t", "x", 2, 1).await;
    client.publish("t", "y", 1, 2).await;
    client.ping().await;
    assert!(hooks.raised().is_empty());
    assert!(journal.sync_one());
    hooks.until_line("t y").await;
    assert_eq!(hooks.raised(), ["message.publish c t x", "message.publish c t y"]);
    client.ping().await;
    assert!(journal.sync_one(), "that it was handled is durable before the answer");
    assert_eq!(client.expect(PUBREC).await.id(), 1);
    assert_eq!(client.expect(PUBACK).await.id(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_does_not_cancel_what_was_accepted() {
    let gate = Gate::default();
    let closed = gate.clone();
    let hooks =
        Script::new(&[Hook::MessagePublish, Hook::ClientDisconnected, Hook::ClientConnected], move |s| {
            let (gate, wait) = (closed.clone(), s.event.hook() == Hook::MessagePublish);
            Some(Box::pin(async move {
                if wait {
                    gate.pass().await;
                }
                Verdict::Pass
            }))
        });
    let server = with_hooks(hooks.clone()).await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("t", 1).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    let mut bytes = Vec::new();
    for id in 1..=5 {
        let text = id.to_string();
        bytes.extend(Publish { qos: u8::from(id % 2 == 0), id, ..client.draft("t", &text) }.bytes());
    }
    client.send(&bytes).await;
    client.send(&[0xe0, 0]).await;
    client.closed().await;
    // The client is back and sends more, while handlers still work on the old.
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.publish("t", "6", 1, 1).await;
    client.ping().await;
    for _ in 0..6 {
        gate.open();
    }
    assert_eq!(client.expect(PUBACK).await.id(), 1);
    assert_eq!(subscriber.payloads(6).await, ["1", "2", "3", "4", "5", "6"]);
    let mine: Vec<String> = hooks.raised().into_iter().filter(|line| line.contains(" c")).collect();
    let expected = [
        "client.connected c",
        "message.publish c t 1",
        "message.publish c t 2",
        "message.publish c t 3",
        "message.publish c t 4",
        "message.publish c t 5",
        "client.disconnected c normal",
        "client.connected c",
        "message.publish c t 6",
    ];
    assert_eq!(mine, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_client_are_routed_in_order_over_reconnects() {
    let withheld = Withheld::default();
    let taken = withheld.clone();
    let hooks = Script::new(&[Hook::MessagePublish], move |scope| {
        if payload(scope) == "late" {
            taken.take(scope);
        }
        pass()
    });
    let server = with_hooks(hooks.clone()).await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("t", 1).await;
    for connect in [Connect::v4("c"), Connect::v4("c").persistent()] {
        let mut client = Client::connect(server.address, &connect).await;
        client.publish("t", "late", 1, 1).await;
        client.ping().await;
        drop(client);
        let mut client = Client::connect(server.address, &connect).await;
        client.publish("t", "next", 1, 1).await;
        client.ping().await;
        subscriber.ping().await;
        withheld.part("late").done();
        assert_eq!(client.expect(PUBACK).await.id(), 1);
        assert_eq!(subscriber.payloads(2).await, ["late", "next"]);
        client.disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_over_raises_disconnected_before_connected() {
    let gate = Gate::default();
    let closed = gate.clone();
    let hooks =
        Script::new(&[Hook::ClientConnected, Hook::ClientDisconnected, Hook::SessionCreated], move |scope| {
            let (gate, wait) = (closed.clone(), scope.event.hook() == Hook::ClientDisconnected);
            Some(Box::pin(async move {
                if wait {
                    gate.pass().await;
                }
                Verdict::Pass
            }))
        });
    let server = with_hooks(hooks.clone()).await;
    let mut first = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    let mut second = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    assert!(second.present);
    assert_eq!(first.closed().await, Some(0x8e));
    second.ping().await;
    hooks.until_line("takenover").await;
    gate.open();
    let third = Client::connect(server.address, &Connect::v5("c")).await;
    assert!(!third.present);
    assert_eq!(second.closed().await, Some(0x8e));
    gate.open();
    let expected = [
        "client.connected c",
        "+client.connected c",
        "session.created c",
        "+session.created c",
        "client.disconnected c takenover",
        "+client.disconnected c takenover",
        "client.connected c",
        "+client.connected c",
        "client.disconnected c takenover",
        "+client.disconnected c takenover",
        "client.connected c",
        "+client.connected c",
        "session.created c",
        "+session.created c",
    ];
    let log = hooks.until(|log| log.len() >= expected.len()).await;
    assert_eq!(log, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_named_by_client_connected_and_session_created_are_made() {
    let withheld = Withheld::default();
    let taken = withheld.clone();
    let bound =
        [Hook::ClientConnected, Hook::SessionCreated, Hook::SessionSubscribed, Hook::SessionUnsubscribed];
    let hooks = Script::new(&bound, move |scope| {
        if scope.event.client().unwrap().id != "c" {
            return pass();
        }
        let filter = match scope.event.hook() {
            Hook::ClientConnected => "from/connected",
            Hook::SessionCreated => "from/created",
            Hook::SessionSubscribed => {
                taken.take(scope);
                return pass();
            }
            _ => return pass(),
        };
        scope.effects.lock().subscriptions.push((filter.parse().unwrap(), QoS::AtLeastOnce));
        pass()
    });
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.send(&crate::support::packet::subscribe(false, 5, &[("own", 2), ("$share/g/own", 0)], &[])).await;
    let log = hooks.until(|log| log.iter().any(|line| line.contains("shared"))).await;
    let raised: Vec<&String> = log.iter().filter(|line| !line.starts_with('+')).collect();
    let expected = [
        "client.connected c",
        "session.created c",
        "session.subscribed c from/connected 1",
        "session.subscribed c from/created 1",
        "session.subscribed c own 2",
        "session.subscribed c own 0 shared",
    ];
    let mut sorted = raised[2..].to_vec();
    sorted.sort();
    assert_eq!(raised[..2], expected[..2]);
    assert_eq!(sorted.len(), 4);
    for line in &expected[2..] {
        assert!(raised.iter().any(|raised| raised == line), "{line}");
    }
    client.ping().await;
    for _ in 0..4 {
        withheld.part("session.subscribed").done();
    }
    let suback = client.expect(0x90).await;
    assert_eq!(suback.body, [0, 5, 2, 0], "when the handlers have reached their level");
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("from/connected", "1", 1, 1).await;
    publisher.publish_done("from/created", "2", 1, 2).await;
    assert_eq!(client.payloads(2).await, ["1", "2"]);
    client.unsubscribe(&["from/created", "never"]).await;
    assert!(hooks.raised().contains(&"session.unsubscribed c from/created".to_owned()));
    assert!(!hooks.raised().iter().any(|line| line.contains("never")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnected_says_why_and_comes_last() {
    let hooks = Script::observer(&[Hook::ClientDisconnected, Hook::MessagePublish]);
    let server = start(Default::default(), hooks.clone(), Arc::new(VolatileStore)).await;
    let connect = |id: &str| Connect::v4(id).will("will", "w", 1, false);
    Client::connect(server.address, &connect("normal")).await.disconnect().await;
    let mut client = Client::connect(server.address, &connect("socket")).await;
    client.publish("t", "x", 0, 0).await;
    drop(client);
    let mut client = Client::connect(server.address, &connect("malformed")).await;
    client.send(&[0x36, 0]).await;
    client.closed().await;
    let mut client = Client::connect(server.address, &connect("protocol")).await;
    client.send(&connect("protocol").bytes()).await;
    client.closed().await;
    let _silent = Client::connect(server.address, &connect("silent").keep_alive(1)).await;
    let _kicked = Client::connect(server.address, &connect("kicked")).await;
    server.broker.control().disconnect(&tidegate_event::Tenant::default(), "kicked").unwrap();
    let log = hooks.until(|log| log.iter().filter(|l| l.starts_with("+client.dis")).count() == 6).await;
    let of = |id: &str| -> Vec<String> {
        log.iter()
            .filter(|line| !line.starts_with('+') && line.contains(&format!(" {id} ")))
            .cloned()
            .collect()
    };
    assert_eq!(of("normal"), ["client.disconnected normal normal"]);
    let expected = [
        "message.publish socket t x",
        "message.publish socket will w",
        "client.disconnected socket socket_closed",
    ];
    assert_eq!(of("socket"), expected);
    for (id, reason) in [
        ("malformed", "malformed_packet"),
        ("protocol", "protocol_error"),
        ("silent", "keepalive_timeout"),
        ("kicked", "kicked"),
    ] {
        let expected = [format!("message.publish {id} will w"), format!("client.disconnected {id} {reason}")];
        assert_eq!(of(id), expected);
    }
}

/// The handlers of an ack were not polled while the client's last messages were raised. When they held what those
/// waited for (a database's writer), both stood still for ever, and everyone else with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_of_an_ack_go_on_while_the_last_messages_of_a_lost_client_are_raised() {
    let gate = Gate::default();
    let (closed, writer) = (gate.clone(), Arc::new(tokio::sync::Mutex::new(())));
    let hooks = [Hook::MessagePublish, Hook::MessageAcked, Hook::ClientDisconnected];
    let hooks = Script::new(&hooks, move |scope| {
        let (gate, writer) = (closed.clone(), writer.clone());
        let hook = scope.event.hook();
        let second = scope.event.message().is_some_and(|message| &message.payload[..] == b"second");
        Some(Box::pin(async move {
            match hook {
                Hook::MessageAcked => {
                    let _held = writer.lock().await;
                    gate.pass().await;
                }
                Hook::MessagePublish if second => drop(writer.lock().await),
                _ => {}
            }
            Verdict::Pass
        }))
    });
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 1).await;
    client.publish_done("t", "first", 1, 1).await;
    client.take().await;
    hooks.until_line("message.acked").await;
    client.publish("t", "second", 1, 2).await;
    hooks.until(|log| log.iter().filter(|line| line.starts_with("message.publish")).count() == 2).await;
    drop(client);
    while server.broker.connections() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    gate.open();
    hooks.until_line("+client.disconnected").await;
}
