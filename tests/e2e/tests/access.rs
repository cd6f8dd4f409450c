//! Who may connect, publish and subscribe: a real module decides, clients that are not ours ask.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use tidegate_e2e::mosquitto::{self, Subscriber};
use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::server::text_of;
use tidegate_e2e::{Server, guests, until};

const MANIFEST: &str = "mandatory = true\n[config]\ntoken = \"t0ken-of-all\"\n";

fn guarded() -> Server {
    Server::builder().module("access", MANIFEST).start()
}

fn options(version: u8, id: &str, token: &str) -> Options {
    Options::new(version, id).with("username", "device").with("password", token)
}

#[test]
fn a_connection_needs_the_token_and_a_refused_one_takes_nothing_over() {
    let server = guarded();
    for version in [4, 5] {
        let mut device = Paho::connect(server.port, &options(version, "d1", "t0ken-of-all"));
        for (refused, code) in [
            (options(version, "d1", "t0ken-of-al1"), 0x86),
            (Options::new(version, "d1"), 0x86),
            (options(version, "a/b", "t0ken-of-all"), 0x85),
        ] {
            let (_, answer) = Paho::try_connect(server.port, &refused);
            assert_eq!(answer["code"], code, "{answer}");
        }
        assert_eq!(device.publish("devices/d1/x", "still here", 1) & 0x80, 0);
        device.disconnect();
    }
    let refused = server.metric("tidegate_broker_refused_total", "client.authenticate");
    assert!(refused >= 6.0, "{refused}");
    assert!(server.metric("tidegate_broker_connects_refused_total", "0x86") >= 4.0);
    assert!(!server.log().contains("t0ken-of"), "no password is logged");
    server.assert_no_panic();
}

#[test]
fn a_device_has_its_own_topics_only() {
    let server = guarded();
    for version in [4, 5] {
        let mut device = Paho::connect(server.port, &options(version, "d1", "t0ken-of-all"));
        let mut other = Paho::connect(server.port, &options(version, "d2", "t0ken-of-all"));
        let refused = if version == 5 { 0x87 } else { 0x80 };
        assert_eq!(device.subscribe("devices/d1/#", 1), 1);
        assert_eq!(device.subscribe("devices/d2/#", 1), refused);
        assert_eq!(device.subscribe("#", 1), refused);
        assert_eq!(device.subscribe("$share/g/devices/d2/#", 1), refused);
        // 3.1.1 has no word for it: acknowledged, and delivered to nobody.
        let refused = if version == 5 { 0x87 } else { 0 };
        assert_eq!(other.publish("devices/d1/x", "from another", 1), refused);
        assert!(other.publish("devices/d2/x", "its own", 1) < 0x80);
        assert!(device.publish("devices/d1/end", "end", 2) < 0x80);
        assert!(device.take_until("end").is_empty());
        device.disconnect();
        other.disconnect();
    }
    assert!(server.metric("tidegate_broker_refused_total", "client.authorize") >= 8.0);
    assert!(server.metric("tidegate_broker_rejected_total", "rejected") >= 2.0);
    server.assert_no_panic();
}

#[test]
fn a_filter_is_changed_before_it_is_granted() {
    let server = guarded();
    let login = |version, rest: &[&'static str]| {
        let all = ["-V", version, "-i", "d1", "-u", "device", "-P", "t0ken-of-all", "-q", "1"];
        [&all, rest].concat()
    };
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let retained = login(version, &["-t", "devices/d1/state", "-m", "on", "-r"]);
        mosquitto::publish(server.port, &retained);
        let mut subscriber = Subscriber::start(server.port, &login(version, &["-t", "me/+"]));
        assert_eq!(subscriber.receive().brief(), "devices/d1/state on");
        subscriber.stop();
    }
    let mut device = Paho::connect(server.port, &options(5, "d1", "t0ken-of-all"));
    assert_eq!(device.subscribe("me/#", 2), 2);
    assert_eq!(device.receive().topic, "devices/d1/state");
    assert!(device.publish("devices/d1/a", "mine", 2) < 0x80);
    let message = device.receive();
    assert_eq!((&*message.topic, message.qos), ("devices/d1/a", 2));
    device.disconnect();
    let wrong = ["-i", "d1", "-u", "device", "-P", "wrong", "-q", "1", "-t", "devices/d1/x", "-m", "x"];
    let output = mosquitto::publish_raw(server.port, &wrong);
    assert!(!output.status.success(), "{}", text_of(&output));
}

#[test]
fn a_mandatory_module_guards_on_when_its_file_is_broken_or_gone() {
    let server = guarded();
    let file = server.file("modules/access.wasm");
    let is_guarded = || {
        let (_, answer) = Paho::try_connect(server.port, &options(5, "d1", "wrong"));
        assert_eq!(answer["code"], 0x86, "{answer}");
        Paho::connect(server.port, &options(5, "d1", "t0ken-of-all")).disconnect();
    };
    is_guarded();
    let mark = server.log_mark();
    guests::save_by_rename(&file, b"no module");
    server.wait_log(mark, "the file is refused", |line| line.contains("access") && line.contains("ERROR"));
    is_guarded();
    let mark = server.log_mark();
    std::fs::remove_file(&file).unwrap();
    server.wait_log(mark, "the file is gone", |line| line.contains("access"));
    is_guarded();
    // A new version takes over, with another token.
    let manifest = MANIFEST.replace("t0ken-of-all", "an0ther-token");
    std::fs::write(server.file("modules/access.toml"), manifest).unwrap();
    guests::save_by_rename(&file, &guests::bytes("access"));
    until("the new token lets in", || {
        let (_, answer) = Paho::try_connect(server.port, &options(5, "d1", "an0ther-token"));
        (answer["code"] == 0).then_some(())
    });
    let (_, answer) = Paho::try_connect(server.port, &options(5, "d1", "t0ken-of-all"));
    assert_eq!(answer["code"], 0x86, "{answer}");
    server.assert_no_panic();
}
