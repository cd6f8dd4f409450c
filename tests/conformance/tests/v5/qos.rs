//! Quality of service (MQTT 5 clauses 4.3 to 4.6): both halves of QoS 1 and 2, redelivery, order.

use std::collections::HashSet;
use std::thread::sleep;
use std::time::Duration;

use tidegate_conformance::packet::ack_with;
use tidegate_conformance::property::id;
use tidegate_conformance::{
    Client, Connect, Packet, Properties, Publish, Subscribe, Version::V5, kind, name,
};

/// A persistent client that subscribes to `topic` at QoS 2, and how it connects again.
fn persistent(topic: &str) -> (Client, Connect) {
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(topic, 2);
    (client, connect)
}

/// A session's next connection.
#[track_caller]
fn back(connect: &Connect) -> Client {
    let (client, answer) = Client::connect_with(connect);
    assert!(answer.session_present);
    client
}

/// Nothing more comes.
#[track_caller]
fn nothing(client: &mut Client) {
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_2_2_1_4_identifiers_of_a_server_are_not_zero_and_not_in_use() {
    let topic = name("qos/ids");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 2);
    let mut sender = Client::new(V5);
    let mut in_use: HashSet<u16> = HashSet::new();
    for round in 0..200_u32 {
        let qos = if round % 2 == 0 { 1 } else { 2 };
        sender.publish(&topic, round.to_string(), qos);
        let message = client.expect_payload(&round.to_string());
        let id = message.id.expect("the harness refuses 0");
        assert!(in_use.insert(id), "{id} is in use");
        // Every third stays unacknowledged.
        if round % 3 > 0 {
            client.acknowledge(&message);
            in_use.remove(&id);
        }
    }
}

#[test]
fn mqtt_4_3_1_1_qos_zero_goes_out_as_qos_zero() {
    let topic = name("qos/zero");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 2);
    Client::new(V5).publish(&topic, "x", 0);
    let message = client.expect_payload("x");
    assert_eq!((message.qos, message.dup, message.id), (0, false, None));
}

#[test]
fn mqtt_4_3_2_1_new_qos_one_messages_have_identifiers_of_their_own() {
    identifiers_of_their_own(1);
}

#[test]
fn mqtt_4_3_3_1_new_qos_two_messages_have_identifiers_of_their_own() {
    identifiers_of_their_own(2);
}

#[track_caller]
fn identifiers_of_their_own(qos: u8) {
    let topic = name("qos/own");
    let mut client = Client::new(V5);
    client.subscribe(&topic, qos);
    let mut sender = Client::new(V5);
    let mut ids = HashSet::new();
    for number in 0..50 {
        sender.publish(&topic, number.to_string(), qos);
        assert!(ids.insert(client.expect_payload(&number.to_string()).id), "an identifier twice");
    }
}

#[test]
fn mqtt_4_3_2_2_qos_one_is_sent_at_first_without_dup() {
    sent_at_first(1);
}

#[test]
fn mqtt_4_3_3_2_qos_two_is_sent_at_first_without_dup() {
    sent_at_first(2);
}

#[track_caller]
fn sent_at_first(qos: u8) {
    let topic = name("qos/first");
    let (mut client, connect) = persistent(&topic);
    let mut sender = Client::new(V5);
    sender.publish(&topic, "live", qos);
    let message = client.expect_payload("live");
    assert_eq!((message.qos, message.dup, message.id.is_some()), (qos, false, true));
    client.acknowledge(&message);
    client.ping();
    client.cut();
    sender.publish(&topic, "queued", qos);
    let message = back(&connect).expect_payload("queued");
    assert_eq!((message.qos, message.dup), (qos, false), "it was never sent before");
}

#[test]
fn mqtt_4_3_2_3_qos_one_is_unacknowledged_until_puback() {
    let topic = name("qos/puback");
    let (mut client, connect) = persistent(&topic);
    Client::new(V5).publish(&topic, "x", 1);
    let id = client.expect_payload("x").id.unwrap();
    client.cut();
    for _ in 0..2 {
        let mut client = back(&connect);
        let again = client.expect_payload("x");
        assert_eq!((again.id, again.dup), (Some(id), true));
        client.cut();
    }
    let mut client = back(&connect);
    let again = client.expect_payload("x");
    client.acknowledge(&again);
    client.ping();
    client.cut();
    nothing(&mut back(&connect));
}

