//! Mandatory modules: none is missing unnoticed, none is unloaded.

use super::*;

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

/// A mandatory module that comes later cannot stop the start any more: whoever asks sees that it is missing.
#[tokio::test]
async fn a_mandatory_module_that_comes_later_and_does_not_load_is_seen() {
    let mut followed = Followed::with(&[]).await;
    let missing = |followed: &Followed| {
        followed.directory.failures().iter().filter(|failure| failure.mandatory).count()
    };
    followed.bench.write("m", b"nonsense", "mandatory = true");
    followed.bench.write("n", b"nonsense", "");
    followed.until_failure("no WebAssembly").await;
    while followed.directory.failures().len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(missing(&followed), 1);
    fs::remove_file(followed.path("n")).unwrap();
    fs::remove_file(followed.path("m")).unwrap();
    followed.until_failure("its manifest is there, the file itself is not").await;
    assert_eq!(missing(&followed), 1);
    followed.bench.write("m", &guest("pass"), "mandatory = true");
    followed.until(|now| now.len() == 1).await;
    assert_eq!(followed.directory.failures(), []);
    fs::write(followed.path("m"), b"nonsense").unwrap();
    followed.until_failure("no WebAssembly").await;
    assert_eq!(missing(&followed), 1, "an older version serves, and that is worth knowing");
}
