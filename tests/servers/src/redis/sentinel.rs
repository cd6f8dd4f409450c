//! One master, one replica or more, three sentinels that promote a replica when the master is lost.

use super::{Options, Redis};
use crate::{Place, Result, Server};

/// What sentinels call the master.
pub const MASTER: &str = "mymaster";
/// A master is lost when it has not answered for this long; a fail-over takes about twice as long.
const DOWN_AFTER_MS: u32 = 1_500;

/// Servers, called by their first roles, and their sentinels.
#[derive(Debug)]
pub struct Sentinels {
    /// The master at the start.
    pub master: Redis,
    /// The replica at the start.
    pub replica: Redis,
    /// Further replicas at the start.
    pub others: Vec<Redis>,
    /// The sentinels.
    pub sentinels: Vec<Redis>,
}

impl Sentinels {
    /// Starts all, with one replica, and waits until every sentinel knows it and its fellows.
    ///
    /// A write is refused (`NOREPLICAS`) while no replica is connected: a master that was cut off, or one that comes
    /// back after its replica was promoted, takes nothing that would then be lost. Replication itself is not waited
    /// for: whoever must not lose a write that the master alone has answered asks `WAIT 1`.
    ///
    /// # Errors
    /// A server does not become ready, or they do not find each other.
    pub fn start(place: &Place) -> Result<Self> {
        Self::set_up(place, 1, |options| options)
    }

    /// As [`start`](Self::start); `how` sets every server up, and every sentinel: password, TLS, certificates.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_as(place: &Place, how: impl Fn(Options) -> Options) -> Result<Self> {
        Self::set_up(place, 1, how)
    }

    /// As [`start`](Self::start), with `replicas` of them, at least one. With two, a master that is lost for good is
    /// replaced by one that takes writes, as it has a replica itself. The sentinels promote the one that has most of
    /// what the master answered: of a write that one replica has (`WAIT 1`) nothing is lost.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn with_replicas(place: &Place, replicas: usize) -> Result<Self> {
        Self::set_up(place, replicas, |options| options)
    }

    fn set_up(place: &Place, replicas: usize, how: impl Fn(Options) -> Options) -> Result<Self> {
        let data = |name: &str| {
            let options = how(Options::new(name)).durable().line("replica-announce-ip 127.0.0.1");
            options
                .line("repl-diskless-sync-delay 0")
                .line("min-replicas-to-write 1")
                .line("min-replicas-max-lag 10")
        };
        let master = data("sentinel-master").start(place)?;
        let port = master.server().port();
        let follower = |name: &str| -> Result<Redis> {
            let mut replica = data(name).line(&format!("replicaof 127.0.0.1 {port}")).start(place)?;
            let cli = replica.cli();
            let follows = || info(&cli, "replication", "master_link_status:up");
            replica.server_mut().wait("it follows its master", |_| follows())?;
            Ok(replica)
        };
        let replica = follower("sentinel-replica")?;
        let others = (2..=replicas).map(|number| follower(&format!("sentinel-replica-{number}")));
        let others = others.collect::<Result<Vec<_>>>()?;
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
        let known = (1 + others.len()).to_string();
        let mut all = Self { master, replica, others, sentinels };
        for sentinel in &mut all.sentinels {
            let cli = sentinel.cli();
            sentinel.server_mut().wait("it knows the replicas and the other sentinels", |_| {
                let state = cli.lines(&["SENTINEL", "MASTER", MASTER]).unwrap_or_default();
                let has = |name: &str, value: &str| state.windows(2).any(|pair| pair == [name, value]);
                has("num-slaves", &known) && has("num-other-sentinels", "2")
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

    /// Waits until a replica is master: the sentinels say so, and it takes it so.
    ///
    /// # Errors
    /// It does not come to it.
    pub fn wait_promoted(&mut self) -> Result<()> {
        let lost = self.master.server().address();
        let mut promoted = String::new();
        for sentinel in &mut self.sentinels {
            let cli = sentinel.cli();
            let named = std::cell::RefCell::new(String::new());
            sentinel.server_mut().wait("it calls a replica master", |_| {
                let answer = cli.lines(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
                *named.borrow_mut() = answer.unwrap_or_default().join(":");
                let named = named.borrow();
                !named.is_empty() && *named != lost
            })?;
            promoted = named.into_inner();
        }
        let replicas = std::iter::once(&mut self.replica).chain(&mut self.others);
        for replica in replicas.filter(|replica| replica.server().address() == promoted) {
            let cli = replica.cli();
            let is_master = || info(&cli, "replication", "role:master");
            replica.server_mut().wait("it is promoted", |_| is_master())?;
        }
        Ok(())
    }

    /// Only the processes.
    pub fn into_servers(self) -> Vec<Server> {
        let data = [self.master, self.replica].into_iter().chain(self.others);
        data.chain(self.sentinels).map(Redis::into_server).collect()
    }
}

/// Whether `INFO section` has this line.
pub(super) fn info(cli: &super::Cli, section: &str, line: &str) -> bool {
    cli.lines(&["INFO", section]).is_ok_and(|lines| lines.iter().any(|l| l.trim_end() == line))
}
