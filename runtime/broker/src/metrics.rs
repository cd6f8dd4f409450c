//! What the broker counts. Handles are made once and kept: no name is looked up per message.

use metrics::{Counter, Gauge, counter, gauge};
use tidegate_event::{DisconnectReason, Hook, QoS, ReasonCode};

use crate::sys::{Statistics, Traffic};

/// Why a message did not go on, for `tidegate_broker_dropped_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Drop {
    /// The session's queue was full.
    QueueFull,
    /// Too many live messages waited for stored ones; those that a store has are read from there.
    HoldFull,
    /// Its expiry passed while it waited (MQTT 5 clause 3.3.2.3.3).
    Expired,
    /// Larger than the client's maximum packet size (clause 3.1.2.11.4).
    TooLarge,
    /// A handler said drop.
    Handler,
    /// The retained store is full.
    RetainedFull,
    /// The memory of all queues is used up.
    OverBudget,
    /// Its topic is one of the broker's own.
    SystemTopic,
}

const DROPS: [&str; 8] = [
    "queue_full",
    "hold_full",
    "expired",
    "too_large",
    "handler",
    "retained_full",
    "over_budget",
    "system_topic",
];

/// Why a connection was closed before its client was connected, for `tidegate_broker_connections_turned_away_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Turned {
    /// There are as many as the process may have.
    Connections,
    /// Its address has as many as it may.
    Address,
    /// It had waited longest for its CONNECT when there were too many, or too much of packets that were not whole.
    Handshakes,
    /// The TLS handshake failed.
    Tls,
    /// Its certificate has no name that could be the user's.
    Certificate,
    /// The upgrade to WebSocket failed.
    WebSocket,
}

const TURNED: [&str; Turned::COUNT] =
    ["connections", "address", "handshakes", "tls", "certificate", "websocket"];

impl Turned {
    /// How many there are.
    pub(crate) const COUNT: usize = 6;

    /// Whether it is a matter of how many there are, and not of what the peer did.
    pub(crate) fn is_limit(self) -> bool {
        matches!(self, Self::Connections | Self::Address | Self::Handshakes)
    }

    /// The label.
    pub(crate) fn name(self) -> &'static str {
        TURNED.get(self as usize).copied().unwrap_or_default()
    }
}

/// Why a publisher's message was refused, for `tidegate_broker_rejected_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Refusal {
    /// A handler said reject.
    Rejected,
    /// A handler failed and its policy is to refuse.
    HandlerFailed,
    /// A store refuses the message for good.
    StoreRefused,
    /// A store gave the message up.
    StoreAbandoned,
    /// The durable state could not be written.
    StateFailed,
    /// It was to be retained, and the retained store is full.
    RetainedFull,
    /// Its topic is one of the broker's own.
    SystemTopic,
}

const REFUSALS: [&str; 7] = [
    "rejected",
    "handler_failed",
    "store_refused",
    "store_abandoned",
    "state_failed",
    "retained_full",
    "system_topic",
];

/// Which limit a client has reached, for `tidegate_broker_limited_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Limited {
    /// It publishes too many messages a second.
    MessageRate,
    /// It sends too many bytes a second.
    ByteRate,
    /// Its session has as many subscriptions as it may have.
    Subscriptions,
    /// Its session has as many shared subscriptions as it may have.
    SharedSubscriptions,
    /// The tenant's subscriptions take as much memory as they may.
    SubscriptionBytes,
    /// A topic or filter is too long, or a filter has too many levels.
    TopicBytes,
    /// The tenant has as many sessions as it may have.
    Sessions,
    /// It has sent as many QoS 2 messages without PUBREL as it may have.
    Receipts,
    /// Its packet had been incomplete for longest when too much was kept of such packets.
    PartialPackets,
    /// It took nothing of what it was sent.
    WriteStall,
    /// Its will is large, and the memory of all queues is used up.
    Wills,
    /// The names that its topic aliases stand for are too long together.
    AliasBytes,
    /// Its read-ahead is full of what waits behind a SUBSCRIBE, which waits for it to take what the last ones brought.
    ReadAhead,
    /// Stores have brought as much for one SUBSCRIBE as they may.
    BroughtBytes,
}

const LIMITS: [&str; 14] = [
    "message_rate",
    "byte_rate",
    "subscriptions",
    "shared_subscriptions",
    "subscription_bytes",
    "topic_bytes",
    "sessions",
    "receipts",
    "partial_packets",
    "write_stall",
    "wills",
    "alias_bytes",
    "read_ahead",
    "brought_bytes",
];

