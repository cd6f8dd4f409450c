//! A disk that takes nothing: who could not be told that something is kept is refused, what was kept before is not touched,
//! and what nobody was promised goes on (docs/sessions.md; MQTT 5 clauses 3.2.2.2, 3.3.1.3, 3.4.2.1, 4.3.3).

use super::durable::{delay, until_waiting};
use crate::support::client::{Client, PUBACK, PUBREC};
use crate::support::packet::{Connect, Publish};
use crate::support::store::Journal;
use crate::support::{Server, journalled};

/// What a client that comes now finds retained under `t`.
async fn retained(server: &Server) -> String {
    let mut client = Client::connect(server.address, &Connect::v5("reader")).await;
    client.subscribe("t", 1).await;
    let message = client.take().await;
    assert!(message.retain);
    client.ping().await;
    message.payload
}

/// The same, after a crash now.
async fn retained_on_disk(journal: &Journal) -> String {
    retained(&journalled(&journal.after_a_crash()).await).await
}

/// A client whose session is to be kept has subscribed to `t`, and is gone.
async fn absent(server: &Server, id: &str) -> Connect {
    let connect = Connect::v5(id).persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 2).await;
    client.disconnect().await;
    connect
}

/// Whoever sends it once more when the disk works must not find that a message which was refused has had its effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_retained_or_deleted_for_good_is_refused_and_the_last_value_stays() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut live = Client::connect(server.address, &Connect::v5("live")).await;
    live.subscribe("t", 1).await;
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    five.retain("t", "old").await;
    assert_eq!(live.take().await.payload, "old");
    journal.fail(true);
    for payload in ["new", ""] {
        five.publish_as(Publish { qos: 1, id: 1, retain: true, ..five.draft("t", payload) }).await;
        let answer = five.expect(PUBACK).await;
        assert_eq!((answer.id(), answer.reason()), (1, 0x80), "{payload:?}");
        five.publish_as(Publish { qos: 2, id: 2, retain: true, ..five.draft("t", payload) }).await;
        let answer = five.expect(PUBREC).await;
        assert_eq!((answer.id(), answer.reason()), (2, 0x80), "{payload:?}");
        // 3.1.1 has no such answer, and no other than to close.
        let mut four = Client::connect(server.address, &Connect::v4("four")).await;
        four.publish_as(Publish { qos: 1, id: 1, retain: true, ..four.draft("t", payload) }).await;
        four.closed().await;
        assert_eq!(retained(&server).await, "old", "{payload:?}");
    }
    live.ping().await;
    journal.fail(false);
    assert_eq!(retained(&server).await, "old");
    assert_eq!(retained_on_disk(&journal).await, "old");
    // It is taken, and deleted, as ever.
    five.retain("t", "new").await;
    assert_eq!(live.take().await.payload, "new");
    assert_eq!(retained_on_disk(&journal).await, "new");
    five.retain("t", "").await;
    assert!(journal.after_a_crash().retained().is_empty());
}

/// Nobody is promised anything of it: it is delivered and retained, and written when the disk works again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_retained_at_qos_0_is_delivered_while_the_disk_fails_and_written_when_it_works() {
    for connect in [Connect::v5("p"), Connect::v4("p")] {
        let journal = Journal::default();
        let server = journalled(&journal).await;
        let mut live = Client::connect(server.address, &Connect::v5("live")).await;
        live.subscribe("t", 1).await;
        let mut publisher = Client::connect(server.address, &connect).await;
        publisher.retain("t", "old").await;
        assert_eq!(live.take().await.payload, "old");
        journal.fail(true);
        publisher.publish_as(Publish { retain: true, ..publisher.draft("t", "new") }).await;
        assert_eq!(live.take().await.payload, "new");
        publisher.ping().await;
        assert_eq!(retained(&server).await, "new");
        assert_eq!(retained_on_disk(&journal).await, "old");
        journal.fail(false);
        // Whoever waits for the disk next waits for that, too.
        publisher.retain("other", "x").await;
        assert_eq!(retained_on_disk(&journal).await, "new");
    }
}

