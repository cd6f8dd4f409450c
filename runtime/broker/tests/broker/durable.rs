//! What is promised to clients of durable sessions is on disk before it is said, and is kept over a crash
//! (MQTT 5 clauses 4.1, 4.3.3 and 4.4).

use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::BrokerConfig;
use tidegate_event::{Hook, Message, QoS, Verdict};

use crate::support::client::{Client, PUBACK, PUBCOMP, PUBREC, PUBREL};
use crate::support::packet::{Connect, Publish, ack};
use crate::support::script::{Script, decide};
use crate::support::store::Journal;
use crate::support::{Server, journalled, start};

/// Waits until the broker waits for the disk.
pub(crate) async fn until_waiting(journal: &Journal) {
    tokio::time::timeout(Duration::from_secs(20), async {
        while journal.waiting() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("something waits for the disk");
}

/// Connects while the disk is slow: it writes what CONNACK waits for, and no more.
async fn connect_slowly(server: &Server, connect: &Connect, journal: &Journal) -> Client {
    let (address, connect) = (server.address, connect.clone());
    let client = tokio::spawn(async move { Client::connect(address, &connect).await });
    until_waiting(journal).await;
    journal.sync();
    client.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pubcomp_comes_when_the_packet_id_is_free_on_disk() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    client.publish("t", "x", 2, 1).await;
    client.expect(PUBREC).await;
    journal.slow();
    client.send(&ack(PUBREL, 1)).await;
    client.ping().await;
    // Or the client would use the id for another message, which would be taken for this one.
    let crashed = journalled(&journal.after_a_crash()).await;
    let mut again = Client::connect(crashed.address, &Connect::v5("c").persistent()).await;
    again.send(&ack(PUBREL, 1)).await;
    assert_eq!(again.expect(PUBCOMP).await.reason(), 0, "the id is in use until PUBCOMP");
    journal.sync();
    assert_eq!(client.expect(PUBCOMP).await.id(), 1);
    let crashed = journalled(&journal.after_a_crash()).await;
    let mut again = Client::connect(crashed.address, &Connect::v5("c").persistent()).await;
    again.send(&ack(PUBREL, 1)).await;
    assert_eq!(again.expect(PUBCOMP).await.reason(), 0x92);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_2_message_is_routed_once_over_a_crash() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut subscriber = Client::connect(server.address, &Connect::v5("s").persistent()).await;
    subscriber.subscribe("t", 2).await;
    subscriber.disconnect().await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    journal.slow();
    client.publish("t", "x", 2, 1).await;
    until_waiting(&journal).await;
    client.ping().await;
    let before = journal.after_a_crash();
    journal.sync();
    client.expect(PUBREC).await;
    for (journal, what) in [(before, "before PUBREC"), (journal.after_a_crash(), "after PUBREC")] {
        let server = journalled(&journal).await;
        let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
        client.publish_as(Publish { qos: 2, id: 1, dup: true, ..client.draft("t", "x") }).await;
        client.expect(PUBREC).await;
        client.send(&ack(PUBREL, 1)).await;
        client.expect(PUBCOMP).await;
        let mut subscriber = Client::connect(server.address, &Connect::v5("s").persistent()).await;
        assert_eq!(subscriber.take().await.payload, "x", "{what}");
        subscriber.ping().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_2_message_is_sent_when_its_packet_id_is_on_disk() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    client.subscribe("t", 2).await;
    journal.slow();
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    publisher.publish("t", "x", 2, 1).await;
    until_waiting(&journal).await;
    client.ping().await;
    assert!(journal.sync_one(), "the publisher waits");
    publisher.expect(PUBREC).await;
    client.ping().await;
    journal.sync();
    let first = client.message().await;
    assert!(!first.dup);
    let server = journalled(&journal.after_a_crash()).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    let again = client.message().await;
    assert_eq!((again.id, again.dup, again.payload.as_str()), (first.id, true, "x"));
    client.send(&ack(PUBREC, first.id)).await;
    client.expect(PUBREL).await;
}

/// Copies that came while the first was on its way to the disk were never acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_copy_of_a_qos_2_message_is_acknowledged_and_one_is_delivered() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut subscriber = Client::connect(server.address, &Connect::v5("s")).await;
    subscriber.subscribe("t", 0).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    journal.slow();
    let copy = |dup| Publish { qos: 2, id: 1, dup, ..client.draft("t", "once") }.bytes();
    let copies = [copy(false), copy(true), copy(true)].concat();
    client.send(&copies).await;
    until_waiting(&journal).await;
    client.ping().await;
    journal.sync();
    for _ in 0..3 {
        let answer = client.expect(PUBREC).await;
        assert_eq!((answer.id(), answer.reason()), (1, 0));
    }
    client.ping().await;
    assert_eq!(subscriber.payloads(1).await, ["once"]);
    subscriber.ping().await;
}

/// PUBCOMP was sent past the PUBREC that was still to come, and the packet id of a message on its way to the disk stayed
/// taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pubcomp_follows_pubrec_when_pubrel_comes_early() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    for (name, persistent) in [("volatile", false), ("persistent", true)] {
        let connect = Connect::v5(name);
        let connect = if persistent { connect.persistent() } else { connect };
        let mut client = Client::connect(server.address, &connect).await;
        for _ in 0..2 {
            let publish = Publish { qos: 2, id: 1, ..client.draft("t", "x") }.bytes();
            client.send(&[publish, ack(PUBREL, 1)].concat()).await;
            assert_eq!(client.expect(PUBREC).await.reason(), 0, "{name}");
            assert_eq!(client.expect(PUBCOMP).await.reason(), 0, "{name}");
        }
    }
    let mut client = Client::connect(server.address, &Connect::v5("slow").persistent()).await;
    journal.slow();
    let publish = Publish { qos: 2, id: 1, ..client.draft("t", "x") }.bytes();
    client.send(&[publish, ack(PUBREL, 1)].concat()).await;
    until_waiting(&journal).await;
    client.ping().await;
    journal.sync();
    assert_eq!(client.expect(PUBREC).await.reason(), 0);
    until_waiting(&journal).await;
    journal.sync();
    assert_eq!(client.expect(PUBCOMP).await.reason(), 0);
    client.send(&ack(PUBREL, 1)).await;
    until_waiting(&journal).await;
    journal.sync();
    assert_eq!(client.expect(PUBCOMP).await.reason(), 0x92, "it was free");
}

