//! What can go wrong, by what the caller can do about it.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_encode::FormError;

use crate::manifest::ManifestError;

/// Why the host cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The WebAssembly engine refused its configuration.
    #[error("the WebAssembly engine cannot start: {0}")]
    Engine(String),
    /// The artefact cache cannot be used.
    #[error("artefact cache {path}: {reason}")]
    Cache {
        /// Its directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The modules' directory cannot be read, so that a mandatory module in it could be missed.
    #[error("{path}: {source}: without it nobody knows which modules are mandatory")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A module whose manifest says `mandatory = true` did not load.
    #[error("mandatory module {path}: {reason}")]
    Mandatory {
        /// Its file.
        path: PathBuf,
        /// Why it did not load.
        reason: String,
    },
}

/// Why a module does not load. The version that serves, if any, goes on serving.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A tenant's file is a symbolic link.
    #[error("{0} is a symbolic link, which only the operator may use")]
    Link(PathBuf),
    /// The file is larger than the host accepts.
    #[error("the file has {bytes} bytes, more than the {limit} that are accepted")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// `HostConfig::max_module_bytes`.
        limit: u64,
    },
    /// The file name gives no module name.
    #[error("the name and its directories must be UTF-8 without control characters, and end in .wasm")]
    Name,
    /// The file is no component and no core module that can be made one.
    #[error(transparent)]
    Form(#[from] FormError),
    /// The manifest is wrong.
    #[error("{}", join(.0))]
    Manifest(Vec<ManifestError>),
    /// The component is malformed or cannot be compiled.
    #[error("it does not compile: {0}")]
    Compile(String),
    /// The compiler could not be started; the component may be well.
    #[error("the compiler {0}")]
    Compiler(String),
    /// The compiler did not finish its work: it passed its limits, was killed or panicked, and would again.
    #[error("the compiler {0}")]
    Unfinished(String),
    /// The host panicked while it loaded the file, and would again: a mistake of the host.
    #[error("the load panicked")]
    Panicked,
    /// The artefact cache failed.
    #[error("artefact cache {path}: {source}")]
    Cache {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The component wants something the host does not offer.
    #[error("it imports {wanted}, which the host does not offer{}", hint(.nearest))]
    UnknownImport {
        /// `interface` or `interface#function`.
        wanted: String,
        /// The nearest name that is offered.
        nearest: Option<String>,
    },
    /// An import has another signature than the host's.
    #[error("an import does not fit: {0}")]
    ImportType(String),
    /// The component exports no hook.
    #[error("it exports no hook; it exports {found}; a module exports at least one of {known}")]
    NoHook {
        /// What it exports instead.
        found: String,
        /// All hooks.
        known: String,
    },
    /// A module of the world `raw` handles nothing.
    #[error(
        "it names no hook: answer {{\"call\":\"hooks\"}} with {{\"hooks\":{{\"message.publish\":[\"#\"]}}}}, or write \
         hooks into the manifest"
    )]
    NoRawHook,
    /// An export has another signature than the contract's.
    #[error("export {interface}: {reason}")]
    ExportType {
        /// The interface.
        interface: String,
        /// What differs.
        reason: String,
    },
    /// The first instance could not be made.
    #[error("it cannot be instantiated: {0}")]
    Instantiate(String),
    /// Every place for instances was in use all the time.
    #[error("it cannot be instantiated: all {0} instances of the host are in use (modules.max_instances)")]
    NoPlace(usize),
    /// There was a place, but what instances are made of was in use all the time: it takes more than its share.
    #[error(
        "it cannot be instantiated: all {0} of the host are in use (modules.max_instances sets how many there are)"
    )]
    NoRoom(String),
    /// The host's engine does not take it: it declares more than an instance may have.
    #[error("the host does not take it: {0}")]
    Unfit(String),
    /// `tidegate:module/init` failed.
    #[error("init failed: {0}")]
    Init(String),
    /// The file changed while it was read: its writer's end brings the next look at it.
    #[error("{0} is being written")]
    Changing(PathBuf),
    /// The state of the version that serves could not be handed over.
    #[error("the state cannot be handed over: {0}")]
    Handover(String),
    /// The version that serves has been busy for so long that its state could not be taken.
    #[error("no pause between two events within {}: the state cannot be handed over", humantime::format_duration(*.0))]
    Busy(Duration),
    /// `tidegate:module/state#restore` failed.
    #[error("restore failed: {0}")]
    Restore(String),
}

impl LoadError {
    /// Whether loading the same bytes again may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Read { .. }
                | Self::Cache { .. }
                | Self::Compiler(_)
                | Self::Instantiate(_)
                | Self::NoPlace(_)
                | Self::NoRoom(_)
                | Self::Init(_)
                | Self::Changing(_)
                | Self::Busy(_)
        )
    }
}

