//! What a file is, told by its first bytes.

use crate::error::LoadError;

/// `\0asm`, then version 13 and layer 1.
const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];
const MAGIC: [u8; 4] = [0, b'a', b's', b'm'];
const ELF: [u8; 4] = [0x7f, b'E', b'L', b'F'];

/// Refuses everything but a component.
///
/// # Errors
/// [`LoadError::NotAComponent`] naming what was found and how to get a component.
pub(crate) fn expect_component(bytes: &[u8]) -> Result<(), LoadError> {
    let (found, advice) = if bytes.starts_with(&COMPONENT) {
        return Ok(());
    } else if bytes.is_empty() {
        ("an empty file", "write to another name and rename it when it is complete")
    } else if bytes.starts_with(&MAGIC) && bytes.len() >= 8 {
        match bytes.get(4..8) {
            Some([1, 0, 0, 0]) => (
                "a core WebAssembly module",
                "build for a component target (Rust: wasm32-wasip2) or run `wasm-tools component new`",
            ),
            _ => ("WebAssembly of an unknown version", "build it with current tools"),
        }
    } else if bytes.starts_with(&ELF) {
        // wasmtime's artefacts are ELF objects of machine code: loading one would run whatever is in it.
        (
            "a native object (a precompiled .cwasm or a program)",
            "precompiled code is never accepted, give the .wasm it was made from",
        )
    } else if looks_like_wat(bytes) {
        ("WebAssembly text", "compile it with `wasm-tools parse`")
    } else {
        ("no WebAssembly", "build for a component target (Rust: wasm32-wasip2)")
    };
    Err(LoadError::NotAComponent { found, advice })
}

fn looks_like_wat(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    text.starts_with(b"(module") || text.starts_with(b"(component") || text.starts_with(b";;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: &[u8]) -> &'static str {
        match expect_component(bytes) {
            Err(LoadError::NotAComponent { found, .. }) => found,
            _ => "a component",
        }
    }

    #[test]
    fn content_decides_not_the_name() {
        for (bytes, expected) in [
            (&COMPONENT[..], "a component"),
            (b"", "an empty file"),
            (b"\0asm\x01\0\0\0", "a core WebAssembly module"),
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
