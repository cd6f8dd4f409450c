//! A database that is down: operations wait on disk, publishers go on, and the database gets everything in order.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::server::{text_of, tidegate};
use tidegate_e2e::sqlite::{Lock, column, count, expect_rows, query};
use tidegate_e2e::wait::tell;
use tidegate_e2e::wire::{self, Connect, Wire, kind};
use tidegate_e2e::{Server, mosquitto, until};

const PUBLISHERS: usize = 10;
/// Messages in flight of each publisher.
const WINDOW: u16 = 20;

/// Publishes numbers, in `bytes` bytes with spaces, to a topic of its own until `stop` or until the connection ends; gives
/// those that were acknowledged.
fn publish(port: u16, publisher: usize, bytes: usize, stop: &AtomicBool) -> BTreeSet<u64> {
    let (mut wire, _) = Wire::connect(port, &Connect::new(4, &format!("publisher-{publisher}")));
    wire.patience(Duration::from_millis(100));
    let topic = format!("load/{publisher}");
    let (mut next, mut flying, mut acknowledged) = (0_u64, Vec::new(), BTreeSet::new());
    while !stop.load(Ordering::Relaxed) || !flying.is_empty() {
        while flying.len() < usize::from(WINDOW) && !stop.load(Ordering::Relaxed) {
            let id = u16::try_from(next % 60_000).unwrap() + 1;
            if wire.try_send(&wire::publish(4, &topic, format!("{next:<bytes$}").as_bytes(), 1, id)).is_err()
            {
                return acknowledged;
            }
            flying.push((id, next));
            next += 1;
        }
        match wire.read() {
            Ok(packet) if packet.kind() == kind::PUBACK => {
                let at = flying.iter().position(|(id, _)| *id == packet.id()).expect("one of ours");
                acknowledged.insert(flying.remove(at).1);
            }
            Ok(_) => {}
            Err(error) => {
                let waits = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
                if !waits.contains(&error.kind()) {
                    return acknowledged;
                }
            }
        }
    }
    acknowledged
}

fn buffered(server: &Server) -> f64 {
    server.metric("tidegate_store_buffered", "connector=\"sqlite:pool1\"")
}

/// Waits until nothing is left on disk. Asked of the runtime itself: after a start its metric is 0 until it has looked.
fn wait_empty(server: &Server) {
    until("the buffer to empty", || {
        let list = server.json(&["buffers", "list"]);
        let rows = list["buffers"].as_array().expect("a list");
        let ours = rows.iter().find(|row| row["connector"] == "sqlite:pool1").expect("it is listed");
        (ours["buffered"] == 0).then_some(())
    });
}

#[test]
fn what_was_acknowledged_while_the_database_was_down_survives_kill_9_and_is_stored_in_order() {
    let mut server = Server::builder().document_lines().start();
    mosquitto::publish(server.port, &["-t", "before", "-m", "x", "-q", "1"]);
    let lock = Lock::take(&server.database());
    let (port, stop) = (server.port, AtomicBool::new(false));
    let acknowledged: Vec<BTreeSet<u64>> = std::thread::scope(|scope| {
        let stop = &stop;
        let publishers: Vec<_> =
            (0..PUBLISHERS).map(|n| scope.spawn(move || publish(port, n, 0, stop))).collect();
        until("the buffer to fill", || (buffered(&server) >= 2_000.0).then_some(()));
        server.kill();
        publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect()
    });
    lock.release();
    let total: usize = acknowledged.iter().map(BTreeSet::len).sum();
    assert!(total >= 1_000, "the buffer acknowledged {total}");

    let began = Instant::now();
    server.start();
    wait_empty(&server);
    tell(&format!("{total} acknowledged by the buffer, all stored {:?} after the start", began.elapsed()));
    for (publisher, acknowledged) in acknowledged.iter().enumerate() {
        let sql = format!(
            "select cast(payload as text) from mqtt_msg where topic = 'load/{publisher}' order by id"
        );
        let stored: Vec<u64> =
            column(&server.database(), &sql).iter().map(|number| number.parse().unwrap()).collect();
        assert!(stored.is_sorted_by(|a, b| a < b), "publisher {publisher}: out of order or twice");
        let stored: BTreeSet<u64> = stored.into_iter().collect();
        let missing: Vec<_> = acknowledged.difference(&stored).collect();
        assert!(missing.is_empty(), "publisher {publisher}: missing {missing:?}");
    }
    server.assert_no_panic();
}

