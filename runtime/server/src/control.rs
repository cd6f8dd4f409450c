//! The control socket: commands to a running server, for its own user and root alone.
//!
//! HTTP/1 over a unix socket `control.sock` in the data directory. A body is JSON, and so is every answer; one that
//! tells of a mistake is `{"error": "..."}` with a status of 400 and more.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/modules` | [`messages::Listing`]: what serves, what did not load, what is unloaded |
//! | `POST /v1/modules/inspect` | [`messages::Named`] -> [`messages::Inspected`] |
//! | `POST /v1/modules/load` | [`messages::LoadFile`] -> [`messages::Served`], when the copied file serves |
//! | `POST /v1/modules/enable` | [`messages::Named`] -> [`messages::Served`] |
//! | `POST /v1/modules/unload` | [`messages::Named`] -> [`messages::Unloaded`], when it no longer serves |
//! | `POST /v1/modules/reload` | [`messages::Named`] -> [`messages::Served`] |
//! | `POST /v1/modules/promote` | [`messages::Named`] -> [`messages::TrialEnded`]: the version on trial serves all clients |
//! | `POST /v1/modules/rollback` | [`messages::Named`] -> [`messages::TrialEnded`]: the version before does |
//! | `POST /v1/modules/logs` | [`messages::LogsOf`] -> lines, a JSON object each |
//! | `GET /v1/plugins` | [`messages::Plugins`]: files of back ends' configuration, and what is wrong with them |
//! | `POST /v1/plugins/load` | [`messages::LoadPlugin`] -> [`messages::PluginChanged`], when the copied file is in use |
//! | `POST /v1/plugins/enable` | [`messages::Named`] -> [`messages::PluginChanged`] |
//! | `POST /v1/plugins/unload` | [`messages::Named`] -> [`messages::PluginChanged`], when it is no longer in use |
//! | `GET /v1/connectors` | [`messages::Connectors`] |
//! | `POST /v1/connectors/test` | [`messages::Which`] -> a list of [`messages::Asked`] |
//! | `POST /v1/schema/apply` | [`messages::Which`] -> a list of [`messages::Asked`] |

pub(crate) mod buffers;
pub(crate) mod client;
mod connectors;
mod files;
mod install;
mod listener;
pub mod messages;
mod modules;
mod plugins;
mod routes;

pub use listener::ControlSocket;
pub(crate) use listener::REFUSED;
pub use modules::Controls;
pub(crate) use routes::MISTAKES;

pub(crate) use files::{MODULE, Refusal, rename};
pub(crate) use install::recover;
pub(crate) use modules::look_at;

/// Name of the socket in the data directory.
pub const SOCKET: &str = "control.sock";
