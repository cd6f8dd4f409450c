//! Topic names and filters (MQTT 5 clause 4.7).

use tidegate_conformance::ending::{
    FILTER_INVALID, Failures, MALFORMED, PROTOCOL_ERROR, TOPIC_INVALID, refused,
};
use tidegate_conformance::server::Server;
use tidegate_conformance::{
    Client, Connect, Packet, Publish, Subscribe, Unsubscribe, Version::V5, kind, name,
};

/// A filter that breaks a rule of filters ends the connection.
fn refuse(filter: &str) -> Result<(), String> {
    let mut client = Client::new(V5);
    client.send(Subscribe::new(1).filter(filter, 0).encode(V5));
    refused(&mut client, &[MALFORMED, PROTOCOL_ERROR, FILTER_INVALID])
}

#[track_caller]
fn refuse_all(filters: &[&str]) {
    let mut failures = Failures::new();
    for filter in filters {
        failures.add(filter, refuse(filter));
    }
    failures.report();
}

#[test]
fn mqtt_4_7_0_1_wildcards_are_for_filters_only() {
    let mut failures = Failures::new();
    for topic in ["#", "+", "a/#", "+/a", "a/+/b", "a#", "a+b"] {
        let reasons = [MALFORMED, PROTOCOL_ERROR, TOPIC_INVALID];
        failures.offend(topic, Publish::new(topic, "x").encode(V5), &reasons);
        let will = tidegate_conformance::Will::new(topic, "x");
        failures.connect(format!("{topic} as will topic"), &Connect::new(V5).will(will), &reasons);
    }
    failures.report();
    let mut client = Client::new(V5);
    for filter in ["+/none/#", "a/+", "+/+/none", "+/none"] {
        client.subscribe(filter, 0);
    }
}

#[test]
fn mqtt_4_7_1_1_the_multi_level_wildcard_stands_alone_and_last() {
    refuse_all(&[
        "a/#/b", "#/a", "##", "a#", "a/b#", "#a", "a/#a", "#/", "a/#/", "/#/", "+/#/+", "#+", "a/#b/c",
    ]);
}

#[test]
fn mqtt_4_7_1_2_the_single_level_wildcard_fills_its_level() {
    refuse_all(&["a+", "+a", "a/b+", "a/+b/c", "++", "a/++", "+#", "+/a+/b", "/+a"]);
}

/// Whether a subscriber of `filter` gets what is published to `topic`; both are below a level of their own.
fn matches(filter: &str, topic: &str) -> bool {
    let base = name("topics");
    let mut client = Client::new(V5);
    client.subscribe(format!("{base}/{filter}"), 0);
    client.subscribe(format!("marker/{base}"), 0);
    let mut sender = Client::new(V5);
    sender.publish(format!("{base}/{topic}"), "x", 0);
    sender.publish(format!("marker/{base}"), "marker", 0);
    let first = client.expect_publish().text();
    if first == "x" {
        client.expect_payload("marker");
    }
    first == "x"
}

#[track_caller]
fn matching(cases: &[(&str, &str, bool)]) {
    for (filter, topic, expected) in cases {
        assert_eq!(matches(filter, topic), *expected, "{filter:?} and {topic:?}");
    }
}

#[test]
fn mqtt_4_7_1_1_what_the_multi_level_wildcard_matches() {
    matching(&[
        ("#", "a", true),
        ("#", "a/b/c", true),
        ("#", "", true),
        ("a/#", "a", true),
        ("a/#", "a/", true),
        ("a/#", "a/b", true),
        ("a/#", "a/b/c/d", true),
        ("a/#", "b", false),
        ("a/#", "ab", false),
        ("a/#", "A/b", false),
        ("a/b/#", "a", false),
    ]);
}

