//! The guest examples do what their documentation says, alone and together.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::redis::Redis;
use tidegate_e2e::sqlite::{count, query};
use tidegate_e2e::{Server, guests};

#[test]
fn fahrenheit_adds_a_field_and_leaves_the_rest_alone() {
    let server = Server::builder().module("fahrenheit", "").start();
    for version in [4, 5] {
        let mut client = Paho::connect(server.port, &Options::new(version, "sensor"));
        client.subscribe("#", 1);
        for (sent, expected) in [
            (r#"{"celsius":21.5,"id":"d1"}"#, r#"{"celsius":21.5,"id":"d1","fahrenheit":70.7}"#),
            ("not json", "not json"),
            (r#"{"celsius":"warm"}"#, r#"{"celsius":"warm"}"#),
            ("", ""),
        ] {
            client.publish("sensors/d1", sent, 1);
            assert_eq!(client.receive().payload, expected);
        }
        client.disconnect();
    }
}

#[test]
fn averages_publishes_means_and_a_new_version_knows_the_readings_of_the_old_one() {
    const MANIFEST: &str = "hooks = { \"message.publish\" = [\"sensors/#\"] }\ntick = \"3s\"\n\
                            [instances]\nmode = \"single\"\n";
    let server = Server::builder().module("averages", MANIFEST).start();
    let mut reader = Paho::connect(server.port, &Options::new(5, "reader"));
    reader.subscribe("averages/#", 1);
    reader.subscribe("meanings/#", 1);
    let mut sensors: Vec<_> =
        (0..3).map(|n| Paho::connect(server.port, &Options::new(4, &format!("sensor-{n}")))).collect();
    let mut send = |celsius: [f64; 3]| {
        for (sensor, celsius) in sensors.iter_mut().zip(celsius) {
            sensor.publish("sensors/kitchen", &format!("{{\"celsius\":{celsius}}}"), 1);
        }
    };
    // A tick may come between any two readings: sums and counts are what must come out.
    let mut heard = |wanted: u64| {
        let (mut count, mut sum, mut topics) = (0, 0.0, Vec::new());
        while count < wanted {
            let message = reader.receive();
            let mean: serde_json::Value = serde_json::from_str(&message.payload).unwrap();
            let of = mean["count"].as_u64().unwrap();
            sum += mean["celsius"].as_f64().unwrap() * of as f64;
            count += of;
            topics.push(message.topic);
        }
        (count, sum, topics)
    };
    send([1.0, 2.0, 4.5]);
    let (count, sum, topics) = heard(3);
    assert_eq!((count, sum), (3, 7.5));
    assert!(topics.iter().all(|topic| topic == "averages/kitchen"), "{topics:?}");
    send([20.0, 21.0, 22.0]);
    let saved = server.log_mark();
    let next = guests::patched(&guests::bytes("averages"), "averages/", "meanings/");
    guests::save_by_rename(&server.file("modules/averages.wasm"), &next);
    server.wait_log(saved, "the new version", |line| {
        line.contains("averages") && line.contains("serves after")
    });
    send([23.0, 24.0, 25.0]);
    let (count, sum, topics) = heard(6);
    assert_eq!((count, sum), (6, 135.0), "{topics:?}");
    assert_eq!(topics.last().map(String::as_str), Some("meanings/kitchen"));
}

#[test]
fn guard_drops_and_rejects() {
    let server = Server::builder()
        .module("guard", "priority = 10\n[config]\nmax_bytes = 10\nadmins = \"root, ann\"\n")
        .start();
    let mut reader = Paho::connect(server.port, &Options::new(5, "reader"));
    reader.subscribe("#", 1);
    let mut user = Paho::connect(server.port, &Options::new(5, "user").with("username", "bob"));
    let mut admin = Paho::connect(server.port, &Options::new(5, "admin").with("username", "ann"));
    assert!(user.publish("free", "0123456789", 1) < 0x80);
    assert!(user.publish("free", "0123456789+", 1) < 0x80, "dropped, and acknowledged");
    assert_eq!(user.publish("admin/reboot", "now", 1), 0x87);
    assert!(admin.publish("admin/reboot", "now", 1) < 0x80);
    admin.publish("end", "end", 1);
    let got: Vec<_> = reader.take_until("end").into_iter().map(|m| (m.topic, m.payload)).collect();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(got, [pair("free", "0123456789"), pair("admin/reboot", "now")]);
}

#[test]
fn a_guard_with_a_wrong_value_is_not_loaded() {
    let server = Server::builder().module("guard", "[config]\nmax_bytes = \"many\"\n").start();
    server.wait_log(0, "the module's own words", |line| line.contains("guard") && line.contains("max_bytes"));
    let mut user = Paho::connect(server.port, &Options::new(5, "user"));
    assert!(user.publish("admin/x", "not guarded", 1) < 0x80);
}

#[test]
fn store_reading_stores_by_action_and_by_its_own_statement() {
    let server = Server::builder()
        .module("store-reading", "hooks = { \"message.publish\" = [\"readings/#\"] }\n")
        .start();
    let database = server.file("data/tidegate.db");
    let mut sensor = Paho::connect(server.port, &Options::new(5, "d1"));
    for payload in [r#"{"celsius":21.5}"#, "no reading", r#"{"celsius":-3}"#] {
        assert!(sensor.publish("readings/d1", payload, 1) < 0x80);
    }
    assert!(sensor.publish("elsewhere", r#"{"celsius":1}"#, 1) < 0x80);
    assert_eq!(
        query(&database, "select device, celsius from reading order by rowid"),
        [["d1", "21.5"], ["d1", "-3.0"]]
    );
    assert_eq!(
        query(&database, "select topic, sender, cast(payload as text) from mqtt_msg order by id"),
        [
            ["readings/d1", "d1", r#"{"celsius":21.5}"#],
            ["readings/d1", "d1", "no reading"],
            ["readings/d1", "d1", r#"{"celsius":-3}"#]
        ]
    );
}

#[test]
fn device_counters_counts_every_device_in_redis() {
    let redis = Redis::single();
    let manifest = "connectors = [\"redis:pool1\"]\n[config]\nkeep_days = 2\n";
    let server = Server::builder()
        .file("conf.d/redis.conf", redis.only(""))
        .module("device-counters", manifest)
        .start();
    let mut device = Paho::connect(server.port, &Options::new(5, "d 1"));
    let mut other = Paho::connect(server.port, &Options::new(4, "d2"));
    for (topic, payload) in [("sensors/a", "21.5"), ("sensors/b", ""), ("sensors/é x", "ü")] {
        assert!(device.publish(topic, payload, 1) < 0x80);
    }
    assert!(other.publish("sensors/a", "1", 1) < 0x80);
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        redis.hash("device:d 1"),
        [pair("messages", "3"), pair("bytes", "6"), pair("last_topic", "sensors/é x")]
    );
    assert_eq!(redis.run(&["HGET", "device:d2", "messages"]), "1");
    assert_eq!(redis.run(&["GET", "devices:messages"]), "4");
    let left: u64 = redis.run(&["TTL", "device:d 1"]).parse().unwrap();
    assert!((172_000..=172_800).contains(&left), "{left}");
    // A key of another kind: the publisher is told.
    redis.run(&["SET", "device:spoilt", "x"]);
    let mut spoilt = Paho::connect(server.port, &Options::new(5, "spoilt"));
    assert!(spoilt.publish("sensors/a", "1", 1) >= 0x80);
    assert_eq!(redis.run(&["GET", "devices:messages"]), "5", "a pipeline is no transaction");
}

#[test]
fn modules_run_in_the_order_of_their_priority_and_hook_lines_store_what_they_made() {
    // Two versions of the same guest under two names: each adds its own field.
    let first = guests::patched(&guests::bytes("fahrenheit"), "fahrenheit", "aaaaaaaaaa");
    let second = guests::patched(&guests::bytes("fahrenheit"), "fahrenheit", "bbbbbbbbbb");
    for (priorities, expected) in [
        ((1, 2), r#"{"celsius":10,"aaaaaaaaaa":50.0,"bbbbbbbbbb":50.0}"#),
        ((2, 1), r#"{"celsius":10,"bbbbbbbbbb":50.0,"aaaaaaaaaa":50.0}"#),
        // Equal priorities: by name.
        ((7, 7), r#"{"celsius":10,"aaaaaaaaaa":50.0,"bbbbbbbbbb":50.0}"#),
    ] {
        let server = Server::builder()
            .document_lines()
            .file("modules/one.wasm", &first)
            .file("modules/one.toml", format!("priority = {}\n", priorities.0))
            .file("modules/two.wasm", &second)
            .file("modules/two.toml", format!("priority = {}\n", priorities.1))
            .start();
        let mut client = Paho::connect(server.port, &Options::new(4, "client"));
        client.subscribe("t", 1);
        client.publish("t", r#"{"celsius":10}"#, 1);
        assert_eq!(client.receive().payload, expected);
        let stored = query(&server.database(), "select cast(payload as text) from mqtt_msg");
        assert_eq!(stored, [[expected]]);
        assert_eq!(count(&server.database(), "select count(*) from mqtt_msg"), 1);
    }
}
