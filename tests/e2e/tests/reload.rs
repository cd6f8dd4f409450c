//! Saving a module under load: the new version serves from one message to the next, nothing is lost, nothing
//! overtakes, and a broken file changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::server::{text_of, tidegate};
use tidegate_e2e::wait::tell;
use tidegate_e2e::wire::{self, Connect, Wire, kind};
use tidegate_e2e::{Server, guests, until};

/// Messages in flight of each publisher.
const WINDOW: u16 = 50;
const PUBLISHERS: usize = 3;

/// How many saves: twenty, two hundred with `cargo xtask test --long`.
fn saves() -> usize {
    20 * tidegate_e2e::wait::long()
}

/// The field that version `n` of the guest adds; as long as the original name.
fn field(n: usize) -> String {
    format!("v{n:09}")
}

fn version(n: usize) -> Vec<u8> {
    guests::patched(&guests::bytes("fahrenheit"), "fahrenheit", &field(n))
}

/// Publishers and a subscriber that watch every message while the test saves files.
struct Load {
    stop: Arc<AtomicBool>,
    newest: Arc<AtomicU64>,
    publishers: Vec<JoinHandle<u64>>,
    watcher: JoinHandle<Seen>,
    port: u16,
}

/// What the subscriber saw.
#[derive(Default)]
struct Seen {
    /// Messages of each publisher.
    counts: HashMap<u64, u64>,
    /// What must not happen, in words.
    faults: Vec<String>,
    /// Longest time between two messages.
    pause: Duration,
}

impl Load {
    fn start(port: u16) -> Self {
        let (stop, newest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (mut wire, _) = Wire::connect(port, &Connect::new(4, "watcher"));
        wire.send(&wire::subscribe(4, 1, "load/+", 0));
        wire.expect(kind::SUBACK);
        let watcher = {
            let newest = newest.clone();
            std::thread::spawn(move || watch(&mut wire, &newest))
        };
        let publishers = (0..PUBLISHERS)
            .map(|who| {
                let stop = stop.clone();
                std::thread::spawn(move || publish(port, who, &stop))
            })
            .collect();
        Self { stop, newest, publishers, watcher, port }
    }

    /// Waits until a message of this version has arrived.
    fn wait_version(&self, n: usize) {
        until(&format!("version {n} serves"), || {
            (self.newest.load(Ordering::Relaxed) >= u64::try_from(n).unwrap()).then_some(())
        });
    }

    /// Ends the load; gives the number of messages, and panics for every one lost, doubled or reordered.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let sent: Vec<_> = self.publishers.into_iter().map(|p| p.join().unwrap()).collect();
        let (mut last, _) = Wire::connect(self.port, &Connect::new(4, "last"));
        last.send(&wire::publish(4, "load/end", b"end", 1, 1));
        last.expect(kind::PUBACK);
        let seen = self.watcher.join().unwrap();
        let received: Vec<_> = (0..PUBLISHERS)
            .map(|p| seen.counts.get(&u64::try_from(p).unwrap()).copied().unwrap_or(0))
            .collect();
        tell(&format!(
            "sent {sent:?}, received {received:?}, lost {}, faults {}, longest pause {:?}",
            sent.iter().sum::<u64>() - received.iter().sum::<u64>(),
            seen.faults.len(),
            seen.pause
        ));
        assert!(seen.faults.is_empty(), "{:?}", &seen.faults[..seen.faults.len().min(5)]);
        assert_eq!(sent, received, "lost messages");
        sent.iter().sum()
    }
}

