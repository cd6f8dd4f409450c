//! The broker's limits.

use std::time::Duration;

use tidegate_event::QoS;

use crate::codec::Limits;
use crate::retained::RetainedLimits;

/// What becomes of a client that sends faster than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateAction {
    /// It is not read from until it may send again: it waits, and nothing is lost.
    #[default]
    Pause,
    /// It is disconnected, on MQTT 5 with 0x96 Message rate too high.
    Disconnect,
}

/// Limits of the broker. Every one has a default that suits a public listener; all are per connection or
/// session unless they say otherwise.
///
/// The defaults hold on a machine of 1 GiB, though all is used up at once: 12,000 connections in TLS take 240 MiB, queues
/// 144 MiB, subscriptions 96 MiB, retained messages 64 MiB, what comes in 48 MiB, 50,000 sessions 50 MiB, what publishers
/// know of their subscribers 32 MiB; outside the broker, what stores wait for 64 MiB, logins that are checked 64 MiB, and the
/// process with its own state 96 MiB. A test adds it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Greatest packet taken from a client, bytes with the fixed header. A larger one ends the connection with
    /// 0x95 Packet too large (MQTT 5 clause 3.2.2.3.6). Default: 1 MiB.
    pub max_packet_bytes: u32,
    /// How many PUBLISH of one client may be between "taken" and "acknowledged". Announced to MQTT 5 clients,
    /// for which QoS 1 and 2 above it is an error (0x93, clause 3.3.4); QoS 0 counts in the same window, and
    /// what is above it waits. Twice as many QoS 2 messages, 1,024 at least, may be without PUBREL over all connections of an
    /// MQTT 5 client, 16,384 of one of an earlier version; one more ends the connection. At least 1. Default: 1,000.
    pub receive_maximum: u16,
    /// Memory of packets that are parsed and wait: PUBLISH while the window is full, SUBSCRIBE and UNSUBSCRIBE
    /// until they are answered, and what earlier connections of the client have left unfinished. Behind them
    /// PINGREQ, acknowledgements and DISCONNECT are still served. When it is full too, the socket is not read.
    /// Twice as much left by earlier connections, and CONNECT is refused as 0x89 Server busy. Default: 1 MiB.
    pub read_ahead_bytes: usize,
    /// Memory of what all clients have sent and handlers are not done with. While it is used up, a client that has more than
    /// 64 KiB of it is not read from. Packets that are not whole have half as much for themselves; for more, the one that has
    /// been incomplete for longest ends its connection with 0x97 Quota exceeded. Default: 32 MiB.
    pub inbound_budget_bytes: usize,
    /// How many QoS 1 and 2 deliveries may be unacknowledged by the client; its own receive maximum may lower
    /// it. At least 1. Default: 100.
    pub max_inflight: u16,
    /// How many messages wait for one session. Above it QoS 0 messages are dropped first, then the new one;
    /// both are counted. Default: 1,000.
    pub max_queued: usize,
    /// How many bytes these may take, payloads, properties and topics. The same becomes of what is above it; one
    /// message that is larger passes through an empty queue. Also bounds what is sent and not acknowledged.
    /// Default: 16 MiB.
    pub max_queued_bytes: usize,
    /// Memory of the queues of all sessions of the process, of what is sent and not acknowledged, and of what is to be written
    /// to clients that do not read. When nearly all
    /// is used, QoS 0 messages are dropped for subscribers that have anything waiting; when it is used up, new QoS 1 and 2
    /// messages, too, for those that have more than an equal share waiting. Both are counted. A payload of 16 KiB and
    /// more counts once, in however many queues it waits. Default: 128 MiB.
    pub queue_budget_bytes: usize,
    /// Greatest session expiry granted, seconds; also the expiry of persistent 3.1 and 3.1.1 sessions, which
    /// cannot ask for one. `u32::MAX` = for ever. Default: 7 days.
    pub max_session_expiry: u32,
    /// How long a new connection may take for its handshakes (TLS, WebSocket) and CONNECT together, and handlers to decide
    /// about it. Default: 10 s.
    pub connect_timeout: Duration,
    /// Longest client id, bytes: it is kept with the session and with every message that its client has published. A longer
    /// one is refused with 0x85 Client Identifier not valid, before MQTT 5 as "identifier rejected". A user name may be four
    /// times as long; a longer one is refused with 0x86 Bad User Name or Password. Default: 1,024.
    pub max_client_id_bytes: usize,
    /// Greatest number of levels of a topic name or filter. Default: 128.
    pub max_topic_levels: usize,
    /// Greatest topic name or filter, bytes. A longer name ends the connection with 0x90 Topic Name invalid, a
    /// longer filter is refused with 0x8F. Default: 65,535, as much as the protocol can carry: topics count wherever
    /// they are kept.
    pub max_topic_bytes: usize,
    /// How many messages a client may publish a second; a second's worth may come at once. 0 = no limit. Default: 0.
    pub max_message_rate: u64,
    /// How many bytes a client may send a second, of all packets. 0 = no limit. Default: 0.
    pub max_byte_rate: u64,
    /// What becomes of a client that sends faster. Default: it is not read from for a while.
    pub rate_action: RateAction,
    /// How many subscriptions a session may have. One more is refused with 0x97 Quota exceeded. Default: 10,000.
    pub max_subscriptions: usize,
    /// How many of them may be shared. Each of another group costs whoever publishes to it a delivery more. One more is
    /// refused with 0x97. Default: 100.
    pub max_shared_subscriptions: usize,
    /// Memory of the subscriptions of one tenant, about, bytes; one session may have an eighth of it. One that would pass it
    /// is refused with 0x97. Some 200,000
    /// subscriptions to single topics fit in 96 MiB, or half as many with wildcards. Default: 96 MiB.
    pub max_subscription_bytes: usize,
    /// How many sessions one tenant may have, connected or not. For a client without one that connects beyond it, the session
    /// ends whose client has been away longest; when all are there, it is refused with 0x97, before MQTT 5 as "server
    /// unavailable". Default: 50,000.
    pub max_sessions: usize,
    /// How many topic aliases a client may use (MQTT 5 clause 3.2.2.3.8). Default: 32.
    pub max_topic_alias: u16,
    /// How many topics get an alias in what one client is sent, if it takes as many (MQTT 5 clause 3.1.2.11.5); 0 = none.
    /// Their names are kept for the connection. Default: 32.
    pub max_topic_alias_out: u16,
    /// Greatest number of topic filters in one SUBSCRIBE or UNSUBSCRIBE. One more ends the connection with 0x97 Quota
    /// exceeded, before any is kept. Default: 1,000.
    pub max_subscribe_filters: usize,
    /// Greatest number of user properties (MQTT 5 clause 3.3.2.3.7) in one packet. One more ends the connection with
    /// 0x97 Quota exceeded, before any is kept. Default: 1,000.
    pub max_user_properties: usize,
    /// Greatest QoS of a client's messages and subscriptions, announced to MQTT 5 clients. A PUBLISH or will above it
    /// ends the connection (0x9B, clause 3.2.2.3.4); a subscription is granted less. Default: 2.
    pub max_qos: QoS,
    /// Whether clients may have messages retained, announced to MQTT 5 clients. If not, a PUBLISH or will that asks for
    /// it ends the connection (0x9A, clause 3.2.2.3.5). Default: true.
    pub retain_available: bool,
    /// Longest keep-alive, seconds: an MQTT 5 client that asks for a longer one, or for none, is told to use this (clause
    /// 3.2.2.3.14). Earlier versions have no way to be told. 0 = any. Default: 0.
    pub max_keep_alive: u16,
    /// Whether the payload of a message or will that says it is text (MQTT 5 clause 3.3.2.3.2) must be UTF-8; if it is
    /// not, it is refused as 0x99 Payload format invalid. Default: true.
    pub check_payload_format: bool,
    /// What an MQTT 5 client that asks is told to build its response topics from (clause 3.2.2.3.15), `${clientid}`
    /// replaced by its client id. Empty = nothing. Default: empty.
    pub response_information: String,
    /// Whether MQTT 5 clients are told in words why something was refused (clause 3.2.2.3.9), as far as they take it.
    /// Default: true.
    pub reason_strings: bool,
    /// Memory of the retained messages of one tenant, bytes: payloads, properties and the levels of their topics.
    /// An MQTT 5 client is refused a QoS 1 or 2 message that would pass it, with 0x97 Quota exceeded. Whoever cannot be
    /// told has it delivered but not retained, and its topic has none then: the older one would be taken for it. Both are
    /// counted. Default: 64 MiB.
    pub max_retained_bytes: usize,
    /// How many messages one tenant may retain; the same becomes of one more. Default: 250,000.
    pub max_retained: usize,
    /// How often statistics are published under `$SYS/`; zero = never. Default: 10 s.
    pub sys_interval: Duration,
    /// How many connections there may be in the process. One more is closed at once. Default: 12,000,
    /// which are 240 MiB in TLS, idle, with what the system needs for each, or 140 MiB without.
    pub max_connections: usize,
    /// How many of them may come from one IPv4 address or one IPv6 network of 64 bits; 0 = any number. Those of this machine
    /// itself are not limited. Default: 0.
    pub max_connections_per_address: usize,
    /// How many of them may not have sent CONNECT yet; at least 1. For one more the oldest is closed: who needs a few round
    /// trips for a handshake gets in, though somebody else opens thousands and stays silent. Default: 10,000.
    pub max_handshakes: usize,
    /// How many connections are accepted in a second, by all listeners together; 0 = any number. Those above it wait in the
    /// system's backlog and are accepted later. Default: 5,000.
    pub connection_rate: u32,
    /// How many messages of modules and commands to clients wait, per tenant and per connection. Default: 1,000.
    pub max_commands: usize,
    /// How long a client may take nothing of what it is sent, before its connection ends with 0x97 Quota exceeded; up to
    /// twice as long when it has just taken something. Zero: for ever. Default: 60 s.
    pub write_timeout: Duration,
    /// How long the last bytes to a client (an acknowledgement, DISCONNECT) may take to be written. Default: 1 s.
    pub flush_timeout: Duration,
    /// How many times a second a client id may connect for long. What comes faster, [`Self::reconnect_burst`] used up, is
    /// kept waiting for half of [`Self::connect_timeout`] at most, then refused with 0x9F Connection rate exceeded (MQTT 5
    /// clause 3.2.2.2). 0: as often as it likes. Default: 10.
    pub reconnect_rate: u32,
    /// How many connections of a client id may come at once, or faster than that rate. Default: 5,000.
    pub reconnect_burst: u32,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            max_packet_bytes: 1024 * 1024,
            receive_maximum: 1_000,
            read_ahead_bytes: 1024 * 1024,
            inbound_budget_bytes: 32 * 1024 * 1024,
            max_inflight: 100,
            max_queued: 1_000,
            max_queued_bytes: 16 * 1024 * 1024,
            queue_budget_bytes: 128 * 1024 * 1024,
            max_session_expiry: 7 * 24 * 60 * 60,
            connect_timeout: Duration::from_secs(10),
            max_client_id_bytes: 1_024,
            max_topic_levels: 128,
            max_topic_bytes: 65_535,
            max_message_rate: 0,
            max_byte_rate: 0,
            rate_action: RateAction::Pause,
            max_subscriptions: 10_000,
            max_shared_subscriptions: 100,
            max_subscription_bytes: 96 * 1024 * 1024,
            max_sessions: 50_000,
            max_topic_alias: 32,
            max_topic_alias_out: 32,
            max_subscribe_filters: 1_000,
            max_user_properties: 1_000,
            max_qos: QoS::ExactlyOnce,
            retain_available: true,
            max_keep_alive: 0,
            check_payload_format: true,
            response_information: String::new(),
            reason_strings: true,
            max_retained_bytes: 64 * 1024 * 1024,
            max_retained: 250_000,
            sys_interval: Duration::from_secs(10),
            max_connections: 12_000,
            max_connections_per_address: 0,
            max_handshakes: 10_000,
            connection_rate: 5_000,
            max_commands: 1_000,
            write_timeout: Duration::from_secs(60),
            flush_timeout: Duration::from_secs(1),
            reconnect_rate: 10,
            reconnect_burst: 5_000,
        }
    }
}

