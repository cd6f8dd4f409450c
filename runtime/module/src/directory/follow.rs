//! The task behind a directory: gathers changes, loads files, swaps versions.
//!
//! Loads of different files run side by side (compiling is one at a time, in the host); loads of one file
//! follow each other, so the last save wins.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::changes::Changes;
use super::command::{Orders, Pending, is_gone};
use super::files::{Listing, SETTLE, Stamp};
use super::names::shown;
use super::scout::{self, Report, Scout};
use super::trials::{Judge, Probation};
use super::{OnChange, Refusal, State};
use crate::error::{HostError, LoadError};
use crate::handover::{has_state, keep_state};
use crate::host::{Found, Host, may_link};
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
    /// Whether it failed and its manifest says that it must not.
    mandatory: bool,
}

pub(super) struct Follower {
    pub(super) host: Arc<Host>,
    pub(super) dir: PathBuf,
    on_change: OnChange,
    pub(super) state: Arc<State>,
    changes: Arc<Changes>,
    /// Away while it looks.
    scout: Option<Scout>,
    /// Whether every directory is watched.
    watched: bool,
    /// Whether it has been said that the directory cannot be read.
    unreadable: bool,
    /// What the files looked like when they were last read.
    stamps: HashMap<PathBuf, Stamp>,
    /// Directories that are not looked into.
    closed: BTreeMap<PathBuf, String>,
    /// Whether a file may still be in the works, with nobody to report the end.
    settling: bool,
    loads: JoinSet<Done>,
    /// Files being loaded, and the cause to load them once more after that.
    loading: HashMap<PathBuf, Option<Cause>>,
    orders: Orders,
    commands: Pending,
    pub(super) judge: Judge,
    /// New versions on trial.
    pub(super) trials: HashMap<PathBuf, Probation>,
    /// Versions that were rolled back.
    pub(super) blocked: HashMap<PathBuf, blake3::Hash>,
}

impl Follower {
    pub(super) fn new(
        host: Arc<Host>,
        dir: PathBuf,
        on_change: OnChange,
        state: Arc<State>,
        orders: Orders,
    ) -> Self {
        Self {
            host,
            dir,
            on_change,
            state,
            changes: Arc::default(),
            scout: None,
            watched: false,
            unreadable: false,
            stamps: HashMap::new(),
            closed: BTreeMap::new(),
            settling: false,
            loads: JoinSet::new(),
            loading: HashMap::new(),
            orders,
            commands: Pending::default(),
            judge: Judge::default(),
            trials: HashMap::new(),
            blocked: HashMap::new(),
        }
    }

    /// Watches the directories, then loads what is in them, so that nothing falls between.
    pub(super) async fn load_all(&mut self) -> Result<(), HostError> {
        let listing =
            self.list().await.map_err(|source| HostError::Directory { path: self.dir.clone(), source })?;
        let Listing { unread, .. } = self.compare(listing, Cause::Start);
        if let Some((path, source)) = unread.into_iter().next() {
            return Err(HostError::Directory { path, source });
        }
        while let Some(done) = self.loads.join_next().await {
            if let Ok(done) = done {
                self.finish(done).await;
            }
        }
        let refusals = self.state.refusals.lock().clone();
        if let Some((path, refusal)) = refusals.into_iter().find(|(_, refusal)| refusal.mandatory) {
            return Err(HostError::Mandatory { path, reason: refusal.reason });
        }
        self.publish();
        // What a tick publishes is an event like others: the handlers come first.
        self.state.modules().iter().for_each(Module::begin_ticks);
        Ok(())
    }

