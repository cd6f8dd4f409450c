//! A publisher that keeps its session over the server's end: what was not acknowledged it sends again, in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tidegate_e2e::wire::{self, Connect, Wire, kind};

/// Messages in flight.
const WINDOW: u16 = 20;

/// A message that is not acknowledged to its end.
struct Flight {
    id: u16,
    number: u64,
    /// PUBREC came: only PUBREL is sent again (MQTT 5 clause 4.4).
    released: bool,
}

/// A publisher and its session.
pub(crate) struct Publisher {
    pub(crate) name: String,
    version: u8,
    pub(crate) qos: u8,
    /// Numbers below this were sent, and are promised unless they are in flight.
    pub(crate) next: u64,
    flights: VecDeque<Flight>,
    free: VecDeque<u16>,
    connected: bool,
}

impl Publisher {
    pub(crate) fn new(version: u8, qos: u8) -> Self {
        Self {
            name: format!("publisher-{version}-{qos}"),
            version,
            qos,
            next: 0,
            flights: VecDeque::new(),
            free: (1..=WINDOW).collect(),
            connected: false,
        }
    }

    fn payload(&self, number: u64) -> String {
        format!("{} {number}", self.name)
    }

    fn publish(&self, flight: &Flight, again: bool) -> Vec<u8> {
        let flags = self.qos << 1 | if again { 0b1000 } else { 0 };
        let payload = self.payload(flight.number);
        wire::publish_with(
            self.version,
            &format!("load/{}", self.name),
            payload.as_bytes(),
            flags,
            flight.id,
            &[],
        )
    }

    /// Panics unless everything that was sent is acknowledged.
    pub(crate) fn check_done(&self) {
        let left: Vec<u64> = self.flights.iter().map(|flight| flight.number).collect();
        assert!(left.is_empty(), "{}: not acknowledged: {left:?} of {}", self.name, self.next);
    }

    /// Sends until the connection ends, or until `stop` and everything is acknowledged.
    pub(crate) fn run(&mut self, port: u16, stop: &AtomicBool, acknowledged: &AtomicUsize) {
        let (mut wire, present) = Wire::connect(port, &Connect::new(self.version, &self.name).persistent());
        assert_eq!(present, self.connected, "{}: its session was kept", self.name);
        self.connected = true;
        let again: Vec<Vec<u8>> = self
            .flights
            .iter()
            .map(|flight| match flight.released {
                true => wire::ack(kind::PUBREL, flight.id),
                false => self.publish(flight, true),
            })
            .collect();
        if let Some(error) = again.iter().find_map(|packet| wire.try_send(packet).err()) {
            return wire::assert_ended(&self.name, &error);
        }
        loop {
            while !stop.load(Ordering::Relaxed)
                && let Some(id) = self.free.pop_front()
            {
                let flight = Flight { id, number: self.next, released: false };
                self.next += 1;
                let packet = self.publish(&flight, false);
                self.flights.push_back(flight);
                if let Err(error) = wire.try_send(&packet) {
                    return wire::assert_ended(&self.name, &error);
                }
            }
            if self.flights.is_empty() {
                return;
            }
            let packet = match wire.read() {
                Ok(packet) => packet,
                Err(error) => return wire::assert_ended(&self.name, &error),
            };
            let id = packet.id();
            let at = self.flights.iter().position(|flight| flight.id == id);
            let at = at.unwrap_or_else(|| panic!("{}: nothing in flight has id {id}: {packet:?}", self.name));
            match packet.kind() {
                kind::PUBREC => {
                    assert!(packet.reason() < 0x80, "{}: refused: {packet:?}", self.name);
                    self.flights[at].released = true;
                    if let Err(error) = wire.try_send(&wire::ack(kind::PUBREL, id)) {
                        return wire::assert_ended(&self.name, &error);
                    }
                }
                kind::PUBACK | kind::PUBCOMP => {
                    // An exchange that ended just before the server did is not known any more (clause 3.7.2.1).
                    let is_known =
                        packet.reason() < 0x80 || packet.kind() == kind::PUBCOMP && packet.reason() == 0x92;
                    assert!(is_known, "{}: refused: {packet:?}", self.name);
                    self.flights.remove(at);
                    self.free.push_back(id);
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                other => panic!("{}: unexpected packet type {other}", self.name),
            }
        }
    }
}
