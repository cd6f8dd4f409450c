//! What an MQTT client may expect of any broker, asked by clients that are not ours: qualities of service,
//! retained messages, wills, wildcards, shared subscriptions, and 3.1, 3.1.1 and 5 on one port.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tidegate_e2e::mosquitto::{self, Received, Subscriber};
use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::server::text_of;
use tidegate_e2e::wire::{self, Connect, Wire, kind};
use tidegate_e2e::{Server, until};

const VERSIONS: [&str; 3] = ["mqttv31", "mqttv311", "mqttv5"];

#[test]
fn every_quality_of_service_in_every_version() {
    let server = Server::plain();
    for version in VERSIONS {
        for granted in 0..=2_u8 {
            let filter = format!("qos/{version}/{granted}");
            let mut subscriber =
                Subscriber::start(server.port, &["-V", version, "-t", &filter, "-q", &granted.to_string()]);
            for sent in 0..=2_u8 {
                let payload = format!("{sent}");
                mosquitto::publish(
                    server.port,
                    &["-V", version, "-t", &filter, "-m", &payload, "-q", &payload],
                );
                let received = subscriber.receive();
                // MQTT 5 clause 3.8.4: the lower of what was published and what was granted.
                assert_eq!(
                    (received.payload.as_str(), received.qos),
                    (&*payload, sent.min(granted)),
                    "{version}"
                );
            }
        }
    }
    server.assert_no_panic();
}

#[test]
fn the_order_of_one_publisher_is_kept_at_every_quality_of_service() {
    let server = Server::plain();
    for qos in ["0", "1", "2"] {
        let mut subscriber = Subscriber::start(server.port, &["-V", "5", "-t", "order", "-q", "2"]);
        let mut publisher = Paho::connect(server.port, &Options::new(5, "orderly"));
        for number in 0..200 {
            assert_eq!(publisher.publish("order", &number.to_string(), qos.parse().unwrap()), 0);
        }
        let expected: Vec<_> = (0..200).map(|number| format!("order {number}")).collect();
        assert_eq!(subscriber.take(200), expected, "QoS {qos}");
    }
}

#[test]
fn one_port_serves_all_versions_to_each_other() {
    let server = Server::plain();
    let mut subscribers: Vec<_> = VERSIONS
        .iter()
        .map(|v| Subscriber::start(server.port, &["-V", v, "-t", "mixed/#", "-q", "1"]))
        .collect();
    for version in VERSIONS {
        mosquitto::publish(server.port, &["-V", version, "-t", "mixed/a", "-m", version, "-q", "1"]);
    }
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.take(3), VERSIONS.map(|v| format!("mixed/a {v}")));
    }
}

