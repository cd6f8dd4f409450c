//! Retained messages (MQTT 5 clause 3.3.1.3, and Retain Handling and Retain As Published of 3.8.3.1).

use std::thread::sleep;
use std::time::Duration;

use tidegate_conformance::property::id;
use tidegate_conformance::{Client, Connect, Properties, Publish, Subscribe, Version::V5, name};

const AS_PUBLISHED: u8 = 0b1000;
const HANDLING_1: u8 = 0b01_0000;
const HANDLING_2: u8 = 0b10_0000;

/// A new subscriber, which must be sent exactly these retained payloads on `topic`.
#[track_caller]
fn late(topic: &str, expected: &[&str]) -> Client {
    let mut client = Client::new(V5);
    client.subscribe(topic, 2);
    for payload in expected {
        let message = client.expect_payload(payload);
        assert!(message.retain, "{message:?}");
        client.acknowledge(&message);
    }
    client.ping();
    client.expect_silence();
    client
}

#[test]
fn mqtt_3_3_1_5_a_retained_message_takes_the_place_of_the_one_before() {
    let topic = name("retained/replaced");
    let mut sender = Client::new(V5);
    for (qos, payload) in [(0, "first"), (1, "second"), (2, "third"), (0, "fourth")] {
        sender.publish_retained(&topic, payload, qos);
        late(&topic, &[payload]);
    }
}

#[test]
fn mqtt_3_3_1_5_a_retained_message_is_kept_with_its_qos_and_properties() {
    let topic = name("retained/kept");
    let properties = Properties::new()
        .text(id::CONTENT_TYPE, "a/b")
        .user("n", "1")
        .user("n", "2")
        .byte(id::PAYLOAD_FORMAT, 1);
    let mut sender = Client::new(V5);
    sender.send_publish(&Publish::new(&topic, "kept").qos(1, 1).retain().properties(properties.clone()));
    sender.expect();
    for most in 0..=2 {
        let mut client = Client::new(V5);
        client.subscribe(&topic, most);
        let message = client.expect_payload("kept");
        assert_eq!((message.qos, message.retain), (most.min(1), true));
        assert_eq!(message.properties.users(), properties.users());
        assert_eq!(message.properties.string(id::CONTENT_TYPE), Some("a/b"));
        assert_eq!(message.properties.number(id::PAYLOAD_FORMAT), Some(1));
    }
}

#[test]
fn mqtt_3_3_1_5_each_topic_has_its_own_retained_message() {
    let base = name("retained/each");
    let mut sender = Client::new(V5);
    let topics = ["", "/a", "/a/b", "/A"].map(|rest| format!("{base}{rest}"));
    for topic in &topics {
        sender.publish_retained(topic, topic, 1);
    }
    let mut client = Client::new(V5);
    client.subscribe(format!("{base}/#"), 0);
    let mut came: Vec<String> = topics.iter().map(|_| client.expect_publish().text()).collect();
    came.sort();
    let mut expected = topics.to_vec();
    expected.sort();
    assert_eq!(came, expected);
}

#[test]
fn mqtt_3_3_1_6_an_empty_retained_message_is_delivered_and_removes() {
    for qos in 0..=2 {
        let topic = name("retained/removed");
        let mut sender = Client::new(V5);
        sender.publish_retained(&topic, "to be removed", 1);
        let mut there = late(&topic, &["to be removed"]);
        sender.publish_retained(&topic, "", qos);
        let message = there.expect_payload("");
        assert_eq!((message.qos, message.retain), (qos, false));
        late(&topic, &[]);
    }
}

#[test]
fn mqtt_3_3_1_7_an_empty_message_is_not_retained() {
    let topic = name("retained/empty");
    Client::new(V5).publish_retained(&topic, "", 1);
    late(&topic, &[]);
}

#[test]
fn mqtt_3_3_1_8_a_message_without_retain_changes_nothing() {
    let topic = name("retained/unchanged");
    let mut sender = Client::new(V5);
    sender.publish(&topic, "passing", 1);
    late(&topic, &[]);
    sender.publish_retained(&topic, "kept", 1);
    for (payload, qos) in [("passing", 0), ("passing", 1), ("passing", 2), ("", 1)] {
        sender.publish(&topic, payload, qos);
        late(&topic, &["kept"]);
    }
}

#[test]
fn mqtt_3_3_1_9_retain_handling_zero_sends_retained_messages_each_time() {
    let topic = name("retained/always");
    Client::new(V5).publish_retained(&topic, "kept", 1);
    let mut client = Client::new(V5);
    for options in [0, 1, 1, 2] {
        client.subscribe(&topic, options);
        let message = client.expect_payload("kept");
        assert_eq!((message.qos, message.retain), (options.min(1), true));
        client.acknowledge(&message);
        client.ping();
        client.expect_silence();
    }
}

