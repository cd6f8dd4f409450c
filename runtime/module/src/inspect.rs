//! What can be read from a module's bytes without compiling, linking or running anything: what made it, what it wants
//! and what it offers, and what speaks against loading it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tidegate_encode::Outline;
use tidegate_event::Hook;
use tidegate_event::hook::CATALOGUE;
use wasmparser::component_types::ComponentEntityType;
use wasmparser::{
    BinaryReader, BinaryReaderError, ComponentExternalKind, ComponentTypeRef, Parser, Payload,
    ProducersSectionReader, Validator, WasmFeatures,
};

use crate::imports;

/// Names of the modules that functions of WASI preview 1 are imported from.
const PREVIEW_1: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];
/// The most names of one list that are kept: a hostile file has millions.
const MAX_NAMES: usize = 1_000;

/// What a file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// A component.
    Component,
    /// A core module with an embedded component type.
    TypedCoreModule,
    /// A core module with the exports of the world `raw`.
    RawCoreModule,
    /// Another core module.
    CoreModule,
    /// No WebAssembly that can be read.
    #[default]
    Other,
}

impl Kind {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::TypedCoreModule => "core module with a component type",
            Self::RawCoreModule => "core module for the world raw",
            Self::CoreModule => "core module",
            Self::Other => "no WebAssembly",
        }
    }
}

/// A program that had a part in making a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Producer {
    /// Its name.
    pub name: String,
    /// Its version; may be empty.
    pub version: String,
}

/// What was read from a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of the content, hex: the version that serves has the same.
    pub hash: String,
    /// What it is.
    pub kind: Kind,
    /// Source languages, as the tools wrote them down. Nested modules included; empty when they wrote nothing.
    pub languages: Vec<Producer>,
    /// Compilers, linkers and SDKs, likewise.
    pub tools: Vec<Producer>,
    /// Versions of WASI it imports: `0.2.3`; `preview1`.
    pub wasi: Vec<String>,
    /// Interfaces and functions it imports; of a core module `module.function`.
    pub imports: Vec<String>,
    /// Interfaces and functions it exports.
    pub exports: Vec<String>,
    /// Hooks among the exports.
    pub hooks: Vec<String>,
    /// Why it would be refused, as far as that can be read. An empty list is no promise: nothing was run.
    pub refusals: Vec<String>,
}

impl Inspection {
    /// Reads `bytes`. Whatever is wrong with them is told in [`Self::refusals`].
    pub fn of(bytes: &[u8]) -> Self {
        let mut found = Self {
            bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            hash: blake3::hash(bytes).to_hex().to_string(),
            ..Self::default()
        };
        let mut read = read_sections(bytes, &mut found);
        let mut outline = Outline::default();
        found.kind = match tidegate_encode::kind(bytes) {
            Ok(tidegate_encode::Kind::Component) => Kind::Component,
            Ok(tidegate_encode::Kind::CoreModule) => {
                read = read.and(outline.read(bytes));
                found.add_core(&outline)
            }
            Err(_) => Kind::Other,
        };
        let preview1 = outline.imports.iter().any(|(module, _)| PREVIEW_1.contains(&module.as_str()));
        found.wasi = wasi_versions(&found.imports, preview1);
        for list in [&mut found.languages, &mut found.tools] {
            list.sort();
            list.dedup();
            list.truncate(MAX_NAMES);
        }
        found.hooks = hooks(&found.exports);
        match (tidegate_encode::component(bytes), read) {
            (Err(refusal), _) => found.refusals.push(refusal.to_string()),
            (Ok(_), Err(error)) => found.refusals.push(format!("it cannot be read: {error}")),
            (Ok(component), Ok(())) => found.look_into(&component),
        }
        found
    }