#[test]
fn user_properties_pass_to_version_5_and_vanish_for_3_1_1() {
    let server = Server::plain();
    let mut five = Paho::connect(server.port, &Options::new(5, "five"));
    let mut four = Paho::connect(server.port, &Options::new(4, "four"));
    assert_eq!((five.subscribe("p", 1), four.subscribe("p", 1)), (1, 1));
    let mut publisher = Paho::connect(server.port, &Options::new(5, "publisher"));
    publisher.publish_with("p", "x", 1, false, &[("a", "1"), ("a", "2"), ("b", "")]);
    let pairs = five.receive().user_properties;
    assert_eq!(pairs, [("a", "1"), ("a", "2"), ("b", "")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert_eq!(four.receive().payload, "x");
}

#[test]
fn retained_messages_reach_later_subscribers_and_are_deleted_by_an_empty_one() {
    let server = Server::plain();
    for (version, other) in [("mqttv311", "mqttv5"), ("mqttv5", "mqttv311")] {
        let topic = format!("kept/{version}");
        let mut live = Subscriber::start(server.port, &["-V", other, "-t", &topic, "-q", "1"]);
        mosquitto::publish(server.port, &["-V", version, "-t", &topic, "-m", "old", "-q", "1", "-r"]);
        mosquitto::publish(server.port, &["-V", version, "-t", &topic, "-m", "new", "-q", "1", "-r"]);
        let mut late = Subscriber::start(server.port, &["-V", other, "-t", "kept/#", "-q", "1"]);
        let received = late.receive();
        assert_eq!((received.brief(), received.retain), (format!("{topic} new"), true));
        // An existing subscription gets it as an ordinary message (clause 3.3.1.3).
        let first = live.receive();
        assert_eq!((first.payload.as_str(), first.retain), ("old", false));
        mosquitto::publish(server.port, &["-V", version, "-t", &topic, "-n", "-q", "1", "-r"]);
        let mut later = Subscriber::start(server.port, &["-V", other, "-t", "kept/#", "-q", "1"]);
        mosquitto::publish(server.port, &["-t", "kept/end", "-m", "end", "-q", "1"]);
        assert_eq!(later.take_until("end"), Vec::<String>::new());
    }
}

#[test]
fn an_empty_message_without_the_retain_flag_deletes_nothing() {
    let server = Server::plain();
    mosquitto::publish(server.port, &["-t", "kept", "-m", "x", "-q", "1", "-r"]);
    mosquitto::publish(server.port, &["-t", "kept", "-n", "-q", "1"]);
    let mut late = Subscriber::start(server.port, &["-t", "kept", "-q", "1"]);
    assert_eq!(late.receive().brief(), "kept x");
}

#[test]
fn subscribing_again_sends_the_retained_message_again() {
    let server = Server::plain();
    mosquitto::publish(server.port, &["-t", "kept", "-m", "x", "-q", "1", "-r"]);
    for version in [4, 5] {
        let mut client = Paho::connect(server.port, &Options::new(version, "again"));
        for qos in [0, 1] {
            assert_eq!(client.subscribe("kept", qos), u64::from(qos));
            let message = client.receive();
            assert_eq!((message.payload.as_str(), message.qos, message.retain), ("x", u64::from(qos), true));
        }
        client.disconnect();
    }
}

#[test]
fn a_will_is_published_when_the_connection_breaks_and_not_after_disconnect() {
    let server = Server::plain();
    for (version, level) in VERSIONS.into_iter().zip([3, 4, 5]) {
        let mut watcher = Subscriber::start(server.port, &["-V", version, "-t", "will/#", "-q", "2"]);
        let mut connect = Connect::new(level, "polite");
        connect.will = Some(("will/polite".into(), "gone".into(), 1, false));
        let (mut polite, _) = Wire::connect(server.port, &connect);
        polite.send(wire::DISCONNECT);
        polite.read_to_end();
        let will = ["--will-topic", "will/broken", "--will-payload", "gone", "--will-qos", "1"];
        Subscriber::start(server.port, &[&["-V", version, "-t", "nothing"][..], &will].concat()).kill();
        let received = watcher.receive();
        assert_eq!((received.brief(), received.qos), ("will/broken gone".to_owned(), 1), "{version}");
    }
}

#[test]
fn a_retained_will_is_retained() {
    let server = Server::plain();
    let mut watcher = Subscriber::start(server.port, &["-t", "status", "-q", "1"]);
    let will = ["--will-topic", "status", "--will-payload", "offline", "--will-qos", "1", "--will-retain"];
    Subscriber::start(server.port, &[&["-t", "nothing"][..], &will].concat()).kill();
    assert_eq!(watcher.receive().brief(), "status offline");
    let mut late = Subscriber::start(server.port, &["-t", "status", "-q", "1"]);
    assert!(late.receive().retain);
}

#[test]
fn wildcards_match_levels_and_hide_dollar_topics() {
    let server = Server::builder()
        .file("tidegate.toml", "access.acl_file = \"acl\"")
        .file("acl", "allow all publish $own/#")
        .start();
    let cases: [(&str, &[&str]); 7] = [
        ("a/+", &["a/b", "a/"]),
        ("a/#", &["a", "a/b", "a/", "a/b/c"]),
        ("+/b/+", &["a/b/c"]),
        ("#", &["a", "a/b", "a/", "a/b/c", "/", "é/ü"]),
        ("+", &["a"]),
        ("+/+", &["a/b", "a/", "/", "é/ü"]),
        ("$own/#", &["$own/x"]),
    ];
    let mut subscribers: Vec<_> = cases
        .iter()
        .map(|(filter, _)| Subscriber::start(server.port, &["-t", filter, "-t", "end/of/test/x", "-q", "1"]))
        .collect();
    for topic in ["a", "a/b", "a/", "a/b/c", "/", "é/ü", "$own/x"] {
        mosquitto::publish(server.port, &["-t", topic, "-m", "x", "-q", "1"]);
    }
    mosquitto::publish(server.port, &["-t", "end/of/test/x", "-m", "end", "-q", "1"]);
    for ((filter, topics), subscriber) in cases.iter().zip(&mut subscribers) {
        let expected: Vec<_> = topics.iter().map(|topic| format!("{topic} x")).collect();
        assert_eq!(subscriber.take_until("end"), expected, "{filter}");
    }
}

/// The next message of `subscriber` that is wanted; statistics come all together.
fn until_told(subscriber: &mut Subscriber, what: &str, is: impl Fn(&Received) -> bool) -> Received {
    until(what, || Some(subscriber.receive()).filter(&is))
}

#[test]
fn statistics_are_there_for_who_asks_for_them() {
    let server = Server::builder().file("tidegate.toml", "broker.sys_interval = \"1s\"").start();
    let program = text_of(&server.tidegate(&["--version"])).trim().to_owned();
    for version in VERSIONS {
        let other = Paho::connect(server.port, &Options::new(5, "other"));
        let mut subscriber = Subscriber::start(server.port, &["-V", version, "-t", "$SYS/#"]);
        let told = until_told(&mut subscriber, "the version", |m| m.topic == "$SYS/broker/version");
        // At once, as what is retained.
        assert_eq!((told.payload.as_str(), told.qos, told.retain), (&*program, 0, true), "{version}");
        let connected = |count: &str| {
            let count = count.to_owned();
            move |m: &Received| m.topic == "$SYS/broker/clients/connected" && m.payload == count
        };
        until_told(&mut subscriber, "two are connected", connected("2"));
        other.disconnect();
        let told = until_told(&mut subscriber, "one is connected", connected("1"));
        assert!(!told.retain, "news for a subscription that is there");
        subscriber.stop();
    }
    server.assert_no_panic();
}

#[test]
fn a_version_5_client_is_told_the_longest_keep_alive_and_held_to_it() {
    const SERVER_KEEP_ALIVE: u8 = 0x13;
    let server = Server::builder().file("tidegate.toml", "broker.max_keep_alive = 2").start();
    let began = Instant::now();
    let connect = |version: u8, seconds: u16| {
        let mut wire = Wire::open(server.port);
        wire.send(&Connect::new(version, &format!("{version}-{seconds}")).keep_alive(seconds).encode());
        let answer = wire.expect(kind::CONNACK);
        assert_eq!(answer.body[1], 0, "{answer:?}");
        (wire, answer)
    };
    // Earlier versions cannot be told, so they are held to nothing that they did not say.
    let mut untold = [0, 600].map(|seconds| connect(4, seconds).0);
    let (_, answer) = connect(5, 2);
    assert_eq!(answer.connack_number(SERVER_KEEP_ALIVE), None, "it has asked for as much");
    let silent = [0, 3, 600].map(|seconds| connect(5, seconds));
    for (mut wire, answer) in silent {
        assert_eq!(answer.connack_number(SERVER_KEEP_ALIVE), Some(2), "{answer:?}");
        let last = wire.read_to_end();
        // Keep alive timeout, one and a half times it later (MQTT 5 clause 3.1.2.10).
        assert_eq!(
            last.last().map(|packet| (packet.kind(), packet.reason())),
            Some((kind::DISCONNECT, 0x8D))
        );
        let after = began.elapsed();
        assert!((Duration::from_secs(3)..Duration::from_secs(10)).contains(&after), "{after:?}");
    }
    for wire in &mut untold {
        wire.send(wire::PINGREQ);
        wire.expect(kind::PINGRESP);
    }
    server.assert_no_panic();
}

#[test]
fn unsubscribing_ends_delivery_and_an_unknown_filter_is_answered() {
    let server = Server::plain();
    for version in [4, 5] {
        let mut client = Paho::connect(server.port, &Options::new(version, "leaver"));
        client.subscribe("left", 1);
        client.subscribe("stays", 1);
        client.unsubscribe("left");
        client.unsubscribe("never/subscribed");
        client.publish("left", "lost", 1);
        client.publish("stays", "end", 1);
        assert_eq!(client.take_until("end"), []);
        client.disconnect();
    }
}

#[test]
fn a_shared_subscription_gives_each_message_to_one_member() {
    let server = Server::plain();
    let mut members: Vec<_> = (0..3)
        .map(|_| Subscriber::start(server.port, &["-V", "5", "-t", "$share/group/jobs/#", "-q", "1"]))
        .collect();
    let mut outsider = Subscriber::start(server.port, &["-V", "5", "-t", "jobs/#", "-q", "1"]);
    for number in 0..30 {
        let payload = number.to_string();
        mosquitto::publish(server.port, &["-V", "5", "-t", "jobs/a", "-m", &payload, "-q", "1"]);
    }
    assert_eq!(outsider.take(30).len(), 30);
    let mut seen = Vec::new();
    until("the group gets all thirty", || {
        for member in &mut members {
            while let Some(message) = member.try_receive(Duration::from_millis(20)) {
                seen.push(message.payload.parse::<u8>().unwrap());
            }
        }
        (seen.len() >= 30).then_some(())
    });
    assert_eq!(seen.len(), 30, "each once");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), (0..30).collect());
}

