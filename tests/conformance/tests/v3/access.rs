//! What an access list refuses (clause 3.3.5).

use tidegate_conformance::Version::V311;
use tidegate_conformance::client::{Came, PATIENCE};
use tidegate_conformance::server::Server;
use tidegate_conformance::{Client, Connect, Packet, Publish, kind};

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