impl BrokerConfig {
    /// What the codec has to know.
    pub(crate) fn codec_limits(&self) -> Limits {
        Limits {
            max_packet_bytes: self.max_packet_bytes,
            max_topic_levels: self.max_topic_levels,
            max_filters: self.max_subscribe_filters.max(1),
            max_user_properties: self.max_user_properties,
        }
    }

    /// The read-ahead in bytes, never 0: something must be read.
    pub(crate) fn read_ahead(&self) -> usize {
        self.read_ahead_bytes.max(1)
    }

    /// The bound of a session's queue, never 0: a message passes through it on its way.
    pub(crate) fn queue_limit(&self) -> usize {
        self.max_queued.max(1)
    }

    /// What may be retained.
    pub(crate) fn retained_limits(&self) -> RetainedLimits {
        RetainedLimits { messages: self.max_retained, bytes: self.max_retained_bytes }
    }

    /// The receive maximum, never the forbidden 0.
    pub(crate) fn window(&self) -> u16 {
        self.receive_maximum.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::ALL_CACHED;

    /// The sum was written down in three places, of other numbers than the defaults, and without TLS.
    #[test]
    fn all_defaults_used_up_at_once_fit_in_1_gib() {
        const MIB: usize = 1024 * 1024;
        let config = BrokerConfig::default();
        assert!(config.max_connections >= 10_000 && config.max_handshakes <= config.max_connections);
        let shared_routes = 16 * MIB;
        let memory = [
            // What one in TLS takes, idle, with what the system needs for it: docs/listeners.md.
            ("connections", config.max_connections * 20 * 1024),
            // Small queues may still grow by an eighth when it is used up.
            ("queues", config.queue_budget_bytes + config.queue_budget_bytes / 8),
            ("subscriptions", config.max_subscription_bytes),
            ("retained messages", config.max_retained_bytes),
            // Packets that are not whole have half as much.
            ("what comes in", config.inbound_budget_bytes + config.inbound_budget_bytes / 2),
            ("sessions", config.max_sessions * 1024),
            ("routes", ALL_CACHED + shared_routes),
            // `store.memory_budget_bytes`.
            ("stores", 64 * MIB),
            // Checks of passwords at once: `BUDGET_KIB` of the server.
            ("logins", 64 * MIB),
            ("the process and its own state", 96 * MIB),
        ];
        let sum: usize = memory.iter().map(|(_, bytes)| bytes).sum();
        // The system keeps the rest.
        assert!(sum <= 900 * MIB, "{} MiB of {memory:?}", sum / MIB);
        // 100,000 subscriptions with wildcards, and one client that has as many as it may.
        let filter = tidegate_event::SharedFilter::parse(&"sensors/+/room 1234/temperature".into());
        let weight = filter.map_or(usize::MAX, |filter| crate::tree::weight(&filter));
        assert!(100_000 * weight <= config.max_subscription_bytes, "{weight}");
        assert!(config.max_subscriptions * weight <= config.max_subscription_bytes / 8);
    }
}
