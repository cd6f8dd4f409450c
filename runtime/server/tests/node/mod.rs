//! A `tidegate` process in a directory of its own, as the tests of the binary see it: its log, its ports, its end.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, reason = "tests; each file uses a part")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A command of the binary under test, in `dir`.
pub(crate) fn tidegate(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(dir).args(args).env_remove("RUST_LOG");
    command
}

/// Runs a command to its end; gives its exit code, standard output and standard error.
pub(crate) fn finish(mut command: Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    (
        status.code(),
        String::from_utf8_lossy(&stdout).into_owned(),
        String::from_utf8_lossy(&stderr).into_owned(),
    )
}

/// Writes `content` to `name` below `dir`, with its folders.
pub(crate) fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Lines of a child's output as they come.
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    pub(crate) fn of(output: impl std::io::Read + Send + 'static) -> Self {
        let (tell, lines) = sync_channel(100_000);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self(lines)
    }

    /// The next line that holds `part`; those before it go to `seen`.
    pub(crate) fn until(&self, part: &str, seen: &mut Vec<String>) -> String {
        self.until_any(&[part], seen)
    }

    /// The next line that holds one of `parts`; those before it go to `seen`.
    pub(crate) fn until_any(&self, parts: &[&str], seen: &mut Vec<String>) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.0.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if parts.iter().any(|part| line.contains(part)) => return line,
                Ok(line) => seen.push(line),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended before {parts:?}; it said {seen:#?}"),
                Err(RecvTimeoutError::Timeout) => panic!("no {parts:?} in time; it said {seen:#?}"),
            }
        }
    }

    /// The next line.
    pub(crate) fn next(&self) -> String {
        self.until("", &mut Vec::new())
    }

    /// Everything up to the end of the output.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.0.iter().collect()
    }
}

/// A running runtime with JSON logs on free ports. Killed when dropped.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) child: Child,
    pub(crate) log: Lines,
    pub(crate) seen: Vec<String>,
    pub(crate) mqtt: Vec<SocketAddr>,
    pub(crate) api: SocketAddr,
}

impl Node {
    /// Starts it with no configuration.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &[])
    }

    /// Starts it in `dir` with more flags; waits until it is ready.
    pub(crate) fn start_in(dir: TempDir, flags: &[&str]) -> Self {
        let mut command = tidegate(dir.path(), &["run", "--api", "127.0.0.1:0", "--log-format", "json"]);
        if !flags.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let mut child = command
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::of(child.stderr.take().unwrap());
        let mut seen = Vec::new();
        let line: Value = serde_json::from_str(&log.until("management API", &mut seen)).unwrap();
        let api = line["address"].as_str().unwrap().parse().unwrap();
        log.until("tidegate is ready", &mut seen);
        let mut node = Self { dir, child, log, seen, mqtt: Vec::new(), api };
        let listeners = node.json("/readyz")["listeners"].as_array().unwrap().clone();
        node.mqtt = listeners.iter().map(|a| a.as_str().unwrap().parse().unwrap()).collect();
        node
    }

    /// The port of the first listener.
    pub(crate) fn port(&self) -> String {
        self.mqtt[0].port().to_string()
    }

    /// A command of the same binary in the same directory.
    pub(crate) fn tidegate(&self, args: &[&str]) -> Command {
        tidegate(self.dir.path(), args)
    }

    /// `tidegate pub` or `sub` to this node.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut command = self.tidegate(&args[..1]);
        command.args(["-p", &self.port()]).args(&args[1..]);
        command
    }

    /// Status and body of a GET.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.api).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).1).unwrap()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it gracefully; gives its exit code and the rest of its log.
    pub(crate) fn stop(mut self) -> (Option<i32>, Vec<String>) {
        self.signal("TERM");
        let code = self.wait().code();
        (code, self.log.rest())
    }
}

impl Node {
    /// Ends it gracefully; gives its exit code, and its directory with the rest of its log.
    pub(crate) fn stop_keeping(mut self) -> (Option<i32>, (TempDir, Vec<String>)) {
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        let (code, log) = self.stop();
        (code, (dir, log))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Ended already when the test went well.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
