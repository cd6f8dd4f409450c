//! The documents' hook lines on the embedded back end: after every step the tables hold what document 003
//! shows for MySQL. Read with the `sqlite3` command.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use tidegate_e2e::mosquitto::{self, Subscriber};
use tidegate_e2e::paho::{Delivered, Options, Paho};
use tidegate_e2e::sqlite::{column, count, expect_rows, query};
use tidegate_e2e::{DOCUMENT_LINES, Server, until};

fn server() -> Server {
    Server::builder().document_lines().start()
}

fn payloads(messages: &[Delivered]) -> Vec<&str> {
    messages.iter().map(|m| m.payload.as_str()).collect()
}

/// Waits until the client's position on the topic is the newest stored message.
fn wait_acked(database: &Path, client: &str, topic: &str) {
    until(&format!("{client} has acknowledged all of {topic}"), || {
        let left = count(
            database,
            &format!(
                "select (select coalesce(max(id), 0) from mqtt_msg where topic = '{topic}') <>
                 coalesce((select mid from mqtt_acked where clientid = '{client}' and topic = '{topic}'), 0)"
            ),
        );
        (left == 0).then_some(())
    });
}

#[test]
fn a_new_file_has_the_documents_tables_and_columns() {
    let server = server();
    let columns =
        |table: &str| column(&server.database(), &format!("select name from pragma_table_info('{table}')"));
    assert_eq!(
        columns("mqtt_client"),
        ["id", "clientid", "state", "node", "online_at", "offline_at", "created"]
    );
    assert_eq!(columns("mqtt_sub"), ["id", "clientid", "topic", "qos", "created"]);
    assert_eq!(
        columns("mqtt_msg"),
        ["id", "msgid", "topic", "sender", "node", "qos", "retain", "payload", "arrived"]
    );
    assert_eq!(
        columns("mqtt_retain"),
        ["id", "topic", "msgid", "sender", "node", "qos", "payload", "arrived"]
    );
    assert_eq!(columns("mqtt_acked"), ["id", "clientid", "topic", "mid", "created"]);
}

#[test]
fn connecting_and_disconnecting_keep_the_clients_row() {
    let server = server();
    let database = server.database();
    const STATE: &str = "select clientid, state, node, typeof(state), offline_at is null from mqtt_client";
    for version in [4, 5] {
        let client = Paho::connect(server.port, &Options::new(version, "test"));
        // A millisecond-free UTC date and time, as the document's `datetime` shows it.
        expect_rows(&database, STATE, &[&["test", "1", "tidegate@127.0.0.1", "text", "1"]]);
        let online = column(&database, "select online_at from mqtt_client")[0].clone();
        assert_eq!((online.len(), &online[4..5], &online[10..11]), (19, "-", " "), "{online}");
        assert_eq!(
            count(
                &database,
                "select abs(strftime('%s', 'now') - strftime('%s', online_at)) < 30 from mqtt_client"
            ),
            1,
            "{online} is UTC"
        );
        client.disconnect();
        expect_rows(&database, STATE, &[&["test", "0", "tidegate@127.0.0.1", "text", "0"]]);
        assert_eq!(column(&database, "select online_at from mqtt_client"), [online], "online_at is kept");
        assert_eq!(count(&database, "select offline_at >= online_at from mqtt_client"), 1);
    }
    assert_eq!(count(&database, "select count(*) from mqtt_client where created is not null"), 1);
}

#[test]
fn a_broken_connection_and_a_take_over_leave_the_right_state() {
    let server = server();
    let database = server.database();
    let first = Paho::connect(server.port, &Options::new(4, "roamer"));
    expect_rows(&database, "select state from mqtt_client", &[&["1"]]);
    let second = Paho::connect(server.port, &Options::new(4, "roamer"));
    // What the old connection's end wrote is ordered before this.
    let other = Paho::connect(server.port, &Options::new(4, "other"));
    other.disconnect();
    expect_rows(
        &database,
        "select clientid, state from mqtt_client order by clientid",
        &[&["other", "0"], &["roamer", "1"]],
    );
    drop(first);
    second.kill();
    expect_rows(&database, "select state from mqtt_client where clientid = 'roamer'", &[&["0"]]);
}

