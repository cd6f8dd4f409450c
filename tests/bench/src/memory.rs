//! What a process occupies: resident memory, mappings and open files, as the kernel counts them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::Context as _;

/// The unit of `st_blocks`, whatever the file system.
const BLOCK_BYTES: u64 = 512;

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Memory {
    /// Resident: private and shared.
    pub resident: u64,
    /// Resident and nobody else's.
    pub private: u64,
    /// Resident and of no file: the system cannot take it back. What is mapped from a file it can, and reads it again.
    pub anonymous: u64,
    /// Held by memory files that the process keeps open (the initial memories of modules), resident only while an
    /// instance maps them.
    pub files: u64,
}

impl Memory {
    /// Of the process `pid`, now.
    ///
    /// # Errors
    /// When the process is gone or the kernel does not tell.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let field = |name: &str| field(&text, name).with_context(|| format!("{path} has no {name}"));
        Ok(Self {
            resident: field("Rss")?,
            private: field("Private_Clean")? + field("Private_Dirty")?,
            anonymous: field("Anonymous")?,
            files: memory_files(pid)?,
        })
    }

    /// How much more than `before`, for each of `count`, in KiB: resident with memory files, and what of that the system
    /// cannot take back.
    pub fn each_since(self, before: Self, count: usize) -> (f64, f64) {
        let each = |now: u64, then: u64| (now as f64 - then as f64) / 1024.0 / count as f64;
        let whole = |memory: Self| memory.resident + memory.files;
        let kept = |memory: Self| memory.anonymous + memory.files;
        (each(whole(self), whole(before)), each(kept(self), kept(before)))
    }
}

/// Mappings of the process `pid`; the kernel refuses more than [`max_maps`].
///
/// # Errors
/// When the process is gone.
pub fn maps(pid: u32) -> anyhow::Result<usize> {
    let path = format!("/proc/{pid}/maps");
    Ok(fs::read_to_string(&path).with_context(|| format!("reading {path}"))?.lines().count())
}

/// How many mappings a process may have (`vm.max_map_count`).
///
/// # Errors
/// When the kernel does not tell.
pub fn max_maps() -> anyhow::Result<usize> {
    const PATH: &str = "/proc/sys/vm/max_map_count";
    let text = fs::read_to_string(PATH).with_context(|| format!("reading {PATH}"))?;
    text.trim().parse().with_context(|| format!("{PATH}: {text:?}"))
}

/// Open files of the process `pid`, sockets included.
///
/// # Errors
/// When the process is gone.
pub fn open_files(pid: u32) -> anyhow::Result<usize> {
    let path = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&path).with_context(|| format!("reading {path}"))?.count())
}

fn memory_files(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/fd");
    let mut bytes = 0;
    for entry in fs::read_dir(&path).with_context(|| format!("reading {path}"))? {
        let entry = entry?.path();
        // One that was closed in between is none.
        let Ok(target) = fs::read_link(&entry) else { continue };
        if target.as_os_str().as_encoded_bytes().starts_with(b"/memfd:") {
            bytes += fs::metadata(&entry).map_or(0, |found| found.blocks() * BLOCK_BYTES);
        }
    }
    Ok(bytes)
}

/// The bytes of a line such as `Rss:  123 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "1000-2000 ---p 00000000 00:00 0 [rollup]\nRss:       12 kB\nPss_Dirty: 3 kB\nPss: 4 kB\n";
        assert_eq!(field(text, "Rss"), Some(12 << 10));
        assert_eq!(field(text, "Pss"), Some(4 << 10));
        assert_eq!(field(text, "Swap"), None);
    }

    #[test]
    fn what_this_process_takes_shows() {
        let pid = std::process::id();
        let before = Memory::of(pid).unwrap();
        let taken = std::hint::black_box(vec![1_u8; 32 << 20]);
        let (whole, kept) = Memory::of(pid).unwrap().each_since(before, 32);
        assert!(whole > 900.0 && kept > 900.0, "a MiB each: {whole} KiB, {kept} KiB of no file");
        drop(taken);
        assert!(maps(pid).unwrap() > 10 && open_files(pid).unwrap() >= 3);
        assert!(max_maps().unwrap() > 1_000);
    }
}
