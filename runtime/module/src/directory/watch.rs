//! What the system says about a directory: which modules may have changed, and when it was first noticed.
//!
//! The watch is on the directory, because a watch on a file ends with the file's inode when another is renamed
//! over it. A file is complete when its writer closes it or renames it into place; the events in between are
//! of no use.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Changes that have been reported and not yet been looked at. Bounded by the number of files.
#[derive(Default)]
pub(super) struct Changes {
    pending: Mutex<Batch>,
    news: Notify,
}

/// What changed.
#[derive(Default)]
pub(super) struct Batch {
    /// Modules (by the path of their `.wasm`), and when the first change was seen.
    pub(super) modules: HashMap<PathBuf, Instant>,
    /// Something happened that names no module: read the directory.
    pub(super) rescan: bool,
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

    fn module(&self, wasm: PathBuf) {
        self.pending.lock().modules.entry(wasm).or_insert_with(Instant::now);
        self.news.notify_one();
    }

    fn rescan(&self) {
        self.pending.lock().rescan = true;
        self.news.notify_one();
    }

    fn record(&self, dir: &Path, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) if event.need_rescan() => return self.rescan(),
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "watching modules failed: the directory is read again");
                return self.rescan();
            }
        };
        for path in &event.paths {
            if !matters(event.kind, path) {
                continue;
            }
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("wasm") if path != dir => self.module(path.clone()),
                Some("toml") if path != dir => self.module(path.with_extension("wasm")),
                // The directory itself, or a link that module files point through.
                _ if !matches!(event.kind, EventKind::Access(_)) => self.rescan(),
                _ => {}
            }
        }
    }
}

/// Whether the file at `path` may be complete, or gone, after an event of this kind.
fn matters(kind: EventKind, path: &Path) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) => true,
        EventKind::Modify(ModifyKind::Name(
            RenameMode::From | RenameMode::To | RenameMode::Both | RenameMode::Any | RenameMode::Other,
        )) => true,
        EventKind::Create(CreateKind::Folder) => true,
        // Nothing will be written to a link: a symbolic one, or another name of a file that is complete.
        EventKind::Create(_) => {
            fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink() || found.nlink() > 1)
        }
        _ => false,
    }
}

/// A watch on a directory that exists.
pub(super) struct Watch {
    /// Device and inode: a directory that was removed and made again needs another watch.
    identity: (u64, u64),
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Watches `dir`. `None`: there is no such directory.
    ///
    /// # Errors
    /// The system's reason, when it exists and cannot be watched.
    pub(super) fn start(dir: &Path, changes: &Arc<Changes>) -> notify::Result<Option<Self>> {
        let Some(identity) = identity(dir) else { return Ok(None) };
        let (root, into) = (dir.to_owned(), changes.clone());
        let mut watcher = notify::recommended_watcher(move |event| into.record(&root, event))?;
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        Ok(Some(Self { identity, _watcher: watcher }))
    }

    /// Whether `dir` is still the directory that is watched.
    pub(super) fn is_of(&self, dir: &Path) -> bool {
        identity(dir) == Some(self.identity)
    }
}

fn identity(dir: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(dir).ok().filter(fs::Metadata::is_dir)?;
    Some((found.dev(), found.ino()))
}
