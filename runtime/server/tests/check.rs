//! `tidegate check` and `tidegate modules list`: each bad input is named with its place.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod node;

use std::path::Path;

use node::{Node, finish, tidegate, write};

fn check(dir: &Path) -> (Option<i32>, String) {
    let (code, out, errors) = finish(tidegate(dir, &["check"]));
    assert_eq!(errors, "");
    (code, out)
}

/// A component that imports what no host offers.
fn stranger() -> Vec<u8> {
    wat::parse_str("(component (import \"tidegate:nowhere/thing@0.1.0\" (instance (export \"f\" (func)))))")
        .unwrap()
}

#[test]
fn an_empty_directory_is_well_and_stays_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out) = check(dir.path());
    assert_eq!(
        (code, out.lines().last()),
        (Some(0), Some("1 checked: 1 well, 0 wrong, 0 warnings")),
        "{out}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_good_configuration_is_well() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "tidegate.toml", "[backend.sqlite.p]\npath = \"p.db\"\n");
    write(
        dir.path(),
        "conf.d/a.conf",
        "backend.sqlite.hook.message.publish.1 = {\"action\": {\"sql\": \
         [\"insert into mqtt_msg (topic) values (${topic})\"]}, \"pool\": \"p\"}\n",
    );
    let (code, out) = check(dir.path());
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("ok       tidegate.toml (connectors: 1, hook lines: 0)"), "{out}");
    assert!(out.contains("ok       ./conf.d/a.conf (connectors: 0, hook lines: 1)"), "{out}");
    assert!(!dir.path().join("p.db").exists(), "check makes no database");
}

#[test]
fn every_bad_input_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "tidegate.toml", "[broker]\n  max_queud = 5\n[backend.sqlite.p]\npath = \"p.db\"\n");
    let line = |n: u32, json: &str| format!("backend.sqlite.hook.message.publish.{n} = {json}\n");
    let conf = [
        line(1, r##"{"topic": "#", "action": {"function": "on_message_publish"}, "pool": "p}"##),
        line(2, r#"{"action": {"function": "on_mesage_publish"}, "pool": "p"}"#),
        line(3, r#"{"action": {"sql": ["insert into t values (${topc})"]}, "pool": "p"}"#),
        line(4, r#"{"action": {"function": "on_message_publish"}, "pool": "nosuch"}"#),
        "backend.sqlite.hook.message.publsh.1 = {\"action\": {\"function\": \"on_message_publish\"}, \"pool\": \"p\"}\n".into(),
    ]
    .concat();
    write(dir.path(), "conf.d/a.conf", conf);
    write(dir.path(), "modules/garbage.wasm", "not wasm");
    write(dir.path(), "modules/stranger.wasm", stranger());
    write(dir.path(), "modules/manifest.wasm", stranger());
    write(dir.path(), "modules/manifest.toml", "priority = 1\nhookz = 1\n");
    let (code, out) = check(dir.path());
    assert_eq!(code, Some(1), "{out}");
    let named = |place: &str, words: &str| {
        let line =
            out.lines().find(|line| line.starts_with(&format!("error    {place}")) && line.contains(words));
        assert!(line.is_some(), "{place} ... {words} in\n{out}");
    };
    named("tidegate.toml:2:3: broker.max_queud: ", "did you mean max_queued?");
    named("./conf.d/a.conf:1:", "JSON");
    named("./conf.d/a.conf:2:", "on_message_publish");
    named("./conf.d/a.conf:3:", "did you mean \"topic\"?");
    named("./conf.d/a.conf:4:", "\"nosuch\"");
    named("./conf.d/a.conf:5:", "message.publish");
    named("./modules/garbage.wasm: ", "WebAssembly");
    named("./modules/stranger.wasm: ", "tidegate:nowhere/thing");
    named("./modules/manifest.wasm: manifest.toml:2:1: ", "did you mean \"hooks\"?");
    assert_eq!(out.lines().filter(|line| line.starts_with("error")).count(), 9, "{out}");
}

#[test]
fn statements_are_prepared_against_the_database_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("own.db");
    let make = "pragma journal_mode = wal; create table mine (topic text); insert into mine values ('kept');";
    let made = std::process::Command::new("sqlite3").arg(&database).arg(make).output();
    assert!(made.expect("sqlite3 is installed").status.success());
    let before = std::fs::read(&database).unwrap();
    let line = |n: u32, table: &str| {
        format!(
            "backend.sqlite.hook.message.publish.{n} = {{\"action\": {{\"sql\": \
             [\"insert into {table} (topic) values (${{topic}})\"]}}, \"pool\": \"p\"}}\n"
        )
    };
    let conf = format!("backend.sqlite.p.path = {}\n{}", database.display(), line(1, "mine"));
    write(dir.path(), "conf.d/a.conf", &conf);
    let (code, out) = check(dir.path());
    assert_eq!(code, Some(0), "{out}");
    write(dir.path(), "conf.d/a.conf", conf + &line(2, "yours"));
    let (code, out) = check(dir.path());
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("error    ./conf.d/a.conf:3:"), "{out}");
    assert!(out.contains("no such table: yours"), "{out}");
    assert_eq!(std::fs::read(&database).unwrap(), before, "the database is as it was");
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing was left beside it: {names:?}");
}

#[test]
fn a_database_that_can_never_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "file", "");
    write(dir.path(), "conf.d/a.conf", "backend.sqlite.p.path = ./file/p.db\n");
    let (code, out) = check(dir.path());
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("error    ./conf.d/a.conf:1:") && out.contains("./file is no directory"), "{out}");
}

#[test]
fn a_module_that_does_not_load_is_listed_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "modules/stranger.wasm", stranger());
    let node = Node::start_in(dir, &[]);
    let api = node.api.to_string();
    let (code, out, errors) = finish(node.tidegate(&["modules", "list", "--api", &api]));
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.starts_with("no modules\nnot loaded: "), "{out}");
    assert!(out.contains("modules/stranger.wasm: ") && out.contains("tidegate:nowhere/thing"), "{out}");
    let (_, out, _) = finish(node.tidegate(&["modules", "list", "--api", &api, "--json"]));
    let list: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(list["failures"].as_array().unwrap().len(), 1);
    assert_eq!(node.json("/readyz")["modules"], serde_json::json!({"serving": 0, "failed": 1}));
    let (code, offline, _) = finish(node.tidegate(&["modules", "list", "--offline"]));
    assert_eq!(code, Some(0));
    assert!(offline.contains("not loaded: ./modules/stranger.wasm"), "{offline}");
    // The log of the running server said so, too.
    assert!(node.seen.iter().any(|line| line.contains("stranger") && line.contains("\"level\":\"")));
}

#[test]
fn a_list_without_a_server_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let api = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let (code, _, errors) = finish(tidegate(dir.path(), &["modules", "list", "--api", &api]));
    assert_eq!(code, Some(1));
    assert!(errors.contains(&format!("no tidegate server answers on {api}")), "{errors}");
    let (code, _, errors) = finish(tidegate(dir.path(), &["modules", "list", "--offline"]));
    assert_eq!(code, Some(1));
    assert!(errors.contains("./modules cannot be read"), "{errors}");
}
