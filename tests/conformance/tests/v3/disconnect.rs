//! DISCONNECT (clause 3.14). That it discards the will is in `wills`.

use tidegate_conformance::Version::V311;
use tidegate_conformance::packet::{DISCONNECT, PINGREQ};
use tidegate_conformance::wire::frame;
use tidegate_conformance::{Client, Connect, Publish, Subscribe, Will, name};

#[test]
fn mqtt_3_14_1_1_reserved_bits_in_disconnect_are_a_fault() {
    let topic = name("fault/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 0);
    for flags in 1..16 {
        let mut client = Client::connect(&Connect::new(V311).will(Will::new(&topic, flags.to_string())));
        client.send(frame(0xE0 | flags, &[]));
        client.expect_closed();
        // It was no DISCONNECT, so the will is not discarded.
        watcher.expect_payload(&flags.to_string());
    }
}

#[test]
fn mqtt_3_14_4_1_the_server_closes_when_the_client_does_not() {
    for connect in [Connect::new(V311), Connect::new(V311).persistent()] {
        let mut client = Client::connect(&connect);
        client.send(DISCONNECT);
        client.expect_closed();
    }
}

#[test]
fn mqtt_3_14_4_2_what_follows_disconnect_is_not_processed() {
    let topic = name("after/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 2);
    let mut client = Client::connect(&Connect::new(V311).will(Will::new(&topic, "will")));
    let mut bytes = Publish::new(&topic, "before").encode(V311);
    bytes.extend(DISCONNECT);
    bytes.extend(Publish::new(&topic, "after").encode(V311));
    bytes.extend(Publish::new(&topic, "after").retain().qos(1, 1).encode(V311));
    bytes.extend(Subscribe::new(2).filter(&topic, 0).encode(V311));
    bytes.extend(PINGREQ);
    client.send(bytes);
    client.expect_closed();
    watcher.expect_payload("before");
    Client::new(V311).publish(&topic, "end", 0);
    watcher.expect_payload("end");
}
