//! The scenarios, for a Redis of any form. Client ids and topics are the document's where it prints them.

use std::time::{SystemTime, UNIX_EPOCH};

use tidegate_e2e::mosquitto::{self, Subscriber};
use tidegate_e2e::paho::{Delivered, Options, Paho};
use tidegate_e2e::redis::Redis;
use tidegate_e2e::{Server, until};

/// With the printed file, word for word but for the lines that say where the server is.
fn printed(redis: &Redis, more: &str) -> Server {
    Server::builder().file("conf.d/emqx_backend_redis.conf", redis.printed(more)).start()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Whether the text is a time in seconds of the last minute.
fn is_recent(text: &str) -> bool {
    text.parse::<u64>().is_ok_and(|seconds| (now() - 60..=now()).contains(&seconds))
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

fn field<'a>(hash: &'a [(String, String)], name: &str) -> &'a str {
    hash.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
}

fn payloads(messages: &[Delivered]) -> Vec<&str> {
    messages.iter().map(|message| message.payload.as_str()).collect()
}

/// Checks a hash of a message: the printed fields in the printed order, the known values, the others by form.
fn assert_message(redis: &Redis, key: &str, id: &str, known: [&str; 5]) {
    let hash = redis.hash(key);
    let names: Vec<&str> = hash.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["id", "from", "qos", "topic", "retain", "payload", "ts"], "{key}: {hash:?}");
    assert_eq!(field(&hash, "id"), id);
    assert_eq!(["from", "qos", "topic", "retain", "payload"].map(|name| field(&hash, name)), known);
    assert!(is_recent(field(&hash, "ts")), "{hash:?}");
}

/// The printed `expired_time` is an hour.
fn assert_expires_in_an_hour(redis: &Redis, key: &str) {
    let seconds: i64 = redis.run(&["TTL", key]).parse().unwrap();
    assert!((3_540..=3_600).contains(&seconds), "{key} expires in {seconds} s");
}

pub(crate) fn a_clients_hash_says_online_and_then_offline(redis: &Redis) {
    let server = printed(redis, "");
    let client = Subscriber::start(server.port, &["-i", "test", "-t", "anything"]);
    let online = redis.wait_hash("mqtt:client:test", |hash| field(hash, "state") == "1");
    let names: Vec<&str> = online.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["state", "online_at", "offline_at"]);
    assert!(is_recent(field(&online, "online_at")), "{online:?}");
    assert_eq!(field(&online, "offline_at"), "undefined");
    let node = redis.wait_hash("mqtt:node:tidegate@127.0.0.1", |hash| !field(hash, "test").is_empty());
    assert!(is_recent(field(&node, "test")), "{node:?}");

    client.stop();
    let offline = redis.wait_hash("mqtt:client:test", |hash| field(hash, "state") == "0");
    let names: Vec<&str> = offline.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["state", "online_at", "offline_at"]);
    assert_eq!(field(&offline, "online_at"), field(&online, "online_at"), "kept");
    assert!(is_recent(field(&offline, "offline_at")), "{offline:?}");
    redis.wait(&["HEXISTS", "mqtt:node:tidegate@127.0.0.1", "test"], "0");

    // A connection that dies without a word.
    let client = Subscriber::start(server.port, &["-i", "test", "-t", "anything"]);
    redis.wait_hash("mqtt:client:test", |hash| field(hash, "state") == "1");
    client.kill();
    redis.wait_hash("mqtt:client:test", |hash| field(hash, "state") == "0");
}

pub(crate) fn a_published_message_is_a_hash_and_a_member_of_its_topics_sorted_set(redis: &Redis) {
    let server = printed(redis, "");
    for (payload, qos) in [("Hello world!", "1"), ("never stored", "0"), ("twice as sure", "2")] {
        mosquitto::publish(server.port, &["-i", "test", "-t", "topic", "-m", payload, "-q", qos]);
    }
    // Acknowledged means stored: no waiting here.
    let ids = redis.ids("topic");
    assert!(ids.len() == 2 && ids.iter().all(|id| is_id(id)) && ids.is_sorted(), "{ids:?}");
    assert_eq!(
        redis.lines(&["ZRANGE", "mqtt:msg:topic", "0", "-1", "WITHSCORES"]),
        [&ids[0], "1", &ids[1], "1"]
    );
    for (id, qos, payload) in [(&ids[0], "1", "Hello world!"), (&ids[1], "2", "twice as sure")] {
        let key = format!("mqtt:msg:{id}");
        assert_message(redis, &key, id, ["test", qos, "topic", "false", payload]);
        assert_expires_in_an_hour(redis, &key);
    }
    assert_expires_in_an_hour(redis, "mqtt:msg:topic");
}