#[test]
fn published_messages_are_stored_at_qos_1_and_2() {
    let server = server();
    let mut client = Paho::connect(server.port, &Options::new(5, "test"));
    // 0x10, no matching subscribers, is a success as well (MQTT 5 clause 3.4.2.1).
    assert!(client.publish("hello", "hello", 1) < 0x80);
    assert!(client.publish("world", "world", 2) < 0x80);
    assert_eq!(client.publish("lost", "qos 0", 0), 0);
    mosquitto::publish(server.port, &["-i", "four", "-V", "mqttv311", "-t", "é/x", "-m", "grün", "-q", "1"]);
    // Acknowledged means stored: no waiting here.
    let rows = query(
        &server.database(),
        "select id, topic, sender, node, qos, retain, cast(payload as text), length(arrived), length(msgid) from mqtt_msg order by id",
    );
    assert_eq!(
        rows,
        [
            ["1", "hello", "test", "NULL", "1", "0", "hello", "19", "32"],
            ["2", "world", "test", "NULL", "2", "0", "world", "19", "32"],
            ["3", "é/x", "four", "NULL", "1", "0", "grün", "19", "32"],
        ]
    );
    let ids = column(&server.database(), "select msgid from mqtt_msg order by id");
    assert!(
        ids.is_sorted() && ids.iter().all(|id| id.chars().all(|c| matches!(c, '0'..='9' | 'A'..='F'))),
        "{ids:?}"
    );
}

#[test]
fn payload_bytes_are_stored_as_they_are() {
    let server = server();
    let mut all: Vec<u8> = (0..=255).collect();
    all.extend([0, 0xFF, 0xFE]);
    std::fs::write(server.file("payload"), &all).unwrap();
    let file = server.file("payload").display().to_string();
    mosquitto::publish(server.port, &["-t", "bytes", "-f", &file, "-q", "1"]);
    let hex: String = all.iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(column(&server.database(), "select hex(payload) from mqtt_msg"), [hex]);
}

#[test]
fn an_acknowledgement_moves_the_position() {
    let server = server();
    let database = server.database();
    let mut subscriber = Paho::connect(server.port, &Options::new(5, "reader").with("manual_ack", true));
    subscriber.subscribe("news", 1);
    for payload in ["1", "2", "3"] {
        mosquitto::publish(server.port, &["-t", "news", "-m", payload, "-q", "1"]);
    }
    let messages: Vec<_> = (0..3).map(|_| subscriber.receive()).collect();
    assert_eq!(payloads(&messages), ["1", "2", "3"]);
    assert_eq!(count(&database, "select count(*) from mqtt_acked"), 0, "nothing is acknowledged yet");
    const POSITION: &str = "select clientid, topic, mid from mqtt_acked";
    subscriber.ack(&messages[0]);
    expect_rows(&database, POSITION, &[&["reader", "news", "1"]]);
    // Out of order: the position moves over contiguous acknowledgements only.
    subscriber.ack(&messages[2]);
    subscriber.ack(&messages[1]);
    expect_rows(&database, POSITION, &[&["reader", "news", "3"]]);
}

