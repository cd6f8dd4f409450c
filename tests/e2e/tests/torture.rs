//! Ten modules saved in every way at random while clients publish: nothing is lost, nothing overtakes, the last save of
//! each serves in the end, and the runtime does not grow.
//!
//! Twenty seconds with five clients; ten minutes with twenty in `cargo xtask test --long`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::wait::{long, tell};
use tidegate_e2e::wire::{self, Connect, Wire, kind};
use tidegate_e2e::{Server, guests, until};

const MODULES: usize = 10;
/// Messages in flight of each publisher.
const WINDOW: u16 = 10;
/// Between two messages of a publisher.
const PACE: Duration = Duration::from_millis(20);

fn duration() -> Duration {
    if long() > 1 { Duration::from_secs(600) } else { Duration::from_secs(20) }
}

/// Publishers on sockets of our own; one more is paho's.
fn publishers() -> usize {
    if long() > 1 { 19 } else { 4 }
}

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn pause(&mut self, from: u64, to: u64) {
        sleep(Duration::from_millis(from + self.below(to - from)));
    }
}

/// The field that version `version` of module `module` adds; as long as the original name.
fn field(module: usize, version: u64) -> String {
    format!("m{module}v{version:07}")
}

/// Module and version of a field of a message.
fn parse(field: &str) -> Option<(usize, u64)> {
    let (module, version) = field.strip_prefix('m')?.split_once('v')?;
    Some((module.parse().ok()?, version.parse().ok()?))
}

/// The file of one module, wherever it is.
struct Saver {
    number: usize,
    root: PathBuf,
    /// Directory below the root.
    place: &'static str,
    version: u64,
    original: Arc<Vec<u8>>,
    dice: Dice,
    /// How often it was saved in which way.
    done: HashMap<&'static str, u64>,
}

impl Saver {
    fn path(&self) -> PathBuf {
        self.root.join(self.place).join(format!("m{}.wasm", self.number))
    }

    fn next(&mut self) -> Vec<u8> {
        self.version += 1;
        guests::patched(&self.original, "fahrenheit", &field(self.number, self.version))
    }

    /// Writes in place, in `parts` with pauses.
    fn write_slowly(&mut self, bytes: &[u8], parts: usize, pause: Duration) {
        let mut file = fs::File::create(self.path()).unwrap();
        for part in bytes.chunks(bytes.len() / parts + 1) {
            file.write_all(part).unwrap();
            sleep(pause);
        }
    }

    /// Saves the next version in one of the ways there are, or does what is no new version.
    fn act(&mut self) {
        let way = match self.dice.below(10) {
            0 | 1 => {
                let bytes = self.next();
                guests::save_by_rename(&self.path(), &bytes);
                "rename"
            }
            2 => {
                let bytes = self.next();
                guests::save_in_place(&self.path(), &bytes);
                "in place"
            }
            3 => {
                let bytes = self.next();
                fs::File::options().write(true).open(self.path()).unwrap().set_len(0).unwrap();
                self.dice.pause(1, 300);
                guests::save_in_place(&self.path(), &bytes);
                "truncation"
            }
            4 => {
                let bytes = self.next();
                fs::remove_file(self.path()).unwrap();
                self.dice.pause(1, 300);
                guests::save_in_place(&self.path(), &bytes);
                "deletion"
            }
            5 | 6 => {
                let from = self.path();
                let places = ["", "a", "a/b", "c"];
                self.place = places[usize::try_from(self.dice.below(4)).unwrap()];
                fs::create_dir_all(self.root.join(self.place)).unwrap();
                fs::rename(from, self.path()).unwrap();
                "move"
            }
            7 => {
                let bytes = self.next();
                let pause = Duration::from_millis(100 + self.dice.below(300));
                self.write_slowly(&bytes, 5, pause);
                "slow writer"
            }
            8 => {
                let bytes = self.next();
                let half = &bytes[..bytes.len() / 2];
                guests::save_by_rename(&self.path(), half);
                self.dice.pause(1, 300);
                guests::save_by_rename(&self.path(), &bytes);
                "half a file"
            }
            _ => {
                for _ in 0..5 {
                    let bytes = self.next();
                    guests::save_in_place(&self.path(), &bytes);
                }
                "burst"
            }
        };
        *self.done.entry(way).or_default() += 1;
    }

