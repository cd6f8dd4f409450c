//! `tidegate-bench --quick`: the program itself, against the peers that need nothing of ours, and one row of ours.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::process::Command;

#[test]
fn the_broker_row_measures_mosquitto_and_rumqttd_and_writes_json_lines() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("out.jsonl");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-bench"))
        .args(["--quick", "broker", "--peers", "mosquitto,rumqttd", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<serde_json::Value> = std::fs::read_to_string(&json)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for peer in ["mosquitto", "rumqttd"] {
        let of_peer: Vec<_> = lines.iter().filter(|line| line["values"]["peer"] == peer).collect();
        assert!(of_peer.len() >= 4, "{peer} in {printed}");
        for line in of_peer {
            assert!(line["values"]["per_second"]["median"].as_f64().unwrap() > 0.0, "{line}");
            assert_eq!(line["values"]["lost"], 0, "{line}");
        }
    }
}

#[test]
fn the_crowd_row_measures_mosquitto_and_rumqttd() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("out.jsonl");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-bench"))
        .args(["--quick", "crowd", "--peers", "mosquitto,rumqttd", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<serde_json::Value> = std::fs::read_to_string(&json)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for peer in ["mosquitto", "rumqttd"] {
        for version in ["MQTT 3.1.1", "MQTT 5"] {
            let of = |what: &str| {
                lines.iter().find(|line| {
                    let case = line["case"].as_str().unwrap_or_default();
                    line["values"]["peer"] == peer && case.contains(what) && case.ends_with(version)
                })
            };
            let (idle, publishing) = (of("idle").unwrap(), of("publish").unwrap());
            assert!(idle["values"]["per_second"]["median"].as_f64().unwrap() > 0.0, "{idle}");
            assert!(idle["values"]["resident_kib"]["median"].as_f64().unwrap() > 0.0, "{idle}");
            assert!(publishing["values"]["per_second"].as_f64().unwrap() > 0.0, "{publishing}");
            assert!(publishing["values"]["p99_ms"].as_f64().unwrap() > 0.0, "{publishing}");
        }
    }
}

/// The server of the row that is only about ours: `TIDEGATE_BIN`, else the one beside this test's folder.
fn tidegate() -> PathBuf {
    let beside = || {
        let own = std::env::current_exe().unwrap();
        own.ancestors().nth(2).unwrap().join("tidegate")
    };
    let path = std::env::var_os("TIDEGATE_BIN").map_or_else(beside, PathBuf::from);
    assert!(path.is_file(), "{} is missing: build the package tidegate, or name one", path.display());
    path
}

#[test]
fn the_attacks_row_measures_honest_clients_and_what_is_left_of_attackers() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("out.jsonl");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-bench"))
        .args(["--quick", "attacks", "--case", "a reconnect loop", "--json"])
        .arg(&json)
        .env("TIDEGATE_BIN", tidegate())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<serde_json::Value> = std::fs::read_to_string(&json)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for case in ["a reconnect loop under one client id", "a reconnect loop under new client ids"] {
        let of: Vec<_> = lines.iter().filter(|line| line["case"] == case).collect();
        for phase in ["idle", "attacked"] {
            let noticed = of.iter().find(|line| line["values"]["phase"] == phase).unwrap();
            assert!(noticed["values"]["p99_ms"]["median"].as_f64().unwrap() > 0.0, "{noticed}");
            assert!(noticed["values"]["newcomer_ms"].as_f64().unwrap() > 0.0, "{noticed}");
            assert_eq!(noticed["values"]["lost"], 0, "{noticed}");
        }
        let left = of.iter().find(|line| line["values"]["attackers"].is_string()).unwrap();
        assert!(left["values"]["gone_s"].is_number(), "{left}");
        assert!(of.iter().any(|line| line["check"] == "p99 added"), "{printed}");
        assert!(of.iter().any(|line| line["check"] == "memory kept"), "{printed}");
    }
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
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-bench"))
        .args(["--quick", "broker", "--peers", "rumqttd", "--case", "QoS 7"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("QoS 7"), "{told}");
}
