//! Commands to a followed directory. They go through the follower's own queues, so that a command and a save of the
//! same file follow each other like two saves. The ends of trials have a queue of their own: they need no file, and wait
//! for none.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::State;
use super::names::shown;
use crate::error::LoadError;
use crate::host::{Found, Host};
use crate::module::Module;

/// Commands that wait for the follower; further ones wait to be sent.
const QUEUE: usize = 64;
/// How long a command waits for a file that changes whenever it is read.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a file that was looked at.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// This version serves. It may be the one that served before, when the file had not changed.
    Serves(Arc<Module>),
    /// The file is gone, and nothing serves under its name.
    Gone,
}

/// Why a command was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommandError {
    /// No file of that name serves or was refused.
    #[error("no module {name:?}{}", hint(.nearest))]
    NoSuchModule {
        /// The name.
        name: String,
        /// The nearest name that there is.
        nearest: Option<String>,
    },
    /// The file does not load; the version that served before, if any, serves on.
    #[error("{0}")]
    Refused(String),
    /// No new version of the module is on trial.
    #[error("no new version of the module {0:?} is on trial")]
    NoTrial(String),
    /// The directory is no longer followed.
    #[error("the server is stopping")]
    Stopped,
}

/// A trial that was ended by a command.
#[derive(Clone, Debug)]
pub struct TrialEnded {
    /// The version that serves all clients.
    pub serves: Arc<Module>,
    /// The version that serves no longer.
    pub gone: Arc<Module>,
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

type Answer<T> = oneshot::Sender<Result<T, CommandError>>;

/// What the follower is told to do.
pub(super) struct Orders {
    /// Files to look at now.
    pub(super) looks: mpsc::Receiver<Look>,
    /// Trials to end now.
    pub(super) ends: mpsc::Receiver<End>,
}

/// A file to look at.
pub(super) struct Look {
    path: PathBuf,
    /// Whether a file that has not changed is loaded again.
    again: bool,
    /// Since when somebody waits.
    since: Instant,
    answer: Answer<Outcome>,
}

/// A trial to end.
pub(super) struct End {
    /// The file of the module.
    pub(super) path: PathBuf,
    /// In whose favour.
    pub(super) favour: Favour,
    /// `None`: there is no trial.
    pub(super) answer: oneshot::Sender<Option<TrialEnded>>,
}

/// Which version of two serves when a trial is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Favour {
    /// The one on trial.
    New,
    /// The one before.
    Before,
}

/// Gives commands to a directory. Cheap to clone; outlives the directory and says so then.
#[derive(Clone)]
pub struct Commands {
    looks: mpsc::Sender<Look>,
    ends: mpsc::Sender<End>,
    root: Arc<Path>,
    state: Arc<State>,
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

/// Both sides of the queues.
pub(super) fn queues(root: &Path, state: Arc<State>) -> (Commands, Orders) {
    let (looks, to_look) = mpsc::channel(QUEUE);
    let (ends, to_end) = mpsc::channel(QUEUE);
    (Commands { looks, ends, root: root.into(), state }, Orders { looks: to_look, ends: to_end })
}

impl Commands {
    /// Reads, checks and instantiates the module called `name` again, even when its file has not changed, and waits
    /// until that version serves.
    ///
    /// # Errors
    /// [`CommandError::NoSuchModule`]; [`CommandError::Refused`]: the old version serves on; [`CommandError::Stopped`].
    pub async fn reload(&self, name: &str) -> Result<Arc<Module>, CommandError> {
        let path = self.find(name)?;
        match self.send(path, true).await? {
            Outcome::Serves(module) => Ok(module),
            Outcome::Gone => Err(CommandError::Refused("its file is gone: it is unloaded".into())),
        }
    }

    /// Looks at the file `path` now, as if its change had just been noticed, and waits for what comes of it.
    ///
    /// # Errors
    /// [`CommandError::Refused`], [`CommandError::Stopped`].
    pub async fn look(&self, path: PathBuf) -> Result<Outcome, CommandError> {
        self.send(path, false).await
    }

