//! What the end-to-end tests stand on: the real binary as a child process, and clients that are not ours.
//!
//! | module | what it drives |
//! | --- | --- |
//! | [`server`] | `tidegate run` in its own temporary directory |
//! | [`mosquitto`] | `mosquitto_pub` and `mosquitto_sub` |
//! | [`paho`] | the Python client, through `paho/client.py` and `paho/load.py` |
//! | [`wire`] | hand-made MQTT packets on a plain socket, for what no decent client would send |
//! | [`load`] | publishers that go on through faults, and what they were promised |
//! | [`certificates`] | authorities and certificates of `openssl` |
//! | [`sqlite`] | the `sqlite3` command |
//! | [`redis`] | Redis through `redis-cli`, with the hook lines of document 003 |
//! | [`guests`] | the compiled modules, and variants of them |
//!
//! A missing tool is a failure that names it, never a skipped test: `cargo xtask test` installs them all.
//! Everything waits for an event with a deadline; nothing sleeps and hopes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test harness fails by panicking")]

pub mod certificates;
pub mod guests;
pub mod load;
pub mod mosquitto;
pub mod paho;
pub mod redis;
pub mod server;
pub mod sqlite;
pub mod wait;
pub mod wire;

pub use server::Server;
pub use wait::until;

/// The hook lines that document 003 prints for MySQL, word for word, on the embedded back end `sqlite`.
pub const DOCUMENT_LINES: &str = r##"
## The lines of the MySQL sample.
backend.sqlite.pool1.path = ./data/mqtt.db

backend.sqlite.hook.client.connected.1    = {"action": {"function": "on_client_connected"}, "pool": "pool1"}
backend.sqlite.hook.session.created.1     = {"action": {"function": "on_subscribe_lookup"}, "pool": "pool1"}
backend.sqlite.hook.client.disconnected.1 = {"action": {"function": "on_client_disconnected"}, "pool": "pool1"}
backend.sqlite.hook.session.subscribed.1  = {"topic": "#", "action": {"function": "on_message_fetch"}, "pool": "pool1"}
backend.sqlite.hook.session.subscribed.2  = {"topic": "#", "action": {"function": "on_retain_lookup"}, "pool": "pool1"}
backend.sqlite.hook.session.unsubscribed.1= {"topic": "#", "action": {"sql": ["delete from mqtt_acked where clientid = ${clientid} and topic = ${topic}"]}, "pool": "pool1"}
backend.sqlite.hook.message.publish.1     = {"topic": "#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.2     = {"topic": "#", "action": {"function": "on_message_retain"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.3     = {"topic": "#", "action": {"function": "on_retain_delete"}, "pool": "pool1"}
backend.sqlite.hook.message.acked.1       = {"topic": "#", "action": {"function": "on_message_acked"}, "pool": "pool1"}
"##;