fn join(errors: &[ManifestError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn hint(name: &Option<String>) -> String {
    name.as_ref().map_or_else(String::new, |name| format!(" (the nearest it offers is {name})"))
}

/// A limit of a module, as the manifest's `[limits]` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// `cpu`: computing time of one event.
    Cpu(Duration),
    /// `memory`: bytes, summed over all memories of an instance.
    Memory(usize),
    /// `table_elements`: summed over all tables of an instance.
    TableElements(usize),
    /// `stack`: bytes of the guest's stack. The same for all modules of a host; no manifest sets it.
    Stack(usize),
    /// `hostcall_bytes`: what the guest hands to the host in one call or answer.
    HostcallBytes(usize),
    /// `handles`: resources that an instance holds.
    Handles(usize),
}

impl Limit {
    /// The key in `[limits]` (`stack` stands in none).
    pub const fn key(self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Memory(_) => "memory",
            Self::TableElements(_) => "table_elements",
            Self::Stack(_) => "stack",
            Self::HostcallBytes(_) => "hostcall_bytes",
            Self::Handles(_) => "handles",
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.key();
        match self {
            Self::Cpu(limit) => write!(f, "{key} = {}", humantime::format_duration(*limit)),
            Self::Memory(bytes) | Self::Stack(bytes) | Self::HostcallBytes(bytes) => {
                write!(f, "{key} = {}", bytesize::ByteSize::b(*bytes as u64))
            }
            Self::TableElements(count) | Self::Handles(count) => write!(f, "{key} = {count}"),
        }
    }
}

/// What a guest said when it could not do its work (`variant hook-error`).
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum GuestFailure {
    /// Worth trying again.
    #[error("{0} (worth trying again)")]
    Retry(String),
    /// Will not get better.
    #[error("{0}")]
    Failed(String),
}

/// Why a call of a module gave no answer. Only this event is hurt: the next one gets another instance.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The guest trapped: a panic, an exit, an access out of bounds ...
    #[error("it trapped: {message}{}", said(.stderr))]
    Trap {
        /// The cause, and the guest's stack with names where the file has them.
        message: String,
        /// What the guest last wrote to standard error.
        stderr: String,
    },
    /// The guest passed a limit.
    #[error("it passed its limit {which}{}{}", stack(.message), said(.stderr))]
    Limit {
        /// Which one.
        which: Limit,
        /// Where the guest was.
        message: String,
        /// What the guest last wrote to standard error.
        stderr: String,
    },
    /// No answer in time, waiting included (`timeout`).
    #[error("no answer within its limit timeout = {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The guest answered with an error.
    #[error("it answered: {0}")]
    Guest(GuestFailure),
    /// The guest's answer cannot be used: a topic that is none, for example.
    #[error("its answer cannot be used: {0}")]
    Answer(String),
    /// No instance could be made for the event.
    #[error("no instance: {0}")]
    Instantiate(String),
    /// The module does not handle this hook.
    #[error("it does not handle {0}")]
    NotHandled(&'static str),
    /// Another version serves, and the event did not end on this one in the time it had left.
    #[error("it was interrupted: another version serves")]
    Interrupted,
    /// Another version serves, and this one had not begun the event.
    #[error("another version serves")]
    Replaced,
    /// All instances that it may have were busy for as long as an event may take. The guest never had the event.
    #[error("all its instances were busy for its limit timeout = {}", humantime::format_duration(*.0))]
    Busy(Duration),
    /// As [`Self::Busy`], for what an instance is made of: memories, tables, core instances.
    #[error("no instance: all {0} of the host were in use for as long as it could wait")]
    NoRoom(String),
    /// It failed too often and was not called at all.
    #[error("its circuit is open: it is tried again in {}", humantime::format_duration(*.0))]
    CircuitOpen(Duration),
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("\nlast on standard error:\n{stderr}") }
}

fn stack(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl CallError {
    /// A word for metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Trap { .. } => "trap",
            Self::Limit { which, .. } => which.key(),
            Self::Timeout(_) => "timeout",
            Self::Guest(_) => "guest",
            Self::Answer(_) => "answer",
            Self::Instantiate(_) => "instantiate",
            Self::NotHandled(_) => "not_handled",
            Self::Interrupted => "interrupted",
            Self::Replaced => "replaced",
            Self::Busy(_) | Self::NoRoom(_) => "busy",
            Self::CircuitOpen(_) => "circuit",
        }
    }

    /// Where the guest was when it stopped, innermost frame first, and why.
    pub(crate) fn backtrace(&self) -> Option<&str> {
        match self {
            Self::Trap { message, .. } | Self::Limit { message, .. } => Some(message),
            _ => None,
        }
    }

    /// What the guest last wrote to standard error before it stopped.
    pub(crate) fn stderr(&self) -> Option<&str> {
        match self {
            Self::Trap { stderr, .. } | Self::Limit { stderr, .. } if !stderr.is_empty() => Some(stderr),
            _ => None,
        }
    }

    /// What happened, in a line: the message without the guest's stack.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::Trap { message, .. } => {
                let cause = message.rsplit_once("Caused by:").map_or(message.as_str(), |(_, cause)| cause);
                format!("it trapped: {}", cause.trim())
            }
            Self::Limit { which, .. } => format!("it passed its limit {which}"),
            other => other.to_string(),
        }
    }

    /// Whether calling again with the same event may succeed.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Guest(GuestFailure::Failed(_))
            | Self::Answer(_)
            | Self::NotHandled(_)
            | Self::Replaced
            | Self::CircuitOpen(_) => false,
            Self::Trap { .. }
            | Self::Limit { .. }
            | Self::Timeout(_)
            | Self::Guest(GuestFailure::Retry(_))
            | Self::Instantiate(_)
            | Self::Busy(_)
            | Self::NoRoom(_)
            | Self::Interrupted => true,
        }
    }

    /// Whether it says that another version has taken the module's place.
    pub(crate) const fn is_of_replaced(&self) -> bool {
        matches!(self, Self::Interrupted | Self::Replaced)
    }

    /// Whether the guest never had the event: that is no failure of the module, nor the doing of a message.
    pub(crate) const fn is_before_the_guest(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::NoRoom(_) | Self::CircuitOpen(_))
    }

    /// Whether the guest worked, and said no: that is no reason to stop calling it while others get an answer.
    pub(crate) const fn is_answer(&self) -> bool {
        matches!(self, Self::Guest(_))
    }
}