#[test]
fn an_offline_subscriber_gets_what_it_missed() {
    let server = server();
    let database = server.database();
    for version in [4, 5] {
        let topic = format!("missed/{version}");
        let id = format!("sleeper{version}");
        let mut subscriber = Paho::connect(server.port, &Options::new(version, &id));
        subscriber.subscribe(&topic, 1);
        mosquitto::publish(server.port, &["-t", &topic, "-m", "live", "-q", "1"]);
        assert_eq!(subscriber.receive().payload, "live");
        wait_acked(&database, &id, &topic);
        subscriber.disconnect();
        for payload in ["1", "2", "3"] {
            mosquitto::publish(server.port, &["-t", &topic, "-m", payload, "-q", "2"]);
        }
        mosquitto::publish(server.port, &["-t", &topic, "-m", "never stored", "-q", "0"]);
        // A clean session: the broker itself remembers nothing.
        let mut subscriber = Paho::connect(server.port, &Options::new(version, &id));
        subscriber.subscribe(&topic, 1);
        let missed: Vec<_> = (0..3).map(|_| subscriber.receive()).collect();
        assert_eq!(payloads(&missed), ["1", "2", "3"]);
        assert!(missed.iter().all(|m| m.qos == 1 && !m.retain), "{missed:?}");
        wait_acked(&database, &id, &topic);
        subscriber.disconnect();
        // And only once.
        let mut subscriber = Paho::connect(server.port, &Options::new(version, &id));
        subscriber.subscribe(&topic, 1);
        mosquitto::publish(server.port, &["-t", &topic, "-m", "end", "-q", "1"]);
        assert_eq!(subscriber.take_until("end"), []);
        subscriber.disconnect();
    }
}

#[test]
fn a_fetch_of_many_pages_is_complete_in_order_and_joins_live_delivery() {
    let conf = DOCUMENT_LINES.replace(
        r#"{"function": "on_message_fetch"}"#,
        r#"{"function": "on_message_fetch"}, "offline_opts": {"max_returned_count": 7}"#,
    );
    let server = Server::builder().file("conf.d/sqlite.conf", conf).start();
    let mut publisher = Paho::connect(server.port, &Options::new(5, "publisher"));
    for number in 0..100 {
        publisher.publish("pages", &number.to_string(), 1);
    }
    let mut subscriber = Paho::connect(server.port, &Options::new(5, "late"));
    subscriber.subscribe("pages", 1);
    // While the pages come, more is published.
    for number in 100..200 {
        publisher.publish("pages", &number.to_string(), 1);
    }
    let expected: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    let received: Vec<_> = (0..200).map(|_| subscriber.receive().payload).collect();
    assert_eq!(received, expected, "each once, in order");
    publisher.publish("pages", "end", 1);
    assert_eq!(subscriber.take_until("end"), []);
    wait_acked(&server.database(), "late", "pages");
}

#[test]
fn two_subscribers_have_their_own_positions() {
    let server = server();
    let database = server.database();
    for payload in ["1", "2"] {
        mosquitto::publish(server.port, &["-t", "shared", "-m", payload, "-q", "1"]);
    }
    let mut ann = Paho::connect(server.port, &Options::new(5, "ann"));
    ann.subscribe("shared", 1);
    assert_eq!([ann.receive().payload, ann.receive().payload], ["1", "2"]);
    wait_acked(&database, "ann", "shared");
    ann.disconnect();
    mosquitto::publish(server.port, &["-t", "shared", "-m", "3", "-q", "1"]);
    let mut bob = Paho::connect(server.port, &Options::new(4, "bob"));
    bob.subscribe("shared", 1);
    assert_eq!([bob.receive().payload, bob.receive().payload, bob.receive().payload], ["1", "2", "3"]);
    wait_acked(&database, "bob", "shared");
    expect_rows(
        &database,
        "select clientid, topic, mid from mqtt_acked order by clientid",
        &[&["ann", "shared", "2"], &["bob", "shared", "3"]],
    );
    let mut ann = Paho::connect(server.port, &Options::new(5, "ann"));
    ann.subscribe("shared", 1);
    assert_eq!(ann.receive().payload, "3");
}

