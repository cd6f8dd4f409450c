//! A database that does not answer, and no buffer: publishers wait, nobody is cut off, nothing is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_e2e::sqlite::{Lock, column, count};
use tidegate_e2e::wait::tell;
use tidegate_e2e::wire::{self, Connect, Wire, kind};
use tidegate_e2e::{Server, mosquitto};

/// Packet ids 1 to this, once each: as many as the server's receive maximum on version 5 (more would be the
/// client's fault, MQTT 5 clause 3.3.4), twice as many on 3.1.1, which has no such limit: the second thousand
/// lies in the server's read-ahead while the window is full.
const fn messages(version: u8) -> u16 {
    if version == 5 { 1_000 } else { 2_000 }
}

/// Operations wait in memory, and publishers for them.
const NO_BUFFER: &str = "[store]\nbuffer_bytes = 0\n";

/// How long another process holds the database.
const HELD: Duration = Duration::from_secs(6);

/// Publishes while the database is locked and checks that every message is acknowledged, once and in order,
/// after the lock is gone and not before. Gives how many PINGRESP came while it was locked.
fn publish_into_a_locked_database(version: u8, name: &str, payload: &[u8], server: &Server) -> usize {
    // Two seconds: the lock outlives 1.5 keep-alives twice over.
    let (mut reader, _) = Wire::connect(server.port, &Connect::new(version, name).keep_alive(2));
    let lock = Lock::take(&server.database());
    let mut writer = reader.share();
    let mut pinger = reader.share();
    let topic = format!("stalled/{name}");
    let done = AtomicBool::new(false);
    let (locked_pongs, mut acknowledged) = std::thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            for id in 1..=messages(version) {
                let body = [id.to_string().as_bytes(), b" ", payload].concat();
                let packet = wire::publish(version, &topic, &body, 1, id);
                writer.try_send(&packet).expect("the publisher is not cut off");
            }
            // As every client does, it keeps its connection alive.
            while !done.load(Ordering::Relaxed) {
                writer.try_send(wire::PINGREQ).expect("the publisher is not cut off");
                std::thread::sleep(Duration::from_millis(400));
            }
        });
        let start = Instant::now();
        let mut pongs = 0;
        let mut early = Vec::<u16>::new();
        reader.patience(Duration::from_millis(300));
        while start.elapsed() < HELD {
            match reader.read() {
                Ok(packet) if packet.kind() == kind::PINGRESP => pongs += 1,
                Ok(packet) if packet.kind() == kind::PUBACK => early.push(packet.id()),
                Ok(packet) => panic!("{packet:?}"),
                Err(error) => assert!(
                    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
                    "the connection ended while the database was locked: {error}"
                ),
            }
        }
        assert!(early.is_empty(), "acknowledged before it was stored: {early:?}");
        lock.release();
        reader.patience(tidegate_e2e::wait::PATIENCE);
        let mut acknowledged = Vec::new();
        while acknowledged.len() < usize::from(messages(version)) {
            match reader.read().expect("acknowledgements after the lock is gone") {
                packet if packet.kind() == kind::PINGRESP => {}
                packet => {
                    assert_eq!(packet.kind(), kind::PUBACK, "{packet:?}");
                    assert!(packet.reason() < 0x80, "{packet:?}");
                    acknowledged.push(packet.id());
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        (pongs, acknowledged)
    });
    tell(&format!("{name}: {locked_pongs} PINGRESP while locked, {} acknowledged after", acknowledged.len()));
    assert!(acknowledged.is_sorted(), "in the order of the messages");
    acknowledged.dedup();
    assert_eq!(acknowledged.len(), usize::from(messages(version)));
    pinger.send(wire::DISCONNECT);
    locked_pongs
}

#[test]
fn publishers_wait_for_a_locked_database_and_lose_nothing() {
    let server = Server::builder().document_lines().file("tidegate.toml", NO_BUFFER).start();
    mosquitto::publish(server.port, &["-t", "before", "-m", "x", "-q", "1"]);
    for (version, name) in [(4, "four"), (5, "five")] {
        let pongs = publish_into_a_locked_database(version, name, b"small", &server);
        assert!(pongs > 5, "PINGREQ was answered {pongs} times in {HELD:?}");
        let stored = column(
            &server.database(),
            &format!("select cast(payload as text) from mqtt_msg where topic = 'stalled/{name}' order by id"),
        );
        let expected: Vec<_> = (1..=messages(version)).map(|id| format!("{id} small")).collect();
        assert_eq!(stored, expected, "each once, in order");
    }
    server.assert_no_panic();
}

#[test]
fn a_flood_larger_than_every_buffer_does_not_cost_the_publisher_its_connection() {
    let server = Server::builder().document_lines().file("tidegate.toml", NO_BUFFER).start();
    let payload = vec![b'x'; 4_000];
    publish_into_a_locked_database(4, "flood", &payload, &server);
    let topic = "select count(distinct id) from mqtt_msg where topic = 'stalled/flood'";
    assert_eq!(count(&server.database(), topic), usize::from(messages(4)));
    server.assert_no_panic();
}

#[test]
fn pings_are_answered_while_the_window_is_full() {
    let server = Server::builder().document_lines().file("tidegate.toml", NO_BUFFER).start();
    let (mut wire, _) = Wire::connect(server.port, &Connect::new(5, "stalled").keep_alive(1));
    let (mut other, _) = Wire::connect(server.port, &Connect::new(5, "other"));
    let lock = Lock::take(&server.database());
    // As many as the receive maximum allows, all unacknowledged.
    for id in 1..=1_000 {
        wire.send(&wire::publish(5, "stalled", b"x", 1, id));
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        wire.send(wire::PINGREQ);
        wire.expect(kind::PINGRESP);
        assert!(asked.elapsed() < Duration::from_secs(1), "answered at once: {:?}", asked.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    // Nobody else waits: a message that no line stores is routed at once.
    other.send(wire::PINGREQ);
    other.expect(kind::PINGRESP);
    lock.release();
    for id in 1..=1_000 {
        assert_eq!(wire.expect(kind::PUBACK).id(), id);
    }
    assert_eq!(count(&server.database(), "select count(*) from mqtt_msg"), 1_000);
}
