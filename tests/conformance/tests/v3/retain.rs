//! RETAIN (clause 3.3.1.3).

use tidegate_conformance::Version::V311;
use tidegate_conformance::packet::PINGREQ;
use tidegate_conformance::{Client, Connect, Packet, Publish, name};

/// What a new subscriber is sent for `filter` before SUBACK's ping is answered, in no order.
fn retained(filter: &str) -> Vec<Publish> {
    let mut client = Client::new(V311);
    client.subscribe(filter, 2);
    client.send(PINGREQ);
    let mut messages = Vec::new();
    loop {
        match client.expect() {
            Packet::Publish(publish) => messages.push(publish),
            Packet::PingResp => break messages,
            other => panic!("{other:?}"),
        }
    }
}

/// Topic without the prefix, payload, QoS and RETAIN of each.
fn seen(filter: &str) -> Vec<(String, String, u8, bool)> {
    let last = |topic: &str| topic.rsplit('/').next().unwrap_or_default().to_owned();
    let mut seen: Vec<_> =
        retained(filter).iter().map(|m| (last(m.topic()), m.text(), m.qos, m.retain)).collect();
    seen.sort();
    seen
}

fn row(topic: &str, payload: &str, qos: u8) -> (String, String, u8, bool) {
    (topic.into(), payload.into(), qos, true)
}

#[test]
fn mqtt_3_3_1_5_a_retained_message_is_kept_with_its_qos() {
    let topic = name("kept");
    let mut publisher = Client::new(V311);
    for qos in [0, 1, 2] {
        publisher.publish_retained(format!("{topic}/{qos}"), format!("at {qos}"), qos);
    }
    let expected = [row("0", "at 0", 0), row("1", "at 1", 1), row("2", "at 2", 2)];
    // For every later subscriber, not only for the first, also when the publisher is gone.
    assert_eq!(seen(&format!("{topic}/+")), expected);
    publisher.disconnect();
    assert_eq!(seen(&format!("{topic}/#")), expected);
    // With the lower QoS of message and subscription.
    let mut client = Client::new(V311);
    client.subscribe(format!("{topic}/2"), 1);
    assert_eq!(client.expect_payload("at 2").qos, 1);
}

#[test]
fn mqtt_3_3_1_6_a_new_subscription_gets_the_last_of_each_topic() {
    let topic = name("last");
    let mut publisher = Client::new(V311);
    for round in 0..3 {
        for leaf in ["a", "b", "c"] {
            publisher.publish_retained(format!("{topic}/{leaf}"), format!("{leaf} {round}"), 1);
        }
        publisher.publish_retained(format!("{topic}/d/e"), format!("e {round}"), 1);
        publisher.publish_retained(&topic, format!("top {round}"), 1);
    }
    let leaves = [row("a", "a 2", 1), row("b", "b 2", 1), row("c", "c 2", 1)];
    assert_eq!(seen(&format!("{topic}/+")), leaves);
    assert_eq!(seen(&format!("{topic}/b")), leaves[1..2]);
    assert_eq!(seen(&format!("{topic}/+/e")), [row("e", "e 2", 1)]);
    assert_eq!(seen(&format!("+/{topic}")), []);
    let all = retained(&format!("{topic}/#"));
    assert_eq!(all.len(), 5, "with the topic of the parent level: {all:?}");
    assert_eq!(seen(&format!("{topic}/nothing")), []);
}

#[test]
fn mqtt_3_3_1_7_a_retained_message_of_qos_0_displaces_the_last() {
    let topic = name("displace/");
    let mut publisher = Client::new(V311);
    for qos in [1, 2] {
        publisher.publish_retained(&topic, "old", qos);
        publisher.publish_retained(&topic, "new", 0);
        let came = retained(&topic);
        // The server may forget it at any time.
        assert!(came.iter().all(|message| message.text() == "new" && message.qos == 0), "{came:?}");
    }
}

#[test]
fn mqtt_3_3_1_8_retain_is_1_by_a_new_subscription() {
    let topic = name("flag1/");
    let mut publisher = Client::new(V311);
    let mut client = Client::new(V311);
    for qos in [0, 1, 2] {
        publisher.publish_retained(&topic, qos.to_string(), qos);
        client.subscribe(&topic, 2);
        let message = client.expect_payload(&qos.to_string());
        assert!(message.retain);
        client.acknowledge(&message);
        client.unsubscribe(&topic);
    }
    // By a second subscription of the same client, too.
    client.subscribe(format!("{topic}/#"), 0);
    assert!(client.expect_payload("2").retain);
    client.subscribe(&topic, 0);
    assert!(client.expect_payload("2").retain);
}

#[test]
fn mqtt_3_3_1_9_retain_is_0_by_an_older_subscription() {
    let topic = name("flag0/");
    let mut client = Client::new(V311);
    client.subscribe(&topic, 2);
    let mut publisher = Client::new(V311);
    for qos in [0, 1, 2] {
        publisher.publish_retained(&topic, qos.to_string(), qos);
        let message = client.expect_payload(&qos.to_string());
        assert_eq!((message.retain, message.qos), (false, qos));
        client.acknowledge(&message);
    }
    // And when it was absent.
    let connect = Connect::new(V311).persistent();
    let mut absent = Client::connect(&connect);
    absent.subscribe(&topic, 1);
    assert!(absent.expect_payload("2").retain);
    absent.cut();
    publisher.publish_retained(&topic, "meanwhile", 1);
    let mut absent = Client::connect(&connect);
    let meanwhile = loop {
        let message = absent.expect_publish();
        if message.text() == "meanwhile" {
            break message;
        }
    };
    assert!(!meanwhile.retain);
}

#[test]
fn mqtt_3_3_1_10_an_empty_retained_message_removes_and_is_delivered() {
    let topic = name("remove/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    let mut publisher = Client::new(V311);
    for qos in [0, 1, 2] {
        publisher.publish_retained(&topic, "kept", 1);
        publisher.publish_retained(format!("{topic}/other"), "stays", 1);
        publisher.publish_retained(&topic, "", qos);
        for (payload, of) in [("kept", 1), ("", qos)] {
            let message = watcher.expect_payload(payload);
            assert_eq!((message.qos, message.retain), (of, false));
            watcher.acknowledge(&message);
        }
        assert_eq!(seen(&format!("{topic}/#")), [row("other", "stays", 1)]);
        assert_eq!(seen(&topic), []);
    }
}

#[test]
fn mqtt_3_3_1_11_an_empty_message_is_not_retained() {
    let topic = name("empty/");
    let mut publisher = Client::new(V311);
    for qos in [0, 1, 2] {
        publisher.publish_retained(&topic, "", qos);
        assert_eq!(retained(&topic), []);
        assert_eq!(retained(&format!("{topic}/#")), []);
    }
}

#[test]
fn mqtt_3_3_1_12_without_retain_nothing_is_kept_or_removed() {
    let topic = name("unchanged/");
    let mut publisher = Client::new(V311);
    for qos in [0, 1, 2] {
        publisher.publish(&topic, "passes", qos);
        assert_eq!(retained(&topic), []);
    }
    publisher.publish_retained(&topic, "kept", 2);
    for qos in [0, 1, 2] {
        for payload in ["passes", ""] {
            publisher.publish(&topic, payload, qos);
        }
    }
    let came = retained(&topic);
    assert_eq!(came.iter().map(Publish::text).collect::<Vec<_>>(), ["kept"]);
}