#[test]
fn a_client_with_rows_in_mqtt_sub_is_subscribed_at_connect() {
    let server = server();
    let database = server.database();
    query(
        &database,
        "insert into mqtt_sub(clientid, topic, qos) values('test', 'test_topic1', 1), ('test', 'test_topic2', 2), ('other', 'not/mine', 1)",
    );
    for version in [4, 5] {
        let mut client = Paho::connect(server.port, &Options::new(version, "test"));
        let mut publisher = Paho::connect(server.port, &Options::new(5, "publisher"));
        for (topic, qos) in [("test_topic1", 2), ("not/mine", 1), ("test_topic2", 2)] {
            publisher.publish(topic, &format!("{version}"), qos);
        }
        let received: Vec<_> =
            (0..2).map(|_| client.receive()).map(|m| (m.topic, m.payload, m.qos)).collect();
        let version = version.to_string();
        assert_eq!(
            received,
            [("test_topic1".into(), version.clone(), 1), ("test_topic2".into(), version, 2)]
        );
        wait_acked(&database, "test", "test_topic2");
        wait_acked(&database, "test", "test_topic1");
        client.disconnect();
    }
}

#[test]
fn a_looked_up_subscription_fetches_as_well() {
    let server = server();
    query(&server.database(), "insert into mqtt_sub(clientid, topic, qos) values('test', 'queue', 1)");
    mosquitto::publish(server.port, &["-t", "queue", "-m", "waiting", "-q", "1"]);
    let mut client = Paho::connect(server.port, &Options::new(5, "test"));
    assert_eq!(client.receive().payload, "waiting");
}

#[test]
fn retained_messages_are_stored_looked_up_and_deleted() {
    let server = server();
    let database = server.database();
    const RETAINED: &str =
        "select topic, sender, node, qos, cast(payload as text), length(msgid) from mqtt_retain";
    let mut publisher = Paho::connect(server.port, &Options::new(5, "test"));
    publisher.publish_with("retain", "old", 1, true, &[]);
    publisher.publish_with("retain", "www", 1, true, &[]);
    assert_eq!(query(&database, RETAINED), [["retain", "test", "NULL", "1", "www", "32"]]);
    // What the subscriber gets is the row, not the broker's own memory of it; and the same message is not
    // fetched a second time as an offline message.
    query(&database, "update mqtt_retain set payload = 'from the table'");
    let mut subscriber = Subscriber::start(server.port, &["-V", "5", "-t", "retain", "-q", "1"]);
    let mut all = Vec::new();
    mosquitto::publish(server.port, &["-t", "retain", "-m", "end", "-q", "1"]);
    loop {
        let message = subscriber.receive();
        if message.payload == "end" {
            break;
        }
        all.push((message.payload, message.retain));
    }
    assert!(all.contains(&("from the table".into(), true)), "{all:?}");
    assert!(!all.contains(&("www".into(), true)), "the broker's own store stays silent: {all:?}");
    assert_eq!(all.iter().filter(|(_, retain)| *retain).count(), 1, "{all:?}");
    assert!(!all.iter().any(|(payload, _)| payload == "www"), "not fetched as well: {all:?}");
    publisher.publish_with("retain", "", 1, true, &[]);
    assert_eq!(query(&database, RETAINED), Vec::<Vec<String>>::new());
}

#[test]
fn retained_messages_match_wildcards() {
    let server = server();
    for topic in ["r/a", "r/b/c", "s/a"] {
        mosquitto::publish(server.port, &["-t", topic, "-m", "x", "-q", "0", "-r"]);
    }
    expect_rows(&server.database(), "select count(*) from mqtt_retain", &[&["3"]]);
    let mut subscriber = Subscriber::start(server.port, &["-t", "r/#", "-q", "1"]);
    let mut topics = [subscriber.receive().topic, subscriber.receive().topic];
    topics.sort();
    assert_eq!(topics, ["r/a", "r/b/c"]);
}

#[test]
fn unsubscribing_runs_the_documents_custom_statement() {
    let server = server();
    let database = server.database();
    let mut client = Paho::connect(server.port, &Options::new(5, "leaver"));
    client.subscribe("left", 1);
    client.subscribe("kept", 1);
    for topic in ["left", "kept"] {
        mosquitto::publish(server.port, &["-t", topic, "-m", "x", "-q", "1"]);
        client.receive();
        wait_acked(&database, "leaver", topic);
    }
    client.unsubscribe("left");
    expect_rows(&database, "select topic from mqtt_acked", &[&["kept"]]);
}

