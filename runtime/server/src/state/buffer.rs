//! The overflow buffers of connectors in the embedded state: records in the order in which they came.
//!
//! Reads are on a few blocking threads; changes go through the one thread that writes, and share its fsync with whatever else
//! changes at that time.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_event::{BoxFuture, StorageError};
use tidegate_store::buffer::{Amount, BufferSpace, Extent, Removed, SpaceError, Stored};
use tokio::sync::{mpsc, oneshot};

use super::disk::{Database, Disk, guarded};
use super::writer::Work;

/// How many numbers there may be to one that is wanted, for all of them to be walked over.
const WIDE: u64 = 4;

/// The buffers of all connectors.
pub(super) struct Buffers {
    pub(super) disk: Arc<Disk>,
    pub(super) queue: mpsc::Sender<Work>,
    /// Bytes that all together may have.
    pub(super) limit: u64,
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// Records to append.
pub(super) struct Append {
    name: String,
    records: Vec<Bytes>,
    limit: u64,
    pub(super) answer: oneshot::Sender<Result<u64, SpaceError>>,
}

/// Records to remove.
pub(super) struct Remove {
    pub(super) going: Going,
    pub(super) answer: oneshot::Sender<Result<Removed, SpaceError>>,
}

/// Which records are to go.
pub(super) struct Going {
    name: String,
    numbers: Vec<u64>,
    /// The number up to which none is left then.
    through: Option<u64>,
}

impl Append {
    pub(super) fn bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

/// What is known of a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sheet {
    /// No record has a smaller number.
    first: u64,
    last: u64,
    held: Amount,
}

impl Sheet {
    fn to_bytes(self) -> Vec<u8> {
        [self.first, self.last, self.held.records, self.held.bytes].map(u64::to_be_bytes).concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |index: usize| {
            let part = bytes.get(index * 8..index * 8 + 8)?;
            part.try_into().ok().map(u64::from_be_bytes)
        };
        let held = Amount { records: number(2)?, bytes: number(3)? };
        Some(Self { first: number(0)?, last: number(1)?, held })
    }

