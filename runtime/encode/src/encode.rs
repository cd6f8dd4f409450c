//! From a core module to a component: behind this step everything that is loaded is a component.
//!
//! | what the core module is | what is done |
//! | --- | --- |
//! | it carries a component type (`wit-bindgen`, any language) | encoded with that type |
//! | it carries none | the world `tidegate:raw/raw` is embedded, then encoded |
//! | it imports `wasi_snapshot_preview1` (Go, C and Zig with a libc) | the reactor adapter is linked in |

use std::borrow::Cow;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as PREVIEW1, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::FormError;
use crate::content::{self, Kind};
use crate::outline::Outline;

/// Counts changes of what [`component`] makes: what was compiled of another number is made anew.
pub const VERSION: u64 = 1;

const RAW_WIT: &str = include_str!("../../../wit/raw/raw.wit");
const RAW_WORLD: &str = "raw";

/// The component in `wasm`, or made of it.
///
/// # Errors
/// [`FormError::NotWebAssembly`], [`FormError::NotRaw`], [`FormError::RawImport`], [`FormError::Encode`].
pub fn component(wasm: &[u8]) -> Result<Cow<'_, [u8]>, FormError> {
    match content::kind(wasm)? {
        Kind::Component => Ok(Cow::Borrowed(wasm)),
        Kind::CoreModule => {
            let mut outline = Outline::default();
            outline.read(wasm).map_err(failed)?;
            encode(wasm, &outline).map(Cow::Owned)
        }
    }
}

fn encode(wasm: &[u8], outline: &Outline) -> Result<Vec<u8>, FormError> {
    let mut module = Cow::Borrowed(wasm);
    if !outline.has_type {
        outline.check_raw()?;
        embed_raw(module.to_mut())?;
    }
    let mut encoder = ComponentEncoder::default().validate(true).module(&module).map_err(failed)?;
    if outline.imports_from(PREVIEW1) {
        encoder = encoder.adapter(PREVIEW1, ADAPTER).map_err(failed)?;
    }
    encoder.encode().map_err(failed)
}

fn embed_raw(module: &mut Vec<u8>) -> Result<(), FormError> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("raw.wit", RAW_WIT).map_err(failed)?;
    let world = resolve.select_world(&[package], Some(RAW_WORLD)).map_err(failed)?;
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8).map_err(failed)
}

/// The encoder's error with its causes.
fn failed(error: impl std::fmt::Display) -> FormError {
    FormError::Encode(format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const RAW: &str = r#"(module
        (import "$root" "host-call" (func $ask (param i32 i32 i32)))
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 64)
        (func (export "handle") (param i32 i32) (result i32) i32.const 0)
    )"#;

    fn encoded(text: &str) -> Result<Vec<u8>, FormError> {
        component(&wat::parse_str(text).unwrap()).map(Cow::into_owned)
    }

    #[test]
    fn a_component_stays_as_it_is() {
        let wasm = wat::parse_str("(component)").unwrap();
        assert!(matches!(component(&wasm).unwrap(), Cow::Borrowed(same) if same == wasm));
    }

    #[test]
    fn a_core_module_of_the_raw_world_becomes_a_component() {
        let made = encoded(RAW).unwrap();
        assert_eq!(content::kind(&made).unwrap(), Kind::Component);
    }

    #[test]
    fn preview_1_is_adapted_and_only_when_it_is_imported() {
        let with = RAW.replacen(
            "(memory",
            r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
               (memory"#,
            1,
        );
        let (with, without) = (encoded(&with).unwrap(), encoded(RAW).unwrap());
        let imports_wasi = |wasm: &[u8]| wasm.windows(9).any(|bytes| bytes == b"wasi:io/s");
        assert!(imports_wasi(&with) && !imports_wasi(&without));
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        for (text, expected) in [
            ("(module)", "memory, cabi_realloc, handle"),
            (r#"(module (memory (export "memory") 1) (func (export "_start")))"#, "it is a program"),
            (
                &RAW.replace("$root", "env"),
                "it imports env#host-call, which the host does not offer (the nearest it offers is $root#host-call)",
            ),
            (&RAW.replace("(param i32 i32) (result i32)", "(param i32) (result i32)"), "handle"),
        ] {
            let error = encoded(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_broken_module_is_refused() {
        let mut wasm = wat::parse_str(RAW).unwrap();
        wasm.truncate(wasm.len() - 3);
        assert!(matches!(component(&wasm), Err(FormError::Encode(_))));
    }
}
