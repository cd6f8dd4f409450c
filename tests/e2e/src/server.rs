//! `tidegate run` as a child process in a directory of its own.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::wait::{PATIENCE, until};

/// The binary under test: `TIDEGATE_BIN`, else the release binary of the usual target directory.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEGATE_BIN") {
        return path.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| crate::guests::cache().join("target"), PathBuf::from);
    let path = target.join("release/tidegate");
    assert!(path.exists(), "{} is missing: `cargo xtask test` builds it", path.display());
    path
}

/// Runs `tidegate` with `args` in `directory` to its end.
pub fn tidegate(directory: &Path, args: &[&str]) -> Output {
    Command::new(binary())
        .current_dir(directory)
        .args(args)
        .env("NO_COLOR", "1")
        .output()
        .expect("tidegate starts")
}

/// Both streams of a finished command, as text.
pub fn text_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What to lay into the directory before the runtime starts.
pub struct Builder {
    directory: TempDir,
    disk_bytes: Option<u64>,
    environment: Vec<(String, String)>,
}

impl Builder {
    /// Writes a file below the directory, with its folders.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// The hook lines of document 003's MySQL sample.
    pub fn document_lines(self) -> Self {
        self.file("conf.d/emqx_backend_sqlite.conf", crate::DOCUMENT_LINES)
    }

    /// A guest in the watched directory, with a manifest.
    pub fn module(self, name: &str, manifest: &str) -> Self {
        let wasm = crate::guests::bytes(name);
        self.file(&format!("modules/{name}.wasm"), wasm).file(&format!("modules/{name}.toml"), manifest)
    }

    /// Gives `data` a disk of its own that has `bytes` bytes; see [`Server::on_disk`].
    pub fn small_disk(self, bytes: u64) -> Self {
        Self { disk_bytes: Some(bytes), ..self }
    }

    /// Sets a variable of the runtime's environment, and of its commands': see [`Server::tidegate`].
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the runtime and waits until it is ready.
    pub fn start(self) -> Server {
        for folder in ["modules", "conf.d", "data"] {
            std::fs::create_dir_all(self.directory.path().join(folder)).unwrap();
        }
        let mut server = Server {
            directory: self.directory,
            disk_bytes: self.disk_bytes,
            environment: self.environment,
            child: None,
            port: free_port(),
            api: free_port(),
        };
        server.start();
        server
    }
}

/// A running runtime; killed when dropped.
pub struct Server {
    directory: TempDir,
    disk_bytes: Option<u64>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    /// Where MQTT is served, on 127.0.0.1.
    pub port: u16,
    /// Where the management API is served, on 127.0.0.1.
    pub api: u16,
}

impl Server {
    /// A new, empty directory.
    pub fn builder() -> Builder {
        let directory = tempfile::Builder::new().prefix("tidegate-e2e-").tempdir().unwrap();
        Builder { directory, disk_bytes: None, environment: Vec::new() }
    }

    /// Without modules, connectors or hook lines: a plain broker.
    pub fn plain() -> Self {
        Self::builder().start()
    }

    /// Starts it (again) on the same ports and data; waits until `/readyz` says so.
    pub fn start(&mut self) {
        self.launch();
        let start = Instant::now();
        while self.get("/readyz").is_none_or(|(status, _)| status != 200) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "tidegate ended with {ended:?}:\n{}", self.log());
            // It reads back all that it has kept.
            assert!(start.elapsed() < 3 * PATIENCE, "tidegate never became ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As [`start`](Self::start), and waits for nothing.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let child = self
            .command()
            .current_dir(self.directory.path())
            .args(["run", "--listen", &format!("127.0.0.1:{}", self.port)])
            .args(["--api", &format!("127.0.0.1:{}", self.api)])
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("tidegate starts");
        self.child = Some(child);
    }

    /// What starts the binary: itself, or a shell that mounts the small disk where only it and the binary see it.
    fn command(&self) -> Command {
        let Some(bytes) = self.disk_bytes else { return Command::new(binary()) };
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-ec"]);
        command.arg("mount -t tmpfs -o size=\"$1\" tmpfs data; shift; exec \"$@\"");
        command.args(["sh", &bytes.to_string()]).arg(binary());
        command
    }

    /// A file on the small disk, as the runtime that lives now sees it: it is gone with that.
    pub fn on_disk(&self, name: &str) -> PathBuf {
        assert!(self.disk_bytes.is_some(), "there is no small disk");
        PathBuf::from(format!("/proc/{}/root", self.pid()))
            .join(self.file("data").strip_prefix("/").unwrap())
            .join(name)
    }

    /// Runs a command of the same binary to its end, in the runtime's directory and with its environment.
    pub fn tidegate(&self, args: &[&str]) -> Output {
        Command::new(binary())
            .current_dir(self.path())
            .args(args)
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()
            .expect("tidegate starts")
    }

    /// What a command prints with `--json`, whatever its exit status.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.tidegate(&[args, &["--json"]].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("tidegate {args:?}: {error}: {}", text_of(&output)))
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and waits for the graceful end; gives whether it ended with success.
    pub fn stop(&mut self) -> bool {
        let mut child = self.child.take().expect("it runs");
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        until("the runtime ends after SIGTERM", || child.try_wait().unwrap()).success()
    }

