//! What the commands about modules do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tidegate_module::{CommandError, Commands, Inspection, Module, Outcome, Terms};
use tokio::sync::Mutex;

use super::files::{self, Refusal};
use super::install::install;
use super::messages::{Inspected, Listing, LoadFile, Served, TrialEnded, Unloaded};
use crate::config::Config;
use crate::logging::module_lines::ModuleLines;
use crate::status::Status;

/// What the commands work on.
pub struct Controls {
    pub(super) status: Arc<Status>,
    lines: Arc<ModuleLines>,
    /// The modules directory, absolute.
    dir: PathBuf,
    max_module_bytes: u64,
    /// Commands that move files follow each other.
    pub(super) moving: Mutex<()>,
}

impl std::fmt::Debug for Controls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controls").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::NoSuchModule { .. } => Self::Unknown(error.to_string()),
            CommandError::Refused(reason) => Self::Conflict(reason),
            CommandError::NoTrial(_) => Self::Conflict(error.to_string()),
            CommandError::Stopped => Self::Unready("the server is stopping"),
        }
    }
}

impl Controls {
    /// For a node that is told about by `status` and writes to `lines`.
    pub fn new(config: &Config, status: Arc<Status>, lines: Arc<ModuleLines>) -> Self {
        let dir = &config.modules_dir;
        Self {
            status,
            lines,
            dir: std::path::absolute(dir).unwrap_or_else(|_| dir.clone()),
            max_module_bytes: config.host.max_module_bytes,
            moving: Mutex::new(()),
        }
    }

    fn commands(&self) -> Result<Commands, Refusal> {
        self.status.commands().ok_or(Refusal::Unready("the server is starting or stopping: try again"))
    }

    /// The open stores.
    pub(super) fn stores(&self) -> Result<Arc<tidegate_store::Stores>, Refusal> {
        self.status.stores().ok_or(Refusal::Unready("the server is starting or stopping: try again"))
    }

    /// Modules as the API tells them, and those out of service.
    pub(super) async fn list(&self) -> Result<Listing, Refusal> {
        let dir = self.dir.clone();
        let unloaded = blocking(move || Ok(files::unloaded(&dir))).await?;
        Ok(Listing { modules: self.status.modules(), unloaded })
    }

    /// Copies a file into the directory and waits until that very content serves.
    pub(super) async fn load(&self, request: LoadFile) -> Result<Served, Refusal> {
        let began = Instant::now();
        let commands = self.commands()?;
        if !request.file.is_absolute() {
            return Err(Refusal::Wrong(format!("{}: an absolute path was expected", request.file.display())));
        }
        let name = files::name_of(&request.file)?;
        let moving = self.moving.lock().await;
        let known = commands.find(&name).ok();
        let to = match &known {
            Some(path) => path.clone(),
            None => files::path_of(&self.dir, &name)?,
        };
        let aside = files::disabled(&to);
        let (is_there, is_aside) = (exists(&to).await, exists(&aside).await);
        if !request.replace && (known.is_some() || is_there || is_aside) {
            let state = if is_aside && !is_there { "unloaded: load it by its name, or" } else { "there:" };
            return Err(Refusal::Conflict(format!(
                "a module {name:?} is {state} say --replace to put this file in its place"
            )));
        }
        let before = version(&commands, &to);
        let (from, target, limit) = (request.file, to.clone(), self.max_module_bytes);
        let hash = blocking(move || {
            let installed = install(&from, &target, limit)?;
            // Replaced: it must not come back in the place of its successor.
            if let Err(source) = std::fs::remove_file(&aside)
                && source.kind() != std::io::ErrorKind::NotFound
            {
                return Err(Refusal::Io { path: aside, source });
            }
            Ok(installed.keep())
        })
        .await?;
        drop(moving);
        let module = self.serves(&commands, to).await?;
        if module.hash() != hash.to_hex().as_str() {
            return Err(Refusal::Conflict(format!(
                "another file was saved in its place meanwhile: version {} serves",
                module.short_hash()
            )));
        }
        Ok(served(&module, before, began))
    }

    /// Brings a module that was unloaded back into service.
    pub(super) async fn enable(&self, name: &str) -> Result<Served, Refusal> {
        let began = Instant::now();
        let commands = self.commands()?;
        let to = files::path_of(&self.dir, name)?;
        let moving = self.moving.lock().await;
        let (aside, path, dir) = (files::disabled(&to), to.clone(), self.dir.clone());
        let is_known = commands.find(name).is_ok();
        let wanted = name.to_owned();
        blocking(move || {
            if aside.exists() {
                return files::rename(&aside, &path);
            }
            if is_known || path.exists() {
                let advice = "is not unloaded; to load it again say `tidegate modules reload`";
                return Err(Refusal::Conflict(format!("the module {wanted:?} {advice}")));
            }
            let unloaded = files::unloaded(&dir);
            let known = if unloaded.is_empty() { "none is".to_owned() } else { unloaded.join(", ") };
            Err(Refusal::Unknown(format!(
                "no module {wanted:?} is unloaded ({known}); a file's name ends in .wasm"
            )))
        })
        .await?;
        drop(moving);
        let module = self.serves(&commands, to).await?;
        Ok(served(&module, None, began))
    }

