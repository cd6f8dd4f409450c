//! UNSUBSCRIBE and UNSUBACK (clauses 3.10 and 3.11).

use std::time::Duration;

use tidegate_conformance::Version::V311;
use tidegate_conformance::client::Came;
use tidegate_conformance::refusal::{after_connect, case};
use tidegate_conformance::wire::{ILL_FORMED, frame};
use tidegate_conformance::{Client, Connect, Packet, Unsubscribe, kind, name};

#[test]
fn mqtt_3_10_1_1_the_flags_of_unsubscribe_are_0010() {
    let body = Unsubscribe::new(1).filter(name("flags/")).body(V311);
    let wrong = (0..16).filter(|flags| *flags != 0b0010);
    after_connect(V311, wrong.map(|flags: u8| case(format!("{flags:04b}"), frame(0xA0 | flags, &body))))
        .without_a_packet();
    let mut client = Client::new(V311);
    client.send(frame(0xA2, &body));
    client.expect_bytes(&[0xB0, 2, 0, 1]);
}

#[test]
fn mqtt_3_10_3_1_filters_are_utf_8() {
    let alone = ILL_FORMED.map(|(what, bytes)| case(what, Unsubscribe::new(1).filter(bytes).encode(V311)));
    after_connect(V311, alone).without_a_packet();
    let second = ILL_FORMED.map(|(what, bytes)| {
        case(format!("second: {what}"), Unsubscribe::new(1).filter("a").filter(bytes).encode(V311))
    });
    after_connect(V311, second).without_a_packet();
    let packed = [
        case("U+0000", Unsubscribe::new(1).filter("a\0b").encode(V311)),
        case("half a length", frame(0xA2, &[0, 1, 0])),
        case("a filter longer than the packet", frame(0xA2, &[0, 1, 0, 3, b'a', b'b'])),
        case("a QoS behind the filter", frame(0xA2, &[0, 1, 0, 1, b'a', 0])),
        case("a second length without its filter", frame(0xA2, &[0, 1, 0, 1, b'a', 0, 5])),
    ];
    after_connect(V311, packed).without_a_packet();
}

#[test]
fn mqtt_3_10_3_2_unsubscribe_has_a_filter() {
    let cases = [
        case("only an id", frame(0xA2, &[0, 1])),
        case("half an id", frame(0xA2, &[0])),
        case("nothing", frame(0xA2, &[])),
    ];
    after_connect(V311, cases).without_a_packet();
}

