//! Directories of modules: come, gone, unreadable, one in another, behind links.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

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

fn pass_at(path: PathBuf) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, guest("pass")).unwrap();
}

impl Followed {
    async fn until_names(&self, names: &[&str]) {
        let reached = |now: &Serving| now.iter().map(|module| module.name()).eq(names.iter().copied());
        let mut serving = self.serving.clone();
        let waited = tokio::time::timeout(Duration::from_secs(20), serving.wait_for(reached)).await;
        assert!(waited.is_ok(), "{:?}, expected {names:?}", self.names());
    }
}

#[tokio::test]
async fn directories_are_parts_of_names() {
    let bench = Bench::new();
    for path in
        ["a.wasm", "floor1/b.wasm", "floor1/room 2/\u{fc}.v2.wasm", ".hidden/c.wasm", "floor1/.d/e.wasm"]
    {
        pass_at(bench.dir().join(path));
    }
    fs::write(bench.dir().join("floor1/b.toml"), "priorty = 1").unwrap();
    let followed = Followed::open(bench).await;
    followed.until_names(&["a", "floor1/room 2/\u{fc}.v2"]).await;
    let failure = followed.until_failure("floor1/b.toml:1:1: priorty: unknown key").await;
    assert!(failure.starts_with("floor1/b.toml"), "{failure}");
    fs::write(followed.bench.dir().join("floor1/b.toml"), "priority = 1").unwrap();
    followed.until_names(&["floor1/b", "a", "floor1/room 2/\u{fc}.v2"]).await;
}

#[tokio::test]
async fn names_that_cannot_be_shown_are_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let followed = Followed::with(&[]).await;
    let dir = followed.bench.dir();
    pass_at(dir.join(std::ffi::OsStr::from_bytes(b"\xff.wasm")));
    pass_at(dir.join("two\nlines/a.wasm"));
    pass_at(dir.join("fine.wasm"));
    followed.until_names(&["fine"]).await;
    for _ in 0..1_000 {
        if followed.directory.failures().len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let failures = followed.directory.failures();
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(failures.iter().all(|failure| failure.reason.contains("UTF-8 without control characters")));
}

#[tokio::test]
async fn directories_come_move_and_go() {
    let mut followed = Followed::with(&[]).await;
    let (dir, root) = (followed.bench.dir(), followed.bench.root.path().to_owned());
    // Made and filled at once.
    pass_at(dir.join("a/b/c/m.wasm"));
    followed.until_names(&["a/b/c/m"]).await;
    // Into a directory that is watched by now.
    pass_at(dir.join("a/b/n.wasm"));
    followed.until_names(&["a/b/c/m", "a/b/n"]).await;
    // Copied.
    let copied = std::process::Command::new("cp").arg("-r").arg(dir.join("a")).arg(dir.join("copy")).status();
    assert!(copied.unwrap().success());
    followed.until_names(&["a/b/c/m", "a/b/n", "copy/b/c/m", "copy/b/n"]).await;
    // Renamed.
    fs::rename(dir.join("a/b"), dir.join("a/z")).unwrap();
    followed.until_names(&["a/z/c/m", "a/z/n", "copy/b/c/m", "copy/b/n"]).await;
    fs::remove_dir_all(dir.join("copy")).unwrap();
    followed.until_names(&["a/z/c/m", "a/z/n"]).await;
    // Out, changed, and in again: at the same place.
    fs::rename(dir.join("a"), root.join("away")).unwrap();
    followed.until(Vec::is_empty).await;
    fs::remove_file(root.join("away/z/n.wasm")).unwrap();
    fs::rename(root.join("away"), dir.join("a")).unwrap();
    followed.until_names(&["a/z/c/m"]).await;
    // And it is watched there.
    fs::write(dir.join("a/z/c/m.wasm"), variant(guest("pass"), 1)).unwrap();
    followed.until_serving(&variant(guest("pass"), 1)).await;
    fs::rename(dir.join("a"), dir.join("t")).unwrap();
    fs::rename(dir.join("t"), dir.join("a")).unwrap();
    pass_at(dir.join("x.wasm"));
    followed.until_names(&["a/z/c/m", "x"]).await;
    fs::write(dir.join("a/z/c/m.wasm"), variant(guest("pass"), 2)).unwrap();
    let hash = blake3::hash(&variant(guest("pass"), 2)).to_hex();
    followed.until(|now| now[0].hash() == hash.as_str()).await;
    assert!(followed.directory.failures().is_empty(), "{:?}", followed.directory.failures());
}

