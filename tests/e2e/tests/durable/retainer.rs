//! A publisher of retained messages that waits for each PUBACK and goes on at once: whenever the server is killed, the last
//! one is younger than a write to the disk.

use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_e2e::wire::{self, Connect, Wire, kind};

/// Topics that are set in turn.
const SLOTS: u64 = 3;

/// What was sent and acknowledged of each topic; the payload is a number that grows, 0 = nothing yet.
#[derive(Default)]
pub(crate) struct Retainer {
    next: u64,
    sent: [u64; SLOTS as usize],
    acknowledged: [u64; SLOTS as usize],
}

impl Retainer {
    /// Publishes until the connection ends, or until `stop`.
    pub(crate) fn run(&mut self, port: u16, stop: &AtomicBool) {
        let (mut wire, _) = Wire::connect(port, &Connect::new(5, "retainer"));
        while !stop.load(Ordering::Relaxed) {
            self.next += 1;
            let slot = self.next % SLOTS;
            let (topic, payload) = (format!("latest/{slot}"), self.next.to_string());
            self.sent[slot as usize] = self.next;
            let packet = wire::publish_with(5, &topic, payload.as_bytes(), 0b011, 1, &[]);
            if wire.try_send(&packet).is_err() {
                return;
            }
            let answer = match wire.read() {
                Ok(answer) => answer,
                Err(error) => return wire::assert_ended("retainer", &error),
            };
            assert_eq!((answer.kind(), answer.id()), (kind::PUBACK, 1), "{answer:?}");
            assert!(answer.reason() < 0x80, "refused: {answer:?}");
            self.acknowledged[slot as usize] = self.next;
        }
    }

    /// Panics unless each topic has what was acknowledged last, or what was sent after that.
    pub(crate) fn check(&self, port: u16) {
        let (mut wire, _) = Wire::connect(port, &Connect::new(5, "latest-reader"));
        wire.send(&wire::subscribe(5, 1, "latest/#", 0));
        wire.expect(kind::SUBACK);
        let mut found = [0; SLOTS as usize];
        for _ in self.acknowledged.iter().filter(|number| **number > 0) {
            let (topic, _, payload) = wire.expect(kind::PUBLISH).publish(5);
            let slot: usize = topic.trim_start_matches("latest/").parse().unwrap();
            found[slot] = String::from_utf8(payload).unwrap().parse().unwrap();
        }
        for (slot, found) in found.into_iter().enumerate() {
            let (least, most) = (self.acknowledged[slot], self.sent[slot]);
            assert!((least..=most).contains(&found), "latest/{slot}: {found}, not {least} to {most}");
        }
        wire.send(wire::DISCONNECT);
    }

    /// How many were acknowledged, about.
    pub(crate) fn count(&self) -> u64 {
        self.next
    }
}
