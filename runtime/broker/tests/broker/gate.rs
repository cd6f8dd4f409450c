//! The gate: asked before any handler whether a client may connect, publish and subscribe.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_broker::BrokerConfig;
use tidegate_event::{Hook, Message, NoHooks, Origin, QoS, Tenant};

use crate::support::client::{Client, PATIENCE, PUBACK, PUBREC};
use crate::support::gate::ScriptedGate;
use crate::support::packet::Connect;
use crate::support::script::Script;
use crate::support::store::Journal;
use crate::support::{Server, gated, with_config, with_gate};

async fn guarded(gate: &Arc<ScriptedGate>) -> Server {
    with_gate(BrokerConfig::default(), gate.clone(), Arc::new(NoHooks)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connect_has_its_code_and_reaches_no_handler() {
    let gate = ScriptedGate::new("no/");
    let hooks = Script::observer(&[Hook::ClientAuthenticate, Hook::ClientConnected]);
    let server = with_gate(BrokerConfig::default(), gate.clone(), hooks.clone()).await;
    let mut first = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    for (user, password, five, four) in [("u", "wrong", 0x86, 4), ("banned", "right", 0x87, 5)] {
        let old = Connect { level: 3, ..Connect::v4("c") };
        for (connect, code) in [(Connect::v5("c"), five), (Connect::v4("c"), four), (old, four)] {
            let mut client = Client::try_connect(server.address, &connect.login(user, password)).await;
            assert_eq!((client.code, client.present), (code, false), "{user}");
            assert_eq!(client.closed().await, None);
        }
    }
    first.ping().await;
    assert_eq!(hooks.raised(), ["client.authenticate c none", "client.connected c"]);
    assert_eq!(gate.asked()[0], "connect c nobody ");
    assert_eq!(gate.asked()[1], "connect c u wrong");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_answer_holds_up_nobody_else_and_ends_with_its_client() {
    let gate = ScriptedGate::new("no/");
    let config = BrokerConfig { connect_timeout: Duration::from_millis(500), ..BrokerConfig::default() };
    let server = with_gate(config, gate.clone(), Arc::new(NoHooks)).await;
    let mut first = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    first.subscribe("t", 1).await;
    // What comes before CONNACK is done after it, and nothing is taken over before the answer.
    let mut second = Client::open(server.address, true).await;
    second.send(&Connect::v5("c").persistent().login("u", "slow").bytes()).await;
    second.publish("t", "early", 1, 1).await;
    first.publish_done("t", "x", 1, 1).await;
    assert_eq!(first.take().await.payload, "x");
    // Its acknowledgement was read: who takes over does not get it again.
    first.ping().await;
    Client::connect(server.address, &Connect::v4("other")).await.ping().await;
    gate.answer();
    assert_eq!(second.expect(0x20).await.body[..2], [1, 0], "the session is resumed");
    assert_eq!(first.closed().await, Some(0x8e));
    second.finish(1, 1).await;
    assert_eq!(second.take().await.payload, "early");
    // Without an answer in time: not available.
    for (connect, code) in [(Connect::v5("late"), 0x88), (Connect::v4("late"), 3)] {
        let mut client = Client::try_connect(server.address, &connect.login("u", "slow")).await;
        assert_eq!(client.code, code);
        assert_eq!(client.closed().await, None);
    }
    let mut gone = Client::open(server.address, true).await;
    gone.send(&Connect::v5("gone").login("u", "slow").bytes()).await;
    drop(gone);
    let ended = async {
        while server.broker.connections() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_publish_is_answered_and_reaches_nobody() {
    let gate = ScriptedGate::new("no/");
    let hooks = Script::observer(&[Hook::ClientAuthorize, Hook::MessagePublish]);
    let server = with_gate(BrokerConfig::default(), gate.clone(), hooks.clone()).await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("#", 0).await;
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    for _ in 0..2 {
        five.publish("no/1", "x", 1, 9).await;
        assert_eq!(five.expect(PUBACK).await.reason(), 0x87);
        // The packet id is free after a PUBREC that refuses (clause 4.3.3).
        five.publish("no/1", "x", 2, 9).await;
        assert_eq!(five.expect(PUBREC).await.reason(), 0x87);
        five.publish("no/1", "x", 0, 0).await;
    }
    five.publish_done("yes", "five", 2, 9).await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    for qos in [0, 1, 2] {
        four.publish_done("no/1", "x", qos, 7).await;
    }
    four.publish_done("yes", "four", 1, 7).await;
    assert_eq!(subscriber.payloads(2).await, ["five", "four"]);
    subscriber.ping().await;
    let asked = hooks.raised();
    assert!(asked.iter().all(|line| !line.contains(" no/")), "{asked:?}");
    // The retained message of a refused publish is none.
    let mut retainer = Client::connect(server.address, &Connect::v4("r")).await;
    retainer.retain("no/kept", "x").await;
    subscriber.subscribe("no/kept", 0).await;
    subscriber.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_message_keeps_its_place_behind_others() {
    let gate = ScriptedGate::new("no/");
    let hooks = Script::observer(&[Hook::MessagePublish]);
    let server = with_gate(BrokerConfig::default(), gate.clone(), hooks).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    for id in 1..=30 {
        let topic = if id % 3 == 0 { "no/1" } else { "yes" };
        client.publish(topic, "x", 1, id).await;
    }
    for id in 1..=30 {
        let answer = client.expect(PUBACK).await;
        let code = if id % 3 == 0 { 0x87 } else { 0 };
        // 0x10: nobody subscribes.
        assert_eq!((answer.id(), answer.reason() & 0x87), (id, code));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_kept_until_the_rules_change_and_then_hold_at_once() {
    for (gate, times) in [(ScriptedGate::new("no/"), 1), (ScriptedGate::asked_every_time("no/"), 5)] {
        let server = guarded(&gate).await;
        let mut client = Client::connect(server.address, &Connect::v5("c")).await;
        for id in 1..=5 {
            client.publish_done("t", "x", 1, id).await;
        }
        let asked = gate.asked().iter().filter(|line| *line == "publish c t").count();
        assert_eq!(asked, times);
        gate.forbid("t");
        client.publish("t", "x", 1, 6).await;
        assert_eq!(client.expect(PUBACK).await.reason(), 0x87, "the connection is an old one");
        client.publish_done("no/1", "now allowed", 1, 7).await;
        gate.forbid("no/");
        client.publish("t", "x", 1, 8).await;
        assert!(client.expect(PUBACK).await.reason() < 0x80);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refused_filter_of_a_subscribe_has_its_code() {
    let gate = ScriptedGate::new("no/");
    let server = guarded(&gate).await;
    let filters = [("yes/#", 2), ("no/#", 1), ("$share/g/no/+", 1), ("$share/no/yes", 0)];
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    assert_eq!(five.subscribe_all(&filters).await, [2, 0x87, 0x87, 0]);
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    assert_eq!(four.subscribe_all(&filters).await, [2, 0x80, 0x80, 0]);
    assert!(gate.asked().contains(&"subscribe five no/+".to_owned()), "the filter behind the group");
    // No local on a shared subscription breaks the protocol, refused or not.
    five.send(&crate::support::packet::subscribe(true, 5, &[("$share/g/no/1", 4)], &[])).await;
    assert_eq!(five.closed().await, Some(0x82));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_needs_leave_when_it_is_given_and_when_it_is_published() {
    let gate = ScriptedGate::new("no/");
    let server = guarded(&gate).await;
    for topic in ["no/will", "$SYS/will"] {
        for (connect, code) in [(Connect::v5("c"), 0x87), (Connect::v4("c"), 5)] {
            let connect = connect.will(topic, "never", 1, true);
            assert_eq!(Client::try_connect(server.address, &connect).await.code, code, "{topic}");
        }
    }
    let mut subscriber = Client::connect(server.address, &Connect::v5("s")).await;
    subscriber.subscribe("#", 1).await;
    let late = [0x18, 0, 0, 0, 1];
    let mut clients = Vec::new();
    for (id, topic, properties) in
        [("a", "then/no", &[][..]), ("b", "then/late", &late), ("c", "yes", &[]), ("d", "late", &late)]
    {
        let connect = Connect::v5(id).expiry(60).will_with(topic, id, 1, false, properties);
        clients.push(Client::connect(server.address, &connect).await);
    }
    gate.forbid("then/");
    drop(clients);
    assert_eq!(subscriber.take().await.topic, "yes");
    assert_eq!(subscriber.take().await.topic, "late");
    subscriber.ping().await;
    let asked = gate.asked();
    for line in ["publish a then/no", "publish b then/late"] {
        assert_eq!(asked.iter().filter(|asked| *asked == line).count(), 2, "{line}: {asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_never_publish_to_the_servers_own_topics() {
    // No statistics, which would come to the subscriber.
    let server = with_config(BrokerConfig { sys_interval: Duration::ZERO, ..BrokerConfig::default() }).await;
    let mut subscriber = Client::connect(server.address, &Connect::v5("s")).await;
    subscriber.subscribe_all(&[("$SYS/#", 1), ("#", 1)]).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    for topic in ["$SYS/broker/version", "$SYS"] {
        client.publish(topic, "forged", 1, 1).await;
        assert_eq!(client.expect(PUBACK).await.reason(), 0x87, "{topic}");
    }
    client.publish_done("$SYSTEM", "x", 1, 1).await;
    subscriber.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_subscriptions_of_modules_are_not_asked_about() {
    let gate = ScriptedGate::new("no/");
    let server = guarded(&gate).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let (tenant, control) = (Tenant::default(), server.broker.control());
    control.subscribe(&tenant, "c", "no/#".parse().unwrap(), QoS::AtLeastOnce).unwrap();
    client.ping().await;
    client.publish("no/1", "x", 1, 1).await;
    assert_eq!(client.expect(PUBACK).await.reason(), 0x87);
    let message = Message {
        id: server.broker.ids().next_id(),
        topic: "no/1".parse().unwrap(),
        payload: "of a module".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        timestamp_ms: 0,
        sender: String::new().into(),
        publisher: None,
        properties: None,
        origin: Origin::Module,
        hops: 1,
    };
    control.publish(&tenant, message).unwrap();
    assert_eq!(client.take().await.payload, "of a module");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_session_keeps_only_the_subscriptions_its_client_may_have() {
    let gate = ScriptedGate::new("no/");
    let server = guarded(&gate).await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    assert_eq!(client.subscribe_all(&[("secret/#", 2), ("t", 1), ("$share/g/secret/x", 1)]).await, [2, 1, 1]);
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    // In flight when the connection ends; the next ones wait.
    publisher.publish_done("secret/y", "sent", 1, 1).await;
    publisher.publish_done("secret/y", "sent", 2, 2).await;
    assert_eq!([client.message().await.qos, client.message().await.qos], [1, 2]);
    client.disconnect().await;
    publisher.publish_done("secret/y", "queued", 1, 3).await;
    publisher.publish_done("t", "queued", 1, 4).await;
    gate.forbid("secret/");
    let mut client = Client::connect(server.address, &connect).await;
    assert!(client.present);
    gate.forbid("no/");
    publisher.publish_done("secret/x", "secret", 1, 5).await;
    publisher.publish_done("t", "t", 1, 6).await;
    assert_eq!(client.payloads(2).await, ["queued", "t"]);
    client.ping().await;
    assert_eq!(client.unsubscribe(&["secret/#", "t"]).await.body[3..], [0x11, 0]);
}

/// Connects `times` times as `c`, one after the other; gives the codes of CONNACK.
async fn reconnect(server: &Server, times: usize) -> Vec<u8> {
    let mut codes = Vec::new();
    for _ in 0..times {
        codes.push(Client::try_connect(server.address, &Connect::v5("c")).await.code);
    }
    codes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_id_that_reconnects_again_and_again_is_slowed_down() {
    let config = BrokerConfig { reconnect_rate: 10, reconnect_burst: 4, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let start = Instant::now();
    assert_eq!(reconnect(&server, 5).await, [0; 5]);
    assert_eq!(reconnect(&server, 10).await, [0; 10]);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(900), "ten of them wait for a tenth of a second each: {took:?}");
    // Others are not slowed down.
    let start = Instant::now();
    for number in 0..15 {
        Client::connect(server.address, &Connect::v5(&format!("c{number}"))).await;
    }
    assert!(start.elapsed() < took, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_id_that_has_to_wait_for_too_long_is_refused() {
    let config = BrokerConfig {
        reconnect_rate: 1,
        reconnect_burst: 2,
        connect_timeout: Duration::from_millis(100),
        ..BrokerConfig::default()
    };
    let server = with_config(config).await;
    assert_eq!(reconnect(&server, 5).await, [0, 0, 0, 0x9f, 0x9f]);
    assert_eq!(Client::try_connect(server.address, &Connect::v4("c")).await.code, 3);
    assert_eq!(Client::try_connect(server.address, &Connect::v4("d")).await.code, 0);
    // Refusals do not count.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(reconnect(&server, 1).await, [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_refused_slow_nobody_down() {
    let gate = ScriptedGate::new("no/");
    let config = BrokerConfig {
        reconnect_rate: 1,
        reconnect_burst: 2,
        connect_timeout: Duration::from_millis(100),
        ..BrokerConfig::default()
    };
    let server = with_gate(config, gate, Arc::new(NoHooks)).await;
    for _ in 0..20 {
        let thief = Connect::v5("c").login("u", "wrong");
        assert_eq!(Client::try_connect(server.address, &thief).await.code, 0x86);
    }
    assert_eq!(reconnect(&server, 3).await, [0; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_not_for_another_user_who_gives_its_client_id() {
    let gate = ScriptedGate::new("no/");
    let server = guarded(&gate).await;
    let mut owner =
        Client::connect(server.address, &Connect::v5("c").persistent().login("proved u", "")).await;
    owner.subscribe("t", 1).await;
    let thieves = [
        Connect::v5("c").login("proved v", ""),
        Connect::v5("c").persistent().login("proved v", ""),
        Connect::v5("c").persistent(),
        Connect::v4("c").login("u", ""),
    ];
    let refused = async || {
        for thief in &thieves {
            let mut client = Client::try_connect(server.address, thief).await;
            assert_eq!((client.code, client.present), (if thief.level == 5 { 0x85 } else { 2 }, false));
            assert_eq!(client.closed().await, None);
        }
    };
    refused().await;
    owner.ping().await;
    owner.disconnect().await;
    refused().await;
    Client::connect(server.address, &Connect::v4("p")).await.publish_done("t", "x", 1, 1).await;
    let mut again =
        Client::connect(server.address, &Connect::v5("c").persistent().login("proved u", "")).await;
    assert!(again.present);
    assert_eq!(again.take().await.payload, "x");
    // What was nobody's becomes the user's.
    Client::connect(server.address, &Connect::v5("d").persistent()).await.disconnect().await;
    let first = Connect::v5("d").persistent().login("proved u", "");
    assert!(Client::connect(server.address, &first).await.present);
    let second = Connect::v5("d").persistent().login("proved v", "");
    assert_eq!(Client::try_connect(server.address, &second).await.code, 0x85);
}

/// The user that had it first stayed its owner for ever: once that was gone, anybody could have it from everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_a_user_that_is_gone_is_the_next_ones_alone() {
    let (gate, journal) = (ScriptedGate::new("no/"), Journal::default());
    let start = async |store: Journal| {
        gated(BrokerConfig::default(), gate.clone(), Arc::new(NoHooks), Arc::new(store)).await
    };
    let first = start(journal.clone()).await;
    let nobody = Connect::v5("c").persistent();
    let [one, two, three] =
        ["proved 1", "proved 2", "proved 3"].map(|user| Connect::v5("c").persistent().login(user, ""));
    let knock = async |server: &Server, connect: &Connect| {
        let client = Client::try_connect(server.address, connect).await;
        let answer = (client.code, client.present);
        if client.code == 0 {
            client.disconnect().await;
        }
        answer
    };
    assert_eq!(knock(&first, &one).await, (0, false));
    assert_eq!(knock(&first, &two).await, (0x85, false));
    gate.without(&["proved 1"]);
    assert_eq!(knock(&first, &two).await, (0, true));
    let crashed = start(journal.after_a_crash()).await;
    for server in [&first, &crashed] {
        for thief in [&three, &nobody, &one] {
            assert_eq!(knock(server, thief).await, (0x85, false));
        }
        assert_eq!(knock(server, &two).await, (0, true));
    }
    // Who has proved nothing has it as long as nobody who has comes; the one before gets nothing back.
    gate.without(&["proved 2"]);
    assert_eq!(knock(&first, &nobody).await, (0, true));
    gate.without(&[]);
    assert_eq!(knock(&first, &nobody).await, (0, true));
    assert_eq!(knock(&first, &three).await, (0, true));
    for thief in [&nobody, &two] {
        assert_eq!(knock(&first, thief).await, (0x85, false));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_are_looked_at_again_only_for_other_rules_or_another_client() {
    let gate = ScriptedGate::new("no/");
    let server = guarded(&gate).await;
    let asked = || gate.asked().iter().filter(|line| line.starts_with("subscribe")).count();
    let connect = Connect::v5("c").persistent().login("u", "");
    let mut client = Client::connect(server.address, &connect).await;
    for number in 0..100 {
        client.subscribe(&format!("t/{number}"), 1).await;
    }
    client.disconnect().await;
    for (count, connect) in [
        (200, connect.clone()),
        (200, connect.clone()),
        (300, Connect::v5("c").persistent().login("v", "")),
        (400, connect.clone()),
        (400, connect.clone()),
    ] {
        let client = Client::connect(server.address, &connect).await;
        assert!(client.present);
        assert_eq!(asked(), count);
        client.disconnect().await;
    }
    gate.forbid("t/1");
    let mut client = Client::connect(server.address, &connect).await;
    assert_eq!(asked(), 500);
    client.publish_done("t/10", "x", 1, 1).await;
    client.ping().await;
}
