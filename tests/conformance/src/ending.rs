//! What the server says when it ends a connection, with the reason that MQTT 5 gives for it (clause 4.13).
//!
//! The functions give an error instead of failing, so that a table of cases, each with reasons of its own, can be tried
//! to its end and all of its failures reported at once: see [`Failures`]. Where all cases have the same answer,
//! [`refusal`](crate::refusal) is enough.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::client::{CLOSES_WITHIN, Came, Client, PATIENCE};
use crate::packet::{Connect, Publish};
use crate::received::Packet;
use crate::server;
use crate::wire::Version;

/// Malformed packet.
pub const MALFORMED: u8 = 0x81;
/// Protocol error.
pub const PROTOCOL_ERROR: u8 = 0x82;
/// Unsupported protocol version.
pub const UNSUPPORTED_VERSION: u8 = 0x84;
/// Client identifier not valid.
pub const CLIENT_ID_INVALID: u8 = 0x85;
/// Not authorized.
pub const NOT_AUTHORIZED: u8 = 0x87;
/// Bad user name or password.
pub const BAD_LOGIN: u8 = 0x86;
/// Server busy.
pub const BUSY: u8 = 0x89;
/// Bad authentication method.
pub const BAD_METHOD: u8 = 0x8C;
/// Keep alive timeout.
pub const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
/// Session taken over.
pub const TAKEN_OVER: u8 = 0x8E;
/// Topic filter invalid.
pub const FILTER_INVALID: u8 = 0x8F;
/// Topic name invalid.
pub const TOPIC_INVALID: u8 = 0x90;
/// Receive maximum exceeded.
pub const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
/// Topic alias invalid.
pub const ALIAS_INVALID: u8 = 0x94;
/// Packet too large.
pub const TOO_LARGE: u8 = 0x95;
/// Payload format invalid.
pub const FORMAT_INVALID: u8 = 0x99;
/// Retain not supported.
pub const RETAIN_NOT_SUPPORTED: u8 = 0x9A;
/// QoS not supported.
pub const QOS_NOT_SUPPORTED: u8 = 0x9B;
/// Connection rate exceeded.
pub const RATE_EXCEEDED: u8 = 0x9F;

/// Everything that comes until the server closes the connection, which it must do soon.
///
/// # Errors
/// It stays open.
pub fn ending(client: &mut Client) -> Result<Vec<Packet>, String> {
    ending_after(client, CLOSES_WITHIN)
}

/// As [`ending`], where what comes first may take as long as `answer`.
fn ending_after(client: &mut Client, answer: Duration) -> Result<Vec<Packet>, String> {
    let mut packets = Vec::new();
    loop {
        match client.read_within(if packets.is_empty() { answer } else { CLOSES_WITHIN }) {
            Came::Packet(packet) => packets.push(packet),
            Came::End => return Ok(packets),
            Came::Nothing => return Err(format!("the connection stays open; before came {packets:?}")),
        }
    }
}

/// The server ends this connection. In MQTT 5 it says why: DISCONNECT, alone, with one of `reasons`. Before MQTT 5 it
/// says nothing.
///
/// # Errors
/// What it does instead.
pub fn refused(client: &mut Client, reasons: &[u8]) -> Result<(), String> {
    let packets = ending(client)?;
    match (&packets[..], client.version()) {
        ([Packet::Disconnect(said)], Version::V5) if reasons.contains(&said.reason) => Ok(()),
        ([], Version::V31 | Version::V311) => Ok(()),
        (_, Version::V5) => {
            Err(format!("DISCONNECT with one of {reasons:02X?} was expected: {packets:02X?}"))
        }
        _ => Err(format!("the end alone was expected: {packets:02X?}")),
    }
}

/// Sends `bytes` on a new connection of `version` after a successful CONNECT, and expects what [`refused`] does.
///
/// # Errors
/// What the server does instead.
pub fn offend(version: Version, bytes: &[u8], reasons: &[u8]) -> Result<(), String> {
    let mut client = Client::new(version);
    // It may have closed before the last byte is sent.
    client.try_send(bytes).ok();
    refused(&mut client, reasons)
}

