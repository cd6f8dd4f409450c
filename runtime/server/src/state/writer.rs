//! The one thread that changes the embedded state: whatever waits is one batch with one fsync.
//!
//! Because nothing else writes, a change that depends on a value (increment, compare-and-swap, the quota) needs no
//! lock: it sees the database and what the same batch has changed before it. What was recorded of sessions goes into the
//! same batch; when nobody waits for it, it waits a moment for more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use tidegate_event::key_value::add;
use tidegate_event::{Space, StorageError, Swap};
use tidegate_store::buffer::{Removed, SpaceError};
use tokio::sync::{mpsc, oneshot};

use super::buffer::{Append, Changes, Remove};
use super::disk::{Database, Disk, guarded, unavailable};
use super::inbox::{Inbox, Next};
use super::key;
use super::sessions::ledger::Ledger;

/// Requests of one batch.
const BATCH_REQUESTS: usize = 1_024;
/// Bytes of one batch, as soon as they are more it is full.
const BATCH_BYTES: usize = 4 << 20;
/// After a failure nothing is tried for so long: a full disk is not filled faster by trying.
const PAUSE: Duration = Duration::from_secs(1);
/// After a failure, sessions alone are tried again after a second, and each time after twice as long, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long changes of sessions wait for more when nobody waits for them.
const LINGER: Duration = Duration::from_millis(25);

/// What is to change.
pub(super) enum Change {
    Set(Vec<(String, Vec<u8>)>),
    Delete(Vec<String>),
    Increment { key: String, delta: i64 },
    Swap { key: String, expected: Option<Vec<u8>>, value: Vec<u8> },
}

impl Change {
    fn bytes(&self) -> usize {
        match self {
            Self::Set(pairs) => pairs.iter().map(|(key, value)| key.len() + value.len()).sum(),
            Self::Delete(keys) => keys.iter().map(String::len).sum(),
            Self::Increment { key, .. } => key.len(),
            Self::Swap { key, value, .. } => key.len() + value.len(),
        }
    }
}

/// What became of a change.
pub(super) enum Outcome {
    Done,
    Sum(i64),
    Swap(Swap),
}

/// A change and who waits for it.
pub(super) struct Request {
    pub(super) space: Space,
    pub(super) change: Change,
    pub(super) answer: oneshot::Sender<Result<Outcome, StorageError>>,
}

/// What the thread does.
pub(super) enum Work {
    /// Change a module's pairs.
    Pair(Request),
    /// Append to a connector's buffer.
    Append(Append),
    /// Remove from a connector's buffer.
    Remove(Remove),
    /// See what was recorded of sessions.
    Sessions,
}

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Self::Pair(request) => request.change.bytes(),
            Self::Append(append) => append.bytes(),
            Self::Remove(_) | Self::Sessions => 0,
        }
    }

    /// Tells whoever waits that it was not done. Nobody waits any more when a guest has run out of time.
    fn refuse(self, reason: &str) {
        counter!("tidegate_server_state_failed_total").increment(1);
        match self {
            Self::Pair(request) => drop(request.answer.send(Err(unavailable(reason)))),
            Self::Append(append) => drop(append.answer.send(Err(SpaceError::Failed(reason.to_owned())))),
            Self::Remove(remove) => drop(remove.answer.send(Err(SpaceError::Failed(reason.to_owned())))),
            Self::Sessions => {}
        }
    }
}

/// Work that is in the batch, and what to say when that is on disk.
enum Waiting {
    Pair(oneshot::Sender<Result<Outcome, StorageError>>, Result<Outcome, StorageError>),
    Append(oneshot::Sender<Result<u64, SpaceError>>, Result<u64, SpaceError>),
    Remove(oneshot::Sender<Result<Removed, SpaceError>>, Result<Removed, SpaceError>),
}

impl Waiting {
    fn tell(self, done: &Result<(), String>) {
        if done.is_err() {
            counter!("tidegate_server_state_failed_total").increment(1);
        }
        let failed = |reason: &String| SpaceError::Failed(reason.clone());
        match self {
            Self::Pair(answer, outcome) => {
                drop(answer.send(done.as_ref().map_err(unavailable).map(drop).and(outcome)));
            }
            Self::Append(answer, outcome) => {
                drop(answer.send(done.as_ref().map_err(failed).map(drop).and(outcome)));
            }
            Self::Remove(answer, outcome) => {
                drop(answer.send(done.as_ref().map_err(failed).map(drop).and(outcome)));
            }
        }
    }
}

/// A disk that fails.
struct Outage {
    reason: String,
    /// Whoever comes until then is refused.
    rests_until: Instant,
    /// When sessions are tried again by themselves, and how long that was waited for.
    next: Instant,
    pause: Duration,
}

/// The thread.
pub(super) struct Writer {
    disk: Arc<Disk>,
    /// Bytes a module may have.
    quota: u64,
    sessions: Ledger,
    outage: Option<Outage>,
    /// How long a commit may take; `None`: it is watched already.
    patience: Option<Duration>,
}

