//! The task behind a directory: gathers changes, loads files, swaps versions.
//!
//! Loads of different files run side by side (compiling is one at a time, in the host); loads of one file
//! follow each other, so the last save wins.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tidegate_event::Tenant;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::command::{Command, Pending};
use super::files::{self, Stamp};
use super::watch::{Changes, Watch};
use super::{Failure, OnChange, State};
use crate::error::{HostError, LoadError};
use crate::host::{Found, Host};
use crate::meters;
use crate::module::Module;

/// How often to look at a directory that does not exist or cannot be watched.
const UNWATCHED: Duration = Duration::from_secs(1);

/// Why a file is looked at, which decides what is worth a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// It was there at start.
    Start,
    /// The system reported a change at this time.
    Change(std::time::Instant),
    /// The directory was read again.
    Rescan,
}

/// The end of a load.
struct Done {
    path: PathBuf,
    cause: Cause,
    took: Duration,
    result: Result<Found, LoadError>,
}

pub(super) struct Follower {
    host: Arc<Host>,
    dir: PathBuf,
    tenant: Tenant,
    on_change: OnChange,
    state: Arc<State>,
    changes: Arc<Changes>,
    watch: Option<Watch>,
    /// Whether it has been said that the directory cannot be watched.
    unwatched: bool,
    /// Whether it has been said that the directory cannot be read.
    unreadable: bool,
    /// What the files looked like when they were last read.
    stamps: HashMap<PathBuf, Stamp>,
    loads: JoinSet<Done>,
    /// Files being loaded, and the cause to load them once more after that.
    loading: HashMap<PathBuf, Option<Cause>>,
    commands: Pending,
}

impl Follower {
    pub(super) fn new(
        host: Arc<Host>,
        dir: PathBuf,
        tenant: Tenant,
        on_change: OnChange,
        state: Arc<State>,
    ) -> Self {
        Self {
            host,
            dir,
            tenant,
            on_change,
            state,
            changes: Arc::default(),
            watch: None,
            unwatched: false,
            unreadable: false,
            stamps: HashMap::new(),
            loads: JoinSet::new(),
            loading: HashMap::new(),
            commands: Pending::default(),
        }
    }

    /// Watches the directory, then loads what is in it, so that nothing falls between.
    pub(super) async fn load_all(&mut self) -> Result<(), HostError> {
        let unreadable = |dir: &Path| {
            let path = dir.to_owned();
            move |source| HostError::Directory { path, source }
        };
        self.keep_watch();
        let found = files::list(&self.dir).map_err(unreadable(&self.dir))?;
        self.compare(found, Cause::Start);
        while let Some(done) = self.loads.join_next().await {
            if let Ok(done) = done {
                self.finish(done);
            }
        }
        let failures: Vec<_> = {
            let failures = self.state.failures.lock();
            failures.iter().map(|(path, failure)| (path.clone(), failure.reason.clone())).collect()
        };
        for (path, reason) in failures {
            if Host::is_mandatory(&path).await {
                return Err(HostError::Mandatory { path, reason });
            }
        }
        for path in files::without_module(&self.dir).map_err(unreadable(&self.dir))? {
            if Host::is_mandatory(&path).await {
                let reason = "its manifest is there, the file itself is not".to_owned();
                return Err(HostError::Mandatory { path, reason });
            }
        }
        self.publish();
        Ok(())
    }

