//! The judge of the target `connection` finds what it is there to find, and the target's seeds are scenarios that reach
//! deep and that the broker plays without a fault.

#[path = "../fuzz_targets/connection/mod.rs"]
#[allow(dead_code, reason = "the target uses the rest")]
mod connection;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use connection::clock;
use connection::draft::framed;
use connection::judge::{Expected, Judge, Seen};
use connection::mutate::{crossed, mutated};
use connection::play::play;
use connection::scenario::Scenario;
use connection::seeds;

/// Something that happens on a connection.
enum Event {
    Opens(usize),
    /// The broker reads this on a connection.
    Reads(usize, Vec<u8>),
    /// The broker writes this.
    Writes(usize, Vec<u8>),
    /// The broker could write nothing: the client does not read.
    Stalls(usize),
    /// The broker could write nothing: the client is gone.
    Fails(usize),
    /// The broker lets go of it.
    Drops(usize),
    Passes(u64),
    /// As that, but at once.
    Leaps(u64),
    Crash {
        synced: bool,
    },
}

use Event::{Crash, Drops, Fails, Leaps, Opens, Passes, Reads, Stalls, Writes};

/// What the judge says of `events`. A connection is opened when something happens on it.
fn verdict(events: Vec<Event>) -> Result<(), String> {
    clock::begin();
    let expected = Expected {
        max_session_expiry: 7_200,
        connect_timeout: Duration::from_secs(10),
        is_slow: false,
        alias_maximum: 8,
    };
    let mut judge = Judge::new(expected);
    let mut open = HashMap::new();
    for event in events {
        if let Reads(connection, _) | Writes(connection, _) | Opens(connection) = event {
            open.entry(connection).or_insert_with(|| judge.open());
        }
        match event {
            Opens(_) => {}
            Reads(connection, bytes) => judge.heard(open[&connection], &bytes),
            Writes(connection, bytes) => judge.said(open[&connection], &bytes),
            Stalls(connection) => judge.stalled(open[&connection]),
            Fails(connection) => judge.failed(open[&connection]),
            Drops(connection) => judge.dropped(open[&connection]),
            Passes(seconds) => clock::pass(Duration::from_secs(seconds)),
            Leaps(seconds) => {
                judge.leaps(Duration::from_secs(seconds));
                clock::pass(Duration::from_secs(seconds));
                continue;
            }
            Crash { synced } => judge.crash(true, synced),
        }
        judge.look_at_clock();
    }
    judge.verdict()
}

/// MQTT 5 CONNECT of the client `id` with these properties.
fn connect(id: u8, clean: bool, properties: &[u8]) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05".to_vec();
    body.extend([if clean { 2 } else { 0 }, 0, 0, properties.len() as u8]);
    body.extend(properties);
    body.extend([0, 1, id]);
    framed(0x10, &body)
}

fn connack(present: u8) -> Vec<u8> {
    vec![0x20, 3, present, 0, 0]
}

/// SUBSCRIBE to `a` with these options.
fn subscribe(options: u8) -> Vec<u8> {
    framed(0x82, &[0, 9, 0, 0, 1, b'a', options])
}

const SUBACK: [u8; 6] = [0x90, 4, 0, 9, 0, 2];
const EXPIRES: [u8; 5] = [0x11, 0, 0, 0, 100];

/// MQTT 5 PUBLISH to `a`.
fn publish(first: u8, id: u8, payload: &str) -> Vec<u8> {
    let mut body = vec![0, 1, b'a'];
    if first & 6 != 0 {
        body.extend([0, id]);
    }
    body.push(0);
    body.extend(payload.bytes());
    framed(first, &body)
}

fn ack(first: u8, id: u8) -> Vec<u8> {
    vec![first, 2, 0, id]
}

/// A subscriber to `a` on connection 0, a publisher on connection 1, which has published `x` and `y` at QoS 2.
fn begun(properties: &[u8], options: u8) -> Vec<Event> {
    vec![
        Reads(0, connect(b's', false, properties)),
        Writes(0, connack(0)),
        Reads(0, subscribe(options)),
        Writes(0, vec![0x90, 4, 0, 9, 0, options & 3]),
        Reads(1, connect(b'p', true, &[])),
        Writes(1, connack(0)),
        Reads(1, publish(0x34, 1, "x")),
        Reads(1, publish(0x34, 2, "y")),
        Writes(1, ack(0x50, 1)),
        Writes(1, ack(0x50, 2)),
    ]
}

#[track_caller]
fn good(events: Vec<Event>) {
    if let Err(fault) = verdict(events) {
        panic!("no fault: {fault}");
    }
}

