//! One master, one replica, three sentinels that promote the replica when the master is lost.

use super::{Options, Redis};
use crate::{Place, Result, Server};

/// What sentinels call the master.
pub const MASTER: &str = "mymaster";
/// A master is lost when it has not answered for this long; a fail-over takes about twice as long.
const DOWN_AFTER_MS: u32 = 1_500;

/// Two servers, called by their first roles, and their sentinels.
#[derive(Debug)]
pub struct Sentinels {
    /// The master at the start.
    pub master: Redis,
    /// The replica at the start.
    pub replica: Redis,
    /// The sentinels.
    pub sentinels: Vec<Redis>,
}

impl Sentinels {
    /// Starts all and waits until every sentinel knows the replica and its fellows.
    ///
    /// A write is refused (`NOREPLICAS`) while no replica is connected: a master that was cut off, or one that comes
    /// back after its replica was promoted, takes nothing that would then be lost. Replication itself is not waited
    /// for: whoever must not lose a write that the master alone has answered asks `WAIT 1`.
    ///
    /// # Errors
    /// A server does not become ready, or they do not find each other.
    pub fn start(place: &Place) -> Result<Self> {
        Self::start_as(place, |options| options)
    }

    /// As [`start`](Self::start); `how` sets every server up, and every sentinel: password, TLS, certificates.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_as(place: &Place, how: impl Fn(Options) -> Options) -> Result<Self> {
        let data = |name: &str| {
            let options = how(Options::new(name)).durable().line("replica-announce-ip 127.0.0.1");
            options
                .line("repl-diskless-sync-delay 0")
                .line("min-replicas-to-write 1")
                .line("min-replicas-max-lag 10")
        };
        let master = data("sentinel-master").start(place)?;
        let port = master.server().port();
        let mut replica =
            data("sentinel-replica").line(&format!("replicaof 127.0.0.1 {port}")).start(place)?;
        let cli = replica.cli();
        replica
            .server_mut()
            .wait("it follows its master", |_| info(&cli, "replication", "master_link_status:up"))?;
        let sentinels = ["sentinel-a", "sentinel-b", "sentinel-c"].map(|name| {
            let options = how(Options::new(name))
                .line("sentinel announce-ip 127.0.0.1")
                .line(&format!("sentinel monitor {MASTER} 127.0.0.1 {port} 2"))
                .line(&format!("sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}"))
                .line(&format!("sentinel failover-timeout {MASTER} {}", DOWN_AFTER_MS * 4))
                .line(&format!("sentinel parallel-syncs {MASTER} 1"));
            let options = match options.password.clone() {
                Some(password) => options
                    .line(&format!("sentinel auth-pass {MASTER} {password}"))
                    .line(&format!("sentinel sentinel-pass {password}")),
                None => options,
            };
            options.argument(super::SENTINEL).start(place)
        });
        let sentinels = sentinels.into_iter().collect::<Result<Vec<_>>>()?;
        let mut all = Self { master, replica, sentinels };
        for sentinel in &mut all.sentinels {
            let cli = sentinel.cli();
            sentinel.server_mut().wait("it knows the replica and the other sentinels", |_| {
                let state = cli.lines(&["SENTINEL", "MASTER", MASTER]).unwrap_or_default();
                let has = |name: &str, value: &str| state.windows(2).any(|pair| pair == [name, value]);
                has("num-slaves", "1") && has("num-other-sentinels", "2")
            })?;
        }
        Ok(all)
    }

    /// The sentinels' addresses, with commas.
    pub fn addresses(&self) -> String {
        self.sentinels.iter().map(|sentinel| sentinel.server().address()).collect::<Vec<_>>().join(",")
    }

    /// The address of the server that the sentinels call master now.
    ///
    /// # Errors
    /// The first sentinel does not answer.
    pub fn current(&self) -> Result<String> {
        let Some(sentinel) = self.sentinels.first() else { return Ok(String::new()) };
        Ok(sentinel.cli().lines(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER])?.join(":"))
    }

    /// Waits until the replica is master: the sentinels say so, and it takes it so.
    ///
    /// # Errors
    /// It does not come to it.
    pub fn wait_promoted(&mut self) -> Result<()> {
        let (cli, address) = (self.replica.cli(), self.replica.server().address());
        self.replica.server_mut().wait("it is promoted", |_| info(&cli, "replication", "role:master"))?;
        for sentinel in &mut self.sentinels {
            let cli = sentinel.cli();
            sentinel.server_mut().wait("it calls the replica master", |_| {
                let answer = cli.lines(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
                answer.is_ok_and(|lines| lines.join(":") == address)
            })?;
        }
        Ok(())
    }

    /// Only the processes.
    pub fn into_servers(self) -> Vec<Server> {
        [self.master, self.replica].into_iter().chain(self.sentinels).map(Redis::into_server).collect()
    }
}

/// Whether `INFO section` has this line.
pub(super) fn info(cli: &super::Cli, section: &str, line: &str) -> bool {
    cli.lines(&["INFO", section]).is_ok_and(|lines| lines.iter().any(|l| l.trim_end() == line))
}
