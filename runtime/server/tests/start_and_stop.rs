//! `tidegate run`: what it needs, what it makes, what it says, how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod node;

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use node::{Node, finish, tidegate, write};
use serde_json::Value;

#[test]
fn without_configuration_it_serves_from_an_empty_directory_and_stops_with_status_0() {
    let node = Node::start();
    let dir = node.dir.path().to_path_buf();
    assert_eq!(std::fs::metadata(dir.join("data")).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(dir.join("data/tidegate.db").exists());
    assert!(dir.join("modules").is_dir());
    assert!(!dir.join("conf.d").exists());
    assert_eq!(node.get("/healthz"), (200, "ok\n".into()));
    let ready = node.json("/readyz");
    assert_eq!(ready["status"], "ready");
    assert_eq!(ready["connectors"], serde_json::json!([{"name": "sqlite:default", "state": "up"}]));
    assert_eq!(ready["listeners"][0], node.mqtt[0].to_string());
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log:?}");
    assert!(log.last().unwrap().contains("stopped"), "{log:?}");
}

#[test]
fn ctrl_c_is_a_graceful_stop_too_and_sighup_is_none() {
    let mut node = Node::start();
    node.signal("HUP");
    node.log.until("SIGHUP ignored", &mut Vec::new());
    assert_eq!(node.get("/healthz").0, 200);
    node.signal("INT");
    assert_eq!(node.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once_with_status_130() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "conf.d/a.conf",
        "backend.sqlite.p.path = ./p.db\n\
         backend.sqlite.hook.message.publish.1 = {\"action\": {\"function\": \"on_message_publish\"}, \"pool\": \"p\"}\n",
    );
    write(dir.path(), "tidegate.toml", "[store]\nbuffer_bytes = 0\n");
    let mut node = Node::start_in(dir, &[]);
    // Somebody else holds the database, and there is no buffer: the message below can be neither stored nor acknowledged, so that the
    // graceful stop has something to wait for.
    let mut holder = Command::new("sqlite3")
        .arg(node.dir.path().join("p.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sqlite3 is installed");
    let mut input = holder.stdin.take().unwrap();
    writeln!(input, "BEGIN EXCLUSIVE; SELECT 'held';").unwrap();
    node::Lines::of(holder.stdout.take().unwrap()).until("held", &mut Vec::new());
    let mut publisher =
        node.client(&["pub", "-t", "a", "-m", "x", "-q", "1"]).stderr(Stdio::null()).spawn().unwrap();
    while !node.get("/metrics").1.contains("tidegate_broker_messages_received_total{qos=\"1\"} 1") {
        assert!(node.child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    node.signal("TERM");
    node.log.until("SIGTERM: stopping", &mut Vec::new());
    assert_eq!(node.get("/readyz").0, 503);
    assert_eq!(node.json("/readyz")["status"], "stopping");
    node.signal("TERM");
    assert_eq!(node.wait().code(), Some(130));
    assert_eq!(publisher.wait().unwrap().code(), Some(1), "its message was not acknowledged");
    drop(input);
    holder.wait().unwrap();
}

#[test]
fn two_processes_do_not_share_a_data_directory() {
    let node = Node::start();
    let second = node.tidegate(&["run", "--listen", "127.0.0.1:0", "--api", "off"]);
    let (code, _, errors) = finish(second);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("data.dir: ./data is in use"), "{errors}");
    assert!(errors.contains(&format!("pid {}", node.child.id())), "{errors}");
    // And the first is not disturbed.
    assert_eq!(node.stop().0, Some(0));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flags, key) in [
        (["--listen", &address, "--api", "off"], "broker.listen"),
        (["--listen", "127.0.0.1:0", "--api", &address], "api.listen"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = tidegate(dir.path(), &["run"]);
        command.args(flags);
        let (code, _, errors) = finish(command);
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains(&format!("error: {key}: {address}: ")), "{errors}");
    }
}

/// It was made, empty: a mandatory module on a disk that is not mounted was passed over.
#[test]
fn a_modules_directory_that_was_asked_for_and_cannot_be_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
    for (name, why) in [("nowhere", "No such file"), ("loop", "Too many levels")] {
        write(dir.path(), "tidegate.toml", format!("modules.dir = {name:?}\n"));
        let mut run = tidegate(dir.path(), &["run", "--listen", "127.0.0.1:0", "--api", "off"]);
        let mut child = run.stderr(Stdio::piped()).spawn().unwrap();
        let lines = node::Lines::of(child.stderr.take().unwrap());
        // Refused or ready: one of them is said.
        let mut before = Vec::new();
        let last = lines.until_any(&["error: ", "tidegate is ready"], &mut before);
        if last.contains("is ready") {
            child.kill().unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(1), "{before:?} {last}");
        let errors = last;
        let place = format!("error: modules.dir: {}: ", dir.path().join(name).display());
        assert!(errors.contains(&place) && errors.contains(why), "{errors}");
        let (code, said, _) = finish(tidegate(dir.path(), &["check"]));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("error    modules.dir: {name} cannot be read: {why}")), "{said}");
        assert!(!dir.path().join("nowhere").exists());
    }
}

