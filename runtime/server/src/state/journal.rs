//! The journal of the embedded database: what is put right in it before the database opens.
//!
//! Opening cuts a journal at the first entry that cannot be read, without a word. That is right for a batch that was
//! being written when the power went: nobody was told that it is on disk. It is wrong for one that was damaged later, as
//! all batches behind it go, too; and a batch with a wrong checksum does not let the database open at all. So the journal
//! is looked through first. What goes although it was written to its end goes to a copy, and the log names that.
//!
//! The format is fjall's third: a batch is a start (items, sequence number), its items, and an end (checksum, trailer);
//! behind the last one there are zeros, because the file is made with its full size.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::disk::{self, beside, guarded};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// What an end ends with.
const TRAILER: &[u8] = b"FJL\x03";
/// Bytes of an end.
const END_BYTES: usize = 1 + 8 + TRAILER.len();
/// What is read at once.
const CHUNK: usize = 1 << 20;

/// Where a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Begin {
    at: u64,
    seqno: u64,
}

/// The batches of a journal, up to the first that cannot be read.
#[derive(Debug, Default)]
struct Batches {
    whole: Vec<Begin>,
    /// Where the last whole one ends.
    end: u64,
    /// A batch that begins there and is not whole.
    broken: Option<Begin>,
}

/// What is behind the batches that can be read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tail {
    /// Behind this there are only zeros.
    filled: u64,
    /// Behind the first end of a batch, if there is one.
    ended: Option<u64>,
}

/// An entry; what is in an item does not matter here.
enum Entry {
    Start { items: u32, seqno: u64 },
    Item,
    End,
}

struct Reader {
    inner: BufReader<File>,
    at: u64,
    length: u64,
}

impl Reader {
    fn take<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        if self.at + N as u64 > self.length {
            return Ok(None);
        }
        self.inner.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(Some(bytes))
    }

    fn skip(&mut self, count: u64) -> io::Result<Option<()>> {
        let Ok(offset) = i64::try_from(count) else { return Ok(None) };
        if self.at + count > self.length {
            return Ok(None);
        }
        self.inner.seek_relative(offset)?;
        self.at += count;
        Ok(Some(()))
    }

    /// The next entry; `None`: there is none, or it cannot be read.
    fn entry(&mut self) -> io::Result<Option<Entry>> {
        let Some([tag]) = self.take()? else { return Ok(None) };
        match tag {
            START => {
                let (Some(items), Some(seqno)) = (self.take()?, self.take()?) else { return Ok(None) };
                Ok(Some(Entry::Start { items: u32::from_le_bytes(items), seqno: u64::from_le_bytes(seqno) }))
            }
            ITEM => {
                let Some([kind, compression]) = self.take()? else { return Ok(None) };
                let Some(_keyspace) = self.take::<8>()? else { return Ok(None) };
                let Some(key) = self.take()? else { return Ok(None) };
                let (Some(value), Some(stored)) = (self.take()?, self.take()?) else { return Ok(None) };
                let (value, stored) = (u32::from_le_bytes(value), u32::from_le_bytes(stored));
                // A value, or one of two kinds of deletion; not compressed, as nothing here asks for that, or it is.
                if kind > 2 || compression > 1 || compression == 0 && value != stored {
                    return Ok(None);
                }
                let length = u64::from(u16::from_le_bytes(key)) + u64::from(stored);
                Ok(self.skip(length)?.map(|()| Entry::Item))
            }
            END => {
                let Some(_checksum) = self.take::<8>()? else { return Ok(None) };
                let trailer = self.take::<{ TRAILER.len() }>()?;
                Ok(trailer.is_some_and(|trailer| trailer == TRAILER).then_some(Entry::End))
            }
            CLEAR => Ok(self.skip(8)?.map(|()| Entry::Item)),
            _ => Ok(None),
        }
    }

    /// Reads the rest of a batch; false: it is not whole.
    fn rest(&mut self, items: u32) -> io::Result<bool> {
        for _ in 0..items {
            let Some(Entry::Item) = self.entry()? else { return Ok(false) };
        }
        Ok(matches!(self.entry()?, Some(Entry::End)))
    }
}

