//! SUBSCRIBE and SUBACK (MQTT 5 clauses 3.8 and 3.9). Retained messages and shared subscriptions have files of their own.

use tidegate_conformance::ending::{Failures, MALFORMED, PROTOCOL_ERROR};
use tidegate_conformance::property::id;
use tidegate_conformance::wire::{ILL_FORMED, frame};
use tidegate_conformance::{Client, Connect, Properties, Publish, Subscribe, Version::V5, kind, name};

const NO_LOCAL: u8 = 0b100;

#[test]
fn mqtt_2_2_1_6_suback_repeats_the_identifier() {
    let mut client = Client::new(V5);
    for id in [1, 255, 256, 0x7FFF, 0x8000, 0xFFFF] {
        client.send(Subscribe::new(id).filter(name("subscribe/id"), 0).encode(V5));
        client.expect_suback(id);
    }
}

#[test]
fn mqtt_3_8_1_1_other_flags_of_subscribe_are_malformed() {
    let mut failures = Failures::new();
    let body = Subscribe::new(1).filter("subscribe/flags", 0).body(V5);
    for flags in (0..16).filter(|flags| *flags != 0b0010) {
        failures.offend(format!("flags {flags:#06b}"), frame(0x80 | flags, &body), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_8_3_1_a_filter_that_is_no_string_is_malformed() {
    let mut failures = Failures::new();
    for (what, bytes) in ILL_FORMED.iter().chain(&[("NUL", &b"a\0b"[..])]) {
        failures.offend(what, Subscribe::new(1).filter(bytes, 0).encode(V5), &[MALFORMED]);
        let second = Subscribe::new(1).filter("subscribe/good", 0).filter(bytes, 0);
        failures.offend(format!("{what} in the second"), second.encode(V5), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_8_3_2_subscribe_without_a_filter_is_a_protocol_error() {
    let mut failures = Failures::new();
    failures.offend("nothing", Subscribe::new(1).encode(V5), &[PROTOCOL_ERROR]);
    let identified = Subscribe::new(1).properties(Properties::new().variable(id::SUBSCRIPTION_IDENTIFIER, 1));
    failures.offend("an identifier alone", identified.encode(V5), &[PROTOCOL_ERROR]);
    failures.report();
}

#[test]
fn mqtt_3_8_3_2_a_filter_without_its_options_is_malformed() {
    let mut failures = Failures::new();
    failures.offend("one", frame(0x82, b"\0\x01\0\0\x01a"), &[MALFORMED]);
    failures.offend("the second of two", frame(0x82, b"\0\x01\0\0\x01a\0\0\x01b"), &[MALFORMED]);
    failures.report();
}

#[test]
fn mqtt_3_8_3_3_no_local_keeps_a_clients_messages_from_itself() {
    let topic = name("subscribe/local");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 1 | NO_LOCAL);
    let mut other = Client::new(V5);
    other.subscribe(&topic, 1);
    for qos in 0..=2 {
        // Its answers alone come: the exchange fails on a PUBLISH in between.
        client.publish(&topic, "own", qos);
        other.expect_payload("own");
    }
    Client::new(V5).publish(&topic, "of another", 0);
    client.expect_payload("of another");
    client.expect_silence();
}

#[test]
fn mqtt_3_8_3_3_no_local_goes_by_the_client_id_and_not_by_the_connection() {
    let topic = name("subscribe/local");
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 1 | NO_LOCAL);
    client.cut();
    let mut client = Client::connect(&connect);
    client.publish(&topic, "own", 1);
    Client::new(V5).publish(&topic, "of another", 1);
    client.expect_payload("of another");
}

#[test]
fn mqtt_3_8_3_3_no_local_is_of_its_subscription_alone() {
    let topic = name("subscribe/local");
    let mut client = Client::new(V5);
    client.subscribe(&topic, NO_LOCAL);
    client.subscribe(format!("{topic}/#"), 1);
    client.send_publish(&Publish::new(&topic, "own"));
    client.expect_payload("own");
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_8_3_4_no_local_on_a_shared_subscription_is_a_protocol_error() {
    let mut failures = Failures::new();
    for options in [NO_LOCAL, NO_LOCAL | 1, NO_LOCAL | 0b10_1010] {
        let subscribe = Subscribe::new(1).filter("$share/group/subscribe/local", options);
        failures.offend(format!("options {options:#010b}"), subscribe.encode(V5), &[PROTOCOL_ERROR]);
    }
    let second = Subscribe::new(1).filter("subscribe/a", NO_LOCAL).filter("$share/g/subscribe/a", NO_LOCAL);
    failures.offend("the second of two", second.encode(V5), &[PROTOCOL_ERROR]);
    failures.report();
}

#[test]
fn mqtt_3_8_3_5_reserved_bits_of_the_options_are_malformed() {
    let mut failures = Failures::new();
    for options in [0b0100_0000, 0b1000_0000, 0b1100_0000, 0b0100_0001, 0b1010_1110] {
        let subscribe = Subscribe::new(1).filter("subscribe/bits", options);
        failures.offend(format!("options {options:#010b}"), subscribe.encode(V5), &[MALFORMED]);
        let second = Subscribe::new(1).filter("subscribe/bits", 0).filter("subscribe/bits", options);
        failures.offend(format!("options {options:#010b} of the second"), second.encode(V5), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn clause_3_8_3_1_a_maximum_qos_of_three_is_a_protocol_error() {
    let mut failures = Failures::new();
    failures.offend("QoS", Subscribe::new(1).filter("subscribe/three", 3).encode(V5), &[PROTOCOL_ERROR]);
    failures.report();
}

#[test]
fn clause_3_8_3_1_retain_handling_three_is_a_protocol_error() {
    let mut failures = Failures::new();
    for options in [0b11_0000, 0b11_1001] {
        let subscribe = Subscribe::new(1).filter("subscribe/three", options);
        failures.offend(format!("options {options:#010b}"), subscribe.encode(V5), &[PROTOCOL_ERROR]);
    }
    failures.report();
}

#[test]
fn clause_3_8_3_1_every_good_combination_of_options_is_taken() {
    let mut client = Client::new(V5);
    for handling in 0..=2 {
        for flags in 0..4 {
            for qos in 0..=2 {
                client.subscribe(name("subscribe/options"), handling << 4 | flags << 2 | qos);
            }
        }
    }
}

#[test]
fn mqtt_3_8_4_1_subscribe_is_answered_by_suback() {
    let mut client = Client::new(V5);
    client.send(Subscribe::new(1).filter(name("subscribe/answer"), 0).encode(V5));
    // Identifier, no properties, one code.
    client.expect_bytes(&[0x90, 4, 0, 1, 0, 0]);
}

#[test]
fn mqtt_3_8_4_2_several_subscribes_on_their_way_have_an_answer_each() {
    let mut client = Client::new(V5);
    let ids = [9, 7, 0xFFFF, 8];
    let all: Vec<u8> =
        ids.iter().flat_map(|id| Subscribe::new(*id).filter(name("subscribe/way"), 1).encode(V5)).collect();
    client.send(all);
    let mut answered: Vec<u16> = ids
        .iter()
        .map(|_| match client.expect() {
            tidegate_conformance::Packet::SubAck(codes) => codes.id,
            other => panic!("{other:?}"),
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, [7, 8, 9, 0xFFFF]);
}

#[test]
fn mqtt_3_8_4_3_the_same_filter_again_is_replaced() {
    let topic = name("subscribe/replaced");
    let mut client = Client::new(V5);
    let mut sender = Client::new(V5);
    for qos in [0, 2, 1, 0] {
        client.subscribe(&topic, qos);
        sender.publish(&topic, "message", 2);
        let message = client.expect_payload("message");
        assert_eq!(message.qos, qos, "the new options hold");
        client.acknowledge(&message);
        // One copy of each: the marker is next.
        sender.publish(&topic, "marker", 2);
        let marker = client.expect_payload("marker");
        client.acknowledge(&marker);
    }
    // One UNSUBSCRIBE ends it.
    client.unsubscribe(&topic);
    sender.publish(&topic, "too late", 0);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_8_4_3_the_subscription_identifier_is_replaced_too() {
    let topic = name("subscribe/identifier");
    let mut client = Client::new(V5);
    let mut sender = Client::new(V5);
    for identifier in [Some(5), Some(6), None, Some(7)] {
        let properties = identifier.map_or_else(Properties::new, |identifier| {
            Properties::new().variable(id::SUBSCRIPTION_IDENTIFIER, identifier)
        });
        client.send(Subscribe::new(3).filter(&topic, 0).properties(properties).encode(V5));
        client.expect_suback(3);
        sender.publish(&topic, "x", 0);
        let came = client.expect_payload("x").properties;
        assert_eq!(came.number(id::SUBSCRIPTION_IDENTIFIER), identifier);
        assert!(came.all(id::SUBSCRIPTION_IDENTIFIER).count() <= 1);
    }
}

#[test]
fn mqtt_3_8_4_4_replacing_loses_nothing() {
    let topic = name("subscribe/lossless");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 1);
    let count = 200;
    let sending = topic.clone();
    let sender = std::thread::spawn(move || {
        let mut sender = Client::new(V5);
        for number in 0..count {
            sender.publish(&sending, number.to_string(), 1);
        }
    });
    let mut expected = 0;
    let mut asked = 0;
    let mut answered = 0;
    while expected < count || answered < asked {
        if expected < count && asked == answered {
            client.send(Subscribe::new(99).filter(&topic, 1).encode(V5));
            asked += 1;
        }
        match client.expect() {
            tidegate_conformance::Packet::SubAck(codes) => {
                assert_eq!(codes.codes, [1]);
                answered += 1;
            }
            tidegate_conformance::Packet::Publish(message) => {
                assert_eq!(message.text(), expected.to_string());
                expected += 1;
                client.acknowledge(&message);
            }
            other => panic!("{other:?}"),
        }
    }
    sender.join().unwrap();
    assert!(asked > 2, "replaced {asked} times");
    client.ping();
}

#[test]
fn mqtt_3_8_4_4_replacing_does_not_interrupt_what_is_live() {
    let base = name("subscribe/flow");
    let mut sender = Client::new(V5);
    for number in 0..200 {
        sender.publish_retained(format!("{base}/{number}"), "kept", 1);
    }
    let mut client = Client::new(V5);
    let filter = format!("{base}/#");
    client.subscribe(&filter, 1);
    for _ in 0..200 {
        let message = client.expect_payload("kept");
        client.acknowledge(&message);
    }
    // Nothing of what this brings is acknowledged, and live messages of QoS 0 come all the same.
    client.subscribe(&filter, 1);
    sender.publish(format!("{base}/live"), "live", 0);
    loop {
        let message = client.expect_publish();
        if message.text() == "live" {
            break assert!(!message.retain);
        }
    }
}

#[test]
fn mqtt_3_8_4_4_retain_handling_zero_sends_retained_messages_again() {
    let topic = name("subscribe/again");
    Client::new(V5).publish_retained(&topic, "kept", 0);
    let mut client = Client::new(V5);
    for _ in 0..3 {
        client.subscribe(&topic, 0);
        assert!(client.expect_payload("kept").retain);
    }
}

#[test]
fn mqtt_3_8_4_5_several_filters_do_what_several_packets_do() {
    let base = name("subscribe/several");
    let mut sender = Client::new(V5);
    sender.publish_retained(format!("{base}/b"), "kept", 1);
    let mut client = Client::new(V5);
    let subscribe = Subscribe::new(5)
        .filter(format!("{base}/a"), 0)
        .filter(format!("{base}/b"), 1)
        .filter(format!("{base}/a"), 2)
        .properties(Properties::new().variable(id::SUBSCRIPTION_IDENTIFIER, 4));
    client.send(subscribe.encode(V5));
    assert_eq!(client.expect_suback(5).codes, [0, 1, 2]);
    let kept = client.expect_payload("kept");
    assert_eq!((kept.retain, kept.properties.number(id::SUBSCRIPTION_IDENTIFIER)), (true, Some(4)));
    client.acknowledge(&kept);
    // The later of two for the same filter replaced the earlier.
    sender.publish(format!("{base}/a"), "live", 2);
    let live = client.expect_payload("live");
    assert_eq!((live.qos, live.properties.number(id::SUBSCRIPTION_IDENTIFIER)), (2, Some(4)));
    client.acknowledge(&live);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_8_4_6_suback_has_a_code_for_each_filter() {
    let mut client = Client::new(V5);
    for count in [1, 2, 50, 200] {
        let subscribe =
            (0..count).fold(Subscribe::new(6), |subscribe, _| subscribe.filter(name("subscribe/each"), 1));
        client.send(subscribe.encode(V5));
        assert_eq!(client.expect_suback(6).codes, vec![1; count]);
    }
}

#[test]
fn mqtt_3_8_4_7_the_code_is_the_qos_that_is_granted() {
    let topic = name("subscribe/granted");
    let mut client = Client::new(V5);
    let mut sender = Client::new(V5);
    for wanted in [2, 1, 0] {
        client.send(Subscribe::new(7).filter(&topic, wanted).encode(V5));
        let codes = client.expect_suback(7).codes;
        assert!(matches!(codes[..], [granted] if granted <= wanted), "{codes:02X?} for {wanted}");
        sender.publish(&topic, "x", 2);
        let message = client.expect_payload("x");
        assert_eq!(message.qos, codes[0], "it is the QoS of what comes");
        client.acknowledge(&message);
    }
}

#[test]
fn mqtt_3_8_4_8_the_lesser_qos_is_delivered() {
    for granted in 0..=2 {
        for sent in 0..=2 {
            let topic = name("subscribe/lesser");
            let mut client = Client::new(V5);
            client.subscribe(&topic, granted);
            Client::new(V5).publish(&topic, "x", sent);
            let message = client.expect_payload("x");
            assert_eq!(message.qos, granted.min(sent), "{sent} to {granted}");
            client.acknowledge(&message);
        }
    }
}

#[test]
fn mqtt_3_9_3_1_the_codes_are_in_the_order_of_the_filters() {
    let mut client = Client::new(V5);
    let qos = [2, 0, 1, 1, 0, 2, 2, 1, 0];
    let subscribe =
        qos.iter().fold(Subscribe::new(8), |subscribe, qos| subscribe.filter(name("subscribe/order"), *qos));
    client.send(subscribe.encode(V5));
    assert_eq!(client.expect_suback(8).codes, qos);
}

#[test]
fn mqtt_3_9_3_2_the_codes_are_of_subacks_table() {
    const CODES: [u8; 12] = [0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
    let mut client = Client::new(V5);
    let subscribe = Subscribe::new(9)
        .filter(name("subscribe/codes"), 2)
        .filter("$SYS/#", 1)
        .filter(format!("$share/g/{}", name("subscribe/codes")), 0)
        .filter("$other", 0);
    client.send(subscribe.encode(V5));
    let codes = client.expect_suback(9).codes;
    assert_eq!(codes.len(), 4);
    assert!(codes.iter().all(|code| CODES.contains(code)), "{codes:02X?}");
}

#[test]
fn clause_3_8_4_a_subscription_holds_from_its_suback_on() {
    let topic = name("subscribe/holds");
    let mut sender = Client::new(V5);
    let mut client = Client::new(V5);
    for round in 0..20 {
        let topic = format!("{topic}/{round}");
        client.subscribe(&topic, 0);
        sender.send_publish(&Publish::new(&topic, "x").qos(1, 1));
        client.expect_payload("x");
        sender.expect_ack(kind::PUBACK, 1);
    }
}
