//! One loaded version of a module, as dispatch sees it.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tidegate_event::{BoxFuture, Event, Hook, QoS, Scope, Seldom, TopicFilter, Verdict};
use tokio_util::sync::CancellationToken;

use crate::circuit::{Admission, CircuitState, Probe};
use crate::error::CallError;
use crate::policy::{Failed, Failing, Settled};
use crate::pool::Pool;
use crate::rollout::{Choice, Rollout, Tally, Trial, selects};
use crate::terms::Terms;

/// What a module answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What becomes of the message, or of what a client asks for; [`Verdict::Pass`] for hooks that decide nothing.
    pub verdict: Verdict,
    /// Subscriptions to add (client.connected).
    pub subscriptions: Vec<(TopicFilter, QoS)>,
}

impl Answer {
    pub(crate) fn pass() -> Self {
        Self { verdict: Verdict::Pass, subscriptions: Vec::new() }
    }
}

/// Numbers of a module version.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModuleStats {
    /// Events handed to it.
    pub calls: u64,
    /// Events it failed to handle.
    pub errors: u64,
    /// Time from hand-over to answer, summed over all events, waiting included.
    pub time: Duration,
    /// Size of the WebAssembly file in bytes.
    pub wasm_bytes: u64,
    /// Instances alive.
    pub instances: usize,
    /// Instances alive that wait for an event.
    pub idle: usize,
    /// Whether it is called.
    pub circuit: CircuitState,
    /// How often its circuit has opened.
    pub circuit_opened: u64,
    /// Events that went to the error policy without a call, because the circuit was open. None of `calls`.
    pub skipped: u64,
}

/// How a version came to be loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loading {
    /// Reading, compiling, instantiating and init together.
    pub total: Duration,
    /// Compiling alone; zero when the artefact was cached.
    pub compile: Duration,
    /// Whether the artefact came from the cache.
    pub from_cache: bool,
}

/// How a new version is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialReport {
    /// Per cent of clients that the new version serves.
    pub share: u8,
    /// Hash of the WebAssembly file of the version before, in hex: it serves the others.
    pub before: String,
    /// The numbers of the version before.
    pub before_calls: u64,
    /// Events it failed to handle.
    pub before_errors: u64,
}

/// One loaded version of a module. Calls that began on it finish on it, however the file changes meanwhile.
pub struct Module {
    pub(crate) path: PathBuf,
    pub(crate) hash: String,
    /// Hash of file and manifest: what decides whether a reload is needed.
    pub(crate) version: blake3::Hash,
    pub(crate) priority: i32,
    pub(crate) mandatory: bool,
    pub(crate) hooks: Vec<(Hook, Vec<TopicFilter>)>,
    pub(crate) failing: Failing,
    pub(crate) wasm_bytes: u64,
    pub(crate) loading: Loading,
    pub(crate) pool: Pool,
    pub(crate) counts: Counts,
    pub(crate) rollout: Rollout,
    pub(crate) trial: Trial,
    /// The version that takes the events which come after this one is closed.
    pub(crate) successor: OnceLock<Arc<Module>>,
    /// The time between ticks, if it wants any.
    pub(crate) tick: Option<Duration>,
    /// Whether the ticks have begun.
    pub(crate) ticks: AtomicBool,
    /// Whether no events go to it, because another version is watched that may have to be rolled back.
    pub(crate) idles: AtomicBool,
    pub(crate) tick_line: Seldom,
    /// Cancelled when the version serves no longer.
    pub(crate) retired: CancellationToken,
}

/// The running totals of a version.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    calls: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    skipped: AtomicU64,
    error_line: Seldom,
}

impl Counts {
    /// Events handled so far.
    fn well(&self) -> u64 {
        self.calls.load(Ordering::Relaxed).saturating_sub(self.errors.load(Ordering::Relaxed))
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module").field("name", &self.name()).field("hash", &self.short_hash()).finish()
    }
}

impl Module {
    /// Its name: its path below the modules' directory, without `.wasm` and with `/` between directories.
    pub fn name(&self) -> &str {
        &self.pool.shared().name
    }

    /// Hash of the WebAssembly file, in hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The first digits of [`Self::hash`], as logs show it.
    pub fn short_hash(&self) -> &str {
        self.hash.get(..12).unwrap_or(&self.hash)
    }

