//! Statistics under `$SYS` (MQTT 5 clause 4.7.2).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_broker::BrokerConfig;
use tidegate_event::{Hook, IdSource, Message, Node, Origin, QoS, Tenant, TopicName, VolatileStore};

use crate::support::client::{Client, PUBACK};
use crate::support::packet::{Connect, Published};
use crate::support::script::Script;
use crate::support::{Server, plain, start, with_config};

/// A broker that publishes statistics often.
async fn often() -> Server {
    with_config(BrokerConfig { sys_interval: Duration::from_millis(50), ..BrokerConfig::default() }).await
}

/// What a subscription to `filter` brings at once, by topic.
async fn brought(client: &mut Client, filter: &str) -> BTreeMap<String, Published> {
    client.subscribe(filter, 1).await;
    let mut found = BTreeMap::new();
    client.send(&[0xc0, 0, 0xc0, 0]).await;
    let mut pongs = 0;
    while pongs < 2 {
        let packet = client.recv().await;
        if packet.first == 0xd0 {
            pongs += 1;
        } else {
            let message = packet.published(client.v5);
            found.insert(message.topic.clone(), message);
        }
    }
    found
}

fn value<'a>(found: &'a BTreeMap<String, Published>, name: &str) -> &'a str {
    let topic = format!("$SYS/broker/{name}");
    &found.get(&topic).unwrap_or_else(|| panic!("{topic} is among {:?}", found.keys())).payload
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_subscriber_gets_all_statistics_at_once() {
    let server = plain().await;
    let away = Client::connect(server.address, &Connect::v5("away").persistent()).await;
    away.disconnect().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe_all(&[("a/+", 1), ("$share/g/b", 1)]).await;
    client.retain("kept", "x").await;
    for id in 1..=3 {
        client.publish_done("a/b", "x", 1, id).await;
        client.take().await;
    }
    client.ping().await;
    // A connection's own counts are added when it rests.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let found = brought(&mut client, "$SYS/#").await;
    assert!(found.values().all(|message| message.retain && message.qos == 0), "{found:?}");
    for (name, expected) in [
        ("clients/connected", "1"),
        ("clients/total", "2"),
        ("clients/disconnected", "1"),
        ("clients/maximum", "1"),
        ("messages/received", "4"),
        ("messages/sent", "3"),
        ("publish/messages/received", "4"),
        ("messages/stored", "1"),
        ("messages/dropped", "0"),
        ("subscriptions/count", "3"),
        ("shared_subscriptions/count", "1"),
        ("retained messages/count", "1"),
    ] {
        assert_eq!(value(&found, name), expected, "{name}");
    }
    assert!(value(&found, "version").starts_with("tidegate "));
    assert!(value(&found, "uptime").ends_with(" seconds"));
    for name in ["bytes/received", "bytes/sent"] {
        assert!(value(&found, name).parse::<u64>().unwrap() > 50, "{name}");
    }
    for span in ["1min", "5min", "15min"] {
        let load: f64 = value(&found, &format!("load/messages/received/{span}")).parse().unwrap();
        assert!(load.is_finite());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_come_again_and_say_what_has_changed() {
    let server = often().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe("$SYS/broker/clients/connected", 2).await;
    let first = client.message().await;
    assert_eq!((first.payload.as_str(), first.retain), ("1", true), "as it was retained");
    let again = client.message().await;
    assert_eq!((again.payload.as_str(), again.retain, again.qos), ("1", false, 0));
    let _other = Client::connect(server.address, &Connect::v4("other")).await;
    while client.message().await.payload != "2" {}
}

/// [MQTT-4.7.2-1].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_wildcards_do_not_bring_statistics() {
    let server = often().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let codes = client.subscribe_all(&[("#", 0), ("+/broker/#", 0), ("+/#", 0), ("$SYSTEM/#", 0)]).await;
    assert_eq!(codes, [0; 4]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interval_of_zero_switches_statistics_off() {
    let config = BrokerConfig { sys_interval: Duration::ZERO, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    assert!(brought(&mut client, "$SYS/#").await.is_empty());
}

/// A deciding module must not be asked, nor a storing action be run, for what nobody published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handler_sees_statistics() {
    let hooks = Script::observer(&[Hook::MessagePublish, Hook::MessageDeliver, Hook::MessageAcked]);
    let config = BrokerConfig { sys_interval: Duration::from_millis(30), ..BrokerConfig::default() };
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe("$SYS/broker/uptime", 1).await;
    for _ in 0..4 {
        assert_eq!(client.message().await.topic, "$SYS/broker/uptime");
    }
    assert_eq!(hooks.raised(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_the_broker_publishes_statistics() {
    let hooks = Script::observer(&[Hook::MessagePublish]);
    let config = BrokerConfig { sys_interval: Duration::from_secs(60), ..BrokerConfig::default() };
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe_all(&[("$SYS/forged", 2), ("$SYS/broker/version/forged", 2)]).await;
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    five.publish("$SYS/forged", "x", 1, 1).await;
    let answer = five.expect(PUBACK).await;
    assert_eq!((answer.id(), answer.reason()), (1, 0x87));
    five.publish("$SYS/forged", "x", 2, 2).await;
    let answer = five.recv().await;
    assert_eq!((answer.first, answer.id(), answer.reason()), (0x50, 2, 0x87));
    five.publish_done("$SYS/forged", "x", 0, 0).await;
    five.retain_refused("$SYS/broker/version/forged").await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    four.publish_done("$SYS/forged", "x", 1, 1).await;
    let will = Connect::v5("will").will("$SYS/forged", "x", 1, true);
    assert_eq!(Client::try_connect(server.address, &will).await.code, 0x87);
    let id = IdSource::new(&Node::default()).next_id();
    let message = Message {
        id,
        topic: TopicName::new("$SYS/forged").unwrap(),
        payload: Bytes::from_static(b"x"),
        qos: QoS::AtLeastOnce,
        retain: true,
        dup: false,
        timestamp_ms: 0,
        sender: "".into(),
        publisher: None,
        properties: None,
        origin: Origin::Module,
        hops: 0,
    };
    server.broker.control().publish(&Tenant::default(), message).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.ping().await;
    assert_eq!(hooks.raised(), Vec::<String>::new(), "no handler is asked about it");
    let mut late = Client::connect(server.address, &Connect::v5("late")).await;
    late.subscribe("$SYS/forged", 1).await;
    late.ping().await;
    five.ping().await;
}
