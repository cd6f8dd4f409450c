//! Client state and proxy subscriptions.

use std::sync::Arc;

use tidegate_event::{Client, DisconnectReason, Event, QoS};

use crate::fixture::{Bench, Factory, State};

const STATE: [&str; 2] = [
    r#"client.connected.1 = {"action": {"function": "on_client_connected"}}"#,
    r#"client.disconnected.1 = {"action": {"function": "on_client_disconnected"}}"#,
];

async fn state(bench: &Bench) -> State {
    bench.look().state(&bench.client_id("test")).await.expect("a state")
}

async fn subscriptions(bench: &Bench) -> Vec<(String, String)> {
    bench.look().subscriptions(&bench.client_id("test")).await
}

/// Rows of subscriptions as they are stored.
fn rows(bench: &Bench, filters: &[(&str, &str)]) -> Vec<(String, String)> {
    filters.iter().map(|(filter, qos)| (bench.topic(filter), (*qos).to_owned())).collect()
}

pub(crate) async fn a_client_is_online_then_offline(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &STATE).await;
    let client = bench.client("test");
    assert_eq!(bench.raise(Event::ClientConnected { client: Arc::clone(&client) }).await.0, Ok(()));
    let online = state(&bench).await;
    assert_eq!((&*online.state, online.node, &online.offline_at), ("1", true, &None));
    assert!(online.online_at.is_some());
    bench.disconnect(&client, DisconnectReason::Normal).await;
    let offline = state(&bench).await;
    assert_eq!((&*offline.state, offline.node, &offline.online_at), ("0", true, &online.online_at), "kept");
    assert!(offline.offline_at.is_some());
    let again = bench.client("test");
    bench.raise(Event::ClientConnected { client: again }).await.0.unwrap();
    let again = state(&bench).await;
    assert_eq!((&*again.state, &again.offline_at), ("1", &None), "offline_at is empty again");
}

pub(crate) async fn a_take_over_leaves_the_client_online(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &STATE).await;
    let (old, new) = (bench.client("test"), bench.client("test"));
    for client in [&old, &new] {
        bench.raise(Event::ClientConnected { client: Arc::clone(client) }).await.0.unwrap();
    }
    // Reported as a take-over, or as a dead socket that is noticed late.
    for reason in [DisconnectReason::TakenOver, DisconnectReason::SocketClosed] {
        bench.disconnect(&old, reason).await;
        assert_eq!(state(&bench).await.state, "1", "{}", reason.name());
    }
    bench.disconnect(&new, DisconnectReason::Normal).await;
    assert_eq!(state(&bench).await.state, "0");
}

/// The client has connected to another node; the first one notices late that its connection is dead.
pub(crate) async fn the_end_on_an_older_node_leaves_the_client_online(factory: &'static dyn Factory) {
    let first = Bench::new(factory, &STATE).await;
    let second = first.second(&STATE).await;
    let old = first.client("test");
    let mut new = Client::clone(&*second.client("test"));
    new.connected_at_ms = old.connected_at_ms + 1_500;
    first.raise(Event::ClientConnected { client: Arc::clone(&old) }).await.0.unwrap();
    second.raise(Event::ClientConnected { client: Arc::new(new) }).await.0.unwrap();
    first.disconnect(&old, DisconnectReason::SocketClosed).await;
    assert_eq!(state(&second).await.state, "1");
}

