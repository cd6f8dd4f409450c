//! A directory followed: saves, renames, deletions, broken versions, and calls that go on meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tidegate_event::{Tenant, Verdict};
use tidegate_module::{Directory, HostConfig, HostError, Module};
use tokio::sync::watch;

use crate::guests::{Bench, guest, publish, variant};

type Serving = Vec<Arc<Module>>;

/// A followed directory and what it said last.
struct Followed {
    bench: Bench,
    directory: Directory,
    serving: watch::Receiver<Serving>,
}

impl Followed {
    async fn open(bench: Bench) -> Self {
        let (told, serving) = watch::channel(Vec::new());
        let on_change = Arc::new(move |modules: &[Arc<Module>]| {
            told.send_replace(modules.to_vec());
        });
        let directory =
            Directory::open(bench.host.clone(), bench.dir(), Tenant::default(), on_change).await.unwrap();
        Self { bench, directory, serving }
    }

    async fn with(files: &[(&str, &[u8])]) -> Self {
        let bench = Bench::new();
        for (name, wasm) in files {
            bench.write(name, wasm, "");
        }
        Self::open(bench).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bench.dir().join(format!("{name}.wasm"))
    }

    fn names(&self) -> Vec<String> {
        self.directory.modules().iter().map(|module| module.name().to_owned()).collect()
    }

    /// Waits until the serving modules are as wanted.
    async fn until(&mut self, wanted: impl Fn(&Serving) -> bool) -> Serving {
        let waited =
            tokio::time::timeout(Duration::from_secs(30), self.serving.wait_for(|now| wanted(now))).await;
        waited.expect("in time").unwrap().clone()
    }

    /// Waits until the only module is the one with these bytes.
    async fn until_serving(&mut self, wasm: &[u8]) -> Arc<Module> {
        let hash = blake3::hash(wasm).to_hex();
        let serving = self.until(|now| now.len() == 1 && now[0].hash() == hash.as_str()).await;
        serving[0].clone()
    }

    /// Waits until a file has failed with a reason that contains `part`.
    async fn until_failure(&self, part: &str) -> String {
        for _ in 0..3_000 {
            if let Some((_, reason)) = self.directory.failures().into_iter().find(|(_, r)| r.contains(part)) {
                return reason;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no failure with {part:?}: {:?}", self.directory.failures());
    }
}

async fn payload(module: &Module) -> Vec<u8> {
    match module.call(&publish("t", b"hello")).await.unwrap().verdict {
        Verdict::Pass => b"hello".to_vec(),
        Verdict::Replace(message) => message.payload.to_vec(),
        other => panic!("{other:?}"),
    }
}

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
        failures[0].0.ends_with("broken.wasm") && failures[0].1.contains("no WebAssembly"),
        "{failures:?}"
    );
    followed.directory.close().await;
}

#[tokio::test]
async fn a_mandatory_module_must_load() {
    let bench = Bench::new();
    bench.write("m", b"nonsense", "mandatory = true");
    let opened = Directory::open(bench.host.clone(), bench.dir(), Tenant::default(), Arc::new(|_| {})).await;
    let Err(HostError::Mandatory { path, reason }) = opened else { panic!("it opened") };
    assert!(path.ends_with("m.wasm") && reason.contains("no WebAssembly"), "{reason}");
}

async fn refused(bench: &Bench) -> (PathBuf, String) {
    let opened = Directory::open(bench.host.clone(), bench.dir(), Tenant::default(), Arc::new(|_| {})).await;
    let Err(HostError::Mandatory { path, reason }) = opened else { panic!("it opened") };
    (path, reason)
}

