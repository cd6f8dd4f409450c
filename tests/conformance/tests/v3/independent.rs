//! Some statements through clients that are not ours: `mosquitto_pub` and `mosquitto_sub` (in C), paho-mqtt (in Python).

use serde_json::json;
use tidegate_conformance::Version::{V31, V311};
use tidegate_conformance::server::port;
use tidegate_conformance::{Client, Connect, name};
use tidegate_e2e::mosquitto::{self, Subscriber};
use tidegate_e2e::paho::{Options, Paho};

/// The names that mosquitto has for the versions, and paho's numbers.
const VERSIONS: [(&str, u8); 2] = [("mqttv31", 3), ("mqttv311", 4)];

#[test]
fn mqisdp_3_1_1_clients_of_both_versions_are_served() {
    for (version, number) in VERSIONS {
        let topic = name("both/");
        let mut watcher = Client::new(V31);
        watcher.subscribe(&topic, 2);
        let mut subscriber = Subscriber::start(port(), &["-V", version, "-q", "2", "-t", &topic]);
        let mut paho = Paho::connect(port(), &Options::new(number, &name("paho")));
        assert_eq!(paho.subscribe(&topic, 2), 2);
        for qos in ["0", "1", "2"] {
            // It succeeds when the exchange has come to its end.
            mosquitto::publish(port(), &["-V", version, "-q", qos, "-t", &topic, "-m", qos]);
            assert_eq!(watcher.take().text(), qos);
            let message = subscriber.receive();
            assert_eq!(
                (message.qos.to_string(), message.payload.as_str(), message.retain),
                (qos.into(), qos, false)
            );
            let message = paho.receive();
            assert_eq!(
                (message.qos.to_string(), message.payload.as_str(), message.retain),
                (qos.into(), qos, false)
            );
        }
        paho.disconnect();
    }
}

#[test]
fn mqtt_3_1_2_5_messages_wait_for_an_absent_paho() {
    for (_, number) in VERSIONS {
        let (topic, id) = (name("absent/"), name("paho"));
        let kept = Options::new(number, &id).with("clean", false);
        let mut paho = Paho::connect(port(), &kept);
        assert_eq!(paho.subscribe(&topic, 2), 2);
        paho.disconnect();
        let mut publisher = Client::new(V311);
        for at in 0..10 {
            publisher.publish(&topic, at.to_string(), 1 + at % 2);
        }
        let (mut paho, answer) = Paho::try_connect(port(), &kept);
        // MQTT 3.1 cannot say it.
        assert_eq!(answer["session"], number == 4, "{answer}");
        let mut came: Vec<(String, u64)> =
            (0..10).map(|_| paho.receive()).map(|m| (m.payload, m.qos)).collect();
        came.sort();
        let expected: Vec<(String, u64)> = (0..10).map(|at| (at.to_string(), 1 + at % 2)).collect();
        assert_eq!(came, expected);
        paho.disconnect();
    }
}

#[test]
fn mqtt_3_1_2_8_the_will_of_a_mosquitto_sub_that_is_killed() {
    let topic = name("will/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    let will = ["--will-topic", &topic, "--will-payload", "killed", "--will-qos", "1", "--will-retain"];
    let arguments = [&["-t", "nothing/of/this"][..], &will].concat();
    Subscriber::start(port(), &arguments).stop();
    let killed = Subscriber::start(port(), &arguments);
    watcher.ping();
    killed.kill();
    let will = watcher.expect_payload("killed");
    assert_eq!((will.qos, will.retain), (1, false));
    watcher.acknowledge(&will);
    watcher.ping();
}

#[test]
fn mqtt_3_1_2_8_the_will_of_a_paho_that_is_killed() {
    let topic = name("will/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    let options =
        Options::new(4, &name("paho")).with("will", json!({"topic": topic, "payload": "killed", "qos": 2}));
    Paho::connect(port(), &options).disconnect();
    let killed = Paho::connect(port(), &options);
    watcher.ping();
    killed.kill();
    assert_eq!(watcher.expect_payload("killed").qos, 2);
}

#[test]
fn mqtt_3_1_4_2_a_paho_is_taken_over() {
    let id = name("paho");
    let mut first = Paho::connect(port(), &Options::new(4, &id));
    let second = Client::connect(&Connect::new(V311).client_id(&id));
    first.wait_disconnected();
    // Before it connects again by itself.
    first.kill();
    second.disconnect();
}

#[test]
fn mqtt_3_3_1_8_retained_messages_reach_new_subscribers() {
    let topic = name("retained");
    for (version, number) in VERSIONS {
        for qos in ["0", "1", "2"] {
            let topic = format!("{topic}/{version}/{qos}");
            mosquitto::publish(port(), &["-V", version, "-r", "-q", qos, "-t", &topic, "-m", "kept"]);
        }
        let filter = format!("{topic}/{version}/+");
        let mut subscriber = Subscriber::spawn(port(), &["-V", version, "-q", "2", "-t", &filter]);
        let mut came: Vec<_> =
            (0..3).map(|_| subscriber.receive()).map(|m| (m.topic, m.qos, m.retain)).collect();
        came.sort();
        let expected = [0, 1, 2].map(|qos: u8| (format!("{topic}/{version}/{qos}"), qos, true));
        assert_eq!(came, expected);
        let mut paho = Paho::connect(port(), &Options::new(number, &name("paho")));
        assert_eq!(paho.subscribe(&filter, 1), 1);
        let mut came: Vec<_> = (0..3).map(|_| paho.receive()).map(|m| (m.topic, m.qos, m.retain)).collect();
        came.sort();
        let expected = [0, 1, 2].map(|qos: u64| (format!("{topic}/{version}/{qos}"), qos.min(1), true));
        assert_eq!(came, expected);
        paho.disconnect();
    }
}

#[test]
fn mqtt_3_3_1_10_an_empty_retained_message_removes() {
    let topic = name("removed/");
    mosquitto::publish(port(), &["-r", "-q", "1", "-t", &topic, "-m", "kept"]);
    mosquitto::publish(port(), &["-r", "-q", "1", "-t", &topic, "-n"]);
    let mut subscriber = Subscriber::start(port(), &["-q", "1", "-t", &topic]);
    mosquitto::publish(port(), &["-q", "1", "-t", &topic, "-m", "end"]);
    assert_eq!(subscriber.take_until("end"), Vec::<String>::new());
}

#[test]
fn mqtt_3_10_4_2_a_paho_that_unsubscribes_gets_no_more() {
    let topic = name("unsubscribed/");
    let mut paho = Paho::connect(port(), &Options::new(4, &name("paho")));
    paho.subscribe(&topic, 2);
    paho.subscribe(&format!("{topic}/end"), 2);
    assert_eq!(paho.publish(&topic, "before", 2), 0);
    assert_eq!(paho.receive().payload, "before");
    paho.unsubscribe(&topic);
    assert_eq!(paho.publish(&topic, "after", 2), 0);
    assert_eq!(paho.publish(&format!("{topic}/end"), "end", 2), 0);
    assert_eq!(paho.take_until("end"), []);
    paho.disconnect();
}