    fn run(mut self, end: Instant) -> Self {
        while Instant::now() < end {
            self.act();
            self.dice.pause(500, 4_000);
        }
        self
    }
}

/// Publishes numbered readings until told to stop; every one must be acknowledged. Gives how many.
fn publish(port: u16, who: usize, stop: &AtomicBool) -> u64 {
    let (mut wire, _) = Wire::connect(port, &Connect::new(5, &format!("load{who}")));
    let (mut number, mut in_flight, mut id) = (0_u64, 0, 0);
    loop {
        while in_flight < WINDOW && !stop.load(Ordering::Relaxed) {
            id = if id == WINDOW { 1 } else { id + 1 };
            wire.send(&wire::publish(5, &format!("load/{who}"), reading(who, number).as_bytes(), 1, id));
            (number, in_flight) = (number + 1, in_flight + 1);
            sleep(PACE);
        }
        if in_flight == 0 {
            return number;
        }
        let ack = wire.expect(kind::PUBACK);
        assert!(ack.reason() < 0x80, "refused: {ack:?}");
        in_flight -= 1;
    }
}

/// As [`publish`], by paho.
fn publish_by_paho(port: u16, who: usize, stop: &AtomicBool) -> u64 {
    let mut client = Paho::connect(port, &Options::new(5, &format!("load{who}")));
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        client.publish(&format!("load/{who}"), &reading(who, number), 1);
        number += 1;
        sleep(PACE);
    }
    number
}

fn reading(who: usize, number: u64) -> String {
    format!(r#"{{"celsius":20,"who":{who},"n":{number}}}"#)
}

/// What the subscriber saw.
#[derive(Default)]
struct Seen {
    /// Messages of each publisher.
    counts: HashMap<u64, u64>,
    /// What must not happen, in words.
    faults: Vec<String>,
    /// Messages that a module was not there for, as it was being moved or was deleted.
    without: u64,
    /// Longest time between two messages.
    pause: Duration,
}

/// Checks every message: in order, no version of a module going back or beside another.
fn watch(wire: &mut Wire, newest: &[AtomicU64]) -> Seen {
    let mut seen = Seen::default();
    let mut versions: HashMap<(u64, usize), u64> = HashMap::new();
    let mut last = Instant::now();
    loop {
        let (_, id, payload) = wire.expect(kind::PUBLISH).publish(4);
        wire.send(&wire::ack(kind::PUBACK, id));
        if payload == b"end" {
            return seen;
        }
        seen.pause = seen.pause.max(last.elapsed());
        last = Instant::now();
        let text = String::from_utf8_lossy(&payload).into_owned();
        let parsed: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        let object = parsed.as_object().unwrap();
        let (who, number) = (object["who"].as_u64().unwrap(), object["n"].as_u64().unwrap());
        let expected = seen.counts.entry(who).or_default();
        if number != *expected {
            seen.faults.push(format!("expected number {expected}: {text}"));
        }
        *expected = number + 1;
        let by: Vec<_> = object.keys().filter_map(|key| parse(key)).collect();
        seen.without += u64::from(by.len() < MODULES);
        for (at, (module, version)) in by.iter().enumerate() {
            if by.iter().skip(at + 1).any(|(other, _)| other == module) {
                seen.faults.push(format!("two versions of module {module}: {text}"));
            }
            if versions.insert((who, *module), *version).is_some_and(|before| before > *version) {
                seen.faults.push(format!("an older version of module {module} again: {text}"));
            }
            if let Some(newest) = newest.get(*module) {
                newest.store(*version, Ordering::Relaxed);
            }
        }
    }
}

/// Resident memory of a process, in MiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1_024
}

/// `serves after N ms` of every swap the log tells of.
fn swap_times(log: &str) -> Vec<u64> {
    let mut times: Vec<_> = log
        .lines()
        .filter_map(|line| line.split_once(" serves after ")?.1.split_once(" ms")?.0.parse().ok())
        .collect();
    times.sort_unstable();
    times
}