/// A QoS 2 message waits for the disk before it is sent: every later message of QoS 0 and 1 overtook it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_overtakes_a_qos_2_message_that_waits_for_the_disk() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 2).await;
    client.disconnect().await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    let all = [("1", 1), ("2", 2), ("3", 1), ("4", 2), ("5", 1)];
    for (payload, qos) in all {
        publisher.publish_done("t", payload, qos, 1).await;
    }
    journal.slow();
    let mut client = connect_slowly(&server, &connect, &journal).await;
    assert_eq!(client.message().await.payload, "1");
    publisher.publish_done("t", "6", 0, 0).await;
    client.ping().await;
    assert!(journal.sync() > 0);
    for (payload, qos) in all.into_iter().skip(1).chain([("6", 0)]) {
        let message = client.message().await;
        assert_eq!((message.payload.as_str(), message.qos, message.dup), (payload, qos, false));
    }
    drop(client);
    let mut client = connect_slowly(&server, &connect, &journal).await;
    for (payload, qos) in all {
        let again = client.message().await;
        assert_eq!((again.payload.as_str(), again.qos, again.dup), (payload, qos, true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pubrel_comes_when_pubrec_is_on_disk_and_the_message_is_never_sent_again() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    client.subscribe("t", 2).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    publisher.publish_done("t", "x", 2, 1).await;
    let message = client.message().await;
    journal.slow();
    client.send(&ack(PUBREC, message.id)).await;
    client.ping().await;
    journal.sync();
    assert_eq!(client.expect(PUBREL).await.id(), message.id);
    let server = journalled(&journal.after_a_crash()).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    assert_eq!(client.expect(PUBREL).await.id(), message.id, "and no PUBLISH");
    client.send(&ack(PUBCOMP, message.id)).await;
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_does_not_say_what_is_not_on_disk_yet() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 2).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    publisher.publish_done("t", "x", 2, 1).await;
    let message = client.message().await;
    journal.slow();
    client.send(&ack(PUBREC, message.id)).await;
    client.ping().await;
    drop(client);
    let again = tokio::spawn(async move { Client::connect(server.address, &connect).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!again.is_finished(), "CONNACK says that the session is as it was left");
    journal.sync();
    assert_eq!(again.await.unwrap().expect(PUBREL).await.id(), message.id);
}

/// Subscription identifiers, RETAIN and the content that a handler had sent were lost by a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_is_sent_again_as_it_was() {
    let journal = Journal::default();
    let hooks = Script::new(&[Hook::MessageDeliver], |scope| {
        let message = scope.event.message().filter(|message| &*message.payload == b"secret")?;
        let redacted = Message { payload: "redacted".into(), ..Message::clone(message) };
        decide(Verdict::Replace(Arc::new(redacted)))
    });
    let server = start(BrokerConfig::default(), hooks, Arc::new(journal.clone())).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    publisher.retain("r", "retained").await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe_with(&[("r", 1), ("t", 2)], &[0x0b, 9]).await;
    publisher.publish_done("t", "secret", 1, 1).await;
    publisher.publish_done("t", "two", 2, 2).await;
    let mut sent = vec![client.message().await, client.message().await, client.message().await];
    assert!(
        sent.iter().any(|message| message.retain) && sent.iter().any(|message| message.payload == "redacted")
    );
    sent.iter_mut().for_each(|message| message.dup = true);
    let server = journalled(&journal.after_a_crash()).await;
    let mut client = Client::connect(server.address, &connect).await;
    let again = vec![client.message().await, client.message().await, client.message().await];
    assert_eq!(again, sent);
    for message in again {
        let (first, answer) = if message.qos == 1 { (PUBACK, None) } else { (PUBREC, Some(PUBREL)) };
        client.send(&ack(first, message.id)).await;
        if let Some(answer) = answer {
            client.expect(answer).await;
            client.send(&ack(PUBCOMP, message.id)).await;
        }
    }
    client.ping().await;
    assert_eq!(journal.counts("c").0, 3, "the old process knows nothing of it");
}

/// One message that comes by a plain and by a shared subscription is two deliveries with one message id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_copies_of_a_message_end_one_by_one() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe_all(&[("t", 1), ("$share/g/t", 1)]).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    publisher.publish_done("t", "x", 1, 1).await;
    let copies = [client.message().await, client.message().await];
    client.send(&ack(PUBACK, copies[0].id)).await;
    client.ping().await;
    assert_eq!(journal.counts("c").0, 1);
    let server = journalled(&journal.after_a_crash()).await;
    let mut client = Client::connect(server.address, &connect).await;
    // The acknowledgement need not have been on disk; the other copy must be there.
    let mut again = vec![client.message().await.id];
    if again[0] != copies[1].id {
        again.push(client.message().await.id);
    }
    assert!(again.contains(&copies[1].id));
}

