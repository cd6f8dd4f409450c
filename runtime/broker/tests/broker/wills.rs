//! Wills (MQTT 5 clauses 3.1.2.5, 3.1.3.2, 3.14.4).

use super::durable::until_waiting;
use crate::support::client::Client;
use crate::support::packet::Connect;
use crate::support::shelf::until_left;
use crate::support::store::Journal;
use crate::support::{Server, journalled, plain};

/// A client that watches `will/#`, and what connects with a will.
async fn watched() -> (Server, Client) {
    let server = plain().await;
    let mut watcher = Client::connect(server.address, &Connect::v5("watcher")).await;
    watcher.subscribe("will/#", 2).await;
    (server, watcher)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_publishes_the_will() {
    let (server, mut watcher) = watched().await;
    for connect in [Connect::v4("c"), Connect::v5("c")] {
        let client = Client::connect(server.address, &connect.will("will/c", "gone", 2, true)).await;
        drop(client);
        let message = watcher.take().await;
        assert_eq!((message.topic.as_str(), message.payload.as_str(), message.qos), ("will/c", "gone", 2));
    }
    let mut late = Client::connect(server.address, &Connect::v4("late")).await;
    late.subscribe("will/c", 0).await;
    assert!(late.take().await.retain, "a will can be retained");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_normal_disconnect_discards_the_will_and_0x04_does_not() {
    let (server, mut watcher) = watched().await;
    for (connect, disconnect) in [
        (Connect::v4("c"), &[0xe0, 0][..]),
        (Connect::v5("c"), &[0xe0, 1, 0]),
        (Connect::v5("c"), &[0xe0, 0]),
    ] {
        let mut client = Client::connect(server.address, &connect.will("will/c", "x", 0, false)).await;
        client.send(disconnect).await;
        client.closed().await;
    }
    let connect = Connect::v5("c").will("will/c", "asked for", 0, false);
    let mut client = Client::connect(server.address, &connect).await;
    client.send(&[0xe0, 1, 0x04]).await;
    assert_eq!(watcher.take().await.payload, "asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_alive_protocol_error_and_take_over_publish_the_will() {
    let (server, mut watcher) = watched().await;
    let connect = Connect::v4("c").keep_alive(1).will("will/c", "silent", 0, false);
    let _silent = Client::connect(server.address, &connect).await;
    assert_eq!(watcher.take().await.payload, "silent");
    let mut wrong =
        Client::connect(server.address, &Connect::v5("c").will("will/c", "wrong", 0, false)).await;
    wrong.send(&[0x00, 0x00]).await;
    assert_eq!(watcher.take().await.payload, "wrong");
    let _old =
        Client::connect(server.address, &Connect::v4("c").will("will/c", "taken over", 0, false)).await;
    let mut new =
        Client::connect(server.address, &Connect::v4("c").will("will/c", "new one", 0, false)).await;
    assert_eq!(watcher.take().await.payload, "taken over");
    new.ping().await;
    watcher.ping().await;
    drop(new);
    assert_eq!(watcher.take().await.payload, "new one");
}

/// Will delay in seconds.
fn delay(seconds: u8) -> [u8; 5] {
    [0x18, 0, 0, 0, seconds]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_will_waits_for_the_delay_or_the_end_of_the_session() {
    let (server, mut watcher) = watched().await;
    let start = std::time::Instant::now();
    let connect = Connect::v5("late").expiry(100).will_with("will/late", "late", 1, false, &delay(1));
    drop(Client::connect(server.address, &connect).await);
    let connect = Connect::v5("short").expiry(1).will_with("will/short", "short", 1, false, &delay(100));
    drop(Client::connect(server.address, &connect).await);
    let connect = Connect::v5("none").will_with("will/none", "none", 1, false, &delay(100));
    drop(Client::connect(server.address, &connect).await);
    assert_eq!(watcher.take().await.payload, "none", "without a session there is no delay");
    let mut both = watcher.payloads(2).await;
    both.sort();
    assert_eq!(both, ["late", "short"]);
    assert!(start.elapsed() >= std::time::Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_returns_in_time_cancels_its_will() {
    let (server, mut watcher) = watched().await;
    let connect = Connect::v5("c").persistent().will_with("will/c", "x", 1, false, &delay(1));
    drop(Client::connect(server.address, &connect).await);
    let back = Client::connect(server.address, &Connect::v5("c").persistent()).await;
    assert!(back.present);
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    watcher.ping().await;
    back.disconnect().await;
    // A take-over that resumes the session cancels it too; one that ends the session does not.
    let first = Client::connect(server.address, &connect).await;
    let second = Client::connect(server.address, &connect).await;
    let mut third = Client::connect(server.address, &Connect::v5("c")).await;
    assert!(!third.present);
    assert_eq!(watcher.take().await.payload, "x");
    third.ping().await;
    watcher.ping().await;
    drop((first, second));
}

/// The will was forgotten before it was known whether the connection that came back could be welcomed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_is_sent_when_the_connection_that_came_back_in_time_is_refused() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut watcher = Client::connect(server.address, &Connect::v5("watcher")).await;
    watcher.subscribe("will/#", 1).await;
    for (taken_over, id) in [(false, "gone"), (true, "taken over")] {
        let connect = Connect::v5(id).persistent().will_with("will/c", id, 1, false, &delay(2));
        let first = Client::connect(server.address, &connect).await;
        let mut kept = taken_over.then_some(first);
        if !taken_over {
            until_left(&server, 1).await;
        }
        journal.slow();
        let (address, again) = (server.address, Connect::v5(id).persistent());
        let second = tokio::spawn(async move { Client::try_connect(address, &again).await });
        until_waiting(&journal).await;
        journal.abandon();
        assert_eq!(second.await.unwrap().code, 0x88);
        journal.sync();
        assert_eq!(journal.after_a_crash().wills(), 1);
        assert_eq!(watcher.take().await.payload, id);
        watcher.ping().await;
        if let Some(first) = &mut kept {
            first.closed().await;
        }
        while journal.wills() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}