#[test]
fn mqtt_4_7_1_2_what_the_single_level_wildcard_matches() {
    matching(&[
        ("+", "a", true),
        ("+", "", true),
        ("+", "a/b", false),
        ("a/+", "a", false),
        ("a/+", "a/", true),
        ("a/+", "a/b", true),
        ("a/+", "a/b/c", false),
        ("a/+/c", "a/b/c", true),
        ("a/+/c", "a//c", true),
        ("a/+/c", "a/c", false),
        ("+/+", "/b", true),
        ("+/+", "a/", true),
        ("+/+", "a", false),
        ("+/b/#", "a/b", true),
        ("+/b/#", "a/b/c/d", true),
        ("+/b/#", "a/c", false),
        ("+/+/#", "a", false),
    ]);
}

#[test]
fn clause_4_7_1_1_the_multi_level_wildcard_matches_the_level_above() {
    // The parent itself, whose name is the filter without its last two characters.
    let base = name("topics");
    let mut client = Client::new(V5);
    client.subscribe(format!("{base}/#"), 0);
    Client::new(V5).publish(&base, "parent", 0);
    client.expect_payload("parent");
}

#[test]
fn mqtt_4_7_2_1_a_wildcard_at_the_start_does_not_match_dollar_topics() {
    // On a server of its own: `#` would bring the messages of every other test.
    let server = Server::start("");
    let connect = || Client::connect_at(server.port, &Connect::new(V5)).0;
    let [mut all, mut plus, mut exact] = [connect(), connect(), connect()];
    all.subscribe("#", 0);
    plus.subscribe("+/a", 0);
    plus.subscribe("+/a/#", 0);
    plus.subscribe("/a", 0);
    exact.subscribe("$other/a", 0);
    exact.subscribe("$other/#", 0);
    exact.subscribe("$other/+", 0);
    exact.subscribe("marker/a", 0);
    let mut sender = connect();
    // A server may keep such topics from clients (clause 4.7.2): then nobody has it.
    sender.send_publish(&Publish::new("$other/a", "dollar").qos(1, 1));
    let taken = sender.expect_ack(kind::PUBACK, 1).reason < 0x80;
    sender.publish("marker/a", "marker", 1);
    let first = exact.expect_publish();
    assert_eq!(
        (first.text(), first.topic()),
        if taken { ("dollar".into(), "$other/a") } else { ("marker".into(), "marker/a") }
    );
    assert_eq!(all.expect_publish().topic(), "marker/a");
    assert_eq!(plus.expect_publish().topic(), "marker/a");
    all.expect_silence();
}

#[test]
fn mqtt_4_7_2_1_retained_dollar_topics_are_hidden_too() {
    let topic = name("$retained");
    let mut sender = Client::new(V5);
    sender.send_publish(&Publish::new(format!("{topic}/a"), "x").qos(1, 1).retain());
    let taken = sender.expect_ack(kind::PUBACK, 1).reason < 0x80;
    let mut client = Client::new(V5);
    client.send(Subscribe::new(1).filter(format!("{topic}/a"), 0).encode(V5));
    client.expect_suback(1);
    if taken {
        client.expect_payload("x");
    }
    // `+` alone matches no name of two levels: `+/a` is the narrowest filter that could bring it.
    client.send(Subscribe::new(2).filter("+/a", 0).encode(V5));
    client.expect_suback(2);
    client.ping();
}

#[test]
fn mqtt_4_7_3_1_names_and_filters_are_not_empty() {
    let mut failures = Failures::new();
    let filter = [MALFORMED, PROTOCOL_ERROR, FILTER_INVALID];
    failures.offend("SUBSCRIBE", Subscribe::new(1).filter("", 0).encode(V5), &filter);
    failures.offend("the second of two", Subscribe::new(1).filter("a", 0).filter("", 0).encode(V5), &filter);
    failures.offend("UNSUBSCRIBE", Unsubscribe::new(1).filter("").encode(V5), &filter);
    failures.offend("PUBLISH", Publish::new("", "x").encode(V5), &[PROTOCOL_ERROR]);
    let will = Connect::new(V5).will(tidegate_conformance::Will::new("", "x"));
    failures.connect("a will topic", &will, &[MALFORMED, PROTOCOL_ERROR, TOPIC_INVALID]);
    failures.report();
    // A single character is enough, also when it is the separator.
    let mut client = Client::new(V5);
    client.subscribe("/", 0);
    Client::new(V5).publish("/", "separator", 0);
    client.expect_payload("separator");
}

