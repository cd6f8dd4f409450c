//! Some statements through clients that are not ours: `mosquitto_pub` and `mosquitto_sub` (in C), paho-mqtt (in Python).

use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_conformance::Version::V5;
use tidegate_conformance::ending::TAKEN_OVER;
use tidegate_conformance::server::port;
use tidegate_conformance::{Client, Connect, name};
use tidegate_e2e::mosquitto::{self, Subscriber};
use tidegate_e2e::paho::{Options, Paho};

fn paho(client_id: &str) -> Options {
    Options::new(5, client_id)
}

/// `mosquitto_sub` of MQTT 5 whose payloads begin with the identifiers of the subscriptions they came by.
fn identified(arguments: &[&str]) -> Subscriber {
    // The later format counts: as the harness has it, but for the payload.
    let format = "\u{2}MSG\u{1f}%t\u{1f}%q\u{1f}%r\u{1f}%S %p";
    Subscriber::start(port(), &[&["-V", "mqttv5", "-F", format], arguments].concat())
}

#[test]
fn mqtt_4_3_1_1_clients_of_mqtt_5_are_served_at_every_qos() {
    let topic = name("all/");
    let mut watcher = Client::new(V5);
    watcher.subscribe(&topic, 2);
    let mut subscriber = Subscriber::start(port(), &["-V", "mqttv5", "-q", "2", "-t", &topic]);
    let mut paho = Paho::connect(port(), &paho(&name("paho")));
    assert_eq!(paho.subscribe(&topic, 2), 2);
    for qos in 0..=2_u8 {
        for sender in ["mosquitto", "paho"] {
            let payload = format!("{sender} {qos}");
            // Both come back when the exchange has come to its end.
            match sender {
                "paho" => {
                    let users = [("a", "1"), ("a", "2")];
                    assert_eq!(paho.publish_with(&topic, &payload, qos, false, &users), 0);
                }
                _ => {
                    let (qos, user) = (qos.to_string(), ["-D", "publish", "user-property", "a", "1"]);
                    let arguments = ["-V", "mqttv5", "-q", &qos, "-t", &topic, "-m", &payload];
                    mosquitto::publish(port(), &[&arguments[..], &user].concat());
                }
            }
            let message = watcher.take();
            assert_eq!((message.qos, message.text()), (qos, payload.clone()));
            assert_eq!(message.properties.users()[0], ("a", "1"));
            let message = subscriber.receive();
            assert_eq!((message.qos, message.retain, &message.payload), (qos, false, &payload));
            let message = paho.receive();
            assert_eq!((message.qos, message.retain, &message.payload), (qos.into(), false, &payload));
            assert_eq!(message.user_properties[0], ("a".into(), "1".into()));
        }
    }
    paho.disconnect();
}

#[test]
fn mqtt_3_1_2_23_the_session_of_a_paho_lasts_as_long_as_it_asked_for() {
    let (topic, id) = (name("absent/"), name("paho"));
    let kept = paho(&id).with("clean", false).with("session_expiry", 60);
    let mut first = Paho::connect(port(), &kept);
    assert_eq!(first.subscribe(&topic, 2), 2);
    first.disconnect();
    let mut publisher = Client::new(V5);
    for at in 0..10 {
        publisher.publish(&topic, at.to_string(), 1 + at % 2);
    }
    let (mut again, answer) = Paho::try_connect(port(), &kept);
    assert_eq!(answer["session"], true, "{answer}");
    let mut came: Vec<(String, u64)> = (0..10).map(|_| again.receive()).map(|m| (m.payload, m.qos)).collect();
    came.sort();
    let expected: Vec<(String, u64)> = (0..10).map(|at| (at.to_string(), 1 + at % 2)).collect();
    assert_eq!(came, expected);
    again.disconnect();
    // A second, and it is gone.
    let brief = paho(&id).with("clean", false).with("session_expiry", 1);
    Paho::connect(port(), &brief).disconnect();
    std::thread::sleep(Duration::from_secs(2));
    let (last, answer) = Paho::try_connect(port(), &brief);
    assert_eq!(answer["session"], false, "{answer}");
    last.disconnect();
}