/// Of `events` on a plain session the last is wrong.
#[track_caller]
fn bad(expected: &str, events: Vec<Event>) {
    bad_with(&EXPIRES, 2, expected, events);
}

#[track_caller]
fn bad_with(properties: &[u8], options: u8, expected: &str, events: Vec<Event>) {
    let all = |events| begun(properties, options).into_iter().chain(events).collect::<Vec<_>>();
    let fault = verdict(all(events)).expect_err(expected);
    assert!(fault.contains(expected), "{fault}");
}

#[test]
fn what_is_right_is_no_fault() {
    let mut events = begun(&EXPIRES, 2);
    events.extend([
        Writes(0, publish(0x34, 1, "x")),
        Writes(0, publish(0x34, 2, "y")),
        Reads(0, ack(0x50, 1)),
        Writes(0, ack(0x62, 1)),
        Reads(0, ack(0x70, 1)),
        Reads(1, ack(0x62, 1)),
        Writes(1, ack(0x70, 1)),
        Reads(0, vec![0xc0, 0]),
        Writes(0, vec![0xd0, 0]),
        Drops(0),
        Passes(90),
        Reads(2, connect(b's', false, &EXPIRES)),
        Writes(2, connack(1)),
        Writes(2, publish(0x3c, 2, "y")),
    ]);
    good(events);
}

/// CONNECT of a protocol that nobody knows, at the level of MQTT 5, was taken for one of 3.1.1.
#[test]
fn an_unknown_protocol_is_refused_in_the_version_of_its_level() {
    let refused = |level, answer: &[u8]| {
        let mut connect = connect(b's', true, &[]);
        (connect[7], connect[8]) = (b'X', level);
        vec![Reads(0, connect), Writes(0, answer.to_vec()), Drops(0)]
    };
    good(refused(5, &[0x20, 3, 0, 0x84, 0]));
    good(refused(4, &[0x20, 2, 0, 1]));
    let fault = verdict(refused(4, &[0x20, 3, 0, 0x84, 0])).expect_err("it is not of MQTT 3.1.1");
    assert!(fault.contains("sends no packet"), "{fault}");
}

#[test]
fn packets_that_are_none() {
    let before = "a packet before CONNACK";
    let fault = verdict(vec![Reads(0, connect(b's', true, &[])), Writes(0, vec![0xd0, 0])]);
    assert!(fault.is_err_and(|fault| fault.contains(before)));
    bad("sends no packet", vec![Writes(0, vec![0x30, 0])]);
    bad("sends no packet", vec![Writes(0, publish(0x36, 1, "x"))]);
    bad("sends no packet", vec![Writes(0, vec![0xd0, 1, 0])]);
    bad("sends no packet", vec![Writes(0, vec![0xd0, 0x80, 0])]);
    bad("sends no packet", vec![Writes(0, ack(0x60, 1))]);
    bad("a second CONNACK", vec![Writes(0, connack(0))]);
    bad("a packet after DISCONNECT", vec![Writes(0, vec![0xe0, 1, 0x97]), Writes(0, publish(0x34, 1, "x"))]);
}

#[test]
fn more_than_the_client_takes() {
    let receive_maximum = [&EXPIRES[..], &[0x21, 0, 1]].concat();
    let second = || vec![Writes(0, publish(0x34, 1, "x")), Writes(0, publish(0x34, 2, "y"))];
    bad_with(&receive_maximum, 2, "2 messages are in flight", second());
    let max_packet = [&EXPIRES[..], &[0x27, 0, 0, 0, 8]].concat();
    bad_with(&max_packet, 2, "9 bytes for a client that takes 8", vec![Writes(0, publish(0x34, 1, "x"))]);
    let named = framed(0x30, b"\0\x01a\x03\x23\x00\x01x");
    bad("topic alias 1 of 0", vec![Writes(0, named.clone())]);
    let aliases = [&EXPIRES[..], &[0x22, 0, 2]].concat();
    let nameless = framed(0x30, b"\0\0\x03\x23\x00\x02y");
    bad_with(&aliases, 2, "topic alias 2 stands for nothing", vec![Writes(0, named), Writes(0, nameless)]);
}

