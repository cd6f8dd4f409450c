//! What loads, and why the rest does not.

use tidegate_event::{Hook, Tenant};
use tidegate_module::LoadError;

use crate::guests::{Bench, ask, component, guest};

/// A component that exports `function` in `interface`, taking and giving nothing, with a core module's fields.
fn exporting(interface: &str, function: &str, fields: &str) -> Vec<u8> {
    component(&format!(
        r#"(component
            (core module $m {fields} (func (export "f")))
            (core instance $i (instantiate $m))
            (func $f (canon lift (core func $i "f")))
            (instance $e (export "{function}" (func $f)))
            (export "{interface}" (instance $e)))"#
    ))
}

const PUBLISH: &str = "tidegate:hooks/message-publish@0.1.0";

#[tokio::test]
async fn a_component_loads_with_its_facts() {
    let bench = Bench::cold();
    let wasm = guest("pass");
    let module = bench.load(&wasm, "priority = 7\nmandatory = true").await.unwrap();
    assert_eq!((module.name(), module.priority(), module.is_mandatory()), ("m", 7, true));
    assert_eq!(module.path(), bench.dir().join("m.wasm"));
    assert_eq!(module.hash().len(), 64);
    assert_eq!(module.hooks(), [(Hook::MessagePublish, vec![])]);
    assert_eq!(module.stats().wasm_bytes, wasm.len() as u64);
    assert!(!module.loading().from_cache && !module.loading().compile.is_zero());
}

#[tokio::test]
async fn what_is_no_component_is_named() {
    let bench = Bench::new();
    let engine = wasmtime::Engine::default();
    let precompiled = engine.precompile_component(&guest("pass")).unwrap();
    for (bytes, found) in [
        (Vec::new(), "found an empty file"),
        (
            component("(module)"),
            "a core module without a component type must export memory, cabi_realloc and handle",
        ),
        (precompiled, "found a native object (a precompiled .cwasm"),
        (b"(component)".to_vec(), "found WebAssembly text"),
        (b"#!/bin/sh".to_vec(), "found no WebAssembly"),
    ] {
        let refusal = bench.refusal(&bytes, "").await;
        assert!(refusal.starts_with(found), "{refusal}");
    }
}

#[tokio::test]
async fn a_truncated_component_does_not_compile() {
    let bench = Bench::new();
    let whole = guest("pass");
    for part in [2, 4] {
        let refusal = bench.refusal(&whole[..whole.len() * (part - 1) / part], "").await;
        assert!(refusal.starts_with("it does not compile: "), "{refusal}");
    }
}

#[tokio::test]
async fn unknown_imports_are_named_with_the_nearest() {
    let bench = Bench::new();
    let refusal = bench
        .refusal(
            &component(
                r#"(component (import "tidegate:storage/action@0.1.0" (instance (export "run" (func)))))"#,
            ),
            "",
        )
        .await;
    assert_eq!(
        refusal,
        "it imports tidegate:storage/action@0.1.0#run, which the host does not offer \
         (the nearest it offers is tidegate:storage/actions@0.1.0)"
    );
}

#[tokio::test]
async fn a_component_without_a_hook_is_refused() {
    let bench = Bench::new();
    let refusal = bench.refusal(&component("(component)"), "").await;
    assert!(refusal.starts_with("it exports no hook; it exports nothing;"), "{refusal}");
    assert!(refusal.contains(PUBLISH), "{refusal}");
    let refusal = bench.refusal(&exporting("acme:x/y@1.0.0", "f", ""), "").await;
    assert!(refusal.contains("it exports acme:x/y@1.0.0;"), "{refusal}");
}

#[tokio::test]
async fn a_wrong_signature_is_refused_by_name() {
    let bench = Bench::new();
    let refusal = bench.refusal(&exporting(PUBLISH, "on-message-publish", ""), "").await;
    assert!(refusal.starts_with("export tidegate:hooks/message-publish: "), "{refusal}");
    assert!(refusal.ends_with("type mismatch with parameters: expected 3-tuple, found 0-tuple"), "{refusal}");
    let refusal = bench.refusal(&exporting(PUBLISH, "on-publish", ""), "").await;
    assert!(refusal.contains("does not have export `on-message-publish`"), "{refusal}");
}

#[tokio::test]
async fn instances_that_cannot_be_made_are_refused() {
    let bench = Bench::new();
    let big = exporting(PUBLISH, "on-message-publish", "(memory 1024)");
    let refusal = bench.refusal(&big, "").await;
    assert!(refusal.contains("it passed its limit memory = 32.0 MiB"), "{refusal}");
    let traps = exporting(PUBLISH, "on-message-publish", "(func $s unreachable) (start $s)");
    let refusal = bench.refusal(&traps, "").await;
    assert!(refusal.starts_with("it cannot be instantiated: it trapped"), "{refusal}");
    let loops = exporting(PUBLISH, "on-message-publish", "(func $s (loop br 0)) (start $s)");
    let refusal = bench.refusal(&loops, "limits = { timeout = \"100ms\" }").await;
    assert!(
        refusal.starts_with("it cannot be instantiated: no answer within its limit timeout = 100ms"),
        "{refusal}"
    );
}

