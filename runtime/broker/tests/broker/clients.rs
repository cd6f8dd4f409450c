//! An independent client library against the broker, in both versions.

use std::time::Duration;

use rumqttc::v5;

use crate::support::client::PATIENCE;
use crate::support::plain;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rumqttc_3_1_1_publishes_and_receives_every_qos() {
    use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
    let server = plain().await;
    let mut options = MqttOptions::new("c4", "127.0.0.1", server.address.port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe("a/#", QoS::ExactlyOnce).await.unwrap();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish("a/b", qos, false, format!("{qos:?}")).await.unwrap();
    }
    let mut got = Vec::new();
    let all = async {
        while got.len() < 3 {
            if let Event::Incoming(Incoming::Publish(publish)) = events.poll().await.unwrap() {
                got.push((publish.qos, String::from_utf8(publish.payload.to_vec()).unwrap()));
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    let expected = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].map(|q| (q, format!("{q:?}")));
    assert_eq!(got, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rumqttc_5_publishes_and_receives_every_qos() {
    use v5::mqttbytes::QoS;
    use v5::mqttbytes::v5::Packet;
    use v5::{AsyncClient, Event, MqttOptions};
    let server = plain().await;
    let mut options = MqttOptions::new("c5", "127.0.0.1", server.address.port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe("a/#", QoS::ExactlyOnce).await.unwrap();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish("a/b", qos, false, format!("{qos:?}")).await.unwrap();
    }
    let mut got = Vec::new();
    let all = async {
        while got.len() < 3 {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
                got.push(String::from_utf8(publish.payload.to_vec()).unwrap());
            }
        }
        client.unsubscribe("a/#").await.unwrap();
        client.unsubscribe("never").await.unwrap();
        let mut unsubacks = 0;
        while unsubacks < 2 {
            if let Event::Incoming(Packet::UnsubAck(_)) = events.poll().await.unwrap() {
                unsubacks += 1;
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    assert_eq!(got, ["AtMostOnce", "AtLeastOnce", "ExactlyOnce"]);
}
