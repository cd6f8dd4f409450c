//! What an access list refuses (clause 3.3.5), and clients that are not let in (clause 3.2.2.3).

use tidegate_conformance::Version::{V31, V311};
use tidegate_conformance::client::{Came, PATIENCE};
use tidegate_conformance::ending::{Failures, not_let_in};
use tidegate_conformance::server::{Server, password_file};
use tidegate_conformance::{Client, Connect, Packet, Publish, Subscribe, Will, kind};

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

/// Return codes of CONNACK (table 3.1).
const UNAVAILABLE: u8 = 3;
const BAD_LOGIN: u8 = 4;
const NOT_AUTHORIZED: u8 = 5;

/// A server that lets in one user, who may not publish to `denied`; `more` are further keys of its access.
fn guarded(more: &str) -> Server {
    let configuration =
        format!("[access]\npassword_file = \"users\"\nanonymous = \"never\"\nacl_file = \"acl\"\n{more}");
    let users = password_file(&[("known", "right")]);
    Server::start_with(&configuration, &[("users", &users), ("acl", "deny all publish denied/#\n")])
}

#[test]
fn mqtt_3_2_2_5_a_client_that_may_not_connect_is_told_why_and_the_connection_ends() {
    let server = guarded("login_failures = 0\n");
    let mut failures = Failures::new();
    for version in [V31, V311] {
        let known = |password| Connect::new(version).login("known", password);
        for (what, connect, expected) in [
            ("a wrong password", known("wrong"), BAD_LOGIN),
            ("no password", Connect { password: None, ..known("") }, BAD_LOGIN),
            ("a stranger", Connect::new(version).login("stranger", "right"), BAD_LOGIN),
            ("nobody", Connect::new(version), NOT_AUTHORIZED),
            ("a will that is not allowed", known("right").will(Will::new("denied/x", "x")), NOT_AUTHORIZED),
        ] {
            let result = not_let_in(server.port, &connect).and_then(|code| match code {
                code if code == expected => Ok(()),
                code => Err(format!("{code} instead of {expected}")),
            });
            failures.add(format!("{what}, {version:?}"), result);
        }
        let mut client = Client::connect_at(server.port, &known("right")).0;
        client.subscribe("access/behind", 1);
        client.ping();
    }
    failures.report();
}

#[test]
fn mqtt_3_2_2_5_logins_of_many_that_guess_at_once_are_refused() {
    let server = guarded("login_failures = 1\nlogin_penalty = \"100ms\"\n");
    let codes: Vec<u8> = std::thread::scope(|scope| {
        let guess = || not_let_in(server.port, &Connect::new(V311).login("known", "wrong")).unwrap();
        let guesses: Vec<_> = (0..30).map(|_| scope.spawn(guess)).collect();
        guesses.into_iter().map(|guess| guess.join().unwrap()).collect()
    });
    // A few are looked at, one after the other; the others are not.
    assert!(codes.contains(&BAD_LOGIN) && codes.contains(&UNAVAILABLE), "{codes:02X?}");
    assert!(codes.iter().all(|code| matches!(*code, BAD_LOGIN | UNAVAILABLE)), "{codes:02X?}");
}