#[test]
fn random_saves_under_load_lose_and_reorder_nothing() {
    let original = Arc::new(guests::bytes("fahrenheit"));
    let mut builder = Server::builder();
    for number in 0..MODULES {
        let bytes = guests::patched(&original, "fahrenheit", &field(number, 1));
        builder = builder.file(&format!("modules/m{number}.wasm"), bytes);
    }
    let server = builder.start();
    let port = server.port;
    let (stop, newest) = (Arc::new(AtomicBool::new(false)), Arc::new([const { AtomicU64::new(0) }; MODULES]));
    let (mut wire, _) = Wire::connect(port, &Connect::new(4, "watcher"));
    wire.send(&wire::subscribe(4, 1, "load/+", 1));
    wire.expect(kind::SUBACK);
    let watcher = {
        let newest = newest.clone();
        std::thread::spawn(move || watch(&mut wire, newest.as_ref()))
    };
    let clients: Vec<JoinHandle<u64>> = (0..=publishers())
        .map(|who| {
            let stop = stop.clone();
            let by_paho = who == publishers();
            std::thread::spawn(move || {
                if by_paho { publish_by_paho(port, who, &stop) } else { publish(port, who, &stop) }
            })
        })
        .collect();

    let mark = server.log_mark();
    let (begin, seed) = (Instant::now(), 0x9E37_79B9_7F4A_7C15);
    let savers: Vec<_> = (0..MODULES)
        .map(|number| {
            let saver = Saver {
                number,
                root: server.file("modules"),
                place: "",
                version: 1,
                original: original.clone(),
                dice: Dice(seed + u64::try_from(number).unwrap()),
                done: HashMap::new(),
            };
            let end = begin + duration();
            std::thread::spawn(move || saver.run(end))
        })
        .collect();
    // Code and stacks of the first swaps are there by then.
    sleep(duration() / 4);
    let before = resident(server.pid());
    let savers: Vec<_> = savers.into_iter().map(|saver| saver.join().unwrap()).collect();
    for saver in &savers {
        let what = format!("the last version of module {} serves: {}", saver.number, saver.version);
        until(&what, || (newest[saver.number].load(Ordering::Relaxed) == saver.version).then_some(()));
    }
    let after = resident(server.pid());

    stop.store(true, Ordering::Relaxed);
    let sent: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let (mut last, _) = Wire::connect(port, &Connect::new(4, "last"));
    last.send(&wire::publish(4, "load/end", b"end", 1, 1));
    last.expect(kind::PUBACK);
    let seen = watcher.join().unwrap();
    let received: Vec<_> = (0..sent.len())
        .map(|who| seen.counts.get(&u64::try_from(who).unwrap()).copied().unwrap_or(0))
        .collect();

    let mut ways: HashMap<&str, u64> = HashMap::new();
    for (way, count) in savers.iter().flat_map(|saver| &saver.done) {
        *ways.entry(way).or_default() += count;
    }
    let times = swap_times(server.log().get(mark..).unwrap());
    let percentile = |hundredth: usize| times.get(times.len() * hundredth / 100).copied().unwrap_or(0);
    tell(&format!("saves by way: {ways:?}"));
    tell(&format!(
        "{} messages of {} clients, lost {}, faults {}, not by all ten modules {}, longest pause {:?}",
        sent.iter().sum::<u64>(),
        sent.len(),
        sent.iter().sum::<u64>().abs_diff(received.iter().sum::<u64>()),
        seen.faults.len(),
        seen.without,
        seen.pause
    ));
    tell(&format!(
        "{} swaps: closed -> serving p50 {} ms, p99 {} ms; memory {before} MiB -> {after} MiB",
        times.len(),
        percentile(50),
        percentile(99)
    ));
    assert!(seen.faults.is_empty(), "{:#?}", &seen.faults[..seen.faults.len().min(5)]);
    assert_eq!(sent, received, "lost messages");
    assert!(times.len() > MODULES, "hardly anything was saved");
    assert!(after <= before + before / 2 + 48, "memory grew from {before} MiB to {after} MiB");
    assert_no_leftovers(&server.file("modules"));
    server.assert_no_panic();
}

/// Every module is in one place, as the test left it.
fn assert_no_leftovers(dir: &Path) {
    let mut found = Vec::new();
    for place in ["", "a", "a/b", "c"] {
        for entry in fs::read_dir(dir.join(place)).into_iter().flatten().flatten() {
            found.extend(entry.path().extension().filter(|end| *end == "wasm").map(|_| entry.path()));
        }
    }
    assert_eq!(found.len(), MODULES, "{found:?}");
}
