//! Topic names and filters (clause 4.7).

use tidegate_conformance::Version::V311;
use tidegate_conformance::client::{Came, PATIENCE};
use tidegate_conformance::refusal::{after_connect, case, first_on_a_connection};
use tidegate_conformance::server::Server;
use tidegate_conformance::{Client, Connect, Packet, Publish, Subscribe, Unsubscribe, Will, name};

/// That a subscription to `filter` is not granted: the connection ends, or the code is 0x80 and it has no effect.
#[track_caller]
fn not_granted(filter: &str) {
    let mut client = Client::new(V311);
    client.send(Subscribe::new(1).filter(filter, 0).encode(V311));
    match client.read_within(PATIENCE) {
        Came::End => {}
        Came::Packet(Packet::SubAck(answer)) => {
            assert_eq!((answer.id, &answer.codes[..]), (1, &[0x80][..]), "{filter}")
        }
        other => panic!("{filter}: {other:?}"),
    }
}

/// Which of `topics` a subscriber of `filter` gets, when each is published below `prefix`.
fn matched<'a>(prefix: &str, filter: &str, topics: &[&'a str]) -> Vec<&'a str> {
    let mut client = Client::new(V311);
    client.subscribe(format!("{prefix}{filter}"), 0);
    client.subscribe(format!("end-of-{prefix}"), 0);
    let mut publisher = Client::new(V311);
    for topic in topics {
        publisher.send_publish(&Publish::new(format!("{prefix}{topic}"), topic));
    }
    publisher.publish(format!("end-of-{prefix}"), "end", 0);
    let mut came = Vec::new();
    loop {
        let message = client.expect_publish();
        if message.text() == "end" {
            break topics
                .iter()
                .filter(|topic| came.contains(&format!("{prefix}{topic}")))
                .copied()
                .collect();
        }
        assert!(!came.contains(&message.topic().to_owned()), "twice: {message:?}");
        came.push(message.topic().to_owned());
    }
}

#[test]
fn mqtt_4_7_1_1_wildcards_stand_in_no_topic_name() {
    let topic = name("wild");
    let wrong = ["+", "#", "+/a", "a/+", "a/+/b", "a/#", "a#", "b+"].map(|wild| format!("{topic}/{wild}"));
    let publish = wrong.iter().map(|topic| case(topic, Publish::new(topic, "x").qos(1, 1).encode(V311)));
    after_connect(V311, publish.collect::<Vec<_>>()).without_a_packet();
    let will = wrong.iter().map(|topic| case(topic, Connect::new(V311).will(Will::new(topic, "x")).encode()));
    first_on_a_connection(V311, will.collect::<Vec<_>>()).without_a_packet();
    // In a filter they may.
    Client::new(V311).subscribe(format!("{topic}/+/#"), 0);
}

#[test]
fn mqtt_4_7_1_2_the_multi_level_wildcard_is_the_last_level() {
    for filter in ["a/#/b", "#/", "#/a", "a#", "a/b#", "a/#b", "##", "a/##", "#+", "+#", "a/#/#", "/#/"] {
        not_granted(filter);
    }
    let prefix = name("multi");
    let topics = ["", "/a", "/a/b", "/a/b/c", "/", "x", "/a/"];
    assert_eq!(matched(&prefix, "/#", &topics), ["", "/a", "/a/b", "/a/b/c", "/", "/a/"]);
    assert_eq!(matched(&prefix, "/a/#", &topics), ["/a", "/a/b", "/a/b/c", "/a/"]);
    assert_eq!(matched(&prefix, "/a/b/c/#", &topics), ["/a/b/c"]);
}

#[test]
fn mqtt_4_7_1_3_the_single_level_wildcard_is_a_whole_level() {
    for filter in ["a+", "+a", "a/b+", "a/+b", "a/+b/c", "++", "a/++/b", "+ ", "/+a", "a+b"] {
        not_granted(filter);
    }
    let prefix = name("single");
    let topics = ["/a", "/a/b", "//b", "/a/", "/", "/a/b/c", "", "/b/b/c"];
    assert_eq!(matched(&prefix, "/+", &topics), ["/a", "/"]);
    assert_eq!(matched(&prefix, "/+/b", &topics), ["/a/b", "//b"]);
    assert_eq!(matched(&prefix, "/a/+", &topics), ["/a/b", "/a/"]);
    assert_eq!(matched(&prefix, "/+/+", &topics), ["/a/b", "//b", "/a/"]);
    assert_eq!(matched(&prefix, "/+/b/#", &topics), ["/a/b", "//b", "/a/b/c", "/b/b/c"]);
}

