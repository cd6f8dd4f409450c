//! Every hook and every verdict, through independent clients on 3.1.1 and 5.
//!
//! The guest is `guests/probe`: it writes a row for every event and obeys commands in topics.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::PathBuf;

use tidegate_e2e::mosquitto::{self, Subscriber};
use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::sqlite::{column, count, expect_rows, query};
use tidegate_e2e::wire::{self, Connect, Wire, kind};
use tidegate_e2e::{Server, until};

const MANIFEST: &str = "[config]\nconnector = \"sqlite:default\"\n";
const NOT_AUTHORIZED: u64 = 0x87;

fn server() -> Server {
    server_with(MANIFEST)
}

fn server_with(manifest: &str) -> Server {
    Server::builder().module("probe", manifest).start()
}

fn database(server: &Server) -> PathBuf {
    server.file("data/tidegate.db")
}

/// A client that gets everything published outside `$`, at QoS 2.
fn everything(server: &Server) -> Subscriber {
    Subscriber::start(server.port, &["-V", "5", "-i", "everything", "-t", "#", "-q", "2"])
}

#[test]
fn every_hook_of_a_clients_life_reaches_the_module_once() {
    let server = server();
    for version in [4, 5] {
        query(&database(&server), "delete from probe_event");
        let mut client = Paho::connect(server.port, &Options::new(version, "life").with("username", "ann"));
        client.subscribe("x/y", 1);
        client.publish("x/y", "hello", 1);
        assert_eq!(client.receive().payload, "hello");
        until("the acknowledgement has been seen", || {
            let acked =
                count(&database(&server), "select count(*) from probe_event where hook = 'message.acked'");
            (acked == 1).then_some(())
        });
        client.unsubscribe("x/y");
        client.disconnect();
        until("the end has been seen", || {
            let end = "select count(*) from probe_event where hook = 'client.disconnected'";
            (count(&database(&server), end) == 1).then_some(())
        });
        let protocol = format!("protocol={version} username=ann tenant=default");
        let rows =
            query(&database(&server), "select hook, clientid, topic, detail from probe_event order by rowid");
        // Whether the session or the connection is announced first is not promised.
        let (mut first, rest) = (rows[..2].to_vec(), &rows[2..]);
        first.sort();
        assert_eq!(
            first,
            [["client.connected", "life", "NULL", &protocol], ["session.created", "life", "NULL", ""]]
        );
        assert_eq!(
            rest,
            [
                ["session.subscribed", "life", "x/y", "qos=1"],
                ["message.publish", "life", "x/y", "hello"],
                ["message.deliver", "life", "x/y", "hello"],
                ["message.acked", "life", "x/y", "hello"],
                ["session.unsubscribed", "life", "x/y", ""],
                ["client.disconnected", "life", "NULL", "normal"],
            ]
        );
    }
}

#[test]
fn the_hooks_through_mosquitto() {
    let server = server();
    for version in ["311", "5"] {
        query(&database(&server), "delete from probe_event");
        let mut subscriber =
            Subscriber::start(server.port, &["-V", version, "-i", "sub", "-t", "m/+", "-q", "2"]);
        mosquitto::publish(server.port, &["-V", version, "-i", "pub", "-t", "m/1", "-m", "hi", "-q", "2"]);
        assert_eq!(subscriber.receive().brief(), "m/1 hi");
        subscriber.stop();
        let of = |client: &str| {
            let rows = format!("select hook from probe_event where clientid = '{client}' order by hook");
            column(&database(&server), &rows)
        };
        until("all events have been seen", || (of("sub").len() == 6 && of("pub").len() == 4).then_some(()));
        assert_eq!(
            of("pub"),
            ["client.connected", "client.disconnected", "message.publish", "session.created"]
        );
        assert_eq!(
            of("sub"),
            [
                "client.connected",
                "client.disconnected",
                "message.acked",
                "message.deliver",
                "session.created",
                "session.subscribed",
            ]
        );
    }
}

#[test]
fn a_qos_0_delivery_is_not_acknowledged_and_a_resumed_session_not_created() {
    let server = server();
    let keep = Options::new(5, "keeper").with("clean", false).with("session_expiry", 60);
    let mut client = Paho::connect(server.port, &keep);
    client.subscribe("zero", 0);
    client.publish("zero", "0", 1);
    client.receive();
    client.disconnect();
    let mut client = Paho::connect(server.port, &keep);
    client.publish("zero", "end", 0);
    assert_eq!(client.receive().payload, "end");
    let counted = |hook: &str| {
        count(&database(&server), &format!("select count(*) from probe_event where hook = '{hook}'"))
    };
    assert_eq!((counted("client.connected"), counted("session.created")), (2, 1));
    assert_eq!((counted("message.deliver"), counted("message.acked")), (2, 0));
}

