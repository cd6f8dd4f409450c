//! Compiled components as bytes: our header, a checksum, wasmtime's artefact.
//!
//! wasmtime trusts an artefact as it trusts its own code, so nothing reaches `deserialize` that is not
//! byte for byte what this program wrote: the header binds the checksum to the component's content and to
//! the engine. The header guards against damage (a full disk, a crash, a bad block); against a malicious
//! writer guards the cache directory, which only this user can write.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::error::LoadError;

const MAGIC: [u8; 8] = *b"TIDEGAT1";
const HEADER: usize = MAGIC.len() + blake3::OUT_LEN;

/// What an artefact was made from and for: its name in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Hash of the component's bytes.
    pub(crate) content: blake3::Hash,
    /// Hash of the engine's settings, version and target.
    engine: u64,
}

impl Key {
    /// The key of a component with this content hash on `engine`.
    pub(crate) fn new(content: blake3::Hash, engine: &Engine) -> Self {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { content, engine: hasher.finish() }
    }

    /// The file name in the cache.
    pub(crate) fn file_name(&self) -> String {
        format!("{}-{:016x}.artefact", self.content.to_hex(), self.engine)
    }

    fn checksum(&self, payload: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.content.as_bytes()).update(&self.engine.to_le_bytes()).update(payload);
        hasher.finalize()
    }
}

/// Compiles `wasm` on `engine` into an artefact with our header.
///
/// # Errors
/// [`LoadError::Compile`] with the compiler's reason.
pub(crate) fn compile(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    let payload =
        engine.precompile_component(wasm).map_err(|error| LoadError::Compile(format!("{error:#}")))?;
    let checksum = Key::new(blake3::hash(wasm), engine).checksum(&payload);
    let mut artefact = Vec::with_capacity(HEADER + payload.len());
    artefact.extend_from_slice(&MAGIC);
    artefact.extend_from_slice(checksum.as_bytes());
    artefact.extend_from_slice(&payload);
    Ok(artefact)
}

/// Loads an artefact made by [`compile`] for `key`. `None`: it is damaged, or made for something else.
pub(crate) fn load(engine: &Engine, key: &Key, artefact: &[u8]) -> Option<Component> {
    let (header, payload) = artefact.split_at_checked(HEADER)?;
    let checksum = header.strip_prefix(&MAGIC)?;
    if key.checksum(payload).as_bytes() != checksum {
        return None;
    }
    deserialize(engine, payload)
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
    use crate::engine::on_demand;

    const EMPTY: &[u8] = &[0, b'a', b's', b'm', 0x0d, 0, 1, 0];

    #[test]
    fn an_artefact_loads_only_undamaged_and_for_its_key() {
        let engine = on_demand().unwrap();
        let artefact = compile(&engine, EMPTY).unwrap();
        let key = Key::new(blake3::hash(EMPTY), &engine);
        assert!(load(&engine, &key, &artefact).is_some());

        let other = Key { content: blake3::hash(b"other"), ..key };
        assert!(load(&engine, &other, &artefact).is_none(), "another component's artefact");
        let other = Key { engine: key.engine ^ 1, ..key };
        assert!(load(&engine, &other, &artefact).is_none(), "another engine's artefact");
        for length in [0, 7, HEADER - 1, HEADER, artefact.len() / 2, artefact.len() - 1] {
            assert!(load(&engine, &key, artefact.get(..length).unwrap()).is_none(), "cut to {length}");
        }
        for position in [0, 9, HEADER, artefact.len() - 1] {
            let mut damaged = artefact.clone();
            *damaged.get_mut(position).unwrap() ^= 1;
            assert!(load(&engine, &key, &damaged).is_none(), "a bit flipped at {position}");
        }
    }
}