    pub(super) async fn run(mut self, stop: CancellationToken, mut queue: mpsc::Receiver<Command>) {
        // When to look at the changes reported so far.
        let mut due: Option<Instant> = None;
        let mut rescan = Instant::now() + self.pause();
        let changes = self.changes.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(command) = queue.recv() => {
                    let path = self.commands.ask(command);
                    self.load(path, Cause::Change(std::time::Instant::now()));
                }
                () = changes.wait() => {
                    due.get_or_insert_with(|| Instant::now() + self.host.config().debounce);
                }
                () = sleep_until(due) => {
                    due = None;
                    self.look_at_changes();
                    // The directory may just have gone: then its return is looked for often.
                    rescan = rescan.min(Instant::now() + self.pause());
                }
                Some(done) = self.loads.join_next() => {
                    match done {
                        Ok(done) => self.finish(done),
                        Err(error) => tracing::error!(%error, "loading a module ended unexpectedly"),
                    }
                }
                () = tokio::time::sleep_until(rescan) => {
                    self.keep_watch();
                    self.read_directory();
                    for module in self.state.modules() {
                        module.trim();
                    }
                    rescan = Instant::now() + self.pause();
                }
            }
        }
    }

    fn pause(&self) -> Duration {
        let rescan = self.host.config().rescan;
        if self.watch.is_some() && !self.unreadable { rescan } else { rescan.min(UNWATCHED) }
    }

    /// Watches the directory, if it exists, and again if it is another than before.
    fn keep_watch(&mut self) {
        if self.watch.as_ref().is_some_and(|watch| watch.is_of(&self.dir)) {
            return;
        }
        self.watch = match Watch::start(&self.dir, &self.changes) {
            Ok(watch) => {
                self.unwatched = false;
                watch
            }
            Err(error) => {
                if !std::mem::replace(&mut self.unwatched, true) {
                    tracing::warn!(
                        dir = %self.dir.display(), %error,
                        "the modules' directory cannot be watched: it is read every second instead"
                    );
                }
                None
            }
        };
    }

    fn look_at_changes(&mut self) {
        let batch = self.changes.take();
        for (path, since) in batch.modules {
            if files::is_module(&path) {
                self.load(path, Cause::Change(since));
            }
        }
        if batch.rescan {
            self.keep_watch();
            self.read_directory();
        }
    }

    /// Reads the directory again. One that is not there holds nothing; of one that cannot be read nobody knows, so
    /// what serves goes on.
    fn read_directory(&mut self) {
        let found = match files::list(&self.dir) {
            Ok(found) => {
                self.unreadable = false;
                found
            }
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    tracing::error!(
                        dir = %self.dir.display(), %error,
                        "the modules' directory cannot be read: it is tried again every second"
                    );
                }
                if error.kind() != std::io::ErrorKind::NotFound {
                    return;
                }
                BTreeMap::new()
            }
        };
        self.compare(found, Cause::Rescan);
    }

    /// Loads the files that look changed, those that are gone, and those that failed for a reason that may have passed.
    fn compare(&mut self, found: BTreeMap<PathBuf, Stamp>, cause: Cause) {
        let gone: Vec<_> = self.stamps.keys().filter(|path| !found.contains_key(*path)).cloned().collect();
        for path in gone {
            self.load(path, cause);
        }
        for (path, stamp) in found {
            let retry = self.state.failures.lock().get(&path).is_some_and(|failure| failure.transient);
            if retry || self.stamps.get(&path) != Some(&stamp) {
                self.load(path, cause);
            }
        }
    }

    fn load(&mut self, path: PathBuf, cause: Cause) {
        if let Some(again) = self.loading.get_mut(&path) {
            // A reported change knows its time and is not forgotten for a later rescan.
            if !matches!(again, Some(Cause::Change(_))) {
                *again = Some(cause);
            }
            return;
        }
        self.loading.insert(path.clone(), None);
        // Taken before the file is read: a change in between shows at the next rescan.
        self.stamps.insert(path.clone(), Stamp::of(&path));
        let (host, tenant) = (self.host.clone(), self.tenant.clone());
        let known = self.state.serving.lock().get(&path).map(|module| module.version);
        let known = if self.commands.begin(&path) { None } else { known };
        self.loads.spawn(async move {
            let started = std::time::Instant::now();
            // A load that ended without a word would leave its file in `loading` for ever. What a panic leaves
            // behind is this load's own.
            let look = AssertUnwindSafe(host.look(&path, &tenant, known)).catch_unwind();
            let result = look.await.unwrap_or(Err(LoadError::Panicked));
            Done { path, cause, took: started.elapsed(), result }
        });
    }

    /// Takes the result of a load. At start the list is published once, when everything has been tried.
    fn finish(&mut self, done: Done) {
        let Done { path, cause, took, result } = done;
        let again = self.loading.remove(&path).flatten();
        let told = self.commands.end(&path, &result);
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        match result {
            Ok(Found::Loaded(module)) => {
                meters::loaded(&name, "loaded", took.as_secs_f64());
                self.state.failures.lock().remove(&path);
                self.state.serving.lock().insert(path.clone(), module.clone());
                if cause != Cause::Start {
                    self.publish();
                }
                announce(&module, cause, took);
            }
            Ok(Found::Unchanged) => {
                meters::loaded(&name, "unchanged", took.as_secs_f64());
                if self.state.failures.lock().remove(&path).is_some() {
                    tracing::info!(module = name, "the file is again the version that serves");
                }
            }
            Err(error) if is_gone(&error, &path) => self.unload(&path, &name, cause),
            Err(error) => {
                meters::loaded(&name, "failed", took.as_secs_f64());
                let failure = Failure { reason: error.to_string(), transient: error.is_transient() };
                self.fail(&path, &name, cause, failure);
            }
        }
        told.tell(&self.state);
        if let Some(cause) = again {
            self.load(path, cause);
        }
    }

    /// Unloads a module whose file is gone, unless it is mandatory: an unmounted directory looks the same as one from
    /// which the file was deleted, and the events must not go on without the module.
    fn unload(&mut self, path: &Path, name: &str, cause: Cause) {
        self.stamps.remove(path);
        let mut serving = self.state.serving.lock();
        if serving.get(path).is_some_and(|module| module.mandatory) {
            drop(serving);
            let reason = "the file is gone, and a mandatory module is not unloaded: take `mandatory = true` out of its \
                          manifest before the file is deleted";
            self.fail(path, name, cause, Failure { reason: reason.to_owned(), transient: false });
            return;
        }
        let removed = serving.remove(path);
        drop(serving);
        self.state.failures.lock().remove(path);
        if removed.is_some() {
            if cause != Cause::Start {
                self.publish();
            }
            tracing::info!(module = name, "the module's file is gone: it is unloaded");
        }
    }

    fn fail(&self, path: &Path, name: &str, cause: Cause, failure: Failure) {
        let reason = failure.reason.clone();
        let before = self.state.failures.lock().insert(path.to_owned(), failure);
        if cause == Cause::Rescan && before.is_some_and(|before| before.reason == reason) {
            // Tried again in vain: it has been said.
            return;
        }
        let serving = self.state.serving.lock().get(path).cloned();
        match serving {
            Some(module) => tracing::error!(
                module = name,
                serving = module.short_hash(),
                "the new version is refused, the old one goes on serving: {reason}"
            ),
            None => tracing::error!(module = name, "the module does not load: {reason}"),
        }
    }

    fn publish(&self) {
        (self.on_change)(&self.state.modules());
    }
}

/// Says what serves now, and how fast it came about.
fn announce(module: &Module, cause: Cause, took: Duration) {
    let loading = module.loading();
    let since = match cause {
        Cause::Change(since) => since.elapsed(),
        Cause::Start | Cause::Rescan => took,
    };
    if let Cause::Change(_) = cause {
        meters::swapped(module.name(), since.as_secs_f64());
    }
    tracing::info!(
        module = module.name(),
        "module {}: version {} serves after {} ms (compile {} ms, from cache {})",
        module.name(),
        module.short_hash(),
        since.as_millis(),
        loading.compile.as_millis(),
        if loading.from_cache { "yes" } else { "no" },
    );
}

fn is_gone(error: &LoadError, path: &Path) -> bool {
    matches!(error, LoadError::Read { path: missing, source }
        if missing == path && source.kind() == std::io::ErrorKind::NotFound)
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
