//! What the system says about the directories: which modules may have changed, and when it was first noticed.
//!
//! A file is complete when its writer closes it or renames it into place. From its first write to that moment it is
//! known to be in the works, so that a reading of the directories for another reason does not take it half-written.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::meters;

/// Changes that have been reported and not yet been looked at. Bounded by the number of files.
#[derive(Default)]
pub(super) struct Changes {
    pending: Mutex<Batch>,
    news: Notify,
    known: Mutex<Known>,
}

/// What changed.
#[derive(Default)]
pub(super) struct Batch {
    /// Modules (by the path of their `.wasm`), and when the first change was seen.
    pub(super) modules: HashMap<PathBuf, Instant>,
    /// Something happened that names no module: read the directories.
    pub(super) rescan: bool,
}

/// What a change at a watched path means.
#[derive(Default)]
pub(super) struct Map {
    /// Paths of all watched directories.
    pub(super) watched: Vec<PathBuf>,
    /// Directories of modules, by the path they are watched at: the paths by which they are reached.
    pub(super) directories: HashMap<PathBuf, Vec<PathBuf>>,
    /// What links lead through: the modules reached by it, `None` for directories.
    pub(super) hops: HashMap<PathBuf, Vec<Option<PathBuf>>>,
}

#[derive(Default)]
struct Known {
    map: Map,
    /// Files that have been written to and not closed, with the modules they are of.
    writing: HashMap<PathBuf, Vec<PathBuf>>,
    /// Directories whose watches are gone.
    lost: Vec<PathBuf>,
    /// Whether it has been said that the system dropped changes.
    overflowed: bool,
}

/// What a change concerns.
#[derive(Default)]
struct Concerns {
    modules: Vec<PathBuf>,
    /// Names that are of no module: which directories and links there are may be different.
    others: bool,
}

impl Known {
    fn concerns(&self, path: &Path) -> Concerns {
        let mut found = Concerns::default();
        if let Some(hops) = self.map.hops.get(path) {
            for hop in hops {
                match hop {
                    Some(module) => found.modules.push(module.clone()),
                    None => found.others = true,
                }
            }
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return found };
        for dir in self.map.directories.get(parent).into_iter().flatten() {
            let own = dir.join(name);
            match own.extension().and_then(|extension| extension.to_str()) {
                Some("wasm") => found.modules.push(own),
                Some("toml") => found.modules.push(own.with_extension("wasm")),
                _ => found.others = true,
            }
        }
        found
    }
}

impl Changes {
    /// Waits until there are changes.
    pub(super) async fn wait(&self) {
        self.news.notified().await;
    }

    /// Takes all changes so far.
    pub(super) fn take(&self) -> Batch {
        std::mem::take(&mut self.pending.lock())
    }

    /// Whether a file of the module at `wasm` has been written to and not closed.
    pub(super) fn is_writing(&self, wasm: &Path) -> bool {
        self.known.lock().writing.values().flatten().any(|module| module == wasm)
    }

    /// Says what changes mean from now on.
    pub(super) fn explain(&self, map: Map) {
        let mut known = self.known.lock();
        known.map = map;
        // Where nothing is watched no end of a write is reported.
        let Known { map, writing, .. } = &mut *known;
        writing.retain(|path, _| path.parent().is_some_and(|dir| map.watched.iter().any(|at| at == dir)));
    }

    /// Takes the directories whose watches are gone.
    pub(super) fn take_lost(&self) -> Vec<PathBuf> {
        std::mem::take(&mut self.known.lock().lost)
    }

    /// The directories are to be read.
    pub(super) fn rescan(&self) {
        self.pending.lock().rescan = true;
        self.news.notify_one();
    }

    fn module(&self, wasm: PathBuf) {
        self.pending.lock().modules.entry(wasm).or_insert_with(Instant::now);
        self.news.notify_one();
    }