pub(crate) fn payload_bytes_are_stored_as_they_are(redis: &Redis) {
    let server = printed(redis, "");
    let mut all: Vec<u8> = (0..=255).collect();
    all.extend([0, 0xFF, 0xFE]);
    std::fs::write(server.file("payload"), &all).unwrap();
    let file = server.file("payload").display().to_string();
    mosquitto::publish(server.port, &["-t", "bytes", "-f", &file, "-q", "1"]);
    let key = format!("mqtt:msg:{}", redis.ids("bytes")[0]);
    // A digest of the server's own, as a terminal does not carry every byte.
    let script = "return redis.sha1hex(redis.call('HGET', KEYS[1], 'payload'))";
    let stored = redis.run(&["EVAL", script, "1", &key]);
    let sum = std::process::Command::new("sha1sum").arg(&file).output().unwrap();
    assert_eq!(Some(&*stored), String::from_utf8_lossy(&sum.stdout).split(' ').next());
}

pub(crate) fn one_to_one_messages_go_when_they_are_acknowledged(redis: &Redis) {
    let server = printed(redis, "");
    for payload in ["1", "2", "3"] {
        mosquitto::publish(server.port, &["-t", "queue/a", "-m", payload, "-q", "1"]);
    }
    let ids = redis.ids("queue/a");
    assert_eq!(ids.len(), 3);
    // Only what is acknowledged goes.
    let mut client = Paho::connect(server.port, &Options::new(4, "worker").with("manual_ack", true));
    client.subscribe("queue/a", 1);
    let messages: Vec<_> = (0..3).map(|_| client.receive()).collect();
    assert_eq!(payloads(&messages), ["1", "2", "3"]);
    assert_eq!(redis.ids("queue/a"), ids);
    client.ack(&messages[0]);
    redis.wait(&["EXISTS", &format!("mqtt:msg:{}", ids[0])], "0");
    redis.wait(&["ZRANGE", "mqtt:msg:queue/a", "0", "-1"], &ids[1..].join("\n"));
    assert_eq!(redis.run(&["EXISTS", &format!("mqtt:msg:{}", ids[1])]), "1");
    client.disconnect();

    // What was not acknowledged comes again, then goes too.
    let mut next = Subscriber::start(server.port, &["-i", "next", "-t", "queue/a", "-q", "1"]);
    assert_eq!(next.take(2), ["queue/a 2", "queue/a 3"]);
    redis.wait(&["EXISTS", "mqtt:msg:queue/a"], "0");
    for id in &ids {
        redis.wait(&["EXISTS", &format!("mqtt:msg:{id}")], "0");
    }
    // A live message is stored, delivered, acknowledged and gone.
    mosquitto::publish(server.port, &["-t", "queue/a", "-m", "live", "-q", "1"]);
    assert_eq!(next.take(1), ["queue/a live"]);
    redis.wait(&["EXISTS", "mqtt:msg:queue/a"], "0");
    assert_eq!(redis.run(&["EXISTS", "mqtt:acked:next:queue/a"]), "0", "a queue keeps no positions");
}

pub(crate) fn one_to_many_messages_stay_and_every_client_has_its_position(redis: &Redis) {
    let server = printed(redis, "");
    for payload in ["1", "2"] {
        mosquitto::publish(server.port, &["-t", "pubsub/a", "-m", payload, "-q", "1"]);
    }
    let mut ann = Subscriber::start(server.port, &["-i", "ann", "-t", "pubsub/a", "-q", "1"]);
    assert_eq!(ann.take(2), ["pubsub/a 1", "pubsub/a 2"]);
    redis.wait(&["GET", "mqtt:acked:ann:pubsub/a"], &redis.ids("pubsub/a")[1]);
    ann.stop();
    mosquitto::publish(server.port, &["-t", "pubsub/a", "-m", "3", "-q", "1"]);
    let ids = redis.ids("pubsub/a");
    assert_eq!(ids.len(), 3);
    let mut bob = Subscriber::start(server.port, &["-i", "bob", "-t", "pubsub/a", "-q", "1"]);
    assert_eq!(bob.take(3), ["pubsub/a 1", "pubsub/a 2", "pubsub/a 3"]);
    redis.wait(&["GET", "mqtt:acked:bob:pubsub/a"], &ids[2]);
    assert_eq!(redis.run(&["GET", "mqtt:acked:ann:pubsub/a"]), ids[1]);
    // Only what is new to her, and then what is live.
    let mut ann = Subscriber::start(server.port, &["-i", "ann", "-t", "pubsub/a", "-q", "1"]);
    mosquitto::publish(server.port, &["-t", "pubsub/a", "-m", "4", "-q", "1"]);
    assert_eq!(ann.take(2), ["pubsub/a 3", "pubsub/a 4"]);
    let ids = redis.ids("pubsub/a");
    assert_eq!(ids.len(), 4, "acknowledged messages stay");
    redis.wait(&["GET", "mqtt:acked:ann:pubsub/a"], &ids[3]);
}

