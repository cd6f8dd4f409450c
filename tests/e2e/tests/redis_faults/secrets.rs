//! Secrets of a pool are shown nowhere: neither one that the server does not accept nor the right one.

use std::fs::File;
use std::time::SystemTime;

use tidegate_e2e::redis::Redis;
use tidegate_e2e::server::text_of;
use tidegate_e2e::wire::{self, Connect, Wire};
use tidegate_e2e::{Server, until};
use tidegate_servers::Place;
use tidegate_servers::redis::Options;

use crate::scene::LINE;

/// Words that are nothing else's part.
const WRONG: &str = "wr0ng-9f2c71";
const RIGHT: &str = "r1ght-5e08b4";
const VARIABLE: &str = "TIDEGATE_E2E_REDIS_PASSWORD";

/// Everything that the runtime shows holds neither password.
fn assert_hidden(server: &Server) {
    let page = |path: &str| server.get(path).expect("the API answers").1;
    let command = |args: &[&str]| text_of(&server.tidegate(args));
    let shown = [
        ("the log", server.log()),
        ("/readyz", page("/readyz")),
        ("/metrics", page("/metrics")),
        ("connectors list", command(&["connectors", "list", "--json"])),
        ("connectors test", command(&["connectors", "test", "--json"])),
        ("plugins list", command(&["plugins", "list", "--json"])),
        ("buffers list", command(&["buffers", "list", "--json"])),
        ("check", command(&["check"])),
    ];
    for (place, text) in &shown {
        assert!(!text.is_empty(), "{place} shows nothing at all");
        for secret in [WRONG, RIGHT] {
            assert!(!text.contains(secret), "{place} shows the password {secret}:\n{text}");
        }
    }
    assert!(shown[2].1.contains("redis:pool1") && shown[3].1.contains("redis:pool1"));
    assert!(shown[7].1.contains("0 wrong"), "the references are read there, too: {}", shown[7].1);
}

/// Starts the runtime with the wrong password, written as `reference`, and waits until the server has refused it.
fn refused(redis: Redis, reference: &str) -> Server {
    let conf = redis.option("password", reference).only(LINE);
    let builder = Server::builder().environment(VARIABLE, WRONG).file("password", format!("{WRONG}\n"));
    let server = builder.file("conf.d/redis.conf", conf).start();
    let (mut client, _) = Wire::connect(server.port, &Connect::new(4, "one"));
    client.send(&wire::publish(4, "t", b"waits", 1, 1));
    server.wait_log(0, "the refusal", |line| {
        line.contains("store is down") && line.contains("does not accept user and password")
    });
    client.expect(wire::kind::PUBACK);
    server
}

#[test]
fn a_password_is_shown_nowhere_however_it_is_given() {
    let place = Place::temporary().unwrap();
    let locked = Options::new("locked").password(RIGHT).start(&place).unwrap();
    for reference in [WRONG.to_owned(), "file:./password".into(), format!("env:{VARIABLE}")] {
        let server = refused(Redis::at(locked.cli(), &locked.server().address()), &reference);
        assert_hidden(&server);
        server.assert_no_panic();
    }
}

#[test]
fn a_password_is_changed_in_its_file_and_the_configuration_touched() {
    let place = Place::temporary().unwrap();
    let locked = Options::new("locked").password(RIGHT).start(&place).unwrap();
    let redis = || Redis::at(locked.cli(), &locked.server().address());
    let server = refused(redis(), "file:./password");
    let mark = server.log_mark();
    std::fs::write(server.file("password"), format!("{RIGHT}\n")).unwrap();
    let conf = File::options().append(true).open(server.file("conf.d/redis.conf")).unwrap();
    conf.set_modified(SystemTime::now()).unwrap();
    server.wait_log(mark, "the change", |line| {
        line.contains("configuration of back ends changed") && line.contains("redis:pool1")
    });
    until("what waited is stored", || (redis().payloads(&["t".into()]) == ["waits"]).then_some(()));
    until("it is up", || (server.metric("tidegate_store_up", "redis:pool1") == 1.0).then_some(()));
    assert_eq!(server.tidegate(&["connectors", "test", "redis:pool1"]).status.code(), Some(0));
    assert_hidden(&server);
    server.assert_no_panic();
}
