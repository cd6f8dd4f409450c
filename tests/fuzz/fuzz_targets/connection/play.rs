//! Plays a scenario: a broker in a runtime whose time is simulated, clients at the ends of pipes, a judge between them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_broker::{Broker, BrokerConfig};
use tidegate_event::{NoHooks, Node, QoS, SessionStore, VolatileStore};
use tokio::runtime::Runtime;

use super::draft::{self, pick};
use super::judge::{Expected, Judge, Seen};
use super::packet::Kind;
use super::pipe::{Pipe, pipe};
use super::scenario::{Act, Connect, Packet, Publish, Scenario, Step};
use super::store::Journal;
use super::wire::Version;
use super::{clock, gauges};

/// Clients of a scenario.
const SLOTS: usize = 4;
/// Seconds that a session lives at most.
const MAX_SESSION_EXPIRY: u32 = 7_200;
/// In which everything that can be done now is done.
const MOMENT: Duration = Duration::from_millis(1);
/// A longer time is passed in leaps: what happens every second is left out.
const LEAP: Duration = Duration::from_secs(150);
const CAPACITIES: [usize; 4] = [65_536, 4_096, 1_024, 512];
const TIMES_MS: [u64; 16] = [
    1, 10, 100, 500, 1_000, 2_000, 5_000, 9_000, 12_000, 30_000, 61_000, 92_000, 120_000, 600_000, 3_600_000,
    10_800_000,
];

/// A client's present connection.
struct Slot {
    pipe: Pipe,
    number: usize,
    version: Version,
    next_id: u16,
    /// Where the next packet is cut.
    cut: Option<usize>,
    /// PUBLISH packets of QoS 1 and 2 that it has sent.
    published: Vec<Vec<u8>>,
}

/// A run of the broker, from its start to its crash.
struct Life {
    broker: Broker,
    runtime: Runtime,
}

struct Play {
    config: BrokerConfig,
    journal: Option<Journal>,
    life: Option<Life>,
    judge: Arc<Mutex<Judge>>,
    slots: [Option<Slot>; SLOTS],
    answering: u8,
    serial: u32,
    connections: u16,
}

/// Plays `scenario` to its end. Gives how far it got.
///
/// # Errors
/// What was wrong first.
pub fn play(scenario: &Scenario) -> Result<Seen, String> {
    clock::begin();
    let play = Play::new(scenario);
    let judge = Arc::clone(&play.judge);
    let result = play.run(scenario);
    clock::end();
    result.map(|()| judge.lock().seen)
}

fn config(scenario: &Scenario) -> BrokerConfig {
    let bit = |bit: u8| scenario.limits & bit != 0;
    let (most, queued) = (
        pick([1_000, 1_000, 1, 5], scenario.queue),
        pick([256 << 20, 256 << 20, 40_000, 1_000], scenario.queue >> 2),
    );
    BrokerConfig {
        max_session_expiry: MAX_SESSION_EXPIRY,
        max_inflight: pick([100, 1, 3, 10], scenario.inflight),
        receive_maximum: pick([1_000, 1_000, 1, 4], scenario.inflight >> 2),
        max_queued: most,
        queue_budget_bytes: queued,
        max_queued_bytes: pick([16 << 20, 16 << 20, 2_000, 20_000], scenario.queue >> 4),
        max_topic_alias: pick([32, 2, 0, 8], scenario.aliases),
        max_topic_alias_out: pick([32, 2, 0, 1], scenario.aliases >> 2),
        max_packet_bytes: if bit(1) { 512 } else { 1 << 20 },
        max_subscriptions: if bit(2) { 3 } else { 10_000 },
        max_retained: if bit(4) { 2 } else { 250_000 },
        max_qos: if bit(8) { QoS::AtLeastOnce } else { QoS::ExactlyOnce },
        retain_available: !bit(16),
        max_keep_alive: if bit(32) { 20 } else { 0 },
        read_ahead_bytes: if bit(64) { 600 } else { 1 << 20 },
        inbound_budget_bytes: if bit(128) { 2_000 } else { 48 << 20 },
        response_information: "answers/${clientid}".into(),
        ..BrokerConfig::default()
    }
}

/// A runtime whose time stands still unless all wait for it.
fn runtime_of_its_own() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime without sockets")
}

