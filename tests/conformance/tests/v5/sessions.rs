//! Sessions: clean start, expiry, what is kept (MQTT 5 clauses 3.1.2.4, 3.1.2.11.2, 3.14.2.2.2, 4.1), and the transport
//! (clause 4.2).

use std::thread::sleep;
use std::time::Duration;

use tidegate_conformance::ending::{PROTOCOL_ERROR, refused};
use tidegate_conformance::packet::disconnect_with;
use tidegate_conformance::property::id;
use tidegate_conformance::{Client, Connect, Properties, Publish, Subscribe, Version::V5, kind, name};

fn expiry(seconds: u32) -> Properties {
    Properties::new().four(id::SESSION_EXPIRY, seconds)
}

/// Connects without clean start, and tells whether there was a session.
fn present(connect: &Connect) -> (Client, bool) {
    let (client, answer) = Client::connect_with(&connect.clone().clean(false));
    (client, answer.session_present)
}

#[test]
fn mqtt_3_1_2_4_clean_start_throws_everything_of_the_session_away() {
    let topic = name("sessions/clean");
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 2);
    let mut sender = Client::new(V5);
    // Something in flight, something queued, something half received.
    sender.publish(&topic, "in flight", 1);
    client.expect_payload("in flight");
    client.send_publish(&Publish::new(name("sessions/half"), "x").qos(2, 700));
    client.expect_ack(kind::PUBREC, 700);
    client.cut();
    sender.publish(&topic, "queued", 2);

    let (mut client, answer) = Client::connect_with(&connect.clone().clean(true));
    assert!(!answer.session_present);
    client.expect_silence();
    sender.publish(&topic, "no subscription", 1);
    client.ping();
    client.expect_silence();
    client.send_ack(kind::PUBREL, 700);
    assert_eq!(client.expect_ack(kind::PUBCOMP, 700).reason, 0x92, "the identifier is forgotten, too");
}

#[test]
fn mqtt_3_1_2_5_without_clean_start_the_session_goes_on() {
    let topic = name("sessions/resumed");
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 1);
    client.cut();
    let mut sender = Client::new(V5);
    sender.publish(&topic, "while away", 1);
    let (mut client, was_there) = present(&connect);
    assert!(was_there);
    let waited = client.expect_payload("while away");
    client.acknowledge(&waited);
    sender.publish(&topic, "back", 1);
    client.expect_payload("back");
}

#[test]
fn mqtt_3_1_2_5_subscriptions_go_on_with_all_their_options() {
    let topic = name("sessions/options");
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    // QoS 1, no local, retain as published, retain handling 2.
    let identified = Properties::new().variable(id::SUBSCRIPTION_IDENTIFIER, 300);
    client.send(Subscribe::new(1).filter(&topic, 0b10_1101).properties(identified).encode(V5));
    client.expect_suback(1);
    client.cut();
    let (mut client, was_there) = present(&connect);
    assert!(was_there);
    client.publish(&topic, "own", 1);
    Client::new(V5).publish_retained(&topic, "of another", 2);
    let message = client.expect_payload("of another");
    assert_eq!((message.qos, message.retain), (1, true));
    assert_eq!(message.properties.number(id::SUBSCRIPTION_IDENTIFIER), Some(300));
}

#[test]
fn mqtt_3_1_2_5_a_resumed_session_has_no_retained_messages_sent_again() {
    let topic = name("sessions/retained");
    Client::new(V5).publish_retained(&topic, "kept", 1);
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 1);
    let kept = client.expect_payload("kept");
    client.acknowledge(&kept);
    client.ping();
    client.cut();
    let (mut client, was_there) = present(&connect);
    assert!(was_there);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_1_2_5_a_shared_subscription_goes_on() {
    let topic = name("sessions/shared");
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(format!("$share/{}/{topic}", name("group")), 1);
    client.cut();
    // The only member there is: the message waits for it.
    Client::new(V5).publish(&topic, "while away", 1);
    let (mut client, was_there) = present(&connect);
    assert!(was_there);
    client.expect_payload("while away");
    Client::new(V5).publish(&topic, "back", 1);
    client.expect_payload("back");
}

#[test]
fn mqtt_3_1_2_6_without_clean_start_and_session_a_new_one_begins() {
    let topic = name("sessions/new");
    let (mut client, was_there) = present(&Connect::new(V5).persistent());
    assert!(!was_there);
    client.subscribe(&topic, 0);
    Client::new(V5).publish(&topic, "x", 0);
    client.expect_payload("x");
}

#[test]
fn mqtt_3_1_2_23_a_session_outlives_its_connection_by_its_expiry() {
    let connect = Connect::new(V5).properties(expiry(60));
    for end in ["DISCONNECT", "the socket's end"] {
        let (client, _) = Client::connect_with(&connect);
        if end == "DISCONNECT" {
            client.disconnect()
        } else {
            client.cut()
        }
        let (client, was_there) = present(&connect);
        assert!(was_there, "after {end}");
        client.disconnect();
    }
}

#[test]
fn mqtt_3_1_2_23_clean_start_does_not_shorten_the_new_session() {
    let connect = Connect::new(V5).properties(expiry(60)).clean(true);
    Client::connect(&connect).disconnect();
    assert!(present(&connect).1);
}

