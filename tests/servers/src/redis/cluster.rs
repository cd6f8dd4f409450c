//! A cluster: masters that share the slots, each with replicas if wanted.

use super::sentinel::info;
use super::{Options, Redis};
use crate::{Error, Place, Result, Server};

/// Slots of every cluster.
const SLOTS: u16 = 16_384;
/// A node is lost when it has not answered for this long; its replica takes over about as much later.
const NODE_TIMEOUT_MS: u32 = 1_500;

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its nodes: the first ones were made masters.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts `masters` (at least three) with `replicas` each and waits until all serve all slots.
    ///
    /// As under sentinels, replication is asynchronous: a write that only the master had is lost with it, unless the
    /// client asked `WAIT 1`. [`kill_replicated`](Self::kill_replicated) is how a node is lost without such a write.
    ///
    /// # Errors
    /// A node does not become ready, or they do not form a cluster.
    pub fn start(place: &Place, masters: usize, replicas: usize) -> Result<Self> {
        Self::start_as(place, masters, replicas, |options| options)
    }

    /// As [`start`](Self::start); `how` sets every node up: password, TLS, certificates.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_as(
        place: &Place,
        masters: usize,
        replicas: usize,
        how: impl Fn(Options) -> Options,
    ) -> Result<Self> {
        let nodes = (0..masters * (1 + replicas)).map(|number| {
            how(Options::new(&format!("cluster-{}", number + 1)))
                .durable()
                .line("cluster-enabled yes")
                .line("cluster-config-file nodes.conf")
                .line("cluster-announce-ip 127.0.0.1")
                .line("repl-diskless-sync-delay 0")
                .line(&format!("cluster-node-timeout {NODE_TIMEOUT_MS}"))
                .start(place)
        });
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        let addresses: Vec<String> = nodes.iter().map(|node| node.server().address()).collect();
        let replicas = replicas.to_string();
        let mut arguments = vec!["create"];
        arguments.extend(addresses.iter().map(String::as_str));
        arguments.extend(["--cluster-replicas", &replicas]);
        if let Some(node) = nodes.first() {
            node.cli().manage(&arguments)?;
        }
        let mut cluster = Self { nodes };
        cluster.wait_whole()?;
        Ok(cluster)
    }

    /// Waits until every node that runs sees all slots served, and every replica follows its master.
    ///
    /// # Errors
    /// It does not come to it.
    pub fn wait_whole(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if node.server().identity().is_none() {
                continue;
            }
            let cli = node.cli();
            node.server_mut().wait("it sees the whole cluster", |_| {
                let state = cli.lines(&["CLUSTER", "INFO"]).unwrap_or_default();
                let has = |line: &str| state.iter().any(|l| l.trim_end() == line);
                let serves = has("cluster_state:ok") && has(&format!("cluster_slots_ok:{SLOTS}"));
                let master = || info(&cli, "replication", "role:master");
                serves && (master() || info(&cli, "replication", "master_link_status:up"))
            })?;
        }
        Ok(())
    }

    /// The nodes' addresses, with commas.
    pub fn addresses(&self) -> String {
        self.nodes.iter().map(|node| node.server().address()).collect::<Vec<_>>().join(",")
    }

    /// The number of the node that serves this slot, and runs.
    ///
    /// # Errors
    /// No node says so.
    pub fn owner(&self, slot: u16) -> Result<usize> {
        let own = |node: &Redis| {
            let text = node.run(&["CLUSTER", "NODES"]).unwrap_or_default();
            let line = text.lines().find(|line| line.contains("myself")).unwrap_or_default().to_owned();
            let is_master = line.split(' ').nth(2).is_some_and(|flags| flags.contains("master"));
            is_master && line.split(' ').skip(8).any(|range| holds(range, slot))
        };
        let running = |node: &Redis| node.server().identity().is_some();
        self.nodes.iter().position(|node| running(node) && own(node)).ok_or_else(|| Error::Refused {
            command: "CLUSTER NODES".into(),
            answer: format!("no node serves slot {slot}"),
        })
    }

    /// `kill -9` of a master at a moment when its replica has everything that it has answered: it holds writes back
    /// (`CLIENT PAUSE`) until the replica is as far as itself. What is lost then was not promised by a cluster alone.
    ///
    /// # Errors
    /// There is no such node, or its replica does not follow.
    pub fn kill_replicated(&mut self, index: usize) -> Result<()> {
        let Some(node) = self.nodes.get_mut(index) else {
            return Err(Error::Refused {
                command: format!("kill node {index}"),
                answer: "there is none".into(),
            });
        };
        let cli = node.cli();
        // Longer than a replica that follows takes: it says once a second how far it is.
        cli.run(&["CLIENT", "PAUSE", "60000", "WRITE"])?;
        node.server_mut().wait("its replica has everything", |_| {
            cli.lines(&["INFO", "replication"]).is_ok_and(|lines| is_replicated(&lines))
        })?;
        node.server_mut().kill();
        Ok(())
    }

    /// Moves a slot with its keys to another node, key by key, as a rebalancing does: meanwhile clients are asked
    /// elsewhere (`ASK`), afterwards redirected (`MOVED`). Keys that hold a line end are not for this.
    ///
    /// # Errors
    /// A node refuses a step.
    pub fn move_slot(&self, slot: u16, to: usize) -> Result<()> {
        let from = self.owner(slot)?;
        let number = slot.to_string();
        let node = |index: usize| {
            self.nodes.get(index).ok_or_else(|| Error::Refused {
                command: format!("move slot {slot}"),
                answer: format!("there is no node {index}"),
            })
        };
        let (source, target) = (node(from)?, node(to)?);
        let (source_id, target_id) = (source.run(&["CLUSTER", "MYID"])?, target.run(&["CLUSTER", "MYID"])?);
        target.run(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &source_id])?;
        source.run(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &target_id])?;
        let port = target.server().port().to_string();
        loop {
            let keys = source.cli().lines(&["CLUSTER", "GETKEYSINSLOT", &number, "100"])?;
            if keys.is_empty() {
                break;
            }
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            source.run(&migrate)?;
        }
        // The target first: at no moment does nobody own the slot. The others hear of it from these two.
        for redis in [target, source] {
            redis.run(&["CLUSTER", "SETSLOT", &number, "NODE", &target_id])?;
        }
        Ok(())
    }

    /// Only the processes.
    pub fn into_servers(self) -> Vec<Server> {
        self.nodes.into_iter().map(Redis::into_server).collect()
    }
}

