//! Compiled components as files: wasmtime's artefact, then our trailer with a checksum.
//!
//! wasmtime trusts an artefact as it trusts its own code, so nothing reaches `deserialize` that is not
//! byte for byte what this program wrote: the trailer binds the checksum to the module's content and to
//! the engines. The trailer guards against damage (a full disk, a crash, a bad block); against a malicious
//! writer guards the cache directory, which only this user can write.
//!
//! Code runs from a copy on disk that has no name, so that the system reads the pages that run and gives back those of
//! idle modules. The file in the cache itself is not mapped: if somebody truncated it, the next page would end the process.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::engine::Engines;
use crate::error::LoadError;
use crate::progress::Stage;
use tidegate_encode::Lane;

const MAGIC: [u8; 8] = *b"TIDEGAT3";
/// Lane, checksum, magic.
const TRAILER: usize = 1 + blake3::OUT_LEN + MAGIC.len();

/// What artefacts of a set of engines have in common: [`Engines::fingerprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) u64);

/// What an artefact was made from and for: its name in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Hash of the file's bytes, component or core module.
    pub(crate) content: blake3::Hash,
    engines: Fingerprint,
}

impl Key {
    /// The key of a file with this content hash on `engines`.
    pub(crate) fn new(content: blake3::Hash, engines: &Engines) -> Self {
        Self { content, engines: engines.fingerprint() }
    }

    /// The file name in the cache.
    pub(crate) fn file_name(&self) -> String {
        format!("{}-{:016x}.artefact", self.content.to_hex(), self.engines.0)
    }

    fn checksum(&self, lane: u8, payload: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.content.as_bytes()).update(&self.engines.0.to_le_bytes());
        hasher.update(&[lane]).update(payload);
        hasher.finalize()
    }
}

/// A compiled component and where it runs.
pub(crate) struct Compiled {
    pub(crate) component: Component,
    pub(crate) lane: Lane,
}

/// Makes a component of `wasm` if it is none, finds its lane and compiles it into an artefact with our header; `tell`
/// hears of each step.
///
/// # Errors
/// [`LoadError`] of a file that is no component and cannot be made one; [`LoadError::Compile`] with the compiler's
/// reason.
pub(crate) fn compile(engines: &Engines, wasm: &[u8], tell: impl Fn(Stage)) -> Result<Vec<u8>, LoadError> {
    tell(Stage::Encoding);
    let component = tidegate_encode::component(wasm)?;
    let lane = Lane::of(&component);
    tell(Stage::Compiling);
    let payload = engines
        .get(lane)
        .precompile_component(&component)
        .map_err(|error| LoadError::Compile(format!("{error:#}")))?;
    let checksum = Key::new(blake3::hash(wasm), engines).checksum(lane.code(), &payload);
    let mut artefact = payload;
    artefact.push(lane.code());
    artefact.extend_from_slice(checksum.as_bytes());
    artefact.extend_from_slice(&MAGIC);
    Ok(artefact)
}

/// What an artefact file led to.
pub(crate) enum Loaded {
    /// It is damaged, or made for something else.
    Damaged,
    /// It is well, and the engine does not take the component: it declares more than an instance may have.
    Unfit(String),
    /// It runs.
    Fits(Compiled),
}

/// Loads the artefact in `file`, which [`compile`] made for `key`; `dir` has room for a copy of it.
///
/// # Errors
/// The system's, when the file cannot be read.
pub(crate) fn load(engines: &Engines, key: &Key, mut file: File, dir: &Path) -> io::Result<Loaded> {
    let mut artefact = Vec::new();
    file.read_to_end(&mut artefact)?;
    let Some((lane, payload)) = check(key, &artefact) else { return Ok(Loaded::Damaged) };
    let engine = engines.get(lane);
    let loaded = match copy(payload, dir) {
        // Where `/proc` is not there, or the engine refuses: memory does, or gives the same reason.
        Ok(copy) => deserialize_file(engine, &copy).or_else(|_| deserialize(engine, payload)),
        // Without room on the disk there may be some in memory.
        Err(error) => {
            tracing::debug!(dir = %dir.display(), %error, "an artefact cannot be copied: it is held in memory");
            deserialize(engine, payload)
        }
    };
    Ok(match loaded {
        Ok(component) => Loaded::Fits(Compiled { component, lane }),
        Err(refusal) => Loaded::Unfit(refusal),
    })
}

