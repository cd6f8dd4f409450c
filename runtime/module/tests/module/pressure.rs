//! More modules than places for instances, or than there is to make instances of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_event::Tenant;
use tidegate_module::{CallError, Module};

use crate::guests::{Bench, ask, guest, observer_of_many, session_created, variant};

/// Loads `count` variants of the probe.
async fn loaded(bench: &Bench, count: u8, manifest: &str) -> Vec<Arc<Module>> {
    variants(bench, &guest("probe"), count, manifest).await
}

async fn variants(bench: &Bench, wasm: &[u8], count: u8, manifest: &str) -> Vec<Arc<Module>> {
    let mut modules = Vec::new();
    for mark in 0..count {
        let path = bench.write(&format!("m{mark}"), &variant(wasm.to_vec(), mark), manifest);
        modules.push(bench.host.load(&path, &Tenant::default()).await.unwrap());
    }
    modules
}

fn alive(modules: &[Arc<Module>]) -> usize {
    modules.iter().map(|module| module.stats().instances).sum()
}

#[tokio::test]
async fn idle_instances_make_room_for_other_modules() {
    let bench = Bench::with(|config| config.max_instances = 4);
    let modules = loaded(&bench, 12, "").await;
    assert_eq!(alive(&modules), 4);
    for _ in 0..3 {
        for module in &modules {
            assert_eq!(ask(module, "config/none").await, "None of 0");
            assert!(alive(&modules) <= 4);
        }
    }
    // All at once: those that find no place wait for one.
    let all = futures_util::future::join_all(modules.iter().map(|module| ask(module, "config/none"))).await;
    assert!(all.iter().all(|said| said == "None of 0"));
    assert!(alive(&modules) <= 4);
}

#[tokio::test]
async fn state_is_not_given_up_and_the_refusal_names_the_key() {
    let bench = Bench::with(|config| config.max_instances = 2);
    let kept = loaded(&bench, 2, "instances = { mode = \"single\" }").await;
    let path = bench.write("one-more", &guest("probe"), "limits = { timeout = \"50ms\" }");
    let refusal = bench.host.load(&path, &Tenant::default()).await.unwrap_err().to_string();
    assert!(refusal.contains("all 2 instances") && refusal.contains("modules.max_instances"), "{refusal}");
    assert_eq!(alive(&kept), 2);
    assert_eq!(ask(&kept[0], "config/none").await, "None of 0");
}

/// A host with four places, whose engine's pool has as many memories, tables and core instances as one component may
/// have; and of each kind a component of which two instances do not fit beside each other, with what they run out of.
const PLACES: u32 = 4;
const TABLES: &str = "(table 1 funcref) (table 1 funcref) (table 1 funcref) (table 1 funcref)";
const LARGE: [(&str, usize, &str); 3] =
    [("40 memories", 20, "(memory 1)"), ("60 tables", 8, TABLES), ("100 core instances", 50, "")];

#[tokio::test]
async fn an_instance_made_of_many_parts_finds_room_although_the_pool_has_none() {
    for (what, count, fields) in LARGE {
        let bench = Bench::with(|config| config.max_instances = PLACES);
        let modules = variants(&bench, &observer_of_many(count, fields), 3, "").await;
        assert_eq!(alive(&modules), 1, "{what}");
        for _ in 0..3 {
            for module in &modules {
                module.call(&session_created()).await.expect(what);
            }
        }
        let scope = session_created();
        for done in futures_util::future::join_all(modules.iter().map(|module| module.call(&scope))).await {
            done.expect(what);
        }
    }
}

#[tokio::test]
async fn what_the_pool_has_run_out_of_is_waited_for_and_named() {
    for (what, count, fields) in LARGE {
        let bench = Bench::with(|config| config.max_instances = PLACES);
        let wasm = observer_of_many(count, fields);
        let idle = variants(&bench, &wasm, 1, "limits = { timeout = \"50ms\" }").await;
        let single = "instances = { mode = \"single\" }";
        let path = bench.write("kept", &variant(wasm.clone(), 8), single);
        let kept = bench.host.load(&path, &Tenant::default()).await.expect(what);

        let late = variant(wasm, 9);
        let path = bench.write("late", &late, "limits = { timeout = \"50ms\" }");
        let refusal = bench.host.load(&path, &Tenant::default()).await.unwrap_err();
        let named = format!("all {what} of the host");
        let said = refusal.to_string();
        assert!(said.contains(&named) && said.contains("modules.max_instances"), "{said}");
        assert!(refusal.is_transient());
        let error = idle[0].call(&session_created()).await.unwrap_err();
        assert!(matches!(&error, CallError::NoRoom(_)) && error.to_string().contains(&named), "{error}");
        assert_eq!(error.kind(), "busy");

        bench.write("late", &late, "limits = { timeout = \"20s\" }");
        let host = bench.host.clone();
        let waiting = tokio::spawn(async move { host.load(&path, &Tenant::default()).await });
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(!waiting.is_finished(), "{what}: there is no room");
        drop(kept);
        let late = waiting.await.unwrap().expect(what);
        late.call(&session_created()).await.expect(what);
    }
}

#[tokio::test]
async fn the_largest_component_that_is_admitted_fits_into_the_smallest_host() {
    for (count, fields) in [(39, "(memory 1)"), (15, TABLES), (98, "")] {
        let bench = Bench::with(|config| config.max_instances = 1);
        let module = variants(&bench, &observer_of_many(count, fields), 1, "").await.remove(0);
        module.call(&session_created()).await.expect(fields);
    }
}

#[tokio::test]
async fn what_is_more_than_an_instance_may_have_is_not_waited_for() {
    let bench = Bench::with(|config| config.max_instances = PLACES);
    let started = Instant::now();
    let refusal = bench.refusal(&observer_of_many(40, "(memory 1)"), "limits = { timeout = \"1h\" }").await;
    assert!(refusal.contains("memories") && refusal.contains("40"), "{refusal}");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}