#[test]
fn messages_that_must_not_come() {
    bad("nobody has published", vec![Writes(0, publish(0x30, 0, "z"))]);
    bad("has not subscribed", vec![Writes(1, publish(0x30, 0, "x"))]);
    bad_with(&EXPIRES, 1, "above the QoS 1 that was asked for", vec![Writes(0, publish(0x34, 1, "x"))]);
    bad("RETAIN", vec![Writes(0, publish(0x35, 1, "x"))]);
    let typed = framed(0x30, b"\0\x01a\x04\x03\x00\x01tx");
    bad("other properties", vec![Writes(0, typed)]);
    let ended = || {
        vec![
            Reads(0, framed(0xa2, b"\0\x05\0\0\x01a")),
            Writes(0, framed(0xb0, b"\0\x05\0\0")),
            Reads(1, publish(0x30, 0, "late")),
        ]
    };
    let mut events = ended();
    events.push(Writes(0, publish(0x34, 1, "x")));
    good(begun(&EXPIRES, 2).into_iter().chain(events).collect());
    let mut events = ended();
    events.push(Writes(0, publish(0x30, 0, "late")));
    bad("has not subscribed", events);
    let own = vec![Reads(0, publish(0x30, 0, "own")), Writes(0, publish(0x30, 0, "own"))];
    bad_with(&EXPIRES, 6, "the client's own message", own);
    let expiring = framed(0x30, b"\0\x01a\x05\x02\0\0\0\x03old");
    bad("after its expiry", vec![Reads(1, expiring.clone()), Passes(5), Writes(0, expiring)]);
    let late = vec![Writes(0, publish(0x34, 1, "y")), Writes(0, publish(0x34, 2, "x"))];
    bad("behind a message that was published later", late);
}

#[test]
fn messages_of_clients_that_are_not_answered_yet() {
    let early = |more: Vec<Event>| {
        let mut events = begun(&EXPIRES, 2);
        events.extend([Reads(2, connect(b'e', true, &[])), Reads(2, publish(0x30, 0, "early"))]);
        events.extend(more);
        events.push(Writes(0, publish(0x30, 0, "early")));
        good(events);
    };
    early(vec![Writes(2, connack(0))]);
    // The client is gone: CONNACK cannot be written.
    early(vec![Drops(2)]);
    // Something bad follows, which does not undo it.
    early(vec![Reads(2, vec![0x36, 0]), Writes(2, connack(0))]);
}

#[test]
fn messages_that_come_again() {
    let x = |first, id| Writes(0, publish(first, id, "x"));
    bad("delivered 2 times, published 1 times", vec![x(0x34, 1), x(0x34, 2)]);
    bad("its packet id is in flight", vec![x(0x34, 1), Writes(0, publish(0x34, 1, "y"))]);
    bad("DUP, though it is sent for the first time", vec![x(0x3c, 1)]);
    bad("sent again on the same connection", vec![x(0x34, 1), x(0x3c, 1)]);
    let back = || vec![x(0x34, 1), Drops(0), Reads(2, connect(b's', false, &EXPIRES)), Writes(2, connack(1))];
    let with = |more: Vec<Event>| back().into_iter().chain(more).collect::<Vec<_>>();
    bad("is another message", with(vec![Writes(2, publish(0x3c, 1, "y"))]));
    let released = vec![
        x(0x34, 1),
        Reads(0, ack(0x50, 1)),
        Writes(0, ack(0x62, 1)),
        Drops(0),
        Reads(2, connect(b's', false, &EXPIRES)),
        Writes(2, connack(1)),
        Writes(2, publish(0x3c, 1, "x")),
    ];
    bad("sent again after PUBREL", released);
    // At QoS 2, nor after a crash.
    let crashed = |first, id| {
        vec![
            x(0x34, 1),
            Crash { synced: false },
            Reads(2, connect(b's', false, &EXPIRES)),
            Writes(2, connack(1)),
            Writes(2, publish(first, id, "x")),
        ]
    };
    good(begun(&EXPIRES, 2).into_iter().chain(crashed(0x3c, 1)).collect());
    bad("delivered 2 times", crashed(0x34, 2));
}

#[test]
fn answers_to_nothing() {
    bad("PubAck 1 answers nothing", vec![Writes(1, ack(0x40, 1))]);
    bad("PubRec 1 answers nothing", vec![Writes(1, ack(0x50, 1))]);
    bad("PubComp 1 answers nothing", vec![Writes(1, ack(0x70, 1))]);
    bad("PUBREL 1 without PUBREC", vec![Writes(0, publish(0x34, 1, "x")), Writes(0, ack(0x62, 1))]);
    bad("SUBACK 9 answers nothing", vec![Writes(0, SUBACK.to_vec())]);
    bad("another number of codes", vec![Reads(0, subscribe(0)), Writes(0, vec![0x90, 5, 0, 9, 0, 0, 0])]);
    bad("QoS 2 is granted", vec![Reads(0, subscribe(0)), Writes(0, SUBACK.to_vec())]);
    bad("UNSUBACK 9 answers nothing", vec![Writes(0, framed(0xb0, &[0, 9, 0, 0]))]);
    bad("PINGRESP without PINGREQ", vec![Writes(0, vec![0xd0, 0])]);
    bad("DISCONNECT 0x82 for no reason", vec![Writes(0, vec![0xe0, 1, 0x82])]);
    bad("DISCONNECT 0x8e for no reason", vec![Writes(0, vec![0xe0, 1, 0x8e])]);
}

