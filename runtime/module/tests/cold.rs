//! Memory of a start at which nothing is compiled yet. In a process of its own, because it looks at the process's memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "tests"
)]

use std::fs;
use std::process::Command;
use std::sync::Arc;

use tidegate_event::Tenant;
use tidegate_module::Directory;

#[path = "module/fakes.rs"]
mod fakes;
#[path = "module/guests.rs"]
mod guests;

use guests::{Bench, component};

const MODULES: u32 = 60;
const BYTES: u32 = 8 << 20;

/// A core module of [`BYTES`] that differs by `mark`; as good as all of it is a custom section.
fn large(mark: u32) -> Vec<u8> {
    let mut wasm = component(
        r#"(module
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
            (func (export "handle") (param i32 i32) (result i32) i32.const 8))"#,
    );
    wasm.push(0);
    // The section's size in five bytes of LEB128.
    wasm.extend((0..4).map(|n| u8::try_from((BYTES >> (7 * n)) & 0x7f).unwrap() | 0x80));
    wasm.push(u8::try_from(BYTES >> 28).unwrap());
    let end = wasm.len() + BYTES as usize;
    wasm.extend_from_slice(&[1, b'v']);
    wasm.extend_from_slice(&mark.to_le_bytes());
    wasm.resize(end, 0);
    wasm
}

/// The most memory the process has had, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// All files were read before the first was compiled, and kept until it was their turn.
#[test]
fn modules_that_wait_for_the_compiler_are_not_in_memory() {
    // By default the C library's allocator keeps large blocks that were given back, as many as it has had threads.
    const PLAIN: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");
    if std::env::var(PLAIN.0).is_err() {
        let mut again = Command::new(std::env::current_exe().unwrap());
        let ended = again.args(std::env::args().skip(1)).env(PLAIN.0, PLAIN.1).status().unwrap();
        assert!(ended.success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(start_cold());
}

async fn start_cold() {
    let bench = Bench::cold();
    for n in 0..MODULES {
        bench.write(&format!("m{n}"), &large(n), "hooks = { \"message.publish\" = [] }");
    }
    let before = peak();
    let directory =
        Directory::open(bench.host.clone(), bench.dir(), Tenant::default(), Arc::new(|_| {})).await.unwrap();
    assert_eq!(directory.modules().len(), MODULES as usize, "{:?}", directory.failures());
    let (grown, all) = (peak() - before, u64::from(MODULES * (BYTES >> 20)));
    println!("{all} MiB of modules took {grown} MiB of memory");
    assert!(grown < all / 3, "{grown} MiB for {all} MiB of modules");
    directory.close().await;
}