    /// Something happened, says the system.
    pub(super) fn record(&self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) if event.need_rescan() => return self.overflow(),
            Ok(event) => event,
            Err(error) => {
                meters::missed("error");
                tracing::warn!(%error, "watching modules failed: their directories are read again");
                return self.rescan();
            }
        };
        for path in &event.paths {
            self.changed(event.kind, path);
        }
    }

    /// The system dropped changes, perhaps the ends of writes.
    fn overflow(&self) {
        meters::missed("overflow");
        let mut known = self.known.lock();
        known.writing.clear();
        // Every watch may be of a directory that has moved since.
        known.lost = known.map.watched.clone();
        if !std::mem::replace(&mut known.overflowed, true) {
            tracing::warn!(
                "more changes in the modules' directories than the system keeps: they are read again"
            );
        }
        drop(known);
        self.rescan();
    }

    fn changed(&self, kind: EventKind, path: &Path) {
        let mut known = self.known.lock();
        if matches!(kind, EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any)) {
            let concerns = known.concerns(path);
            if !concerns.modules.is_empty() {
                known.writing.insert(path.to_owned(), concerns.modules);
            }
            return;
        }
        let closed = matches!(kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
        let named = matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        let link = matches!(kind, EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_)))
            && fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        // Nothing will be written to a link: a symbolic one, or another name of a file that is complete.
        let created = match kind {
            EventKind::Create(CreateKind::Folder) => true,
            EventKind::Create(_) => link || fs::metadata(path).is_ok_and(|found| found.nlink() > 1),
            _ => false,
        };
        if !(closed || named || created) {
            return;
        }
        known.writing.remove(path);
        let mut concerns = known.concerns(path);
        if named && known.map.watched.iter().any(|at| at.starts_with(path)) {
            known.lost.push(path.to_owned());
            concerns.others = true;
        }
        drop(known);
        // What a link leads through is to be watched; what looks like a module may be a directory.
        if link || (concerns.others && !closed) || matches!(kind, EventKind::Create(CreateKind::Folder)) {
            self.rescan();
        }
        for module in concerns.modules {
            self.module(module);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use notify::event::{DataChange, Flag, RemoveKind, RenameMode};

    use super::*;

    const WRITE: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSE: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

    fn watching() -> Changes {
        let changes = Changes::default();
        let mut map = Map { watched: vec!["/m".into(), "/m/sub".into(), "/far".into()], ..Map::default() };
        map.directories.insert("/m".into(), vec!["/m".into()]);
        map.directories.insert("/m/sub".into(), vec!["/m/sub".into(), "/m/link".into()]);
        map.hops.insert("/far/target".into(), vec![Some("/m/a.wasm".into())]);
        map.hops.insert("/far/dir".into(), vec![None]);
        changes.explain(map);
        changes
    }

    fn after(changes: &Changes, kind: EventKind, path: &str) -> (Vec<String>, bool) {
        changes.record(Ok(Event::new(kind).add_path(path.into())));
        let batch = changes.take();
        let mut modules: Vec<_> = batch.modules.keys().map(|path| path.display().to_string()).collect();
        modules.sort();
        (modules, batch.rescan)
    }

    #[test]
    fn a_file_is_complete_when_it_is_closed() {
        let changes = watching();
        for _ in 0..3 {
            assert_eq!(after(&changes, WRITE, "/m/a.wasm"), (vec![], false));
            assert!(changes.is_writing(Path::new("/m/a.wasm")));
        }
        assert_eq!(after(&changes, WRITE, "/m/a.toml"), (vec![], false));
        assert_eq!(after(&changes, CLOSE, "/m/a.toml"), (vec!["/m/a.wasm".into()], false));
        assert!(changes.is_writing(Path::new("/m/a.wasm")), "the other file is still open");
        after(&changes, CLOSE, "/m/a.wasm");
        assert!(!changes.is_writing(Path::new("/m/a.wasm")));
        assert_eq!(after(&changes, CLOSE, "/m/notes.txt"), (vec![], false));
    }

    #[test]
    fn a_directory_reached_twice_changes_twice_and_a_target_changes_its_module() {
        let changes = watching();
        assert_eq!(
            after(&changes, CLOSE, "/m/sub/x.wasm"),
            (vec!["/m/link/x.wasm".into(), "/m/sub/x.wasm".into()], false)
        );
        assert_eq!(after(&changes, CLOSE, "/far/target"), (vec!["/m/a.wasm".into()], false));
        assert_eq!(after(&changes, CLOSE, "/far/other.wasm"), (vec![], false));
        let to = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert_eq!(after(&changes, to, "/far/dir"), (vec![], true));
        assert_eq!(after(&changes, to, "/far/other"), (vec![], false));
    }

    #[test]
    fn a_directory_that_goes_loses_its_watch() {
        let changes = watching();
        let gone = EventKind::Remove(RemoveKind::Folder);
        assert_eq!(after(&changes, gone, "/m/sub"), (vec![], true));
        assert_eq!(changes.take_lost(), [PathBuf::from("/m/sub")]);
        assert_eq!(
            after(&changes, EventKind::Remove(RemoveKind::File), "/m/a.wasm"),
            (vec!["/m/a.wasm".into()], false)
        );
        assert!(changes.take_lost().is_empty());
    }

    #[test]
    fn an_overflow_makes_everything_doubtful() {
        let changes = watching();
        after(&changes, WRITE, "/m/a.wasm");
        changes.record(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        assert!(changes.take().rescan && !changes.is_writing(Path::new("/m/a.wasm")));
        assert_eq!(changes.take_lost().len(), 3);
    }
}