    /// Whether the process still lives.
    pub fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Its directory: `conf.d`, `modules`, `data`.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file below it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The database of [`crate::DOCUMENT_LINES`].
    pub fn database(&self) -> PathBuf {
        self.file("data/mqtt.db")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("tidegate.log")
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(self.log_path()) {
            file.read_to_end(&mut text).unwrap();
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// How many bytes it has logged: where to look from for what comes next.
    pub fn log_mark(&self) -> usize {
        std::fs::metadata(self.log_path()).map_or(0, |data| usize::try_from(data.len()).unwrap())
    }

    /// Waits for a log line after `mark` for which `is` holds, and gives it.
    pub fn wait_log(&self, mark: usize, what: &str, is: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let log = self.log();
            if let Some(line) = log.get(mark..).unwrap_or_default().lines().find(|line| is(line)) {
                return line.to_owned();
            }
            assert!(start.elapsed() < PATIENCE, "no log line: {what}; the log is:\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Panics when the log tells of a panic.
    pub fn assert_no_panic(&self) {
        let log = self.log();
        if let Some(line) = panic_line(&log) {
            panic!("the runtime panicked: {line}\n{log}");
        }
    }

    /// A request to the management API: status and body.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        http_get(self.api, path)
    }

    /// The value of a metric, summed over the label sets that contain `labels`.
    ///
    /// # Panics
    /// There is no line of this name and these labels: it is misspelt, or not counted yet, and no zero.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.metrics();
        sum(&text, name, labels).unwrap_or_else(|| panic!("no metric {name} with {labels:?} in:\n{text}"))
    }

    /// As [`metric`](Self::metric), for a counter that appears when it first counts: 0 without a line.
    pub fn metric_or_zero(&self, name: &str, labels: &str) -> f64 {
        sum(&self.metrics(), name, labels).unwrap_or_default()
    }

    /// Everything that it counts, as `/metrics` writes it.
    pub fn metrics(&self) -> String {
        self.get("/metrics").expect("the API answers").1
    }
}

/// The line of `log` that tells of a panic of the runtime: as the runtime logs it (runtime/server/tests/panics.rs), or as the
/// standard library does before that. What guests say of their own panics is none.
fn panic_line(log: &str) -> Option<&str> {
    let tells = |line: &&str| line.contains("tidegate::logging: panic: ") || line.starts_with("thread '");
    log.lines().find(tells)
}

/// The sum of the lines of a metric whose labels contain `labels`; `None` when there is no such line.
fn sum(text: &str, name: &str, labels: &str) -> Option<f64> {
    let is_meant = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])) && line.contains(labels)
    };
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    text.lines().filter(is_meant).filter_map(value).fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(6_000).map_or(0, |(at, _)| at);
            eprintln!("--- end of the runtime's log ---\n{}", &log[from..]);
        }
    }
}

/// A port that was free a moment ago. The kernel hands out ephemeral ports at random, so two tests do not
/// get the same one; a fixed port (not 0) lets a killed runtime come back where its clients look for it.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("loopback has free ports").port()
}

/// An address of this machine that is none of loopback: who connects by it is somebody else to the runtime, and what is
/// sent stays here all the same.
///
/// # Panics
/// There is none. Nothing is added to the network of the machine that runs the tests: the message says how to.
pub fn own_address() -> Ipv4Addr {
    // Nothing is sent by connecting a UDP socket: the kernel only looks from where it would be. There is a way to this
    // address, of those for documentation (RFC 5737), where there is one to anywhere.
    let by_route = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
        Some(socket.local_addr().ok()?.ip().to_string())
    };
    // Without any way out there may be a network of containers.
    let by_name = || {
        let output = Command::new("hostname").arg("-I").output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let found = [by_route(), by_name()].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let mut addresses = found.split_whitespace().filter_map(|address| address.parse::<Ipv4Addr>().ok());
    addresses.find(|address| !address.is_loopback()).expect(
        "this test needs an IPv4 address that is none of loopback, and this machine has none: \
         `ip address add 192.0.2.1/32 dev lo` adds one",
    )
}

fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{panic_line, sum};

    #[test]
    fn a_panic_is_found_in_the_log() {
        let logged = "2026-01-01T00:00:00Z ERROR tidegate::logging: panic: broken thread=\"tokio-rt-worker\"";
        for line in [logged, "thread 'main' (7) panicked at src/main.rs:1:1:"] {
            assert_eq!(panic_line(&format!("one\n{line}\nother\n")), Some(line));
        }
        let of_a_guest = "WARN tidegate_module: stderr: thread '<unnamed>' panicked at src/lib.rs:1:1:\n";
        assert_eq!(panic_line(of_a_guest), None);
    }

    #[test]
    fn a_metric_that_is_not_there_is_no_zero() {
        let text = "# TYPE a counter\na{b=\"1\"} 2\na{b=\"2\"} 3\nab{b=\"1\"} 9\nc 0\n";
        assert_eq!((sum(text, "a", ""), sum(text, "a", "b=\"2\"")), (Some(5.0), Some(3.0)));
        assert_eq!(
            (sum(text, "c", ""), sum(text, "d", ""), sum(text, "a", "b=\"3\"")),
            (Some(0.0), None, None)
        );
    }
}
