//! Many wrong packets at once, each on a connection of its own that must end.

use crate::client::{CLOSES_WITHIN, Came, Client};
use crate::packet::Connect;
use crate::received::{ConnAck, Packet};
use crate::server;
use crate::wire::Version;

/// A wrong packet, or several, with what is wrong for the failure report.
pub type Case = (String, Vec<u8>);

/// Names a case.
pub fn case(what: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Case {
    (what.into(), bytes.into())
}

/// What came on each connection before it ended.
pub struct Ended(Vec<(String, Vec<Packet>)>);

/// Sends each case as the first thing on a connection; all must end.
///
/// # Panics
/// One is kept open.
#[track_caller]
pub fn first_on_a_connection(version: Version, cases: impl IntoIterator<Item = Case>) -> Ended {
    ended(cases, || Client::open(version))
}

/// Sends each case on a connection whose CONNECT was accepted; all must end.
///
/// # Panics
/// One is kept open.
#[track_caller]
pub fn after_connect(version: Version, cases: impl IntoIterator<Item = Case>) -> Ended {
    ended(cases, || Client::connect(&Connect::new(version)))
}

#[track_caller]
fn ended(cases: impl IntoIterator<Item = Case>, mut open: impl FnMut() -> Client) -> Ended {
    let mut ended = Vec::new();
    let mut kept = Vec::new();
    for (what, bytes) in cases {
        let mut client = open();
        // It may be closed before everything is written.
        drop(client.try_send(&bytes));
        let mut packets = Vec::new();
        loop {
            match client.read_within(CLOSES_WITHIN) {
                Came::Packet(packet) => packets.push(packet),
                Came::End => break ended.push((what, packets)),
                Came::Nothing => {
                    break kept.push(format!("{what}: {}, answered by {packets:?}", shown(&bytes)));
                }
            }
        }
    }
    assert!(kept.is_empty(), "these connections were kept open:\n  {}", kept.join("\n  "));
    assert!(!ended.is_empty(), "no case was tried");
    server::assert_no_panic();
    Ended(ended)
}

/// The beginning of `bytes`, in hexadecimal.
fn shown(bytes: &[u8]) -> String {
    match bytes.get(..40) {
        Some(first) => format!("{first:02X?} and {} more", bytes.len() - first.len()),
        None => format!("{bytes:02X?}"),
    }
}

impl Ended {
    /// Nothing came before the end.
    #[track_caller]
    pub fn without_a_packet(&self) {
        self.each("no packet before the end", |packets| packets.is_empty());
    }

    /// CONNACK with this return code (MQTT 3.1 and 3.1.1), without session present, and nothing else.
    #[track_caller]
    pub fn with_return_code(&self, code: u8) {
        self.each(&format!("CONNACK with {code}"), |packets| {
            matches!(packets, [Packet::ConnAck(ConnAck { session_present: false, code: said, .. })] if *said == code)
        });
    }

    /// CONNACK with one of these reason codes (MQTT 5), without session present, and nothing else.
    #[track_caller]
    pub fn with_connack(&self, codes: &[u8]) {
        self.each(&format!("CONNACK with {codes:02X?}"), |packets| {
            matches!(packets, [Packet::ConnAck(ConnAck { session_present: false, code, .. })] if codes.contains(code))
        });
    }

    /// DISCONNECT with one of these reason codes (MQTT 5), and nothing else.
    #[track_caller]
    pub fn with_disconnect(&self, codes: &[u8]) {
        self.each(
            &format!("DISCONNECT with {codes:02X?}"),
            |packets| matches!(packets, [Packet::Disconnect(said)] if codes.contains(&said.reason)),
        );
    }

    /// Whatever `is` holds for: `expected` names it.
    #[track_caller]
    pub fn each(&self, expected: &str, is: impl Fn(&[Packet]) -> bool) {
        let wrong: Vec<String> = self
            .0
            .iter()
            .filter(|(_, packets)| !is(packets))
            .map(|(what, packets)| format!("{what}: {packets:?}"))
            .collect();
        assert!(wrong.is_empty(), "{expected} was expected:\n  {}", wrong.join("\n  "));
    }
}
