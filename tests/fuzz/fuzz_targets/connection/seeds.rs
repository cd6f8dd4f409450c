//! Scenarios that reach deep: what a fuzzer would take long to find. `seeds/connection` has them as bytes.

use super::draft::TOPIC_LONG;
use super::scenario::{Act, Connect, Encode, Packet, Publish, Scenario, Step, Subscription, Will};

/// Places in the lists of `draft`.
const A: u8 = 0;
const B: u8 = 1;
const C: u8 = 2;
const CLEAN: u8 = 1;
const V5: u8 = 0;
const V311: u8 = 2;
const V31: u8 = 3;
const RETAIN: u8 = 4;
const EMPTY: u8 = 16;
const MINUTE: u8 = 4;
const HOUR: u8 = 5;
const FOR_EVER: u8 = 7;
const SECOND: u8 = 4;
const SECONDS_12: u8 = 8;
const MINUTES_2: u8 = 12;
const HOURS_3: u8 = 15;
const SHARED: u8 = 7;
const HASH: u8 = 4;

#[derive(Default)]
struct Script {
    scenario: Scenario,
}

impl Script {
    fn new() -> Self {
        Self::default()
    }

    /// Clients that answer everything, by bits.
    fn answering(mut self, bits: u8) -> Self {
        self.scenario.answering = bits;
        self
    }

    fn store(mut self, store: u8) -> Self {
        self.scenario.store = store;
        self
    }

    fn limits(mut self, limits: u8, inflight: u8, queue: u8, aliases: u8) -> Self {
        let scenario = &mut self.scenario;
        (scenario.limits, scenario.inflight, scenario.queue, scenario.aliases) =
            (limits, inflight, queue, aliases);
        self
    }

    fn ending(mut self, ending: u8) -> Self {
        self.scenario.ending = ending;
        self
    }

    fn act(mut self, act: Act) -> Self {
        self.scenario.steps.push(Step { goes_on: false, act });
        self
    }

    /// The last step and the next are one.
    fn and(mut self) -> Self {
        self.scenario.steps.iter_mut().last().into_iter().for_each(|step| step.goes_on = true);
        self
    }

    fn open(self, slot: u8, connect: Connect) -> Self {
        self.act(Act::Open { slot, capacity: 0, connect })
    }

    fn send(self, slot: u8, packet: Packet) -> Self {
        self.act(Act::Send { slot, packet })
    }

    fn subscribe(self, slot: u8, filter: u8, options: u8) -> Self {
        let first = Subscription { filter, options };
        self.send(slot, Packet::Subscribe { id: 0, first, more: Vec::new() })
    }

    fn publish(self, slot: u8, topic: u8, flags: u8) -> Self {
        self.send(slot, Packet::Publish { publish: message(topic, flags) })
    }

    fn answer(self, slot: u8) -> Self {
        self.act(Act::Answer { slot, count: 1 })
    }

    fn wait(self, time: u8) -> Self {
        self.act(Act::Wait { time })
    }

    fn close(self, slot: u8) -> Self {
        self.act(Act::Close { slot, how: 1 })
    }

    fn disconnect(self, slot: u8, reason: u8) -> Self {
        self.send(slot, Packet::Disconnect { reason, expiry: 0 })
    }
}

fn connect(version: u8, client: u8, flags: u8) -> Connect {
    Connect { version, client, flags, ..Connect::default() }
}

/// An MQTT 5 client whose session lives for an hour.
fn persistent(client: u8) -> Connect {
    Connect { expiry: HOUR, ..connect(V5, client, 0) }
}

fn message(topic: u8, flags: u8) -> Publish {
    Publish { topic, flags, ..Publish::default() }
}

/// Every seed by its name.
pub fn all() -> Vec<(&'static str, Scenario)> {
    let scripts = [exchanges(), sessions(), limits(), crashes(), shared(), errors()];
    scripts.into_iter().flatten().map(|(name, script)| (name, script.scenario)).collect()
}

/// The bytes of `scenario`.
pub fn bytes(scenario: &Scenario) -> Vec<u8> {
    let mut out = Vec::new();
    scenario.encode(&mut out);
    out
}

