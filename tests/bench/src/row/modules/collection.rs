//! A directory of many modules, no two of the same content, and the artefacts they were compiled to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use tempfile::TempDir;
use tidegate_event::offline::Offline;
use tidegate_event::{IdSource, Node, Tenant};
use tidegate_module::{Host, HostConfig};

use crate::guest::{self, GUARD};
use crate::row::Bench;

/// The modules drop messages that are larger.
pub(super) const MAX_BYTES: usize = 100;

/// The modules.
pub(super) struct Collection {
    directory: TempDir,
    /// The files, in order; the module at place N handles [`topic`] N.
    pub(super) files: Vec<PathBuf>,
    /// Bytes of one of them.
    pub(super) wasm_bytes: usize,
}

/// A host with nothing behind it, whose artefacts are in `cache`.
pub(super) fn host(cache: &Path) -> anyhow::Result<(Arc<Host>, Arc<Node>)> {
    let node = Arc::new(Node::default());
    let config = HostConfig::new(cache, Arc::new(IdSource::new(&node)));
    let host = Host::new(config, node.clone(), Arc::new(Offline), Arc::new(Offline))?;
    Ok((host, node))
}

/// A topic that the module at `place` handles, and no other.
pub(super) fn topic(place: usize) -> String {
    format!("m/{place:04}/reading")
}

/// What the manifest of that module names.
pub(super) fn filter(place: usize) -> String {
    format!("m/{place:04}/#")
}

/// Its name.
pub(super) fn name(place: usize) -> String {
    format!("m{place:04}")
}

impl Collection {
    /// Lays down `count` copies of the example `guard`, each with a stamp of its own, and compiles all.
    ///
    /// # Errors
    /// When the guest does not build or a copy does not load.
    pub(super) async fn make(bench: &Bench, count: usize) -> anyhow::Result<Self> {
        let component = std::fs::read(GUARD.build()?)?;
        let directory = tempfile::tempdir()?;
        let modules = directory.path().join("modules");
        std::fs::create_dir(&modules)?;
        let rest = format!("[config]\nmax_bytes = {MAX_BYTES}\n");
        let mut files = Vec::with_capacity(count);
        for place in 0..count {
            let bytes = guest::stamped(&component, &name(place));
            files.push(guest::lay(&modules, &name(place), &bytes, &filter(place), &rest)?);
        }
        let collection = Self { directory, files, wasm_bytes: component.len() };
        collection.compile(bench).await?;
        Ok(collection)
    }

    /// The directory of artefacts.
    pub(super) fn artefacts(&self) -> PathBuf {
        self.directory.path().join("artefacts")
    }

    /// The directory of files.
    pub(super) fn modules(&self) -> PathBuf {
        self.directory.path().join("modules")
    }

    async fn compile(&self, bench: &Bench) -> anyhow::Result<()> {
        let (host, _) = host(&self.artefacts())?;
        let started = Instant::now();
        for (place, file) in self.files.iter().enumerate() {
            if place % 100 == 0 {
                bench.report.progress(&format!("    compiling {} modules: {place}", self.files.len()));
            }
            let module = host.load(file, &Tenant::default()).await;
            drop(module.with_context(|| file.display().to_string())?);
        }
        bench.report.progress(&format!("    compiled in {} s", started.elapsed().as_secs()));
        Ok(())
    }
}
