//! Write Tidegate guests in Rust.
//!
//! A guest is a library that handles events of the broker. It names the hooks it handles with [`export!`]
//! and is compiled to a WebAssembly component; copied into the modules directory of a running broker it
//! serves from the next event on.
//!
//! ```no_run
//! use tidegate_sdk::{Client, Event, Message, Result, Verdict, export};
//!
//! export!(message_publish: shout);
//!
//! fn shout(_: Event, _: Option<Client>, message: Message) -> Result<Verdict> {
//!     let payload = message.payload.to_ascii_uppercase();
//!     Ok(Verdict::Replace(message.with_payload(payload)))
//! }
//! # fn main() {}
//! ```
//!
//! `Cargo.toml` says `crate-type = ["cdylib"]`, and the build line is
//!
//! ```text
//! cargo build --release --target wasm32-wasip2
//! ```
//!
//! # What a guest can do
//!
//! * [`export!`] lists the hooks and the signature of each handler.
//! * [`actions`] runs the built-in storage functions (`on_message_publish` ...) and statements with `${...}`
//!   variables for the event at hand; they join its acknowledgement.
//! * [`sql`] runs statements with typed parameters and reads rows; [`redis`] runs commands and reads replies.
//! * [`keyvalue`] keeps pairs that survive a restart of the broker; [`http`] sends requests to granted hosts.
//! * [`client_control`] publishes, delivers, subscribes, unsubscribes and disconnects.
//! * [`context`] answers rarer questions about the event; [`config`] reads the manifest's `[config]` table.
//! * [`info!`](crate::info) and its siblings write to the broker's log.
//!
//! # Errors
//!
//! A handler answers [`Result`]. Every error of this crate turns into a [`HookError`] by `?`, as
//! [`HookError::Retry`] where the same call may succeed later and as [`HookError::Failed`] otherwise; text
//! does so too: `.ok_or("no device")?`. What then becomes of the event is the manifest's `[on_error]` policy; a
//! client that needs leave gets none, unless the policy is `pass`.
//! A panic discards the instance and counts as an error of the event.
//!
//! # Tests
//!
//! Calls into the host exist only inside the host: in a test on your own machine they panic. Keep the logic
//! in functions that take and give plain values ([`Message::new`] makes test messages) and test those.
//!
//! # Features
//!
//! `json`: `Message::json` and `Message::with_json` read and write JSON payloads through serde.

pub mod actions;
#[doc(hidden)]
#[allow(unsafe_code, missing_docs, unreachable_pub, reason = "generated from the WIT files")]
pub mod bindings;
pub mod client_control;
pub mod config;
pub mod context;
mod error;
mod event;
mod export;
pub mod http;
pub mod keyvalue;
pub mod log;
mod message;
pub mod reason;
pub mod redis;
pub mod sql;
mod state;

pub use bindings::imports::tidegate::broker::types::{Client, Message, Qos};
pub use bindings::imports::tidegate::hooks::types::{
    Access, Decision, Delivery, Grant, HookError, Subscription, Verdict,
};
pub use bindings::imports::tidegate::storage::types::{Error as StorageError, Failure};
pub use event::{Event, Published};
pub use state::State;

/// What a handler answers.
pub type Result<T> = std::result::Result<T, HookError>;
