//! Redis, looked at and commanded through `redis-cli`.

mod cluster;
mod sentinel;
mod tls;

pub use cluster::Cluster;
pub use sentinel::{MASTER, Sentinels};

use std::path::PathBuf;
use std::process::Command;

use crate::kind::Shared;
use crate::port::Port;
use crate::process::Identity;
use crate::server::{Program, find};
use crate::{Error, Place, Result, Server};

/// The program of the server, and the Debian package it comes in.
pub const SERVER: (&str, &str) = ("redis-server", "redis-server");
/// The program of the client.
pub const CLIENT: (&str, &str) = ("redis-cli", "redis-tools");
/// All that servers and tests need.
pub const PROGRAMS: &[(&str, &str)] = &[SERVER, CLIENT, tls::OPENSSL];
/// The password of the shared server that has one.
pub const PASSWORD: &str = "public";

/// Makes a server a sentinel.
const SENTINEL: &str = "--sentinel";

/// How a Redis is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    name: String,
    user: Option<String>,
    password: Option<String>,
    tls: bool,
    certificates: bool,
    lines: Vec<String>,
    arguments: Vec<String>,
}

impl Options {
    /// `name` is its folder and its log. Nothing is kept over a restart.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Clients need this password; replicas use it too.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Only this ACL user may connect, with this password.
    #[must_use]
    pub fn user(mut self, user: &str, password: &str) -> Self {
        self.user = Some(user.into());
        self.password = Some(password.into());
        self.line("user default off").line(&format!("user {user} on >{password} ~* &* +@all"))
    }

    /// Only TLS is spoken, with a certificate for 127.0.0.1: see [`Redis::authority`].
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Only TLS is spoken, and clients must show a certificate of the same authority: its own will do, see
    /// [`Redis::authority`] and [`Redis::key`].
    #[must_use]
    pub fn certificates(mut self) -> Self {
        self.certificates = true;
        self.tls()
    }

    /// What was answered is in the file and is there after `kill -9`: `appendonly yes`. The kernel has it when the
    /// client has the answer, which is enough for a process that dies; a machine that dies would need `appendfsync
    /// always`.
    #[must_use]
    pub fn durable(self) -> Self {
        self.line("appendonly yes")
    }

    /// One more line of the configuration file.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.into());
        self
    }

    fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// It is not installed, or does not become ready.
    pub fn start(self, place: &Place) -> Result<Redis> {
        let port = Port::free()?;
        // Redis rewrites this file when roles change, and starts from it again.
        let mut arguments = vec!["redis.conf".to_owned()];
        arguments.extend(self.arguments.iter().cloned());
        let program = Program { name: SERVER.0.into(), package: SERVER.1, arguments };
        let number = port.number();
        let mut lines =
            if self.tls { tls::lines(number, self.certificates) } else { vec![format!("port {number}")] };
        lines.extend(["bind 127.0.0.1".into(), "dir .".into(), "save \"\"".into(), "daemonize no".into()]);
        if let (Some(password), None) = (&self.password, &self.user) {
            lines.push(format!("requirepass {password}"));
            // Sentinels have no master of their own.
            if !self.arguments.iter().any(|argument| argument == SENTINEL) {
                lines.push(format!("masterauth {password}"));
            }
        }
        lines.extend(self.lines);
        let server = Server::new(place, &self.name, port, program)?;
        let file = server.folder().join("redis.conf");
        std::fs::write(&file, lines.join("\n") + "\n").map_err(Error::io(file.display().to_string()))?;
        if self.tls {
            tls::certify(place, &server.folder())?;
        }
        let Self { user, password, tls, certificates, .. } = self;
        let mut redis = Redis { server, user, password, tls, certificates };
        redis.start()?;
        Ok(redis)
    }
}

/// One running Redis process; killed when dropped.
#[derive(Debug)]
pub struct Redis {
    server: Server,
    user: Option<String>,
    password: Option<String>,
    tls: bool,
    certificates: bool,
}

impl Redis {
    /// The process: its address, `kill`, `stop`, `pause`, `resume`.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The same, to change it.
    pub fn server_mut(&mut self) -> &mut Server {
        &mut self.server
    }

    /// Only the process.
    pub fn into_server(self) -> Server {
        self.server
    }

    /// Starts it again after a `kill` or `stop`, on the same port and data.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn start(&mut self) -> Result<()> {
        let cli = self.cli();
        // While it reads its file it answers with LOADING; and somebody else may answer on its port.
        self.server.start(|identity| is_itself(&cli, identity))
    }

    /// How to talk to it.
    pub fn cli(&self) -> Cli {
        let authority = self.tls.then(|| self.authority());
        let key = self.certificates.then(|| self.key());
        let (user, password) = (self.user.clone(), self.password.clone());
        Cli { port: self.server.port(), user, password, authority, key, ..Cli::default() }
    }

    /// With TLS: the PEM file of the certificate, which is its own authority.
    pub fn authority(&self) -> PathBuf {
        self.server.folder().join(tls::CERTIFICATE)
    }

    /// With TLS: the PEM file of the certificate's key, for clients that must show one.
    pub fn key(&self) -> PathBuf {
        self.server.folder().join(tls::KEY)
    }

    /// The answer to a command, as [`Cli::run`].
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.cli().run(arguments)
    }
}

