//! What a file is, told by its first bytes.

use crate::error::LoadError;

/// `\0asm`, then version 13 and layer 1.
const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];
/// `\0asm`, then version 1 and layer 0.
const CORE_MODULE: [u8; 8] = [0, b'a', b's', b'm', 1, 0, 0, 0];
const MAGIC: [u8; 4] = [0, b'a', b's', b'm'];
const ELF: [u8; 4] = [0x7f, b'E', b'L', b'F'];

/// What can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is compiled as it is.
    Component,
    /// It is made a component first: [`crate::encode`].
    CoreModule,
}

/// Tells a component from a core module and refuses everything else.
///
/// # Errors
/// [`LoadError::NotWebAssembly`] naming what was found and what to do.
pub(crate) fn kind(bytes: &[u8]) -> Result<Kind, LoadError> {
    let (found, advice) = if bytes.starts_with(&COMPONENT) {
        return Ok(Kind::Component);
    } else if bytes.starts_with(&CORE_MODULE) {
        return Ok(Kind::CoreModule);
    } else if bytes.is_empty() {
        ("an empty file", "write to another name and rename it when it is complete")
    } else if bytes.starts_with(&MAGIC) && bytes.len() >= 8 {
        ("WebAssembly of an unknown version", "build it with current tools")
    } else if bytes.starts_with(&ELF) {
        // wasmtime's artefacts are ELF objects of machine code: loading one would run whatever is in it.
        (
            "a native object (a precompiled .cwasm or a program)",
            "precompiled code is never accepted, give the .wasm it was made from",
        )
    } else if looks_like_wat(bytes) {
        ("WebAssembly text", "compile it with `wasm-tools parse`")
    } else {
        ("no WebAssembly", "build for a WebAssembly target (Rust: wasm32-wasip2)")
    };
    Err(LoadError::NotWebAssembly { found, advice })
}

fn looks_like_wat(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    text.starts_with(b"(module") || text.starts_with(b"(component") || text.starts_with(b";;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: &[u8]) -> &'static str {
        match kind(bytes) {
            Err(LoadError::NotWebAssembly { found, .. }) => found,
            Ok(Kind::Component) => "a component",
            Ok(Kind::CoreModule) => "a core module",
            Err(_) => "another error",
        }
    }

    #[test]
    fn content_decides_not_the_name() {
        for (bytes, expected) in [
            (&COMPONENT[..], "a component"),
            (b"", "an empty file"),
            (b"\0asm\x01\0\0\0", "a core module"),
            (b"\0asm\x02\0\0\0", "WebAssembly of an unknown version"),
            (b"\0asm", "no WebAssembly"),
            (b"\x7fELF\x02", "a native object (a precompiled .cwasm or a program)"),
            (b"  (module)", "WebAssembly text"),
            (b"hello", "no WebAssembly"),
        ] {
            assert_eq!(found(bytes), expected, "{bytes:?}");
        }
    }
}