impl Play {
    fn new(scenario: &Scenario) -> Self {
        let config = config(scenario);
        let store = scenario.store % 4;
        let expected = Expected {
            max_session_expiry: MAX_SESSION_EXPIRY,
            connect_timeout: config.connect_timeout,
            is_slow: store == 3,
            alias_maximum: config.max_topic_alias,
        };
        let journal = (store > 0).then(Journal::default);
        if store == 3 {
            journal.iter().for_each(Journal::slow);
        }
        let mut play = Self {
            config,
            journal,
            life: None,
            judge: Arc::new(Mutex::new(Judge::new(expected))),
            slots: Default::default(),
            answering: scenario.answering,
            serial: 0,
            connections: 0,
        };
        play.start();
        play
    }

    /// The broker starts.
    fn start(&mut self) {
        gauges::begin();
        let store: Arc<dyn SessionStore> = match &self.journal {
            Some(journal) => Arc::new(journal.clone()),
            None => Arc::new(VolatileStore),
        };
        let runtime = runtime_of_its_own();
        let config = self.config.clone();
        let broker = runtime.block_on(async {
            clock::enter();
            let broker = Broker::new(config, Arc::new(Node::default()), Arc::new(NoHooks), store)
                .expect("a journal can be read");
            // Wills that became due meanwhile, and what waits for its time: as a node does when its handlers are bound.
            broker.begin();
            broker
        });
        self.life = Some(Life { broker, runtime });
    }

    /// The broker stops, whatever it is doing.
    fn stop(&mut self) {
        let Some(Life { broker, runtime }) = self.life.take() else { return };
        drop(runtime);
        clock::leave();
        // Nothing is left that it could do. Its tenants and what they share refer to each other until it is shut down.
        runtime_of_its_own().block_on(async { broker.shutdown(Duration::ZERO).await });
    }

    fn life(&self) -> &Life {
        self.life.as_ref().expect("the broker runs")
    }

    /// The broker is gone from one moment to the next.
    fn crash(&mut self, synced: bool) {
        if let Some(journal) = self.journal.as_ref().filter(|_| synced) {
            journal.sync();
        }
        let found = self.journal.as_ref().map(Journal::after_a_crash);
        self.judge.lock().crash(found.is_some(), synced);
        self.slots = Default::default();
        self.stop();
        if self.judge_is_slow() {
            found.iter().for_each(Journal::slow);
        }
        self.journal = found;
        self.start();
    }

    fn judge_is_slow(&self) -> bool {
        self.judge.lock().is_slow()
    }

    fn run(mut self, scenario: &Scenario) -> Result<(), String> {
        for Step { goes_on, act } in &scenario.steps {
            self.act(act)?;
            if !goes_on {
                self.settle()?;
                self.answer_all()?;
            }
        }
        self.end(scenario.ending)
    }

    /// Lets everybody do what can be done now.
    fn settle(&self) -> Result<(), String> {
        self.life().runtime.block_on(async { tokio::time::sleep(MOMENT).await });
        self.look()
    }

    fn look(&self) -> Result<(), String> {
        let mut judge = self.judge.lock();
        judge.look_at_clock();
        judge.verdict()
    }

    fn wait(&self, time: Duration) -> Result<(), String> {
        if time <= LEAP {
            self.life().runtime.block_on(async { tokio::time::sleep(time).await });
            return self.look();
        }
        const LEAPS: u32 = 6;
        // Who has just come has not looked at the clock yet.
        self.settle()?;
        for _ in 0..LEAPS {
            self.life().runtime.block_on(async {
                self.judge.lock().leaps(time / LEAPS);
                tokio::time::advance(time / LEAPS).await;
            });
            self.settle()?;
        }
        Ok(())
    }

    /// Clients that answer everything do.
    fn answer_all(&mut self) -> Result<(), String> {
        // An answer brings the next message: so many times a window.
        for _ in 0..4 {
            let mut any = false;
            for slot in 0..SLOTS {
                any |= self.answering & 1 << slot != 0 && self.answer(slot, usize::MAX);
            }
            if !any {
                break;
            }
            self.settle()?;
        }
        Ok(())
    }

    /// Gives whether there was something to answer.
    fn answer(&mut self, slot: usize, count: usize) -> bool {
        let Some(Slot { number, version, .. }) = &self.slots[slot] else { return false };
        let answers = self.judge.lock().answers(*number, count);
        let bytes: Vec<u8> =
            answers.iter().flat_map(|(kind, id)| draft::ack(*kind, *id, 0, *version)).collect();
        if let Some(slot) = &self.slots[slot] {
            slot.pipe.send(&bytes);
        }
        !bytes.is_empty()
    }