#[test]
fn mqtt_4_7_2_1_wildcards_at_the_start_do_not_match_dollar() {
    // A server without other tests' messages: this one listens to everything.
    // Who may publish to such topics is said by an access list.
    let server = Server::start_with(
        "[access]\nacl_file = \"acl\"\n",
        &[("acl", "allow all pubsub $ $dollar/#\nallow all pubsub #\n")],
    );
    let connected = || Client::connect_at(server.port, &Connect::new(V311)).0;
    let mut everything = connected();
    for filter in ["#", "+/a", "+/a/#", "+", "+/#", "/#", "/+"] {
        everything.subscribe(filter, 0);
    }
    let mut dollar = connected();
    dollar.subscribe("$dollar/a", 0);
    dollar.subscribe("$dollar/+", 0);
    let mut below = connected();
    below.subscribe("$dollar/#", 0);
    let mut publisher = connected();
    publisher.publish("$dollar/a", "hidden", 0);
    publisher.publish("$", "hidden", 0);
    publisher.publish("$dollar", "hidden", 0);
    publisher.publish("$dollar/a", "hidden", 1);
    publisher.publish_retained("$dollar/a", "hidden", 0);
    // The sign has no meaning elsewhere.
    publisher.publish("a/$dollar", "seen", 0);
    everything.expect_payload("seen");
    // By a filter that begins with the sign they come.
    dollar.expect_payload("hidden");
    for topic in ["$dollar/a", "$dollar", "$dollar/a", "$dollar/a"] {
        assert_eq!(below.expect_payload("hidden").topic(), topic);
    }
    // Nor is a retained one sent to a new subscription.
    let mut later = connected();
    for filter in ["#", "+/a", "+/#"] {
        later.subscribe(filter, 0);
    }
    later.ping();
    later.subscribe("$dollar/#", 0);
    assert!(later.expect_payload("hidden").retain);
}

#[test]
fn mqtt_4_7_3_1_topics_have_a_character() {
    let cases = [
        case("PUBLISH", Publish::new("", "x").encode(V311)),
        case("PUBLISH of QoS 1", Publish::new("", "x").qos(1, 1).encode(V311)),
        case("PUBLISH of QoS 2, retained", Publish::new("", "x").qos(2, 1).retain().encode(V311)),
        case("UNSUBSCRIBE", Unsubscribe::new(1).filter("").encode(V311)),
        case("the second of UNSUBSCRIBE", Unsubscribe::new(1).filter("a").filter("").encode(V311)),
    ];
    after_connect(V311, cases).without_a_packet();
    not_granted("");
    let will = case("will", Connect::new(V311).will(Will::new("", "x")).encode());
    first_on_a_connection(V311, [will]).without_a_packet();
    // One is enough, a separator or a space.
    for topic in ["/", " ", "?"] {
        let mut client = Client::new(V311);
        client.subscribe(topic, 0);
        client.publish_and_get(topic);
    }
}

#[test]
fn mqtt_4_7_3_2_topics_do_not_have_nul() {
    let topic = name("nul\0");
    let cases = [
        case("PUBLISH", Publish::new(&topic, "x").encode(V311)),
        case("PUBLISH of QoS 1", Publish::new(&topic, "x").qos(1, 1).encode(V311)),
        case("only NUL", Publish::new("\0", "x").encode(V311)),
        case("SUBSCRIBE", Subscribe::new(1).filter(&topic, 0).encode(V311)),
        case("UNSUBSCRIBE", Unsubscribe::new(1).filter(&topic).encode(V311)),
    ];
    after_connect(V311, cases).without_a_packet();
}

#[test]
fn mqtt_4_7_3_3_topics_have_up_to_65535_bytes() {
    // Longer ones cannot be written down; the longest are taken as they are.
    for length in [255, 256, 32_767, 32_768, 65_535] {
        let mut topic = name("long");
        topic.push_str(&"x".repeat(length - topic.len()));
        let mut client = Client::new(V311);
        client.subscribe(&topic, 0);
        client.publish_and_get(&topic);
        client.unsubscribe(&topic);
    }
}

#[test]
fn mqtt_4_7_3_4_topics_are_not_normalised() {
    let prefix = name("exact");
    let topics = [
        "/é",
        "/e\u{301}",
        "/E\u{301}",
        "/ﬁ",
        "/fi",
        "/Å",
        "/\u{212B}",
        "/A",
        "/a",
        "/a/",
        "//a",
        "/a ",
        "/ a",
        "/a/../b",
        "/b",
        "/./b",
        "/%61",
        "/a\\b",
        "/\u{FEFF}a",
        "/\u{FFFD}",
        "/a\u{200B}",
    ];
    for topic in topics {
        assert_eq!(matched(&prefix, topic, &topics), [topic]);
    }
}
