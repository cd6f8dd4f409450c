//! The artefact cache across hosts.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use tidegate_event::Tenant;

use crate::guests::{Bench, ask, guest, host};

fn artefacts(bench: &Bench) -> Vec<PathBuf> {
    fs::read_dir(bench.root.path().join("cache")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_second_host_starts_from_the_cache() {
    let bench = Bench::cold();
    let first = bench.probe("").await;
    assert!(!first.loading().from_cache);
    let second = host(&bench.root.path().join("cache"), &bench.storage, &bench.control, |_| {});
    let module = second.load(first.path(), &Tenant::default()).await.unwrap();
    assert!(module.loading().from_cache && module.loading().compile.is_zero());
    println!(
        "loaded from the cache in {:?}, compiled in {:?}",
        module.loading().total,
        first.loading().total
    );
    assert_eq!(ask(&module, "count").await, "1");
}

#[tokio::test]
async fn a_damaged_artefact_is_compiled_again() {
    let bench = Bench::cold();
    let module = bench.probe("").await;
    let [artefact] = &artefacts(&bench)[..] else { panic!("one artefact") };
    let whole = fs::read(artefact).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [&whole[..whole.len() / 2], &[], &flipped] {
        fs::write(artefact, damaged).unwrap();
        let again = bench.host.load(module.path(), &Tenant::default()).await.unwrap();
        assert!(!again.loading().from_cache);
        assert_eq!(ask(&again, "count").await, "1");
        assert_eq!(fs::read(artefact).unwrap().len(), whole.len());
    }
}

/// A file that is mapped ends the process when it is cut off and read. So the one in the cache is not.
#[tokio::test]
async fn a_running_artefact_that_is_truncated_does_not_end_the_process() {
    let bench = Bench::cold();
    let module = bench.probe("").await;
    let [artefact] = &artefacts(&bench)[..] else { panic!("one artefact") };
    fs::OpenOptions::new().write(true).open(artefact).unwrap().set_len(0).unwrap();
    // What no call has needed so far: other functions, and the image that memories of new instances begin with.
    assert_eq!(ask(&module, "count").await, "1");
    module.trim();
    module.trim();
    assert_eq!(module.stats().instances, 0);
    assert_eq!(ask(&module, "count").await, "1");
    let panic = module.call(&crate::guests::publish("panic", b"")).await.unwrap_err();
    assert!(panic.to_string().contains("wasm"), "{panic}");
    assert_eq!(artefacts(&bench).len(), 1, "the copy has no name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_may_share_a_cache() {
    let bench = Bench::cold();
    let path = bench.write("m", &guest("pass"), "");
    let hosts: Vec<_> = (0..4)
        .map(|_| {
            host(&bench.root.path().join("cache"), &bench.storage, &bench.control, |c| c.max_instances = 4)
        })
        .collect();
    let loads: Vec<_> = hosts
        .iter()
        .map(|host| {
            let (host, path) = (Arc::clone(host), path.clone());
            tokio::spawn(async move { host.load(&path, &Tenant::default()).await.unwrap() })
        })
        .collect();
    for load in loads {
        load.await.unwrap();
    }
    let left = artefacts(&bench);
    assert_eq!(left.len(), 1, "{left:?}");
}