    /// Takes a module out of service and waits until it no longer serves.
    pub(super) async fn unload(&self, name: &str) -> Result<Unloaded, Refusal> {
        let began = Instant::now();
        let commands = self.commands()?;
        let moving = self.moving.lock().await;
        let path = commands.find(name)?;
        if commands.is_mandatory(&path).await {
            return Err(Refusal::Conflict(format!(
                "the module {name:?} is mandatory and is not unloaded: take `mandatory = true` out of its manifest first"
            )));
        }
        let aside = files::disabled(&path);
        let (from, to) = (path.clone(), aside.clone());
        blocking(move || files::rename(&from, &to)).await?;
        drop(moving);
        match commands.look(path).await? {
            Outcome::Gone => {}
            Outcome::Serves(module) => {
                let version = module.short_hash();
                return Err(Refusal::Conflict(format!(
                    "another file was saved meanwhile: version {version} serves"
                )));
            }
        }
        let took_ms = millis(began);
        Ok(Unloaded { name: name.to_owned(), path: aside, took_ms })
    }

    /// Loads a module again, changed or not, and waits until it serves.
    pub(super) async fn reload(&self, name: &str) -> Result<Served, Refusal> {
        let began = Instant::now();
        let commands = self.commands()?;
        let before = version(&commands, &commands.find(name)?);
        let module = commands.reload(name).await?;
        Ok(served(&module, before, began))
    }

    /// Ends a trial in favour of the new version.
    pub(super) async fn promote(&self, name: &str) -> Result<TrialEnded, Refusal> {
        Ok(trial_ended(name, &self.commands()?.promote(name).await?))
    }

    /// Ends a trial in favour of the version before.
    pub(super) async fn roll_back(&self, name: &str) -> Result<TrialEnded, Refusal> {
        Ok(trial_ended(name, &self.commands()?.roll_back(name).await?))
    }

    /// Everything about a module.
    pub(super) async fn inspect(&self, name: &str) -> Result<Inspected, Refusal> {
        let commands = self.commands()?;
        let known = commands.find(name);
        let (path, file, unloaded) = match (known, files::path_of(&self.dir, name)) {
            (Ok(path), _) => (path.clone(), path, false),
            (Err(error), Ok(path)) => {
                let aside = files::disabled(&path);
                if !exists(&aside).await {
                    return Err(error.into());
                }
                (path, aside, true)
            }
            (Err(error), Err(_)) => return Err(error.into()),
        };
        let (wasm, read, limit) = (path.clone(), file.clone(), self.max_module_bytes);
        let (found, requested) = blocking(move || look_at(&read, &wasm, limit)).await?;
        let serving = commands.serving(&path);
        Ok(Inspected {
            name: name.to_owned(),
            path: file,
            file: found,
            requested,
            granted: serving.as_ref().map(|module| module.terms()),
            serving: serving.as_ref().map(|module| crate::status::report(module)),
            failure: commands.refusal(&path),
            unloaded,
        })
    }

    /// Where the lines of the module `name` are.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] when nobody has heard of it.
    pub(super) fn lines(&self, name: &str) -> Result<Arc<ModuleLines>, Refusal> {
        if !self.lines.knows(name) {
            self.commands()?.find(name)?;
        }
        Ok(self.lines.clone())
    }

    async fn serves(&self, commands: &Commands, path: PathBuf) -> Result<Arc<Module>, Refusal> {
        let old = version(commands, &path);
        match (commands.look(path).await, old) {
            (Ok(Outcome::Serves(module)), _) => Ok(module),
            (Ok(Outcome::Gone), _) => Err(Refusal::Conflict("the file was taken away again".into())),
            (Err(CommandError::Refused(reason)), Some(old)) => {
                let old: String = old.chars().take(12).collect();
                Err(Refusal::Conflict(format!("refused, version {old} serves on: {reason}")))
            }
            (Err(CommandError::Refused(reason)), None) => {
                Err(Refusal::Conflict(format!("refused: {reason}")))
            }
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// Reads the module in `file` and the manifest beside `wasm`, where the file lies when it is in service. What is wrong
/// with the manifest is added to the refusals.
pub(crate) fn look_at(file: &Path, wasm: &Path, limit: u64) -> Result<(Inspection, Option<Terms>), Refusal> {
    let mut found = Inspection::of(&files::read_bounded(file, limit)?);
    let requested = match Terms::requested(wasm) {
        Ok(terms) => terms,
        Err(error) => {
            found.refusals.push(error.to_string());
            return Ok((found, None));
        }
    };
    for hook in requested.hooks.iter().flatten().map(|terms| &terms.hook) {
        if !found.hooks.contains(hook) {
            let exported = found.hooks.join(", ");
            found
                .refusals
                .push(format!("its manifest names {hook}, which it does not export; it exports {exported}"));
        }
    }
    Ok((found, Some(requested)))
}

fn version(commands: &Commands, path: &Path) -> Option<String> {
    commands.serving(path).map(|module| module.hash().to_owned())
}

fn served(module: &Module, before: Option<String>, began: Instant) -> Served {
    let loading = module.loading();
    Served {
        name: module.name().to_owned(),
        version: module.hash().to_owned(),
        path: module.path().to_owned(),
        before,
        took_ms: millis(began),
        compile_ms: u64::try_from(loading.compile.as_millis()).unwrap_or(u64::MAX),
        from_cache: loading.from_cache,
    }
}

fn trial_ended(name: &str, ended: &tidegate_module::TrialEnded) -> TrialEnded {
    TrialEnded {
        name: name.to_owned(),
        version: ended.serves.hash().to_owned(),
        gone: ended.gone.hash().to_owned(),
    }
}

pub(super) fn millis(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Whether there is such a file, as far as can be told.
async fn exists(path: &Path) -> bool {
    tokio::fs::try_exists(path).await.unwrap_or(false)
}

/// Runs `work` on the file system where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or(Err(Refusal::Unready("the command panicked: see the log")))
}