pub(crate) async fn stored_subscriptions_are_looked_up(factory: &'static dyn Factory) {
    let lines = [r#"session.created.1 = {"action": {"function": "on_subscribe_lookup"}}"#];
    let bench = Bench::new(factory, &lines).await;
    for (client, filter, qos) in
        [("test", "test_topic1", "1"), ("test", "test_topic2/#", "2"), ("other", "x", "0")]
    {
        bench.look().put_subscription(&bench.client_id(client), &bench.topic(filter), qos).await;
    }
    let (result, effects) = bench.raise(Event::SessionCreated { client: bench.client("test") }).await;
    assert_eq!(result, Ok(()));
    let expected = [
        (bench.topic("test_topic1").parse().unwrap(), QoS::AtLeastOnce),
        (bench.topic("test_topic2/#").parse().unwrap(), QoS::ExactlyOnce),
    ];
    assert_eq!(effects.subscriptions, expected);
    let (_, effects) = bench.raise(Event::SessionCreated { client: bench.client("nobody") }).await;
    assert!(effects.is_empty());
}

pub(crate) async fn rows_that_cannot_be_subscribed_are_skipped(factory: &'static dyn Factory) {
    let lines = [r#"client.connected.1 = {"action": {"function": "on_subscribe_lookup"}}"#];
    let bench = Bench::new(factory, &lines).await;
    let look = bench.look();
    for (filter, qos) in [("a/#/b", "1"), ("bad_qos", "3"), ("good", "0")] {
        look.put_subscription(&bench.client_id("test"), &bench.topic(filter), qos).await;
    }
    look.put_subscription(&bench.client_id("test"), "", "1").await;
    let (result, effects) = bench.raise(Event::ClientConnected { client: bench.client("test") }).await;
    assert_eq!(result, Ok(()));
    assert_eq!(effects.subscriptions, [(bench.topic("good").parse().unwrap(), QoS::AtMostOnce)]);
}

pub(crate) async fn subscriptions_are_stored_and_deleted(factory: &'static dyn Factory) {
    let lines = [
        r#"session.subscribed.1 = {"topic": "a/#", "action": {"function": "on_subscription_store"}}"#,
        r#"session.unsubscribed.1 = {"topic": "a/#", "action": {"function": "on_subscription_delete"}}"#,
    ];
    let bench = Bench::new(factory, &lines).await;
    let client = bench.client("test");
    for filter in ["a/+", "a/b", "b"] {
        bench.subscribe(&client, filter).await;
    }
    bench.subscribe(&client, "a/+").await;
    assert_eq!(subscriptions(&bench).await, rows(&bench, &[("a/+", "1"), ("a/b", "1")]));
    let shared = Event::SessionSubscribed {
        client: Arc::clone(&client),
        filter: bench.topic("a/s").parse().unwrap(),
        qos: QoS::AtMostOnce,
        shared: true,
    };
    bench.raise(shared).await.0.unwrap();
    bench.unsubscribe(&client, "a/+").await;
    let expected = rows(&bench, &[("a/b", "1")]);
    assert_eq!(subscriptions(&bench).await, expected, "a shared subscription is not stored");
}

pub(crate) async fn the_end_of_a_shared_subscription_deletes_nothing_of_the_plain_one(
    factory: &'static dyn Factory,
) {
    let lines = [
        r##"session.subscribed.1 = {"topic": "#", "action": {"function": "on_subscription_store"}}"##,
        r##"session.unsubscribed.1 = {"topic": "#", "action": {"function": "on_subscription_delete"}}"##,
        r##"session.unsubscribed.2 = {"topic": "#", "action": {"function": "on_acked_delete"}}"##,
        r##"message.publish.1 = {"topic": "#", "action": {"function": "on_message_publish"}}"##,
        r##"message.acked.1 = {"topic": "#", "action": {"function": "on_message_acked"}}"##,
    ];
    let bench = Bench::new(factory, &lines).await;
    let client = bench.client("test");
    bench.subscribe(&client, "t").await;
    let message = bench.publish_text("t", "x").await;
    bench.ack(&client, &message, Some(message.id)).await;
    let kept = async || (subscriptions(&bench).await.len(), bench.position("test", "t").await.is_some());
    bench.unsubscribe_event(&client, "t", true).await;
    assert_eq!(kept().await, (1, true));
    bench.unsubscribe(&client, "t").await;
    assert_eq!(kept().await, (0, false));
}