#[tokio::test]
async fn a_mandatory_module_with_a_wrong_manifest_must_load() {
    let bench = Bench::new();
    for (manifest, part) in [
        ("mandatory = true\npriorty = 1", "priorty: unknown key"),
        ("mandatory = true\nhooks = {\n", "m.toml:"),
    ] {
        bench.write("m", &guest("pass"), manifest);
        let (path, reason) = refused(&bench).await;
        assert!(path.ends_with("m.wasm") && reason.contains(part), "{reason}");
    }
    // A manifest that cannot be read at all may be one.
    let manifest = bench.dir().join("m.toml");
    fs::remove_file(&manifest).unwrap();
    fs::create_dir(&manifest).unwrap();
    assert!(refused(&bench).await.0.ends_with("m.wasm"));
    fs::remove_dir(&manifest).unwrap();
    bench.write("m", &guest("pass"), "mandatory = false\npriorty = 1");
    assert!(Followed::open(bench).await.names().is_empty());
}

#[tokio::test]
async fn a_mandatory_module_without_its_file_must_load() {
    let bench = Bench::new();
    fs::write(bench.dir().join("other.toml"), "priority = 1").unwrap();
    fs::write(bench.dir().join("m.toml"), "mandatory = true").unwrap();
    assert!(refused(&bench).await.0.ends_with("m.wasm"));
    // A link that leads nowhere is no file.
    std::os::unix::fs::symlink(bench.root.path().join("none"), bench.dir().join("m.wasm")).unwrap();
    let (path, reason) = refused(&bench).await;
    assert!(path.ends_with("m.wasm") && reason.contains("its manifest is there"), "{reason}");
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
async fn a_save_replaces_the_version() {
    let (pass, upper) = (guest("pass"), guest("upper"));
    let mut followed = Followed::with(&[("m", &pass)]).await;
    assert_eq!(payload(&*followed.until_serving(&pass).await).await, b"hello");
    // Written in place, as editors and compilers do.
    fs::write(followed.path("m"), &upper).unwrap();
    assert_eq!(payload(&*followed.until_serving(&upper).await).await, b"HELLO");
    // Renamed over, as careful writers do.
    let beside = followed.bench.dir().join("m.wasm.new");
    fs::write(&beside, &pass).unwrap();
    fs::rename(&beside, followed.path("m")).unwrap();
    assert_eq!(payload(&*followed.until_serving(&pass).await).await, b"hello");
    // Renamed in from elsewhere.
    let elsewhere = followed.bench.root.path().join("elsewhere");
    fs::write(&elsewhere, &upper).unwrap();
    fs::rename(&elsewhere, followed.path("m")).unwrap();
    followed.until_serving(&upper).await;
    // A link, and a link renamed over it.
    let target = followed.bench.root.path().join("target");
    fs::write(&target, variant(pass.clone(), 1)).unwrap();
    fs::remove_file(followed.path("m")).unwrap();
    std::os::unix::fs::symlink(&target, followed.path("m")).unwrap();
    followed.until_serving(&variant(pass.clone(), 1)).await;
    // A hard link.
    fs::write(&target, variant(pass.clone(), 2)).unwrap();
    fs::remove_file(followed.path("m")).unwrap();
    fs::hard_link(&target, followed.path("m")).unwrap();
    followed.until_serving(&variant(pass, 2)).await;
}

#[tokio::test]
async fn files_come_and_go() {
    let pass = guest("pass");
    let mut followed = Followed::with(&[("a", &pass)]).await;
    fs::write(followed.path("b"), &pass).unwrap();
    followed.until(|now| now.len() == 2).await;
    fs::remove_file(followed.path("a")).unwrap();
    let serving = followed.until(|now| now.len() == 1).await;
    assert_eq!(serving[0].name(), "b");
    fs::rename(followed.path("b"), followed.path("c")).unwrap();
    followed.until(|now| now.len() == 1 && now[0].name() == "c").await;
    fs::rename(followed.path("c"), followed.bench.root.path().join("away")).unwrap();
    followed.until(Vec::is_empty).await;
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

#[tokio::test]
async fn a_manifest_is_a_part_of_the_version() {
    let pass = guest("pass");
    let mut followed = Followed::with(&[("m", &pass)]).await;
    fs::write(followed.path("m").with_extension("toml"), "priority = 3").unwrap();
    followed.until(|now| now[0].priority() == 3).await;
    fs::remove_file(followed.path("m").with_extension("toml")).unwrap();
    followed.until(|now| now[0].priority() == 100).await;
}

#[tokio::test]
async fn a_save_without_a_change_is_none() {
    let pass = guest("pass");
    let mut followed = Followed::with(&[("m", &pass), ("other", &pass)]).await;
    let before = followed.directory.modules();
    fs::write(followed.path("m"), &pass).unwrap();
    // A change after it is seen after it.
    fs::write(followed.path("other"), variant(pass, 1)).unwrap();
    followed.until(|now| now[1].hash() != before[1].hash()).await;
    assert!(Arc::ptr_eq(&followed.directory.modules()[0], &before[0]));
}

#[tokio::test]
async fn a_burst_of_saves_ends_in_the_last() {
    let pass = guest("pass");
    let mut followed = Followed::with(&[("m", &pass)]).await;
    for n in 0..50 {
        fs::write(followed.path("m"), variant(pass.clone(), n)).unwrap();
    }
    followed.until_serving(&variant(pass, 49)).await;
}

#[tokio::test]
async fn a_directory_may_come_later_and_come_again() {
    let mut followed = Followed::with(&[]).await;
    for n in 0..3 {
        let wasm = variant(guest("pass"), n);
        fs::write(followed.path("m"), &wasm).unwrap();
        followed.until_serving(&wasm).await;
        fs::remove_dir_all(followed.bench.dir()).unwrap();
        followed.until(Vec::is_empty).await;
        fs::create_dir(followed.bench.dir()).unwrap();
    }
}

/// It was taken for an empty one: nothing was mandatory, and everything started without.
#[tokio::test]
async fn a_directory_that_cannot_be_read_at_start_is_refused() {
    let bench = Bench::new();
    let root = bench.root.path();
    fs::write(root.join("file"), "").unwrap();
    // A link to itself cannot be read even by root, for whom no permission is missing.
    std::os::unix::fs::symlink(root.join("loop"), root.join("loop")).unwrap();
    let closed = root.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let mut names = vec!["none", "file", "loop"];
    if fs::read_dir(&closed).is_err() {
        names.push("closed");
    }
    for name in names {
        let opened =
            Directory::open(bench.host.clone(), root.join(name), Tenant::default(), Arc::new(|_| {})).await;
        let Err(error @ HostError::Directory { .. }) = opened else { panic!("{name}: {opened:?}") };
        let said = error.to_string();
        assert!(said.starts_with(&root.join(name).display().to_string()), "{said}");
        assert!(said.contains("nobody knows which modules are mandatory"), "{said}");
    }
}

/// Its file being gone unloaded it, and events went on without it: an unmounted directory was enough.
#[tokio::test]
async fn a_mandatory_module_serves_on_when_its_file_or_directory_is_gone() {
    let bench = Bench::with(|config: &mut HostConfig| config.rescan = Duration::from_millis(100));
    bench.write("m", &guest("upper"), "mandatory = true");
    bench.write("other", &guest("pass"), "");
    let mut followed = Followed::open(bench).await;
    let first = followed.until(|now| now.len() == 2).await[0].clone();
    let (dir, away) = (followed.bench.dir(), followed.bench.root.path().join("away"));
    fs::rename(&dir, &away).unwrap();
    let left = followed.until(|now| now.len() < 2).await;
    assert_eq!(left.iter().map(|module| module.name()).collect::<Vec<_>>(), ["m"]);
    followed.until_failure("a mandatory module is not unloaded").await;
    assert_eq!(payload(&followed.directory.modules()[0]).await, b"HELLO");
    // An empty directory, as a mount point is, and then the module's own again.
    fs::create_dir(&dir).unwrap();
    fs::write(followed.path("new"), guest("pass")).unwrap();
    followed.until(|now| now.len() == 2 && now[1].name() == "new").await;
    fs::remove_dir_all(&dir).unwrap();
    fs::rename(&away, &dir).unwrap();
    let back = followed.until(|now| now.iter().map(|module| module.name()).eq(["m", "other"])).await;
    assert!(Arc::ptr_eq(&back[0], &first), "the very same version all the time");
    // No longer mandatory, it goes as any other.
    fs::write(dir.join("m.toml"), "mandatory = false").unwrap();
    followed.until(|now| !now[0].is_mandatory()).await;
    fs::remove_file(followed.path("m")).unwrap();
    followed.until(|now| now.len() == 1 && now[0].name() == "other").await;
}

#[tokio::test]
async fn what_serves_goes_on_while_its_directory_cannot_be_read() {
    let log = crate::fakes::Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let bench = Bench::with(|config: &mut HostConfig| config.rescan = Duration::from_millis(50));
    bench.write("m", &guest("upper"), "mandatory = true");
    bench.write("other", &guest("pass"), "");
    let root = bench.root.path().to_owned();
    let link = |target: PathBuf| {
        std::os::unix::fs::symlink(target, root.join("next")).unwrap();
        fs::rename(root.join("next"), root.join("link")).unwrap();
    };
    link(bench.dir());
    let directory =
        Directory::open(bench.host.clone(), root.join("link"), Tenant::default(), Arc::new(|_| {}))
            .await
            .unwrap();
    let before = directory.modules();
    assert_eq!(before.len(), 2);
    link(root.join("link")); // leads to itself
    let mut patience = 3_000;
    while !log.lines().iter().any(|line| line.contains("directory cannot be read")) {
        patience -= 1;
        assert!(patience > 0, "{:#?}", log.lines());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let now = directory.modules();
    assert!(now.len() == 2 && now.iter().zip(&before).all(|(a, b)| Arc::ptr_eq(a, b)), "{now:?}");
    link(bench.dir());
    bench.write("new", &guest("pass"), "");
    while directory.modules().len() < 3 {
        patience -= 1;
        assert!(patience > 0, "{:#?}", log.lines());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    directory.close().await;
}

/// What the system does not report is found when the directory is read again: a link's target here.
#[tokio::test]
async fn an_unreported_change_is_found() {
    let bench = Bench::with(|config: &mut HostConfig| config.rescan = Duration::from_millis(100));
    let target = bench.root.path().join("target");
    let pass = guest("pass");
    fs::write(&target, &pass).unwrap();
    std::os::unix::fs::symlink(&target, bench.dir().join("m.wasm")).unwrap();
    let mut followed = Followed::open(bench).await;
    followed.until_serving(&pass).await;
    fs::write(&target, variant(pass.clone(), 1)).unwrap();
    followed.until_serving(&variant(pass, 1)).await;
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

/// The debounce is a part of every reload: no artefact in the cache makes one faster than that.
#[tokio::test]
async fn a_save_serves_after_the_debounce_and_soon_after_it_from_the_cache() {
    let versions = [guest("pass"), guest("upper")];
    let mut followed = Followed::with(&[("m", &versions[0]), ("n", &versions[1])]).await;
    fs::remove_file(followed.path("n")).unwrap();
    followed.until_serving(&versions[0]).await;
    let debounce = followed.bench.host.config().debounce;
    let mut after = Vec::new();
    for n in 1..=20 {
        let wasm = &versions[n % 2];
        let saved = std::time::Instant::now();
        fs::write(followed.path("m"), wasm).unwrap();
        let module = followed.until_serving(wasm).await;
        let took = saved.elapsed();
        assert!(module.loading().from_cache && took >= debounce, "{took:?}");
        after.push(took - debounce);
    }
    after.sort_unstable();
    println!("serves {:?} (median; best {:?}) after the debounce of {debounce:?}", after[10], after[0]);
    // The best of twenty: whatever else the machine does.
    assert!(after[0] < Duration::from_millis(50), "{after:?}");
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
