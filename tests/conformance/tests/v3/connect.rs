//! CONNECT comes first and once; protocol name and level (clauses 3.1.0, 3.1.2.1, 3.1.2.2); what is malformed, and
//! the answer to what is not (3.1.4).

use tidegate_conformance::Version::{V5, V311};
use tidegate_conformance::packet::{DISCONNECT, PINGREQ, ack};
use tidegate_conformance::received::{ConnAck, Packet};
use tidegate_conformance::refusal::{Case, after_connect, case, first_on_a_connection};
use tidegate_conformance::wire::{ILL_FORMED, frame, frame_with_length};
use tidegate_conformance::{Client, Connect, Publish, Subscribe, Unsubscribe, Will, kind, name};

#[test]
fn mqtt_3_1_0_1_the_first_packet_must_be_connect() {
    let topic = name("first/");
    let packets = [
        case("PUBLISH", Publish::new(&topic, "x").encode(V311)),
        case("PUBLISH of QoS 1", Publish::new(&topic, "x").qos(1, 1).encode(V311)),
        case("PUBLISH of QoS 2", Publish::new(&topic, "x").qos(2, 1).encode(V311)),
        case("PUBACK", ack(kind::PUBACK, 1)),
        case("PUBREC", ack(kind::PUBREC, 1)),
        case("PUBREL", ack(kind::PUBREL, 1)),
        case("PUBCOMP", ack(kind::PUBCOMP, 1)),
        case("SUBSCRIBE", Subscribe::new(1).filter(&topic, 0).encode(V311)),
        case("UNSUBSCRIBE", Unsubscribe::new(1).filter(&topic).encode(V311)),
        case("PINGREQ", PINGREQ),
        case("DISCONNECT", DISCONNECT),
        case("CONNACK", frame(0x20, &[0, 0])),
        case("SUBACK", frame(0x90, &[0, 1, 0])),
        case("UNSUBACK", frame(0xB0, &[0, 1])),
        case("PINGRESP", frame(0xD0, &[])),
        case("type 0", frame(0x00, &[])),
        case("type 15", frame(0xF0, &[])),
    ];
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    let before_connect = packets.iter().map(|(what, bytes)| {
        case(format!("{what}, then CONNECT"), {
            let mut both = bytes.clone();
            both.extend(Connect::new(V311).encode());
            both
        })
    });
    first_on_a_connection(V311, before_connect.collect::<Vec<_>>()).without_a_packet();
    first_on_a_connection(V311, packets).without_a_packet();
    // And nothing of it was processed.
    Client::new(V311).publish(&topic, "end", 0);
    watcher.expect_payload("end");
}

#[test]
fn mqtt_3_1_0_2_a_second_connect_is_a_violation() {
    let first = Connect::new(V311);
    let mut client = Client::connect(&first);
    client.ping();
    client.send(first.encode());
    client.expect_closed();
    let others = [
        case("of another client", Connect::new(V311).encode()),
        case("without clean session", Connect::new(V311).persistent().encode()),
        case("of MQTT 5", Connect::new(V5).encode()),
        case("of another level", {
            let mut other = Connect::new(V311);
            other.level = 9;
            other.encode()
        }),
    ];
    after_connect(V311, others).without_a_packet();
}

#[test]
fn mqtt_3_1_0_2_behind_the_first_in_one_segment() {
    let mut client = Client::open(V311);
    let mut both = Connect::new(V311).encode();
    both.extend(Connect::new(V311).encode());
    client.send(both);
    client.expect_bytes(&[0x20, 2, 0, 0]);
    client.expect_closed();
}

#[test]
fn mqtt_3_1_2_1_another_protocol_name_is_not_processed() {
    let named = |protocol: &str| {
        let mut connect = Connect::new(V311);
        connect.protocol = protocol.into();
        case(format!("{protocol:?}"), connect.encode())
    };
    let names =
        ["mqtt", "Mqtt", "MQT", "MQTTT", "MQTT ", "", "M", "HTTP", "MQIsdp", "MQIsdP", "MQTT\0", "AMQP"];
    let ended = first_on_a_connection(V311, names.map(named));
    // Only of another level of MQTT may a server say that it does not know it: another protocol is not answered in MQTT.
    ended.each("no success", |packets| {
        packets.iter().all(|packet| matches!(packet, Packet::ConnAck(ConnAck { code: 1, .. })))
    });
}

/// CONNECT as MQTT 3.1.1 forms it, of another level.
fn levelled(level: u8) -> Case {
    let mut connect = Connect::new(V311);
    connect.level = level;
    case(format!("level {level}"), connect.encode())
}

#[test]
fn mqtt_3_1_2_2_an_unknown_level_is_answered_with_code_1() {
    first_on_a_connection(V311, [0, 1, 2, 3].map(levelled)).with_return_code(1);
}

#[test]
fn mqtt_3_1_2_2_a_level_of_the_future_is_answered_with_code_1() {
    let levels = [6, 7, 14, 0x7F, 0x80, 0x83, 0x84, 0x85, 0xFF];
    first_on_a_connection(V311, levels.map(levelled)).with_return_code(1);
}

#[test]
fn mqtt_3_1_2_2_the_answer_is_four_bytes_and_the_end() {
    let mut client = Client::open(V311);
    client.send(levelled(3).1);
    client.expect_bytes(&[0x20, 2, 0, 1]);
    client.expect_closed();
}

#[test]
fn mqtt_3_1_2_3_the_reserved_connect_flag_must_be_0() {
    let full = Connect::new(V311).will(Will::new("t", "p").qos(1).retain()).login("u", "p");
    let cases = [Connect::new(V311), Connect::new(V311).persistent(), full].map(|connect| {
        let flags = connect.proper_flags() | 1;
        case(format!("flags {flags:#010b}"), connect.flags(flags).encode())
    });
    first_on_a_connection(V311, cases).without_a_packet();
}