#[tokio::test]
async fn init_decides_whether_a_module_loads() {
    let bench = Bench::new();
    for (how, part) in [
        ("fail", "init failed: told to"),
        ("panic", "init was told to panic"),
        ("storage", "event 0 is not the one being handled"),
    ] {
        let refusal = bench.refusal(&guest("probe"), &format!("config = {{ init = \"{how}\" }}")).await;
        assert!(refusal.starts_with("init failed: ") && refusal.contains(part), "{refusal}");
    }
    let refusal = bench
        .refusal(&guest("probe"), "config = { init = \"loop\" }\nlimits = { timeout = \"100ms\" }")
        .await;
    assert!(refusal.starts_with("init failed: no answer within its limit timeout = 100ms"), "{refusal}");
    bench.probe("config = { init = \"well\" }").await;
}

#[tokio::test]
async fn a_wrong_manifest_is_refused_with_its_place() {
    let bench = Bench::new();
    for (manifest, expected) in [
        ("priorty = 1", "m.toml:1:1: priorty: unknown key; did you mean \"priority\"?"),
        (
            "hooks = { \"session.created\" = [] }",
            "m.toml:1:11: hooks.session.created: the module does not export tidegate:hooks/session-created; \
             it exports message.publish",
        ),
        (
            "connectors = [\"fake:pol\"]",
            "m.toml:1:15: connectors: no connector \"fake:pol\"; did you mean \"fake:pool\"?",
        ),
        (
            "[limits]\n  memory = \"1GiB\"",
            "m.toml:2:12: limits.memory: this host gives an instance at most 256.0 MiB",
        ),
        ("limits = { timeout = \"500000000000y\" }", "m.toml:1:22: limits.timeout: expected at most"),
        (
            "config = { a = \"env:TIDEGATE_NO_SUCH\" }",
            "config.a: environment variable TIDEGATE_NO_SUCH is not set",
        ),
        ("rollout = { canary = 0 }", "m.toml:1:22: rollout.canary: expected an integer from 1 to 100"),
    ] {
        let refusal = bench.refusal(&guest("pass"), manifest).await;
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[tokio::test]
async fn the_manifest_selects_hooks_and_topics() {
    let bench = Bench::new();
    let module = bench.probe("hooks = { \"message.publish\" = [\"a/#\", \"b\"] }").await;
    let filters = ["a/#", "b"].map(|text| text.parse().unwrap()).to_vec();
    assert_eq!(module.hooks(), [(Hook::MessagePublish, filters)]);
}

#[tokio::test]
async fn files_that_cannot_be_read_say_so() {
    let bench = Bench::new();
    let load =
        async |name: &str| bench.host.load(&bench.dir().join(name), &Tenant::default()).await.unwrap_err();
    assert!(matches!(load("none.wasm").await, LoadError::Read { .. }));
    assert!(matches!(load("m.txt").await, LoadError::Name));
    let bench = Bench::with(|config| config.max_module_bytes = 100);
    assert!(bench.refusal(&guest("pass"), "").await.contains("more than the 100 that are accepted"));
}

#[tokio::test]
async fn a_tenants_links_are_refused() {
    let bench = Bench::new();
    let outside = bench.root.path().join("outside.wasm");
    std::fs::write(&outside, guest("pass")).unwrap();
    let link = bench.dir().join("m.wasm");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    assert!(bench.host.load(&link, &Tenant::default()).await.is_ok());
    let error = bench.host.load(&link, &Tenant::new("acme")).await.unwrap_err();
    assert!(matches!(&error, LoadError::Link(path) if *path == link), "{error}");
}

#[tokio::test]
async fn many_modules_may_be_loaded_at_once() {
    let bench = Bench::cold();
    let mut loads = Vec::new();
    for n in 0..8 {
        let path = bench.write(&format!("m{n}"), &guest("probe"), "");
        let host = bench.host.clone();
        loads.push(tokio::spawn(async move { host.load(&path, &Tenant::default()).await.unwrap() }));
    }
    let mut compiled = 0;
    for load in loads {
        let module = load.await.unwrap();
        compiled += u32::from(!module.loading().from_cache);
        assert_eq!(ask(&module, "count").await, "1");
    }
    assert_eq!(compiled, 1, "the others find the artefact that the first one made");
}
