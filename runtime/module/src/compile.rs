//! Compiling: in a process of its own where the server offers one, so that a hostile or huge component can
//! neither take the runtime's memory nor its processors; one at a time either way.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit};
use tidegate_encode::FormError;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{ChildStdout, Command};

use crate::artefact;
use crate::cache::Cache;
use crate::engine::Engines;
use crate::error::LoadError;
use crate::progress::{Progress, Stage};

/// Where components are compiled.
#[derive(Clone, Debug, Default)]
pub enum Compiler {
    /// On a thread of this process.
    #[default]
    InProcess,
    /// In a child process: `PROGRAM compile IN OUT` must call [`compile_file`] with the two paths and exit with status
    /// 0, or print the error to standard error and exit with its [`exit_status`].
    Child {
        /// The program, as a rule this very one.
        program: PathBuf,
    },
}

/// What a compiler process may use.
#[derive(Clone, Copy, Debug)]
pub struct CompilerLimits {
    /// Address space in bytes (default 4 GiB).
    pub memory_bytes: u64,
    /// Processor time, all threads together (default 120 s).
    pub cpu: Duration,
    /// Wall-clock time (default 300 s: the process runs at low priority).
    pub timeout: Duration,
}

impl Default for CompilerLimits {
    fn default() -> Self {
        Self { memory_bytes: 4 << 30, cpu: Duration::from_secs(120), timeout: Duration::from_secs(300) }
    }
}

/// Unix priority of a compiler process: it takes what others leave.
const NICENESS: i32 = 15;
const MAX_STDERR_BYTES: u64 = 16 << 10;
const MAX_STEPS_BYTES: u64 = 1 << 10;

/// The child ended its work and says that the component is bad.
const REFUSED: u8 = 3;
/// The child could not do its work; another may.
const FAILED: u8 = 1;
/// The child passed its limits and noticed it itself.
const UNFINISHED: u8 = 4;

/// The exit status by which a compiler process says what kind of failure `error` of [`compile_file`] is. A process that
/// panics or is killed has others.
pub fn exit_status(error: &LoadError) -> u8 {
    match error {
        LoadError::Compile(_) | LoadError::Form(_) => REFUSED,
        LoadError::Read { source, .. } | LoadError::Cache { source, .. }
            if source.kind() == io::ErrorKind::OutOfMemory =>
        {
            UNFINISHED
        }
        _ => FAILED,
    }
}

/// Compiles the component or core module at `wasm` into an artefact for the cache at `artefact`, which must not exist.
///
/// This is the whole work of the child process of [`Compiler::Child`]: it writes the name of each step to standard
/// output, a line each.
///
/// # Errors
/// [`LoadError`] as [`crate::Host::load`] gives it.
pub fn compile_file(wasm: &Path, artefact: &Path) -> Result<(), LoadError> {
    let bytes = std::fs::read(wasm).map_err(|source| LoadError::Read { path: wasm.to_owned(), source })?;
    let engines = Engines::on_demand().map_err(|error| LoadError::Compiler(error.to_string()))?;
    let tell = |stage: Stage| {
        // Whoever does not read it does not need it.
        drop(writeln!(io::stdout(), "{}", stage.name()));
    };
    let compiled = artefact::compile(&engines, &bytes, tell)?;
    tell(Stage::Writing);
    write(artefact, &compiled)
}

fn write(path: &Path, artefact: &[u8]) -> Result<(), LoadError> {
    Cache::write(path, artefact).map_err(|source| LoadError::Cache { path: path.to_owned(), source })
}

impl Compiler {
    /// Compiles `wasm` into an artefact at `output`.
    pub(crate) async fn compile(
        &self,
        engines: &Engines,
        limits: &CompilerLimits,
        wasm: Vec<u8>,
        cache: &Cache,
        output: &Path,
        progress: &Progress,
    ) -> Result<(), LoadError> {
        match self {
            Self::InProcess => {
                progress.enter(Stage::Compiling);
                let (engines, output) = (engines.clone(), output.to_owned());
                tokio::task::spawn_blocking(move || {
                    write(&output, &artefact::compile(&engines, &wasm, |_| ())?)
                })
                .await
                .map_err(|error| LoadError::Unfinished(format!("failed: {error}")))?
            }
            Self::Child { program } => {
                // A copy, so that the child compiles the very bytes that were hashed.
                let input = cache.temporary();
                let place = input.clone();
                let written = tokio::task::spawn_blocking(move || write(&place, &wasm)).await;
                let result = match written {
                    Ok(Ok(())) => run(program, limits, &input, output, progress).await,
                    Ok(Err(error)) => Err(error),
                    Err(error) => Err(LoadError::Unfinished(format!("failed: {error}"))),
                };
                drop(tokio::fs::remove_file(&input).await);
                result
            }
        }
    }
}

