//! Compiled components as bytes: our header, a checksum, wasmtime's artefact.
//!
//! wasmtime trusts an artefact as it trusts its own code, so nothing reaches `deserialize` that is not
//! byte for byte what this program wrote: the header binds the checksum to the file's content and to
//! the engines. The header guards against damage (a full disk, a crash, a bad block); against a malicious
//! writer guards the cache directory, which only this user can write.

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::encode;
use crate::engine::Engines;
use crate::error::LoadError;
use crate::lane::Lane;
use crate::progress::Stage;

const MAGIC: [u8; 8] = *b"TIDEGAT2";
/// Magic, checksum, lane.
const HEADER: usize = MAGIC.len() + blake3::OUT_LEN + 1;

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
    let component = encode::component(wasm)?;
    let lane = Lane::of(&component)?;
    tell(Stage::Compiling);
    let payload = engines
        .get(lane)
        .precompile_component(&component)
        .map_err(|error| LoadError::Compile(format!("{error:#}")))?;
    let checksum = Key::new(blake3::hash(wasm), engines).checksum(lane.code(), &payload);
    let mut artefact = Vec::with_capacity(HEADER + payload.len());
    artefact.extend_from_slice(&MAGIC);
    artefact.extend_from_slice(checksum.as_bytes());
    artefact.push(lane.code());
    artefact.extend_from_slice(&payload);
    Ok(artefact)
}

/// Loads an artefact made by [`compile`] for `key`. `None`: it is damaged, or made for something else.
pub(crate) fn load(engines: &Engines, key: &Key, artefact: &[u8]) -> Option<Compiled> {
    let (header, payload) = artefact.split_at_checked(HEADER)?;
    let (code, checksum) = header.strip_prefix(&MAGIC)?.split_last()?;
    if key.checksum(*code, payload).as_bytes() != checksum {
        return None;
    }
    let lane = Lane::from_code(*code)?;
    Some(Compiled { component: deserialize(engines.get(lane), payload)?, lane })
}

#[allow(
    unsafe_code,
    reason = "wasmtime cannot check machine code; the checksum above and the 0700 directory do"
)]
fn deserialize(engine: &Engine, payload: &[u8]) -> Option<Component> {
    // SAFETY: `deserialize` needs bytes that `precompile_component` made, unmodified. These come from a
    // directory that only our user can write, where only `compile` writes; the checksum in the header, which
    // is over exactly this slice and bound to content and engine, excludes truncation and corruption. The
    // slice is our own copy: it cannot change while it is loaded, as a mapped file could.
    match unsafe { Component::deserialize(engine, payload) } {
        Ok(component) => Some(component),
        Err(error) => {
            // wasmtime compares its own version and settings again; a hash collision would end here.
            tracing::warn!(error = format!("{error:#}"), "an artefact does not fit the engine");
            None
        }
    }
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
        assert!(load(&engines, &key, &artefact).is_some());

        let other = Key { content: blake3::hash(b"other"), ..key };
        assert!(load(&engines, &other, &artefact).is_none(), "another component's artefact");
        let other = Key { engines: Fingerprint(key.engines.0 ^ 1), ..key };
        assert!(load(&engines, &other, &artefact).is_none(), "another engine's artefact");
        for length in [0, 7, HEADER - 1, HEADER, artefact.len() / 2, artefact.len() - 1] {
            assert!(load(&engines, &key, artefact.get(..length).unwrap()).is_none(), "cut to {length}");
        }
        for position in [0, 9, HEADER - 1, HEADER, artefact.len() - 1] {
            let mut damaged = artefact.clone();
            *damaged.get_mut(position).unwrap() ^= 1;
            assert!(load(&engines, &key, &damaged).is_none(), "a bit flipped at {position}");
        }
    }
}