/// Publishes numbered readings with a window until told to stop; every one must be acknowledged.
fn publish(port: u16, who: usize, stop: &AtomicBool) -> u64 {
    let (mut wire, _) = Wire::connect(port, &Connect::new(5, &format!("load{who}")));
    let (mut number, mut in_flight) = (0_u64, 0);
    let mut id = 0;
    loop {
        while in_flight < WINDOW && !stop.load(Ordering::Relaxed) {
            id = if id == WINDOW { 1 } else { id + 1 };
            let payload = format!(r#"{{"celsius":20,"who":{who},"n":{number}}}"#);
            wire.send(&wire::publish(5, &format!("load/{who}"), payload.as_bytes(), 1, id));
            (number, in_flight) = (number + 1, in_flight + 1);
        }
        if in_flight == 0 {
            return number;
        }
        let ack = wire.expect(kind::PUBACK);
        assert!(ack.reason() < 0x80, "refused: {ack:?}");
        in_flight -= 1;
        // A steady load, not a saturated machine: the swap has to share two cores with it.
        if number % 25 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Checks every message: transformed by exactly one version, in order, versions never going back.
fn watch(wire: &mut Wire, newest: &AtomicU64) -> Seen {
    let mut seen = Seen::default();
    let mut versions: HashMap<u64, u64> = HashMap::new();
    let mut last = Instant::now();
    loop {
        let (_, _, payload) = wire.expect(kind::PUBLISH).publish(4);
        if payload == b"end" {
            return seen;
        }
        seen.pause = seen.pause.max(last.elapsed());
        last = Instant::now();
        let text = String::from_utf8_lossy(&payload).into_owned();
        let parsed: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        let object = parsed.as_object().unwrap();
        let (who, number) = (object["who"].as_u64().unwrap(), object["n"].as_u64().unwrap());
        let fields: Vec<u64> = object.keys().filter_map(|k| k.strip_prefix('v')?.parse().ok()).collect();
        let expected = seen.counts.entry(who).or_default();
        if number != *expected {
            seen.faults.push(format!("expected number {expected}: {text}"));
        }
        *expected = number + 1;
        match fields[..] {
            [version] => {
                if versions.insert(who, version).is_some_and(|before| before > version) {
                    seen.faults.push(format!("an older version again: {text}"));
                }
                newest.fetch_max(version, Ordering::Relaxed);
            }
            _ => seen.faults.push(format!("not transformed by exactly one version: {text}")),
        }
    }
}

fn swap_under_load(save: fn(&std::path::Path, &[u8])) {
    let server = Server::builder().file("modules/reading.wasm", version(1)).start();
    let target = server.file("modules/reading.wasm");
    let load = Load::start(server.port);
    load.wait_version(1);
    let mut times = Vec::new();
    for n in 2..2 + saves() {
        let bytes = version(n);
        save(&target, &bytes);
        let saved = Instant::now();
        load.wait_version(n);
        times.push(saved.elapsed());
    }
    let messages = load.finish();
    times.sort();
    tell(&format!(
        "{} saves under load, {messages} messages: saved -> first message of the new version p50 {:?}, worst {:?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    ));
    server.assert_no_panic();
}

#[test]
fn saving_by_rename_loses_and_reorders_nothing() {
    swap_under_load(guests::save_by_rename);
}

#[test]
fn saving_in_place_loses_and_reorders_nothing() {
    swap_under_load(guests::save_in_place);
}

#[test]
fn a_broken_file_is_refused_and_the_old_version_goes_on() {
    let server = Server::builder().file("modules/reading.wasm", version(1)).start();
    let target = server.file("modules/reading.wasm");
    let load = Load::start(server.port);
    load.wait_version(1);
    let good = version(2);
    let alien = guests::patched(&guests::bytes("probe"), "tidegate:storage/sql@", "tidegate:storage/xql@");
    for (n, (what, bytes)) in (2..).zip([
        ("half a module", good[..good.len() / 2].to_vec()),
        ("an empty file", Vec::new()),
        ("text", b"not a module".to_vec()),
        ("an unknown import", alien),
    ]) {
        let mark = server.log_mark();
        guests::save_by_rename(&target, &bytes);
        let line = server.wait_log(mark, "the refusal", |line| {
            line.contains("reading") && (line.contains("WARN") || line.contains("ERROR"))
        });
        tell(&format!("{what}: {line}"));
        // And the next good file is taken.
        guests::save_by_rename(&target, &version(n));
        load.wait_version(n);
    }
    load.finish();
    server.assert_no_panic();
}

#[test]
fn a_module_whose_init_fails_does_not_replace_the_one_that_serves() {
    let server = Server::builder().module("probe", "[config]\nconnector = \"sqlite:default\"\n").start();
    let mut client = Paho::connect(server.port, &Options::new(5, "client"));
    client.subscribe("cmd/version/#", 1);
    let mut answer = || {
        client.publish("cmd/version/x", "?", 1);
        client.receive().payload
    };
    assert_eq!(answer(), "probe version 1");
    let mark = server.log_mark();
    std::fs::write(server.file("modules/probe.toml"), "[config]\nfail_init = \"not today\"\n").unwrap();
    let patched = guests::patched(&guests::bytes("probe"), "probe version 1", "probe version 2");
    guests::save_by_rename(&server.file("modules/probe.wasm"), &patched);
    server.wait_log(mark, "init's own words", |line| line.contains("probe") && line.contains("not today"));
    assert_eq!(answer(), "probe version 1");
    std::fs::write(server.file("modules/probe.toml"), "[config]\nconnector = \"sqlite:default\"\n").unwrap();
    guests::save_by_rename(&server.file("modules/probe.wasm"), &patched);
    until("version 2 serves", || (answer() == "probe version 2").then_some(()));
}

#[test]
fn deleting_and_creating_again_unloads_and_loads() {
    let server = Server::builder().start();
    let target = server.file("modules/reading.wasm");
    let mut client = Paho::connect(server.port, &Options::new(4, "client"));
    client.subscribe("t", 1);
    let mut answer = || {
        client.publish("t", r#"{"celsius":10}"#, 1);
        client.receive().payload
    };
    assert_eq!(answer(), r#"{"celsius":10}"#);
    for n in 1..=3 {
        guests::save_in_place(&target, &version(n));
        let expected = format!(r#"{{"celsius":10,"{}":50.0}}"#, field(n));
        until("the module serves", || (answer() == expected).then_some(()));
        std::fs::remove_file(&target).unwrap();
        until("the module is gone", || (answer() == r#"{"celsius":10}"#).then_some(()));
    }
}

#[test]
fn a_burst_of_saves_ends_in_the_last_version() {
    let server = Server::builder().file("modules/reading.wasm", version(1)).start();
    let target = server.file("modules/reading.wasm");
    let load = Load::start(server.port);
    load.wait_version(1);
    for n in 2..=30 {
        let save = if n % 2 == 0 { guests::save_by_rename } else { guests::save_in_place };
        save(&target, &version(n));
    }
    load.wait_version(30);
    load.finish();
}

#[test]
fn modules_list_shows_what_serves() {
    let server =
        Server::builder().file("modules/reading.wasm", version(1)).file("modules/bad.wasm", "x").start();
    let mut client = Paho::connect(server.port, &Options::new(4, "client"));
    for _ in 0..5 {
        client.publish("t", r#"{"celsius":10}"#, 1);
    }
    let output = tidegate(server.path(), &["modules", "list", "--api", &format!("127.0.0.1:{}", server.api)]);
    let text = text_of(&output);
    for word in ["reading", "message.publish", "bad"] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
    let row = text.lines().find(|line| line.contains("reading")).unwrap();
    assert!(row.split_whitespace().any(|word| word == "5"), "five calls: {row}");
}
