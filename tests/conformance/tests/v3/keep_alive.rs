//! Keep-alive (clause 3.1.2.10).

use std::time::{Duration, Instant};

use tidegate_conformance::Version::V311;
use tidegate_conformance::client::Came;
use tidegate_conformance::packet::PINGREQ;
use tidegate_conformance::{Client, Connect, Publish, name};

/// One and a half keep-alives of a second, and what the machine may take.
const LATEST: Duration = Duration::from_millis(3_000);
/// Not sooner, counted from before the last packet was sent.
const EARLIEST: Duration = Duration::from_millis(1_500);

/// When the connection ends, counted from `start`; `None` when it is open at [`LATEST`]. Packets are passed over.
fn end(client: &mut Client, start: Instant) -> Option<Duration> {
    loop {
        let left = LATEST.checked_sub(start.elapsed())?;
        match client.read_within(left) {
            Came::Packet(_) => {}
            Came::End => return Some(start.elapsed()),
            Came::Nothing => return None,
        }
    }
}

#[track_caller]
fn ends_in_time(client: &mut Client, start: Instant) {
    match end(client, start) {
        Some(after) => assert!(after >= EARLIEST, "ended after {after:?}: too early"),
        None => panic!("still open after {LATEST:?}"),
    }
}

#[test]
fn mqtt_3_1_2_24_a_silent_client_is_disconnected_after_one_and_a_half_keep_alives() {
    let start = Instant::now();
    let mut client = Client::connect(&Connect::new(V311).keep_alive(1));
    ends_in_time(&mut client, start);
}

#[test]
fn mqtt_3_1_2_24_the_time_begins_again_with_each_packet() {
    let topic = name("alive/");
    let mut client = Client::connect(&Connect::new(V311).keep_alive(1));
    let mut start = Instant::now();
    for step in 0..3 {
        std::thread::sleep(Duration::from_millis(900));
        start = Instant::now();
        match step {
            0 => client.ping(),
            1 => client.publish(&topic, "x", 1),
            _ => drop(client.subscribe(&topic, 0)),
        }
    }
    ends_in_time(&mut client, start);
}

#[test]
fn mqtt_3_1_2_24_what_the_client_receives_is_no_sign_of_life() {
    let topic = name("deaf/");
    let mut client = Client::connect(&Connect::new(V311).keep_alive(1));
    let start = Instant::now();
    client.subscribe(&topic, 0);
    let mut publisher = Client::new(V311);
    let sent = std::thread::spawn(move || {
        while start.elapsed() < LATEST {
            publisher.send_publish(&Publish::new(&topic, "x"));
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    ends_in_time(&mut client, start);
    sent.join().unwrap();
}

#[test]
fn mqtt_3_1_2_24_a_part_of_a_packet_is_no_sign_of_life() {
    let topic = name("slow/");
    let start = Instant::now();
    let mut client = Client::connect(&Connect::new(V311).keep_alive(1));
    let packet = Publish::new(&topic, [b'x'; 100]).encode(V311);
    for byte in packet {
        if start.elapsed() > LATEST || client.try_send([byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(
        matches!(client.read_within(Duration::from_millis(200)), Came::End),
        "still open after {LATEST:?}"
    );
    let after = start.elapsed();
    assert!(after >= EARLIEST, "ended after {after:?}: too early");
}

#[test]
fn mqtt_3_1_2_24_without_keep_alive_a_client_may_be_silent() {
    let mut client = Client::connect(&Connect::new(V311).keep_alive(0));
    assert!(matches!(client.read_within(LATEST), Came::Nothing));
    client.send(PINGREQ);
    client.expect_bytes(&[0xD0, 0]);
}
