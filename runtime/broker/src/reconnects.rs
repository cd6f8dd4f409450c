//! Slows down clients that connect again and again: two that fight for one client id, or one that fails right after
//! CONNACK. Every connection costs a take-over, a session and events for handlers.

use std::time::{Duration, Instant};

use bytestring::ByteString;
use metrics::{Counter, counter};
use tidegate_event::{Recent, Tenant};

use crate::config::BrokerConfig;

/// Client ids that are remembered: about 300 KiB when all are.
const REMEMBERED: usize = 8_192;

/// When a client may have its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Now.
    Now,
    /// After this time.
    After(Duration),
    /// Not within the time a CONNECT may take.
    Refused,
}

/// How often client ids have connected lately.
///
/// Of each it is remembered at which time it would have come, had it come at the steady rate: what that is ahead of the
/// clock is its debt. Only connections that were let in add to it, so that nobody can slow down a client whose
/// password he does not have.
pub(crate) struct Reconnects {
    began: Instant,
    /// Time that one connection takes at the steady rate; zero: nothing is slowed down.
    interval: Duration,
    /// Debt that is free.
    burst: Duration,
    /// Longest time that a client is kept waiting.
    longest: Duration,
    due: Recent<Duration>,
    delayed: Counter,
    refused: Counter,
}

impl Reconnects {
    pub(crate) fn new(config: &BrokerConfig) -> Self {
        let interval = Duration::from_secs(1).checked_div(config.reconnect_rate).unwrap_or_default();
        let damped = |how| counter!("tidegate_broker_reconnects_damped_total", "result" => how);
        Self {
            began: Instant::now(),
            interval,
            burst: interval.saturating_mul(config.reconnect_burst),
            longest: config.connect_timeout / 2,
            due: Recent::new(REMEMBERED),
            delayed: damped("delayed"),
            refused: damped("refused"),
        }
    }

    /// When the client may go on.
    pub(crate) fn turn(&self, tenant: &Tenant, client_id: &ByteString) -> Turn {
        if self.interval.is_zero() {
            return Turn::Now;
        }
        let turn = self.turn_at(self.began.elapsed(), tenant, client_id);
        match turn {
            Turn::Now => {}
            Turn::After(_) => self.delayed.increment(1),
            Turn::Refused => self.refused.increment(1),
        }
        turn
    }

    fn turn_at(&self, now: Duration, tenant: &Tenant, client_id: &ByteString) -> Turn {
        let due = self.due.get((tenant, client_id)).unwrap_or_default();
        let wait = due.saturating_sub(now + self.burst);
        match wait {
            Duration::ZERO => Turn::Now,
            _ if wait <= self.longest => Turn::After(wait),
            _ => Turn::Refused,
        }
    }

    /// The client was let in.
    pub(crate) fn note(&self, tenant: &Tenant, client_id: &ByteString) {
        if !self.interval.is_zero() {
            self.note_at(self.began.elapsed(), tenant, client_id);
        }
    }

    fn note_at(&self, now: Duration, tenant: &Tenant, client_id: &ByteString) {
        // However many come at once: nobody pays for longer than twice the time a client is kept waiting.
        let most = now + self.burst + self.longest * 2;
        self.due.update((tenant, client_id), |due| *due = ((*due).max(now) + self.interval).min(most));
    }
}