/// The server refuses `bytes`, which begin with CONNECT, and closes. In MQTT 5 it says why: CONNACK, alone, with one of
/// `reasons` and without a session. Before MQTT 5 it says nothing (MQTT 3.1.1 clause 3.1.4).
///
/// # Errors
/// What it does instead.
pub fn connect_refused(version: Version, bytes: &[u8], reasons: &[u8]) -> Result<(), String> {
    let mut client = Client::open(version);
    client.try_send(bytes).ok();
    let packets = ending(&mut client)?;
    match (&packets[..], version) {
        (_, Version::V5) => match only_connack(&packets)? {
            code if reasons.contains(&code) => Ok(()),
            _ => Err(format!("CONNACK with one of {reasons:02X?} was expected: {packets:02X?}")),
        },
        ([], _) => Ok(()),
        _ => Err(format!("the end alone was expected: {packets:02X?}")),
    }
}

/// The server at `port` does not let the client in: the code of CONNACK, which says of no session, and after which the
/// connection ends. What the client sends behind CONNECT is not answered (MQTT 3.1.1 3.1.4-5, MQTT 5 3.1.4-6).
///
/// # Errors
/// What it does instead.
pub fn not_let_in(port: u16, connect: &Connect) -> Result<u8, String> {
    let mut client = Client::open_at(port, connect.version);
    let publish = Publish::new("access/behind", "x").qos(1, 1).retain();
    client.send([connect.encode(), publish.encode(connect.version)].concat());
    // To look at a password takes time.
    only_connack(&ending_after(&mut client, PATIENCE)?)
}

/// The code of CONNACK, which is all that came and says of no session.
fn only_connack(packets: &[Packet]) -> Result<u8, String> {
    match packets {
        [Packet::ConnAck(said)] if said.session_present => {
            Err("a refusal says that there is a session".into())
        }
        [Packet::ConnAck(said)] => Ok(said.code),
        _ => Err(format!("CONNACK alone was expected: {packets:02X?}")),
    }
}

/// The bytes that the server sends after `bytes` until it closes the connection, whatever version they are of.
///
/// # Errors
/// It stays open.
pub fn answer_bytes(bytes: &[u8]) -> Result<Vec<u8>, String> {
    answer_pieces(&[bytes])
}

/// As [`answer_bytes`], where each piece is sent by itself.
///
/// # Errors
/// As [`answer_bytes`].
pub fn answer_pieces(pieces: &[&[u8]]) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect(("127.0.0.1", server::port())).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(CLOSES_WITHIN)).map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    for piece in pieces {
        // It may have closed before the last of them.
        stream.write_all(piece).ok();
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(format!("the connection stays open; before came {answer:02X?}"))
        }
        // A reset is an end, too.
        _ => Ok(answer),
    }
}

/// The failures of a table of cases. Dropped without [`report`](Self::report) it checks nothing.
#[derive(Default)]
#[must_use]
pub struct Failures {
    tried: usize,
    failed: Vec<String>,
}

impl Failures {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The result of a case.
    pub fn add(&mut self, what: impl std::fmt::Display, result: Result<(), String>) {
        self.tried += 1;
        if let Err(error) = result {
            self.failed.push(format!("{what}: {error}"));
        }
    }

    /// [`offend`], as a case.
    pub fn offend(&mut self, what: impl std::fmt::Display, bytes: impl AsRef<[u8]>, reasons: &[u8]) {
        self.add(what, offend(Version::V5, bytes.as_ref(), reasons));
    }

    /// [`connect_refused`] of a CONNECT, as a case.
    pub fn connect(&mut self, what: impl std::fmt::Display, connect: &Connect, reasons: &[u8]) {
        self.add(what, connect_refused(connect.version, &connect.encode(), reasons));
    }

    /// How many cases there were.
    pub fn tried(&self) -> usize {
        self.tried
    }

    /// The end of the table.
    ///
    /// # Panics
    /// A case failed, or there was none, or the shared server has panicked.
    #[track_caller]
    pub fn report(self) {
        server::assert_no_panic();
        assert!(self.tried > 0, "the table is empty");
        let (failed, tried) = (self.failed.len(), self.tried);
        assert!(self.failed.is_empty(), "{failed} of {tried} cases failed:\n  {}", self.failed.join("\n  "));
    }
}
