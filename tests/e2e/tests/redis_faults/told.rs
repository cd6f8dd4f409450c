//! What is wrong is told, in words that only that fault has: by the log, the metrics, `connectors list` and
//! `connectors test`.

use tidegate_e2e::paho::{self, Paho};
use tidegate_e2e::redis::Redis;
use tidegate_e2e::server::text_of;
use tidegate_e2e::wire::{self, Connect, Wire};
use tidegate_e2e::{Server, until};
use tidegate_servers::redis::Options;
use tidegate_servers::{Place, port};

use crate::scene::LINE;

/// Starts the runtime on a store that cannot work: everybody who looks at it finds one of these words.
fn assert_told(redis: &Redis, words: &[&str]) {
    let server = Server::builder().file("conf.d/redis.conf", redis.only(LINE)).start();
    let is_told = |text: &str| words.iter().any(|words| text.contains(words));
    let (mut client, _) = Wire::connect(server.port, &Connect::new(4, "one"));
    client.send(&wire::publish(4, "t", b"x", 1, 1));
    server.wait_log(0, &format!("one with {words:?}"), |line| {
        line.contains("store is down") && line.contains("redis:pool1") && is_told(line)
    });
    let tested = server.tidegate(&["connectors", "test", "redis:pool1"]);
    assert!(tested.status.code() == Some(1) && is_told(&text_of(&tested)), "{}", text_of(&tested));
    let list = server.json(&["connectors", "list"]);
    let is_ours = |connector: &&serde_json::Value| connector["name"] == "redis:pool1";
    let ours = list["connectors"].as_array().unwrap().iter().find(is_ours).expect("it is listed");
    assert!(ours["state"] == "down" && is_told(ours["last_error"].as_str().unwrap_or_default()), "{ours}");
    assert!(server.metric("tidegate_store_errors_total", "redis:pool1") > 0.0);
    assert_eq!(server.metric("tidegate_store_up", "redis:pool1"), 0.0);
    let (status, _) = server.get("/healthz").expect("the API answers");
    assert_eq!(status, 200, "the runtime itself is well");
    server.assert_no_panic();
}

#[test]
fn a_wrong_password_is_told_apart() {
    let place = Place::temporary().unwrap();
    let server = Options::new("locked").password("public").start(&place).unwrap();
    let redis = || Redis::at(server.cli(), &server.server().address());
    assert_told(&redis().option("password", "not public"), &["does not accept user and password"]);
    assert_told(&redis(), &["NOAUTH"]);
}

/// A pool on a port of 127.0.0.1 where no Redis is; nobody asks `redis-cli` there.
fn on_port(port: u16) -> Redis {
    let address = format!("127.0.0.1:{port}");
    let cli = tidegate_servers::redis::Cli::at(&address, None).unwrap();
    Redis::at(cli, &address).option("connect_timeout", "1000").option("query_timeout", "1000")
}

#[test]
fn another_kind_of_server_on_the_port_is_told_apart() {
    // An HTTP server: the management API of a second runtime; and an MQTT broker: its listener, which hangs up.
    let other = Server::plain();
    assert_told(&on_port(other.api), &["what answers there is not a Redis server"]);
    assert_told(&on_port(other.port), HANGS_UP);
}

/// What is said of a server that ends the connection at the first command.
const HANGS_UP: &[&str] = &["ends the connection at the first command"];

#[test]
fn a_port_where_nobody_listens_is_told_apart() {
    let port = port::Port::free().unwrap();
    assert_told(&on_port(port.number()), &["Connection refused"]);
}

/// The lines that read: nothing is stored.
const READS: &str = r##"backend.redis.hook.session.created.1 = {"action": {"function": "on_subscribe_lookup"}, "pool": "pool1"}
backend.redis.hook.session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch"}, "pool": "pool1"}
backend.redis.hook.session.subscribed.2 = {"topic": "#", "action": {"function": "on_retain_lookup"}, "pool": "pool1"}
"##;

#[test]
fn a_key_of_another_type_that_is_read_is_named_and_the_client_lives_on() {
    let redis = Redis::single();
    let server = Server::builder().file("conf.d/redis.conf", redis.only(READS)).start();
    let mut publisher = Paho::connect(server.port, &paho::Options::new(5, "publisher"));
    for (number, key) in
        ["mqtt:sub:{client}", "mqtt:acked:{client}:{topic}", "mqtt:msg:{topic}", "mqtt:retain:{topic}"]
            .into_iter()
            .enumerate()
    {
        let (client, topic) = (format!("reader-{number}"), format!("live/{number}"));
        let key = key.replace("{client}", &client).replace("{topic}", &topic);
        redis.run(&["RPUSH", &key, "a list"]);
        let errors = || server.metric("tidegate_store_errors_total", "redis:pool1");
        let (mark, before) = (server.log_mark(), errors());
        let mut reader = Paho::connect(server.port, &paho::Options::new(5, &client));
        reader.subscribe(&topic, 1);
        server.wait_log(mark, &format!("one that names {key}"), |line| {
            line.contains("redis:pool1") && line.contains(&key) && line.contains("another kind of value")
        });
        assert!(errors() > before, "{key}: the error is counted");
        assert!(publisher.publish(&topic, "live", 1) < 0x80);
        assert_eq!(reader.receive().payload, "live", "{key}");
        reader.disconnect();
        assert_eq!(redis.lines(&["LRANGE", &key, "0", "-1"]), ["a list"]);
    }
    assert_eq!(server.metric("tidegate_store_up", "redis:pool1"), 1.0);
    server.assert_no_panic();
}

#[test]
fn a_key_of_another_type_refuses_that_message_and_no_other() {
    let redis = Redis::single();
    redis.run(&["SET", "mqtt:msg:taken", "a text"]);
    let server = Server::builder().file("conf.d/redis.conf", redis.only(LINE)).start();
    let options = paho::Options::new(5, "test");
    let mut client = Paho::connect(server.port, &options);
    assert!(client.publish("free", "stored", 1) < 0x80);
    assert!(client.publish("taken", "refused", 1) >= 0x80, "the publisher is told");
    assert!(client.publish("free", "stored too", 1) < 0x80);
    assert_eq!(redis.ids("free").len(), 2);
    assert_eq!(redis.run(&["GET", "mqtt:msg:taken"]), "a text");
    server.wait_log(0, "the refusal", |line| {
        line.contains("refused") && line.contains("WRONGTYPE") && line.contains("mqtt:msg:taken")
    });
    let refused = || server.metric("tidegate_store_operations_total", "result=\"refused\"");
    until("the refusal is counted", || (refused() == 1.0).then_some(()));
    assert_eq!(server.metric("tidegate_store_up", "redis:pool1"), 1.0);
    let letters = std::fs::read_to_string(server.file("data/dead-letters.jsonl")).unwrap();
    assert!(letters.contains("taken"), "{letters}");
}
