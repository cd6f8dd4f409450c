//! How far loads are: an interpreter compiled to WebAssembly takes ten seconds and more, and people wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A step of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Another module is being compiled.
    Waiting,
    /// A core module is made a component.
    Encoding,
    /// Machine code is made: as a rule the longest step.
    Compiling,
    /// The compiled form is written to the cache.
    Writing,
    /// It is loaded, its first instance is made and initialised.
    Starting,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Waiting, Self::Encoding, Self::Compiling, Self::Writing, Self::Starting];

    /// A word for people, logs and the compiler's standard output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Encoding => "encoding",
            Self::Compiling => "compiling",
            Self::Writing => "writing",
            Self::Starting => "starting",
        }
    }

    /// The stage called `name`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

/// A load that goes on.
#[derive(Clone, Debug)]
pub struct InProgress {
    /// The module's name.
    pub module: Arc<str>,
    /// Size of its file in bytes.
    pub bytes: usize,
    /// What is being done.
    pub stage: Stage,
    /// Since when it is loaded.
    pub elapsed: Duration,
}

/// All loads of a host that go on.
#[derive(Default)]
pub(crate) struct Loads(Arc<Mutex<Vec<Arc<Entry>>>>);

struct Entry {
    module: Arc<str>,
    bytes: usize,
    started: Instant,
    stage: AtomicU8,
}

/// One of them, from its beginning to its end.
pub(crate) struct Progress {
    entry: Arc<Entry>,
    among: Arc<Mutex<Vec<Arc<Entry>>>>,
}

impl Loads {
    /// A load of `module` begins.
    pub(crate) fn begin(&self, module: &Arc<str>, bytes: usize) -> Progress {
        let entry = Arc::new(Entry {
            module: module.clone(),
            bytes,
            started: Instant::now(),
            stage: AtomicU8::new(Stage::Waiting as u8),
        });
        self.0.lock().push(entry.clone());
        Progress { entry, among: self.0.clone() }
    }

    /// Those that go on, in the order in which they began.
    pub(crate) fn list(&self) -> Vec<InProgress> {
        self.0.lock().iter().map(|entry| entry.show()).collect()
    }
}

impl Entry {
    fn show(&self) -> InProgress {
        InProgress {
            module: self.module.clone(),
            bytes: self.bytes,
            stage: Stage::ALL[usize::from(self.stage.load(Ordering::Relaxed)) % Stage::ALL.len()],
            elapsed: self.started.elapsed(),
        }
    }
}

impl Progress {
    /// The next step begins.
    pub(crate) fn enter(&self, stage: Stage) {
        self.entry.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Says in the log how far it is.
    pub(crate) fn tell(&self) {
        let now = self.entry.show();
        tracing::info!(
            module = &*now.module,
            "still {} after {} s ({})",
            now.stage.name(),
            now.elapsed.as_secs(),
            bytesize::ByteSize::b(now.bytes as u64)
        );
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.among.lock().retain(|entry| !Arc::ptr_eq(entry, &self.entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_listed_until_it_ends() {
        let loads = Loads::default();
        let (one, two) = (loads.begin(&"one".into(), 10), loads.begin(&"two".into(), 20));
        two.enter(Stage::Compiling);
        let stages: Vec<_> = loads.list().iter().map(|load| load.stage).collect();
        assert_eq!(stages, [Stage::Waiting, Stage::Compiling]);
        drop(one);
        assert_eq!(loads.list().iter().map(|load| load.bytes).collect::<Vec<_>>(), [20]);
        drop(two);
        assert!(loads.list().is_empty());
    }

    #[test]
    fn names_read_back() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_name(stage.name()), Some(stage));
            assert_eq!(Stage::ALL[stage as usize], stage);
        }
    }
}