    fn of(database: &Database, name: &str) -> Result<Self, String> {
        if name.is_empty() {
            return Ok(Self::default()); // the database takes no empty key
        }
        let found = guarded(|| database.buffers.get(name))?;
        let Some(bytes) = found else { return Ok(Self::default()) };
        Self::from_bytes(&bytes).ok_or_else(|| format!("what it knows of the buffer {name} is damaged"))
    }
}

/// What the record is called on disk: the connector with its length before it, and the number.
fn key(name: &str, number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 12);
    key.extend_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
    key.extend_from_slice(name.as_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn number(key: &[u8]) -> Option<u64> {
    let at = key.len().checked_sub(8)?;
    key.get(at..)?.try_into().ok().map(u64::from_be_bytes)
}

/// Changes of buffers that are not committed yet.
#[derive(Default)]
pub(super) struct Changes {
    /// `None` is a deletion.
    pub(super) records: HashMap<Vec<u8>, Option<Bytes>>,
    sheets: HashMap<String, Sheet>,
    /// Bytes of all buffers together.
    total: Option<u64>,
}

impl Changes {
    fn sheet(&self, database: &Database, name: &str) -> Result<Sheet, String> {
        match self.sheets.get(name) {
            Some(sheet) => Ok(*sheet),
            None => Sheet::of(database, name),
        }
    }

    fn total(&mut self, database: &Database) -> Result<u64, String> {
        if let Some(total) = self.total {
            return Ok(total);
        }
        // Nothing of this batch is in it yet: whoever changes it asks first.
        let mut total = 0;
        for (_, sheet) in sheets(database)? {
            total += sheet.held.bytes;
        }
        self.total = Some(total);
        Ok(total)
    }

    pub(super) fn append(&mut self, database: &Database, append: &Append) -> Result<u64, SpaceError> {
        if append.name.is_empty() {
            return Err(SpaceError::Failed("a buffer needs a name".into()));
        }
        let added = append.bytes() as u64;
        let total = self.total(database).map_err(SpaceError::Failed)? + added;
        if total > append.limit {
            return Err(SpaceError::Full { limit: append.limit });
        }
        let mut sheet = self.sheet(database, &append.name).map_err(SpaceError::Failed)?;
        if sheet.held.records == 0 {
            sheet.first = sheet.last + 1;
        }
        for record in &append.records {
            sheet.last += 1;
            self.records.insert(key(&append.name, sheet.last), Some(record.clone()));
        }
        sheet.held.records += append.records.len() as u64;
        sheet.held.bytes += added;
        self.total = Some(total);
        self.sheets.insert(append.name.clone(), sheet);
        Ok(sheet.last)
    }

    pub(super) fn remove(&mut self, database: &Database, going: Going) -> Result<Removed, SpaceError> {
        let Going { name, mut numbers, through } = going;
        if name.is_empty() {
            return Ok(Removed::default());
        }
        let total = self.total(database).map_err(SpaceError::Failed)?;
        let before = self.sheet(database, &name).map_err(SpaceError::Failed)?;
        let mut sheet = before;
        numbers.sort_unstable();
        numbers.dedup();
        let stored = sizes(database, &name, &numbers).map_err(SpaceError::Failed)?;
        let (mut removed, mut gone) = (Removed::default(), Vec::with_capacity(numbers.len()));
        for (number, stored) in numbers.into_iter().zip(stored) {
            let key = key(&name, number);
            let size = match self.records.get(&key) {
                Some(record) => record.as_ref().map(|record| record.len() as u64),
                None => stored,
            };
            if number == sheet.first {
                sheet.first += 1;
            }
            let Some(size) = size else { continue };
            removed.numbers.push(number);
            removed.amount.records += 1;
            removed.amount.bytes += size;
            gone.push((key, None));
        }
        self.records.extend(gone);
        let Amount { records, bytes } = removed.amount;
        sheet.held.records = sheet.held.records.saturating_sub(records);
        sheet.held.bytes = sheet.held.bytes.saturating_sub(bytes);
        // A number that was removed before its turn is never equal to `first`, which would stay there, and every read
        // would walk over all the deletions since. No number that is still to be given may be skipped.
        if let Some(through) = through {
            sheet.first = sheet.first.max(through.min(sheet.last) + 1);
        }
        self.total = Some(total.saturating_sub(bytes));
        if sheet != before {
            self.sheets.insert(name, sheet);
        }
        Ok(removed)
    }

    /// Whether there is nothing to commit. What is known of a buffer changes without its records when somebody finds that
    /// nothing is left up to a number.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.sheets.is_empty()
    }

    /// What is to be known of the buffers after this.
    pub(super) fn sheets(&self) -> impl Iterator<Item = (&str, Vec<u8>)> {
        self.sheets.iter().map(|(name, sheet)| (name.as_str(), sheet.to_bytes()))
    }
}

/// The bytes of the records with these numbers, which grow; `None`: there is no such record.
fn sizes(database: &Database, name: &str, numbers: &[u64]) -> Result<Vec<Option<u64>>, String> {
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return Ok(Vec::new()) };
    let one = |number: &u64| {
        let size = database.records.size_of(key(name, *number))?;
        Ok::<_, fjall::Error>(size.map(u64::from))
    };
    // Far apart they are looked up one by one; else walking over them costs less, and they mostly are neighbours.
    if (last - first) / WIDE > numbers.len() as u64 {
        return guarded(|| numbers.iter().map(one).collect());
    }
    guarded(|| {
        let mut wanted = numbers.iter().peekable();
        let mut sizes = Vec::with_capacity(numbers.len());
        for pair in database.records.range(key(name, *first)..=key(name, *last)) {
            let (key, value) = pair.into_inner()?;
            let Some(number) = number(&key) else { continue };
            while wanted.next_if(|next| **next < number).is_some() {
                sizes.push(None);
            }
            if wanted.next_if(|next| **next == number).is_some() {
                sizes.push(Some(value.len() as u64));
            }
        }
        sizes.resize(numbers.len(), None);
        Ok(sizes)
    })
}

