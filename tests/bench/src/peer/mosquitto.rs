//! mosquitto with the smallest configuration that compares: no queue limit, no persistence unless it is asked for.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use super::{INFLIGHT, Service, Sessions};
use crate::process::{self, Server};
use crate::wire::Version;

/// Starts `binary` on a free port.
pub(super) async fn start(binary: &Path, service: &Service) -> anyhow::Result<Server> {
    let address = process::free_port()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("mosquitto.conf");
    // TCP_NODELAY stays off, its default: with it, mosquitto (one write a packet) is a third slower here.
    // `user root`: started as root it would change to a user that cannot read its temporary directory.
    let mut text = format!(
        "listener {} {}\nallow_anonymous true\nuser root\n\
         max_inflight_messages {INFLIGHT}\nmax_queued_messages 0\nmax_queued_bytes 0\nsys_interval 0\n\
         log_dest stderr\nlog_type error\nlog_type warning\n",
        address.port(),
        address.ip(),
    );
    if let Some(tls) = &service.tls {
        // The session tickets of TLS 1.3 are sent once a connection: nothing that is measured.
        text += &format!("certfile {}\nkeyfile {}\n", tls.certificate().display(), tls.key().display());
    }
    if service.sessions == Sessions::Durable {
        // Its safest setting short of writing everything at every change: once a second.
        let place = directory.path().display();
        text += &format!("persistence true\npersistence_location {place}/\nautosave_interval 1\n");
    } else {
        text += "persistence false\n";
    }
    std::fs::write(&file, text).context("writing mosquitto.conf")?;
    let mut command = Command::new(binary);
    command.arg("-c").arg(&file);
    Server::start(command, address, service.transport(), Version::V311, directory).await
}
