//! One running server, whatever it serves.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::place::Place;
use crate::port::Port;
use crate::process::{Identity, Signal};
use crate::{Error, Result};

/// How long a server may take to become ready. Generous: two busy cores.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to end when it is asked to.
const END_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a log that a failure shows.
const LOG_SHOWN: usize = 3_000;

/// The program of a server and how it is called.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name, found on the PATH.
    pub name: String,
    /// The Debian package it comes in.
    pub package: &'static str,
    /// What it is called with.
    pub arguments: Vec<String>,
}

/// A server with a folder, a port and a log of its own; killed when dropped.
///
/// In a temporary [`Place`] the system kills it with the **thread** that started it, so that no way of ending a test
/// run leaves servers behind: start it, and start it again, on a thread that outlives its use.
#[derive(Debug)]
pub struct Server {
    name: String,
    program: Program,
    port: Port,
    child: Option<Child>,
    identity: Option<Identity>,
    // Last: the folder goes when the process is gone.
    place: Place,
}

impl Server {
    /// Makes its folder, `NAME` in `place`; starts nothing yet.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(place: &Place, name: &str, port: Port, program: Program) -> Result<Self> {
        let server =
            Self { name: name.into(), program, port, child: None, identity: None, place: place.clone() };
        let folder = server.folder();
        std::fs::create_dir_all(&folder).map_err(Error::io(folder.display().to_string()))?;
        Ok(server)
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// Its data.
    pub fn folder(&self) -> PathBuf {
        self.place.folder().join(&self.name)
    }

    /// Its process; `None` when it was killed or stopped.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Starts the process, on the same port and data each time, and waits until `ready`.
    ///
    /// # Errors
    /// The program is missing; it ends, or is not ready in time.
    pub fn start(&mut self, ready: impl Fn(Identity) -> bool) -> Result<()> {
        if self.child.is_none() {
            self.spawn()?;
        }
        let result = self.wait("it is ready", &ready);
        if result.is_err() {
            self.kill();
        }
        result
    }

    /// Waits until `is`, which is called with the process.
    ///
    /// # Errors
    /// The server ends, or it takes too long; the text says `what` was waited for and shows the log's end.
    pub fn wait(&mut self, what: &str, is: impl Fn(Identity) -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            let why = match (ended, self.identity) {
                (Some(status), _) => format!("it ended ({status}) while we waited until {what}"),
                (None, None) => format!("it does not run; we waited until {what}"),
                (None, Some(identity)) if is(identity) => return Ok(()),
                _ if start.elapsed() > READY_WITHIN => {
                    format!("waited {READY_WITHIN:?} in vain until {what}")
                }
                _ => {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
            };
            return Err(Error::NotReady { server: self.name.clone(), why, log: self.log_end() });
        }
    }

    /// `kill -9`, and waits until the process is gone. Its data and its port stay.
    pub fn kill(&mut self) {
        self.identity = None;
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself: nothing is left to do then.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Asks it to end and waits until it has; kills it when it does not. Its data and its port stay.
    pub fn stop(&mut self) {
        let start = Instant::now();
        if let (Some(identity), Some(child)) = (self.identity, &mut self.child)
            && identity.signal(Signal::Term).is_ok()
        {
            while start.elapsed() < END_WITHIN && !matches!(child.try_wait(), Ok(Some(_))) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.kill();
    }

    /// SIGSTOP: connections stay, nothing is answered.
    ///
    /// # Errors
    /// The system refuses.
    pub fn pause(&self) -> Result<()> {
        self.identity.map_or(Ok(()), |identity| identity.signal(Signal::Stop))
    }

    /// SIGCONT: it goes on where it was.
    ///
    /// # Errors
    /// The system refuses.
    pub fn resume(&self) -> Result<()> {
        self.identity.map_or(Ok(()), |identity| identity.signal(Signal::Continue))
    }

    /// Lets it run on after us; gives its process.
    pub fn release(mut self) -> Option<Identity> {
        self.child = None;
        self.identity.take()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.place.folder().join(format!("{}.log", self.name))
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let from = log.char_indices().rev().nth(LOG_SHOWN).map_or(0, |(at, _)| at);
        log.get(from..).unwrap_or_default().to_owned()
    }

    fn spawn(&mut self) -> Result<()> {
        let Program { name, package, arguments } = &self.program;
        let program = find(name).ok_or_else(|| Error::Missing { program: name.clone(), package })?;
        let path = self.log_path();
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(Error::io(path.display().to_string()))?;
        let copy = log.try_clone().map_err(Error::io(path.display().to_string()))?;
        let mut command = if self.place.ends_with_us() {
            // Replaces itself by the server: the process id is the same.
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(&program);
            command
        } else {
            let mut command = Command::new(&program);
            // Ctrl-C at the terminal is not meant for it.
            command.process_group(0);
            command
        };
        command
            .args(arguments)
            .current_dir(self.folder())
            .env("HOME", self.folder())
            .env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(log).stderr(copy);
        let child = command.spawn().map_err(Error::io(program.display().to_string()))?;
        self.identity = Identity::of(child.id());
        self.child = Some(child);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program by its name; Debian keeps some servers where an ordinary user's PATH does not look.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(Path::new(name))).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn server(place: &Place, program: &str, arguments: &[&str]) -> Server {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let program = Program { name: program.into(), package: "nowhere", arguments };
        Server::new(place, "it", Port::free().unwrap(), program).unwrap()
    }

    #[test]
    fn a_server_that_ends_fails_with_the_end_of_its_log() {
        let place = Place::temporary().unwrap();
        let mut server = server(&place, "sh", &["-c", "echo the reason; exit 3"]);
        let error = server.start(|_| false).unwrap_err().to_string();
        assert!(error.contains("the reason") && error.contains("it ended (exit status: 3)"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let place = Place::temporary().unwrap();
        let error = server(&place, "no-such-server", &[]).start(|_| true).unwrap_err().to_string();
        assert!(error.contains("no-such-server") && error.contains("nowhere"), "{error}");
    }

    #[test]
    fn a_server_ends_with_the_thread_that_started_it() {
        let place = Place::temporary().unwrap();
        let thread = std::thread::spawn(move || {
            let mut server = server(&place, "sleep", &["60"]);
            // Until it is the program itself, nobody has asked yet for the signal.
            let is_sleep = |identity: Identity| {
                std::fs::read_to_string(format!("/proc/{}/comm", identity.pid))
                    .is_ok_and(|name| name == "sleep\n")
            };
            server.start(is_sleep).unwrap();
            // Not killed by us.
            server.release().unwrap()
        });
        let identity = thread.join().unwrap();
        let start = Instant::now();
        while identity.is_alive() {
            assert!(start.elapsed() < READY_WITHIN, "it lives");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_stopped_server_starts_again() {
        let place = Place::temporary().unwrap();
        let mut server = server(&place, "sleep", &["60"]);
        server.start(|_| true).unwrap();
        let first = server.identity().unwrap();
        server.stop();
        assert!(!first.is_alive() && server.identity().is_none());
        server.start(|_| true).unwrap();
        let second = server.identity().unwrap();
        assert!(second.is_alive() && second != first);
        drop(server);
        assert!(!second.is_alive());
    }
}
