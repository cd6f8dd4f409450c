//! All shared servers together: for one test run, or kept over runs for people.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::kind::{Kind, Shared};
use crate::process::{Identity, Signal};
use crate::{Error, Place, Result};

/// How long a kept server may take to end when it is asked to.
const END_WITHIN: Duration = Duration::from_secs(20);

/// The servers of a test run. They end when this is dropped, and when the process ends in any other way.
#[derive(Debug, Default)]
pub struct Bed {
    running: Vec<Shared>,
    variables: Vec<(&'static str, String)>,
}

impl Bed {
    /// Starts one of each kind, one after the other, `told` before each.
    ///
    /// # Errors
    /// One does not start: then none runs.
    pub fn start<'a>(kinds: impl IntoIterator<Item = &'a Kind>, told: impl Fn(&Kind)) -> Result<Self> {
        let mut bed = Self::default();
        let place = Place::temporary()?;
        for kind in kinds {
            told(kind);
            let shared = (kind.start)(&place)?;
            bed.variables.push((kind.variable, shared.value.clone()));
            bed.running.push(shared);
        }
        Ok(bed)
    }

    /// Environment variables and their values, for the tests.
    pub fn variables(&self) -> &[(&'static str, String)] {
        &self.variables
    }

    /// Those of its processes that do not run any more, by name.
    pub fn gone(&self) -> Vec<&str> {
        let servers = self.running.iter().flat_map(|shared| &shared.servers);
        servers
            .filter(|server| !server.identity().is_some_and(Identity::is_alive))
            .map(crate::Server::name)
            .collect()
    }
}

/// Servers that go on after the command that started them, recorded in a folder.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
}

/// What is recorded of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the variable is set to.
    pub value: String,
    /// Its processes, with their names.
    pub processes: Vec<(String, Identity)>,
}

impl Record {
    /// Whether every process still runs.
    pub fn is_whole(&self) -> bool {
        self.processes.iter().all(|(_, identity)| identity.is_alive())
    }
}

impl Kept {
    /// Those recorded below `folder`, a folder of its own for each kind.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// Where one kind keeps its data and logs.
    pub fn folder(&self, kind: &Kind) -> PathBuf {
        self.folder.join(kind.name)
    }

    /// What runs, or was running, of one kind.
    pub fn record(&self, kind: &Kind) -> Option<Record> {
        parse(&std::fs::read_to_string(self.record_path(kind)).ok()?)
    }

    /// Starts one kind, with new data, unless it runs; gives what the variable is to be set to.
    ///
    /// # Errors
    /// It does not start: then nothing of it runs.
    pub fn start(&self, kind: &Kind) -> Result<Record> {
        if let Some(record) = self.record(kind).filter(Record::is_whole) {
            return Ok(record);
        }
        self.stop(kind)?;
        let place = Place::kept(&self.folder(kind))?;
        let shared = (kind.start)(&place)?;
        // Written while the servers still are ours: if that fails, they end.
        let processes: Vec<_> =
            shared.servers.iter().filter_map(|s| Some((s.name().to_owned(), s.identity()?))).collect();
        let record = Record { value: shared.value, processes };
        let path = self.record_path(kind);
        std::fs::write(&path, written(&record)).map_err(Error::io(path.display().to_string()))?;
        for server in shared.servers {
            server.release();
        }
        Ok(record)
    }

    /// Ends one kind and removes its data; gives whether there was anything to end.
    ///
    /// # Errors
    /// A process cannot be ended, or the data not removed.
    pub fn stop(&self, kind: &Kind) -> Result<bool> {
        let Some(record) = self.record(kind) else { return Ok(false) };
        for (_, identity) in &record.processes {
            identity.signal(Signal::Continue)?;
            identity.signal(Signal::Term)?;
        }
        let start = Instant::now();
        while record.processes.iter().any(|(_, identity)| identity.is_alive()) {
            if start.elapsed() > END_WITHIN {
                for (_, identity) in &record.processes {
                    identity.signal(Signal::Kill)?;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let folder = self.folder(kind);
        std::fs::remove_dir_all(&folder).map_err(Error::io(folder.display().to_string()))?;
        Ok(true)
    }

    fn record_path(&self, kind: &Kind) -> PathBuf {
        self.folder(kind).join("running")
    }
}

/// The variable's value, then a line for each process.
fn written(record: &Record) -> String {
    let lines = record
        .processes
        .iter()
        .map(|(name, identity)| format!("{} {} {name}\n", identity.pid, identity.started));
    lines.fold(format!("{}\n", record.value), |text, line| text + &line)
}

fn parse(text: &str) -> Option<Record> {
    let mut lines = text.lines();
    let value = lines.next()?.to_owned();
    let process = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (pid, started) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((words.next()?.to_owned(), Identity { pid, started }))
    };
    let processes = lines.map(process).collect::<Option<Vec<_>>>()?;
    Some(Record { value, processes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let identity = Identity { pid: 7, started: 1234 };
        let record =
            Record { value: "127.0.0.1:1,127.0.0.1:2".into(), processes: vec![("a b".into(), identity)] };
        assert_eq!(parse(&written(&record)), Some(record));
        assert_eq!(parse(""), None);
        assert_eq!(parse("value\nhalf a"), None);
    }
}
