//! What is read of a core module without looking into its functions.

use wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as PREVIEW1;
use wasmparser::{Parser, Payload, WasmFeatures};

use crate::FormError;

/// What a module of the raw world must export.
const RAW_EXPORTS: [&str; 3] = ["memory", "cabi_realloc", "handle"];
/// Whose imports it may have: the world's own, and preview 1.
const RAW_IMPORTS: [(&str, Option<&str>); 2] = [("$root", Some("host-call")), (PREVIEW1, None)];
/// The custom sections that carry a component type begin with this; a number may follow.
const TYPE_SECTION: &str = "component-type";

/// The names that a core module is judged by.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// Whether it carries the type of its component.
    pub has_type: bool,
    /// Module and name of each import.
    pub imports: Vec<(String, String)>,
    /// Names of its exports.
    pub exports: Vec<String>,
}

impl Outline {
    /// Adds what stands in `wasm`, up to its end or the first mistake.
    ///
    /// # Errors
    /// The mistake; what came before it is kept.
    pub fn read(&mut self, wasm: &[u8]) -> wasmparser::Result<()> {
        let mut parser = Parser::new(0);
        parser.set_features(WasmFeatures::all());
        for payload in parser.parse_all(wasm) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        self.imports.push((import.module.to_owned(), import.name.to_owned()));
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        self.exports.push(export?.name.to_owned());
                    }
                }
                Payload::CustomSection(section) => self.has_type |= section.name().starts_with(TYPE_SECTION),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether it has the exports of the world `raw`.
    pub fn is_raw(&self) -> bool {
        self.missing().is_empty()
    }

    /// Whether it imports from the module `name`.
    pub(crate) fn imports_from(&self, name: &str) -> bool {
        self.imports.iter().any(|(module, _)| module == name)
    }

    /// Says what a module of the raw world lacks or wants, before the encoder says it in its own words.
    ///
    /// # Errors
    /// [`FormError::NotRaw`], [`FormError::RawImport`].
    pub(crate) fn check_raw(&self) -> Result<(), FormError> {
        let missing = self.missing();
        if !missing.is_empty() {
            let is_program = self.has_export("_start") && !self.has_export("handle");
            return Err(FormError::NotRaw { missing: missing.join(", "), is_program });
        }
        let offered = |module: &str, name: &str| {
            RAW_IMPORTS.iter().any(|(from, only)| *from == module && only.is_none_or(|only| only == name))
        };
        match self.imports.iter().find(|(module, name)| !offered(module, name)) {
            None => Ok(()),
            Some((module, name)) => Err(FormError::RawImport {
                wanted: format!("{module}#{name}"),
                is_near: module == "env" || name == "host_call",
            }),
        }
    }

    fn missing(&self) -> Vec<&'static str> {
        RAW_EXPORTS.into_iter().filter(|export| !self.has_export(export)).collect()
    }

    fn has_export(&self, name: &str) -> bool {
        self.exports.iter().any(|export| export == name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_are_read_and_those_before_a_mistake_are_kept() {
        let text = r#"(module
            (import "$root" "host-call" (func (param i32 i32 i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc")) (func (export "handle"))
            (@custom "component-type:x" "y"))"#;
        let wasm = wat::parse_str(text).unwrap();
        let mut whole = Outline::default();
        whole.read(&wasm).unwrap();
        assert!(whole.is_raw() && whole.has_type && whole.imports_from("$root"));
        assert_eq!(whole.exports, ["memory", "cabi_realloc", "handle"]);
        let mut part = Outline::default();
        assert!(part.read(&wasm[..wasm.len() - 3]).is_err());
        assert_eq!((part.exports, part.has_type), (whole.exports, false));
    }
}
