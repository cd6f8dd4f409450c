//! One loaded version of a module, as dispatch sees it.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tidegate_event::{BoxFuture, Hook, QoS, Scope, TopicFilter, Verdict};

use crate::error::CallError;
use crate::manifest::{ErrorPolicy, OnError};
use crate::pool::Pool;
use crate::rollout::{Choice, Rollout, Tally, Trial, selects};

const MAX_BACKOFF: Duration = Duration::from_secs(10);
const MAX_DOUBLINGS: u32 = 16;

/// What a module answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What becomes of the message; [`Verdict::Pass`] for hooks that decide nothing.
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
    pub(crate) on_error: OnError,
    pub(crate) wasm_bytes: u64,
    pub(crate) loading: Loading,
    pub(crate) pool: Pool,
    pub(crate) counts: Counts,
    pub(crate) rollout: Rollout,
    pub(crate) trial: Trial,
    /// The version that takes the events which come after this one is closed.
    pub(crate) successor: OnceLock<Arc<Module>>,
}

/// The running totals of a version.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    calls: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    /// The second in which an error was last logged, and how many were not logged since.
    logged: AtomicU64,
    unlogged: AtomicU64,
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

    /// The version that handles the event of `scope`, when it is another than this one: its policies count.
    pub fn stand_in(&self, scope: &Scope) -> Option<Arc<Module>> {
        if !self.trial.is_divided() {
            return None;
        }
        match self.trial.choose(self, &scope.event) {
            Choice::Before(before) => Some(before),
            Choice::Own | Choice::Nobody => None,
        }
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
        }
    }

    /// What happens to an event of `hook` when [`Self::call`] fails. What a hook cannot decide, no policy
    /// decides: `reject` of a delivery drops it, and observers always pass.
    pub fn policy(&self, hook: Hook) -> ErrorPolicy {
        match (hook, self.on_error.policy) {
            (Hook::MessagePublish, policy) => policy.unwrap_or(ErrorPolicy::Reject),
            (Hook::MessageDeliver, Some(ErrorPolicy::Drop | ErrorPolicy::Reject)) => ErrorPolicy::Drop,
            _ => ErrorPolicy::Pass,
        }
    }

    /// Handles the event of `scope`, retrying as the manifest says. Failures are counted and logged here, at
    /// most one line a second.
    ///
    /// # Errors
    /// [`CallError`] of the last attempt: apply [`Self::policy`].
    pub async fn call(&self, scope: &Scope) -> Result<Answer, CallError> {
        if self.trial.is_divided()
            && let Some(other) = self.elsewhere(scope)
        {
            return other.await;
        }
        let started = Instant::now();
        // Pinned where they are made, here and below: awaiting a future by value moves it once more, and this one
        // holds the guest's arguments and results.
        let mut outcome = pin!(self.pool.call(scope, started)).await;
        if self.on_error.retries > 0 && outcome.as_ref().is_err_and(CallError::is_retryable) {
            // On the heap, so that calls which succeed do not carry its state.
            outcome = Box::pin(self.retry(scope, outcome)).await;
        }
        if matches!(outcome, Err(CallError::Replaced)) {
            return self.forward(scope).await;
        }
        self.count(started.elapsed());
        if let Err(error) = &outcome {
            self.report(scope, error);
        }
        outcome
    }

    /// Tries again after `outcome`, as often as the manifest says.
    async fn retry(
        &self,
        scope: &Scope,
        mut outcome: Result<Answer, CallError>,
    ) -> Result<Answer, CallError> {
        for attempt in 0..self.on_error.retries {
            if !outcome.as_ref().is_err_and(CallError::is_retryable) {
                break;
            }
            self.pool.shared().meters.retries.increment(1);
            tokio::time::sleep(self.backoff(attempt)).await;
            outcome = self.pool.call(scope, Instant::now()).await;
        }
        outcome
    }

    /// The answer to an event of a version on trial that is not this one's.
    fn elsewhere<'a>(&self, scope: &'a Scope) -> Option<BoxFuture<'a, Result<Answer, CallError>>> {
        match self.trial.choose(self, &scope.event) {
            Choice::Own => None,
            Choice::Before(before) => Some(Box::pin(async move { before.call(scope).await })),
            Choice::Nobody => Some(Box::pin(std::future::ready(Ok(Answer::pass())))),
        }
    }

    /// Hands the event to the version that took this one's place. When there is none the module is gone, and the event
    /// goes on as all others do since.
    fn forward<'a>(&self, scope: &'a Scope) -> BoxFuture<'a, Result<Answer, CallError>> {
        match self.successor.get().cloned() {
            Some(next) if selects(next.hooks(), &scope.event) => {
                Box::pin(async move { next.call(scope).await })
            }
            _ => Box::pin(std::future::ready(Ok(Answer::pass()))),
        }
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
        Tally {
            calls: self.counts.calls.load(Ordering::Relaxed),
            errors: self.counts.errors.load(Ordering::Relaxed),
        }
    }

    /// Drops instances that were not needed since the last time this was called.
    pub fn trim(&self) {
        self.pool.trim();
        if let Some(before) = self.trial.before() {
            before.pool.trim();
        }
    }

    fn backoff(&self, attempt: u32) -> Duration {
        self.on_error.backoff.saturating_mul(1 << attempt.min(MAX_DOUBLINGS)).min(MAX_BACKOFF)
    }

    fn count(&self, elapsed: Duration) {
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.counts.calls.fetch_add(1, Ordering::Relaxed);
        self.counts.nanos.fetch_add(nanos, Ordering::Relaxed);
        let meters = &self.pool.shared().meters;
        meters.calls.increment(1);
        meters.seconds.record(elapsed.as_secs_f64());
    }

    fn report(&self, scope: &Scope, error: &CallError) {
        self.counts.errors.fetch_add(1, Ordering::Relaxed);
        self.pool.shared().meters.failed(error);
        let second = tidegate_event::now_ms() / 1_000;
        if self.counts.logged.swap(second, Ordering::Relaxed) == second {
            self.counts.unlogged.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let event = &scope.event;
        let message = event.message();
        tracing::error!(
            module = self.name(),
            version = self.short_hash(),
            hook = event.hook().name(),
            client = event.client().map(|client| &*client.id),
            topic = message.map(|message| message.topic.as_str()),
            msgid = message.map(|message| tracing::field::display(message.id)),
            unlogged = self.counts.unlogged.swap(0, Ordering::Relaxed),
            "the module failed: {error}"
        );
    }
}