#[test]
fn the_reason_of_a_disconnect_is_told() {
    let server = server();
    let database = database(&server);
    const REASON: &str = "select detail from probe_event where hook = 'client.disconnected' order by rowid";
    Paho::connect(server.port, &Options::new(4, "a")).kill();
    expect_rows(&database, REASON, &[&["socket_closed"]]);
    let (mut silent, _) = Wire::connect(server.port, &Connect::new(4, "b").keep_alive(1));
    silent.read_to_end();
    expect_rows(&database, REASON, &[&["socket_closed"], &["keepalive_timeout"]]);
    let old = Paho::connect(server.port, &Options::new(4, "c"));
    let new = Paho::connect(server.port, &Options::new(4, "c"));
    expect_rows(&database, REASON, &[&["socket_closed"], &["keepalive_timeout"], &["takenover"]]);
    drop((old, new));
}

#[test]
fn pass_drop_replace_and_fan_out_at_every_quality_of_service() {
    let server = server();
    for version in [4, 5] {
        let mut client = Paho::connect(server.port, &Options::new(version, "commander"));
        for qos in 0..=2 {
            let mut subscriber = everything(&server);
            for command in ["pass", "drop", "replace", "fan-out"] {
                let code = client.publish(&format!("cmd/{command}/x"), "payload", qos);
                assert!(code < 0x80, "{command} is acknowledged: {code:#04X}");
            }
            client.publish("end", "end", qos);
            assert_eq!(
                subscriber.take_until("end"),
                [
                    "cmd/pass/x payload",
                    "cmd/replace/x PAYLOAD",
                    "cmd/fan-out/x/1 payload",
                    "cmd/fan-out/x/2 payload"
                ],
                "version {version}, QoS {qos}"
            );
        }
    }
    server.assert_no_panic();
}

#[test]
fn reject_is_a_reason_code_on_5_and_a_silent_drop_on_3_1_1() {
    let server = server();
    let mut subscriber = everything(&server);
    let mut five = Paho::connect(server.port, &Options::new(5, "five"));
    assert_eq!(five.publish("cmd/reject/x", "x", 1), NOT_AUTHORIZED);
    let mut four = Paho::connect(server.port, &Options::new(4, "four"));
    for qos in 0..=2 {
        assert_eq!(four.publish("cmd/reject/x", "x", qos), 0, "acknowledged, QoS {qos}");
    }
    assert_eq!(five.publish("cmd/reject/x", "x", 0), 0, "nobody is told at QoS 0");
    // QoS 2 by hand: paho does not look at the reason of a PUBREC.
    let (mut wire, _) = Wire::connect(server.port, &Connect::new(5, "wire"));
    for payload in [b"x", b"y"] {
        wire.send(&wire::publish(5, "cmd/reject/x", payload, 2, 9));
        let answer = wire.expect(kind::PUBREC);
        assert_eq!((answer.id(), u64::from(answer.reason())), (9, NOT_AUTHORIZED));
        // The exchange is over (MQTT 5 clause 4.3.3): the same id may be used at once.
    }
    let refused =
        mosquitto::publish_raw(server.port, &["-V", "5", "-q", "1", "-t", "cmd/reject/x", "-m", "x"]);
    let text = String::from_utf8_lossy(&refused.stderr).to_lowercase();
    assert!(text.contains("not authorized"), "mosquitto_pub says why: {text}");
    four.publish("end", "end", 1);
    assert_eq!(subscriber.take_until("end"), Vec::<String>::new());
}

#[test]
fn a_replaced_message_keeps_what_the_module_did_not_change() {
    let server = server();
    let mut subscriber = Paho::connect(server.port, &Options::new(5, "reader"));
    subscriber.subscribe("cmd/#", 2);
    let mut client = Paho::connect(server.port, &Options::new(5, "writer"));
    client.publish_with("cmd/replace/kept", "text", 2, true, &[("key", "value")]);
    let message = subscriber.receive();
    assert_eq!((message.payload.as_str(), message.qos), ("TEXT", 2));
    assert_eq!(message.user_properties, [("key".to_owned(), "value".to_owned())]);
    // What is retained is the replacement.
    let mut late = Subscriber::start(server.port, &["-t", "cmd/replace/kept", "-q", "1"]);
    let retained = late.receive();
    assert_eq!((retained.payload.as_str(), retained.retain), ("TEXT", true));
}

