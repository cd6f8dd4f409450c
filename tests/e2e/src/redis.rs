//! Redis as the runtime uses it: the printed configuration, pointed at a server, and what `redis-cli` shows there.

use std::collections::BTreeSet;

use parking_lot::{Condvar, Mutex};
use tidegate_servers::kind;
use tidegate_servers::redis::{Cli, MASTER, PASSWORD};

use crate::wait::{PATIENCE, until};

/// `emqx_backend_redis.conf` as document 003 prints it.
pub const PRINTED: &str = include_str!("../../../runtime/store/tests/data/emqx_backend_redis.conf");

/// A Redis, of whatever form: where its keys are, and the lines that lead the runtime to it.
pub struct Redis {
    /// One for a server, one for each node of a cluster.
    nodes: Vec<Cli>,
    /// Whether keys are spread over the nodes.
    is_cluster: bool,
    /// Lines of a pool, `type`, `server`, ..: they stand for the printed ones of the same name.
    pool: Vec<(&'static str, String)>,
    /// Of the shared server.
    _database: Option<Database>,
}

/// The databases of a shared server that tests have now: its port, and the number.
static TAKEN: (Mutex<BTreeSet<(u16, u8)>>, Condvar) =
    (parking_lot::const_mutex(BTreeSet::new()), Condvar::new());

/// A database of a shared server that no other test has while this value lives.
struct Database {
    port: u16,
    number: u8,
}

impl Database {
    /// Waits until one is free: a server has 15 besides that of whoever looks at it by hand.
    fn take(port: u16) -> Self {
        let mut taken = TAKEN.0.lock();
        let free = |taken: &BTreeSet<(u16, u8)>| (1..16).find(|number| !taken.contains(&(port, *number)));
        TAKEN.1.wait_while_for(&mut taken, |taken| free(taken).is_none(), PATIENCE * 4);
        let number = free(&taken).expect("a test that has a database of the shared server ends");
        taken.insert((port, number));
        Self { port, number }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        TAKEN.0.lock().remove(&(self.port, self.number));
        TAKEN.1.notify_one();
    }
}

impl Redis {
    /// A server that the test has started.
    pub fn at(cli: Cli, address: &str) -> Self {
        Self { nodes: vec![cli], is_cluster: false, pool: vec![("server", address.into())], _database: None }
    }

    /// A database of its own on the shared server.
    pub fn single() -> Self {
        let address = shared("TIDEGATE_REDIS");
        Self::at(Cli::at(&address, None).unwrap(), &address).in_its_own_database()
    }

    /// The same on the shared server with a password.
    pub fn with_password() -> Self {
        let address = shared("TIDEGATE_REDIS_AUTH");
        let redis = Self::at(Cli::at(&address, Some(PASSWORD)).unwrap(), &address);
        redis.option("password", PASSWORD).in_its_own_database()
    }

    /// The same on the shared master behind sentinels.
    pub fn sentinel() -> Self {
        let addresses = shared("TIDEGATE_REDIS_SENTINEL");
        let sentinel = Cli::at(addresses.split(',').next().unwrap_or_default(), None).unwrap();
        let master = sentinel.lines(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).unwrap().join(":");
        let redis = Self::at(Cli::at(&master, None).unwrap(), &addresses);
        redis.option("type", "sentinel").option("sentinel", MASTER).in_its_own_database()
    }

    /// The shared cluster, emptied: one test at a time.
    pub fn cluster() -> Self {
        let addresses = shared("TIDEGATE_REDIS_CLUSTER");
        let nodes = addresses.split(',').map(|address| Cli::at(address, None).unwrap());
        let redis = Self::cluster_of(nodes.collect(), &addresses);
        redis.empty();
        redis
    }

    /// A cluster that the test has started.
    pub fn cluster_of(nodes: Vec<Cli>, addresses: &str) -> Self {
        let pool = vec![("type", "cluster".into()), ("server", addresses.into())];
        Self { nodes, is_cluster: true, pool, _database: None }
    }

    /// Sets an option of the pool.
    #[must_use]
    pub fn option(mut self, name: &'static str, value: &str) -> Self {
        self.pool.retain(|(own, _)| *own != name);
        self.pool.push((name, value.into()));
        self
    }

    /// Tests run side by side: each has one, emptied, until it ends.
    fn in_its_own_database(mut self) -> Self {
        let database = Database::take(self.nodes.first().expect("there is a node").port());
        self.nodes = self.nodes.into_iter().map(|cli| cli.database(database.number)).collect();
        let redis = self.option("database", &database.number.to_string());
        let redis = Self { _database: Some(database), ..redis };
        redis.empty();
        redis
    }

