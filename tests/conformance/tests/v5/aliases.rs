//! Topic aliases, both ways (MQTT 5 clauses 3.1.2.11.5, 3.2.2.3.8 and 3.3.2.3.4).

use std::collections::HashMap;

use tidegate_conformance::ending::{ALIAS_INVALID, PROTOCOL_ERROR, refused};
use tidegate_conformance::property::id;
use tidegate_conformance::{Client, Connect, Properties, Publish, Version::V5, kind, name};

fn alias(number: u16) -> Properties {
    Properties::new().two(id::TOPIC_ALIAS, number)
}

/// A client and the greatest alias that the server lets it use.
fn sender() -> (Client, u16) {
    let (client, answer) = Client::connect_with(&Connect::new(V5));
    let most = answer.properties.number(id::TOPIC_ALIAS_MAXIMUM).expect("this server takes aliases");
    (client, u16::try_from(most).unwrap())
}

fn watcher(filter: &str) -> Client {
    let mut client = Client::new(V5);
    client.subscribe(filter, 0);
    client
}

/// A client that takes aliases up to `most`.
fn taking(most: u16) -> Connect {
    Connect::new(V5).properties(Properties::new().two(id::TOPIC_ALIAS_MAXIMUM, most))
}

/// The topic that a message stands for, by the aliases of its connection.
#[track_caller]
fn topic_of(message: &Publish, most: u16, aliases: &mut HashMap<usize, String>) -> String {
    let Some(alias) = message.properties.number(id::TOPIC_ALIAS) else { return message.topic().into() };
    assert!((1..=usize::from(most)).contains(&alias), "alias {alias} of at most {most}");
    if message.topic.is_empty() {
        return aliases.get(&alias).unwrap_or_else(|| panic!("alias {alias} stands for nothing")).clone();
    }
    aliases.insert(alias, message.topic().into());
    message.topic().into()
}

#[test]
fn mqtt_3_1_2_26_aliases_that_go_out_keep_to_the_clients_maximum() {
    for most in [1, 2, 5] {
        outgoing(most);
    }
}

#[test]
fn mqtt_3_3_2_11_an_alias_that_goes_out_is_at_most_the_clients_maximum() {
    outgoing(u16::MAX);
}

/// More topics than aliases, several times: every message is of the topic that it was sent to.
#[track_caller]
fn outgoing(most: u16) {
    let base = name("aliases/out");
    let mut client = Client::connect(&taking(most));
    client.subscribe(format!("{base}/+"), 1);
    let mut sender = Client::new(V5);
    let mut aliases = HashMap::new();
    for round in 0..3 {
        for number in 0..12 {
            let topic = format!("{base}/{number}");
            sender.publish(&topic, format!("{round} {number}"), if number % 2 == 0 { 0 } else { 1 });
            let message = client.expect_payload(&format!("{round} {number}"));
            assert_eq!(topic_of(&message, most, &mut aliases), topic);
            client.acknowledge(&message);
        }
    }
}

#[test]
fn mqtt_3_1_2_27_without_a_maximum_no_alias_goes_out() {
    for connect in [Connect::new(V5), taking(0)] {
        let topic = name("aliases/none");
        let mut client = Client::connect(&connect);
        client.subscribe(&topic, 0);
        // What came in by an alias goes out without it.
        let (mut sender, _) = sender();
        sender.send_publish(&Publish::new(&topic, "0").properties(alias(1)));
        for number in 1..10 {
            sender.send_publish(&Publish::new("", number.to_string()).properties(alias(1)));
        }
        for number in 0..10 {
            let message = client.expect_payload(&number.to_string());
            assert_eq!((message.topic(), message.properties.get(id::TOPIC_ALIAS)), (&*topic, None));
        }
    }
}

#[test]
fn mqtt_3_2_2_17_an_alias_above_the_servers_maximum_is_refused() {
    let (mut client, most) = sender();
    client.send_publish(&Publish::new("aliases/above", "x").properties(alias(most + 1)));
    client.expect_disconnect(ALIAS_INVALID);
}

#[test]
fn mqtt_3_3_2_9_an_alias_above_the_servers_maximum_is_refused_at_every_qos() {
    for qos in 0..=2 {
        for above in [sender().1 + 1, u16::MAX] {
            let (mut client, _) = sender();
            client.send_publish(&Publish::new("aliases/above", "x").qos(qos, 1).properties(alias(above)));
            client.expect_disconnect(ALIAS_INVALID);
        }
    }
}

#[test]
fn mqtt_3_3_2_7_an_alias_ends_with_its_connection() {
    let topic = name("aliases/ends");
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.send_publish(&Publish::new(&topic, "x").properties(alias(1)));
    client.ping();
    client.cut();
    let mut client = Client::connect(&connect);
    client.send_publish(&Publish::new("", "x").properties(alias(1)));
    client.expect_disconnect(PROTOCOL_ERROR);
}