/// Will delay in seconds.
pub(crate) fn delay(seconds: u8) -> [u8; 5] {
    [0x18, 0, 0, 0, seconds]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wills_outlive_the_process_until_they_are_published() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let with_will = |id: &str, seconds| {
        Connect::v5(id).persistent().will_with(&format!("will/{id}"), id, 1, true, &delay(seconds))
    };
    // Connected at the end, gone before it, gone with good-bye, back without one.
    let connected = Client::connect(server.address, &with_will("connected", 0)).await;
    drop(Client::connect(server.address, &with_will("gone", 1)).await);
    Client::connect(server.address, &with_will("polite", 0)).await.disconnect().await;
    drop(Client::connect(server.address, &with_will("back", 1)).await);
    let back = Client::connect(server.address, &Connect::v5("back").persistent()).await;
    let mut last = Client::connect(server.address, &Connect::v5("last").persistent()).await;
    last.subscribe("x", 1).await;
    let crashed = journal.after_a_crash();
    assert_eq!(crashed.wills(), 2, "{:?}", journal.log());
    drop((connected, back, last, server));

    let server = journalled(&crashed).await;
    let mut watcher = Client::connect(server.address, &Connect::v5("w").persistent()).await;
    watcher.subscribe("will/#", 1).await;
    let mut seen = watcher.payloads(2).await;
    seen.sort();
    assert_eq!(seen, ["connected", "gone"]);
    watcher.ping().await;
    assert_eq!(crashed.wills(), 0, "nobody publishes them again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_that_waits_for_the_end_of_its_session_survives_both() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let connect = Connect::v5("c").expiry(1).will_with("will/c", "x", 1, true, &delay(100));
    drop(Client::connect(server.address, &connect).await);
    let mut probe = Client::connect(server.address, &Connect::v5("probe").persistent()).await;
    probe.subscribe("x", 0).await;
    while !journal.log().contains(&"disconnected") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let crashed = journal.after_a_crash();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    // Its time went on while the server was away.
    let server = journalled(&crashed).await;
    let mut watcher = Client::connect(server.address, &Connect::v5("w")).await;
    watcher.subscribe("will/#", 1).await;
    assert_eq!(watcher.take().await.payload, "x");
    assert_eq!(crashed.sessions(), ["probe"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_is_told_and_those_who_need_none_go_on() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut kept = Client::connect(server.address, &Connect::v5("kept").persistent()).await;
    kept.subscribe("kept", 1).await;
    let mut live = Client::connect(server.address, &Connect::v5("live")).await;
    live.subscribe_all(&[("kept", 1), ("other", 1)]).await;
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    journal.fail(true);
    let refused = Client::try_connect(server.address, &Connect::v5("n").persistent()).await;
    assert_eq!(refused.code, 0x88);
    let refused = Client::try_connect(server.address, &Connect::v4("n").persistent()).await;
    assert_eq!(refused.code, 3);
    five.publish("kept", "refused", 1, 1).await;
    assert_eq!(five.expect(PUBACK).await.reason(), 0x80);
    four.publish("kept", "refused", 1, 1).await;
    four.closed().await;
    five.publish("other", "passes", 1, 2).await;
    assert_eq!(five.expect(PUBACK).await.reason(), 0);
    assert_eq!(live.take().await.payload, "passes", "what is refused is routed to nobody");
    assert_eq!(kept.subscribe("more", 1).await, 0x80);
    assert_eq!(kept.unsubscribe(&["kept"]).await.body[3], 0x80);
    journal.fail(false);
    five.publish("more", "to nobody", 1, 3).await;
    assert!([0, 0x10].contains(&five.expect(PUBACK).await.reason()));
    kept.ping().await;
    Client::connect(server.address, &Connect::v5("n").persistent()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_change_of_an_ended_session_does_not_reach_its_successor() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    for round in 0..3 {
        let clean = Connect { clean: true, ..Connect::v5("c").persistent() };
        let mut client = Client::connect(server.address, &clean).await;
        client.publish("t", "x", 2, 1).await;
        client.expect(PUBREC).await;
        assert_eq!(journal.counts("c"), (0, 1), "round {round}");
        drop(client);
    }
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    client.publish_as(Publish { qos: 2, id: 1, dup: true, ..client.draft("t", "x") }).await;
    client.expect(PUBREC).await;
    client.send(&ack(PUBREL, 1)).await;
    client.expect(PUBCOMP).await;
    assert_eq!(journal.counts("c"), (0, 0));
}

/// A PUBREL takes four bytes to send and a hundred to keep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pubrel_does_not_pile_up_while_the_disk_is_slow() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    journal.slow();
    journal.log();
    let flood: Vec<u8> = (1..=20_000).flat_map(|id| ack(PUBREL, id)).collect();
    client.send(&flood).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let taken = journal.log().len();
    assert!(taken <= 1_100, "{taken} wait");
    let disk = journal.clone();
    let syncing = tokio::spawn(async move {
        loop {
            disk.sync();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    for _ in 0..20_000 {
        assert_eq!(client.expect(PUBCOMP).await.reason(), 0x92);
    }
    syncing.abort();
    client.ping().await;
}

/// The message was routed, its commit failed, and the client was told, or made to believe, that it was not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_2_message_whose_commit_fails_after_it_was_routed_is_not_routed_again() {
    for connect in [Connect::v4("p"), Connect::v5("p")] {
        let connect = connect.persistent();
        let journal = Journal::default();
        let server = journalled(&journal).await;
        let mut live = Client::connect(server.address, &Connect::v5("live")).await;
        live.subscribe("t", 2).await;
        Client::connect(server.address, &Connect::v5("kept").persistent()).await.subscribe("t", 2).await;
        let mut publisher = Client::connect(server.address, &connect).await;
        journal.slow();
        publisher.publish("t", "x", 2, 1).await;
        until_waiting(&journal).await;
        journal.abandon();
        publisher.closed().await;
        let mut publisher = Client::connect(server.address, &connect).await;
        assert!(publisher.present);
        journal.slow();
        publisher.publish_as(Publish { qos: 2, id: 1, dup: true, ..publisher.draft("t", "x") }).await;
        until_waiting(&journal).await;
        publisher.ping().await;
        journal.sync();
        assert_eq!(publisher.expect(PUBREC).await.id(), 1);
        publisher.send(&ack(PUBREL, 1)).await;
        until_waiting(&journal).await;
        journal.sync();
        assert_eq!(publisher.expect(PUBCOMP).await.id(), 1);
        assert_eq!(live.take().await.payload, "x");
        live.ping().await;
        assert_eq!(journal.counts("kept").0, 1);
    }
}

/// A message that a handler replaced by one of QoS 0 stayed on disk for as long as its session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_sent_at_qos_0_after_all_is_not_kept() {
    let journal = Journal::default();
    let hooks = Script::new(&[Hook::MessageDeliver], |scope| {
        let message = Message { qos: QoS::AtMostOnce, ..Message::clone(scope.event.message()?) };
        decide(Verdict::Replace(Arc::new(message)))
    });
    let server = start(BrokerConfig::default(), hooks, Arc::new(journal.clone())).await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    publisher.publish_done("t", "x", 1, 1).await;
    assert_eq!(client.take().await.qos, 0);
    client.ping().await;
    assert_eq!(journal.counts("c").0, 0);
}

/// CONNACK came 25 ms before what it promises was on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connack_comes_when_the_session_and_the_will_are_on_disk() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let connect = Connect::v5("c").persistent().will_with("will/c", "x", 1, false, &delay(100));
    for resumed in [false, true] {
        journal.slow();
        let (address, again) = (server.address, connect.clone());
        let client = tokio::spawn(async move { Client::try_connect(address, &again).await });
        until_waiting(&journal).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!client.is_finished());
        journal.abandon();
        let refused = client.await.unwrap();
        assert_eq!(refused.code, 0x88);
        assert_eq!((journal.sessions().len(), journal.wills()), (usize::from(resumed), 0));
        journal.slow();
        let (address, again) = (server.address, connect.clone());
        let client = tokio::spawn(async move { Client::connect(address, &again).await });
        until_waiting(&journal).await;
        assert_eq!(journal.after_a_crash().wills(), 0);
        journal.sync();
        let client = client.await.unwrap();
        assert_eq!(client.present, resumed);
        assert_eq!(journal.after_a_crash().wills(), 1);
        // It is not slow any more.
        journal.abandon();
        client.disconnect().await;
        journal.sync();
    }
}

/// A crash just after CONNACK brought the session back, to a client that was told of a new one meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connack_comes_when_the_end_of_a_kept_session_is_on_disk() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    Client::connect(server.address, &Connect::v5("c").persistent()).await.disconnect().await;
    journal.slow();
    let (address, connect) = (server.address, Connect { clean: false, ..Connect::v5("c") });
    let client = tokio::spawn(async move { Client::connect(address, &connect).await });
    for _ in ["what there was", "its end"] {
        until_waiting(&journal).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!client.is_finished());
        assert_eq!(journal.after_a_crash().sessions(), ["c"]);
        journal.sync();
    }
    assert!(client.await.unwrap().present);
    assert_eq!(journal.after_a_crash().sessions().len(), 0);
}

