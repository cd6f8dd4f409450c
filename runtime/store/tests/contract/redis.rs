//! Redis as a back end of the suite: one server, one with a password, a master with sentinels, a cluster.
//!
//! What is in the database is looked at with `redis-cli`. Servers are shared, so every bench has names of its own.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tidegate_event::{BoxFuture, now_ms};
use tokio::io::AsyncWriteExt as _;

use crate::fixture::{self, Ability, Bench, Look, State, Stored};

/// A way in which servers stand together.
pub(crate) enum Factory {
    Single,
    Auth,
    Sentinel,
    Cluster,
}

/// The addresses in an environment variable.
fn servers(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: start servers with `cargo xtask servers start redis`")
    })
}

impl Factory {
    /// How `redis-cli` reaches a server that takes writes.
    async fn cli(&self) -> Vec<String> {
        let (address, more): (String, &[&str]) = match self {
            Self::Single => (servers("TIDEGATE_REDIS"), &[]),
            Self::Auth => (servers("TIDEGATE_REDIS_AUTH"), &["--no-auth-warning", "-a", "public"]),
            Self::Cluster => (servers("TIDEGATE_REDIS_CLUSTER"), &["-c"]),
            Self::Sentinel => {
                let sentinel = reach(first(&servers("TIDEGATE_REDIS_SENTINEL")));
                let question = ["sentinel", "get-master-addr-by-name", "mymaster"].map(str::to_owned);
                let master = run(&sentinel, &[question.to_vec()]).await.remove(0);
                let part = |at: usize| master[at].as_str().expect("an address").to_owned();
                (format!("{}:{}", part(0), part(1)), &[])
            }
        };
        let mut arguments = reach(first(&address));
        arguments.extend(more.iter().map(|more| (*more).to_owned()));
        arguments
    }
}

fn first(list: &str) -> &str {
    list.split(',').next().expect("an address")
}

fn reach(address: &str) -> Vec<String> {
    let (host, port) = address.split_once(':').expect("host:port");
    ["-h", host, "-p", port].map(str::to_owned).to_vec()
}

/// A word as `redis-cli` reads it from its input.
fn quoted(word: &str) -> String {
    let escaped: String = word.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("\"{escaped}\"")
}

/// Runs commands with `redis-cli`; the replies as JSON.
async fn run(reach: &[String], commands: &[Vec<String>]) -> Vec<Value> {
    let mut child = tokio::process::Command::new("redis-cli")
        .args(reach)
        .arg("--json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli, which is in the package redis-tools");
    let lines: String = commands
        .iter()
        .map(|words| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ") + "\n")
        .collect();
    let mut input = child.stdin.take().expect("stdin");
    let write = async move {
        input.write_all(lines.as_bytes()).await.expect("commands");
        drop(input);
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), write);
    let output = output.expect("redis-cli").stdout;
    let output = String::from_utf8_lossy(&output); // it does not escape what is no text
    let replies: Vec<Value> = output
        .lines()
        .filter(|line| !line.starts_with("->") && !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("redis-cli said: {line}")))
        .collect();
    assert_eq!(replies.len(), commands.len(), "{output}");
    replies
}

static SPACES: AtomicU64 = AtomicU64::new(0);

impl fixture::Factory for Factory {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn pool(&self, _dir: &Path) -> String {
        let options = match self {
            Self::Single => vec![("server", servers("TIDEGATE_REDIS"))],
            Self::Auth => vec![("server", servers("TIDEGATE_REDIS_AUTH")), ("password", "public".to_owned())],
            Self::Sentinel => vec![
                ("type", "sentinel".to_owned()),
                ("server", servers("TIDEGATE_REDIS_SENTINEL")),
                ("sentinel", "mymaster".to_owned()),
            ],
            Self::Cluster => {
                vec![("type", "cluster".to_owned()), ("server", servers("TIDEGATE_REDIS_CLUSTER"))]
            }
        };
        options.iter().map(|(name, value)| format!("backend.redis.pool1.{name} = {value}\n")).collect()
    }

    fn space(&self) -> String {
        // Other runs may have left theirs on the server.
        format!("s{:x}x{:x}x{}", now_ms(), std::process::id(), SPACES.fetch_add(1, Ordering::Relaxed))
    }

    fn lacks(&self, ability: Ability) -> bool {
        match ability {
            Ability::Scripts => matches!(self, Self::Cluster),
            _ => matches!(ability, Ability::Sql | Ability::Wildcards | Ability::RowPositions),
        }
    }

    fn look<'a>(&'a self, bench: &'a Bench) -> Box<dyn Look + 'a> {
        Box::new(Keys(self, bench))
    }
}

