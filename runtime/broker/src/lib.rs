//! The MQTT 3.1, 3.1.1 and 5 broker.
//!
//! ```text
//! listener -> connection::handshake -> connection --packets--> pipeline --raise--> Hooks (dispatch)
//!                                        ^   ^                    | verdict, acks
//!                                replies |   | deliveries         v
//!                                        |   '-- session outbox <- route <- tree, retained
//!                                        '------------------------'
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`codec`] | bytes to packets and back; no I/O |
//! | `listener` | accepts sockets, within limits; TLS and WebSocket before the first packet |
//! | `connection` | one task a connection: reads, writes, keep-alive, what each packet does |
//! | `pipeline` | the inbound life of a client: events in order, completions in order, answers |
//! | `session` | what outlives a connection: queue, messages in flight, subscriptions, QoS 2 ids |
//! | `route`, `tree`, `share`, `retained` | which sessions a message reaches |
//! | `limits` | the memory of all queues, rates of clients |
//! | `sys` | statistics under `$SYS` |
//! | `registry`, `realm`, `timers` | who has which session, per tenant; expiry and delayed wills |
//! | `control`, `will`, `restore` | messages and commands without a client behind them; restart |
//! | `guard`, `leave`, `reconnects` | who may do what: the gate, then handlers; clients that connect too often |
//!
//! Invariants: a connection's task never awaits while it serves its client, so nothing holds up PINGREQ; a
//! session is served by one connection at a time, which holds its seat; nobody waits for a slow subscriber, whose
//! queue is bounded; a message is routed and acknowledged only when its handlers have reached their level, and in
//! the order in which its publisher sent it, over reconnects too; a publish takes no shared lock while the
//! subscriptions do not change. The broker knows the event crate's traits and no guest, rule or database.

mod broker;
pub mod codec;
mod config;
mod connection;
mod control;
mod guard;
mod leave;
mod limits;
mod listener;
mod metrics;
mod pipeline;
mod realm;
mod reason;
mod reconnects;
mod registry;
mod restore;
mod retained;
mod route;
mod session;
mod share;
mod sys;
mod timers;
mod tree;
mod will;

/// After how many polls of tasks a worker of the broker's runtime should look at sockets and timers (tokio's own 61 is meant for
/// tasks that are polled for microseconds; a flood keeps one busy for a millisecond each time).
pub const EVENT_INTERVAL: u32 = 8;
/// After how many polls of tasks of its own a worker should take one of the queue of all workers. What thousands of clients that
/// send at once do not find room for in a worker's queue of 256 waits there: with tokio's own 31 it waits while others have turn
/// after turn.
pub const QUEUE_INTERVAL: u32 = 2;

pub use broker::Broker;
pub use config::{BrokerConfig, RateAction};
pub use listener::{
    Arrival, CertificateFiles, ListenError, ListenerConfig, TlsConfig, TlsError, UsernameFrom, Verify,
    WebSocketConfig,
};