    /// Lets the new version of the module `name`, which is on trial, serve all clients.
    ///
    /// # Errors
    /// [`CommandError::NoSuchModule`], [`CommandError::NoTrial`], [`CommandError::Stopped`].
    pub async fn promote(&self, name: &str) -> Result<TrialEnded, CommandError> {
        self.end(name, Favour::New).await
    }

    /// Lets the version before the one on trial serve all clients of the module `name` again. The new one is not loaded
    /// again until its file changes or [`Self::reload`] says so.
    ///
    /// # Errors
    /// As [`Self::promote`].
    pub async fn roll_back(&self, name: &str) -> Result<TrialEnded, CommandError> {
        self.end(name, Favour::Before).await
    }

    async fn end(&self, name: &str, favour: Favour) -> Result<TrialEnded, CommandError> {
        let path = self.find(name)?;
        let (answer, answered) = oneshot::channel();
        let sent = self.ends.send(End { path, favour, answer }).await;
        sent.map_err(|_| CommandError::Stopped)?;
        let ended = answered.await.map_err(|_| CommandError::Stopped)?;
        ended.ok_or_else(|| CommandError::NoTrial(name.to_owned()))
    }

    /// The file of the module called `name`: one that serves, or one whose newest version was refused.
    ///
    /// # Errors
    /// [`CommandError::NoSuchModule`] with the nearest name.
    pub fn find(&self, name: &str) -> Result<PathBuf, CommandError> {
        let serving = self.state.modules();
        if let Some(module) = serving.iter().find(|module| module.name() == name) {
            return Ok(module.path().to_owned());
        }
        let refused: Vec<PathBuf> = self.state.refusals.lock().keys().cloned().collect();
        let refused: Vec<_> = refused.iter().map(|path| (shown(&self.root, path), path)).collect();
        if let Some((_, path)) = refused.iter().find(|(refused, _)| refused == name) {
            return Ok((*path).clone());
        }
        let names = serving.iter().map(|module| module.name());
        let names = names.chain(refused.iter().map(|(refused, _)| refused.as_str()));
        let nearest = crate::manifest::nearest(name, names).map(str::to_owned);
        Err(CommandError::NoSuchModule { name: name.to_owned(), nearest })
    }

    /// The version that serves from the file `path`.
    pub fn serving(&self, path: &Path) -> Option<Arc<Module>> {
        self.state.serving.lock().get(path).cloned()
    }

    /// Why the newest version of the file `path` does not serve.
    pub fn refusal(&self, path: &Path) -> Option<String> {
        self.state.refusals.lock().get(path).map(|failure| failure.reason.clone())
    }

    /// Whether the file `path` must not go: the version that serves is mandatory, or its manifest says so now.
    pub async fn is_mandatory(&self, path: &Path) -> bool {
        self.serving(path).is_some_and(|module| module.is_mandatory()) || Host::is_mandatory(path).await
    }

    async fn send(&self, path: PathBuf, again: bool) -> Result<Outcome, CommandError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.looks.send(Look { path, again, since: Instant::now(), answer }).await;
        sent.map_err(|_| CommandError::Stopped)?;
        answered.await.map_err(|_| CommandError::Stopped)?
    }
}

/// The commands whose load has not ended.
#[derive(Default)]
pub(super) struct Pending {
    /// For loads that have not begun.
    asked: HashMap<PathBuf, Vec<Look>>,
    /// For loads that have.
    begun: HashMap<PathBuf, Vec<Look>>,
}

impl Pending {
    /// Notes a command; gives the file to load for it.
    pub(super) fn ask(&mut self, command: Look) -> PathBuf {
        let path = command.path.clone();
        self.asked.entry(path.clone()).or_default().push(command);
        path
    }

    /// A load of `path` begins, and answers what was asked before. Gives whether it loads what has not changed.
    pub(super) fn begin(&mut self, path: &Path) -> bool {
        let Some(commands) = self.asked.remove(path) else { return false };
        let again = commands.iter().any(|command| command.again);
        self.begun.entry(path.to_owned()).or_default().extend(commands);
        again
    }