#[test]
fn a_failing_module_refuses_the_message_and_the_next_one_is_served() {
    let server = server();
    let mut subscriber = everything(&server);
    let mut five = Paho::connect(server.port, &Options::new(5, "five"));
    for command in ["trap", "loop", "allocate", "error", "retry"] {
        let code = five.publish(&format!("cmd/{command}/x"), "x", 1);
        assert!(code >= 0x80, "{command}: {code:#04X}");
        assert_eq!(five.publish("cmd/replace/after", command, 1), 0, "after {command}");
    }
    // Version 3.1.1 has no reason codes: the connection ends without the acknowledgement, so the client
    // will send again.
    for command in ["trap", "loop", "error"] {
        let (mut four, _) = Wire::connect(server.port, &Connect::new(4, "four"));
        four.send(&wire::publish(4, &format!("cmd/{command}/x"), b"x", 1, 1));
        assert_eq!(four.read_to_end(), [], "{command}: no PUBACK");
    }
    five.publish("end", "end", 1);
    let expected: Vec<_> = ["TRAP", "LOOP", "ALLOCATE", "ERROR", "RETRY"]
        .iter()
        .map(|command| format!("cmd/replace/after {command}"))
        .collect();
    assert_eq!(subscriber.take_until("end"), expected);
    let log = server.log();
    assert!(log.contains("the probe was told to panic"), "a guest's panic message is in the log:\n{log}");
    server.assert_no_panic();
}

#[test]
fn the_error_policy_of_the_manifest_decides() {
    for (policy, routed) in [("pass", true), ("drop", false)] {
        let server = server_with(&format!("{MANIFEST}[on_error]\npolicy = \"{policy}\"\n"));
        let mut subscriber = everything(&server);
        for version in [4, 5] {
            let mut client = Paho::connect(server.port, &Options::new(version, "client"));
            assert!(client.publish("cmd/error/x", "x", 1) < 0x80, "{policy} acknowledges");
            assert!(client.publish("cmd/trap/x", "x", 1) < 0x80);
        }
        mosquitto::publish(server.port, &["-t", "end", "-m", "end", "-q", "1"]);
        let got = subscriber.take_until("end");
        assert_eq!(got.len(), if routed { 4 } else { 0 }, "{policy}: {got:?}");
    }
}

#[test]
fn a_delivery_can_be_dropped_and_replaced() {
    let server = server();
    for version in [4, 5] {
        let mut client = Paho::connect(server.port, &Options::new(version, "reader"));
        client.subscribe("deliver/#", 1);
        for topic in ["deliver/drop/x", "deliver/replace/x", "deliver/as-it-is"] {
            client.publish(topic, "original", 1);
        }
        client.publish("deliver/end", "end", 1);
        let got: Vec<_> = client.take_until("end").into_iter().map(|m| (m.topic, m.payload)).collect();
        assert_eq!(
            got,
            [
                ("deliver/replace/x".to_owned(), "replaced".to_owned()),
                ("deliver/as-it-is".to_owned(), "original".to_owned())
            ]
        );
    }
}

#[test]
fn a_module_subscribes_clients_as_they_connect() {
    let server = server_with(&format!("{MANIFEST}auto_subscribe = true\n"));
    for version in [4, 5] {
        let id = format!("auto{version}");
        let mut client = Paho::connect(server.port, &Options::new(version, &id));
        mosquitto::publish(server.port, &["-t", &format!("auto/{id}"), "-m", "x", "-q", "2"]);
        let message = client.receive();
        assert_eq!((message.payload.as_str(), message.qos), ("x", 1));
        let filter = format!("auto/{id}");
        let rows = format!(
            "select topic, detail from probe_event where hook = 'session.subscribed' and clientid = '{id}'"
        );
        expect_rows(&database(&server), &rows, &[&[&filter, "qos=1"]]);
    }
}

#[test]
fn a_module_publishes_delivers_subscribes_and_disconnects() {
    let server = server();
    for version in [4, 5] {
        let mut subscriber = everything(&server);
        let mut client = Paho::connect(server.port, &Options::new(version, "controlled"));
        client.publish("cmd/publish/a", "1", 1);
        let mut got = subscriber.take(2);
        got.sort();
        assert_eq!(got, ["cmd/publish/a 1", "published/a 1"]);
        client.publish("cmd/deliver/b", "2", 1);
        let delivered = client.receive();
        assert_eq!((delivered.topic.as_str(), delivered.payload.as_str()), ("delivered/b", "2"));
        client.publish("cmd/subscribe/c", "3", 1);
        until("the subscription is there", || {
            let rows = "select count(*) from probe_event where hook = 'session.subscribed' and topic = 'subscribed/c'";
            (count(&database(&server), rows) >= 1).then_some(())
        });
        client.publish("subscribed/c", "4", 1);
        assert_eq!(client.receive().topic, "subscribed/c");
        client.publish("cmd/unsubscribe/c", "5", 1);
        until("the subscription is gone", || {
            let rows = "select count(*) from probe_event where hook = 'session.unsubscribed'";
            (count(&database(&server), rows) >= 1).then_some(())
        });
        let (mut wire, _) = Wire::connect(server.port, &Connect::new(version, "ended"));
        wire.send(&wire::publish(version, "cmd/disconnect/d", b"6", 1, 1));
        wire.read_to_end();
        client.disconnect();
        query(&database(&server), "delete from probe_event");
    }
}

