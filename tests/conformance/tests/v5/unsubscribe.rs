//! UNSUBSCRIBE and UNSUBACK (MQTT 5 clauses 3.10 and 3.11).

use tidegate_conformance::ending::{Failures, MALFORMED, PROTOCOL_ERROR};
use tidegate_conformance::wire::{ILL_FORMED, frame};
use tidegate_conformance::{Client, Connect, Unsubscribe, Version::V5, kind, name};

const SUCCESS: u8 = 0x00;
const NO_SUBSCRIPTION: u8 = 0x11;

#[test]
fn mqtt_2_2_1_6_unsuback_repeats_the_identifier() {
    let mut client = Client::new(V5);
    for id in [1, 255, 256, 0x7FFF, 0x8000, 0xFFFF] {
        client.send(Unsubscribe::new(id).filter(name("unsubscribe/id")).encode(V5));
        client.expect_unsuback(id);
    }
}

#[test]
fn mqtt_3_10_1_1_other_flags_of_unsubscribe_are_malformed() {
    let mut failures = Failures::new();
    let body = Unsubscribe::new(1).filter("unsubscribe/flags").body(V5);
    for flags in (0..16).filter(|flags| *flags != 0b0010) {
        failures.offend(format!("flags {flags:#06b}"), frame(0xA0 | flags, &body), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_10_3_1_a_filter_that_is_no_string_is_malformed() {
    let mut failures = Failures::new();
    for (what, bytes) in ILL_FORMED.iter().chain(&[("NUL", &b"a\0b"[..])]) {
        failures.offend(what, Unsubscribe::new(1).filter(bytes).encode(V5), &[MALFORMED]);
        let second = Unsubscribe::new(1).filter("unsubscribe/good").filter(bytes);
        failures.offend(format!("{what} in the second"), second.encode(V5), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_3_10_3_2_unsubscribe_without_a_filter_is_a_protocol_error() {
    let mut failures = Failures::new();
    failures.offend("nothing", Unsubscribe::new(1).encode(V5), &[PROTOCOL_ERROR]);
    failures.report();
}

#[test]
fn mqtt_3_10_4_1_filters_are_compared_character_by_character() {
    let base = name("unsubscribe/Chars");
    let filters = ["/a/+", "/a/#", "/a", "/a/", "/A", "/é"].map(|rest| format!("{base}{rest}"));
    let mut client = Client::new(V5);
    for filter in &filters {
        client.subscribe(filter, 0);
    }
    // Each of these covers, or looks like, one that is there.
    for other in ["/+", "/#", "/a/b", "/a//", "/b", "/e\u{301}", "/+/+", ""] {
        client.send(Unsubscribe::new(3).filter(format!("{base}{other}")).encode(V5));
        assert_eq!(client.expect_unsuback(3).codes, [NO_SUBSCRIPTION], "{other}");
    }
    let mut sender = Client::new(V5);
    for (at, filter) in filters.iter().enumerate() {
        client.send(Unsubscribe::new(4).filter(filter).encode(V5));
        assert_eq!(client.expect_unsuback(4).codes, [SUCCESS], "{filter}");
        client.send(Unsubscribe::new(4).filter(filter).encode(V5));
        assert_eq!(client.expect_unsuback(4).codes, [NO_SUBSCRIPTION], "{filter} again");
        // The others are there still: /é is the last.
        if at + 1 < filters.len() {
            sender.publish(format!("{base}/é"), "x", 0);
            client.expect_payload("x");
        }
    }
}

#[test]
fn mqtt_3_10_4_2_nothing_new_comes_after_unsuback() {
    let topic = name("unsubscribe/stop");
    let mut client = Client::new(V5);
    let mut sender = Client::new(V5);
    for qos in 0..=2 {
        client.subscribe(&topic, qos);
        sender.publish(&topic, "before", qos);
        let message = client.expect_payload("before");
        client.acknowledge(&message);
        client.unsubscribe(&topic);
        sender.publish(&topic, "after", qos);
        client.ping();
        client.expect_silence();
    }
}

#[test]
fn mqtt_3_10_4_2_other_subscriptions_go_on() {
    let topic = name("unsubscribe/other");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 0);
    client.subscribe(format!("{topic}/#"), 1);
    let mut other = Client::new(V5);
    other.subscribe(&topic, 0);
    client.unsubscribe(&topic);
    Client::new(V5).publish(&topic, "x", 1);
    assert_eq!(client.expect_payload("x").qos, 1);
    other.expect_payload("x");
}

#[test]
fn mqtt_3_10_4_2_an_ended_subscription_is_not_resumed() {
    let topic = name("unsubscribe/resumed");
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 1);
    client.unsubscribe(&topic);
    client.cut();
    Client::new(V5).publish(&topic, "x", 1);
    let mut client = Client::connect(&connect);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_10_4_3_deliveries_that_have_begun_are_brought_to_their_end() {
    let topic = name("unsubscribe/begun");
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.subscribe(&topic, 2);
    let mut sender = Client::new(V5);
    sender.publish(&topic, "two", 2);
    let two = client.expect_payload("two").id.unwrap();
    sender.publish(&topic, "one", 1);
    let one = client.expect_payload("one").id.unwrap();
    client.unsubscribe(&topic);
    client.send_ack(kind::PUBREC, two);
    client.expect_ack(kind::PUBREL, two);
    client.cut();
    let mut client = Client::connect(&connect);
    client.expect_ack(kind::PUBREL, two);
    let again = client.expect_payload("one");
    assert_eq!((again.id, again.dup), (Some(one), true));
    client.send_ack(kind::PUBCOMP, two);
    client.acknowledge(&again);
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_10_4_4_unsubscribe_is_answered_by_unsuback() {
    let topic = name("unsubscribe/answer");
    let mut client = Client::new(V5);
    client.subscribe(&topic, 0);
    client.send(Unsubscribe::new(0x0102).filter(&topic).encode(V5));
    // Identifier, no properties, one code.
    client.expect_bytes(&[0xB0, 4, 1, 2, 0, SUCCESS]);
}

#[test]
fn mqtt_3_10_4_5_unsuback_comes_when_nothing_ended() {
    let mut client = Client::new(V5);
    client.send(Unsubscribe::new(0x0304).filter(name("unsubscribe/never")).encode(V5));
    client.expect_bytes(&[0xB0, 4, 3, 4, 0, NO_SUBSCRIPTION]);
}

#[test]
fn mqtt_3_10_4_6_several_filters_have_one_answer() {
    let base = name("unsubscribe/several");
    let mut client = Client::new(V5);
    for filter in ["a", "b", "c"] {
        client.subscribe(format!("{base}/{filter}"), 0);
    }
    let unsubscribe = Unsubscribe::new(5).filter(format!("{base}/a")).filter(format!("{base}/b"));
    client.send(unsubscribe.encode(V5));
    assert_eq!(client.expect_unsuback(5).codes, [SUCCESS, SUCCESS]);
    let mut sender = Client::new(V5);
    for topic in ["a", "b", "c"] {
        sender.publish(format!("{base}/{topic}"), topic, 0);
    }
    client.expect_payload("c");
    client.ping();
    client.expect_silence();
}

#[test]
fn mqtt_3_11_3_1_the_codes_are_in_the_order_of_the_filters() {
    let base = name("unsubscribe/order");
    let mut client = Client::new(V5);
    client.subscribe(format!("{base}/there"), 0);
    client.subscribe(format!("{base}/too"), 0);
    let unsubscribe = ["no", "there", "neither", "too", "there"]
        .iter()
        .fold(Unsubscribe::new(6), |unsubscribe, filter| unsubscribe.filter(format!("{base}/{filter}")));
    client.send(unsubscribe.encode(V5));
    // The last one is gone by then, as if there had been a packet for each.
    let expected = [NO_SUBSCRIPTION, SUCCESS, NO_SUBSCRIPTION, SUCCESS, NO_SUBSCRIPTION];
    assert_eq!(client.expect_unsuback(6).codes, expected);
}

#[test]
fn mqtt_3_11_3_2_the_codes_are_of_unsubacks_table() {
    const CODES: [u8; 7] = [0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
    let mut client = Client::new(V5);
    let unsubscribe = Unsubscribe::new(7)
        .filter(name("unsubscribe/codes"))
        .filter("$SYS/#")
        .filter(format!("$share/g/{}", name("unsubscribe/codes")));
    client.send(unsubscribe.encode(V5));
    let codes = client.expect_unsuback(7).codes;
    assert_eq!(codes.len(), 3);
    assert!(codes.iter().all(|code| CODES.contains(code)), "{codes:02X?}");
}
