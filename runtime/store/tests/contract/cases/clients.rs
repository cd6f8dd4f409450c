//! Client state and proxy subscriptions.

use std::sync::Arc;

use tidegate_event::{DisconnectReason, Event, QoS};

use crate::fixture::{Bench, Factory};

const STATE: [&str; 2] = [
    r#"client.connected.1 = {"action": {"function": "on_client_connected"}}"#,
    r#"client.disconnected.1 = {"action": {"function": "on_client_disconnected"}}"#,
];

const ROW: &str = "select state, node, online_at is not null, offline_at is not null, created is not null \
                   from mqtt_client where clientid = 'test'";

pub(crate) async fn a_client_is_online_then_offline(factory: &dyn Factory) {
    let bench = Bench::new(factory, &STATE).await;
    let client = bench.client("test");
    assert_eq!(bench.raise(Event::ClientConnected { client: Arc::clone(&client) }).await.0, Ok(()));
    assert_eq!(bench.rows(ROW).await, [["1", "tidegate@127.0.0.1", "1", "0", "1"]]);
    let online = bench.rows("select id, online_at, created from mqtt_client").await;
    bench.disconnect(&client, DisconnectReason::Normal).await;
    assert_eq!(bench.rows(ROW).await, [["0", "tidegate@127.0.0.1", "1", "1", "1"]]);
    assert_eq!(bench.rows("select id, online_at, created from mqtt_client").await, online, "kept");
    let again = bench.client("test");
    bench.raise(Event::ClientConnected { client: again }).await.0.unwrap();
    assert_eq!(
        bench.rows(ROW).await,
        [["1", "tidegate@127.0.0.1", "1", "0", "1"]],
        "offline_at is empty again"
    );
}

pub(crate) async fn a_take_over_leaves_the_client_online(factory: &dyn Factory) {
    let bench = Bench::new(factory, &STATE).await;
    let (old, new) = (bench.client("test"), bench.client("test"));
    for client in [&old, &new] {
        bench.raise(Event::ClientConnected { client: Arc::clone(client) }).await.0.unwrap();
    }
    // Reported as a take-over, or as a dead socket that is noticed late.
    for reason in [DisconnectReason::TakenOver, DisconnectReason::SocketClosed] {
        bench.disconnect(&old, reason).await;
        assert_eq!(bench.rows("select state from mqtt_client").await, [["1"]], "{}", reason.name());
    }
    bench.disconnect(&new, DisconnectReason::Normal).await;
    assert_eq!(bench.rows("select state from mqtt_client").await, [["0"]]);
}

pub(crate) async fn stored_subscriptions_are_looked_up(factory: &dyn Factory) {
    let lines = [r#"session.created.1 = {"action": {"function": "on_subscribe_lookup"}}"#];
    let bench = Bench::new(factory, &lines).await;
    for values in ["'test', 'test_topic1', 1", "'test', 'test_topic2/#', 2", "'other', 'x', 0"] {
        bench.exec(&format!("insert into mqtt_sub(clientid, topic, qos) values ({values})")).await;
    }
    let (result, effects) = bench.raise(Event::SessionCreated { client: bench.client("test") }).await;
    assert_eq!(result, Ok(()));
    let expected = [
        ("test_topic1".parse().unwrap(), QoS::AtLeastOnce),
        ("test_topic2/#".parse().unwrap(), QoS::ExactlyOnce),
    ];
    assert_eq!(effects.subscriptions, expected);
    let (_, effects) = bench.raise(Event::SessionCreated { client: bench.client("nobody") }).await;
    assert!(effects.is_empty());
}

pub(crate) async fn rows_that_cannot_be_subscribed_are_skipped(factory: &dyn Factory) {
    let lines = [r#"client.connected.1 = {"action": {"function": "on_subscribe_lookup"}}"#];
    let bench = Bench::new(factory, &lines).await;
    for values in [
        "'test', 'a/#/b', 1",
        "'test', 'bad_qos', 3",
        "'test', '', 1",
        "'test', 'good', 0",
        "'test', null, 1",
    ] {
        bench.exec(&format!("insert into mqtt_sub(clientid, topic, qos) values ({values})")).await;
    }
    let (result, effects) = bench.raise(Event::ClientConnected { client: bench.client("test") }).await;
    assert_eq!(result, Ok(()));
    assert_eq!(effects.subscriptions, [("good".parse().unwrap(), QoS::AtMostOnce)]);
}

pub(crate) async fn subscriptions_are_stored_and_deleted(factory: &dyn Factory) {
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
    let rows = "select clientid, topic, qos from mqtt_sub order by topic";
    assert_eq!(bench.rows(rows).await, [["test", "a/+", "1"], ["test", "a/b", "1"]]);
    let shared = Event::SessionSubscribed {
        client: Arc::clone(&client),
        filter: "a/s".parse().unwrap(),
        qos: QoS::AtMostOnce,
        shared: true,
    };
    bench.raise(shared).await.0.unwrap();
    bench.unsubscribe(&client, "a/+").await;
    assert_eq!(bench.rows(rows).await, [["test", "a/b", "1"]], "a shared subscription is not stored");
}

pub(crate) async fn the_end_of_a_shared_subscription_deletes_nothing_of_the_plain_one(factory: &dyn Factory) {
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
    let rows = "select (select count(*) from mqtt_sub), (select count(*) from mqtt_acked)";
    bench.unsubscribe_event(&client, "t", true).await;
    assert_eq!(bench.rows(rows).await, [["1", "1"]]);
    bench.unsubscribe(&client, "t").await;
    assert_eq!(bench.rows(rows).await, [["0", "0"]]);
}