fn is_itself(cli: &Cli, identity: Identity) -> bool {
    let own = format!("process_id:{}", identity.pid);
    let is = |section: &str, line: &str| {
        cli.run(&["INFO", section]).is_ok_and(|text| text.lines().any(|l| l.trim_end() == line))
    };
    is("server", &own) && cli.run(&["PING"]).is_ok_and(|answer| answer == "PONG")
}

/// `redis-cli` for one server: what an operator would see.
#[derive(Clone, Debug, Default)]
pub struct Cli {
    port: u16,
    user: Option<String>,
    authority: Option<PathBuf>,
    /// To show the authority's certificate as its own.
    key: Option<PathBuf>,
    password: Option<String>,
    database: u8,
    follows: bool,
}

impl Cli {
    /// For a server at `127.0.0.1:PORT`.
    ///
    /// # Errors
    /// It is no such address.
    pub fn at(address: &str, password: Option<&str>) -> Result<Self> {
        let port =
            address.strip_prefix("127.0.0.1:").and_then(|port| port.parse().ok()).ok_or_else(|| {
                Error::Refused {
                    command: "redis-cli".into(),
                    answer: format!("{address:?} is not 127.0.0.1:PORT"),
                }
            })?;
        Ok(Self { port, password: password.map(str::to_owned), ..Self::default() })
    }

    /// The same in another database.
    #[must_use]
    pub fn database(mut self, database: u8) -> Self {
        self.database = database;
        self
    }

    /// The same, following a cluster's redirections.
    #[must_use]
    pub fn follow(mut self) -> Self {
        self.follows = true;
        self
    }

    /// The port it talks to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs a command; gives the raw answer without its last line end, elements of an array as lines.
    ///
    /// # Errors
    /// The server cannot be reached, does not answer within ten seconds, or answers with an error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let (mut command, shown) = self.command(arguments)?;
        command.args(["-e", "--raw"]).args(arguments);
        let output = command.output().map_err(Error::io(shown.clone()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            // redis-cli ends its output with one line end; what is before it is the answer's.
            Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
        } else {
            let errors = String::from_utf8_lossy(&output.stderr);
            Err(Error::Refused { command: shown, answer: format!("{}{}", text.trim(), errors.trim()) })
        }
    }

    /// As [`run`](Self::run); the lines of the answer.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn lines(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let text = self.run(arguments)?;
        Ok(if text.is_empty() { Vec::new() } else { text.lines().map(str::to_owned).collect() })
    }

    fn command(&self, arguments: &[&str]) -> Result<(Command, String)> {
        let program =
            find(CLIENT.0).ok_or(Error::Missing { program: CLIENT.0.to_owned(), package: CLIENT.1 })?;
        // A paused server takes connections and says nothing.
        let mut command = Command::new("timeout");
        command.arg("10").arg(program).args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        if self.follows {
            command.arg("-c");
        }
        if self.database != 0 {
            command.args(["-n", &self.database.to_string()]);
        }
        self.identify(&mut command);
        Ok((command, format!("redis-cli -p {} {}", self.port, arguments.join(" "))))
    }

    /// Who we are, and whom we trust.
    fn identify(&self, command: &mut Command) {
        if let Some(user) = &self.user {
            command.args(["--user", user]);
        }
        if let Some(authority) = &self.authority {
            command.arg("--tls").arg("--cacert").arg(authority);
            if let Some(key) = &self.key {
                command.arg("--cert").arg(authority).arg("--key").arg(key);
            }
        }
        if let Some(password) = &self.password {
            command.env("REDISCLI_AUTH", password);
        } else {
            // An empty one would still be sent.
            command.env_remove("REDISCLI_AUTH");
        }
    }

    /// Runs one of `redis-cli --cluster`'s own commands to its end.
    fn manage(&self, arguments: &[&str]) -> Result<()> {
        let program =
            find(CLIENT.0).ok_or(Error::Missing { program: CLIENT.0.to_owned(), package: CLIENT.1 })?;
        let shown = format!("redis-cli --cluster {}", arguments.join(" "));
        let mut command = Command::new(program);
        self.identify(&mut command);
        let output = command
            .arg("--cluster")
            .args(arguments)
            .arg("--cluster-yes")
            .output()
            .map_err(Error::io(shown.clone()))?;
        if output.status.success() {
            Ok(())
        } else {
            let answer = [output.stdout, output.stderr].concat();
            Err(Error::Refused { command: shown, answer: String::from_utf8_lossy(&answer).into_owned() })
        }
    }
}

/// The shared server without a password.
pub(crate) fn shared(place: &Place) -> Result<Shared> {
    one(Options::new("redis"), place)
}

/// The shared server with the password [`PASSWORD`].
pub(crate) fn shared_with_password(place: &Place) -> Result<Shared> {
    one(Options::new("redis-auth").password(PASSWORD), place)
}

fn one(options: Options, place: &Place) -> Result<Shared> {
    let server = options.durable().start(place)?.into_server();
    Ok(Shared { value: server.address(), servers: vec![server] })
}

/// The shared sentinels.
pub(crate) fn shared_sentinels(place: &Place) -> Result<Shared> {
    let sentinels = Sentinels::start(place)?;
    Ok(Shared { value: sentinels.addresses(), servers: sentinels.into_servers() })
}

/// The shared cluster: three masters.
pub(crate) fn shared_cluster(place: &Place) -> Result<Shared> {
    let cluster = Cluster::start(place, 3, 0)?;
    Ok(Shared { value: cluster.addresses(), servers: cluster.into_servers() })
}
