//! A directory of modules, followed: what is saved there serves, what is deleted does not.
//!
//! A file becomes a new version only when every step to a working instance has succeeded; until then, and
//! for ever when one fails, the version before it serves.

mod command;
mod files;
mod follow;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_event::Tenant;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::HostError;
use crate::host::Host;
use crate::module::Module;

pub use command::{CommandError, Commands, Outcome};
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

/// What a directory holds.
#[derive(Default)]
struct State {
    serving: Mutex<BTreeMap<PathBuf, Arc<Module>>>,
    failures: Mutex<BTreeMap<PathBuf, Failure>>,
}

/// Why the newest version of a file does not serve.
#[derive(Clone)]
struct Failure {
    reason: String,
    /// Whether the same bytes may load later.
    transient: bool,
}

impl State {
    fn modules(&self) -> Vec<Arc<Module>> {
        let mut modules: Vec<_> = self.serving.lock().values().cloned().collect();
        modules.sort_by(|a, b| a.priority().cmp(&b.priority()).then_with(|| a.name().cmp(b.name())));
        modules
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("modules", &self.modules()).finish_non_exhaustive()
    }
}

impl Directory {
    /// Loads every module in `dir`, calls `on_change` once with those that serve, and follows the directory
    /// from then on. It may go and come again later; mandatory modules serve on meanwhile. Inside a tokio runtime.
    ///
    /// # Errors
    /// [`HostError::Directory`] when the directory does not exist or cannot be read: it may hold a mandatory
    /// module. [`HostError::Mandatory`] when a module whose manifest says `mandatory = true` does not load. Other
    /// modules that do not load are logged and listed by [`Self::failures`].
    pub async fn open(
        host: Arc<Host>,
        dir: PathBuf,
        tenant: Tenant,
        on_change: OnChange,
    ) -> Result<Self, HostError> {
        // The system reports changes with absolute paths.
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        let state = Arc::new(State::default());
        let (commands, queue) = command::queue(state.clone());
        let mut follower = Follower::new(host, dir, tenant, on_change, state.clone());
        follower.load_all().await?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(follower.run(stop.clone(), queue));
        Ok(Self { state, commands, stop, task })
    }

    /// The modules that serve, by priority and then name.
    pub fn modules(&self) -> Vec<Arc<Module>> {
        self.state.modules()
    }

    /// The files whose newest version did not load, with the reason. An older version may serve.
    pub fn failures(&self) -> Vec<(PathBuf, String)> {
        self.state
            .failures
            .lock()
            .iter()
            .map(|(path, failure)| (path.clone(), failure.reason.clone()))
            .collect()
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
    }
}
