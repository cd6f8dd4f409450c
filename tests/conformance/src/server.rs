//! The binary under test as a child process.
//!
//! A shell stands between: it ends the server and removes its directory when its standard input is closed, which the
//! system does when a test program ends, however that happens.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long it may take until the server takes connections.
const START: Duration = Duration::from_secs(60);

/// `$1` is the directory, the rest the command. Says the process id of the server.
const SCRIPT: &str = r#"
directory=$1; shift
cd "$directory" || exit 1
"$@" </dev/null >server.log 2>&1 &
pid=$!
echo "$pid"
cat >/dev/null
kill -9 "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
cd / && rm -rf "$directory"
"#;

/// The port of the server that all tests of this program share; the first call starts it. Its configuration is the
/// default one.
pub fn port() -> u16 {
    shared().port
}

fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| Server::start(""))
}

/// The shared server has not panicked so far: a connection whose task panics is closed without a word, which is how many
/// packets are refused before MQTT 5.
///
/// # Panics
/// It has, for this test or for one that runs at the same time.
#[track_caller]
pub fn assert_no_panic() {
    shared().assert_no_panic();
}

/// The line of `log` that tells of a panic: as the server logs it (`runtime/server/tests/panics.rs`), or as the standard
/// library does before that.
fn panic_line(log: &str) -> Option<&str> {
    log.lines().find(|line| line.contains("tidegate::logging: panic: ") || line.starts_with("thread '"))
}

/// A running server, ended when dropped.
pub struct Server {
    /// Where MQTT is served, on 127.0.0.1.
    pub port: u16,
    pid: String,
    directory: PathBuf,
    shell: Child,
    /// Closed to end it.
    input: Option<ChildStdin>,
}

impl Server {
    /// Starts one with `configuration`, the text of `tidegate.toml` (MQTT's address is set by us), and waits until it
    /// takes connections.
    ///
    /// # Panics
    /// There is no binary, or it does not start; the message has its log.
    pub fn start(configuration: &str) -> Self {
        Self::start_with(configuration, &[])
    }

    /// As [`start`](Self::start), with files that the configuration names: name and text.
    ///
    /// # Panics
    /// As there.
    pub fn start_with(configuration: &str, files: &[(&str, &str)]) -> Self {
        let directory = directory();
        for folder in ["modules", "conf.d", "data"] {
            std::fs::create_dir_all(directory.join(folder)).expect("the temporary directory can be written");
        }
        for (name, text) in files.iter().chain([&("tidegate.toml", configuration)]) {
            std::fs::write(directory.join(name), text).expect("as above");
        }
        let port = free_port();
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(&directory)
            .arg(binary())
            .args(["run", "--listen", &format!("127.0.0.1:{port}"), "--api", "off"])
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut pid = String::new();
        let output = shell.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut pid).expect("the shell says the process id");
        let input = shell.stdin.take();
        let pid = pid.trim().to_owned();
        let server = Self { port, pid, directory, shell, input };
        server.wait(port);
        server
    }

    /// Waits until it takes connections at `port`, for a further listener of its configuration.
    ///
    /// # Panics
    /// It does not, or it ends.
    pub fn wait(&self, port: u16) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(lives(&self.pid), "the server ended:\n{}", self.log());
            assert!(start.elapsed() < START, "the server takes no connections:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        // Whatever bytes clients have sent may be in it.
        let bytes = std::fs::read(self.directory.join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// It has not panicked so far.
    ///
    /// # Panics
    /// It has.
    #[track_caller]
    pub fn assert_no_panic(&self) {
        let log = self.log();
        assert!(!log.is_empty(), "the server logs nothing");
        if let Some(line) = panic_line(&log) {
            panic!("the server panicked: {line}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let log = self.log();
        self.input = None;
        drop(self.shell.wait());
        // Never a second panic, which would end the test program.
        if let Some(line) = panic_line(&log).filter(|_| !std::thread::panicking()) {
            panic!("the server panicked: {line}");
        }
    }
}

/// Whether a process runs: one that has ended and was not waited for does not.
fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The binary under test: `TIDEGATE_BIN`, else `tidegate` in the folder of the profile that this program was built with.
///
/// # Panics
/// It is not there.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("TIDEGATE_BIN").map_or_else(beside_us, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: build it with `cargo build -p tidegate`, or say in TIDEGATE_BIN where it is",
        path.display()
    );
    // The server has another working directory than we.
    path.canonicalize().expect("it is there")
}

/// Test programs are in the folder `deps` of the profile.
fn beside_us() -> PathBuf {
    let us = std::env::current_exe().expect("a program has a path");
    let profile = us.parent().and_then(Path::parent).expect("cargo puts it two folders deep");
    profile.join("tidegate")
}

/// A new directory; the shell removes it.
fn directory() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("tidegate-conformance-{}-{number}", std::process::id()));
    std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// The text of a password file with these users and passwords, made by `tidegate passwd`.
///
/// # Panics
/// It fails.
pub fn password_file(users: &[(&str, &str)]) -> String {
    let directory = directory();
    for (user, password) in users {
        let mut passwd = Command::new(binary())
            .current_dir(&directory)
            .args(["passwd", "users", user, "--stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut input = passwd.stdin.take().expect("it is piped");
        writeln!(input, "{password}").expect("it reads the password");
        drop(input);
        assert!(passwd.wait().is_ok_and(|status| status.success()), "tidegate passwd");
    }
    let text = std::fs::read_to_string(directory.join("users")).expect("it was written");
    std::fs::remove_dir_all(directory).expect("it is ours");
    text
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("loopback has free ports").port()
}

#[cfg(test)]
mod tests {
    use super::panic_line;

    #[test]
    fn a_panic_is_found_in_the_log() {
        for line in [
            "2026-01-01T00:00:00Z ERROR tidegate::logging: panic: broken thread=\"tokio-rt-worker\"",
            "thread 'main' (7) panicked at src/main.rs:1:1:",
        ] {
            assert_eq!(panic_line(&format!("one\n{line}\nother\n")), Some(line));
        }
        assert_eq!(panic_line("INFO tidegate::run: no panic here\n"), None);
    }
}
