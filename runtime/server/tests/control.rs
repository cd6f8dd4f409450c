//! The control socket of a running server, and the commands that go through it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod node;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use node::{Node, finish, tidegate, write};
use serde_json::Value;

/// A component that the host refuses: it wants what nobody offers.
fn stranger() -> Vec<u8> {
    wat::parse_str(
        r#"(component (import "tidegate:nowhere/thing@0.1.0" (instance (export "f" (func))))
            (instance $i) (export "tidegate:hooks/session-created@0.1.0" (instance $i)))"#,
    )
    .unwrap()
}

/// A core module that passes every event, or traps on it; another `mark` makes other bytes.
fn raw(mark: u8, traps: bool) -> Vec<u8> {
    // An event begins with `{"h`, for its hook.
    let on_event = if traps { "unreachable" } else { "" };
    let mut wasm = wat::parse_str(format!(
        r#"(module
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
            (func (export "handle") (param i32 i32) (result i32)
                (if (i32.eq (i32.load8_u offset=2 (local.get 0)) (i32.const 104)) (then {on_event}))
                i32.const 8))"#
    ))
    .unwrap();
    wasm.extend_from_slice(&[0, 3, 1, b'v', mark]);
    wasm
}

const ON_PUBLISH: &str = "hooks = { \"message.publish\" = [] }\n";

/// Writes `m.wasm` and `m.toml` beside the modules directory and loads them.
fn load(node: &Node, wasm: &[u8], manifest: &str) -> (Option<i32>, String, String) {
    write(node.dir.path(), "m.wasm", wasm);
    write(node.dir.path(), "m.toml", format!("{ON_PUBLISH}{manifest}"));
    modules(node, &["load", "--replace", "m.wasm"])
}

fn short(wasm: &[u8]) -> String {
    blake3::hash(wasm).to_hex().chars().take(12).collect()
}

