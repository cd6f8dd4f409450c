//! Every limit of the broker on a real server: a client passes it, is told what docs/limits.md says, and what that page says
//! counts it rises by one. Nothing else that counts limits does.
//!
//! Not here, because it takes more than one simple client of this machine: `away=address` (loopback is not limited),
//! `away=certificate`, `refused=0x89`, and what modules and stores bring about (`drop=system_topic`, `limit=read_ahead`,
//! `limit=brought_bytes`, `reject=store_refused` and the like). The broker's own tests try most of these.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tidegate_e2e::certificates::Authority;
use tidegate_e2e::server::free_port;
use tidegate_e2e::wait::PATIENCE;
use tidegate_e2e::wire::{self, Connect, Wire, ack, frame, kind, publish, publish_with, subscribe, text};
use tidegate_e2e::{Server, until};

const BOTH: &[u8] = &[4, 5];
const FIVE: &[u8] = &[5];

/// The metrics of docs/limits.md, by the words that it has for them or that stand for them here.
const COUNTED: [(&str, &str); 8] = [
    ("tidegate_broker_limited_total", "limit"),
    ("tidegate_broker_dropped_total", "drop"),
    ("tidegate_broker_rejected_total", "reject"),
    ("tidegate_broker_connections_turned_away_total", "away"),
    ("tidegate_broker_malformed_total", "malformed"),
    ("tidegate_broker_connects_refused_total", "refused"),
    ("tidegate_broker_connect_timeouts_total", "timeouts"),
    ("tidegate_broker_reconnects_damped_total", "damped"),
];

/// What is counted after what it counts has happened is there in a moment.
const SOON: Duration = Duration::from_secs(5);

/// All of them, as `limit=sessions` or, without a label, `timeouts`.
fn counts(server: &Server) -> BTreeMap<String, u64> {
    let count = |line: &str| -> Option<(String, u64)> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let (_, word) = COUNTED.iter().find(|(metric, _)| *metric == name)?;
        // None of them has more than one label.
        let label = labels.split('"').nth(1);
        let word = label.map_or((*word).to_owned(), |label| format!("{word}={label}"));
        Some((word, value.parse().expect("a count is a whole number")))
    };
    server.metrics().lines().filter_map(count).collect()
}

