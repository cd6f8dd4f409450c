//! The configuration of a node: built-in defaults, then `tidegate.toml`, then command line flags.
//!
//! The keys are rows of one table (`keys`), which also makes the reference page. The `backend` tables
//! belong to the store crate and are handed to it as text (see [`crate::backends`]).

pub(crate) mod form;
mod keys;
mod listeners;
mod read;
pub mod reference;

pub(crate) use keys::{KEYS, Key};
pub use listeners::Listener;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::BrokerConfig;
use tidegate_event::{IdSource, Node};
use tidegate_module::{Compiler, HostConfig};
use tidegate_store::StoreOptions;
use tidegate_store::config::{Diagnostic, Place};

use crate::state::SessionDurability;

use crate::access::AccessConfig;
pub(crate) use form::{address, address_or_off, log_level};

/// The file that is read when no `--config` is given, if it exists.
pub const DEFAULT_FILE: &str = "tidegate.toml";

/// Everything a node is told before it starts, except its back ends.
#[derive(Clone, Debug)]
pub struct Config {
    /// `name@host`.
    pub node_name: String,
    /// Where MQTT clients connect without TLS.
    pub listen: Vec<SocketAddr>,
    /// Listeners with TLS, WebSocket or a name.
    pub listeners: Vec<Listener>,
    /// Limits of the broker.
    pub broker: BrokerConfig,
    /// Who may do what.
    pub access: AccessConfig,
    /// Directory of modules.
    pub modules_dir: PathBuf,
    /// How modules are compiled and run; [`Self::host_config`] completes it.
    pub(crate) host: HostConfig,
    /// What durable sessions promise.
    pub(crate) session_durability: SessionDurability,
    /// Bytes of key-value pairs that a module may keep.
    pub(crate) max_state_bytes: u64,
    /// Bytes that the buffers of all connectors may have together; 0: there are none.
    pub(crate) buffer_bytes: u64,
    /// Limits of the stores; [`Self::store_options`] completes it.
    pub(crate) store: StoreOptions,
    /// Directory of `.conf` files.
    pub conf_dir: PathBuf,
    /// Directory of the embedded database, artefacts and dead letters.
    pub data_dir: PathBuf,
    /// Log lines.
    pub log: Log,
    /// Where the management API listens; `None` = nowhere.
    pub api: Option<SocketAddr>,
    /// How long a stop may take.
    pub shutdown_deadline: Duration,
    /// The file that was read, and its text: the store reads `backend` tables from it.
    pub file: Option<ConfigFile>,
}

/// A configuration file as it was read.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Its name, as messages show it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What is logged and how.
#[derive(Clone, Debug)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// Which lines: a level, or levels by target.
    pub level: String,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl form::Words for LogFormat {
    const SYNTAX: &'static str = "\"human\" or \"json\"";
    const WORDS: &'static [(&'static str, Self)] = &[("human", Self::Human), ("json", Self::Json)];
}

impl form::Words for SessionDurability {
    const SYNTAX: &'static str = "\"synced\", \"written\" or \"off\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("synced", Self::Synced), ("written", Self::Written), ("off", Self::Off)];
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: Node::DEFAULT_NAME.into(),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 1883))],
            listeners: Vec::new(),
            broker: BrokerConfig::default(),
            access: AccessConfig::default(),
            modules_dir: "./modules".into(),
            host: HostConfig {
                compiler: Compiler::Child { program: this_program() },
                ..HostConfig::new("", Arc::new(IdSource::new(&Node::default())))
            },
            session_durability: SessionDurability::default(),
            max_state_bytes: 64 << 20,
            buffer_bytes: 1 << 30,
            store: StoreOptions::default(),
            conf_dir: "./conf.d".into(),
            data_dir: "./data".into(),
            log: Log { format: LogFormat::Human, level: "info".into() },
            api: Some(SocketAddr::from(([127, 0, 0, 1], 18083))),
            shutdown_deadline: Duration::from_secs(10),
            file: None,
        }
    }
}

/// The program that compiles modules in a child process: this very one, by the name that stays right when an upgrade
/// replaces the file on disk.
fn this_program() -> PathBuf {
    let own = Path::new("/proc/self/exe");
    if own.exists() { own.into() } else { std::env::current_exe().unwrap_or_else(|_| own.into()) }
}

/// What the command line says over the file. Absent = as the file has it.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--listen`, all of them.
    pub listen: Vec<SocketAddr>,
    /// `--modules`.
    pub modules_dir: Option<PathBuf>,
    /// `--conf-dir`.
    pub conf_dir: Option<PathBuf>,
    /// `--data`.
    pub data_dir: Option<PathBuf>,
    /// `--api`.
    pub api: Option<Option<SocketAddr>>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
    /// `--log-level`.
    pub log_level: Option<String>,
}