#[test]
fn custom_statements_run_on_every_hook_with_bound_values() {
    let mut conf = DOCUMENT_LINES.replace("./data/mqtt.db", "./data/custom.db");
    for (hook, statement) in [
        ("client.connected.3", "insert into conn(clientid, username) values(${clientid}, ${username})"),
        ("client.disconnected.3", "insert into disconn(clientid) values(${clientid})"),
        ("session.subscribed.3", "insert into sub(topic, qos) values(${topic}, ${qos})"),
        ("session.unsubscribed.3", "delete from sub where topic = ${topic}"),
        (
            "message.publish.9",
            "insert into msg(msgid, topic, payload, username) values(${msgid}, ${topic}, ${payload}, ${username})",
        ),
        ("message.acked.3", "insert into ack(msgid, topic) values(${msgid}, ${topic})"),
        ("message.deliver.3", "insert into deliver(msgid, topic) values(${msgid}, ${topic})"),
    ] {
        conf += &format!(
            r#"backend.sqlite.hook.{hook} = {{"action": {{"sql": ["{statement}"]}}, "pool": "pool1"}}"#
        );
        conf.push('\n');
    }
    let builder = Server::builder().file("conf.d/sqlite.conf", conf).file("data/.keep", "");
    let database = builder.path().join("data/custom.db");
    query(
        &database,
        "create table conn(clientid, username); create table disconn(clientid); create table sub(topic, qos);
         create table msg(msgid, topic, payload, username); create table ack(msgid, topic); create table deliver(msgid, topic)",
    );
    let server = builder.start();
    let evil = "x'); drop table msg; --";
    let user = "u'); delete from conn; -- ${clientid}";
    let options = Options::new(5, evil).with("username", user).with("password", "x");
    let mut client = Paho::connect(server.port, &options);
    expect_rows(&database, "select clientid, username from conn", &[&[evil, user]]);
    client.subscribe("t/'1", 2);
    expect_rows(&database, "select topic, qos, typeof(qos) from sub", &[&["t/'1", "2", "integer"]]);
    client.publish("t/'1", "it's; bound", 1);
    let message = client.receive();
    assert_eq!(message.payload, "it's; bound");
    assert_eq!(
        query(&database, "select topic, cast(payload as text), username from msg"),
        [["t/'1", "it's; bound", user]]
    );
    expect_rows(&database, "select d.topic, m.msgid = d.msgid from deliver d, msg m", &[&["t/'1", "1"]]);
    expect_rows(&database, "select a.topic, m.msgid = a.msgid from ack a, msg m", &[&["t/'1", "1"]]);
    client.unsubscribe("t/'1");
    expect_rows(&database, "select count(*) from sub", &[&["0"]]);
    client.disconnect();
    expect_rows(&database, "select clientid from disconn", &[&[evil]]);
}

#[test]
fn a_custom_statement_that_fails_refuses_that_message_only() {
    let conf = format!(
        "{DOCUMENT_LINES}backend.sqlite.hook.message.publish.9 = {{\"topic\": \"narrow\", \"action\": {{\"sql\": [\"insert into narrow(a) values(${{payload}})\"]}}, \"pool\": \"pool1\"}}\n"
    );
    let builder = Server::builder().file("conf.d/sqlite.conf", conf).file("data/.keep", "");
    query(&builder.path().join("data/mqtt.db"), "create table narrow(a check (length(a) < 5))");
    let server = builder.start();
    let mut client = Paho::connect(server.port, &Options::new(5, "test"));
    assert!(client.publish("narrow", "ok", 1) < 0x80);
    assert!(client.publish("narrow", "much too long", 1) >= 0x80, "the publisher is told");
    assert!(client.publish("wide", "much too long", 1) < 0x80);
    assert!(client.publish("narrow", "fine", 1) < 0x80);
    assert_eq!(column(&server.database(), "select cast(a as text) from narrow"), ["ok", "fine"]);
}