/// A client passes a limit: each of `expected` rises by one, and nothing else.
#[track_caller]
fn counted(server: &Server, what: &str, expected: &[&str], offend: impl FnOnce()) {
    let before = counts(server);
    offend();
    let expected: BTreeMap<String, u64> = expected.iter().map(|word| ((*word).to_owned(), 1)).collect();
    let start = Instant::now();
    loop {
        let mut risen = counts(server);
        for (word, count) in &mut risen {
            *count -= before.get(word).copied().unwrap_or_default();
        }
        risen.retain(|_, count| *count > 0);
        if risen == expected {
            return;
        }
        assert!(start.elapsed() < SOON, "{what}: {risen:?} instead of {expected:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server with these lines in `[broker]`.
fn with(broker: &str) -> Server {
    Server::builder().file("tidegate.toml", format!("[broker]\n{broker}\n")).start()
}

/// What ends a connection: the versions that have it, the reason code of MQTT 5, what counts it, what is sent.
type Ending = (&'static str, &'static [u8], u8, &'static [&'static str], fn(u8) -> Vec<u8>);

/// Each of `endings` on a connection of its own: DISCONNECT says the code, before MQTT 5 nothing does.
#[track_caller]
fn try_endings(server: &Server, endings: &[Ending]) {
    for (what, versions, code, words, bytes) in endings {
        for version in *versions {
            let what = format!("{what}, version {version}");
            counted(server, &what, words, || {
                let (mut wire, _) = Wire::connect(server.port, &Connect::new(*version, "offender"));
                assert_eq!(ending(&mut wire, &bytes(*version)), (*version == 5).then_some(*code), "{what}");
            });
        }
    }
}

/// Sends `bytes`, after which the connection ends; gives the reason of DISCONNECT, if there is one.
fn ending(wire: &mut Wire, bytes: &[u8]) -> Option<u8> {
    // It may end before the last of them.
    drop(wire.try_send(bytes));
    let last = wire.read_to_end().pop();
    last.filter(|packet| packet.kind() == kind::DISCONNECT).map(|packet| packet.reason())
}

/// The code of CONNACK, which refuses `connect`, and is all that comes.
fn refusal(server: &Server, connect: &Connect) -> u8 {
    let mut wire = Wire::open(server.port);
    wire.send(&connect.encode());
    let code = wire.expect(kind::CONNACK).body[1];
    assert_eq!(wire.read_to_end(), [], "{code:#04x}");
    code
}

/// Subscribes to `filters` with QoS 1; gives the codes of SUBACK.
fn granted(wire: &mut Wire, version: u8, filters: &[&str]) -> Vec<u8> {
    wire.send(&filters_packet(0x82, version, filters));
    let answer = wire.expect(kind::SUBACK);
    // Behind the properties of MQTT 5.
    answer.body[answer.body.len() - filters.len()..].to_vec()
}

/// SUBSCRIBE (with QoS 1) or UNSUBSCRIBE, by its first byte.
fn filters_packet(first: u8, version: u8, filters: &[&str]) -> Vec<u8> {
    let mut body = 9_u16.to_be_bytes().to_vec();
    if version == 5 {
        body.push(0);
    }
    for filter in filters {
        text(&mut body, filter);
        if first == 0x82 {
            body.push(1);
        }
    }
    frame(first, &body)
}

/// Sends a PUBLISH of QoS 1; gives the reason of PUBACK.
fn acknowledged(wire: &mut Wire, bytes: &[u8]) -> u8 {
    wire.send(bytes);
    wire.expect(kind::PUBACK).reason()
}

/// The next packet is a PUBLISH of QoS 1, which is acknowledged; gives its payload.
fn payload(wire: &mut Wire) -> String {
    let (_, id, payload) = wire.expect(kind::PUBLISH).publish(5);
    wire.send(&ack(kind::PUBACK, id));
    String::from_utf8(payload).unwrap()
}

/// PINGREQ is answered by PINGRESP, before which nothing else comes.
fn ping(wire: &mut Wire) {
    wire.send(wire::PINGREQ);
    wire.expect(kind::PINGRESP);
}

/// A client with a session that is kept, subscribed to `t` with QoS 1, and gone.
fn away(server: &Server) -> Connect {
    let connect = Connect::new(5, "away").persistent();
    let (mut wire, _) = Wire::connect(server.port, &connect);
    assert_eq!(granted(&mut wire, 5, &["t"]), [1]);
    wire.send(wire::DISCONNECT);
    assert_eq!(wire.read_to_end(), []);
    connect
}

#[test]
fn what_no_packet_may_have_ends_the_connection() {
    let server = with(
        "max_packet_bytes = 2000\nmax_topic_levels = 4\nmax_topic_bytes = 20\n\
         max_subscribe_filters = 4\nmax_user_properties = 2\nmax_topic_alias = 2\n\
         receive_maximum = 3",
    );
    const PAIR: &[u8] = &[0x26, 0, 1, b'n', 0, 1, b'v'];
    try_endings(
        &server,
        &[
            ("a large packet", BOTH, 0x95, &["malformed=0x95"], |v| publish(v, "t", &[b'x'; 2_000], 0, 0)),
            ("levels of a topic", BOTH, 0x90, &["malformed=0x90"], |v| publish(v, "a/b/c/d/e", b"x", 0, 0)),
            ("a long topic", BOTH, 0x90, &["limit=topic_bytes", "malformed=0x90"], |v| {
                publish(v, &"x".repeat(21), b"x", 1, 1)
            }),
            ("filters to get", BOTH, 0x97, &["malformed=0x97"], |v| {
                filters_packet(0x82, v, &["a", "b", "c", "d", "e"])
            }),
            ("filters to leave", BOTH, 0x97, &["malformed=0x97"], |v| {
                filters_packet(0xA2, v, &["a", "b", "c", "d", "e"])
            }),
            ("user properties", FIVE, 0x97, &["malformed=0x97"], |v| {
                publish_with(v, "t", b"x", 0, 0, &PAIR.repeat(3))
            }),
            ("a topic alias", FIVE, 0x94, &["malformed=0x94"], |v| {
                publish_with(v, "t", b"x", 0, 0, &[0x23, 0, 3])
            }),
            ("messages without PUBREL", FIVE, 0x93, &["malformed=0x93"], |v| {
                (1..=4).flat_map(|id| publish(v, "t", b"x", 2, id)).collect()
            }),
            ("no text", FIVE, 0x99, &["malformed=0x99"], |v| publish_with(v, "t", b"\xFF", 0, 0, &[1, 1])),
            ("QoS 3", BOTH, 0x81, &["malformed=0x81"], |v| publish_with(v, "t", b"x", 0b0110, 1, &[])),
            ("a second CONNECT", BOTH, 0x82, &["malformed=0x82"], |v| Connect::new(v, "offender").encode()),
        ],
    );
    server.assert_no_panic();
}

#[test]
fn what_is_not_served_ends_the_connection_and_no_will_may_ask_for_it() {
    let server = with("max_qos = 1\nretain_available = false");
    try_endings(
        &server,
        &[
            ("QoS 2", BOTH, 0x9B, &["malformed=0x9b"], |v| publish(v, "t", b"x", 2, 1)),
            ("RETAIN", BOTH, 0x9A, &["malformed=0x9a"], |v| publish_with(v, "t", b"x", 1, 0, &[])),
        ],
    );
    for (qos, retain, code, word) in [(2, false, 0x9B, "refused=0x9b"), (0, true, 0x9A, "refused=0x9a")] {
        for version in [4, 5] {
            let mut connect = Connect::new(version, "offender");
            connect.will = Some(("t".into(), "gone".into(), qos, retain));
            // Before MQTT 5, "not authorized" is what trying again cannot help.
            let code = if version == 5 { code } else { 5 };
            counted(&server, word, &[word], || assert_eq!(refusal(&server, &connect), code));
        }
    }
    server.assert_no_panic();
}

#[test]
fn a_connect_with_a_name_that_is_too_long_is_refused() {
    let server = with("max_client_id_bytes = 23\nmax_topic_bytes = 20");
    for version in [4, 5] {
        let named = |id: usize, user: usize, topic: usize| {
            let mut connect = Connect::new(version, &"i".repeat(id));
            connect.username = Some("u".repeat(user));
            connect.will = Some(("w".repeat(topic), "gone".into(), 0, false));
            connect
        };
        // A user name may be four times as long.
        Wire::connect(server.port, &named(23, 92, 20));
        for (what, connect, codes, words) in [
            ("a client id", named(24, 92, 20), [2, 0x85], &["refused=0x85"][..]),
            ("a user name", named(23, 93, 20), [4, 0x86], &["refused=0x86"]),
            ("the topic of a will", named(23, 92, 21), [5, 0x90], &["limit=topic_bytes", "refused=0x90"]),
        ] {
            let code = codes[usize::from(version == 5)];
            counted(&server, what, words, || assert_eq!(refusal(&server, &connect), code, "{what}"));
        }
    }
    server.assert_no_panic();
}

#[test]
fn a_filter_that_passes_a_limit_is_refused_and_those_before_it_are_granted() {
    let server = with(
        "max_subscriptions = 3\nmax_shared_subscriptions = 1\nmax_topic_levels = 4\n\
         max_topic_bytes = 20",
    );
    let long = "x".repeat(21);
    for (filters, code, word) in [
        (&["a", "b", "c", "d"][..], 0x97, "limit=subscriptions"),
        (&["$share/g/a", "$share/h/a"], 0x97, "limit=shared_subscriptions"),
        (&["a", "a/b/c/d/#"], 0x8F, "limit=topic_bytes"),
        (&["a", &long], 0x8F, "limit=topic_bytes"),
    ] {
        for version in [4, 5] {
            counted(&server, &format!("{filters:?}, version {version}"), &[word], || {
                let (mut wire, _) = Wire::connect(server.port, &Connect::new(version, "subscriber"));
                let mut codes = granted(&mut wire, version, filters);
                assert_eq!(codes.pop(), Some(if version == 5 { code } else { 0x80 }));
                assert!(codes.iter().all(|code| *code == 1), "{codes:?}");
            });
        }
    }
    server.assert_no_panic();
}

#[test]
fn the_subscriptions_of_one_session_have_a_part_of_the_memory() {
    let server = with("max_subscription_bytes = 8000");
    let (mut wire, _) = Wire::connect(server.port, &Connect::new(5, "subscriber"));
    counted(&server, "subscriptions", &["limit=subscription_bytes"], || {
        let mut codes = (0..20).map(|number| {
            let filter = format!("t/{number}");
            granted(&mut wire, 5, &[filter.as_str()])[0]
        });
        assert_eq!(codes.find(|code| *code != 1), Some(0x97));
    });
}

#[test]
fn for_one_session_too_many_another_ends_or_its_client_is_refused() {
    let server = with("max_sessions = 1");
    let (mut here, _) = Wire::connect(server.port, &Connect::new(5, "here"));
    for (version, code) in [(4, 3), (5, 0x97)] {
        counted(&server, "all are here", &["limit=sessions", "refused=0x97"], || {
            assert_eq!(refusal(&server, &Connect::new(version, "more")), code);
        });
    }
    here.send(wire::DISCONNECT);
    assert_eq!(here.read_to_end(), []);
    away(&server);
    counted(&server, "one is away", &["limit=sessions"], || {
        ping(&mut Wire::connect(server.port, &Connect::new(4, "more")).0);
    });
    server.assert_no_panic();
}

#[test]
fn a_message_is_refused_to_who_can_be_told_and_dropped_for_others() {
    let server = Server::builder()
        .file("tidegate.toml", "broker.max_retained = 1\naccess.acl_file = \"acl\"\n")
        .file("acl", "deny all publish denied/#\n")
        .start();
    let (mut five, _) = Wire::connect(server.port, &Connect::new(5, "five"));
    let (mut four, _) = Wire::connect(server.port, &Connect::new(4, "four"));
    let retained = |version, topic, qos: u8| publish_with(version, topic, b"x", qos << 1 | 1, 1, &[]);
    assert_eq!(acknowledged(&mut five, &retained(5, "first", 1)), 0);
    for (word, code, message) in [
        ("reject=retained_full", 0x97, retained(5, "second", 1)),
        ("reject=system_topic", 0x87, publish(5, "$SYS/x", b"x", 1, 2)),
        ("reject=rejected", 0x87, publish(5, "denied/x", b"x", 1, 3)),
        ("reject=rejected", 0x99, publish_with(5, "t", b"\xFF", 0b10, 4, &[1, 1])),
    ] {
        counted(&server, word, &[word], || assert_eq!(acknowledged(&mut five, &message), code, "{word}"));
    }
    counted(&server, "QoS 0", &["drop=retained_full"], || {
        five.send(&retained(5, "second", 0));
        ping(&mut five);
    });
    for (word, message) in [
        ("drop=retained_full", retained(4, "second", 1)),
        ("reject=system_topic", publish(4, "$SYS/x", b"x", 1, 2)),
        ("reject=rejected", publish(4, "denied/x", b"x", 1, 3)),
    ] {
        counted(&server, word, &[word], || assert_eq!(acknowledged(&mut four, &message), 0, "{word}"));
    }
    server.assert_no_panic();
}

#[test]
fn what_a_module_drops_refuses_or_cannot_handle_is_counted() {
    let manifest = "[config]\nconnector = \"sqlite:default\"\n";
    let server = Server::builder().module("probe", manifest).start();
    let (mut wire, _) = Wire::connect(server.port, &Connect::new(5, "publisher"));
    for (topic, code, word) in [
        ("cmd/drop/x", 0, "drop=handler"),
        ("cmd/reject/x", 0x87, "reject=rejected"),
        ("cmd/error/x", 0x83, "reject=handler_failed"),
    ] {
        let message = publish(5, topic, b"x", 1, 1);
        counted(&server, topic, &[word], || assert_eq!(acknowledged(&mut wire, &message), code, "{topic}"));
    }
    server.assert_no_panic();
}

#[test]
fn a_message_for_which_a_queue_has_no_room_is_dropped() {
    let server = with("max_queued = 2");
    let away = away(&server);
    let (mut publisher, _) = Wire::connect(server.port, &Connect::new(5, "publisher"));
    let mut next = |payload: &str| acknowledged(&mut publisher, &publish(5, "t", payload.as_bytes(), 1, 1));
    assert_eq!((next("1"), next("2")), (0, 0));
    counted(&server, "a full queue", &["drop=queue_full"], || assert_eq!(next("3"), 0));
    let (mut back, present) = Wire::connect(server.port, &away);
    assert!(present);
    assert_eq!((payload(&mut back), payload(&mut back)), ("1".into(), "2".into()));
    ping(&mut back);
}

/// Those that a store has are read from there.
#[test]
fn a_live_message_that_cannot_wait_for_stored_ones_is_dropped_and_comes_out_of_the_store() {
    let server = Server::builder().document_lines().file("tidegate.toml", "broker.max_queued = 2\n").start();
    let (mut publisher, _) = Wire::connect(server.port, &Connect::new(5, "publisher"));
    let mut next = |payload: &str| {
        let code = acknowledged(&mut publisher, &publish(5, "t", payload.as_bytes(), 1, 1));
        assert!(code < 0x80, "{payload}: {code:#04x}");
    };
    ["1", "2", "3"].into_iter().for_each(&mut next);
    let mut connect = Connect::new(5, "reader");
    // Receive maximum 1: nothing comes behind what is not acknowledged.
    connect.properties = vec![0x21, 0, 1];
    let (mut reader, _) = Wire::connect(server.port, &connect);
    assert_eq!(granted(&mut reader, 5, &["t"]), [1]);
    let (_, first, payload_of_first) = reader.expect(kind::PUBLISH).publish(5);
    assert_eq!(payload_of_first, b"1");
    ["4", "5"].into_iter().for_each(&mut next);
    counted(&server, "too many wait", &["drop=hold_full"], || next("6"));
    reader.send(&ack(kind::PUBACK, first));
    let rest: Vec<String> = (0..5).map(|_| payload(&mut reader)).collect();
    assert_eq!(rest, ["2", "3", "4", "5", "6"]);
    server.assert_no_panic();
}

#[test]
fn a_message_that_its_receiver_cannot_have_is_dropped() {
    let server = Server::plain();
    let (mut publisher, _) = Wire::connect(server.port, &Connect::new(5, "publisher"));
    let away = away(&server);
    counted(&server, "an expired message", &["drop=expired"], || {
        let expires_in_a_second = [2, 0, 0, 0, 1];
        let message = publish_with(5, "t", b"x", 0b10, 1, &expires_in_a_second);
        assert_eq!(acknowledged(&mut publisher, &message), 0);
        std::thread::sleep(Duration::from_millis(1_100));
        let (mut back, present) = Wire::connect(server.port, &away);
        assert!(present);
        ping(&mut back);
    });
    let mut connect = Connect::new(5, "small");
    // Maximum packet size 100.
    connect.properties = vec![0x27, 0, 0, 0, 100];
    let (mut small, _) = Wire::connect(server.port, &connect);
    assert_eq!(granted(&mut small, 5, &["large"]), [1]);
    counted(&server, "a large message", &["drop=too_large"], || {
        assert_eq!(acknowledged(&mut publisher, &publish(5, "large", &[b'x'; 200], 1, 1)), 0);
        ping(&mut small);
    });
    server.assert_no_panic();
}

#[test]
fn the_memory_of_all_queues_bounds_wills_and_what_waits() {
    let server = with("queue_budget_bytes = 10000");
    for (version, code) in [(4, 3), (5, 0x97)] {
        let mut connect = Connect::new(version, "will");
        connect.will = Some(("t".into(), "x".repeat(20_000), 0, false));
        counted(&server, "a large will", &["limit=wills", "refused=0x97"], || {
            assert_eq!(refusal(&server, &connect), code);
        });
    }
    away(&server);
    let (mut publisher, _) = Wire::connect(server.port, &Connect::new(5, "publisher"));
    let dropped = || server.metric("tidegate_broker_dropped_total", "reason=\"over_budget\"");
    counted(&server, "messages that wait", &["drop=over_budget"], || {
        // However many fit, the first one more is dropped.
        let is_dropped = |id: u16| {
            assert_eq!(acknowledged(&mut publisher, &publish(5, "t", &[b'x'; 3_000], 1, id)), 0);
            dropped() > 0.0
        };
        assert!((1..=20).any(is_dropped));
    });
    server.assert_no_panic();
}

#[test]
fn a_packet_that_is_not_whole_gives_way_when_there_is_too_much_of_them() {
    let server = with("inbound_budget_bytes = \"64KiB\"");
    // Packets that are not whole have half of that.
    let sent = 40_000;
    for version in [4, 5] {
        counted(&server, "a part of a PUBLISH", &["limit=partial_packets"], || {
            let (mut wire, _) = Wire::connect(server.port, &Connect::new(version, "offender"));
            let whole = publish(version, "t", &[b'x'; 50_000], 1, 1);
            assert_eq!(ending(&mut wire, &whole[..sent]), (version == 5).then_some(0x97));
        });
    }
    counted(&server, "a part of a CONNECT", &["away=handshakes"], || {
        let mut connect = Connect::new(5, "offender");
        connect.will = Some(("t".into(), "x".repeat(50_000), 0, false));
        let mut wire = Wire::open(server.port);
        assert_eq!(ending(&mut wire, &connect.encode()[..sent]), None);
    });
    server.assert_no_panic();
}

#[test]
fn what_the_defaults_allow_has_an_end_too() {
    let server = Server::plain();
    counted(&server, "names of aliases", &["limit=alias_bytes", "malformed=0x97"], || {
        let (mut wire, _) = Wire::connect(server.port, &Connect::new(5, "offender"));
        let long = |alias: u8| publish_with(5, &"abcd".repeat(5_000), b"x", 0, 0, &[0x23, 0, alias]);
        let messages: Vec<u8> = (1..=4).flat_map(long).collect();
        assert_eq!(ending(&mut wire, &messages), Some(0x97));
    });
    // Before MQTT 5 nobody can be told of a receive maximum: there may be very many.
    const MOST: u16 = 16_384;
    counted(&server, "QoS 2 without PUBREL", &["limit=receipts"], || {
        let (mut wire, _) = Wire::connect(server.port, &Connect::new(4, "offender"));
        let messages: Vec<u8> = (1..=MOST + 1).flat_map(|id| publish(4, "t", b"x", 2, id)).collect();
        drop(wire.try_send(&messages));
        let answers = wire.read_to_end();
        assert_eq!(answers.len(), usize::from(MOST));
        assert!(answers.iter().all(|packet| packet.kind() == kind::PUBREC));
    });
    server.assert_no_panic();
}

#[test]
fn a_client_that_sends_too_fast_is_disconnected_where_that_is_wanted() {
    let server = with("max_message_rate = 5\nmax_byte_rate = \"20KiB\"\nrate_action = \"disconnect\"");
    try_endings(
        &server,
        &[
            ("messages", BOTH, 0x96, &["limit=message_rate"], |v| publish(v, "t", b"x", 0, 0).repeat(10)),
            ("bytes", BOTH, 0x96, &["limit=byte_rate"], |v| publish(v, "t", &[b'x'; 60_000], 0, 0)),
        ],
    );
    server.assert_no_panic();
}

#[test]
fn a_client_that_takes_nothing_is_disconnected() {
    let server = with("write_timeout = \"1s\"");
    let (mut stuck, _) = Wire::connect(server.port, &Connect::new(5, "stuck"));
    stuck.send(&subscribe(5, 1, "t", 0));
    stuck.expect(kind::SUBACK);
    let (mut publisher, _) = Wire::connect(server.port, &Connect::new(5, "publisher"));
    let limited = || server.metric("tidegate_broker_limited_total", "limit=\"write_stall\"");
    let large = vec![b'x'; 400_000];
    counted(&server, "a client that reads nothing", &["limit=write_stall"], || {
        // More than the system keeps for it, and less than its queue holds.
        for id in 1..=40 {
            assert_eq!(acknowledged(&mut publisher, &publish(5, "t", &large, 1, id)), 0);
        }
        until("it is disconnected", || (limited() > 0.0).then_some(()));
    });
    // What the system had kept, and the end.
    assert!(stuck.read_to_end().len() < 40);
    server.assert_no_panic();
}

#[test]
fn more_connections_than_there_may_be_are_closed() {
    let server = with("max_connections = 2");
    let mut clients = [4, 5].map(|version| {
        let id = format!("client-{version}");
        Wire::connect(server.port, &Connect::new(version, &id)).0
    });
    counted(&server, "one more", &["away=connections"], || {
        assert_eq!(Wire::open(server.port).read_to_end(), []);
    });
    clients.iter_mut().for_each(ping);
    server.assert_no_panic();
}

#[test]
fn who_is_silent_or_comes_again_and_again_is_turned_away() {
    let server =
        with("max_handshakes = 1\nconnect_timeout = \"1s\"\nreconnect_rate = 1\nreconnect_burst = 0");
    counted(&server, "no CONNECT in time", &["timeouts"], || {
        assert_eq!(Wire::open(server.port).read_to_end(), []);
    });
    for (version, code) in [(4, 3), (5, 0x9F)] {
        let connect = Connect::new(version, &format!("again-{version}"));
        Wire::connect(server.port, &connect);
        // Its turn comes in a second, and nobody is kept waiting for longer than half of the time.
        counted(&server, "at once again", &["damped=refused", "refused=0x9f"], || {
            assert_eq!(refusal(&server, &connect), code);
        });
    }
    counted(&server, "two of which one may wait", &["away=handshakes"], || {
        let mut oldest = Wire::open(server.port);
        let newest = Wire::open(server.port);
        assert_eq!(oldest.read_to_end(), []);
        newest.cut();
    });
    server.assert_no_panic();
}

/// It is counted when a listener begins to wait, whether somebody comes meanwhile or not.
#[test]
fn connections_above_the_rate_wait_until_it_is_their_turn() {
    let server = with("connection_rate = 1");
    let delayed = || server.metric("tidegate_broker_accepts_delayed_total", "");
    assert_eq!(delayed(), 0.0);
    let began = Instant::now();
    let (mut first, _) = Wire::connect(server.port, &Connect::new(4, "first"));
    let (mut second, _) = Wire::connect(server.port, &Connect::new(5, "second"));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert!(delayed() >= 1.0);
    ping(&mut first);
    ping(&mut second);
}

/// Sends `bytes` to `port`; gives what is answered before the connection ends.
fn answer(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        // It may be reset: not all that was sent is read.
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    answer
}

#[test]
fn what_does_not_get_as_far_as_mqtt_is_counted() {
    let (secure, web) = (free_port(), free_port());
    let builder = Server::builder().file(
        "tidegate.toml",
        format!(
            "[[broker.listener]]\nname = \"secure\"\naddress = \"127.0.0.1:{secure}\"\nkind = \"mqtts\"\n\
             certificates = [{{ cert = \"tls/server.pem\", key = \"tls/server.key\" }}]\n\
             [[broker.listener]]\nname = \"web\"\naddress = \"127.0.0.1:{web}\"\nkind = \"ws\"\n"
        ),
    );
    Authority::new(&builder.path().join("tls"), "ca").issue("server", "localhost");
    let server = builder.start();
    counted(&server, "no TLS", &["away=tls"], || {
        answer(secure, &Connect::new(5, "plain").encode());
    });
    counted(&server, "another path", &["away=websocket"], || {
        let answer = answer(web, b"GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(answer.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&answer));
    });
    server.assert_no_panic();
}
