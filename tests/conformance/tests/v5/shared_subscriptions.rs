//! Shared subscriptions (MQTT 5 clause 4.8.2).

use std::time::Duration;

use tidegate_conformance::client::{Came, SILENCE};
use tidegate_conformance::ending::{FILTER_INVALID, Failures, MALFORMED, PROTOCOL_ERROR};
use tidegate_conformance::packet::ack_with;
use tidegate_conformance::property::id;
use tidegate_conformance::{
    Client, Connect, Packet, Properties, Publish, Subscribe, Unsubscribe, Version::V5, kind, name,
};

/// `$share/<a new group>/topic`.
fn shared(topic: &str) -> String {
    format!("$share/{}/{topic}", name("group"))
}

/// Filters that are shared ones by their beginning and break a rule end the connection.
#[track_caller]
fn refuse_all(filters: &[&str]) {
    let mut failures = Failures::new();
    for filter in filters {
        let subscribe = Subscribe::new(1).filter(filter, 0).encode(V5);
        failures.offend(filter, subscribe, &[MALFORMED, PROTOCOL_ERROR, FILTER_INVALID]);
    }
    failures.report();
}

#[test]
fn mqtt_4_8_2_1_a_shared_filter_has_a_share_name() {
    refuse_all(&["$share/", "$share//", "$share//a", "$share//#"]);
}

#[test]
fn mqtt_4_8_2_2_the_share_name_is_plain_and_a_filter_follows() {
    refuse_all(&[
        "$share/group",
        "$share/group/",
        "$share/gr+up/a",
        "$share/+/a",
        "$share/#/a",
        "$share/#",
        "$share/gr#up/a",
        "$share/group/a+",
        "$share/group/#/a",
    ]);
}

#[test]
fn mqtt_4_8_2_2_good_share_names_and_filters_are_taken() {
    let topic = name("shared");
    let mut client = Client::new(V5);
    for share in ["g", " ", "é\u{feff}", "$share", "$SYS", "a b"] {
        for filter in [topic.clone(), format!("/{topic}"), format!("+/{topic}/#"), format!("{topic}/+/")] {
            let filter = format!("$share/{share}/{filter}");
            client.subscribe(&filter, 0);
            client.unsubscribe(&filter);
        }
    }
}

#[test]
fn mqtt_4_8_2_3_the_granted_qos_of_the_receiver_holds() {
    for granted in 0..=2 {
        for sent in 0..=2 {
            let topic = name("shared/qos");
            let mut client = Client::new(V5);
            client.subscribe(shared(&topic), granted);
            Client::new(V5).publish(&topic, "x", sent);
            let message = client.expect_payload("x");
            assert_eq!(message.qos, granted.min(sent), "{sent} to {granted}");
            client.acknowledge(&message);
        }
    }
}

/// A persistent member of the group of `filter` that has been sent "x" at QoS 2 and another member that has not.
fn begun(topic: &str) -> (Client, Connect, Client) {
    let filter = shared(topic);
    let connect = Connect::new(V5).persistent();
    let mut first = Client::connect(&connect);
    first.subscribe(&filter, 2);
    Client::new(V5).publish(topic, "x", 2);
    first.expect_payload("x");
    let mut second = Client::new(V5);
    second.subscribe(&filter, 2);
    (first, connect, second)
}

#[test]
fn mqtt_4_8_2_4_a_qos_two_message_is_finished_with_its_first_receiver() {
    let (first, connect, mut second) = begun(&name("shared/begun"));
    first.cut();
    second.expect_silence();
    let mut first = Client::connect(&connect);
    let again = first.expect_payload("x");
    assert!(again.dup);
    first.acknowledge(&again);
    second.ping();
    second.expect_silence();
}