#[test]
fn the_same_lines_in_tidegate_toml_do_the_same() {
    let toml = r##"
[backend.sqlite.pool1]
path = "./data/mqtt.db"

[[backend.sqlite.hook]]
hook = "client.connected"
action = { function = "on_client_connected" }
pool = "pool1"

[[backend.sqlite.hook]]
hook = "message.publish"
topic = "stored/#"
action = { function = "on_message_store" }
pool = "pool1"
"##;
    let server = Server::builder().file("tidegate.toml", toml).start();
    let mut client = Paho::connect(server.port, &Options::new(5, "test"));
    client.publish("stored/a", "1", 1);
    client.publish("other", "2", 1);
    client.publish("stored/b", "qos 0 is stored too", 0);
    expect_rows(
        &server.database(),
        "select topic, sender, qos from mqtt_msg order by id",
        &[&["stored/a", "test", "1"], &["stored/b", "test", "0"]],
    );
    expect_rows(&server.database(), "select clientid, state from mqtt_client", &[&["test", "1"]]);
}

#[test]
fn a_will_is_stored_too() {
    let server = server();
    let mut watcher = Paho::connect(server.port, &Options::new(5, "watcher"));
    watcher.subscribe("will", 1);
    let will = serde_json::json!({"topic": "will", "payload": "gone", "qos": 1, "retain": false});
    Paho::connect(server.port, &Options::new(4, "mortal").with("will", will)).kill();
    assert_eq!(watcher.receive().payload, "gone");
    assert_eq!(
        query(&server.database(), "select topic, sender, cast(payload as text) from mqtt_msg"),
        [["will", "mortal", "gone"]]
    );
}

