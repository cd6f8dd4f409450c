//! Arbitrary bytes as a module file: told apart, made a component with the adapter, given to an engine, validated.
//!
//! An input that begins with `%` is a core module whose first byte was taken away and whose exports are those of the
//! world `raw`, so that mutations reach the encoder and not only the check before it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_encode::{FormError, Kind, Lane};
use wasmparser::{Validator, WasmFeatures};

/// What such a file is worth reading of in an error.
const MOST_TEXT: usize = 16 << 10;

fuzz_target!(|input: &[u8]| {
    look(input);
    if let Some(body) = input.strip_prefix(b"%") {
        look(&raw(body));
    }
});

fn look(wasm: &[u8]) {
    let kind = tidegate_encode::kind(wasm);
    match tidegate_encode::component(wasm) {
        Ok(component) => {
            assert!(kind.is_ok(), "what is no module became a component");
            assert_eq!(tidegate_encode::kind(&component), Ok(Kind::Component));
            let lane = Lane::of(&component);
            if kind == Ok(Kind::CoreModule) {
                // The encoder's own work must stand before any validator, with what its lane's engine enables.
                let mut features = WasmFeatures::default();
                if lane == Lane::Plain {
                    features.remove(WasmFeatures::CM_ASYNC);
                }
                if let Err(error) = Validator::new_with_features(features).validate_all(&component) {
                    panic!("an encoded component is not valid: {error}");
                }
            }
            let again = tidegate_encode::component(wasm).expect("the same file twice");
            assert_eq!(component, again, "the same file gives the same component");
        }
        Err(error) => {
            let text = error.to_string();
            assert!(
                !text.is_empty() && text.len() < MOST_TEXT + 2 * wasm.len(),
                "{} bytes of error",
                text.len()
            );
            assert_eq!(kind.is_err(), matches!(error, FormError::NotWebAssembly { .. }), "{text}");
        }
    }
}

/// `body` as the function section and code of a module of the world `raw`: types, imports and exports are right.
fn raw(body: &[u8]) -> Vec<u8> {
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    // (func (param i32 i32 i32 i32) (result i32)), (func (param i32 i32) (result i32)), (func (param i32 i32 i32))
    wasm.extend(section(
        1,
        &[
            3, 0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f, 0x60, 2, 0x7f, 0x7f, 1, 0x7f, 0x60, 3, 0x7f, 0x7f,
            0x7f, 0,
        ],
    ));
    let mut imports = vec![1];
    for name in ["$root", "host-call"] {
        imports.push(u8::try_from(name.len()).expect("short"));
        imports.extend(name.bytes());
    }
    imports.extend([0, 2]);
    wasm.extend(section(2, &imports));
    wasm.extend(section(3, &[2, 0, 1]));
    wasm.extend(section(5, &[1, 0, 1]));
    let mut exports = vec![3];
    for (name, kind, index) in [("memory", 2, 0), ("cabi_realloc", 0, 1), ("handle", 0, 2)] {
        exports.push(u8::try_from(name.len()).expect("short"));
        exports.extend(name.bytes());
        exports.extend([kind, index]);
    }
    wasm.extend(section(7, &exports));
    // Two bodies that trap; what follows them is the input's: data, names, other sections, junk.
    wasm.extend(section(10, &[2, 3, 0, 0x00, 0x0b, 3, 0, 0x00, 0x0b]));
    wasm.extend_from_slice(body);
    wasm
}

/// A section with contents of less than 128 bytes.
fn section(id: u8, contents: &[u8]) -> Vec<u8> {
    let mut section = vec![id, u8::try_from(contents.len()).expect("short")];
    section.extend_from_slice(contents);
    section
}