    /// Follows the directory until `stop`, however long a file system takes to answer then.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        // Whatever it waits for when it is stopped, it has acted on all that it knows.
        stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        // When to look at the changes reported so far.
        let mut due: Option<Instant> = None;
        let mut rescan = Instant::now() + self.pause();
        let changes = self.changes.clone();
        loop {
            if std::mem::take(&mut self.settling) {
                rescan = rescan.min(Instant::now() + SETTLE);
            }
            tokio::select! {
                Some(look) = self.orders.looks.recv() => {
                    let since = std::time::Instant::now();
                    let path = self.commands.ask(look);
                    let stamp = self.meanwhile(scout::stamp(&path)).await;
                    self.load(path, stamp, Cause::Change(since));
                }
                Some(end) = self.orders.ends.recv() => self.end_trial(end),
                () = changes.wait() => {
                    due.get_or_insert_with(|| Instant::now() + self.host.config().debounce);
                }
                () = sleep_until(due) => {
                    due = None;
                    self.look_at_changes().await;
                    // The directory may just have gone: then its return is looked for often.
                    rescan = rescan.min(Instant::now() + self.pause());
                }
                Some(done) = self.loads.join_next() => {
                    match done {
                        Ok(done) => self.finish(done).await,
                        Err(error) => tracing::error!(%error, "loading a module ended unexpectedly"),
                    }
                }
                () = self.judge.rises(), if !self.trials.is_empty() => self.judge(),
                () = tokio::time::sleep_until(rescan) => {
                    self.read_directories().await;
                    for module in self.state.modules() {
                        module.trim();
                    }
                    rescan = Instant::now() + self.pause();
                }
            }
        }
    }

    /// Waits for an answer of the file system, however long it takes. Trials go on, and are ended, meanwhile.
    pub(super) async fn meanwhile<T>(&mut self, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                Some(end) = self.orders.ends.recv() => self.end_trial(end),
                () = self.judge.rises(), if !self.trials.is_empty() => self.judge(),
            }
        }
    }

    fn pause(&self) -> Duration {
        let rescan = self.host.config().rescan;
        if self.watched && !self.unreadable { rescan } else { rescan.min(UNWATCHED) }
    }

    /// What is there. The directories are watched from then on.
    async fn list(&mut self) -> io::Result<Listing> {
        let scout = self.scout.take().unwrap_or_else(|| {
            let links = may_link(&self.state.tenant);
            Scout::new(&self.dir, links, self.host.config().max_watches, &self.changes)
        });
        let Some((scout, Report { found, watched, gaps })) = self.meanwhile(scout::list(scout)).await else {
            self.watched = false;
            return Err(io::Error::other("looking at the directory panicked"));
        };
        self.scout = Some(scout);
        self.watched = watched;
        for gap in gaps {
            meters::missed(gap.kind);
            tracing::warn!(dir = %self.dir.display(), "{}", gap.words);
        }
        found
    }

    async fn look_at_changes(&mut self) {
        let batch = self.changes.take();
        let looked = self.meanwhile(scout::look(batch)).await;
        for (path, stamp, since) in looked.modules {
            // Otherwise the end of the write will be reported.
            if !self.changes.is_writing(&path) {
                self.load(path, stamp, Cause::Change(since));
            }
        }
        if looked.rescan {
            self.read_directories().await;
        }
    }

    /// Reads the directories again. A directory that is not there holds nothing; of one that cannot be read nobody
    /// knows, so what serves goes on.
    async fn read_directories(&mut self) {
        let found = match self.list().await {
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
                if error.kind() != io::ErrorKind::NotFound {
                    return;
                }
                Listing::default()
            }
        };
        self.compare(found, Cause::Rescan);
    }

    /// Loads the files that look changed, those that are gone, and those that failed for a reason that may have passed.
    /// Gives what is left of the listing.
    fn compare(&mut self, mut found: Listing, cause: Cause) -> Listing {
        self.note_closed(&found);
        let unknown = |path: &Path| found.unread.iter().any(|(dir, _)| path.starts_with(dir));
        let is_gone = |path: &&PathBuf| !found.modules.contains_key(*path) && !unknown(path);
        // A file that changed while it was read has no stamp, and may serve.
        let serving: Vec<_> = self.state.serving.lock().keys().cloned().collect();
        let gone: BTreeSet<_> = self.stamps.keys().chain(&serving).filter(is_gone).cloned().collect();
        for path in gone {
            self.load(path, Stamp::default(), cause);
        }
        for (path, stamp) in std::mem::take(&mut found.modules) {
            let retry = self.state.refusals.lock().get(&path).is_some_and(|refusal| refusal.transient);
            if !retry && self.stamps.get(&path) == Some(&stamp) {
                continue;
            }
            if cause == Cause::Rescan && self.changes.is_writing(&path) {
                // The end of the write will be reported.
                continue;
            }
            if cause == Cause::Rescan && !retry && stamp.is_fresh() {
                self.settling = true;
                continue;
            }
            self.load(path, stamp, cause);
        }
        found
    }

    /// Directories that are not looked into are failures like files that do not load.
    fn note_closed(&mut self, found: &Listing) {
        let unread =
            found.unread.iter().map(|(path, error)| (path.clone(), format!("it cannot be read: {error}")));
        let closed: BTreeMap<_, _> = found.refused.iter().cloned().chain(unread).collect();
        for path in self.closed.keys().filter(|path| !closed.contains_key(*path)) {
            self.state.accept(path);
        }
        for (path, reason) in closed.iter().filter(|(path, reason)| self.closed.get(*path) != Some(reason)) {
            tracing::error!(dir = %path.display(), "no modules are loaded from the directory: {reason}");
            let refusal = Refusal { reason: reason.clone(), transient: false, mandatory: false };
            self.state.refuse(path, refusal);
        }
        self.closed = closed;
    }

    /// Loads the module at `path`, whose files looked like `stamp` a moment ago.
    fn load(&mut self, path: PathBuf, stamp: Stamp, cause: Cause) {
        if let Some(again) = self.loading.get_mut(&path) {
            // A reported change knows its time and is not forgotten for a later rescan.
            if !matches!(again, Some(Cause::Change(_))) {
                *again = Some(cause);
            }
            return;
        }
        self.loading.insert(path.clone(), None);
        // Of before the file is read: a change in between shows at the next rescan.
        self.stamps.insert(path.clone(), stamp);
        let (host, root, tenant) = (self.host.clone(), self.dir.clone(), self.state.tenant.clone());
        let old = self.state.serving.lock().get(&path).cloned();
        // What is commanded is loaded whatever is known of it.
        let known: Vec<_> = if self.commands.begin(&path) {
            Vec::new()
        } else {
            old.iter().map(|module| module.version).chain(self.blocked.get(&path).copied()).collect()
        };
        self.loads.spawn(async move {
            let started = std::time::Instant::now();
            let steps = async {
                let found = host.look(&root, &path, &tenant, &known).await?;
                if let (Found::Loaded(new), Some(old)) = (&found, &old) {
                    keep_state(old, new, host.config().handover).await?;
                }
                Ok(found)
            };
            // A load that ended without a word would leave its file in `loading` for ever. What a panic leaves
            // behind is this load's own.
            let steps = AssertUnwindSafe(steps).catch_unwind();
            let result = steps.await.unwrap_or(Err(LoadError::Panicked));
            let mandatory = result.is_err() && Host::is_mandatory(&path).await;
            Done { path, cause, took: started.elapsed(), result, mandatory }
        });
    }

    /// Takes the result of a load. At start the list is published once, when everything has been tried.
    async fn finish(&mut self, done: Done) {
        let Done { path, cause, took, result, mandatory } = done;
        let again = self.loading.remove(&path).flatten();
        let told = self.commands.end(&path, &result);
        let name = shown(&self.dir, &path);
        match result {
            Ok(Found::Loaded(module)) => {
                meters::loaded(&name, "loaded", took.as_secs_f64());
                self.blocked.remove(&path);
                self.state.accept(&path);
                self.install(&path, &module, cause);
                announce(&module, cause, took);
            }
            // It stays refused, whatever was written in between.
            Ok(Found::Unchanged(version)) if self.blocked.get(&path) == Some(&version) => {}
            Ok(Found::Unchanged(_)) => {
                meters::loaded(&name, "unchanged", took.as_secs_f64());
                self.blocked.remove(&path);
                if self.state.accept(&path).is_some() {
                    tracing::info!(module = name, "the file is again the version that serves");
                }
            }
            Err(LoadError::Changing(_)) => {
                self.stamps.remove(&path);
                self.settling = true;
            }
            Err(error) if is_gone(&error, &path) => self.unload(&path, &name, cause, mandatory),
            Err(error) => {
                meters::loaded(&name, "failed", took.as_secs_f64());
                self.blocked.remove(&path);
                let refusal =
                    Refusal { reason: error.to_string(), transient: error.is_transient(), mandatory };
                self.fail(&path, &name, cause, refusal);
            }
        }
        told.tell(&self.state);
        // Whoever waits for a file that changed while it was read waits for no timer.
        let again = again.or_else(|| self.commands.are_asked(&path).then_some(cause));
        if let Some(cause) = again {
            let stamp = self.meanwhile(scout::stamp(&path)).await;
            self.load(path, stamp, cause);
        }
    }

    /// Lets `module` serve, for all clients or beside the version before.
    fn install(&mut self, path: &Path, module: &Arc<Module>, cause: Cause) {
        let old = self.state.serving.lock().get(path).cloned();
        let ended = self.trials.remove(path).is_some();
        // Of two versions on trial the older one is the one that goes on.
        let before = old.as_ref().filter(|_| ended).and_then(|old| old.trial.before());
        if let (Some(old), Some(before)) = (&old, &before)
            && before.version == module.version
        {
            tracing::info!(module = module.name(), "the file is again the version before: the trial ends");
            self.withdraw(path, old, before);
            return;
        }
        if let Some(old) = &old
            && old.version == module.version
            && has_state(old)
        {
            // It came during a trial that was rolled back before it was loaded: it was handed nothing.
            tracing::info!(module = module.name(), "the file is again the version that serves");
            return;
        }
        let stable = before.clone().or_else(|| old.clone());
        let tried = match stable {
            Some(stable) if module.rollout.is_trial() => {
                self.try_out(path, module, stable);
                true
            }
            _ => false,
        };
        self.state.serving.lock().insert(path.to_owned(), module.clone());
        if cause != Cause::Start {
            self.publish();
            module.begin_ticks();
        }
        let patience = self.host.config().retire;
        match (old, before) {
            (Some(old), Some(before)) => {
                old.retire(Some(module), patience);
                if !tried {
                    before.retire(Some(module), patience);
                }
            }
            (Some(old), None) if !tried => old.retire(Some(module), patience),
            _ => {}
        }
    }

    /// Unloads a module whose file is gone, unless it is mandatory: an unmounted directory looks the same as one from
    /// which the file was deleted, and the events must not go on without the module.
    fn unload(&mut self, path: &Path, name: &str, cause: Cause, mandatory: bool) {
        if self.stamps.get(path).is_some_and(Stamp::is_nothing) {
            self.stamps.remove(path);
        }
        self.blocked.remove(path);
        let serving = self.state.serving.lock().get(path).cloned();
        let reason = match &serving {
            Some(module) if module.mandatory => {
                "the file is gone, and a mandatory module is not unloaded: take `mandatory = true` out of its manifest \
                 before the file is deleted"
            }
            None if mandatory => "its manifest is there, the file itself is not",
            _ => "",
        };
        if !reason.is_empty() {
            self.fail(
                path,
                name,
                cause,
                Refusal { reason: reason.to_owned(), transient: false, mandatory: true },
            );
            return;
        }
        self.state.accept(path);
        let Some(module) = serving else { return };
        self.trials.remove(path);
        self.state.serving.lock().remove(path);
        if cause != Cause::Start {
            self.publish();
        }
        let patience = self.host.config().retire;
        module.retire(None, patience);
        if let Some(before) = module.trial.before() {
            before.retire(None, patience);
        }
        tracing::info!(module = name, "the module's file is gone: it is unloaded");
    }

    fn fail(&self, path: &Path, name: &str, cause: Cause, refusal: Refusal) {
        let serving = self.state.serving.lock().get(path).cloned();
        let mandatory = refusal.mandatory || serving.as_ref().is_some_and(|module| module.mandatory);
        let reason = refusal.reason.clone();
        let before = self.state.refuse(path, Refusal { mandatory, ..refusal });
        if cause == Cause::Rescan && before.is_some_and(|before| before.reason == reason) {
            // Tried again in vain: it has been said.
            return;
        }
        match serving {
            Some(module) => tracing::error!(
                module = name,
                mandatory,
                serving = module.short_hash(),
                "the new version is refused, the old one goes on serving: {reason}"
            ),
            None => tracing::error!(module = name, mandatory, "the module does not load: {reason}"),
        }
    }

    pub(super) fn publish(&self) {
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

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
