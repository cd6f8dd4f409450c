//! Commands to a followed directory: reload of what has not changed, and the answer of a look at a file.

use std::fs;
use std::sync::Arc;

use tidegate_event::Tenant;
use tidegate_module::{CommandError, Directory, Outcome};

use crate::guests::{Bench, guest};

async fn open(bench: &Bench) -> Directory {
    Directory::open(bench.host.clone(), bench.dir(), Tenant::default(), Arc::new(|_| {})).await.unwrap()
}

#[tokio::test]
async fn a_reload_makes_a_new_version_of_the_same_bytes() {
    let bench = Bench::new();
    let path = bench.write("m", &guest("pass"), "priority = 7");
    let directory = open(&bench).await;
    let before = directory.modules()[0].clone();
    let Ok(Outcome::Serves(same)) = directory.commands().look(path.clone()).await else { panic!("look") };
    assert!(Arc::ptr_eq(&before, &same), "what has not changed is not loaded again by a look");
    let after = directory.reload("m").await.unwrap();
    assert!(!Arc::ptr_eq(&before, &after), "a reload loads it");
    assert!(Arc::ptr_eq(&after, &directory.modules()[0]), "and it serves when the answer comes");
    assert_eq!((after.hash(), after.terms().priority), (before.hash(), 7));
    // Many at once: each is answered.
    let commands = directory.commands();
    let all = futures_util::future::join_all((0..20).map(|_| commands.reload("m"))).await;
    assert!(all.iter().all(Result::is_ok));
    directory.close().await;
    assert!(matches!(commands.reload("m").await, Err(CommandError::Stopped)));
}

#[tokio::test]
async fn a_refused_reload_says_why_and_the_old_version_serves() {
    let bench = Bench::new();
    let path = bench.write("m", &guest("pass"), "[config]\nsecret = \"file:secret\"\n");
    fs::write(bench.dir().join("secret"), "x").unwrap();
    let directory = open(&bench).await;
    let before = directory.modules()[0].clone();
    fs::remove_file(bench.dir().join("secret")).unwrap();
    let Err(CommandError::Refused(reason)) = directory.reload("m").await else { panic!("refused") };
    assert!(reason.contains("secret"), "{reason}");
    assert!(Arc::ptr_eq(&before, &directory.modules()[0]));
    fs::write(bench.dir().join("secret"), "y").unwrap();
    directory.reload("m").await.unwrap();
    assert!(directory.failures().is_empty());
    let Err(CommandError::NoSuchModule { nearest, .. }) = directory.reload("mm").await else {
        panic!("none")
    };
    assert_eq!(nearest.as_deref(), Some("m"));
    fs::remove_file(&path).unwrap();
    let Ok(Outcome::Gone) = directory.commands().look(path).await else { panic!("gone") };
    assert!(directory.modules().is_empty());
    directory.close().await;
}

#[tokio::test]
async fn the_terms_of_a_version_are_what_its_manifest_asked_for() {
    let bench = Bench::new();
    let manifest = "hooks = { \"message.publish\" = [\"a/#\"] }\n[limits]\ncpu = \"7ms\"\n[instances]\nmode = \"single\"\n\
                    [config]\ntoken = \"s3cret\"\n";
    let module = bench.load(&guest("pass"), manifest).await.unwrap();
    let granted = module.terms();
    let asked = tidegate_module::Terms::requested(module.path()).unwrap();
    assert_eq!(granted, asked);
    assert_eq!((granted.limits.cpu_ms, granted.instances.mode.as_str()), (7, "single"));
    assert!(module.memory().is_some_and(|bytes| bytes >= 64 << 10));
}

/// A look was answered with "gone": nothing served, and the file had only changed while it was read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_while_it_is_read_is_not_gone() {
    let bench = Bench::new();
    let directory = open(&bench).await;
    // Under a name that is not looked at, so that the look is the first to see it.
    let (path, hidden) = (bench.dir().join("m.wasm"), bench.dir().join(".m.wasm"));
    fs::write(&hidden, guest("pass")).unwrap();
    let file = fs::File::options().write(true).open(&hidden).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_millis(700);
    let busy = std::thread::spawn(move || {
        let mut time = std::time::SystemTime::UNIX_EPOCH;
        while std::time::Instant::now() < until {
            time += std::time::Duration::from_nanos(100);
            file.set_modified(time).unwrap();
        }
    });
    fs::rename(&hidden, &path).unwrap();
    let looked = directory.commands().look(path).await;
    let Ok(Outcome::Serves(module)) = looked else { panic!("{looked:?}") };
    assert_eq!(module.name(), "m");
    busy.join().unwrap();
    directory.close().await;
}