#[test]
fn a_subscriber_that_fetches_waits_for_what_is_in_the_buffer() {
    let server = Server::builder().document_lines().start();
    mosquitto::publish(server.port, &["-t", "before", "-m", "x", "-q", "1"]);
    let lock = Lock::take(&server.database());
    for n in 0..5 {
        mosquitto::publish(server.port, &["-t", "later", "-m", &n.to_string(), "-q", "1"]);
    }
    let (mut reader, _) = Wire::connect(server.port, &Connect::new(4, "reader"));
    reader.send(&wire::subscribe(4, 1, "later", 1));
    std::thread::sleep(Duration::from_secs(1));
    lock.release();
    let mut got = Vec::new();
    while got.len() < 5 {
        let packet = reader.read().expect("the stored messages");
        if packet.kind() == kind::PUBLISH {
            let (_, id, payload) = packet.publish(4);
            got.push(String::from_utf8(payload).unwrap());
            reader.send(&wire::ack(kind::PUBACK, id));
        }
    }
    assert_eq!(got, ["0", "1", "2", "3", "4"]);
}

#[test]
fn a_connector_that_is_changed_while_its_database_is_down_passes_its_buffer_on() {
    let server = Server::builder().document_lines().start();
    // Connected before: the look-up of a new client waits for what the buffer had when its connector began.
    let mut client = Paho::connect(server.port, &Options::new(5, "test"));
    assert!(client.publish("before", "x", 1) < 0x80);
    let lock = Lock::take(&server.database());
    let mut publish = |numbers: std::ops::Range<u32>| {
        for n in numbers {
            assert!(client.publish("changed", &n.to_string(), 1) < 0x80);
        }
    };
    publish(0..5);
    assert!(buffered(&server) >= 5.0, "they wait on disk");
    let mark = server.log_mark();
    let (file, beside) = (server.file("conf.d/emqx_backend_sqlite.conf"), server.file("conf.d/new"));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&beside, format!("{text}\nbackend.sqlite.pool1.pool_size = 2\n")).unwrap();
    std::fs::rename(&beside, &file).unwrap();
    server.wait_log(mark, "the new configuration", |line| {
        line.contains("sqlite:pool1") && line.contains("changed")
    });
    publish(5..10);
    assert!(buffered(&server) >= 10.0, "what the one before had is there, too");
    lock.release();
    until("the buffer to empty", || {
        let sql = "select count(*) from mqtt_msg where topic = 'changed'";
        (count(&server.database(), sql) >= 10).then_some(())
    });
    let sql = "select cast(payload as text) from mqtt_msg where topic = 'changed' order by id";
    let expected: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!(column(&server.database(), sql), expected, "each once, in order");
    server.assert_no_panic();
}

/// Publishes one message after the other, each acknowledged.
fn publish_all(server: &Server, topic: &str, payloads: &[&str]) {
    for payload in payloads {
        mosquitto::publish(server.port, &["-t", topic, "-m", payload, "-q", "1"]);
    }
}

/// The stored payloads of a topic, in order.
fn stored(server: &Server, topic: &str) -> Vec<String> {
    let sql = format!("select trim(cast(payload as text)) from mqtt_msg where topic = '{topic}' order by id");
    column(&server.database(), &sql)
}

