//! Configuration, modules and manifests that are wrong: an error that names the place, and nothing half
//! configured. `tidegate check` reports without starting; `tidegate run` refuses with the same words.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use tidegate_e2e::server::{Builder, text_of, tidegate};
use tidegate_e2e::{DOCUMENT_LINES, Server, guests};

/// `tidegate check` must fail and its text must contain every one of `words`.
fn refused(builder: &Builder, words: &[&str]) {
    let output = tidegate(builder.path(), &["check"]);
    let text = text_of(&output);
    assert!(!output.status.success(), "check accepted it:\n{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

fn accepted(directory: &Path) -> String {
    let output = tidegate(directory, &["check"]);
    let text = text_of(&output);
    assert!(output.status.success(), "{text}");
    text
}

#[test]
fn the_documents_lines_are_accepted_and_nothing_is_created_by_a_check() {
    let builder = Server::builder().document_lines();
    accepted(builder.path());
    assert!(!builder.path().join("data/mqtt.db").exists(), "check changes no database");
}

#[test]
fn modules_that_open_their_tables_when_they_start_pass_a_check() {
    let builder = Server::builder()
        .document_lines()
        .module("probe", "[config]\nconnector = \"sqlite:pool1\"\n")
        .module("store-reading", "")
        .module("guard", "priority = 10\n");
    let text = accepted(builder.path());
    for module in ["probe", "store-reading", "guard"] {
        assert!(text.contains(module), "{module} is named:\n{text}");
    }
    assert!(!builder.path().join("data/mqtt.db").exists(), "check changes no database");
}

#[test]
fn an_unknown_key_names_file_line_and_the_nearest_spelling() {
    let lines = DOCUMENT_LINES.replace("hook.client.connected.1 ", "hook.client.conected.1 ");
    let line = 1 + lines.lines().position(|l| l.contains("conected.1 ")).unwrap();
    let place = format!("emqx_backend_sqlite.conf:{line}");
    refused(
        &Server::builder().file("conf.d/emqx_backend_sqlite.conf", lines),
        &[&place, "client.conected", "client.connected"],
    );
}

#[test]
fn unknown_functions_pools_options_and_variables_are_all_reported_at_once() {
    let conf = r##"backend.sqlite.pool1.path = ./data/mqtt.db
backend.sqlite.pool1.pahts = x
backend.sqlite.hook.message.publish.1 = {"topic": "#", "action": {"function": "on_mesage_publish"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.2 = {"topic": "#", "action": {"function": "on_message_publish"}, "pool": "pool2"}
backend.sqlite.hook.message.acked.1 = {"topic": "#", "action": {"sql": ["insert into t values(${payloadd})"]}, "pool": "pool1"}
backend.sqlite.hook.message.publish.3 = {"topic": "a/#/b", "action": {"function": "on_message_publish"}, "pool": "pool1"}
"##;
    refused(
        &Server::builder().file("conf.d/a.conf", conf),
        &[
            "a.conf:2",
            "pahts",
            "a.conf:3",
            "on_mesage_publish",
            "on_message_publish",
            "a.conf:4",
            "pool2",
            "a.conf:5",
            "payloadd",
            "a.conf:6",
            "a/#/b",
        ],
    );
}

#[test]
fn the_documents_broken_json_line_is_refused_with_line_and_column() {
    // As document 003 prints it for Cassandra, on our back end: the quote before `topic` is missing.
    let conf = concat!(
        "backend.sqlite.pool1.path = ./data/mqtt.db\n",
        "## 下线\n",
        r##"backend.sqlite.hook.session.unsubscribed.1= {"topic": "#", action": {"sql": ["delete from mqtt_acked where clientid = ${clientid} and topic = ${topic}"]}, "pool": "pool1"}"##,
        "\n"
    );
    let builder = Server::builder().file("conf.d/emqx_backend_sqlite.conf", conf);
    refused(&builder, &["emqx_backend_sqlite.conf:3:", "session.unsubscribed.1", "key must be a string"]);
    let run = tidegate(builder.path(), &["run", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0"]);
    let text = text_of(&run);
    assert!(!run.status.success(), "run must refuse it as well:\n{text}");
    assert!(text.contains("emqx_backend_sqlite.conf:3:"), "{text}");
    assert!(!builder.path().join("data/mqtt.db").exists(), "nothing starts half configured");
}

#[test]
fn a_variable_inside_quotes_is_refused() {
    let conf = "backend.sqlite.pool1.path = ./data/mqtt.db\n\
        backend.sqlite.hook.client.connected.1 = {\"action\": {\"sql\": [\"insert into t values('${clientid}')\"]}, \"pool\": \"pool1\"}\n";
    refused(&Server::builder().file("conf.d/a.conf", conf), &["a.conf:2", "${clientid}", "quote"]);
}

#[test]
fn a_repeated_key_warns_with_both_lines_and_the_last_wins() {
    let conf = "backend.sqlite.pool1.path = ./data/first.db\nbackend.sqlite.pool1.path = ./data/second.db\n";
    let builder = Server::builder().file("conf.d/a.conf", conf);
    let text = accepted(builder.path());
    assert!(text.contains("a.conf:2") && text.contains("line 1"), "{text}");
}

#[test]
fn tidegate_toml_is_checked_the_same_way() {
    refused(
        &Server::builder()
            .file("tidegate.toml", "[broker]\nlisten = [\"127.0.0.1:0\"]\nmax_packt_bytes = 9\n"),
        &["tidegate.toml:3", "max_packt_bytes", "max_packet_bytes"],
    );
    refused(
        &Server::builder().file("tidegate.toml", "[log]\nformat = \"xml\"\n"),
        &["tidegate.toml:2", "xml", "json"],
    );
    refused(&Server::builder().file("tidegate.toml", "[broker\n"), &["tidegate.toml:1"]);
    refused(
        &Server::builder().file("tidegate.toml", "[backend.sqlite.pool1]\npath = \"./data/a.db\"\n\n[[backend.sqlite.hook]]\nhook = \"message.published\"\naction = { function = \"on_message_publish\" }\npool = \"pool1\"\n"),
        &["tidegate.toml:5:8:", "message.published", "message.publish"],
    );
    refused(
        &Server::builder().file("tidegate.toml", "[broker]\nlisten = [\"nowhere\"]\n"),
        &["tidegate.toml:2", "nowhere"],
    );
}

#[test]
fn a_configuration_that_was_named_must_exist() {
    let builder = Server::builder();
    let output = tidegate(builder.path(), &["check", "--config", "missing.toml"]);
    let text = text_of(&output);
    assert!(!output.status.success() && text.contains("missing.toml"), "{text}");
}

/// Tries a module file in a running server: refused by name with `words`, and by `check` as well.
fn module_refused(file: &str, wasm: &[u8], manifest: &str, words: &[&str]) {
    let stem = file.strip_suffix(".wasm").unwrap();
    let builder = Server::builder()
        .file(&format!("modules/{file}"), wasm)
        .file(&format!("modules/{stem}.toml"), manifest);
    refused(&builder, &[&[stem][..], words].concat());
    // A running server says the same in its log and goes on.
    let mut server = builder.start();
    for word in words {
        server.wait_log(0, word, |line| line.contains(stem) && line.contains(word));
    }
    assert!(server.is_alive());
    server.assert_no_panic();
}

#[test]
fn a_file_that_is_no_module_is_refused() {
    module_refused("text.wasm", b"this is not WebAssembly", "", &[]);
    module_refused("empty.wasm", b"", "", &[]);
    let half = guests::bytes("probe");
    module_refused("half.wasm", &half[..half.len() / 2], "", &[]);
}

#[test]
fn an_unknown_import_is_named() {
    // A real component that wants something that does not exist.
    let alien = guests::patched(&guests::bytes("probe"), "tidegate:storage/sql@", "tidegate:storage/xql@");
    module_refused("alien.wasm", &alien, "", &["tidegate:storage/xql"]);
}

#[test]
fn a_wrong_manifest_names_its_key() {
    let probe = guests::bytes("probe");
    for (manifest, words) in [
        ("priorty = 3\n", &["wrong.toml:1", "priorty", "priority"][..]),
        ("priority = \"high\"\n", &["priority"]),
        ("hooks = { \"message.published\" = [\"a\"] }\n", &["message.published"]),
        ("hooks = { \"message.publish\" = [\"a/#/b\"] }\n", &["a/#/b"]),
        ("[limits]\nmemory = \"lots\"\n", &["memory", "lots"]),
        ("[on_error]\npolicy = \"shrug\"\n", &["wrong.toml:2", "policy", "known are pass"]),
        ("[instances\n", &["wrong.toml"]),
    ] {
        module_refused("wrong.wasm", &probe, manifest, words);
    }
}
