//! A directory of modules, followed: what is saved there serves, what is deleted does not.
//!
//! A file becomes a new version only when every step to a working instance has succeeded; until then, and
//! for ever when one fails, the version before it serves. Directories in it are followed as well: their names are a part
//! of the names of the modules.

mod changes;
mod command;
mod files;
mod follow;
mod links;
pub(crate) mod names;
mod scout;
mod trials;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_event::Tenant;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::HostError;
use crate::host::Host;
use crate::meters;
use crate::module::Module;

pub use command::{CommandError, Commands, Outcome, TrialEnded};
pub(crate) use files::Stamp;
pub use files::module_files;
use follow::Follower;

/// Told the full list of serving modules, sorted by priority and then name, after every change of it.
pub type OnChange = Arc<dyn Fn(&[Arc<Module>]) + Send + Sync>;

/// A followed directory of modules.
pub struct Directory {
    state: Arc<State>,
    commands: Commands,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A file whose newest version does not serve, or a directory that is not looked into. An older version may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where it is.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
    /// Whether the module is mandatory: events should not go on without it.
    pub mandatory: bool,
}

/// What a directory holds.
struct State {
    tenant: Tenant,
    serving: Mutex<BTreeMap<PathBuf, Arc<Module>>>,
    refusals: Mutex<BTreeMap<PathBuf, Refusal>>,
}

/// Why the newest version of a file does not serve.
#[derive(Clone)]
struct Refusal {
    reason: String,
    /// Whether the same bytes may load later.
    transient: bool,
    mandatory: bool,
}

impl State {
    fn new(tenant: Tenant) -> Self {
        Self { tenant, serving: Mutex::default(), refusals: Mutex::default() }
    }

    fn modules(&self) -> Vec<Arc<Module>> {
        let mut modules: Vec<_> = self.serving.lock().values().cloned().collect();
        modules.sort_by(|a, b| a.priority().cmp(&b.priority()).then_with(|| a.name().cmp(b.name())));
        modules
    }

    /// Notes a refusal; gives the one before it.
    fn refuse(&self, path: &Path, refusal: Refusal) -> Option<Refusal> {
        let before = self.refusals.lock().insert(path.to_owned(), refusal);
        self.show_mandatory();
        before
    }

    /// Forgets a refusal; gives it.
    fn accept(&self, path: &Path) -> Option<Refusal> {
        let before = self.refusals.lock().remove(path);
        self.show_mandatory();
        before
    }

    fn show_mandatory(&self) {
        let count = self.refusals.lock().values().filter(|refusal| refusal.mandatory).count();
        meters::mandatory_failed(self.tenant.name(), count);
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("modules", &self.modules()).finish_non_exhaustive()
    }
}

impl Directory {
    /// Loads every module in `dir` and the directories below, calls `on_change` once with those that serve, and follows
    /// them from then on. It may go and come again later; mandatory modules serve on meanwhile. Inside a tokio runtime.
    ///
    /// # Errors
    /// [`HostError::Directory`] when the directory does not exist, or it or one below cannot be read: it may hold a
    /// mandatory module. [`HostError::Mandatory`] when a module whose manifest says `mandatory = true` does not load.
    /// Other modules that do not load are logged and listed by [`Self::failures`].
    pub async fn open(
        host: Arc<Host>,
        dir: PathBuf,
        tenant: Tenant,
        on_change: OnChange,
    ) -> Result<Self, HostError> {
        // The system reports changes with absolute paths.
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        let state = Arc::new(State::new(tenant));
        let (commands, orders) = command::queues(&dir, state.clone());
        let mut follower = Follower::new(host, dir, on_change, state.clone(), orders);
        follower.load_all().await?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(follower.run(stop.clone()));
        Ok(Self { state, commands, stop, task })
    }

    /// The modules that serve, by priority and then name.
    pub fn modules(&self) -> Vec<Arc<Module>> {
        self.state.modules()
    }

    /// The files whose newest version does not serve, with the reason. An older version may serve.
    pub fn failures(&self) -> Vec<Failure> {
        let refusals = self.state.refusals.lock();
        let failure = |(path, refusal): (&PathBuf, &Refusal)| Failure {
            path: path.clone(),
            reason: refusal.reason.clone(),
            mandatory: refusal.mandatory,
        };
        refusals.iter().map(failure).collect()
    }

    /// As [`Commands::promote`].
    ///
    /// # Errors
    /// As there.
    pub async fn promote(&self, name: &str) -> Result<TrialEnded, CommandError> {
        self.commands.promote(name).await
    }

    /// As [`Commands::roll_back`].
    ///
    /// # Errors
    /// As there.
    pub async fn roll_back(&self, name: &str) -> Result<TrialEnded, CommandError> {
        self.commands.roll_back(name).await
    }

    /// As [`Commands::reload`].
    ///
    /// # Errors
    /// As there.
    pub async fn reload(&self, name: &str) -> Result<Arc<Module>, CommandError> {
        self.commands.reload(name).await
    }

    /// For whoever gives it commands.
    pub fn commands(&self) -> Commands {
        self.commands.clone()
    }

    /// Stops following. Modules in use live on until their last call ends.
    pub async fn close(self) {
        self.stop.cancel();
        // It ends at once; a panic in it has been reported by tokio.
        drop(self.task.await);
        self.state.modules().iter().for_each(|module| module.end_ticks());
    }
}
