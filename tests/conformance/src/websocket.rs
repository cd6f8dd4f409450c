//! A WebSocket connection (RFC 6455) made by hand: for MQTT over it (clause 6), right and wrong.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::client::{CLOSES_WITHIN, PATIENCE};
use crate::server::{Server, free_port};

/// Frame types (RFC 6455 clause 5.2).
pub mod opcode {
    #![allow(missing_docs, reason = "names of the standard")]
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// Where the listener serves.
pub const PATH: &str = "/mqtt";
/// The key of the example in RFC 6455 clause 1.3 ..
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// .. and what a server makes of it.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Any key masks: clause 5.3.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// The port of a WebSocket listener that all tests of this program share.
pub fn port() -> u16 {
    static SHARED: OnceLock<(Server, u16)> = OnceLock::new();
    let (_, port) = SHARED.get_or_init(|| {
        let port = free_port();
        let configuration = format!(
            "[[broker.listener]]\nname = \"web\"\naddress = \"127.0.0.1:{port}\"\nkind = \"ws\"\npath = \"{PATH}\"\n"
        );
        let server = Server::start(&configuration);
        server.wait(port);
        (server, port)
    });
    *port
}

/// The answer to a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header fields by their names in small letters.
    pub fields: BTreeMap<String, String>,
}

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether it is the last of its message.
    pub last: bool,
    /// One of [`opcode`].
    pub opcode: u8,
    /// Payload.
    pub payload: Vec<u8>,
}

/// A connection.
pub struct WebSocket {
    stream: TcpStream,
    /// What was read of the next frame.
    buffer: Vec<u8>,
    /// What binary frames brought and nobody has expected yet.
    bytes: Vec<u8>,
    /// Whether the last binary frame was not the last of its message.
    within: bool,
}

impl WebSocket {
    /// Asks for an upgrade with these sub-protocols, as they stand in the header (`None`: without it).
    ///
    /// # Panics
    /// The server does not answer in HTTP.
    pub fn ask(protocols: Option<&str>) -> (Self, Answer) {
        let stream = TcpStream::connect(("127.0.0.1", port())).expect("the server takes connections");
        stream.set_nodelay(true).expect("a socket option");
        let mut socket = Self { stream, buffer: Vec::new(), bytes: Vec::new(), within: false };
        let offer =
            protocols.map_or_else(String::new, |names| format!("Sec-WebSocket-Protocol: {names}\r\n"));
        let request = format!(
            "GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n"
        );
        socket.send(request.as_bytes());
        let deadline = Instant::now() + PATIENCE;
        let end = loop {
            match socket.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break end,
                None => assert!(socket.more(deadline), "no answer to the handshake"),
            }
        };
        let head: Vec<u8> = socket.buffer.drain(..end + 4).take(end).collect();
        let answer = answer(&String::from_utf8_lossy(&head));
        (socket, answer)
    }

    /// Upgrades with the sub-protocol `mqtt`.
    ///
    /// # Panics
    /// The server does not.
    pub fn open() -> Self {
        let (socket, answer) = Self::ask(Some("mqtt"));
        assert_eq!(answer.status, 101, "{answer:?}");
        assert_eq!(answer.fields.get("sec-websocket-accept").map(String::as_str), Some(ACCEPT), "{answer:?}");
        socket
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// The server has closed the connection.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes what it is sent");
    }

    /// Sends a whole message in one frame.
    pub fn send_frame(&mut self, opcode: u8, payload: &[u8]) {
        self.send_part(true, opcode, payload);
    }

    /// Sends a frame, the last of its message or not.
    pub fn send_part(&mut self, last: bool, opcode: u8, payload: &[u8]) {
        let mut frame = vec![u8::from(last) << 7 | opcode];
        match payload.len() {
            length @ 0..=125 => frame.push(0x80 | u8::try_from(length).expect("at most 125")),
            length => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(length).expect("the tests' frames are short").to_be_bytes());
            }
        }
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.send(&frame);
    }

    /// The next frame; `None` at the end, and when nothing comes for `limit`.
    ///
    /// # Panics
    /// The frame is masked, or has reserved bits, which a server's must not.
    pub fn read(&mut self, limit: Duration) -> Option<Frame> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some((frame, length)) = whole(&self.buffer) {
                self.buffer.drain(..length);
                return Some(frame);
            }
            if !self.more(deadline) {
                return None;
            }
        }
    }

    /// The next bytes in binary frames, exactly these, however they are cut.
    ///
    /// # Panics
    /// Others come, or another frame.
    #[track_caller]
    pub fn expect_bytes(&mut self, expected: &[u8]) {
        while self.bytes.len() < expected.len() {
            let frame = self
                .read(PATIENCE)
                .unwrap_or_else(|| panic!("{expected:02X?} expected, got {:02X?}", self.bytes));
            let wanted = if self.within { opcode::CONTINUATION } else { opcode::BINARY };
            assert_eq!(frame.opcode, wanted, "no binary frame: {frame:?}");
            self.within = !frame.last;
            self.bytes.extend(frame.payload);
        }
        let bytes: Vec<u8> = self.bytes.drain(..expected.len()).collect();
        assert_eq!(bytes, expected, "in hexadecimal: {bytes:02X?} instead of {expected:02X?}");
    }

    /// The server closes the connection, soon; before, it may send a closing frame and nothing else.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        let deadline = Instant::now() + CLOSES_WITHIN;
        assert!(self.bytes.is_empty(), "before the end: {:02X?}", self.bytes);
        while let Some(frame) = self.read(deadline.saturating_duration_since(Instant::now())) {
            assert_eq!(frame.opcode, opcode::CLOSE, "before the end: {frame:?}");
        }
        assert!(self.ended(), "the connection was kept open");
    }

    /// Whether the server has closed.
    fn ended(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket option");
        match self.stream.read(&mut [0]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// Reads some bytes; not at the end, and not after `deadline`.
    fn more(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).expect("a socket option");
        let mut bytes = [0; 4_096];
        match self.stream.read(&mut bytes) {
            Ok(count) if count > 0 => {
                self.buffer.extend(&bytes[..count]);
                true
            }
            _ => false,
        }
    }
}

fn answer(head: &str) -> Answer {
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_owned()))
    };
    Answer {
        status: status.unwrap_or_else(|| panic!("no HTTP: {head}")),
        fields: lines.filter_map(field).collect(),
    }
}

/// The first frame of `bytes` when all of it is there, and its length.
fn whole(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert!(first & 0x70 == 0 && second & 0x80 == 0, "a server's frame begins so: {first:02X} {second:02X}");
    let (length, at) = match second {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
        length => (usize::from(length), 2),
    };
    let payload = bytes.get(at..at + length)?.to_vec();
    Some((Frame { last: first & 0x80 != 0, opcode: first & 0x0F, payload }, at + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_answers_are_read() {
        assert_eq!(whole(&[0x82, 2, 0xD0]), None);
        let ping = Frame { last: true, opcode: opcode::BINARY, payload: vec![0xD0, 0] };
        assert_eq!(whole(&[0x82, 2, 0xD0, 0, 0x88]), Some((ping, 4)));
        let mut long = vec![0x02, 126, 1, 0];
        long.extend([7; 256]);
        assert_eq!(
            whole(&long).map(|(frame, length)| (frame.last, frame.payload.len(), length)),
            Some((false, 256, 260))
        );
        let answer = answer("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Protocol: mqtt");
        assert_eq!((answer.status, answer.fields["sec-websocket-protocol"].as_str()), (101, "mqtt"));
    }
}
