//! Files made to hurt: each is refused or contained with a reason, and the host goes on serving others.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tidegate_module::{CallError, Limit};

use crate::guests::{Bench, ask, component, guest, publish};

/// A raw module with these fields, whose `handle` has this body.
fn raw(fields: &str, body: &str) -> Vec<u8> {
    component(&raw_text(fields, body))
}

fn raw_text(fields: &str, body: &str) -> String {
    format!(
        r#"(module
            {fields}
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
            (func (export "handle") (param i32 i32) (result i32) {body} (i32.const 16)))"#
    )
}

const MEMORY: &str = r#"(memory (export "memory") 1)"#;
const HOOKS: &str = r##"hooks = { "message.publish" = ["#"] }"##;

/// `wasm` is refused with a reason that contains `part`, quickly, and the host loads another module afterwards.
async fn is_refused(bench: &Bench, what: &str, wasm: &[u8], part: &str) {
    let started = Instant::now();
    let refusal = bench.refusal(wasm, HOOKS).await;
    assert!(refusal.contains(part), "{what}: {refusal}");
    assert!(refusal.len() < 4_096, "{what}: the reason has {} bytes", refusal.len());
    assert!(started.elapsed() < Duration::from_secs(60), "{what}: {:?}", started.elapsed());
}

async fn still_serves(bench: &Bench) {
    let module = bench.load(&guest("probe"), "").await.unwrap();
    assert_eq!(ask(&module, "config/none").await, "None of 0");
}

#[tokio::test]
async fn sizes_beyond_the_limits_are_refused_by_name() {
    let bench = Bench::new();
    let cases = [
        ("a memory of 4 GiB", r#"(memory (export "memory") 65536)"#.to_owned(), "memory"),
        ("a memory above the manifest", r#"(memory (export "memory") 1024)"#.to_owned(), "memory"),
        ("a table of ten million", format!("{MEMORY} (table 10000000 funcref)"), "table"),
        ("many tables", format!("{MEMORY} {}", "(table 10 funcref)".repeat(99)), "table"),
        ("many memories", format!("{MEMORY} {}", "(memory 1)".repeat(99)), "memor"),
    ];
    for (what, fields, part) in cases {
        is_refused(&bench, what, &raw(&fields, ""), part).await;
    }
    still_serves(&bench).await;
}

#[tokio::test]
async fn a_data_segment_far_out_costs_no_memory() {
    let bench = Bench::new();
    // Few bytes in the file, a whole memory once it is initialised: inside the limit it loads, above it is refused.
    let bomb = |pages: usize| {
        let last = pages * 65_536 - 8;
        raw(&format!(r#"(memory (export "memory") {pages}) (data (i32.const {last}) "x")"#), "")
    };
    assert!(bench.load(&bomb(400), HOOKS).await.is_ok());
    is_refused(&bench, "a data bomb", &bomb(4_000), "memory").await;
    let outside = raw(&format!(r#"{MEMORY} (data (i32.const 70000) "x")"#), "");
    is_refused(&bench, "data outside", &outside, "out of bounds").await;
    still_serves(&bench).await;
}

#[tokio::test]
async fn what_never_ends_is_ended() {
    let bench = Bench::new();
    let spin = "(loop $l (br $l))";
    let start = raw(&format!("{MEMORY} (func $s {spin}) (start $s)"), "");
    is_refused(&bench, "a start function that loops", &start, "cpu").await;
    let init = raw(MEMORY, spin);
    is_refused(&bench, "an init that loops", &init, "cpu").await;
    still_serves(&bench).await;
}

#[tokio::test]
async fn deep_recursion_is_a_named_limit_of_the_event() {
    let bench = Bench::new();
    // Only events recurse: `init` has `{"c` at its beginning, an event `{"h`.
    let recurse = r#"(func $r (param i64 i64 i64 i64) (result i64)
        (i64.add (call $r (local.get 1) (local.get 2) (local.get 3) (local.get 0)) (i64.const 1)))"#;
    let body = r#"(if (i32.eq (i32.load8_u (i32.add (local.get 0) (i32.const 2))) (i32.const 104))
        (then (drop (call $r (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))))"#;
    let module = bench.load(&raw(&format!("{MEMORY} {recurse}"), body), HOOKS).await.unwrap();
    let error = module.call(&publish("a", b"x")).await.unwrap_err();
    assert!(error.to_string().contains("stack"), "{error}");
    assert!(!matches!(error, CallError::Limit { which: Limit::Memory(_), .. }));
    still_serves(&bench).await;
}

#[tokio::test]
async fn answers_that_lie_about_their_place_are_traps() {
    let bench = Bench::new();
    for (what, at, length) in [
        ("beyond the memory", 60_000, 1_000_000),
        ("at the end of the address space", -8, 16),
        ("longer than all memory", 0, -1),
    ] {
        let body = format!(
            "(i32.store (i32.const 16) (i32.const {at})) (i32.store (i32.const 20) (i32.const {length}))"
        );
        let refusal = bench.refusal(&raw(MEMORY, &body), HOOKS).await;
        assert!(refusal.contains("init failed"), "{what}: {refusal}");
    }
    // A guest that gives the host an address outside its memory to write to.
    let realloc = component(&raw_text(MEMORY, "").replace("(i32.const 1024)", "(i32.const -16)"));
    let refusal = bench.refusal(&realloc, HOOKS).await;
    assert!(refusal.contains("init failed"), "{refusal}");
    still_serves(&bench).await;
}

#[tokio::test]
async fn masses_of_definitions_are_compiled_or_refused_in_bounds() {
    let bench = Bench::new();
    let mut functions = String::from(MEMORY);
    for _ in 0..20_000 {
        functions.push_str("(func (nop))");
    }
    let many = raw(&functions, "");
    // Many functions are no crime.
    assert!(bench.load(&many, HOOKS).await.is_ok());

    let mut nested = String::from("(component)");
    for _ in 0..40 {
        nested = format!("(component {nested})");
    }
    is_refused(&bench, "components in components", &component(&nested), "").await;

    let mut instances = String::from("(component (core module $m)");
    for _ in 0..3_000 {
        instances.push_str("(core instance (instantiate $m))");
    }
    instances.push(')');
    is_refused(&bench, "thousands of instances", &component(&instances), "").await;

    let mut types = String::from("(component (type $t0 u8)");
    for level in 1..40 {
        let below = level - 1;
        write!(types, "(type $t{level} (tuple $t{below} $t{below}))").unwrap();
    }
    types.push_str("(import \"f\" (func (param \"a\" $t39))))");
    // The text itself may be refused by whoever parses it; the host must not be the first to notice.
    if let Ok(wasm) = wat::parse_str(&types) {
        is_refused(&bench, "a type that doubles forty times", &wasm, "").await;
    }
    still_serves(&bench).await;
}

#[tokio::test]
async fn garbage_after_a_good_beginning_is_refused() {
    let bench = Bench::new();
    let whole = guest("pass");
    for (seed, at) in [(3_usize, 9), (7, 64), (11, 1_000), (13, whole.len() / 2), (17, whole.len() - 100)] {
        let mut wasm = whole.clone();
        for (index, byte) in wasm.iter_mut().skip(at).take(64).enumerate() {
            *byte = byte.wrapping_mul(31).wrapping_add(u8::try_from((index * seed) % 251).unwrap());
        }
        // Damage may fall into data or names, which is no fault of form. What it never does is end the host.
        if let Err(error) = bench.load(&wasm, "").await {
            assert!(!error.to_string().is_empty());
        }
    }
    still_serves(&bench).await;
}