/// A session that had ended by DISCONNECT, or because its time was up, was back after a crash, although its client had been told
/// meanwhile that it has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_that_there_is_no_session_before_its_end_is_on_disk() {
    let (at_once, later) = ([0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0], [0xe0, 7, 0, 5, 0x11, 0, 0, 0, 1]);
    for (goodbye, keeps_failing) in [(at_once, false), (later, false), (at_once, true)] {
        let journal = Journal::default();
        let server = journalled(&journal).await;
        let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
        journal.slow();
        client.send(&goodbye).await;
        assert_eq!(client.closed().await, None);
        tokio::time::timeout(Duration::from_secs(20), async {
            while server.broker.sessions() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the session ends");
        // Whoever had none does not wait.
        Client::connect(server.address, &Connect::v5("d")).await;
        let (address, connect) = (server.address, Connect { clean: false, ..Connect::v5("c") });
        let client = tokio::spawn(async move { Client::try_connect(address, &connect).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!client.is_finished());
        assert_eq!(journal.after_a_crash().sessions(), ["c"]);
        if keeps_failing {
            journal.fail(true);
            journal.abandon();
            assert_eq!(client.await.unwrap().code, 0x88);
            journal.fail(false);
            let client = Client::connect(server.address, &Connect::v5("c")).await;
            assert!(!client.present);
        } else {
            journal.sync();
            let client = client.await.unwrap();
            assert_eq!((client.code, client.present), (0, false));
        }
        assert_eq!(journal.after_a_crash().sessions().len(), 0);
    }
}

/// A crash between the two brought both wills, or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_will_of_a_connection_takes_the_place_of_the_last_one_at_once() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let connect = Connect::v5("c").persistent().will_with("will/c", "x", 1, false, &delay(100));
    drop(Client::connect(server.address, &connect).await);
    while !journal.log().contains(&"disconnected") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let _client = Client::connect(server.address, &connect).await;
    let log = journal.log();
    assert!(log.windows(4).any(|four| four == ["together", "opened", "will gone", "done"]), "{log:?}");
    assert_eq!(journal.wills(), 1);
}

/// Each waited by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_come_together_wait_for_the_disk_together() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut subscriber = Client::connect(server.address, &Connect::v5("s").persistent()).await;
    subscriber.subscribe("t", 2).await;
    subscriber.disconnect().await;
    let mut client = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    journal.slow();
    let mut packets = Vec::new();
    for id in 1..=40 {
        packets.extend(Publish { qos: 1 + (id % 2) as u8, id, ..client.draft("t", "x") }.bytes());
    }
    client.send(&packets).await;
    until_waiting(&journal).await;
    client.ping().await;
    assert!(journal.waiting() <= 10, "{} wait", journal.waiting());
    journal.sync();
    for id in 1..=40 {
        let answer = client.recv().await;
        assert_eq!((answer.first, answer.id()), (if id % 2 == 0 { PUBACK } else { PUBREC }, id));
    }
    client.send(&(1..=40).filter(|id| id % 2 == 1).flat_map(|id| ack(PUBREL, id)).collect::<Vec<_>>()).await;
    until_waiting(&journal).await;
    client.ping().await;
    assert!(journal.waiting() <= 5, "{} wait", journal.waiting());
    journal.sync();
    for id in (1..=40).step_by(2) {
        assert_eq!(client.expect(PUBCOMP).await.id(), id);
    }
}