    /// Removes every key.
    pub fn empty(&self) {
        for node in &self.nodes {
            // A replica takes no writes; its master's are its own.
            let role = node.lines(&["ROLE"]).unwrap();
            if role.first().is_some_and(|role| role == "master") {
                node.run(&["FLUSHDB"]).unwrap();
            }
        }
    }

    /// Whether it is a cluster.
    pub fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// The printed file with this pool, then `more` lines.
    pub fn printed(&self, more: &str) -> String {
        self.pointed(PRINTED) + more
    }

    /// The pool and only these hook lines.
    pub fn only(&self, hooks: &str) -> String {
        let printed = PRINTED.lines().filter(|line| !line.starts_with("backend.redis.hook."));
        self.pointed(&(printed.collect::<Vec<_>>().join("\n") + "\n")) + hooks
    }

    /// Options of the pool that are ours are taken out of the text and put in front; the rest stays word for word.
    fn pointed(&self, text: &str) -> String {
        let key = |name: &str| format!("backend.redis.pool1.{name} ");
        let is_ours = |line: &&str| {
            let channel_on_cluster = self.is_cluster && line.starts_with(&key("channel"));
            channel_on_cluster || self.pool.iter().any(|(name, _)| line.starts_with(&key(name)))
        };
        let mut lines: Vec<String> =
            self.pool.iter().map(|(name, value)| format!("{}= {value}", key(name))).collect();
        lines.extend(text.lines().filter(|line| !is_ours(line)).map(str::to_owned));
        lines.join("\n") + "\n"
    }

    /// The lines of `redis-cli`'s answer.
    pub fn lines(&self, arguments: &[&str]) -> Vec<String> {
        self.cli().lines(arguments).unwrap()
    }

    /// `redis-cli`'s answer.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.cli().run(arguments).unwrap()
    }

    fn cli(&self) -> Cli {
        let cli = self.nodes.first().expect("there is a node").clone();
        if self.is_cluster { cli.follow() } else { cli }
    }

    /// `HGETALL`: fields and values, as they lie there.
    pub fn hash(&self, key: &str) -> Vec<(String, String)> {
        let lines = self.lines(&["HGETALL", key]);
        lines.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned().unwrap_or_default())).collect()
    }

    /// Waits until `HGETALL key` gives what `is` holds for, and gives it.
    pub fn wait_hash(&self, key: &str, is: impl Fn(&[(String, String)]) -> bool) -> Vec<(String, String)> {
        until(&format!("the hash {key} is as expected"), || Some(self.hash(key)).filter(|hash| is(hash)))
    }

    /// Waits until a command's answer is `expected`.
    pub fn wait(&self, arguments: &[&str], expected: &str) {
        until(&format!("{arguments:?} answers {expected:?}"), || {
            (self.cli().run(arguments).is_ok_and(|answer| answer == expected)).then_some(())
        });
    }

    /// The ids of a topic's stored messages.
    pub fn ids(&self, topic: &str) -> Vec<String> {
        self.lines(&["ZRANGE", &format!("mqtt:msg:{topic}"), "0", "-1"])
    }

    /// Every key, sorted.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> =
            self.nodes.iter().flat_map(|node| node.lines(&["KEYS", "*"]).unwrap()).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// The payload, up to its first space, of every message whose id is in its topic's sorted set: what is stored, and
    /// can be fetched.
    /// Nodes that do not answer are left out.
    pub fn payloads(&self, topics: &[String]) -> Vec<String> {
        // Two passes, as a message and its topic may lie on different nodes of a cluster.
        const ALL: &str = "local out, cursor = {}, '0' \
            repeat \
              local page = redis.call('SCAN', cursor, 'MATCH', 'mqtt:msg:*', 'COUNT', 1000, 'TYPE', 'hash') \
              cursor = page[1] \
              for _, key in ipairs(page[2]) do \
                out[#out + 1] = redis.call('HGET', key, 'id') \
                out[#out + 1] = string.match(redis.call('HGET', key, 'payload'), '^[^ ]*') \
              end \
            until cursor == '0' \
            return out";
        let mut by_id = std::collections::HashMap::new();
        for node in &self.nodes {
            let lines = node.lines(&["EVAL", ALL, "0"]).unwrap_or_default();
            by_id.extend(
                lines.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned().unwrap_or_default())),
            );
        }
        topics.iter().flat_map(|topic| self.ids(topic)).filter_map(|id| by_id.get(&id).cloned()).collect()
    }
}

/// The value of a variable that `cargo xtask test` sets.
fn shared(variable: &str) -> String {
    kind::address(variable).unwrap_or_else(|error| panic!("{error}"))
}
