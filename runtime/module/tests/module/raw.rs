//! Core modules of the world `raw`, written as text, so that nothing of component tooling is between.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};
use tidegate_event::{Event, Hook, Verdict};
use tidegate_module::{CallError, GuestFailure};

use crate::guests::{Bench, client, component, publish, said, scope};
use crate::pairs::Memory;

const HOOKS: &str = r#"{"hooks":{"message.publish":["a/#"],"client.connected":[]}}"#;

/// A raw module. It answers `hooks` and `init` as given and events with `answer`, after it has made the host call
/// `asks`, if there is one; what the host says to that stands between `answer` and `rest`. `{"call":"hooks"}` and `{"call":"init"...` are told apart by their tenth byte.
struct Raw<'a> {
    hooks: &'a str,
    init: &'a str,
    answer: &'a str,
    asks: &'a str,
    rest: Option<&'a str>,
    imports: &'a str,
}

impl Default for Raw<'_> {
    fn default() -> Self {
        Self { hooks: HOOKS, init: "", answer: "", asks: "", rest: None, imports: "" }
    }
}

impl Raw<'_> {
    fn wasm(&self) -> Vec<u8> {
        let mut data = String::new();
        let mut at = Vec::new();
        let mut offset = 1_024;
        for text in [self.hooks, self.init, self.answer, self.asks, self.rest.unwrap_or_default()] {
            let escaped: String = text.bytes().fold(String::new(), |mut text, byte| {
                write!(text, "\\{byte:02x}").unwrap();
                text
            });
            writeln!(data, r#"(data (i32.const {offset}) "{escaped}")"#).unwrap();
            at.push((offset, text.len()));
            offset += text.len();
        }
        let give = |(offset, length): (usize, usize)| {
            format!(
                "(i32.store (i32.const 16) (i32.const {offset})) (i32.store (i32.const 20) (i32.const {length}))"
            )
        };
        let ask = if self.asks.is_empty() {
            String::new()
        } else {
            format!("(call $ask (i32.const {}) (i32.const {}) (i32.const 32))", at[3].0, at[3].1)
        };
        let tell = if self.rest.is_none() { give(at[2]) } else { between(at[2], at[4]) };
        component(&format!(
            r#"(module
                (import "$root" "host-call" (func $ask (param i32 i32 i32)))
                {}
                (memory (export "memory") 4)
                {data}
                (global $next (mut i32) (i32.const 65536))
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    (local $at i32)
                    (local.set $at (global.get $next))
                    (global.set $next (i32.add (global.get $next) (local.get 3)))
                    (local.get $at))
                (func (export "handle") (param $event i32) (param $length i32) (result i32)
                    (if (i32.eq (i32.load8_u (i32.add (local.get $event) (i32.const 2))) (i32.const 99))
                        (then
                            (if (i32.eq (i32.load8_u (i32.add (local.get $event) (i32.const 9))) (i32.const 104))
                                (then {}) (else {})))
                        (else {ask} {}))
                    (i32.const 16))
                (func (export "cabi_post_handle") (param i32) (global.set $next (i32.const 65536)))
            )"#,
            self.imports,
            give(at[0]),
            give(at[1]),
            tell,
        ))
    }
}

/// Code that puts what the host said between two texts in memory, and gives that.
fn between((before, before_length): (usize, usize), (after, after_length): (usize, usize)) -> String {
    const AT: usize = 131_072;
    let said = AT + before_length;
    format!(
        "(memory.copy (i32.const {AT}) (i32.const {before}) (i32.const {before_length}))
         (memory.copy (i32.const {said}) (i32.load (i32.const 32)) (i32.load (i32.const 36)))
         (memory.copy (i32.add (i32.const {said}) (i32.load (i32.const 36)))
            (i32.const {after}) (i32.const {after_length}))
         (i32.store (i32.const 16) (i32.const {AT}))
         (i32.store (i32.const 20)
            (i32.add (i32.load (i32.const 36)) (i32.const {})))",
        before_length + after_length
    )
}

