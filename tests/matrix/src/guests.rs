//! The guests, and the folder they are built into.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A guest of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The name of its file without `.wasm`, and of its row.
    pub name: &'static str,
    /// What it is written in and what builds it.
    pub toolchain: &'static str,
    /// What the file is, and so what the loader does with it.
    pub form: Form,
}

/// What a toolchain makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A component: loaded as it is.
    Component,
    /// A core module with the type of its component in a custom section.
    Typed,
    /// A core module with the three exports of the world `raw`.
    Raw,
}

impl Form {
    /// For the table.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::Typed => "core module, typed",
            Self::Raw => "core module, `raw`",
        }
    }
}

/// All of them, small ones first.
pub const GUESTS: [Guest; 10] = [
    Guest { name: "c-zig", toolchain: "C, zig cc 0.17", form: Form::Typed },
    Guest { name: "c-clang", toolchain: "C, clang and wasi-libc", form: Form::Typed },
    Guest {
        name: "rust-unknown-unknown",
        toolchain: "Rust, wasm32-unknown-unknown, the SDK",
        form: Form::Typed,
    },
    Guest { name: "rust-wasip2", toolchain: "Rust, wasm32-wasip2, the SDK", form: Form::Component },
    Guest { name: "assemblyscript-raw", toolchain: "AssemblyScript 0.28, json-as 1.6", form: Form::Raw },
    Guest { name: "zig-raw", toolchain: "Zig 0.17, freestanding", form: Form::Raw },
    Guest { name: "go-raw", toolchain: "Go, wasip1 c-shared", form: Form::Raw },
    Guest { name: "javascript-quickjs", toolchain: "JavaScript, jco 1.35 on QuickJS", form: Form::Component },
    Guest {
        name: "javascript-starlingmonkey",
        toolchain: "JavaScript, componentize-js 0.23 on StarlingMonkey",
        form: Form::Component,
    },
    Guest { name: "python", toolchain: "Python, componentize-py 0.25", form: Form::Component },
];

/// The file of a guest, or of an example without component tooling.
///
/// # Panics
/// As [`folder`].
pub fn file(name: &str) -> PathBuf {
    folder().join(format!("{name}.wasm"))
}

/// The folder with the files: `TIDEGATE_MATRIX`, which `cargo xtask test` sets; without it they are built.
///
/// # Panics
/// They cannot be built; the text says what to do.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("TIDEGATE_MATRIX") {
        Some(folder) => folder.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    // target/PROFILE/deps/THIS: xtask builds into the target directory that this test was built into.
    let own = std::env::current_exe().ok();
    let target = own.as_deref().and_then(|own| own.ancestors().nth(3)).map(Path::to_path_buf);
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--package", "xtask", "--", "guests"]);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit());
    if let Some(target) = target {
        command.env("CARGO_TARGET_DIR", target);
    }
    let text = match command.output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => panic!(
            "the guests do not build ({}): run `cargo xtask guests` and see, or set TIDEGATE_MATRIX to a \
             folder with all of them\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout)
        ),
        Err(error) => panic!("cannot start cargo to build the guests: {error}; run `cargo xtask guests`"),
    };
    // Its last line, as its help says.
    PathBuf::from(text.trim_end().lines().last().unwrap_or_default())
}
