//! Reason strings, payload formats, and the order of refusals (MQTT 5 clauses 3.1.2.11.7, 3.3.2.3.2, 3.4.2.2.2).

use std::net::SocketAddr;

use tidegate_broker::BrokerConfig;
use tidegate_event::Hook;

use crate::support::client::{Client, PUBACK, PUBCOMP, PUBREC, PUBREL};
use crate::support::packet::{Connect, Publish, ack, frame, string};
use crate::support::script::{Gate, Script};
use crate::support::{plain, with_config, with_hooks};

/// Payload format indicator: text.
const TEXT: [u8; 2] = [0x01, 1];
const NOT_UTF_8: &[u8] = b"ok until \xff";

/// Publishes something that says it is text and is not, and gives the answer's reason string.
async fn publish_no_text(client: &mut Client, qos: u8, id: u16) -> Option<String> {
    let draft = Publish { qos, id, properties: &TEXT, payload: NOT_UTF_8, ..client.draft("t", "") };
    client.publish_as(draft).await;
    let answer = client.expect(if qos == 1 { PUBACK } else { PUBREC }).await;
    assert_eq!((answer.id(), answer.reason()), (id, 0x99));
    answer.reason_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_says_it_is_text_must_be_utf_8() {
    let server = plain().await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("#", 2).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    for (qos, id) in [(1, 1), (2, 2)] {
        let text = publish_no_text(&mut client, qos, id).await.unwrap();
        assert!(text.contains("UTF-8"), "{text}");
    }
    // PUBREC with an error ends the exchange: the packet id is free.
    client.send(&ack(PUBREL, 2)).await;
    assert_eq!(client.expect(PUBCOMP).await.reason(), 0x92);
    let good = Publish { qos: 2, id: 2, properties: &TEXT, ..client.draft("t", "é") };
    client.publish_as(good).await;
    client.finish(2, 2).await;
    // Any bytes, when nothing is said about them.
    for properties in [&[][..], &[0x01, 0]] {
        let draft = Publish { qos: 1, id: 3, properties, payload: NOT_UTF_8, ..client.draft("t", "") };
        client.publish_as(draft).await;
        client.finish(1, 3).await;
    }
    client.publish_as(Publish { properties: &TEXT, payload: NOT_UTF_8, ..client.draft("t", "") }).await;
    assert_eq!(client.disconnected().await.body[0], 0x99, "QoS 0 has no other answer");
    assert_eq!(subscriber.take().await.payload, "é");
    for _ in 0..2 {
        assert!(subscriber.take().await.payload.starts_with("ok until"));
    }
    subscriber.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_that_says_it_is_text_must_be_utf_8() {
    // The test's wills are texts: one is put together by hand.
    let connect = |payload: &[u8]| {
        let mut body = b"\0\x04MQTT\x05\x06\0\x3c\0\0\x01w\x02\x01\x01\0\x01t".to_vec();
        body.extend_from_slice(&[0, u8::try_from(payload.len()).unwrap()]);
        body.extend_from_slice(payload);
        frame(0x10, &body)
    };
    let answer = async |address: SocketAddr, payload: &[u8]| {
        let mut client = Client::open(address, true).await;
        client.send(&connect(payload)).await;
        client.expect(0x20).await.body[1]
    };
    let server = plain().await;
    assert_eq!(answer(server.address, NOT_UTF_8).await, 0x99);
    assert_eq!(answer(server.address, b"text").await, 0);
    let server = with_config(BrokerConfig { check_payload_format: false, ..BrokerConfig::default() }).await;
    assert_eq!(answer(server.address, NOT_UTF_8).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_of_payload_formats_can_be_switched_off() {
    let server = with_config(BrokerConfig { check_payload_format: false, ..BrokerConfig::default() }).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let draft = Publish { qos: 1, id: 1, properties: &TEXT, payload: NOT_UTF_8, ..client.draft("t", "") };
    client.publish_as(draft).await;
    client.finish(1, 1).await;
}

/// PUBACK is sent in the order of the messages (clause 4.6): a message that is refused at sight must not be answered
/// before those whose handlers are still at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_payload_is_answered_in_its_turn() {
    let gate = Gate::default();
    let hooks = Script::gated(Hook::MessagePublish, &gate);
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.publish("t", "1", 1, 1).await;
    let bad = Publish { qos: 1, id: 2, properties: &TEXT, payload: NOT_UTF_8, ..client.draft("t", "") };
    client.publish_as(bad).await;
    client.publish("t", "3", 1, 3).await;
    client.ping().await;
    gate.open();
    let answers = [client.expect(PUBACK).await, client.expect(PUBACK).await];
    assert_eq!(answers.map(|answer| (answer.id(), answer.reason())), [(1, 0), (2, 0x99)]);
    gate.open();
    assert_eq!(client.expect(PUBACK).await.id(), 3);
    assert_eq!(hooks.raised().len(), 2, "no handler sees what is refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_why_in_words() {
    let server = plain().await;
    let refused = Client::try_connect(server.address, &Connect::v5("c").property(0x15, b"\0\x01m")).await;
    assert_eq!(refused.code, 0x8c);
    assert!(string(&refused.properties, 0x1f).unwrap().contains("authentication"));
    let mut body = b"\0\x04MQTT\x05\x03\0\x3c\0\0\x01c".to_vec();
    let mut client = Client::open(server.address, true).await;
    client.send(&frame(0x10, &body)).await;
    assert_eq!(client.expect(0x20).await.body, [0, 0x81, 0], "it did not come to say how much it takes");
    // The same packet with legal flags and a client id that is no text.
    body = b"\0\x04MQTT\x05\x02\0\x3c\0\0\x01\xff".to_vec();
    let mut client = Client::open(server.address, true).await;
    client.send(&frame(0x10, &body)).await;
    let answer = client.expect(0x20).await;
    assert_eq!(answer.body[1], 0x81);
    assert!(string(&answer.body[3..], 0x1f).unwrap().contains("UTF-8"));

    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    client.send(&[0x38, 4, 0, 1, b't', 0]).await;
    let packet = client.disconnected().await;
    assert_eq!(packet.body[0], 0x81);
    assert_eq!(packet.reason_string().unwrap(), "malformed PUBLISH: DUP must be 0 at QoS 0");
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    let _second = Client::connect(server.address, &Connect::v5("c")).await;
    assert!(client.disconnected().await.reason_string().unwrap().contains("another connection"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_explain_nothing_to_who_wants_no_problem_information() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c").property(0x17, &[0])).await;
    assert_eq!(publish_no_text(&mut client, 1, 1).await, None);
    assert_eq!(publish_no_text(&mut client, 2, 1).await, None);
    client.send(&[0xc1, 0]).await;
    assert!(client.disconnected().await.reason_string().is_some(), "DISCONNECT may (clause 3.1.2.11.7)");
    let server = with_config(BrokerConfig { reason_strings: false, ..BrokerConfig::default() }).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    assert_eq!(publish_no_text(&mut client, 1, 1).await, None);
    client.send(&[0xc1, 0]).await;
    assert_eq!(client.disconnected().await.body, [0x81]);
}
