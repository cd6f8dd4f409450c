//! What happens in the broker, and the traits the stages meet at.
//!
//! This crate is the leaf of the workspace. It holds the vocabulary every stage shares ([`Event`],
//! [`Message`], [`Client`], topic names and filters, message ids, the [hook catalogue](hook::CATALOGUE))
//! and the seams between stages:
//!
//! | trait | called by | implemented by |
//! | --- | --- | --- |
//! | [`Gate`] | broker | server |
//! | [`Hooks`] | broker | dispatch |
//! | [`Control`] | modules, stores | broker |
//! | [`Storage`] | modules | store |
//! | [`DeadLetters`] | modules | store |
//! | [`KeyValue`] | modules | store, the embedded state |
//! | [`SessionStore`] | broker | the embedded state |
//!
//! It does no I/O and knows no protocol, guest or database.

mod access;
pub mod ack;
mod client;
mod control;
mod dead_letter;
mod event;
mod gate;
pub mod hook;
mod hooks;
mod id;
pub mod key_value;
mod message;
pub mod offline;
mod recent;
mod reply;
mod scope;
mod seldom;
mod session_store;
mod shown;
mod storage;
mod tenant;
mod topic;
mod verdict;

pub use access::{Access, Password, Requested};
pub use ack::{AckError, AckJoin, AckPart};
pub use client::{Certificate, Client, Protocol};
pub use control::{Control, ControlError};
pub use dead_letter::DeadLetters;
pub use event::{DisconnectReason, Event, Value};
pub use gate::{Decision, Gate, OpenGate, Owner};
pub use hook::{Field, Hook};
pub use hooks::{Admitted, Hooks, NoHooks, Raised};
pub use id::{IdSource, MsgId, Node, ParseMsgIdError};
pub use key_value::{KeyValue, Space, Swap};
pub use message::{Message, Origin, PublishProperties, QoS};
pub use recent::Recent;
pub use reply::{Reply, ReplyError};
pub use scope::{Backlog, Effects, Scope};
pub use seldom::Seldom;
pub use session_store::{
    Change, Restored, RestoredDelivery, RestoredReceipt, RestoredSession, SessionNumber, SessionStore,
    SessionStoreError, StoredDelivery, StoredSending, StoredSource, StoredWill, SubscriptionOptions,
    VolatileStore,
};
pub use shown::Shown;
pub use storage::{AckLevel, ActionOptions, Rows, SqlValue, Storage, StorageError};
pub use tenant::Tenant;
pub use topic::{MAX_TOPIC_BYTES, SharedFilter, TopicError, TopicFilter, TopicName};
pub use verdict::{ReasonCode, Verdict};

/// A boxed future, the form in which the object-safe traits of this crate answer.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn std::future::Future<Output = T> + Send + 'a>>;

/// Milliseconds since the Unix epoch, now.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