#[test]
fn mqtt_4_8_2_4_a_released_message_is_finished_with_its_receiver() {
    let topic = name("shared/released");
    let filter = shared(&topic);
    let connect = Connect::new(V5).persistent();
    let mut first = Client::connect(&connect);
    first.subscribe(&filter, 2);
    Client::new(V5).publish(&topic, "x", 2);
    let id = first.expect_payload("x").id.unwrap();
    let mut second = Client::new(V5);
    second.subscribe(&filter, 2);
    first.send_ack(kind::PUBREC, id);
    first.expect_ack(kind::PUBREL, id);
    first.cut();
    second.expect_silence();
    let mut first = Client::connect(&connect);
    first.expect_ack(kind::PUBREL, id);
    first.send_ack(kind::PUBCOMP, id);
    first.ping();
}

#[test]
fn mqtt_4_8_2_5_when_its_session_ends_nobody_else_gets_a_qos_two_message() {
    let (first, connect, mut second) = begun(&name("shared/ended"));
    first.cut();
    let mut first = Client::connect(&connect.clean(true));
    second.ping();
    second.expect_silence();
    first.ping();
    first.expect_silence();
}

#[test]
fn mqtt_4_8_2_6_a_refused_message_goes_to_nobody_else() {
    for (qos, kind) in [(1, kind::PUBACK), (2, kind::PUBREC)] {
        let topic = name("shared/refused");
        let filter = shared(&topic);
        let mut members = [Client::new(V5), Client::new(V5)];
        for member in &mut members {
            member.subscribe(&filter, 2);
        }
        Client::new(V5).publish(&topic, "x", qos);
        // Whichever of the two it went to.
        let received = members.iter_mut().enumerate().find_map(|(at, member)| {
            match member.read_within(Duration::from_millis(500)) {
                Came::Packet(Packet::Publish(message)) => Some((at, message.id.unwrap())),
                Came::Nothing => None,
                other => panic!("{other:?}"),
            }
        });
        let (receiver, id) = received.expect("one of them has it");
        members[receiver].send(ack_with(kind, id, 0x80, &Properties::new()));
        for member in &mut members {
            member.ping();
            member.expect_silence();
        }
    }
}

#[test]
fn clause_4_8_2_each_message_goes_to_one_member_of_each_group() {
    let topic = name("shared/each");
    let groups = [shared(&topic), shared(&topic)];
    let mut members: Vec<Client> = (0..6).map(|_| Client::new(V5)).collect();
    for (at, member) in members.iter_mut().enumerate() {
        member.subscribe(&groups[at / 3], 1);
    }
    let mut plain = Client::new(V5);
    plain.subscribe(&topic, 1);
    let count = 60;
    let mut sender = Client::new(V5);
    for number in 0..count {
        sender.publish(&topic, number.to_string(), 1);
    }
    for number in 0..count {
        let message = plain.expect_payload(&number.to_string());
        plain.acknowledge(&message);
    }
    for group in members.chunks_mut(3) {
        let mut all = Vec::new();
        for member in group {
            let mut own = 0;
            loop {
                match member.read_within(SILENCE) {
                    Came::Packet(Packet::Publish(message)) => {
                        member.acknowledge(&message);
                        all.push(message.text().parse::<usize>().unwrap());
                        own += 1;
                    }
                    Came::Nothing => break,
                    other => panic!("{other:?}"),
                }
            }
            assert!(own > 0, "a member has nothing of {count} messages");
        }
        all.sort_unstable();
        assert_eq!(all, (0..count).collect::<Vec<_>>(), "each once");
    }
}

