//! What one client, and all of them together, may have: subscriptions, topics, retained messages, sessions, rates.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_broker::{BrokerConfig, RateAction};
use tidegate_event::NoHooks;

use crate::support::client::{Client, PATIENCE, PUBACK, PUBCOMP, PUBREL};
use crate::support::packet::{self, Connect, Publish};
use crate::support::store::Journal;
use crate::support::{journalled, plain, start, with_config};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_subscription_too_many_is_refused_and_those_that_are_there_can_be_changed() {
    let server = with_config(BrokerConfig { max_subscriptions: 2, ..BrokerConfig::default() }).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let filters = [("a", 0), ("b", 1), ("c", 1), ("a", 2), ("$share/g/c", 1)];
    assert_eq!(client.subscribe_all(&filters).await, [0, 1, 0x97, 2, 0x97]);
    client.unsubscribe(&["b"]).await;
    assert_eq!(client.subscribe("c", 1).await, 1);
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    assert_eq!(four.subscribe_all(&[("a", 0), ("b", 1), ("c", 1)]).await, [0, 1, 0x80]);
}

/// Every group of one client on one filter is a delivery more for whoever publishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_has_only_so_many_shared_subscriptions() {
    let server = with_config(BrokerConfig { max_shared_subscriptions: 2, ..BrokerConfig::default() }).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let filters = [("$share/1/#", 1), ("$share/2/#", 1), ("$share/3/#", 1), ("$share/1/#", 0), ("#", 1)];
    assert_eq!(client.subscribe_all(&filters).await, [1, 1, 0x97, 0, 1]);
    client.unsubscribe(&["$share/2/#"]).await;
    assert_eq!(client.subscribe("$share/3/#", 1).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_subscriptions_of_all_clients_are_bounded_in_memory() {
    let config = BrokerConfig { max_subscription_bytes: 20_000, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut granted = 0;
    for number in 0..10 {
        let mut client =
            Client::connect(server.address, &Connect::v5(&format!("c{number}")).expiry(60)).await;
        let filters: Vec<String> = (0..10).map(|n| format!("some/{number}/{n}")).collect();
        let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
        let codes = client.subscribe_all(&filters).await;
        granted += codes.iter().filter(|code| **code == 1).count();
        assert!(codes.iter().all(|code| matches!(code, 1 | 0x97)));
    }
    assert!((20..70).contains(&granted), "{granted}");
    let mut first = Client::connect(server.address, &Connect::v5("c0").persistent()).await;
    assert_eq!(first.subscribe("some/0/0", 2).await, 2, "it has that one");
    first.unsubscribe(&["some/0/1"]).await;
    assert_eq!(first.subscribe("some/0/x", 1).await, 1, "there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_too_long_is_refused_with_its_code() {
    let server = with_config(BrokerConfig { max_topic_bytes: 20, ..BrokerConfig::default() }).await;
    let (fits, long) = ("x".repeat(20), "x".repeat(21));
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    assert_eq!(client.subscribe_all(&[(&fits, 1), (&long, 1)]).await, [1, 0x8f]);
    client.publish_done(&fits, "x", 1, 1).await;
    assert_eq!(client.take().await.topic, fits);
    client.publish(&long, "x", 1, 2).await;
    assert_eq!(client.closed().await, Some(0x90));
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    four.publish(&long, "x", 1, 2).await;
    assert_eq!(four.closed().await, None);
    let will = Client::try_connect(server.address, &Connect::v5("will").will(&long, "x", 0, false)).await;
    assert_eq!(will.code, 0x90);
}

/// Clients measure how long a topic may be: the protocol's own limit is the default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_as_long_as_the_protocol_allows_is_taken() {
    let server = crate::support::plain().await;
    let topic = "x".repeat(65_535);
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    assert_eq!(client.subscribe(&topic, 1).await, 1);
    client.publish_done(&topic, "x", 1, 1).await;
    assert_eq!(client.take().await.topic.len(), 65_535);
}

/// It was delivered and silently not retained.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_retained_is_refused_to_who_can_be_told() {
    let server = with_config(BrokerConfig { max_retained: 1, ..BrokerConfig::default() }).await;
    let mut subscriber = Client::connect(server.address, &Connect::v5("s")).await;
    subscriber.subscribe("+", 1).await;
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    five.retain("a", "first").await;
    assert_eq!(subscriber.take().await.payload, "first");
    five.publish_as(Publish { qos: 1, id: 7, retain: true, ..five.draft("b", "refused") }).await;
    let answer = five.expect(PUBACK).await;
    assert_eq!((answer.id(), answer.reason()), (7, 0x97));
    five.publish_as(Publish { qos: 2, id: 8, retain: true, ..five.draft("b", "refused") }).await;
    let answer = five.recv().await;
    assert_eq!((answer.first, answer.id(), answer.reason()), (0x50, 8, 0x97));
    subscriber.ping().await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    four.retain("b", "only delivered").await;
    assert_eq!(subscriber.take().await.payload, "only delivered");
    five.publish_as(Publish { retain: true, ..five.draft("c", "only delivered, too") }).await;
    assert_eq!(subscriber.take().await.payload, "only delivered, too");
    // One in the place of another needs no more room, and a deletion makes some.
    five.retain("a", "second").await;
    assert_eq!(subscriber.take().await.payload, "second");
    five.retain("a", "").await;
    assert_eq!(subscriber.take().await.payload, "");
    five.retain("b", "third").await;
    assert_eq!(subscriber.take().await.payload, "third");
}

/// The one before stayed, and new subscribers took it for the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_not_retained_leaves_no_older_one_in_its_place() {
    let config = BrokerConfig { max_retained_bytes: 10_000, ..BrokerConfig::default() };
    let journal = Journal::default();
    let server = start(config, Arc::new(NoHooks), Arc::new(journal.clone())).await;
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    for topic in ["a", "b", "c"] {
        five.retain(topic, "old").await;
    }
    let large = "x".repeat(20_000);
    five.publish_as(Publish { qos: 1, id: 7, retain: true, ..five.draft("a", &large) }).await;
    assert_eq!(five.expect(PUBACK).await.reason(), 0x97, "it is told, and its topic keeps what it has");
    five.publish_as(Publish { retain: true, ..five.draft("b", &large) }).await;
    five.ping().await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    four.retain("c", &large).await;
    let restarted = journalled(&journal.after_a_crash()).await;
    for address in [server.address, restarted.address] {
        let mut client = Client::connect(address, &Connect::v5("s")).await;
        client.subscribe("+", 1).await;
        assert_eq!(client.take().await.topic, "a");
        client.ping().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_too_many_is_refused_and_those_that_are_there_can_be_resumed() {
    let server = with_config(BrokerConfig { max_sessions: 2, ..BrokerConfig::default() }).await;
    let kept = Connect::v5("kept").persistent();
    let stays = Client::connect(server.address, &kept).await;
    let here = Client::connect(server.address, &Connect::v4("here")).await;
    let refused = Client::try_connect(server.address, &Connect::v5("more")).await;
    assert_eq!(refused.code, 0x97);
    let refused = Client::try_connect(server.address, &Connect::v4("more")).await;
    assert_eq!(refused.code, 3, "server unavailable");
    let mut back = Client::connect(server.address, &kept).await;
    assert!(back.present);
    drop(stays);
    back.ping().await;
    here.disconnect().await;
    let begun = Instant::now();
    while Client::try_connect(server.address, &Connect::v5("more")).await.code != 0 {
        assert!(begun.elapsed() < PATIENCE);
    }
}

/// Whoever came with as many ids as there may be sessions locked everybody out until they expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_one_session_too_many_the_one_gives_way_whose_client_is_away_longest() {
    let server = with_config(BrokerConfig { max_sessions: 10, ..BrokerConfig::default() }).await;
    let kept = |number: usize| Connect::v5(&format!("kept {number}")).persistent();
    for number in 0..10 {
        Client::connect(server.address, &kept(number)).await.disconnect().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Who has been there meanwhile is not the one.
    Client::connect(server.address, &kept(0)).await.disconnect().await;
    let mut honest = Client::connect(server.address, &Connect::v4("honest")).await;
    honest.ping().await;
    assert_eq!(server.broker.sessions(), 10);
    for number in [2, 9, 0] {
        assert!(Client::connect(server.address, &kept(number)).await.present, "{number}");
    }
    assert!(!Client::connect(server.address, &kept(1)).await.present);
}

/// One client could take the memory of all subscriptions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_takes_only_a_part_of_the_memory_of_subscriptions() {
    let config = BrokerConfig { max_subscription_bytes: 80_000, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut greedy = Client::connect(server.address, &Connect::v5("greedy")).await;
    let mut granted = 0;
    while greedy.subscribe(&format!("some/{granted}"), 1).await == 1 {
        granted += 1;
    }
    assert!((20..30).contains(&granted), "{granted}");
    let mut other = Client::connect(server.address, &Connect::v5("other")).await;
    assert_eq!(other.subscribe("some/#", 1).await, 1);
}

/// Ids and names of 65,535 bytes were kept with every session and message, and counted nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_id_or_user_name_that_is_too_long_is_refused_with_its_code() {
    let server = crate::support::plain().await;
    let id = |length: usize| "i".repeat(length);
    for (v5, v4) in [(Connect::v5 as fn(&str) -> Connect, false), (Connect::v4, true)] {
        let code = |five, four| if v4 { four } else { five };
        assert_eq!(Client::try_connect(server.address, &v5(&id(1_024))).await.code, 0);
        assert_eq!(Client::try_connect(server.address, &v5(&id(1_025))).await.code, code(0x85, 2));
        for (length, five, four) in [(4_096, 0, 0), (4_097, 0x86, 4)] {
            let named = v5("named").login(&id(length), "");
            assert_eq!(Client::try_connect(server.address, &named).await.code, code(five, four), "{length}");
        }
    }
}

/// Each connection could have as many as the receive maximum, and the session kept all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_holds_only_so_many_messages_without_pubrel_over_all_connections() {
    let server = with_config(BrokerConfig { receive_maximum: 200, ..BrokerConfig::default() }).await;
    let mut sent = 0;
    'connections: loop {
        let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
        for _ in 0..200 {
            sent += 1;
            client.publish("t", "x", 2, sent).await;
            let answer = client.next().await.expect("PUBREC or DISCONNECT");
            if answer.kind() == 14 {
                assert_eq!(answer.body.first(), Some(&0x93));
                break 'connections;
            }
            assert_eq!(answer.kind(), 5);
        }
    }
    assert_eq!(sent, 1_025);
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    client.send(&packet::ack(PUBREL, 1)).await;
    assert_eq!(client.expect(PUBCOMP).await.id(), 1);
    client.publish_done("t", "x", 2, 1_025).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_publishes_too_fast_waits_and_loses_nothing() {
    let server = with_config(BrokerConfig { max_message_rate: 200, ..BrokerConfig::default() }).await;
    let mut subscriber = Client::connect(server.address, &Connect::v5("s")).await;
    subscriber.subscribe("t", 0).await;
    let mut client = Client::connect(server.address, &Connect::v4("c").keep_alive(1)).await;
    let begun = Instant::now();
    for id in 1..=500 {
        client.publish("t", "x", 1, id).await;
    }
    for id in 1..=500 {
        assert_eq!(client.expect(PUBACK).await.id(), id);
    }
    let elapsed = begun.elapsed();
    assert!(elapsed >= Duration::from_millis(1_450), "200 at once, 300 at 200 a second: {elapsed:?}");
    assert_eq!(subscriber.payloads(500).await.len(), 500);
    client.ping().await;
    // Others are not held up.
    let mut other = Client::connect(server.address, &Connect::v4("other")).await;
    let begun = Instant::now();
    other.publish_done("t", "x", 1, 1).await;
    assert!(begun.elapsed() < Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_too_many_bytes_waits() {
    let config = BrokerConfig { max_byte_rate: 100_000, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let begun = Instant::now();
    for id in 1..=20 {
        client.publish_done("t", &"x".repeat(10_000), 1, id).await;
    }
    let elapsed = begun.elapsed();
    assert!(elapsed >= Duration::from_millis(900), "100 kB at once, 100 kB a second: {elapsed:?}");
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_too_fast_is_disconnected_where_that_is_wanted() {
    let config =
        BrokerConfig { max_message_rate: 10, rate_action: RateAction::Disconnect, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    for _ in 0..20 {
        five.try_send(&Publish { ..five.draft("t", "x") }.bytes()).await;
        four.try_send(&Publish { ..four.draft("t", "x") }.bytes()).await;
    }
    assert_eq!(five.closed().await, Some(0x96));
    assert_eq!(four.closed().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_bounded_in_bytes() {
    let server = with_config(BrokerConfig { max_queued_bytes: 10_000, ..BrokerConfig::default() }).await;
    let away = Connect::v5("away").persistent();
    let mut client = Client::connect(server.address, &away).await;
    client.subscribe("t", 1).await;
    client.disconnect().await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for id in 1..=10 {
        publisher.publish_done("t", &format!("{id:>3}{}", "x".repeat(2_000)), 1, id).await;
    }
    let mut client = Client::connect(server.address, &away).await;
    let mut got = Vec::new();
    client.send(&[0xc0, 0, 0xc0, 0]).await;
    let mut pongs = 0;
    while pongs < 2 {
        let packet = client.recv().await;
        match packet.first {
            0xd0 => pongs += 1,
            _ => got.push(packet.published(true).payload[..3].trim().to_owned()),
        }
    }
    assert_eq!(got, ["1", "2", "3", "4"], "the oldest are kept");
}

/// Sixteen queues of a thousand messages of 16 KiB would be 256 MiB, of one payload each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queues_of_all_sessions_have_one_budget_and_who_keeps_up_loses_nothing() {
    let config = BrokerConfig { queue_budget_bytes: 200_000, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let names: Vec<String> = (0..10).map(|number| format!("away{number}")).collect();
    for name in &names {
        let mut client = Client::connect(server.address, &Connect::v5(name).persistent()).await;
        client.subscribe("t/#", 1).await;
        client.disconnect().await;
    }
    let mut quick = Client::connect(server.address, &Connect::v5("quick")).await;
    quick.subscribe("t/#", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 0..200 {
        let qos = u8::from(number % 2 == 0);
        publisher.publish_done("t/x", &"x".repeat(1_000), qos, number + 1).await;
        assert_eq!(quick.take().await.payload.len(), 1_000, "it keeps up");
    }
    let mut kept = 0;
    for name in &names {
        let mut client = Client::connect(server.address, &Connect::v5(name).persistent()).await;
        client.send(&[0xc0, 0, 0xc0, 0]).await;
        let mut pongs = 0;
        while pongs < 2 {
            match client.recv().await.first {
                0xd0 => pongs += 1,
                _ => kept += 1,
            }
        }
    }
    assert!((100..200).contains(&kept), "about 200 kB of 1,000 messages of 1 kB: {kept}");
}

/// A payload for many subscribers is in memory once: it counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_message_for_many_does_not_use_the_budget_up() {
    let config = BrokerConfig { queue_budget_bytes: 1 << 20, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let names: Vec<String> = (0..20).map(|number| format!("away{number}")).collect();
    for name in &names {
        let mut client = Client::connect(server.address, &Connect::v5(name).persistent()).await;
        client.subscribe("firmware", 1).await;
        client.disconnect().await;
    }
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("firmware", &"x".repeat(500_000), 1, 1).await;
    for name in &names {
        let mut client = Client::connect(server.address, &Connect::v5(name).persistent()).await;
        assert_eq!(client.take().await.payload.len(), 500_000);
    }
    // It has been given back: three more do not fit at once, but one after the other.
    for id in 2..=4 {
        publisher.publish_done("firmware", &"x".repeat(500_000), 1, id).await;
        for name in &names {
            let mut client = Client::connect(server.address, &Connect::v5(name).persistent()).await;
            assert_eq!(client.take().await.payload.len(), 500_000);
            client.disconnect().await;
        }
    }
}

/// Aliases were counted, not the names that they stand for: 32 of 64 KiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_aliases_stand_for_are_bounded_in_bytes() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let name = |letter: &str| letter.repeat(20_000);
    for (alias, letter) in [(1, "a"), (2, "b"), (3, "c"), (3, "d"), (3, "d")] {
        let topic = name(letter);
        let properties = [0x23, 0, alias];
        client.publish_as(Publish { properties: &properties, ..client.draft(&topic, "x") }).await;
        client.ping().await;
    }
    let topic = name("e");
    client.publish_as(Publish { properties: &[0x23, 0, 4], ..client.draft(&topic, "x") }).await;
    assert_eq!(client.closed().await, Some(0x97));
}

/// Wills were bounded by nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_wills_count_in_the_memory_of_all_queues() {
    let config = BrokerConfig { queue_budget_bytes: 1 << 20, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let payload = "x".repeat(60_000);
    let connect = |number: u16| Connect::v5(&format!("c{number}")).will("t", &payload, 0, false);
    let (mut clients, mut refused) = (Vec::new(), 0);
    for number in 0..30 {
        let client = Client::try_connect(server.address, &connect(number)).await;
        match client.code {
            0 => clients.push(client),
            code => {
                assert_eq!(code, 0x97);
                refused += 1;
            }
        }
    }
    assert!((10..18).contains(&clients.len()), "{} and {refused}", clients.len());
    Client::connect(server.address, &Connect::v5("small").will("t", "gone", 0, false)).await.ping().await;
    for client in clients {
        client.disconnect().await;
    }
    while server.broker.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Client::connect(server.address, &connect(99)).await.ping().await;
}
