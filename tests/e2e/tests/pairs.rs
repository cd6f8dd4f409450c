//! A module's own key-value pairs: what was acknowledged is there after `kill -9`.

#![allow(clippy::unwrap_used, reason = "tests")]

use tidegate_e2e::Server;
use tidegate_e2e::wait::tell;
use tidegate_e2e::wire::{self, Connect, Wire, kind};

/// Increments in flight when the runtime is killed.
const WINDOW: u16 = 50;

#[test]
fn every_acknowledged_change_survives_the_kill() {
    let mut server = Server::builder().module("probe", "").start();
    let mut acknowledged = 0_u64;
    let mut sent = 0_u64;
    for round in 0..3_u64 {
        let (mut wire, _) = Wire::connect(server.port, &Connect::new(5, &format!("counter-{round}")));
        let count = |id: u16| wire::publish(5, "cmd/count/n", b"", 1, id);
        for id in 1..=WINDOW {
            wire.send(&count(id));
        }
        sent += u64::from(WINDOW);
        // Not always at the same point: the rest of the window is in flight.
        for _ in 0..100 + round * 37 {
            let ack = wire.expect(kind::PUBACK);
            assert!(ack.reason() < 0x80, "refused: {ack:?}");
            acknowledged += 1;
            wire.send(&count(ack.id()));
            sent += 1;
        }
        server.kill();
        while let Ok(packet) = wire.read() {
            acknowledged += u64::from(packet.kind() == kind::PUBACK);
        }
        server.start();
        let (mut reader, _) = Wire::connect(server.port, &Connect::new(5, &format!("reader-{round}")));
        reader.send(&wire::subscribe(5, 1, "cmd/count/n", 0));
        reader.expect(kind::SUBACK);
        reader.send(&wire::publish(5, "cmd/count/n", b"", 0, 0));
        sent += 1;
        let (_, _, payload) = reader.expect(kind::PUBLISH).publish(5);
        let sum: u64 = String::from_utf8(payload).unwrap().parse().unwrap();
        tell(&format!("kill {}: sent {sent}, acknowledged {acknowledged}, counted {sum}", round + 1));
        // This last one is counted and was never acknowledged.
        acknowledged += 1;
        assert!((acknowledged..=sent).contains(&sum), "{acknowledged} <= {sum} <= {sent}");
    }
    server.assert_no_panic();
}