#[test]
fn a_runtime_that_is_killed_while_its_buffer_shrinks_stores_everything_once_and_in_order() {
    // Large enough for many batches: there is time to kill it in between.
    const LARGE: usize = 16 << 10;
    let mut server = Server::builder().document_lines().start();
    publish_all(&server, "before", &["x"]);
    let lock = Lock::take(&server.database());
    let (port, stop) = (server.port, AtomicBool::new(false));
    let acknowledged: Vec<BTreeSet<u64>> = std::thread::scope(|scope| {
        let stop = &stop;
        let publishers: Vec<_> =
            (0..PUBLISHERS).map(|n| scope.spawn(move || publish(port, n, LARGE, stop))).collect();
        until("the buffer to fill", || (buffered(&server) >= 3_000.0).then_some(()));
        stop.store(true, Ordering::Relaxed);
        publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect()
    });
    let full = buffered(&server);
    lock.release();
    let mut kills = Vec::new();
    for part in [0.9, 0.5] {
        until("it knows what it has", || (buffered(&server) > 0.5).then_some(()));
        let left =
            until("the buffer to shrink", || Some(buffered(&server)).filter(|left| *left < full * part));
        server.kill();
        kills.push(left);
        server.start();
    }
    assert!(kills.iter().all(|left| *left > 0.0), "killed too late: {kills:?} of {full} were left");
    wait_empty(&server);
    tell(&format!("of {full} operations {kills:?} were left when the runtime was killed"));
    assert_eq!(
        column(&server.database(), "select msgid from mqtt_msg group by msgid having count(*) > 1"),
        Vec::<String>::new(),
        "stored twice"
    );
    for (publisher, acknowledged) in acknowledged.iter().enumerate() {
        let expected: Vec<String> = acknowledged.iter().map(u64::to_string).collect();
        assert_eq!(stored(&server, &format!("load/{publisher}")), expected, "publisher {publisher}");
    }
    server.assert_no_panic();
}

#[test]
fn clients_that_come_and_go_while_the_database_is_down_end_in_the_right_state() {
    let server = Server::builder().document_lines().start();
    let connect = |id: &str| Wire::connect(server.port, &Connect::new(4, id)).0;
    let mut goes = connect("goes");
    expect_rows(&server.database(), "select clientid, state from mqtt_client", &[&["goes", "1"]]);
    let lock = Lock::take(&server.database());
    goes.send(wire::DISCONNECT);
    let _comes = connect("comes");
    connect("passes").send(wire::DISCONNECT);
    connect("returns").send(wire::DISCONNECT);
    let _returns = connect("returns");
    // A connection takes the place of another, whose end is reported after its beginning.
    let _old = connect("moves");
    let _new = connect("moves");
    until("all of it waits on disk", || (buffered(&server) >= 8.0).then_some(()));
    lock.release();
    until("the buffer to empty", || (buffered(&server) < 0.5).then_some(()));
    expect_rows(
        &server.database(),
        "select clientid, state from mqtt_client order by clientid",
        &[&["comes", "1"], &["goes", "0"], &["moves", "1"], &["passes", "0"], &["returns", "1"]],
    );
    server.assert_no_panic();
}

