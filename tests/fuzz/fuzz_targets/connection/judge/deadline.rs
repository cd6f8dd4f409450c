//! When the broker has to close a connection.

use std::time::Duration;

use super::super::clock;
use super::{Judge, PATIENCE, Phase};

impl Judge {
    /// Everything has come to rest: what should have been closed by now?
    pub fn look_at_clock(&mut self) {
        let now = clock::passed();
        for connection in 0..self.connections.len() {
            let this = &self.connections[connection];
            // A slow store holds up what it is asked to write, and what comes behind it.
            if this.is_dropped || self.expected.is_slow {
                continue;
            }
            // What was read waits its turn while the client does not take what it is sent.
            if let Some((why, since)) = this.must_close.as_ref().filter(|_| !this.has_stalled)
                && now > *since + PATIENCE
            {
                let why = format!("still open: {why} at {since:?}");
                self.fault(connection, why);
                continue;
            }
            // Its last words may wait for a client that does not read, for a second.
            if this.said_disconnect || this.is_shut || this.client_is_gone || this.has_stalled {
                continue;
            }
            // Clause 3.1.4: a client that sends no CONNECT within a reasonable time.
            if this.phase == Phase::Silent && now > this.opened + self.expected.connect_timeout + PATIENCE {
                self.fault(connection, "still open without CONNECT");
                continue;
            }
            // `[MQTT-3.1.2-22]`. A packet on its way gives time, in this broker up to sixteen times as much.
            let limit = Duration::from_millis(u64::from(this.keep_alive) * 1_500);
            let limit = if this.input.is_empty() { limit } else { limit * 17 };
            // A client that takes data while nothing is read from it is alive, and after a leap it may have been given some
            // before its clock was looked at.
            let alive = this.heard.max(this.leapt);
            if this.phase == Phase::Connected && this.keep_alive > 0 && now > alive + limit + PATIENCE {
                self.fault(connection, "still open though the client is silent");
            }
        }
    }
}
