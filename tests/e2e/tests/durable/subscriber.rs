//! A subscriber made by hand that keeps its session, and its own side of it, over the server's end.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate_e2e::wire::{self, Connect, Wire, kind};

use crate::tally::Tally;

/// A subscriber and its session.
pub(crate) struct Subscriber {
    pub(crate) name: String,
    version: u8,
    /// QoS 2 messages whose PUBREL has not come (MQTT 5 clause 4.3.3): the packet id is theirs until then.
    held: HashMap<u16, String>,
    pub(crate) tally: Tally,
}

impl Subscriber {
    /// Connects for the first time, subscribes, and goes.
    pub(crate) fn enroll(port: u16, version: u8, name: &str, filter: &str) -> Self {
        let (mut wire, present) = Wire::connect(port, &Connect::new(version, name).persistent());
        assert!(!present);
        wire.send(&wire::subscribe(version, 1, filter, 2));
        let answer = wire.expect(kind::SUBACK);
        assert_eq!(answer.body.last(), Some(&2), "{name}: {answer:?}");
        wire.send(wire::DISCONNECT);
        Self { name: name.into(), version, held: HashMap::new(), tally: Tally::default() }
    }

    /// Takes messages until the connection ends, or until `stop`.
    pub(crate) fn run(&mut self, port: u16, stop: &AtomicBool) {
        let (mut wire, present) = Wire::connect(port, &Connect::new(self.version, &self.name).persistent());
        assert!(present, "{}: its session was kept", self.name);
        wire.patience(Duration::from_millis(50));
        while !stop.load(Ordering::Relaxed) {
            let packet = match wire.read() {
                Ok(packet) => packet,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(_) => return,
            };
            let answer = match packet.kind() {
                kind::PUBLISH => self.publish(&packet),
                kind::PUBREL => {
                    self.held.remove(&packet.id());
                    wire::ack(kind::PUBCOMP, packet.id())
                }
                other => panic!("{}: unexpected packet type {other}", self.name),
            };
            if wire.try_send(&answer).is_err() {
                return;
            }
        }
        drop(wire.try_send(wire::DISCONNECT));
    }

    fn publish(&mut self, packet: &wire::Packet) -> Vec<u8> {
        let (_, id, payload) = packet.publish(self.version);
        let payload = String::from_utf8(payload).unwrap();
        if packet.first & 0b110 == 0b010 {
            self.tally.add(&payload);
            return wire::ack(kind::PUBACK, id);
        }
        assert_eq!(packet.first & 0b110, 0b100, "{}: QoS 1 or 2: {packet:?}", self.name);
        match self.held.get(&id) {
            // Sent again under its own id.
            Some(held) => {
                assert_eq!(*held, payload, "{}: id {id} was not free", self.name);
                assert_ne!(
                    packet.first & 0b1000,
                    0,
                    "{}: {id} came again without DUP (clause 3.3.1.1)",
                    self.name
                );
            }
            None => {
                self.tally.add(&payload);
                self.held.insert(id, payload);
            }
        }
        wire::ack(kind::PUBREC, id)
    }
}
