//! A client that subscribes, unsubscribes, is cut off, comes back, and now and then begins a new session: what SUBACK and
//! UNSUBACK said is found after the server's end.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_e2e::wire::{self, Connect, Wire, kind};

const ID: &str = "churner";
/// Filters that come and go.
const FILTERS: u64 = 7;
/// What it sends at most before it connects anew.
const TURNS: u64 = 40;

/// The client, and what may be found of its session.
pub(crate) struct Churner {
    turn: u64,
    /// One, or more while an answer is awaited: the filters that the session has.
    may_have: Vec<BTreeSet<u64>>,
}

fn unsubscribe(id: u16, filter: &str) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(0);
    wire::text(&mut body, filter);
    wire::frame(0xA2, &body)
}

impl Churner {
    /// Begins the session.
    pub(crate) fn enroll(port: u16) -> Self {
        let (mut wire, present) = Wire::connect(port, &Connect::new(5, ID).persistent());
        assert!(!present);
        // What it has asked for when this is answered is durable, the session as well.
        wire.send(&wire::subscribe(5, 1, "churn/0", 1));
        wire.expect(kind::SUBACK);
        Self { turn: 0, may_have: vec![BTreeSet::from([0])] }
    }

    /// Comes and goes until the server ends, or until `stop`.
    pub(crate) fn run(&mut self, port: u16, stop: &AtomicBool) {
        let mut last = None;
        while !stop.load(Ordering::Relaxed) {
            match self.visit(port, stop) {
                // Every other time it takes its session over.
                Ok(wire) => last = last.xor(Some(wire)),
                Err(error) => return wire::assert_ended(ID, &error),
            }
        }
    }

    /// Sends `packet`, and waits for its answer; if it is carried out, the session has `then`.
    fn ask(&mut self, wire: &mut Wire, packet: &[u8], answer: u8, then: BTreeSet<u64>) -> io::Result<()> {
        self.may_have.push(then.clone());
        wire.try_send(packet)?;
        let packet = wire.read()?;
        assert_eq!(packet.kind(), answer, "{packet:?}");
        assert!(packet.body[3] < 0x80, "refused: {packet:?}");
        self.may_have = vec![then];
        Ok(())
    }

    /// One connection.
    fn visit(&mut self, port: u16, stop: &AtomicBool) -> io::Result<Wire> {
        self.turn += 1;
        let begins_anew = self.turn.is_multiple_of(4);
        let mut connect = Connect::new(5, ID).persistent();
        connect.clean = begins_anew;
        if begins_anew {
            self.may_have.push(BTreeSet::new());
        }
        let mut wire = Wire::try_open(port)?;
        wire.try_send(&connect.encode())?;
        let answer = wire.read()?;
        assert_eq!((answer.kind(), &answer.body[..2]), (kind::CONNACK, &[u8::from(!begins_anew), 0][..]));
        if begins_anew {
            self.ask(&mut wire, &wire::subscribe(5, 1, "churn/0", 1), kind::SUBACK, BTreeSet::from([0]))?;
        }
        for step in 0..TURNS {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let number = (self.turn + step * step) % FILTERS;
            let filter = format!("churn/{number}");
            let mut then = self.may_have.last().cloned().unwrap_or_default();
            match then.remove(&number) {
                true => self.ask(&mut wire, &unsubscribe(2, &filter), kind::UNSUBACK, then)?,
                false => {
                    then.insert(number);
                    self.ask(&mut wire, &wire::subscribe(5, 2, &filter, 1), kind::SUBACK, then)?;
                }
            }
        }
        Ok(wire)
    }

    /// Panics unless the session has the filters that it may have: messages to all of them show which.
    pub(crate) fn check(&mut self, port: u16) {
        let (mut wire, present) = Wire::connect(port, &Connect::new(5, ID).persistent());
        assert!(present, "its session was kept");
        wire.send(&wire::subscribe(5, 3, "churn-end", 1));
        wire.expect(kind::SUBACK);
        let (mut prober, _) = Wire::connect(port, &Connect::new(5, "churn-prober"));
        let probes = (0..FILTERS).map(|number| format!("churn/{number}")).chain(["churn-end".to_owned()]);
        for topic in probes {
            prober.send(&wire::publish(5, &topic, b"", 1, 1));
            prober.expect(kind::PUBACK);
        }
        let mut found = BTreeSet::new();
        loop {
            let (topic, id, _) = wire.expect(kind::PUBLISH).publish(5);
            wire.send(&wire::ack(kind::PUBACK, id));
            let Some(number) = topic.strip_prefix("churn/") else { break };
            assert!(found.insert(number.parse().unwrap()), "{topic} came twice");
        }
        assert!(self.may_have.contains(&found), "{found:?} of {:?}", self.may_have);
        self.may_have = vec![found];
        wire.send(wire::DISCONNECT);
        // It has read all that was sent before.
        assert!(wire.read().is_err());
    }
}
