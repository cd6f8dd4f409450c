//! What the commands about files of back ends' configuration do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::files::{Refusal, disabled};
use super::messages::{LoadPlugin, Plugin, PluginChanged, Plugins};
use super::modules::{Controls, blocking, millis};
use crate::config::read_text;
use crate::reload::{FileChange, Reload, Told};

/// Extension of a file of configuration.
const CONF: &str = "conf";

impl Controls {
    pub(super) fn reload_of_back_ends(&self) -> Result<Arc<Reload>, Refusal> {
        self.status.reload().ok_or(Refusal::Unready("the server is starting or stopping: try again"))
    }

    /// Files in use, files that are refused and files that are out of service.
    pub(super) async fn plugins(&self) -> Result<Plugins, Refusal> {
        let reload = self.reload_of_back_ends()?;
        let told = reload.told();
        let dir = reload.dir().clone();
        blocking(move || {
            let mut plugins: Vec<Plugin> = told.files.iter().map(|file| in_use(file, &told)).collect();
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let Ok(file) = entry.file_name().into_string() else { continue };
                let (name, state) = match (file.strip_suffix(".conf"), file.strip_suffix(".conf.disabled")) {
                    (Some(name), _) if !told.files.contains(&entry.path().display().to_string()) => {
                        (name, "refused")
                    }
                    (None, Some(name)) => (name, "unloaded"),
                    _ => continue,
                };
                plugins.push(Plugin {
                    name: name.to_owned(),
                    state: state.into(),
                    path: entry.path(),
                    connectors: Vec::new(),
                    hook_lines: 0,
                });
            }
            plugins.sort_by(|a, b| (&a.name, &a.state).cmp(&(&b.name, &b.state)));
            Ok(Plugins { plugins, refused: told.refused })
        })
        .await
    }

    /// Copies a file into the directory and puts it in use.
    pub(super) async fn load_plugin(&self, request: LoadPlugin) -> Result<PluginChanged, Refusal> {
        let began = Instant::now();
        let reload = self.reload_of_back_ends()?;
        let LoadPlugin { file, replace } = request;
        if !file.is_absolute() {
            return Err(Refusal::Wrong(format!("{}: an absolute path was expected", file.display())));
        }
        let stem = file.file_stem().and_then(|stem| stem.to_str());
        let name =
            stem.filter(|_| file.extension().is_some_and(|e| e == CONF)).unwrap_or_default().to_owned();
        let path = path_of(reload.dir(), &name)?;
        let aside = disabled(&path);
        let _moving = self.moving.lock().await;
        let (target, kept, shown) = (path.clone(), aside.clone(), name.clone());
        let text = blocking(move || {
            let is_there = target.exists();
            if is_there && target.canonicalize().ok() == file.canonicalize().ok() {
                let words = format!("{} is in use already: saving it is enough", file.display());
                return Err(Refusal::Wrong(words));
            }
            if !replace && (is_there || kept.exists()) {
                let state = if is_there { "there:" } else { "unloaded: load it by its name, or" };
                return Err(Refusal::Conflict(format!(
                    "a plugin {shown:?} is {state} say --replace to put this file in its place"
                )));
            }
            read_text(&file).map_err(|source| Refusal::Io { path: file, source })
        })
        .await?;
        let change = FileChange::Put { path: path.clone(), text, aside };
        changed(&reload, name, "loaded", path, change, began).await
    }

    /// Brings a file that was unloaded back into use.
    pub(super) async fn enable_plugin(&self, name: &str) -> Result<PluginChanged, Refusal> {
        let began = Instant::now();
        let reload = self.reload_of_back_ends()?;
        let path = path_of(reload.dir(), name)?;
        let aside = disabled(&path);
        let _moving = self.moving.lock().await;
        let (target, kept, shown) = (path.clone(), aside.clone(), name.to_owned());
        blocking(move || match (kept.exists(), target.exists()) {
            (true, false) => Ok(()),
            (true, true) => {
                let (kept, target) = (kept.display(), target.display());
                Err(Refusal::Conflict(format!("there are both {target} and {kept}: remove one of the two")))
            }
            (false, true) => {
                let words = "is not unloaded; its file is followed, saving it is enough";
                Err(Refusal::Conflict(format!("the plugin {shown:?} {words}")))
            }
            (false, false) => Err(Refusal::Unknown(format!(
                "no plugin {shown:?}: there is no {}; a file to copy in ends in .conf",
                kept.display()
            ))),
        })
        .await?;
        let change = FileChange::Enable { aside, path: path.clone() };
        changed(&reload, name.to_owned(), "loaded", path, change, began).await
    }

    /// Takes a file out of use, over restarts.
    pub(super) async fn unload_plugin(&self, name: &str) -> Result<PluginChanged, Refusal> {
        let began = Instant::now();
        let reload = self.reload_of_back_ends()?;
        let path = path_of(reload.dir(), name)?;
        let aside = disabled(&path);
        let _moving = self.moving.lock().await;
        if !path.exists() {
            let state = if aside.exists() { "is unloaded already" } else { "is not there" };
            return Err(Refusal::Unknown(format!("the plugin {name:?} {state}: {}", path.display())));
        }
        let change = FileChange::Disable { path, aside: aside.clone() };
        changed(&reload, name.to_owned(), "unloaded", aside, change, began).await
    }
}

async fn changed(
    reload: &Arc<Reload>,
    name: String,
    state: &str,
    path: PathBuf,
    change: FileChange,
    began: Instant,
) -> Result<PluginChanged, Refusal> {
    let refused = |lines: Vec<String>| {
        Refusal::Conflict(format!("refused, nothing has changed:\n{}", lines.join("\n")))
    };
    let done = reload.change(change).await.map_err(refused)?;
    let changes = done.changes;
    tracing::info!(name, "plugin {state}");
    Ok(PluginChanged {
        name,
        state: state.into(),
        path,
        added: changes.added,
        changed: changes.changed,
        removed: changes.removed,
        warnings: done.warnings,
        took_ms: millis(began),
    })
}

fn in_use(file: &str, told: &Told) -> Plugin {
    let config = &told.in_use;
    Plugin {
        name: Path::new(file).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
        state: "loaded".into(),
        path: file.into(),
        connectors: config
            .pools
            .iter()
            .filter(|pool| pool.place.file == file)
            .map(tidegate_store::config::PoolConfig::connector)
            .collect(),
        hook_lines: config.hooks.iter().filter(|line| line.place.file == file).count(),
    }
}

/// The file of the plugin `name` in `dir`.
fn path_of(dir: &Path, name: &str) -> Result<PathBuf, Refusal> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        return Err(Refusal::Wrong(format!(
            "{name:?} is no plugin's name: it is that of a .conf file, for instance emqx_backend_redis"
        )));
    }
    Ok(dir.join(format!("{name}.{CONF}")))
}