    /// Adds the names of a core module; gives what it is.
    fn add_core(&mut self, outline: &Outline) -> Kind {
        for (module, name) in &outline.imports {
            keep(&mut self.imports, &format!("{module}.{name}"));
        }
        for name in &outline.exports {
            keep(&mut self.exports, name);
        }
        match outline {
            Outline { has_type: true, .. } => Kind::TypedCoreModule,
            outline if outline.is_raw() => Kind::RawCoreModule,
            _ => Kind::CoreModule,
        }
    }

    /// Looks at the component that the file is or becomes.
    fn look_into(&mut self, component: &[u8]) {
        match self.kind {
            Kind::Component => self.validate(component, &self.imports.clone()),
            _ => {
                let mut made = Self::default();
                // The encoder's own work is read without a mistake.
                read_sections(component, &mut made).ok();
                self.hooks = hooks(&made.exports);
                self.validate(component, &made.imports);
            }
        }
        // A raw module is asked when it is loaded, or its manifest says.
        if self.hooks.is_empty() && self.kind != Kind::RawCoreModule {
            let known = CATALOGUE.map(|row| row.name).join(", ");
            self.refusals.push(format!("it exports no hook; a module exports at least one of {known}"));
        }
    }

    /// Adds why a component with these imports is malformed or wants what the host does not offer.
    fn validate(&mut self, bytes: &[u8], imports: &[String]) {
        match Validator::new_with_features(WasmFeatures::all()).validate_all(bytes) {
            Ok(types) => {
                for name in imports {
                    let Some(item) = types.component_item_for_import(name) else { continue };
                    let ComponentEntityType::Instance(id) = item.ty else { continue };
                    let functions: Vec<&str> = types[id]
                        .exports
                        .iter()
                        .filter(|(_, export)| matches!(export.ty, ComponentEntityType::Func(_)))
                        .map(|(function, _)| function.as_str())
                        .collect();
                    if !functions.is_empty()
                        && let Some(refusal) = imports::unknown(name, &functions)
                    {
                        self.refusals.push(refusal.to_string());
                    }
                }
            }
            Err(error) => self.refusals.push(format!("it is malformed: {error}")),
        }
    }
}