#[test]
fn a_resent_qos_2_message_is_delivered_once() {
    let server = Server::plain();
    for version in [4, 5] {
        let mut subscriber = Subscriber::start(server.port, &["-t", "once", "-q", "2"]);
        let (mut wire, _) = Wire::connect(server.port, &Connect::new(version, "resender"));
        for flags in [0b0100, 0b1100] {
            wire.send(&wire::publish_with(version, "once", b"x", flags, 7, &[]));
            assert_eq!(wire.expect(kind::PUBREC).id(), 7);
        }
        wire.send(&wire::ack(kind::PUBREL, 7));
        assert_eq!(wire.expect(kind::PUBCOMP).id(), 7);
        // The id is free again: the same packet is now a new message.
        wire.send(&wire::publish_with(version, "once", b"end", 0b0100, 7, &[]));
        assert_eq!(wire.expect(kind::PUBREC).id(), 7);
        wire.send(&wire::ack(kind::PUBREL, 7));
        assert_eq!(wire.expect(kind::PUBCOMP).id(), 7);
        assert_eq!(subscriber.take_until("end"), ["once x"]);
    }
}

#[test]
fn acknowledgements_come_in_the_order_of_the_messages() {
    let server = Server::builder().document_lines().start();
    for version in [4, 5] {
        let (mut wire, _) = Wire::connect(server.port, &Connect::new(version, "pipeliner"));
        let mut burst = Vec::new();
        for id in 1..=500_u16 {
            burst.extend(wire::publish(version, "burst", id.to_string().as_bytes(), 1, id));
        }
        wire.send(&burst);
        let ids: Vec<_> = (0..500).map(|_| wire.expect(kind::PUBACK).id()).collect();
        // MQTT 5 clause 4.6: PUBACK in the order in which the PUBLISH packets arrived.
        assert_eq!(ids, (1..=500).collect::<Vec<_>>());
    }
}