fn sheets(database: &Database) -> Result<Vec<(String, Sheet)>, String> {
    let pairs =
        guarded(|| database.buffers.iter().map(|pair| pair.into_inner()).collect::<fjall::Result<Vec<_>>>())?;
    let mut found = Vec::new();
    for (name, bytes) in pairs {
        let name = String::from_utf8_lossy(&name).into_owned();
        let sheet = Sheet::from_bytes(&bytes)
            .ok_or_else(|| format!("what it knows of the buffer {name} is damaged"))?;
        found.push((name, sheet));
    }
    Ok(found)
}

fn failed(error: impl ToString) -> SpaceError {
    SpaceError::Failed(error.to_string())
}

impl Buffers {
    async fn look<T: Default + Send + 'static>(
        &self,
        look: impl FnOnce(&Database) -> Result<T, String> + Send + 'static,
    ) -> Result<T, SpaceError> {
        let look = move |database: &Database| look(database).map_err(super::disk::unavailable);
        self.disk.read_apart(look).await.map_err(|error| match error {
            StorageError::Unavailable { reason, .. } => SpaceError::Failed(reason),
            other => failed(other),
        })
    }
}

impl BufferSpace for Buffers {
    fn extent<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Extent, SpaceError>> {
        Box::pin(async move {
            let name = name.to_owned();
            let sheet = self.look(move |database| Sheet::of(database, &name)).await?;
            Ok(Extent { held: sheet.held, last: sheet.last })
        })
    }

