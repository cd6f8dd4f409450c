//! A guest that floods the log, a database or its own topic stays within its quota and is named in the log, and
//! clients it has nothing to do with go on.
//!
//! The guest is `guests/probe`, bound to `cmd/#`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidegate_e2e::sqlite::count;
use tidegate_e2e::wait::tell;
use tidegate_e2e::wire::{self, Connect, Wire, kind};
use tidegate_e2e::{Server, until};

/// The computing time is not what is tried here, and a test machine may be slow.
const MANIFEST: &str = "hooks = { \"message.publish\" = [\"cmd/#\"] }\n\
                        [config]\nconnector = \"sqlite:default\"\n[limits]\ncpu = \"10s\"\n";
const PROBE: &str = "module=\"probe\"";
/// The default of `limits.log_bytes`, and what a line costs beyond its own bytes.
const LOG_BYTES: usize = 64 << 10;
const LINE_COST_BYTES: usize = 64;
/// The default of `limits.storage_ops`.
const STORAGE_OPS: usize = 100;
/// How many module publishes may lie behind a message.
const HOP_LIMIT: usize = 8;
/// A round trip of others that takes longer means that the flood holds them up.
const NOT_HELD_UP: Duration = Duration::from_secs(5);

fn server(configuration: &str) -> Server {
    Server::builder().file("tidegate.toml", configuration).module("probe", MANIFEST).start()
}

fn database(server: &Server) -> PathBuf {
    server.file("data/tidegate.db")
}

/// What a bystander does at least, however short the flood is.
const ROUND_TRIPS: u32 = 100;

/// A client that the guest has nothing to do with: it publishes to itself, one message after the other.
struct Bystander {
    stop: Arc<AtomicBool>,
    running: JoinHandle<(u32, Duration)>,
}

impl Bystander {
    fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut wire, _) = Wire::connect(port, &Connect::new(4, "bystander"));
        wire.send(&wire::subscribe(4, 1, "others/x", 0));
        wire.expect(kind::SUBACK);
        let seen = stop.clone();
        let running = std::thread::spawn(move || {
            let (mut number, mut longest) = (0_u32, Duration::ZERO);
            while !seen.load(Ordering::Relaxed) || number < ROUND_TRIPS {
                let sent = Instant::now();
                wire.send(&wire::publish(4, "others/x", &number.to_be_bytes(), 0, 0));
                assert_eq!(
                    wire.expect(kind::PUBLISH).publish(4).2,
                    number.to_be_bytes(),
                    "in order, none lost"
                );
                longest = longest.max(sent.elapsed());
                number += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            (number, longest)
        });
        Self { stop, running }
    }

    /// Ends it; panics when it was held up.
    fn finish(self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let (number, longest) = self.running.join().unwrap();
        tell(&format!("{what}: {number} round trips of another client meanwhile, the longest {longest:?}"));
        assert!(longest < NOT_HELD_UP, "{longest:?}");
    }
}

/// Publishes `events` messages to `cmd/COMMAND/x` at QoS 1, one after the other, while a bystander watches.
fn flood(server: &Server, command: &str, events: u16) {
    let bystander = Bystander::start(server.port);
    let (mut wire, _) = Wire::connect(server.port, &Connect::new(5, "flooder"));
    for id in 1..=events {
        wire.send(&wire::publish(5, &format!("cmd/{command}/x"), b"x", 1, id));
        let answer = wire.expect(kind::PUBACK);
        assert!(answer.reason() < 0x80, "{answer:?}");
    }
    bystander.finish(command);
}

/// Lines that name the guest and hold all of `words`.
fn named(server: &Server, words: &[&str]) -> usize {
    let is = |line: &&str| line.contains(PROBE) && words.iter().all(|word| line.contains(word));
    server.log().lines().filter(is).count()
}

#[test]
fn a_guest_that_floods_the_log_is_cut_off_for_the_event_and_named() {
    const EVENTS: u16 = 20;
    const LINES: usize = 10_000;
    let mut server = server("");
    flood(&server, "flood-log", EVENTS);
    let events = usize::from(EVENTS);
    let written = named(&server, &["flood line "]);
    let dropped = server.metric("tidegate_module_log_lines_dropped_total", PROBE);
    tell(&format!("{written} of {} lines were written, {dropped} dropped", events * LINES));
    assert!(written >= events * 100 && written <= events * LOG_BYTES / LINE_COST_BYTES, "{written}");
    assert_eq!(dropped, (events * LINES - written) as f64);
    let said = named(&server, &["WARN", "log_bytes"]);
    assert!((1..=events).contains(&said), "said at most once an event and a second: {said} times");
    assert!(server.is_alive());
}

#[test]
fn a_guest_that_floods_a_database_is_refused_beyond_its_calls_and_named() {
    const EVENTS: u16 = 3;
    const CALLS: usize = 1_000;
    let mut server = server("");
    flood(&server, "flood-storage", EVENTS);
    let events = usize::from(EVENTS);
    let stored = count(&database(&server), "select count(*) from probe_event where hook = 'flood'");
    let denied = server.metric("tidegate_module_storage_ops_denied_total", PROBE);
    tell(&format!("{stored} of {} rows were stored, {denied} calls refused", events * CALLS));
    // The probe's own record of the event is the first of its calls.
    assert_eq!(stored, events * (STORAGE_OPS - 1));
    assert_eq!(denied, (events * CALLS - stored) as f64);
    let said = named(&server, &["WARN", "storage_ops"]);
    assert!((1..=events).contains(&said), "said at most once an event and a second: {said} times");
    assert!(server.is_alive());
}

#[test]
fn a_guest_that_publishes_to_its_own_topic_stops_at_the_hop_limit() {
    let mut server = server("");
    flood(&server, "echo", 1);
    server.wait_log(0, "the end of the echo", |line| {
        line.contains(PROBE) && line.contains("too many module publishes")
    });
    let echoes = count(&database(&server), "select count(*) from probe_event where topic = 'cmd/echo/x'");
    assert_eq!(echoes, 1 + HOP_LIMIT);
    assert!(server.is_alive());
}

#[test]
fn a_guest_that_multiplies_its_own_messages_is_bounded_by_the_queue_and_the_hop_limit() {
    const QUEUE: usize = 100;
    let mut server = server(&format!("[broker]\nmax_commands = {QUEUE}\n"));
    let calls = || server.metric("tidegate_module_calls_total", PROBE);
    let bystander = Bystander::start(server.port);
    let (mut wire, _) = Wire::connect(server.port, &Connect::new(5, "flooder"));
    wire.send(&wire::publish(5, "cmd/flood-publish/x", b"x", 1, 1));
    wire.expect(kind::PUBACK);
    let (mut last, mut since) = (calls(), Instant::now());
    until("the flood has ended", || {
        let now = calls();
        if now > last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(1)).then_some(())
    });
    bystander.finish("flood-publish");
    tell(&format!("one message became {last} events"));
    // Every generation fits the queue, but for the one that is being handled.
    assert!(last > QUEUE as f64 && last <= (1 + HOP_LIMIT * (QUEUE + 1)) as f64, "{last}");
    assert!(named(&server, &["too many module publishes"]) >= 1);
    assert!(server.is_alive());
}
