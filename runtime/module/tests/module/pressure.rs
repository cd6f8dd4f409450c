//! More modules than places for instances.

use std::sync::Arc;

use tidegate_event::Tenant;
use tidegate_module::Module;

use crate::guests::{Bench, ask, guest, variant};

/// Loads `count` variants of the probe on a host with `places`.
async fn loaded(bench: &Bench, count: u8, manifest: &str) -> Vec<Arc<Module>> {
    let probe = guest("probe");
    let mut modules = Vec::new();
    for mark in 0..count {
        let path = bench.write(&format!("m{mark}"), &variant(probe.clone(), mark), manifest);
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