/// Status and body of a request to the socket.
fn ask(node: &Node, request: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(node.dir.path().join("data/control.sock")).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Exit code, standard output and standard error of `tidegate modules ...`.
fn modules(node: &Node, args: &[&str]) -> (Option<i32>, String, String) {
    finish(node.tidegate(&[&["modules"], args].concat()))
}

#[test]
fn the_socket_is_private_goes_at_a_stop_and_replaces_a_dead_one() {
    let mut node = Node::start();
    let socket = node.dir.path().join("data/control.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, out, errors) = modules(&node, &["list"]);
    assert_eq!((code, out.as_str()), (Some(0), "no modules\n"), "{errors}");
    node.child.kill().unwrap();
    node.wait();
    assert!(socket.exists(), "a killed process leaves it");
    let (code, _, errors) = modules(&node, &["reload", "x"]);
    assert_eq!(code, Some(1));
    assert!(errors.starts_with("error: no tidegate server answers on ./data/control.sock"), "{errors}");
    let dir = std::mem::replace(&mut node.dir, tempfile::tempdir().unwrap());
    let node = Node::start_in(dir, &[]);
    assert_eq!(modules(&node, &["list"]).1, "no modules\n");
    let mut node = node;
    node.signal("TERM");
    assert_eq!(node.wait().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn another_user_is_not_served_even_where_the_mode_would_let_it_in() {
    if !rustix::process::geteuid().is_root() {
        // Only root can become another user.
        return;
    }
    let node = Node::start();
    let socket = node.dir.path().join("data/control.sock");
    for path in [node.dir.path(), socket.parent().unwrap(), &socket] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let path = socket.clone();
    let answer = std::thread::spawn(move || {
        // Of this thread alone.
        let nobody = rustix::process::Uid::from_raw(65_534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let mut stream = UnixStream::connect(path).unwrap();
        // The server may have closed it already.
        stream.write_all(b"GET /v1/modules HTTP/1.0\r\n\r\n").ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        answer
    });
    assert_eq!(answer.join().unwrap(), b"");
    let (_, metrics) = node.get("/metrics");
    assert!(metrics.contains("tidegate_server_control_peers_refused_total 1"), "{metrics}");
    assert_eq!(modules(&node, &["list"]).0, Some(0));
}

#[test]
fn mistakes_are_json_with_a_status() {
    let node = Node::start();
    for (request, status, part) in [
        ("GET /nowhere HTTP/1.0\r\n\r\n".into(), 404, "no such command"),
        ("GET /v1/modules/reload HTTP/1.0\r\n\r\n".into(), 405, "another method"),
        (post("/v1/modules/reload", "{"), 400, "the request: "),
        (post("/v1/modules/reload", r#"{"name": "a", "nmae": 1}"#), 400, "unknown field `nmae`"),
        (post("/v1/modules/reload", r#"{"name": "a"}"#), 404, "no module \"a\""),
        (post("/v1/modules/load", r#"{"file": "a.wasm", "replace": false}"#), 400, "an absolute path"),
        (post("/v1/modules/load", r#"{"file": "/a.wat", "replace": false}"#), 400, "end in .wasm"),
        (post("/v1/modules/enable", r#"{"name": "../a"}"#), 400, "no module's name"),
        (post("/v1/modules/unload", &"x".repeat(70_000)), 413, "limit"),
    ] {
        let (found, body) = ask(&node, &request);
        assert_eq!(found, status, "{body}");
        assert!(body["error"].as_str().unwrap().contains(part), "{part} in {body}");
    }
}

#[test]
fn a_file_that_is_refused_says_why_and_can_be_taken_out_again() {
    let node = Node::start();
    write(node.dir.path(), "stranger.wasm", stranger());
    write(node.dir.path(), "stranger.toml", "priority = 7\n[config]\ntoken = \"s3cret\"\n");
    let (code, _, errors) = modules(&node, &["load", "stranger.wasm"]);
    assert_eq!(code, Some(1));
    assert!(errors.starts_with("error: refused: ") && errors.contains("tidegate:nowhere/thing"), "{errors}");
    assert_eq!(std::fs::read(node.dir.path().join("modules/stranger.wasm")).unwrap(), stranger());
    let (code, _, errors) = modules(&node, &["load", "stranger.wasm"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("--replace"), "{errors}");
    assert_eq!(modules(&node, &["load", "--replace", "stranger.wasm"]).0, Some(1));

    let (code, sheet, errors) = modules(&node, &["inspect", "stranger"]);
    assert_eq!(code, Some(0), "{errors}");
    for part in ["not loaded    ", "refused       it imports tidegate:nowhere/thing", "config keys   token"] {
        assert!(sheet.contains(part), "{part} in {sheet}");
    }
    assert!(!sheet.contains("s3cret") && !sheet.contains("GRANTED"), "{sheet}");
    let (_, json, _) = modules(&node, &["inspect", "stranger", "--json"]);
    let inspected: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&inspected["file"]["kind"], &inspected["requested"]["priority"]),
        (&"component".into(), &7.into())
    );
    assert!(!json.contains("s3cret"), "{json}");
    let (code, _, errors) = modules(&node, &["inspect", "strangr"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("did you mean \"stranger\"?"), "{errors}");

    let (code, lines, _) = modules(&node, &["logs", "stranger"]);
    assert_eq!(code, Some(0));
    assert!(lines.contains(" ERROR host   the module does not load: it imports"), "{lines}");
    let (_, last, _) = modules(&node, &["logs", "stranger", "-n", "1", "--json"]);
    assert_eq!(last.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&last).unwrap()["source"], "host");

    write(node.dir.path(), "modules/stranger.toml", "mandatory = true\n");
    let (code, _, errors) = modules(&node, &["unload", "stranger"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("is mandatory and is not unloaded"), "{errors}");
    write(node.dir.path(), "modules/stranger.toml", "");
    let (code, out, errors) = modules(&node, &["unload", "stranger"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.contains("its file is kept as") && out.contains("stranger.wasm.disabled"), "{out}");
    assert_eq!(modules(&node, &["list"]).1, "no modules\nunloaded: stranger\n");
    assert!(modules(&node, &["inspect", "stranger"]).1.contains("serving       no: it is unloaded"));
    let (code, _, errors) = modules(&node, &["load", "stranger.wasm"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("is unloaded: load it by its name"), "{errors}");
    let (code, _, errors) = modules(&node, &["load", "stranger"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("refused: it imports"), "{errors}");
    let (code, _, errors) = modules(&node, &["load", "stranger"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("is not unloaded"), "{errors}");
}

#[test]
fn trials_are_shown_and_ended_by_command() {
    let node = Node::start();
    let (old, new, next) = (raw(0, false), raw(1, false), raw(2, false));
    let canary = "[rollout]\ncanary = 50\n";
    assert_eq!(load(&node, &old, "").0, Some(0));
    let (code, _, errors) = modules(&node, &["promote", "m"]);
    assert_eq!(code, Some(1));
    assert_eq!(errors, "error: no new version of the module \"m\" is on trial\n");
    let (code, _, errors) = load(&node, &new, canary);
    assert_eq!(code, Some(0), "{errors}");

    let trial = format!(
        "version {} serves 50 % of clients (0 calls, 0 errors), version {} the others (0 calls, 0 errors)\n",
        short(&new),
        short(&old)
    );
    let (_, list, _) = modules(&node, &["list"]);
    assert!(list.contains(&format!("on trial: m: {trial}")) && !list.contains("circuit"), "{list}");
    let (_, sheet, _) = modules(&node, &["inspect", "m"]);
    assert!(sheet.contains(&format!("on trial      {trial}")), "{sheet}");
    assert!(sheet.contains("circuit       closed, opened 0 times, 0 events skipped\n"), "{sheet}");
    let (_, json, _) = modules(&node, &["list", "--json"]);
    let module = &serde_json::from_str::<Value>(&json).unwrap()["modules"][0];
    assert_eq!((&module["trial"]["share"], &module["circuit"]["state"]), (&50.into(), &"closed".into()));
    assert_eq!(module["trial"]["before"], blake3::hash(&old).to_hex().as_str());
    assert_eq!(&node.json("/api/v1/modules")["modules"][0]["trial"], &module["trial"]);

    let (code, out, errors) = modules(&node, &["promote", "m"]);
    assert_eq!(code, Some(0), "{errors}");
    let (serves, gone) = (short(&new), short(&old));
    assert_eq!(out, format!("m: version {serves} serves all clients; version {gone} serves no longer\n"));
    assert!(!modules(&node, &["list"]).1.contains("on trial"));

    assert_eq!(load(&node, &next, canary).0, Some(0));
    let (code, json, errors) = modules(&node, &["rollback", "m", "--json"]);
    assert_eq!(code, Some(0), "{errors}");
    let ended: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(ended["version"], blake3::hash(&new).to_hex().as_str());
    assert_eq!(ended["gone"], blake3::hash(&next).to_hex().as_str());
    let (_, list, _) = modules(&node, &["list"]);
    assert!(list.contains(&short(&new)) && list.contains("rolled back, until the file changes"), "{list}");
    assert_eq!(modules(&node, &["rollback", "m"]).0, Some(1));
    assert_eq!(modules(&node, &["reload", "m"]).0, Some(0));
    assert!(modules(&node, &["list"]).1.contains("on trial: m: "), "a reload tries it again");
    let (code, _, errors) = modules(&node, &["promote", "n"]);
    assert_eq!((code, errors.as_str()), (Some(1), "error: no module \"n\"; did you mean \"m\"?\n"));
}

#[test]
fn a_circuit_that_is_open_is_shown() {
    let node = Node::start();
    assert_eq!(load(&node, &raw(0, true), "").0, Some(0));
    for message in 0..12 {
        let payload = message.to_string();
        let (code, ..) = finish(node.client(&["pub", "-t", "a", "-q", "1", "-m", &payload]));
        assert_eq!(code, Some(1), "{message} is refused");
    }
    let (_, list, _) = modules(&node, &["list"]);
    let line = list.lines().find(|line| line.starts_with("circuit: m: ")).unwrap();
    assert!(line.contains("open, opened 1 times, "), "{line}");
    let (_, json, _) = modules(&node, &["inspect", "m", "--json"]);
    let circuit = &serde_json::from_str::<Value>(&json).unwrap()["serving"]["circuit"];
    assert_eq!(circuit["opened"], 1, "{json}");
    assert_ne!(circuit["state"], "closed", "{json}");
}

#[test]
fn a_data_directory_with_a_long_name_has_no_socket_and_serves() {
    let dir = tempfile::tempdir().unwrap();
    let deep = "d".repeat(110);
    let node = Node::start_in(dir, &["--data", &deep]);
    let warned =
        node.seen.iter().any(|line| line.contains("no control socket") && line.contains("at most 107"));
    assert!(warned, "{:?}", node.seen);
    assert!(!node.dir.path().join(deep).join("control.sock").exists());
    assert_eq!(node.get("/healthz").0, 200);
    let api = node.api.to_string();
    assert_eq!(modules(&node, &["list", "--api", &api]).0, Some(0));
}

#[test]
fn a_file_is_inspected_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "stranger.wasm", stranger());
    let look = |name: &str| finish(tidegate(dir.path(), &["modules", "inspect", name]));
    let (code, sheet, errors) = look("stranger.wasm");
    assert_eq!(code, Some(0), "{errors}");
    for part in ["kind          component", "hooks         session.created", "imports       tidegate:nowhere"]
    {
        assert!(sheet.contains(part), "{part} in {sheet}");
    }
    write(dir.path(), "stranger.toml", "hooks = { \"message.publish\" = [] }\n");
    assert!(look("stranger.wasm").1.contains("its manifest names message.publish, which it does not export"));
    write(dir.path(), "text.wasm", "(component)");
    let (_, sheet, _) = look("text.wasm");
    assert!(
        sheet.contains("found WebAssembly text") && sheet.contains("kind          no WebAssembly"),
        "{sheet}"
    );
    let (code, _, errors) = look("none.wasm");
    assert_eq!((code, errors.starts_with("error: none.wasm: No such file")), (Some(1), true), "{errors}");
}

fn test(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    finish(tidegate(dir, &[&["test"], args].concat()))
}

#[test]
fn what_cannot_be_tried_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "stranger.wasm", stranger());
    write(dir.path(), "good.json", r#"{"hook": "session.created"}"#);
    write(dir.path(), "bad.json", r#"[{"hook": "session.creatd"}, {"hok": 1}]"#);
    let (code, out, errors) = test(dir.path(), &["stranger.wasm", "bad.json", "none.json"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    for part in [
        "error: bad.json[0]: hook: unknown hook \"session.creatd\"; did you mean \"session.created\"?",
        "error: bad.json[1]: hok: unknown key; did you mean \"hook\"?",
        "error: none.json: No such file",
    ] {
        assert!(errors.contains(part), "{part} in {errors}");
    }
    let (code, _, errors) = test(dir.path(), &["stranger.wasm", "good.json"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("error: stranger.wasm: it imports tidegate:nowhere/thing"), "{errors}");
}