    fn act(&mut self, act: &Act) -> Result<(), String> {
        let of = |slot: &u8| usize::from(*slot) % SLOTS;
        match act {
            Act::Open { slot, capacity, connect } => {
                self.open(of(slot), *capacity);
                let bytes = self.connect(of(slot), connect);
                self.send(of(slot), &bytes)?;
            }
            Act::Silence { slot, capacity } => self.open(of(slot), *capacity),
            Act::Send { slot, packet } => {
                let bytes = self.packet(of(slot), packet);
                self.send(of(slot), &bytes)?;
            }
            Act::Mangle { slot, packet, how, at, with } => {
                let bytes = self.packet(of(slot), packet);
                if !bytes.is_empty() {
                    self.send(of(slot), &draft::mangle(bytes, *how, *at, *with))?;
                }
            }
            Act::Raw { slot, bytes } => self.send(of(slot), bytes)?,
            Act::Cut { slot, at } => {
                self.slots[of(slot)].iter_mut().for_each(|slot| slot.cut = Some(usize::from(*at)));
            }
            Act::Answer { slot, count } => {
                self.answer(of(slot), usize::from(*count));
            }
            Act::Again { slot, which } => {
                let bytes = self.slots[of(slot)].as_ref().map_or(Vec::new(), |slot| {
                    let all = &slot.published;
                    all.get(usize::from(*which) % all.len().max(1)).cloned().unwrap_or_default()
                });
                self.send(of(slot), &bytes)?;
            }
            Act::Flood { slot, count, publish } => {
                for _ in 0..*count % 64 {
                    let bytes = self.publish(of(slot), publish);
                    self.send(of(slot), &bytes)?;
                }
            }
            Act::Read { slot, amount } => {
                if let Some(slot) = &self.slots[of(slot)] {
                    slot.pipe.read(usize::from(*amount) * 16, *amount == u8::MAX);
                }
            }
            Act::Close { slot, how } => match how % 4 {
                0 => {
                    if let Some(slot) = &self.slots[of(slot)] {
                        slot.pipe.end();
                    }
                }
                _ => self.slots[of(slot)] = None,
            },
            Act::Wait { time } => {
                self.wait(Duration::from_millis(pick(TIMES_MS, *time)))?;
            }
            Act::Sync { all } => self.sync(*all),
            Act::Crash { synced } => self.crash(*synced),
        }
        Ok(())
    }

    fn sync(&self, all: bool) {
        if let Some(journal) = &self.journal {
            if all {
                journal.sync();
            } else {
                journal.sync_one();
            }
        }
    }

    fn open(&mut self, slot: usize, capacity: u8) {
        let number = self.judge.lock().open();
        let (pipe, end) = pipe(&self.judge, number, pick(CAPACITIES, capacity));
        self.connections += 1;
        let peer = std::net::SocketAddr::from(([192, 0, 2, 1], self.connections));
        let life = self.life();
        life.runtime.spawn(life.broker.serve(end, peer));
        self.slots[slot] =
            Some(Slot { pipe, number, version: Version::V5, next_id: 100, cut: None, published: Vec::new() });
    }

    fn send(&mut self, slot: usize, bytes: &[u8]) -> Result<(), String> {
        let Some(slot) = &mut self.slots[slot] else { return Ok(()) };
        let at = slot.cut.take().unwrap_or(0);
        if at == 0 || at >= bytes.len() {
            slot.pipe.send(bytes);
            return Ok(());
        }
        let number = slot.number;
        slot.pipe.send(&bytes[..at]);
        self.settle()?;
        if let Some(slot) = self.slots.iter().flatten().find(|slot| slot.number == number) {
            slot.pipe.send(&bytes[at..]);
        }
        Ok(())
    }

    fn connect(&mut self, slot: usize, connect: &Connect) -> Vec<u8> {
        self.serial += 1;
        if let Some(slot) = &mut self.slots[slot] {
            slot.version = draft::who(connect).0;
        }
        draft::connect(connect, self.serial)
    }

    fn publish(&mut self, slot: usize, publish: &Publish) -> Vec<u8> {
        self.serial += 1;
        let Some(slot) = &mut self.slots[slot] else { return Vec::new() };
        let packet_id = slot.free_id(publish.packet_id);
        let bytes = draft::publish(publish, slot.version, packet_id, self.serial);
        if draft::qos(publish) > 0 {
            let mut again = bytes.clone();
            again[0] |= 8;
            slot.published.push(again);
        }
        bytes
    }

