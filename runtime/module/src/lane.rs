//! Which engine a component needs: the plain one, or the one with concurrent tasks.

use wasmparser::{Parser, Payload, Validator, WasmFeatures};

use crate::error::LoadError;

/// An engine with its own settings; code compiled for one does not run on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Components of WASI 0.2: without concurrent tasks a call costs about a third.
    Plain,
    /// Components with asynchronous functions, streams or futures, WASI 0.3 among them.
    Concurrent,
}

/// Interfaces of this WASI release exist only on [`Lane::Concurrent`].
const WASI_0_3: &str = "@0.3.";

impl Lane {
    /// Both lanes.
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::Concurrent];

    /// As artefacts write it.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Concurrent => 1,
        }
    }

    /// The lane of [`Self::code`].
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.code() == code)
    }

    /// The lane that the component in `wasm` needs. A component that is not valid at all is given to the plain lane,
    /// whose compiler says why. Function bodies are not looked at: they decide nothing here.
    ///
    /// # Errors
    /// [`LoadError::Compile`] when the file cannot be read as WebAssembly.
    pub(crate) fn of(wasm: &[u8]) -> Result<Self, LoadError> {
        let with = WasmFeatures::default() | WasmFeatures::CM_ASYNC;
        if imports_wasi_0_3(wasm)? || (!is_valid(wasm, with - WasmFeatures::CM_ASYNC) && is_valid(wasm, with))
        {
            return Ok(Self::Concurrent);
        }
        Ok(Self::Plain)
    }
}

fn is_valid(wasm: &[u8], features: WasmFeatures) -> bool {
    let mut validator = Validator::new_with_features(features);
    Parser::new(0)
        .parse_all(wasm)
        .all(|payload| payload.is_ok_and(|payload| validator.payload(&payload).is_ok()))
}

/// Whether the component itself, not one inside it, imports an interface of WASI 0.3.
fn imports_wasi_0_3(wasm: &[u8]) -> Result<bool, LoadError> {
    let failed = |error: wasmparser::BinaryReaderError| LoadError::Compile(error.to_string());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(failed)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let name = import.map_err(failed)?.name.name;
                    if name.starts_with("wasi:") && name.contains(WASI_0_3) {
                        return Ok(true);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn lane(text: &str) -> Lane {
        Lane::of(&wat::parse_str(text).unwrap()).unwrap()
    }

    #[test]
    fn what_a_component_uses_decides() {
        assert_eq!(lane("(component)"), Lane::Plain);
        assert_eq!(lane(r#"(component (import "wasi:clocks/wall-clock@0.2.0" (instance)))"#), Lane::Plain);
        assert_eq!(lane(r#"(component (import "wasi:random/random@0.3.0" (instance)))"#), Lane::Concurrent);
        assert_eq!(lane(r#"(component (import "f" (func async)))"#), Lane::Concurrent);
        assert_eq!(lane("(component (type (stream u8)))"), Lane::Concurrent);
        let nested = r#"(component (component (import "wasi:random/random@0.3.0" (instance))))"#;
        assert_eq!(lane(nested), Lane::Plain);
    }

    #[test]
    fn codes_read_back() {
        for lane in Lane::ALL {
            assert_eq!(Lane::from_code(lane.code()), Some(lane));
        }
        assert_eq!(Lane::from_code(7), None);
    }
}
