//! Shared subscriptions (MQTT 5 clause 4.8.2): whose turn it is, and what becomes of what a member leaves.

use std::sync::Arc;

use tidegate_broker::BrokerConfig;
use tidegate_event::NoHooks;

use crate::support::client::{Client, PUBACK, PUBREC};
use crate::support::packet::{Connect, Packet, ack, frame, subscribe};
use crate::support::store::Journal;
use crate::support::{Server, plain, start, with_config};

/// A member of the group `g` on `t`; it acknowledges nothing by itself.
async fn member(server: &Server, connect: &Connect) -> Client {
    let mut client = Client::connect(server.address, connect).await;
    client.subscribe("$share/g/t", 2).await;
    client
}

async fn publish(server: &Server, qos: u8, payloads: &[&str]) {
    let mut publisher = Client::connect(server.address, &Connect::v4("publisher")).await;
    for (id, payload) in (1..).zip(payloads) {
        publisher.publish_done("t", payload, qos, id).await;
    }
    publisher.disconnect().await;
}

/// Ends the connection without DISCONNECT, and waits until the broker knows.
async fn vanish(server: &Server, client: Client) {
    let before = server.broker.connections();
    drop(client);
    while server.broker.connections() >= before {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    // The session is let go of before the connection is counted out.
}

async fn messages(client: &mut Client, count: usize) -> Vec<String> {
    let mut payloads = Vec::new();
    for _ in 0..count {
        payloads.push(client.message().await.payload);
    }
    payloads
}

/// Everything that is there, acknowledged.
async fn all(client: &mut Client) -> Vec<String> {
    let (mut payloads, mut empty_rounds) = (Vec::new(), 0);
    loop {
        let before = payloads.len();
        client.send(&[0xc0, 0, 0xc0, 0]).await;
        let mut pongs = 0;
        while pongs < 2 {
            let packet = client.recv().await;
            if packet.first == 0xd0 {
                pongs += 1;
                continue;
            }
            let message = packet.published(client.v5);
            client.send(&ack(PUBACK, message.id)).await;
            payloads.push(message.payload);
        }
        // What an acknowledgement makes room for comes behind the answers.
        empty_rounds = if payloads.len() == before { empty_rounds + 1 } else { 0 };
        if empty_rounds == 2 {
            return payloads;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_queue_is_full_is_passed_over_and_nothing_is_lost() {
    let config = BrokerConfig { max_queued: 4, max_inflight: 2, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut slow = member(&server, &Connect::v5("slow")).await;
    let mut quick = member(&server, &Connect::v5("quick")).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("publisher")).await;
    let mut got = Vec::new();
    for number in 0..40 {
        publisher.publish_done("t", &number.to_string(), 1, number + 1).await;
        got.extend(all(&mut quick).await);
    }
    assert!(got.len() >= 30, "{} came to the one that takes them", got.len());
    let held = all(&mut slow).await;
    assert!(held.len() >= 2, "{held:?}");
    got.extend(held);
    got.sort_by_key(|payload| payload.parse::<u32>().unwrap());
    assert_eq!(got, (0..40).map(|number| number.to_string()).collect::<Vec<_>>());
}

/// The member behind one that was away got twice as much as the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_stay_even_beside_a_member_that_is_away() {
    let server = plain().await;
    let mut members = Vec::new();
    for name in ["a", "away", "b", "c"] {
        let connect = Connect::v5(name).persistent();
        members.push(member(&server, &connect).await);
    }
    members.remove(1).disconnect().await;
    publish(&server, 1, &["x"; 30]).await;
    for client in &mut members {
        assert_eq!(all(client).await.len(), 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_ended_session_has_not_acknowledged_goes_to_another_member() {
    let server = plain().await;
    let mut first = member(&server, &Connect::v5("first").receive_maximum(2)).await;
    publish(&server, 1, &["1", "2", "3", "4"]).await;
    assert_eq!(messages(&mut first, 2).await, ["1", "2"], "the others wait for room");
    let mut second = member(&server, &Connect::v4("second")).await;
    vanish(&server, first).await;
    for expected in ["1", "2", "3", "4"] {
        let message = second.take().await;
        assert_eq!((message.payload.as_str(), message.dup, message.qos), (expected, false, 1));
    }
    second.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_persistent_member_leaves_goes_to_another_and_does_not_come_back() {
    let server = plain().await;
    let connect = Connect::v5("first").persistent().receive_maximum(1);
    let mut first = member(&server, &connect).await;
    first.subscribe("own", 1).await;
    publish(&server, 1, &["1", "2"]).await;
    assert_eq!(messages(&mut first, 1).await, ["1"]);
    let mut second = member(&server, &Connect::v5("second")).await;
    vanish(&server, first).await;
    assert_eq!(second.payloads(2).await, ["1", "2"]);
    let mut first = Client::connect(server.address, &connect).await;
    assert!(first.present);
    first.ping().await;
    // An acknowledgement that comes late is no error.
    first.send(&ack(PUBACK, 1)).await;
    first.publish_done("own", "x", 1, 9).await;
    assert_eq!(first.take().await.payload, "x");
    second.ping().await;
}

/// A client that takes its own session over has what it was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_takes_its_session_over_keeps_what_it_has() {
    let server = plain().await;
    let connect = Connect::v5("first").persistent().receive_maximum(1);
    let mut first = member(&server, &connect).await;
    publish(&server, 1, &["1", "2"]).await;
    assert_eq!(messages(&mut first, 1).await, ["1"]);
    let mut second = member(&server, &Connect::v5("second")).await;
    let mut again = Client::connect(server.address, &connect).await;
    assert_eq!(first.closed().await, Some(0x8e));
    let message = again.take().await;
    assert_eq!((message.payload.as_str(), message.dup), ("1", true));
    assert_eq!(again.take().await.payload, "2");
    second.ping().await;
}

/// [MQTT-4.8.2-4]: it is completed with the member that was chosen, when that comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_2_message_in_flight_is_completed_with_its_member_and_one_that_waits_goes_to_another() {
    let server = plain().await;
    let connect = Connect::v5("first").persistent().receive_maximum(1);
    let mut first = member(&server, &connect).await;
    publish(&server, 2, &["sent", "waiting"]).await;
    assert_eq!(messages(&mut first, 1).await, ["sent"]);
    let mut second = member(&server, &Connect::v5("second")).await;
    vanish(&server, first).await;
    assert_eq!(second.take().await.payload, "waiting");
    second.ping().await;
    let mut first = Client::connect(server.address, &connect).await;
    let message = first.take().await;
    assert_eq!((message.payload.as_str(), message.dup, message.qos), ("sent", true, 2));
    first.ping().await;
    second.ping().await;
}

/// [MQTT-4.8.2-5]: the session ends before its client is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_2_message_in_flight_is_not_given_to_another_when_the_session_ends() {
    let server = plain().await;
    let mut first = member(&server, &Connect::v5("first")).await;
    publish(&server, 2, &["sent"]).await;
    assert_eq!(messages(&mut first, 1).await, ["sent"]);
    let mut second = member(&server, &Connect::v5("second")).await;
    vanish(&server, first).await;
    publish(&server, 1, &["next"]).await;
    assert_eq!(second.take().await.payload, "next");
    second.ping().await;
}

/// [MQTT-4.8.2-6].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_refuses_is_given_to_nobody() {
    let server = plain().await;
    let connect = Connect::v5("first").persistent();
    let mut first = member(&server, &connect).await;
    for qos in [1, 2] {
        publish(&server, qos, &["no"]).await;
        let message = first.message().await;
        let [high, low] = message.id.to_be_bytes();
        let refusal = if qos == 1 { PUBACK } else { PUBREC };
        first.send(&frame(refusal, &[high, low, 0x83])).await;
        first.ping().await;
    }
    let mut second = member(&server, &Connect::v5("second")).await;
    vanish(&server, first).await;
    second.ping().await;
    let mut first = Client::connect(server.address, &connect).await;
    first.ping().await;
}

/// What it was sent it still acknowledges ([MQTT-3.10.4-3]).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_member_that_unsubscribes_goes_to_another() {
    let server = plain().await;
    let mut first = member(&server, &Connect::v5("first").receive_maximum(1)).await;
    first.subscribe("own", 1).await;
    publish(&server, 1, &["1", "2", "3"]).await;
    let sent = first.message().await;
    let mut second = member(&server, &Connect::v5("second")).await;
    first.unsubscribe(&["$share/g/t"]).await;
    assert_eq!(second.payloads(2).await, ["2", "3"]);
    second.ping().await;
    first.ping().await;
    first.send(&ack(PUBACK, sent.id)).await;
    first.ping().await;
    second.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_first_gets_what_waits_for_a_group_whose_members_were_all_away() {
    let server = plain().await;
    let connects = ["a", "b"].map(|name| Connect::v5(name).persistent());
    for connect in &connects {
        member(&server, connect).await.disconnect().await;
    }
    publish(&server, 1, &["1", "2", "3", "4"]).await;
    publish(&server, 0, &["nobody is there for it"]).await;
    let mut first = Client::connect(server.address, &connects[1]).await;
    let mut got = first.payloads(4).await;
    got.sort();
    assert_eq!(got, ["1", "2", "3", "4"]);
    let mut other = Client::connect(server.address, &connects[0]).await;
    assert!(other.present);
    other.ping().await;
    first.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_gets_what_nobody_could_take() {
    let server = plain().await;
    let mut away = member(&server, &Connect::v5("away").persistent()).await;
    publish(&server, 1, &["1"]).await;
    assert_eq!(messages(&mut away, 1).await, ["1"]);
    vanish(&server, away).await;
    publish(&server, 1, &["2"]).await;
    let mut fresh = member(&server, &Connect::v4("fresh")).await;
    assert_eq!(fresh.payloads(2).await, ["1", "2"]);
    fresh.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_groups_and_its_own_subscription_each_give_a_copy() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    for (filter, id) in [("$share/g/t", 1), ("$share/h/t", 2), ("$share/g/+", 3), ("t", 4), ("+", 5)] {
        client.subscribe_with(&[(filter, 1)], &[0x0b, id]).await;
    }
    publish(&server, 1, &["x"]).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(client.take().await.properties);
    }
    ids.sort();
    assert_eq!(ids, [vec![0x0b, 1], vec![0x0b, 2], vec![0x0b, 3], vec![0x0b, 4, 0x0b, 5]]);
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_name_has_no_wildcards_and_a_filter_behind_it() {
    let server = plain().await;
    for filter in
        ["$share/g+/t", "$share/g#/t", "$share/+/t", "$share/g", "$share/g/", "$share//t", "$share/g/a#"]
    {
        let mut client = Client::connect(server.address, &Connect::v5("c")).await;
        client.send(&subscribe(true, 1, &[(filter, 1)], &[])).await;
        assert_eq!(client.closed().await, Some(0x81), "{filter}");
    }
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    assert_eq!(client.subscribe_all(&[("$share/g//", 1), ("$share/é/t", 1)]).await, [1, 1]);
}

/// After a restart the queue does not tell which messages are of a shared subscription.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_for_a_member_before_a_restart_goes_to_who_comes_first() {
    let journal = Journal::default();
    let server = start(BrokerConfig::default(), Arc::new(NoHooks), Arc::new(journal.clone())).await;
    let mut away = member(&server, &Connect::v5("away").persistent()).await;
    away.subscribe("own", 1).await;
    away.disconnect().await;
    publish(&server, 1, &["shared"]).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("own", "own", 1, 1).await;
    server.broker.shutdown(std::time::Duration::from_secs(5)).await;
    assert_eq!(journal.counts("away").0, 2);

    let server = start(BrokerConfig::default(), Arc::new(NoHooks), Arc::new(journal.clone())).await;
    let mut other = member(&server, &Connect::v5("other").persistent()).await;
    assert_eq!(other.payloads(1).await, ["shared"]);
    let mut away = Client::connect(server.address, &Connect::v5("away").persistent()).await;
    assert_eq!(away.payloads(1).await, ["own"]);
    away.ping().await;
    assert_eq!((journal.counts("away").0, journal.counts("other").0), (0, 0));
}

/// Many members come and go under load: at QoS 1 every message reaches somebody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_lost_while_members_come_and_go() {
    let server = plain().await;
    let mut steady = member(&server, &Connect::v5("steady")).await;
    let address = server.address;
    let churn = tokio::spawn(async move {
        let mut got = Vec::new();
        for round in 0..40 {
            let connect = Connect::v5(&format!("m{}", round % 3)).receive_maximum(3);
            let connect = if round % 2 == 0 { connect.expiry(60) } else { connect };
            let mut client = Client::connect(address, &connect).await;
            client.subscribe("$share/g/t", 1).await;
            for _ in 0..round % 5 {
                if let Ok(Some(packet)) =
                    tokio::time::timeout(std::time::Duration::from_millis(20), client.next()).await
                {
                    let message: Packet = packet;
                    let message = message.published(true);
                    client.send(&ack(PUBACK, message.id)).await;
                    got.push(message.payload);
                }
            }
            if round % 4 == 3 {
                client.unsubscribe_any("$share/g/t").await;
            }
            drop(client);
        }
        got
    });
    let publisher = tokio::spawn(async move {
        let mut publisher = Client::connect(address, &Connect::v4("publisher")).await;
        for number in 0..1_500_u16 {
            publisher.publish_done("t", &number.to_string(), 1, number + 1).await;
        }
    });
    let mut got = Vec::new();
    while !publisher.is_finished() || !churn.is_finished() {
        got.extend(all(&mut steady).await);
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    publisher.await.unwrap();
    got.extend(churn.await.unwrap());
    // Those who left last have given back what they had.
    for _ in 0..20 {
        got.extend(all(&mut steady).await);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut numbers: Vec<u16> = got.iter().map(|payload| payload.parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let missing: Vec<u16> = (0..1_500).filter(|number| numbers.binary_search(number).is_err()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