impl Writer {
    pub(super) fn new(disk: Arc<Disk>, quota: u64, sessions: Ledger, patience: Duration) -> Self {
        Self { disk, quota, sessions, outage: None, patience: Some(patience) }
    }

    /// Commits what comes in until nobody can send any more.
    pub(super) fn run(mut self, queue: mpsc::Receiver<Work>) {
        let mut inbox = Inbox::new(queue);
        // When what was recorded of sessions is written at the latest.
        let mut due: Option<Instant> = None;
        loop {
            let requests = match inbox.next(due) {
                Next::Work(first) => gather(first, &mut inbox),
                Next::Due => Vec::new(),
                Next::Closed => break,
            };
            let now = Instant::now();
            if requests.is_empty() && !self.sessions.is_urgent() && due.is_none_or(|due| now < due) {
                due.get_or_insert(now + LINGER);
                continue;
            }
            due = match &self.outage {
                Some(outage) if now < outage.rests_until => {
                    requests.into_iter().for_each(|work| work.refuse(&outage.reason));
                    self.sessions.take();
                    self.sessions.fail(&outage.reason);
                    self.sessions.has_work().then_some(outage.next)
                }
                _ => self.commit_or_rest(requests),
            };
        }
        // What was recorded last, if the disk is willing.
        self.sessions.take();
        if let Err(reason) = self.commit(Vec::new()) {
            tracing::error!("the embedded state cannot be written: {reason}");
        }
    }

    /// Commits; gives when sessions are to be tried again if that fails.
    fn commit_or_rest(&mut self, requests: Vec<Work>) -> Option<Instant> {
        self.sessions.take();
        match self.commit(requests) {
            Ok(()) => {
                self.outage = None;
                None
            }
            Err(reason) => {
                let before = self.outage.take();
                if before.as_ref().is_none_or(|before| before.reason != reason) {
                    tracing::error!("the embedded state cannot be written: {reason}");
                }
                let pause = before.map_or(PAUSE, |before| (before.pause * 2).min(LONGEST_PAUSE));
                let now = Instant::now();
                let next = now + pause;
                self.outage = Some(Outage { reason, rests_until: now + PAUSE, next, pause });
                self.sessions.has_work().then_some(next)
            }
        }
    }

    /// Applies `requests`, and what was recorded of sessions, in one batch and answers them; the error is the database's.
    fn commit(&mut self, requests: Vec<Work>) -> Result<(), String> {
        let Self { disk, quota, sessions, patience, .. } = self;
        if requests.is_empty() && !sessions.has_work() {
            sessions.settle(&Ok(()));
            return Ok(());
        }
        let mut waiting = Vec::with_capacity(requests.len());
        let mut unapplied = requests.into_iter();
        let began = Instant::now();
        if let Some(patience) = patience.take() {
            sessions.be_watched(patience);
        }
        sessions.begins_at_disk();
        let done = disk.write(|database| {
            let mut batch = Batch::new(database, *quota);
            for work in unapplied.by_ref() {
                waiting.push(match work {
                    Work::Pair(Request { space, change, answer }) => {
                        Waiting::Pair(answer, batch.apply(&space, change))
                    }
                    Work::Append(append) => {
                        let outcome = batch.buffers.append(database, &append);
                        Waiting::Append(append.answer, outcome)
                    }
                    Work::Remove(remove) => {
                        let (answer, outcome) = (remove.answer, batch.buffers.remove(database, remove.going));
                        Waiting::Remove(answer, outcome)
                    }
                    Work::Sessions => continue,
                });
            }
            batch.commit(sessions)
        });
        if let Err(reason) = &done {
            // It takes no further write, but what is there can be read again at once; nothing of this when they are told.
            disk.close();
            disk.reopen();
            unapplied.for_each(|work| work.refuse(reason));
        }
        sessions.ends_at_disk();
        if sessions.has_work() {
            histogram!("tidegate_server_sessions_commit_seconds").record(began.elapsed());
        }
        sessions.settle(&done);
        waiting.into_iter().for_each(|waiting| waiting.tell(&done));
        done
    }
}

/// Takes out what waits, up to what one batch may have. What says no more than that there is something is left out.
fn gather(first: Work, inbox: &mut Inbox) -> Vec<Work> {
    let (mut bytes, mut count) = (0, 0);
    let mut requests = Vec::new();
    let mut next = Some(first);
    while let Some(work) = next {
        bytes += work.bytes();
        count += 1;
        if !matches!(work, Work::Sessions) {
            requests.push(work);
        }
        let is_full = count >= BATCH_REQUESTS || bytes >= BATCH_BYTES;
        next = if is_full { None } else { inbox.try_next() };
    }
    requests
}

/// Changes that are not committed yet. `None` is a deletion.
struct Batch<'d> {
    database: &'d Database,
    quota: u64,
    pairs: HashMap<Vec<u8>, Option<Vec<u8>>>,
    usage: HashMap<Vec<u8>, u64>,
    buffers: Changes,
}