    fn names(&self) -> BoxFuture<'_, Result<Vec<String>, SpaceError>> {
        Box::pin(async {
            let sheets = self.look(sheets).await?;
            Ok(sheets.into_iter().filter(|(_, sheet)| sheet.held.records > 0).map(|(name, _)| name).collect())
        })
    }

    fn append<'a>(&'a self, name: &'a str, records: Vec<Bytes>) -> BoxFuture<'a, Result<u64, SpaceError>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let append = Append { name: name.to_owned(), records, limit: self.limit, answer };
            self.queue.send(Work::Append(append)).await.map_err(|_| failed("it is closed"))?;
            answered.await.map_err(|_| failed("it is closed"))?
        })
    }

    fn read<'a>(
        &'a self,
        name: &'a str,
        from: u64,
        records: usize,
        bytes: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, SpaceError>> {
        Box::pin(async move {
            let name = name.to_owned();
            self.look(move |database| {
                // What is being committed is seen change by change. A sheet is changed after the records that it knows of, so
                // that those are all there: whoever removes all up to a number takes it that none before it is still to come.
                let sheet = Sheet::of(database, &name)?;
                let from = from.max(sheet.first);
                if from > sheet.last {
                    return Ok(Vec::new());
                }
                let range = key(&name, from)..=key(&name, sheet.last);
                guarded(|| {
                    let (mut found, mut size) = (Vec::new(), 0);
                    for pair in database.records.range(range) {
                        if found.len() >= records {
                            break;
                        }
                        let (key, value) = pair.into_inner()?;
                        let Some(number) = number(&key) else { continue };
                        size += value.len();
                        found.push(Stored { number, bytes: Bytes::copy_from_slice(&value) });
                        if size >= bytes {
                            break;
                        }
                    }
                    Ok(found)
                })
            })
            .await
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        numbers: Vec<u64>,
        through: Option<u64>,
    ) -> BoxFuture<'a, Result<Removed, SpaceError>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let remove = Remove { going: Going { name: name.to_owned(), numbers, through }, answer };
            self.queue.send(Work::Remove(remove)).await.map_err(|_| failed("it is closed"))?;
            answered.await.map_err(|_| failed("it is closed"))?
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::path::Path;

    use super::*;
    use crate::state::State;

    fn open(path: &Path, limit: u64) -> Arc<dyn BufferSpace> {
        State::open(path, 1 << 20).unwrap().buffers(limit).unwrap()
    }

    fn records(from: u8, count: u8) -> Vec<Bytes> {
        (from..from + count).map(|n| Bytes::from(vec![n; 10])).collect()
    }

    async fn held(space: &dyn BufferSpace, name: &str) -> Vec<(u64, u8)> {
        let stored = space.read(name, 0, 1_000, usize::MAX).await.unwrap();
        stored
            .iter()
            .map(|stored| (stored.number, stored.bytes.first().copied().unwrap_or_default()))
            .collect()
    }

    fn amount(records: u64) -> Amount {
        Amount { records, bytes: records * 10 }
    }

    fn removed(numbers: &[u64]) -> Removed {
        Removed { numbers: numbers.to_vec(), amount: amount(numbers.len() as u64) }
    }

    #[tokio::test]
    async fn records_come_back_in_order_and_numbers_grow_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        {
            let space = open(&path, 1 << 20);
            assert_eq!(space.extent("a").await.unwrap(), Extent::default());
            assert_eq!(space.append("a", records(1, 3)).await.unwrap(), 3);
            assert_eq!(space.append("b", records(9, 1)).await.unwrap(), 1);
            assert_eq!(space.append("a", records(4, 1)).await.unwrap(), 4);
            assert_eq!(space.remove("a", vec![3, 77, 1, 3], None).await.unwrap(), removed(&[1, 3]));
            assert_eq!(held(&*space, "a").await, [(2, 2), (4, 4)]);
            drop(space);
        }
        // The thread that writes ends when nobody can ask it any more.
        let space = loop {
            match State::open(&path, 1 << 20) {
                Ok(state) => break state.buffers(1 << 20).unwrap(),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        };
        assert_eq!(space.extent("a").await.unwrap(), Extent { held: amount(2), last: 4 });
        assert_eq!(held(&*space, "a").await, [(2, 2), (4, 4)]);
        assert_eq!(space.remove("a", vec![2, 4], None).await.unwrap(), removed(&[2, 4]));
        assert_eq!(space.names().await.unwrap(), ["b"]);
        assert_eq!(space.append("a", records(5, 1)).await.unwrap(), 5, "numbers are not given twice");
        assert_eq!(held(&*space, "a").await, [(5, 5)]);
    }

    #[tokio::test]
    async fn names_do_not_run_into_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let space = open(&dir.path().join("state"), 1 << 20);
        for (n, name) in ["a", "ab", "a\0"].into_iter().enumerate() {
            space.append(name, records(u8::try_from(n).unwrap(), 1)).await.unwrap();
        }
        for (n, name) in ["a", "ab", "a\0"].into_iter().enumerate() {
            assert_eq!(held(&*space, name).await, [(1, u8::try_from(n).unwrap())]);
        }
        assert!(space.append("", records(1, 1)).await.is_err());
        assert_eq!(space.remove("", vec![1], None).await, Ok(Removed::default()));
        assert_eq!(space.extent("").await, Ok(Extent::default()));
        assert_eq!(space.append("a", records(9, 1)).await, Ok(2), "it goes on");
    }

    #[tokio::test]
    async fn all_buffers_share_one_bound_and_removal_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let space = open(&dir.path().join("state"), 50);
        space.append("a", records(1, 3)).await.unwrap();
        space.append("b", records(1, 1)).await.unwrap();
        assert_eq!(space.append("b", records(2, 2)).await, Err(SpaceError::Full { limit: 50 }));
        assert_eq!(space.append("b", records(2, 1)).await.unwrap(), 2, "the refused ones have no numbers");
        space.remove("a", vec![1], None).await.unwrap();
        assert_eq!(space.append("b", records(3, 1)).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_page_ends_with_its_records_or_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let space = open(&dir.path().join("state"), 1 << 20);
        space.append("a", records(1, 9)).await.unwrap();
        assert_eq!(space.read("a", 0, 4, usize::MAX).await.unwrap().len(), 4);
        assert_eq!(space.read("a", 0, 100, 25).await.unwrap().len(), 3);
        assert_eq!(space.read("a", 8, 100, usize::MAX).await.unwrap().len(), 2);
        assert_eq!(space.read("a", 0, 1, 0).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_hole_does_not_make_reads_begin_before_it_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state"), 1 << 20).unwrap();
        let space = state.buffers(1 << 20).unwrap();
        let first =
            || state.disk.read(|database| Sheet::of(database, "a").map_err(super::super::disk::unavailable));
        space.append("a", records(1, 6)).await.unwrap();
        // Before its turn.
        assert_eq!(space.remove("a", vec![2], None).await.unwrap(), removed(&[2]));
        assert_eq!(space.remove("a", vec![1, 2, 3], Some(3)).await.unwrap(), removed(&[1, 3]));
        assert_eq!(first().unwrap().first, 4);
        // What others did not know of is not skipped, and nothing comes back.
        assert_eq!(space.remove("a", vec![4], Some(1)).await.unwrap(), removed(&[4]));
        assert_eq!(first().unwrap().first, 5);
        assert_eq!(space.remove("a", vec![5, 6], Some(u64::MAX)).await.unwrap(), removed(&[5, 6]));
        assert_eq!(first().unwrap().first, 7);
        space.append("a", records(7, 3)).await.unwrap();
        space.remove("a", vec![8], None).await.unwrap();
        space.remove("a", vec![7], None).await.unwrap();
        assert_eq!(space.remove("a", vec![7, 8], Some(8)).await.unwrap(), removed(&[]), "tried again");
        assert_eq!(first().unwrap().first, 9);
        assert_eq!(held(&*space, "a").await, [(9, 9)]);
    }

    #[tokio::test]
    async fn records_to_remove_are_found_near_and_far() {
        let dir = tempfile::tempdir().unwrap();
        let space = open(&dir.path().join("state"), 1 << 20);
        space.append("a", records(1, 200)).await.unwrap();
        let gone = |numbers: &'static [u64], there: &'static [u64]| {
            let space = space.clone();
            async move {
                assert_eq!(
                    space.remove("a", numbers.to_vec(), None).await.unwrap(),
                    removed(there),
                    "{numbers:?}"
                );
            }
        };
        gone(&[3, 5, 6], &[3, 5, 6]).await;
        gone(&[2, 3, 4, 6, 7], &[2, 4, 7]).await;
        gone(&[1, 7, 200], &[1, 200]).await;
        gone(&[199, 200, 201], &[199]).await;
        gone(&[0, u64::MAX], &[]).await;
        gone(&[], &[]).await;
        assert_eq!(space.extent("a").await.unwrap().held, amount(200 - 9));
    }

    #[tokio::test]
    async fn many_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let space = open(&dir.path().join("state"), 1 << 20);
        let appends = (0..200).map(|n| {
            let space = space.clone();
            async move { space.append(if n % 2 == 0 { "a" } else { "b" }, records(1, 5)).await }
        });
        for done in futures_util::future::join_all(appends).await {
            done.unwrap();
        }
        for name in ["a", "b"] {
            assert_eq!(space.extent(name).await.unwrap().held, amount(500));
            let numbers: Vec<u64> = held(&*space, name).await.into_iter().map(|(number, _)| number).collect();
            assert_eq!(numbers, (1..=500).collect::<Vec<_>>());
            space.remove(name, numbers, None).await.unwrap();
        }
        assert!(space.names().await.unwrap().is_empty());
    }

    /// Records were seen one by one while they were committed, in any order: what was read up to a number could be removed up to
    /// it, and those before it that came a moment later were never seen again.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_read_has_no_gaps_that_are_filled_later() {
        const AT_ONCE: usize = 50;
        let dir = tempfile::tempdir().unwrap();
        let space = open(&dir.path().join("state"), 1 << 30);
        // Large ones, so that tables are written meanwhile, too.
        let more = || vec![Bytes::from(vec![7; 4_096]); AT_ONCE];
        space.append("a", more()).await.unwrap();
        let appending = tokio::spawn({
            let space = space.clone();
            async move {
                for _ in 0..100 {
                    space.append("a", more()).await.unwrap();
                }
            }
        });
        let (mut from, mut is_last) = (1, false);
        while !is_last {
            is_last = appending.is_finished();
            let stored = space.read("a", from, 100_000, usize::MAX).await.unwrap();
            let numbers: Vec<u64> = stored.iter().map(|stored| stored.number).collect();
            let expected: Vec<u64> = (from..from + numbers.len() as u64).collect();
            assert_eq!(numbers, expected);
            from += numbers.len() as u64;
        }
        appending.await.unwrap();
        assert_eq!(from, 101 * AT_ONCE as u64 + 1);
        assert!(space.read("a", from, 1, 1).await.unwrap().is_empty());
    }
}
