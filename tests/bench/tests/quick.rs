//! `tidegate-bench --quick`: the program itself, against the peers that need nothing of ours, and the rows about clients
//! against our server. Numbers mean nothing here: what counts is that all are there, and that nothing of ours was lost.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

const VERSIONS: [&str; 2] = ["MQTT 3.1.1", "MQTT 5"];

/// Our server: `TIDEGATE_BIN`, else the one beside this test's folder.
fn tidegate() -> PathBuf {
    let beside = || {
        let own = std::env::current_exe().unwrap();
        own.ancestors().nth(2).unwrap().join("tidegate")
    };
    let path = std::env::var_os("TIDEGATE_BIN").map_or_else(beside, PathBuf::from);
    assert!(path.is_file(), "{} is missing: build the package tidegate, or name one", path.display());
    path
}

/// The program.
fn quick(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-bench"));
    command.arg("--quick").args(arguments);
    command
}

/// The program, and our server for it to measure.
fn quick_of_ours(arguments: &[&str]) -> Command {
    let mut command = quick(arguments);
    command.env("TIDEGATE_BIN", tidegate());
    command
}

/// Runs the program to its success, and gives the lines that it writes down. It fails when our server loses a message or
/// a row does not come to its end, and so does this.
fn lines(mut command: Command) -> Vec<Value> {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("out.jsonl");
    let output = command.arg("--json").arg(&json).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&json).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["failed"].is_null()), "{printed}");
    lines
}

/// The number called `what` that has a target, of the case whose name ends with `case`.
fn checked<'a>(lines: &'a [Value], case: &str, what: &str) -> &'a Value {
    let is_of_case = |line: &&Value| line["case"].as_str().is_some_and(|name| name.ends_with(case));
    let found = lines.iter().filter(is_of_case).find(|line| line["check"] == what);
    found.unwrap_or_else(|| panic!("nothing was checked as {what:?} in {case:?}: {lines:?}"))
}

/// Fails unless `value` is a number above 0.
#[track_caller]
fn assert_measured(value: &Value, line: &Value) {
    assert!(value.as_f64().is_some_and(|value| value > 0.0), "{value} in {line}");
}

/// What row `broker` says of a server that loses nothing, in so many cases at least.
fn assert_broker(lines: &[Value], peer: &str, cases: usize) {
    let of_peer: Vec<_> = lines.iter().filter(|line| line["values"]["peer"] == peer).collect();
    assert!(of_peer.len() >= cases, "{peer} in {lines:?}");
    for line in of_peer {
        assert_measured(&line["values"]["per_second"]["median"], line);
        assert_eq!(line["values"]["lost"], 0, "{line}");
    }
}

/// What row `crowd` says of a server.
fn assert_crowd(lines: &[Value], peer: &str) {
    for version in VERSIONS {
        let of = |what: &str| {
            let found = lines.iter().find(|line| {
                let case = line["case"].as_str().unwrap_or_default();
                line["values"]["peer"] == peer && case.contains(what) && case.ends_with(version)
            });
            found.unwrap_or_else(|| panic!("{peer} is not measured: {what}, {version}: {lines:?}"))
        };
        let (idle, publishing) = (of("idle"), of("publish"));
        assert_measured(&idle["values"]["per_second"]["median"], idle);
        assert_measured(&idle["values"]["resident_kib"]["median"], idle);
        assert_measured(&publishing["values"]["per_second"], publishing);
        assert_measured(&publishing["values"]["p99_ms"], publishing);
    }
}

#[test]
fn the_broker_row_measures_mosquitto_and_rumqttd_and_writes_json_lines() {
    let lines = lines(quick(&["broker", "--peers", "mosquitto,rumqttd"]));
    for peer in ["mosquitto", "rumqttd"] {
        assert_broker(&lines, peer, 4);
    }
}

#[test]
fn the_broker_row_measures_ours_over_tls_and_with_kept_sessions_too() {
    let lines = lines(quick_of_ours(&["broker", "--peers", "tidegate"]));
    assert_broker(&lines, "tidegate", 7);
    for what in ["TLS", "kept sessions"] {
        let is_there = |line: &Value| {
            line["values"]["peer"] == "tidegate"
                && line["case"].as_str().is_some_and(|name| name.ends_with(what))
        };
        assert!(lines.iter().any(is_there), "{what}: {lines:?}");
    }
    // Our own server with its sessions in memory.
    assert_broker(&lines, "volatile", 1);
}

#[test]
fn the_crowd_row_measures_mosquitto_and_rumqttd() {
    let lines = lines(quick(&["crowd", "--peers", "mosquitto,rumqttd"]));
    for peer in ["mosquitto", "rumqttd"] {
        assert_crowd(&lines, peer);
    }
}

