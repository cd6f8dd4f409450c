//! The judge: sees every byte that the broker reads and writes, in the order in which it does, and says what breaks the
//! standard. What the standard leaves open, or what the judge cannot know, is allowed.

mod broker;
mod client;
mod connack;
mod deadline;
mod delivery;
mod message;
mod session;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use self::message::Messages;
use self::session::Session;
use super::clock;
use super::packet::{self, Connect, FromClient, Kind, Refusal, Wanted};
use super::wire::{Reader, Version};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No CONNECT was read.
    Silent,
    /// CONNECT was read.
    Asked,
    /// CONNACK was written.
    Connected,
    /// CONNACK with an error was written.
    Refused,
    /// What was read is not understood.
    Unknown,
}

/// A network connection.
struct Connection {
    phase: Phase,
    version: Option<Version>,
    connect: Option<Box<Connect>>,
    client_id: String,
    /// Bytes that are no whole packet yet.
    input: Vec<u8>,
    output: Vec<u8>,
    /// Packets that were read before CONNACK was written.
    early: VecDeque<FromClient>,
    session: Option<usize>,
    is_resumed: bool,
    keep_alive: u16,
    receive_maximum: usize,
    max_packet: usize,
    alias_maximum: u16,
    aliases_in: HashMap<u16, String>,
    aliases_out: HashMap<u16, String>,
    /// Acknowledgements that the client may expect, and how many.
    expected: HashMap<(Kind, u16), u32>,
    subscribing: HashMap<u16, VecDeque<Vec<Wanted>>>,
    unsubscribing: HashMap<u16, VecDeque<Vec<String>>>,
    pings: u32,
    /// PUBREC that were read and not answered.
    receipts: HashMap<u16, u32>,
    /// Ids of deliveries that the client has not acknowledged.
    outstanding: BTreeSet<u16>,
    /// What a client that keeps to the protocol answers, oldest first.
    owed: VecDeque<(Kind, u16)>,
    will: Option<usize>,
    opened: Duration,
    /// When CONNECT was read.
    asked: Duration,
    /// When the last whole packet was read.
    heard: Duration,
    /// When the broker has read or written anything.
    active: Duration,
    /// When it was last written to in the moment to which time had leapt.
    leapt: Duration,
    /// Why the broker has to close it, and since when.
    must_close: Option<(String, Duration)>,
    /// The client has done something that is an error, or may be one: the broker may close.
    is_excused: bool,
    /// What comes from the client does not count any more.
    is_deaf: bool,
    is_wild: bool,
    /// Another connection has asked for the same client id since.
    is_claimed: bool,
    has_stalled: bool,
    client_is_gone: bool,
    /// The broker could write nothing, because the client is gone: it ends the connection for that, whatever it has read.
    has_failed: bool,
    said_disconnect: bool,
    is_shut: bool,
    is_dropped: bool,
}

impl Connection {
    /// The client by a name that no other has.
    fn name(&self, number: usize) -> String {
        if self.client_id.is_empty() { format!("nameless {number}") } else { self.client_id.clone() }
    }

    /// Whether the broker must have come to the DISCONNECT that was read: it has not ended the connection for another reason.
    fn has_said_good_bye(&self) -> bool {
        !self.said_disconnect && !self.has_stalled && !self.has_failed
    }
}

/// What the broker was configured to.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub max_session_expiry: u32,
    /// Longest time until CONNECT.
    pub connect_timeout: Duration,
    /// Nothing is durable before the store says so, which may take any time.
    pub is_slow: bool,
    /// Greatest topic alias that clients may use.
    pub alias_maximum: u16,
}

/// Time that the broker has to close a connection, after the second it gives its peer to take the last bytes.
const PATIENCE: Duration = Duration::from_secs(3);

/// How far a scenario got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// CONNACK without an error, and those of them with a session.
    pub connected: u32,
    pub resumed: u32,
    /// PUBLISH to clients, by QoS, and those of them with DUP.
    pub delivered: [u32; 3],
    pub repeated: u32,
    /// Acknowledgements to clients, PINGRESP among them.
    pub answers: u32,
    /// DISCONNECT to clients.
    pub disconnected: u32,
}

pub struct Judge {
    /// How far it got.
    pub seen: Seen,
    expected: Expected,
    connections: Vec<Connection>,
    sessions: Vec<Session>,
    by_client: HashMap<String, usize>,
    /// CONNECT packets of a client that were read and not answered: what its session is is not known until they are.
    asked: HashMap<String, Vec<usize>>,
    messages: Messages,
    /// Packets seen so far: the order in which things happened.
    count: u64,
    is_stopping: bool,
    /// The moment to which time has leapt last.
    leap: Duration,
    /// A client has done something that is not understood: what sessions there are and what was published is not known any
    /// more.
    is_lost: bool,
    faults: Vec<String>,
}