#[test]
fn mqtt_4_7_3_2_names_and_filters_have_no_nul() {
    let mut failures = Failures::new();
    for text in ["\0", "a\0", "a/\0/b", "\0/a", "+/\0"] {
        let what = text.escape_debug();
        failures.offend(
            format!("{what} subscribed to"),
            Subscribe::new(1).filter(text, 0).encode(V5),
            &[MALFORMED],
        );
        failures.offend(
            format!("{what} unsubscribed from"),
            Unsubscribe::new(1).filter(text).encode(V5),
            &[MALFORMED],
        );
        let topic = text.replace('+', "a");
        failures.offend(format!("{what} published to"), Publish::new(topic, "x").encode(V5), &[MALFORMED]);
    }
    failures.report();
}

#[test]
fn mqtt_4_7_3_3_the_longest_name_there_is_can_be_used() {
    let start = name("topics/long");
    let longest = format!("{start}{}", "x".repeat(65_535 - start.len()));
    let mut client = Client::new(V5);
    client.subscribe(&longest, 0);
    let mut sender = Client::new(V5);
    // One character less is another name.
    sender.publish(&longest[..65_534], "shorter", 0);
    sender.publish(&longest, "longest", 0);
    let message = client.expect_payload("longest");
    assert!(message.topic() == longest);
}

#[test]
fn mqtt_4_7_3_4_names_are_compared_as_they_are() {
    let base = name("topics/As");
    // Pairs that some normalization would make equal.
    for (filter, topic) in [
        ("a", "A"),
        ("é", "e\u{301}"),
        ("Å", "\u{212B}"),
        ("ß", "ss"),
        ("ﬁ", "fi"),
        ("a", "a "),
        ("a", " a"),
        ("a", "a/"),
        ("a/b", "a//b"),
        ("a/b", "a/./b"),
        ("a", "a\u{200B}"),
        ("a", "\u{feff}a"),
        ("%61", "a"),
        ("a", "ａ"),
    ] {
        for (filter, topic) in [(filter, topic), (topic, filter)] {
            let mut client = Client::new(V5);
            client.subscribe(format!("{base}/{filter}"), 0);
            let mut sender = Client::new(V5);
            sender.publish(format!("{base}/{topic}"), "another", 0);
            sender.publish(format!("{base}/{filter}"), "the same", 0);
            let message = client.expect_payload("the same");
            assert_eq!(message.topic(), format!("{base}/{filter}"), "not changed on its way");
        }
    }
}

#[test]
fn clause_4_7_3_levels_may_be_empty() {
    let base = name("topics/empty");
    for topic in ["/", "//", "/a", "a/", "a//b", "///"] {
        let topic = format!("{base}{topic}");
        let mut client = Client::new(V5);
        client.subscribe(&topic, 0);
        Client::new(V5).publish(&topic, "x", 0);
        assert_eq!(client.expect_payload("x").topic(), topic);
    }
}

#[test]
fn clause_4_7_1_1_a_bad_filter_among_good_ones_grants_none() {
    let topic = name("topics/among");
    let connect = Connect::new(V5).persistent();
    let mut client = Client::connect(&connect);
    client.send(Subscribe::new(1).filter(&topic, 1).filter("a/#/b", 0).encode(V5));
    match client.expect() {
        Packet::SubAck(codes) => assert_eq!(codes.codes, [1, FILTER_INVALID], "each has its own code"),
        Packet::Disconnect(_) => {
            client.cut();
            Client::new(V5).publish(&topic, "x", 1);
            let mut client = Client::connect(&connect);
            client.ping();
            client.expect_silence();
        }
        other => panic!("{other:?}"),
    }
}
