//! MQTT packets made by hand on a plain socket: exact bytes out, exact bytes in.
//!
//! Written from the standard (MQTT 3.1.1 and 5, chapter 3) and independent of the broker's own codec, so
//! that both cannot share a mistake. It checks nothing: tests send through it what no decent client would.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

use crate::wait::PATIENCE;

/// Packet types (MQTT 5 clause 2.1.2), the upper half of the first byte.
pub mod kind {
    #![allow(missing_docs, reason = "names of the standard")]
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBACK: u8 = 9;
    pub const UNSUBACK: u8 = 11;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
}

/// PINGREQ, whole.
pub const PINGREQ: &[u8] = &[0xC0, 0];
/// DISCONNECT with normal reason, whole; valid in every version.
pub const DISCONNECT: &[u8] = &[0xE0, 0];

/// A packet as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The first byte: type and flags.
    pub first: u8,
    /// Everything after the remaining length.
    pub body: Vec<u8>,
}

impl Packet {
    /// Its type, one of [`kind`].
    pub fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The packet id of an acknowledgement, SUBACK or UNSUBACK.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// The reason code of a version 5 acknowledgement or DISCONNECT; absent means 0 (clause 3.4.2.1).
    pub fn reason(&self) -> u8 {
        let at = if self.kind() == kind::DISCONNECT { 0 } else { 2 };
        self.body.get(at).copied().unwrap_or(0)
    }

    /// The value of a property of a version 5 CONNACK (clause 3.2.2.3) that is a number; `None`: it is not there.
    pub fn connack_number(&self, wanted: u8) -> Option<u32> {
        assert_eq!(self.kind(), kind::CONNACK, "{self:?}");
        // The tests never see more than 127 bytes of properties.
        let mut rest =
            self.body.get(3..3 + usize::from(self.body[2])).expect("CONNACK has all its properties");
        while let [id, value @ ..] = rest {
            let text = |at: usize| 2 + usize::from(u16::from_be_bytes([value[at], value[at + 1]]));
            let (length, is_number) = match id {
                0x24 | 0x25 | 0x28 | 0x29 | 0x2A => (1, true),
                0x13 | 0x21 | 0x22 => (2, true),
                0x11 | 0x27 => (4, true),
                0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => (text(0), false),
                0x26 => (text(0) + text(text(0)), false),
                other => panic!("a property that CONNACK does not have: {other:#04X}"),
            };
            if is_number && *id == wanted {
                return Some(value[..length].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
            }
            rest = &value[length..];
        }
        None
    }

    /// Topic, packet id (0 at QoS 0) and payload of a PUBLISH.
    pub fn publish(&self, version: u8) -> (String, u16, Vec<u8>) {
        assert_eq!(self.kind(), kind::PUBLISH, "{self:?}");
        let length = usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        let topic = String::from_utf8(self.body[2..2 + length].to_vec()).expect("a topic is UTF-8");
        let mut at = 2 + length;
        let mut id = 0;
        if self.first & 0b110 != 0 {
            id = u16::from_be_bytes([self.body[at], self.body[at + 1]]);
            at += 2;
        }
        if version == 5 {
            // The tests never see more than 127 bytes of properties.
            at += 1 + usize::from(self.body[at]);
        }
        (topic, id, self.body[at..].to_vec())
    }
}

/// A CONNECT packet to be.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Protocol level: 3, 4 or 5.
    pub version: u8,
    /// Client identifier.
    pub client_id: String,
    /// Clean session or clean start.
    pub clean: bool,
    /// Seconds; 0 = none.
    pub keep_alive: u16,
    /// Will: topic, payload, QoS, retain.
    pub will: Option<(String, String, u8, bool)>,
    /// Version 5 properties of the will, encoded.
    pub will_properties: Vec<u8>,
    /// User name, without a password.
    pub username: Option<String>,
    /// Version 5 properties, encoded.
    pub properties: Vec<u8>,
}

impl Connect {
    /// A clean session without keep-alive.
    pub fn new(version: u8, client_id: &str) -> Self {
        Self {
            version,
            client_id: client_id.into(),
            clean: true,
            keep_alive: 0,
            will: None,
            will_properties: Vec::new(),
            username: None,
            properties: Vec::new(),
        }
    }

    /// Seconds of keep-alive.
    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    /// A session that outlives the connection (version 5: for ever).
    pub fn persistent(mut self) -> Self {
        self.clean = false;
        if self.version == 5 {
            self.properties.extend([0x11, 0xFF, 0xFF, 0xFF, 0xFF]);
        }
        self
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        text(&mut body, if self.version == 3 { "MQIsdp" } else { "MQTT" });
        body.push(self.version);
        let mut flags = u8::from(self.clean) << 1;
        if let Some((_, _, qos, retain)) = &self.will {
            flags |= 0b100 | qos << 3 | u8::from(*retain) << 5;
        }
        flags |= u8::from(self.username.is_some()) << 7;
        body.push(flags);
        body.extend(self.keep_alive.to_be_bytes());
        if self.version == 5 {
            variable(&mut body, self.properties.len());
            body.extend(&self.properties);
        }
        text(&mut body, &self.client_id);
        if let Some((topic, payload, _, _)) = &self.will {
            if self.version == 5 {
                variable(&mut body, self.will_properties.len());
                body.extend(&self.will_properties);
            }
            text(&mut body, topic);
            text(&mut body, payload);
        }
        if let Some(username) = &self.username {
            text(&mut body, username);
        }
        frame(0x10, &body)
    }
}