pub(crate) fn the_newest_message_of_a_topic_replaces_the_one_before(redis: &Redis) {
    // The three lines that the document prints as comments, in the place of those they exclude.
    let lines: Vec<&str> = tidegate_e2e::redis::PRINTED
        .lines()
        .filter(|line| line.contains("keep_latest"))
        .map(|line| line.trim_start_matches("## "))
        .collect();
    assert_eq!(lines.len(), 3);
    let conf = redis.only(&(lines.join("\n") + "\n"));
    let server = Server::builder().file("conf.d/emqx_backend_redis.conf", conf).start();
    for payload in ["1", "2"] {
        mosquitto::publish(server.port, &["-t", "latest", "-m", payload, "-q", "1"]);
    }
    // Of every quality: this one is not waited for by its publisher.
    mosquitto::publish(server.port, &["-i", "test", "-t", "latest", "-m", "3", "-q", "0"]);
    let newest = until("only the newest is left", || {
        let ids = redis.ids("latest");
        let is_newest = |id: &&String| field(&redis.hash(&format!("mqtt:msg:{id}")), "payload") == "3";
        (ids.len() == 1).then(|| ids.first().filter(is_newest).cloned()).flatten()
    });
    let key = format!("mqtt:msg:{newest}");
    assert_message(redis, &key, &newest, ["test", "0", "latest", "false", "3"]);
    assert_expires_in_an_hour(redis, &key);
    assert_eq!(redis.keys().len(), 2, "the older hashes are gone: {:?}", redis.keys());
    let mut late = Subscriber::start(server.port, &["-i", "late", "-t", "latest", "-q", "1"]);
    assert_eq!(late.take(1), ["latest 3"]);
    late.stop();
    // Acknowledged (or, at QoS 0, written): the position is there, and the message stays.
    mosquitto::publish(server.port, &["-t", "latest", "-m", "4", "-q", "1"]);
    let mut late = Subscriber::start(server.port, &["-i", "late", "-t", "latest", "-q", "1"]);
    assert_eq!(late.take(1), ["latest 4"]);
    let [newest] = &redis.ids("latest")[..] else { panic!("{:?}", redis.ids("latest")) };
    redis.wait(&["GET", "mqtt:acked:late:latest"], newest);
    assert_eq!(redis.run(&["EXISTS", &format!("mqtt:msg:{newest}")]), "1");
}

pub(crate) fn a_retained_message_is_a_hash_that_is_looked_up_and_deleted(redis: &Redis) {
    let server = printed(redis, "");
    for payload in ["old", "Hello world!"] {
        mosquitto::publish(server.port, &["-i", "test", "-t", "topic", "-m", payload, "-q", "1", "-r"]);
    }
    let id = field(&redis.hash("mqtt:retain:topic"), "id").to_owned();
    assert!(is_id(&id), "{id}");
    assert_message(redis, "mqtt:retain:topic", &id, ["test", "1", "topic", "true", "Hello world!"]);
    assert_expires_in_an_hour(redis, "mqtt:retain:topic");
    // What a subscriber gets is the hash, not the broker's own memory of it.
    redis.run(&["HSET", "mqtt:retain:topic", "payload", "from the store"]);
    let mut subscriber = Subscriber::start(server.port, &["-t", "topic", "-q", "1"]);
    let message = subscriber.receive();
    assert_eq!((message.payload.as_str(), message.retain, message.qos), ("from the store", true, 1));
    mosquitto::publish(server.port, &["-t", "topic", "-m", "end", "-q", "1"]);
    assert_eq!(subscriber.take_until("end"), Vec::<String>::new(), "once");
    mosquitto::publish(server.port, &["-t", "topic", "-n", "-q", "1", "-r"]);
    assert_eq!(redis.run(&["EXISTS", "mqtt:retain:topic"]), "0");
    let mut subscriber = Subscriber::start(server.port, &["-t", "topic", "-q", "1"]);
    mosquitto::publish(server.port, &["-t", "topic", "-m", "end", "-q", "1"]);
    assert_eq!(subscriber.take_until("end"), Vec::<String>::new());
}

