//! What of the follower asks the file system: it may wait for a disk or a network, so it does so on a blocking thread.
//!
//! The follower waits for the answer and meanwhile does nothing else that concerns files. So what it knows is never older
//! than what it has already acted on, and changes are acted on in the order in which they were looked at. Trials go on,
//! and are ended: they are about what is loaded, and a file system that hangs must not keep a bad version serving.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::changes::{Batch, Changes};
use super::files::{self, Listing, Stamp};
use super::watch::{Gap, Synced, Watch};

/// How often in a row the directories are read because new ones have come.
const ROUNDS: usize = 10;

/// Looks at directories and keeps the watches on them.
pub(super) struct Scout {
    dir: PathBuf,
    /// Whether links are followed.
    links: bool,
    most_watches: usize,
    changes: Arc<Changes>,
    watch: Option<Watch>,
    /// Whether it has been said that the directory cannot be watched.
    unwatched: bool,
}

/// What the directories hold.
pub(super) struct Report {
    pub(super) found: io::Result<Listing>,
    /// Whether every directory is watched.
    pub(super) watched: bool,
    /// Why not, when that is news.
    pub(super) gaps: Vec<Gap>,
}

/// What changed, looked at.
pub(super) struct Looked {
    /// Modules, with what their files look like and since when they are changed. Those that are gone come first: a file
    /// that was moved is not to serve under two names.
    pub(super) modules: Vec<(PathBuf, Stamp, Instant)>,
    /// The directories are to be read.
    pub(super) rescan: bool,
}

impl Scout {
    pub(super) fn new(dir: &Path, links: bool, most_watches: usize, changes: &Arc<Changes>) -> Self {
        Self {
            dir: dir.to_owned(),
            links,
            most_watches,
            changes: changes.clone(),
            watch: None,
            unwatched: false,
        }
    }

    /// Lists what is there, and watches the directories found: again when there are new ones, as they may have been
    /// filled before they were watched.
    fn list(&mut self) -> Report {
        let (mut watched, mut gaps) = (false, Vec::new());
        for _ in 0..ROUNDS {
            let found = files::list(&self.dir, self.links);
            let synced = match &found {
                Ok(listing) => self.follow(listing),
                // The links that lead there may be switched.
                Err(_) => Synced { complete: false, ..self.follow(&Listing::default()) },
            };
            watched = synced.complete;
            gaps.extend(synced.gap);
            if !synced.added {
                return Report { found, watched, gaps };
            }
        }
        self.changes.rescan();
        Report { found: files::list(&self.dir, self.links), watched, gaps }
    }

    fn follow(&mut self, listing: &Listing) -> Synced {
        let mut gap = None;
        if self.watch.is_none() {
            match Watch::new(&self.changes, self.most_watches) {
                Ok(watch) => {
                    self.unwatched = false;
                    self.watch = Some(watch);
                }
                Err(error) if !std::mem::replace(&mut self.unwatched, true) => {
                    let words = format!(
                        "the modules' directory cannot be watched, it is read every second instead: {error}"
                    );
                    gap = Some(Gap { kind: "error", words });
                }
                Err(_) => {}
            }
        }
        match &mut self.watch {
            Some(watch) => watch.follow(&self.dir, listing),
            None => Synced { added: false, complete: false, gap },
        }
    }
}

/// Has `scout` list what is there; it is lost, with its watches, when that panics.
pub(super) async fn list(mut scout: Scout) -> Option<(Scout, Report)> {
    let list = move || {
        let report = scout.list();
        (scout, report)
    };
    // The panic has been reported by tokio.
    tokio::task::spawn_blocking(list).await.ok()
}

/// Looks at what has changed.
pub(super) async fn look(batch: Batch) -> Looked {
    let look = move || {
        let mut looked = Looked { modules: Vec::new(), rescan: batch.rescan };
        for (path, since) in batch.modules {
            if path.is_dir() {
                looked.rescan = true;
            } else if files::is_module(&path) {
                let stamp = Stamp::of(&path);
                looked.modules.push((path, stamp, since));
            }
        }
        looked.modules.sort_by_key(|(_, stamp, _)| stamp.has_file());
        looked
    };
    // Nothing is known then: everything is read.
    let unknown = |_| Looked { modules: Vec::new(), rescan: true };
    tokio::task::spawn_blocking(look).await.unwrap_or_else(unknown)
}

/// What the files of the module at `path` look like.
pub(super) async fn stamp(path: &Path) -> Stamp {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || Stamp::of(&path)).await.unwrap_or_default()
}