/// PUBREC with an error says that the message was not taken: who was sent it all the same would get it twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_2_message_that_cannot_be_kept_is_refused_and_routed_to_nobody() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let kept = absent(&server, "kept").await;
    let mut live = Client::connect(server.address, &Connect::v5("live")).await;
    live.subscribe("t", 2).await;
    let publishers = [
        Connect::v5("five"),
        Connect::v5("five kept").persistent(),
        Connect::v4("four"),
        Connect::v4("four kept").persistent(),
    ];
    for connect in &publishers {
        let mut publisher = Client::connect(server.address, connect).await;
        journal.fail(true);
        publisher.publish("t", "refused", 2, 1).await;
        if connect.v5 {
            let answer = publisher.expect(PUBREC).await;
            assert_eq!((answer.id(), answer.reason()), (1, 0x80), "{}", connect.id);
        } else {
            publisher.closed().await;
        }
        live.ping().await;
        assert_eq!(journal.counts(&connect.id), (0, 0), "its packet id is free");
        journal.fail(false);
        if !connect.v5 {
            publisher = Client::connect(server.address, connect).await;
            assert_eq!(publisher.present, !connect.clean, "{}", connect.id);
        }
        // Under the same packet id it is another message, or the same one for the first time.
        publisher.publish_done("t", &connect.id, 2, 1).await;
        assert_eq!(live.take().await.payload, connect.id);
    }
    live.ping().await;
    let server = journalled(&journal.after_a_crash()).await;
    let mut kept = Client::connect(server.address, &kept).await;
    assert_eq!(kept.payloads(4).await, publishers.map(|connect| connect.id));
    kept.ping().await;
}

/// A will is a part of the session: neither is promised, and those from before are not touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_brings_a_will_and_asks_for_a_session_is_refused_and_its_last_will_stays() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut live = Client::connect(server.address, &Connect::v5("live")).await;
    live.subscribe("will/#", 1).await;
    let five = Connect::v5("five").persistent().will_with("will/five", "x", 1, true, &delay(100));
    let four = Connect::v4("four").persistent().will("will/four", "x", 1, true);
    drop(Client::connect(server.address, &five).await);
    while !journal.log().contains(&"disconnected") {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    journal.fail(true);
    assert_eq!(Client::try_connect(server.address, &five).await.code, 0x88);
    assert_eq!(Client::try_connect(server.address, &four).await.code, 3, "server unavailable");
    let log = journal.log();
    assert!(log.is_empty(), "recorded of those who were refused: {log:?}");
    assert_eq!((journal.sessions(), journal.wills()), (vec!["five".to_owned()], 1));
    // A will that ends with its connection is published as ever.
    let plain = Connect::v5("plain").will("will/plain", "x", 1, false);
    drop(Client::connect(server.address, &plain).await);
    assert_eq!(live.take().await.topic, "will/plain");
    journal.fail(false);
    let back = Client::connect(server.address, &five).await;
    assert!(back.present);
    assert_eq!(journal.after_a_crash().wills(), 1, "the new one in place of the last");
    live.ping().await;
}

/// Its session was ended, with all that waited for it, although it was told that it could not have it: who comes without an
/// expiry ends its session with this connection, and this connection never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_does_not_lose_the_session_that_it_has() {
    for fails_at_once in [true, false] {
        let journal = Journal::default();
        let server = journalled(&journal).await;
        let connect = absent(&server, "c").await;
        let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
        publisher.publish_done("t", "x", 1, 1).await;
        let without_expiry = Connect { clean: false, ..Connect::v5("c") };
        if fails_at_once {
            journal.fail(true);
        } else {
            journal.slow();
        }
        let address = server.address;
        let refused = tokio::spawn(async move { Client::try_connect(address, &without_expiry).await });
        if !fails_at_once {
            until_waiting(&journal).await;
            journal.abandon();
        }
        assert_eq!(refused.await.unwrap().code, 0x88);
        journal.fail(false);
        let mut client = Client::connect(server.address, &connect).await;
        assert!(client.present, "fails at once: {fails_at_once}");
        assert_eq!(client.take().await.payload, "x");
        client.ping().await;
        assert_eq!(journal.after_a_crash().sessions(), ["c"]);
    }
}
