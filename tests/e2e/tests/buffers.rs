//! A database that is down: operations wait on disk, publishers go on, and the database gets everything in order.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_e2e::server::{text_of, tidegate};
use tidegate_e2e::sqlite::{Lock, column, count, query};
use tidegate_e2e::wait::tell;
use tidegate_e2e::wire::{self, Connect, Wire, kind};
use tidegate_e2e::{Server, mosquitto, until};

const PUBLISHERS: usize = 10;
/// Messages in flight of each publisher.
const WINDOW: u16 = 20;

/// Publishes numbers to a topic of its own until `stop` or until the connection ends; gives those that were acknowledged.
fn publish(port: u16, publisher: usize, stop: &AtomicBool) -> BTreeSet<u64> {
    let (mut wire, _) = Wire::connect(port, &Connect::new(4, &format!("publisher-{publisher}")));
    wire.patience(Duration::from_millis(100));
    let topic = format!("load/{publisher}");
    let (mut next, mut flying, mut acknowledged) = (0_u64, Vec::new(), BTreeSet::new());
    while !stop.load(Ordering::Relaxed) || !flying.is_empty() {
        while flying.len() < usize::from(WINDOW) && !stop.load(Ordering::Relaxed) {
            let id = u16::try_from(next % 60_000).unwrap() + 1;
            if wire.try_send(&wire::publish(4, &topic, next.to_string().as_bytes(), 1, id)).is_err() {
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

#[test]
fn what_was_acknowledged_while_the_database_was_down_survives_kill_9_and_is_stored_in_order() {
    let mut server = Server::builder().document_lines().start();
    mosquitto::publish(server.port, &["-t", "before", "-m", "x", "-q", "1"]);
    let lock = Lock::take(&server.database());
    let (port, stop) = (server.port, AtomicBool::new(false));
    let acknowledged: Vec<BTreeSet<u64>> = std::thread::scope(|scope| {
        let stop = &stop;
        let publishers: Vec<_> =
            (0..PUBLISHERS).map(|n| scope.spawn(move || publish(port, n, stop))).collect();
        until("the buffer to fill", || (buffered(&server) >= 2_000.0).then_some(()));
        server.kill();
        publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect()
    });
    lock.release();
    let total: usize = acknowledged.iter().map(BTreeSet::len).sum();
    assert!(total >= 1_000, "the buffer acknowledged {total}");

    let began = Instant::now();
    server.start();
    until("the buffer to empty", || (buffered(&server) < 0.5).then_some(()));
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
    mosquitto::publish(server.port, &["-t", "before", "-m", "x", "-q", "1"]);
    let lock = Lock::take(&server.database());
    let publish = |numbers: std::ops::Range<u32>| {
        for n in numbers {
            mosquitto::publish(server.port, &["-t", "changed", "-m", &n.to_string(), "-q", "1"]);
        }
    };
    publish(0..5);
    let mark = server.log_mark();
    let (file, beside) = (server.file("conf.d/emqx_backend_sqlite.conf"), server.file("conf.d/new"));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&beside, format!("{text}\nbackend.sqlite.pool1.pool_size = 2\n")).unwrap();
    std::fs::rename(&beside, &file).unwrap();
    server.wait_log(mark, "the new configuration", |line| {
        line.contains("sqlite:pool1") && line.contains("changed")
    });
    publish(5..10);
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