#[test]
fn mqtt_3_3_1_9_what_an_older_subscription_is_to_deliver_is_sent_as_retained_too() {
    let base = name("retained/older");
    let properties = Properties::new().two(id::RECEIVE_MAXIMUM, 1);
    let mut client = Client::connect(&Connect::new(V5).properties(properties));
    let subscribe = |packet, filter, identifier| {
        let properties = Properties::new().variable(id::SUBSCRIPTION_IDENTIFIER, identifier);
        Subscribe::new(packet).filter(filter, 1).properties(properties).encode(V5)
    };
    client.send(subscribe(1, format!("{base}/+"), 1));
    client.expect_suback(1);
    let mut sender = Client::new(V5);
    sender.publish(format!("{base}/x"), "x", 1);
    let first = client.expect_payload("x");
    sender.publish_retained(format!("{base}/b"), "kept", 1);
    client.send(subscribe(2, format!("{base}/b"), 2));
    client.expect_suback(2);
    client.acknowledge(&first);
    let mut got = Vec::new();
    for _ in 0..2 {
        let message = client.expect_payload("kept");
        client.acknowledge(&message);
        got.push((message.retain, message.properties.number(id::SUBSCRIPTION_IDENTIFIER)));
    }
    got.sort_unstable();
    assert_eq!(got, [(false, Some(1)), (true, Some(2))]);
}

#[test]
fn mqtt_3_3_1_10_retain_handling_one_sends_them_to_a_new_subscription_only() {
    let topic = name("retained/once");
    Client::new(V5).publish_retained(&topic, "kept", 1);
    let mut client = Client::new(V5);
    client.subscribe(&topic, HANDLING_1);
    client.expect_payload("kept");
    for options in [HANDLING_1, HANDLING_1 | 1] {
        client.subscribe(&topic, options);
        client.ping();
        client.expect_silence();
    }
    // Unsubscribed, it is new again.
    client.unsubscribe(&topic);
    client.subscribe(&topic, HANDLING_1);
    client.expect_payload("kept");
    // A subscription by another filter is another one.
    client.subscribe(format!("{topic}/#"), HANDLING_1);
    client.expect_payload("kept");
}

#[test]
fn mqtt_3_3_1_10_a_resumed_subscription_is_not_new() {
    let topic = name("retained/resumed");
    Client::new(V5).publish_retained(&topic, "kept", 1);
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, HANDLING_1);
    client.expect_payload("kept");
    client.cut();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, HANDLING_1);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_3_1_11_retain_handling_two_sends_none() {
    let topic = name("retained/never");
    let mut sender = Client::new(V5);
    sender.publish_retained(&topic, "kept", 1);
    let mut client = Client::new(V5);
    client.subscribe(&topic, HANDLING_2);
    client.ping();
    client.expect_silence();
    sender.publish_retained(&topic, "live", 1);
    assert!(!client.expect_payload("live").retain);
}

#[test]
fn mqtt_3_3_1_12_retain_is_taken_off_what_is_forwarded() {
    let topic = name("retained/off");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 1);
    let mut sender = Client::new(V5);
    for qos in 0..=2 {
        sender.publish_retained(&topic, "retained", qos);
        assert!(!client.expect_payload("retained").retain);
        sender.publish(&topic, "not", qos);
        assert!(!client.expect_payload("not").retain);
    }
}

#[test]
fn mqtt_3_3_1_13_retain_as_published_keeps_the_flag() {
    let topic = name("retained/kept");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 1 | AS_PUBLISHED);
    let mut plain = Client::new(V5);
    plain.subscribe(&topic, 1);
    let mut sender = Client::new(V5);
    for qos in 0..=2 {
        sender.publish_retained(&topic, "retained", qos);
        assert!(client.expect_payload("retained").retain);
        sender.publish(&topic, "not", qos);
        assert!(!client.expect_payload("not").retain);
        sender.publish_retained(&topic, "", qos);
        assert!(client.expect_payload("").retain);
        for payload in ["retained", "not", ""] {
            assert!(!plain.expect_payload(payload).retain);
        }
    }
}

#[test]
fn mqtt_3_3_1_13_retain_as_published_holds_for_what_waits() {
    let topic = name("retained/waits");
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 1 | AS_PUBLISHED);
    client.cut();
    let mut sender = Client::new(V5);
    sender.publish_retained(&topic, "retained", 1);
    sender.publish(&topic, "not", 1);
    let mut client = Client::connect(&connect);
    assert!(client.expect_payload("retained").retain);
    assert!(!client.expect_payload("not").retain);
}

#[test]
fn clause_3_3_2_3_3_a_retained_message_expires() {
    let topic = name("retained/expires");
    let expiry = |seconds| Properties::new().four(id::MESSAGE_EXPIRY, seconds);
    let mut sender = Client::new(V5);
    sender.send_publish(&Publish::new(&topic, "brief").qos(1, 1).retain().properties(expiry(1)));
    sender.expect();
    sender.send_publish(
        &Publish::new(format!("{topic}/long"), "long").qos(1, 2).retain().properties(expiry(60)),
    );
    sender.expect();
    sleep(Duration::from_millis(2_200));
    late(&topic, &[]);
    let mut client = Client::new(V5);
    client.subscribe(format!("{topic}/long"), 0);
    let left = client.expect_payload("long").properties.number(id::MESSAGE_EXPIRY);
    assert!(left.is_some_and(|left| (50..=58).contains(&left)), "{left:?}");
}
