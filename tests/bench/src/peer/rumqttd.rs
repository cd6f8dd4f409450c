//! The unmodified rumqttd listener, in a process of its own; with TLS rumqttd's own program.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

use super::{INFLIGHT, Service, Sessions};
use crate::certificates::Certificates;
use crate::process::{self, Server};
use crate::wire::Version;

/// The program that runs the listener; it lies beside the one that measures.
const PROGRAM: &str = "tidegate-bench-rumqttd";

/// As in the configuration file that rumqttd ships.
const MAX_CONNECTIONS: usize = 10_010;
const OUTGOING: u64 = 200;
const CONNECT_MS: u16 = 60_000;
/// Not as in that file: see [`serve`].
const SEGMENT_BYTES: usize = 1024 * 1024;
const SEGMENTS: usize = 10;
const PAYLOAD_BYTES: usize = 1024 * 1024;

/// Starts it on a free port: the child, or, with TLS, `program`.
pub(super) async fn start(program: Option<&Path>, service: &Service) -> anyhow::Result<Server> {
    ensure!(service.sessions != Sessions::Durable, "rumqttd keeps nothing on disk");
    let address = process::free_port()?;
    let directory = tempfile::tempdir()?;
    let mut command;
    if let Some(tls) = &service.tls {
        let program = program.context(
            "rumqttd's listener has TLS only with a second, older release of rustls, so this binary is built without; its \
             own program has it (`cargo install rumqttd --version 0.20.0`, found by RUMQTTD_BIN)",
        )?;
        let file = directory.path().join("rumqttd.toml");
        let listener = if service.version == Version::V5 { "v5" } else { "v4" };
        std::fs::write(&file, configuration(listener, address, tls)).context("writing rumqttd.toml")?;
        command = Command::new(program);
        command.arg("--quiet").arg("--config").arg(&file);
    } else {
        let listener = std::env::current_exe().context("finding this binary")?.with_file_name(PROGRAM);
        ensure!(listener.is_file(), "{} is missing: build tidegate-bench whole", listener.display());
        command = Command::new(listener);
        let level = if service.version == Version::V5 { "5" } else { "4" };
        command.arg(address.port().to_string()).arg(level);
    }
    Server::start(command, address, service.transport(), service.version, directory).await
}

/// The program's file, with the settings of [`serve`].
fn configuration(listener: &str, address: SocketAddr, tls: &Certificates) -> String {
    format!(
        "id = 0\n[router]\nid = 0\nmax_connections = {MAX_CONNECTIONS}\n\
         max_outgoing_packet_count = {OUTGOING}\nmax_segment_size = {SEGMENT_BYTES}\n\
         max_segment_count = {SEGMENTS}\n[{listener}.1]\nname = \"bench\"\nlisten = \"{address}\"\n\
         next_connection_delay_ms = 0\n[{listener}.1.tls]\ncertpath = {:?}\nkeypath = {:?}\n\
         [{listener}.1.connections]\nconnection_timeout_ms = {CONNECT_MS}\nmax_payload_size = {PAYLOAD_BYTES}\n\
         max_inflight_count = {INFLIGHT}\ndynamic_filters = true\n",
        tls.certificate(),
        tls.key(),
    )
}

/// Runs the broker on 127.0.0.1:`port` for MQTT 3.1.1 (`level` 4) or 5 until the process is ended.
///
/// The settings are those of the configuration file that rumqttd ships, but for two. It rests for no millisecond after
/// every accept (its timer still ends no sooner than at the next one). And the segments of its log: it
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
        connection_timeout_ms: CONNECT_MS,
        max_payload_size: PAYLOAD_BYTES,
        max_inflight_count: INFLIGHT.into(),
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "bench".into(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        next_connection_delay_ms: 0,
        connections,
    };
    let servers = Some(HashMap::from([("bench".to_owned(), server)]));
    let router = RouterConfig {
        max_connections: MAX_CONNECTIONS,
        max_outgoing_packet_count: OUTGOING,
        max_segment_size: SEGMENT_BYTES,
        max_segment_count: SEGMENTS,
        ..RouterConfig::default()
    };
    let (v4, v5) = if level == 5 { (None, servers) } else { (servers, None) };
    let config = Config { id: 0, router, v4, v5, ..Config::default() };
    Broker::new(config).start().context("the rumqttd listener")
}