/// The keys.
struct Keys<'a>(&'a Factory, &'a Bench);

impl Keys<'_> {
    async fn run(&self, commands: &[Vec<String>]) -> Vec<Value> {
        run(&self.0.cli().await, commands).await
    }

    async fn one(&self, words: &[&str]) -> Value {
        self.run(&[words.iter().map(|word| (*word).to_owned()).collect()]).await.remove(0)
    }
}

fn stored(hash: &Value) -> Option<Stored> {
    let hash = hash.as_object().expect("a hash");
    if hash.is_empty() {
        return None;
    }
    assert_eq!(hash.len(), 7, "exactly the printed fields: {hash:?}");
    let field = |name: &str| hash[name].as_str().expect("a text").to_owned();
    let retain = field("retain");
    assert!(["true", "false"].contains(&&*retain), "{retain}");
    Some(Stored {
        id: field("id"),
        topic: field("topic"),
        sender: field("from"),
        qos: field("qos"),
        retain: retain == "true",
        payload: field("payload"),
        time: field("ts"),
    })
}

fn command<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

impl Look for Keys<'_> {
    fn messages<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Vec<Stored>> {
        Box::pin(async move {
            let ids = self.one(&["zrangebylex", &format!("mqtt:msg:{topic}"), "-", "+"]).await;
            let mut found = Vec::new();
            for id in ids.as_array().expect("a list") {
                let key = format!("mqtt:msg:{}", id.as_str().expect("an id"));
                found.extend(stored(&self.one(&["hgetall", &key]).await));
            }
            found
        })
    }

    fn retained<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Option<Stored>> {
        Box::pin(async move { stored(&self.one(&["hgetall", &format!("mqtt:retain:{topic}")]).await) })
    }

    fn position<'a>(&'a self, client: &'a str, topic: &'a str) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move {
            let position = self.one(&["get", &format!("mqtt:acked:{client}:{topic}")]).await;
            position.as_str().map(str::to_owned)
        })
    }

    fn state<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Option<State>> {
        Box::pin(async move {
            let hash = self.one(&["hgetall", &format!("mqtt:client:{client}")]).await;
            let hash = hash.as_object().expect("a hash");
            if hash.is_empty() {
                return None;
            }
            assert_eq!(hash.len(), 3, "exactly the printed fields: {hash:?}");
            let time = |name: &str| {
                let text = hash[name].as_str().expect("a text");
                assert!(text == "undefined" || text.parse::<u64>().is_ok(), "{name}: {text}");
                (text != "undefined").then(|| text.to_owned())
            };
            let node = self.one(&["hget", &format!("mqtt:node:{}", self.1.node.name()), client]).await;
            let state = hash["state"].as_str().expect("a text").to_owned();
            // The node lists who is online.
            assert_eq!(node.is_null(), state == "0", "{node}");
            Some(State { state, node: true, online_at: time("online_at"), offline_at: time("offline_at") })
        })
    }

    fn subscriptions<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Vec<(String, String)>> {
        Box::pin(async move {
            let hash = self.one(&["hgetall", &format!("mqtt:sub:{client}")]).await;
            let fields = hash.as_object().expect("a hash").iter();
            let mut rows: Vec<_> = fields
                .map(|(filter, qos)| (filter.clone(), qos.as_str().expect("a text").to_owned()))
                .collect();
            rows.sort();
            rows
        })
    }

    fn put_subscription<'a>(&'a self, client: &'a str, filter: &'a str, qos: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.one(&["hset", &format!("mqtt:sub:{client}"), filter, qos]).await;
        })
    }

    fn put_messages<'a>(&'a self, messages: &'a [Stored]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut commands = Vec::new();
            for m in messages {
                let (key, retain) = (format!("mqtt:msg:{}", m.id), u8::from(m.retain).to_string());
                let mut hash = command(["hset", &key, "id", &m.id, "from", &m.sender, "qos", &m.qos]);
                hash.extend(command([
                    "topic", &m.topic, "retain", &retain, "payload", &m.payload, "ts", &m.time,
                ]));
                commands.push(hash);
                commands.push(command(["zadd", &format!("mqtt:msg:{}", m.topic), "1", &m.id]));
            }
            self.run(&commands).await;
        })
    }

    fn delete_message<'a>(&'a self, topic: &'a str, id: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.one(&["del", &format!("mqtt:msg:{id}")]).await;
            self.one(&["zrem", &format!("mqtt:msg:{topic}"), id]).await;
        })
    }

    fn spoil_message<'a>(&'a self, _topic: &'a str, id: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.one(&["hset", &format!("mqtt:msg:{id}"), "qos", "3"]).await;
        })
    }
}