    /// Modules run in ascending order of this number (100 when the manifest says nothing).
    pub fn priority(&self) -> i32 {
        // On trial it stands where the version before stands.
        self.trial.joint().map_or(self.priority, |(_, priority)| *priority)
    }

    pub(crate) fn own_priority(&self) -> i32 {
        self.priority
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the server must not listen without it.
    pub fn is_mandatory(&self) -> bool {
        self.mandatory
    }

    /// The hooks it handles, with the topic filters that select events. An empty list: all topics. While clients are
    /// divided between two versions: those of both.
    pub fn hooks(&self) -> &[(Hook, Vec<TopicFilter>)] {
        self.trial.joint().map_or(&self.hooks, |(hooks, _)| hooks)
    }

    /// Whether a table of handlers would hand it `event`.
    pub fn selects(&self, event: &Event) -> bool {
        selects(self.hooks(), event)
    }

    pub(crate) fn own_hooks(&self) -> &[(Hook, Vec<TopicFilter>)] {
        &self.hooks
    }

    /// The trial this version is on, if it is.
    pub fn trial(&self) -> Option<TrialReport> {
        let before = self.trial.before()?;
        let tally = before.tally();
        Some(TrialReport {
            share: self.trial.share(),
            before: before.hash.clone(),
            before_calls: tally.calls,
            before_errors: tally.errors,
        })
    }

    /// How it was loaded.
    pub fn loading(&self) -> Loading {
        self.loading
    }

    /// Its numbers since it was loaded.
    pub fn stats(&self) -> ModuleStats {
        let (instances, idle) = self.pool.count();
        ModuleStats {
            calls: self.counts.calls.load(Ordering::Relaxed),
            errors: self.counts.errors.load(Ordering::Relaxed),
            time: Duration::from_nanos(self.counts.nanos.load(Ordering::Relaxed)),
            wasm_bytes: self.wasm_bytes,
            instances,
            idle,
            circuit: self.failing.circuit.state(),
            circuit_opened: self.failing.circuit.opened(),
            skipped: self.counts.skipped.load(Ordering::Relaxed),
        }
    }

    /// What it was given: hooks, connectors, limits.
    pub fn terms(&self) -> Terms {
        Terms::granted(self)
    }

    /// Bytes of memory of its largest idle instance; `None` when none is kept.
    pub fn memory(&self) -> Option<usize> {
        self.pool.memory()
    }

    /// Handles the event of `scope`: calls the guest, again if need be, and applies the error policy when it fails. While
    /// clients are divided between two versions, it is the version of the event's client that does.
    ///
    /// # Errors
    /// What the policy makes of the event. A dead letter it asks for is on disk by then.
    pub async fn handle(&self, scope: &Scope) -> Result<Answer, Settled> {
        if self.trial.is_divided()
            && let Some(other) = self.elsewhere(scope, Self::boxed_handle)
        {
            return other.await;
        }
        let started = Instant::now();
        let mut first = None;
        if self.failing.circuit.is_closed() {
            // Pinned where it is made, here and below: awaiting a future by value moves it once more, and this one
            // holds the guest's arguments and results.
            match pin!(self.pool.call(scope, started)).await {
                Ok(answer) => {
                    self.count(started.elapsed());
                    return Ok(answer);
                }
                Err(error) => first = Some(error),
            }
        }
        // On the heap, here and below, so that calls which succeed do not carry its state.
        Box::pin(self.recover_or_settle(scope, started, first)).await
    }

    /// As [`Self::handle`], without the policy: calls the guest with the event of `scope`, again if the manifest or
    /// the hook's default says so. Failures are counted and logged here, at most one line a second.
    ///
    /// # Errors
    /// [`CallError`] of the last attempt: [`Self::policy`] says what to do.
    pub async fn call(&self, scope: &Scope) -> Result<Answer, CallError> {
        if self.trial.is_divided()
            && let Some(other) = self.elsewhere(scope, Self::boxed_call)
        {
            return other.await;
        }
        let started = Instant::now();
        let mut first = None;
        if self.failing.circuit.is_closed() {
            match pin!(self.pool.call(scope, started)).await {
                Ok(answer) => {
                    self.count(started.elapsed());
                    return Ok(answer);
                }
                Err(error) => first = Some(error),
            }
        }
        match Box::pin(self.recover(scope, started, first)).await {
            Err(Failed { error: CallError::Replaced, .. }) => match self.heir(scope) {
                Some(next) => next.clone().boxed_call(scope).await,
                None => Ok(Answer::pass()),
            },
            outcome => outcome.map_err(|failed| failed.error),
        }
    }

    // Named functions of their own: an async function cannot see that its own future may be sent.
    fn boxed_handle(self: Arc<Self>, scope: &Scope) -> BoxFuture<'_, Result<Answer, Settled>> {
        Box::pin(async move { self.handle(scope).await })
    }