/// What the host says to a module that asks this.
async fn answer(bench: &Bench, manifest: &str, asks: &Value) -> Value {
    let asks = asks.to_string();
    let raw = Raw {
        answer: r#"{"verdict":"replace","message":{"payload_json":"#,
        asks: &asks,
        rest: Some("}}"),
        ..Raw::default()
    };
    let module = bench.load(&raw.wasm(), manifest).await.unwrap();
    serde_json::from_str(&said(module.call(&publish("a/b", b"x")).await)).unwrap()
}

#[tokio::test]
async fn a_core_module_says_which_hooks_it_wants() {
    let bench = Bench::new();
    let module = bench.load(&Raw::default().wasm(), "").await.unwrap();
    let hooks: Vec<_> = module.hooks().iter().map(|(hook, filters)| (*hook, filters.len())).collect();
    assert_eq!(hooks, [(Hook::ClientConnected, 0), (Hook::MessagePublish, 1)]);
    assert!(matches!(module.call(&publish("a/b", b"x")).await.unwrap().verdict, Verdict::Pass));
}

#[tokio::test]
async fn the_manifest_names_hooks_of_a_module_that_does_not() {
    let bench = Bench::new();
    let silent = Raw { hooks: "", ..Raw::default() }.wasm();
    let refusal = bench.refusal(&silent, "").await;
    assert!(refusal.contains("it names no hook"), "{refusal}");
    let module = bench.load(&silent, r#"hooks = { "message.publish" = ["b/#"] }"#).await.unwrap();
    assert_eq!(module.hooks()[0].0, Hook::MessagePublish);
    let wrong = Raw { hooks: r#"{"hooks":{"message.publsh":[]}}"#, ..Raw::default() }.wasm();
    let refusal = bench.refusal(&wrong, "").await;
    assert!(refusal.contains("unknown hook \"message.publsh\""), "{refusal}");
}

#[tokio::test]
async fn answers_are_verdicts() {
    let bench = Bench::new();
    for (answer, check) in [
        (r#"{"verdict":"drop"}"#, (|verdict| matches!(verdict, Verdict::Drop)) as fn(&Verdict) -> bool),
        (
            r#"{"verdict":"reject","reason_code":135}"#,
            |verdict| matches!(verdict, Verdict::Reject(code) if code.0 == 135),
        ),
        (r#"{"verdict":"replace","message":{"payload_base64":"/w=="}}"#, |verdict| {
            matches!(verdict, Verdict::Replace(message)
                if message.payload[..] == [255] && message.topic.as_str() == "a/b" && message.retain)
        }),
        (
            r#"{"verdict":"fan-out","messages":[{"topic":"c"},{"topic":"d","qos":0}]}"#,
            |verdict| matches!(verdict, Verdict::FanOut(messages) if messages.len() == 2 && messages[0].payload == "x"),
        ),
    ] {
        let module = bench.load(&Raw { answer, ..Raw::default() }.wasm(), "").await.unwrap();
        for _ in 0..3 {
            let verdict = module.call(&publish("a/b", b"x")).await.unwrap().verdict;
            assert!(check(&verdict), "{answer}: {verdict:?}");
        }
    }
}

#[tokio::test]
async fn wrong_answers_and_errors_are_told_apart() {
    let bench = Bench::new();
    for (answer, part) in [
        ("nonsense", "its JSON"),
        (r#"{"verdict":"repalce"}"#, "unknown verdict \"repalce\""),
        (r#"{"verdict":"replace"}"#, "needs a message"),
        (r#"{"verdict":"replace","message":{"topic":"a/#"}}"#, "wildcards"),
        (r#"{"verdict":"reject","reason_code":0}"#, "0x00"),
    ] {
        let module = bench.load(&Raw { answer, ..Raw::default() }.wasm(), "").await.unwrap();
        let error = module.call(&publish("a/b", b"x")).await.unwrap_err();
        assert!(matches!(&error, CallError::Answer(text) if text.contains(part)), "{error}");
    }
    let answer = r#"{"error":"not now","retry":true}"#;
    let module = bench.load(&Raw { answer, ..Raw::default() }.wasm(), "").await.unwrap();
    let error = module.call(&publish("a/b", b"x")).await.unwrap_err();
    assert!(matches!(error, CallError::Guest(GuestFailure::Retry(text)) if text == "not now"));
}

#[tokio::test]
async fn subscriptions_are_added() {
    let bench = Bench::new();
    let answer = r#"{"subscriptions":[{"filter":"a/#","qos":1}]}"#;
    let module = bench.load(&Raw { answer, ..Raw::default() }.wasm(), "").await.unwrap();
    let answer = module.call(&scope(Event::ClientConnected { client: client("c1") })).await.unwrap();
    assert_eq!(answer.subscriptions.len(), 1);
}

#[tokio::test]
async fn init_gets_the_configuration_and_may_refuse() {
    let bench = Bench::new();
    let refusing = Raw { init: r#"{"error":"no unit"}"#, ..Raw::default() }.wasm();
    assert_eq!(bench.refusal(&refusing, "").await, "init failed: no unit");
}

#[tokio::test]
async fn host_calls_reach_the_storage_and_the_broker() {
    let bench = Bench::new();
    *bench.storage.at_once.lock() = true;
    let asks = r#"{"call":"storage.run","connector":"fake:pool","function":"on_message_publish"}"#;
    let module = bench.load(&Raw { asks, ..Raw::default() }.wasm(), "").await.unwrap();
    module.call(&publish("a/b", b"x")).await.unwrap();
    assert!(bench.storage.asked()[0].starts_with("fake:pool"), "{:?}", bench.storage.asked());

    let asks = r#"{"call":"publish","message":{"topic":"made","payload":"by raw","qos":1}}"#;
    let module = bench.load(&Raw { asks, ..Raw::default() }.wasm(), "").await.unwrap();
    module.call(&publish("a/b", b"x")).await.unwrap();
    assert!(bench.control.published.lock().iter().any(|message| message.topic.as_str() == "made"));
}

#[tokio::test]
async fn pairs_are_kept_as_those_of_typed_modules_are() {
    let state = Arc::new(Memory::default());
    let bench = Bench::with(|config| config.state = state.clone());
    for (asks, expected) in [
        (json!({"call": "keyvalue.get", "key": "a"}), json!(null)),
        (json!({"call": "keyvalue.set", "key": "a", "value": "1"}), json!(null)),
        (json!({"call": "keyvalue.get", "key": "a"}), json!({"value": "1"})),
        (json!({"call": "keyvalue.get", "bucket": "default", "key": "a"}), json!({"value": "1"})),
        (json!({"call": "keyvalue.get", "bucket": "other", "key": "a"}), json!(null)),
        (json!({"call": "keyvalue.exists", "key": "a"}), json!(true)),
        (json!({"call": "keyvalue.increment", "key": "n", "delta": 5}), json!(5)),
        (json!({"call": "keyvalue.increment", "key": "n"}), json!(6)),
        (json!({"call": "keyvalue.increment", "key": "n", "delta": -8}), json!(-2)),
        (json!({"call": "keyvalue.set", "key": "b", "value_base64": "/w=="}), json!(null)),
        (json!({"call": "keyvalue.set", "key": "c", "value_json": {"x": [1]}}), json!(null)),
        (
            json!({"call": "keyvalue.get-many", "keys": ["c", "none", "b", "n"]}),
            json!([{"value": "{\"x\":[1]}"}, null, {"value_base64": "/w=="}, {"value": "-2"}]),
        ),
        (json!({"call": "keyvalue.list-keys"}), json!({"keys": ["a", "b", "c", "n"], "cursor": null})),
        (json!({"call": "keyvalue.list-keys", "cursor": "b"}), json!({"keys": ["c", "n"], "cursor": null})),
        (
            json!({"call": "keyvalue.swap", "key": "a", "expected": "1", "value": "2"}),
            json!({"swapped": true}),
        ),
        (
            json!({"call": "keyvalue.swap", "key": "a", "expected": "1", "value": "3"}),
            json!({"swapped": false, "now": {"value": "2"}}),
        ),
        // Nothing expected: only when there is none.
        (
            json!({"call": "keyvalue.swap", "key": "a", "value": "3"}),
            json!({"swapped": false, "now": {"value": "2"}}),
        ),
        (
            json!({"call": "keyvalue.swap", "key": "d", "expected": "1", "value": "3"}),
            json!({"swapped": false, "now": null}),
        ),
        (json!({"call": "keyvalue.swap", "key": "d", "value_base64": "/w=="}), json!({"swapped": true})),
        (
            json!({"call": "keyvalue.swap", "key": "d", "expected_base64": "/w==", "value_json": 1}),
            json!({"swapped": true}),
        ),
        (json!({"call": "keyvalue.delete", "key": "a"}), json!(null)),
        (
            json!({"call": "keyvalue.set-many", "pairs": [{"key": "e", "value": "1"}, {"key": "f", "value_json": 2}]}),
            json!(null),
        ),
        (json!({"call": "keyvalue.delete-many", "keys": ["b", "c", "none"]}), json!(null)),
        (json!({"call": "keyvalue.list-keys"}), json!({"keys": ["d", "e", "f", "n"], "cursor": null})),
    ] {
        assert_eq!(answer(&bench, "", &asks).await, json!({ "ok": expected }), "{asks}");
    }
}

#[tokio::test]
async fn commands_are_those_of_typed_modules() {
    let bench = Bench::new();
    let refused = json!({"error": {"code": "ERR", "message": "told to", "retryable": false}});
    for (asks, expected) in [
        (
            json!({"call": "redis.command", "command": ["GET", 1, {"base64": "/w=="}]}),
            json!({"base64": "Af8="}),
        ),
        (json!({"call": "redis.command", "command": ["NEST"]}), json!([[null], 7])),
        (json!({"call": "redis.pipeline", "commands": [["NEST"], ["FAIL"]]}), json!([[[null], 7], refused])),
    ] {
        let mut asks = asks;
        asks["connector"] = json!("fake:pool");
        assert_eq!(answer(&bench, "", &asks).await, json!({ "ok": expected }), "{asks}");
    }
    assert_eq!(bench.storage.asked()[0], r#"fake:pool default ["GET 1 \\xff"]"#);
    let many = vec![json!(["GET"]); 1_001];
    for (manifest, connector, asks, kind, part) in [
        ("", "fake:pool", json!({"call": "redis.command", "command": ["FAIL"]}), "failed", "told to (ERR)"),
        ("", "fake:pool", json!({"call": "redis.command", "command": [null]}), "invalid-argument", "null"),
        (
            "",
            "fake:pool",
            json!({"call": "redis.pipeline", "commands": many}),
            "invalid-argument",
            "1001 commands",
        ),
        (
            "",
            "fake:picky",
            json!({"call": "redis.command", "command": ["GET"]}),
            "invalid-argument",
            "fake takes",
        ),
        ("", "fake:down", json!({"call": "redis.pipeline", "commands": [["GET"]]}), "unavailable", ""),
        (
            "connectors = [\"fake:down\"]",
            "fake:pool",
            json!({"call": "redis.command", "command": ["GET"]}),
            "access-denied",
            "",
        ),
        (
            "limits = { storage_ops = 0 }",
            "fake:pool",
            json!({"call": "redis.command", "command": ["GET"]}),
            "quota-exceeded",
            "",
        ),
    ] {
        let mut asks = asks;
        asks["connector"] = json!(connector);
        let error = answer(&bench, manifest, &asks).await["error"].clone();
        assert_eq!(error["kind"], kind, "{asks}: {error}");
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_page_of_keys_says_where_the_next_begins() {
    let state = Arc::new(Memory::default());
    let bench = Bench::with(|config| config.state = state.clone());
    let pairs = |from: usize, to: usize| -> Value {
        (from..to).map(|number| json!({"key": format!("{number:04}"), "value": ""})).collect()
    };
    for (from, to) in [(0, 500), (500, 1_001)] {
        answer(&bench, "", &json!({"call": "keyvalue.set-many", "pairs": pairs(from, to)})).await;
    }
    let first = answer(&bench, "", &json!({"call": "keyvalue.list-keys"})).await;
    assert_eq!(first["ok"]["keys"].as_array().unwrap().len(), 1_000);
    let asks = json!({"call": "keyvalue.list-keys", "cursor": first["ok"]["cursor"]});
    assert_eq!(answer(&bench, "", &asks).await, json!({"ok": {"keys": ["1000"], "cursor": null}}));
}

#[tokio::test]
async fn pairs_that_are_refused_say_why() {
    let state = Arc::new(Memory::default());
    let bench = Bench::with(|config| config.state = state.clone());
    *bench.storage.pairs.lock() = Some(Arc::new(Memory::default()));
    let granted = "connectors = [\"fake:pool\", \"fake:down\"]";
    let many: Vec<String> = (0..1_001).map(|number| number.to_string()).collect();
    for (manifest, asks, kind, part) in [
        (granted, json!({"call": "keyvalue.get", "bucket": "fake:slow", "key": "a"}), "access-denied", ""),
        ("", json!({"call": "keyvalue.get", "bucket": "none:pool", "key": "a"}), "no-such-connector", ""),
        (
            granted,
            json!({"call": "keyvalue.get", "bucket": "fake:down", "key": "a"}),
            "invalid-argument",
            "fake:down",
        ),
        ("", json!({"call": "keyvalue.set", "key": "a"}), "invalid-argument", "give one of value"),
        (
            "",
            json!({"call": "keyvalue.set", "key": "a", "value_base64": "*"}),
            "invalid-argument",
            "value_base64: ",
        ),
        ("", json!({"call": "keyvalue.get", "kye": "a"}), "invalid-argument", "kye"),
        ("", json!({"call": "keyvalue.get-many", "keys": many}), "invalid-argument", "1001 keys in one call"),
        ("", json!({"call": "keyvalue.increment", "key": "text"}), "invalid-argument", "no number"),
        ("limits = { storage_ops = 0 }", json!({"call": "keyvalue.get", "key": "a"}), "quota-exceeded", ""),
    ] {
        answer(&bench, "", &json!({"call": "keyvalue.set", "key": "text", "value": "x"})).await;
        let error = answer(&bench, manifest, &asks).await["error"].clone();
        assert_eq!(error["kind"], kind, "{asks}: {error}");
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
    }
    let asks = json!({"call": "keyvalue.set", "bucket": "pool", "key": "a", "value": "1"});
    assert_eq!(answer(&bench, granted, &asks).await, json!({"ok": null}));
    let asks = json!({"call": "keyvalue.get", "bucket": "fake:pool", "key": "a"});
    assert_eq!(answer(&bench, granted, &asks).await, json!({"ok": {"value": "1"}}));
}

#[tokio::test]
async fn preview_1_is_offered_through_the_adapter() {
    let bench = Bench::new();
    let imports = r#"(import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))"#;
    let module = bench.load(&Raw { imports, ..Raw::default() }.wasm(), "").await.unwrap();
    assert!(module.call(&publish("a/b", b"x")).await.is_ok());
    let imports = r#"(import "env" "abort" (func (param i32 i32 i32 i32)))"#;
    let refusal = bench.refusal(&Raw { imports, ..Raw::default() }.wasm(), "").await;
    assert!(refusal.starts_with("it imports env#abort"), "{refusal}");
}
