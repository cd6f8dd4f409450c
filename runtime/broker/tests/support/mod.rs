//! What the broker's tests share: a client that speaks raw bytes, and handlers that do what a test says.

#![allow(dead_code, reason = "every test target uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod counts;
pub(crate) mod gate;
pub(crate) mod packet;
pub(crate) mod script;
pub(crate) mod shelf;
pub(crate) mod store;

use std::net::SocketAddr;
use std::sync::Arc;

use tidegate_broker::{Broker, BrokerConfig};
use tidegate_event::{Gate, Hooks, IdSource, NoHooks, Node, SessionStore, VolatileStore};

use self::counts::Counts;

/// A broker on a free port.
pub(crate) struct Server {
    pub(crate) broker: Broker,
    pub(crate) address: SocketAddr,
}

/// A broker without handlers.
pub(crate) async fn plain() -> Server {
    with_hooks(Arc::new(NoHooks)).await
}

/// A broker with `hooks` and default limits.
pub(crate) async fn with_hooks(hooks: Arc<dyn Hooks>) -> Server {
    start(BrokerConfig::default(), hooks, Arc::new(VolatileStore)).await
}

/// A broker with `config` and no handlers.
pub(crate) async fn with_config(config: BrokerConfig) -> Server {
    start(config, Arc::new(NoHooks), Arc::new(VolatileStore)).await
}

/// Any port of this machine.
pub(crate) fn free() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A broker with `config`, `hooks` and `store`.
pub(crate) async fn start(
    config: BrokerConfig,
    hooks: Arc<dyn Hooks>,
    store: Arc<dyn SessionStore>,
) -> Server {
    let broker = Broker::new(config, Arc::new(Node::default()), hooks, store).unwrap();
    let address = broker.listen(free()).await.unwrap();
    Server { broker, address }
}

/// The same, and what it counts.
pub(crate) async fn counted(config: BrokerConfig, hooks: Arc<dyn Hooks>) -> (Server, Counts) {
    let store = Arc::new(VolatileStore);
    let make = || Broker::new(config, Arc::new(Node::default()), hooks, store).unwrap();
    let (broker, counts) = Counts::of(make);
    let address = broker.listen(free()).await.unwrap();
    (Server { broker, address }, counts)
}

/// A broker without handlers whose sessions are in `journal`.
pub(crate) async fn journalled(journal: &store::Journal) -> Server {
    start(BrokerConfig::default(), Arc::new(NoHooks), Arc::new(journal.clone())).await
}

/// A broker behind `gate`.
pub(crate) async fn with_gate(config: BrokerConfig, gate: Arc<dyn Gate>, hooks: Arc<dyn Hooks>) -> Server {
    gated(config, gate, hooks, Arc::new(VolatileStore)).await
}

/// A broker behind `gate` whose sessions are in `store`.
pub(crate) async fn gated(
    config: BrokerConfig,
    gate: Arc<dyn Gate>,
    hooks: Arc<dyn Hooks>,
    store: Arc<dyn SessionStore>,
) -> Server {
    let ids = Arc::new(IdSource::new(&Node::default()));
    let broker = Broker::with_gate(config, ids, gate, hooks, store).unwrap();
    let address = broker.listen(free()).await.unwrap();
    Server { broker, address }
}