#[test]
fn mqtt_3_10_4_1_filters_are_compared_byte_for_byte() {
    let prefix = name("Bytes");
    let topic = |rest: &str| format!("{prefix}/{rest}");
    let mut publisher = Client::new(V311);
    let mut client = Client::new(V311);
    client.subscribe(topic("a/b"), 0);
    // None of them is that filter, although most match it or look like it.
    for other in ["a/+", "a/#", "#", "+/b", "A/b", "a/b/", "a/b/#", "a//b", " a/b", "a/b ", "a", "/a/b"] {
        client.unsubscribe(topic(other));
    }
    client.unsubscribe("#");
    client.unsubscribe(topic("a/b").to_lowercase());
    publisher.publish(topic("a/b"), "stays", 0);
    client.expect_payload("stays");
    client.unsubscribe(topic("a/b"));
    publisher.publish(topic("a/b"), "gone", 0);
    client.ping();

    // With wildcards it is the same: only the equal one goes.
    for filter in ["c/#", "c/+", "+/d", "c/d"] {
        client.subscribe(topic(filter), 0);
    }
    for (filter, matched) in [("c/d", "c/e"), ("c/+", "c/e/f"), ("c/#", "x/d")] {
        client.unsubscribe(topic(filter));
        publisher.publish(topic(matched), matched, 0);
        client.expect_payload(matched);
        // By overlapping subscriptions it may come more than once.
        while let Came::Packet(_) = client.read_within(Duration::from_millis(50)) {}
    }
    client.unsubscribe(topic("+/d"));
    for matched in ["c/d", "c/e", "x/d"] {
        publisher.publish(topic(matched), matched, 0);
    }
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_10_4_2_no_new_message_is_delivered() {
    let topic = name("no-new/");
    let mut publisher = Client::new(V311);
    let connect = Connect::new(V311).persistent();
    let mut client = Client::connect(&connect);
    for qos in [0, 1, 2] {
        client.subscribe(&topic, qos);
        publisher.publish(&topic, "before", qos);
        let before = client.expect_payload("before");
        client.acknowledge(&before);
        client.unsubscribe(&topic);
        for after in [0, 1, 2] {
            publisher.publish(&topic, "after", after);
        }
        client.ping();
    }
    client.expect_silence();
    // Nor is one kept for later.
    client.cut();
    publisher.publish(&topic, "absent", 2);
    let mut client = Client::connect(&connect);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_10_4_3_a_delivery_that_has_begun_is_brought_to_its_end() {
    let topic = name("begun/");
    let mut publisher = Client::new(V311);
    let connect = Connect::new(V311).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 2);
    publisher.publish(&topic, "1", 1);
    publisher.publish(&topic, "2", 2);
    publisher.publish(&topic, "released", 2);
    let first = client.expect_payload("1");
    let second = client.expect_payload("2");
    let released = client.expect_payload("released");
    client.send_ack(kind::PUBREC, released.id.unwrap());
    client.expect_ack(kind::PUBREL, released.id.unwrap());
    client.unsubscribe(&topic);
    // Sent again, although the subscription is gone, and finished.
    client.cut();
    let mut client = Client::connect(&connect);
    let came = [client.expect(), client.expect(), client.expect()];
    for again in [&first, &second] {
        assert!(came.contains(&Packet::Publish(again.clone().dup())), "{came:?}");
    }
    let release = |packet: &Packet| matches!(packet, Packet::Ack(ack) if ack.kind == kind::PUBREL);
    assert!(came.iter().any(release), "{came:?}");
    client.send_ack(kind::PUBCOMP, released.id.unwrap());
    client.acknowledge(&first);
    client.acknowledge(&second);
    client.ping();
    client.cut();
    let mut client = Client::connect(&connect);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_10_4_4_unsuback_has_the_id_of_its_unsubscribe() {
    let mut client = Client::new(V311);
    let topic = name("id/");
    client.subscribe(&topic, 0);
    for id in [1, 0xFF, 0x100, 0x1234, 0xFFFF, 2] {
        client.send(Unsubscribe::new(id).filter(&topic).encode(V311));
        let [high, low] = u16::to_be_bytes(id);
        client.expect_bytes(&[0xB0, 2, high, low]);
    }
}

#[test]
fn mqtt_3_10_4_5_unsuback_is_sent_when_there_is_no_such_filter() {
    let mut client = Client::new(V311);
    let never = name("never/");
    for (id, filter) in
        [(1, never.clone()), (2, format!("{never}/#")), (3, never.clone()), (4, "$x/+".into())]
    {
        client.send(Unsubscribe::new(id).filter(filter).encode(V311));
        client.expect_bytes(&[0xB0, 2, 0, u8::try_from(id).unwrap()]);
    }
    let two = Unsubscribe::new(5).filter(&never).filter(&never);
    client.send(two.encode(V311));
    client.expect_bytes(&[0xB0, 2, 0, 5]);
    client.ping();
}

#[test]
fn mqtt_3_10_4_6_several_filters_are_as_several_packets() {
    let topic = name("several");
    let mut client = Client::new(V311);
    for leaf in ["a", "b", "c", "d/#"] {
        client.subscribe(format!("{topic}/{leaf}"), 0);
    }
    let all = ["a", "unknown", "d/#", "a", "c"]
        .iter()
        .fold(Unsubscribe::new(0x0809), |packet, leaf| packet.filter(format!("{topic}/{leaf}")));
    client.send(all.encode(V311));
    client.expect_bytes(&[0xB0, 2, 8, 9]);
    let mut publisher = Client::new(V311);
    for leaf in ["a", "c", "d/x", "d", "b"] {
        publisher.publish(format!("{topic}/{leaf}"), leaf, 0);
    }
    client.expect_payload("b");
    client.ping();
}
