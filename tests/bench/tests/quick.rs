//! `tidegate-bench --quick`: the program itself, against the peers that need nothing of ours.
#![allow(clippy::unwrap_used, reason = "tests")]

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
            assert!(idle["values"]["per_second"].as_f64().unwrap() > 0.0, "{idle}");
            assert!(idle["values"]["resident_kib"].as_f64().unwrap() > 0.0, "{idle}");
            assert!(publishing["values"]["per_second"].as_f64().unwrap() > 0.0, "{publishing}");
            assert!(publishing["values"]["p99_ms"].as_f64().unwrap() > 0.0, "{publishing}");
        }
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