    /// The bytes of `packet`; none without a connection.
    fn packet(&mut self, at: usize, packet: &Packet) -> Vec<u8> {
        match packet {
            Packet::Connect { connect } => return self.connect(at, connect),
            Packet::Publish { publish } => return self.publish(at, publish),
            _ => {}
        }
        let Some(slot) = &mut self.slots[at] else { return Vec::new() };
        let version = slot.version;
        match packet {
            Packet::Connect { .. } | Packet::Publish { .. } => Vec::new(),
            Packet::Ack { kind, which, reason } => {
                let kind = pick([Kind::PubAck, Kind::PubRec, Kind::PubRel, Kind::PubComp], *kind);
                let known = self.judge.lock().some_id(slot.number, usize::from(*which));
                let id = match which {
                    0..192 => known.unwrap_or(0xff00),
                    192..224 => 1 + u16::from(which % 8),
                    _ => 0xff00 + u16::from(*which),
                };
                draft::ack(kind, id, *reason, version)
            }
            Packet::Subscribe { id, first, more } => {
                let wanted: Vec<_> = std::iter::once(first).chain(more.iter().take(5)).cloned().collect();
                draft::subscribe(slot.free_id(0), *id, &wanted, version)
            }
            Packet::Unsubscribe { first, second } => {
                let filters: Vec<u8> = std::iter::once(*first).chain(*second).collect();
                draft::unsubscribe(slot.free_id(0), &filters, version)
            }
            Packet::Ping {} => draft::framed(0xc0, &[]),
            Packet::Disconnect { reason, expiry } => draft::disconnect(*reason, *expiry, version),
            Packet::Auth { reason, method } => draft::auth(*reason, *method),
        }
    }

    /// All clients go, and nothing is left of them.
    fn end(mut self, how: u8) -> Result<(), String> {
        for slot in self.slots.iter().flatten() {
            slot.pipe.read(0, true);
        }
        self.sync(true);
        self.settle()?;
        if how % 4 == 3 {
            return self.shut_down();
        }
        if how % 2 == 0 {
            self.slots = Default::default();
        }
        for _ in 0..4 {
            self.sync(true);
            self.settle()?;
        }
        self.slots = Default::default();
        // As long as a connection without CONNECT may last.
        self.wait(Duration::from_secs(14))?;
        self.sync(true);
        self.settle()?;
        self.expect("connections", self.life().broker.connections(), 0)?;
        for _ in 0..3 {
            self.wait(Duration::from_secs(u64::from(MAX_SESSION_EXPIRY)))?;
            self.sync(true);
        }
        // The gauge of the queues is set every ten seconds.
        self.wait(Duration::from_secs(11))?;
        self.expect("sessions", self.life().broker.sessions(), 0)?;
        for (name, most) in [
            ("tidegate_broker_connections", 0),
            ("tidegate_broker_sessions", 0),
            ("tidegate_broker_handshakes", 0),
            ("tidegate_broker_queued_bytes", 0),
            ("tidegate_broker_retained_messages", self.judge.lock().retained()),
        ] {
            let level = gauges::level(name);
            if !(0.0..=most as f64).contains(&level) {
                return Err(format!("{name} is {level} at the end, at most {most} can be"));
            }
        }
        if let Some(journal) = &self.journal {
            self.expect("sessions in the store", journal.sessions().len(), 0)?;
            self.expect("wills in the store", journal.wills(), 0)?;
        }
        self.leave()
    }

    fn shut_down(self) -> Result<(), String> {
        self.judge.lock().stop();
        self.life().runtime.block_on(self.life().broker.shutdown(Duration::from_secs(5)));
        self.look()?;
        self.expect("connections after a shutdown", self.life().broker.connections(), 0)?;
        self.leave()
    }

    fn leave(mut self) -> Result<(), String> {
        self.stop();
        self.look()?;
        self.expect("pipes that the broker holds", self.judge.lock().connected(), 0)
    }

    fn expect(&self, what: &str, found: usize, expected: usize) -> Result<(), String> {
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found} {what} at the end, expected {expected}"))
        }
    }
}

impl Slot {
    /// The id that is asked for, or, for 0, one that was not used before.
    fn free_id(&mut self, asked: u8) -> u16 {
        if asked > 0 {
            return 1 + u16::from(asked % 8);
        }
        self.next_id += 1;
        self.next_id
    }
}