#[test]
fn mqtt_3_3_2_7_the_servers_aliases_end_with_their_connection() {
    let topic = name("aliases/servers");
    let connect = taking(5);
    let properties = connect.properties.clone().four(id::SESSION_EXPIRY, 60);
    let connect = connect.properties(properties).clean(false);
    let mut sender = Client::new(V5);
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 1);
    for round in 0..3 {
        let mut aliases = HashMap::new();
        for number in 0..3 {
            sender.publish(&topic, format!("{round} {number}"), 1);
            let message = client.expect_publish();
            assert_eq!(topic_of(&message, 5, &mut aliases), topic);
            // The last one is sent again on the next connection.
            if number < 2 {
                client.acknowledge(&message);
            }
        }
        client.ping();
        client.cut();
        sender.publish(&topic, "waits", 1);
        client = Client::connect(&connect);
        let mut aliases = HashMap::new();
        for _ in 0..2 {
            let message = client.expect_publish();
            assert_eq!(topic_of(&message, 5, &mut aliases), topic);
            client.acknowledge(&message);
        }
        client.ping();
        client.cut();
        client = Client::connect(&connect);
    }
}

#[test]
fn mqtt_3_3_2_8_alias_zero_is_refused() {
    for topic in ["aliases/zero", ""] {
        let mut client = Client::new(V5);
        client.send_publish(&Publish::new(topic, "x").properties(alias(0)));
        refused(&mut client, &[ALIAS_INVALID, PROTOCOL_ERROR]).unwrap();
    }
}

#[test]
fn mqtt_3_3_2_12_every_alias_up_to_the_maximum_is_taken() {
    let base = name("aliases/every");
    let (mut client, most) = sender();
    let mut watcher = watcher(&format!("{base}/+"));
    let numbers: Vec<u16> = (1..=most.min(100)).chain((most > 100).then_some(most)).collect();
    for number in &numbers {
        client.send_publish(&Publish::new(format!("{base}/{number}"), "first").properties(alias(*number)));
    }
    // In another order than they were made in.
    for number in numbers.iter().rev() {
        client.send_publish(&Publish::new("", "again").properties(alias(*number)));
    }
    for number in &numbers {
        assert_eq!(watcher.expect_payload("first").topic(), format!("{base}/{number}"));
    }
    for number in numbers.iter().rev() {
        assert_eq!(watcher.expect_payload("again").topic(), format!("{base}/{number}"));
    }
}

#[test]
fn clause_3_3_2_3_4_an_alias_can_be_given_to_another_topic() {
    let base = name("aliases/moved");
    let (mut client, _) = sender();
    let mut watcher = watcher(&format!("{base}/+"));
    for topic in ["a", "b", "a"] {
        let topic = format!("{base}/{topic}");
        client.send_publish(&Publish::new(&topic, "named").properties(alias(1)));
        client.send_publish(&Publish::new("", "by alias").properties(alias(1)));
        assert_eq!(watcher.expect_payload("named").topic(), topic);
        assert_eq!(watcher.expect_payload("by alias").topic(), topic);
    }
    // Two aliases for one topic, and the topic without any, change nothing.
    client.send_publish(&Publish::new(format!("{base}/a"), "x").properties(alias(2)));
    client.send_publish(&Publish::new(format!("{base}/c"), "x"));
    for (number, topic) in [(1, "a"), (2, "a")] {
        client.send_publish(&Publish::new("", "y").properties(alias(number)));
        if number == 1 {
            watcher.expect_payload("x");
            watcher.expect_payload("x");
        }
        assert_eq!(watcher.expect_payload("y").topic(), format!("{base}/{topic}"));
    }
}

#[test]
fn clause_3_3_2_3_4_aliases_work_at_every_qos_and_with_retain() {
    let topic = name("aliases/qos");
    let (mut client, _) = sender();
    let mut watcher = watcher(&topic);
    client.send_publish(&Publish::new(&topic, "0").properties(alias(3)));
    client.send_publish(&Publish::new("", "1").qos(1, 1).properties(alias(3)));
    client.expect_ack(kind::PUBACK, 1);
    client.send_publish(&Publish::new("", "2").qos(2, 2).retain().properties(alias(3)));
    client.expect_ack(kind::PUBREC, 2);
    client.send_ack(kind::PUBREL, 2);
    client.expect_ack(kind::PUBCOMP, 2);
    for payload in ["0", "1", "2"] {
        assert_eq!(watcher.expect_payload(payload).topic(), topic);
    }
    let mut late = Client::new(V5);
    late.subscribe(&topic, 0);
    assert_eq!(late.expect_payload("2").topic(), topic);
}

#[test]
fn clause_3_3_2_3_4_an_alias_that_stands_for_nothing_is_a_protocol_error() {
    let (mut client, most) = sender();
    client.send_publish(&Publish::new("", "x").properties(alias(most)));
    client.expect_disconnect(PROTOCOL_ERROR);
}

#[test]
fn clause_3_3_2_1_an_empty_topic_without_an_alias_is_a_protocol_error() {
    for qos in 0..=2 {
        let mut client = Client::new(V5);
        client.send_publish(&Publish::new("", "x").qos(qos, 1));
        client.expect_disconnect(PROTOCOL_ERROR);
    }
}

#[test]
fn clause_3_3_2_3_4_aliases_of_two_clients_have_nothing_to_do_with_each_other() {
    let base = name("aliases/two");
    let mut watcher = watcher(&format!("{base}/+"));
    let mut clients = [sender().0, sender().0];
    for (client, topic) in clients.iter_mut().zip(["a", "b"]) {
        client.send_publish(&Publish::new(format!("{base}/{topic}"), "named").properties(alias(1)));
        watcher.expect_payload("named");
    }
    for (client, topic) in clients.iter_mut().zip(["a", "b"]) {
        client.send_publish(&Publish::new("", "by alias").properties(alias(1)));
        assert_eq!(watcher.expect_payload("by alias").topic(), format!("{base}/{topic}"));
    }
}