pub(crate) fn subscriptions_in_the_store_are_made_for_the_client(redis: &Redis) {
    let server = printed(redis, "");
    // As the document prints them, and one that has something waiting.
    redis.run(&["HSET", "mqtt:sub:test", "topic1", "1"]);
    redis.run(&["HSET", "mqtt:sub:test", "topic2", "2"]);
    redis.run(&["HSET", "mqtt:sub:test", "queue/waiting", "1"]);
    redis.run(&["HSET", "mqtt:sub:other", "topic3", "1"]);
    mosquitto::publish(server.port, &["-t", "queue/waiting", "-m", "before", "-q", "1"]);
    let mut client = Paho::connect(server.port, &Options::new(5, "test"));
    let waiting = client.receive();
    assert_eq!((waiting.topic.as_str(), waiting.payload.as_str()), ("queue/waiting", "before"));
    for (topic, qos) in [("topic1", "2"), ("topic3", "1"), ("topic2", "2")] {
        mosquitto::publish(server.port, &["-t", topic, "-m", "hello", "-q", qos]);
    }
    let received: Vec<_> = (0..2).map(|_| client.receive()).map(|m| (m.topic, m.qos)).collect();
    assert_eq!(received, [("topic1".into(), 1), ("topic2".into(), 2)]);
}

pub(crate) fn unsubscribing_deletes_the_position(redis: &Redis) {
    let server = printed(redis, "");
    let mut client = Paho::connect(server.port, &Options::new(4, "leaver"));
    for topic in ["pubsub/left", "pubsub/kept"] {
        client.subscribe(topic, 1);
        mosquitto::publish(server.port, &["-t", topic, "-m", "x", "-q", "1"]);
        client.receive();
        redis.wait(&["GET", &format!("mqtt:acked:leaver:{topic}")], &redis.ids(topic)[0]);
    }
    client.unsubscribe("pubsub/left");
    redis.wait(&["EXISTS", "mqtt:acked:leaver:pubsub/left"], "0");
    assert_eq!(redis.run(&["EXISTS", "mqtt:acked:leaver:pubsub/kept"]), "1");
}

pub(crate) fn the_printed_commands_run_on_every_hook(redis: &Redis) {
    // The examples of the document's table of parameters.
    let lines = [
        ("client.disconnected", "SET disconn:${clientid} ${clientid}"),
        ("session.subscribed", "HSET sub:${clientid} ${topic} ${qos}"),
        ("session.unsubscribed", "SET unsub:${clientid} ${topic}"),
        ("message.publish", "RPUSH pub:${topic} ${msgid}"),
        ("message.acked", "HSET ack:${clientid} ${topic} ${msgid}"),
        ("message.deliver", "HSET deliver:${clientid} ${topic} ${msgid}"),
    ];
    let more: String = lines
        .iter()
        .map(|(hook, command)| {
            format!("backend.redis.hook.{hook}.9 = {{\"action\": {{\"commands\": [\"{command}\"]}}, \"pool\": \"pool1\"}}\n")
        })
        .collect();
    let server = printed(redis, &more);
    let mut client = Paho::connect(server.port, &Options::new(5, "test"));
    redis.wait(&["GET", "conn:test"], "test");
    client.subscribe("topic", 1);
    redis.wait(&["HGETALL", "sub:test"], "topic\n1");
    client.publish("topic", "hello", 1);
    client.receive();
    let [id] = &redis.ids("topic")[..] else { panic!("{:?}", redis.keys()) };
    assert_eq!(redis.lines(&["LRANGE", "pub:topic", "0", "-1"]), [id.as_str()]);
    redis.wait(&["HGETALL", "deliver:test"], &format!("topic\n{id}"));
    redis.wait(&["HGETALL", "ack:test"], &format!("topic\n{id}"));
    client.unsubscribe("topic");
    redis.wait(&["GET", "unsub:test"], "topic");
    assert_eq!(redis.run(&["EXISTS", "disconn:test"]), "0");
    client.disconnect();
    redis.wait(&["GET", "disconn:test"], "test");
}