/// As Kubernetes writes a ConfigMap: a hidden directory, a link to it that is switched, links to files through it.
#[tokio::test]
async fn a_switched_link_to_a_hidden_directory_is_seen_at_once() {
    let pass = guest("pass");
    let bench = Bench::new();
    let dir = bench.dir();
    let fill = |name: &str, wasm: &[u8], priority: i32| {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("m.wasm"), wasm).unwrap();
        fs::write(dir.join(name).join("m.toml"), format!("priority = {priority}")).unwrap();
    };
    fill("..2026_11_01", &pass, 1);
    symlink("..2026_11_01", dir.join("..data")).unwrap();
    symlink("..data/m.wasm", dir.join("m.wasm")).unwrap();
    symlink("..data/m.toml", dir.join("m.toml")).unwrap();
    let mut followed = Followed::open(bench).await;
    followed.until_serving(&pass).await;
    for n in 2..5_u8 {
        let (name, wasm) = (format!("..2026_11_0{n}"), variant(pass.clone(), n));
        fill(&name, &wasm, i32::from(n));
        symlink(&name, dir.join("..data_tmp")).unwrap();
        let switched = std::time::Instant::now();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        let module = followed.until_serving(&wasm).await;
        println!("switched -> serves: {:?}", switched.elapsed());
        assert_eq!(module.priority(), i32::from(n));
        fs::remove_dir_all(dir.join(format!("..2026_11_0{}", n - 1))).unwrap();
    }
    assert_eq!(followed.names(), ["m"]);
}

#[tokio::test]
async fn a_linked_directory_is_followed_wherever_it_leads() {
    let bench = Bench::new();
    let (dir, root) = (bench.dir(), bench.root.path().to_owned());
    for release in ["one", "two"] {
        pass_at(root.join(release).join(format!("{release}.wasm")));
    }
    symlink(root.join("one"), dir.join("current")).unwrap();
    symlink(&dir, dir.join("circle")).unwrap();
    let mut followed = Followed::open(bench).await;
    followed.until_names(&["current/one"]).await;
    assert_eq!(
        followed.until_failure("leads to a directory").await,
        "it leads to a directory that it lies in"
    );
    pass_at(root.join("one/more.wasm"));
    followed.until_names(&["current/more", "current/one"]).await;
    symlink(root.join("two"), root.join("next")).unwrap();
    fs::rename(root.join("next"), dir.join("current")).unwrap();
    followed.until_names(&["current/two"]).await;
    fs::write(root.join("two/two.wasm"), variant(guest("pass"), 1)).unwrap();
    followed.until_serving(&variant(guest("pass"), 1)).await;
}

#[tokio::test]
async fn a_tenants_links_are_refused() {
    let bench = Bench::new();
    let (dir, root) = (bench.dir(), bench.root.path().to_owned());
    pass_at(root.join("secret/a.wasm"));
    symlink(root.join("secret"), dir.join("linked")).unwrap();
    symlink(root.join("secret/a.wasm"), dir.join("m.wasm")).unwrap();
    pass_at(dir.join("own/b.wasm"));
    let directory =
        Directory::open(bench.host.clone(), dir, Tenant::new("acme"), Arc::new(|_| {})).await.unwrap();
    assert_eq!(directory.modules().iter().map(|module| module.name()).collect::<Vec<_>>(), ["own/b"]);
    let failures = directory.failures();
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(failures.iter().all(|failure| failure.reason.contains("only the operator may use")));
}

#[tokio::test]
async fn more_directories_than_watches_are_read_every_second() {
    let log = crate::fakes::Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let bench = Bench::with(|config: &mut HostConfig| config.max_watches = 2);
    for n in 0..5 {
        pass_at(bench.dir().join(format!("{n}/m.wasm")));
    }
    let mut followed = Followed::open(bench).await;
    for n in 0..5 {
        fs::write(followed.bench.dir().join(format!("{n}/m.wasm")), variant(guest("pass"), n)).unwrap();
    }
    followed
        .until(|now| {
            (0..5).all(|n| {
                now[usize::from(n)].hash() == blake3::hash(&variant(guest("pass"), n)).to_hex().as_str()
            })
        })
        .await;
    let said =
        log.lines().iter().filter(|line| line.contains("not all directories of modules are watched")).count();
    assert_eq!(said, 1, "{:#?}", log.lines());
}

/// It was read on the runtime's own threads, and everything else there waited for the disk.
#[tokio::test]
async fn reading_directories_does_not_hold_up_the_runtime() {
    const RESCAN: Duration = Duration::from_millis(50);
    let bench = Bench::with(|config: &mut HostConfig| {
        config.max_watches = 1;
        config.rescan = RESCAN;
    });
    for n in 0..5_000 {
        fs::create_dir(bench.dir().join(format!("{n}"))).unwrap();
    }
    let followed = Followed::open(bench).await;
    let dir = followed.bench.dir();
    let reading = tokio::task::spawn_blocking(move || {
        let one = || {
            let began = std::time::Instant::now();
            assert!(tidegate_module::module_files(&dir).unwrap().is_empty());
            began.elapsed()
        };
        one().min(one()).min(one())
    });
    let reading = reading.await.unwrap();
    // Long enough for many readings.
    let began = std::time::Instant::now();
    let (mut stalls, mut last) = (0_u128, began);
    while began.elapsed() < reading * 20 + Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        stalls += u128::from(last.elapsed() > reading / 2);
        last = std::time::Instant::now();
    }
    let readings = began.elapsed().as_nanos() / (reading + RESCAN).as_nanos();
    println!("{readings} readings of {reading:?}; the runtime stood still for half as long {stalls} times");
    // It stood still in every one of them. Other processes may have taken the processor now and then.
    assert!(stalls < readings / 2, "{stalls} in {readings} readings, {:?}", began.elapsed());
    followed.directory.close().await;
}
