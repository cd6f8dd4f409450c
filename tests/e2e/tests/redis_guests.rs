//! Modules send commands of their own to a real Redis, and `redis-cli` says what came of it.
//!
//! The guest is `guests/probe`, which runs the lines of a payload and puts the replies in their place.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::redis::Redis;
use tidegate_e2e::wire::{self, Connect, Wire, kind};
use tidegate_e2e::{Server, until};
use tidegate_servers::Place;

const PROBE: &str = "module=\"probe\"";
/// The default of `limits.storage_ops`.
const STORAGE_OPS: usize = 100;

fn server_with(redis: &Redis, manifest: &str) -> Server {
    let builder = Server::builder().file("conf.d/redis.conf", redis.only(""));
    builder.module("probe", &format!("hooks = {{ \"message.publish\" = [\"cmd/#\"] }}\n{manifest}")).start()
}

fn server(redis: &Redis) -> Server {
    server_with(redis, "")
}

/// A client that has the guest run commands.
struct Asker(Paho);

impl Asker {
    fn of(server: &Server) -> Self {
        let mut client = Paho::connect(server.port, &Options::new(5, "asker"));
        client.subscribe("cmd/redis/#", 1);
        Self(client)
    }

    fn ask(&mut self, commands: &str) -> String {
        let code = self.0.publish("cmd/redis/x", commands, 1);
        assert!(code < 0x80, "{commands}: {code:#x}");
        self.0.receive().payload
    }

    fn expect(&mut self, pairs: &[(&str, &str)]) {
        for (commands, replies) in pairs {
            assert_eq!(self.ask(commands), *replies, "{commands}");
        }
    }
}

