//! `tidegate modules` against a running server, and `tidegate test` without one: the real binary, real guests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tidegate_e2e::server::{binary, text_of, tidegate};
use tidegate_e2e::wait::tell;
use tidegate_e2e::{Server, guests};

const MANIFEST: &str = "hooks = { \"message.publish\" = [\"cmd/#\"] }\nconnectors = [\"sqlite:default\"]\n\
                        [config]\nconnector = \"sqlite:default\"\n";

/// A command that must succeed; gives what it printed.
fn well(directory: &Path, args: &[&str]) -> String {
    let output = tidegate(directory, args);
    assert!(output.status.success(), "{args:?}: {}", text_of(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A command that must fail with status 1; gives what it said.
fn ill(directory: &Path, args: &[&str]) -> String {
    let output = tidegate(directory, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text_of(&output));
    String::from_utf8(output.stderr).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The hash of the version that serves.
fn version(directory: &Path) -> String {
    let list = json(&well(directory, &["modules", "list", "--json"]));
    list["modules"][0]["version"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_module_is_loaded_replaced_reloaded_unloaded_and_loaded_again() {
    let mut server = Server::plain();
    let at = server.path().to_owned();
    let first = guests::bytes("probe");
    std::fs::write(at.join("probe.wasm"), &first).unwrap();
    std::fs::write(at.join("probe.toml"), MANIFEST).unwrap();

    let said = well(&at, &["modules", "load", "probe.wasm"]);
    tell(said.trim());
    assert!(said.starts_with("probe: version ") && said.contains(" serves after "), "{said}");
    let before = version(&at);
    let answers = |topic: &str| {
        let port = server.port.to_string();
        tidegate(&at, &["pub", "-V", "5", "-p", &port, "-t", topic, "-m", "x", "-q", "1"]).status.success()
    };
    assert!(answers("cmd/pass/a"));
    assert!(!answers("cmd/reject/a"), "the module serves when the command ends");

    // Nothing takes its place by mistake; a broken file changes nothing.
    assert!(ill(&at, &["modules", "load", "probe.wasm"]).contains("--replace"));
    std::fs::write(at.join("probe.wasm"), &first[..first.len() / 2]).unwrap();
    let refused = ill(&at, &["modules", "load", "--replace", "probe.wasm"]);
    assert!(refused.contains(&format!("refused, version {} serves on: ", &before[..12])), "{refused}");
    assert_eq!(version(&at), before);
    assert!(!answers("cmd/reject/a"));

    let second = guests::stamped(&first, "two");
    std::fs::write(at.join("probe.wasm"), &second).unwrap();
    let said = well(&at, &["modules", "load", "--replace", "probe.wasm"]);
    tell(said.trim());
    assert!(said.contains(&format!("; before it {}", &before[..12])), "{said}");
    let after = version(&at);
    assert_ne!(after, before);

    // The same bytes, again: a new instance, nothing recompiled.
    assert!(answers("cmd/pass/a"));
    let calls = || json(&well(&at, &["modules", "list", "--json"]))["modules"][0]["calls"].as_u64().unwrap();
    assert!(calls() > 0);
    let said = json(&well(&at, &["modules", "reload", "probe", "--json"]));
    assert_eq!((said["version"].as_str(), said["from_cache"].as_bool()), (Some(after.as_str()), Some(true)));
    assert_eq!(calls(), 0, "it counts anew");

    let sheet = json(&well(&at, &["modules", "inspect", "probe", "--json"]));
    assert_eq!(sheet["file"]["hash"], after.as_str());
    assert_eq!(sheet["granted"]["connectors"][0], "sqlite:default");
    assert_eq!(sheet["granted"], sheet["requested"]);
    // The C library of WASI is in it, too.
    let languages = sheet["file"]["languages"].as_array().unwrap();
    assert!(languages.iter().any(|language| language["name"] == "Rust"), "{languages:?}");
    assert_eq!(sheet["file"]["refusals"].as_array().unwrap().len(), 0);
    assert!(sheet["file"]["wasi"][0].as_str().unwrap().starts_with("0.2"));
    assert!(well(&at, &["modules", "inspect", "probe"]).contains("cmd/#"));

    let log = well(&at, &["modules", "logs", "probe"]);
    assert!(log.contains("INFO  log    probe version 1 started"), "{log}");
    assert!(log.contains("the new version is refused"), "{log}");
    assert_eq!(well(&at, &["modules", "logs", "probe", "-n", "2"]).lines().count(), 2);

    let said = well(&at, &["modules", "unload", "probe"]);
    assert!(said.starts_with("probe: unloaded after "), "{said}");
    assert!(answers("cmd/reject/a"), "nobody rejects it any more");
    assert!(at.join("modules/probe.wasm.disabled").exists());
    // Over a restart, too.
    assert!(server.stop());
    server.start();
    let list = json(&well(&at, &["modules", "list", "--json"]));
    assert_eq!(list["modules"].as_array().unwrap().len(), 0);
    assert_eq!(list["unloaded"][0], "probe");
    well(&at, &["modules", "load", "probe"]);
    assert_eq!(version(&at), after);
    assert!(!at.join("modules/probe.wasm.disabled").exists());
    server.assert_no_panic();
}

#[test]
fn a_refused_reload_names_the_secret_and_the_old_instance_serves() {
    let server = Server::builder()
        .module("probe", "[config]\nconnector = \"sqlite:default\"\nsecret = \"file:secret\"\n")
        .file("modules/secret", "x")
        .start();
    let at = server.path();
    let before = version(at);
    std::fs::remove_file(at.join("modules/secret")).unwrap();
    let refused = ill(at, &["modules", "reload", "probe"]);
    assert!(refused.contains("secret"), "{refused}");
    assert_eq!(version(at), before);
    std::fs::write(at.join("modules/secret"), "y").unwrap();
    well(at, &["modules", "reload", "probe"]);
    assert!(ill(at, &["modules", "reload", "prob"]).contains("did you mean \"probe\"?"));
}

#[test]
fn logs_are_followed() {
    let server = Server::builder().module("probe", MANIFEST).start();
    let mut follow = Command::new(binary())
        .current_dir(server.path())
        .args(["modules", "logs", "probe", "-n", "1", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map_while(Result::ok);
    lines.next().expect("the last line");
    let port = server.port.to_string();
    tidegate(server.path(), &["pub", "-p", &port, "-t", "cmd/trap/x", "-m", "x", "-q", "1"]);
    let trapped =
        lines.find(|line| line.contains("the module failed: it trapped")).expect("it comes by itself");
    assert!(trapped.contains(" ERROR host "), "{trapped}");
    follow.kill().unwrap();
    follow.wait().unwrap();
}

/// The events, and what comes of them, that `docs/modules.md` shows.
#[test]
fn hooks_that_decide_are_tried_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::write(at.join("access.wasm"), guests::bytes("access")).unwrap();
    std::fs::write(at.join("access.toml"), "[config]\ntoken = \"change me\"\n").unwrap();
    let docs =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/modules.md")).unwrap();
    let block = |opens: &str| {
        let from = docs.find(opens).unwrap_or_else(|| panic!("docs/modules.md has no {opens:?}"));
        docs[from..].split("```").nth(1).unwrap().split_once('\n').unwrap().1
    };
    std::fs::write(at.join("events.json"), block("Events of the hooks that decide")).unwrap();
    let text = well(at, &["test", "access.wasm", "events.json"]);
    let verdicts: Vec<&str> = text.lines().filter(|line| line.starts_with("  verdict")).collect();
    assert_eq!(verdicts, block("Their verdict is printed").lines().collect::<Vec<_>>(), "{text}");
    assert!(!text.contains("a server would not hand this event"), "{text}");
}

#[test]
fn a_module_is_tried_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::write(at.join("probe.wasm"), guests::bytes("probe")).unwrap();
    std::fs::write(at.join("probe.toml"), MANIFEST).unwrap();
    let event = |topic: &str| serde_json::json!({"hook": "message.publish", "message": {"topic": topic, "payload": "abc"}});
    let events = ["cmd/replace/a", "cmd/publish/a", "cmd/execute/a", "cmd/drop/a", "other"].map(event);
    std::fs::write(at.join("events.json"), serde_json::to_string(&events).unwrap()).unwrap();
    std::fs::write(at.join("trap.json"), event("cmd/trap/a").to_string()).unwrap();

    let lines: Vec<Value> =
        well(at, &["test", "probe.wasm", "events.json", "--json"]).lines().map(json).collect();
    assert_eq!(lines.len(), 5);
    let start = &lines[0]["start"];
    assert_eq!((&start["module"], &start["calls"][0]["call"]), (&"probe".into(), &"exec".into()));
    assert!(start["log"][0]["text"].as_str().unwrap().contains("probe version 1 started"));
    assert_eq!(lines[0]["verdict"]["message"]["payload"], "ABC");
    let calls = |line: usize| lines[line]["calls"].as_array().unwrap().clone();
    assert_eq!(calls(0)[0]["connector"], "sqlite:default");
    let published = calls(1).into_iter().find(|call| call["call"] == "publish").expect("a publish");
    assert_eq!(published["message"]["topic"], "published/a");
    assert!(calls(2).iter().any(|call| call["call"] == "execute" && call["statements"][0].is_string()));
    assert_eq!(lines[3]["verdict"]["verdict"], "drop");
    assert_eq!((&lines[3]["selected"], &lines[4]["selected"]), (&true.into(), &false.into()));
    assert!(lines[0]["memory_bytes"].as_u64().unwrap() > 60_000 && lines[0]["time_us"].as_u64().unwrap() > 0);

    let output = tidegate(at, &["test", "probe.wasm", "trap.json", "events.json"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    tell(text.lines().next().unwrap());
    for part in [
        "trap.json (message.publish)\n  error    it trapped: ",
        "the probe was told to panic by cmd/trap/a",
        "  policy   reject\n",
        "events.json[0] (message.publish)\n  verdict  replace ",
        "  note     a server would not hand this event to the module",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}