async fn run(
    program: &Path,
    limits: &CompilerLimits,
    input: &Path,
    output: &Path,
    progress: &Progress,
) -> Result<(), LoadError> {
    let failed = |what: &str, error: io::Error| {
        LoadError::Compiler(format!("process {} {what}: {error}", program.display()))
    };
    // The runtime's environment may hold secrets; a compiler needs none of it.
    let mut child = Command::new(program)
        .arg("compile")
        .args([input, output])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed("cannot be started", error))?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    restrict(pid, limits).map_err(|error| failed("cannot be limited", error.into()))?;

    let mut stderr = Vec::new();
    let (steps, words) = (child.stdout.take(), child.stderr.take());
    let finished = tokio::time::timeout(limits.timeout, async {
        let words = async {
            if let Some(pipe) = words {
                let mut pipe = pipe.take(MAX_STDERR_BYTES);
                pipe.read_to_end(&mut stderr).await?;
                // A child that writes more than anybody reads must not hang on a full pipe.
                tokio::io::copy(pipe.get_mut(), &mut tokio::io::sink()).await?;
            }
            io::Result::Ok(())
        };
        let (steps, words) = tokio::join!(follow(steps, progress), words);
        steps.and(words)?;
        child.wait().await
    });
    match finished.await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => {
            let text = String::from_utf8_lossy(&stderr);
            let text = text.trim();
            match status.code().and_then(|code| u8::try_from(code).ok()) {
                Some(REFUSED) if !text.is_empty() => Err(refusal(text)),
                Some(FAILED) if !text.is_empty() => {
                    Err(LoadError::Compiler(format!("process failed: {text}")))
                }
                _ => Err(LoadError::Unfinished(format!("process ended with {status} {text}"))),
            }
        }
        Ok(Err(error)) => {
            Err(LoadError::Unfinished(format!("process {} was lost: {error}", program.display())))
        }
        Err(_) => Err(LoadError::Unfinished(format!(
            "process was stopped after {}",
            humantime::format_duration(limits.timeout)
        ))),
    }
}

/// Reads the steps the child names.
async fn follow(steps: Option<ChildStdout>, progress: &Progress) -> io::Result<()> {
    let Some(pipe) = steps else { return Ok(()) };
    // Bounded: a line of a child that went mad must not fill the memory.
    let mut lines = BufReader::new(pipe.take(MAX_STEPS_BYTES)).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(stage) = Stage::from_name(&line) {
            progress.enter(stage);
        }
    }
    tokio::io::copy(lines.into_inner().get_mut().get_mut(), &mut tokio::io::sink()).await?;
    Ok(())
}

/// What the child said as the error that it was there.
fn refusal(text: &str) -> LoadError {
    if let Some((_, reason)) = text.split_once("it cannot be made a component: ") {
        return FormError::Encode(reason.to_owned()).into();
    }
    LoadError::Compile(text.split_once("it does not compile: ").map_or(text, |(_, reason)| reason).to_owned())
}

/// Sets the child's limits from outside: it starts to compile milliseconds later than this takes.
fn restrict(pid: Option<Pid>, limits: &CompilerLimits) -> rustix::io::Result<()> {
    let both = |value: u64| Rlimit { current: Some(value), maximum: Some(value) };
    let set = || {
        rustix::process::setpriority_process(pid, NICENESS)?;
        rustix::process::prlimit(pid, Resource::As, both(limits.memory_bytes))?;
        rustix::process::prlimit(pid, Resource::Cpu, both(limits.cpu.as_secs().max(1)))
    };
    // No pid means this process to the system: never limit the runtime itself.
    match pid.map(|_| set()) {
        // A child that has ended already needs no limits; its status tells what happened.
        None | Some(Ok(_) | Err(rustix::io::Errno::SRCH)) => Ok(()),
        Some(Err(error)) => Err(error),
    }
}
