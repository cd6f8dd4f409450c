//! A test client: raw packets over a real socket, every wait bounded.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::packet::{self, Connect, Packet, Publish, Published};

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBREL: u8 = 0x62;
pub(crate) const PUBCOMP: u8 = 0x70;

/// What a client reads and writes.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(crate) struct Client {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
    /// Messages that came while something else was awaited.
    put_back: VecDeque<Packet>,
    pub(crate) v5: bool,
    /// Session present of CONNACK.
    pub(crate) present: bool,
    /// Return or reason code of CONNACK.
    pub(crate) code: u8,
    /// Properties of CONNACK.
    pub(crate) properties: Vec<u8>,
}

impl Client {
    /// A socket without CONNECT.
    pub(crate) async fn open(address: SocketAddr, v5: bool) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::on(stream, v5)
    }

    /// Any stream, without CONNECT.
    pub(crate) fn on(stream: impl Stream + 'static, v5: bool) -> Self {
        Self {
            stream: Box::new(stream),
            input: Vec::new(),
            put_back: VecDeque::new(),
            v5,
            present: false,
            code: 0,
            properties: Vec::new(),
        }
    }

    /// Sends CONNECT and reads CONNACK, whatever it says.
    pub(crate) async fn try_connect(address: SocketAddr, connect: &Connect) -> Self {
        let mut client = Self::open(address, connect.v5).await;
        client.greet(connect).await;
        client
    }

    /// Sends CONNECT and reads CONNACK, whatever it says.
    pub(crate) async fn greet(&mut self, connect: &Connect) {
        self.send(&connect.bytes()).await;
        let packet = self.recv().await;
        assert_eq!(packet.kind(), 2, "CONNACK expected, got {packet:?}");
        self.present = packet.body[0] & 1 != 0;
        self.code = packet.body[1];
        if connect.v5 {
            let (len, used) = packet::varint(&packet.body[2..]);
            self.properties = packet.body[2 + used..2 + used + len].to_vec();
        }
    }

    /// Connects over `stream` with success.
    pub(crate) async fn connect_on(stream: impl Stream + 'static, connect: &Connect) -> Self {
        let mut client = Self::on(stream, connect.v5);
        client.greet(connect).await;
        assert_eq!(client.code, 0, "connected");
        client
    }

    /// Connects with success.
    pub(crate) async fn connect(address: SocketAddr, connect: &Connect) -> Self {
        let client = Self::try_connect(address, connect).await;
        assert_eq!(client.code, 0, "connected");
        client
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Sends what the peer may refuse to take.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.ok();
        self.stream.flush().await.ok();
    }

    /// The next packet, or `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        if let Some(packet) = self.put_back.pop_front() {
            return Some(packet);
        }
        loop {
            if let Some(packet) = self.parse() {
                return Some(packet);
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input));
            match read.await.expect("a packet in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next packet.
    pub(crate) async fn recv(&mut self) -> Packet {
        self.next().await.expect("the connection is open")
    }

    /// The next packet, which is of `first` byte.
    pub(crate) async fn expect(&mut self, first: u8) -> Packet {
        let packet = self.recv().await;
        assert_eq!(packet.first, first, "got {packet:?}");
        packet
    }

    /// The next packet, a PUBLISH.
    pub(crate) async fn message(&mut self) -> Published {
        let packet = self.recv().await;
        packet.published(self.v5)
    }

    /// The next PUBLISH, acknowledged by its QoS.
    pub(crate) async fn take(&mut self) -> Published {
        let message = self.message().await;
        match message.qos {
            1 => self.send(&packet::ack(PUBACK, message.id)).await,
            2 => {
                self.send(&packet::ack(PUBREC, message.id)).await;
                // Other messages may come before.
                let mut others = VecDeque::new();
                loop {
                    let packet = self.recv().await;
                    if packet.kind() != 3 {
                        assert_eq!((packet.first, packet.id()), (PUBREL, message.id));
                        break;
                    }
                    others.push_back(packet);
                }
                others.append(&mut self.put_back);
                self.put_back = others;
                self.send(&packet::ack(PUBCOMP, message.id)).await;
            }
            _ => {}
        }
        message
    }

    /// The payloads of the next `count` messages, each acknowledged.
    pub(crate) async fn payloads(&mut self, count: usize) -> Vec<String> {
        let mut payloads = Vec::new();
        for _ in 0..count {
            payloads.push(self.take().await.payload);
        }
        payloads
    }

    /// The connection is closed by the server; gives the DISCONNECT reason, if one came.
    pub(crate) async fn closed(&mut self) -> Option<u8> {
        let mut reason = None;
        while let Some(packet) = self.next().await {
            if packet.kind() == 14 {
                reason = Some(packet.body.first().copied().unwrap_or(0));
            }
        }
        reason
    }

    /// The connection is closed by the server with DISCONNECT, which is given.
    pub(crate) async fn disconnected(&mut self) -> Packet {
        let mut last = None;
        while let Some(packet) = self.next().await {
            last = Some(packet);
        }
        last.filter(|packet| packet.kind() == 14).expect("DISCONNECT")
    }

    /// Nothing else is there to come: PINGREQ is answered by PINGRESP alone. Twice, because what waits may follow
    /// the first PINGRESP in the same write.
    pub(crate) async fn ping(&mut self) {
        for _ in 0..2 {
            self.send(&[0xc0, 0]).await;
            self.expect(0xd0).await;
        }
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_all(&[(filter, options)]).await[0]
    }

    /// Subscribes and gives the codes of SUBACK.
    pub(crate) async fn subscribe_all(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        self.subscribe_with(filters, &[]).await
    }

    pub(crate) async fn subscribe_with(&mut self, filters: &[(&str, u8)], properties: &[u8]) -> Vec<u8> {
        self.send(&packet::subscribe(self.v5, 77, filters, properties)).await;
        let packet = self.expect(0x90).await;
        assert_eq!(packet.id(), 77);
        let codes = &packet.body[2..];
        let skipped = if self.v5 {
            let (length, used) = packet::varint(codes);
            length + used
        } else {
            0
        };
        codes[skipped..].to_vec()
    }

    pub(crate) async fn unsubscribe(&mut self, filters: &[&str]) -> Packet {
        self.send(&packet::unsubscribe(self.v5, 78, filters)).await;
        let packet = self.expect(0xb0).await;
        assert_eq!(packet.id(), 78);
        packet
    }

    /// Sends PUBLISH and waits for nothing.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str, qos: u8, id: u16) {
        self.publish_as(Publish { qos, id, ..self.draft(topic, payload) }).await;
    }

    /// Publishes and goes through the acknowledgements.
    pub(crate) async fn publish_done(&mut self, topic: &str, payload: &str, qos: u8, id: u16) {
        self.publish(topic, payload, qos, id).await;
        self.finish(qos, id).await;
    }

    /// Publishes with RETAIN at QoS 1.
    pub(crate) async fn retain(&mut self, topic: &str, payload: &str) {
        self.publish_as(Publish { qos: 1, id: 99, retain: true, ..self.draft(topic, payload) }).await;
        self.finish(1, 99).await;
    }

    pub(crate) async fn finish(&mut self, qos: u8, id: u16) {
        match qos {
            1 => assert_eq!(self.expect(PUBACK).await.id(), id),
            2 => {
                assert_eq!(self.expect(PUBREC).await.id(), id);
                self.send(&packet::ack(PUBREL, id)).await;
                assert_eq!(self.expect(PUBCOMP).await.id(), id);
            }
            _ => self.ping().await,
        }
    }

    pub(crate) fn draft<'a>(&self, topic: &'a str, payload: &'a str) -> Publish<'a> {
        Publish {
            v5: self.v5,
            topic,
            payload: payload.as_bytes(),
            qos: 0,
            id: 0,
            retain: false,
            dup: false,
            properties: &[],
        }
    }

    pub(crate) async fn publish_as(&mut self, publish: Publish<'_>) {
        let bytes = publish.bytes();
        self.send(&bytes).await;
    }

    /// DISCONNECT, then waits until the server has closed.
    pub(crate) async fn disconnect(mut self) {
        self.send(&[0xe0, 0]).await;
        assert_eq!(self.closed().await, None);
    }

    fn parse(&mut self) -> Option<Packet> {
        if self.input.len() < 2 {
            return None;
        }
        let end = self.input.iter().skip(1).position(|byte| byte & 0x80 == 0)? + 2;
        let (len, _) = packet::varint(&self.input[1..end]);
        if self.input.len() < end + len {
            return None;
        }
        let packet = Packet { first: self.input[0], body: self.input[end..end + len].to_vec() };
        self.input.drain(..end + len);
        Some(packet)
    }
}