#[test]
fn the_crowd_row_measures_ours_and_checks_its_memory() {
    let lines = lines(quick_of_ours(&["crowd", "--peers", "tidegate"]));
    assert_crowd(&lines, "tidegate");
    for version in VERSIONS {
        let memory = checked(&lines, &format!("idle clients, {version}"), "memory of an idle client");
        assert_measured(&memory["value"], memory);
        assert_eq!(memory["unit"], "KiB", "{memory}");
        assert_eq!(memory["target"], "<= 10", "{memory}");
    }
}

#[test]
fn the_subscriptions_row_measures_ours_and_checks_its_memory() {
    let lines = lines(quick_of_ours(&["subscriptions", "--peers", "tidegate"]));
    for case in ["a topic each", "a wildcard each"] {
        let line = lines.iter().find(|line| line["case"] == case && line["values"]["peer"] == "tidegate");
        let line = line.unwrap_or_else(|| panic!("{case}: {lines:?}"));
        assert_measured(&line["values"]["kib_each"]["median"], line);
        assert_measured(&line["values"]["made_per_second"]["median"], line);
        // Of few messages the kernel's clock may not have noticed anything.
        assert!(line["values"]["message_us"]["median"].is_number(), "{line}");
        let memory = checked(&lines, case, "memory of a subscription");
        assert_measured(&memory["value"], memory);
        assert_eq!(memory["unit"], "KiB", "{memory}");
        assert_eq!(memory["target"], "<= 1", "{memory}");
        checked(&lines, case, "time beside many / beside few");
    }
}

/// Runs the attacks that have `part` in their names, which are these, each with what of its memory a server may keep: what
/// honest clients noticed is there, they lost nothing, and nothing was left of the attackers.
fn assert_attacks(part: &str, attacks: &[(&str, &str)]) {
    let lines = lines(quick_of_ours(&["attacks", "--case", part]));
    for (case, may_keep) in attacks {
        let of: Vec<&Value> = lines.iter().filter(|line| line["case"] == *case).collect();
        let find = |what: &str, is: &dyn Fn(&Value) -> bool| {
            let found = of.iter().find(|line| is(line));
            *found.unwrap_or_else(|| panic!("{case} has no {what}: {lines:?}"))
        };
        for phase in ["idle", "attacked"] {
            let noticed = find(phase, &|line| line["values"]["phase"] == phase);
            assert_measured(&noticed["values"]["p99_ms"]["median"], noticed);
            assert_measured(&noticed["values"]["newcomer_ms"], noticed);
            assert_eq!(noticed["values"]["lost"], 0, "{noticed}");
            assert_eq!(noticed["values"]["misordered"], 0, "{noticed}");
        }
        let left = find("attackers", &|line| line["values"]["attackers"].is_string());
        assert!(left["values"]["gone_s"].is_number(), "{left}");
        for what in ["before_mib", "peak_mib", "after_mib"] {
            assert_measured(&left["values"][what], left);
        }
        assert!(checked(&lines, case, "p99 added")["value"].is_number(), "{lines:?}");
        let kept = checked(&lines, case, "memory kept");
        assert!(kept["value"].is_number() && kept["target"] == *may_keep, "{kept}");
    }
}

#[test]
fn the_attacks_row_has_clients_that_connect_again_and_again() {
    assert_attacks(
        "a reconnect loop",
        &[
            ("a reconnect loop under one client id", "<= 32"),
            ("a reconnect loop under new client ids", "<= 32"),
        ],
    );
}

#[test]
fn the_attacks_row_has_clients_that_never_end_their_connect() {
    assert_attacks("byte by byte", &[("1,000 connections that send CONNECT byte by byte", "<= 32")]);
}

#[test]
fn the_attacks_row_has_clients_that_send_garbage() {
    assert_attacks("garbage", &[("1 GiB of garbage", "<= 32")]);
}

#[test]
fn the_attacks_row_has_subscribers_that_do_not_read_or_too_slowly() {
    assert_attacks(
        "subscribers",
        &[
            ("subscribers that never read", "<= 32"),
            ("subscribers ten times too slow for an honest publisher", "<= 32"),
        ],
    );
}

/// What is retained stays, so a server may keep 64 MiB more of that.
#[test]
fn the_attacks_row_has_floods_of_subscriptions_and_of_retained_messages() {
    assert_attacks(
        "a flood",
        &[("a flood of SUBSCRIBE", "<= 32"), ("a flood of huge retained messages", "<= 96")],
    );
}

#[test]
fn an_unknown_row_is_named_with_the_known_ones() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-bench")).arg("brokr").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(told.contains("brokr") && told.contains("broker"), "{told}");
}

#[test]
fn a_case_that_does_not_exist_is_a_failure() {
    let output = quick(&["broker", "--peers", "rumqttd", "--case", "QoS 7"]).output().unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("QoS 7"), "{told}");
}