impl Judge {
    pub fn new(expected: Expected) -> Self {
        Self {
            seen: Seen::default(),
            expected,
            connections: Vec::new(),
            sessions: Vec::new(),
            by_client: HashMap::new(),
            asked: HashMap::new(),
            messages: Messages::default(),
            count: 0,
            is_stopping: false,
            leap: Duration::ZERO,
            is_lost: false,
            faults: Vec::new(),
        }
    }

    /// The first thing that was wrong, if anything was.
    pub fn verdict(&self) -> Result<(), String> {
        self.faults.first().map_or(Ok(()), |fault| Err(fault.clone()))
    }

    fn fault(&mut self, connection: usize, what: impl AsRef<str>) {
        let what = what.as_ref();
        let (client, at) = (&self.connections[connection].client_id, clock::passed());
        self.faults.push(format!("connection {connection} of client {client:?} after {at:?}: {what}"));
    }

    /// A connection is opened. Gives its number.
    pub fn open(&mut self) -> usize {
        let now = clock::passed();
        self.connections.push(Connection {
            phase: Phase::Silent,
            version: None,
            connect: None,
            client_id: String::new(),
            input: Vec::new(),
            output: Vec::new(),
            early: VecDeque::new(),
            session: None,
            is_resumed: false,
            keep_alive: 0,
            receive_maximum: usize::from(u16::MAX),
            max_packet: usize::MAX,
            alias_maximum: 0,
            aliases_in: HashMap::new(),
            aliases_out: HashMap::new(),
            expected: HashMap::new(),
            subscribing: HashMap::new(),
            unsubscribing: HashMap::new(),
            pings: 0,
            receipts: HashMap::new(),
            outstanding: BTreeSet::new(),
            owed: VecDeque::new(),
            will: None,
            opened: now,
            asked: now,
            heard: now,
            active: now,
            leapt: now,
            must_close: None,
            is_excused: false,
            is_deaf: false,
            is_wild: false,
            is_claimed: false,
            has_stalled: false,
            client_is_gone: false,
            has_failed: false,
            said_disconnect: false,
            is_shut: false,
            is_dropped: false,
        });
        self.connections.len() - 1
    }

    /// The broker has read `bytes`.
    pub fn heard(&mut self, connection: usize, bytes: &[u8]) {
        let this = &mut self.connections[connection];
        this.active = clock::passed();
        if this.is_deaf {
            return;
        }
        this.input.extend_from_slice(bytes);
        loop {
            let this = &mut self.connections[connection];
            let input = std::mem::take(&mut this.input);
            let (taken, read) = match packet::frame(&input) {
                None => {
                    this.input = input;
                    return;
                }
                Some(Err(wrong)) => (input.len(), Err(Refusal::Bad(wrong.0))),
                Some(Ok(frame)) => {
                    if this.version.is_none() {
                        this.version = version_of(&input);
                    }
                    let version = this.version.filter(|_| this.phase != Phase::Silent);
                    (frame.size, packet::from_client(&frame, version))
                }
            };
            self.count += 1;
            let this = &mut self.connections[connection];
            this.input = input[taken..].to_vec();
            match read {
                Ok(packet) => {
                    this.heard = clock::passed();
                    self.take(connection, packet);
                }
                // Clause 4.13.1, `[MQTT-4.8.0-1]` of 3.1.1: the connection is closed.
                Err(Refusal::Bad(why)) => {
                    this.must_close = Some((format!("a bad packet was read: {why}"), clock::passed()));
                    (this.is_excused, this.is_deaf) = (true, true);
                    return;
                }
                Err(Refusal::Unsure) => {
                    (this.is_excused, this.is_deaf) = (true, true);
                    this.phase = Phase::Unknown;
                    self.is_lost = true;
                    self.sessions.iter_mut().for_each(|session| session.is_known = false);
                    return;
                }
            }
        }
    }

    /// The broker has seen the end of what the client sends.
    pub fn heard_end(&mut self, connection: usize) {
        let this = &mut self.connections[connection];
        this.client_is_gone = true;
        this.active = clock::passed();
    }

    /// The broker could write nothing, because the client has not read.
    pub fn stalled(&mut self, connection: usize) {
        self.connections[connection].has_stalled = true;
    }

    /// The broker could write nothing, because the client is gone.
    pub fn failed(&mut self, connection: usize) {
        self.connections[connection].has_failed = true;
    }

