//! The back ends' configuration, put in place while the server runs.
//!
//! A change is all or nothing: every file is read and checked, new pools are opened, custom statements are checked by
//! their databases; only then the hook table and the connectors are replaced. When anything is wrong, all of the old
//! configuration stays, and what is wrong is logged, counted and shown by the commands.

mod file_change;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use metrics::{counter, gauge};
use parking_lot::Mutex;
use tidegate_broker::ListenerConfig;
use tidegate_store::config::{Diagnostic, Loaded, StoreConfig};
use tidegate_store::{Changes, Stores};

pub(crate) use file_change::FileChange;
pub(crate) use watch::{Seen, follow};

use crate::backends::Sources;
use crate::config::{Config, KEYS, Key, Listener, Overrides};
use crate::handlers::Handlers;
use crate::status::Status;

/// Counts configurations that were looked at.
pub(crate) const RELOADS: &str = "tidegate_config_reloads_total";
/// 1 while the files hold a configuration that was refused.
pub(crate) const REFUSED: &str = "tidegate_config_refused";

/// Puts configurations in place, one after the other.
pub(crate) struct Reload {
    /// As it was at the start: places and limits do not change while the server runs.
    config: Config,
    overrides: Overrides,
    stores: Arc<Stores>,
    handlers: Arc<Handlers>,
    status: Arc<Status>,
    one_at_a_time: tokio::sync::Mutex<()>,
    told: Mutex<Told>,
}

/// What there is to tell about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// The configuration in use.
    pub(crate) in_use: StoreConfig,
    /// The `.conf` files that it is from.
    pub(crate) files: Vec<String>,
    /// What is wrong with the newest one; nothing when it is the one in use.
    pub(crate) refused: Vec<String>,
    /// Warnings of the one in use, and keys that wait for the next start.
    warnings: BTreeSet<String>,
}

/// What came of a change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    pub(crate) changes: Changes,
    /// Warnings that the configuration before had not.
    pub(crate) warnings: Vec<String>,
}

impl Reload {
    /// With `loaded`, of `files`, in use.
    pub(crate) fn new(
        config: Config,
        overrides: Overrides,
        (files, loaded): (Vec<String>, Loaded),
        stores: Arc<Stores>,
        handlers: Arc<Handlers>,
        status: Arc<Status>,
    ) -> Self {
        let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
        let told = Told { in_use: loaded.config, files, warnings, ..Told::default() };
        gauge!(REFUSED).set(0.0);
        Self {
            config,
            overrides,
            stores,
            handlers,
            status,
            one_at_a_time: tokio::sync::Mutex::default(),
            told: Mutex::new(told),
        }
    }

    /// What there is to tell.
    pub(crate) fn told(&self) -> Told {
        self.told.lock().clone()
    }

    /// The directory of `.conf` files.
    pub(crate) fn dir(&self) -> &PathBuf {
        &self.config.conf_dir
    }

    /// The connectors.
    pub(crate) fn stores(&self) -> &Arc<Stores> {
        &self.stores
    }

    /// Reads all files and puts what they say in place.
    ///
    /// # Errors
    /// What is wrong, a line each: nothing has changed.
    pub(crate) async fn reload(&self) -> Result<Done, Vec<String>> {
        let _only = self.one_at_a_time.lock().await;
        let result = self.put_in_place(None).await;
        let mut told = self.told.lock();
        match &result {
            Ok(done) => {
                counter!(RELOADS, "result" => "ok").increment(1);
                tracing::info!(
                    added = done.changes.added.join(" "),
                    changed = done.changes.changed.join(" "),
                    removed = done.changes.removed.join(" "),
                    hook_lines = told.in_use.hooks.len(),
                    "configuration of back ends changed"
                );
            }
            Err(lines) => {
                counter!(RELOADS, "result" => "refused").increment(1);
                for line in lines {
                    tracing::error!("configuration refused, the one before stays in use: {line}");
                }
                told.refused = lines.clone();
                gauge!(REFUSED).set(1.0);
            }
        }
        result
    }

    /// Makes a change of the files, and puts what they say then in place: both or neither.
    ///
    /// # Errors
    /// What is wrong, a line each: neither a file nor anything else has changed.
    pub(crate) async fn change(&self, change: FileChange) -> Result<Done, Vec<String>> {
        let _only = self.one_at_a_time.lock().await;
        let done = self.put_in_place(Some(change)).await?;
        counter!(RELOADS, "result" => "ok").increment(1);
        Ok(done)
    }

    async fn put_in_place(&self, change: Option<FileChange>) -> Result<Done, Vec<String>> {
        let began = Instant::now();
        let (files, loaded, later, change) = self.read(change).await?;
        let prepared = self.stores.prepare(&loaded.config).await.map_err(|problems| listed(&problems))?;
        if let Some(change) = change
            && let Err(error) = blocking(move || change.make()).await
        {
            prepared.discard().await;
            return Err(vec![error]);
        }
        // Events in flight have the old table, and with it the old connectors.
        self.handlers.set_actions(prepared.actions());
        let changes = self.stores.commit(prepared);
        tracing::debug!(took = ?began.elapsed(), ?changes, "configuration in place");
        let warnings: BTreeSet<String> =
            loaded.warnings.iter().map(ToString::to_string).chain(later).collect();
        let mut told = self.told.lock();
        let fresh: Vec<String> = warnings.difference(&told.warnings).cloned().collect();
        for warning in &fresh {
            tracing::warn!("{warning}");
        }
        *told = Told { in_use: loaded.config, files, warnings, ..Told::default() };
        drop(told);
        gauge!(REFUSED).set(0.0);
        if !changes.added.is_empty() {
            self.retry_modules();
        }
        Ok(Done { changes, warnings: fresh })
    }

