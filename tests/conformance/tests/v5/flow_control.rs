//! Receive maximum and send quota, both ways (MQTT 5 clauses 3.1.2.11.3, 3.2.2.3.3, 3.3.4 and 4.9).

use tidegate_conformance::client::Came;
use tidegate_conformance::ending::{RECEIVE_MAXIMUM_EXCEEDED, ending};
use tidegate_conformance::packet::ack_with;
use tidegate_conformance::property::id;
use tidegate_conformance::{
    Client, Connect, Packet, Properties, Publish, Subscribe, Unsubscribe, Version::V5, kind, name,
};

/// A client that takes `most` messages at once.
fn taking(connect: &Connect, most: u16) -> Client {
    let properties = connect.properties.clone().two(id::RECEIVE_MAXIMUM, most);
    Client::connect(&connect.clone().properties(properties))
}

/// A client that takes `most` messages at once and subscribes to `topic` at QoS 2.
fn receiver(connect: &Connect, most: u16, topic: &str) -> Client {
    let mut client = taking(connect, most);
    client.subscribe(topic, 2);
    client
}

/// Messages with the payloads 0 to `count` - 1.
fn send(topic: &str, qos: u8, count: usize) {
    let mut sender = Client::new(V5);
    for number in 0..count {
        sender.publish(topic, number.to_string(), qos);
    }
}

#[test]
fn mqtt_3_3_4_7_a_client_that_exceeds_the_receive_maximum_is_told_so() {
    let topic = name("flow/exceeds");
    let (mut client, answer) = Client::connect_with(&Connect::new(V5));
    let most = answer.properties.number(id::RECEIVE_MAXIMUM).expect("this server tells it");
    let publish = |number: usize| {
        let number = u16::try_from(number).unwrap();
        Publish::new(&topic, "x").qos(2, number).encode(V5)
    };
    for number in 1..=most {
        client.send(publish(number));
    }
    for number in 1..=most {
        client.expect_ack(kind::PUBREC, u16::try_from(number).unwrap());
    }
    // Up to the maximum it is served; a message that is sent again counts once.
    client.send(publish(most));
    client.expect_ack(kind::PUBREC, u16::try_from(most).unwrap());
    client.ping();
    client.send(publish(most + 1));
    client.expect_disconnect(RECEIVE_MAXIMUM_EXCEEDED);
}

#[test]
fn mqtt_3_3_4_7_each_pubcomp_makes_room() {
    let topic = name("flow/room");
    let (mut client, answer) = Client::connect_with(&Connect::new(V5));
    let most = u16::try_from(answer.properties.number(id::RECEIVE_MAXIMUM).expect("it is told")).unwrap();
    for number in 1..=most {
        client.send_publish(&Publish::new(&topic, "x").qos(2, number));
        client.expect_ack(kind::PUBREC, number);
    }
    for number in 1..=10 {
        client.send_ack(kind::PUBREL, number);
        client.expect_ack(kind::PUBCOMP, number);
        client.send_publish(&Publish::new(&topic, "x").qos(2, most + number));
        client.expect_ack(kind::PUBREC, most + number);
    }
    // QoS 0 does not count.
    client.publish(&topic, "x", 0);
}

#[test]
fn mqtt_3_3_4_9_no_more_than_the_receive_maximum_are_on_their_way() {
    for most in [1, 2, 10] {
        for qos in [1, 2] {
            let topic = name("flow/most");
            let mut client = receiver(&Connect::new(V5), most, &topic);
            let most = usize::from(most);
            send(&topic, qos, 3 * most);
            let mut on_their_way: Vec<Publish> =
                (0..most).map(|number| client.expect_payload(&number.to_string())).collect();
            client.expect_silence();
            // Each that is done makes room for one.
            for number in most..3 * most {
                let done = on_their_way.remove(0);
                client.acknowledge(&done);
                on_their_way.push(client.expect_payload(&number.to_string()));
                if number == most {
                    client.expect_silence();
                }
            }
        }
    }
}