#[test]
fn what_an_operator_drops_from_the_buffer_does_not_arrive_and_what_follows_does() {
    let server = Server::builder().document_lines().start();
    publish_all(&server, "t", &["before"]);
    let lock = Lock::take(&server.database());
    publish_all(&server, "t", &["0", "1", "2"]);
    let of_topic = || {
        let shown = server.json(&["buffers", "show", "sqlite:pool1", "--buffered"]);
        let entries = shown["entries"].as_array().expect("a list").clone();
        entries.into_iter().filter(|entry| entry["topic"] == "t").collect::<Vec<_>>()
    };
    let waiting = of_topic();
    let payloads: Vec<_> = waiting.iter().map(|entry| entry["payload"].as_str().unwrap()).collect();
    assert_eq!(payloads, ["MA==", "MQ==", "Mg=="], "0, 1, 2 in base64, oldest first");
    let (_, oldest) = buffers(&server, &["show", "sqlite:pool1", "--buffered", "-n", "1"]);
    assert_eq!(oldest.lines().count(), 1, "{oldest}");

    // One of them, then a reader that waits for what was acknowledged, then all the rest.
    let id = waiting[1]["id"].as_str().unwrap();
    let (well, told) = buffers(&server, &["drop", "sqlite:pool1", id, "--buffered"]);
    assert!(well && told == "sqlite:pool1: 1 dropped\n", "{told}");
    assert_eq!(of_topic().len(), 2);
    let (mut reader, _) = Wire::connect(server.port, &Connect::new(4, "reader"));
    reader.send(&wire::subscribe(4, 1, "t", 1));
    let dropped = server.json(&["buffers", "drop", "sqlite:pool1", "--all", "--buffered"]);
    assert!(dropped["dropped"].as_u64() >= Some(2), "{dropped}");
    assert_eq!(of_topic(), Vec::<serde_json::Value>::new());
    publish_all(&server, "t", &["3", "4"]);
    lock.release();
    let mut got = Vec::new();
    while got.last().is_none_or(|last| last != "4") {
        let packet = reader.read().expect("the stored messages");
        if packet.kind() == kind::PUBLISH {
            let (_, id, payload) = packet.publish(4);
            got.push(String::from_utf8(payload).unwrap());
            reader.send(&wire::ack(kind::PUBACK, id));
        }
    }
    assert_eq!(got, ["before", "3", "4"]);
    until("the buffer to empty", || (buffered(&server) < 0.5).then_some(()));
    assert_eq!(stored(&server, "t"), ["before", "3", "4"]);
    server.assert_no_panic();
}

#[test]
fn an_operator_retries_and_drops_single_dead_letters() {
    let builder = Server::builder();
    let database = builder.path().join("store.db");
    query(&database, "create table once(topic text primary key, payload text)");
    let server = builder.file("conf.d/once.conf", ONCE).start();
    for topic in ["a", "b", "c"] {
        publish_all(&server, topic, &["first", "second"]);
    }
    let letters = |more: &[&str]| {
        let shown = server.json(&[&["buffers", "show", "sqlite:pool1"], more].concat());
        let entries = shown["entries"].as_array().expect("a list").clone();
        let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap().to_owned();
        entries.iter().map(|entry| (text(entry, "id"), text(entry, "topic"))).collect::<Vec<_>>()
    };
    let topics =
        |letters: &[(String, String)]| letters.iter().map(|(_, topic)| topic.clone()).collect::<Vec<_>>();
    let all = until("three dead letters", || Some(letters(&[])).filter(|all| all.len() == 3));
    let id = |topic: &str| all.iter().find(|(_, own)| own == topic).unwrap().0.clone();
    assert_eq!(letters(&["-n", "1"]), all[2..], "the newest");
    let list = server.json(&["buffers", "list"]);
    let ours = list["buffers"].as_array().unwrap().iter().find(|row| row["connector"] == "sqlite:pool1");
    assert_eq!(ours.expect("it is listed")["dead"], 3, "{list}");

    // Both would be stored now; only the one that is named is run.
    query(&database, "delete from once where topic in ('a', 'b')");
    let retried = server.json(&["buffers", "retry", "sqlite:pool1", &id("b")]);
    assert_eq!((&retried["stored"], &retried["refused"]), (&1.into(), &0.into()), "{retried}");
    expect_rows(
        &database,
        "select topic, payload from once order by topic",
        &[&["b", "second"], &["c", "first"]],
    );
    assert_eq!(topics(&letters(&[])), ["a", "c"]);
    let (well, told) = buffers(&server, &["drop", "sqlite:pool1", &id("a")]);
    assert!(well && told == "sqlite:pool1: 1 dropped\n", "{told}");
    let (_, told) = buffers(&server, &["drop", "sqlite:pool1", &id("a")]);
    assert_eq!(told, "sqlite:pool1: 0 dropped\n", "it is gone");
    assert_eq!(topics(&letters(&[])), ["c"]);
    // What is dropped is not run again by those that run all.
    let (_, told) = buffers(&server, &["retry", "sqlite:pool1"]);
    assert!(told.contains("0 stored, 1 refused again"), "{told}");
    assert_eq!(count(&database, "select count(*) from once where topic = 'a'"), 0);
    server.assert_no_panic();
}