/// Reads the sections of a component, and what made any file, up to the end or the first mistake; what came before it is
/// kept.
fn read_sections(bytes: &[u8], found: &mut Inspection) -> Result<(), BinaryReaderError> {
    let mut parser = Parser::new(0);
    parser.set_features(WasmFeatures::all());
    let mut depth = 0_usize;
    for payload in parser.parse_all(bytes) {
        match payload? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if section.name() == "producers" => {
                // Written by tools for people: a damaged one says nothing about the code.
                producers(section.data(), section.data_offset(), found).ok();
            }
            // What is nested imports from its surroundings, not from the host.
            _ if depth != 1 => {}
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import?;
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        keep(&mut found.imports, import.name.name);
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    if matches!(export.kind, ComponentExternalKind::Instance | ComponentExternalKind::Func) {
                        keep(&mut found.exports, export.name.name);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn keep(list: &mut Vec<String>, name: &str) {
    if list.len() < MAX_NAMES {
        list.push(name.to_owned());
    }
}

fn producers(bytes: &[u8], offset: usize, found: &mut Inspection) -> Result<(), BinaryReaderError> {
    for field in ProducersSectionReader::new(BinaryReader::new(bytes, offset))? {
        let field = field?;
        let list = if field.name == "language" { &mut found.languages } else { &mut found.tools };
        for value in field.values {
            let value = value?;
            let producer = Producer { name: value.name.to_owned(), version: value.version.to_owned() };
            if list.len() < MAX_NAMES && !list.contains(&producer) {
                list.push(producer);
            }
        }
    }
    Ok(())
}

fn wasi_versions(imports: &[String], preview1: bool) -> Vec<String> {
    // Proposals have versions of their own; these packages carry the one of WASI.
    const PACKAGES: [&str; 7] = [
        "wasi:cli/",
        "wasi:clocks/",
        "wasi:filesystem/",
        "wasi:http/",
        "wasi:io/",
        "wasi:random/",
        "wasi:sockets/",
    ];
    let of_wasi = |name: &&String| PACKAGES.iter().any(|package| name.starts_with(package));
    let versions = imports.iter().filter(of_wasi).filter_map(|name| Some(name.split_once('@')?.1.to_owned()));
    let mut versions: BTreeSet<_> = versions.collect();
    if preview1 {
        versions.insert("preview1".to_owned());
    }
    versions.into_iter().collect()
}

fn hooks(exports: &[String]) -> Vec<String> {
    let interface = |name: &'_ str| name.split_once('@').map_or(name.to_owned(), |(base, _)| base.to_owned());
    let exported: BTreeSet<_> = exports.iter().map(|name| interface(name)).collect();
    Hook::all()
        .filter(|hook| {
            let row = hook.row();
            exported.contains(row.interface) || row.batch.is_some_and(|batch| exported.contains(batch))
        })
        .map(|hook| hook.name().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn inspect(text: &str) -> Inspection {
        Inspection::of(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn a_component_says_what_it_wants_and_offers() {
        let found = inspect(
            r#"(component
                (import "wasi:clocks/monotonic-clock@0.2.3" (instance (export "now" (func (result u64)))))
                (import "acme:things/stuff@1.0.0" (instance (export "f" (func))))
                (core module $m (import "wasi_snapshot_preview1" "inner" (func)) (func (export "x"))
                    (@producers (language "Rust" "2024") (processed-by "rustc" "1.95.0")))
                (instance $i)
                (export "tidegate:hooks/session-created@0.1.0" (instance $i)))"#,
        );
        assert_eq!(found.kind, Kind::Component);
        assert_eq!(found.wasi, ["0.2.3"], "what a nested module imports comes from the component");
        assert_eq!(found.imports, ["wasi:clocks/monotonic-clock@0.2.3", "acme:things/stuff@1.0.0"]);
        assert_eq!(found.exports, ["tidegate:hooks/session-created@0.1.0"]);
        assert_eq!(found.hooks, ["session.created"]);
        assert_eq!(found.languages, [Producer { name: "Rust".into(), version: "2024".into() }]);
        assert_eq!(found.tools, [Producer { name: "rustc".into(), version: "1.95.0".into() }]);
        assert_eq!(found.refusals.len(), 1, "{:?}", found.refusals);
        assert!(found.refusals.iter().any(|why| why.contains("acme:things/stuff@1.0.0#f")));
    }

    #[test]
    fn core_modules_are_told_apart() {
        let raw = r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc")) (func (export "handle")))"#;
        let found = inspect(raw);
        assert_eq!((found.kind, found.wasi), (Kind::RawCoreModule, vec!["preview1".to_owned()]));
        assert_eq!(found.imports, ["wasi_snapshot_preview1.fd_write"]);
        let typed = inspect(r#"(module (@custom "component-type:x" "y"))"#);
        assert_eq!(typed.kind, Kind::TypedCoreModule);
        assert_eq!(inspect("(module)").kind, Kind::CoreModule);
    }

    #[test]
    fn what_is_broken_says_so_and_shows_what_came_before() {
        let whole = wat::parse_str(
            r#"(component (import "wasi:io/poll@0.2.0" (instance)) (core module (func (export "x"))))"#,
        )
        .unwrap();
        let found = Inspection::of(&whole[..whole.len() - 3]);
        assert_eq!(found.imports, ["wasi:io/poll@0.2.0"]);
        assert!(found.refusals[0].starts_with("it cannot be read: "), "{:?}", found.refusals);
        let none = inspect("(component)");
        assert!(none.refusals[0].starts_with("it exports no hook"), "{:?}", none.refusals);
        let nothing = Inspection::of(b"hello");
        assert_eq!(nothing.kind, Kind::Other);
        assert!(nothing.refusals[0].contains("found no WebAssembly"), "{:?}", nothing.refusals);
        assert_eq!(nothing.bytes, 5);
    }
}