/// The lane and the code of an artefact that is undamaged and made for `key`.
fn check<'a>(key: &Key, artefact: &'a [u8]) -> Option<(Lane, &'a [u8])> {
    let (payload, trailer) = artefact.split_at_checked(artefact.len().checked_sub(TRAILER)?)?;
    let (code, checksum) = trailer.strip_suffix(&MAGIC)?.split_first()?;
    if key.checksum(*code, payload).as_bytes() != checksum {
        return None;
    }
    Some((Lane::from_code(*code)?, payload))
}

/// `payload` in a file without a name: nobody but this process can change it.
fn copy(payload: &[u8], dir: &Path) -> io::Result<File> {
    let mut copy = tempfile::tempfile_in(dir)?;
    copy.write_all(payload)?;
    Ok(copy)
}

#[allow(unsafe_code, reason = "as for `deserialize`")]
fn deserialize_file(engine: &Engine, copy: &File) -> Result<Component, String> {
    // By this name wasmtime opens the file anew; it has no other.
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    // SAFETY: as in `deserialize`: the bytes are those whose checksum was compared, and nobody else can reach the file
    // that they were copied to, so they stay what they are as long as it is mapped.
    let loaded = unsafe { Component::deserialize_file(engine, path) };
    loaded.map_err(|error| error.root_cause().to_string())
}

#[allow(
    unsafe_code,
    reason = "wasmtime cannot check machine code; the checksum above and the 0700 directory do"
)]
fn deserialize(engine: &Engine, payload: &[u8]) -> Result<Component, String> {
    // SAFETY: `deserialize` needs bytes that `precompile_component` made, unmodified. These come from a
    // directory that only our user can write, where only `compile` writes; the checksum in the trailer, which
    // is over exactly this slice and bound to content and engine, excludes truncation and corruption. The
    // slice is our own copy: it cannot change while it is loaded, as a mapped file could.
    let loaded = unsafe { Component::deserialize(engine, payload) };
    loaded.map_err(|error| error.root_cause().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const EMPTY: &[u8] = &[0, b'a', b's', b'm', 0x0d, 0, 1, 0];

    #[test]
    fn an_artefact_loads_only_undamaged_and_for_its_key() {
        let engines = Engines::on_demand().unwrap();
        let artefact = compile(&engines, EMPTY, |_| ()).unwrap();
        let key = Key::new(blake3::hash(EMPTY), &engines);
        let loads = |key: &Key, artefact: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), artefact).unwrap();
            let loaded =
                load(&engines, key, File::open(file.path()).unwrap(), &std::env::temp_dir()).unwrap();
            matches!(loaded, Loaded::Fits(_))
        };
        assert!(loads(&key, &artefact));

        let other = Key { content: blake3::hash(b"other"), ..key };
        assert!(!loads(&other, &artefact), "another component's artefact");
        let other = Key { engines: Fingerprint(key.engines.0 ^ 1), ..key };
        assert!(!loads(&other, &artefact), "another engine's artefact");
        let whole = artefact.len();
        for length in [0, 7, TRAILER - 1, TRAILER, whole / 2, whole - TRAILER, whole - 1] {
            assert!(!loads(&key, artefact.get(..length).unwrap()), "cut to {length}");
        }
        for position in [0, whole / 2, whole - TRAILER, whole - TRAILER + 9, whole - 1] {
            let mut damaged = artefact.clone();
            *damaged.get_mut(position).unwrap() ^= 1;
            assert!(!loads(&key, &damaged), "a bit flipped at {position}");
        }
        let longer = [artefact.as_slice(), b"x"].concat();
        assert!(!loads(&key, &longer), "a byte more");
    }
}