    /// Reads and checks everything, as if `change` were made. Gives the names of the `.conf` files, what they say, and
    /// what is different and waits for the next start.
    async fn read(
        &self,
        change: Option<FileChange>,
    ) -> Result<(Vec<String>, Loaded, Vec<String>, Option<FileChange>), Vec<String>> {
        let (config, overrides) = (self.config.clone(), self.overrides.clone());
        let had_files = !self.told.lock().files.is_empty();
        let read = move || {
            let (mut new, problems) = Config::load(overrides);
            if !problems.is_empty() {
                return Err(listed(&problems));
            }
            let later = waiting_for_a_start(&config, &new);
            new.conf_dir.clone_from(&config.conf_dir);
            new.data_dir.clone_from(&config.data_dir);
            if had_files && change.is_none() && !new.conf_dir.exists() {
                let dir = new.conf_dir.display();
                return Err(vec![format!("{dir}: the directory is gone: what its files said stays in use")]);
            }
            let mut sources = Sources::read(&new);
            if let Some(change) = &change {
                change.pretend(&mut sources)?;
            }
            let names = sources.names();
            let loaded = sources.resolve(&new).map_err(|problems| listed(&problems))?;
            Ok((names, loaded, later, change))
        };
        blocking(move || Ok(read())).await.unwrap_or_else(|error| Err(vec![error]))
    }

    /// Modules that did not load may have wanted a connector that is there now.
    fn retry_modules(&self) {
        let Some(commands) = self.status.commands() else { return };
        let failures = self.status.modules().failures;
        let wanting = failures.into_iter().filter(|failure| failure.error.contains("no connector"));
        let names: Vec<String> = wanting
            .filter_map(|failure| PathBuf::from(failure.path).file_stem()?.to_str().map(str::to_owned))
            .collect();
        if names.is_empty() {
            return;
        }
        tokio::spawn(async move {
            for name in names {
                match commands.reload(&name).await {
                    Ok(module) => {
                        tracing::info!(name = module.name(), "module loaded: its connector is there now")
                    }
                    Err(error) => tracing::debug!(name, %error, "module tried again"),
                }
            }
        });
    }
}

/// Keys whose new values wait for the next start, and listeners.
fn waiting_for_a_start(old: &Config, new: &Config) -> Vec<String> {
    let file = new.file.as_ref().map_or("tidegate.toml", |file| &*file.name);
    let is_changed = |key: &&Key| (key.show)(old) != (key.show)(new);
    let keys = KEYS.iter().filter(is_changed).map(|key| format!("{}.{} has changed", key.section, key.name));
    keys.chain(changed_listeners(&old.listeners, &new.listeners))
        .map(|change| format!("{file}: {change}: it takes effect at the next start"))
        .collect()
}

/// What is different about listeners; where their tables stand is not.
fn changed_listeners(old: &[Listener], new: &[Listener]) -> Vec<String> {
    fn named<'a>(all: &'a [Listener], name: &str) -> Option<&'a ListenerConfig> {
        all.iter().map(|listener| &listener.config).find(|config| config.name == name)
    }
    let words = |name: &str, what| format!("[[broker.listener]] {name:?} {what}");
    let is_there = new.iter().filter_map(|Listener { config, .. }| match named(old, &config.name) {
        Some(before) if before == config => None,
        Some(_) => Some(words(&config.name, "has changed")),
        None => Some(words(&config.name, "was added")),
    });
    let is_gone = old.iter().map(|listener| &*listener.config.name).filter(|name| named(new, name).is_none());
    is_there.chain(is_gone.map(|name| words(name, "was removed"))).collect()
}

fn listed(problems: &[Diagnostic]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Runs `work` on the file system where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|_| Err("reading the configuration panicked: see the log".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Only the table of keys was looked at: a listener that was added or changed was passed over in silence.
    #[test]
    fn listeners_that_are_other_ones_wait_for_a_start_like_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let (config, problems) =
                Config::load(Overrides { file: Some(path.clone()), ..Overrides::default() });
            assert!(problems.is_empty(), "{problems:?}");
            config
        };
        let listener = |name: &str, port: u16, rest: &str| {
            format!("[[broker.listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n{rest}\n")
        };
        let (mqtt, ws) = ("kind = \"mqtt\"", "kind = \"ws\"\npath = \"/x\"");
        let old = load(&[listener("a", 1, mqtt), listener("b", 2, mqtt), listener("c", 3, ws)].concat());
        let moved = load(
            &["# x\n", &listener("c", 3, ws), &listener("b", 2, mqtt), &listener("a", 1, mqtt)].concat(),
        );
        assert!(waiting_for_a_start(&old, &moved).is_empty());
        let other = listener("c", 3, "kind = \"ws\"\npath = \"/y\"");
        let new = load(
            &["[broker]\nmax_inflight = 7\n", &listener("b", 2, mqtt), &other, &listener("d", 1, mqtt)]
                .concat(),
        );
        let expected = [
            "broker.max_inflight has changed",
            "[[broker.listener]] \"c\" has changed",
            "[[broker.listener]] \"d\" was added",
            "[[broker.listener]] \"a\" was removed",
        ];
        let line = |what: &&str| format!("{}: {what}: it takes effect at the next start", path.display());
        assert_eq!(waiting_for_a_start(&old, &new), expected.iter().map(line).collect::<Vec<_>>());
    }
}