#[test]
fn mqtt_3_3_4_9_it_holds_for_what_waited_and_for_what_is_sent_again() {
    let topic = name("flow/again");
    let connect = Connect::new(V5).persistent();
    let mut client = receiver(&connect, 10, &topic);
    send(&topic, 1, 8);
    for number in 0..8 {
        client.expect_payload(&number.to_string());
    }
    client.cut();
    let mut client = taking(&connect, 3);
    let mut on_their_way: Vec<Publish> =
        (0..3).map(|number| client.expect_payload(&number.to_string())).collect();
    client.expect_silence();
    for number in 3..8 {
        let done = on_their_way.remove(0);
        client.acknowledge(&done);
        on_their_way.push(client.expect_payload(&number.to_string()));
    }
}

#[test]
fn mqtt_3_3_4_10_other_packets_do_not_wait_for_the_window() {
    let topic = name("flow/others");
    let mut client = receiver(&Connect::new(V5), 1, &topic);
    send(&topic, 1, 3);
    let first = client.expect_payload("0");
    client.ping();
    client.send(Subscribe::new(21).filter(name("flow/other"), 0).encode(V5));
    client.expect_suback(21);
    client.send(Unsubscribe::new(22).filter(name("flow/other")).encode(V5));
    client.expect_unsuback(22);
    client.publish(name("flow/other"), "x", 1);
    client.publish(name("flow/other"), "x", 2);
    client.acknowledge(&first);
    client.expect_payload("1");
}

#[test]
fn mqtt_3_3_4_10_pubrel_does_not_wait_for_the_window_of_a_new_connection() {
    let topic = name("flow/released");
    let connect = Connect::new(V5).persistent();
    let mut client = receiver(&connect, 10, &topic);
    send(&topic, 2, 2);
    // Both are there before the first is acknowledged.
    let ids = ["0", "1"].map(|payload| client.expect_payload(payload).id.unwrap());
    for id in ids {
        client.send_ack(kind::PUBREC, id);
        client.expect_ack(kind::PUBREL, id);
    }
    client.cut();
    let mut client = taking(&connect, 1);
    for id in ids {
        client.expect_ack(kind::PUBREL, id);
    }
}

