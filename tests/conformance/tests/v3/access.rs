//! What an access list refuses (clause 3.3.5).

use tidegate_conformance::Version::{V31, V311};
use tidegate_conformance::client::{Came, PATIENCE};
use tidegate_conformance::server::Server;
use tidegate_conformance::{Client, Connect, Packet, Publish, Subscribe, kind};

#[test]
fn mqtt_3_3_5_2_a_publish_that_is_not_allowed_is_acknowledged_or_ends_the_connection() {
    let server =
        Server::start_with("[access]\nacl_file = \"acl\"\n", &[("acl", "deny all publish denied/#\n")]);
    let connected = || Client::connect_at(server.port, &Connect::new(V311)).0;
    let mut watcher = connected();
    watcher.subscribe("#", 2);
    for (qos, answer) in [(0, 0), (1, kind::PUBACK), (2, kind::PUBREC)] {
        let mut client = connected();
        client.send_publish(&Publish::new("denied/x", "refused").qos(qos, 5).retain());
        if qos > 0 {
            match client.read_within(PATIENCE) {
                Came::End => continue,
                Came::Packet(Packet::Ack(ack)) => assert_eq!((ack.kind, ack.id), (answer, 5)),
                other => panic!("QoS {qos}: {other:?}"),
            }
        }
        client.ping();
        if qos == 2 {
            client.send_ack(kind::PUBREL, 5);
            client.expect_ack(kind::PUBCOMP, 5);
        }
    }
    // It reaches nobody, and is not retained.
    connected().publish("allowed", "end", 1);
    assert_eq!(watcher.take().topic(), "allowed");
    let mut later = connected();
    later.subscribe("denied/#", 2);
    later.ping();
}

#[test]
fn mqisdp_3_9_1_a_subscription_that_is_not_allowed_has_no_code_of_failure() {
    let server =
        Server::start_with("[access]\nacl_file = \"acl\"\n", &[("acl", "deny all subscribe denied/#\n")]);
    let mut client = Client::connect_at(server.port, &Connect::new(V31)).0;
    client.send(Subscribe::new(1).filter("denied/x", 1).encode(V31));
    // The end, or an acknowledgement as if it were granted; who reads SUBACK of 3.1 here refuses 0x80.
    match client.read_within(PATIENCE) {
        Came::End => {}
        Came::Packet(Packet::SubAck(answer)) => {
            assert_eq!(answer.codes.len(), 1);
            Client::connect_at(server.port, &Connect::new(V311)).0.publish("denied/x", "secret", 1);
            client.ping();
            client.expect_silence();
        }
        other => panic!("{other:?}"),
    }
    // MQTT 3.1.1 has one.
    let mut client = Client::connect_at(server.port, &Connect::new(V311)).0;
    client.send(Subscribe::new(1).filter("denied/x", 1).filter("allowed", 1).encode(V311));
    client.expect_bytes(&[0x90, 4, 0, 1, 0x80, 1]);
}