pub(crate) fn hostile_names_and_payloads_stay_data(redis: &Redis) {
    const PAYLOAD: &str = "\r\n*1\r\n$8\r\nFLUSHALL\r\n\"; FLUSHALL ${clientid} %s {x}";
    let more = r#"backend.redis.hook.message.publish.9 = {"action": {"commands": ["HSET by:${username} ${topic} ${payload}"]}, "pool": "pool1"}
"#;
    let server = printed(redis, more);
    redis.run(&["SET", "canary", "alive"]);
    let ids = ["two words", "x\" FLUSHALL", "${payload}", "a:b:c", "{slot}", "*", "ключ", "a\\r\\nb"];
    for (number, id) in ids.iter().enumerate() {
        let user = format!("{id} FLUSHDB");
        let topic = format!("queue/{number} ${{username}} \"{{q}}\":x");
        let options = Options::new(5, id).with("username", user.as_str()).with("password", "x");
        let mut client = Paho::connect(server.port, &options);
        let state = format!("mqtt:client:{id}");
        redis.wait_hash(&state, |hash| field(hash, "state") == "1");
        assert_eq!(redis.run(&["GET", &format!("conn:{id}")]), *id);
        assert!(client.publish(&topic, PAYLOAD, 1) < 0x80);
        let [message] = &redis.ids(&topic)[..] else { panic!("{id}: {:?}", redis.keys()) };
        let stored = |key: &str, name: &str| redis.run(&["HGET", key, name]);
        let key = format!("mqtt:msg:{message}");
        assert_eq!(stored(&key, "payload"), PAYLOAD);
        assert_eq!(stored(&key, "topic"), topic);
        assert_eq!(stored(&key, "from"), *id);
        assert_eq!(stored(&format!("by:{user}"), &topic), PAYLOAD);
        client.subscribe(&topic, 1);
        assert_eq!(client.receive().payload, PAYLOAD);
        redis.wait(&["EXISTS", &key], "0");
        client.disconnect();
        redis.wait_hash(&state, |hash| field(hash, "state") == "0");
    }
    assert_eq!(redis.run(&["GET", "canary"]), "alive");
    // For each id its state, conn: and by:, and the canary: nothing was made by what was sent.
    let expected = ids.len() * 3 + 1;
    until("only what was meant is left", || (redis.keys().len() == expected).then_some(()));
    server.assert_no_panic();
}

pub(crate) fn a_channel_subscribes_and_unsubscribes_a_live_client(redis: &Redis) {
    let more = r#"backend.redis.hook.session.subscribed.9 = {"action": {"commands": ["HSET sub:${clientid} ${topic} ${qos}"]}, "pool": "pool1"}
backend.redis.hook.session.unsubscribed.9 = {"action": {"commands": ["HDEL sub:${clientid} ${topic}"]}, "pool": "pool1"}
"#;
    let server = printed(redis, more);
    server.wait_log(0, "the channel is followed", |line| line.contains("taking requests for subscriptions"));
    // Channels know no databases: other tests hear this too, so the client has a name of its own.
    let id = if redis.is_cluster() {
        unreachable!("a cluster has no channel")
    } else {
        format!("live-{}", server.port)
    };
    let mut client = Paho::connect(server.port, &Options::new(4, &id));
    client.subscribe("end", 1);
    let ask = |request: String| redis.run(&["PUBLISH", "mqtt_channel", &request]);
    // The document's request, its QoS as text.
    ask(format!(
        "{{\"type\": \"subscribe\", \"topic\": \"topic0\", \"clientid\": \"{id}\", \"qos\": \"1\"}}"
    ));
    redis.wait(&["HGET", &format!("sub:{id}"), "topic0"], "1");
    mosquitto::publish(server.port, &["-t", "topic0", "-m", "asked for", "-q", "1"]);
    let message = client.receive();
    assert_eq!((message.payload.as_str(), message.qos), ("asked for", 1));
    // What cannot be done does no harm.
    ask("not JSON".into());
    ask(format!("{{\"type\": \"subscribe\", \"topic\": \"a/#/b\", \"clientid\": \"{id}\"}}"));
    ask("{\"type\": \"subscribe\", \"topic\": \"topic0\", \"clientid\": \"nobody at all\", \"qos\": 1}"
        .into());
    ask(format!("{{\"type\": \"unsubscribe\", \"topic\": \"topic0\", \"clientid\": \"{id}\"}}"));
    redis.wait(&["HEXISTS", &format!("sub:{id}"), "topic0"], "0");
    mosquitto::publish(server.port, &["-t", "topic0", "-m", "not any more", "-q", "1"]);
    mosquitto::publish(server.port, &["-t", "end", "-m", "end", "-q", "1"]);
    assert_eq!(client.take_until("end"), []);
    let metric = |result: &str| {
        server.metric("tidegate_store_channel_requests_total", &format!("result=\"{result}\""))
    };
    assert!(metric("done") >= 2.0 && metric("refused") >= 3.0, "{} {}", metric("done"), metric("refused"));
    server.assert_no_panic();
}