#[test]
fn mqtt_3_1_4_1_a_malformed_connect_is_not_answered() {
    let good = Connect::new(V311).will(Will::new("will", "gone")).login("user", "secret");
    let body = good.body();
    let mut cases = vec![
        case("bytes after its end", good.clone().tail("x").encode()),
        case("another packet within", good.clone().tail(PINGREQ).encode()),
        case("an empty will topic", Connect::new(V311).will(Will::new("", "x")).encode()),
        case("a wildcard in the will topic", Connect::new(V311).will(Will::new("a/#", "x")).encode()),
        case("a remaining length of five bytes", {
            let mut bytes = vec![0x10, 0x80, 0x80, 0x80, 0x80, 0x01];
            bytes.extend(&body);
            bytes
        }),
        case("a client id longer than the packet", {
            let mut connect = Connect::new(V311).client_id("").body();
            let at = connect.len() - 2;
            connect[at..].copy_from_slice(&[0, 9]);
            frame(0x10, &connect)
        }),
    ];
    cases.extend((1..16).map(|flags| case(format!("the flags {flags:04b}"), frame(0x10 | flags, &body))));
    cases.extend((0..body.len()).map(|length| {
        case(format!("cut off after {length} of {} bytes", body.len()), frame(0x10, &body[..length]))
    }));
    first_on_a_connection(V311, cases).without_a_packet();
    // What was cut and lengthened is right in itself.
    Client::connect(&good).disconnect();
}

#[test]
fn mqtt_3_1_4_1_ill_formed_strings_are_not_answered() {
    let cases = ILL_FORMED.map(|(what, bytes)| {
        let mut connect = Connect::new(V311);
        connect.protocol = bytes.into();
        case(format!("protocol name: {what}"), connect.encode())
    });
    first_on_a_connection(V311, cases).each("no success", |packets| {
        packets.iter().all(|packet| matches!(packet, Packet::ConnAck(ConnAck { code: 1, .. })))
    });
}

#[test]
fn mqtt_3_1_4_2_the_older_connection_of_a_client_id_is_ended() {
    for (old, new) in [(true, true), (true, false), (false, true), (false, false)] {
        let connect = Connect::new(V311);
        let mut first = Client::connect(&connect.clone().clean(old));
        first.ping();
        let mut second = Client::connect(&connect.clone().clean(new));
        first.expect_closed();
        second.ping();
        // The last one stays; it is not ended by the end of the first.
        let mut third = Client::connect(&connect.clean(new));
        second.expect_closed();
        third.ping();
        third.expect_silence();
    }
}

#[test]
fn mqtt_3_1_4_3_clean_session_is_processed() {
    let topic = name("clean/");
    let connect = Connect::new(V311);
    let mut client = Client::connect(&connect.clone().persistent());
    client.subscribe(&topic, 1);
    client.disconnect();
    let mut publisher = Client::new(V311);
    publisher.publish(&topic, "kept", 1);
    let (mut client, answer) = Client::connect_with(&connect.clone().persistent());
    assert!(answer.session_present);
    let kept = client.expect_payload("kept");
    client.acknowledge(&kept);
    client.disconnect();
    let (mut client, answer) = Client::connect_with(&connect);
    assert!(!answer.session_present);
    publisher.publish(&topic, "not subscribed any more", 1);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_1_4_4_success_is_four_bytes() {
    let full =
        Connect::new(V311).will(Will::new("t", "p").qos(2).retain()).login("u", "p").keep_alive(65_535);
    for connect in [Connect::new(V311), Connect::new(V311).persistent(), full] {
        let mut client = Client::open(V311);
        client.send(connect.encode());
        client.expect_bytes(&[0x20, 2, 0, 0]);
        client.ping();
        client.disconnect();
    }
}

#[test]
fn mqtt_3_1_4_4_connect_may_come_in_pieces() {
    let mut client = Client::open(V311);
    for byte in Connect::new(V311).encode() {
        client.send([byte]);
    }
    client.expect_bytes(&[0x20, 2, 0, 0]);
}

#[test]
fn mqtt_3_1_4_4_the_longest_remaining_length_of_connect_is_taken() {
    // More than two bytes of remaining length: a will of 60,000 bytes.
    let connect = Connect::new(V311).will(Will::new(name("long/"), vec![b'x'; 60_000]));
    assert_eq!(connect.encode(), frame_with_length(0x10, connect.body().len(), &connect.body()));
    Client::connect(&connect).disconnect();
}

#[test]
fn mqtt_3_1_4_5_what_follows_a_refused_connect_is_not_processed() {
    let topic = name("refused/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    let mut unknown = Connect::new(V311);
    unknown.level = 2;
    let nameless = Connect::new(V311).client_id("").clean(false);
    for (code, connect) in [(1, unknown), (2, nameless)] {
        let mut bytes = connect.encode();
        bytes.extend(Publish::new(&topic, "refused").retain().encode(V311));
        bytes.extend(Publish::new(&topic, "refused").qos(1, 1).encode(V311));
        bytes.extend(Subscribe::new(2).filter(&topic, 0).encode(V311));
        bytes.extend(PINGREQ);
        first_on_a_connection(V311, [case(format!("code {code}"), bytes)]).with_return_code(code);
    }
    Client::new(V311).publish(&topic, "end", 0);
    watcher.expect_payload("end");
    // Nothing was retained.
    watcher.subscribe(&topic, 2);
    watcher.ping();
}