fn batches(journal: &Path) -> io::Result<Batches> {
    let file = File::open(journal)?;
    let length = file.metadata()?.len();
    let mut reader = Reader { inner: BufReader::with_capacity(CHUNK, file), at: 0, length };
    let mut found = Batches::default();
    loop {
        let at = reader.at;
        let Some(Entry::Start { items, seqno }) = reader.entry()? else { return Ok(found) };
        if !reader.rest(items)? {
            found.broken = Some(Begin { at, seqno });
            return Ok(found);
        }
        found.whole.push(Begin { at, seqno });
        found.end = reader.at;
    }
}

/// What is behind `from`.
fn tail(journal: &Path, from: u64) -> io::Result<Tail> {
    let mut file = File::open(journal)?;
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::with_capacity(CHUNK, file);
    let mut tail = Tail { filled: from, ended: None };
    // The bytes before the chunk: an end may lie across.
    let (mut window, mut at) = (Vec::new(), from);
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(tail);
        }
        let count = chunk.len();
        if let Some(last) = chunk.iter().rposition(|byte| *byte != 0) {
            tail.filled = at + last as u64 + 1;
        }
        if tail.ended.is_none() {
            let before = window.len() as u64;
            window.extend_from_slice(chunk);
            let is_end = |bytes: &[u8]| bytes.first() == Some(&END) && bytes.ends_with(TRAILER);
            let found = window.windows(END_BYTES).position(is_end);
            tail.ended = found.map(|index| at - before + (index + END_BYTES) as u64);
            window.drain(..window.len().saturating_sub(END_BYTES - 1));
        }
        at += count as u64;
        reader.consume(count);
    }
}

