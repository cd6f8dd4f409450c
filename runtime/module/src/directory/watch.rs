//! The system's watches: one on every directory of modules, and on those that links lead through.
//!
//! A watch is on a directory, because one on a file ends with the file's inode when another is renamed over it. Watches
//! do not move with a directory, so after every reading of the directories those that are wanted are compared with those
//! that are there.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::changes::{Changes, Map};
use super::files::{Identity, Listing, identity};
use super::links;

/// What is to be watched, by directory, and what a change there means.
struct Plan {
    watches: HashMap<Identity, PathBuf>,
    map: Map,
}

impl Plan {
    fn new(root: &Path, listing: &Listing) -> Self {
        let mut plan = Self { watches: HashMap::new(), map: Map::default() };
        for dir in &listing.directories {
            if let Some(at) = plan.watch(dir) {
                plan.map.directories.entry(at).or_default().push(dir.clone());
            }
        }
        for hop in links::hops(root) {
            plan.hop(&hop, None);
        }
        for (link, module) in &listing.links {
            for hop in links::hops(link) {
                plan.hop(&hop, module.as_deref());
            }
        }
        plan
    }

    /// The path by which the directory `dir` is watched.
    fn watch(&mut self, dir: &Path) -> Option<PathBuf> {
        let own = identity(dir)?;
        let at = self.watches.entry(own).or_insert_with(|| dir.to_owned());
        Some(at.clone())
    }

    /// Something at `hop` decides what `module` is, or which directories there are.
    fn hop(&mut self, hop: &Path, module: Option<&Path>) {
        let (Some(dir), Some(name)) = (hop.parent(), hop.file_name()) else { return };
        let Some(at) = self.watch(dir) else { return };
        let hop: PathBuf = at.join(OsStr::new(name));
        self.map.hops.entry(hop).or_default().push(module.map(Path::to_owned));
    }
}

/// The watches.
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    watched: HashMap<PathBuf, Identity>,
    changes: Arc<Changes>,
    most: usize,
    /// Whether it has been said that not all are watched.
    said: bool,
}

/// What became of the wanted watches.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Synced {
    /// There are new ones: what happened in their directories before is not known.
    pub(super) added: bool,
    /// All wanted ones are there.
    pub(super) complete: bool,
    /// Why not, when that is news.
    pub(super) gap: Option<Gap>,
}

/// Why changes of some directories will not be reported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// As it is counted: `limit` or `error`.
    pub(super) kind: &'static str,
    /// In words.
    pub(super) words: String,
}

impl Watch {
    /// Prepares at most `most` watches.
    ///
    /// # Errors
    /// The system's reason.
    pub(super) fn new(changes: &Arc<Changes>, most: usize) -> notify::Result<Self> {
        let into = changes.clone();
        let watcher = notify::recommended_watcher(move |event| into.record(event))?;
        Ok(Self { watcher, watched: HashMap::new(), changes: changes.clone(), most, said: false })
    }

    /// Makes the watches those that the directories found below `root` want.
    pub(super) fn follow(&mut self, root: &Path, listing: &Listing) -> Synced {
        let plan = Plan::new(root, listing);
        let wanted: HashMap<PathBuf, Identity> =
            plan.watches.into_iter().map(|(own, path)| (path, own)).collect();
        // The watches of a directory that was moved or removed end by themselves, though its return has the same path.
        let lost = self.changes.take_lost();
        let is_stale = |path: &Path, own: &Identity| {
            wanted.get(path) != Some(own) || lost.iter().any(|lost| path.starts_with(lost))
        };
        let stale: Vec<_> = self
            .watched
            .iter()
            .filter(|(path, own)| is_stale(path, own))
            .map(|(path, _)| path.clone())
            .collect();
        for path in stale {
            // It may have ended already.
            drop(self.watcher.unwatch(&path));
            self.watched.remove(&path);
        }
        // Before the watches: their first events are already understood.
        self.changes.explain(Map { watched: wanted.keys().cloned().collect(), ..plan.map });
        let mut synced = Synced { added: false, complete: true, gap: None };
        let mut reason = None;
        for (path, own) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            if self.watched.len() >= self.most {
                reason = Some(("limit", format!("more than {} directories", self.most)));
                continue;
            }
            match self.watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path, own);
                    synced.added = true;
                }
                // It went again: that is a change to come.
                Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => self.changes.rescan(),
                Err(error) => {
                    let kind = if matches!(error.kind, ErrorKind::MaxFilesWatch) { "limit" } else { "error" };
                    reason = Some((kind, error.to_string()));
                }
            }
        }
        match reason {
            None => self.said = false,
            Some((kind, reason)) => {
                synced.complete = false;
                if !std::mem::replace(&mut self.said, true) {
                    let words = format!(
                        "not all directories of modules are watched, they are read every second instead: {reason}"
                    );
                    synced.gap = Some(Gap { kind, words });
                }
            }
        }
        synced
    }
}