#[test]
fn clause_4_8_2_a_share_and_a_plain_subscription_of_a_client_are_two() {
    let topic = name("shared/two");
    let filter = shared(&topic);
    let mut client = Client::new(V5);
    let identified = |identifier| Properties::new().variable(id::SUBSCRIPTION_IDENTIFIER, identifier);
    client.send(Subscribe::new(1).filter(&filter, 0).properties(identified(3)).encode(V5));
    client.expect_suback(1);
    client.send(Subscribe::new(2).filter(&topic, 0).properties(identified(4)).encode(V5));
    client.expect_suback(2);
    let mut sender = Client::new(V5);
    sender.publish(&topic, "both", 0);
    let mut identifiers = [client.expect_payload("both"), client.expect_payload("both")]
        .map(|message| message.properties.number(id::SUBSCRIPTION_IDENTIFIER));
    identifiers.sort_unstable();
    assert_eq!(identifiers, [Some(3), Some(4)]);
    client.unsubscribe(&filter);
    sender.publish(&topic, "one", 0);
    client.expect_payload("one");
    client.ping();
    client.expect_silence();
}

#[test]
fn clause_4_8_2_retained_messages_are_not_for_shared_subscriptions() {
    let topic = name("shared/retained");
    Client::new(V5).publish_retained(&topic, "kept", 1);
    let mut client = Client::new(V5);
    client.subscribe(shared(&topic), 1);
    client.ping();
    client.expect_silence();
}

#[test]
fn clause_4_8_2_a_member_that_leaves_gets_nothing_more() {
    let topic = name("shared/leaves");
    let filter = shared(&topic);
    let mut stays = Client::new(V5);
    let mut leaves = Client::new(V5);
    stays.subscribe(&filter, 0);
    leaves.subscribe(&filter, 0);
    leaves.send(Unsubscribe::new(9).filter(&topic).encode(V5));
    assert_eq!(leaves.expect_unsuback(9).codes, [0x11], "the filter without the share is another one");
    leaves.unsubscribe(&filter);
    let mut sender = Client::new(V5);
    for number in 0..10 {
        sender.publish(&topic, number.to_string(), 0);
        stays.expect_payload(&number.to_string());
    }
    leaves.ping();
    leaves.expect_silence();
}

#[test]
fn clause_4_8_2_a_member_subscribes_twice_and_counts_once() {
    let topic = name("shared/once");
    let filter = shared(&topic);
    let mut client = Client::new(V5);
    client.subscribe(&filter, 0);
    client.subscribe(&filter, 1);
    let mut sender = Client::new(V5);
    for number in 0..4 {
        sender.publish(&topic, number.to_string(), 1);
        let message = client.expect_payload(&number.to_string());
        assert_eq!(message.qos, 1, "the later options hold");
        client.acknowledge(&message);
    }
    client.unsubscribe(&filter);
    sender.publish(&topic, "too late", 1);
    client.ping();
    client.expect_silence();
}

#[test]
fn clause_4_8_2_unacknowledged_qos_one_goes_to_another_when_the_session_ends() {
    let topic = name("shared/moves");
    let filter = shared(&topic);
    let mut first = Client::new(V5);
    first.subscribe(&filter, 1);
    Client::new(V5).publish(&topic, "x", 1);
    first.expect_payload("x");
    let mut second = Client::new(V5);
    second.subscribe(&filter, 1);
    // Its session ends with its connection.
    first.cut();
    let message = second.expect_payload("x");
    second.acknowledge(&message);
}

#[test]
fn clause_4_8_2_a_member_whose_window_is_full_is_passed_over() {
    let topic = name("shared/full");
    let filter = shared(&topic);
    let properties = Properties::new().two(id::RECEIVE_MAXIMUM, 1);
    let mut full = Client::connect(&Connect::new(V5).properties(properties));
    full.subscribe(&filter, 1);
    let mut sender = Client::new(V5);
    sender.publish(&topic, "fills", 1);
    full.expect_payload("fills");
    let mut free = Client::new(V5);
    free.subscribe(&filter, 1);
    for number in 0..6 {
        sender.send_publish(&Publish::new(&topic, number.to_string()).qos(1, 9));
        sender.expect_ack(kind::PUBACK, 9);
        let message = free.expect_payload(&number.to_string());
        free.acknowledge(&message);
    }
}
