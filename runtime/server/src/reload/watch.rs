//! Notices that files of configuration have changed.
//!
//! What counts is what the files look like when they are looked at: that finds renames over a file, switched links and
//! directories that come and go, and it cannot be missed. The system's watch only says when to look earlier than the
//! next second.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Reload;
use crate::access::Access;
use crate::config::{Config, DEFAULT_FILE};

/// Between two looks when nothing is heard.
const TICK: Duration = Duration::from_secs(1);
/// Before a look that the system's watch asks for.
const PAUSE: Duration = Duration::from_millis(20);
/// Files that look the same after this long are whole. It is also longer than a tick of the system's file times: what is
/// written after the files were read is seen by its time.
const SETTLED: Duration = Duration::from_millis(100);
/// The same for the files of users and rules: half of an ACL is an ACL too, and may allow what the other half denies.
const ACCESS_SETTLED: Duration = Duration::from_secs(1);
/// Longest wait for files to settle, in looks.
const MOST_LOOKS: usize = 50;

/// What identifies a file's content, as far as it can be told without reading it.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// What some files look like.
type Looks = Vec<(PathBuf, Option<Stamp>)>;

/// What the files look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    config: Looks,
    access: Looks,
}

impl Seen {
    /// Looks at `tidegate.toml` and the `.conf` files, and at those that say who may do what.
    pub(crate) fn now(config: &Config) -> Self {
        let mut seen = vec![look(file(config))];
        seen.push((config.conf_dir.clone(), config.conf_dir.is_dir().then_some(Stamp::default())));
        for entry in fs::read_dir(&config.conf_dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "conf") {
                seen.push(look(&path));
            }
        }
        seen.sort();
        Self { config: seen, access: access_files(config).map(look).collect() }
    }
}

/// The file that is read beside the `.conf` files.
fn file(config: &Config) -> &Path {
    config.file.as_ref().map_or(Path::new(DEFAULT_FILE), |file| Path::new(&file.name))
}

/// The files of users and of the ACL.
fn access_files(config: &Config) -> impl Iterator<Item = &Path> {
    [&config.access.password_file, &config.access.acl_file].into_iter().filter_map(|file| file.as_deref())
}

fn look(path: &Path) -> (PathBuf, Option<Stamp>) {
    // Through links: switching one is a change.
    let stamp = fs::metadata(path).ok().map(|found| {
        (
            found.dev(),
            found.ino(),
            found.size(),
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        )
    });
    (path.to_owned(), stamp)
}

/// Reloads whenever the files no longer look as they did in `seen`, until `stop`.
pub(crate) async fn follow(
    reload: Arc<Reload>,
    access: Arc<Access>,
    mut seen: Seen,
    stop: CancellationToken,
) {
    let heard = Arc::new(Notify::new());
    let mut watch = Watch::new(&reload.config, heard.clone());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // The directories may hold files that are written all the time.
            () = heard.notified() => tokio::time::sleep(PAUSE).await,
            () = tokio::time::sleep(TICK) => {}
        }
        watch.keep_up();
        let mut now = now(&reload).await;
        if now == seen {
            continue;
        }
        for _ in 0..MOST_LOOKS {
            tokio::time::sleep(settled_after(&seen, &now)).await;
            let again = self::now(&reload).await;
            if std::mem::replace(&mut now, again) == now {
                break;
            }
        }
        let before = std::mem::replace(&mut seen, now);
        // First, because a database may take its time. What is wrong has been told, here and below.
        if before.access != seen.access {
            let access = access.clone();
            tokio::task::spawn_blocking(move || access.reload()).await.ok();
        }
        if before.config != seen.config {
            reload.reload().await.ok();
        }
    }
}

/// How long files that are `now` so, and were `before`, must not change to be whole.
fn settled_after(before: &Seen, now: &Seen) -> Duration {
    if before.access == now.access { SETTLED } else { ACCESS_SETTLED }
}

async fn now(reload: &Arc<Reload>) -> Seen {
    let own = reload.clone();
    tokio::task::spawn_blocking(move || Seen::now(&own.config)).await.unwrap_or_default()
}

/// The system's watches on the directories.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// Directories, and which one each was when it was watched.
    dirs: Vec<(PathBuf, Option<(u64, u64)>)>,
}

