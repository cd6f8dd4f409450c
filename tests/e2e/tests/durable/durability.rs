//! `broker.session_durability`: what each of its values keeps over the end of the process, and what becomes of the files when
//! it is changed (docs/sessions.md).

use tidegate_e2e::Server;
use tidegate_e2e::wire::{self, Connect, Wire, kind};

/// What waits for the client that is away.
const MESSAGES: usize = 50;

/// The file with this value of the key.
fn toml(durability: &str) -> String {
    format!("[broker]\nsession_durability = \"{durability}\"\n")
}

/// A server whose file has this value.
fn server_with(durability: &str) -> Server {
    Server::builder().file("tidegate.toml", toml(durability)).start()
}

/// The process ends without a word, and comes back with another value.
fn restart_with(server: &mut Server, durability: &str) {
    server.kill();
    std::fs::write(server.file("tidegate.toml"), toml(durability)).unwrap();
    server.start();
}

/// Connects the client whose session is to be kept; and whether it was.
fn keeper(port: u16) -> (Wire, bool) {
    Wire::connect(port, &Connect::new(5, "keeper").persistent())
}

/// It begins a session, subscribes, and goes.
fn enroll(port: u16) {
    let (mut wire, present) = keeper(port);
    assert!(!present, "nothing is known of it");
    wire.send(&wire::subscribe(5, 1, "kept/#", 1));
    assert_eq!(wire.expect(kind::SUBACK).body.last(), Some(&1));
    wire.send(wire::DISCONNECT);
    wire.read_to_end();
}

fn publish(wire: &mut Wire, topic: &str, payload: &str, retain: bool) {
    let flags = 0b010 | u8::from(retain);
    wire.send(&wire::publish_with(5, topic, payload.as_bytes(), flags, 1, &[]));
    let answer = wire.expect(kind::PUBACK);
    assert_eq!((answer.id(), answer.reason() < 0x80), (1, true), "{topic}: {answer:?}");
}

/// A retained message, and some for the client that is away: all are acknowledged, the last just before this returns.
fn promise(port: u16, round: &str) {
    let (mut wire, _) = Wire::connect(port, &Connect::new(5, "publisher"));
    publish(&mut wire, "state", round, true);
    for number in 0..MESSAGES {
        publish(&mut wire, "kept/x", &format!("{round} {number}"), false);
    }
}

/// The next message, acknowledged.
fn take(wire: &mut Wire) -> String {
    let (_, id, payload) = wire.expect(kind::PUBLISH).publish(5);
    wire.send(&wire::ack(kind::PUBACK, id));
    String::from_utf8(payload).unwrap()
}

/// The session is there with all that was promised to it in `round` and nothing else, and still gets what is published now.
fn expect_kept(port: u16, round: &str) {
    let (mut wire, present) = keeper(port);
    assert!(present, "its session is there");
    for number in 0..MESSAGES {
        assert_eq!(take(&mut wire), format!("{round} {number}"));
    }
    let (mut publisher, _) = Wire::connect(port, &Connect::new(5, "publisher"));
    publish(&mut publisher, "kept/y", "live", false);
    assert_eq!(take(&mut wire), "live");
    wire.send(wire::DISCONNECT);
    wire.read_to_end();
}

/// What is retained, if anything is.
fn expect_retained(port: u16, expected: Option<&str>) {
    let (mut wire, _) = Wire::connect(port, &Connect::new(5, "reader"));
    wire.send(&wire::subscribe(5, 1, "state", 1));
    wire.expect(kind::SUBACK);
    if let Some(expected) = expected {
        assert_eq!(take(&mut wire), expected);
    }
    // Twice: what is retained may follow the first answer in the same write.
    for _ in 0..2 {
        wire.send(wire::PINGREQ);
        wire.expect(kind::PINGRESP);
    }
}

#[test]
fn what_the_operating_system_has_outlives_the_process() {
    let mut server = server_with("written");
    enroll(server.port);
    promise(server.port, "first");
    server.kill();
    server.start();
    expect_kept(server.port, "first");
    expect_retained(server.port, Some("first"));
    // What was taken is not there once more.
    promise(server.port, "second");
    server.kill();
    server.start();
    expect_kept(server.port, "second");
    expect_retained(server.port, Some("second"));
    server.assert_no_panic();
}

#[test]
fn with_off_everything_is_there_while_the_process_lives_and_nothing_afterwards() {
    let mut server = server_with("off");
    enroll(server.port);
    promise(server.port, "first");
    expect_kept(server.port, "first");
    expect_retained(server.port, Some("first"));
    promise(server.port, "second");
    server.kill();
    server.start();
    enroll(server.port);
    expect_retained(server.port, None);
    server.assert_no_panic();
}

#[test]
fn off_leaves_the_files_as_they_are_and_what_is_in_them_comes_back() {
    let mut server = server_with("synced");
    enroll(server.port);
    promise(server.port, "first");
    restart_with(&mut server, "off");
    expect_retained(server.port, None);
    enroll(server.port);
    promise(server.port, "second");
    restart_with(&mut server, "synced");
    expect_retained(server.port, Some("first"));
    expect_kept(server.port, "first");
    server.assert_no_panic();
}
