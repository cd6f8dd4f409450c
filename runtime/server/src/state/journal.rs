//! The journal of the embedded database: what is taken out of it before the database opens.
//!
//! The format is fjall's third: a batch is a start (items, sequence number), its items, and an end (checksum, trailer);
//! behind the last one there are zeros, because the file is made with its full size.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// What an end ends with.
const TRAILER: &[u8] = b"FJL\x03";
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
    /// A batch that begins there and is not whole.
    broken: Option<Begin>,
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

fn failed(journal: &Path) -> impl Fn(io::Error) -> String {
    move |error| format!("{}: {error}", journal.display())
}

/// Takes all batches from the sequence number `seqno` on out of the journals in `directory`.
///
/// # Errors
/// A journal cannot be read or cut.
pub(super) fn take_out(directory: &Path, seqno: u64) -> Result<(), String> {
    let _lock = locked(directory)?;
    for journal in journals(directory).map_err(failed(directory))? {
        let Batches { whole, broken } = batches(&journal).map_err(failed(&journal))?;
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
