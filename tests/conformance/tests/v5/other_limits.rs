//! The same with other limits than the default ones: what CONNACK tells is what holds (MQTT 5 clause 3.2.2.3).

use std::sync::OnceLock;

use tidegate_conformance::ending::{
    ALIAS_INVALID, QOS_NOT_SUPPORTED, RECEIVE_MAXIMUM_EXCEEDED, RETAIN_NOT_SUPPORTED, TOO_LARGE,
};
use tidegate_conformance::property::id;
use tidegate_conformance::received::ConnAck;
use tidegate_conformance::server::Server;
use tidegate_conformance::{Client, Connect, Properties, Publish, Subscribe, Version::V5, Will, kind, name};

const RECEIVE_MAXIMUM: u16 = 3;
const MAXIMUM_PACKET_SIZE: usize = 2_000;
const SESSION_EXPIRY: u32 = 10;

fn connect(connect: &Connect) -> (Client, ConnAck) {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let configuration = format!(
        "[broker]\nreceive_maximum = {RECEIVE_MAXIMUM}\nmax_packet_bytes = \"{MAXIMUM_PACKET_SIZE}B\"\n\
         max_session_expiry = \"{SESSION_EXPIRY}s\"\nmax_topic_alias = 0\n"
    );
    Client::connect_at(SERVER.get_or_init(|| Server::start(&configuration)).port, connect)
}

/// The port of a server that takes QoS 0 and 1 only, and retains nothing.
fn restricted() -> u16 {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start("[broker]\nmax_qos = 1\nretain_available = false\n")).port
}

/// CONNACK with `reason` of the restricted server, and the end.
#[track_caller]
fn refused(connect: &Connect, reason: u8) {
    let mut client = Client::open_at(restricted(), V5);
    client.send(connect.encode());
    let answer = client.expect_connack();
    assert_eq!((answer.code, answer.session_present), (reason, false), "{answer:?}");
    client.expect_closed();
}

#[test]
fn mqtt_3_2_2_9_a_maximum_qos_is_told() {
    let (mut client, answer) = Client::connect_at(restricted(), &Connect::new(V5));
    assert_eq!(answer.properties.number(id::MAXIMUM_QOS), Some(1), "{answer:?}");
    client.publish(name("limits/qos"), "x", 0);
    client.publish(name("limits/qos"), "x", 1);
}

#[test]
fn mqtt_3_2_2_10_a_subscription_above_the_maximum_qos_is_granted_less() {
    let topic = name("limits/granted");
    let (mut client, _) = Client::connect_at(restricted(), &Connect::new(V5));
    for qos in 0..=2 {
        client.send(Subscribe::new(9).filter(&topic, qos).encode(V5));
        assert_eq!(client.expect_suback(9).codes, [qos.min(1)]);
        client.send_publish(&Publish::new(&topic, "x").qos(1, 1));
        // The acknowledgement and the message come in either order.
        let mut came = [client.expect(), client.expect()].map(|packet| format!("{packet:?}"));
        came.sort();
        assert!(came[0].contains("kind: 4, id: 1, reason: 0,"), "{came:?}");
        assert!(came[1].contains(&format!("qos: {},", qos.min(1))), "{came:?}");
        client.unsubscribe(&topic);
    }
}

#[test]
fn mqtt_3_2_2_11_a_message_above_the_maximum_qos_ends_the_connection() {
    let topic = name("limits/qos");
    let (mut watcher, _) = Client::connect_at(restricted(), &Connect::new(V5));
    watcher.subscribe(&topic, 1);
    let (mut client, _) = Client::connect_at(restricted(), &Connect::new(V5));
    client.send_publish(&Publish::new(&topic, "x").qos(2, 1));
    client.expect_disconnect(QOS_NOT_SUPPORTED);
    watcher.ping();
}

#[test]
fn mqtt_3_2_2_12_a_will_above_the_maximum_qos_is_refused() {
    let will = |qos| Will::new(name("limits/will"), "x").qos(qos);
    refused(&Connect::new(V5).will(will(2)), QOS_NOT_SUPPORTED);
    Client::connect_at(restricted(), &Connect::new(V5).will(will(1))).0.disconnect();
}

#[test]
fn mqtt_3_2_2_13_a_retained_will_is_refused_where_nothing_is_retained() {
    let will = || Will::new(name("limits/will"), "x");
    refused(&Connect::new(V5).will(will().retain()), RETAIN_NOT_SUPPORTED);
    Client::connect_at(restricted(), &Connect::new(V5).will(will())).0.disconnect();
}