#[test]
fn a_module_that_publishes_to_itself_is_stopped_by_the_hop_limit() {
    let mut server = server();
    let mut client = Paho::connect(server.port, &Options::new(5, "echo"));
    client.publish("cmd/echo/x", "x", 0);
    // Every hop is an event of its own; the one that may not publish any more fails, and says why.
    server.wait_log(0, "the end of the echo", |line| line.contains("too many module publishes"));
    let hops = count(&database(&server), "select count(*) from probe_event where topic = 'cmd/echo/x'");
    assert!((2..100).contains(&hops), "{hops}");
    assert!(client.publish("cmd/pass/after", "x", 1) < 0x80);
    let after = count(&database(&server), "select count(*) from probe_event where topic = 'cmd/echo/x'");
    assert_eq!(after, hops, "nothing echoes any more");
    assert!(server.is_alive());
}

#[test]
fn what_a_module_enqueues_joins_the_acknowledgement() {
    let server = server();
    let database = database(&server);
    for version in [4, 5] {
        query(&database, "delete from probe_event");
        let mut client = Paho::connect(server.port, &Options::new(version, "storer"));
        for (number, command) in ["execute", "execute-wait"].iter().enumerate() {
            assert!(client.publish(&format!("cmd/{command}/x"), command, 1) < 0x80);
            // No waiting: acknowledged means done.
            let rows =
                "select clientid, topic, detail from probe_event where hook = 'execute' order by rowid";
            let found = query(&database, rows);
            assert_eq!(found.len(), number + 1);
            assert_eq!(found[number], ["storer", &format!("cmd/{command}/x"), command]);
        }
        query(&database, "delete from mqtt_msg");
        for command in ["run", "run-wait"] {
            client.publish(&format!("cmd/{command}/x"), "stored", 1);
            let rows = format!("select count(*) from mqtt_msg where topic = 'cmd/{command}/x'");
            assert_eq!(count(&database, &rows), 1, "{command}");
        }
    }
    let mut five = Paho::connect(server.port, &Options::new(5, "five"));
    assert!(
        five.publish("cmd/execute-refused/x", "x", 1) >= 0x80,
        "the store's refusal reaches the publisher"
    );
}

#[test]
fn the_context_tells_rarer_facts() {
    let server = server();
    let mut client = Paho::connect(server.port, &Options::new(5, "asker"));
    client.subscribe("cmd/context/#", 1);
    let arguments = ["-V", "5", "-i", "teller", "-q", "1", "-t", "cmd/context/x", "-m", "x"];
    let properties = [
        ["-D", "publish", "content-type", "text/plain"],
        ["-D", "publish", "response-topic", "answers/here"],
        ["-D", "publish", "correlation-data", "number 7"],
        ["-D", "publish", "message-expiry-interval", "60"],
    ];
    let mut all = arguments.to_vec();
    all.extend(properties.iter().flatten());
    mosquitto::publish(server.port, &all);
    let text = client.receive().payload;
    for fact in [
        "content-type=text/plain",
        "response-topic=answers/here",
        "correlation-data=number 7",
        "message-expiry-interval=60",
        "client=teller",
        "tenant=default",
        "node=tidegate@127.0.0.1",
    ] {
        assert!(text.lines().any(|line| line == fact), "{fact} is not in:\n{text}");
    }
}

#[test]
fn topic_filters_of_the_manifest_choose_the_events() {
    let server =
        server_with(&format!("hooks = {{ \"message.publish\" = [\"only/#\", \"also/+\"] }}\n{MANIFEST}"));
    let mut client = Paho::connect(server.port, &Options::new(5, "client"));
    for topic in ["only/a", "only", "also/b", "also/b/c", "other"] {
        client.publish(topic, "x", 1);
    }
    let rows = column(&database(&server), "select topic from probe_event where hook = 'message.publish'");
    assert_eq!(rows, ["only/a", "only", "also/b"]);
    // Hooks that the list does not name are not called.
    assert_eq!(
        count(&database(&server), "select count(*) from probe_event where hook = 'client.connected'"),
        0
    );
}