/// The lines that document 003 prints for one-to-one, one-to-many and the newest message of a topic.
const ONE_TO: &str = r##"backend.sqlite.pool1.path = ./data/mqtt.db
backend.sqlite.hook.session.subscribed.1 = {"topic": "queue/#", "action": {"function": "on_message_fetch_for_queue"}, "pool": "pool1"}
backend.sqlite.hook.session.subscribed.2 = {"topic": "pubsub/#", "action": {"function": "on_message_fetch_for_pubsub"}, "pool": "pool1"}
backend.sqlite.hook.session.subscribed.3 = {"topic": "latest/#", "action": {"function": "on_message_fetch_for_keep_latest"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.1 = {"topic": "queue/#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.2 = {"topic": "pubsub/#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.3 = {"topic": "latest/#", "action": {"function": "on_message_store_keep_latest"}, "pool": "pool1"}
backend.sqlite.hook.message.acked.1 = {"topic": "queue/#", "action": {"function": "on_message_acked_for_queue"}, "pool": "pool1"}
backend.sqlite.hook.message.acked.2 = {"topic": "pubsub/#", "action": {"function": "on_message_acked_for_pubsub"}, "pool": "pool1"}
backend.sqlite.hook.message.acked.3 = {"topic": "latest/#", "action": {"function": "on_message_acked_for_keep_latest"}, "pool": "pool1"}
"##;

fn publish_all(server: &Server, topic: &str, payloads: &[&str]) {
    for payload in payloads {
        mosquitto::publish(server.port, &["-t", topic, "-m", payload, "-q", "1"]);
    }
}

fn reader(server: &Server, id: &str, topic: &str) -> Subscriber {
    Subscriber::start(server.port, &["-i", id, "-t", topic, "-q", "1"])
}

#[test]
fn one_to_one_messages_go_when_they_are_acknowledged() {
    let server = Server::builder().file("conf.d/sqlite.conf", ONE_TO).start();
    let database = server.database();
    publish_all(&server, "queue/a", &["1", "2", "3"]);
    publish_all(&server, "queue/b", &["stays"]);
    const LEFT: &str = "select topic, cast(payload as text) from mqtt_msg order by id";
    // Only what is acknowledged goes.
    let mut worker = Paho::connect(server.port, &Options::new(4, "worker").with("manual_ack", true));
    worker.subscribe("queue/a", 1);
    let messages: Vec<_> = (0..3).map(|_| worker.receive()).collect();
    assert_eq!(payloads(&messages), ["1", "2", "3"]);
    assert_eq!(count(&database, "select count(*) from mqtt_msg"), 4);
    worker.ack(&messages[0]);
    expect_rows(&database, LEFT, &[&["queue/a", "2"], &["queue/a", "3"], &["queue/b", "stays"]]);
    worker.disconnect();
    // What was not acknowledged comes again, to whoever asks next, and goes too.
    let mut next = reader(&server, "next", "queue/a");
    assert_eq!(next.take(2), ["queue/a 2", "queue/a 3"]);
    expect_rows(&database, LEFT, &[&["queue/b", "stays"]]);
    publish_all(&server, "queue/a", &["live"]);
    assert_eq!(next.take(1), ["queue/a live"]);
    expect_rows(&database, LEFT, &[&["queue/b", "stays"]]);
    assert_eq!(count(&database, "select count(*) from mqtt_acked"), 0, "a queue keeps no positions");
}

#[test]
fn one_to_many_messages_stay_and_every_client_has_its_position() {
    let server = Server::builder().file("conf.d/sqlite.conf", ONE_TO).start();
    let database = server.database();
    publish_all(&server, "pubsub/a", &["1", "2"]);
    let mut ann = reader(&server, "ann", "pubsub/a");
    assert_eq!(ann.take(2), ["pubsub/a 1", "pubsub/a 2"]);
    wait_acked(&database, "ann", "pubsub/a");
    ann.stop();
    publish_all(&server, "pubsub/a", &["3"]);
    let mut bob = reader(&server, "bob", "pubsub/a");
    assert_eq!(bob.take(3), ["pubsub/a 1", "pubsub/a 2", "pubsub/a 3"]);
    wait_acked(&database, "bob", "pubsub/a");
    expect_rows(
        &database,
        "select clientid, topic, mid from mqtt_acked order by clientid",
        &[&["ann", "pubsub/a", "2"], &["bob", "pubsub/a", "3"]],
    );
    let mut ann = reader(&server, "ann", "pubsub/a");
    publish_all(&server, "pubsub/a", &["4"]);
    assert_eq!(ann.take(2), ["pubsub/a 3", "pubsub/a 4"], "what is new to her, then what is live");
    assert_eq!(count(&database, "select count(*) from mqtt_msg"), 4, "acknowledged messages stay");
}

#[test]
fn the_newest_message_of_a_topic_replaces_the_one_before() {
    let server = Server::builder().file("conf.d/sqlite.conf", ONE_TO).start();
    let database = server.database();
    const LEFT: &str = "select topic, cast(payload as text), qos from mqtt_msg order by topic";
    publish_all(&server, "latest/a", &["1", "2"]);
    publish_all(&server, "latest/b", &["other"]);
    // Of every quality: this one is not waited for by its publisher.
    mosquitto::publish(server.port, &["-t", "latest/a", "-m", "3", "-q", "0"]);
    expect_rows(&database, LEFT, &[&["latest/a", "3", "0"], &["latest/b", "other", "1"]]);
    let mut late = reader(&server, "late", "latest/a");
    assert_eq!(late.take(1), ["latest/a 3"]);
    late.stop();
    publish_all(&server, "latest/a", &["4", "5"]);
    let mut late = reader(&server, "late", "latest/a");
    assert_eq!(late.take(1), ["latest/a 5"]);
    wait_acked(&database, "late", "latest/a");
    assert_eq!(query(&database, LEFT), [["latest/a", "5", "1"], ["latest/b", "other", "1"]]);
    late.stop();
    // What it has acknowledged does not come again.
    let mut late = reader(&server, "late", "latest/a");
    publish_all(&server, "latest/a", &["end"]);
    assert_eq!(late.take_until("end"), Vec::<String>::new());
}