impl Config {
    /// How modules are compiled and run: artefacts go to `cache_dir`, ids come from `ids`.
    pub fn host_config(&self, cache_dir: PathBuf, ids: Arc<IdSource>) -> HostConfig {
        HostConfig { cache_dir, ids, ..self.host.clone() }
    }

    /// Limits of the stores, with dead letters in `data_dir`.
    pub fn store_options(&self, data_dir: PathBuf) -> StoreOptions {
        StoreOptions { data_dir, ..self.store.clone() }
    }

    /// Whether the directory of modules is made when it is missing: the default one. One that was asked for must be
    /// there, or a mandatory module on a disk that is not mounted would be passed over.
    pub(crate) fn makes_modules_dir(&self) -> bool {
        self.modules_dir == Self::default().modules_dir
    }

    /// Reads the file (if there is one) over the defaults, then the command line over both.
    ///
    /// The configuration comes back even when the file has problems: `check` goes on with what is right.
    pub fn load(overrides: Overrides) -> (Self, Vec<Diagnostic>) {
        let mut config = Self::default();
        let mut problems = Vec::new();
        let asked = overrides.file.is_some();
        let path = overrides.file.unwrap_or_else(|| DEFAULT_FILE.into());
        match read_text(&path) {
            Ok(text) => {
                let name = path.display().to_string();
                problems = read::read(&name, &text, &mut config).err().unwrap_or_default();
                config.file = Some(ConfigFile { name, text });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked => {}
            Err(error) => problems.push(unreadable(&path, &error)),
        }
        if !overrides.listen.is_empty() {
            config.listen = overrides.listen;
        }
        if problems.is_empty() && config.listen.is_empty() && config.listeners.is_empty() {
            let file = config.file.as_ref().map(|file| file.name.clone()).unwrap_or_default();
            let place = Place { file, key: "broker.listen".into(), ..Place::default() };
            problems.push(place.error("no address and no [[broker.listener]]: no client could connect"));
        }
        let replace = |field: &mut PathBuf, flag: Option<PathBuf>| {
            if let Some(path) = flag {
                *field = path;
            }
        };
        replace(&mut config.modules_dir, overrides.modules_dir);
        replace(&mut config.conf_dir, overrides.conf_dir);
        replace(&mut config.data_dir, overrides.data_dir);
        if let Some(api) = overrides.api {
            config.api = api;
        }
        if let Some(format) = overrides.log_format {
            config.log.format = format;
        }
        if let Some(level) = overrides.log_level {
            config.log.level = level;
        }
        (config, problems)
    }
}

/// Largest configuration file, in bytes: a wrong path (a disk image, `/dev/zero`) must not fill the memory.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Reads a configuration file.
///
/// # Errors
/// The error of the system, or one that says what is wrong with the content.
pub fn read_text(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, Read as _};
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::other("larger than 16 MiB: surely no configuration file"));
    }
    String::from_utf8(bytes)
        .map_err(|error| Error::other(format!("not UTF-8 text (byte {})", error.utf8_error().valid_up_to())))
}

/// The diagnostic of a file that cannot be read.
pub fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Place { file: path.display().to_string(), ..Place::default() }.error(format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.toml");
        std::fs::write(&file, "modules.dir = \"m\"\ndata.dir = \"d\"\n[api]\nlisten = \"127.0.0.1:1\"\n")
            .unwrap();
        let overrides = Overrides {
            file: Some(file),
            data_dir: Some("flag".into()),
            api: Some(None),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            ..Overrides::default()
        };
        let (config, problems) = Config::load(overrides);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(config.modules_dir, PathBuf::from("m"));
        assert_eq!(config.data_dir, PathBuf::from("flag"));
        assert_eq!(config.conf_dir, PathBuf::from("./conf.d"));
        assert_eq!(config.api, None);
        assert_eq!(config.listen.len(), 1);
    }

    #[test]
    fn a_file_that_was_asked_for_must_exist() {
        let overrides = Overrides { file: Some("/nonexistent/x.toml".into()), ..Overrides::default() };
        let (_, problems) = Config::load(overrides);
        assert!(problems[0].to_string().starts_with("/nonexistent/x.toml"), "{problems:?}");
    }

    #[test]
    fn a_file_that_is_no_text_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.toml");
        std::fs::write(&file, b"[node]\nname = \"\xff\"").unwrap();
        let (_, problems) = Config::load(Overrides { file: Some(file), ..Overrides::default() });
        assert!(problems[0].message.contains("not UTF-8 text (byte 15)"), "{problems:?}");
    }
}