/// How often `name` was recorded since the last call.
fn recorded(journal: &Journal, name: &str) -> usize {
    journal.log().into_iter().filter(|recorded| *recorded == name).count()
}

/// A message that is retained and not acknowledged costs its publisher nothing, and the disk a write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_retains_without_an_answer_waits_for_a_disk_that_is_behind() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut live = Client::connect(server.address, &Connect::v5("s")).await;
    live.subscribe("#", 0).await;
    for connect in [Connect::v5("five"), Connect::v4("four")] {
        let mut client = Client::connect(server.address, &connect).await;
        journal.slow();
        journal.fall_behind(true);
        journal.log();
        for number in 0..10 {
            let retained = Publish { retain: true, ..client.draft("t", "x") };
            client.publish_as(Publish { topic: &format!("t/{number}"), ..retained }).await;
        }
        live.take().await;
        client.ping().await;
        assert_eq!((recorded(&journal, "retained"), journal.waiting()), (1, 1));
        // Who has nothing recorded is not held up.
        let mut other = Client::connect(server.address, &Connect::v5("o")).await;
        other.publish("other", "x", 0, 0).await;
        assert_eq!(live.take().await.topic, "other");
        journal.sync();
        live.take().await;
        client.ping().await;
        assert_eq!((recorded(&journal, "retained"), journal.waiting()), (1, 1));
        journal.fall_behind(false);
        journal.sync();
        for _ in 2..10 {
            live.take().await;
        }
        assert_eq!((recorded(&journal, "retained"), journal.waiting()), (8, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_publishes_faster_than_a_disk_that_is_behind_has_one_message_on_its_way() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    journal.slow();
    journal.fall_behind(true);
    for id in 1..=10 {
        let retained = Publish { retain: true, qos: 1, id, ..client.draft("t", "x") };
        client.publish_as(retained).await;
    }
    client.ping().await;
    assert_eq!(journal.waiting(), 1);
    for id in 1..=10 {
        until_waiting(&journal).await;
        assert_eq!(journal.sync(), 1);
        assert_eq!(client.expect(PUBACK).await.id(), id);
    }
}