/// The journals in `directory`, the oldest first.
fn journals(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let id = name.and_then(|name| name.strip_suffix(".jnl")).and_then(|id| id.parse::<u64>().ok());
        found.extend(id.map(|id| (id, path)));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Whether nothing was ever written to any of the journals in `directory`.
///
/// # Errors
/// One of them cannot be read.
pub(super) fn is_blank(directory: &Path) -> Result<bool, String> {
    for journal in journals(directory).map_err(failed(directory))? {
        if !disk::is_blank(&journal).map_err(failed(&journal))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Keeps others from the files while they are changed: a batch that another process is writing looks like a broken one.
fn locked(directory: &Path) -> Result<File, String> {
    let path = directory.join("lock");
    let file = OpenOptions::new().read(true).write(true).open(&path);
    let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
    for _ in 0..3 {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(100)),
            Err(TryLockError::Error(error)) => return Err(format!("{}: {error}", path.display())),
        }
    }
    Err("another process uses it".into())
}

fn cut(journal: &Path, at: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(journal)?;
    file.set_len(at)?;
    file.sync_all()
}

/// Cuts `journal`, and keeps a copy of what it was; `filled`: behind that there are only zeros.
fn cut_with_copy(journal: &Path, at: u64, filled: u64) -> io::Result<PathBuf> {
    let copy = beside(journal, "damaged")?;
    let mut to = File::create_new(&copy)?;
    io::copy(&mut File::open(journal)?.take(filled), &mut to)?;
    to.sync_all()?;
    if let Some(directory) = journal.parent() {
        File::open(directory)?.sync_all()?;
    }
    cut(journal, at)?;
    Ok(copy)
}

fn say(journal: &Path, copy: &Path, at: u64, is_followed: bool) {
    let (journal, copy) = (journal.display(), copy.display());
    if is_followed {
        tracing::error!(
            %journal, %copy, at,
            "the journal of the embedded state is damaged: what was written behind the damage is lost, and kept in the copy"
        );
    } else {
        tracing::warn!(
            %journal, %copy, at,
            "the last batch in the journal of the embedded state is not whole, as after a power failure: it was taken out, \
             and is kept in the copy"
        );
    }
}

/// Empties `later`, the journals behind one that is to be cut, and keeps copies: what they say builds on what is lost. It comes
/// before the cut: who is stopped in between finds the damage again.
fn empty(later: impl Iterator<Item = PathBuf>) -> Result<(), String> {
    for journal in later {
        let Tail { filled, .. } = tail(&journal, 0).map_err(failed(&journal))?;
        if filled > 0 {
            let copy = cut_with_copy(&journal, 0, filled).map_err(failed(&journal))?;
            tracing::error!(
                journal = %journal.display(), copy = %copy.display(),
                "the journal of the embedded state before this one is damaged: what is in this one is lost, and kept in the \
                 copy"
            );
        }
    }
    Ok(())
}

fn failed(journal: &Path) -> impl Fn(io::Error) -> String {
    move |error| format!("{}: {error}", journal.display())
}

/// Puts right, in `directory`, the first journal with a batch that does not end, or has no beginning, and empties those behind
/// it: what is found are the first so many batches.
///
/// # Errors
/// A journal cannot be read, or the copy of a damaged one cannot be kept.
pub(super) fn mend(directory: &Path) -> Result<(), String> {
    let _lock = locked(directory)?;
    let mut left = journals(directory).map_err(failed(directory))?.into_iter();
    while let Some(journal) = left.next() {
        let Batches { end, .. } = batches(&journal).map_err(failed(&journal))?;
        let Tail { filled, ended } = tail(&journal, end).map_err(failed(&journal))?;
        if filled <= end {
            continue;
        }
        empty(&mut left)?;
        match ended {
            // Its writing was stopped half-way: opening cuts it.
            None => {
                tracing::info!(journal = %journal.display(), at = end, "a batch that was never finished is taken out");
            }
            Some(ended) => {
                let copy = cut_with_copy(&journal, end, filled).map_err(failed(&journal))?;
                say(&journal, &copy, end, filled > ended);
            }
        }
    }
    Ok(())
}

/// Takes all batches from the sequence number `seqno` on out of the journals in `directory`.
///
/// # Errors
/// A journal cannot be read or cut.
pub(super) fn take_out(directory: &Path, seqno: u64) -> Result<(), String> {
    let _lock = locked(directory)?;
    for journal in journals(directory).map_err(failed(directory))? {
        let Batches { whole, broken, .. } = batches(&journal).map_err(failed(&journal))?;
        if let Some(begin) = whole.into_iter().chain(broken).find(|begin| begin.seqno >= seqno) {
            cut(&journal, begin.at).map_err(failed(&journal))?;
            tracing::warn!(
                journal = %journal.display(), at = begin.at,
                "changes that could not be made durable were taken out of the journal again"
            );
        }
    }
    Ok(())
}

/// Cuts, in `directory`, the first journal that has a batch with a wrong checksum, and empties those behind it. False: none
/// has.
///
/// # Errors
/// A journal cannot be read, or its copy cannot be kept.
pub(super) fn cut_wrong(directory: &Path) -> Result<bool, String> {
    let _lock = locked(directory)?;
    let judge = Judge::new(directory)?;
    let mut left = journals(directory).map_err(failed(directory))?.into_iter();
    while let Some(journal) = left.next() {
        let Batches { whole, end, .. } = batches(&journal).map_err(failed(&journal))?;
        if judge.accepts(&journal, end)? {
            continue;
        }
        // Of the first `good` batches all are right, and of the first `bad` one is not.
        let (mut good, mut bad) = (0, whole.len());
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            let is_good = judge.accepts(&journal, whole.get(middle).map_or(end, |begin| begin.at))?;
            *(if is_good { &mut good } else { &mut bad }) = middle;
        }
        let at = whole.get(good).map_or(end, |begin| begin.at);
        let Tail { filled, .. } = tail(&journal, end).map_err(failed(&journal))?;
        empty(left)?;
        let copy = cut_with_copy(&journal, at, filled).map_err(failed(&journal))?;
        say(&journal, &copy, at, good + 1 < whole.len());
        return Ok(true);
    }
    Ok(false)
}

