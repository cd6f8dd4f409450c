//! A file of dead letters: one JSON object a line, each on disk before its writer goes on.
//!
//! The file has a bound: when it is reached, `NAME.jsonl` becomes `NAME.jsonl.1` (replacing an older one) and a new
//! file begins.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_event::BoxFuture;

/// A file of dead letters. Copies share it.
#[derive(Clone, Debug)]
pub struct LetterFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    max_bytes: u64,
    writing: Mutex<()>,
}

impl LetterFile {
    /// Letters go to `path`, of at most about `max_bytes` bytes; nothing is created before the first one.
    pub fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self(Arc::new(Inner { path, max_bytes, writing: Mutex::new(()) }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Writes `letter`, a line without its end; ends when it is on disk.
    ///
    /// # Errors
    /// The system's: then nothing of the letter is in the file.
    pub async fn append(&self, mut letter: String) -> io::Result<()> {
        letter.push('\n');
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || inner.append(letter.as_bytes()))
            .await
            .map_err(io::Error::other)?
    }

    /// Goes through the lines of the file and of the older one beside it, oldest first: only what `look` takes of them into
    /// `taken` is in memory.
    ///
    /// # Errors
    /// The system's. Files that are not there have no lines.
    pub async fn read<T: Send + 'static>(
        &self,
        mut taken: T,
        look: impl Fn(&mut T, &str) + Send + 'static,
    ) -> io::Result<T> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || {
            let _one_at_a_time = inner.writing.lock();
            for path in [rotated(&inner.path), inner.path.clone()] {
                each_line(&path, |line| {
                    look(&mut taken, line);
                    Ok(())
                })?;
            }
            Ok(taken)
        })
        .await
        .map_err(io::Error::other)?
    }

    /// Removes the lines for which `is_unwanted`. Gives how many. A crash leaves each file as it was or as it is to be.
    ///
    /// # Errors
    /// The system's.
    pub async fn remove(&self, is_unwanted: impl Fn(&str) -> bool + Send + 'static) -> io::Result<usize> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || {
            let _one_at_a_time = inner.writing.lock();
            let mut removed = 0;
            for path in [rotated(&inner.path), inner.path.clone()] {
                removed += thin_out(&path, &is_unwanted)?;
            }
            Ok(removed)
        })
        .await
        .map_err(io::Error::other)?
    }
}

impl tidegate_event::DeadLetters for LetterFile {
    fn keep(&self, letter: String) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.append(letter))
    }
}

impl Inner {
    /// Opens the file for every letter: letters are rare, and whoever moves the file away gets the next one in a
    /// new file.
    fn append(&self, line: &[u8]) -> io::Result<()> {
        let _one_at_a_time = self.writing.lock();
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let open = || OpenOptions::new().create(true).read(true).append(true).open(&self.path);
        let mut file = open()?;
        let mut size = file.metadata()?.len();
        if size > 0 && size + line.len() as u64 > self.max_bytes {
            std::fs::rename(&self.path, rotated(&self.path))?;
            file = open()?;
            size = 0;
        }
        let written = end_line(&mut file, size).and_then(|()| file.write_all(line));
        if let Err(error) = written.and_then(|()| file.sync_data()) {
            // A part of a line would spoil the next letter.
            file.set_len(size)?;
            return Err(error);
        }
        sync_dir(dir)
    }
}

/// Calls `look` with each line of a file of letters; there are none when it is not there. What is not UTF-8 in it was never
/// a letter.
fn each_line(path: &Path, mut look: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
    let mut file = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        look(String::from_utf8_lossy(&line).trim_end_matches('\n'))?;
        line.clear();
    }
    Ok(())
}

/// Replaces the file by one without the lines for which `is_unwanted`. Gives how many those were.
fn thin_out(path: &Path, is_unwanted: &impl Fn(&str) -> bool) -> io::Result<usize> {
    let mut removed = 0;
    each_line(path, |line| {
        removed += usize::from(is_unwanted(line));
        Ok(())
    })?;
    if removed == 0 {
        return Ok(0);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    let mut file = BufWriter::new(File::create(&beside)?);
    each_line(path, |line| {
        if is_unwanted(line) {
            return Ok(());
        }
        file.write_all(line.as_bytes())?;
        file.write_all(b"\n")
    })?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&beside, path)?;
    sync_dir(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    Ok(removed)
}

/// Ends a line that a crash has cut off.
fn end_line(file: &mut File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(size - 1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

/// Brings the names of new and renamed files to the disk.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    async fn lines(letters: &LetterFile) -> Vec<String> {
        letters.read(Vec::new(), |lines, line| lines.push(line.to_owned())).await.unwrap()
    }

    #[tokio::test]
    async fn the_file_is_bounded_and_the_newest_letters_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data/letters.jsonl");
        let letters = LetterFile::new(path.clone(), 200);
        for n in 0..20 {
            letters.append(format!("{{\"letter\":\"number {n}\"}}")).await.unwrap();
        }
        let (new, old) =
            (std::fs::read_to_string(&path).unwrap(), std::fs::read_to_string(rotated(&path)).unwrap());
        assert!(new.len() <= 200 && old.len() <= 200, "{} {}", new.len(), old.len());
        assert!(new.ends_with("{\"letter\":\"number 19\"}\n") && !new.contains("number 0\""), "{new}");
    }

    #[tokio::test]
    async fn a_line_that_was_cut_off_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("letters.jsonl");
        std::fs::write(&path, "{\"whole\":1}\n{\"cut\":").unwrap();
        let letters = LetterFile::new(path.clone(), 1 << 20);
        letters.append("{\"next\":2}".into()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"whole\":1}\n{\"cut\":\n{\"next\":2}\n");
    }

    #[tokio::test]
    async fn letters_are_taken_out_of_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("letters.jsonl");
        std::fs::write(&path, "c\nd\n").unwrap();
        std::fs::write(rotated(&path), "a\nb\n").unwrap();
        let letters = LetterFile::new(path.clone(), 1 << 20);
        assert_eq!(lines(&letters).await, ["a", "b", "c", "d"]);
        assert_eq!(letters.remove(|line| line == "a" || line == "d").await.unwrap(), 2);
        assert_eq!(lines(&letters).await, ["b", "c"]);
        letters.append("e".into()).await.unwrap();
        assert_eq!(lines(&letters).await, ["b", "c", "e"]);
        assert_eq!(letters.remove(|line| line == "x").await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_letter_that_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("letters.jsonl");
        std::fs::create_dir(&path).unwrap();
        assert!(LetterFile::new(path, 1 << 20).append("{}".into()).await.is_err());
    }
}
