//! The unmodified rumqttd listener, in a child process of this binary.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::Context as _;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

use super::INFLIGHT;
use crate::process::{self, Server};
use crate::wire::Version;

/// The hidden command that makes this binary the child.
const COMMAND: &str = "serve-rumqttd";

/// Starts the child on a free port.
pub(super) async fn start(version: Version) -> anyhow::Result<Server> {
    let address = process::free_port()?;
    let mut command = Command::new(std::env::current_exe().context("finding this binary")?);
    let level = if version == Version::V5 { "5" } else { "4" };
    command.arg(COMMAND).arg(address.port().to_string()).arg(level);
    Server::start(command, address, version, tempfile::tempdir()?).await
}

/// Runs the broker on 127.0.0.1:`port` for MQTT 3.1.1 (`level` 4) or 5 until the process is ended.
///
/// The settings are those of the configuration file that rumqttd ships, but for the segments of its log: it
/// forgets messages that a slow subscriber has not read when the segments wrap around, so they hold ten times
/// what the load generator lets subscribers fall behind, and not more: with the shipped size (1 GiB a topic
/// filter) the same run costs it half as much processor time again, for memory it never saw before.
///
/// # Errors
/// When it does not start.
pub fn serve(port: u16, level: u8) -> anyhow::Result<()> {
    // A child whose parent is gone serves nobody.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let connections = ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: 1024 * 1024,
        max_inflight_count: INFLIGHT.into(),
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "bench".into(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    let servers = Some(HashMap::from([("bench".to_owned(), server)]));
    let router = RouterConfig {
        max_connections: 10_010,
        max_outgoing_packet_count: 200,
        max_segment_size: 1024 * 1024,
        max_segment_count: 10,
        ..RouterConfig::default()
    };
    let (v4, v5) = if level == 5 { (None, servers) } else { (servers, None) };
    let config = Config { id: 0, router, v4, v5, ..Config::default() };
    Broker::new(config).start().context("the rumqttd listener")
}