/// Why a client got no leave, for `tidegate_broker_refused_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum NoLeave {
    /// A handler refused it.
    Refused,
    /// A handler failed, and its policy is to refuse.
    Failed,
}

/// The hooks that clients need leave from.
const LEAVE: [Hook; 3] = [Hook::ClientAuthenticate, Hook::ClientAuthorize, Hook::ClientSubscribe];

const NO_LEAVE: [&str; 2] = ["refused", "failed"];

/// The broker's metrics.
pub(crate) struct Metrics {
    pub(crate) connections: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) retained: Gauge,
    pub(crate) handshakes: Gauge,
    pub(crate) accepted: Counter,
    pub(crate) accepts_delayed: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) connect_timeouts: Counter,
    pub(crate) takeovers: Counter,
    pub(crate) wills: Counter,
    pub(crate) redelivered: Counter,
    pub(crate) acked: Counter,
    pub(crate) backlog_pages: Counter,
    pub(crate) backlog_errors: Counter,
    pub(crate) received: [Counter; 3],
    pub(crate) sent: [Counter; 3],
    pub(crate) bytes_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) websocket_violations: Counter,
    turned_away: [Counter; Turned::COUNT],
    pub(crate) queued_bytes: Gauge,
    drops: [Counter; DROPS.len()],
    limits: [Counter; LIMITS.len()],
    refusals: [Counter; REFUSALS.len()],
    /// Of the hooks that clients need leave from, in the order of [`LEAVE`].
    no_leave: [[Counter; NO_LEAVE.len()]; LEAVE.len()],
}

impl Metrics {
    /// Makes the handles; the recorder must be installed before.
    pub(crate) fn new() -> Self {
        let per_qos = |name: &'static str| ["0", "1", "2"].map(|qos| counter!(name, "qos" => qos));
        Self {
            connections: gauge!("tidegate_broker_connections"),
            sessions: gauge!("tidegate_broker_sessions"),
            retained: gauge!("tidegate_broker_retained_messages"),
            handshakes: gauge!("tidegate_broker_handshakes"),
            accepted: counter!("tidegate_broker_accepted_total"),
            accepts_delayed: counter!("tidegate_broker_accepts_delayed_total"),
            accept_errors: counter!("tidegate_broker_accept_errors_total"),
            connect_timeouts: counter!("tidegate_broker_connect_timeouts_total"),
            takeovers: counter!("tidegate_broker_takeovers_total"),
            wills: counter!("tidegate_broker_wills_total"),
            redelivered: counter!("tidegate_broker_messages_redelivered_total"),
            acked: counter!("tidegate_broker_messages_acked_total"),
            backlog_pages: counter!("tidegate_broker_backlog_pages_total"),
            backlog_errors: counter!("tidegate_broker_backlog_errors_total"),
            received: per_qos("tidegate_broker_messages_received_total"),
            sent: per_qos("tidegate_broker_messages_sent_total"),
            bytes_received: counter!("tidegate_broker_received_bytes_total"),
            bytes_sent: counter!("tidegate_broker_sent_bytes_total"),
            websocket_violations: counter!("tidegate_broker_websocket_violations_total"),
            turned_away: TURNED
                .map(|reason| counter!("tidegate_broker_connections_turned_away_total", "reason" => reason)),
            queued_bytes: gauge!("tidegate_broker_queued_bytes"),
            limits: LIMITS.map(|limit| counter!("tidegate_broker_limited_total", "limit" => limit)),
            drops: DROPS.map(|reason| counter!("tidegate_broker_dropped_total", "reason" => reason)),
            refusals: REFUSALS.map(|reason| counter!("tidegate_broker_rejected_total", "reason" => reason)),
            no_leave: LEAVE.map(|hook| {
                NO_LEAVE.map(
                    |why| counter!("tidegate_broker_refused_total", "hook" => hook.name(), "reason" => why),
                )
            }),
        }
    }

    /// Counts a connection that was closed before its client was connected.
    pub(crate) fn turned_away(&self, reason: Turned) {
        if let Some(counter) = self.turned_away.get(reason as usize) {
            counter.increment(1);
        }
    }