#[test]
fn mqtt_3_3_4_10_subscribe_does_not_wait_for_acknowledgements_of_what_is_retained() {
    let base = name("flow/retained");
    let count = 100;
    let mut sender = Client::new(V5);
    for number in 0..count {
        sender.publish_retained(format!("{base}/{number}"), "kept", 1);
    }
    let mut client = taking(&Connect::new(V5), 1);
    let all: Vec<u8> = (0..count)
        .flat_map(|number| Subscribe::new(number + 1).filter(format!("{base}/{number}"), 1).encode(V5))
        .collect();
    client.send(all);
    client.send(Publish::new(name("flow/elsewhere"), "x").qos(1, 1_000).encode(V5));
    let (mut granted, mut messages) = (0, 0);
    loop {
        match client.expect() {
            Packet::SubAck(codes) => {
                assert_eq!(codes.codes, [1]);
                granted += 1;
            }
            Packet::Publish(_) => messages += 1,
            Packet::Ack(ack) => break assert_eq!((ack.kind, ack.id), (kind::PUBACK, 1_000)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((granted, messages), (count, 1));
}

#[test]
fn mqtt_4_9_0_1_the_quota_begins_with_the_receive_maximum_and_not_with_zero() {
    let topic = name("flow/first");
    let mut client = receiver(&Connect::new(V5), 1, &topic);
    send(&topic, 2, 2);
    client.expect_payload("0");
    client.expect_silence();
}

#[test]
fn mqtt_4_9_0_1_the_quota_begins_anew_with_each_connection() {
    let topic = name("flow/anew");
    let connect = Connect::new(V5).persistent();
    let mut client = receiver(&connect, 2, &topic);
    send(&topic, 1, 4);
    client.expect_payload("0");
    client.expect_payload("1");
    client.cut();
    let mut client = taking(&connect, 2);
    for number in 0..4 {
        let message = client.expect_payload(&number.to_string());
        client.acknowledge(&message);
    }
}

#[test]
fn mqtt_4_9_0_2_pubrec_gives_nothing_back_and_pubcomp_does() {
    let topic = name("flow/two");
    let mut client = receiver(&Connect::new(V5), 1, &topic);
    send(&topic, 2, 2);
    let first = client.expect_payload("0").id.unwrap();
    client.send_ack(kind::PUBREC, first);
    client.expect_ack(kind::PUBREL, first);
    client.expect_silence();
    client.send_ack(kind::PUBCOMP, first);
    client.expect_payload("1");
}

#[test]
fn mqtt_4_9_0_2_a_refusal_gives_back() {
    for (qos, kind) in [(1, kind::PUBACK), (2, kind::PUBREC)] {
        let topic = name("flow/refusal");
        let mut client = receiver(&Connect::new(V5), 1, &topic);
        send(&topic, qos, 3);
        for number in 0..2 {
            let id = client.expect_payload(&number.to_string()).id.unwrap();
            client.send(ack_with(kind, id, 0x80, &Properties::new()));
        }
        client.expect_payload("2");
    }
}

#[test]
fn mqtt_4_9_0_2_what_acknowledges_nothing_gives_nothing_back() {
    let topic = name("flow/nothing");
    let mut client = receiver(&Connect::new(V5), 1, &topic);
    send(&topic, 1, 2);
    let first = client.expect_payload("0");
    for id in 1_000..1_010 {
        client.send_ack(kind::PUBACK, id);
        client.send_ack(kind::PUBCOMP, id);
    }
    client.ping();
    client.expect_silence();
    client.acknowledge(&first);
    let second = client.expect_payload("1");
    // Twice the same: the quota does not grow beyond where it began.
    client.acknowledge(&second);
    client.acknowledge(&second);
    send(&topic, 1, 2);
    client.expect_payload("0");
    client.expect_silence();
}

#[test]
fn mqtt_4_9_0_3_without_quota_the_server_handles_everything_else() {
    let topic = name("flow/handled");
    let mut client = receiver(&Connect::new(V5), 1, &topic);
    send(&topic, 1, 2);
    client.expect_payload("0");
    let elsewhere = name("flow/elsewhere");
    let mut other = Client::new(V5);
    other.subscribe(&elsewhere, 2);
    for qos in 0..=2 {
        client.publish(&elsewhere, "heard", qos);
        let message = other.expect_payload("heard");
        other.acknowledge(&message);
    }
    client.unsubscribe(&topic);
    client.disconnect();
}

#[test]
fn mqtt_4_9_0_3_without_quota_subscribe_is_answered_however_much_is_retained() {
    let base = name("flow/quota");
    let mut sender = Client::new(V5);
    for number in 0..30 {
        sender.publish_retained(format!("{base}/{number}"), "kept", 1);
    }
    let mut client = taking(&Connect::new(V5), 1);
    let filter = format!("{base}/+");
    for id in 1..=100 {
        client.send(Subscribe::new(id).filter(&filter, 1).encode(V5));
    }
    let (mut granted, mut messages) = (0, 0);
    while granted < 100 {
        match client.expect() {
            Packet::SubAck(codes) => {
                assert_eq!(codes.codes, [1]);
                granted += 1;
            }
            Packet::Publish(_) => messages += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(messages <= 1);
    client.ping();
}

#[test]
fn clause_4_9_the_servers_own_quota_is_kept_over_a_flood() {
    // As many QoS 1 messages as there can be at once, again and again: none of them is too many.
    let topic = name("flow/flood");
    let (mut client, answer) = Client::connect_with(&Connect::new(V5));
    let most = u16::try_from(answer.properties.number(id::RECEIVE_MAXIMUM).expect("it is told")).unwrap();
    let window = most.min(100);
    for _ in 0..5 {
        let all: Vec<u8> =
            (1..=window).flat_map(|number| Publish::new(&topic, "x").qos(1, number).encode(V5)).collect();
        client.send(all);
        for number in 1..=window {
            client.expect_ack(kind::PUBACK, number);
        }
    }
    client.send([0xC0, 0]);
    match client.read_within(tidegate_conformance::client::PATIENCE) {
        Came::Packet(Packet::PingResp) => {}
        other => panic!("{other:?}, then {:?}", ending(&mut client)),
    }
}
