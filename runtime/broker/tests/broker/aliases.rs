//! Topic aliases in what clients are sent (MQTT 5 clauses 3.1.2.11.5 and 3.3.2.3.4).

use tidegate_broker::BrokerConfig;

use crate::support::client::{Client, PUBACK};
use crate::support::packet::{Connect, ack, number};
use crate::support::{plain, with_config};

const TOPIC_ALIAS: u8 = 0x23;
const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;

/// A client that takes `most` aliases and subscribes to everything.
async fn subscriber(address: std::net::SocketAddr, most: u8) -> Client {
    let connect = Connect::v5("s").property(TOPIC_ALIAS_MAXIMUM, &[0, most]);
    let mut client = Client::connect(address, &connect).await;
    client.subscribe("#", 1).await;
    client
}

/// Topic and alias of the next message.
async fn named(client: &mut Client) -> (String, Option<u32>) {
    let message = client.take().await;
    (message.topic, number(&message.properties, TOPIC_ALIAS))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_named_once_to_a_client_that_takes_aliases() {
    let server = plain().await;
    let mut client = subscriber(server.address, 2).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for (id, topic) in [(1, "one"), (2, "two"), (3, "one"), (4, "three"), (5, "two"), (6, "three")] {
        publisher.publish_done(topic, "x", 1, id).await;
    }
    for (topic, alias) in
        [("one", Some(1)), ("two", Some(2)), ("", Some(1)), ("three", None), ("", Some(2)), ("three", None)]
    {
        assert_eq!(named(&mut client).await, (topic.to_owned(), alias));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_names_no_maximum_gets_no_alias() {
    let server = plain().await;
    let mut silent = Client::connect(server.address, &Connect::v5("silent")).await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    let mut zero = subscriber(server.address, 0).await;
    for client in [&mut silent, &mut four] {
        client.subscribe("#", 1).await;
    }
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("topic", "x", 1, 1).await;
    publisher.publish_done("topic", "x", 1, 2).await;
    for client in [&mut silent, &mut zero] {
        for _ in 0..2 {
            assert_eq!(named(client).await, ("topic".to_owned(), None));
        }
    }
    assert_eq!(four.take().await.topic, "topic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_gives_no_more_aliases_than_it_is_configured_to() {
    let server = with_config(BrokerConfig { max_topic_alias_out: 1, ..BrokerConfig::default() }).await;
    let mut client = subscriber(server.address, 9).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for (id, topic) in [(1, "one"), (2, "two"), (3, "two")] {
        publisher.publish_done(topic, "x", 1, id).await;
    }
    assert_eq!(named(&mut client).await, ("one".to_owned(), Some(1)));
    for _ in 0..2 {
        assert_eq!(named(&mut client).await, ("two".to_owned(), None));
    }
}

/// Aliases end with the connection: what is sent again on the next one must name its topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_names_its_topic_on_the_new_connection() {
    let server = plain().await;
    let connect = Connect::v5("s").persistent().property(TOPIC_ALIAS_MAXIMUM, &[0, 5]);
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("topic", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("topic", "1", 1, 1).await;
    publisher.publish_done("topic", "2", 1, 2).await;
    let (first, second) = (client.message().await, client.message().await);
    assert_eq!((first.topic.as_str(), second.topic.as_str()), ("topic", ""));
    drop(client);
    let mut client = Client::connect(server.address, &connect).await;
    for expected in ["topic", ""] {
        let message = client.message().await;
        assert!(message.dup);
        assert_eq!(message.topic, expected);
        assert_eq!(number(&message.properties, TOPIC_ALIAS), Some(1));
        client.send(&ack(PUBACK, message.id)).await;
    }
    client.ping().await;
}
