//! A connection to the server: sends any bytes, and expects exactly what must come.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::packet::{self, Connect, Publish, Subscribe, Unsubscribe};
use crate::received::{Ack, Codes, ConnAck, Packet, Reason, kind};
use crate::server;
use crate::wire::Version;

/// How long an answer may take. Generous: a test waits so long only when it fails.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long the server may take to close a connection that it must close.
pub const CLOSES_WITHIN: Duration = Duration::from_secs(5);
/// How long [`Client::expect_silence`] listens. What may not come would come within a few milliseconds.
pub const SILENCE: Duration = Duration::from_millis(300);

/// What came from the server.
#[derive(Debug)]
pub enum Came {
    /// A packet.
    Packet(Packet),
    /// The end: the server has closed the connection.
    End,
    /// Nothing, for as long as was waited.
    Nothing,
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    version: Version,
    /// What was read of the next packet.
    buffer: Vec<u8>,
    /// The most bytes that a packet had.
    largest: usize,
    /// The last packet id taken by [`next_id`](Self::next_id).
    id: u16,
}

impl Client {
    /// Opens a connection to the shared server and sends nothing; `version` is for reading.
    pub fn open(version: Version) -> Self {
        Self::open_at(server::port(), version)
    }

    /// As [`open`](Self::open), on another port.
    pub fn open_at(port: u16, version: Version) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server takes connections");
        stream.set_nodelay(true).expect("a socket option");
        Self { stream, version, buffer: Vec::new(), largest: 0, id: 0 }
    }

    /// Connects with a new client id and a clean session.
    pub fn new(version: Version) -> Self {
        Self::connect(&Connect::new(version))
    }

    /// Connects and expects success.
    pub fn connect(connect: &Connect) -> Self {
        Self::connect_with(connect).0
    }

    /// Connects, expects success, and gives CONNACK.
    pub fn connect_with(connect: &Connect) -> (Self, ConnAck) {
        Self::connect_at(server::port(), connect)
    }

    /// As [`connect_with`](Self::connect_with), on another port.
    pub fn connect_at(port: u16, connect: &Connect) -> (Self, ConnAck) {
        let mut client = Self::open_at(port, connect.version);
        client.send(connect.encode());
        let answer = client.expect_connack();
        assert_eq!(answer.code, 0, "{answer:?} to {connect:?}");
        (client, answer)
    }

    /// The version it reads by.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The size of the largest packet that was read so far, bytes.
    pub fn largest(&self) -> usize {
        self.largest
    }

    /// A packet id that was not taken on this connection.
    pub fn next_id(&mut self) -> u16 {
        self.id += 1;
        self.id
    }

    // --- sending

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// The server has closed the connection.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server takes what it is sent");
    }

    /// Sends bytes as they are, to a server that may have closed the connection.
    ///
    /// # Errors
    /// The socket's.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends a PUBLISH.
    #[track_caller]
    pub fn send_publish(&mut self, publish: &Publish) {
        self.send(publish.encode(self.version));
    }

    /// Sends an acknowledgement without reason code.
    #[track_caller]
    pub fn send_ack(&mut self, kind: u8, id: u16) {
        self.send(packet::ack(kind, id));
    }

    // --- reading

    /// What comes next, at the latest after `limit`.
    ///
    /// # Panics
    /// It is a packet that the server must not send.
    #[track_caller]
    pub fn read_within(&mut self, limit: Duration) -> Came {
        let deadline = Instant::now() + limit;
        loop {
            if let Some((first, body, length)) = whole(&self.buffer) {
                let packet = Packet::decode(self.version, first, body).unwrap_or_else(|error| {
                    panic!("the server sent {:02X?}: {error}", &self.buffer[..length])
                });
                self.buffer.drain(..length);
                self.largest = self.largest.max(length);
                return Came::Packet(packet);
            }
            // Zero would mean without limit.
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).expect("a socket option");
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Came::End,
                Ok(count) => self.buffer.extend(&bytes[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= deadline {
                        return Came::Nothing;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A reset: the server closed while bytes of ours were not read.
                Err(_) => return Came::End,
            }
        }
    }

    /// The next packet.
    ///
    /// # Panics
    /// The connection ends, or nothing comes.
    #[track_caller]
    pub fn expect(&mut self) -> Packet {
        match self.read_within(PATIENCE) {
            Came::Packet(packet) => packet,
            other => panic!("a packet was expected: {other:?}"),
        }
    }

    /// The next packet, which must be CONNACK.
    #[track_caller]
    pub fn expect_connack(&mut self) -> ConnAck {
        match self.expect() {
            Packet::ConnAck(answer) => answer,
            other => panic!("CONNACK was expected: {other:?}"),
        }
    }

    /// The next packet, which must be PUBLISH.
    #[track_caller]
    pub fn expect_publish(&mut self) -> Publish {
        match self.expect() {
            Packet::Publish(publish) => publish,
            other => panic!("PUBLISH was expected: {other:?}"),
        }
    }

    /// The next packet, which must be the PUBLISH of this payload.
    #[track_caller]
    pub fn expect_payload(&mut self, payload: &str) -> Publish {
        let publish = self.expect_publish();
        assert_eq!(publish.text(), payload, "{publish:?}");
        publish
    }

    /// The next packet, which must be this acknowledgement of this id.
    #[track_caller]
    pub fn expect_ack(&mut self, kind: u8, id: u16) -> Ack {
        match self.expect() {
            Packet::Ack(ack) if (ack.kind, ack.id) == (kind, id) => ack,
            other => panic!("packet type {kind} of id {id} was expected: {other:?}"),
        }
    }

    /// The next packet, which must be SUBACK of this id.
    #[track_caller]
    pub fn expect_suback(&mut self, id: u16) -> Codes {
        match self.expect() {
            Packet::SubAck(codes) if codes.id == id => codes,
            other => panic!("SUBACK of id {id} was expected: {other:?}"),
        }
    }

    /// The next packet, which must be UNSUBACK of this id.
    #[track_caller]
    pub fn expect_unsuback(&mut self, id: u16) -> Codes {
        match self.expect() {
            Packet::UnsubAck(codes) if codes.id == id => codes,
            other => panic!("UNSUBACK of id {id} was expected: {other:?}"),
        }
    }

    /// The next bytes of the connection, exactly these.
    #[track_caller]
    pub fn expect_bytes(&mut self, expected: &[u8]) {
        let mut bytes = std::mem::take(&mut self.buffer);
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        while bytes.len() < expected.len() {
            let mut more = vec![0; expected.len() - bytes.len()];
            match self.stream.read(&mut more) {
                Ok(0) => break,
                Ok(count) => bytes.extend(&more[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("expected {expected:02X?}, got {bytes:02X?} and then: {error}"),
            }
        }
        let rest = bytes.split_off(expected.len().min(bytes.len()));
        assert_eq!(bytes, expected, "in hexadecimal: {bytes:02X?} instead of {expected:02X?}");
        self.buffer = rest;
    }

    /// The server closes the connection, soon, and sends nothing before.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        match self.read_within(CLOSES_WITHIN) {
            Came::End => {}
            other => panic!("the end of the connection was expected: {other:?}"),
        }
    }

    /// The server closes the connection, soon, after at most the packets given, which need not have come.
    #[track_caller]
    pub fn expect_end(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        loop {
            match self.read_within(CLOSES_WITHIN) {
                Came::Packet(packet) => packets.push(packet),
                Came::End => return packets,
                Came::Nothing => panic!("the connection was kept open; before came {packets:?}"),
            }
        }
    }

    /// DISCONNECT of MQTT 5 with this reason code, and then the end.
    #[track_caller]
    pub fn expect_disconnect(&mut self, reason: u8) -> Reason {
        let said = match self.read_within(CLOSES_WITHIN) {
            Came::Packet(Packet::Disconnect(said)) if said.reason == reason => said,
            other => panic!("DISCONNECT with {reason:#04x} was expected: {other:?}"),
        };
        self.expect_closed();
        said
    }

    /// Nothing comes for a while, not even the end.
    #[track_caller]
    pub fn expect_silence(&mut self) {
        match self.read_within(SILENCE) {
            Came::Nothing => {}
            other => panic!("nothing was expected: {other:?}"),
        }
    }

    // --- exchanges

    /// PINGREQ and PINGRESP: what was sent before is read, and nothing else waits to be read.
    #[track_caller]
    pub fn ping(&mut self) {
        self.send(packet::PINGREQ);
        match self.expect() {
            Packet::PingResp => {}
            other => panic!("PINGRESP was expected: {other:?}"),
        }
    }

    /// Subscribes to one filter, expects that it is granted as asked, and gives the code.
    #[track_caller]
    pub fn subscribe(&mut self, filter: impl AsRef<[u8]>, options: u8) -> u8 {
        let id = self.next_id();
        self.send(Subscribe::new(id).filter(filter, options).encode(self.version));
        let codes = self.expect_suback(id).codes;
        assert_eq!(codes, [options & 3], "SUBACK");
        options & 3
    }

    /// Unsubscribes from one filter.
    #[track_caller]
    pub fn unsubscribe(&mut self, filter: impl AsRef<[u8]>) {
        let id = self.next_id();
        self.send(Unsubscribe::new(id).filter(filter).encode(self.version));
        self.expect_unsuback(id);
    }

    /// Publishes and waits until the server has taken it; at QoS 0 with a ping.
    #[track_caller]
    pub fn publish(&mut self, topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>, qos: u8) {
        self.publish_all(Publish::new(topic, payload), qos);
    }

    /// As [`publish`](Self::publish), with RETAIN.
    #[track_caller]
    pub fn publish_retained(&mut self, topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>, qos: u8) {
        self.publish_all(Publish::new(topic, payload).retain(), qos);
    }

    #[track_caller]
    fn publish_all(&mut self, publish: Publish, qos: u8) {
        let id = if qos > 0 { self.next_id() } else { 0 };
        self.send_publish(&publish.qos(qos, id));
        match qos {
            0 => self.ping(),
            1 => drop(self.expect_ack(kind::PUBACK, id)),
            _ => {
                self.expect_ack(kind::PUBREC, id);
                self.send_ack(kind::PUBREL, id);
                self.expect_ack(kind::PUBCOMP, id);
            }
        }
    }

    /// Acknowledges a PUBLISH as its QoS asks for, to the end.
    #[track_caller]
    pub fn acknowledge(&mut self, publish: &Publish) {
        match (publish.qos, publish.id) {
            (1, Some(id)) => self.send_ack(kind::PUBACK, id),
            (2, Some(id)) => {
                self.send_ack(kind::PUBREC, id);
                self.expect_ack(kind::PUBREL, id);
                self.send_ack(kind::PUBCOMP, id);
            }
            _ => {}
        }
    }

    /// The next PUBLISH, acknowledged; at QoS 2 the rest of the exchange is done when this is called again.
    ///
    /// # Panics
    /// Something else than PUBLISH and PUBREL comes.
    #[track_caller]
    pub fn take(&mut self) -> Publish {
        loop {
            match self.expect() {
                Packet::Publish(publish) => {
                    match (publish.qos, publish.id) {
                        (1, Some(id)) => self.send_ack(kind::PUBACK, id),
                        (2, Some(id)) => self.send_ack(kind::PUBREC, id),
                        _ => {}
                    }
                    return publish;
                }
                Packet::Ack(ack) if ack.kind == kind::PUBREL => self.send_ack(kind::PUBCOMP, ack.id),
                other => panic!("PUBLISH was expected: {other:?}"),
            }
        }
    }

    /// Publishes at QoS 0 to `topic`, to which this client has subscribed, and gets the message.
    #[track_caller]
    pub fn publish_and_get(&mut self, topic: impl AsRef<[u8]>) {
        let publish = Publish::new(topic, "there and back");
        self.send_publish(&publish);
        assert_eq!(self.expect_publish(), publish);
    }

    /// DISCONNECT; the server closes.
    #[track_caller]
    pub fn disconnect(mut self) {
        self.send(packet::DISCONNECT);
        self.expect_end();
    }

    /// Closes the connection without DISCONNECT.
    pub fn cut(self) {
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

/// The first packet of `bytes` when all of it is there: first byte, body, length of everything.
///
/// # Panics
/// The remaining length is malformed, or has more bytes than it needs (MQTT 3.1.1 clause 2.2.3, MQTT 5 clause 1.5.5).
fn whole(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (first, rest) = bytes.split_first()?;
    let ends = rest.iter().take(4).position(|byte| byte & 0x80 == 0);
    assert!(ends.is_some() || rest.len() < 4, "the server sent a malformed remaining length: {bytes:02X?}");
    let digits = ends? + 1;
    assert!(
        digits == 1 || rest[digits - 1] != 0,
        "the server sent a remaining length in more bytes than it needs: {:02X?}",
        &bytes[..=digits]
    );
    let length = rest[..digits].iter().rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7F));
    let body = rest.get(digits..digits + length)?;
    Some((*first, body, 1 + digits + length))
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn packets_are_cut_where_they_end() {
        assert_eq!(whole(&[]), None);
        assert_eq!(whole(&[0xD0]), None);
        assert_eq!(whole(&[0xD0, 0]), Some((0xD0, &[][..], 2)));
        assert_eq!(whole(&[0x40, 2, 0]), None);
        assert_eq!(whole(&[0x40, 2, 0, 1, 0xD0]), Some((0x40, &[0, 1][..], 4)));
        let mut long = vec![0x30, 0x80, 1];
        long.extend([7; 128]);
        assert_eq!(whole(&long[..130]), None);
        assert_eq!(whole(&long).map(|(_, body, length)| (body.len(), length)), Some((128, 131)));
    }

    #[test]
    #[should_panic(expected = "more bytes than it needs")]
    fn a_length_in_more_bytes_than_it_needs_is_refused() {
        whole(&[0x40, 0x82, 0, 0, 1]);
    }
}