/// A client acknowledged, as QoS 1, a QoS 2 message that it could not have got: the broker had sent it, and nobody had read.
#[test]
fn an_acknowledgement_of_what_is_not_written_yet_may_be_an_error() {
    let mut events = begun(&EXPIRES, 2);
    events.extend([Reads(0, ack(0x40, 1)), Writes(0, vec![0xe0, 1, 0x82])]);
    good(events);
}

#[test]
fn wills_of_clients_that_have_said_good_bye() {
    let ends = |why: Option<Event>| {
        let connect = framed(0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\x01w\0\0\x01a\0\x04will");
        let mut events = vec![Reads(2, connect), Writes(2, connack(0)), Reads(2, vec![0xe0, 0])];
        events.extend(why);
        events.extend([Drops(2), Writes(0, publish(0x30, 0, "will"))]);
        events
    };
    bad("the will of a client that has said good-bye", ends(None));
    // The broker has ended the connection before it came to that.
    for why in [Stalls(2), Fails(2), Writes(2, vec![0xe0, 1, 0x97])] {
        good(begun(&EXPIRES, 2).into_iter().chain(ends(Some(why))).collect());
    }
}

#[test]
fn sessions_that_are_lost_or_should_be() {
    let again = |clean, present| vec![Reads(2, connect(b's', clean, &EXPIRES)), Writes(2, connack(present))];
    let with = |first: Vec<Event>, clean, present| {
        first.into_iter().chain(again(clean, present)).collect::<Vec<_>>()
    };
    bad("the session is lost", with(vec![Drops(0), Passes(50)], false, 0));
    bad("the session is lost", with(vec![Crash { synced: true }], false, 0));
    bad("a session that has ended is present", with(vec![Drops(0), Passes(110)], false, 1));
    bad("a clean start is given a session", with(vec![Drops(0)], true, 1));
    // What CONNACK has said is on disk, whatever else a crash takes.
    let made = vec![Reads(0, connect(b's', true, &EXPIRES)), Writes(0, connack(0)), Crash { synced: false }];
    assert!(verdict(with(made, false, 0)).is_err_and(|fault| fault.contains("the session is lost")));
    let replaced = [Reads(3, connect(b's', true, &[])), Writes(3, connack(0)), Crash { synced: false }];
    bad("a session is present that nobody has made", with(replaced.into(), false, 1));
    let nobody = vec![Reads(2, connect(b'n', false, &EXPIRES)), Writes(2, connack(1))];
    bad("a session is present that nobody has made", nobody);
    let mut taken_over = again(false, 1);
    taken_over.push(Passes(4));
    bad("its client id was taken over", taken_over);
}

#[test]
fn sessions_whose_fate_is_not_known() {
    let with = |events: Vec<Event>| good(begun(&EXPIRES, 2).into_iter().chain(events).collect());
    let v31 = framed(0x10, b"\0\x06MQIsdp\x03\0\0\0\0\x01s");
    // Its CONNACK has no place for a session that is present.
    with(vec![
        Drops(0),
        Reads(2, v31),
        Writes(2, vec![0x20, 2, 0, 0]),
        Writes(2, b"\x34\x06\0\x01a\0\x01x".to_vec()),
    ]);
    // Nor for one that a client has made which had gone when CONNACK was to be written.
    good(vec![
        Reads(0, connect(b's', false, &EXPIRES)),
        Reads(0, subscribe(2)),
        Drops(0),
        Reads(1, connect(b'p', true, &[])),
        Writes(1, connack(0)),
        Reads(1, publish(0x30, 0, "x")),
        Reads(2, framed(0x10, b"\0\x06MQIsdp\x03\0\0\0\0\x01s")),
        Writes(2, vec![0x20, 2, 0, 0]),
        Writes(2, b"\x30\x04\0\x01ax".to_vec()),
    ]);
    // Its CONNECT came in time, but CONNACK had to wait.
    with(vec![
        Drops(0),
        Passes(90),
        Reads(2, connect(b's', false, &EXPIRES)),
        Passes(90),
        Writes(2, connack(1)),
    ]);
    // That DISCONNECT has ended it may not be on disk.
    for present in [0, 1] {
        with(vec![
            Reads(0, vec![0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]),
            Drops(0),
            Crash { synced: false },
            Reads(2, connect(b's', false, &EXPIRES)),
            Writes(2, connack(present)),
        ]);
    }
    // The session of one that was not answered ends with it.
    with(vec![
        Reads(2, connect(b's', false, &[])),
        Drops(0),
        Drops(2),
        Reads(3, connect(b's', false, &EXPIRES)),
        Writes(3, connack(0)),
    ]);
}

#[test]
fn connections_that_stay_open() {
    bad("a bad packet was read", vec![Reads(0, vec![0x36, 0]), Passes(4)]);
    bad("a second CONNECT", vec![Reads(0, connect(b's', true, &[])), Passes(4)]);
    bad("still open without CONNECT", vec![Opens(2), Passes(14)]);
    bad("DISCONNECT was read", vec![Reads(0, vec![0xe0, 0]), Passes(4)]);
    // It waits its turn behind what the client does not take.
    good(begun(&EXPIRES, 2).into_iter().chain([Stalls(0), Reads(0, vec![0xe0, 0]), Passes(4)]).collect());
    let mut connect = connect(b's', true, &[]);
    connect[11] = 2;
    let silent = vec![Reads(0, connect), Writes(0, connack(0)), Passes(7)];
    assert!(verdict(silent).is_err_and(|fault| fault.contains("the client is silent")));
}

/// What the broker wrote to a client in the moment to which time had leapt came before it looked at the client's clock, and
/// may have excused it.
#[test]
fn a_client_that_is_written_to_right_after_a_leap_is_not_silent() {
    let mut connect = connect(b's', true, &[]);
    connect[11] = 2;
    let written = |passes, then| {
        let begin = [Reads(0, connect.clone()), Writes(0, connack(0)), Reads(0, subscribe(2))];
        let rest = [passes, Writes(0, SUBACK.to_vec()), Passes(then)];
        verdict(begin.into_iter().chain(rest).collect())
    };
    assert_eq!(written(Leaps(600), 5), Ok(()));
    for later in [written(Leaps(600), 7), written(Passes(600), 0)] {
        assert!(later.is_err_and(|fault| fault.contains("the client is silent")));
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds/connection")
}

/// With `TIDEGATE_FUZZ_SEEDS` set, writes the seeds.
#[test]
fn the_seeds_are_the_scenarios_that_they_are_named_for() {
    let writes = std::env::var_os("TIDEGATE_FUZZ_SEEDS").is_some();
    for (name, scenario) in seeds::all() {
        let (path, bytes) = (folder().join(name), seeds::bytes(&scenario));
        assert_eq!(Scenario::read(&bytes), scenario, "{name}");
        if writes {
            std::fs::create_dir_all(folder()).expect("a place for seeds");
            std::fs::write(&path, &bytes).expect("a seed");
        }
        assert_eq!(std::fs::read(&path).unwrap_or_default(), bytes, "{name} is out of date");
    }
    let files = std::fs::read_dir(folder()).expect("seeds").count();
    assert_eq!(files, seeds::all().len(), "other files are no seeds");
}

#[test]
fn a_changed_scenario_is_another_one() {
    let mut changes = 0;
    for (name, scenario) in seeds::all() {
        let input = seeds::bytes(&scenario);
        for number in 0..100 {
            let changed = mutated(&input, number);
            let crossed = crossed(&input, &changed, number);
            changes += usize::from(changed != input);
            for bytes in [changed, crossed] {
                assert_eq!(seeds::bytes(&Scenario::read(&bytes)), bytes, "{name}, {number}");
            }
        }
    }
    assert!(changes > 80 * seeds::all().len(), "{changes}");
}

#[test]
fn the_seeds_are_played_without_a_fault_and_reach_everything() {
    let mut all = Seen::default();
    for (name, scenario) in seeds::all() {
        let seen = match play(&scenario) {
            Ok(seen) => seen,
            Err(fault) => panic!("{name}: {fault}\n{scenario:#?}"),
        };
        println!("{name}: {seen:?}");
        all.connected += seen.connected;
        all.resumed += seen.resumed;
        (0..3).for_each(|qos| all.delivered[qos] += seen.delivered[qos]);
        all.repeated += seen.repeated;
        all.answers += seen.answers;
        all.disconnected += seen.disconnected;
    }
    println!("{all:?}");
    assert!(all.connected >= 80 && all.resumed >= 15 && all.repeated >= 5, "{all:?}");
    assert!(all.delivered.iter().all(|count| *count >= 20), "{all:?}");
    assert!(all.answers >= 100 && all.disconnected >= 10, "{all:?}");
}
