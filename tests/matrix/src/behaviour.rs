//! What every guest must do, by topic, and what the host must say to it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_event::Verdict;
use tidegate_module::{CallError, GuestFailure, Limit, Module};

use crate::host::{Bench, Log, publish};

/// Computing time of one event while anything but the endless loop is asked for: enough for any of them on a
/// busy machine.
pub const CPU: Duration = Duration::from_secs(10);
/// Computing time of an event that loops.
pub const SHORT_CPU: Duration = Duration::from_millis(200);
/// Memory of an instance.
pub const MEMORY: usize = 96 << 20;
/// What guests write to the log.
const LINE: &str = "a line of the guest";
/// Bytes of the large payload.
const LARGE: usize = 256 << 10;
/// Events of one instance in the long run: Go allocates enough meanwhile for its collector to run many times.
const EVENTS: u32 = 3_000;

/// The manifest of a guest, which computes for `cpu` at most, with instances of `mode`.
pub fn manifest(mode: &str, cpu: Duration) -> String {
    format!(
        "hooks = {{ \"message.publish\" = [\"matrix/#\"] }}\nconfig = {{ unit = \"celsius\" }}\n\
         instances = {{ mode = \"{mode}\" }}\n\
         limits = {{ cpu = \"{}ms\", timeout = \"60s\", memory = {MEMORY} }}\n",
        cpu.as_millis()
    )
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Parses JSON and adds a field; answers an error to a payload that is none.
    Transform,
    /// Drops the message.
    Drop,
    /// Runs a built-in storage function.
    Store,
    /// Reads a value of the manifest's `[config]`.
    Config,
    /// Writes to the log.
    Log,
    /// Panics, or what the language has for it.
    Panic,
    /// Never ends.
    Loop,
    /// Allocates without end.
    Memory,
    /// Adds a byte to a payload that is not UTF-8.
    Bytes,
    /// Turns 256 KiB round.
    Large,
}

/// All, in the order of the table.
pub const ALL: [Behaviour; 10] = [
    Behaviour::Transform,
    Behaviour::Drop,
    Behaviour::Store,
    Behaviour::Config,
    Behaviour::Log,
    Behaviour::Panic,
    Behaviour::Loop,
    Behaviour::Memory,
    Behaviour::Bytes,
    Behaviour::Large,
];