#[test]
fn mqtt_3_2_2_14_a_retained_message_ends_the_connection_where_nothing_is_retained() {
    let topic = name("limits/retain");
    for qos in 0..=1 {
        let (mut client, answer) = Client::connect_at(restricted(), &Connect::new(V5));
        assert_eq!(answer.properties.number(id::RETAIN_AVAILABLE), Some(0), "{answer:?}");
        client.send_publish(&Publish::new(&topic, "x").qos(qos, 1).retain());
        client.expect_disconnect(RETAIN_NOT_SUPPORTED);
    }
    let (mut later, _) = Client::connect_at(restricted(), &Connect::new(V5));
    later.subscribe(&topic, 1);
    later.ping();
}

#[test]
fn mqtt_3_2_2_18_no_alias_is_taken_where_none_is_announced() {
    let (mut client, answer) = connect(&Connect::new(V5));
    assert!(answer.properties.number(id::TOPIC_ALIAS_MAXIMUM).is_none_or(|most| most == 0), "{answer:?}");
    let alias = Properties::new().two(id::TOPIC_ALIAS, 1);
    client.send_publish(&Publish::new(name("limits/alias"), "x").properties(alias));
    client.expect_disconnect(ALIAS_INVALID);
}

#[test]
fn mqtt_3_3_4_7_the_announced_receive_maximum_holds() {
    let topic = name("limits/receive");
    let (mut client, answer) = connect(&Connect::new(V5));
    assert_eq!(answer.properties.number(id::RECEIVE_MAXIMUM), Some(RECEIVE_MAXIMUM.into()));
    for round in 0..3 {
        for number in 1..=RECEIVE_MAXIMUM {
            client.send_publish(&Publish::new(&topic, "x").qos(2, number));
            client.expect_ack(kind::PUBREC, number);
        }
        if round < 2 {
            for number in 1..=RECEIVE_MAXIMUM {
                client.send_ack(kind::PUBREL, number);
                client.expect_ack(kind::PUBCOMP, number);
            }
        }
    }
    client.send_publish(&Publish::new(&topic, "x").qos(1, RECEIVE_MAXIMUM + 1));
    client.expect_disconnect(RECEIVE_MAXIMUM_EXCEEDED);
}

#[test]
fn mqtt_3_2_2_15_the_announced_maximum_packet_size_holds() {
    let topic = name("limits/size");
    let (mut client, answer) = connect(&Connect::new(V5));
    assert_eq!(answer.properties.number(id::MAXIMUM_PACKET_SIZE), Some(MAXIMUM_PACKET_SIZE));
    // Its remaining length has two bytes, whatever its payload here.
    let header = Publish::new(&topic, vec![0; 1_000]).encode(V5).len() - 1_000;
    let publish = |size: usize| Publish::new(&topic, vec![0; size - header]).encode(V5);
    for size in [MAXIMUM_PACKET_SIZE - 1, MAXIMUM_PACKET_SIZE] {
        let bytes = publish(size);
        assert_eq!(bytes.len(), size);
        client.send(bytes);
        client.ping();
    }
    client.send(publish(MAXIMUM_PACKET_SIZE + 1));
    client.expect_disconnect(TOO_LARGE);
}

#[test]
fn clause_3_2_2_3_2_another_session_expiry_is_told() {
    let ask = |seconds| {
        let properties = Properties::new().four(id::SESSION_EXPIRY, seconds);
        connect(&Connect::new(V5).properties(properties)).1.properties.number(id::SESSION_EXPIRY)
    };
    for seconds in [0, 1, SESSION_EXPIRY] {
        let told = ask(seconds);
        assert!(told.is_none_or(|told| told == seconds as usize), "{told:?} instead of {seconds}");
    }
    for seconds in [SESSION_EXPIRY + 1, u32::MAX - 1, u32::MAX] {
        assert_eq!(ask(seconds), Some(SESSION_EXPIRY as usize), "instead of {seconds}");
    }
}

#[test]
fn clause_3_2_2_3_2_a_client_that_asks_for_nothing_is_told_of_nothing_longer() {
    let (client, answer) = connect(&Connect::new(V5));
    assert!(answer.properties.number(id::SESSION_EXPIRY).is_none_or(|told| told == 0), "{answer:?}");
    client.disconnect();
}