#[test]
fn mqtt_4_3_2_4_puback_comes_when_the_message_is_taken_over() {
    let topic = name("qos/taken");
    let (client, connect) = persistent(&topic);
    client.cut();
    let mut sender = Client::new(V5);
    sender.send_publish(&Publish::new(&topic, "x").qos(1, 0x1234));
    assert_eq!(sender.expect_ack(kind::PUBACK, 0x1234).reason, 0);
    sender.cut();
    back(&connect).expect_payload("x");
}

#[test]
fn mqtt_4_3_2_5_after_puback_the_identifier_is_free_whatever_dup_says() {
    let topic = name("qos/free");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 1);
    let mut sender = Client::new(V5);
    for (payload, dup) in [("first", false), ("second", true), ("third", false)] {
        let mut publish = Publish::new(&topic, payload).qos(1, 7);
        publish.dup = dup;
        sender.send_publish(&publish);
        sender.expect_ack(kind::PUBACK, 7);
        client.expect_payload(payload);
    }
}

#[test]
fn mqtt_4_3_3_3_qos_two_is_unacknowledged_until_pubrec() {
    let topic = name("qos/pubrec");
    let (mut client, connect) = persistent(&topic);
    Client::new(V5).publish(&topic, "x", 2);
    let id = client.expect_payload("x").id.unwrap();
    client.cut();
    for _ in 0..2 {
        let mut client = back(&connect);
        let again = client.expect_payload("x");
        assert_eq!((again.qos, again.id, again.dup), (2, Some(id), true));
        client.cut();
    }
}

#[test]
fn mqtt_4_3_3_4_pubrec_is_answered_by_pubrel() {
    let topic = name("qos/pubrel");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 2);
    let mut sender = Client::new(V5);
    for code in [0x00, 0x10] {
        sender.publish(&topic, "x", 2);
        let id = client.expect_payload("x").id.unwrap();
        client.send(ack_with(kind::PUBREC, id, code, &Properties::new()));
        assert_eq!(client.expect_ack(kind::PUBREL, id).reason, 0);
        client.send_ack(kind::PUBCOMP, id);
    }
    nothing(&mut client);
}

#[test]
fn mqtt_4_3_3_5_pubrel_is_unacknowledged_until_pubcomp() {
    let topic = name("qos/pubcomp");
    let (mut client, connect) = persistent(&topic);
    Client::new(V5).publish(&topic, "x", 2);
    let id = client.expect_payload("x").id.unwrap();
    client.send_ack(kind::PUBREC, id);
    client.expect_ack(kind::PUBREL, id);
    client.cut();
    for _ in 0..2 {
        let mut client = back(&connect);
        client.expect_ack(kind::PUBREL, id);
        client.cut();
    }
    let mut client = back(&connect);
    client.expect_ack(kind::PUBREL, id);
    client.send_ack(kind::PUBCOMP, id);
    client.ping();
    client.cut();
    nothing(&mut back(&connect));
}

#[test]
fn mqtt_4_3_3_6_no_publish_is_sent_again_after_its_pubrel() {
    let topic = name("qos/released");
    let (mut client, connect) = persistent(&topic);
    Client::new(V5).publish(&topic, "x", 2);
    let id = client.expect_payload("x").id.unwrap();
    client.send_ack(kind::PUBREC, id);
    client.expect_ack(kind::PUBREL, id);
    client.cut();
    let mut client = back(&connect);
    client.expect_ack(kind::PUBREL, id);
    nothing(&mut client);
}

#[test]
fn mqtt_4_3_3_7_what_was_sent_does_not_expire() {
    let topic = name("qos/sent");
    let (mut client, connect) = persistent(&topic);
    let mut sender = Client::new(V5);
    for qos in [1, 2] {
        let brief = Properties::new().four(id::MESSAGE_EXPIRY, 1);
        sender.send_publish(&Publish::new(&topic, qos.to_string()).qos(qos, qos.into()).properties(brief));
        sender.expect();
        if qos == 2 {
            sender.send_ack(kind::PUBREL, 2);
        }
        client.expect_payload(&qos.to_string());
    }
    client.cut();
    sleep(Duration::from_millis(2_200));
    let mut client = back(&connect);
    for qos in [1, 2] {
        let again = client.expect_payload(&qos.to_string());
        assert!(again.dup);
        client.acknowledge(&again);
    }
}

