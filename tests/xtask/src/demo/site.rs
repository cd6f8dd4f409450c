//! The runtime of the demo: its directory, its process, its database.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::PATIENCE;
use crate::paths;
use crate::process::{Result, Running, output};

/// The documents' way to write hook lines, for the connector that every runtime has.
const HOOK_LINES: &str = r##"## What is stored, and when. The connector `default` is the embedded SQLite database data/tidegate.db.
backend.sqlite.hook.client.connected.1    = {"action": {"function": "on_client_connected"}, "pool": "default"}
backend.sqlite.hook.client.disconnected.1 = {"action": {"function": "on_client_disconnected"}, "pool": "default"}
backend.sqlite.hook.session.created.1     = {"action": {"function": "on_subscribe_lookup"}, "pool": "default"}
backend.sqlite.hook.session.subscribed.1  = {"topic": "#", "action": {"function": "on_message_fetch"}, "pool": "default"}
backend.sqlite.hook.session.subscribed.2  = {"topic": "#", "action": {"function": "on_retain_lookup"}, "pool": "default"}
backend.sqlite.hook.message.publish.1     = {"topic": "#", "action": {"function": "on_message_publish"}, "pool": "default"}
backend.sqlite.hook.message.publish.2     = {"topic": "#", "action": {"function": "on_message_retain"}, "pool": "default"}
backend.sqlite.hook.message.publish.3     = {"topic": "#", "action": {"function": "on_retain_delete"}, "pool": "default"}
backend.sqlite.hook.message.acked.1       = {"topic": "#", "action": {"function": "on_message_acked"}, "pool": "default"}
"##;

/// A running runtime in a directory of its own.
pub(crate) struct Site {
    directory: PathBuf,
    runtime: Running,
    port: u16,
    api: u16,
}

impl Site {
    /// Lays out the directory with `module`, starts the runtime and waits until it is ready.
    pub(crate) fn start(module: &Path) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
        for folder in ["conf.d", "modules", "data"] {
            let path = directory.join(folder);
            std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        write(&directory.join("conf.d/demo.conf"), HOOK_LINES.as_bytes())?;
        let wasm = std::fs::read(module).map_err(|error| format!("{}: {error}", module.display()))?;
        write(&directory.join("modules/fahrenheit.wasm"), &wasm)?;
        let (port, api) = (free_port()?, free_port()?);
        let log = std::fs::File::create(directory.join("tidegate.log")).map_err(|error| error.to_string())?;
        let runtime = Running::start(
            Command::new(paths::binary()?)
                .current_dir(&directory)
                .args(["run", "--listen", &format!("127.0.0.1:{port}"), "--api", &format!("127.0.0.1:{api}")])
                .env("NO_COLOR", "1")
                .stdin(Stdio::null())
                .stdout(log.try_clone().map_err(|error| error.to_string())?)
                .stderr(log),
        )?;
        let mut site = Self { directory, runtime, port, api };
        site.wait_ready()?;
        Ok(site)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while !ready(self.api) {
            let ended = self.runtime.child().try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                return Err(format!("the runtime did not become ready; its log:\n{}", self.log()));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    }

    /// Where `conf.d`, `modules`, `data` and the log lie.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// MQTT.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The management API.
    pub(crate) fn api(&self) -> u16 {
        self.api
    }

    /// Saves a new version as build tools should: written beside, then renamed over the old one.
    pub(crate) fn save_module(&self, module: &Path) -> Result<()> {
        let wasm = std::fs::read(module).map_err(|error| format!("{}: {error}", module.display()))?;
        let beside = self.directory.join("modules/fahrenheit.wasm.part");
        write(&beside, &wasm)?;
        std::fs::rename(&beside, self.directory.join("modules/fahrenheit.wasm"))
            .map_err(|error| error.to_string())
    }

    /// Rows of the database, read by a process of its own.
    pub(crate) fn sql(&self, statement: &str) -> Result<Vec<Vec<String>>> {
        let text = output(
            Command::new(paths::binary()?)
                .arg("sql")
                .arg(self.directory.join("data/tidegate.db"))
                .arg(statement),
        )?;
        Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// The number that `statement` gives.
    pub(crate) fn count(&self, statement: &str) -> Result<usize> {
        let rows = self.sql(statement)?;
        let cell = rows.first().and_then(|row| row.first());
        cell.and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("no number from `{statement}`: {rows:?}"))
    }

    /// The last line of the log that contains `text`.
    pub(crate) fn log_line(&self, text: &str) -> Option<String> {
        self.log().lines().rev().find(|line| line.contains(text)).map(str::to_owned)
    }

    fn log(&self) -> String {
        std::fs::read(self.directory.join("tidegate.log"))
            .map_or_else(|error| error.to_string(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Ends the runtime gracefully and removes its directory.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.runtime.terminate()?;
        std::fs::remove_dir_all(&self.directory)
            .map_err(|error| format!("{}: {error}", self.directory.display()))
    }

    /// Waits until it ends by itself, which Ctrl-C makes it do.
    pub(crate) fn wait(&mut self) -> Result<()> {
        self.runtime.wait()
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}

fn ready(api: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", api)) else { return false };
    let mut answer = String::new();
    stream.set_read_timeout(Some(PATIENCE)).is_ok()
        && stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.split(' ').nth(1) == Some("200")
}
