//! Many messages of QoS 0 in one write, to many subscribers: they are given to one subscriber after the other, and nothing of
//! that is seen.

use crate::support::client::Client;
use crate::support::packet::{self, Connect, Publish};
use crate::support::{Server, plain};

/// More than it takes for messages to be gathered.
const SUBSCRIBERS: usize = 20;
const NO_LOCAL: u8 = 4;

async fn subscribers(server: &Server, filter: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..SUBSCRIBERS {
        let mut client = Client::connect(server.address, &Connect::v5(&format!("s{number}"))).await;
        client.subscribe(filter, 2).await;
        clients.push(client);
    }
    clients
}

/// PUBLISH of these numbers, one after the other.
fn published(client: &Client, topic: &str, numbers: std::ops::Range<usize>, qos: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in numbers {
        let payload = number.to_string();
        let id = if qos > 0 { u16::try_from(number + 1).unwrap() } else { 0 };
        bytes.extend(Publish { qos, id, ..client.draft(topic, &payload) }.bytes());
    }
    bytes
}

fn numbers(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_all_kinds_come_in_the_order_in_which_they_were_sent() {
    let server = plain().await;
    let mut clients = subscribers(&server, "t/#").await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    let retained = Publish { retain: true, ..publisher.draft("t/a", "20") }.bytes();
    let parts = [
        published(&publisher, "t/a", 0..10, 0),
        published(&publisher, "t/a", 10..12, 1),
        published(&publisher, "t/a", 12..15, 0),
        published(&publisher, "t/b", 15..20, 0),
        retained,
        published(&publisher, "t/b", 21..24, 0),
        published(&publisher, "t/a", 24..25, 2),
        published(&publisher, "t/a", 25..40, 0),
    ];
    publisher.send(&parts.concat()).await;
    for client in &mut clients {
        assert_eq!(client.payloads(40).await, numbers(0..40));
        client.ping().await;
    }
}

/// DISCONNECT, or what is no packet, in the same write as the messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_the_end_of_a_connection_is_delivered_before_its_will() {
    let server = plain().await;
    let mut clients = subscribers(&server, "t/#").await;
    for end in [&[0xe0, 1, 4][..], &[0xff, 0xff]] {
        let connect = Connect::v5("p").will("t/will", "30", 0, false);
        let mut publisher = Client::connect(server.address, &connect).await;
        publisher.send(&[&published(&publisher, "t/a", 0..30, 0), end].concat()).await;
        publisher.closed().await;
        for client in &mut clients {
            assert_eq!(client.payloads(31).await, numbers(0..31));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_publishers_own_subscriptions_hold_for_what_it_sends_after_them() {
    let server = plain().await;
    let mut clients = subscribers(&server, "t").await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    let parts = [
        published(&publisher, "t", 0..10, 0),
        packet::subscribe(true, 1, &[("t", 0)], &[]),
        published(&publisher, "t", 10..20, 0),
        packet::unsubscribe(true, 2, &["t"]),
        published(&publisher, "t", 20..30, 0),
        packet::subscribe(true, 3, &[("t", NO_LOCAL)], &[]),
        published(&publisher, "t", 30..40, 0),
    ];
    publisher.send(&parts.concat()).await;
    let (mut answers, mut own) = (Vec::new(), Vec::new());
    for _ in 0..13 {
        // What was there before UNSUBSCRIBE may come after UNSUBACK (clause 3.10.4).
        match publisher.recv().await {
            packet if packet.kind() == 3 => own.push(packet.published(true).payload),
            packet => answers.push(packet.first),
        }
    }
    assert_eq!((answers, own), (vec![0x90, 0xb0, 0x90], numbers(10..20)));
    publisher.ping().await;
    for client in &mut clients {
        assert_eq!(client.payloads(40).await, numbers(0..40));
    }
}
