//! Versions of a module: a good one replaces the one before, a bad one changes nothing, calls go on meanwhile.

use super::*;

#[tokio::test]
async fn everything_loads_before_the_directory_is_open() {
    let bench = Bench::new();
    bench.write("b", &guest("pass"), "priority = 50");
    bench.write("c", &guest("pass"), "");
    bench.write("a", &guest("upper"), "");
    bench.write("broken", b"nonsense", "");
    let followed = Followed::open(bench).await;
    assert_eq!(followed.names(), ["b", "a", "c"], "by priority, then name");
    assert_eq!(followed.serving.borrow().len(), 3, "told once, with all of them");
    let failures = followed.directory.failures();
    assert_eq!(failures.len(), 1);
    assert!(
        failures[0].path.ends_with("broken.wasm") && failures[0].reason.contains("no WebAssembly"),
        "{failures:?}"
    );
    followed.directory.close().await;
}

#[tokio::test]
async fn a_load_that_panics_is_a_failure_and_the_next_save_loads() {
    let bench = Bench::new();
    bench.storage.panics.store(true, Ordering::Relaxed);
    bench.write("m", &guest("pass"), "");
    let mut followed = Followed::open(bench).await;
    assert_eq!(followed.until_failure("the load panicked").await, "the load panicked");
    let second = variant(guest("pass"), 1);
    fs::write(followed.path("n"), &second).unwrap();
    for _ in 0..3_000 {
        if followed.directory.failures().len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(followed.directory.failures().len(), 2);
    followed.bench.storage.panics.store(false, Ordering::Relaxed);
    for name in ["m", "n"] {
        fs::write(followed.path(name), &second).unwrap();
    }
    followed.until(|now| now.len() == 2).await;
    assert!(followed.directory.failures().is_empty());
}

#[tokio::test]
async fn a_bad_version_leaves_the_old_one_serving() {
    let pass = guest("pass");
    let mut followed = Followed::with(&[("m", &pass)]).await;
    let module = followed.until_serving(&pass).await;
    fs::write(followed.path("m"), &pass[..pass.len() / 2]).unwrap();
    followed.until_failure("does not compile").await;
    fs::write(followed.path("m"), b"").unwrap();
    followed.until_failure("an empty file").await;
    fs::write(followed.path("m"), variant(pass.clone(), 1)).unwrap();
    let next = followed.until_serving(&variant(pass.clone(), 1)).await;
    assert!(followed.directory.failures().is_empty());
    fs::write(followed.path("m").with_extension("toml"), "priority = \"x\"").unwrap();
    followed.until_failure("m.toml:1:12: priority: expected an integer").await;
    assert_eq!(followed.names(), ["m"]);
    assert_eq!(payload(&next).await, b"hello");
    // The first version serves whoever still holds it.
    assert_eq!(payload(&module).await, b"hello");
    // The mistake is taken back: the same version again, and no failure.
    fs::remove_file(followed.path("m").with_extension("toml")).unwrap();
    for _ in 0..3_000 {
        if followed.directory.failures().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", followed.directory.failures());
}

#[tokio::test]
async fn a_bad_file_is_no_module_until_it_is_good() {
    let mut followed = Followed::with(&[]).await;
    fs::write(followed.path("m"), b"nonsense").unwrap();
    followed.until_failure("no WebAssembly").await;
    fs::remove_file(followed.path("m")).unwrap();
    fs::write(followed.path("n"), guest("pass")).unwrap();
    followed.until(|now| now.len() == 1 && now[0].name() == "n").await;
    assert!(followed.directory.failures().is_empty());
}

/// A reason that may pass (init finds no database) is tried again without a change of the file.
#[tokio::test]
async fn a_passing_failure_is_tried_again() {
    let bench = Bench::with(|config: &mut HostConfig| config.rescan = Duration::from_millis(100));
    fs::write(bench.dir().join("how"), "fail").unwrap();
    bench.write("m", &guest("probe"), "config = { init = \"file:how\" }");
    let mut followed = Followed::open(bench).await;
    followed.until_failure("init failed: told to").await;
    fs::write(followed.bench.dir().join("how"), "well").unwrap();
    followed.until(|now| now.len() == 1).await;
    assert!(followed.directory.failures().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_during_swaps_all_succeed() {
    const SWAPS: u8 = 20;
    let pass = guest("pass");
    let upper = guest("upper");
    let bench = Bench::new();
    bench.write("m", &pass, "");
    let table = Arc::new(ArcSwap::from_pointee(Serving::new()));
    let (swapped, mut swaps) = watch::channel(0_u32);
    let on_change = {
        let table = table.clone();
        Arc::new(move |modules: &[Arc<Module>]| {
            table.store(Arc::new(modules.to_vec()));
            swapped.send_modify(|count| *count += 1);
        })
    };
    let directory =
        Directory::open(bench.host.clone(), bench.dir(), Tenant::default(), on_change).await.unwrap();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (table, stop, done) = (table.clone(), stop.clone(), done.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let module = table.load()[0].clone();
                    let said = payload(&module).await;
                    assert!(said == b"hello" || said == b"HELLO");
                    done.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for n in 0..SWAPS {
        let before = *swaps.borrow_and_update();
        let wasm = variant(if n % 2 == 0 { upper.clone() } else { pass.clone() }, n);
        fs::write(bench.dir().join("m.wasm"), wasm).unwrap();
        swaps.wait_for(|count| *count > before).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    println!("{} calls during {SWAPS} swaps, 0 errors", done.load(Ordering::Relaxed));
    assert!(directory.failures().is_empty());
    directory.close().await;
}

#[tokio::test]
async fn what_happened_is_said() {
    let log = crate::fakes::Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let pass = guest("pass");
    let next = variant(pass.clone(), 77);
    let mut followed = Followed::with(&[("m", &pass)]).await;
    fs::write(followed.path("m"), &next).unwrap();
    followed.until_serving(&next).await;
    fs::write(followed.path("m"), b"nonsense").unwrap();
    followed.until_failure("no WebAssembly").await;
    let lines = log.lines();
    let swapped =
        format!("module m: version {} serves after ", blake3::hash(&next).to_hex().get(..12).unwrap());
    for part in [swapped.as_str(), "from cache ", "the old one goes on serving: found no WebAssembly"] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part}: {lines:#?}");
    }
    println!("{}", lines.iter().find(|line| line.contains(&swapped)).unwrap());
}

/// What a new version may is looked at as that of the first.
#[tokio::test]
async fn a_version_that_asks_for_more_than_there_is_is_refused() {
    let mut followed = Followed::with(&[("m", &guest("pass"))]).await;
    let old = followed.until(|now| now.len() == 1).await[0].clone();
    for (manifest, reason) in [
        (
            "connectors = [\"fake:pool\", \"redis:sessions\"]",
            "m.toml:1:28: connectors: no connector \"redis:sessions\"; configured are fake:pool",
        ),
        (
            "hooks = { \"message.publish\" = [], \"message.acked\" = [] }",
            "m.toml:1:35: hooks.message.acked: the module does not export tidegate:hooks/message-acked",
        ),
        ("[limits]\nmemory = \"1GiB\"", "m.toml:2:10: limits.memory: this host gives an instance at most"),
    ] {
        followed.bench.write("m", &variant(guest("pass"), 3), manifest);
        followed.until_failure(reason).await;
        assert!(Arc::ptr_eq(&followed.directory.modules()[0], &old));
        assert_eq!(payload(&old).await, b"hello");
    }
    followed.bench.write("m", &variant(guest("pass"), 3), "connectors = [\"fake:pool\"]");
    followed.until_serving(&variant(guest("pass"), 3)).await;
}