impl Watch {
    fn new(config: &Config, heard: Arc<Notify>) -> Self {
        let tell = move |_: notify::Result<notify::Event>| heard.notify_one();
        let watcher = notify::recommended_watcher(tell)
            .inspect_err(|error| tracing::info!("configuration is looked at every second: {error}"))
            .ok();
        let parent = |path: &Path| match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => path.to_owned(),
        };
        let mut dirs = vec![config.conf_dir.clone(), parent(&config.conf_dir), parent(file(config))];
        dirs.extend(access_files(config).map(parent));
        dirs.sort();
        dirs.dedup();
        let mut watch = Self { watcher, dirs: dirs.into_iter().map(|dir| (dir, None)).collect() };
        watch.keep_up();
        watch
    }

    /// Watches directories that are new, or others than they were.
    fn keep_up(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        for (dir, watched) in &mut self.dirs {
            let found = fs::metadata(&*dir).ok().map(|found| (found.dev(), found.ino()));
            if found == *watched {
                continue;
            }
            // It may have ended by itself.
            drop(watcher.unwatch(dir));
            *watched = found.filter(|_| watcher.watch(dir, RecursiveMode::NonRecursive).is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::access::AccessConfig;

    #[test]
    fn rules_that_change_are_read_when_they_are_whole() {
        let acl = |time| Seen {
            config: Looks::new(),
            access: vec![("acl".into(), Some((1, 1, 1, time, 0, 0, 0)))],
        };
        assert_eq!(settled_after(&acl(1), &acl(2)), ACCESS_SETTLED);
        assert_eq!(settled_after(&acl(1), &Seen { config: vec![("x".into(), None)], ..acl(1) }), SETTLED);
    }

    #[test]
    fn every_way_to_change_a_file_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            conf_dir: dir.path().join("conf.d"),
            file: Some(crate::config::ConfigFile {
                name: dir.path().join("t.toml").display().to_string(),
                text: String::new(),
            }),
            access: AccessConfig { acl_file: Some(dir.path().join("acl")), ..AccessConfig::default() },
            ..Config::default()
        };
        let mut before = Seen::now(&config);
        let mut is_seen = |what: &str, change: &dyn Fn(&Path)| {
            std::thread::sleep(Duration::from_millis(20));
            change(dir.path());
            let now = Seen::now(&config);
            assert_ne!(before, now, "{what}");
            before = now;
        };
        is_seen("a directory comes", &|dir| fs::create_dir(dir.join("conf.d")).unwrap());
        is_seen("a file comes", &|dir| fs::write(dir.join("conf.d/a.conf"), "a").unwrap());
        is_seen("the same size", &|dir| fs::write(dir.join("conf.d/a.conf"), "b").unwrap());
        is_seen("a rename over it", &|dir| {
            fs::write(dir.join("conf.d/x"), "c").unwrap();
            fs::rename(dir.join("conf.d/x"), dir.join("conf.d/a.conf")).unwrap();
        });
        is_seen("a file goes", &|dir| fs::remove_file(dir.join("conf.d/a.conf")).unwrap());
        is_seen("tidegate.toml", &|dir| fs::write(dir.join("t.toml"), "").unwrap());
        is_seen("the ACL", &|dir| fs::write(dir.join("acl"), "").unwrap());
        is_seen("the directory becomes a link", &|dir| {
            fs::create_dir(dir.join("one")).unwrap();
            fs::write(dir.join("one/a.conf"), "a").unwrap();
            fs::remove_dir(dir.join("conf.d")).unwrap();
            std::os::unix::fs::symlink("one", dir.join("conf.d")).unwrap();
        });
        is_seen("the link is switched", &|dir| {
            fs::create_dir(dir.join("two")).unwrap();
            fs::write(dir.join("two/a.conf"), "a").unwrap();
            std::os::unix::fs::symlink("two", dir.join("next")).unwrap();
            fs::rename(dir.join("next"), dir.join("conf.d")).unwrap();
        });
        std::fs::write(dir.path().join("conf.d/a.txt"), "x").unwrap();
        assert_eq!(before, Seen::now(&config), "other files do not count");
    }
}
