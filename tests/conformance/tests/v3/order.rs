//! Order (clause 4.6): of deliveries, of deliveries again, and of acknowledgements.

use tidegate_conformance::Version::V311;
use tidegate_conformance::{Client, Connect, Publish, kind, name};

#[test]
fn mqtt_4_6_0_1_publish_packets_are_sent_again_in_their_order() {
    let topic = name("again/");
    let connect = Connect::new(V311).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 2);
    let mut publisher = Client::new(V311);
    let mut sent: Vec<Publish> = Vec::new();
    for at in 0..30 {
        publisher.publish(&topic, at.to_string(), [1, 2, 2, 1, 1][at % 5]);
        sent.push(client.expect_publish());
    }
    // Some from the middle are answered; ids are no order when they are used again.
    for at in [25, 3, 17, 4, 11] {
        let message = sent.remove(at);
        client.acknowledge(&message);
    }
    for at in 30..35 {
        publisher.publish(&topic, at.to_string(), [1, 2, 2, 1, 1][at % 5]);
        sent.push(client.expect_publish());
    }
    for _ in 0..2 {
        client.cut();
        client = Client::connect(&connect);
        for first in &sent {
            assert_eq!(client.expect_publish(), first.clone().dup());
        }
        client.ping();
    }
}

#[test]
fn mqtt_4_6_0_2_puback_packets_have_the_order_of_their_publish_packets() {
    let topic = name("puback/");
    let mut client = Client::new(V311);
    // Ids without an order of their own.
    let ids: Vec<u16> = (1..=100).map(|at| at * 37 % 101).collect();
    let packets: Vec<u8> =
        ids.iter().flat_map(|&id| Publish::new(&topic, "x").qos(1, id).encode(V311)).collect();
    client.send(packets);
    for id in ids {
        client.expect_ack(kind::PUBACK, id);
    }
}

#[test]
fn mqtt_4_6_0_3_pubrec_packets_have_the_order_of_their_publish_packets() {
    let topic = name("pubrec/");
    let mut client = Client::new(V311);
    let ids: Vec<u16> = (1..=100).map(|at| at * 41 % 101).collect();
    let packets: Vec<u8> =
        ids.iter().flat_map(|&id| Publish::new(&topic, "x").qos(2, id).encode(V311)).collect();
    client.send(packets);
    for id in &ids {
        client.expect_ack(kind::PUBREC, *id);
    }
    for id in &ids {
        client.send_ack(kind::PUBREL, *id);
    }
    for id in ids {
        client.expect_ack(kind::PUBCOMP, id);
    }
}

#[test]
fn mqtt_4_6_0_4_pubrel_packets_have_the_order_of_their_pubrec_packets() {
    let topic = name("pubrel/");
    let mut client = Client::new(V311);
    client.subscribe(&topic, 2);
    let mut publisher = Client::new(V311);
    let mut ids = Vec::new();
    for at in 0..11 {
        publisher.publish(&topic, at.to_string(), 2);
        ids.push(client.expect_publish().id.unwrap());
    }
    let turned: Vec<u16> = (0..11).map(|at| ids[(at * 7 + 3) % 11]).collect();
    for id in &turned {
        client.send_ack(kind::PUBREC, *id);
    }
    for id in &turned {
        client.expect_ack(kind::PUBREL, *id);
    }
    client.ping();
}

/// Publishes `count` numbers at each QoS, each QoS on a connection of its own when `apart`.
fn publish(topic: &str, count: usize, apart: bool) {
    let mut client = Client::new(V311);
    for qos in [0, 1, 2] {
        if apart {
            client = Client::new(V311);
        }
        for at in 0..count {
            client.publish(topic, format!("{qos} {at}"), qos);
        }
    }
}

/// Takes `count` numbers of each QoS, each in its order.
#[track_caller]
fn take(client: &mut Client, count: usize, qos: &[u8]) {
    let mut next = [0; 3];
    for _ in 0..count * qos.len() {
        let message = client.take();
        let text = message.text();
        let (of, at) = text.split_once(' ').unwrap();
        let of: usize = of.parse().unwrap();
        assert_eq!(at, next[of].to_string(), "of QoS {of}");
        assert_eq!(usize::from(message.qos), of);
        next[of] += 1;
    }
    for qos in qos {
        assert_eq!(next[usize::from(*qos)], count);
    }
}

#[test]
fn mqtt_4_6_0_5_every_topic_is_ordered_by_default() {
    // Topics of every shape.
    let n = name("");
    for topic in
        [format!("shape{n}"), format!("/{n}"), format!("{n}/"), format!("{n}//a/b"), format!("é/{n}/ ")]
    {
        let mut client = Client::new(V311);
        client.subscribe(&topic, 2);
        publish(&topic, 20, false);
        take(&mut client, 20, &[0, 1, 2]);
    }
}

#[test]
fn mqtt_4_6_0_6_messages_reach_each_subscriber_in_their_order() {
    const COUNT: usize = 60;
    let topic = name("ordered/");
    let mut present: Vec<Client> = [topic.clone(), format!("{topic}/#")]
        .iter()
        .map(|filter| {
            let mut client = Client::new(V311);
            client.subscribe(filter, 2);
            client
        })
        .collect();
    let connect = Connect::new(V311).persistent();
    let mut absent = Client::connect(&connect);
    absent.subscribe(&topic, 2);
    absent.cut();
    publish(&topic, COUNT, true);
    for client in &mut present {
        take(client, COUNT, &[0, 1, 2]);
    }
    // QoS 0 need not wait for an absent client.
    let mut absent = Client::connect(&connect);
    let mut next = [0; 3];
    while next[1] < COUNT || next[2] < COUNT {
        let message = absent.take();
        let text = message.text();
        let (of, at) = text.split_once(' ').unwrap();
        let of: usize = of.parse().unwrap();
        assert_eq!(at, next[of].to_string(), "of QoS {of}");
        next[of] += 1;
    }
}

#[test]
fn mqtt_4_6_0_6_messages_sent_without_waiting_stay_in_order() {
    const COUNT: usize = 500;
    let topic = name("stream/");
    let mut client = Client::new(V311);
    client.subscribe(&topic, 2);
    let to = topic.clone();
    let publisher = std::thread::spawn(move || {
        let mut publisher = Client::new(V311);
        for at in 0..COUNT {
            let id = u16::try_from(at + 1).unwrap();
            publisher.send_publish(&Publish::new(&to, format!("1 {at}")).qos(1, id));
        }
        for at in 0..COUNT {
            publisher.expect_ack(kind::PUBACK, u16::try_from(at + 1).unwrap());
        }
    });
    take(&mut client, COUNT, &[1]);
    publisher.join().unwrap();
}