    /// A load of `path` has ended; gives those who wait for it.
    pub(super) fn end(&mut self, path: &Path, result: &Result<Found, LoadError>) -> Told {
        let mut waiting = self.begun.remove(path).unwrap_or_default();
        if let Err(LoadError::Changing(_)) = result {
            // Nobody knows yet what it will be.
            let patient: Vec<Look>;
            (patient, waiting) = waiting.into_iter().partition(|look| look.since.elapsed() < PATIENCE);
            if !patient.is_empty() {
                self.asked.entry(path.to_owned()).or_default().extend(patient);
            }
        }
        let refused = match result {
            // A file that is missing is no failure of a file.
            Err(error) if !is_gone(error, path) => Some(error.to_string()),
            _ => None,
        };
        Told { waiting, refused }
    }

    /// Whether somebody waits for a load of `path` that has not begun.
    pub(super) fn are_asked(&self, path: &Path) -> bool {
        self.asked.contains_key(path)
    }
}

/// Whether `error` says that there is no file at `path`.
pub(super) fn is_gone(error: &LoadError, path: &Path) -> bool {
    // A directory in its place, or a file in the place of its directory, is no module file either.
    let kinds = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory, io::ErrorKind::IsADirectory];
    matches!(error, LoadError::Read { path: missing, source } if missing == path && kinds.contains(&source.kind()))
}

/// Those who wait for the end of a load.
pub(super) struct Told {
    waiting: Vec<Look>,
    refused: Option<String>,
}

impl Told {
    /// Tells them, once the load has taken effect, what `state` holds then.
    pub(super) fn tell(self, state: &State) {
        for command in self.waiting {
            let failure = state.refusals.lock().get(&command.path).map(|failure| failure.reason.clone());
            let serving = state.serving.lock().get(&command.path).cloned();
            let outcome = match (failure.as_ref().or(self.refused.as_ref()), serving) {
                (Some(reason), _) => Err(CommandError::Refused(reason.clone())),
                (None, None) => Ok(Outcome::Gone),
                (None, Some(module)) => Ok(Outcome::Serves(module)),
            };
            // Who no longer waits needs no answer.
            command.answer.send(outcome).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A command for `m.wasm` whose load has begun, given `since`.
    fn begun(since: Instant) -> (Pending, oneshot::Receiver<Result<Outcome, CommandError>>) {
        let (answer, answered) = oneshot::channel();
        let mut pending = Pending::default();
        pending.ask(Look { path: "m.wasm".into(), again: false, since, answer });
        pending.begin(Path::new("m.wasm"));
        (pending, answered)
    }

    #[test]
    fn who_waits_for_a_file_that_changes_is_answered_by_a_later_load_and_not_for_ever() {
        let (path, state) = (Path::new("m.wasm"), State::new(tidegate_event::Tenant::default()));
        let changing = || Err(LoadError::Changing(path.to_owned()));
        let (mut pending, mut answered) = begun(Instant::now());
        pending.end(path, &changing()).tell(&state);
        assert!(answered.try_recv().is_err() && pending.are_asked(path));
        pending.begin(path);
        pending.end(path, &Err(LoadError::Name)).tell(&state);
        assert!(matches!(answered.try_recv().unwrap(), Err(CommandError::Refused(_))));
        assert!(!pending.are_asked(path));

        let Some(long_ago) = Instant::now().checked_sub(PATIENCE) else { return };
        let (mut pending, mut answered) = begun(long_ago);
        pending.end(path, &changing()).tell(&state);
        let Err(CommandError::Refused(reason)) = answered.try_recv().unwrap() else { panic!("refused") };
        assert_eq!(reason, "m.wasm is being written");
        assert!(!pending.are_asked(path));
    }

    #[test]
    fn a_missing_file_is_gone_and_others_are_refused() {
        let (path, state) = (Path::new("m.wasm"), State::new(tidegate_event::Tenant::default()));
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let (mut pending, mut answered) = begun(Instant::now());
        pending.end(path, &Err(LoadError::Read { path: path.into(), source: missing() })).tell(&state);
        assert!(matches!(answered.try_recv().unwrap(), Ok(Outcome::Gone)));
        let (mut pending, mut answered) = begun(Instant::now());
        pending.end(path, &Err(LoadError::Read { path: "m.toml".into(), source: missing() })).tell(&state);
        assert!(matches!(answered.try_recv().unwrap(), Err(CommandError::Refused(_))));
    }
}
