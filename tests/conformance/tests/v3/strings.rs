//! Strings (clause 1.5.3) in every packet that a client sends.

use tidegate_conformance::Version::V311;
use tidegate_conformance::refusal::{Case, after_connect, case, first_on_a_connection};
use tidegate_conformance::wire::ILL_FORMED;
use tidegate_conformance::{Client, Connect, Publish, Subscribe, Unsubscribe, Will, name};

/// CONNECT with `bytes` for each of its strings.
fn connects(what: &str, bytes: &[u8]) -> [Case; 3] {
    let connect = || Connect::new(V311);
    [
        case(format!("client id: {what}"), connect().client_id(bytes).encode()),
        case(format!("will topic: {what}"), connect().will(Will::new(bytes, "x")).encode()),
        case(format!("user name: {what}"), connect().login(bytes, "x").encode()),
    ]
}

/// The other packets with strings.
fn others(what: &str, bytes: &[u8]) -> [Case; 4] {
    [
        case(format!("PUBLISH: {what}"), Publish::new(bytes, "x").encode(V311)),
        case(format!("PUBLISH of QoS 2: {what}"), Publish::new(bytes, "x").qos(2, 1).encode(V311)),
        case(format!("SUBSCRIBE: {what}"), Subscribe::new(1).filter(bytes, 0).encode(V311)),
        case(format!("UNSUBSCRIBE: {what}"), Unsubscribe::new(1).filter(bytes).encode(V311)),
    ]
}

#[test]
fn mqtt_1_5_3_1_ill_formed_strings_end_the_connection() {
    first_on_a_connection(V311, ILL_FORMED.iter().flat_map(|(what, bytes)| connects(what, bytes)))
        .without_a_packet();
    after_connect(V311, ILL_FORMED.iter().flat_map(|(what, bytes)| others(what, bytes))).without_a_packet();
}

#[test]
fn mqtt_1_5_3_1_well_formed_strings_do_not() {
    // The first and the last character of each length, and those beside the surrogates; no control characters and
    // non-characters, for which a receiver may close the connection.
    let characters = " ~\u{A0}\u{7FF}\u{800}\u{D7FF}\u{E000}\u{FFFD}\u{10000}\u{10FFFD}";
    let topic = name(characters);
    let mut client = Client::connect(&Connect::new(V311).login(characters, "x"));
    client.subscribe(&topic, 0);
    client.publish_and_get(&topic);
}

#[test]
fn mqtt_1_5_3_2_nul_ends_the_connection() {
    let strings = [("alone", &b"\0"[..]), ("first", b"\0a"), ("within", b"a\0b"), ("last", b"a\0")];
    first_on_a_connection(V311, strings.iter().flat_map(|(what, bytes)| connects(what, bytes)))
        .without_a_packet();
    after_connect(V311, strings.iter().flat_map(|(what, bytes)| others(what, bytes))).without_a_packet();
}

#[test]
fn mqtt_1_5_3_3_the_byte_order_mark_is_a_character() {
    let plain = name("bom/");
    let marked = [format!("\u{FEFF}{plain}"), format!("{plain}\u{FEFF}"), plain.replace('/', "/\u{FEFF}")];
    let mut without = Client::new(V311);
    without.subscribe(&plain, 0);
    for topic in &marked {
        let mut client = Client::new(V311);
        client.subscribe(topic, 0);
        // Byte for byte as it was published.
        let mut publisher = Client::new(V311);
        publisher.publish(topic, "marked", 0);
        assert_eq!(client.expect_payload("marked").topic(), topic);
        publisher.publish(&plain, "plain", 0);
        without.expect_payload("plain");
        client.ping();
    }
    // In a client id, too: these are two clients.
    let id = name("bom");
    let mut one = Client::connect(&Connect::new(V311).client_id(&id));
    let mut two = Client::connect(&Connect::new(V311).client_id(format!("\u{FEFF}{id}")));
    one.ping();
    two.ping();
}
