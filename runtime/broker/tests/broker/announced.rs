//! What CONNACK announces, and that it is held to (MQTT 5 clause 3.2.2.3).

use std::time::{Duration, Instant};

use tidegate_broker::BrokerConfig;
use tidegate_event::QoS;

use crate::support::client::Client;
use crate::support::packet::{Connect, Publish, number, property_list, string};
use crate::support::{plain, with_config};

const SESSION_EXPIRY: u8 = 0x11;
const SERVER_KEEP_ALIVE: u8 = 0x13;
const RESPONSE_INFORMATION: u8 = 0x1a;
const MAXIMUM_QOS: u8 = 0x24;
const RETAIN_AVAILABLE: u8 = 0x25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_as_the_standard_assumes_is_not_announced() {
    let server = with_config(BrokerConfig { receive_maximum: u16::MAX, ..BrokerConfig::default() }).await;
    let client = Client::connect(server.address, &Connect::v5("c").expiry(5)).await;
    let ids: Vec<u8> = property_list(&client.properties).into_iter().map(|(id, _)| id).collect();
    // The greatest packet, and the aliases that are taken.
    assert_eq!(ids, [0x27, 0x22]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_for_a_longer_keep_alive_is_given_the_servers() {
    let server = with_config(BrokerConfig { max_keep_alive: 2, ..BrokerConfig::default() }).await;
    for (asked, told) in [(0, Some(2)), (60, Some(2)), (2, None), (1, None)] {
        let client = Client::connect(server.address, &Connect::v5("c").keep_alive(asked)).await;
        assert_eq!(number(&client.properties, SERVER_KEEP_ALIVE), told, "{asked}");
    }
    let start = Instant::now();
    let mut never = Client::connect(server.address, &Connect::v5("never").keep_alive(0)).await;
    // Nobody could tell it.
    let mut four = Client::connect(server.address, &Connect::v4("four").keep_alive(0)).await;
    assert_eq!(never.closed().await, Some(0x8d));
    assert!(start.elapsed() >= Duration::from_secs(3), "one and a half times what it was told");
    four.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_limit_the_keep_alive_is_the_clients() {
    let server = plain().await;
    for asked in [0, 1, u16::MAX] {
        let client = Client::connect(server.address, &Connect::v5("c").keep_alive(asked)).await;
        assert_eq!(number(&client.properties, SERVER_KEEP_ALIVE), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_information_is_given_to_who_asks_when_there_is_any() {
    let information = "answers/${clientid}/".to_owned();
    let server =
        with_config(BrokerConfig { response_information: information, ..BrokerConfig::default() }).await;
    let asks = |wants| Connect::v5("me").property(0x19, &[wants]);
    for (connect, expected) in [
        (asks(1), Some("answers/me/")),
        (asks(0), None),
        (Connect::v5("me"), None),
        (Connect::v4("me"), None),
    ] {
        let client = Client::connect(server.address, &connect).await;
        assert_eq!(string(&client.properties, RESPONSE_INFORMATION).as_deref(), expected);
    }
    let server = plain().await;
    let client = Client::connect(server.address, &asks(1)).await;
    assert_eq!(string(&client.properties, RESPONSE_INFORMATION), None, "none is configured");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_above_the_maximum_is_refused_and_a_subscription_granted_less() {
    let server = with_config(BrokerConfig { max_qos: QoS::AtLeastOnce, ..BrokerConfig::default() }).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    assert_eq!(number(&client.properties, MAXIMUM_QOS), Some(1));
    assert_eq!(client.subscribe_all(&[("a", 0), ("b", 1), ("c", 2)]).await, [0, 1, 1]);
    client.publish_done("b", "x", 1, 1).await;
    assert_eq!(client.take().await.qos, 1);
    client.publish("b", "x", 2, 2).await;
    assert_eq!(client.closed().await, Some(0x9b));
    let refused = Client::try_connect(server.address, &Connect::v5("w").will("t", "x", 2, false)).await;
    assert_eq!(refused.code, 0x9b);
    let refused = Client::try_connect(server.address, &Connect::v4("w").will("t", "x", 2, false)).await;
    assert_eq!(refused.code, 5, "not authorized is the nearest that 3.1.1 has");
    Client::connect(server.address, &Connect::v5("w").will("t", "x", 1, false)).await.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retain_is_refused_when_it_is_not_available() {
    let server = with_config(BrokerConfig { retain_available: false, ..BrokerConfig::default() }).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    assert_eq!(number(&client.properties, RETAIN_AVAILABLE), Some(0));
    client.publish_as(Publish { retain: true, ..client.draft("t", "x") }).await;
    assert_eq!(client.closed().await, Some(0x9a));
    let refused = Client::try_connect(server.address, &Connect::v5("w").will("t", "x", 0, true)).await;
    assert_eq!(refused.code, 0x9a);
}

/// Ids that count up can be guessed, and who knows a client's id can take its session over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_the_server_gives_cannot_be_guessed() {
    let server = plain().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        let client = Client::connect(server.address, &Connect::v5("")).await;
        let id = string(&client.properties, 0x12).unwrap();
        assert_eq!(id.len(), "auto-".len() + 26, "128 bits: {id}");
        ids.push(id);
    }
    // Consecutive ids differ all over. A letter is the same in one of 32 cases.
    for (one, two) in ids.iter().zip(&ids[1..]) {
        let same = one.bytes().zip(two.bytes()).skip(5).filter(|(one, two)| one == two).count();
        assert!(same < 15, "{one} {two}");
    }
}

/// With `max_session_expiry = 0` a client that had asked for a session was told 0x82 when it changed its expiry at the
/// end: what it asked for counts (clause 3.14.2.2.2), not what it got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_that_was_asked_for_and_not_granted_may_be_changed() {
    let server = with_config(BrokerConfig { max_session_expiry: 0, ..BrokerConfig::default() }).await;
    let disconnect = [0xe0, 7, 0, 5, SESSION_EXPIRY, 0, 0, 0, 9];
    let mut client = Client::connect(server.address, &Connect::v5("c").expiry(100)).await;
    assert_eq!(number(&client.properties, SESSION_EXPIRY), Some(0));
    client.send(&disconnect).await;
    assert_eq!(client.closed().await, None, "legal");
    for connect in [Connect::v5("c"), Connect::v5("c").expiry(0)] {
        let mut client = Client::connect(server.address, &connect).await;
        client.send(&disconnect).await;
        assert_eq!(client.closed().await, Some(0x82), "it had asked for none");
    }
}