impl<'d> Batch<'d> {
    fn new(database: &'d Database, quota: u64) -> Self {
        Self { database, quota, pairs: HashMap::new(), usage: HashMap::new(), buffers: Changes::default() }
    }

    fn value(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        match self.pairs.get(name) {
            Some(changed) => Ok(changed.clone()),
            None => {
                let found = guarded(|| self.database.pairs.get(name)).map_err(unavailable)?;
                Ok(found.map(|value| value.to_vec()))
            }
        }
    }

    /// Bytes of the value called `name`, if there is one.
    fn size(&self, name: &[u8]) -> Result<Option<u64>, StorageError> {
        match self.pairs.get(name) {
            Some(changed) => Ok(changed.as_ref().map(|value| value.len() as u64)),
            None => Ok(guarded(|| self.database.pairs.size_of(name)).map_err(unavailable)?.map(u64::from)),
        }
    }

    fn used(&self, module: &[u8]) -> Result<u64, StorageError> {
        if let Some(used) = self.usage.get(module) {
            return Ok(*used);
        }
        let stored = guarded(|| self.database.usage.get(module)).map_err(unavailable)?;
        let bytes = stored.and_then(|bytes| <[u8; 8]>::try_from(&*bytes).ok());
        Ok(bytes.map_or(0, u64::from_be_bytes))
    }

    fn apply(&mut self, space: &Space, change: Change) -> Result<Outcome, StorageError> {
        let name = |key: &str| key::pair(space, key);
        match change {
            Change::Set(pairs) => {
                let pairs = pairs.into_iter().map(|(key, value)| (name(&key), Some(value)));
                self.stage(space, pairs.collect())?;
                Ok(Outcome::Done)
            }
            Change::Delete(keys) => {
                self.stage(space, keys.iter().map(|key| (name(key), None)).collect())?;
                Ok(Outcome::Done)
            }
            Change::Increment { key, delta } => {
                let name = name(&key);
                let sum = add(self.value(&name)?.as_deref(), delta)?;
                self.stage(space, HashMap::from([(name, Some(sum.to_string().into_bytes()))]))?;
                Ok(Outcome::Sum(sum))
            }
            Change::Swap { key, expected, value } => {
                let name = name(&key);
                let current = self.value(&name)?;
                if current != expected {
                    return Ok(Outcome::Swap(Swap::Differs(current)));
                }
                self.stage(space, HashMap::from([(name, Some(value))]))?;
                Ok(Outcome::Swap(Swap::Done))
            }
        }
    }

    /// Takes all of `pairs` into the batch, or none when they pass the module's quota.
    fn stage(
        &mut self,
        space: &Space,
        mut pairs: HashMap<Vec<u8>, Option<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let module = key::module(space);
        let own = module.len();
        // Bucket and key count as well: pairs without values take room, too.
        let cost = |name: &[u8], value: u64| (name.len() - own) as u64 + value;
        let before = self.used(&module)?;
        let (mut more, mut less) = (0, 0);
        let mut absent = Vec::new();
        for (name, value) in &pairs {
            let old = self.size(name)?;
            if let Some(size) = old {
                less += cost(name, size);
            }
            match value {
                Some(value) => more += cost(name, value.len() as u64),
                None if old.is_none() => absent.push(name.clone()),
                None => {}
            }
        }
        let after = (before + more).saturating_sub(less);
        if after > before && after > self.quota {
            counter!("tidegate_server_state_quota_denied_total").increment(1);
            return Err(StorageError::QuotaExceeded(format!(
                "the module's state would have {after} bytes, modules.max_state_bytes = {}",
                self.quota
            )));
        }
        for name in absent {
            pairs.remove(&name);
        }
        if !pairs.is_empty() {
            self.usage.insert(module, after);
            self.pairs.extend(pairs);
        }
        Ok(())
    }

    fn commit(self, sessions: &mut Ledger) -> Result<(), String> {
        let is_of_sessions = self.pairs.is_empty() && self.buffers.is_empty();
        let mut batch = self.database.batch(!is_of_sessions || sessions.is_synced());
        sessions.write(self.database, &mut batch)?;
        if batch.is_empty() && is_of_sessions {
            return Ok(());
        }
        counter!("tidegate_server_state_commits_total").increment(1);
        counter!("tidegate_server_state_changes_total").increment(self.pairs.len() as u64);
        for (name, value) in self.pairs {
            match value {
                Some(value) => batch.insert(&self.database.pairs, name, value),
                None => batch.remove(&self.database.pairs, name),
            }
        }
        for (module, used) in self.usage {
            batch.insert(&self.database.usage, module, used.to_be_bytes());
        }
        // Readers see the changes one by one, in this order, and go by the sheets.
        for (name, record) in &self.buffers.records {
            match record {
                Some(record) => batch.insert(&self.database.records, &**name, &**record),
                None => batch.remove(&self.database.records, &**name),
            }
        }
        for (name, sheet) in self.buffers.sheets() {
            batch.insert(&self.database.buffers, name, sheet);
        }
        guarded(|| batch.commit())
    }
}
