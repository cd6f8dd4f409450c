//! A directory followed: saves, renames, deletions, broken versions, hand-overs, trials, and calls that go on meanwhile.

mod directories;
mod handover;
mod mandatory;
mod retirement;
mod saves;
mod trials;
mod versions;

use std::fs;
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
            if let Some(failure) = self.directory.failures().into_iter().find(|f| f.reason.contains(part)) {
                return failure.reason;
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