#[test]
fn mqtt_4_3_3_8_pubrec_comes_when_the_message_is_taken_over() {
    let topic = name("qos/taken");
    let (client, connect) = persistent(&topic);
    client.cut();
    let sending = Connect::new(V5).persistent();
    let mut sender = Client::connect(&sending);
    sender.send_publish(&Publish::new(&topic, "x").qos(2, 0x1234));
    assert_eq!(sender.expect_ack(kind::PUBREC, 0x1234).reason, 0);
    sender.cut();
    // The message is the server's now: PUBREL is all that it may wait for.
    let mut sender = back(&sending);
    sender.send_ack(kind::PUBREL, 0x1234);
    assert_eq!(sender.expect_ack(kind::PUBCOMP, 0x1234).reason, 0);
    back(&connect).expect_payload("x");
}

#[test]
fn mqtt_4_3_3_9_after_a_refusal_the_identifier_is_free() {
    let topic = name("qos/refused");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 2);
    let mut sender = Client::new(V5);
    // A payload that says it is text and is none: this server refuses it.
    let says_text = Properties::new().byte(id::PAYLOAD_FORMAT, 1);
    sender.send_publish(&Publish::new(&topic, [0xFF]).qos(2, 5).properties(says_text));
    assert_eq!(sender.expect_ack(kind::PUBREC, 5).reason, 0x99);
    sender.send_publish(&Publish::new(&topic, "good").qos(2, 5));
    assert_eq!(sender.expect_ack(kind::PUBREC, 5).reason, 0);
    sender.send_ack(kind::PUBREL, 5);
    assert_eq!(sender.expect_ack(kind::PUBCOMP, 5).reason, 0);
    let message = client.expect_payload("good");
    client.acknowledge(&message);
    nothing(&mut client);
}

#[test]
fn mqtt_4_3_3_10_before_pubrel_a_message_is_acknowledged_again_and_delivered_once() {
    let topic = name("qos/once");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 2);
    let connect = Connect::new(V5).persistent();
    let mut sender = Client::connect(&connect);
    let publish = Publish::new(&topic, "once").qos(2, 9);
    for publish in [publish.clone(), publish.clone().dup(), publish.clone()] {
        sender.send_publish(&publish);
        assert!(sender.expect_ack(kind::PUBREC, 9).reason < 0x80);
    }
    // Over a reconnect, too.
    sender.cut();
    let mut sender = back(&connect);
    sender.send_publish(&publish.dup());
    assert!(sender.expect_ack(kind::PUBREC, 9).reason < 0x80);
    sender.send_ack(kind::PUBREL, 9);
    assert_eq!(sender.expect_ack(kind::PUBCOMP, 9).reason, 0);
    let message = client.expect_payload("once");
    client.acknowledge(&message);
    sender.publish(&topic, "marker", 2);
    let message = client.expect_payload("marker");
    client.acknowledge(&message);
    nothing(&mut client);
}

#[test]
fn mqtt_4_3_3_10_every_copy_is_acknowledged_though_they_come_together() {
    let topic = name("qos/copies");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 2);
    let mut sender = Client::connect(&Connect::new(V5).persistent());
    let publish = Publish::new(&topic, "once").qos(2, 9);
    sender.send([publish.encode(V5), publish.clone().dup().encode(V5), publish.dup().encode(V5)].concat());
    for _ in 0..3 {
        assert!(sender.expect_ack(kind::PUBREC, 9).reason < 0x80);
    }
    sender.send_ack(kind::PUBREL, 9);
    assert_eq!(sender.expect_ack(kind::PUBCOMP, 9).reason, 0);
    let message = client.expect_payload("once");
    client.acknowledge(&message);
    nothing(&mut client);
}

#[test]
fn mqtt_4_3_3_11_pubrel_is_answered_by_pubcomp() {
    let connect = Connect::new(V5).persistent();
    let mut sender = Client::connect(&connect);
    sender.send_publish(&Publish::new(name("qos/pubcomp"), "x").qos(2, 9));
    sender.expect_ack(kind::PUBREC, 9);
    sender.cut();
    let mut sender = back(&connect);
    sender.send_ack(kind::PUBREL, 9);
    assert_eq!(sender.expect_ack(kind::PUBCOMP, 9).reason, 0, "over a reconnect");
    sender.send_ack(kind::PUBREL, 9);
    assert_eq!(sender.expect_ack(kind::PUBCOMP, 9).reason, 0x92, "and again, when PUBCOMP was lost");
}

