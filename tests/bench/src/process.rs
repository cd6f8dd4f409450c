//! Servers as child processes: started, waited for, measured, stopped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::load::{self, Endpoint, Transport};
use crate::wire::Version;

/// `/proc/PID/stat` counts in these (`USER_HZ`, fixed by the kernel's interface on every architecture).
const TICKS_PER_SECOND: u64 = 100;

/// Processor time that a process has used, user and system.
#[derive(Clone, Copy, Debug)]
pub struct CpuTime(Duration);

impl CpuTime {
    /// Of the process `pid`, all its threads, living and ended. Resolution: 10 ms.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        parse_stat(&stat).map(Self).with_context(|| format!("{path}: {stat:?}"))
    }

    /// How much more than `earlier`.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// utime and stime are fields 14 and 15; the command, field 2, may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<Duration> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1_000 / TICKS_PER_SECOND))
}

/// Processor time of the calling thread. Resolution: a tick of the scheduler, 1 to 4 ms.
///
/// # Errors
/// When the kernel does not tell (it is built without `CONFIG_SCHED_INFO`).
pub fn thread_time() -> anyhow::Result<Duration> {
    const PATH: &str = "/proc/thread-self/schedstat";
    let text = std::fs::read_to_string(PATH).with_context(|| format!("reading {PATH}"))?;
    let nanos = text.split_ascii_whitespace().next().and_then(|field| field.parse().ok());
    nanos.map(Duration::from_nanos).with_context(|| format!("{PATH}: {text:?}"))
}

/// Sums the samples of one metric, whatever their labels, in Prometheus' text form.
fn metric_of(text: &str, name: &str) -> Option<f64> {
    let value = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then_some(())?;
        rest.rsplit(' ').next()?.parse().ok()
    };
    text.lines().filter_map(value).reduce(|a, b| a + b)
}

/// Takes as many open files as the system grants this process: a loaded module holds one.
///
/// # Errors
/// When the system refuses what it said it would grant.
pub fn raise_file_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("raising the limit of open files")
}

/// How many files this process may have open.
pub fn file_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Runs `command` to its end and gives what it wrote to standard output.
///
/// # Errors
/// When it cannot be started or fails; the error holds what it wrote to standard error.
pub fn output(mut command: Command) -> anyhow::Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?} ended with {}: {told}", output.status);
    Ok(output.stdout)
}

/// A port nobody listens on at the moment.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?)
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    transport: Transport,
    /// Where it answers HTTP, if it does.
    api: Option<SocketAddr>,
    /// From its start to its first answer.
    up_after: Duration,
    /// Its configuration, data and log.
    directory: Arc<TempDir>,
}

/// How long a server may take to answer its first CONNECT: one that loads a thousand modules takes seconds.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// How long a server may take to stop by itself.
const DOWN_WITHIN: Duration = Duration::from_secs(10);

impl Server {
    /// Starts `command`, which is to listen on `address` for clients that come over `transport`, and waits until it
    /// answers a CONNECT of `version`. What it prints goes to `server.log` in `directory`.
    ///
    /// # Errors
    /// When it cannot be started or does not come up; the error holds what it printed.
    pub async fn start(
        mut command: Command,
        address: SocketAddr,
        transport: Transport,
        version: Version,
        directory: TempDir,
    ) -> anyhow::Result<Self> {
        let log_path = directory.path().join("server.log");
        let log = std::fs::File::create(&log_path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let begun = Instant::now();
        let child = command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
        let directory = Arc::new(directory);
        let mut server = Self { child, address, transport, api: None, up_after: Duration::ZERO, directory };
        if let Err(error) = load::wait_until_up(&server.transport, address, version, UP_WITHIN).await {
            let ended = server.child.try_wait()?;
            let printed = std::fs::read_to_string(&log_path).unwrap_or_default();
            return Err(error.context(format!("{command:?} (status {ended:?}) printed:\n{printed}")));
        }
        server.up_after = begun.elapsed();
        Ok(server)
    }

    /// Where it listens, how, and its process id.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.address, pid: self.child.id(), transport: self.transport.clone() }
    }

    /// The time from its start to its first answer.
    pub fn up_after(&self) -> Duration {
        self.up_after
    }

    /// Its configuration, data and log. Keep the handle to look at what it left when it has stopped.
    pub fn directory(&self) -> Arc<TempDir> {
        self.directory.clone()
    }

    /// The same server, which answers HTTP on `api`.
    #[must_use]
    pub fn with_api(mut self, api: SocketAddr) -> Self {
        self.api = Some(api);
        self
    }

    /// The sum of all samples of a metric, as `/metrics` has them now; `None` when it has none.
    ///
    /// # Errors
    /// When the server has no API or it does not answer.
    pub async fn metric(&self, name: &str) -> anyhow::Result<Option<f64>> {
        let api = self.api.context("this server has no API")?;
        let mut socket = TcpStream::connect(api).await.context("connecting to the API")?;
        socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok(metric_of(&answer, name))
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }

    /// Asks it to stop (SIGTERM), waits.
    ///
    /// # Errors
    /// When it does not stop in ten seconds; it is killed then.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM).context("asking the server to stop")?;
        let end = Instant::now() + DOWN_WITHIN;
        while self.child.try_wait()?.is_none() {
            anyhow::ensure!(
                Instant::now() < end,
                "the server did not stop in {DOWN_WITHIN:?}:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn processor_time_is_read_behind_a_command_with_parentheses() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 1 1";
        assert_eq!(parse_stat(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn samples_of_a_metric_are_summed_over_labels() {
        let text = "HTTP/1.0 200 OK\n\n# TYPE a_sum counter\na_sum{x=\"1 2\"} 3\na_sum{x=\"b\"} 4.5\na_sum_x 100\nc 7\n";
        assert_eq!(metric_of(text, "a_sum"), Some(7.5));
        assert_eq!(metric_of(text, "c"), Some(7.0));
        assert_eq!(metric_of(text, "a"), None);
    }

    #[test]
    fn our_own_processor_time_grows_with_work() {
        let before = CpuTime::of(std::process::id()).unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        let mut used = Duration::ZERO;
        while used.is_zero() && Instant::now() < end {
            std::hint::black_box((0..100_000_u64).fold(0, |a, b| a ^ std::hint::black_box(b)));
            used = CpuTime::of(std::process::id()).unwrap().since(before);
        }
        assert!(!used.is_zero());
    }
}
