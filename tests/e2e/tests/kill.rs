//! `kill -9` of the runtime under load: every message it acknowledged is in the database.
//!
//! Twenty times: ten under QoS 1, where PUBACK is the promise, ten under QoS 2, where PUBREC is. Two of the
//! publishers are paho clients, two write packets by hand with a window of hundreds. The database is the
//! same over all ten kills, so that every start also recovers from the kill before.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tidegate_e2e::sqlite::column;
use tidegate_e2e::wait::tell;
use tidegate_e2e::wire::{self, Connect, Wire, kind};
use tidegate_e2e::{Server, paho, until};

/// How many kills under each quality of service: ten, a hundred with `cargo xtask test --long`.
fn kills() -> usize {
    10 * tidegate_e2e::wait::long()
}

/// Messages in flight of a hand-made publisher; below the server's receive maximum of 1,000.
const WINDOW: u16 = 400;

/// What publishers were promised.
type Promises = JoinHandle<Vec<String>>;

/// A publisher of our own: keeps [`WINDOW`] messages in flight until the connection is gone; gives the
/// payloads whose PUBACK (QoS 1) or PUBREC (QoS 2) arrived.
fn raw_publisher(port: u16, version: u8, qos: u8, name: String, count: Arc<AtomicUsize>) -> Promises {
    std::thread::spawn(move || {
        let (mut wire, _) = Wire::connect(port, &Connect::new(version, &name));
        let mut writer = wire.share();
        let mut promised = Vec::new();
        let mut payloads = vec![String::new(); usize::from(WINDOW) + 1];
        let mut number = 0_usize;
        let mut send = |writer: &mut Wire, id: u16, payloads: &mut Vec<String>| {
            let payload = format!("{name}-{number}");
            number += 1;
            let packet = wire::publish(version, &format!("load/{name}"), payload.as_bytes(), qos, id);
            payloads[usize::from(id)] = payload;
            writer.try_send(&packet).is_ok()
        };
        for id in 1..=WINDOW {
            if !send(&mut writer, id, &mut payloads) {
                return promised;
            }
        }
        while let Ok(packet) = wire.read() {
            let id = packet.id();
            let again = match packet.kind() {
                kind::PUBACK | kind::PUBREC => {
                    assert!(packet.reason() < 0x80, "refused: {packet:?}");
                    promised.push(std::mem::take(&mut payloads[usize::from(id)]));
                    count.fetch_add(1, Ordering::Relaxed);
                    packet.kind() == kind::PUBACK
                }
                kind::PUBCOMP => true,
                other => panic!("unexpected packet type {other}"),
            };
            let sent = if again {
                send(&mut writer, id, &mut payloads)
            } else {
                writer.try_send(&wire::ack(kind::PUBREL, id)).is_ok()
            };
            if !sent {
                // The kill broke the pipe; what was already on its way to us still counts.
                while let Ok(packet) = wire.read() {
                    if matches!(packet.kind(), kind::PUBACK | kind::PUBREC) {
                        promised.push(std::mem::take(&mut payloads[usize::from(packet.id())]));
                    }
                }
                break;
            }
        }
        promised
    })
}

/// A paho publisher: its process prints every payload whose handshake is complete.
fn paho_publisher(port: u16, version: u8, qos: u8, name: &str, count: Arc<AtomicUsize>) -> (Child, Promises) {
    let mut child = paho::python("load.py")
        .args([
            &port.to_string(),
            &version.to_string(),
            name,
            &format!("load/{name}"),
            &qos.to_string(),
            "100",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    let output = BufReader::new(child.stdout.take().unwrap());
    let promises = std::thread::spawn(move || {
        output
            .lines()
            .map_while(Result::ok)
            .inspect(|_| {
                count.fetch_add(1, Ordering::Relaxed);
            })
            .collect()
    });
    (child, promises)
}

fn kill_under_load(qos: u8) {
    let mut server = Server::builder().document_lines().start();
    let mut promised = HashSet::new();
    for round in 0..kills() {
        if round > 0 {
            server.start();
        }
        let counts: [Arc<AtomicUsize>; 4] = Default::default();
        let name = |who: &str| format!("{who}{qos}-{round}");
        let raw: Vec<_> = [4, 5]
            .into_iter()
            .zip(&counts)
            .map(|(v, count)| raw_publisher(server.port, v, qos, name(&format!("raw{v}")), count.clone()))
            .collect();
        let paho: Vec<_> = [4, 5]
            .into_iter()
            .zip(&counts[2..])
            .map(|(v, count)| paho_publisher(server.port, v, qos, &name(&format!("paho{v}")), count.clone()))
            .collect();
        // Not always at the same point of the load.
        let enough = 2_000 + 777 * (round % 10);
        until("the load of every publisher is under way", || {
            let counts = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
            (counts.iter().all(|count| *count > 150) && counts.iter().sum::<usize>() >= enough).then_some(())
        });
        server.kill();
        let mut by_publisher = Vec::new();
        for publisher in raw {
            by_publisher.push(publisher.join().unwrap());
        }
        for (mut child, promises) in paho {
            by_publisher.push(promises.join().unwrap());
            child.wait().unwrap();
        }
        let rows = column(&server.database(), "select cast(payload as text) from mqtt_msg");
        let stored: HashSet<_> = rows.iter().cloned().collect();
        // Each is published once, and never again: its session ends with its connection.
        assert_eq!(stored.len(), rows.len(), "a message was stored twice");
        let counts: Vec<_> = by_publisher.iter().map(Vec::len).collect();
        assert!(counts.iter().all(|count| *count > 0), "every publisher took part: {counts:?}");
        for payload in by_publisher.into_iter().flatten() {
            assert!(promised.insert(payload.clone()), "{payload} was acknowledged twice");
        }
        let missing: Vec<_> = promised.difference(&stored).take(5).collect();
        tell(&format!(
            "QoS {qos} kill {}: acknowledged {counts:?}, in all {}, in the database {}, missing {}",
            round + 1,
            promised.len(),
            stored.len(),
            promised.difference(&stored).count()
        ));
        assert!(missing.is_empty(), "acknowledged but not stored: {missing:?}");
    }
    let integrity = column(&server.database(), "pragma integrity_check");
    assert_eq!(integrity, ["ok"]);
    server.assert_no_panic();
}

#[test]
fn ten_kills_under_qos_1() {
    kill_under_load(1);
}

#[test]
fn ten_kills_under_qos_2() {
    kill_under_load(2);
}