/// A table in which no two rows may have the same topic.
const ONCE: &str = "backend.sqlite.pool1.path = ./store.db\n\
    backend.sqlite.hook.message.publish.1 = {\"action\": {\"sql\": [\"insert into once(topic, payload) values \
    (${topic}, ${payload})\"]}, \"pool\": \"pool1\"}\n";

fn buffers(server: &Server, args: &[&str]) -> (bool, String) {
    let output = tidegate(server.path(), &[&["buffers"][..], args].concat());
    (output.status.success(), text_of(&output))
}

#[test]
fn an_operator_sees_what_waits_and_runs_dead_letters_again() {
    let builder = Server::builder();
    let database = builder.path().join("store.db");
    query(&database, "create table once(topic text primary key, payload text)");
    let server = builder.file("conf.d/once.conf", ONCE).start();
    for payload in ["first", "second"] {
        mosquitto::publish(server.port, &["-t", "a", "-m", payload, "-q", "1"]);
    }
    let lock = Lock::take(&database);
    mosquitto::publish(server.port, &["-t", "b", "-m", "waits", "-q", "1"]);
    let (_, list) = buffers(&server, &["list"]);
    let row = list.lines().find(|line| line.starts_with("sqlite:pool1")).expect("a row").to_owned();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!((cells[1], cells[4]), ("1", "1"), "{list}");
    let (_, waits) = buffers(&server, &["show", "sqlite:pool1", "--buffered"]);
    assert!(waits.contains("\"topic\":\"b\"") && waits.contains("\"operation\":\"execute\""), "{waits}");
    lock.release();
    until("the buffer to empty", || {
        (count(&database, "select count(*) from once where topic = 'b'") == 1).then_some(())
    });

    let (_, dead) = buffers(&server, &["show", "sqlite:pool1"]);
    assert!(dead.contains("UNIQUE") && dead.contains("\"topic\":\"a\""), "{dead}");
    let letter: serde_json::Value = serde_json::from_str(dead.trim()).unwrap();
    let id = letter["id"].as_str().unwrap();
    // In vain: it is refused again, and is another letter then.
    let (well, told) = buffers(&server, &["retry", "sqlite:pool1"]);
    assert!(!well && told.contains("0 stored, 1 refused again"), "{told}");
    let (_, dead) = buffers(&server, &["show", "sqlite:pool1"]);
    assert!(!dead.contains(id) && dead.lines().count() == 1, "{dead}");
    query(&database, "delete from once where topic = 'a'");
    let (well, told) = buffers(&server, &["retry", "sqlite:pool1"]);
    assert!(well && told.contains("1 stored, 0 refused again"), "{told}");
    assert_eq!(column(&database, "select payload from once where topic = 'a'"), ["second"]);
    assert_eq!(buffers(&server, &["show", "sqlite:pool1"]).1, "nothing\n");

    mosquitto::publish(server.port, &["-t", "a", "-m", "third", "-q", "1"]);
    until("a dead letter", || buffers(&server, &["show", "sqlite:pool1"]).1.contains("UNIQUE").then_some(()));
    assert!(buffers(&server, &["drop", "sqlite:pool1", "--all"]).1.contains("1 dropped"));
    assert_eq!(buffers(&server, &["show", "sqlite:pool1"]).1, "nothing\n");
    let (well, told) = buffers(&server, &["retry", "sqlite:pol1"]);
    assert!(!well && told.contains("sqlite:pol1"), "{told}");
    server.assert_no_panic();
}
