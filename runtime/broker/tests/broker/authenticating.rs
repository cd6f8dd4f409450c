//! client.authenticate: asked before anything is done for a client, while everybody else is served.

use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::BrokerConfig;
use tidegate_event::{AckError, Event, Hook, ReasonCode, Scope, Verdict, VolatileStore};

use crate::support::client::Client;
use crate::support::packet::{Connect, subscribe};
use crate::support::script::{Gate, Script, Withheld, decide, pass};
use crate::support::{start, with_hooks};

fn password(scope: &Scope) -> String {
    let Event::ClientAuthenticate { password: Some(password), .. } = &scope.event else {
        return String::new();
    };
    String::from_utf8_lossy(password.bytes()).into_owned()
}

/// Who says "wait" waits at the gate.
fn gated(hooks: &[Hook], gate: &Gate) -> Arc<Script> {
    let gate = gate.clone();
    Script::new(hooks, move |scope| {
        let (gate, waits) = (gate.clone(), password(scope) == "wait");
        Some(Box::pin(async move {
            if waits {
                gate.pass().await;
            }
            Verdict::Allow
        }))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_has_its_code_in_every_version_and_the_connection_ends() {
    let hooks = Script::new(&[Hook::ClientAuthenticate], |scope| match password(scope).as_str() {
        "bad" => decide(Verdict::Reject(ReasonCode(0x86))),
        "banned" => decide(Verdict::Reject(ReasonCode(0x8a))),
        "broken" => decide(Verdict::Fail(Hook::ClientAuthenticate.failure())),
        "allowed" => decide(Verdict::Allow),
        "unmatched" => None,
        _ => pass(),
    });
    let server = with_hooks(hooks.clone()).await;
    for (word, five, four) in [("bad", 0x86, 4), ("banned", 0x8a, 5), ("broken", 0x88, 3)] {
        let old = Connect { level: 3, ..Connect::v4("c") };
        for (connect, code) in [(Connect::v5("c"), five), (Connect::v4("c"), four), (old, four)] {
            let mut client = Client::try_connect(server.address, &connect.login("user", word)).await;
            assert_eq!((client.code, client.present), (code, false), "{word}");
            assert_eq!(client.closed().await, None);
        }
    }
    for word in ["allowed", "unmatched", "anything"] {
        Client::connect(server.address, &Connect::v5("c").login("user", word)).await.ping().await;
    }
    Client::connect(server.address, &Connect::v4("nobody")).await.ping().await;
    let log = hooks.raised();
    assert_eq!((&*log[0], &*log[12]), ("client.authenticate c bad", "client.authenticate nobody none"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_served_and_nothing_is_taken_over_before_the_answer() {
    let gate = Gate::default();
    let bound = [Hook::ClientAuthenticate, Hook::ClientConnected, Hook::SessionCreated];
    let hooks = gated(&bound, &gate);
    let server = with_hooks(hooks.clone()).await;
    let mut first = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    first.subscribe("t", 1).await;
    let mut second = Client::open(server.address, true).await;
    second.send(&Connect::v5("c").persistent().login("u", "wait").bytes()).await;
    hooks.until_line("client.authenticate c wait").await;
    // The first connection has its session, and strangers come and go.
    first.publish_done("t", "x", 1, 1).await;
    assert_eq!(first.take().await.payload, "x");
    Client::connect(server.address, &Connect::v4("other")).await.ping().await;
    assert_eq!(hooks.raised().iter().filter(|line| *line == "client.connected c").count(), 1);
    gate.open();
    let connack = second.expect(0x20).await;
    assert_eq!(connack.body[..2], [1, 0], "the session is resumed");
    assert_eq!(first.closed().await, Some(0x8e));
    second.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_client_takes_nothing_over() {
    let hooks = Script::new(&[Hook::ClientAuthenticate], |scope| match password(scope).as_str() {
        "bad" => decide(Verdict::Reject(ReasonCode::NOT_AUTHORIZED)),
        _ => pass(),
    });
    let server = with_hooks(hooks).await;
    let mut first = Client::connect(server.address, &Connect::v5("c")).await;
    let thief = Connect::v5("c").login("u", "bad").will("w", "never", 0, false);
    first.subscribe("#", 0).await;
    assert_eq!(Client::try_connect(server.address, &thief).await.code, 0x87);
    first.publish_done("t", "mine", 1, 1).await;
    assert_eq!(first.take().await.payload, "mine", "no will either");
    first.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_before_the_answer_is_done_after_it() {
    let gate = Gate::default();
    let hooks = gated(&[Hook::ClientAuthenticate], &gate);
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::open(server.address, true).await;
    let mut bytes = Connect::v5("c").login("u", "wait").bytes();
    bytes.extend(subscribe(true, 7, &[("t", 1)], &[]));
    client.send(&bytes).await;
    hooks.until_line("client.authenticate c wait").await;
    client.publish("t", "early", 1, 1).await;
    gate.open();
    client.expect(0x20).await;
    assert_eq!(client.expect(0x90).await.id(), 7);
    client.finish(1, 1).await;
    assert_eq!(client.take().await.payload, "early");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_meanwhile_is_never_connected_and_its_handlers_finish() {
    let gate = Gate::default();
    let hooks = gated(&[Hook::ClientAuthenticate, Hook::ClientConnected], &gate);
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::open(server.address, true).await;
    client.send(&Connect::v5("c").login("u", "wait").bytes()).await;
    hooks.until_line("client.authenticate c wait").await;
    drop(client);
    let mut other = Client::connect(server.address, &Connect::v5("d")).await;
    other.ping().await;
    assert_eq!(server.broker.connections(), 2, "its handlers count as a connection");
    gate.open();
    hooks.until_line("+client.authenticate c wait").await;
    let gone = async {
        while server.broker.connections() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::support::client::PATIENCE, gone).await.unwrap();
    other.ping().await;
    assert!(!hooks.raised().contains(&"client.connected c".to_owned()), "it never was connected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_in_the_time_of_a_connect_is_told() {
    let gate = Gate::default();
    let hooks = gated(&[Hook::ClientAuthenticate], &gate);
    let config = BrokerConfig { connect_timeout: Duration::from_millis(200), ..BrokerConfig::default() };
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let five = Connect::v5("c").login("u", "wait");
    let four = Connect::v4("c").login("u", "wait");
    for (connect, code) in [(five, 0x88), (four, 3)] {
        let mut client = Client::try_connect(server.address, &connect).await;
        assert_eq!(client.code, code);
        assert_eq!(client.closed().await, None);
    }
    gate.open();
    gate.open();
    hooks.until(|log| log.iter().filter(|line| line.starts_with('+')).count() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_counts_when_its_record_is_stored() {
    let withheld = Withheld::default();
    let taken = withheld.clone();
    let hooks = Script::new(&[Hook::ClientAuthenticate], move |scope| {
        taken.take(scope);
        decide(Verdict::Allow)
    });
    let server = with_hooks(hooks.clone()).await;
    for (stored, code) in [(Ok(()), 0), (Err(AckError::Abandoned), 0x88)] {
        let mut client = Client::open(server.address, true).await;
        client.send(&Connect::v5("c").bytes()).await;
        let asked = if code == 0 { 1 } else { 2 };
        hooks.until(|log| log.iter().filter(|line| line.starts_with('+')).count() == asked).await;
        let part = withheld.part("client.authenticate");
        match stored {
            Ok(()) => part.done(),
            Err(error) => part.fail(error),
        }
        assert_eq!(client.expect(0x20).await.body[1], code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_waits_for_no_answer() {
    let gate = Gate::default();
    let hooks = gated(&[Hook::ClientAuthenticate], &gate);
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::open(server.address, true).await;
    client.send(&Connect::v5("c").login("u", "wait").bytes()).await;
    hooks.until_line("client.authenticate c wait").await;
    let stopping = server.broker.shutdown(Duration::from_millis(300));
    let ((), connack) = tokio::join!(stopping, client.expect(0x20));
    assert_eq!(connack.body[1], 0x88);
    assert_eq!(client.closed().await, None);
}