/// A PUBLISH with `qos` and packet id `id` (ignored at QoS 0).
pub fn publish(version: u8, topic: &str, payload: &[u8], qos: u8, id: u16) -> Vec<u8> {
    publish_with(version, topic, payload, qos << 1, id, &[])
}

/// A PUBLISH with any flags (DUP 8, QoS 2 and 4, RETAIN 1) and version 5 properties.
pub fn publish_with(
    version: u8,
    topic: &str,
    payload: &[u8],
    flags: u8,
    id: u16,
    properties: &[u8],
) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic);
    if flags & 0b110 != 0 {
        body.extend(id.to_be_bytes());
    }
    if version == 5 {
        variable(&mut body, properties.len());
        body.extend(properties);
    }
    body.extend(payload);
    frame(0x30 | flags, &body)
}

/// A SUBSCRIBE of one filter.
pub fn subscribe(version: u8, id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == 5 {
        body.push(0);
    }
    text(&mut body, filter);
    body.push(qos);
    frame(0x82, &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP with success.
pub fn ack(kind: u8, id: u16) -> Vec<u8> {
    let flags = if kind == kind::PUBREL { 2 } else { 0 };
    frame(kind << 4 | flags, &id.to_be_bytes())
}

/// Any packet: first byte, remaining length, body.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    variable(&mut packet, body.len());
    packet.extend(body);
    packet
}

/// A length-prefixed string (clause 1.5.4).
pub fn text(out: &mut Vec<u8>, value: &str) {
    out.extend(u16::try_from(value.len()).expect("the tests' strings are short").to_be_bytes());
    out.extend(value.as_bytes());
}

/// A variable byte integer (clause 1.5.5).
pub fn variable(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = u8::try_from(value % 128).expect("a remainder below 128");
        value /= 128;
        out.push(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return;
        }
    }
}

/// Panics when `error` says that nothing came for long: a peer that is killed ends its connections at once.
#[track_caller]
pub fn assert_ended(who: &str, error: &io::Error) {
    let is_silence = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    assert!(!is_silence, "{who} gets no answer, and its connection is open");
}

/// One connection.
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// Opens the socket and sends nothing.
    pub fn open(port: u16) -> Self {
        Self::try_open(port).expect("the runtime accepts connections")
    }

    /// The same, with a runtime that may be gone.
    ///
    /// # Errors
    /// The socket's.
    pub fn try_open(port: u16) -> io::Result<Self> {
        Self::try_open_at((Ipv4Addr::LOCALHOST, port))
    }

    /// The same at another address of this machine.
    ///
    /// # Errors
    /// The socket's.
    pub fn try_open_at(address: (Ipv4Addr, u16)) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Opens the socket, connects, and expects success. Gives the connection and the session-present flag.
    pub fn connect(port: u16, connect: &Connect) -> (Self, bool) {
        let mut wire = Self::open(port);
        wire.send(&connect.encode());
        let answer = wire.expect(kind::CONNACK);
        assert_eq!(answer.body[1], 0, "CONNACK refuses: {answer:?}");
        let present = answer.body[0] & 1 == 1;
        (wire, present)
    }

    /// The same connection, for another thread.
    pub fn share(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap() }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the runtime takes what it is sent");
    }

    /// Sends bytes as they are, to a peer that may be gone.
    ///
    /// # Errors
    /// The socket's.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next packet; an error at the end of the stream, and when nothing comes for long.
    ///
    /// # Errors
    /// The socket's.
    pub fn read(&mut self) -> io::Result<Packet> {
        let mut first = [0];
        self.stream.read_exact(&mut first)?;
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7F) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
            shift += 7;
            assert!(shift < 28, "the runtime sent a malformed remaining length");
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Packet { first: first[0], body })
    }

    /// The next packet, which must be of this kind.
    pub fn expect(&mut self, kind: u8) -> Packet {
        match self.read() {
            Ok(packet) if packet.kind() == kind => packet,
            Ok(packet) => panic!("expected packet type {kind}, got {packet:?}"),
            Err(error) => panic!("expected packet type {kind}, got: {error}"),
        }
    }

    /// Reads until the peer has closed; gives the packets it sent before. Panics if it stays open.
    pub fn read_to_end(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        loop {
            match self.read() {
                Ok(packet) => packets.push(packet),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("the runtime kept the connection open; it sent {packets:?}")
                }
                Err(_) => return packets,
            }
        }
    }

    /// How long [`read`](Self::read) waits.
    pub fn patience(&self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).unwrap();
    }

    /// Closes the socket without a DISCONNECT.
    pub fn cut(self) {
        drop(self.stream.shutdown(Shutdown::Both));
    }
}
