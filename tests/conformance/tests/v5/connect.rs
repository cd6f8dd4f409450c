//! CONNECT (MQTT 5 clause 3.1).

use tidegate_conformance::packet::DISCONNECT;
use tidegate_conformance::{Client, Version::V5};

#[test]
fn mqtt_3_1_0_1_the_first_packet_must_be_connect() {
    let mut client = Client::open(V5);
    client.send(DISCONNECT);
    client.expect_closed();
    Client::new(V5).disconnect();
}