    /// Counts a message that did not go on.
    pub(crate) fn dropped(&self, reason: Drop) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.increment(1);
        }
    }

    /// Counts a message that was refused to its publisher.
    pub(crate) fn refused(&self, reason: Refusal) {
        if let Some(counter) = self.refusals.get(reason as usize) {
            counter.increment(1);
        }
    }

    /// Counts a client that has reached a limit.
    pub(crate) fn limited(&self, limit: Limited) {
        if let Some(counter) = self.limits.get(limit as usize) {
            counter.increment(1);
        }
    }

    /// Counts what a client got no leave to do.
    pub(crate) fn no_leave(&self, hook: Hook, why: NoLeave) {
        let counters = LEAVE.iter().zip(&self.no_leave).find(|(asked, _)| **asked == hook);
        if let Some(counter) = counters.and_then(|(_, counters)| counters.get(why as usize)) {
            counter.increment(1);
        }
    }

    /// Counts a connection that ended because of what its client sent. Not a hot path: the name is looked up.
    pub(crate) fn malformed(&self, reason: ReasonCode) {
        counter!("tidegate_broker_malformed_total", "reason" => format!("0x{:02x}", reason.0)).increment(1);
    }

    /// Counts a CONNECT that was answered with an error.
    pub(crate) fn connect_refused(&self, reason: ReasonCode) {
        counter!("tidegate_broker_connects_refused_total", "reason" => format!("0x{:02x}", reason.0))
            .increment(1);
    }

    /// Counts the end of a connection.
    pub(crate) fn disconnected(&self, reason: DisconnectReason) {
        counter!("tidegate_broker_disconnects_total", "reason" => reason.name()).increment(1);
    }
}

/// Counts of one turn of a connection, added to the shared counters at its end: the counters are contended.
#[derive(Default)]
pub(crate) struct Tally {
    received: [u64; 3],
    sent: [u64; 3],
    acked: u64,
    bytes_received: u64,
    bytes_sent: u64,
}

impl Tally {
    pub(crate) fn received(&mut self, qos: QoS) {
        self.received[qos as usize] += 1;
    }

    pub(crate) fn sent(&mut self, qos: QoS) {
        self.sent[qos as usize] += 1;
    }

    pub(crate) fn acked(&mut self) {
        self.acked += 1;
    }

    pub(crate) fn bytes_received(&mut self, bytes: usize) {
        self.bytes_received += bytes as u64;
    }

    pub(crate) fn bytes_sent(&mut self, bytes: usize) {
        self.bytes_sent += bytes as u64;
    }

    /// Adds the counts to those of the process and of the tenant, and starts again.
    pub(crate) fn flush(&mut self, metrics: &Metrics, statistics: &Statistics) {
        statistics.add(Traffic {
            received: self.received.iter().sum(),
            sent: self.sent.iter().sum(),
            bytes_received: self.bytes_received,
            bytes_sent: self.bytes_sent,
        });
        fn add(counter: &Counter, count: &mut u64) {
            if *count > 0 {
                counter.increment(std::mem::take(count));
            }
        }
        for (counter, count) in metrics.received.iter().zip(&mut self.received) {
            add(counter, count);
        }
        for (counter, count) in metrics.sent.iter().zip(&mut self.sent) {
            add(counter, count);
        }
        add(&metrics.acked, &mut self.acked);
        add(&metrics.bytes_received, &mut self.bytes_received);
        add(&metrics.bytes_sent, &mut self.bytes_sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_name() {
        for (reason, name) in [
            (Drop::QueueFull, "queue_full"),
            (Drop::RetainedFull, "retained_full"),
            (Drop::OverBudget, "over_budget"),
            (Drop::SystemTopic, "system_topic"),
        ] {
            assert_eq!(DROPS.get(reason as usize), Some(&name));
        }
        for (reason, name) in [
            (Refusal::StateFailed, "state_failed"),
            (Refusal::RetainedFull, "retained_full"),
            (Refusal::SystemTopic, "system_topic"),
        ] {
            assert_eq!(REFUSALS.get(reason as usize), Some(&name));
        }
        for (limit, name) in [
            (Limited::MessageRate, "message_rate"),
            (Limited::ByteRate, "byte_rate"),
            (Limited::Subscriptions, "subscriptions"),
            (Limited::SubscriptionBytes, "subscription_bytes"),
            (Limited::TopicBytes, "topic_bytes"),
            (Limited::Sessions, "sessions"),
            (Limited::SharedSubscriptions, "shared_subscriptions"),
            (Limited::Receipts, "receipts"),
            (Limited::WriteStall, "write_stall"),
            (Limited::Wills, "wills"),
            (Limited::AliasBytes, "alias_bytes"),
            (Limited::ReadAhead, "read_ahead"),
            (Limited::BroughtBytes, "brought_bytes"),
        ] {
            assert_eq!(LIMITS.get(limit as usize), Some(&name));
        }
    }
}