/// Whether `17` or `0-5460` holds the slot; `[93->-...]`, a slot on its way, does not.
fn holds(range: &str, slot: u16) -> bool {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
}

/// Whether `INFO replication` of a master says that its first replica is as far as itself.
fn is_replicated(info: &[String]) -> bool {
    let field = |name: &str| info.iter().find_map(|line| line.trim_end().strip_prefix(name));
    let reached =
        field("slave0:").and_then(|replica| replica.split(',').find_map(|part| part.strip_prefix("offset=")));
    reached.is_some() && reached == field("master_repl_offset:")
}

#[cfg(test)]
mod tests {
    use super::{holds, is_replicated};

    #[test]
    fn offsets_of_replication_are_compared() {
        let info = |reached: u32| {
            let replica = format!("slave0:ip=127.0.0.1,port=1,state=online,offset={reached},lag=0\r");
            ["role:master\r".to_owned(), replica, "master_repl_offset:42\r".into()]
        };
        assert!(is_replicated(&info(42)) && !is_replicated(&info(41)));
        assert!(!is_replicated(&["master_repl_offset:42".into()]), "there is no replica");
    }

    #[test]
    fn ranges_of_slots_are_read() {
        assert!(holds("0-5460", 5460) && holds("17", 17));
        assert!(!holds("0-5460", 5461) && !holds("[93->-abc]", 93) && !holds("", 0));
    }
}