/// Says whether the checksums of a journal are right: an empty database that opens with it. Which batch is wrong is not
/// told by the one that does not open, and its checksums are its own affair.
struct Judge(tempfile::TempDir);

impl Judge {
    /// On the same disk as `directory`: there is room for a journal.
    fn new(directory: &Path) -> Result<Self, String> {
        let made = tempfile::tempdir_in(directory.parent().unwrap_or(directory));
        let judge = Self(made.map_err(|error| error.to_string())?);
        guarded(|| judge.open())?;
        Ok(judge)
    }

    fn open(&self) -> fjall::Result<()> {
        fjall::Database::builder(self.0.path()).worker_threads(1).open().map(drop)
    }

    /// Whether the first `end` bytes of `journal` are right.
    fn accepts(&self, journal: &Path, end: u64) -> Result<bool, String> {
        let own = self.0.path().join("0.jnl");
        let copy = || io::copy(&mut File::open(journal)?.take(end), &mut File::create(&own)?);
        copy().map_err(failed(&own))?;
        guarded(|| match self.open() {
            Ok(()) => Ok(true),
            Err(fjall::Error::JournalRecovery(_)) => Ok(false),
            Err(other) => Err(other),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::state::tests::{close, get, open, set, space};

    /// A state with five changes, closed again, and its journal.
    async fn five(dir: &Path) -> (PathBuf, Batches) {
        let state = open(dir, 1_000);
        for key in ["a", "b", "c", "d", "e"] {
            set(&state, &space("m", "x"), key, b"a value").await.unwrap();
        }
        close(state).await;
        let journal = dir.join("state/0.jnl");
        let found = batches(&journal).unwrap();
        (journal, found)
    }

    /// Which of the five are found.
    async fn found(dir: &Path) -> String {
        let state = open(dir, 1_000);
        let mut found = String::new();
        for key in ["a", "b", "c", "d", "e"] {
            if get(&state, &space("m", "x"), key).await == Some(b"a value".to_vec()) {
                found.push_str(key);
            }
        }
        close(state).await;
        found
    }

    /// Changes the byte at `at`.
    fn damage(journal: &Path, at: u64) {
        let file = OpenOptions::new().read(true).write(true).open(journal).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    }

    fn copies(dir: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir.join("state")).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.to_string_lossy().contains(".damaged-")).collect()
    }

    fn at(batches: &Batches, index: usize) -> u64 {
        batches.whole.get(index).map_or(batches.end, |begin| begin.at)
    }

    /// The last byte of the last value in the batch.
    fn payload(batches: &Batches, index: usize) -> u64 {
        at(batches, index + 1) - END_BYTES as u64 - 1
    }

    #[tokio::test]
    async fn the_format_is_the_databases() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, batches) = five(dir.path()).await;
        assert_eq!(batches.whole.len(), 5, "{batches:?}");
        assert!(batches.whole.is_sorted_by(|one, next| one.seqno < next.seqno), "{batches:?}");
        assert_eq!(batches.broken, None);
        assert_eq!(tail(&journal, batches.end).unwrap(), Tail { filled: batches.end, ended: None });
        let last = at(&batches, 4);
        let ended = Some(batches.end);
        assert_eq!(tail(&journal, last).unwrap(), Tail { filled: batches.end, ended });
        assert_eq!(found(dir.path()).await, "abcde");
        assert!(copies(dir.path()).is_empty());
    }

    #[tokio::test]
    async fn what_goes_with_a_damaged_entry_is_kept_in_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, batches) = five(dir.path()).await;
        damage(&journal, at(&batches, 2));
        let mut before = std::fs::read(&journal).unwrap();
        before.truncate(usize::try_from(batches.end).unwrap());
        assert_eq!(found(dir.path()).await, "ab");
        let copies = copies(dir.path());
        assert_eq!(copies.len(), 1, "{copies:?}");
        assert_eq!(std::fs::read(&copies[0]).unwrap(), before);
        // What is written behind the cut is found again.
        let state = open(dir.path(), 1_000);
        set(&state, &space("m", "x"), "d", b"a value").await.unwrap();
        close(state).await;
        assert_eq!(found(dir.path()).await, "abd");
        assert_eq!(self::copies(dir.path()).len(), 1);
    }

    #[tokio::test]
    async fn a_damaged_value_does_not_stop_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, batches) = five(dir.path()).await;
        damage(&journal, payload(&batches, 2));
        assert_eq!(found(dir.path()).await, "ab");
        assert_eq!(copies(dir.path()).len(), 1);
        let beside = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(beside, 1, "what the checksums were judged with is gone");
    }

    #[tokio::test]
    async fn a_last_batch_with_a_hole_costs_only_itself() {
        for is_value in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (journal, batches) = five(dir.path()).await;
            damage(&journal, if is_value { payload(&batches, 4) } else { at(&batches, 4) });
            assert_eq!(found(dir.path()).await, "abcd", "{is_value}");
            assert_eq!(copies(dir.path()).len(), 1);
        }
    }

    #[tokio::test]
    async fn a_batch_without_an_end_is_cut_and_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, batches) = five(dir.path()).await;
        let file = OpenOptions::new().write(true).open(&journal).unwrap();
        file.write_all_at(&[0; 5], batches.end - 5).unwrap();
        let broken = self::batches(&journal).unwrap();
        assert_eq!(broken.broken.map(|begin| begin.at), Some(at(&batches, 4)));
        assert_eq!(found(dir.path()).await, "abcd");
        assert!(copies(dir.path()).is_empty());
    }

    #[tokio::test]
    async fn what_is_behind_a_damaged_journal_goes_with_it() {
        for is_value in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (journal, found_there) = five(dir.path()).await;
            // The last two batches in a journal of their own, as after a journal was full.
            let bytes = std::fs::read(&journal).unwrap();
            let (middle, end) = (at(&found_there, 3) as usize, found_there.end as usize);
            std::fs::write(journal.with_file_name("1.jnl"), &bytes[middle..end]).unwrap();
            OpenOptions::new().write(true).open(&journal).unwrap().set_len(middle as u64).unwrap();
            let now = batches(&journal).unwrap();
            assert_eq!(now.whole.len(), 3, "{now:?}");
            damage(&journal, if is_value { payload(&now, 1) } else { at(&now, 1) });
            assert_eq!(found(dir.path()).await, "a", "{is_value}");
            let mut copies = copies(dir.path());
            copies.sort();
            assert_eq!(copies.len(), 2, "{copies:?}");
            assert_eq!(std::fs::read(&copies[1]).unwrap(), &bytes[middle..end]);
            // What is written behind the cut is found again.
            let state = open(dir.path(), 1_000);
            set(&state, &space("m", "x"), "e", b"a value").await.unwrap();
            close(state).await;
            assert_eq!(found(dir.path()).await, "ae");
        }
    }

    #[tokio::test]
    async fn an_end_is_found_across_two_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("0.jnl");
        for before in CHUNK - END_BYTES - 1..=CHUNK + 1 {
            let mut bytes = vec![0; before];
            bytes.extend_from_slice(b"\x0312345678FJL\x03");
            bytes.resize(bytes.len() + 7, 0);
            std::fs::write(&journal, &bytes).unwrap();
            let end = (before + END_BYTES) as u64;
            assert_eq!(tail(&journal, 0).unwrap(), Tail { filled: end, ended: Some(end) }, "{before}");
            assert_eq!(tail(&journal, 5).unwrap(), Tail { filled: end, ended: Some(end) }, "{before}");
        }
    }
}