#[test]
fn a_wrong_configuration_lists_everything_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "tidegate.toml", "[broker]\nmax_inflight = 0\n[shutdwn]\ndeadline = 1\n");
    write(dir.path(), "conf.d/a.conf", "backend.sqlite.p.pth = x\n");
    let (code, _, errors) = finish(tidegate(dir.path(), &["run"]));
    assert_eq!(code, Some(1));
    for part in [
        "error: tidegate.toml:2:16: broker.max_inflight: expected a whole number from 1",
        "error: tidegate.toml:3:2: shutdwn: no such table; did you mean shutdown?",
        "error: ./conf.d/a.conf:1:",
    ] {
        assert!(errors.contains(part), "{part} in {errors}");
    }
    assert!(!dir.path().join("data").exists());
    assert!(!dir.path().join("modules").exists());
}

#[test]
fn every_log_line_is_one_json_object() {
    let node = Node::start();
    let mut lines = node.seen.clone();
    let (_, rest) = node.stop();
    lines.extend(rest);
    assert!(lines.len() >= 3, "{lines:?}");
    for line in &lines {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        for key in ["timestamp", "level", "target", "message"] {
            assert!(object[key].is_string(), "{key} in {line}");
        }
    }
}

#[test]
fn a_wrong_rust_log_is_named_and_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = tidegate(dir.path(), &["run", "--listen", "127.0.0.1:0", "--api", "off"]);
    let mut child = command.env("RUST_LOG", "a=b=c").stderr(Stdio::piped()).spawn().unwrap();
    let log = node::Lines::of(child.stderr.take().unwrap());
    let mut seen = Vec::new();
    log.until("tidegate is ready", &mut seen);
    assert!(
        seen.iter().any(|line| line.contains("WARN") && line.contains("RUST_LOG is ignored")),
        "{seen:?}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn several_listeners_are_bound_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_in(dir, &["--listen", "127.0.0.1:0", "--listen", "[::1]:0"]);
    assert_eq!(node.mqtt.len(), 2);
    for address in &node.mqtt {
        std::net::TcpStream::connect(address).unwrap();
    }
}

#[test]
fn metrics_name_every_stage_and_the_process() {
    let node = Node::start();
    assert!(finish(node.client(&["pub", "-t", "a", "-m", "x", "-q", "1"])).0 == Some(0));
    let (code, text) = node.get("/metrics");
    assert_eq!(code, 200);
    for line in [
        "tidegate_build_info{version=\"",
        "process_start_time_seconds ",
        "tidegate_server_panics_total 0",
        "tidegate_broker_messages_received_total{qos=\"1\"} 1",
        "tidegate_dispatch_events_total{hook=\"message.publish\"} 0",
        "tidegate_store_operations_total{connector=\"sqlite:default\",result=\"stored\"} 0",
    ] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line} in:\n{text}");
    }
    // Every metric says what it means.
    for kind in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = kind.split(' ').next().unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    let (code, text) = node.get("/nowhere");
    assert_eq!(code, 404);
    assert!(text.contains("/readyz"), "{text}");
}