type Seeds = Vec<(&'static str, Script)>;

fn exchanges() -> Seeds {
    let two = |version| {
        Script::new()
            .answering(0b1111)
            .open(0, connect(version, A, CLEAN))
            .open(1, connect(version, B, CLEAN))
            .subscribe(0, 2, 2)
            .publish(1, 1, 0)
            .publish(1, 1, 1)
            .publish(1, 1, 2)
            .send(0, Packet::Ping {})
            .send(0, Packet::Unsubscribe { first: 2, second: None })
            .publish(1, 1, 2)
            .disconnect(0, 0)
            .disconnect(1, 0)
    };
    let subscribe_all = |slot| Act::Send {
        slot,
        packet: Packet::Subscribe {
            id: 3,
            first: Subscription { filter: HASH, options: 2 },
            more: vec![
                Subscription { filter: 1, options: 0x19 },
                Subscription { filter: 3, options: 0x0d },
                Subscription { filter: 10, options: 0 },
            ],
        },
    };
    let rich = Publish { properties: 63, expiry: 6, length: 4, ..message(1, 2) };
    vec![
        ("qos_v5", two(V5)),
        ("qos_v311", two(V311)),
        ("qos_v31", two(V31)),
        (
            "properties_and_overlapping_filters",
            Script::new()
                .answering(0b11)
                .open(0, Connect { alias_maximum: 3, ..connect(V5, A, CLEAN) })
                .open(1, connect(V5, B, CLEAN))
                .act(subscribe_all(0))
                .send(1, Packet::Publish { publish: rich.clone() })
                .send(1, Packet::Publish { publish: Publish { alias: 1, ..rich.clone() } })
                .send(1, Packet::Publish { publish: Publish { alias: 9, ..rich.clone() } })
                .publish(0, 1, 1)
                .wait(SECONDS_12),
        ),
        (
            "aliases_out",
            Script::new()
                .answering(0b11)
                .open(0, Connect { alias_maximum: 4, ..persistent(A) })
                .open(1, connect(V5, B, CLEAN))
                .subscribe(0, HASH, 2)
                .publish(1, TOPIC_LONG, 1)
                .publish(1, TOPIC_LONG, 2)
                .publish(1, 2, 0)
                .publish(1, TOPIC_LONG, 0)
                .close(0)
                .publish(1, TOPIC_LONG, 2)
                .open(0, Connect { alias_maximum: 3, ..persistent(A) })
                .publish(1, TOPIC_LONG, 1),
        ),
        (
            "retained",
            Script::new()
                .answering(0b11)
                .open(1, connect(V311, B, CLEAN))
                .publish(1, 1, 1 | RETAIN)
                .publish(1, 2, 2 | RETAIN)
                .open(0, connect(V5, A, CLEAN))
                .subscribe(0, HASH, 2)
                .subscribe(0, HASH, 0x12)
                .publish(1, 1, RETAIN | EMPTY)
                .publish(1, 2, 1 | RETAIN)
                .subscribe(0, 5, 0x0a),
        ),
        (
            "wills",
            Script::new()
                .answering(0b1)
                .open(0, connect(V5, A, CLEAN))
                .subscribe(0, HASH, 2)
                .open(
                    1,
                    Connect {
                        will: Some(Will { delay: 0, message: message(1, 1) }),
                        ..connect(V5, B, CLEAN)
                    },
                )
                .close(1)
                .open(1, Connect { will: Some(Will { delay: 3, message: message(1, 2) }), ..persistent(B) })
                .close(1)
                .wait(7)
                .open(1, Connect { will: Some(Will { delay: 4, message: message(3, 0) }), ..persistent(B) })
                .disconnect(1, 3)
                .wait(SECOND)
                .open(1, Connect { will: Some(Will { delay: 0, message: message(3, 1) }), ..persistent(B) })
                .disconnect(1, 0),
        ),
        (
            "a_packet_in_two_parts",
            Script::new()
                .answering(0b11)
                .act(Act::Silence { slot: 0, capacity: 0 })
                .act(Act::Cut { slot: 0, at: 9 })
                .send(0, Packet::Connect { connect: connect(V5, A, CLEAN) })
                .act(Act::Cut { slot: 0, at: 3 })
                .subscribe(0, HASH, 1)
                .act(Act::Cut { slot: 0, at: 5 })
                .publish(0, 1, 2),
        ),
        (
            "everything_before_connack",
            Script::new()
                .answering(0b1)
                .open(0, persistent(A))
                .and()
                .subscribe(0, HASH, 2)
                .and()
                .publish(0, 1, 2)
                .and()
                .send(0, Packet::Ping {}),
        ),
    ]
}

fn sessions() -> Seeds {
    let gone = || {
        Script::new()
            .open(0, persistent(A))
            .subscribe(0, 2, 2)
            .open(1, connect(V5, B, CLEAN))
            .close(0)
            .publish(1, 1, 1)
            .publish(1, 1, 2)
            .publish(1, 1, 0)
    };
    vec![
        ("resumed", gone().answering(0b11).open(0, persistent(A)).wait(SECOND)),
        ("expired", gone().wait(14).wait(14).open(0, persistent(A))),
        (
            "expired_with_a_message_of_somebody_who_rests",
            Script::new()
                .open(0, persistent(A))
                .subscribe(0, 2, 2)
                .open(
                    1,
                    Connect {
                        will: Some(Will { delay: 3, message: Publish { length: 6, ..message(1, 1) } }),
                        ..persistent(B)
                    },
                )
                .close(1)
                .wait(7),
        ),
        (
            "sent_again",
            gone()
                .open(0, persistent(A))
                .close(0)
                .open(0, persistent(A))
                .answer(0)
                .answer(0)
                .close(0)
                .open(0, persistent(A))
                .answering(0b10)
                .answer(0)
                .answer(0),
        ),
        (
            "taken_over",
            gone()
                .answering(0b1111)
                .open(0, persistent(A))
                .open(2, persistent(A))
                .publish(1, 1, 2)
                .open(3, Connect { expiry: FOR_EVER, ..connect(V5, A, CLEAN) })
                .publish(1, 1, 1)
                .open(0, connect(V311, A, 0)),
        ),
        (
            "taken_over_at_once",
            Script::new()
                .answering(0b1111)
                .open(0, persistent(A))
                .and()
                .open(1, persistent(A))
                .and()
                .open(2, connect(V5, A, CLEAN))
                .and()
                .open(3, persistent(A)),
        ),
        (
            "versions_take_each_other_over",
            Script::new()
                .answering(0b11)
                .open(0, connect(V31, A, 0))
                .subscribe(0, 0, 2)
                .open(1, connect(V5, B, CLEAN))
                .close(0)
                .publish(1, 0, 2)
                .open(0, connect(V311, A, 0))
                .close(0)
                .publish(1, 0, 1)
                .open(0, Connect { expiry: MINUTE, ..connect(V5, A, 0) }),
        ),
        (
            "expiry_is_changed",
            Script::new()
                .open(0, persistent(A))
                .subscribe(0, 2, 1)
                .send(0, Packet::Disconnect { reason: 0, expiry: 2 })
                .wait(7)
                .open(0, persistent(A))
                .send(0, Packet::Disconnect { reason: 0, expiry: 1 })
                .wait(0)
                .open(0, persistent(A)),
        ),
        (
            "publishes_again",
            Script::new()
                .answering(0b10)
                .open(1, connect(V5, B, CLEAN))
                .subscribe(1, HASH, 2)
                .open(0, persistent(A))
                .publish(0, 1, 2)
                .act(Act::Again { slot: 0, which: 0 })
                .answer(0)
                .publish(0, 1, 1)
                .act(Act::Again { slot: 0, which: 1 }),
        ),
        (
            "messages_expire",
            Script::new()
                .answering(0b10)
                .open(0, persistent(A))
                .subscribe(0, 2, 2)
                .close(0)
                .open(1, connect(V5, B, CLEAN))
                .send(1, Packet::Publish { publish: Publish { expiry: 5, ..message(1, 1) } })
                .send(1, Packet::Publish { publish: Publish { expiry: 6, ..message(1, 2) } })
                .wait(SECONDS_12)
                .open(0, persistent(A))
                .answering(0b11),
        ),
        (
            "keep_alive",
            Script::new()
                .open(0, Connect { keep_alive: 3, will: Some(Will::default()), ..connect(V5, A, CLEAN) })
                .open(1, Connect { keep_alive: 4, ..connect(V311, B, CLEAN) })
                .act(Act::Silence { slot: 2, capacity: 0 })
                .wait(5)
                .send(0, Packet::Ping {})
                .wait(6)
                .wait(SECONDS_12)
                .wait(HOURS_3),
        ),
    ]
}

fn limits() -> Seeds {
    let flood =
        |flags, length| Act::Flood { slot: 1, count: 40, publish: Publish { length, ..message(1, flags) } };
    vec![
        (
            "receive_maximum",
            Script::new()
                .open(0, Connect { receive_maximum: 3, ..persistent(A) })
                .subscribe(0, 2, 2)
                .open(1, connect(V5, B, CLEAN))
                .act(flood(2, 3))
                .act(Act::Answer { slot: 1, count: 255 })
                .act(Act::Answer { slot: 0, count: 2 })
                .act(Act::Answer { slot: 0, count: 4 })
                .publish(1, 1, 1)
                .close(0)
                .open(0, Connect { receive_maximum: 2, ..persistent(A) })
                .act(Act::Answer { slot: 0, count: 4 })
                .act(Act::Answer { slot: 0, count: 4 }),
        ),
        (
            "max_packet",
            Script::new()
                .answering(0b11)
                .open(0, Connect { max_packet: 5, ..persistent(A) })
                .subscribe(0, HASH, 2)
                .open(1, connect(V5, B, CLEAN))
                .send(1, Packet::Publish { publish: Publish { length: 4, ..message(1, 2) } })
                .publish(1, 1, 2)
                .send(1, Packet::Publish { publish: Publish { properties: 63, ..message(1, 1) } })
                .publish(1, TOPIC_LONG, 1),
        ),
        (
            "stops_reading",
            Script::new()
                .answering(0b10)
                .act(Act::Open { slot: 0, capacity: 3, connect: persistent(A) })
                .subscribe(0, 2, 1)
                .open(1, connect(V5, B, CLEAN))
                .act(Act::Read { slot: 0, amount: 0 })
                .act(flood(1, 5))
                .act(flood(0, 7))
                .act(Act::Read { slot: 0, amount: 100 })
                .wait(SECOND)
                .act(Act::Read { slot: 0, amount: 255 })
                .act(Act::Answer { slot: 0, count: 255 }),
        ),
        (
            "a_full_queue",
            Script::new()
                .limits(0, 1, 0b0010_1011, 0)
                .answering(0b10)
                .open(0, persistent(A))
                .subscribe(0, 2, 2)
                .open(1, connect(V5, B, CLEAN))
                .close(0)
                .act(flood(1, 4))
                .act(flood(2, 6))
                .open(0, persistent(A))
                .act(flood(0, 7))
                .act(Act::Answer { slot: 0, count: 255 }),
        ),
        (
            "small_limits",
            Script::new()
                .limits(0b1010_0111, 5, 0, 5)
                .answering(0b11)
                .open(0, persistent(A))
                .act(Act::Send {
                    slot: 0,
                    packet: Packet::Subscribe {
                        id: 1,
                        first: Subscription { filter: 0, options: 2 },
                        more: vec![
                            Subscription { filter: 1, options: 1 },
                            Subscription { filter: 2, options: 1 },
                            Subscription { filter: 3, options: 1 },
                        ],
                    },
                })
                .open(1, connect(V5, B, CLEAN))
                .publish(1, 1, 2 | RETAIN)
                .publish(1, 2, 2 | RETAIN)
                .publish(1, 3, 2 | RETAIN)
                .act(flood(2, 4))
                .send(1, Packet::Publish { publish: Publish { length: 5, ..message(1, 0) } }),
        ),
        (
            "no_qos_2_and_nothing_retained",
            Script::new()
                .limits(0b0001_1000, 0, 0, 0)
                .answering(0b11)
                .open(0, connect(V5, A, CLEAN))
                .subscribe(0, 2, 2)
                .publish(0, 1, 1)
                .publish(0, 1, 2)
                .open(0, connect(V5, A, CLEAN))
                .publish(0, 1, RETAIN),
        ),
    ]
}

fn crashes() -> Seeds {
    let crash = |synced| Act::Crash { synced };
    let begun = |store| {
        Script::new()
            .store(store)
            .open(0, persistent(A))
            .subscribe(0, 2, 2)
            .open(1, persistent(B))
            .publish(1, 1, 1)
            .publish(1, 1, 2)
            .publish(1, 2, 2 | RETAIN)
    };
    let back = |script: Script| {
        script
            .open(0, persistent(A))
            .open(1, persistent(B))
            .act(Act::Again { slot: 1, which: 1 })
            .publish(1, 1, 2)
            .answering(0b11)
    };
    vec![
        ("crash_of_what_is_not_kept", back(begun(0).act(crash(true)))),
        ("crash_synced", back(begun(1).act(crash(true)))),
        ("crash", back(begun(2).answer(0).answer(0).answer(0).act(crash(false)))),
        (
            "crash_of_a_slow_store",
            back(
                begun(3)
                    .act(Act::Sync { all: false })
                    .answer(0)
                    .act(Act::Sync { all: false })
                    .answer(0)
                    .act(Act::Sync { all: true })
                    .answer(0)
                    .answer(0)
                    .act(crash(false)),
            )
            .act(Act::Sync { all: true })
            .act(Act::Sync { all: true }),
        ),
        (
            "a_will_over_a_crash",
            Script::new()
                .store(1)
                .answering(0b1)
                .open(0, persistent(A))
                .subscribe(0, HASH, 2)
                .open(1, Connect { will: Some(Will { delay: 4, message: message(1, 2) }), ..persistent(B) })
                .close(1)
                .wait(7)
                .act(crash(true))
                .open(0, persistent(A))
                .wait(MINUTES_2)
                .act(crash(false))
                .open(0, persistent(A))
                .wait(HOURS_3),
        ),
        (
            "sessions_of_a_store_expire",
            begun(1).close(0).wait(14).act(crash(true)).wait(14).open(0, persistent(A)),
        ),
        ("shut_down", begun(1).ending(3)),
    ]
}

fn shared() -> Seeds {
    let members = || {
        Script::new()
            .open(0, persistent(A))
            .subscribe(0, SHARED, 2)
            .open(2, persistent(C))
            .subscribe(2, SHARED, 1)
            .open(1, connect(V5, B, CLEAN))
            .publish(1, 1, 1)
            .publish(1, 1, 2)
            .publish(1, 1, 1)
            .publish(1, 1, 2)
    };
    vec![
        ("shared", members().answering(0b111)),
        ("a_member_leaves", members().close(0).publish(1, 1, 1).open(0, persistent(A)).answering(0b111)),
        (
            "members_unsubscribe",
            members()
                .send(0, Packet::Unsubscribe { first: SHARED, second: None })
                .disconnect(2, 0)
                .publish(1, 1, 2)
                .open(2, persistent(C))
                .act(Act::Answer { slot: 2, count: 255 }),
        ),
        ("shared_over_a_crash", members().store(2).act(Act::Crash { synced: false }).open(2, persistent(C))),
    ]
}

fn errors() -> Seeds {
    let open = || Script::new().open(0, persistent(A)).subscribe(0, 2, 2);
    let mangle = |packet, how, at, with| Act::Mangle { slot: 0, packet, how, at, with };
    let publish = || Packet::Publish { publish: message(1, 2) };
    let ack = |kind, which| Packet::Ack { kind, which, reason: 0 };
    vec![
        ("a_second_connect", open().send(0, Packet::Connect { connect: persistent(A) })),
        ("auth", open().send(0, Packet::Auth { reason: 0, method: true })),
        ("no_connect", Script::new().act(Act::Silence { slot: 0, capacity: 0 }).send(0, Packet::Ping {})),
        ("bad_flags", open().act(mangle(publish(), 3, 0, 0x36))),
        ("cut_off", open().act(mangle(publish(), 4, 4, 0)).wait(SECOND)),
        ("trailing_bytes", open().act(mangle(Packet::Ping {}, 5, 1, 7))),
        ("noise", open().act(Act::Raw { slot: 0, bytes: vec![0xff, 0xff, 0xff, 0xff, 0xff] })),
        (
            "wrong_acknowledgements",
            open()
                .send(0, ack(0, 200))
                .send(0, ack(1, 250))
                .send(0, ack(2, 250))
                .send(0, ack(3, 250))
                .open(1, connect(V5, B, CLEAN))
                .publish(1, 1, 2)
                .send(0, ack(1, 0))
                .send(0, ack(1, 0))
                .send(0, ack(3, 0))
                .publish(1, 1, 1)
                .send(0, ack(3, 0)),
        ),
        (
            "refused",
            Script::new()
                .open(0, connect(V5, A, 0x60))
                .open(1, connect(V311, 3, 0))
                .open(2, connect(V31, 7, CLEAN))
                .open(3, Connect { max_packet: 3, ..connect(V5, 3, CLEAN) }),
        ),
    ]
}