#[test]
fn mqtt_3_1_2_8_the_will_of_a_mosquitto_sub_that_is_killed_comes_after_its_delay() {
    let topic = name("will/");
    let mut watcher = Client::new(V5);
    watcher.subscribe(&topic, 2);
    let will = ["--will-topic", &topic, "--will-payload", "killed", "--will-qos", "1"];
    let delay = ["-D", "will", "will-delay-interval", "2", "-D", "connect", "session-expiry-interval", "60"];
    let killed = name("mosquitto");
    let session = ["-V", "mqttv5", "-i", &killed, "-t", "nothing/of/this"];
    let subscriber = Subscriber::start(port(), &[&session[..], &will, &delay].concat());
    let start = Instant::now();
    subscriber.kill();
    let message = watcher.expect_payload("killed");
    let waited = start.elapsed();
    assert!((Duration::from_millis(1_900)..Duration::from_secs(6)).contains(&waited), "{waited:?}");
    assert_eq!((message.qos, message.retain), (1, false));
}

#[test]
fn mqtt_3_1_2_8_the_will_of_a_paho_that_is_killed() {
    let topic = name("will/");
    let mut watcher = Client::new(V5);
    watcher.subscribe(&topic, 2);
    let options = paho(&name("paho")).with("will", json!({"topic": topic, "payload": "killed", "qos": 2}));
    Paho::connect(port(), &options).disconnect();
    let killed = Paho::connect(port(), &options);
    watcher.ping();
    killed.kill();
    assert_eq!(watcher.expect_payload("killed").qos, 2);
}

#[test]
fn mqtt_3_1_4_3_a_paho_that_is_taken_over_is_told() {
    let id = name("paho");
    let mut first = Paho::connect(port(), &paho(&id));
    let second = Client::connect(&Connect::new(V5).client_id(&id));
    assert_eq!(first.wait_disconnected(), u64::from(TAKEN_OVER));
    // Before it connects again by itself.
    first.kill();
    second.disconnect();
}

#[test]
fn mqtt_3_3_4_3_a_mosquitto_sub_gets_the_identifier_of_its_subscription() {
    let topic = name("identified/");
    let mut subscriber =
        identified(&["-t", &topic, "-q", "1", "-D", "subscribe", "subscription-identifier", "268435455"]);
    mosquitto::publish(port(), &["-V", "mqttv5", "-q", "1", "-t", &topic, "-m", "x"]);
    assert_eq!(subscriber.receive().payload, "268435455 x");
    subscriber.stop();
}

#[test]
fn mqtt_4_8_2_1_a_shared_subscription_of_several_clients_gets_each_message_once() {
    let topic = name("shared/");
    let filter = format!("$share/group/{topic}");
    let mut paho = Paho::connect(port(), &paho(&name("paho")));
    assert_eq!(paho.subscribe(&filter, 1), 1);
    let mut subscriber = Subscriber::start(port(), &["-V", "mqttv5", "-q", "1", "-t", &filter]);
    for number in 0..10 {
        mosquitto::publish(port(), &["-V", "mqttv5", "-q", "1", "-t", &topic, "-m", &number.to_string()]);
    }
    let mut came: Vec<String> = Vec::new();
    let start = Instant::now();
    while came.len() < 10 && start.elapsed() < Duration::from_secs(20) {
        came.extend(paho.try_receive(Duration::from_millis(100)).map(|message| message.payload));
        came.extend(subscriber.try_receive(Duration::from_millis(100)).map(|message| message.payload));
    }
    came.sort();
    assert_eq!(came, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(paho.try_receive(Duration::from_millis(200)).is_none());
    assert!(subscriber.try_receive(Duration::from_millis(200)).is_none());
    paho.disconnect();
    subscriber.stop();
}
