//! The client's maximum packet size holds for every packet (MQTT 5 clause 3.1.2.11.4), not only for messages.

use crate::support::client::{Client, PUBACK};
use crate::support::packet::{self, Connect, Publish, frame};
use crate::support::plain;

/// What CONNACK takes with the limits of the default configuration.
const CONNACK: u32 = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_no_connack_is_not_connected() {
    let server = plain().await;
    let connect = |most| Connect::v5("c").maximum_packet_size(most);
    assert_eq!(Client::connect(server.address, &connect(CONNACK)).await.properties.len(), 11);
    for most in [5, CONNACK - 1] {
        let mut refused = Client::try_connect(server.address, &connect(most)).await;
        assert_eq!(refused.code, 0x83, "{most}");
        assert_eq!(refused.closed().await, None);
    }
    for most in 1..5 {
        let mut client = Client::open(server.address, true).await;
        client.send(&connect(most).bytes()).await;
        assert_eq!(client.next().await, None, "not even the refusal fits into {most}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_the_client_does_not_take_ends_the_connection() {
    let server = plain().await;
    let connect = Connect::v5("c").maximum_packet_size(20);
    for request in
        [packet::subscribe(true, 1, &[("t", 1); 16], &[]), packet::unsubscribe(true, 1, &["t"; 16])]
    {
        let mut client = Client::connect(server.address, &connect).await;
        client.send(&request).await;
        let packet = client.disconnected().await;
        assert_eq!(packet.body, [0x95]);
    }
    // One filter less, and it fits.
    let mut client = Client::connect(server.address, &connect).await;
    assert_eq!(client.subscribe_all(&[("t", 1); 15]).await, [1; 15]);
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reason_strings_go_first_when_there_is_little_room() {
    let server = plain().await;
    let connect = Connect::v5("c").maximum_packet_size(20);
    let mut client = Client::connect(server.address, &connect).await;
    let draft = Publish { qos: 1, id: 1, properties: &[1, 1], payload: b"\xff", ..client.draft("t", "") };
    client.publish_as(draft).await;
    let answer = client.expect(PUBACK).await;
    assert_eq!(answer.body, [0, 1, 0x99]);
    client.send(&[0x38, 4, 0, 1, b't', 0]).await;
    assert_eq!(client.disconnected().await.body, [0x81]);
    // A CONNECT that cannot be read to its end, but says how much its client takes.
    let mut client = Client::open(server.address, true).await;
    client.send(&frame(0x10, b"\0\x04MQTT\x05\x02\0\x3c\x05\x27\0\0\0\x14\0\x01\xff")).await;
    assert_eq!(client.expect(0x20).await.body, [0, 0x81, 0]);
}
