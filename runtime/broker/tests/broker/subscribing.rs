//! SUBSCRIBE and UNSUBSCRIBE: matching, options, identifiers, shared subscriptions (MQTT 5 clauses 3.8 to 3.11, 4.7, 4.8).

use crate::support::client::Client;
use crate::support::packet::{self, Connect, Publish};
use crate::support::plain;

/// No local, retain as published.
const NO_LOCAL: u8 = 4;
const AS_PUBLISHED: u8 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wildcards_match_by_levels_and_hide_dollar_topics() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for (filter, topic, reaches) in [
        ("a/#", "a", true),
        ("a/+", "a/b", true),
        ("a/+", "a", false),
        ("+/+", "/x", true),
        ("#", "$own/x", false),
        ("+/x", "$own/x", false),
        ("$own/#", "$own/x", true),
        ("é/+", "é/x", true),
        ("a//b", "a//b", true),
    ] {
        assert_eq!(client.subscribe(filter, 0).await, 0, "{filter}");
        publisher.publish_done(topic, "x", 1, 1).await;
        if reaches {
            assert_eq!(client.take().await.topic, topic, "{filter}");
        }
        client.ping().await;
        client.unsubscribe(&[filter]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misplaced_wildcard_ends_the_connection() {
    let server = plain().await;
    for filter in ["a/#/b", "a+", "#a", "b/+c/d", ""] {
        for ask in [
            |v5: bool, filter: &str| packet::subscribe(v5, 1, &[("good", 1), (filter, 1)], &[]),
            |v5: bool, filter: &str| packet::unsubscribe(v5, 1, &["good", filter]),
        ] {
            let mut five = Client::connect(server.address, &Connect::v5("five")).await;
            five.send(&ask(true, filter)).await;
            assert_eq!(five.closed().await, Some(0x81), "{filter:?}");
            let mut four = Client::connect(server.address, &Connect::v4("four")).await;
            four.send(&ask(false, filter)).await;
            assert_eq!(four.next().await, None, "{filter:?}");
        }
    }
}

/// It ended the connection, as if it broke a rule, and the filters beside it were lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_of_too_many_levels_is_refused_alone() {
    let server = plain().await;
    let deep = "a/".repeat(200) + "+";
    for (connect, code) in [(Connect::v4("four"), 0x80), (Connect::v5("five"), 0x8f)] {
        let mut client = Client::connect(server.address, &connect).await;
        assert_eq!(client.subscribe_all(&[(&deep, 1), ("good", 1)]).await, [code, 1]);
        let answer = client.unsubscribe(&[&deep, "good"]).await;
        if connect.v5 {
            assert_eq!(answer.body[3..], [0x11, 0]);
        }
    }
}

/// `$share/NAME/FILTER` came with MQTT 5. Before, what looks like half of it is a filter, which the broker may refuse.
/// It ended the connection, as if it broke a rule, and the filters beside it were lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_shared_subscription_is_malformed_in_mqtt_5_and_refused_before() {
    let server = plain().await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    let filters = [("good", 1), ("$share/g", 1), ("$share//t", 1), ("$share/g/", 1), ("b", 2)];
    assert_eq!(four.subscribe_all(&filters).await, [1, 0x80, 0x80, 0x80, 2]);
    four.publish_done("good", "x", 1, 1).await;
    assert_eq!(four.take().await.payload, "x");
    for (filter, _) in &filters[1..4] {
        let mut five = Client::connect(server.address, &Connect::v5("five")).await;
        five.send(&packet::subscribe(true, 1, &[(filter, 1)], &[])).await;
        assert_eq!(five.closed().await, Some(0x81), "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsubscribe_is_answered_once_for_all_its_filters() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe_all(&[("a", 0), ("b", 0)]).await;
    let answer = client.unsubscribe(&["a", "nothing", "b"]).await;
    assert_eq!(answer.body[3..], [0, 0x11, 0]);
    client.publish_done("a", "x", 1, 1).await;
    client.ping().await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    assert_eq!(four.unsubscribe(&["nothing", "more"]).await.body.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_subscriptions_give_one_copy_with_all_ids() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe_with(&[("a/#", 0)], &[0x0b, 1]).await;
    client.subscribe_with(&[("a/+", 2)], &[0x0b, 0x80, 0x01]).await;
    client.subscribe_with(&[("a/b", 1)], &[]).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("a/b", "x", 2, 1).await;
    let message = client.take().await;
    assert_eq!(message.qos, 2, "the greatest");
    assert_eq!(message.properties, [0x0b, 1, 0x0b, 0x80, 0x01]);
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_local_keeps_ones_own_messages_away() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe("t", NO_LOCAL).await;
    let mut other = Client::connect(server.address, &Connect::v5("other")).await;
    client.publish_done("t", "mine", 1, 1).await;
    other.publish_done("t", "theirs", 1, 1).await;
    assert_eq!(client.take().await.payload, "theirs");
    client.subscribe("+", 0).await;
    client.publish("t", "mine", 1, 2).await;
    client.finish(1, 2).await;
    assert_eq!(client.take().await.payload, "mine", "another subscription wants it");
    client.ping().await;
    client.send(&packet::subscribe(true, 5, &[("$share/g/t", NO_LOCAL)], &[])).await;
    assert_eq!(client.closed().await, Some(0x82), "no local on a shared subscription");
}

/// What was retained before is "sent as the result of a new subscription" (clause 3.3.1.3); what the client publishes
/// afterwards would be forwarded by an established one, also when it is looked up so soon that both are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_local_lets_a_new_subscription_bring_what_the_client_itself_had_retained() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.retain("t/before", "x").await;
    for _ in 0..50 {
        let mut bytes = crate::support::packet::subscribe(true, 5, &[("t/+", NO_LOCAL)], &[]);
        bytes.extend(Publish { qos: 1, id: 9, retain: true, ..client.draft("t/after", "x") }.bytes());
        client.send(&bytes).await;
        let mut topics = Vec::new();
        for _ in 0..3 {
            let packet = client.recv().await;
            if packet.kind() == 3 {
                topics.push(packet.published(true).topic);
            }
        }
        assert_eq!(topics, ["t/before"]);
        client.ping().await;
        client.unsubscribe(&["t/+"]).await;
        client.retain("t/after", "").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_retain_flag_is_kept_only_when_asked_for() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.subscribe("plain", 0).await;
    client.subscribe("kept", AS_PUBLISHED).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.retain("plain", "x").await;
    publisher.retain("kept", "x").await;
    publisher.publish_done("kept", "y", 0, 0).await;
    assert!(!client.take().await.retain);
    assert!(client.take().await.retain);
    assert!(!client.take().await.retain);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_subscription_replaces_the_old_one() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 0).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("t", "x", 1, 1).await;
    assert_eq!(client.take().await.qos, 1);
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_subscriptions_give_each_message_to_one_member() {
    let server = plain().await;
    let mut members = Vec::new();
    for number in 0..3 {
        let mut client = Client::connect(server.address, &Connect::v5(&format!("m{number}"))).await;
        assert_eq!(client.subscribe("$share/g/t/+", 1).await, 1);
        members.push(client);
    }
    let mut other_group = Client::connect(server.address, &Connect::v4("o")).await;
    other_group.subscribe("$share/h/t/+", 0).await;
    let mut alone = Client::connect(server.address, &Connect::v4("a")).await;
    alone.subscribe("t/+", 0).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 0..9 {
        publisher.publish_done("t/x", &number.to_string(), 1, number + 1).await;
    }
    assert_eq!(alone.payloads(9).await.len(), 9);
    assert_eq!(other_group.payloads(9).await.len(), 9);
    let mut all = Vec::new();
    for member in &mut members {
        all.extend(member.payloads(3).await);
        member.ping().await;
    }
    all.sort();
    assert_eq!(all, ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_prefers_members_that_are_connected() {
    let server = plain().await;
    let mut away = Client::connect(server.address, &Connect::v5("away").persistent()).await;
    away.subscribe("$share/g/t", 1).await;
    let mut here = Client::connect(server.address, &Connect::v5("here")).await;
    here.subscribe("$share/g/t", 1).await;
    away.disconnect().await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 0..4 {
        publisher.publish_done("t", &number.to_string(), 1, number + 1).await;
    }
    assert_eq!(here.payloads(4).await, ["0", "1", "2", "3"]);
    here.disconnect().await;
    publisher.publish_done("t", "kept", 1, 9).await;
    let mut back = Client::connect(server.address, &Connect::v5("away").persistent()).await;
    assert!(back.present);
    assert_eq!(back.take().await.payload, "kept", "nobody else is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_expires_while_it_waits() {
    let server = plain().await;
    let mut away = Client::connect(server.address, &Connect::v5("away").persistent()).await;
    away.subscribe("t", 1).await;
    away.disconnect().await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    for (id, payload, seconds) in [(1, "short", 1), (2, "long", 100)] {
        let expiry = [0x02, 0, 0, 0, seconds];
        publisher
            .publish_as(Publish { qos: 1, id, properties: &expiry, ..publisher.draft("t", payload) })
            .await;
        publisher.finish(1, id).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let mut back = Client::connect(server.address, &Connect::v5("away").persistent()).await;
    let message = back.take().await;
    assert_eq!(message.payload, "long");
    let [0x02, 0, 0, 0, left] = message.properties[..] else { panic!("{:?}", message.properties) };
    assert!((90..=99).contains(&left), "the seconds left, got {left}");
    back.ping().await;
}

/// Every filter of a packet starts a join of its own: hundreds of thousands in one packet stopped the broker for minutes,
/// and took a hundred times the packet's memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_subscribe_can_start_is_bounded() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.retain("r", "x").await;
    assert_eq!(client.subscribe_all(&[("r", 0); 1_000]).await, [0; 1_000]);
    client.send(&packet::subscribe(true, 7, &[("r", 0); 1_001], &[])).await;
    assert_eq!(client.closed().await, Some(0x97));
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.send(&packet::unsubscribe(true, 7, &["r"; 1_001])).await;
    assert_eq!(client.closed().await, Some(0x97));
}