impl Behaviour {
    /// The last level of its topic, and its column.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Transform => "transform",
            Self::Drop => "drop",
            Self::Store => "store",
            Self::Config => "config",
            Self::Log => "log",
            Self::Panic => "panic",
            Self::Loop => "loop",
            Self::Memory => "memory",
            Self::Bytes => "bytes",
            Self::Large => "large",
        }
    }

    /// Makes the guest do it. `patient` may compute for [`CPU`], `hasty` for [`SHORT_CPU`].
    ///
    /// # Errors
    /// What happened instead.
    pub async fn check(self, guest: &Loaded<'_>) -> Result<(), String> {
        let module = if self == Self::Loop { guest.hasty } else { guest.patient };
        match self {
            Self::Transform => {
                transforms(module).await?;
                let refused = self.ask(module, b"not json").await;
                match refused {
                    Err(CallError::Guest(GuestFailure::Failed(_))) => Ok(()),
                    other => Err(format!("a payload that is no JSON: {other:?}")),
                }
            }
            Self::Drop => match self.ask(module, b"x").await {
                Ok(Verdict::Drop) => Ok(()),
                other => Err(format!("{other:?}")),
            },
            Self::Store => {
                guest.bench.asked.lock().clear();
                passed(self.ask(module, b"x").await)?;
                same(&*guest.bench.asked.lock(), &["fake:pool on_message_publish"])
            }
            Self::Config => same(&self.payload(module, b"x").await?, b"celsius"),
            Self::Log => {
                guest.log.take();
                passed(self.ask(module, b"x").await)?;
                let lines = guest.log.take();
                let found = lines.iter().any(|line| line.contains(LINE) && line.contains("INFO"));
                if found { Ok(()) } else { Err(format!("the log has {lines:?}")) }
            }
            Self::Panic => match self.ask(module, b"x").await {
                Err(CallError::Trap { .. }) => transforms(module).await,
                other => Err(format!("{other:?}")),
            },
            Self::Loop => {
                let started = Instant::now();
                match self.ask(module, b"x").await {
                    Err(CallError::Limit { which: Limit::Cpu(SHORT_CPU), .. }) => {}
                    other => return Err(format!("{other:?}")),
                }
                let took = started.elapsed();
                if took > CPU { Err(format!("stopped after {took:?}")) } else { Ok(()) }
            }
            Self::Memory => match self.ask(module, b"x").await {
                Err(CallError::Limit { which: Limit::Memory(MEMORY), .. }) => transforms(module).await,
                other => Err(format!("{other:?}")),
            },
            Self::Bytes => {
                same(&self.payload(module, b"\xff\xfe\x00 no text").await?, b"\xff\xfe\x00 no text!")
            }
            Self::Large => {
                // Printable, with what JSON escapes: a payload that is text goes through `raw` as text.
                let payload: Vec<u8> = (0..LARGE).map(|i| b' ' + u8::try_from(i % 95).unwrap_or(0)).collect();
                let turned: Vec<u8> = payload.iter().rev().copied().collect();
                let given = self.payload(module, &payload).await?;
                if given == turned { Ok(()) } else { Err(format!("{} other bytes", given.len())) }
            }
        }
    }

    async fn ask(self, module: &Module, payload: &[u8]) -> Result<Verdict, CallError> {
        let scope = publish(&format!("matrix/{}", self.word()), payload);
        module.call(&scope).await.map(|answer| answer.verdict)
    }

    /// The payload of the replacement.
    async fn payload(self, module: &Module, payload: &[u8]) -> Result<Vec<u8>, String> {
        match self.ask(module, payload).await {
            Ok(Verdict::Replace(message)) => Ok(message.payload.to_vec()),
            other => Err(format!("{other:?}")),
        }
    }
}

/// A guest that is ready, and what it is watched by.
#[derive(Clone, Copy)]
pub struct Loaded<'a> {
    /// May compute for [`CPU`].
    pub patient: &'a Module,
    /// May compute for [`SHORT_CPU`].
    pub hasty: &'a Module,
    /// The host.
    pub bench: &'a Bench,
    /// What it logs.
    pub log: &'a Log,
}

/// The message that is transformed.
pub fn reading() -> Value {
    json!({
        "device": "boiler-7", "celsius": 21.5, "count": 3, "on": false, "none": null,
        "note": "grün \"quoted\" \\ ☃ 🦀\n", "tags": ["a", {"b": []}]
    })
}

/// The module works: after a trap of the one before, the next event is handled by a new instance.
async fn transforms(module: &Module) -> Result<(), String> {
    let given = Behaviour::Transform.payload(module, reading().to_string().as_bytes()).await?;
    let given: Value = serde_json::from_slice(&given).map_err(|error| error.to_string())?;
    let mut expected = reading();
    if let Value::Object(object) = &mut expected {
        object.insert("enriched".into(), true.into());
    }
    same(&given, &expected)
}

/// The one instance of `module` takes many events: collectors run, and arenas are used again.
///
/// # Errors
/// Which event went wrong, and how.
pub async fn lasts(module: &Module) -> Result<(), String> {
    for event in 0..EVENTS {
        transforms(module).await.map_err(|error| format!("event {event}: {error}"))?;
    }
    Ok(())
}

fn passed(answer: Result<Verdict, CallError>) -> Result<(), String> {
    match answer {
        Ok(Verdict::Pass) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn same<A: PartialEq<B> + std::fmt::Debug + ?Sized, B: std::fmt::Debug + ?Sized>(
    given: &A,
    expected: &B,
) -> Result<(), String> {
    if given == expected { Ok(()) } else { Err(format!("{given:?} and not {expected:?}")) }
}