    /// The broker has written `bytes`.
    pub fn said(&mut self, connection: usize, bytes: &[u8]) {
        let leap = self.leap;
        let this = &mut self.connections[connection];
        this.active = clock::passed();
        if this.active == leap {
            this.leapt = leap;
        }
        this.output.extend_from_slice(bytes);
        loop {
            let this = &mut self.connections[connection];
            let version = this.version.or_else(|| version_of(&this.input)).unwrap_or(Version::V311);
            let output = std::mem::take(&mut this.output);
            let (size, read) = match packet::frame(&output) {
                None => {
                    this.output = output;
                    return;
                }
                Some(Err(wrong)) => (output.len(), Err(wrong)),
                Some(Ok(frame)) => (frame.size, packet::from_broker(&frame, version)),
            };
            self.count += 1;
            match read {
                Ok(packet) => self.judge(connection, packet, size),
                // Every packet is well formed: chapters 2 and 3.
                Err(wrong) => {
                    let shown = &output[..size.min(80)];
                    self.fault(connection, format!("the broker sends no packet: {}: {shown:02x?}", wrong.0));
                }
            }
            self.connections[connection].output = output[size..].to_vec();
        }
    }

    /// The broker has closed its side of the connection.
    pub fn shut(&mut self, connection: usize) {
        let this = &mut self.connections[connection];
        this.is_shut = true;
        if !this.output.is_empty() {
            self.fault(connection, "the broker ends in the middle of a packet");
        }
    }

    /// The broker has let go of the connection.
    pub fn dropped(&mut self, connection: usize) {
        let this = &mut self.connections[connection];
        this.is_dropped = true;
        if this.phase == Phase::Asked {
            self.unanswered(connection);
        }
        let this = &self.connections[connection];
        if let Some(session) = this.session {
            let active = this.active;
            let session = &mut self.sessions[session];
            if session.current == Some(connection) {
                let now = clock::passed();
                session.current = None;
                // It lets go of the session before it says the last words, and time may have leapt since.
                session.gone = Some((active.saturating_sub(PATIENCE), now));
            }
        }
    }

    /// Time leaps from now on by `time`: what was to be done meanwhile is all done at its end, in any order.
    pub fn leaps(&mut self, time: Duration) {
        self.leap = clock::passed() + time;
    }

    /// The broker is told to stop: it may close every connection.
    pub fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// The broker has crashed. `kept`: its store is kept; `synced`: with all that was recorded.
    pub fn crash(&mut self, kept: bool, synced: bool) {
        let now = clock::passed();
        for this in &mut self.connections {
            this.is_dropped = true;
            this.is_deaf = true;
        }
        self.messages.crash();
        if !kept {
            self.by_client.clear();
            self.asked.clear();
            return;
        }
        // A session that ends with its connection is not recorded, and CONNACK waits until the end of the one before it is.
        let sessions = &mut self.sessions;
        self.by_client.retain(|_, session| {
            let session = &mut sessions[*session];
            session.crash(synced, now);
            session.expiry.1 > 0 || !session.is_known
        });
    }

    /// What a client that keeps to the protocol would answer next, at most `count`.
    pub fn answers(&mut self, connection: usize, count: usize) -> Vec<(Kind, u16)> {
        let owed = &mut self.connections[connection].owed;
        owed.drain(..count.min(owed.len())).collect()
    }

    /// A packet id that means something on the connection, if there is any.
    pub fn some_id(&self, connection: usize, which: usize) -> Option<u16> {
        let this = &self.connections[connection];
        let ids: Vec<u16> = this
            .outstanding
            .iter()
            .copied()
            .chain(this.expected.keys().map(|(_, id)| *id).collect::<BTreeSet<_>>())
            .collect();
        ids.get(which % ids.len().max(1)).copied()
    }

    /// Whether the store takes its time.
    pub fn is_slow(&self) -> bool {
        self.expected.is_slow
    }

    /// How many topics may have retained messages.
    pub fn retained(&self) -> usize {
        if self.is_lost { usize::MAX } else { self.messages.retained() }
    }

    /// How many connections the broker has not let go of.
    pub fn connected(&self) -> usize {
        self.connections.iter().filter(|this| !this.is_dropped).count()
    }
}

/// The version at the start of CONNECT, as soon as it is there.
fn version_of(input: &[u8]) -> Option<Version> {
    let (_, length_len) = super::wire::varint(input.get(1..)?)?;
    let mut reader = Reader(input.get(1 + length_len..)?);
    match (reader.binary().ok()?, reader.byte().ok()?) {
        (b"MQIsdp", 3) => Some(Version::V31),
        (b"MQTT", 4) => Some(Version::V311),
        // With an unknown name it is refused, and told so (MQTT 5 clause 3.1.2.1) in the version that the level is of.
        (_, 5) => Some(Version::V5),
        _ => None,
    }
}