#[test]
fn the_subscribers_receive_maximum_bounds_what_is_in_flight() {
    let server = Server::plain();
    let mut connect = Connect::new(5, "narrow");
    connect.properties = vec![0x21, 0, 2];
    let (mut wire, _) = Wire::connect(server.port, &connect);
    wire.send(&wire::subscribe(5, 1, "flow", 1));
    wire.expect(kind::SUBACK);
    for number in 0..5 {
        mosquitto::publish(server.port, &["-t", "flow", "-m", &number.to_string(), "-q", "1"]);
    }
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(wire.expect(kind::PUBLISH).publish(5).1);
    }
    // Were a third on its way, it would come before the answer to this (the five were acknowledged above).
    wire.send(wire::PINGREQ);
    wire.expect(kind::PINGRESP);
    for expected in 2..5 {
        wire.send(&wire::ack(kind::PUBACK, ids.remove(0)));
        let (_, id, payload) = wire.expect(kind::PUBLISH).publish(5);
        assert_eq!(payload, expected.to_string().as_bytes());
        ids.push(id);
    }
}

#[test]
fn a_stopping_server_tells_version_5_clients_and_ends_with_success() {
    let mut server = Server::plain();
    let (mut told, _) = Wire::connect(server.port, &Connect::new(5, "told"));
    let (mut cut, _) = Wire::connect(server.port, &Connect::new(4, "cut"));
    assert!(server.stop(), "exit status 0 after SIGTERM");
    let last = told.read_to_end();
    // Server shutting down (MQTT 5 clause 3.14.2.1).
    assert_eq!(last.last().map(|packet| (packet.kind(), packet.reason())), Some((kind::DISCONNECT, 0x8B)));
    assert_eq!(cut.read_to_end(), []);
}