/// What holds wherever the keys are.
fn everywhere(redis: &Redis) {
    let server = server(redis);
    let mut asker = Asker::of(&server);
    asker.expect(&[
        ("SET k v", "status OK"),
        ("GET k", "bytes v"),
        ("GET none", "nil"),
        ("INCR n", "integer 1"),
        ("INCRBYFLOAT f 0.5", "bytes 0.5"),
        ("HSET h a 1 b 2", "integer 2"),
        ("HGETALL h", "[bytes a, bytes 1, bytes b, bytes 2]"),
        ("XADD s 1-1 f v", "bytes 1-1"),
        ("XRANGE s - +", "[[bytes 1-1, [bytes f, bytes v]]]"),
        ("LRANGE none 0 -1", "[]"),
        ("MGET k none", "[bytes v, nil]"),
        ("INCR k", "failed: value is not an integer or out of range (ERR)"),
        (
            "RPUSH l x y\nINCR k\nLRANGE l 0 -1",
            "integer 2\nerror ERR value is not an integer or out of range retryable=false\n[bytes x, bytes y]",
        ),
        // Every one of them is on its own key, and those on one key are in order.
        ("INCR a\nINCR b\nINCR c\nINCR a\nINCR b\nGET a", "integer 1\ninteger 1\ninteger 1\ninteger 2\ninteger 2\nbytes 2"),
    ]);
    let refused = asker.ask("LPUSH k x");
    assert!(refused.starts_with("failed: ") && refused.ends_with("(WRONGTYPE)"), "{refused}");
    let refused = asker.ask("NOSUCHCOMMAND k");
    assert!(refused.starts_with("failed: unknown command"), "{refused}");
    // Bytes are bytes, both ways.
    let (mut wire, _) = Wire::connect(server.port, &Connect::new(5, "binary"));
    wire.send(&wire::publish(5, "cmd/redis/x", b"SET \x00\xff\r \xfe\x00'\"", 1, 1));
    assert!(wire.expect(kind::PUBACK).reason() < 0x80);
    assert_eq!(asker.0.receive().payload, "status OK");
    wire.send(&wire::publish(5, "cmd/redis/x", b"GET \x00\xff\r", 1, 2));
    assert!(wire.expect(kind::PUBACK).reason() < 0x80);
    assert_eq!(asker.0.receive().payload, r#"bytes \xfe\x00\'\""#);

    assert_eq!(redis.run(&["GET", "k"]), "v");
    assert_eq!(redis.run(&["GET", "n"]), "1");
    assert_eq!(redis.hash("h"), [("a".into(), "1".into()), ("b".into(), "2".into())]);
    assert_eq!(redis.lines(&["LRANGE", "l", "0", "-1"]), ["x", "y"]);
    assert_eq!(["a", "b", "c"].map(|key| redis.run(&["GET", key])), ["2", "2", "1"]);
    server.assert_no_panic();
}

#[test]
fn commands_and_pipelines_reach_the_server_and_replies_keep_their_types() {
    everywhere(&Redis::single());
    everywhere(&Redis::with_password());
    everywhere(&Redis::sentinel());
}

#[test]
fn on_a_cluster_each_command_goes_to_the_node_of_its_key() {
    let redis = Redis::cluster();
    everywhere(&redis);
    redis.empty();
    let server = server(&redis);
    let mut asker = Asker::of(&server);
    // Keys of three nodes in one call; a command between them sees what was before it.
    let sets: Vec<String> = (0..30).map(|n| format!("SET key/{n} {n}")).collect();
    let keys: Vec<String> = (0..30).map(|n| format!("key/{n}")).collect();
    let replies = asker.ask(&format!("{}\nEXISTS {}\nDEL key/0", sets.join("\n"), keys.join(" ")));
    let replies: Vec<_> = replies.lines().collect();
    assert_eq!((replies.len(), &replies[29..]), (32, &["status OK", "integer 30", "integer 1"][..]));
    assert_eq!(redis.keys().len(), 29);
    let refused = asker.ask("RENAME key/1 key/2");
    assert!(refused.starts_with("failed: ") && refused.contains("CROSSSLOT"), "{refused}");
    for name in ["EVAL", "SCAN"] {
        let refused = asker.ask(&format!("SET before 1\n{name} 0 0"));
        assert!(refused.starts_with("invalid-argument: ") && refused.contains(name), "{refused}");
    }
    assert_eq!(redis.run(&["EXISTS", "before"]), "0", "nothing of the call was sent");
}

#[test]
fn a_script_changes_several_keys_at_one_time() {
    let redis = Redis::single();
    let server = server(&redis);
    let mut asker = Asker::of(&server);
    // Words are separated by single spaces here, so the script has none.
    let script = "local\tn=redis.call('INCR',KEYS[1])redis.call('SADD',KEYS[2],n)return{n,{'x',false}}";
    asker.expect(&[
        (&format!("EVAL {script} 2 n seen"), "[integer 1, [bytes x, nil]]"),
        (&format!("EVAL {script} 2 n seen"), "[integer 2, [bytes x, nil]]"),
        ("SMEMBERS seen", "[bytes 1, bytes 2]"),
    ]);
    let unknown = asker.ask(&format!("EVALSHA {} 0\nSET after 1", "a".repeat(40)));
    assert!(
        unknown.starts_with("error NOSCRIPT ") && unknown.ends_with("retryable=false\nstatus OK"),
        "{unknown}"
    );
}

#[test]
fn what_would_break_the_connection_of_others_is_refused_by_name() {
    let place = Place::temporary().unwrap();
    let own = tidegate_servers::redis::Options::new("own").start(&place).unwrap();
    let redis = Redis::at(own.cli(), &own.server().address());
    let server = server(&redis);
    let mut asker = Asker::of(&server);
    let connections = || {
        let lines = redis.lines(&["INFO", "clients"]);
        lines.into_iter().find(|line| line.starts_with("connected_clients:")).unwrap()
    };
    // Every connection of the pool is open.
    for _ in 0..20 {
        assert_eq!(asker.ask("SET k v"), "status OK");
    }
    let before = connections();
    for command in [
        "SUBSCRIBE a",
        "psubscribe a*",
        "SSUBSCRIBE a",
        "UNSUBSCRIBE",
        "MONITOR",
        "BLPOP k 0",
        "BRPOP k 0",
        "BLMOVE k l LEFT LEFT 0",
        "BRPOPLPUSH k l 0",
        "BLMPOP 0 1 k LEFT",
        "BZPOPMIN k 0",
        "BZPOPMAX k 0",
        "BZMPOP 0 1 k MIN",
        "XREAD BLOCK 0 STREAMS s $",
        "XREADGROUP GROUP g c block 0 STREAMS s >",
        "WAIT 1 0",
        "WAITAOF 1 0 0",
        "MULTI",
        "EXEC",
        "DISCARD",
        "WATCH k",
        "UNWATCH",
        "SELECT 1",
        "AUTH x",
        "HELLO 3",
        "CLIENT REPLY OFF",
        "CLIENT PAUSE 10000",
        "CLIENT KILL TYPE normal",
        "QUIT",
        "RESET",
        "SHUTDOWN NOSAVE",
        "CONFIG SET requirepass x",
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "SWAPDB 0 1",
        "DEBUG SLEEP 10",
        "REPLICAOF NO ONE",
        "SCRIPT FLUSH",
        "FUNCTION FLUSH",
        "ACL SETUSER x",
        "CLUSTER RESET",
        "FAILOVER",
        "SYNC",
        "PSYNC ? -1",
        "MIGRATE h 1 k 0 1",
        "SAVE",
        "BGSAVE",
        "MODULE LIST",
        "POST /",
        "Host: x",
    ] {
        let name = command.split(' ').next().unwrap().to_uppercase();
        let refused = format!(
            "invalid-argument: invalid argument: {name} is not allowed: connections are shared and opened by the runtime"
        );
        assert_eq!(asker.ask(command), refused);
        // Nothing of a pipeline with it is sent.
        assert_eq!(asker.ask(&format!("SET k other\n{command}")), refused);
    }
    let empty = asker.ask("");
    assert!(empty.starts_with("invalid-argument: "), "{empty}");
    assert_eq!(asker.ask("GET k"), "bytes v");
    assert_eq!(connections(), before, "no connection was lost");
}

#[test]
fn a_connector_that_is_another_or_not_granted_is_said() {
    let redis = Redis::single();
    for (manifest, part) in [
        (
            "[config]\nredis = \"sqlite:default\"\n",
            "invalid-argument: invalid argument: sqlite takes no commands",
        ),
        ("[config]\nredis = \"redis:none\"\n", "no-such-connector: "),
        ("connectors = [\"sqlite:default\"]\n", "access-denied: "),
        ("connectors = [\"sqlite:default\", \"redis:pool1\"]\n", "bytes v"),
        // A bare pool name means the connector that was granted.
        ("connectors = [\"default\", \"pool1\"]\n[config]\nredis = \"pool1\"\n", "bytes v"),
    ] {
        redis.run(&["SET", "k", "v"]);
        let answer = Asker::of(&server_with(&redis, manifest)).ask("GET k");
        assert!(answer.starts_with(part), "{manifest}: {answer}");
    }
}

#[test]
fn commands_are_counted_as_storage_calls() {
    const CALLS: usize = 1_000;
    let redis = Redis::single();
    let server = server_with(&redis, "[limits]\ncpu = \"10s\"\n");
    let (mut wire, _) = Wire::connect(server.port, &Connect::new(5, "flooder"));
    wire.send(&wire::publish(5, "cmd/flood-redis/n", b"x", 1, 1));
    assert!(wire.expect(kind::PUBACK).reason() < 0x80);
    // The probe's own record of the event is the first of its calls.
    assert_eq!(redis.run(&["GET", "n"]), (STORAGE_OPS - 1).to_string());
    let denied = server.metric("tidegate_module_storage_ops_denied_total", PROBE);
    assert_eq!(denied, (CALLS - (STORAGE_OPS - 1)) as f64);
    // A pipeline is one of them, and is bounded.
    let mut asker = Asker::of(&server);
    let many = |count: usize| vec!["INCR m"; count].join("\n");
    assert_eq!(asker.ask(&many(1_000)).lines().last(), Some("integer 1000"));
    let refused = asker.ask(&many(1_001));
    assert!(refused.starts_with("invalid-argument: ") && refused.contains("1001 commands"), "{refused}");
    assert_eq!(redis.run(&["GET", "m"]), "1000");
}

#[test]
fn a_server_that_is_away_is_unavailable_until_it_is_back() {
    let place = Place::temporary().unwrap();
    let mut own = tidegate_servers::redis::Options::new("own").durable().start(&place).unwrap();
    let redis = Redis::at(own.cli(), &own.server().address());
    let server = server(&redis);
    let mut asker = Asker::of(&server);
    assert_eq!(asker.ask("INCR n"), "integer 1");
    own.server_mut().kill();
    let away = asker.ask("GET n");
    assert!(away.starts_with("unavailable: "), "{away}");
    own.start().unwrap();
    until("commands are answered again", || (asker.ask("GET n") == "bytes 1").then_some(()));
    server.assert_no_panic();
}

#[test]
fn a_module_is_tried_without_a_server() {
    let builder = Server::builder()
        .module("probe", "")
        .file(
            "e.json",
            r#"{"hook": "message.publish", "message": {"topic": "cmd/redis/x", "payload": "INCR n\nGET n"}}"#,
        )
        .file("r.json", r#"[7, {"error": {"code": "ERR", "message": "no"}}]"#);
    let module = builder.path().join("modules/probe.wasm");
    let args = ["test", module.to_str().unwrap(), "e.json", "--replies", "r.json", "--json"];
    let output = tidegate_e2e::server::tidegate(builder.path(), &args);
    let text = tidegate_e2e::server::text_of(&output);
    assert!(output.status.success(), "{text}");
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcome["verdict"]["message"]["payload"], "integer 7\nerror ERR no retryable=false");
    let call = serde_json::json!({
        "call": "commands", "connector": "redis:pool1", "commands": [["INCR", "n"], ["GET", "n"]],
    });
    assert!(outcome["calls"].as_array().unwrap().contains(&call), "{outcome}");
}