#[test]
fn mqtt_4_3_3_12_after_pubcomp_the_identifier_is_free() {
    let topic = name("qos/free");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 2);
    let mut sender = Client::new(V5);
    for (payload, dup) in [("first", false), ("second", true), ("third", false)] {
        let mut publish = Publish::new(&topic, payload).qos(2, 7);
        publish.dup = dup;
        sender.send_publish(&publish);
        sender.expect_ack(kind::PUBREC, 7);
        sender.send_ack(kind::PUBREL, 7);
        sender.expect_ack(kind::PUBCOMP, 7);
        let message = client.expect_payload(payload);
        client.acknowledge(&message);
    }
}

#[test]
fn mqtt_4_3_3_13_the_exchange_goes_on_when_the_message_has_expired() {
    let mut sender = Client::new(V5);
    let brief = Properties::new().four(id::MESSAGE_EXPIRY, 1);
    sender.send_publish(&Publish::new(name("qos/expired"), "x").qos(2, 9).properties(brief));
    sender.expect_ack(kind::PUBREC, 9);
    sleep(Duration::from_millis(2_200));
    sender.send_ack(kind::PUBREL, 9);
    assert_eq!(sender.expect_ack(kind::PUBCOMP, 9).reason, 0);
}

#[test]
fn mqtt_4_4_0_1_a_resumed_session_has_everything_sent_again_in_order() {
    let topic = name("qos/again");
    let (mut client, connect) = persistent(&topic);
    let mut sender = Client::new(V5);
    let mut ids = Vec::new();
    for (number, qos) in [1, 2, 1, 2, 1].into_iter().enumerate() {
        sender.publish(&topic, number.to_string(), qos);
        ids.push(client.expect_payload(&number.to_string()).id.unwrap());
    }
    // 1 is released, 2 is acknowledged.
    client.send_ack(kind::PUBREC, ids[1]);
    client.expect_ack(kind::PUBREL, ids[1]);
    client.send_ack(kind::PUBACK, ids[2]);
    client.ping();
    client.cut();
    sender.publish(&topic, "queued", 1);

    let mut client = back(&connect);
    let mut published = Vec::new();
    let mut released = Vec::new();
    for _ in 0..5 {
        match client.expect() {
            Packet::Publish(message) => published.push((message.text(), message.id.unwrap(), message.dup)),
            Packet::Ack(ack) => released.push((ack.kind, ack.id)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(released, [(kind::PUBREL, ids[1])]);
    let again = |number: usize| (number.to_string(), ids[number], true);
    assert_eq!(published[..3], [again(0), again(3), again(4)]);
    let (payload, id, dup) = &published[3];
    assert_eq!((&**payload, *dup), ("queued", false));
    assert!(![ids[0], ids[1], ids[3], ids[4]].contains(id), "{id} is in use");
    nothing(&mut client);
}

#[test]
fn mqtt_4_4_0_1_nothing_is_sent_again_on_the_same_connection() {
    let topic = name("qos/same");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 2);
    let mut sender = Client::new(V5);
    for qos in [1, 2] {
        sender.publish(&topic, "x", qos);
        client.expect_payload("x");
    }
    sleep(Duration::from_secs(4));
    nothing(&mut client);
}

#[test]
fn mqtt_4_4_0_1_a_new_session_has_nothing_sent_again() {
    let topic = name("qos/new");
    let (mut client, connect) = persistent(&topic);
    Client::new(V5).publish(&topic, "x", 1);
    client.expect_payload("x");
    client.cut();
    let mut client = Client::connect(&connect.clean(true));
    nothing(&mut client);
}

#[test]
fn mqtt_4_4_0_2_a_refusal_ends_the_exchange() {
    let topic = name("qos/refuses");
    let (mut client, connect) = persistent(&topic);
    let mut sender = Client::new(V5);
    for code in [0x80, 0x83, 0x87, 0x90, 0x97, 0x99] {
        for (qos, kind) in [(1, kind::PUBACK), (2, kind::PUBREC)] {
            sender.publish(&topic, "x", qos);
            let id = client.expect_payload("x").id.unwrap();
            client.send(ack_with(kind, id, code, &Properties::new()));
        }
    }
    // No PUBREL either.
    nothing(&mut client);
    client.cut();
    nothing(&mut back(&connect));
}

#[test]
fn mqtt_4_6_0_5_messages_of_a_client_keep_their_order() {
    let topic = name("qos/order");
    for qos in 0..=2 {
        let mut client = Client::new(V5);
        client.subscribe(&topic, qos);
        let (mut sender, answer) = Client::connect_with(&Connect::new(V5));
        let most = answer.properties.number(id::RECEIVE_MAXIMUM).unwrap_or(65_535);
        let count = u16::try_from(most.min(300)).unwrap();
        // All at once, so that many are on their way together.
        let all: Vec<u8> = (1..=count)
            .flat_map(|number| Publish::new(&topic, number.to_string()).qos(qos, number).encode(V5))
            .collect();
        sender.send(all);
        if qos == 2 {
            (1..=count).for_each(|number| drop(sender.expect_ack(kind::PUBREC, number)));
            (1..=count).for_each(|number| sender.send_ack(kind::PUBREL, number));
        }
        let mut expected = 1;
        let mut releases = Vec::new();
        while expected <= count || !releases.is_empty() {
            match client.expect() {
                Packet::Publish(message) => {
                    assert_eq!(message.text(), expected.to_string(), "QoS {qos}");
                    expected += 1;
                    match (qos, message.id) {
                        (1, Some(id)) => client.send_ack(kind::PUBACK, id),
                        (2, Some(id)) => {
                            client.send_ack(kind::PUBREC, id);
                            releases.push(id);
                        }
                        _ => {}
                    }
                }
                Packet::Ack(ack) => {
                    assert_eq!((ack.kind, ack.id), (kind::PUBREL, releases.remove(0)), "in their order, too");
                    client.send_ack(kind::PUBCOMP, ack.id);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn mqtt_4_6_0_5_what_waited_comes_before_what_is_live() {
    let topic = name("qos/waited");
    let (client, connect) = persistent(&topic);
    client.cut();
    let mut sender = Client::new(V5);
    for number in 0..50 {
        sender.publish(&topic, number.to_string(), 1);
    }
    let mut client = back(&connect);
    for number in 50..100 {
        sender.publish(&topic, number.to_string(), 1);
    }
    for number in 0..100 {
        let message = client.expect_payload(&number.to_string());
        client.acknowledge(&message);
    }
}

#[test]
fn mqtt_4_6_0_5_messages_of_several_qos_keep_their_order() {
    let topic = name("qos/mixed");
    let (client, connect) = persistent(&topic);
    client.cut();
    let mut sender = Client::new(V5);
    for number in 0..40 {
        sender.publish(&topic, number.to_string(), 1 + number % 2);
    }
    let mut client = back(&connect);
    let mut ids = Vec::new();
    for number in 0..40 {
        let message = client.expect_payload(&number.to_string());
        assert_eq!(message.qos, 1 + number % 2);
        ids.push(message.id);
    }
    // Over a reconnect, too.
    client.cut();
    let mut client = back(&connect);
    for (number, id) in ids.into_iter().enumerate() {
        let message = client.expect_payload(&number.to_string());
        assert_eq!((message.dup, message.id), (true, id));
    }
}

#[test]
fn mqtt_4_6_0_5_what_is_retained_comes_before_what_is_newer() {
    let topic = name("qos/older");
    let mut sender = Client::new(V5);
    sender.publish_retained(&topic, "kept", 1);
    for round in 0..20 {
        let mut client = Client::connect(&Connect::new(V5).persistent());
        client.send(Subscribe::new(1).filter(&topic, 0).encode(V5));
        sender.publish(&topic, "live", 0);
        client.expect_suback(1);
        let first = client.expect_publish();
        // The live one may have come before the subscription.
        assert_eq!((first.text().as_str(), first.retain), ("kept", true), "round {round}");
    }
}

#[test]
fn mqtt_4_6_0_6_every_topic_is_ordered() {
    // Several topics under one filter: each keeps its order.
    let base = name("qos/topics");
    let mut client = Client::new(V5);
    client.subscribe(format!("{base}/+"), 1);
    let mut sender = Client::new(V5);
    for number in 0..60 {
        sender.publish(format!("{base}/{}", number % 3), number.to_string(), 1);
    }
    let mut last = [None; 3];
    for _ in 0..60 {
        let message = client.expect_publish();
        client.acknowledge(&message);
        let number: usize = message.text().parse().unwrap();
        assert!(last[number % 3] < Some(number), "{number} after {last:?}");
        last[number % 3] = Some(number);
    }
}