    fn boxed_call(self: Arc<Self>, scope: &Scope) -> BoxFuture<'_, Result<Answer, CallError>> {
        Box::pin(async move { self.call(scope).await })
    }

    /// The answer to an event of a version on trial that is not this one's: `ask` asks the version before.
    fn elsewhere<'a, E: Send + 'a>(
        &self,
        scope: &'a Scope,
        ask: impl FnOnce(Arc<Self>, &'a Scope) -> BoxFuture<'a, Result<Answer, E>>,
    ) -> Option<BoxFuture<'a, Result<Answer, E>>> {
        match self.trial.choose(self, &scope.event) {
            Choice::Own => None,
            Choice::Before(before) => Some(ask(before, scope)),
            Choice::Nobody => Some(Box::pin(std::future::ready(Ok(Answer::pass())))),
        }
    }

    async fn recover_or_settle(
        &self,
        scope: &Scope,
        started: Instant,
        first: Option<CallError>,
    ) -> Result<Answer, Settled> {
        match self.recover(scope, started, first).await {
            Ok(answer) => Ok(answer),
            Err(Failed { error: CallError::Replaced, .. }) => match self.heir(scope) {
                Some(next) => next.clone().boxed_handle(scope).await,
                None => Ok(Answer::pass()),
            },
            Err(failed) => Err(self.settle(scope, failed).await),
        }
    }

    /// An event that was not handled at once: its `first` attempt failed, or the circuit was not closed.
    async fn recover(
        &self,
        scope: &Scope,
        started: Instant,
        first: Option<CallError>,
    ) -> Result<Answer, Failed> {
        let Some(error) = first else { return self.probe(scope, started).await };
        let (outcome, attempts) = self.again(scope, started, Err(error)).await;
        if let Err(error @ CallError::Replaced) = outcome {
            return Err(Failed { error, attempts });
        }
        self.count(started.elapsed());
        outcome.map_err(|error| self.report(scope, error, attempts))
    }

    /// Tries again after `outcome`, as often as manifest and hook allow; gives the last outcome and how many there
    /// were.
    async fn again(
        &self,
        scope: &Scope,
        started: Instant,
        mut outcome: Result<Answer, CallError>,
    ) -> (Result<Answer, CallError>, u32) {
        let hook = scope.event.hook();
        let mut attempts = 1;
        while let Err(error) = &outcome {
            if error.is_of_replaced() {
                break;
            }
            if !error.is_before_the_guest() {
                self.attempt_failed(error);
            }
            let Some(pause) = self.failing.next_attempt(hook, error, attempts, started) else { break };
            self.pool.shared().meters.retries.increment(1);
            tokio::time::sleep(pause).await;
            outcome = self.pool.call_alone(scope, Instant::now()).await;
            attempts += 1;
        }
        (outcome, attempts)
    }

    /// An event at a circuit that is not closed: the module is called for one of them, and once.
    async fn probe(&self, scope: &Scope, started: Instant) -> Result<Answer, Failed> {
        let probe = match self.failing.circuit.admit(started) {
            Admission::Call => None,
            Admission::Probe(probe) => Some(probe),
            Admission::Refuse(left) => {
                self.counts.skipped.fetch_add(1, Ordering::Relaxed);
                self.pool.shared().meters.skipped.increment(1);
                return Err(Failed { error: CallError::CircuitOpen(left), attempts: 0 });
            }
        };
        let outcome = self.pool.call_alone(scope, started).await;
        if let Err(error @ CallError::Replaced) = outcome {
            return Err(Failed { error, attempts: 0 });
        }
        self.count(started.elapsed());
        match (probe, &outcome) {
            // It says nothing of the module: the next event is a probe, too.
            (_, Err(error)) if error.is_before_the_guest() => {}
            (Some(probe), outcome) => self.probed(probe, outcome),
            (None, Err(error)) => self.attempt_failed(error),
            (None, Ok(_)) => {}
        }
        outcome.map_err(|error| self.report(scope, error, 1))
    }

    fn attempt_failed(&self, error: &CallError) {
        let circuit = &self.failing.circuit;
        let Some(opened) = circuit.failed(Instant::now(), error.is_answer(), self.counts.well()) else {
            return;
        };
        let meters = &self.pool.shared().meters;
        meters.circuit_opened.increment(1);
        self.show_circuit();
        tracing::error!(
            module = self.name(),
            version = self.short_hash(),
            failures = opened.failures,
            attempts = opened.attempts,
            pause = ?opened.pause,
            "the module keeps failing: its circuit is open, events go to its error policy without a call"
        );
    }

    fn probed(&self, probe: Probe<'_>, outcome: &Result<Answer, CallError>) {
        let (module, version) = (self.name(), self.short_hash());
        let skipped = self.counts.skipped.load(Ordering::Relaxed);
        if outcome.is_ok() {
            probe.succeeded();
            self.show_circuit();
            tracing::info!(module, version, skipped, "the module works again: its circuit is closed");
        } else {
            let pause = probe.failed(Instant::now());
            tracing::warn!(
                module,
                version,
                skipped,
                ?pause,
                "the module still fails: its circuit stays open"
            );
        }
    }

    fn show_circuit(&self) {
        self.pool.shared().meters.circuit_open.show(|| !self.failing.circuit.is_closed());
    }

    /// Whether events go to it: its circuit concerns nobody otherwise, and it does not tick.
    pub(crate) fn serves(&self, serves: bool) {
        self.idles.store(!serves, Ordering::Relaxed);
        self.pool.shared().meters.circuit_open.serves(serves);
    }

    /// The version that took this one's place, if it handles the event. When there is none the module is gone, and the
    /// event goes on as all others do since.
    fn heir(&self, scope: &Scope) -> Option<&Arc<Self>> {
        self.successor.get().filter(|next| next.selects(&scope.event))
    }

    /// Names the version that takes the events which come after this one is closed.
    pub(crate) fn succeed(&self, next: &Arc<Self>) {
        // A successor that took the state stays the one.
        self.successor.get_or_init(|| next.clone());
    }

    /// The end of a version that serves no longer: idle instances go at once, events in flight have `patience` to
    /// finish and are interrupted then. Inside a tokio runtime.
    pub(crate) fn retire(self: &Arc<Self>, successor: Option<&Arc<Self>>, patience: Duration) {
        if let Some(next) = successor {
            self.succeed(next);
        }
        self.retired.cancel();
        self.serves(false);
        self.pool.retire_idle();
        let version = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            if let Some(version) = version.upgrade() {
                version.pool.interrupt();
            }
        });
    }

    /// Its calls and failures since it was loaded.
    pub(crate) fn tally(&self) -> Tally {
        // What an open circuit kept from it counts: a version that fails at once would have few calls otherwise.
        let skipped = self.counts.skipped.load(Ordering::Relaxed);
        Tally {
            calls: self.counts.calls.load(Ordering::Relaxed) + skipped,
            errors: self.counts.errors.load(Ordering::Relaxed) + skipped,
        }
    }

    /// Drops instances that were not needed since the last time this was called.
    pub fn trim(&self) {
        self.pool.trim();
        if let Some(before) = self.trial.before() {
            before.pool.trim();
        }
    }

    fn count(&self, elapsed: Duration) {
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.counts.calls.fetch_add(1, Ordering::Relaxed);
        self.counts.nanos.fetch_add(nanos, Ordering::Relaxed);
        let meters = &self.pool.shared().meters;
        meters.calls.increment(1);
        meters.seconds.record(elapsed.as_secs_f64());
    }

    fn report(&self, scope: &Scope, error: CallError, attempts: u32) -> Failed {
        self.counts.errors.fetch_add(1, Ordering::Relaxed);
        self.pool.shared().meters.failed(&error);
        if let Some(unlogged) = self.counts.error_line.turn() {
            let event = &scope.event;
            let message = event.message();
            tracing::error!(
                module = self.name(),
                version = self.short_hash(),
                hook = event.hook().name(),
                client = event.client().map(|client| &*client.id),
                topic = message.map(|message| message.topic.as_str()),
                msgid = message.map(|message| tracing::field::display(message.id)),
                attempts,
                unlogged,
                "the module failed: {error}"
            );
        }
        Failed { error, attempts }
    }
}