#[test]
fn mqtt_4_1_0_1_a_session_is_kept_as_long_as_its_connection() {
    let topic = name("sessions/open");
    // It would expire at once, and within a second, without the connection.
    for seconds in [0, 1] {
        let mut client = Client::connect(&Connect::new(V5).properties(expiry(seconds)));
        client.subscribe(&topic, 0);
        sleep(Duration::from_millis(1_500));
        Client::new(V5).publish(&topic, "still there", 0);
        client.expect_payload("still there");
    }
}

#[test]
fn mqtt_4_1_0_2_a_session_without_expiry_ends_with_its_connection() {
    for connect in [Connect::new(V5), Connect::new(V5).properties(expiry(0))] {
        Client::connect(&connect).disconnect();
        assert!(!present(&connect).1, "{connect:?}");
    }
    let connect = Connect::new(V5).properties(expiry(0));
    Client::connect(&connect).cut();
    // The server notices the end of the connection a little later than we make it.
    sleep(Duration::from_millis(200));
    assert!(!present(&connect).1, "after the socket's end");
}

#[test]
fn mqtt_4_1_0_2_a_session_ends_when_its_expiry_has_passed() {
    let topic = name("sessions/expires");
    let connect = Connect::new(V5).properties(expiry(1));
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 1);
    client.cut();
    Client::new(V5).publish(&topic, "too late", 1);
    sleep(Duration::from_millis(2_500));
    let (mut client, was_there) = present(&connect);
    assert!(!was_there);
    client.expect_silence();
}

#[test]
fn mqtt_4_1_0_2_the_expiry_counts_from_the_last_connection() {
    let connect = Connect::new(V5).properties(expiry(2));
    Client::connect(&connect).cut();
    for _ in 0..3 {
        sleep(Duration::from_millis(1_000));
        let (client, was_there) = present(&connect);
        assert!(was_there);
        client.cut();
    }
}

#[test]
fn mqtt_4_1_0_2_the_expiry_is_that_of_the_last_connect() {
    let connect = Connect::new(V5).persistent();
    Client::connect(&connect).disconnect();
    // Taken up without an expiry: it ends with this connection.
    let (client, was_there) = present(&connect.clone().properties(Properties::new()));
    assert!(was_there);
    client.disconnect();
    assert!(!present(&connect).1);
}

#[test]
fn clause_3_14_2_2_2_disconnect_changes_the_expiry() {
    let connect = Connect::new(V5).properties(expiry(60));
    let mut client = Client::connect(&connect);
    client.send(disconnect_with(0, &expiry(0)));
    client.expect_closed();
    assert!(!present(&connect).1, "it was shortened to nothing");

    let connect = Connect::new(V5).properties(expiry(1));
    let mut client = Client::connect(&connect);
    client.send(disconnect_with(0, &expiry(60)));
    client.expect_closed();
    sleep(Duration::from_millis(2_500));
    assert!(present(&connect).1, "it was prolonged");
}

#[test]
fn clause_3_14_2_2_2_a_session_that_was_to_end_is_not_prolonged() {
    for connect in [Connect::new(V5), Connect::new(V5).properties(expiry(0))] {
        let mut client = Client::connect(&connect);
        client.send(disconnect_with(0, &expiry(60)));
        refused(&mut client, &[PROTOCOL_ERROR]).unwrap();
        assert!(!present(&connect).1);
    }
}

#[test]
fn mqtt_4_5_0_1_a_message_belongs_to_every_session_that_subscribes() {
    let topic = name("sessions/all");
    let connects: Vec<Connect> = (0..4).map(|_| Connect::new(V5).persistent()).collect();
    let mut clients: Vec<Client> = connects.iter().map(Client::connect).collect();
    for (client, filter) in
        clients.iter_mut().zip([topic.clone(), format!("{topic}/#"), "+/+".into(), topic.clone()])
    {
        // `+/+` would bring other tests' messages: the topic below it is this test's alone.
        let filter = if filter == "+/+" { topic.replacen("sessions", "+", 1) } else { filter };
        client.subscribe(filter, 1);
    }
    // Two are there, two are away.
    clients.drain(2..).for_each(Client::cut);
    Client::new(V5).publish(&topic, "for all", 1);
    for client in &mut clients {
        client.expect_payload("for all");
    }
    for connect in &connects[2..] {
        Client::connect(connect).expect_payload("for all");
    }
}

#[test]
fn mqtt_4_2_0_1_packets_may_come_in_any_pieces() {
    let topic = name("sessions/pieces");
    let mut client = Client::open(V5);
    let mut bytes = Connect::new(V5).encode();
    bytes.extend(Subscribe::new(1).filter(&topic, 1).encode(V5));
    bytes.extend(Publish::new(&topic, "p".repeat(300)).qos(1, 2).encode(V5));
    // Byte by byte, each in a segment of its own.
    for byte in &bytes {
        client.send([*byte]);
    }
    assert_eq!(client.expect_connack().code, 0);
    assert_eq!(client.expect_suback(1).codes, [1]);
    let mut came = [client.expect(), client.expect()].map(|packet| format!("{packet:?}"));
    came.sort();
    assert!(came[0].starts_with("Ack") && came[1].starts_with("Publish"), "{came:?}");
}

#[test]
fn mqtt_4_2_0_1_many_packets_may_come_in_one_piece() {
    let mut client = Client::new(V5);
    let topic = name("sessions/piece");
    client.subscribe(&topic, 0);
    let many: Vec<u8> =
        (0..500).flat_map(|number| Publish::new(&topic, number.to_string()).encode(V5)).collect();
    client.send(many);
    for number in 0..500 {
        client.expect_payload(&number.to_string());
    }
}
