//! Compiling in a child process. This program is both sides: called as `PROGRAM compile IN OUT` it is the
//! compiler, as the server's binary is; otherwise it runs the checks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tidegate_event::offline::Offline;
use tidegate_event::{IdSource, Node, Tenant};
use tidegate_module::{Compiler, Host, HostConfig, LoadError, compile_file, exit_status};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "compile", input, output] => match compile_file(Path::new(input), Path::new(output)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(exit_status(&error))
            }
        },
        // What cargo and test runners ask a program for.
        args if args.contains(&"--list") => ExitCode::SUCCESS,
        _ => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                a_child_compiles().await;
                the_child_says_why().await;
                a_child_that_passes_its_limits_is_not_started_again().await;
                a_program_that_is_none().await;
                a_child_that_panics_or_fails_does_not_accuse_the_component().await;
            });
            println!("compiler: 5 checks passed");
            ExitCode::SUCCESS
        }
    }
}

/// A component with a hook of the wrong type: it compiles, and then does not load.
fn component() -> Vec<u8> {
    wat::parse_str(
        r#"(component
            (core module $m (func (export "f")))
            (core instance $i (instantiate $m))
            (func $f (canon lift (core func $i "f")))
            (instance $e (export "on-message-publish" (func $f)))
            (export "tidegate:hooks/message-publish@0.1.0" (instance $e)))"#,
    )
    .unwrap()
}

async fn load(wasm: &[u8], program: PathBuf, change: impl FnOnce(&mut HostConfig)) -> (LoadError, usize) {
    let root = tempfile::tempdir().unwrap();
    let node = Arc::new(Node::default());
    let mut config = HostConfig::new(root.path().join("cache"), Arc::new(IdSource::new(&node)));
    config.max_instances = 4;
    config.compiler = Compiler::Child { program };
    change(&mut config);
    let host = Host::new(config, node, Arc::new(Offline), Arc::new(Offline)).unwrap();
    let path = root.path().join("m.wasm");
    std::fs::write(&path, wasm).unwrap();
    let error = host.load(&path, &Tenant::default()).await.expect_err("no hook of the right type");
    let left: Vec<_> =
        std::fs::read_dir(root.path().join("cache")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().is_some_and(|e| e == "artefact")), "{left:?}");
    (error, left.len())
}

fn this() -> PathBuf {
    std::env::current_exe().unwrap()
}

async fn a_child_compiles() {
    let (error, artefacts) = load(&component(), this(), |_| {}).await;
    assert!(matches!(error, LoadError::ExportType { .. }), "{error}");
    assert_eq!(artefacts, 1);
}

async fn the_child_says_why() {
    let mut wasm = component();
    wasm.truncate(wasm.len() / 2);
    let (error, artefacts) = load(&wasm, this(), |_| {}).await;
    assert!(matches!(&error, LoadError::Compile(why) if why.contains("unexpected end")), "{error}");
    assert_eq!(error.to_string().matches("it does not compile").count(), 1, "{error}");
    assert_eq!((artefacts, error.is_transient()), (0, false));
}

async fn a_child_that_passes_its_limits_is_not_started_again() {
    let (error, artefacts) = load(&component(), this(), |config| {
        config.compiler_limits.memory_bytes = 1 << 20;
    })
    .await;
    assert!(matches!(error, LoadError::Unfinished(_)), "{error}");
    assert_eq!((artefacts, error.is_transient()), (0, false));
    let (error, _) = load(&component(), this(), |config| {
        config.compiler_limits.timeout = Duration::from_micros(1);
    })
    .await;
    assert!(error.to_string().contains("stopped after") && !error.is_transient(), "{error}");
}

async fn a_program_that_is_none() {
    let (error, _) = load(&component(), PathBuf::from("/no/such/program"), |_| {}).await;
    assert!(error.to_string().contains("/no/such/program cannot be started"), "{error}");
    assert!(error.is_transient());
}

/// A machine without memory or threads for the compiler once was taken for a component that does not compile.
async fn a_child_that_panics_or_fails_does_not_accuse_the_component() {
    let place = tempfile::tempdir().unwrap();
    let ends_with = |status: u8, words: &str| {
        let program = place.path().join(format!("ends-with-{status}"));
        std::fs::write(&program, format!("#!/bin/sh\necho '{words}' >&2\nexit {status}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        program
    };
    let (error, _) = load(&component(), ends_with(101, "panicked: no thread"), |_| {}).await;
    assert!(matches!(&error, LoadError::Unfinished(why) if why.contains("panicked: no thread")), "{error}");
    let full = "artefact cache x: No space left on device";
    let (error, _) = load(&component(), ends_with(1, full), |_| {}).await;
    assert!(matches!(&error, LoadError::Compiler(why) if why.contains(full)), "{error}");
    assert!(error.is_transient(), "the disk may have room later");
}
